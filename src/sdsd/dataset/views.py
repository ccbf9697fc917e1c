"""Rows of a data set, made of finished dialogues. Pure: one record in, its rows out.

The columns and their meanings are in `sdsd.dataset.schema`; `sdsd.dataset.selection` decides what
stays, and never lets pass what spoils training. So these laws hold:

* a prompt alternates, begins and ends on a user turn, and holds no system turn;
* what is to be learnt is one assistant turn, and not blank;
* chosen and rejected differ, and no turn is called both good and bad;
* nothing is held up as good that the critic was not asked about, or found a fault in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from sdsd.checks.dialogue_rules import good
from sdsd.checks.revision_rules import change
from sdsd.config import ExportConfig
from sdsd.dataset import measures
from sdsd.dataset.schema import AUDITING, View
from sdsd.dataset.selection import Choice, Removal, unusable
from sdsd.types import Critique, Dialogue, Message, Pair, Record, StageUsage, Verdict

Row = dict[str, Any]
Models = Mapping[str, str]
"""Names of models by role, as in `Manifest.models`."""

_EARLY = ("early_end", "violation_end")


def rows(
    view: View,
    record: Record,
    models: Models,
    config: ExportConfig = ExportConfig(),
    choice: Choice | None = None,
) -> list[Row]:
    """The rows that `record` has in `view`: none, one, or several.

    Without a `choice` all of it stays but what is `unusable`. Every row has exactly the columns of
    the view. Text is carried as it is.
    """
    return list(_ROWS[view](_taken(view, record, models, config, choice)))


class _Taken(NamedTuple):
    """A record, and of it what the view at hand may use."""

    record: Record
    models: Models
    config: ExportConfig
    choice: Choice
    dialogue: Dialogue | None
    """None as well where it is left out."""

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that stay."""
        if self.dialogue is None:
            return []
        numbered = enumerate(self.record.pairs)
        return [pair for number, pair in numbered if number not in self.choice.pairs]


def _taken(
    view: View, record: Record, models: Models, config: ExportConfig, choice: Choice | None
) -> _Taken:
    if choice is None:  # flags are dear, and only one view shows them
        flags = measures.flags(record) if view == "dialogues" else ()
        choice = replace(unusable(record), flags=flags)
    stays = view in AUDITING or choice.gone is None
    return _Taken(record, models, config, choice, record.dialogue if stays else None)


# --- pairs ----------------------------------------------------------------------------------------


def _preference(taken: _Taken) -> Iterator[Row]:
    record, dialogue, critique = taken.record, taken.dialogue, taken.record.critique
    if not (dialogue and critique):
        return
    for pair in taken.pairs:
        changed = change(dialogue.utterance, pair.chosen)
        yield {
            "prompt": _chat(dialogue.messages[:-1]),
            "chosen": _chat([_reply(pair.chosen)]),
            "rejected": _chat(dialogue.messages[-1:]),
            **_identity(record),
            "kind": pair.kind,
            "domain": record.scenario.domain,
            "strategy": record.scenario.strategy,
            "violation_ids": list(critique.violations),
            "similarity": measures.similarity(dialogue.utterance, pair.chosen),
            "edit_distance": changed.edit_distance,
            "length_delta": changed.length_delta,
            "critic_margin": measures.margin(critique, pair.critique),
            "warnings": list(measures.doubts(record, pair)),
        }


def _implicit(taken: _Taken) -> Iterator[Row]:
    record, dialogue, critique = taken.record, taken.dialogue, taken.record.critique
    if not (dialogue and critique):
        return
    for pair in taken.pairs:
        yield {
            "chosen": _chat([*dialogue.messages[:-1], _reply(pair.chosen)]),
            "rejected": _chat(dialogue.messages),
            **_identity(record),
            "kind": pair.kind,
            "domain": record.scenario.domain,
            "strategy": record.scenario.strategy,
            "violation_ids": list(critique.violations),
        }


# --- single turns ---------------------------------------------------------------------------------


def _good(taken: _Taken) -> list[tuple[str, str]]:
    """The last turns that the critic found nothing in: source and text."""
    if taken.dialogue and taken.record.critique and taken.record.critique.clean:
        return [("clean", taken.dialogue.utterance)]
    return [(pair.kind, pair.chosen) for pair in taken.pairs if pair.critique is not None]


def _sft(taken: _Taken) -> Iterator[Row]:
    record, dialogue = taken.record, taken.dialogue
    found = _good(taken)
    if not (dialogue and found) or any(
        critique.violations for critique in record.earlier_critiques
    ):
        return  # trainers learn every assistant turn, not only the last
    source, text = found[0]
    plan = record.plan.text if record.plan and taken.config.include_plan else ""
    brief = [Message("system", plan)] if plan.strip() else []
    yield {
        "messages": _chat([*brief, *dialogue.messages[:-1], _reply(text)]),
        **_identity(record),
        "domain": record.scenario.domain,
        "field": record.scenario.field,
        "strategy": record.scenario.strategy,
        "source": source,
    }


def _kto(taken: _Taken) -> Iterator[Row]:
    record, dialogue = taken.record, taken.dialogue
    if not dialogue:
        return
    labelled = [(source, text, True) for source, text in _good(taken)]
    if record.critique and record.critique.violations:
        labelled.append(("broken", dialogue.utterance, False))
    for source, text, label in labelled:
        yield {
            "prompt": _chat(dialogue.messages[:-1]),
            "completion": _chat([_reply(text)]),
            "label": label,
            **_identity(record),
            "domain": record.scenario.domain,
            "strategy": record.scenario.strategy,
            "source": source,
        }


# --- dialogues, revisions -------------------------------------------------------------------------


def _dialogues(taken: _Taken) -> Iterator[Row]:
    record, dialogue, found = taken.record, taken.dialogue, taken.choice.flags
    scenario, plan = record.scenario, record.plan
    if dialogue is None:
        return
    broken, intact = sorted({flag.rule for flag in found}), good(dialogue, found)
    kept = 2 * intact if taken.config.truncate else len(dialogue.messages)
    if not kept:
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
        "warnings": broken,
        "clean_exchanges": intact,
        "plan_adherence": list(record.plan_adherence),
        "outcome": record.outcome,
        "rule": record.rule or None,
        "model": taken.models["agent"],
    }


def _revisions(taken: _Taken) -> Iterator[Row]:
    record, dialogue, critique = taken.record, taken.dialogue, taken.record.critique
    revision = measures.final(record)
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
        "model_agent": taken.models["agent"],
        "model_critic": taken.models["critic"],
        "model_reviser": taken.models["reviser"],
    }


# --- verdicts -------------------------------------------------------------------------------------

_INSTRUCTION = """\
A person talks with an AI assistant.

{talk}

The assistant's next reply:

{reply}

A principle that replies should keep: {principle}

Does this reply break the principle? Answer with one JSON object: "reason" (one sentence), "quote" \
(the words of the reply that break it, copied exactly, or empty), "violated" (true or false) and \
"severity" ("low", "medium", "high", or null where nothing is broken)."""
_SPEAKERS = {"user": "PERSON", "assistant": "ASSISTANT", "system": "SYSTEM"}


class _Judged(NamedTuple):
    """A reply and what was said of it."""

    turn: str
    round: int
    before: tuple[Message, ...]
    reply: str
    critique: Critique


def _judged(record: Record) -> Iterator[_Judged]:
    """Every critique of a record, in the order of the view `verdicts`."""
    if record.dialogue is None:
        return
    messages = record.dialogue.messages
    before, last = messages[:-1], record.dialogue.utterance
    if record.critique:
        yield _Judged("original", 0, before, last, record.critique)
    for k, candidate in enumerate(record.candidates, 1):
        yield _Judged("candidate", k, before, candidate.text, candidate.critique)
    for k, critique in enumerate(record.earlier_critiques, 1):
        yield _Judged("earlier", k, messages[: 2 * k - 1], messages[2 * k - 1].content, critique)
    for k, revision in enumerate(record.revisions, 1):
        if revision.recheck:
            yield _Judged("revision", k, before, revision.text, revision.recheck)


def _critique(taken: _Taken) -> Iterator[Row]:
    texts = _texts(taken.record)
    seen: set[tuple[int, str]] = set()
    for judged in _judged(taken.record) if taken.dialogue else ():
        reply = judged.reply.strip()
        if not reply or (len(judged.before), reply) in seen:
            continue  # a question has one answer, the first
        seen.add((len(judged.before), reply))
        for verdict in judged.critique.verdicts:
            if verdict.violated and not verdict.grounded:
                continue
            yield {
                "prompt": _chat([_question(judged, texts[verdict.principle])]),
                "completion": _chat([_reply(_answer(verdict))]),
                **_identity(taken.record),
                "principle_id": verdict.principle,
                "violated": verdict.violated,
                "turn": judged.turn,
                "round": judged.round,
            }


def _question(judged: _Judged, principle: str) -> Message:
    talk = "\n\n".join(f"{_SPEAKERS[m.role]}: {m.content}" for m in judged.before)
    text = _INSTRUCTION.format(talk=talk, reply=judged.reply, principle=principle)
    return Message("user", text)


def _answer(verdict: Verdict) -> str:
    """A verdict as the instruction wants it; what critics add to an acquittal is left out."""
    said = {
        "reason": verdict.reason,
        "quote": verdict.quote if verdict.violated else "",
        "violated": verdict.violated,
        "severity": verdict.severity if verdict.violated else None,
    }
    return json.dumps(said, ensure_ascii=False)


def _verdicts(taken: _Taken) -> Iterator[Row]:
    texts = _texts(taken.record)
    for judged in _judged(taken.record):
        for verdict in (*judged.critique.votes, *judged.critique.verdicts):
            yield {
                **_identity(taken.record),
                "turn": judged.turn,
                "round": judged.round,
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


# --- what became of it ----------------------------------------------------------------------------


def _scenarios(taken: _Taken) -> Iterator[Row]:
    record, scenario, failure = taken.record, taken.record.scenario, taken.record.failure
    costs = StageUsage.__struct_fields__
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
        **{name: sum(getattr(use, name) for use in record.usage.values()) for name in costs},
    }


def _removed(taken: _Taken) -> Iterator[Row]:
    gone, pairs = taken.choice.gone, taken.choice.pairs
    found: list[tuple[str, int | None, Removal]] = [("dialogue", None, gone)] if gone else []
    if not gone:  # with its dialogue a pair is gone anyway
        found = [("pair", number, pairs[number]) for number in sorted(pairs)]
    for scope, number, removal in found:
        yield {
            **_identity(taken.record),
            "scope": scope,
            "pair": number,
            "rule": removal.rule,
            "detail": removal.detail,
        }


_ROWS: dict[View, Callable[[_Taken], Iterator[Row]]] = {
    "preference": _preference,
    "dialogues": _dialogues,
    "revisions": _revisions,
    "sft": _sft,
    "kto": _kto,
    "implicit": _implicit,
    "critique": _critique,
    "verdicts": _verdicts,
    "scenarios": _scenarios,
    "removed": _removed,
}


# --- pieces of rows -------------------------------------------------------------------------------


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


def _reply(text: str) -> Message:
    return Message("assistant", text)


def _chat(messages: Iterable[Message]) -> list[Row]:
    return [{"content": m.content, "role": m.role} for m in messages]


def _paragraph(verdict: Verdict, principle: str) -> str:
    severity = f" ({verdict.severity})" if verdict.severity else ""
    return f"Violated{severity}: {principle}\nQuote: {verdict.quote}\nReason: {verdict.reason}"
