"""What a program can decide is decided by it, and no critic is asked."""

from __future__ import annotations

from sdsd.config import CriticConfig, CritiqueConfig
from sdsd.pipeline.critique import Panel, judge
from sdsd.pipeline.prompts import load_prompt
from sdsd.types import Completion, Message, Principle, Request, Turn

BRIEF = Principle("brief", "Answer in five words or fewer.", "f", "form", check="max_words 5")
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


def panel(critics: dict[str, CriticConfig] = {}) -> Panel:
    config = CritiqueConfig(critics=critics)
    return Panel(config, load_prompt("review"), 1, directed=load_prompt("directed"))


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
