"""The seams of a chat template: what stands between one speaker's text and the next.

`continuation` writes a conversation as one growing stream of tokens, in the model's own chat
format, and lets the model write the turns of *both* sides (the user's too, as in Magpie,
arXiv 2406.08464). For that it needs the text before the first user turn, from a user's text to
the agent's, and from the agent's back to the user's. They are had from any template, in any
language, by rendering marked messages and cutting at the marks.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

from sdsd.types import Message

_MARKS = tuple(f"@@sdsd-{name}@@" for name in ("brief", "user", "agent", "again"))
_ACKNOWLEDGED = "Understood. I am ready."
_END = re.compile(r"\s*(<[^<>\s][^<>]*>|\[/?[A-Z_]+\])")


class Template(Struct, frozen=True):
    """One model's chat format, cut at the seams."""

    before_brief: str
    after_brief: str
    """From the brief (system text) to the first word of the first user turn."""
    to_agent: str
    to_user: str

    def open(self, brief: str) -> str:
        """The stream up to where the first user turn begins."""
        return f"{self.before_brief}{self.clean(brief)}{self.after_brief}"

    def stops(self, speaker: str) -> tuple[str, ...]:
        """Texts that end this speaker's turn, for servers that print what others swallow."""
        seam = self.to_agent if speaker == "user" else self.to_user
        return (_first_mark(seam),)

    def clean(self, text: str) -> str:
        """`text` without anything that the template would read as a change of speaker."""
        marks = _controls(self)
        while any(mark in text for mark in marks):  # taking one out may join another
            for mark in marks:
                text = text.replace(mark, " ")
        return text

    def cut(self, text: str) -> str:
        """A turn as written, cut where the writer began to play the next speaker."""
        places = [p for mark in _controls(self) if (p := text.find(mark)) >= 0]
        return text[: min(places, default=len(text))]


@lru_cache(maxsize=64)
def _controls(template: Template) -> list[str]:
    """The texts that a template's reader takes for a change of speaker."""
    seams = (template.before_brief, template.after_brief, template.to_agent, template.to_user)
    marks = {m for seam in seams for m in _END.findall(seam)}
    # Sorted: the order of a set differs from process to process, and so would `clean`.
    return sorted(marks | {_first_mark(template.to_agent), _first_mark(template.to_user)})


def marked(*, system: bool) -> tuple[Message, ...]:
    """The messages to render. Without `system` the brief is a user turn that gets a nod.

    Some templates refuse a system turn, drop it, or move it into a later one: those are learnt
    from the second form.
    """
    brief, user, agent, again = _MARKS
    talk = (Message("user", user), Message("assistant", agent), Message("user", again))
    if system:
        return (Message("system", brief), *talk)
    return (Message("user", brief), Message("assistant", _ACKNOWLEDGED), *talk)


def cut(rendered: str) -> Template | None:
    """The template behind a rendering of `marked(...)`; None if it lost or moved a mark."""
    places = [rendered.find(mark) for mark in _MARKS]
    if -1 in places or places != sorted(places):
        return None
    pieces = re.split("|".join(map(re.escape, _MARKS)), rendered)
    if len(pieces) != 5 or not pieces[2].strip() or not pieces[3].strip():
        return None
    return Template(*pieces[:4])


def _first_mark(seam: str) -> str:
    """The control text that opens a seam: `<|im_end|>`, `</s>`, `[/INST]`; else its first line."""
    found = _END.match(seam)
    return found.group(1) if found else seam.strip().splitlines()[0]
