"""Revise: write the agent's last turn anew, without what the critique found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdsd import parse
from sdsd.config import ReviseConfig
from sdsd.reask import parsed
from sdsd.types import AskFn, Message, Principle, Request, Verdict


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
    """The new turn. `messages` end in the reviser's task (see `sdsd.stages.critique.Case`)."""
    request = Request(
        role="reviser",
        messages=messages,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
    )
    return await parsed(ask, step, request, lambda c: parse.revision(c.text), attempts)
