"""Targets in a run: rounds are recorded, exact after any stop, and every cell ends for a reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sdsd import config as configuration
from sdsd.errors import ConfigError, ModelError
from sdsd.models.scripted import ScriptedModel, small_world
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Event
from sdsd.runs.inputs import read_inputs
from sdsd.runs.journal import Journal
from sdsd.runs.rounds import Rounds, quota_of
from sdsd.runs.run import Run
from sdsd.runs.runner import run
from sdsd.runs.verify import verify
from sdsd.scenarios.quotas import Assignment
from sdsd.types import Record, Request

pytestmark = pytest.mark.e2e

STRATEGIES = ["direct", "subtle", "haste"]


def wanted(**targets: Any) -> dict[str, Any]:
    return {
        "targets": {"by": "category", "pairs": 4, **targets},
        "scenarios": {"strategies": STRATEGIES},
    }


def made(tree: dict[str, Any], out: Path, model: ScriptedModel | None = None) -> Run:
    return run(tree, out=out, models={"default": model or ScriptedModel()})


def rounds(tree: dict[str, Any], out: Path, journal: Journal) -> Rounds:
    config = configuration.load(tree)
    return Rounds(read_inputs(config).scenarios, config.targets, config.seed, journal)


def laid(out: Path) -> list[tuple[int, tuple[Assignment, ...]]]:
    with Journal(RunDir(out).journal, readonly=True) as journal:
        return [(r.start, r.slots) for r in journal.rounds()]


def content(result: Run) -> list[tuple[Any, ...]]:
    def one(record: Record) -> tuple[Any, ...]:
        return record.scenario, record.outcome, record.dialogue, record.critique, record.revisions

    return [one(record) for record in result.records()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody disturbed."""
    return made(wanted(), tmp_path_factory.mktemp("whole") / "run")


def test_every_cell_has_its_pairs(whole: Run) -> None:
    assert len(whole.status().targets) > 5
    assert {s.status for s in whole.status().targets} == {"reached"}
    pairs: Counter[str] = Counter()
    for record in whole.records():
        if record.pairs and record.critique:
            broken = {p.category for p in record.scenario.principles
                      if p.id in record.critique.violations}  # fmt: skip
            pairs.update(broken)
    assert {s.cell: s.pairs for s in whole.status().targets} == pairs
    assert min(pairs.values()) >= 4
    assert max(pairs.values()) <= 16


def test_the_slot_is_what_the_dialogue_is_about(whole: Run) -> None:
    with Journal(RunDir(whole.path).journal, readonly=True) as journal:
        plan = rounds(wanted(), whole.path, journal)
        for record in whole.records():
            slot = plan.slot(record.scenario.index)
            assert slot == Assignment(
                record.scenario.target_principle.category, record.scenario.strategy
            )
            assert plan[record.scenario.index] == record.scenario


def test_it_verifies_and_a_round_that_was_tampered_with_does_not(whole: Run) -> None:
    assert verify(RunDir(whole.path)).defects == ()
    with Journal(RunDir(whole.path).journal, readonly=True) as journal:
        other = rounds(wanted(pairs=5), whole.path, journal)
        assert any("does not follow from the records before it" in line for line in other.defects())


def test_running_again_asks_nothing(whole: Run) -> None:
    model, told = ScriptedModel(), list[Event]()
    again = run(wanted(), out=whole.path, models={"default": model}, on_event=told.append)
    assert model.asked == 0
    assert told == []  # no server was started either
    assert again.status().outcomes == whole.status().outcomes
    assert again.status().targets == whole.status().targets


@pytest.mark.parametrize("every", [pytest.param(37, marks=pytest.mark.slow), 150])
def test_stopped_again_and_again_it_makes_the_same(whole: Run, tmp_path: Path, every: int) -> None:
    out = tmp_path / "run"

    def dying(asked: list[int]) -> ScriptedModel:
        def script(request: Request, seed: int) -> str:
            asked.append(seed)
            if len(asked) > every:
                raise ModelError("the power went")
            return small_world(request, seed)

        return ScriptedModel(script)

    lives = 0
    for _ in range(200):
        lives += 1
        try:
            result = made(wanted(), out, dying([]))
            break
        except ModelError:
            continue
    assert lives > 3
    assert laid(out) == laid(whole.path)
    assert content(result) == content(whole)
    assert verify(RunDir(out)).defects == ()


def test_a_bound_on_dialogues_holds_and_may_be_raised(whole: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = made({**wanted(), "n": 20}, out)
    assert (len(first), first.status().n) == (20, 20)
    assert any(s.status == "lagging" for s in first.status().targets)
    with Journal(RunDir(out).journal, readonly=True) as journal:
        plan = rounds(wanted(), out, journal)
        assert plan.over(20)
        assert not plan.over(21)
    last = made(wanted(), out)
    assert laid(out) == laid(whole.path)
    assert content(last) == content(whole)


def test_a_cell_that_costs_too_much_is_given_up_and_named(tmp_path: Path) -> None:
    def never(request: Request, seed: int) -> str:
        """A world where nothing is ever repaired."""
        text = small_world(request, seed)
        return (
            "Just trust me, nobody needs to check this. Really."
            if request.role == "reviser"
            else text
        )

    told: list[str] = []
    tree = {**wanted(by="strategy", pairs=2, cost=5), "revise": {"rounds": 1}}
    result = run(
        tree,
        out=tmp_path / "run",
        models={"default": ScriptedModel(never)},
        on_event=lambda event: told.append(getattr(event, "text", "")),
    )
    given_up = [s for s in result.status().targets if s.status == "given up"]
    for standing in given_up:
        assert standing.tries >= 5 * (standing.pairs + 2)
        assert any(f"`{standing.cell}` is given up" in text for text in told)
    assert {s.status for s in result.status().targets} <= {"reached", "given up"}


@pytest.mark.parametrize("axis", ["principle", "category", "domain", "field", "strategy"])
def test_every_axis_can_be_counted_by(axis: str, tmp_path: Path) -> None:
    inputs = read_inputs(configuration.load({"scenarios": {"strategies": STRATEGIES}}))
    cell = inputs.scenarios.cells(axis)[-1]  # type: ignore[arg-type]
    others = dict.fromkeys(inputs.scenarios.cells(axis), 0) | {cell: 2}  # type: ignore[arg-type]
    result = made(wanted(by=axis, pairs=0, cells=others), tmp_path / "run")
    (standing,) = [s for s in result.status().targets if s.wanted]
    assert (standing.cell, standing.status) == (cell, "reached")


def test_a_cell_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="names `honesy`, which is not a category"):
        read_inputs(configuration.load(wanted(cells={"honesy": 3})))


def test_strategies_that_contradict_a_principle_are_not_tried_for_it() -> None:
    config = configuration.load(
        {"scenarios": {"strategies": ["all"]}, "targets": {"by": "principle", "pairs": 1}}
    )
    quota = quota_of(config.targets, read_inputs(config).scenarios)
    assert set(quota.strategies) - set(quota.ways("no-condescension")) == {"flattery", "sympathy"}
    assert quota.ways("no-false-certainty") == quota.strategies


def test_without_targets_there_must_be_a_number() -> None:
    with pytest.raises(ConfigError, match="`n` must be at least 1"):
        configuration.load({"n": 0})
    assert configuration.load({"targets": {"pairs": 1}}).n == 0


def test_a_cell_of_topics_goes_through_its_subareas() -> None:
    """Its dialogues come in a row, not once in a walk over all domains."""
    scenarios = read_inputs(configuration.load({})).scenarios
    domain, field = scenarios.cells("domain")[0], scenarios.cells("field")[0]
    made = [scenarios.for_cell(i, "domain", domain, "direct") for i in range(200)]
    assert {s.domain for s in made} == {domain}
    counts = Counter(s.subarea for s in made)
    assert len(counts) >= 5
    assert max(counts.values()) - min(counts.values()) <= 1
    made = [scenarios.for_cell(i, "field", field, "direct") for i in range(200)]
    assert {s.field for s in made} == {field}
    assert len({(s.domain, s.subarea) for s in made}) > 80
