"""Verified pairs, in the two formats that TRL reads. Chosen and rejected always differ."""

from __future__ import annotations

from collections.abc import Iterator

from sdsd.dataset import columns as c
from sdsd.dataset import measures
from sdsd.dataset.columns import Column
from sdsd.dataset.view import Row, Selected, View, prompt, reply

_KIND = Column("kind", c.TEXT, "`contrast`: both replies were sampled for the same conversation, "
               "one told to satisfy the principle, one to violate it. `revision`: chosen is the "
               "original, rewritten. `on_policy`: it is another sample for the same prompt, "
               "without a violation.")  # fmt: skip


def _preference(selected: Selected) -> Iterator[Row]:
    record, dialogue, critique = selected.record, selected.dialogue, selected.record.critique
    if not (dialogue and critique):
        return
    original = dialogue.last_reply
    for pair in selected.pairs:
        yield {
            "prompt": prompt(dialogue),
            "chosen": reply(pair.chosen),
            "rejected": reply(original),
            "kind": pair.kind,
            "similarity": measures.similarity(original, pair.chosen),
            "edit_distance": measures.edit_distance(original, pair.chosen),
            "length_delta": len(pair.chosen) - len(original),
            "critic_margin": measures.critic_margin(critique, pair.critique),
            "contrast_margin": measures.contrast_margin(critique, pair.critique),
            "probability": pair.probability,
            "verified_by": list(pair.verified_by),
            "warnings": list(measures.revision_warnings(record, pair)),
        }


preference = View(
    "preference",
    "One row per verified pair; a dialogue may have several. TRL's explicit, conversational "
    "preference format.",
    (
        Column("prompt", c.CHAT, "All turns before the agent's last reply; first the system "
               "prompt, if the dialogue has one."),
        Column("chosen", c.CHAT, "One assistant turn that satisfies the principles."),
        Column("rejected", c.CHAT, "One assistant turn: the original, which violates a principle."),
        c.ID, c.INDEX, _KIND, c.DOMAIN, c.STRATEGY, c.VIOLATION_IDS,
        Column("similarity", c.REAL, "Share of both turns' words that they have in common, in "
               "order (2 x longest common subsequence / words of both): 0 to 1, 1 for the same "
               "turn."),
        Column("edit_distance", c.REAL, "Levenshtein distance of the turns in words, over the "
               "words of the longer one: 0 to 1, 0 for the same turn."),
        Column("length_delta", c.LONG, "Characters of the chosen turn minus the rejected one."),
        Column("critic_margin", c.REAL, "How much more probable the critic's model found the "
               "violations in the rejected turn than in the chosen one, averaged over the "
               "violations; null if the server returns no probabilities."),
        Column("contrast_margin", c.REAL, "Likelihood contrast of the chosen turn minus that of "
               "the rejected one, in nats, for the target principle; null if not measured."),
        Column("probability", c.REAL, "Probability that the pair is true, by the critic's exam: "
               "that the rejected turn violates the target principle and the chosen one does not; "
               "null without an exam."),
        Column("verified_by", c.TEXTS, "The signals that confirm the pair: `verdict`, `contrast`, "
               "`program`; empty if no critic can be trusted to."),
        Column("warnings", c.TEXTS, "Rules of `docs/quality.md` that the revision breaks without "
               "being refused, e.g. `lost_facts`."),
    ),
    _preference,
)  # fmt: skip


def _implicit(selected: Selected) -> Iterator[Row]:
    dialogue = selected.dialogue
    if not dialogue:
        return
    for pair in selected.pairs:
        yield {
            "chosen": [*prompt(dialogue), *reply(pair.chosen)],
            "rejected": [*prompt(dialogue), *reply(dialogue.last_reply)],
            "kind": pair.kind,
        }


implicit = View(
    "implicit",
    "The pairs of `preference`, each side a complete conversation: TRL's implicit, conversational "
    "preference format.",
    (
        Column("chosen", c.CHAT, "The conversation, ending in a turn that satisfies the "
               "principles."),
        Column("rejected", c.CHAT, "The same conversation, ending in the original last turn."),
        c.ID, c.INDEX, _KIND, c.DOMAIN, c.STRATEGY, c.VIOLATION_IDS,
    ),
    _implicit,
)  # fmt: skip
