"""Count sentences and words between bounds.

Where a sentence ends and what one word is are matters of opinion ("e.g. this", "half-hour"). A
limit is exceeded for certain only if the smallest count exceeds it, and respected for certain only
if the largest does not.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sdsd.text.words import SOLID

_CLOSING = r"[\"'”’»)\]*_]*"
_OPENING = r"[\"'“‘«(\[*_]*"
_STOP = rf"(?<![.!?…])[.!?…]++{_CLOSING}+"
_ANY_END = re.compile(rf"{_STOP}(?=\s|\Z)|[。！？]++|\n++")
_SURE_END = re.compile(
    rf"{_STOP}\s++(?={_OPENING}[A-ZÀ-ÞΑ-ΩА-Я¿¡0-9])"
    r"|[。！？]++|\n[ \t]*+\n\s*+|\n(?=[ \t]*+(?:[-*+•]|\d{1,3}[.)])[ \t])"
)
_NO_END = re.compile(
    r"\A(?:(?:.*[\s.(])?(?:e|g|i|etc|vs|cf|al|ca|no|nr|st|dr|mr|mrs|ms|prof|sr|jr|fig|vol|approx"
    r"|[A-Za-z])|.*(?:[\n.:;!?]\s+|\A)\d{1,2})",
    re.IGNORECASE | re.DOTALL,
)
"""What stands before a full stop that may not end a sentence: an abbreviation, an initial, or the
number of a list's item."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SPACED = re.compile(r"\S+")
_LETTER = re.compile(r"[^\W_]")
_SOLID = re.compile(f"[{SOLID}]")


def spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of every sentence, as few as a reader could count."""
    ends = [m.end() for m in _SURE_END.finditer(text) if not _may_go_on(text, m)]
    return _between(text, [0, *ends, len(text)])


def short_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of every sentence, as many as a reader could count.

    Every full stop before white space and every new line ends one.
    """
    ends = [m.end() for m in _ANY_END.finditer(text)]
    return _between(text, [0, *ends, len(text)])


def word_bounds(text: str) -> tuple[int, int] | None:
    """Return the fewest and the most words that a reader could count.

    None if a script without spaces is in the text: its words cannot be counted.
    """
    if _SOLID.search(text):
        return None
    fewest = sum(bool(_LETTER.search(token)) for token in _SPACED.findall(text))
    return fewest, len(_WORD.findall(text))


def _may_go_on(text: str, end: re.Match[str]) -> bool:
    before = text[max(0, end.start() - 8) : end.start()]
    if end.start() > 8:
        before = f"-{before}"  # it is not the beginning of the text
    return end[0].startswith(".") and bool(_NO_END.fullmatch(before))


def _between(text: str, cuts: list[int]) -> list[tuple[int, int]]:
    """Return the pieces between the cuts that have a letter or digit, without white space around
    them."""
    pieces = []
    for start, end in pairwise(cuts):
        piece = text[start:end]
        if _LETTER.search(piece):
            begins = start + len(piece) - len(piece.lstrip())
            pieces.append((begins, start + len(piece.rstrip())))
    return pieces
