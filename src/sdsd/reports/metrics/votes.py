"""How well raters agree: several critics of one run, or the critics of two runs."""

from __future__ import annotations

from collections import Counter, defaultdict
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
        self._critics: dict[str, int] = {}
        self._rows: Counter[tuple[bool | None, ...]] = Counter()

    def add(self, votes: Sequence[Verdict]) -> None:
        """Count the votes on one reply, given as a row per principle and a column per critic."""
        cases: defaultdict[str, dict[int, bool]] = defaultdict(dict)
        for vote in votes:
            column = self._critics.setdefault(vote.critic, len(self._critics))
            cases[vote.principle][column] = vote.violated
        for case in cases.values():
            self._rows[tuple(case.get(k) for k in range(max(case) + 1))] += 1

    def result(self) -> Critics | None:
        """Return the agreement; None with fewer than two critics."""
        if len(self._critics) < 2:
            return None
        claims = {critic: self._claims(k) for critic, k in self._critics.items()}
        return Critics(claims, tuple(self._pairs()), self._rows.total(), alpha(self._rows))

    def _pairs(self) -> list[Agreement]:
        found = []
        for (a, i), (b, j) in combinations(self._critics.items(), 2):
            table: Table = Counter()
            for row, times in self._rows.items():
                if max(i, j) < len(row):
                    x, y = row[i], row[j]
                    if x is not None and y is not None:
                        table[x, y] += times
            found.append(agreement(a, b, table))
        return found

    def _claims(self, k: int) -> Proportion:
        given = [(row[k], n) for row, n in self._rows.items() if k < len(row)]
        claimed = sum(n for vote, n in given if vote)
        return proportion(claimed, sum(n for vote, n in given if vote is not None))
