"""How well raters agree: several critics of one run, or the critics of two runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from msgspec import Struct

from sdsd.reports.stats import Proportion, alpha, kappa, proportion
from sdsd.types import Verdict

Table = Counter[tuple[bool, bool]]
"""How often two raters gave each pair of claims ("violated" or not)."""


class Agreement(Struct, frozen=True):
    """Two raters on the same replies and principles."""

    first: str
    second: str
    same: Proportion
    kappa: float | None
    """Cohen's kappa; None where it is undefined."""


def agreement(first: str, second: str, table: Table) -> Agreement:
    """Return how often two raters agree, and Cohen's kappa."""
    same = proportion(table[True, True] + table[False, False], table.total())
    return Agreement(first, second, same, kappa(table))


class Critics(Struct, frozen=True):
    """Several critics of one run, on replies as they were first written."""

    claims: dict[str, Proportion]
    """Violations claimed, of all judgements, by critic."""
    pairs: tuple[Agreement, ...]
    judged: int
    """Judgements: a judgement is one principle on one reply."""
    alpha: float | None
    """Krippendorff's alpha of all claims; None where it is undefined."""


class Votes:
    """Counts which critics made which claims together."""

    def __init__(self) -> None:
        self._claims: dict[str, Counter[bool]] = {}
        self._judged: Counter[tuple[tuple[str, bool], ...]] = Counter()

    def add(self, votes: Sequence[Verdict]) -> None:
        """Count the votes on one reply."""
        cases: dict[str, dict[str, bool]] = {}
        for vote in votes:
            self._claims.setdefault(vote.critic, Counter())[vote.violated] += 1
            cases.setdefault(vote.principle, {})[vote.critic] = vote.violated
        self._judged.update(tuple(case.items()) for case in cases.values())

    def result(self) -> Critics | None:
        """Return all of it; None with fewer than two critics."""
        if len(self._claims) < 2:
            return None
        units: Counter[tuple[bool | None, ...]] = Counter()
        for case, times in self._judged.items():
            units[tuple(claim for _, claim in case)] += times
        claims = {critic: proportion(n[True], n.total()) for critic, n in self._claims.items()}
        pairs = tuple(self._pair(a, b) for a, b in combinations(claims, 2))
        return Critics(claims, pairs, self._judged.total(), alpha(units))

    def _pair(self, a: str, b: str) -> Agreement:
        table: Table = Counter()
        for case, times in self._judged.items():
            claims = dict(case)
            if a in claims and b in claims:
                table[claims[a], claims[b]] += times
        return agreement(a, b, table)
