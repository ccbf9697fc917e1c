"""Proof of a revision, as far as texts alone can give it: no model is asked.

A critic that finds nothing in a revision has not said that it is a good one. Some faults are plain
to see: nothing was changed, the offence still stands there, the reply only refuses. Those are
*defects*, and refuse the revision before a critic is paid. Others are *doubts* (facts that were
lost, length for its own sake): they go into the data set, and whoever trains decides.

The rules know English. In other languages they are silent rather than wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from sdsd import parse
from sdsd.types import Message

RULES = {
    "unchanged": "It changes nothing.",
    "trivial": "It changes no word that matters.",
    "offence_kept": "It still has the offending words.",
    "refusal": "It only refuses to help.",
    "copied_critique": "It repeats the review, or talks about it.",
    "apology": "It apologises for a reply that the user never saw.",
    "longer": "It keeps the original and adds to it.",
    "lost_facts": "Names or numbers of the conversation are missing in it.",
}
"""What each rule means, as a reviser or a reader is told."""
DEFECTS = frozenset({"unchanged", "trivial", "offence_kept", "refusal", "copied_critique"})
"""Rules that refuse a revision; the others are doubts."""

MOST = 4_000
"""Words of a text that are compared. No turn has more; a flood must not cost minutes."""


class Change(Struct, frozen=True):
    """How far a text is from another."""

    edit_distance: float
    """Levenshtein distance in words, over the words of the longer text: 0 to 1."""
    length_delta: int
    """Characters more, or fewer if negative."""


def change(original: str, revised: str) -> Change:
    """What was changed. Case, and kinds of quotation marks and spaces, are no change."""
    ours, theirs = _words(original), _words(revised)
    longest = max(len(ours), len(theirs))
    distance = levenshtein(ours, theirs) / longest if longest else 0.0
    return Change(distance, len(revised) - len(original))


def faults(
    original: str,
    revised: str,
    before: tuple[Message, ...] = (),
    quotes: tuple[str, ...] = (),
    critique: str = "",
) -> tuple[str, ...]:
    """The `RULES` that a revision breaks, defects first.

    before    the conversation up to the turn
    quotes    the words of the original that the critics object to
    critique  what the reviser was told
    """
    if parse.normal(original) == parse.normal(revised):
        return ("unchanged",)
    found = {
        "trivial": _content(original) == _content(revised),
        "offence_kept": any(_kept(quote, original, revised) for quote in quotes),
        "refusal": _refuses(revised) and not _refuses(original),
        "copied_critique": _talks_of_review(revised, original, critique),
        "apology": bool(_APOLOGY.search(revised)) and not _APOLOGY.search(original),
        "longer": _padded(original, revised),
        "lost_facts": _lost(original, revised, before, quotes),
    }
    return tuple(rule for rule, broken in found.items() if broken)


def levenshtein(a: list[str], b: list[str]) -> int:
    """Insertions, deletions and exchanges of words that turn `a` into `b`.

    Bit-parallel (Myers 1999, in the form of Hyyrö 2003): a column of the classical table is a pair
    of integers, so a word costs a few operations on big integers instead of a loop.
    """
    if not a or not b:
        return len(a) or len(b)
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)
    for word in b:
        here = places.get(word, 0)
        diagonal = (((here & up) + up) ^ up) | here | down
        right = down | ~(diagonal | up)
        left = diagonal & up
        if right & last:
            distance += 1
        elif left & last:
            distance -= 1
        right = right << 1 | 1
        up = (left << 1 | ~(diagonal | right)) & full
        down = diagonal & right & full
    return distance


# -- the rules -----------------------------------------------------------------------------

_WORD = re.compile(r"\w+")
_FILLERS = """
a an the and but so then now well also however moreover firstly first secondly second finally
please just really very quite simply actually indeed certainly of course sure okay ok
"""
_FILLER = frozenset(_FILLERS.split())
_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|afraid)[^.!?]{0,40}?(?:,|\bbut\b)?\s*(?:but )?I (?:can(?:'t|not)|am not able|"
    r"won't|will not)|I (?:can(?:'t|not)|am unable to|won't|will not) (?:help|assist|provide|answer|"
    r"discuss|give|do that|comply|support)|I(?:'m| am) (?:not able|unable) to (?:help|assist|provide|"
    r"answer|discuss))",
    re.IGNORECASE,
)
_SHORT = 60
"""Words up to which a reply that refuses does nothing else."""
_REVIEW = re.compile(
    r"\b(?:offending words?|revised (?:reply|version|response)|reply under review|the review(?:er)?\b|"
    r"this principle|the principles?\b|in line with the principle|previous (?:version|draft))",
    re.IGNORECASE,
)
_APOLOGY = re.compile(
    r"\bI (?:apologi[sz]e|am sorry) for (?:my|the) (?:earlier|previous|last|original|first|mistake|"
    r"error|confusion|misunderstanding)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d[\d.,:]*\d|\d")
_NAME = re.compile(r"(?<=[a-z,;:] )[A-Z][\w'-]{2,}(?: [A-Z][\w'-]+)*")


def _words(text: str) -> list[str]:
    return _WORD.findall(parse.normal(text))[:MOST]


def _content(text: str) -> list[str]:
    return [word for word in _words(text) if word not in _FILLER]


def _kept(quote: str, original: str, revised: str) -> bool:
    """Whether words that were objected to still stand there, and are enough to be recognised.

    A quotation of nearly the whole turn says nothing about which words are at fault.
    """
    words = _words(quote)
    if len(words) < 4 or len(words) > 0.8 * len(_words(original)):
        return False
    return parse.occurs(quote, revised)


def _refuses(text: str) -> bool:
    return len(_words(text)) <= _SHORT and bool(_REFUSAL.search(parse.normal(text)))


def _talks_of_review(revised: str, original: str, critique: str) -> bool:
    """Whether the review's words have come into the reply, which its user never saw."""
    if parse.copies(revised, critique, run=8) and not parse.copies(original, critique, run=8):
        return True
    return bool(_REVIEW.search(revised)) and not _REVIEW.search(original)


def _padded(original: str, revised: str) -> bool:
    """Whether nearly all of the original stands in a much longer revision."""
    ours, theirs = _words(original), _words(revised)
    if len(theirs) < 1.3 * len(ours) or not ours:
        return len(revised) > 2 * len(original) + 200
    lost = levenshtein(ours, theirs) - (len(theirs) - len(ours))
    return lost <= 0.1 * len(ours)


def _lost(original: str, revised: str, before: tuple[Message, ...], quotes: Iterable[str]) -> bool:
    """Whether most facts of the original, which the conversation has too, are gone."""
    talk = parse.normal(" ".join(message.content for message in before))
    rest = original
    for quote in quotes:
        rest = rest.replace(quote, " ")
    facts = {parse.normal(m) for m in (*_NUMBER.findall(rest), *_NAME.findall(rest))}
    known = {fact for fact in facts if re.search(rf"\b{re.escape(fact)}\b", talk)}
    kept = parse.normal(revised)
    missing = {fact for fact in known if not re.search(rf"\b{re.escape(fact)}\b", kept)}
    return len(missing) > len(known) / 2
