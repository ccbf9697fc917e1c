"""What a trainer could learn from pairs instead of their content: length and position."""

from __future__ import annotations

import math
from collections import Counter

from msgspec import Struct
from rapidfuzz.distance import Prefix

from sdsd.reports.stats import Proportion, proportion
from sdsd.text import normalize, parsing
from sdsd.types import Critique, Pair, Record

STEP = 25
"""Width of a class of `PairLengths.deltas`, in characters."""
_STEPS = 100
"""Classes on either side of zero; the outermost ones collect everything beyond them."""
_READ = 20_000
"""Characters of a turn that are searched, from its beginning."""

Thirds = tuple[int, int, int]
"""How many positions lie in the first, middle and last third of a turn."""


class PairLengths(Struct, frozen=True):
    """Lengths of chosen and rejected turns, in characters."""

    longer: Proportion
    """Pairs whose chosen turn is longer, of those whose lengths differ: the accuracy of a judge
    that always prefers the longer turn."""
    equal: int
    delta: float
    """Mean of chosen minus rejected."""
    ratio: float
    """Geometric mean of chosen over rejected."""
    deltas: dict[int, int]
    """Pairs by chosen minus rejected, in classes of `STEP`; the key is the lower end."""


class Biases(Struct, frozen=True):
    """What distinguishes chosen from rejected turns, and where violations are."""

    lengths: dict[str, PairLengths]
    """By kind of pair, and for `all`."""
    quotes: Thirds
    """Position in the turn of the middle of each confirmed quotation."""
    quoted: float | None
    """Mean share of the turn that a quotation covers, by characters; None without one. A quotation
    of most of the turn is weak evidence."""
    changes: Thirds
    """Position in the rejected turn of the first word that the verified revision changes."""
    exchanges: dict[int, Proportion]
    """Agent turns with a confirmed violation, of those judged, by number of the exchange."""


class _Lengths:
    def __init__(self) -> None:
        self._n = self._longer = self._equal = self._delta = 0
        self._logs = 0.0
        self._deltas: Counter[int] = Counter()

    def add(self, rejected: int, chosen: int) -> None:
        delta = chosen - rejected
        self._n += 1
        self._longer += delta > 0
        self._equal += delta == 0
        self._delta += delta
        self._logs += math.log(max(chosen, 1) / max(rejected, 1))
        self._deltas[STEP * min(max(delta // STEP, -_STEPS), _STEPS - 1)] += 1

    def result(self) -> PairLengths:
        n = max(self._n, 1)
        longer = proportion(self._longer, self._n - self._equal)
        ratio = math.exp(self._logs / n)
        deltas = dict(sorted(self._deltas.items()))
        return PairLengths(longer, self._equal, self._delta / n, ratio, deltas)


class BiasTally:
    """Counts lengths and positions."""

    def __init__(self) -> None:
        self._lengths = {"all": _Lengths()}
        self._quotes: Counter[int] = Counter()
        self._quoted = 0.0
        self._changes: Counter[int] = Counter()
        self._judged: Counter[int] = Counter()
        self._violated: Counter[int] = Counter()

    def add(self, record: Record) -> None:
        if record.dialogue is None:
            return
        for number, critique in enumerate(record.earlier_critiques, 1):
            self._add_exchange(number, critique)
        if record.critique:
            self._add_exchange(record.dialogue.exchanges, record.critique)
            self._add_quotes(record.critique, record.dialogue.last_reply)
        for pair in record.pairs:
            self._add_pair(pair, record.dialogue.last_reply)

    def result(self) -> Biases:
        return Biases(
            lengths={kind: lengths.result() for kind, lengths in self._lengths.items()},
            quotes=_thirds(self._quotes),
            quoted=self._quoted / self._quotes.total() if self._quotes else None,
            changes=_thirds(self._changes),
            exchanges={
                k: proportion(self._violated[k], n) for k, n in sorted(self._judged.items())
            },
        )

    def _add_exchange(self, number: int, critique: Critique) -> None:
        self._judged[number] += 1
        self._violated[number] += bool(critique.violations)

    def _add_quotes(self, critique: Critique, last_reply: str) -> None:
        quotes = [verdict.quote for verdict in critique.verdicts if verdict.confirmed]
        text = normalize.normal(last_reply[:_READ]) if quotes else ""
        for quote in quotes:
            third = third_of_quote(quote, text)
            if third is not None:
                self._quotes[third] += 1
                self._quoted += min(len(normalize.normal(quote[:_READ])) / max(len(text), 1), 1.0)

    def _add_pair(self, pair: Pair, rejected: str) -> None:
        for kind in ("all", pair.kind):
            self._lengths.setdefault(kind, _Lengths()).add(len(rejected), len(pair.chosen))
        if pair.kind == "revision":
            self._changes[third_of_change(rejected, pair.chosen)] += 1


def third_of_quote(quote: str, text: str) -> int | None:
    """Return the third (0, 1, 2) of `text`, as `normalize.normal` gives it, that holds a quotation.

    If a quotation has gaps, its longest piece decides. None if it is not in the text.
    """
    pieces = map(normalize.normal, parsing.ELLIPSIS.split(quote[:_READ]))
    piece = max((piece.strip(" .,;:!?\"'") for piece in pieces), key=len)
    at = text.find(piece) if piece else -1
    return _third(at + len(piece) / 2, len(text)) if at >= 0 else None


def third_of_change(old: str, new: str) -> int:
    """Return the third (0, 1, 2) of `old` in which `new` first differs from it."""
    before, after = normalize.normal(old[:_READ]), normalize.normal(new[:_READ])
    return _third(Prefix.similarity(before, after), len(before))


def _third(at: float, length: int) -> int:
    return min(int(3 * at / max(length, 1)), 2)


def _thirds(counts: Counter[int]) -> Thirds:
    return counts[0], counts[1], counts[2]
