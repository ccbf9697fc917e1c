"""Reading a critic's answer as its exam says."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.pipeline.calibration import (
    calibrated,
    evidence_of,
    pair_probability,
    probability,
    reading,
    settle,
)
from sdsd.types import Calibration, Critique, Verdict

LINE = Calibration(0.5, 0.0, violated_from=0.9, satisfied_to=0.2, trusted=True)


def contrast(nats: float) -> Verdict:
    return Verdict("p", nats < 0, "r", grounded=nats < 0, signal="contrast", contrast=nats)


@pytest.mark.parametrize(
    ("verdict", "evidence"),
    [
        (contrast(-3.0), 3.0),
        (Verdict("p", True, "r"), 1.0),
        (Verdict("p", False, "r"), -1.0),
        (Verdict("p", True, "r", probability=0.75), math.log(3)),
        (Verdict("p", False, "r", probability=0.0), math.log(1e-4 / (1 - 1e-4))),
    ],
)
def test_evidence_rises_with_a_violation(verdict: Verdict, evidence: float) -> None:
    assert evidence_of(verdict) == pytest.approx(evidence)


@pytest.mark.parametrize(
    ("nats", "label"), [(-9.0, "violated"), (0.0, "undecided"), (9.0, "satisfied")]
)
def test_the_thresholds_make_three_labels(nats: float, label: str) -> None:
    found = calibrated(contrast(nats), LINE)
    assert reading(-nats, True, LINE) == label
    assert (found.violated, found.grounded) == (label == "violated",) * 2
    assert found.undecided == (label == "undecided")
    assert found.calibrated == pytest.approx(probability(LINE, -nats), abs=1e-4)


@given(st.floats(-20, 20), st.floats(0, 5), st.booleans())
def test_noise_only_ever_makes_an_answer_undecided(
    evidence: float, noise: float, claims: bool
) -> None:
    noisy = Calibration(0.5, 0.0, 0.9, 0.2, True, noise)
    assert reading(evidence, claims, noisy) in (reading(evidence, claims, LINE), "undecided")


nats = st.floats(-50, 50)
calibrations = st.builds(
    Calibration,
    slope=st.floats(0, 5),
    intercept=st.floats(-5, 5),
    violated_from=st.floats(0.5, 1.1),
    satisfied_to=st.floats(-0.1, 0.5),
    trusted=st.booleans(),
    noise=st.floats(0, 3),
    seen=st.none() | st.tuples(nats, nats).map(lambda ends: (min(ends), max(ends))),
)


@given(calibrations, nats, nats, st.booleans())
def test_more_evidence_never_speaks_against_a_violation(
    calibration: Calibration, one: float, other: float, claims: bool
) -> None:
    less, more = sorted((one, other))
    assert 0 <= probability(calibration, less) <= probability(calibration, more) <= 1
    order = ("satisfied", "undecided", "violated")
    found = [order.index(reading(evidence, claims, calibration)) for evidence in (less, more)]
    assert found == sorted(found)


@pytest.mark.parametrize("threshold", [LINE.violated_from, LINE.satisfied_to])
@given(st.floats(0.01, 5), st.floats(-0.99, 0.99))
def test_an_answer_within_the_noise_of_a_threshold_is_undecided(
    threshold: float, noise: float, share: float
) -> None:
    at = math.log(threshold / (1 - threshold)) / LINE.slope
    assert reading(at + share * noise, True, replace(LINE, noise=noise)) == "undecided"
    decided = "violated" if threshold == LINE.violated_from else "satisfied"
    beyond = math.copysign(1.01 * noise, at)
    assert reading(at + beyond, True, replace(LINE, noise=noise)) == decided


@given(nats)
def test_a_label_out_of_reach_is_never_given(evidence: float) -> None:
    never = replace(LINE, violated_from=1.1, satisfied_to=-0.1)
    assert reading(evidence, True, never) == "undecided"


def test_evidence_beyond_what_the_exam_has_seen_adds_nothing() -> None:
    seen = replace(LINE, seen=(-3.0, 2.0))
    assert probability(seen, 40.0) == probability(seen, 2.0) == probability(LINE, 2.0)
    assert probability(seen, -40.0) == probability(seen, -3.0) == probability(LINE, -3.0)


def test_a_critic_without_trust_gives_labels_that_verify_nothing() -> None:
    verdict = calibrated(contrast(-9.0), replace(LINE, trusted=False))
    assert verdict.confirmed
    assert Critique((verdict,)).proofs == set()
    sure = calibrated(contrast(-9.0), LINE)
    assert Critique((sure,)).proofs == {(sure.principle, "contrast")}
    hopeless = replace(LINE, trusted=False, violated_from=1.1, satisfied_to=-0.1)
    assert not calibrated(contrast(-0.1), hopeless).undecided
    assert calibrated(contrast(3.0), hopeless).contrast == 3.0


def test_a_claim_by_question_needs_its_quotation_whatever_the_probability() -> None:
    unfounded = calibrated(Verdict("p", True, "r", "gone", probability=0.9999), LINE)
    assert (unfounded.violated, unfounded.grounded) == (True, False)
    assert not unfounded.confirmed


def test_who_was_asked_must_have_claimed_it() -> None:
    sure = Verdict("p", False, "r", probability=0.9999)
    assert not calibrated(sure, LINE).violated
    assert calibrated(sure, LINE).undecided


def test_without_an_exam_a_verdict_is_taken_as_it_is() -> None:
    verdict = contrast(-1.0)
    assert calibrated(verdict, None) is verdict
    assert not calibrated(verdict, Calibration(0.5, 0.0, 0.9, 0.2, trusted=False)).trusted


# -- two replies to one message ----------------------------------------------------------------

MARGIN = replace(
    LINE,
    violated_from=2.0,
    satisfied_to=-1.0,
    pair_slope=1.0,
    pair_mean=2.0,
    pair_most=20.0,
    pair_from=0.9,
)
MARGINS = st.floats(-1e4, 1e4)
SHOWN = st.builds(
    lambda slope, mean: replace(MARGIN, pair_slope=slope, pair_mean=mean, pair_most=1e4),
    st.floats(0, 10),
    st.floats(0, 100),
)
"""What exams may have shown of margins."""


@given(SHOWN, MARGINS, MARGINS)
def test_a_wider_margin_never_makes_a_pair_less_probable(
    shown: Calibration, one: float, other: float
) -> None:
    low, high = (pair_probability(shown, m) for m in sorted((one, other)))
    assert 0 <= low <= high <= 1


@given(SHOWN, MARGINS)
def test_a_pair_and_its_opposite_leave_room_for_replies_that_are_alike(
    shown: Calibration, margin: float
) -> None:
    right, wrong = pair_probability(shown, margin), pair_probability(shown, -margin)
    assert right + wrong <= 1 + 1e-12
    if min(right, wrong) > 1e-200:
        odds = math.log(right) - math.log(wrong)
        assert odds == pytest.approx(shown.pair_slope * margin, rel=1e-9, abs=1e-9)


@given(SHOWN)
def test_no_margin_is_no_evidence_for_a_pair(shown: Calibration) -> None:
    assert 0 <= pair_probability(shown, 0.0) <= 0.25


@given(st.floats(0.1, 6), st.floats(0.1, 3), st.floats(-8, 8))
def test_the_probability_of_a_pair_is_that_of_three_normal_margins(
    apart: float, deviation: float, margin: float
) -> None:
    """Bayes' theorem on the densities themselves."""
    slope = 2 * apart / deviation**2
    shown = replace(MARGIN, pair_slope=slope, pair_mean=apart)
    right, alike, wrong = (
        odds * NormalDist(mean, deviation).pdf(margin)
        for odds, mean in ((0.25, apart), (0.5, 0.0), (0.25, -apart))
    )
    assume(right + alike + wrong > 1e-200)
    expected = right / (right + alike + wrong)
    assert pair_probability(shown, margin) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_margin_wider_than_any_in_the_exam_counts_as_the_widest() -> None:
    widest = pair_probability(MARGIN, 20.0)
    assert pair_probability(MARGIN, 19.0) < widest == pair_probability(MARGIN, 1e6)


def test_without_an_exam_of_margins_no_pair_is_probable() -> None:
    assert pair_probability(LINE, 1e6) == 0.25


def test_a_wide_margin_settles_what_neither_reply_could_alone() -> None:
    low, high = (Critique((calibrated(contrast(nats), MARGIN),)) for nats in (1.0, 9.0))
    assert low.verdicts[0].undecided
    assert high.verdicts[0].undecided
    found = settle(low, high, "p", MARGIN)
    assert found is not None
    assert found.rejected.violations == ("p",)
    assert found.chosen.clean
    assert round(found.probability, 3) == 0.943
    assert (found.rejected.verdicts[0].contrast, found.chosen.verdicts[0].contrast) == (1.0, 9.0)


def test_a_narrow_margin_and_one_the_wrong_way_round_settle_nothing() -> None:
    low, high = (Critique((calibrated(contrast(nats), MARGIN),)) for nats in (1.0, 3.0))
    assert settle(low, high, "p", MARGIN) is None
    assert settle(Critique((contrast(9.0),)), Critique((contrast(1.0),)), "p", MARGIN) is None


def test_noise_narrows_a_margin() -> None:
    low, high = Critique((contrast(0.0),)), Critique((contrast(8.0),))
    assert settle(low, high, "p", MARGIN) is not None
    assert settle(low, high, "p", replace(MARGIN, noise=1.0)) is None


def test_what_a_program_has_decided_no_margin_changes() -> None:
    breaks, keeps = (
        Critique((Verdict("p", violated, "r", grounded=violated, signal="program"),))
        for violated in (True, False)
    )
    assert settle(keeps, breaks, "p", MARGIN) is None
    found = settle(breaks, keeps, "p", MARGIN)
    assert found is not None
    assert (found.rejected, found.chosen, found.probability) == (breaks, keeps, 1.0)
