"""Draw the pictures in docs/pictures: of `sdsd demo`, and of runs of the scripted model.

    python scripts/make_pictures.py

The pages need a Chromium, which makes the screenshots; the terminal is drawn by rich. Look at the
pictures before you commit them.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsd import Run, ScriptedModel, run
from sdsd.runs.demo import demo

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
_COLUMNS = 96
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Write every picture."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        demonstration = demo(root / "runs" / "demo")
        dialogue(demonstration.path, 2)
        shot(demonstration.report(), "demo.png", 1200, 1560)
        new = made(root / "runs" / "strategies", **{"scenarios.strategies": ["all"]})
        old = made(root / "runs" / "direct")
        shot(new.report(), "report.png", 1200, 1560)
        shot(new.report(against=old), "compare.png", 1200, 1400)


def made(path: Path, **keys: Any) -> Run:
    """Make a run of 300 dialogues."""
    models = {"default": ScriptedModel()}
    keys = {"n": 300, "dialogue.candidates": 2, **keys}
    return run(out=path, models=models, progress=False, **keys)


def dialogue(run_dir: Path, index: int) -> None:
    """Draw what `sdsd show` prints of a dialogue."""
    env = {**os.environ, "COLUMNS": str(_COLUMNS), "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "sdsd", "show", str(index), str(run_dir)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(f"$ sdsd show {index} runs/demo", style="bold", highlight=False)
    console.print(Text.from_ansi(printed))
    drawn = console.export_svg(title="sdsd show", unique_id="dialogue")
    (PICTURES / "dialogue.svg").write_text(drawn, "utf-8")


def shot(page: Path, name: str, width: int, height: int) -> None:
    """Take a screenshot of the top of a page."""
    browser = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if browser is None:
        raise SystemExit(f"no Chromium: install one of {', '.join(_CHROMIUM)}")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-sync", "--hide-scrollbars",
            f"--user-data-dir={profile}", f"--window-size={width},{height}",
            f"--screenshot={PICTURES / name}", page.resolve().as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
