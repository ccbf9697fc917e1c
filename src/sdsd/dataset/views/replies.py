"""Single replies: good ones to imitate, and good and bad ones with a label.

A reply is good only if the critic judged it and found no violation; no reply is labelled both good
and bad.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from sdsd.dataset import columns as c
from sdsd.dataset.columns import Column
from sdsd.dataset.view import Row, Selected, View, prompt, reply


def _good(selected: Selected) -> list[tuple[str, str]]:
    """Return source and text of the last replies in which the critic found no violation."""
    critique = selected.record.critique
    if selected.dialogue and critique and critique.clean:
        return [("clean", selected.dialogue.last_reply)]
    return [(pair.kind, pair.chosen) for pair in selected.pairs if pair.critique is not None]


def _sft(selected: Selected) -> Iterator[Row]:
    record, dialogue = selected.record, selected.dialogue
    good = _good(selected)
    if not (dialogue and good) or any(c.violations for c in record.earlier_critiques):
        return  # trainers learn every assistant turn, not only the last one
    source, text = good[0]
    plan = record.plan.text if record.plan and selected.config.include_plan else ""
    if plan.strip():
        dialogue = replace(dialogue, system=plan)
    yield {
        "messages": [*prompt(dialogue), *reply(text)],
        "source": source,
    }


sft = View(
    "sft",
    "One row per dialogue with a good last reply, original or not, for supervised fine-tuning.",
    (
        Column("messages", c.CHAT, "`user` and `assistant` turns, ending in an assistant turn in "
               "which the critic found no violation; first the system prompt, if the dialogue has "
               "one, or with `export.include_plan` the plan, as `system`."),
        c.ID, c.INDEX, c.DOMAIN, c.FIELD, c.STRATEGY,
        Column("source", c.TEXT, "The last turn is the original (`clean`), or the `chosen` of the "
               "dialogue's first pair (`revision` or `on_policy`)."),
    ),
    _sft,
)  # fmt: skip


def _kto(selected: Selected) -> Iterator[Row]:
    dialogue, critique = selected.dialogue, selected.record.critique
    if not dialogue:
        return
    labelled = [(source, text, True) for source, text in _good(selected)]
    if critique and critique.violations:
        labelled.append(("violation", dialogue.last_reply, False))
    for source, text, label in labelled:
        yield {
            "prompt": prompt(dialogue),
            "completion": reply(text),
            "label": label,
            "source": source,
        }


kto = View(
    "kto",
    "One row per last reply with a label, good or bad: unpaired preferences in TRL's KTO format.",
    (
        Column("prompt", c.CHAT, "All turns before the agent's last reply; first the system "
               "prompt, if the dialogue has one."),
        Column("completion", c.CHAT, "One assistant turn."),
        Column("label", c.BOOL, "True: the critic found no violation. False: one is confirmed."),
        c.ID, c.INDEX, c.DOMAIN, c.STRATEGY,
        Column("source", c.TEXT, "The turn is the `chosen` of a pair (`revision` or `on_policy`), "
               "or the original (`clean` or `violation`)."),
    ),
    _kto,
)  # fmt: skip
