"""Dialogues and revisions, in the columns of allenai/sdsd-dialogues and allenai/sdsd-revisions.

The published columns come first, so that code written for the published sets reads these.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from sdsd.checks.dialogue_rules import clean_exchanges
from sdsd.dataset import columns as c
from sdsd.dataset import measures
from sdsd.dataset.columns import Column
from sdsd.dataset.view import Row, Selected, View, chat
from sdsd.types import Message, Verdict

_TOPIC = (
    c.DOMAIN, c.SUBAREA,
    Column("principle", c.TEXTS, "Texts of the principles, the target principle first.",
           lambda r: [p.text for p in r.scenario.principles]),
    Column("goal", c.TEXT, "Text of the goal.", lambda r: r.scenario.goal.text),
)  # fmt: skip


def _dialogues(selected: Selected) -> Iterator[Row]:
    record, decision = selected.record, selected.decision
    # Where a warning keeps a dialogue from training, this view shows it, with the warning.
    dialogue = record.dialogue if decision.only_warned else selected.dialogue
    if dialogue is None:
        return
    plan, findings = record.plan, selected.decision.findings
    clean = clean_exchanges(dialogue, findings)
    length = 2 * clean if selected.config.truncate else len(dialogue.messages)
    if not length:
        return
    system = [Message("system", plan.text)] if plan else []
    yield {
        "messages": chat([*system, *dialogue.messages[:length]]),
        "is_violation": dialogue.self_flagged,
        "is_truncated": dialogue.stop in ("early_end", "violation_end"),
        "protocol": dialogue.protocol,
        "stop_reason": dialogue.stop,
        "exchanges": dialogue.exchanges,
        "planned_exchanges": len(plan.steps) if plan else record.scenario.exchanges,
        "intended_violation": dialogue.stop in ("completed", "skipped_ahead"),
        "self_flagged_violation": dialogue.self_flagged,
        "confirmed_violation": bool(record.critique.violations) if record.critique else None,
        "warnings": sorted({finding.rule for finding in findings}),
        "clean_exchanges": clean,
        "plan_adherence": list(record.plan_adherence),
        "model": selected.models["agent"],
    }


dialogues = View(
    "dialogues",
    "One row per generated dialogue, including those that were filtered or failed later, and those "
    "that `export.exclude` keeps out of the other views.",
    (
        *_TOPIC,
        Column("messages", c.CHAT, "The plan as `system`, then `user` and `assistant` in turn."),
        Column("is_violation", c.BOOL, "The speaking model reported a violation of its own; the "
               "same as `self_flagged_violation`."),
        Column("is_truncated", c.BOOL, "The conversation stopped early: `stop_reason` is "
               "`early_end` or `violation_end`."),
        c.ID, c.INDEX, c.FIELD, c.PRINCIPLE_IDS, c.GOAL_ID,
        Column("goal_kind", c.TEXT, "Kind of the goal.", lambda r: r.scenario.goal.kind),
        Column("protocol", c.TEXT, "`transcript`, `continuation`, `chat`, `roleplay`, or `given`."),
        c.STRATEGY,
        Column("stop_reason", c.TEXT, "`completed`, `skipped_ahead` (so, too, but without "
               "exchanges that could not be written), `early_end` (declared over before the "
               "planned last turn), `violation_end` (a violation ended it before), `turn_limit` "
               "or `token_limit`."),
        Column("exchanges", c.INT, "Exchanges (user turn and agent turn) that were generated."),
        Column("planned_exchanges", c.INT, "Exchanges in the plan."),
        Column("intended_violation", c.BOOL, "The planned last agent turn, meant to violate the "
               "target principle, was generated: `stop_reason` is `completed` or `skipped_ahead`."),
        Column("self_flagged_violation", c.BOOL, "The speaking model reported a violation."),
        Column("confirmed_violation", c.BOOL, "The critic found a violation and quoted it from the "
               "last turn; null if the dialogue was never critiqued."),
        Column("warnings", c.TEXTS, "Rules of `docs/quality.md` that the dialogue breaks."),
        Column("clean_exchanges", c.INT, "Exchanges before the first that breaks a rule: where it "
               "may be cut."),
        Column("plan_adherence", pa.list_(c.BOOL), "For each step of the plan, then for its "
               "planned violation, whether the critic sees it in the conversation; empty without "
               "`critique.adherence`."),
        c.OUTCOME, c.RULE,
        Column("model", c.TEXT, "The agent's model."),
    ),
    _dialogues,
    published=7,
)  # fmt: skip


def _revisions(selected: Selected) -> Iterator[Row]:
    record, dialogue, critique = selected.record, selected.dialogue, selected.record.critique
    revision = measures.final_revision(record)
    if not (dialogue and critique and critique.violations and revision):
        return
    texts = {p.id: p.text for p in record.scenario.principles}
    confirmed = [v for v in critique.verdicts if v.confirmed]
    yield {
        "messages": chat(dialogue.messages),
        "plan": record.plan.text if record.plan else "",
        "critique": "\n\n".join(_paragraph(v, texts[v.principle]) for v in confirmed),
        "violations": [texts[v.principle] for v in confirmed],
        "revision": revision.text,
        "severity": [v.severity for v in confirmed],
        "quotes": [v.quote for v in confirmed],
        "reasons": [v.reason for v in confirmed],
        "rounds": len(record.revisions),
        "verified": any(p.kind == "revision" and p.critique is not None for p in record.pairs),
        "model_agent": selected.models["agent"],
        "model_critic": selected.models["critic"],
        "model_reviser": selected.models["reviser"],
    }


def _paragraph(verdict: Verdict, principle: str) -> str:
    severity = f" ({verdict.severity})" if verdict.severity else ""
    return f"Violated{severity}: {principle}\nQuote: {verdict.quote}\nReason: {verdict.reason}"


revisions = View(
    "revisions",
    "One row per dialogue with a confirmed violation and a revision that was not refused.",
    (
        Column("messages", c.CHAT, "`user` and `assistant` in turn, without a system turn; ends in "
               "the agent's original last reply."),
        *_TOPIC,
        Column("plan", c.TEXT, "The plan's text."),
        Column("critique", c.TEXT, "The confirmed verdicts, a paragraph per violated principle."),
        Column("violations", c.TEXTS, "Texts of the violated principles; never empty."),
        Column("revision", c.TEXT, "The agent's last reply, rewritten."),
        c.ID, c.INDEX, c.FIELD, c.VIOLATION_IDS,
        Column("severity", c.TEXTS, "Per violation: `low`, `medium`, `high`, or null if not "
               "given."),
        Column("quotes", c.TEXTS, "Per violation: the words of the last reply that show it."),
        Column("reasons", c.TEXTS, "Per violation: the critic's reason."),
        Column("rounds", c.INT, "Revisions attempted, including refused ones."),
        Column("verified", c.BOOL, "The critic rechecked the revision and its pair was accepted."),
        Column("model_agent", c.TEXT, "The agent's model."),
        Column("model_critic", c.TEXT, "The critic's model."),
        Column("model_reviser", c.TEXT, "The reviser's model."),
    ),
    _revisions,
    published=9,
)  # fmt: skip
