"""Several critics on the same turns: how far they say the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from msgspec import Struct

from sdsd.reports.agreement import alpha_of, kappa_of
from sdsd.reports.rates import Rate, rate
from sdsd.types import Verdict

Table = Counter[tuple[bool, bool]]
"""How often two raters gave each pair of claims."""


def agreement(table: Table) -> tuple[Rate, float | None]:
    """How often two raters say the same, and Cohen's kappa."""
    return rate(table[True, True] + table[False, False], table.total()), kappa_of(table)


class CriticPair(Struct, frozen=True):
    """Two critics' claims on the same turns and principles."""

    first: str
    second: str
    same: Rate
    kappa: float | None
    """Cohen's; None where all their claims are of one kind."""


class Critics(Struct, frozen=True):
    """Several critics of one run, on the turns as they were first written."""

    claims: dict[str, Rate]
    """By critic, the violations claimed of all that was judged."""
    pairs: tuple[CriticPair, ...]
    judged: int
    """Turns and principles."""
    alpha: float | None
    """Krippendorff's, of all critics' claims; None where all are of one kind."""


class Votes:
    """Counts of who claimed what together, over any number of turns."""

    def __init__(self) -> None:
        self._critics: dict[str, int] = {}
        self._rows: Counter[tuple[bool | None, ...]] = Counter()

    def add(self, votes: Sequence[Verdict]) -> None:
        """The votes on one turn: one row of claims for each principle, a place for each critic."""
        cases: defaultdict[str, dict[int, bool]] = defaultdict(dict)
        for vote in votes:
            place = self._critics.setdefault(vote.critic, len(self._critics))
            cases[vote.principle][place] = vote.violated
        for case in cases.values():
            self._rows[tuple(case.get(k) for k in range(max(case) + 1))] += 1

    @property
    def critics(self) -> tuple[str, ...]:
        """Their names, in the order in which they came."""
        return tuple(self._critics)

    @property
    def judged(self) -> int:
        """Turns and principles that any of them judged."""
        return self._rows.total()

    @property
    def alpha(self) -> float | None:
        """Krippendorff's, of all critics' claims."""
        return alpha_of(self._rows)

    def tables(self) -> list[tuple[str, str, Table]]:
        """Of each two critics, over what both judged."""
        found = []
        for (a, i), (b, j) in combinations(self._critics.items(), 2):
            table: Table = Counter()
            for row, times in self._rows.items():
                if max(i, j) < len(row):
                    x, y = row[i], row[j]
                    if x is not None and y is not None:
                        table[x, y] += times
            found.append((a, b, table))
        return found

    def found(self) -> Critics | None:
        """All of it; None if there are not several critics."""
        if len(self._critics) < 2:
            return None
        pairs = tuple(CriticPair(a, b, *agreement(table)) for a, b, table in self.tables())
        claims = {critic: self._claims(k) for critic, k in self._critics.items()}
        return Critics(claims, pairs, self.judged, self.alpha)

    def _claims(self, k: int) -> Rate:
        given = [(row[k], n) for row, n in self._rows.items() if k < len(row)]
        claimed = sum(n for vote, n in given if vote)
        return rate(claimed, sum(n for vote, n in given if vote is not None))
