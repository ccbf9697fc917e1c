"""What a trainer may learn from pairs instead of what they are about: length and place."""

from __future__ import annotations

import math
import re
from collections import Counter

from msgspec import Struct
from rapidfuzz.distance import Prefix

from sdsd.reports.rates import Rate, rate
from sdsd.text import normalize
from sdsd.types import Critique, Pair, Record

STEP = 25
"""Characters of one class of `PairLengths.deltas`."""
_STEPS = 100
"""Classes to either side of zero; what lies further out is counted in the last one."""
_READ = 20_000
"""Characters of a turn, from its beginning, in which places are looked for."""

Thirds = tuple[int, int, int]
"""How many lie in the first, the middle and the last third of a turn."""


class PairLengths(Struct, frozen=True):
    """How much longer the chosen turns are than the rejected ones, in characters."""

    longer: Rate
    """Pairs whose chosen turn is the longer one, of those that differ in length: how often the
    rule "longer is better" would be right."""
    equal: int
    delta: float
    """Chosen less rejected, in the mean."""
    ratio: float
    """Chosen over rejected, the geometric mean."""
    deltas: dict[int, int]
    """Pairs by chosen less rejected, in steps of `STEP`: the key is the lower end."""


class Biases(Struct, frozen=True):
    """What sets chosen turns apart from rejected ones, and where violations stand."""

    lengths: dict[str, PairLengths]
    """Of the pairs of each kind, and of `all`."""
    quotes: Thirds
    """Where in the turn the middle of the critic's quotation is, of confirmed violations."""
    quoted: float | None
    """How much of the turn a quotation that is there is, in the mean, by characters: evidence that
    is most of a turn proves little. None without one."""
    changes: Thirds
    """Where in the rejected turn the first change of its revision is, of verified revisions."""
    exchanges: dict[int, Rate]
    """Turns with a confirmed violation, of those judged, by the number of their exchange."""


class _Lengths:
    """Sums over the pairs of one kind."""

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

    def found(self) -> PairLengths:
        n = max(self._n, 1)
        longer = rate(self._longer, self._n - self._equal)
        ratio = math.exp(self._logs / n)
        deltas = dict(sorted(self._deltas.items()))
        return PairLengths(longer, self._equal, self._delta / n, ratio, deltas)


class BiasTally:
    """Counters over records."""

    def __init__(self) -> None:
        self._lengths = {"all": _Lengths()}
        self._quotes: Counter[int] = Counter()
        self._quoted = 0.0
        self._changes: Counter[int] = Counter()
        self._judged: Counter[int] = Counter()
        self._broken: Counter[int] = Counter()

    def add(self, record: Record) -> None:
        """One more record."""
        if record.dialogue is None:
            return
        for number, critique in enumerate(record.earlier_critiques, 1):
            self._add_exchange(number, critique)
        if record.critique:
            self._add_exchange(record.dialogue.exchanges, record.critique)
            self._add_quotes(record.critique, record.dialogue.utterance)
        for pair in record.pairs:
            self._add_pair(pair, record.dialogue.utterance)

    def found(self) -> Biases:
        """What was counted."""
        return Biases(
            lengths={kind: lengths.found() for kind, lengths in self._lengths.items()},
            quotes=_thirds(self._quotes),
            quoted=self._quoted / self._quotes.total() if self._quotes else None,
            changes=_thirds(self._changes),
            exchanges={k: rate(self._broken[k], n) for k, n in sorted(self._judged.items())},
        )

    def _add_exchange(self, number: int, critique: Critique) -> None:
        self._judged[number] += 1
        self._broken[number] += bool(critique.violations)

    def _add_quotes(self, critique: Critique, utterance: str) -> None:
        quotes = [verdict.quote for verdict in critique.verdicts if verdict.confirmed]
        text = normalize.normal(utterance[:_READ]) if quotes else ""
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


_GAP = re.compile(r"\.{3,}|…|\[\.+\]")


def third_of_quote(quote: str, text: str) -> int | None:
    """The third (0, 1, 2) of a text, as `parse.normal` gives it, in which a quotation stands.

    Of a quotation with gaps its longest piece counts. None if it is not found letter for letter.
    """
    pieces = (normalize.normal(piece).strip(" .,;:!?\"'") for piece in _GAP.split(quote[:_READ]))
    piece = max(pieces, key=len)
    at = text.find(piece) if piece else -1
    return _third(at + len(piece) / 2, len(text)) if at >= 0 else None


def third_of_change(old: str, new: str) -> int:
    """The third (0, 1, 2) of `old` in which `new` begins to differ from it."""
    before, after = normalize.normal(old[:_READ]), normalize.normal(new[:_READ])
    return _third(Prefix.similarity(before, after), len(before))


def _third(at: float, length: int) -> int:
    return min(int(3 * at / max(length, 1)), 2)


def _thirds(counts: Counter[int]) -> Thirds:
    return counts[0], counts[1], counts[2]
