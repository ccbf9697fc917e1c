"""What is measured on finished dialogues and their pairs, for rows and for their selection."""

from __future__ import annotations

import re

from sdsd.checks.dialogue_rules import Flag
from sdsd.checks.dialogue_rules import flags as found
from sdsd.types import Critique, Pair, Record, Revision

# Words; scripts that are written without spaces count by the character.
_SOLID = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[^\W{_SOLID}]+|\S")
_MOST_WORDS = 32_768  # no turn has more tokens: a guard, so that no text can cost minutes


def flags(record: Record) -> tuple[Flag, ...]:
    """What is wrong with a record's dialogue; nothing if there is none."""
    if record.dialogue is None:
        return ()
    return found(record.dialogue, record.plan, record.scenario.principles)


def final(record: Record) -> Revision | None:
    """The last revision that was not refused on sight: the one that stands."""
    return next((r for r in reversed(record.revisions) if not r.defect), None)


def doubts(record: Record, pair: Pair) -> tuple[str, ...]:
    """What `sdsd.checks.revision_rules` found about a pair's revision without refusing it."""
    revision = final(record) if pair.kind == "revision" else None
    return revision.warnings if revision else ()


def margin(rejected: Critique, chosen: Critique | None) -> float | None:
    """How much surer the critics are of the violations in the rejected turn than in the chosen.

    The mean, over the violations, of the difference of probabilities: -1 to 1. None where servers
    do not tell them.
    """
    after = {v.principle: v.probability for v in chosen.verdicts} if chosen else {}
    gaps = [
        v.probability - later
        for v in rejected.verdicts
        if v.confirmed and v.probability is not None
        if (later := after.get(v.principle)) is not None
    ]
    return sum(gaps) / len(gaps) if gaps else None


def similarity(a: str, b: str) -> float:
    """2 x length of the longest common subsequence of words / number of words in both.

    Exact, and fast enough for any turn: the row of the classical table is one integer
    (Hyyrö 2004), so a step costs a few big-integer operations instead of a loop.
    """
    ours, theirs = (_WORD.findall(text)[:_MOST_WORDS] for text in (a, b))
    if not ours and not theirs:
        return 1.0
    places: dict[str, int] = {}
    for i, word in enumerate(ours):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(ours)) - 1
    row = full
    for word in theirs:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    common = len(ours) - row.bit_count()
    return 2 * common / (len(ours) + len(theirs))
