"""A run without verified pairs says why, and what would help."""

from __future__ import annotations

import pytest

from sdsd import config
from sdsd.reports.advice import advice
from sdsd.types import Calibration

CHANCE = Calibration(0.1, 0.0, 1.1, -0.1, trusted=False)
GOOD = Calibration(1.0, 0.0, 0.8, 0.2, trusted=True)


@pytest.mark.parametrize("outcomes", [{}, {"accepted": 1, "filtered/no_violation": 9}])
def test_where_there_is_a_pair_or_no_dialogue_nothing_is_said(outcomes: dict[str, int]) -> None:
    assert advice(outcomes, verified=outcomes.get("accepted", 0)) == ()


def test_the_most_frequent_reasons_come_first_and_two_are_enough() -> None:
    outcomes = {"failed": 1, "filtered/no_violation": 5, "filtered/not_repaired": 3}
    first, second = advice(outcomes, 0)
    assert "in 5 of 9 dialogues nothing was violated" in first.reason
    assert "no revision passed" in second.reason


def test_a_critic_that_failed_its_exam_is_the_first_reason() -> None:
    first, *_ = advice({"accepted": 4}, 0, {"": CHANCE})
    assert "no better than chance" in first.reason
    assert "sdsd exam" in first.remedy
    assert advice({"filtered/undecided": 4}, 0, {"": GOOD})[0].reason.startswith("in 4 of 4")


def test_every_option_that_is_recommended_is_accepted() -> None:
    rules = ("no_violation", "undecided", "unsupported_violation", "no_satisfying_reply",
             "not_repaired", "not_revised")  # fmt: skip
    for rule in rules:
        (found,) = advice({f"filtered/{rule}": 1}, 0)
        settings = [word.strip("'") for word in found.options.split() if "=" in word]
        assert settings
        config.load(None, dict(map(config.assignment, settings)))
