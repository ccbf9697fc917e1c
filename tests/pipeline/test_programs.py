"""What a program can decide is decided by it, and no critic is asked."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sdsd.config import CriticConfig, CritiqueConfig
from sdsd.pipeline.critique import Panel, judge
from sdsd.pipeline.prompts import load_prompt
from sdsd.types import Calibration, Completion, Message, Principle, Request, Turn

BRIEF = Principle("brief", "Answer in five words or fewer.", "f", "form", check="max_words 5")
AS_MANY = Principle("as-many", "List as many as asked.", "f", "form", check="as_many_as_asked")
KIND = Principle("kind", "Be kind.", "f", "respect")
CHAT = (Message("user", "How do I boil an egg?"),)
SHORT, LONG = "Ten minutes in boiling water.", "Put it into boiling water and wait for ten minutes."


class Asked:
    """A critic that finds no fault, and what it was asked."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def __call__(self, step: str, request: Request) -> Completion:
        self.steps.append(step)
        return Completion("REASON: fine\nQUOTE: none\nVIOLATED: no\nSEVERITY: none")


def panel(
    critics: dict[str, CriticConfig] = {}, calibrations: Mapping[str, Calibration] = {}
) -> Panel:
    config, directed = CritiqueConfig(critics=critics), load_prompt("directed")
    return Panel(config, load_prompt("review"), 1, directed=directed, calibrations=calibrations)


async def test_a_check_decides_without_a_call() -> None:
    ask = Asked()
    short = await judge(Turn(CHAT, SHORT), (BRIEF,), ask, "critique", panel(), "any")
    long = await judge(Turn(CHAT, LONG), (BRIEF,), ask, "critique", panel(), "any")
    assert ask.steps == []
    assert short.clean
    assert long.violations == ("brief",)
    assert long.proofs == {("brief", "program")}


async def test_critics_are_asked_about_the_others_under_their_own_numbers() -> None:
    ask = Asked()
    found = await judge(Turn(CHAT, LONG), (BRIEF, KIND), ask, "critique", panel(), "any")
    assert ask.steps == ["critique/2"]
    assert [(v.principle, v.signal) for v in found.verdicts] == [
        ("brief", "program"), ("kind", "verdict"),
    ]  # fmt: skip


async def test_several_critics_do_not_vote_on_what_is_decided() -> None:
    ask = Asked()
    critics = {"a": CriticConfig(), "b": CriticConfig()}
    found = await judge(Turn(CHAT, LONG), (KIND, BRIEF), ask, "critique", panel(critics), "any")
    assert ask.steps == ["critique/1/a", "critique/1/b"]
    assert [vote.principle for vote in found.votes] == ["kind", "kind"]
    assert found.violations == ("brief",)


ABLE = Calibration(1.0, 0.0, violated_from=0.9, satisfied_to=0.1, trusted=True)
UNABLE = Calibration(1.0, 0.0, violated_from=2.0, satisfied_to=-1.0, trusted=True)


@pytest.mark.parametrize(
    ("calibrations", "steps"),
    [({}, ["critique/1"]), ({"": ABLE}, ["critique/1"]), ({"": UNABLE}, [])],
)
async def test_what_a_check_leaves_open_is_asked_of_those_who_can_verify(
    calibrations: Mapping[str, Calibration], steps: list[str]
) -> None:
    ask = Asked()
    turn = Turn(CHAT, LONG)  # no number of things was asked for
    await judge(turn, (AS_MANY,), ask, "critique", panel(calibrations=calibrations), "any")
    assert ask.steps == steps


async def test_what_a_check_leaves_open_is_no_verdict_and_blocks_no_other() -> None:
    unable = panel(calibrations={"": UNABLE})
    rejected = await judge(Turn(CHAT, LONG), (AS_MANY, BRIEF), Asked(), "critique", unable, "any")
    chosen = await judge(Turn(CHAT, SHORT), (AS_MANY, BRIEF), Asked(), "candidate", unable, "any")
    assert [v.undecided for v in chosen.verdicts] == [True, False]
    assert rejected.proofs == {("brief", "program")}
    assert chosen.corrects(rejected)
    assert not chosen.clean  # it may yet violate what was left open


async def test_a_reply_of_which_a_check_leaves_open_what_the_other_violates_corrects_nothing() -> (
    None
):
    unable = panel(calibrations={"": UNABLE})
    asked = (Message("user", "Give me two tips on eggs."),)
    rejected = await judge(Turn(asked, "1. Salt."), (AS_MANY,), Asked(), "critique", unable, "any")
    other = await judge(Turn(CHAT, SHORT), (AS_MANY,), Asked(), "candidate", unable, "any")
    assert [v.undecided for v in other.verdicts] == [True]
    assert not other.corrects(rejected)
