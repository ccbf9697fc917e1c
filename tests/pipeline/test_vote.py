"""Voting: what several critics say together, as laws."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import Vote
from sdsd.pipeline.vote import combine, passes
from sdsd.types import Verdict

NO = Verdict("p", violated=False, reason="nothing in it", critic="no")
VOID = Verdict("p", violated=True, reason="it feels so", quote="not there", critic="void")
YES = Verdict("p", True, "it mocks", "you fool", "high", grounded=True, critic="yes")
RULES: tuple[Vote, ...] = get_args(Vote)
votes = st.lists(st.sampled_from([NO, VOID, YES]), min_size=1, max_size=7)
rules = st.sampled_from(RULES)


@given(votes, rules)
def test_only_quotations_that_are_there_confirm(said: list[Verdict], rule: Vote) -> None:
    joint = combine(said, [1.0] * len(said), rule)
    assert joint.confirmed == passes(rule, [v.confirmed for v in said], [1.0] * len(said))
    assert joint.violated == passes(rule, [v.violated for v in said], [1.0] * len(said))


@given(votes, rules)
def test_the_joint_verdict_is_one_that_somebody_gave(said: list[Verdict], rule: Vote) -> None:
    joint = combine(said, [1.0] * len(said), rule)
    assert joint in [replace(v, critic="") for v in said]


@given(st.sampled_from([NO, VOID, YES]), rules)
def test_one_critic_is_its_own_jury(verdict: Verdict, rule: Vote) -> None:
    assert combine([verdict], [2.0], rule) == replace(verdict, critic="")


@given(votes, rules)
def test_an_objection_more_never_acquits(said: list[Verdict], rule: Vote) -> None:
    if combine(said, [1.0] * len(said), rule).confirmed:
        assert combine([*said, YES], [1.0] * (len(said) + 1), rule).confirmed


@pytest.mark.parametrize(
    ("rule", "ayes", "weights", "enough"),
    [
        ("any", [False, True, False], [1, 1, 1], True),
        ("any", [False, False], [1, 1], False),
        ("majority", [True, True, False], [1, 1, 9], True),
        ("majority", [True, False], [1, 1], False),
        ("all", [True, True], [1, 1], True),
        ("all", [True, False, True], [1, 1, 1], False),
        ("weighted", [True, False, False], [3, 1, 1], True),
        ("weighted", [True, False, False], [2, 1, 1], False),
    ],
)
def test_rules(rule: Vote, ayes: list[bool], weights: list[float], enough: bool) -> None:
    assert passes(rule, ayes, weights) is enough


def test_the_weightiest_of_those_who_agree_speaks() -> None:
    heavy = replace(YES, quote="fool", severity="low")
    assert combine([YES, heavy, NO], [1, 2, 5], "majority") == replace(heavy, critic="")


def test_the_probability_is_the_weighted_mean_of_those_known() -> None:
    said = [replace(YES, probability=0.9), replace(NO, probability=0.3), VOID]
    assert combine(said, [1, 2, 9], "any").probability == pytest.approx(0.5)
    assert combine([YES, NO], [1, 1], "any").probability is None
