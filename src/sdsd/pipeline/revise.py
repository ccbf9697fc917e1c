"""Revise: write the agent's last turn anew, without what the critique found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdsd.config import ReviseConfig
from sdsd.pipeline.retry import parsed
from sdsd.text import parsing
from sdsd.types import AskFn, Completion, Message, Principle, Request, Verdict


def faults(verdicts: Sequence[Verdict], principles: Mapping[str, Principle]) -> str:
    """The verdicts as the reviser reads them, and as the published `critique` column."""
    return "\n".join(
        f'- "{principles[v.principle].text}" {v.reason}'
        + (f' Offending words: "{v.quote}"' if v.grounded else "")
        for v in verdicts
    )


async def write_revision(
    messages: tuple[Message, ...],
    ask: AskFn,
    step: str,
    config: ReviseConfig,
    attempts: int,
) -> str:
    """The new turn, in whole sentences. `messages` end in the reviser's task (`critique.Case`).

    What a reviser remarks before its new turn is cut off with the turn's label."""
    request = Request(
        role="reviser",
        purpose="revision",
        messages=messages,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
    )

    def read(completion: Completion) -> str:
        whole = completion.finish == "stop"
        return parsing.revision(
            completion.text if whole else parsing.complete_sentences(completion.text)
        )

    return await parsed(ask, step, request, read, attempts)
