"""Proportions, agreement and intervals: the statistics behind every figure.

All intervals are 95% intervals. A statistic that is undefined (nothing was observed, nothing
varies) is None, never a number that could be mistaken for a result.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from sdsd.hashing import hash64

H = TypeVar("H", bound=Hashable)

Z = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""
FEW = 10
"""With fewer observations than this an interval is too wide to be worth showing."""
_RESAMPLES = 2_000
_TAIL = 0.025


class Proportion(Struct, frozen=True):
    """k of n, with the Wilson interval of the share."""

    k: int
    n: int
    share: float
    low: float
    high: float


class Interval(Struct, frozen=True):
    """An estimate with the ends of its 95% interval."""

    value: float
    low: float
    high: float


class Detection(Struct, frozen=True):
    """How well claims match the truth. A proportion of 0 of 0 is undefined."""

    precision: Proportion
    """Share of the cases called positive that are positive."""
    recall: Proportion
    """Share of the positive cases that are called positive."""


# -- proportions -----------------------------------------------------------------------------


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return the score interval of the share k of n (Wilson 1927); (0, 1) if n is 0.

    Unlike p ± 1.96 s it stays inside [0, 1] and holds for small n and for k near 0 or n.
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = k / n, Z * Z
    centre = p + z2 / (2 * n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    low = (centre - half) / scale if k else 0.0
    high = (centre + half) / scale if k < n else 1.0
    return low, high


def proportion(k: int, n: int) -> Proportion:
    """Return k of n with its interval."""
    return Proportion(k, n, k / n if n else 0.0, *wilson(k, n))


def difference(a: Proportion, b: Proportion) -> Interval | None:
    """Return b's share minus a's for two independent samples; None if either is empty.

    The interval combines both score intervals (Newcombe 1998, method 10), so it stays inside
    [-1, 1] and holds for few observations.
    """
    if not (a.n and b.n):
        return None
    d = b.share - a.share
    low = d - math.hypot(b.share - b.low, a.high - a.share)
    high = d + math.hypot(b.high - b.share, a.share - a.low)
    return Interval(d, low, high)


# -- costs -----------------------------------------------------------------------------------


class Ratio:
    """The total of one quantity over the total of another, accumulated unit by unit.

    For a cost per success: `add(cost, successes)` for every unit, including those without success.
    """

    def __init__(self) -> None:
        self._n = 0
        self._above = self._below = 0.0
        self._squares = [0.0, 0.0, 0.0]

    def add(self, above: float, below: float) -> None:
        self._n += 1
        self._above += above
        self._below += below
        for k, product in enumerate((above * above, above * below, below * below)):
            self._squares[k] += product

    def estimate(self) -> Interval | None:
        """Return the ratio with its interval; None with fewer than two units or no success.

        The interval is that of the ratio's logarithm by linearisation (Cochran 1977, chapter 6), so
        it never goes below zero. It is reliable from about a dozen successes.
        """
        n = self._n
        if n < 2 or not (self._above and self._below):
            return None
        value = self._above / self._below
        aa, ab, bb = self._squares
        residual = max(aa - 2 * value * ab + value * value * bb, 0.0)
        error = math.sqrt(residual * n / (n - 1)) / self._above
        spread = math.exp(min(Z * error, 700.0))
        return Interval(value, value / spread, value * spread)


def quotient(a: Interval | None, b: Interval | None) -> Interval | None:
    """Return b over a for two independent estimates whose intervals are symmetric in the log."""
    if a is None or b is None or a.low <= 0 or b.low <= 0:
        return None
    spread = math.exp(math.hypot(math.log(b.value / b.low), math.log(a.value / a.low)))
    return Interval(b.value / a.value, b.value / a.value / spread, b.value / a.value * spread)


# -- agreement -------------------------------------------------------------------------------


def kappa(table: Mapping[tuple[H, H], int]) -> float | None:
    """Return Cohen's kappa (1960) of two raters from the counts of each pair of ratings.

    1 is perfect agreement, 0 what the raters' habits alone would give. None if nothing was rated,
    or if both raters gave one and the same category throughout.
    """
    n = sum(table.values())
    ours: Counter[H] = Counter()
    theirs: Counter[H] = Counter()
    for (x, y), times in table.items():
        ours[x] += times
        theirs[y] += times
    by_chance = sum(times * theirs[x] for x, times in ours.items())
    if by_chance == n * n:
        return None
    same = sum(times for (x, y), times in table.items() if x == y)
    return (n * same - by_chance) / (n * n - by_chance)


def alpha(units: Mapping[tuple[H | None, ...], int]) -> float | None:
    """Return Krippendorff's nominal alpha (2011) of any number of raters.

    A key of `units` holds the ratings of one unit, with None for a missing one; a value is how
    often that combination occurred. Units with fewer than two ratings are ignored. None if no unit
    is left, or if all ratings left are of one category.
    """
    totals: Counter[H] = Counter()
    different = 0.0
    for unit, times in units.items():
        given = Counter(rating for rating in unit if rating is not None)
        m = given.total()
        if m < 2:
            continue
        for rating, k in given.items():
            totals[rating] += times * k
        different += times * (m * m - sum(k * k for k in given.values())) / (m - 1)
    n = totals.total()
    expected = n * n - sum(k * k for k in totals.values())
    return 1 - (n - 1) * different / expected if expected else None


def detection(table: Mapping[tuple[bool, bool], int]) -> Detection:
    """Return precision and recall from the counts of each (claimed, true)."""
    hits = table.get((True, True), 0)
    claimed = hits + table.get((True, False), 0)
    true = hits + table.get((False, True), 0)
    return Detection(proportion(hits, claimed), proportion(hits, true))


# -- the bootstrap ---------------------------------------------------------------------------


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], *, resamples: int = _RESAMPLES, seed: int = 0
) -> Interval | None:
    """Return the mean of b - a over pairs, with its percentile interval (Efron, Tibshirani 1993).

    Whole pairs are resampled, so what the two values of a pair share cancels out. None with fewer
    than two pairs, or if all differ by the same amount: resampling then says nothing about
    uncertainty. The default of 2,000 resamples fixes the ends to about a thirtieth of the width.
    Raises ValueError if the lengths differ.
    """
    differences = [y - x for x, y in zip(a, b, strict=True)]
    n = len(differences)
    if n < 2 or min(differences) == max(differences):
        return None
    # Only `random()` is guaranteed to give the same numbers in every version of Python.
    uniform = random.Random(hash64("bootstrap", seed)).random  # noqa: S311
    means = sorted(
        sum([differences[int(uniform() * n)] for _ in range(n)]) / n for _ in range(resamples)
    )
    cut = int(_TAIL * resamples)
    return Interval(math.fsum(differences) / n, means[cut], means[-1 - cut])


def percentiles(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the middle 95% of resampled statistics; None without any."""
    if not values:
        return None
    ranked = sorted(values)
    cut = int(_TAIL * len(ranked))
    return ranked[cut], ranked[-1 - cut]
