"""What an exam says of its judges: how well they tell violations, at what cost, and how sure it is.

All figures are functions of the judges' answers, which the result keeps: `exam.json` can be read
again under another wanted precision, without asking anything.

Intervals resample items, with both their replies: the unit that another exam would draw again.
They say how the figures would vary with other items on such principles, not with other principles:
items on the same principle are alike. A percentile interval has no width where no item differs, so
with few items a perfect score looks surer than it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd.config import CriticConfig
from sdsd.pipeline.calibration import evidence_of
from sdsd.reports.metrics import calibration_fit
from sdsd.reports.metrics.calibration_fit import (
    Answer,
    Evidence,
    Fit,
    HeldOut,
    PairFit,
    held_out,
    resamples,
)
from sdsd.reports.metrics.costs import total
from sdsd.reports.stats import FEW, Interval, percentiles
from sdsd.types import Calibration, Critique, Record, StageUsage, Verdict

FORMAT = 1
RESAMPLES = 1_000
BINS = 10
"""Most groups of a reliability diagram."""
_STEP = 0.02
"""Distance of the thresholds at which precision and recall are given."""

Kind = Literal["critic", "pairwise", "program"]
"""critic    gives each reply a verdict of its own, as in a run
pairwise  says which of the two replies violates the principle
program   an exact check
"""


class Judge(Struct, frozen=True):
    """Who takes the exam: everything that decides what it is asked."""

    kind: Kind = "critic"
    critic: CriticConfig = CriticConfig()
    """How a critic is asked; `model` and `use` say who answers."""


class Labelled(Struct, frozen=True):
    """How good one label is, at the wanted precision. None where nothing got the label."""

    precision: Interval | None
    """Share of the replies with this label that deserve it."""
    recall: Interval | None
    """Share of the replies that deserve it which get it."""


class Figures(Struct, frozen=True):
    """How well a judge did on some of the items."""

    items: int
    auc: Interval | None
    """Probability that a violating reply has more evidence against it than a satisfying one, of any
    item; 0.5 is chance. None for a judge that only compares the two replies of an item."""
    within: Interval | None
    """The same for the two replies of one item; equal evidence counts as half."""
    violated: Labelled
    satisfied: Labelled


class Bin(Struct, frozen=True):
    """Replies of about the same calibrated probability."""

    replies: int
    probability: float
    """Their mean calibrated probability of a violation."""
    share: float
    """The share of them that do violate their principle."""


class Threshold(Struct, frozen=True):
    """What claiming from a calibrated probability on gives."""

    probability: float
    precision: float | None
    recall: float


class Curves(Struct, frozen=True):
    """Points to draw. Probabilities are of calibrations fitted without the reply's principle."""

    roc: tuple[tuple[float, float], ...] = ()
    """(share of satisfying replies, share of violating replies) above each amount of evidence."""
    thresholds: tuple[Threshold, ...] = ()
    reliability: tuple[Bin, ...] = ()


class JudgeResult(Struct, frozen=True, kw_only=True):
    """One judge's exam."""

    judge: Judge
    model: str
    """The name of the model, or of the function, that answered."""
    key: str
    """Digest of everything that the answers follow from: the model and where it is served, the
    prompts, all items, and how it was asked. Empty if the model cannot be told from others of its
    name."""
    overall: Figures
    categories: dict[str, Figures]
    subtlety: dict[str, Figures]
    """By how hard the violation is to see, where the items say."""
    calibration: Calibration | None
    """How to read its answers in a run; None for a judge that only compares."""
    draws: tuple[Fit, ...]
    """Calibrations of resampled items, for intervals of what is computed with them."""
    pair_fits: tuple[PairFit, ...] = ()
    """The same for the margins between two replies."""
    curves: Curves
    cost: StageUsage
    """Of all answers together."""
    answers: tuple[Answer, ...]
    failures: dict[str, str]
    """By item that it did not answer, the cause."""


class ExamResult(Struct, frozen=True, kw_only=True):
    """An exam: `exam.json`."""

    sdsd: str
    """Version of the program."""
    made: str
    """UTC, ISO 8601."""
    model: str
    """The model that plays the critic."""
    weights: str
    """SHA-256 of its file, where it is known."""
    prompts: str
    """Digest of the prompts, and of the versions of the stages that ask them."""
    items: str
    """Digest of all items that the sample was drawn from."""
    n: int
    """Items in the sample."""
    of: int
    """Items that it was drawn from."""
    seed: int
    precision: float
    """The wanted precision that thresholds were chosen for."""
    judges: dict[str, JudgeResult]
    format: int = FORMAT


# -- one judge -------------------------------------------------------------------------------


def summarise(
    judge: Judge,
    model: str,
    answers: Sequence[Answer],
    failures: Mapping[str, str],
    *,
    precision: float,
    noise: float = 0.0,
    key: str = "",
) -> JudgeResult:
    """Return a judge's result from its answers.

    precision   wanted of either label
    noise       evidence this close to a threshold is undecided

    It is trusted if the whole interval of its AUC is above chance and at least `FEW` items say so.
    """
    compares = judge.kind == "pairwise"
    read = None if compares else held_out(answers, precision, noise)
    overall = figures(answers, read, compares=compares)
    trusted = bool(overall.auc and overall.auc.low > 0.5 and overall.items >= FEW)
    alone = bool(answers) and not compares
    calibration: Calibration | None = None
    if alone:
        calibration = calibration_fit.calibrate(answers, precision, noise, trusted)
        within = overall.within is not None and overall.within.low > 0.5 and overall.items >= FEW
        calibration = calibration_fit.calibrate_pairs(answers, calibration, precision, within)
    return JudgeResult(
        judge=judge,
        model=model,
        key=key,
        overall=overall,
        categories=_grouped(answers, read, lambda a: a.category, compares),
        subtlety=_grouped(answers, read, lambda a: a.subtle, compares),
        calibration=calibration,
        draws=calibration_fit.draws(answers) if alone else (),
        pair_fits=calibration_fit.pair_fits(answers) if alone else (),
        curves=_curves(answers, read) if alone else Curves(),
        cost=_cost(answers),
        answers=tuple(answers),
        failures=dict(failures),
    )


def at_precision(result: JudgeResult, precision: float) -> JudgeResult:
    """Return a result for another wanted precision."""
    noise = result.calibration.noise if result.calibration else 0.0
    return summarise(
        result.judge,
        result.model,
        result.answers,
        result.failures,
        precision=precision,
        noise=noise,
        key=result.key,
    )


def figures(
    answers: Sequence[Answer],
    read: Sequence[HeldOut] | None,
    *,
    compares: bool = False,
) -> Figures:
    """Return the figures on some items, given how their replies are read."""
    n = len(answers)
    drawn = list(resamples(n, RESAMPLES)) if n else []

    def estimate(statistic: Callable[[Sequence[float]], float | None]) -> Interval | None:
        value = statistic([1.0] * n)
        if value is None:
            return None
        known = [found for weights in drawn if (found := statistic(weights)) is not None]
        low, high = percentiles(known) or (value, value)
        return Interval(value, low, high)

    right = [_sign(answer.margin) for answer in answers]
    within = estimate(lambda w: _mean(right, w))
    ranks = [] if compares else _ranked(answers)
    auc = estimate(lambda w: _auc(ranks, w)) if ranks else None
    if read is None:
        return Figures(n, auc, within, Labelled(None, None), Labelled(None, None))
    said = [(r.satisfies, r.violates) for r in read]
    hits = [float(v == "violated") for _, v in said]
    false = [float(s == "violated") for s, _ in said]
    clean = [float(s == "satisfied") for s, _ in said]
    missed = [float(v == "satisfied") for _, v in said]
    return Figures(
        items=n,
        auc=auc,
        within=within,
        violated=Labelled(
            estimate(lambda w: _precision(hits, false, w)), estimate(lambda w: _mean(hits, w))
        ),
        satisfied=Labelled(
            estimate(lambda w: _precision(clean, missed, w)), estimate(lambda w: _mean(clean, w))
        ),
    )


def _grouped(
    answers: Sequence[Answer],
    read: Sequence[HeldOut] | None,
    key: Callable[[Answer], str],
    compares: bool,
) -> dict[str, Figures]:
    """Return figures by the value of `key`, where it is not empty."""
    groups: dict[str, list[int]] = {}
    for k, answer in enumerate(answers):
        if name := key(answer):
            groups.setdefault(name, []).append(k)
    return {
        name: figures(
            [answers[k] for k in chosen],
            None if read is None else [read[k] for k in chosen],
            compares=compares,
        )
        for name, chosen in sorted(groups.items())
    }


# -- statistics of weighted items --------------------------------------------------------------

_Tied = tuple[list[int], list[int]]
"""Items whose satisfying, and whose violating reply has the same evidence."""


def _ranked(answers: Sequence[Answer]) -> list[_Tied]:
    """Return the replies by rising evidence."""
    tied: dict[float, _Tied] = {}
    for k, answer in enumerate(answers):
        tied.setdefault(answer.satisfies, ([], []))[0].append(k)
        tied.setdefault(answer.violates, ([], []))[1].append(k)
    return [tied[evidence] for evidence in sorted(tied)]


def _auc(ranks: Sequence[_Tied], weights: Sequence[float]) -> float | None:
    below = wins = found = 0.0
    for satisfying, violating in ranks:
        less, more = sum(weights[k] for k in satisfying), sum(weights[k] for k in violating)
        wins += more * (below + less / 2)
        below, found = below + less, found + more
    return wins / (below * found) if below and found else None


def _dot(values: Sequence[float], weights: Sequence[float]) -> float:
    return float(sum(map(operator.mul, values, weights)))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float | None:
    total = sum(weights)
    return _dot(values, weights) / total if total else None


def _precision(
    right: Sequence[float], wrong: Sequence[float], weights: Sequence[float]
) -> float | None:
    hits = _dot(right, weights)
    total = hits + _dot(wrong, weights)
    return hits / total if total else None


def _sign(margin: float) -> float:
    """Return 1 for a pair that is ordered rightly, 0 for the opposite, and a half for a tie."""
    return 0.5 if margin == 0 else float(margin > 0)


def _cost(answers: Iterable[Answer]) -> StageUsage:
    spent = total(answer.usage for answer in answers)
    return replace(spent, seconds=round(spent.seconds, 4))


# -- curves ------------------------------------------------------------------------------------


def _curves(answers: Sequence[Answer], read: Sequence[HeldOut] | None) -> Curves:
    if read is None:
        return Curves(roc=_roc(answers))
    labelled = [(p, label) for r in read for p, label in zip(r.probabilities, (0, 1), strict=True)]
    return Curves(_roc(answers), _thresholds(labelled), _reliability(labelled))


def _roc(answers: Sequence[Answer]) -> tuple[tuple[float, float], ...]:
    """Return the corners of the ROC curve, from (0, 0) to (1, 1)."""
    n, x, y = len(answers), 0, 0
    points = [(0, 0)]
    for satisfying, violating in reversed(_ranked(answers)):
        x, y = x + len(satisfying), y + len(violating)
        if len(points) > 1 and _in_line(points[-2], points[-1], (x, y)):
            points.pop()
        points.append((x, y))
    return tuple((round(a / n, 4), round(b / n, 4)) for a, b in points)


def _in_line(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) == (b[1] - a[1]) * (c[0] - a[0])


def _thresholds(labelled: Sequence[tuple[float, int]]) -> tuple[Threshold, ...]:
    violating, found = sum(label for _, label in labelled), []
    for k in range(round(1 / _STEP) + 1):
        least = round(k * _STEP, 2)
        claimed = [label for p, label in labelled if p >= least]
        precision = round(sum(claimed) / len(claimed), 4) if claimed else None
        found.append(Threshold(least, precision, round(sum(claimed) / violating, 4)))
    return tuple(found)


def _reliability(labelled: Sequence[tuple[float, int]]) -> tuple[Bin, ...]:
    """Group replies by their probability, into equal groups of at least `FEW`."""
    ranked = sorted(labelled)
    number = max(1, min(BINS, len(ranked) // FEW))
    edges = [round(k * len(ranked) / number) for k in range(number + 1)]
    groups = [ranked[a:b] for a, b in pairwise(edges)]
    return tuple(
        Bin(
            len(group),
            round(sum(p for p, _ in group) / len(group), 4),
            round(sum(label for _, label in group) / len(group), 4),
        )
        for group in groups
        if group
    )


# -- all judges --------------------------------------------------------------------------------


def best(judges: Mapping[str, JudgeResult]) -> str | None:
    """Return the name of the judge that tells the two replies of an item apart most often, and of
    several the one with the highest AUC, or the first; None if none.

    An exact check does not compete.
    """
    known = {
        name: (r.overall.within.value if r.overall.within else 0.0, r.overall.auc.value)
        for name, r in judges.items()
        if r.overall.auc and r.judge.kind != "program"
    }
    return max(known, key=known.__getitem__, default=None)


# -- the pairs of a run --------------------------------------------------------------------------


def evidence_in_pairs(record: Record, critic: str = "") -> list[Evidence]:
    """Return the evidence that a critic found in the rejected and the chosen reply of each verified
    pair of a record, for the target principle; pairs that it did not judge are left out.

    critic   its name; empty for a single critic
    """
    found = []
    margins = [c.critique for c in record.candidates if c.probability is not None]
    for pair in record.verified:
        rejected, chosen = (_on_target(record, c, critic) for c in (record.critique, pair.critique))
        if rejected is not None and chosen is not None:
            by_margin = pair.critique in margins
            found.append(Evidence(evidence_of(rejected), evidence_of(chosen), by_margin))
    return found


def _on_target(record: Record, critique: Critique | None, critic: str) -> Verdict | None:
    verdicts = critique.votes or critique.verdicts if critique else ()
    target = record.scenario.target_principle.id
    found = (v for v in verdicts if v.principle == target and v.critic == critic)
    return next((v for v in found if v.signal != "program"), None)


def expected_precision(pairs: Sequence[Evidence], result: JudgeResult) -> Interval | None:
    """Return the share of pairs that are expected to be true, with its 95% interval, given the
    critic's evidence (`evidence_in_pairs`) and its exam; None without either."""
    if result.calibration is None:
        return None
    return calibration_fit.expected_precision(
        pairs, result.calibration, result.draws, result.pair_fits
    )


def to_json(result: ExamResult) -> bytes:
    """Return what `exam.json` holds."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1)
