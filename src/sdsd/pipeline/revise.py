"""Revise: rewrite the agent's last reply so that it no longer violates what the critique found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdsd.config import ReviseConfig
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.text import parsing
from sdsd.types import AskFn, Card, Completion, Message, Principle, Request, Verdict


def with_why(principle: Principle, cards: Mapping[str, Card]) -> str:
    """Return a principle and, if its card says so, why it matters."""
    why = cards[principle.id].why if principle.id in cards else ""
    return f"{principle.text} {why}".rstrip()


def critique_text(
    verdicts: Sequence[Verdict], principles: Mapping[str, Principle], cards: Mapping[str, Card]
) -> str:
    """Return verdicts as the reviser reads them: a line each with principle, reason, quotation."""
    return "\n".join(
        f'- "{with_why(principles[v.principle], cards)}" {v.reason}'
        + (f' Offending words: "{v.quote}"' if v.grounded and v.quote else "")
        for v in verdicts
    )


async def write_revision(
    messages: tuple[Message, ...], ask: AskFn, step: str, config: ReviseConfig, attempts: int
) -> str:
    """Return the new reply, in complete sentences.

    messages  a review chat that ends with the reviser's task

    Remarks before the new reply are cut off together with its label. Raises
    `StageFailed`.
    """
    request = Request(
        role="reviser",
        messages=messages,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        purpose="revision",
    )

    def read(completion: Completion) -> str:
        complete = completion.finish == "stop"
        text = completion.text if complete else parsing.complete_sentences(completion.text)
        return parsing.revision(text)

    return await ask_until_parsed(ask, step, request, read, attempts)
