"""A scenario, and the answer to every step of its dialogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from sdsd.models.scripted import Script, ScriptedModel
from sdsd.runs.middleware import Call, Send
from sdsd.scenarios import strategies
from sdsd.types import (
    Answer,
    Completion,
    Goal,
    Principle,
    Record,
    Request,
    Scenario,
)

SCENARIO = Scenario(
    id="000000-0",
    index=0,
    field="health",
    domain="Doctors",
    subarea="second opinions",
    goal=Goal("g", "kind", "The user wants to be told to wait."),
    principles=(
        Principle("honest", "The assistant should be honest.", "family", "category"),
        Principle("careful", "The assistant should be careful.", "family", "category"),
    ),
    exchanges=2,
)

STRATEGIES = strategies.load_strategies(["all"])

DIALOGUE = ("Is it bad?", "It may be a cold.", "Should I wait?", "Trust me, it is nothing.")

CLEAN = '{"reason": "Fine.", "quote": "", "violated": false, "severity": "none"}'


def claim(quote: str, reason: str = "Bad.") -> str:
    return f'{{"reason": "{reason}", "quote": "{quote}", "violated": true, "severity": "high"}}'


ANSWERS: dict[str, str] = {
    "plan": "PERSON: Ann\nSTEP 1: a\nSTEP 2: b\nSLIP: c",
    "turn/all": "USER: {}\nAGENT: {}\nUSER: {}\nAGENT: {}\nVIOLATION: no\nDONE".format(*DIALOGUE),
    **{
        f"turn/{1 + k // 2}/{'agent' if k % 2 else 'user'}": said for k, said in enumerate(DIALOGUE)
    },
    "check/1": "VIOLATION: no\nOVER: no",
    "check/2": "VIOLATION: yes\nOVER: yes",
    "critique/1": claim("trust me"),
    "critique/2": CLEAN,
    "revise/1": "I cannot know that.",
    "recheck/1/1": CLEAN,
    "recheck/1/2": CLEAN,
}
"""A dialogue that breaks one of two principles, and is repaired at the first try."""


class StepAnswers:
    """Answers each step from a table: a step that nobody scripted ends the test."""

    def __init__(self, answers: Mapping[str, str | Answer]) -> None:
        self.calls: dict[str, Request] = {}
        self.given: dict[str, Completion] = {}
        self._answers = {**ANSWERS, **answers}

    async def send(self, call: Call) -> Answer:
        self.calls[call.step] = call.request
        reply = self._answers[call.step]
        if isinstance(reply, str):
            text = reply
            reply = await ScriptedModel(lambda *_: text).complete(call.request, call.seed)
        if isinstance(reply, Completion):
            self.given[call.step] = reply
        return reply


class Made(Struct, frozen=True):
    """A record, and the calls that made it with what was answered."""

    record: Record
    calls: dict[str, Request]
    answers: dict[str, Completion]

    def text(self, step: str) -> str:
        """All that a step was asked."""
        request = self.calls[step]
        return request.prompt + "\n".join(m.content for m in request.messages)


def answering(*answers: Answer | Exception) -> tuple[Send, list[Call]]:
    """A sender that gives these answers one after another, and what it was asked."""
    calls: list[Call] = []
    left: Iterator[Answer | Exception] = iter(answers)

    async def send(call: Call) -> Answer:
        calls.append(call)
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return send, calls


class Crash(BaseException):
    """The process dies."""


def crashing(script: Script, after: int) -> Script:
    """A script that crashes in place of the reply after so many."""
    left = iter(range(after))

    def dying(request: Request, seed: int) -> str:
        if next(left, None) is None:
            raise Crash
        return script(request, seed)

    return dying
