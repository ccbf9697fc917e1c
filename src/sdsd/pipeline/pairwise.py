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
_ANSWER = re.compile(r"\A\W*+(?:reply\s\W*+)?([AB])\b", re.IGNORECASE)


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
    said: list[float] = []
    for number, (first, second) in enumerate((replies, replies[::-1]), 1):
        question = prompts.fill(
            "compare",
            conversation=labelled(conversation),
            first=first,
            second=second,
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
        said.append(await ask_until_parsed(ask, f"{step}/{number}", request, _said_of_b, attempts))
    as_b, as_a = said
    return (as_b + 1 - as_a) / 2


def _said_of_b(completion: Completion) -> float:
    """Return the probability that the reply shown as B is said to violate the principle."""
    if (known := completion.choice_probs.get("b")) is not None:
        return known
    answer = _ANSWER.match(parsing.readable(completion.text))
    if answer is None:
        raise Unparseable("neither A nor B")
    return float(answer[1].casefold() == "b")
