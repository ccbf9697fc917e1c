"""Shares and how sure they are: the formulae that every report is made of."""

from __future__ import annotations

import math

from msgspec import Struct

Z = 1.959963984540054
"""The normal distribution's 97.5% quantile."""


class Rate(Struct, frozen=True):
    """k of n, with the 95% interval of the share (Wilson 1927)."""

    k: int
    n: int
    share: float
    low: float
    high: float


class Estimate(Struct, frozen=True):
    """A figure with the ends of its 95% interval."""

    value: float
    low: float
    high: float | None
    """None where the interval has no upper end."""


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a share, k of n (Wilson 1927). (0, 1) if n is 0.

    Unlike p +- 1.96 s it never leaves [0, 1] and holds for small n and for k near 0 or n.
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


def rate(k: int, n: int) -> Rate:
    """k of n with its interval."""
    return Rate(k, n, k / n if n else 0.0, *wilson(k, n))


def difference(a: Rate, b: Rate) -> Estimate | None:
    """The share of b less that of a, with its 95% interval; None where either is of nothing.

    The two are taken as independent. The interval is the hybrid of both shares' score intervals
    (Newcombe 1998, method 10): like them it stays inside [-1, 1] and holds for few observations.
    """
    if not (a.n and b.n):
        return None
    d = b.share - a.share
    low = d - math.hypot(b.share - b.low, a.high - a.share)
    high = d + math.hypot(b.high - b.share, a.share - a.low)
    return Estimate(d, low, high)


class Ratio:
    """The sum of one thing over the sum of another, from units that come one by one.

    For a cost per success: `add(cost, successes)` for every unit, those without success included.
    """

    def __init__(self) -> None:
        self._n = 0
        self._above = self._below = 0.0
        self._squares = [0.0, 0.0, 0.0]

    def add(self, above: float, below: float) -> None:
        """One more unit."""
        self._n += 1
        self._above += above
        self._below += below
        for k, product in enumerate((above * above, above * below, below * below)):
            self._squares[k] += product

    def estimate(self) -> Estimate | None:
        """The ratio with its 95% interval; None if there are fewer than two units or no success.

        The interval is that of the ratio's logarithm by linearisation (Cochran 1977, chapter 6), so
        it never goes below zero. It is honest where there are a dozen successes or more.
        """
        n = self._n
        if n < 2 or not (self._above and self._below):
            return None
        value = self._above / self._below
        aa, ab, bb = self._squares
        residual = max(aa - 2 * value * ab + value * value * bb, 0.0)
        error = math.sqrt(residual * n / (n - 1)) / self._above
        spread = math.exp(min(Z * error, 700.0))
        return Estimate(value, value / spread, value * spread)


def kappa(both: int, first: int, second: int, neither: int) -> float | None:
    """Cohen's kappa of two yes/no raters, from the four cells of their table."""
    n = both + first + second + neither
    if n == 0:
        return None
    yes = (both + first) * (both + second)
    no = (neither + second) * (neither + first)
    chance = (yes + no) / (n * n)
    return None if chance == 1 else ((both + neither) / n - chance) / (1 - chance)
