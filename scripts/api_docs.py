"""Write the API reference from the signatures and docstrings of what `sdsd.__all__` names."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import sdsd

_GROUPS = {
    "Make and read runs": ("run", "arun", "Run", "RunStatus", "PreferencePair", "Verification"),
    "What a record holds": (
        "Record", "Scenario", "Principle", "Plan", "Dialogue", "Message", "Turn", "Critique",
        "Verdict", "Revision",
    ),
    "Extension points": (
        "Critic", "DialogueProtocol", "DialogueTask", "Pipeline", "Ask", "Method", "Start",
        "Model", "Capabilities", "Request", "Completion", "Refusal", "ScriptedModel", "View",
        "Format",
    ),
    "Events": ("Began", "Called", "Recorded", "Noted", "Fetching", "Examined"),
}  # fmt: skip
_ELSEWHERE = {"Config", "Event", "__version__"}


def reference() -> str:
    """Return the page's sections. Raises `SystemExit` for a public name that is in none."""
    errors = tuple(n for n in sdsd.__all__ if _is_error(n))
    groups = {**_GROUPS, "Errors": errors}
    missing = {*sdsd.__all__} - _ELSEWHERE - {name for group in groups.values() for name in group}
    if missing:
        raise SystemExit(f"scripts/api_docs.py: in no group: {', '.join(sorted(missing))}")
    return "\n\n".join(
        f"## {title}\n\n" + "\n\n".join(_entry(name) for name in names)
        for title, names in groups.items()
    )


def _is_error(name: str) -> bool:
    value = getattr(sdsd, name)
    return inspect.isclass(value) and issubclass(value, Exception)


def _entry(name: str) -> str:
    value = getattr(sdsd, name)
    if not inspect.isclass(value):
        return f"### `{name}`\n\n{_code(_signature(name, value))}\n\n{_text(value)}"
    parts = [f"### `{name}`", _text(value)]
    if _is_error(name):
        parents = [base.__name__ for base in value.__mro__[1:] if base.__name__ in sdsd.__all__]
        if parents:
            parts.append(f"A {' and a '.join(f'`{parent}`' for parent in parents[:1])}.")
    if fields := list(_fields(value)):
        parts.append("\n".join(["| field | type | meaning |", "| --- | --- | --- |", *fields]))
    parts += _methods(value)
    return "\n\n".join(filter(None, parts))


def _fields(value: type) -> Iterator[str]:
    """Yield a table row for each annotated attribute and property."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node, following in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, kind = node.target.id, ast.unparse(node.annotation)
            meaning = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                meaning = " ".join(str(following.value.value).split())
        elif isinstance(node, ast.FunctionDef) and any(
            isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list
        ):
            name, kind = node.name, ast.unparse(node.returns) if node.returns else ""
            meaning = " ".join((ast.get_docstring(node) or "").split())
        else:
            continue
        if not name.startswith("_"):
            yield f"| `{name}` | `{kind.replace('|', chr(92) + '|')}` | {meaning} |"


def _methods(value: type) -> Iterator[str]:
    """Yield an entry for each public method that the class itself defines."""
    for name, member in vars(value).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        public = not name.startswith("_") or name == "__call__"
        if public and inspect.isfunction(function) and function.__doc__:
            yield f"{_code(_signature(name, function))}\n\n{_text(function)}"


class _Bare(str):
    """An annotation, shown without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    plain = [
        p.replace(annotation=_Bare(p.annotation)) if isinstance(p.annotation, str) else p
        for p in signature.parameters.values()
        if p.name not in ("self", "cls")
    ]
    returned = signature.return_annotation
    text = str(signature.replace(parameters=plain, return_annotation=_Bare(returned)))
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{prefix}{name}{text}"


def _code(text: str) -> str:
    return f"```text\n{textwrap.fill(text, 96, subsequent_indent='    ')}\n```"


def _text(value: Any) -> str:
    """Return a docstring; lists of terms, which line up in columns, stay as they are."""
    blocks = (inspect.getdoc(value) or "").split("\n\n")
    return "\n\n".join(
        f"```text\n{block}\n```"
        if any("  " in line.strip() for line in block.split("\n"))
        else block
        for block in blocks
    )
