"""The peers' workload says, letter for letter, what the pipeline's roleplay says."""

from __future__ import annotations

import pytest
import workload
from drive_sdsd import bare_principles
from workload import STAGES

import sdsd
from sdsd.models.base import Capabilities
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.events import Called, Event
from sdsd.types import Record

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], list[Called]]:
    """Records of a small run, and every answered call."""
    calls: list[Called] = []

    def hear(event: Event) -> None:
        if isinstance(event, Called):
            calls.append(event)

    folder = tmp_path_factory.mktemp("run")
    result = sdsd.run(
        {
            "n": 6,
            "catalogue": {"principles": bare_principles(folder / "principles.jsonl")},
            "scenarios": {"exchanges": [workload.EXCHANGES] * 2, "principles": [1, 1]},
            "plan": {"max_tokens": workload.PLAN_TOKENS},
            "dialogue": {"protocol": "roleplay", "self_check": "never"},
            "revise": {"rounds": 1, "recheck": False},
        },
        out=folder / "run",
        models={"default": ScriptedModel(capabilities=Capabilities(schema=True))},
        on_event=hear,
    )
    return list(result.records()), calls


def test_every_stage_asks_what_the_pipeline_asks(
    made: tuple[list[Record], list[Called]],
) -> None:
    records, calls = made
    compared = 0
    for record in records:
        about = record.scenario
        own = workload.Scenario(
            about.domain, about.subarea, about.goal.text, about.principles[0].text
        )
        row = {**workload.new_row(about.index), "about": own._asdict()}
        mine = [called for called in calls if called.call.scenario == about.id]
        for stage, called in zip(STAGES, mine, strict=False):
            asked = called.call.request
            texts = [(m["role"], m["content"]) for m in workload.messages(stage, row)]
            assert texts == [(m.role, m.content) for m in asked.messages]
            assert (stage.max_tokens, stage.temperature) == (asked.max_tokens, asked.temperature)
            row = workload.put(stage, row, called.answer.text)
            compared += 1
        assert workload.due(STAGES[-1], row) == bool(record.revisions)
    assert compared == len(calls)
    assert any(record.revisions for record in records)
    assert not all(record.revisions for record in records)


def test_a_verdict_that_cannot_be_read_claims_nothing() -> None:
    for text in ("", "yes", "[]", "{", '{"violated": "yes"}', "null"):
        assert not workload.violated(text)
    assert workload.violated('{"violated": true}')


def test_scenarios_differ_and_stay() -> None:
    first = [workload.scenario(k) for k in range(500)]
    assert first == [workload.scenario(k) for k in range(500)]
    assert len({about.subarea for about in first}) == 500
