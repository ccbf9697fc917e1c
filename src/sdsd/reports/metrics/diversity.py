"""How much a run's dialogues differ from each other: in words, as texts, and in meaning.

Only the first `SAMPLE` dialogues are read, and of each turn the first 20,000 characters, so that
neither time nor memory grows without bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from msgspec import Struct

from sdsd.reports.stats import FEW, Proportion, proportion
from sdsd.text.embeddings import Embed
from sdsd.text.near_duplicates import Near, spoken
from sdsd.text.normalize import valid_unicode
from sdsd.text.words import grams, words
from sdsd.types import Dialogue

SAMPLE = 20_000
"""Dialogues that are read."""
BLOCK = 1_000
"""Words in a block, within which distinct n-grams are counted."""
LENGTHS = (1, 2, 3)
"""The n of the n-grams."""
_OPENING = 3
"""Words in an opening."""
_SHOWN = 10
_READ = 20_000


class Distinct(Struct, frozen=True):
    """Distinct-n: different n-grams of words, as a share of all n-grams (Li et al. 2016).

    The share falls with the length of any text. It is therefore counted in blocks of `BLOCK` words
    and averaged (as Johnson 1944 did for single words), so that runs of any size can be compared.
    """

    words: int
    blocks: int
    means: tuple[float, ...]
    """For n = 1, 2, 3; empty without a full block."""
    errors: tuple[float, ...]
    """Standard errors of the means; empty with fewer than ten blocks."""


class Opening(Struct, frozen=True):
    """The first words of turns."""

    words: str
    turns: Proportion
    """Turns that begin with these words."""


class Voice(Struct, frozen=True):
    """The turns of one side."""

    distinct: Distinct
    openings: tuple[Opening, ...]
    """The most frequent openings, in descending order."""


class Diversity(Struct, frozen=True):
    """How much the first dialogues of a run differ from each other."""

    dialogues: int
    user: Voice
    agent: Voice
    threshold: float
    """Jaccard similarity of five-word shingles from which a dialogue counts as a repeat."""
    repeats: Proportion
    """Dialogues that nearly repeat an earlier one, by MinHash."""
    clusters: dict[int, int]
    """Number of groups of near repeats, by size; 1 is a dialogue that nothing repeats."""
    spread: float | None
    """1 minus the mean cosine similarity between the embeddings of two dialogues; 0 means that all
    are the same. None without an embedding model."""

    @property
    def largest(self) -> float:
        return max(self.clusters, default=0) / self.dialogues if self.dialogues else 0.0


class _Blocks:
    def __init__(self) -> None:
        self._words = 0
        self._shares: list[list[float]] = []
        self._clear()

    def _clear(self) -> None:
        self._room = BLOCK
        self._seen: list[set[tuple[str, ...]]] = [set() for _ in LENGTHS]
        self._ngrams = [0 for _ in LENGTHS]

    def add(self, turn: Sequence[str]) -> None:
        """Count the words of one turn. No n-gram crosses the end of a turn or of a block."""
        self._words += len(turn)
        while turn:
            piece, turn = turn[: self._room], turn[self._room :]
            for k, length in enumerate(LENGTHS):
                ngrams = grams(piece, length)
                self._seen[k].update(ngrams)
                self._ngrams[k] += len(ngrams)
            self._room -= len(piece)
            if not self._room:
                pairs = zip(self._seen, self._ngrams, strict=True)
                self._shares.append([len(seen) / max(total, 1) for seen, total in pairs])
                self._clear()

    def result(self) -> Distinct:
        blocks = len(self._shares)
        columns = list(zip(*self._shares, strict=True))
        errors = [stdev(column) / math.sqrt(blocks) for column in columns if blocks >= FEW]
        return Distinct(self._words, blocks, tuple(map(fmean, columns)), tuple(errors))


class _Voice:
    def __init__(self) -> None:
        self._turns = 0
        self._blocks = _Blocks()
        self._openings: Counter[str] = Counter()

    def add(self, text: str) -> None:
        found = words(text[:_READ])
        self._turns += 1
        self._blocks.add(found)
        self._openings[" ".join(found[:_OPENING])[:60]] += 1

    def result(self) -> Voice:
        common = self._openings.most_common(_SHOWN)
        shown = (Opening(words, proportion(n, self._turns)) for words, n in common if words)
        return Voice(self._blocks.result(), tuple(o for o in shown if o.turns.k > 1))


class _Spread:
    """The mean cosine similarity of all pairs, from the sum of the unit vectors alone."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._sum: Any = 0.0
        self._n = 0

    def add(self, text: str) -> None:
        vector = self._embed(valid_unicode(text[:_READ]))
        length = math.sqrt(float(vector @ vector))
        if length:
            self._sum = self._sum + vector / length
            self._n += 1

    def result(self) -> float | None:
        n = self._n
        if n < 2:
            return None
        return 1 - (float(self._sum @ self._sum) - n) / (n * (n - 1))


class DiversityTally:
    """What is kept of the first dialogues: sketches, counts of openings, one block of words."""

    def __init__(self, threshold: float, embed: Embed | None = None) -> None:
        self._threshold = threshold
        self._voices = {"user": _Voice(), "assistant": _Voice()}
        self._near = Near(threshold)
        self._groups: Counter[str] = Counter()
        self._spread = _Spread(embed) if embed else None
        self._n = 0

    def add(self, key: str, dialogue: Dialogue) -> None:
        """Count one dialogue under a unique key; ignored after the first `SAMPLE`."""
        if self._n >= SAMPLE:
            return
        self._n += 1
        for message in dialogue.messages:
            if message.role in self._voices:
                self._voices[message.role].add(message.content)
        text = spoken(dialogue.messages)
        self._groups[self._near.add(key, text) or key] += 1
        if self._spread:
            self._spread.add(text)

    def result(self) -> Diversity:
        alone = len(self._groups)
        return Diversity(
            dialogues=self._n,
            user=self._voices["user"].result(),
            agent=self._voices["assistant"].result(),
            threshold=self._threshold,
            repeats=proportion(self._n - alone, self._n),
            clusters=dict(sorted(Counter(self._groups.values()).items())),
            spread=self._spread.result() if self._spread else None,
        )
