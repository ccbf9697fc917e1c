"""Pairwise judgement: which of two replies to the same message violates a principle.

Models prefer a position, so the question is asked in both orders and the mean is taken (as in
Zheng et al., arXiv 2306.05685). A model that answers by position alone ends at one half.
"""

from __future__ import annotations

import re

from sdsd.errors import Unparseable
from sdsd.pipeline.critique import labelled
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.text import parsing
from sdsd.text.prompt_files import Prompt
from sdsd.types import AskFn, Completion, Message, Principle, Request

_LETTERS = ("a", "b")
_ANSWER = re.compile(r"\W*(?:reply\s+)?\W*([AB])\b", re.IGNORECASE)


async def violates_more(
    conversation: tuple[Message, ...],
    replies: tuple[str, str],
    principle: Principle,
    ask: AskFn,
    step: str,
    prompts: Prompt,
    attempts: int,
) -> float:
    """Return the probability that the second of two replies is said to violate the principle.

    prompts  the prompt file `pairwise`

    The mean over both orders; 0, a half or 1 if the server gives no probabilities of the answer's
    token. Two requests, `step`/1 and `step`/2. Raises `StageFailed`.
    """
    first, second = replies
    as_b = await _said_of_b(conversation, (first, second), principle, ask, f"{step}/1", prompts,
                            attempts)  # fmt: skip
    as_a = await _said_of_b(conversation, (second, first), principle, ask, f"{step}/2", prompts,
                            attempts)  # fmt: skip
    return (as_b + 1 - as_a) / 2


async def _said_of_b(
    conversation: tuple[Message, ...],
    replies: tuple[str, str],
    principle: Principle,
    ask: AskFn,
    step: str,
    prompts: Prompt,
    attempts: int,
) -> float:
    """Return the probability that the reply shown as B is said to violate the principle."""
    question = prompts.fill(
        "compare",
        conversation=labelled(conversation),
        first=replies[0],
        second=replies[1],
        principle=principle.text,
    )
    request = Request(
        role="critic",
        messages=(Message("system", prompts.fill("system")), Message("user", question)),
        max_tokens=8,
        temperature=0.0,
        choices=_LETTERS,
        purpose="verdict",
    )

    def read(completion: Completion) -> float:
        if (known := completion.choice_probs.get("b")) is not None:
            return known
        answer = _ANSWER.match(parsing.readable(completion.text))
        if answer is None:
            raise Unparseable("neither A nor B")
        return float(answer[1].casefold() == "b")

    return await ask_until_parsed(ask, step, request, read, attempts)
