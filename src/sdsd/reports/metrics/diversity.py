"""How different a run's dialogues are from one another: their words, their texts, their meanings.

All of it is read from the first `SAMPLE` dialogues of a run, so that neither time nor memory grows
without end. Of a turn its first 20,000 characters count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from sdsd.reports.rates import Rate, rate
from sdsd.text.embeddings import Embed
from sdsd.text.near_duplicates import Near, spoken
from sdsd.text.words import words
from sdsd.types import Dialogue

SAMPLE = 20_000
"""Dialogues that are read."""
BLOCK = 1_000
"""Words of one block, whose different words and runs of words are counted."""
LENGTHS = (1, 2, 3)
"""Words in a run."""
_FEW = 10
"""Blocks without which there is no standard error to speak of."""
_OPENING = 3
"""Words of an opening."""
_SHOWN = 10
"""Openings that are named."""
_READ = 20_000
"""Characters of a turn that are read."""


class Distinct(Struct, frozen=True):
    """Different words, pairs and triples of words, as shares of all of them (Li et al. 2016).

    The share falls with the length of any text, so it is counted in blocks of `BLOCK` words and
    averaged over them (as Johnson 1944 did for single words): runs of any size compare.
    """

    words: int
    """All that were read."""
    blocks: int
    """Full ones among them, each of several dialogues."""
    means: tuple[float, ...]
    """For runs of 1, 2 and 3 words; none without a full block."""
    errors: tuple[float, ...]
    """Standard errors of the means; none with fewer than ten blocks."""


class Opening(Struct, frozen=True):
    """The first words of turns."""

    words: str
    turns: Rate
    """Turns that begin with them."""


class Voice(Struct, frozen=True):
    """One side's turns."""

    distinct: Distinct
    openings: tuple[Opening, ...]
    """The most frequent ones, most frequent first."""


class Diversity(Struct, frozen=True):
    """How different the first dialogues of a run are from one another."""

    dialogues: int
    """That were read, at most `SAMPLE`."""
    user: Voice
    agent: Voice
    threshold: float
    """Share of runs of five words in common (Jaccard) from which on a dialogue repeats another."""
    repeats: Rate
    """Dialogues that nearly repeat an earlier one, by MinHash."""
    clusters: dict[int, int]
    """How many groups there are of so many dialogues that repeat their first one; 1: alone."""
    spread: float | None
    """1 less the mean cosine between the embeddings of any two dialogues; 0 is all the same. None
    without an embedding model."""

    @property
    def largest(self) -> float:
        """The share of the largest group."""
        return max(self.clusters, default=0) / self.dialogues if self.dialogues else 0.0


class _Blocks:
    """Distinct runs of words, block by block."""

    def __init__(self) -> None:
        self._words = 0
        self._shares: list[list[float]] = []
        self._clear()

    def _clear(self) -> None:
        self._room = BLOCK
        self._seen: list[set[tuple[str, ...]]] = [set() for _ in LENGTHS]
        self._runs = [0 for _ in LENGTHS]

    def add(self, turn: Sequence[str]) -> None:
        """The words of one turn; no run goes over its end, nor over that of a block."""
        self._words += len(turn)
        while turn:
            piece, turn = turn[: self._room], turn[self._room :]
            for k, length in enumerate(LENGTHS):
                self._seen[k].update(zip(*(piece[i:] for i in range(length)), strict=False))
                self._runs[k] += max(len(piece) - length + 1, 0)
            self._room -= len(piece)
            if not self._room:
                pairs = zip(self._seen, self._runs, strict=True)
                self._shares.append([len(seen) / max(runs, 1) for seen, runs in pairs])
                self._clear()

    def found(self) -> Distinct:
        blocks = len(self._shares)
        columns = list(zip(*self._shares, strict=True))
        means = [math.fsum(column) / blocks for column in columns]
        errors = []
        if blocks >= _FEW:
            for mean, column in zip(means, columns, strict=True):
                squares = math.fsum((x - mean) ** 2 for x in column)
                errors.append(math.sqrt(squares / (blocks - 1) / blocks))
        return Distinct(self._words, blocks, tuple(means), tuple(errors))


class _Voice:
    """One side's turns so far."""

    def __init__(self) -> None:
        self._turns = 0
        self._blocks = _Blocks()
        self._openings: Counter[str] = Counter()

    def add(self, text: str) -> None:
        found = words(text[:_READ])
        self._turns += 1
        self._blocks.add(found)
        self._openings[" ".join(found[:_OPENING])[:60]] += 1

    def found(self) -> Voice:
        common = self._openings.most_common(_SHOWN)
        shown = (Opening(words, rate(n, self._turns)) for words, n in common if words and n > 1)
        return Voice(self._blocks.found(), tuple(shown))


class _Spread:
    """The mean cosine of all pairs of vectors, from the sum of their directions alone."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._sum: Any = 0.0
        self._n = 0

    def add(self, text: str) -> None:
        vector = self._embed(text[:_READ].encode("utf-8", "replace").decode())  # lone surrogates
        length = math.sqrt(float(vector @ vector))
        if length:
            self._sum = self._sum + vector / length
            self._n += 1

    def found(self) -> float | None:
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
        """One more dialogue, under a key of its own; nothing after the first `SAMPLE`."""
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

    def found(self) -> Diversity:
        """What was counted."""
        alone = len(self._groups)
        return Diversity(
            dialogues=self._n,
            user=self._voices["user"].found(),
            agent=self._voices["assistant"].found(),
            threshold=self._threshold,
            repeats=rate(self._n - alone, self._n),
            clusters=dict(sorted(Counter(self._groups.values()).items())),
            spread=self._spread.found() if self._spread else None,
        )
