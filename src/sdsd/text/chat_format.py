"""A chat template cut into the texts that separate one speaker's turn from the next.

`continuation` writes a conversation as one growing stream of tokens, in the model's own chat
format, and has the model write the turns of *both* sides (the user's too, as in Magpie,
arXiv 2406.08464). It needs the text before the first user turn, the text between a user turn and
an agent turn, and the text between an agent turn and a user turn. Any template yields them:
render messages that contain marks, and cut at the marks.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from sdsd.text.thinking import only_marks, opens_thinking, without_closed, without_thinking
from sdsd.types import Message

_MARKS = tuple(f"@@sdsd-{name}@@" for name in ("brief", "user", "agent", "again"))
_ACKNOWLEDGED = "Understood. I am ready."
_MARK = re.compile(r"<[^<>\s][^<>]*+>|\[/?[A-Z_]++\]")
"""A control text, e.g. `<|im_end|>` or `[/INST]`."""
_LONGEST = 16_000
"""Characters between two turns, at most. A template comes with a model; it may be hostile."""


class Template(Struct, frozen=True):
    """One model's chat format, cut at the turns."""

    before_brief: str
    after_brief: str
    """From the brief (the system text) to the first user turn."""
    to_agent: str
    to_user: str
    opening: str = ""
    """What reasoning models expect after `to_agent` when they are to write: that their thinking
    begins, or that it is over. In a finished conversation it is not there. Empty for others."""

    def open(self, brief: str) -> str:
        """Return the stream up to the first user turn."""
        return f"{self.before_brief}{self.clean(brief)}{self.after_brief}"

    def begun(self, stream: str) -> str:
        """Return a stream that ends with `to_agent`, ready for the agent to go on.

        A blank at its end belongs to the first token of the turn: alone, it is a token that the
        model has never seen there.
        """
        if opens_thinking(self.opening):
            stream = without_closed(stream)
        return f"{stream}{self.opening}".rstrip(" ")

    def closed(self) -> Template:
        """Return the template for an agent that does not think."""
        if not opens_thinking(self.opening):
            return self
        over = without_closed(self.to_agent) != self.to_agent  # every turn says so already
        return replace(self, opening="" if over else without_thinking(self.opening))

    def stops(self, speaker: str) -> tuple[str, ...]:
        """Return the texts that end this speaker's turn, for servers that do not strip them."""
        separator = self.to_agent if speaker == "user" else self.to_user
        return (_first_mark(separator),)

    def clean(self, text: str) -> str:
        """Return `text` without anything that the template would read as a change of speaker."""
        marks = _controls(self)
        while any(mark in text for mark in marks):  # removing one may join another
            for mark in marks:
                text = text.replace(mark, " ")
        return text

    def cut(self, text: str) -> str:
        """Return a turn up to where its writer went on as the next speaker."""
        places = [p for mark in _controls(self) if (p := text.find(mark)) >= 0]
        return text[: min(places, default=len(text))]


@lru_cache(maxsize=64)
def _controls(template: Template) -> list[str]:
    """Return the texts that mark a change of speaker."""
    separators = (template.before_brief, template.after_brief, template.to_agent, template.to_user)
    marks = {m for text in separators for m in _MARK.findall(text)}
    # Sorted: the order of a set differs from process to process, and so would `clean`.
    return sorted(marks | {_first_mark(template.to_agent), _first_mark(template.to_user)})


def marked(*, system: bool) -> tuple[Message, ...]:
    """Return the messages to render. Without `system` the brief is a user turn, acknowledged.

    The second form is for templates that refuse a system turn, drop it, or move it elsewhere.
    """
    brief, user, agent, again = _MARKS
    chat = (Message("user", user), Message("assistant", agent), Message("user", again))
    if system:
        return (Message("system", brief), *chat)
    return (Message("user", brief), Message("assistant", _ACKNOWLEDGED), *chat)


def cut(rendered: str) -> Template | None:
    """Return the template behind a rendering of `marked(...)`; None if marks were lost or moved."""
    places = [rendered.find(mark) for mark in _MARKS]
    if -1 in places or places != sorted(places):
        return None
    pieces = re.split("|".join(map(re.escape, _MARKS)), rendered)
    if len(pieces) != 5 or not pieces[2].strip() or not pieces[3].strip():
        return None
    if max(map(len, pieces)) > _LONGEST:
        return None
    return opened(Template(*pieces[:4]), rendered)


def opened(template: Template, rendered: str) -> Template:
    """Return `template` with the opening that a rendering of `marked(...)` ends with: that of a
    template which begins the model's thinking for it, or ends it."""
    end = rendered.rpartition(_MARKS[-1])[2]
    opening = end.removeprefix(template.to_agent)
    if end == opening:  # it may open what finished turns have closed
        opening = end.removeprefix(without_closed(template.to_agent))
        found = end != opening and opens_thinking(opening)
    else:
        found = only_marks(opening)
    return replace(template, opening=opening) if found else template


def switched(plain: Template, other: Template | None) -> Template:
    """Return what a template gives with its switch for thinking set: `other`, unless the switch
    writes into turns (GLM-4.5's `/nothink`), where a model that writes them would write it, too."""
    if other is None or any(other.stops(who) != plain.stops(who) for who in ("user", "agent")):
        return plain
    return other


def _first_mark(separator: str) -> str:
    """Return the control text that begins a separator, e.g. `<|im_end|>`; else its first line."""
    found = _MARK.match(separator.lstrip())
    return found.group() if found else separator.strip().splitlines()[0]
