"""The outcome of every scenario, and what the other views leave out."""

from __future__ import annotations

from collections.abc import Iterator

from sdsd.dataset import columns as c
from sdsd.dataset.columns import Column
from sdsd.dataset.view import Row, Selected, View
from sdsd.types import StageUsage


def _scenarios(selected: Selected) -> Iterator[Row]:
    record, failure = selected.record, selected.record.failure
    costs = StageUsage.__struct_fields__
    yield {
        "failed_step": failure.step if failure else None,
        "failed_cause": failure.cause if failure else None,
        "failed_raw": failure.raw if failure else None,
        **{name: sum(getattr(use, name) for use in record.usage.values()) for name in costs},
    }


scenarios = View(
    "scenarios",
    "One row per scenario, whatever its outcome, with its cost.",
    (
        c.ID, c.INDEX, c.FIELD, c.DOMAIN, c.SUBAREA, c.GOAL_ID, c.PRINCIPLE_IDS,
        Column("exchanges", c.INT, "Exchanges requested.", lambda r: r.scenario.exchanges),
        c.STRATEGY, c.OUTCOME, c.RULE,
        Column("failed_step", c.TEXT, "The step that failed, e.g. `plan`; null if none did."),
        Column("failed_cause", c.TEXT, "Why it failed; null if no step did."),
        Column("failed_raw", c.TEXT, "The raw reply that shows it; null if no step failed."),
        Column("calls", c.LONG, "Model calls, over all stages."),
        Column("prompt_tokens", c.LONG, "Tokens of all requests."),
        Column("cached_tokens", c.LONG, "Prompt tokens that the server found in its cache."),
        Column("completion_tokens", c.LONG, "Tokens of all replies."),
        Column("seconds", c.REAL, "Total time spent in model calls."),
        Column("reasoning_tokens", c.LONG, "Tokens of all replies that were thinking."),
    ),
    _scenarios,
)  # fmt: skip


def _removed(selected: Selected) -> Iterator[Row]:
    removed, pairs = selected.decision.removed, selected.decision.pairs
    if removed:  # and its pairs with it
        yield {"scope": "dialogue", "pair": None, "rule": removed.rule, "detail": removed.detail}
        return
    for number, removal in sorted(pairs.items()):
        yield {"scope": "pair", "pair": number, "rule": removal.rule, "detail": removal.detail}


removed = View(
    "removed",
    "One row per dialogue or pair that the views for training leave out, and why.",
    (
        c.ID, c.INDEX,
        Column("scope", c.TEXT, "`dialogue`: all of it is left out. `pair`: one pair is."),
        Column("pair", c.INT, "Number of the pair in its dialogue, from 0; null for a dialogue."),
        Column("rule", c.TEXT, "The rule that left it out."),
        Column("detail", c.TEXT, "The evidence, e.g. the id of the dialogue it repeats; or empty."),
    ),
    _removed,
)  # fmt: skip
