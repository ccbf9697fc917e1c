"""What an exam has shown of a critic, and what its answers on new replies therefore mean.

A critic's answer about a reply becomes a number that rises with the evidence for a violation: the
log-odds of its "violated", or its likelihood contrast with the sign reversed. On the exam's
labelled replies, a logistic regression turns that number into a probability. Two thresholds on the
probability follow from the precision that the user wants of either label; between them, an answer
is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from msgspec.structs import replace

from sdsd.types import Calibration, Critique, Verdict

_LIKELY = 0.5
"""Probability from which a pair is made that a critic cannot verify."""
_SURE = 1e-4
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken."""


def probability(calibration: Calibration, evidence: float) -> float:
    """Return the probability of a violation; evidence beyond what the exam has seen adds none."""
    if calibration.seen is not None:
        least, most = calibration.seen
        evidence = min(max(evidence, least), most)
    return sigmoid(calibration.slope * evidence + calibration.intercept)


def pair_probability(calibration: Calibration, margin: float) -> float:
    """Return the probability that a pair is true, given its margin: the evidence in the reply that
    was told to violate the principle, less that in the one that was told to satisfy it.

    Whether a reply does as it was told is taken for even odds. Before the margin is seen, the pair
    is therefore the right way round with probability 1/4, its replies are alike with 1/2, and it is
    the wrong way round with 1/4. In these three cases the margin m is taken to be normal, with the
    same variance v and the means d, 0 and -d, where d is the mean margin in the exam. Then the
    log-odds of the first case against the last are s m, with the slope s = 2 d / v; and the density
    of m in the first and in the last, over that in the second, is exp(s m / 2 - s d / 4) and
    exp(-s m / 2 - s d / 4).

    A margin wider than any in the exam adds nothing.
    """
    half = calibration.pair_slope * min(margin, calibration.pair_most) / 2
    apart = calibration.pair_slope * calibration.pair_mean / 4
    log_odds = (half - apart, math.log(2), -half - apart)
    most = max(log_odds)  # so that nothing overflows
    right, alike, wrong = (math.exp(x - most) for x in log_odds)
    return right / (right + alike + wrong)


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def evidence_of(verdict: Verdict) -> float:
    """Return the evidence for a violation in a critic's raw answer.

    A critic whose server reports no probability says only yes or no, which counts as even odds
    shifted by one.
    """
    if verdict.signal == "contrast" and verdict.contrast is not None:
        return -verdict.contrast
    if verdict.probability is None:
        return 1.0 if verdict.violated else -1.0
    p = min(max(verdict.probability, _SURE), 1 - _SURE)
    return math.log(p / (1 - p))


def can_verify(calibrations: Mapping[str, Calibration]) -> bool:
    """Return whether any critic could reach the wanted precision; so it is assumed without an exam.

    calibrations  by critic
    """
    return not calibrations or any(c.can_verify for c in calibrations.values())


Reading = Literal["violated", "satisfied", "undecided"]


def reading(evidence: float, claims: bool, calibration: Calibration) -> Reading:
    """Return the label that an answer gives a reply.

    claims   whether the critic may claim a violation at all: one that was asked a question must
             have said so itself
    """
    noise = calibration.noise
    if claims and probability(calibration, evidence - noise) >= calibration.violated_from:
        return "violated"
    if probability(calibration, evidence + noise) <= calibration.satisfied_to:
        return "satisfied"
    return "undecided"


class Settled(NamedTuple):
    """Two critiques whose labels follow from the margin between them."""

    rejected: Critique
    chosen: Critique
    probability: float
    """That both labels are right."""


def settle(
    rejected: Critique, chosen: Critique, target: str, calibration: Calibration
) -> Settled | None:
    """Return both critiques with the labels that their margin gives on the principle `target`.

    The margin between two replies to one message tells more than the evidence in either: what the
    message and the principle add to the evidence is the same in both. None if the margin is too
    narrow for the wanted precision. A critic that can reach it by no margin verifies nothing: then
    a pair that is likelier true than not is made, unverified and with its probability.
    """
    before, after = (
        next(v for v in critique.verdicts if v.principle == target)
        for critique in (rejected, chosen)
    )
    if "program" in (before.signal, after.signal):  # exact: there is no margin to use
        exact = before.confirmed and not (after.violated or after.undecided)
        return Settled(rejected, chosen, 1.0) if exact else None
    margin = evidence_of(before) - evidence_of(after)
    verifies = calibration.can_verify
    least = calibration.pair_from if verifies else _LIKELY
    if pair_probability(calibration, margin - 2 * calibration.noise) < least:
        return None
    return Settled(
        _labelled(rejected, before, violated=True, trusted=verifies),
        _labelled(chosen, after, violated=False, trusted=verifies),
        round(pair_probability(calibration, margin), 4),
    )


def _labelled(critique: Critique, verdict: Verdict, *, violated: bool, trusted: bool) -> Critique:
    label = replace(verdict, violated=violated, grounded=violated, undecided=False, trusted=trusted)
    verdicts = tuple(label if v is verdict else v for v in critique.verdicts)
    return replace(critique, verdicts=verdicts)


def calibrated(verdict: Verdict, calibration: Calibration | None) -> Verdict:
    """Return a raw verdict as the exam says to read it.

    Without an exam, a model's word is taken as it is, and a contrast by its sign. So are the
    answers of a critic that failed its exam, which verify nothing: no threshold can make them
    precise.
    """
    if calibration is None:
        return verdict
    evidence, by_contrast = evidence_of(verdict), verdict.signal == "contrast"
    if not calibration.trusted:
        guess = round(probability(calibration, evidence), 4)
        return replace(verdict, calibrated=guess, trusted=False)
    label = reading(evidence, verdict.violated or by_contrast, calibration)
    claims = label == "violated"
    return replace(
        verdict,
        violated=claims,
        grounded=claims and (verdict.grounded or by_contrast),
        undecided=label == "undecided",
        calibrated=round(probability(calibration, evidence), 4),
        trusted=calibration.trusted,
    )
