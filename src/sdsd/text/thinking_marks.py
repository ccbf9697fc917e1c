"""The marks around the thinking of reasoning models, recognised by their words.

There is no standard: `<think>`, `[THINK]`, `<seed:think>`, `◁think▷`, `<|START_THINKING|>`,
`<inner_monologue>` and others come and go with the models. What they share is a word for thinking
in brackets, and a way to say which of two marks is the end.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator
from functools import cached_property

from msgspec import Struct

_SURE = {"think", "thinking", "thought", "antthinking"}
"""Words that mean thinking wherever a mark with them stands."""
_WORD = (
    r"(?:think(?:ing)?|thoughts?|antthinking|reason(?:ing)?|reflect(?:ion)?|analysis|rationale|"
    r"scratch_?pad|monologue|deliberation|cot)"
)
_NAME = rf"(?:[a-z]{{1,12}}[_:▁-]){{0,3}}{_WORD}(?:[_:▁-][a-z]{{1,12}}){{0,3}}"
_ATTRIBUTES = r"(?:\s+[a-z_-]{1,20}\s?=[^<>\[\]]{0,200})?"
_SPECIAL = {
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|channel>thought": "<channel|>",
    "<unused94>": "<unused95>",
}
"""By opening mark, the closing one, where no word says so."""
_SPECIALS = "|".join(re.escape(mark[1:]) for mark in (*_SPECIAL, *_SPECIAL.values()))
_DETAILS, _DETAILS_END = r'details\s+type="reasoning"[^<>]{0,200}>', "</details>"
"""What chat front ends fold the thinking into."""
AFTER_FIRST = (
    rf"(?:(?<!&)|lt;)[|｜]?\s?/?\s?{_NAME}{_ATTRIBUTES}\s?[|｜]?\\?(?:>|\]|▷|&gt;)"
    rf"|{_SPECIALS}|{_DETAILS}|{_DETAILS_END[1:]}"
)
"""A pattern of what follows the first character of a mark, to be matched whatever the case. It also
matches `<no_think>`."""
FIRST = r"[<\[◁&]"
"""The first characters. They come first in a pattern, so that the search looks for them."""
LAST = (">", "]", "▷", "&gt;", "thought")
"""How marks end."""
_MARK = re.compile(f"{FIRST}(?i:{AFTER_FIRST})")
_PARTS = re.compile(r"[a-z]+")
_BEGIN, _END = {"begin", "start", "open", "prefix", "of"}, {"end", "stop", "close", "suffix"}
_NO_MARK = {"no", "non", "without", "not"}

QUOTES_BEFORE, QUOTES_AFTER = "`\"'“„«‹‘‚「『(", "`\"'”“»›’‘」』)"
"""What encloses a mark that is spoken of and not used."""
_FENCE = re.compile(r"^[ \t>]*(?:```|~~~)", re.MULTILINE)
_LINE = 400
"""Characters of a line in which the other backtick of a piece of code is looked for."""


class Mark(Struct, frozen=True):
    """One mark of thinking in a text."""

    start: int
    end: int
    name: str
    """What an opening mark and its closing one have in common."""
    closing: bool
    sure: bool
    """It is a mark wherever it stands; others could be meant as text."""
    compound: bool = False
    """Not sure, but its name is made of more words, of which one means thinking."""


def marks(text: str) -> Iterator[Mark]:
    """Yield the marks of thinking in a text that are used, in their order."""
    for found in _MARK.finditer(text):
        if not quoted(text, found.start(), found.end()) and (mark := _read(text, found)):
            yield mark


def sure_mark(text: str) -> str:
    """Return the first mark that is one wherever it stands, even if it is quoted; empty if none."""
    found = (read for match in _MARK.finditer(text) if (read := _read(text, match)))
    return next((text[mark.start : mark.end] for mark in found if mark.sure), "")


def quoted(text: str, start: int, end: int) -> bool:
    """Whether a part of a text stands in quotation marks: then it is spoken of."""
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    return bool(before and after) and before in QUOTES_BEFORE and after in QUOTES_AFTER


def closing_of(opening: str) -> str:
    """Return the mark that closes what an opening mark opens.

    >>> [closing_of(mark) for mark in ("<think>", "[THINK]", "<|START_THINKING|>", "◁think▷")]
    ['</think>', '[/THINK]', '<|END_THINKING|>', '◁/think▷']
    """
    if special := _SPECIAL.get(opening):
        return special
    for begin, end in (("START", "END"), ("start", "end"), ("begin", "end"), ("prefix", "suffix")):
        if begin in opening:
            return opening.replace(begin, end)
    return re.sub(r"^(\W+?)(?=[|｜]?\w)", r"\1/", opening, count=1)


def _read(text: str, found: re.Match[str]) -> Mark | None:
    """Return what a match of the pattern means; None if it is no mark of thinking."""
    mark = found.group().casefold()
    place = found.start(), found.end()
    for opening, closing in _SPECIAL.items():
        if mark in (opening, closing):
            return Mark(*place, opening, mark == closing, sure=True)
    if mark.startswith(("<details", "</details")):
        return Mark(*place, "details", mark == _DETAILS_END, sure=False, compound=True)
    words = _PARTS.findall(mark.partition("=")[0])
    if "=" in mark:
        words.pop()  # the name of the attribute
    name = [word for word in words if word not in _BEGIN | _END | {"lt", "gt"}]
    if not name or _NO_MARK & {*name}:
        return None
    ends = bool(_END & {*words}) or "/" in mark[: mark.find(name[0])]
    escaped = mark.startswith("&") or mark.endswith("\\>")
    aloud = mark.startswith("[") and found.group() != found.group().upper()  # `[thinking]`
    sure = name[-1] in _SURE and len(name) <= 2 and not (escaped or aloud)
    compound = len(name) > 1 and not {*name}.isdisjoint({*_SURE, "thoughts"})
    return Mark(*place, "_".join(name), ends, sure, compound)


class Code:
    """The parts of a text that are code: what stands there is spoken of."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _fences(self) -> list[int]:
        return [fence.start() for fence in _FENCE.finditer(self._text)]

    def holds(self, place: int, begun: int = 0) -> bool:
        """Whether a place is in code that ends after it, in a text that began at `begun`."""
        text, fences = self._text, self._fences
        before = bisect(fences, place)
        if (before - bisect(fences, begun - 1)) % 2 and before < len(fences):
            return True
        line = max(begun, text.rfind("\n", max(0, place - _LINE), place) + 1, place - _LINE)
        rest = text[place : place + _LINE].partition("\n")[0]
        return text.count("`", line, place) % 2 == 1 and "`" in rest
