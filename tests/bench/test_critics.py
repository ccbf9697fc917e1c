"""Simulated critics err as they are meant to, and their pairs go through the real pipeline."""

from __future__ import annotations

import pytest

from critics import CONTRASTS, SIBLINGS, SLIPS, Contrast, World, settled, without_checks
from sdsd.pipeline.method import PROMPTS
from sdsd.pipeline.prompts import load_prompt
from sdsd.scenarios import strategies
from sdsd.scenarios.sampler import Scenarios

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def world() -> World:
    return World(
        Scenarios(without_checks(), SIBLINGS.scenarios, SIBLINGS.seed),
        {name: load_prompt(name) for name in PROMPTS},
        strategies.load_strategies(["direct"]),
    )


@pytest.mark.parametrize("critic", CONTRASTS)
def test_evidence_tells_replies_apart_as_well_as_it_should(critic: Contrast) -> None:
    n = 2000
    satisfying = [critic.evidence(k, "s", violated=False) for k in range(n)]
    violating = [critic.evidence(k, "v", violated=True) for k in range(n)]
    within = sum(v > s for v, s in zip(violating, satisfying, strict=True)) / n
    others = zip(violating, satisfying[1:], strict=False)
    assert within == pytest.approx(critic.within, abs=0.03)
    assert sum(v > s for v, s in others) / (n - 1) == pytest.approx(critic.alone, abs=0.03)


async def test_most_pairs_are_true_even_where_siblings_ignore_what_they_are_told(
    world: World,
) -> None:
    critic = CONTRASTS[1]
    exam = critic.exam(48, 0)
    obedient = await settled(world, critic, exam, 60, 0, 1 - SLIPS, 0.0)
    stubborn = await settled(world, critic, exam, 60, 0, SLIPS, 0.0)
    for run in (obedient, stubborn):
        assert run.settles
        assert run.stated is not None
        assert run.counts["right"] >= 0.8 * run.counts["mixed"] > 0
    assert obedient.counts["right"] >= 0.75 * obedient.counts["pairs"]
    assert stubborn.counts["right"] >= 0.6 * stubborn.counts["pairs"]
