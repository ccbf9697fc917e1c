"""Mark up the texts of one dialogue: the critic's quotations and what a revision changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import accumulate
from typing import NamedTuple

from markupsafe import Markup

from sdsd.reports.html.text import count, esc
from sdsd.text import normalize, parsing
from sdsd.types import Critique

FOLD = 1_500
"""Longer texts, in characters, are folded after this many."""
_WORD = re.compile(r"\w+\s*|[^\w\s]+\s*|\s+")
_MOST_WORDS = 1_000
_ALIKE = 0.35


class Span(NamedTuple):
    """A part of a text, as character offsets."""

    start: int
    end: int


def said(text: str, spans: Sequence[Span] = (), tag: str = "mark") -> Markup:
    """Return a block that keeps line breaks, with a tag around every span; fold a long text."""
    head = [Span(s.start, min(s.end, FOLD)) for s in spans if s.start < FOLD]
    rest = [Span(max(s.start, FOLD) - FOLD, s.end - FOLD) for s in spans if s.end > FOLD]
    more = ""
    if len(text) > FOLD:
        body = _tagged(text[FOLD:], rest, tag)
        left = f"{count(len(text) - FOLD)} more characters"
        more = f'<details><summary>{left}</summary><div class="said">{body}</div></details>'
    block = f'<div class="said" dir="auto">{_tagged(text[:FOLD], head, tag)}</div>{more}'
    return Markup(block)  # noqa: S704  # every text in it went through `esc`


def _tagged(text: str, spans: Sequence[Span], tag: str) -> str:
    out, at = [], 0
    for start, end in spans:
        out.append(f"{esc(text[at:start])}<{tag}>{esc(text[start:end])}</{tag}>")
        at = end
    return "".join(out) + esc(text[at:])


def marked(text: str, critique: Critique | None) -> Markup:
    """Return the reply with the critic's confirmed quotations highlighted."""
    quotes = [v.quote for v in critique.verdicts if v.confirmed] if critique else []
    return said(text, merged(span for quote in quotes for span in find(quote, text)))


def compared(old: str, new: str) -> tuple[Markup, Markup]:
    """Return both texts, with what was removed and what was added highlighted."""
    removed, added = changes(old, new)
    return said(old, removed, "del"), said(new, added, "ins")


# -- quotations ----------------------------------------------------------------------------


def find(quote: str, text: str) -> list[Span]:
    """Locate the pieces of `quote` in `text`, compared as `sdsd.text.parsing.occurs` does."""
    letters, offsets = _letters(text)
    spans: list[Span] = []
    at = 0
    pieces = map(normalize.normal, parsing.ELLIPSIS.split(quote))
    for piece in filter(None, (piece.strip(" .,;:!?\"'") for piece in pieces)):
        start = letters.find(piece, at)
        if start < 0:
            return []
        at = start + len(piece)
        spans.append(Span(offsets[start], offsets[at - 1] + 1))
    return spans


def _letters(text: str) -> tuple[str, list[int]]:
    """Return `normalize.normal(text)` and the offset that each of its characters came from."""
    letters: list[str] = []
    offsets: list[int] = []
    for i, c in enumerate(text):
        plain = normalize.normal(c)
        if not plain and (not letters or letters[-1] == " "):
            continue  # spaces in a row count once
        for letter in plain or " ":
            letters.append(letter)
            offsets.append(i)
    return "".join(letters), offsets


def merged(spans: Iterable[Span]) -> list[Span]:
    """Sort spans and merge those that overlap."""
    result: list[Span] = []
    for span in sorted(spans):
        if result and span.start <= result[-1].end:
            result[-1] = Span(result[-1].start, max(span.end, result[-1].end))
        else:
            result.append(span)
    return result


# -- revisions -----------------------------------------------------------------------------


def changes(old: str, new: str) -> tuple[list[Span], list[Span]]:
    """Return the words removed from `old` and added to `new`; nothing if little is alike."""
    ours, theirs = _WORD.findall(old), _WORD.findall(new)
    if max(len(ours), len(theirs)) > _MOST_WORDS:  # the comparison takes quadratic time
        return [], []
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return [], []
    a, b = ([0, *accumulate(map(len, pieces))] for pieces in (ours, theirs))
    codes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    removed = [_trimmed(old, a[i1], a[i2]) for _, i1, i2, _, _ in codes if i1 < i2]
    added = [_trimmed(new, b[j1], b[j2]) for _, _, _, j1, j2 in codes if j1 < j2]
    return removed, added


def _trimmed(text: str, start: int, end: int) -> Span:
    return Span(start, start + len(text[start:end].rstrip()))
