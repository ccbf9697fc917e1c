"""Requests on their way: recalled if recorded, else limited, stopped, retried and committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sdsd.config import Config
from sdsd.errors import (
    Divergence,
    ReplayMiss,
    StageFailed,
    Stopped,
)
from sdsd.hashing import call_seed
from sdsd.models.base import Capabilities
from sdsd.models.fleet import assign_roles
from sdsd.models.scripted import ScriptedModel
from sdsd.runs import middleware
from sdsd.runs.ask import Ask
from sdsd.runs.journal import Journal, fingerprint
from sdsd.runs.middleware import Call, Send
from sdsd.runs.session import Needs, chain
from sdsd.runs.signals import Stop
from sdsd.types import ROLES, Answer, Completion, Message, Refusal, Request
from tests.factories.scripted import answering

NAMES: dict[str, str] = dict.fromkeys(ROLES, "model")
REQUEST = Request("agent", 64, (Message("system", "Be brief."), Message("user", "Hello?")))
CALL = Call("s", "plan", REQUEST, 1, fingerprint(REQUEST, "model"))


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def recording(journal: Journal, *answers: Answer | Exception) -> tuple[Send, list[Call]]:
    send, calls = answering(*answers)
    return middleware.commit(send, journal, lambda call, answer: None), calls


def opened(journal: Journal, send: Send, names: dict[str, str] = NAMES) -> Ask:
    return Ask("s", 7, journal.load("s"), send, names)


# -- recall --------------------------------------------------------------------------------


async def test_what_is_recorded_is_not_asked_again(journal: Journal) -> None:
    send, calls = recording(journal, Completion("first"), Completion("second"))
    ask = opened(journal, send)
    assert (await ask("plan", REQUEST)).text == "first"
    again = opened(journal, send)
    assert (await again("plan", REQUEST)).text == "first"
    assert (await again("turn/1/user", REQUEST)).text == "second"
    assert [call.step for call in calls] == ["plan", "turn/1/user"]


async def test_the_seed_depends_on_run_scenario_and_step_alone(journal: Journal) -> None:
    send, calls = recording(journal, Completion("a"), Completion("b"))
    ask = opened(journal, send)
    await ask("plan", REQUEST)
    await ask("turn/1/user", REQUEST)
    assert [c.seed for c in calls] == [call_seed(7, "s", "plan"), call_seed(7, "s", "turn/1/user")]
    assert calls[0].seed != calls[1].seed


@pytest.mark.parametrize(
    ("changes", "names", "named"),
    [
        ({"temperature": 0.1}, NAMES, "sampling"),
        ({"role": "critic"}, NAMES, "role"),
        ({"messages": (REQUEST.messages[0], Message("user", "Bye?"))}, NAMES, "message 1 (user)"),
        ({"schema": {"type": "object"}}, NAMES, "schema"),
        ({}, NAMES | {"agent": "another"}, "model"),
    ],
)
async def test_a_divergence_says_what_changed(
    journal: Journal, changes: dict[str, Any], names: dict[str, str], named: str
) -> None:
    send, calls = recording(journal, Completion("first"))
    await opened(journal, send)("plan", REQUEST)
    with pytest.raises(Divergence) as caught:
        await opened(journal, send, names)("plan", replace(REQUEST, **changes))
    assert f"s plan: recorded for another request; what changed: {named}. " in str(caught.value)
    assert "restore it" in str(caught.value)
    assert len(calls) == 1


async def test_a_step_asked_twice_is_a_mistake_of_the_stage(journal: Journal) -> None:
    send, calls = recording(journal, Completion("first"), Completion("second"))
    ask = opened(journal, send)
    await ask("plan", REQUEST)
    with pytest.raises(ValueError, match=r"s: step `plan` asked twice"):
        await ask("plan", REQUEST)
    assert len(calls) == 1


async def test_a_replay_misses_what_is_not_recorded(journal: Journal) -> None:
    send, _ = recording(journal, Completion("first"))
    await opened(journal, send)("plan", REQUEST)
    replay = opened(journal, middleware.replay_only)
    assert (await replay("plan", REQUEST)).text == "first"
    with pytest.raises(ReplayMiss, match=r"s critique/1: not in the journal"):
        await replay("critique/1", REQUEST)


async def test_a_refusal_is_recorded_and_fails_the_stage_each_time(journal: Journal) -> None:
    send, calls = recording(journal, Refusal("HTTP 400", "context exceeded"))
    for _ in range(2):
        with pytest.raises(StageFailed) as caught:
            await opened(journal, send)("plan", REQUEST)
        failed = caught.value
        assert (failed.step, failed.cause, failed.raw) == ("plan", "HTTP 400", "context exceeded")
    assert len(calls) == 1


async def test_use_is_counted_by_stage_and_the_same_after_a_replay(journal: Journal) -> None:
    answers = [Completion("", prompt_tokens=k, cached_tokens=1, seconds=0.1) for k in (5, 7, 11)]
    send, _ = recording(journal, *answers)
    uses = []
    for _ in range(2):
        ask = opened(journal, send)
        for step in ("plan", "turn/1/user", "turn/1/agent"):
            await ask(step, REQUEST)
        uses.append(ask.usage)
    assert uses[0] == uses[1]
    assert {s: (u.calls, u.prompt_tokens, u.seconds) for s, u in uses[0].items()} == {
        "plan": (1, 5, 0.1),
        "turn": (2, 18, 0.2),
    }


# -- halt ----------------------------------------------------------------------------------


class PrioritySemaphore:
    """A sender that holds everybody until it is opened, and counts who is inside."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = self.most = self.calls = 0

    async def send(self, call: Call) -> Answer:
        self.calls += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1
        return Completion(call.step)


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_once_stopping_nothing_new_is_sent_and_what_is_in_flight_is_kept(
    journal: Journal,
) -> None:
    """The whole chain: two in flight are answered and recorded, those that queue are refused."""
    gate, stop = PrioritySemaphore(), Stop()

    class Held(ScriptedModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            await gate.send(CALL)
            return Completion("kept")

    models, limits = {"default": Held()}, {"default": 2}
    fleet = assign_roles(models, Config(), limits=limits, stopping=stop.requested)
    heard: list[str] = []
    needs = Needs(Config(), journal, journal.path.parent, lambda event: None, stop)
    send = chain(needs, fleet.models, lambda call, _: heard.append(call.step))
    calls = [replace(CALL, step=f"turn/{k}") for k in range(6)]
    tasks = [asyncio.ensure_future(send(call)) for call in calls]
    await settled()
    stop("enough")
    gate.open.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(e) for e in ended] == [Completion] * 2 + [Stopped] * 4
    assert gate.calls == 2
    assert sorted(journal.load("s")) == ["turn/0", "turn/1"] == heard


# -- commit --------------------------------------------------------------------------------


async def test_nobody_sees_an_answer_that_is_not_on_disk(journal: Journal) -> None:
    seen: list[dict[str, Any]] = []
    send, _ = answering(Completion("there"))

    def watched(call: Call, answer: Answer) -> None:
        seen.append(dict(journal.load("s")))

    assert await middleware.commit(send, journal, watched)(CALL) == Completion("there")
    assert [list(steps) for steps in seen] == [["plan"]]


async def test_an_answer_that_was_paid_for_survives_cancellation(journal: Journal) -> None:
    answered = asyncio.Event()

    async def send(call: Call) -> Answer:
        answered.set()
        return Completion("paid for")

    task = asyncio.ensure_future(middleware.commit(send, journal, lambda *_: None)(CALL))
    await answered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    journal.close()
    with Journal(journal.path, readonly=True) as again:
        assert again.load("s")["plan"].answer == Completion("paid for")


# -- complete ------------------------------------------------------------------------------


def scripted(script: Callable[[Request, int], str], name: str) -> ScriptedModel:
    return ScriptedModel(script, name=name, capabilities=Capabilities())


async def test_each_role_is_played_by_its_model() -> None:
    models = {role: scripted(lambda r, s: f"{r.role} {s}", role) for role in ROLES}
    send = middleware.to_models(models)
    for role in ROLES:
        answer = await send(replace(CALL, request=replace(REQUEST, role=role)))
        assert isinstance(answer, Completion)
        assert (answer.text, answer.model) == (f"{role} 1", role)


@pytest.mark.parametrize(
    ("answer", "given", "finish"),
    [
        (Completion(""), "", "empty"),
        (Completion(" \n"), "", "empty"),
        (Completion("", thinking="hm"), "", "empty"),
        (Completion("Hi."), "", "stop"),
        (Completion("", finish="length"), "", "length"),
        (Completion("", finish="refused"), "", "refused"),
        (Completion("", choice_probs={"yes": 0.9, "no": 0.1}), "", "stop"),
        (Completion("", logprob=-3.5), "what is scored", "stop"),
    ],
)
async def test_an_answer_without_a_word_is_empty_whatever_its_backend_says(
    answer: Completion, given: str, finish: str
) -> None:
    class Own(ScriptedModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            return answer

    send = middleware.to_models({"agent": Own()})
    found = await send(replace(CALL, request=replace(REQUEST, role="agent", given=given)))
    assert found == replace(answer, finish=finish)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("plain", "plain"),
        ("NUL \0, bell \a, é, 漢, 👋", "NUL \0, bell \a, é, 漢, 👋"),
        ("cut in a pair \ud83d", "cut in a pair \ufffd"),
        ("a whole pair \ud83d\udc4b", "a whole pair 👋"),
        ("\udc00 alone", "\ufffd alone"),
    ],
)
async def test_half_a_character_cannot_break_a_run(journal: Journal, said: str, kept: str) -> None:
    """A model of one's own may return any text; what is handed on is what was recorded."""
    send = middleware.to_models({"agent": scripted(lambda r, s: said, "own")})
    send = middleware.commit(send, journal, lambda *_: None)
    for _ in range(2):
        assert (await opened(journal, send)("plan", REQUEST)).text == kept
