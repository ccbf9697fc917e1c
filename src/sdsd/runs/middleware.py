"""The middleware between a stage and the models.

A `Send` takes a call and returns its answer. `to_models` is the innermost; every other function
here wraps one `Send` in another:

    commit( until_stopped( from_caches( retry( to_models(models) ) ) ) )

`retry` has a module of its own, `sdsd.runs.retries`. `sdsd.runs.session` puts them together;
`sdsd.runs.ask.Ask` is what a stage calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from sdsd.errors import ReplayMiss, Stopped, TransientError
from sdsd.models.base import Model
from sdsd.plugins import blame
from sdsd.runs.journal import Fingerprint, Journal
from sdsd.text.normalize import valid_unicode
from sdsd.types import Answer, Completion, Request, Role


class Call(Struct, frozen=True):
    """One request on its way to a model."""

    scenario: str
    step: str
    request: Request
    seed: int
    asked: Fingerprint
    dialogue: int = 0
    """Index of the dialogue; when calls must wait, lower indexes go first."""


Send = Callable[[Call], Awaitable[Answer]]


class Responder(Protocol):
    """Whatever answers the requests of a role: a model, or a critic that is a function."""

    @property
    def name(self) -> str:
        """Goes into every request's fingerprint."""
        ...

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer: ...

    def recorded(self, request: Request, seed: int, dialogue: int) -> None:
        """Note that the answer is on disk."""
        ...


def to_models(models: Mapping[Role, Model | Responder]) -> Send:
    """Send each call to the model that has its role."""

    async def send(call: Call) -> Answer:
        model = models[call.request.role]
        try:
            answer = await model.complete(call.request, call.seed, call.dialogue)
        except TransientError:
            raise
        except BaseException as error:
            where = f"{call.scenario} {call.step}"
            blame(error, f"model `{model.name}`", where)
        return _normal(answer, call.request) if isinstance(answer, Completion) else answer

    return send


def _normal(answer: Completion, request: Request) -> Completion:
    """Return an answer, which may be that of a user's backend, as the journal keeps it."""
    silent = not (answer.text.strip() or answer.choice_probs or request.given)
    if silent and answer.finish == "stop":
        answer = replace(answer, finish="empty")
    if answer.text.isascii() and answer.thinking.isascii():
        return answer
    text, thinking = valid_unicode(answer.text), valid_unicode(answer.thinking)
    return replace(answer, text=text, thinking=thinking)


def from_caches(send: Send, caches: Sequence[Journal]) -> Send:
    """Take the answer from another run that sent the same request under the same step.

    The same scenario, step and request mean the same sampling seed if the runs share theirs, so it
    is the answer that the model would have been asked for. The arms of an experiment pay only for
    what differs between them.
    """

    async def or_ask(call: Call) -> Answer:
        for journal in caches:
            entry = journal.step(call.scenario, call.step)
            if entry is not None and entry.request == call.asked:
                return entry.answer
        return await send(call)

    return or_ask


def until_stopped(send: Send, stopping: asyncio.Event) -> Send:
    """Let no new request through once the run is asked to stop."""

    async def unless(call: Call) -> Answer:
        if stopping.is_set():
            raise Stopped("stopped")
        return await send(call)

    return unless


def commit(send: Send, journal: Journal, committed: Callable[[Call, Answer], None]) -> Send:
    """Write each answer to disk before it is returned; then call `committed`."""

    async def durable(call: Call) -> Answer:
        answer = await send(call)
        # Queued before it is awaited: an answer that was paid for is written even if its dialogue
        # is being cancelled.
        await journal.commit(call.scenario, call.step, call.asked, answer)
        committed(call, answer)
        return answer

    return durable


async def replay_only(call: Call) -> Answer:
    """Send nothing: in a replay, a step that is not recorded is an error."""
    raise ReplayMiss(
        f"{call.scenario} {call.step}: not in the journal; `sdsd run` again to complete it"
    )
