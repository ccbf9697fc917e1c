"""Reading a critic's answer as its exam says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.pipeline.calibration import calibrated, evidence_of, probability, reading
from sdsd.types import Calibration, Verdict

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


def test_who_was_asked_must_have_claimed_it() -> None:
    sure = Verdict("p", False, "r", probability=0.9999)
    assert not calibrated(sure, LINE).violated
    assert calibrated(sure, LINE).undecided


def test_without_an_exam_a_verdict_is_taken_as_it_is() -> None:
    verdict = contrast(-1.0)
    assert calibrated(verdict, None) is verdict
    assert not calibrated(verdict, Calibration(0.5, 0.0, 0.9, 0.2, trusted=False)).trusted
