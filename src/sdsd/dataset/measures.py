"""Measurements on a pair of replies, and what the rules found in a record."""

from __future__ import annotations

import re

from rapidfuzz.distance import LCSseq, Levenshtein

from sdsd.checks.revision_rules import words
from sdsd.types import Critique, Pair, Record, Revision, Verdict

# Words and marks; scripts that are written without spaces count by the character.
_SOLID = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_TOKEN = re.compile(rf"[^\W{_SOLID}]+|\S")
_MOST = 32_768  # no turn has more tokens: bounds the time that a hostile text can take


def similarity(a: str, b: str) -> float:
    """Return 2 x length of the longest common subsequence of words / number of words in both."""
    ours, theirs = (_TOKEN.findall(text)[:_MOST] for text in (a, b))
    total = len(ours) + len(theirs)
    return 2 * int(LCSseq.similarity(ours, theirs)) / total if total else 1.0


def edit_distance(a: str, b: str) -> float:
    """Return the Levenshtein distance in words over the words of the longer text: 0 to 1.

    Case, punctuation and typography do not count; only the first 10,000 words are compared.
    """
    return float(Levenshtein.normalized_distance(words(a), words(b)))


def critic_margin(rejected: Critique, chosen: Critique | None) -> float | None:
    """Return how much more certain the critics are of the violations in the rejected turn.

    The difference of probabilities, averaged over the violations: -1 to 1. None if the servers
    return no probabilities.
    """
    after = {v.principle: v.probability for v in chosen.verdicts} if chosen else {}
    gaps = [
        v.probability - later
        for v in rejected.verdicts
        if v.confirmed and v.probability is not None
        if (later := after.get(v.principle)) is not None
    ]
    return sum(gaps) / len(gaps) if gaps else None


def contrast_margin(rejected: Critique, chosen: Critique | None) -> float | None:
    """Return by how many nats the likelihood contrast of the chosen turn exceeds the rejected
    one's, for the target principle; None if it was not measured."""
    before, after = _target(rejected), _target(chosen)
    if before is None or after is None or before.contrast is None or after.contrast is None:
        return None
    return after.contrast - before.contrast


def _target(critique: Critique | None) -> Verdict | None:
    """Return the verdict on the target principle, which comes first."""
    return critique.verdicts[0] if critique and critique.verdicts else None


def final_revision(record: Record) -> Revision | None:
    """Return the last revision that was not refused for a defect."""
    return next((r for r in reversed(record.revisions) if not r.defect), None)


def revision_warnings(record: Record, pair: Pair) -> tuple[str, ...]:
    """Return the rules of `sdsd.checks.revision_rules` that a pair's revision breaks."""
    revision = final_revision(record) if pair.kind == "revision" else None
    return revision.warnings if revision else ()
