"""How far raters agree, and how sure a difference is: formulae without a run in them.

Where a figure is not defined (nobody to compare with, nothing that varies) it is None, never a
number that looks like one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from sdsd.hashing import hash64
from sdsd.reports.rates import Estimate, Rate, rate

H = TypeVar("H", bound=Hashable)

RESAMPLES = 2_000
"""Enough for the ends of a 95% interval to stand still to about a thirtieth of its width."""
_TAIL = 0.025


class Detection(Struct, frozen=True):
    """How well "yes" finds what is there. A rate of 0 of 0 is not defined."""

    precision: Rate
    """Of those called positive, the ones that are."""
    recall: Rate
    """Of those that are positive, the ones called so."""


# -- agreement -----------------------------------------------------------------------------


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance, over the units that both rated (Cohen 1960).

    1 is perfect, 0 what raters with these habits reach by chance. None if there is no unit, or if
    both gave the same single category throughout. Raises ValueError if the lengths differ.
    """
    return kappa_of(Counter(zip(a, b, strict=True)))


def kappa_of(table: Mapping[tuple[H, H], int]) -> float | None:
    """Cohen's kappa from how often each pair of ratings occurred."""
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


def krippendorff_alpha(ratings: Sequence[Sequence[Hashable | None]]) -> float | None:
    """Agreement of any number of raters beyond chance, nominal (Krippendorff 2011).

    `ratings` has the ratings of one unit after another; None is a missing one, and a unit with
    fewer than two ratings tells nothing. 1 is perfect, 0 is chance. None if no unit has two
    ratings, or if all ratings that can be compared are of one category.
    """
    return alpha_of(Counter(tuple(unit) for unit in ratings))


def alpha_of(units: Mapping[tuple[H | None, ...], int]) -> float | None:
    """Krippendorff's alpha from how often each row of ratings occurred."""
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


# -- against the truth ---------------------------------------------------------------------


def precision_recall(predicted: Sequence[bool], true: Sequence[bool]) -> Detection:
    """Precision and recall, each with its Wilson interval.

    Raises ValueError if the lengths differ.
    """
    return detection_of(Counter(zip(predicted, true, strict=True)))


def detection_of(table: Mapping[tuple[bool, bool], int]) -> Detection:
    """Precision and recall from how often each (predicted, true) occurred."""
    hits = table.get((True, True), 0)
    called = hits + table.get((True, False), 0)
    there = hits + table.get((False, True), 0)
    return Detection(rate(hits, called), rate(hits, there))


# -- the bootstrap -------------------------------------------------------------------------


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate | None:
    """Mean of b - a over pairs, with its 95% percentile interval (Efron and Tibshirani 1993).

    The pairs are what is resampled: what two values of a pair have in common cancels out. None if
    there are fewer than two pairs or all differ by the same: then resampling cannot show how sure
    the mean is. Raises ValueError if the lengths differ.
    """
    differences = [y - x for x, y in zip(a, b, strict=True)]
    n = len(differences)
    if n < 2 or min(differences) == max(differences):
        return None

    def mean(picked: Sequence[int]) -> float:
        return sum([differences[i] for i in picked]) / n

    low, high = _interval(mean, n, resamples, seed)
    return Estimate(math.fsum(differences) / n, low, high)


def ratio_bootstrap(
    above: Sequence[float], below: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate | None:
    """sum(above) / sum(below) over units, with its 95% percentile interval.

    For a cost per success: both sums vary with the units that happened to be drawn. Neither may
    be negative. A resample without any success has no cost that is high enough; where more than
    one in forty is such, the interval has no upper end. None if there are fewer than two units or
    no success. Raises ValueError if the lengths differ.
    """
    units = list(zip(above, below, strict=True))
    total = math.fsum(below)
    if len(units) < 2 or total == 0:
        return None

    def ratio(picked: Sequence[int]) -> float:
        successes = sum([below[i] for i in picked])
        return sum([above[i] for i in picked]) / successes if successes else math.inf

    low, high = _interval(ratio, len(units), resamples, seed)
    if not math.isfinite(low):
        return None
    return Estimate(math.fsum(above) / total, low, high if math.isfinite(high) else None)


def _interval(
    statistic: Callable[[Sequence[int]], float], n: int, resamples: int, seed: int
) -> tuple[float, float]:
    """The 95% percentile interval of a statistic of n units, given as their places."""
    # Only `random()` is promised to give the same numbers on every version of Python.
    uniform = random.Random(hash64("bootstrap", seed)).random  # noqa: S311
    found = sorted(statistic([int(uniform() * n) for _ in range(n)]) for _ in range(resamples))
    cut = int(_TAIL * resamples)
    return found[cut], found[-1 - cut]
