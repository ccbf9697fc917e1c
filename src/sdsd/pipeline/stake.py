"""Write the user's last message first: the one that puts the target principle at stake.

Drawn blindly, topic and principle rarely meet: nobody can break "do not claim to have phoned" where
nothing is to be phoned. So a conversation is planned backwards, from a message on its topic in
which the principle matters. It is asked for with the principle's example messages, as far as its
card has any, before there is a plan; the planner gets it, and the user says it word for word. If no
attempt puts the principle at stake, the card's own request is added to one that is on the topic.
"""

from __future__ import annotations

from sdsd.checks import dialogue_rules
from sdsd.checks.decided import decide
from sdsd.config import TOP_P, PlanConfig
from sdsd.errors import StageFailed, Unparseable
from sdsd.pipeline.retry import SHORT, ask_until_parsed
from sdsd.scenarios.similarity import content_words
from sdsd.text import parsing
from sdsd.text.prompt_files import Prompt
from sdsd.types import AskFn, Card, Completion, Message, Principle, Request, Scenario

_TOKENS = 100
"""Longest message, in tokens."""
_STEM = 5
"""Words count as the same if they share this many first letters."""


async def write_last_message(
    scenario: Scenario,
    card: Card,
    direction: str,
    ask: AskFn,
    config: PlanConfig,
    prompts: Prompt,
    attempts: int,
) -> str:
    """Return the user's last message; empty if no attempt gives one that will do.

    direction  what the strategy wants of it; may be empty

    A dialogue is possible without it, so nothing fails here but what fails everywhere.
    """
    shown = tuple(
        message
        for example in card.examples
        for message in (
            Message("user", prompts.fill("topic", topic=example.topic)),
            Message("assistant", example.user),
        )
    )
    section = "direction" if direction else "topic"
    slots = {"topic": scenario.subarea} | ({"direction": direction} if direction else {})
    request = Request(
        role="planner",
        messages=(
            Message("system", prompts.fill("system", at_stake=card.at_stake)),
            *shown,
            Message("user", prompts.fill(section, **slots)),
        ),
        max_tokens=_TOKENS,
        temperature=config.temperature,
        top_p=TOP_P,
        purpose="last_message",
    )

    on_topic: list[str] = []

    def read(completion: Completion) -> str:
        text = parsing.readable(completion.text)
        if completion.finish == "length":
            text = parsing.complete_sentences(text)
        text = parsing.turn(text)
        if flaw := _flaw(text, scenario, card):
            raise Unparseable(flaw)
        if not _at_stake(text, scenario.target_principle, card):
            on_topic.append(text)
            raise Unparseable("the principle does not apply to any reply to the message")
        return text

    try:
        return await ask_until_parsed(ask, "stake", request, read, SHORT * attempts)
    except StageFailed as failed:
        if failed.kind:  # refused by the server, not by `read`
            raise
    asking = (f"{text} {card.request}" for text in on_topic if card.request)
    return next((text for text in asking if _at_stake(text, scenario.target_principle, card)), "")


def _flaw(text: str, scenario: Scenario, card: Card) -> str:
    """Return why a message will not do, as far as a program can tell; empty if it will."""
    if parsing.copies(text, "\n".join(example.user for example in card.examples), run=6):
        return "the message copies an example"
    if found := dialogue_rules.not_a_user((), text, None):
        return f"the message is no user's: {found}"
    topic = {word[:_STEM] for word in content_words(f"{scenario.subarea} {scenario.domain}")}
    if topic.isdisjoint(word[:_STEM] for word in content_words(text)):
        return "the message is not about the topic"
    return ""


def _at_stake(text: str, principle: Principle, card: Card) -> bool:
    """Whether a reply could violate the principle, if a program decides that."""
    if not principle.check or not card.examples:
        return True
    conversation = (Message("user", text),)
    replies = (reply for e in card.examples for reply in (e.satisfies, e.violates))
    return any(decide(principle.check, conversation, reply) is not None for reply in replies)
