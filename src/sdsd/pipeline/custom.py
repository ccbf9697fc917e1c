"""Call a user-defined pipeline, and check the record that it returns."""

from __future__ import annotations

from sdsd.errors import PluginError, StageFailed
from sdsd.pipeline.method import Ask, Method, Pipeline, Start
from sdsd.plugins import blamed, function
from sdsd.types import Failure, Record, Scenario, require_json


async def make_record_with(
    name: str, scenario: Scenario, ask: Ask, method: Method, start: Start
) -> Record:
    """Return the record that the pipeline `name` makes; a failed one if it raises `StageFailed`.

    Raises `PluginError` for any other exception, and for a record that breaks the contract.
    """
    pipeline: Pipeline = function(name, "pipelines")
    with blamed(f"pipeline `{name}`", scenario.id, StageFailed):
        try:
            record = await pipeline(scenario, ask, method, start)
        except StageFailed as failed:
            failure = Failure(failed.step, failed.cause, failed.raw)
            return Record(scenario, "failed", failure=failure, usage=ask.usage)
        if not isinstance(record, Record):
            raise PluginError(
                f"pipeline `{name}` returned a value of type `{type(record).__name__}`; return a "
                "`Record`"
            )
        _check(record, scenario)
        return record


def _check(record: Record, scenario: Scenario) -> None:
    require_json(record)
    if record.scenario != scenario:
        raise ValueError("the record must have the scenario that the pipeline was called with")
    if record.outcome == "accepted":
        violated = record.critique is not None and record.critique.violations
        if not (record.dialogue and record.dialogue.messages and violated and record.pairs):
            raise ValueError(
                "an accepted record needs a dialogue, a critique with a violation, and a pair: a "
                "last revision without defect, or a clean candidate"
            )
    if (record.outcome == "filtered") != bool(record.rule):
        raise ValueError("a filtered record needs a `rule`, and no other record has one")
    if (record.outcome == "failed") != bool(record.failure):
        raise ValueError("a failed record needs a `failure`, and no other record has one")
