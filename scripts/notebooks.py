"""Run the notebooks of `examples/notebooks` and keep what they print in them.

    python scripts/notebooks.py

The tests run them again and compare. No kernel is needed: the cells are plain Python, but for lines
that begin with `!` (commands) and cells that begin with `%%writefile`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "notebooks"


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with new outputs; its cells run in the working directory."""
    names: dict[str, Any] = {"__name__": "__main__", "_shell": _shell}
    cells = [dict(cell) for cell in notebook["cells"]]
    code = (cell for cell in cells if cell["cell_type"] == "code")
    for count, cell in enumerate(code, 1):
        cell["execution_count"] = count
        cell["outputs"] = _outputs("".join(cell["source"]), names, count)
    return {**notebook, "cells": cells}


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run a cell; return what it prints, and its last expression."""
    if written := re.match(r"%%writefile (\S+)\n", source):
        Path(written[1]).write_text(source[written.end() :] + "\n", "utf-8")
        source = f"print('Writing {written[1]}')"
    source = re.sub(r"^!(.*)$", lambda m: f"_shell({m[1]!r})", source, flags=re.MULTILINE)
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)  # noqa: S102
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": printed.getvalue()})
    if value is not None:
        data = {"text/plain": repr(value)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_()
        found.append({"output_type": "execute_result", "execution_count": count,
                      "metadata": {}, "data": data})  # fmt: skip
    return found


def _shell(command: str) -> None:
    done = subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S602
    print(done.stdout, end="")


def main() -> None:
    """Run every notebook in an empty directory."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            done = executed(json.loads(path.read_text("utf-8")))
        path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(path)


if __name__ == "__main__":
    os.environ["SDSD_CACHE"] = tempfile.mkdtemp()
    main()
