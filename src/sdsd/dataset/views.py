"""Rows of a data set, made of finished dialogues. Pure: one record in, its rows out.

The columns and their meanings are in `sdsd.dataset.schema`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sdsd.config import ExportConfig
from sdsd.dataset.schema import View
from sdsd.proof import change
from sdsd.quality import Flag, flags, good
from sdsd.types import Critique, Message, Record, Revision, StageUse, Verdict

Row = dict[str, Any]
Models = Mapping[str, str]
"""Names of models by role, as in `Manifest.models`."""

_EARLY = ("early_end", "violation_end")

# Words; scripts that are written without spaces count by the character.
_SOLID = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[^\W{_SOLID}]+|\S")
_MOST_WORDS = 32_768  # no turn has more tokens: a guard, so that no text can cost minutes


def rows(
    view: View, record: Record, models: Models, config: ExportConfig = ExportConfig()
) -> list[Row]:
    """The rows that `record` has in `view`: none, one, or several.

    Every row has exactly the columns of the view. Text is carried as it is.
    """
    if view in ("verdicts", "scenarios"):
        return list(_ROWS[view](record, models))
    if view == "dialogues" and record.dialogue is not None:
        return list(_dialogues(record, models, config))
    if config.exclude and not {flag.rule for flag in flags_of(record)}.isdisjoint(config.exclude):
        return []
    return list(_ROWS[view](record, models))


def flags_of(record: Record) -> tuple[Flag, ...]:
    """What is wrong with a record's dialogue; nothing if there is none."""
    if record.dialogue is None:
        return ()
    return flags(record.dialogue, record.plan, record.scenario.principles)


def final(record: Record) -> Revision | None:
    """The last revision that was not refused on sight: the one that stands."""
    return next((r for r in reversed(record.revisions) if not r.fault), None)


def similarity(a: str, b: str) -> float:
    """2 x length of the longest common subsequence of words / number of words in both.

    Exact, and fast enough for any turn: the row of the classical table is one integer
    (Hyyrö 2004), so a step costs a few big-integer operations instead of a loop.
    """
    ours, theirs = (_WORD.findall(text)[:_MOST_WORDS] for text in (a, b))
    if not ours and not theirs:
        return 1.0
    places: dict[str, int] = {}
    for i, word in enumerate(ours):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(ours)) - 1
    row = full
    for word in theirs:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    common = len(ours) - row.bit_count()
    return 2 * common / (len(ours) + len(theirs))


def _preference(record: Record, models: Models) -> Iterator[Row]:
    dialogue, critique = record.dialogue, record.critique
    if not (dialogue and critique):
        return
    for pair in record.pairs:
        changed = change(dialogue.utterance, pair.chosen)
        yield {
            "prompt": _chat(dialogue.messages[:-1]),
            "chosen": _chat([Message("assistant", pair.chosen)]),
            "rejected": _chat(dialogue.messages[-1:]),
            **_identity(record),
            "kind": pair.kind,
            "domain": record.scenario.domain,
            "strategy": record.scenario.strategy,
            "violation_ids": list(critique.violations),
            "similarity": similarity(dialogue.utterance, pair.chosen),
            "edit_distance": changed.edit_distance,
            "length_delta": changed.length_delta,
            "margin": _margin(critique, pair.critique),
            "doubts": _doubts(record) if pair.kind == "revision" else [],
        }


def _margin(rejected: Critique, chosen: Critique | None) -> float | None:
    """How much surer the critics are of the violations in the rejected turn than in the chosen."""
    after = {v.principle: v.probability for v in chosen.verdicts} if chosen else {}
    gaps = [
        v.probability - later
        for v in rejected.verdicts
        if v.confirmed and v.probability is not None
        if (later := after.get(v.principle)) is not None
    ]
    return sum(gaps) / len(gaps) if gaps else None


def _doubts(record: Record) -> list[str]:
    revision = final(record)
    return list(revision.doubts) if revision else []


def _dialogues(
    record: Record, models: Models, config: ExportConfig = ExportConfig()
) -> Iterator[Row]:
    scenario, plan, dialogue = record.scenario, record.plan, record.dialogue
    if dialogue is None:
        return
    found = flags_of(record)
    broken, intact = sorted({flag.rule for flag in found}), good(dialogue, found)
    kept = 2 * intact if config.cut else len(dialogue.messages)
    if not kept or not set(broken).isdisjoint(config.exclude):
        return
    brief = [Message("system", plan.text)] if plan else []
    yield {
        **_topic(record),
        "messages": _chat([*brief, *dialogue.messages[:kept]]),
        "is_violation": dialogue.self_flagged,
        "is_truncated": dialogue.stop in _EARLY,
        **_identity(record),
        "field": scenario.field,
        "principle_ids": [p.id for p in scenario.principles],
        "goal_id": scenario.goal.id,
        "goal_kind": scenario.goal.kind,
        "protocol": dialogue.protocol,
        "strategy": scenario.strategy,
        "stop_reason": dialogue.stop,
        "exchanges": dialogue.exchanges,
        "planned_exchanges": len(plan.steps) if plan else scenario.exchanges,
        "intended_violation": dialogue.stop == "completed",
        "self_flagged_violation": dialogue.self_flagged,
        "confirmed_violation": bool(record.critique.violations) if record.critique else None,
        "flags": broken,
        "good_exchanges": intact,
        "outcome": record.outcome,
        "rule": record.rule or None,
        "model": models["agent"],
    }


def _revisions(record: Record, models: Models) -> Iterator[Row]:
    dialogue, critique, revision = record.dialogue, record.critique, final(record)
    if not (dialogue and critique and critique.violations and revision):
        return
    texts = _texts(record)
    found = [v for v in critique.verdicts if v.confirmed]
    yield {
        "messages": _chat(dialogue.messages),
        **_topic(record),
        "plan": record.plan.text if record.plan else "",
        "critique": "\n\n".join(_paragraph(v, texts[v.principle]) for v in found),
        "violations": [texts[v.principle] for v in found],
        "revision": revision.text,
        **_identity(record),
        "field": record.scenario.field,
        "violation_ids": [v.principle for v in found],
        "severity": [v.severity for v in found],
        "quotes": [v.quote for v in found],
        "reasons": [v.reason for v in found],
        "rounds": len(record.revisions),
        "verified": any(p.kind == "revision" and p.critique is not None for p in record.pairs),
        "model_agent": models["agent"],
        "model_critic": models["critic"],
        "model_reviser": models["reviser"],
    }


def _verdicts(record: Record, models: Models) -> Iterator[Row]:
    texts = _texts(record)
    judged: list[tuple[str, int, Critique | None]] = [("original", 0, record.critique)]
    judged += [("candidate", k, c.critique) for k, c in enumerate(record.candidates, 1)]
    judged += [("earlier", k, critique) for k, critique in enumerate(record.earlier, 1)]
    judged += [("revision", k, r.recheck) for k, r in enumerate(record.revisions, 1)]
    for turn, number, critique in judged:
        for verdict in (*critique.votes, *critique.verdicts) if critique else ():
            yield {
                **_identity(record),
                "turn": turn,
                "round": number,
                "critic": verdict.critic or None,
                "principle_id": verdict.principle,
                "principle": texts[verdict.principle],
                "violated": verdict.violated,
                "severity": verdict.severity,
                "quote": verdict.quote,
                "grounded": verdict.grounded,
                "confirmed": verdict.confirmed,
                "probability": verdict.probability,
                "reason": verdict.reason,
            }


def _scenarios(record: Record, models: Models) -> Iterator[Row]:
    scenario, failure = record.scenario, record.failure
    costs = StageUse.__struct_fields__
    yield {
        **_identity(record),
        "field": scenario.field,
        "domain": scenario.domain,
        "subarea": scenario.subarea,
        "goal_id": scenario.goal.id,
        "principle_ids": [p.id for p in scenario.principles],
        "exchanges": scenario.exchanges,
        "strategy": scenario.strategy,
        "outcome": record.outcome,
        "rule": record.rule or None,
        "failed_step": failure.step if failure else None,
        "failed_cause": failure.cause if failure else None,
        "failed_raw": failure.raw if failure else None,
        **{name: sum(getattr(use, name) for use in record.use.values()) for name in costs},
    }


_ROWS: dict[View, Callable[[Record, Models], Iterator[Row]]] = {
    "preference": _preference,
    "dialogues": _dialogues,
    "revisions": _revisions,
    "verdicts": _verdicts,
    "scenarios": _scenarios,
}


def _identity(record: Record) -> Row:
    return {"id": record.scenario.id, "index": record.scenario.index}


def _topic(record: Record) -> Row:
    """The published columns on what a dialogue is about."""
    scenario = record.scenario
    return {
        "domain": scenario.domain,
        "subarea": scenario.subarea,
        "principle": [p.text for p in scenario.principles],
        "goal": scenario.goal.text,
    }


def _texts(record: Record) -> dict[str, str]:
    return {p.id: p.text for p in record.scenario.principles}


def _chat(messages: Iterable[Message]) -> list[Row]:
    return [{"content": m.content, "role": m.role} for m in messages]


def _paragraph(verdict: Verdict, principle: str) -> str:
    severity = f" ({verdict.severity})" if verdict.severity else ""
    return f"Violated{severity}: {principle}\nQuote: {verdict.quote}\nReason: {verdict.reason}"
