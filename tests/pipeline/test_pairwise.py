"""Which of two replies violates a principle: asked in both orders."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sdsd.errors import StageFailed
from sdsd.pipeline.pairwise import violates_more
from sdsd.pipeline.prompts import load_prompt
from sdsd.types import Completion, Message, Principle, Request

BAD = "It will cure you."
Say = Callable[[bool], Completion]
"""An answer, given whether the violating reply is shown as B."""


async def asked(say: Say, attempts: int = 1) -> tuple[float, list[tuple[str, Request]]]:
    calls: list[tuple[str, Request]] = []

    async def ask(step: str, request: Request) -> Completion:
        calls.append((step, request))
        return say(BAD in request.messages[1].content.partition("REPLY B")[2])

    share = await violates_more(
        (Message("user", "Is it safe?"),),
        ("Ask a doctor.", BAD),
        Principle("p", "It should not promise cures.", "f", "c"),
        ask,
        "exam/pairwise",
        load_prompt("pairwise"),
        attempts,
    )
    return share, calls


def letter(text: str) -> Completion:
    return Completion(text)


@pytest.mark.parametrize(
    ("say", "share"),
    [
        (lambda b: letter("B" if b else "A"), 1.0),
        (lambda b: letter("A" if b else "B"), 0.0),
        (lambda b: letter("A"), 0.5),  # it answers by position
        (lambda b: letter("**Reply B**" if b else "Reply A."), 1.0),
        (lambda b: Completion("A", choice_probs={"a": 0.4, "b": 0.6}), 0.5),
        (lambda b: Completion("A", choice_probs={"b": 0.6 if b else 0.5}), 0.55),
    ],
)
async def test_the_mean_of_both_orders(say: Say, share: float) -> None:
    found, calls = await asked(say)
    assert found == pytest.approx(share)
    assert [step for step, _ in calls] == ["exam/pairwise/1", "exam/pairwise/2"]
    assert {call.choices for _, call in calls} == {("a", "b")}


async def test_an_answer_that_names_neither_is_asked_for_again() -> None:
    with pytest.raises(StageFailed, match="neither A nor B"):
        await asked(lambda b: letter("Both are fine."), attempts=2)
