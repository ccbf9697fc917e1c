"""Prompt files: sections of text with `{{placeholders}}`, filled in one pass.

One pass means that a value can never smuggle in a placeholder of its own: what a model wrote is
text, whatever it looks like. A prompt is a Markdown file; each `## name` line opens a section, and
what stands before the first one is for people.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from msgspec import Struct

from sdsd.errors import PromptError

_SECTION = re.compile(r"^## +(\w+) *$", re.MULTILINE)
_SLOT = re.compile(r"\{\{ *(\w+) *\}\}")
PACKAGED = Path(__file__).parent / "stages" / "prompts"


class Prompt(Struct, frozen=True):
    """One prompt file: where it came from, its digest, and its sections by name."""

    source: str
    digest: str
    sections: dict[str, str]

    def fill(self, section: str, **values: str) -> str:
        """The section with every placeholder replaced; values are inserted as they are."""
        return _SLOT.sub(lambda slot: values[slot.group(1)], self.sections[section])


def load(name: str, own: str = "") -> Prompt:
    """The packaged prompt `name`, or the user's file `own` in its place.

    A file of one's own must have the packaged one's sections, and may only use its placeholders.
    Raises `PromptError` that names the file, the section and the remedy.
    """
    packaged = _packaged(name)
    if not own:
        return packaged
    prompt = read(Path(own))
    for section, text in packaged.sections.items():
        if section not in prompt.sections:
            raise PromptError(f"{own}: the section `## {section}` is missing; add it")
        allowed = slots(text)
        for slot in slots(prompt.sections[section]):
            if slot not in allowed:
                raise PromptError(
                    f"{own}: `{{{{{slot}}}}}` in `## {section}` is not filled by anything; "
                    f"there are: {', '.join(sorted(allowed)) or 'none'}"
                )
    return prompt


@cache
def _packaged(name: str) -> Prompt:
    """Read once: these do not change under a running program, as a user's own may."""
    return read(PACKAGED / f"{name}.md")


def read(path: Path) -> Prompt:
    """Split one file into its sections."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: cannot be read ({error}); give a UTF-8 text file") from None
    _, *rest = _SECTION.split(text)
    if not rest:
        raise PromptError(f"{path}: no `## section` in it; see docs/prompts.md")
    bodies = (body.strip() for body in rest[1::2])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Prompt(str(path), digest, dict(zip(rest[::2], bodies, strict=True)))


def slots(text: str) -> frozenset[str]:
    """The placeholders that a text names."""
    return frozenset(_SLOT.findall(text))


def numbered(items: Sequence[str]) -> str:
    """`1. ...` lines, for prompts."""
    return "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
