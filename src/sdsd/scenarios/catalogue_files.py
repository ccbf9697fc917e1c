"""Catalogue files: YAML or JSONL, read into entries with line numbers.

An error is raised as `path:line: what is wrong; what to do`, whatever the format.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from sdsd.errors import CatalogueError
from sdsd.text import yaml_files
from sdsd.text.encodings import NotText, decode
from sdsd.text.yaml_files import YamlError

if TYPE_CHECKING:
    from yaml import Node

EXTENSIONS = (".yaml", ".yml", ".jsonl")
LISTS = ("fields", "principles", "goals", "affinities")
"""Names of the lists, for files that hold several."""

Key = str | int
Shape = TypeVar("Shape", bound=Struct)

# Tabs and line ends are white space, which is collapsed. The rest is never intended: it garbles
# prompts and terminals, and surrogates cannot even be written.
CONTROL = re.compile(r"[\0-\b\v\f\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""Characters that no text of a catalogue may have."""
_DELETE_CONTROL = "delete it, or save the text again as plain UTF-8"
_NAMES = {"str": "text", "bool": "true/false", "int": "a number", "float": "a number",
          "array": "a list", "object": "a mapping", "null": "nothing",
          "date": "a date", "bytes": "something else"}  # fmt: skip
_SCALARS = {"null": None, "bool": True, "int": 0, "float": 0.0, "timestamp": date.min}
_VALUES = {
    "severity": ("low", "medium", "high"),
    "framing": ("do", "dont"),
    "subtle": ("plain", "middling", "subtle"),
    "role": ("user", "assistant"),
}
_REMEDIES = {
    "text": "put it in quotes if it only looks like a number, a date, yes/no or a mapping",
    "a list": "make it a list",
    "a mapping": "write `key: value`",
}


class Entry(NamedTuple):
    """One entry of a file: a parsed value, and where it is."""

    path: Path
    value: Any
    line: Callable[..., int]
    """From keys and indexes inside the value to a line."""

    def place(self, *keys: Key) -> str:
        """Return where the value at `keys` is: `path:line`."""
        return f"{self.path}:{self.line(*keys)}"

    def error(self, wrong: str, remedy: str, *keys: Key) -> CatalogueError:
        """Return the error that names the place of the value at `keys`."""
        return CatalogueError(f"{self.place(*keys)}: {wrong}; {remedy}")

    def text(self, text: str, *keys: Key) -> str:
        """Return `text`, which is at `keys`, with every run of white space made one space.

        Raises `CatalogueError` if it is empty or has control characters.
        """
        if control := CONTROL.search(text):
            wrong = f"`{_dotted(keys)}` has the control character {control[0]!a}"
            raise self.error(wrong, _DELETE_CONTROL, *keys)
        if not (clean := " ".join(text.split())):
            raise self.error(f"`{_dotted(keys)}` is empty", "write a text", *keys)
        return clean

    def convert(self, shape: type[Shape]) -> Shape:
        """Return the entry as a `shape`. Raises `CatalogueError`."""
        try:
            return msgspec.convert(self.value, shape)
        except msgspec.ValidationError as error:
            wrong, _, path = str(error).partition(" - at ")
            keys = [int(k) if k.isdigit() else k for k in re.findall(r"\w+", path)]
            raise self._explained(wrong, tuple(keys), shape) from None

    def _explained(self, wrong: str, keys: tuple[Key, ...], shape: type[Struct]) -> CatalogueError:
        """Return msgspec's message in a user's words, with the line."""
        name = f"`{_dotted(keys)}`" if keys else "an entry"
        if unknown := re.search(r"unknown field `(.*)`", wrong):
            known = shape.__struct_fields__ if not keys else ("name", "subareas")
            close = get_close_matches(unknown[1], known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            return self.error(f"unknown key {unknown[1][:60]!r}", hint, *keys, unknown[1])
        if missing := re.search(r"missing required field (`.*`)", wrong):
            return self.error(f"the key {missing[1]} is missing", "add it", *keys)
        if "length >=" in wrong:
            remedy = "add at least one, or remove the entry"
            return self.error(f"the list {name} is empty", remedy, *keys)
        if enum := re.search(r"Invalid enum value '(.*)'", wrong):
            wrong = f"the {keys[-1]} {enum[1][:60]!r} is unknown"
            allowed = _VALUES.get(str(keys[-1]), ())
            close = get_close_matches(enum[1], allowed, 1)
            hint = f"did you mean {close[0]!r}? Use" if close else "use"
            remedy = f"{hint} {_either(allowed)}" if allowed else "see docs/catalogue.md"
            return self.error(wrong, remedy, *keys)
        expected, found = (_NAMES[kind] for kind in re.findall(r"`(\w+)`", wrong))
        wrong = f"{name} must be {expected}, not {found}"
        return self.error(wrong, _REMEDIES[expected], *keys)


def _either(values: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def _dotted(keys: tuple[Key, ...]) -> str:
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")


# --- files --------------------------------------------------------------------------------------


def read(path: Path, name: str) -> list[Entry]:
    """Return the entries of all files at `path`, a file or a directory.

    `name` is that of the list, in files that hold several. Raises `CatalogueError`.
    """
    return [entry for file in _files(path) for entry in _entries(file, name)]


def _error(place: object, wrong: str, remedy: str) -> CatalogueError:
    return CatalogueError(f"{place}: {wrong}; {remedy}")


def _files(path: Path) -> list[Path]:
    """Return `path` itself, or the files in it, sorted by name, without hidden ones and READMEs."""
    try:
        if not path.is_dir():
            return [path]
        files = sorted(p for p in path.iterdir() if not p.name.startswith((".", "README")))
    except (OSError, ValueError) as error:
        raise _error(path, f"cannot be read: {error}", "check the path") from error
    if not files:
        raise _error(path, "the directory is empty", f"add a file ({', '.join(EXTENSIONS)})")
    return files


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _error(path, "no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise _error(path, f"cannot be read: {error}", "check the path") from error
    if path.suffix.lower() not in EXTENSIONS:
        wrong = f"cannot read files of type {path.suffix!r}"
        raise _error(path, wrong, f"use one of {', '.join(EXTENSIONS)}")
    try:
        text = decode(raw)
    except NotText as error:
        raise CatalogueError(error.at(path)) from None
    if control := CONTROL.search(text):
        place = f"{path}:{text.count(chr(10), 0, control.start()) + 1}"
        wrong = f"the file has the control character {control[0]!a}"
        raise _error(place, wrong, _DELETE_CONTROL)
    return text


def _entries(path: Path, name: str) -> list[Entry]:
    text = _text(path)
    is_lines = path.suffix.lower() == ".jsonl"
    entries = list(_jsonl(path, text)) if is_lines else _listed(_yaml(path, text), name)
    if not entries:
        raise _error(f"{path}:1", f"no {name} in this file", "add some, or remove the file")
    return entries


def _listed(document: Entry, name: str) -> list[Entry]:
    """Return the entries of a document: a list, a mapping with the list under `name`, or one."""
    value, prefix = document.value, tuple[Key, ...]()
    if not value and value != 0:
        return []
    if isinstance(value, dict):
        lists = [key for key in value if isinstance(value[key], list) and key not in LISTS]
        for close in get_close_matches(name, lists, 1, 0.8):
            raise document.error(f"unknown key {close!r}", f"did you mean {name!r}?", close)
        if name not in value:
            return [document]
        value, prefix = value[name], (name,)
    if not isinstance(value, list):
        raise document.error(f"{name} must be a list", "begin each entry with `- `", *prefix)
    return [
        Entry(document.path, item, lambda *keys, k=k: document.line(*prefix, k, *keys))
        for k, item in enumerate(value)
    ]


# --- formats ------------------------------------------------------------------------------------


def _jsonl(path: Path, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            place = f"{path}:{number}"
            raise _error(place, f"bad JSON: {error}", "write one object per line") from error
        yield Entry(path, value, lambda *keys, number=number: number)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"the key {key[:60]!r} occurs {count} times")
    return dict(pairs)


def _yaml(path: Path, text: str) -> Entry:
    try:
        root = yaml_files.compose(text)
    except YamlError as error:
        remedy = "correct it here or just above; a text that has ': ' or ' #' needs quotes"
        raise _error(f"{path}:{error.line}", f"bad YAML: {error.problem}", remedy) from error
    value = _plain(root) if root else None
    return Entry(path, value, lambda *keys: _line(root, keys))


def _plain(node: Node) -> Any:
    """Return the value of a node: text as it is; for any other scalar, only the type matters."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        return node.value if kind == "str" else _SCALARS.get(kind, b"")
    return {key.value: _plain(value) for key, value in node.value}


def _line(root: Node | None, keys: tuple[Key, ...]) -> int:
    """Return the line of the key, or of the list's entry, at `keys`."""
    at = node = root
    for key in keys:
        if node is None or isinstance(node.value, str):
            break
        below = {k.value: (k, v) for k, v in node.value} if isinstance(key, str) else {}
        at, node = below.get(key, (at, node)) if isinstance(key, str) else (node.value[key],) * 2
    return at.start_mark.line + 1 if at else 1
