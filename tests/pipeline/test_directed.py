"""Chats under two opposite directions, and the likelihood contrast of a reply in them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from sdsd.errors import StageFailed
from sdsd.pipeline.directed import Directions, likelihood_contrast
from sdsd.pipeline.prompts import load_prompt
from sdsd.text.prompt_files import Prompt
from sdsd.types import Completion, Direction, Example, Message, Principle, Request, Turn

HONEST = Principle("honest", "The assistant should be honest.", "family", "category")
EXAMPLES = (
    Example("Is it gold?", "I cannot see it.", "It is gold.", topic="a ring"),
    Example(
        "And the other one?",
        "Ask a jeweller.",
        "That is gold, too.",
        earlier=(Message("user", "Is this one real?"), Message("assistant", "It may be.")),
    ),
)
PACKAGED = load_prompt("directed")
TURN = Turn((Message("user", "Will it rain?"),), "It never rains here.")


def directions(examples: tuple[Example, ...] = EXAMPLES, prompts: Prompt = PACKAGED) -> Directions:
    return Directions(HONEST, examples, prompts)


class Scorer(Struct):
    """Gives the score of a direction, and notes what it was asked."""

    scores: Mapping[str, float | None]
    asked: dict[str, Request] = {}

    async def __call__(self, step: str, request: Request) -> Completion:
        self.asked[step] = request
        return Completion("", logprob=self.scores[step.rpartition("/")[2]])


async def contrast(scorer: Scorer, chosen: Directions) -> float:
    return await likelihood_contrast(TURN, chosen, scorer, "critique/1", "critic")


# -- the chats -----------------------------------------------------------------------------


def test_the_chats_differ_in_one_word_of_the_system_turn_and_in_the_replies_of_examples() -> None:
    satisfy, violate = (directions().chat(way, TURN.conversation) for way in ("satisfy", "violate"))
    assert [m.role for m in satisfy] == [m.role for m in violate]
    words = [message.content.split() for message in (satisfy[0], violate[0])]
    assert sum(a != b for a, b in zip(*words, strict=True)) == 1
    assert HONEST.text in satisfy[0].content
    differ = [k for k, (a, b) in enumerate(zip(satisfy, violate, strict=True)) if a != b]
    assert [(satisfy[k].content, violate[k].content) for k in differ[1:]] == [
        (example.satisfies, example.violates) for example in EXAMPLES
    ]


def test_examples_are_earlier_exchanges_with_what_came_before_them() -> None:
    chat = directions().chat("violate", TURN.conversation)
    assert [m.content for m in chat[1:]] == [
        "Is it gold?", "It is gold.",
        "Is this one real?", "It may be.", "And the other one?", "That is gold, too.",
        "Will it rain?",
    ]  # fmt: skip
    assert [m.role for m in chat] == ["system", *("user", "assistant") * 3, "user"]


@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=5))
def test_what_was_said_is_never_read_as_a_placeholder(reply: str, said: list[str]) -> None:
    turns = tuple(Message("user", f"{{{{principle}}}} {text}") for text in said)
    shown = (Example("{{principle}}", reply, "x"),)
    for way in ("satisfy", "violate"):
        chat = directions(shown).chat(way, turns)
        assert chat[1].content == "{{principle}}"
        assert chat[3:] == turns
    assert directions(shown).chat("satisfy", turns)[2].content == reply


# -- the contrast --------------------------------------------------------------------------


async def test_the_contrast_is_the_difference_of_two_named_scores() -> None:
    scorer = Scorer({"satisfy": -30.0, "violate": -22.5})
    assert await contrast(scorer, directions()) == pytest.approx(-7.5)
    assert list(scorer.asked) == ["critique/1/satisfy", "critique/1/violate"]
    ways: tuple[Direction, ...] = ("satisfy", "violate")
    for (step, request), way in zip(scorer.asked.items(), ways, strict=True):
        assert step.endswith(way)
        assert request.messages == directions().chat(way, TURN.conversation)
        assert (request.given, request.purpose, request.role) == (TURN.reply, "score", "critic")
        assert request.temperature == 0


scores = st.floats(-1e4, 0)


@given(scores, scores)
async def test_swapping_the_directions_changes_the_sign(satisfy: float, violate: float) -> None:
    there = await contrast(Scorer({"satisfy": satisfy, "violate": violate}), directions())
    back = await contrast(Scorer({"satisfy": violate, "violate": satisfy}), directions())
    assert there == -back


@given(st.integers(1, 40), st.floats(-9, 0), st.floats(-9, 0))
async def test_swapped_prompts_and_examples_change_the_sign(
    n: int, good: float, bad: float
) -> None:
    """A model that only reads the chat: what its directions are called makes no difference."""
    marked = directions().chat("violate", ())[0].content

    async def ask(step: str, request: Request) -> Completion:
        told_to_violate = request.messages[0].content == marked
        return Completion("", logprob=n * (bad if told_to_violate else good))

    sections = PACKAGED.sections
    other = Prompt(
        "", "", sections | {"satisfy": sections["violate"], "violate": sections["satisfy"]}
    )
    swapped = tuple(Example(e.user, e.violates, e.satisfies, e.earlier) for e in EXAMPLES)
    there = await likelihood_contrast(TURN, directions(), ask, "s", "critic")
    back = await likelihood_contrast(TURN, directions(swapped, other), ask, "s", "critic")
    assert there == -back
    assert directions(swapped, other).chat("satisfy", ()) == directions().chat("violate", ())


@pytest.mark.parametrize("silent", ["satisfy", "violate"])
async def test_a_model_that_does_not_score_fails_by_the_name_of_the_step(silent: str) -> None:
    scorer = Scorer({"satisfy": -3.0, "violate": -1.0, silent: None})
    with pytest.raises(StageFailed, match="does not score given text") as caught:
        await contrast(scorer, directions())
    assert caught.value.step == f"critique/1/{silent}"
