"""What a pair costs is counted as an engine would count it."""

from __future__ import annotations

import pytest

from critics import without_checks
from pair_cost import TALENTS, WAYS, Engine, World, made
from sdsd import config
from sdsd.scenarios import strategies
from sdsd.scenarios.sampler import Scenarios
from simengine import BLOCK, CHARS

pytestmark = pytest.mark.e2e


def test_an_engine_counts_what_it_reads_and_writes() -> None:
    engine, block = Engine(100), BLOCK * CHARS
    engine.read("a" * 2 * block, "b" * block)
    engine.read("a" * 2 * block + "b" * block + "c", "d")
    assert engine.counts == {
        "calls": 2, "prompt": 5 * BLOCK + 1, "cached": 3 * BLOCK, "computed": 2 * BLOCK + 1,
        "written": BLOCK + 1,
    }  # fmt: skip
    engine.score("a" * 2 * block, "b" * block)  # all of it again, and one token written
    assert engine.counts["computed"] == 5 * BLOCK + 1
    assert engine.counts["written"] == BLOCK + 2


async def test_every_way_makes_pairs_and_no_dialogue_fails() -> None:
    known = without_checks()
    scenarios = Scenarios(known, config.Config().scenarios, 0)
    world = World(known, scenarios, strategies.load_strategies(["direct"]))
    found = {way.name: await made(world, way, TALENTS[1], 8, 2**16) for way in WAYS}
    for counts in found.values():
        assert counts["failed"] == 0
        assert 0 < counts["true"] <= counts["pairs"]
        assert counts["prompt"] == counts["cached"] + counts["computed"]
    early, late = found["contrast, verdict"], found["contrast, verdict; late"]
    assert (early["calls"], early["written"]) == (late["calls"], late["written"])
    assert late["computed"] < early["computed"]
