"""Prompt files: Markdown with sections of text whose `{{placeholders}}` are filled in.

Each line `## name` begins a section; the text before the first one is for people. Placeholders are
filled in one pass, so text that a model wrote cannot introduce a placeholder, whatever it looks
like.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from sdsd.errors import PromptError
from sdsd.text.encodings import NotText, decode

_SECTION = re.compile(r"^## +(\w+) *$", re.MULTILINE)
_SLOT = re.compile(r"\{\{ *(\w+) *\}\}")


class Prompt(Struct, frozen=True):
    """One prompt file: where it came from, its whole text, and its sections by name."""

    source: str
    text: str
    sections: dict[str, str]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def fill(self, section: str, **values: str) -> str:
        """Return the section with every placeholder replaced; values are inserted as they are."""
        return _SLOT.sub(lambda slot: values[slot.group(1)], self.sections[section])


def read(path: Path) -> Prompt:
    """Read one file. Raises `PromptError`."""
    try:
        text = decode(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    except NotText as error:
        raise PromptError(error.at(path)) from None
    except (OSError, ValueError) as error:
        raise PromptError(f"{path}: cannot be read ({error}); give a UTF-8 text file") from None
    _, *rest = _SECTION.split(text)
    if not rest:
        raise PromptError(f"{path}: no `## section` in it; see docs/prompts.md")
    bodies = (body.strip() for body in rest[1::2])
    return Prompt(str(path), text, dict(zip(rest[::2], bodies, strict=True)))


def is_path(name: str) -> bool:
    """Return whether `name` is a file, `some/path` or `name.md`, and not something packaged."""
    return "/" in name or name.endswith(".md")


def slots(text: str) -> frozenset[str]:
    """Return the names of the placeholders in a text."""
    return frozenset(_SLOT.findall(text))


def numbered(items: Sequence[str]) -> str:
    """Return the items as lines `1. ...`."""
    return "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
