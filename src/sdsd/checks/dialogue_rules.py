"""Rules on a finished dialogue that need no model: signs that make a reader distrust the data.

Each rule (`sdsd.checks.rules`) is precise rather than complete: a miss is left to human review, a
false alarm costs a good dialogue. The phrases that rules look for are English; on other languages
those rules stay silent. Text in quotation marks, code or addresses is not the speaker's own and is
not searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from sdsd.checks.dialogue_text import DialogueText, read_dialogue
from sdsd.checks.rules import CHECKS, PREDICATES, RULES
from sdsd.types import Dialogue, Message, Plan, Principle

QualityCheck = Callable[[Dialogue, Plan | None], Iterable[int]]
"""A user-defined rule: yields the index of each message that breaks it, or -1 for the dialogue."""


class Finding(Struct, frozen=True):
    """A turn, or a whole dialogue, that breaks a rule."""

    rule: str
    turn: int
    """Index into the dialogue's messages; -1 for the dialogue as a whole."""


def find(
    dialogue: Dialogue,
    plan: Plan | None,
    principles: tuple[Principle, ...],
    checks: Mapping[str, QualityCheck] = {},
    about: tuple[str, ...] = (),
) -> tuple[Finding, ...]:
    """Return every rule that a dialogue breaks, by turn and then in the order of `RULES`.

    checks  user-defined rules by name; they come after the packaged ones
    about   the scenario's domain and subarea
    """
    text = read_dialogue(dialogue.messages, plan, principles, about)
    found = [Finding(rule, k) for rule, check in CHECKS.items() for k in check(text)]
    for rule, user_check in checks.items():
        found += [Finding(rule, k) for k in sorted(set(user_check(dialogue, plan)))]
    return tuple(sorted(found, key=lambda finding: finding.turn))


NOT_A_USER = (
    "echo", "garbled", "loop", "marker", "placeholder", "plan_leak", "role_flip", "self_thanks",
    "speaker_label", "third_person", "user_refusal",
)  # fmt: skip
"""Rules that show that a turn is not one that a user writes."""
NOT_AN_AGENT = ("third_person", "echo", "loop")
"""Rules that show that a turn is not one that an assistant writes."""


def not_a_user(conversation: tuple[Message, ...], text: str, plan: Plan | None) -> str:
    """Return what shows that no user says `text` next; empty if a user might."""
    return _first_broken(NOT_A_USER, (*conversation, Message("user", text)), plan)


def not_an_agent(conversation: tuple[Message, ...], text: str, plan: Plan | None) -> str:
    """Return what shows that no assistant says `text` next; empty if one might."""
    return _first_broken(NOT_AN_AGENT, (*conversation, Message("assistant", text)), plan)


def _first_broken(rules: Sequence[str], messages: tuple[Message, ...], plan: Plan | None) -> str:
    """Return what the first of the rules finds that the last turn breaks; empty if none."""
    whole = read_dialogue(messages, plan, ())
    return next((RULES[rule] for rule in rules if _breaks_last(rule, whole)), "")


def _breaks_last(rule: str, whole: DialogueText) -> bool:
    """Whether the last turn breaks a rule."""
    last = whole.turns[-1]
    if breaks := PREDICATES.get(rule):
        return breaks(last, whole)
    return last.index in CHECKS[rule](whole)


def clean_exchanges(dialogue: Dialogue, findings: Sequence[Finding]) -> int:
    """Return how many exchanges precede the first finding: where a dialogue may be cut."""
    first = min((finding.turn for finding in findings), default=len(dialogue.messages))
    return max(first, 0) // 2
