"""Fit a critic's calibration to its answers in an exam.

A logistic regression turns evidence into the probability of a violation (Platt 1999, with a ridge
penalty in place of his smoothed labels), and two thresholds on that probability follow from the
precision that is wanted. A precision that is stated must not be measured on the replies that the
thresholds were fitted to: `held_out` reads every reply by a calibration that was fitted without any
reply on the same principle.

The exam has as many violating replies as satisfying ones, so a probability is one for replies of
which about half violate their principle.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from sdsd.hashing import hash64
from sdsd.pipeline.calibration import (
    Reading,
    pair_probability,
    probability,
    reading,
    sigmoid,
)
from sdsd.reports.stats import Interval, percentiles
from sdsd.types import Calibration, StageUsage

NEVER = (2.0, -1.0)
"""Thresholds that no probability reaches: `violated_from`, `satisfied_to`."""
RIDGE = 0.1
"""Penalty on the slope in standard deviations of the evidence, half the square times this. It only
bounds the slope where items are separated perfectly: in simulated exams, a penalty of 1 understated
the precision of good judges."""
FOLDS = 5
DRAWS = 200
_STEPS = 50


class Answer(Struct, frozen=True):
    """What one judge found of one exam item."""

    item: str
    principle: str
    category: str
    subtle: str
    satisfies: float
    """Evidence for a violation (`sdsd.pipeline.calibration.evidence_of`), before any calibration,
    in the reply that satisfies the principle."""
    violates: float
    """The same for the reply that violates it. A judge that compares the two has half the
    difference in either, with opposite signs."""
    claims: tuple[bool, bool] = (True, True)
    """Whether the judge may claim a violation in them, in this order: one that was asked a question
    must have said so, with a quotation from the reply."""
    usage: StageUsage = StageUsage()

    @property
    def margin(self) -> float:
        """How much more evidence there is in the violating reply; above 0 is right."""
        return self.violates - self.satisfies


class Fit(Struct, frozen=True, array_like=True):
    """A logistic regression of "violates" on evidence."""

    slope: float
    intercept: float


class PairFit(Struct, frozen=True, array_like=True):
    """What the margins between the two replies of items have shown."""

    slope: float
    """Log-odds of the right order per unit of margin; 0 if margins tell nothing."""
    mean: float
    """The mean margin."""


class HeldOut(Struct, frozen=True):
    """How an item's two replies are read by a calibration that was fitted without its principle."""

    satisfies: Reading
    violates: Reading
    probabilities: tuple[float, float]
    """Of a violation, in the same order."""


def fit(answers: Sequence[Answer], weights: Sequence[float] | None = None) -> Fit:
    """Return the regression on both replies of every item; items count by their weights.

    Newton's method on the penalised likelihood, which is convex; the evidence is standardised, so
    its unit and offset do not matter. The slope is 0 if there is no spread in the evidence, or if
    satisfying replies have more of it: a judge that is worse than chance is not read backwards.
    """
    weights = [1.0] * len(answers) if weights is None else weights
    total = 2 * sum(weights)
    mean = sum(w * (a.satisfies + a.violates) for a, w in zip(answers, weights, strict=True))
    mean /= total or 1.0
    square = sum(
        w * ((a.satisfies - mean) ** 2 + (a.violates - mean) ** 2)
        for a, w in zip(answers, weights, strict=True)
    )
    spread = math.sqrt(square / (total or 1.0))
    if spread < 1e-9:
        return Fit(0.0, 0.0)
    points = [
        ((evidence - mean) / spread, label, w)
        for a, w in zip(answers, weights, strict=True)
        if w
        for evidence, label in ((a.satisfies, 0.0), (a.violates, 1.0))
    ]
    slope, intercept = _newton(points)
    if slope <= 0:
        return Fit(0.0, 0.0)
    return Fit(slope / spread, intercept - slope * mean / spread)


def _newton(points: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return slope and intercept that minimise the penalised loss of (x, label, weight)."""
    slope = intercept = 0.0
    loss = _loss(points, slope, intercept)
    for _ in range(_STEPS):
        ga, gb, h11, h12, h22 = RIDGE * slope, 0.0, RIDGE, 0.0, 1e-12
        for x, label, w in points:
            p = sigmoid(slope * x + intercept)
            error, curve = w * (p - label), w * p * (1 - p)
            ga, gb = ga + error * x, gb + error
            h11, h12, h22 = h11 + curve * x * x, h12 + curve * x, h22 + curve
        det = h11 * h22 - h12 * h12
        da, db = (h22 * ga - h12 * gb) / det, (h11 * gb - h12 * ga) / det
        step = 1.0
        while step > 1e-6:
            new = _loss(points, slope - step * da, intercept - step * db)
            if new <= loss:
                break
            step /= 2
        else:
            break
        slope, intercept = slope - step * da, intercept - step * db
        if loss - new < 1e-12 * (1 + loss):
            break
        loss = new
    return slope, intercept


def _loss(points: Sequence[tuple[float, float, float]], slope: float, intercept: float) -> float:
    total = RIDGE * slope * slope / 2
    for x, label, w in points:
        z = slope * x + intercept
        total += w * (max(z, 0.0) + math.log1p(math.exp(-abs(z))) - label * z)
    return total


def thresholds(probabilities: Sequence[float], precision: float) -> tuple[float, float]:
    """Return the probability from which a violation is claimed, and that up to which none is seen.

    From `violated_from` on, the mean probability of the exam's replies is at least `precision`;
    it is the lowest probability of which that is true, and at least one half, so that no reply is
    claimed against the odds because others are certain. If there is none, the threshold is out of
    reach. `satisfied_to` is the same for the probability of the opposite.
    """
    from_, to = NEVER
    if (least := _lowest(probabilities, precision)) is not None:
        from_ = max(least, 0.5)
    if (least := _lowest([1 - p for p in probabilities], precision)) is not None:
        to = min(1 - least, 0.5)
    return from_, to


def _lowest(probabilities: Sequence[float], precision: float) -> float | None:
    """Return the lowest of them from which their mean is at least `precision`; None if none is."""
    ranked, found, total = sorted(probabilities, reverse=True), None, 0.0
    for k, p in enumerate(ranked, 1):
        total += p
        if k < len(ranked) and ranked[k] == p:
            continue  # equal ones are claimed together
        if total < precision * k * (1 - 1e-12):
            break  # the mean only falls from here on
        found = p
    return found


def calibrate(
    answers: Sequence[Answer], precision: float, noise: float = 0.0, trusted: bool = True
) -> Calibration:
    """Return how to read the judge's answers; see `sdsd.types.Calibration`."""
    line = fit(answers)
    evidence = [e for answer in answers for e in (answer.satisfies, answer.violates)]
    seen = min(evidence), max(evidence)
    found = Calibration(line.slope, line.intercept, *NEVER, trusted, noise, seen)
    from_, to = thresholds([probability(found, e) for e in evidence], precision)
    return replace(found, violated_from=from_, satisfied_to=to)


def calibrate_pairs(
    answers: Sequence[Answer], found: Calibration, precision: float, trusted: bool
) -> Calibration:
    """Return a calibration that can settle pairs by the margin between their replies, too.

    Every pair must reach the wanted precision by itself: a mean over the exam's margins would not
    be the mean over a run's, which has pairs of two replies that are alike. If no margin in the
    exam reaches it, none settles a pair.
    """
    margins, most = fit_margins(answers), max(answer.margin for answer in answers)
    found = replace(found, pair_slope=margins.slope, pair_mean=margins.mean, pair_most=most)
    if trusted and pair_probability(found, most) >= precision:
        return replace(found, pair_from=precision)
    return found


def fit_margins(answers: Sequence[Answer], weights: Sequence[float] | None = None) -> PairFit:
    """Return what the margins show; items count by their weights.

    A margin either way round is equally likely before it is seen, so the regression has no
    intercept: each item counts as its margin labelled 1, and as the opposite labelled 0.
    """
    weights = [1.0] * len(answers) if weights is None else weights
    margins = [answer.margin for answer in answers]
    total = sum(weights) or 1.0
    mean = sum(w * m for m, w in zip(margins, weights, strict=True)) / total
    spread = math.sqrt(sum(w * m * m for m, w in zip(margins, weights, strict=True)) / total)
    if spread < 1e-9:
        return PairFit(0.0, mean)
    points = [
        (sign * m / spread, float(sign > 0), w / 2)
        for m, w in zip(margins, weights, strict=True)
        if w
        for sign in (1, -1)
    ]
    slope, _ = _newton(points)
    return PairFit(max(slope, 0.0) / spread, mean)


def pair_fits(answers: Sequence[Answer]) -> tuple[PairFit, ...]:
    """Return `fit_margins` on resamples of the items."""
    return tuple(fit_margins(answers, weights) for weights in resamples(len(answers), DRAWS))


def held_out(
    answers: Sequence[Answer], precision: float, noise: float = 0.0
) -> list[HeldOut] | None:
    """Read every item by a calibration of the other principles' items.

    Principles are divided into `FOLDS` groups, each of which is left out in turn, so what is
    learned about one item cannot come from another on the same principle. None if all items are on
    one principle.
    """
    folds = _folds({answer.principle for answer in answers})
    if max(folds.values(), default=0) == 0:
        return None
    made: dict[int, Calibration] = {}
    for fold in set(folds.values()):
        others = [answer for answer in answers if folds[answer.principle] != fold]
        made[fold] = calibrate(others, precision, noise)
    return [_read(answer, made[folds[answer.principle]]) for answer in answers]


def _folds(principles: set[str]) -> dict[str, int]:
    ranked = sorted(principles, key=lambda name: hash64("fold", name))
    return {name: k % FOLDS for k, name in enumerate(ranked)}


def _read(answer: Answer, calibration: Calibration) -> HeldOut:
    satisfies, violates = (
        reading(evidence, claims, calibration)
        for evidence, claims in zip((answer.satisfies, answer.violates), answer.claims, strict=True)
    )
    p, q = (probability(calibration, e) for e in (answer.satisfies, answer.violates))
    return HeldOut(satisfies, violates, (p, q))


def draws(answers: Sequence[Answer]) -> tuple[Fit, ...]:
    """Return regressions on resamples of the items: how sure the calibration itself is."""
    return tuple(fit(answers, weights) for weights in resamples(len(answers), DRAWS))


def resamples(n: int, times: int, seed: int = 0) -> Iterator[list[float]]:
    """Yield how often each of `n` items is drawn, in `times` resamples with replacement."""
    # Only `random()` is guaranteed to give the same numbers in every version of Python.
    uniform = random.Random(hash64("resample", seed)).random  # noqa: S311
    for _ in range(times):
        weights = [0.0] * n
        for _ in range(n):
            weights[int(uniform() * n)] += 1.0
        yield weights


class Evidence(Struct, frozen=True):
    """What a critic found in a pair."""

    rejected: float
    chosen: float
    by_margin: bool = False
    """Whether the margin between the two has settled their labels."""


def expected_precision(
    pairs: Sequence[Evidence],
    calibration: Calibration,
    drawn: Sequence[Fit],
    drawn_pairs: Sequence[PairFit] = (),
) -> Interval | None:
    """Return the share of pairs that are expected to be true, with its 95% interval.

    pairs        a critic's raw evidence in the replies of each pair
    drawn        `draws`: the interval is that of the calibration; the share of true pairs among a
                 few varies more, by about sqrt(p (1 - p) / pairs)
    drawn_pairs  `pair_fits`, for pairs that were settled by their margin

    A pair is true if the rejected reply violates the principle and the chosen one does not. If its
    replies were judged apart, its probability is the product; if its margin has settled it, that is
    `pair_probability`. None without pairs.
    """
    if not pairs:
        return None

    def mean(line: Calibration) -> float:
        return sum(_true(pair, line) for pair in pairs) / len(pairs)

    value = mean(calibration)
    known = PairFit(calibration.pair_slope, calibration.pair_mean)
    others = (
        replace(
            calibration,
            slope=line.slope,
            intercept=line.intercept,
            pair_slope=margins.slope,
            pair_mean=margins.mean,
        )
        for line, margins in zip(drawn, drawn_pairs or [known] * len(drawn), strict=True)
    )
    ends = percentiles([value, *map(mean, others)]) or (value, value)
    return Interval(value, min(ends[0], value), max(ends[1], value))


def _true(pair: Evidence, line: Calibration) -> float:
    if pair.by_margin:
        return pair_probability(line, pair.rejected - pair.chosen)
    return probability(line, pair.rejected) * (1 - probability(line, pair.chosen))
