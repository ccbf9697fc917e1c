"""Critics that are not chat models: a function, a classifier, a reward model.

    def toxicity(turn: Turn, principle: Principle) -> float:
        return classifier(turn.reply)["toxic"] if principle.id == "no-insults" else 0.0

named in the configuration as

    critique:
      critics:
        toxicity: {use: "my_package.judges:toxicity"}

It returns the probability that the reply violates the principle (0.5 and above is a violation), or
a `Verdict` with reason, quotation and severity. It may be `async`; a plain function is called in a
worker thread, one call at a time. A class is instantiated once, without arguments, and its
`__call__` used.

Its verdicts are recorded like a model's answers: resuming and verifying a run does not call it
again. An exception fails the dialogue, not the run.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd.errors import PluginError, StageFailed
from sdsd.plugins import blamed, passes_through, resolve
from sdsd.text import parsing
from sdsd.text.normalize import valid_unicode
from sdsd.types import (
    Answer,
    AskFn,
    Completion,
    Principle,
    Refusal,
    Request,
    Turn,
    Verdict,
)


class Critic(Protocol):
    """Judge one reply against one principle."""

    def __call__(
        self, turn: Turn, principle: Principle
    ) -> float | Verdict | Awaitable[float | Verdict]:
        """Return the probability of a violation, or a verdict."""
        ...


class _Question(Struct, frozen=True):
    """What a local critic is asked; its JSON is the request's prompt, and so its fingerprint."""

    turn: Turn
    principle: Principle


_question = msgspec.json.Decoder(_Question)


async def ask_for_verdict(
    turn: Turn, principle: Principle, ask: AskFn, step: str, name: str
) -> Verdict:
    """Ask the critic called `name`. Raises `StageFailed`."""
    prompt = msgspec.json.encode(_Question(replace(turn, chat_start=()), principle)).decode()
    request = Request(role=f"critic/{name}", max_tokens=1, prompt=prompt, purpose="verdict")
    answer = await ask(step, request)
    try:
        verdict = msgspec.json.decode(answer.text, type=Verdict)
    except msgspec.DecodeError as error:
        raise StageFailed(step, f"not a verdict: {error}", answer.text) from None
    grounded = verdict.violated and (not verdict.quote or parsing.occurs(verdict.quote, turn.reply))
    return replace(verdict, principle=principle.id, grounded=grounded, critic=name)


class LocalCritic:
    """Plays the role `critic/<name>` by calling a function."""

    def __init__(self, use: str) -> None:
        """Import the critic. Raises `PluginError`."""
        self.name = use
        self._call = _callable(use)
        self._lock = threading.Lock()

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """Return the verdict as JSON; a `Refusal` if the critic raised an exception."""
        question = _question.decode(request.prompt)
        started = time.monotonic()
        try:
            found = await self._judge(question)
            verdict = _as_verdict(found, question.principle.id)
            text = msgspec.json.encode(verdict).decode()
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if passes_through(error):
                raise  # the run is being cancelled
            cause = valid_unicode(str(error))
            return Refusal(f"critic `{self.name}` raised {type(error).__name__}: {cause}")
        return Completion(text, model=self.name, seconds=round(time.monotonic() - started, 4))

    def recorded(self, request: Request, seed: int, dialogue: int) -> None:
        """Do nothing: there is nothing to release."""

    async def _judge(self, question: _Question) -> Any:
        if inspect.iscoroutinefunction(self._call) or inspect.iscoroutinefunction(
            getattr(self._call, "__call__", None)  # noqa: B004  (of an instance)
        ):
            return await self._call(question.turn, question.principle)
        found = await asyncio.to_thread(self._call_locked, question)
        return await found if inspect.isawaitable(found) else found

    def _call_locked(self, question: _Question) -> Any:
        with self._lock:
            return self._call(question.turn, question.principle)


def _callable(use: str) -> Callable[..., Any]:
    found = resolve(use, "critics")
    with blamed(f"critic `{use}`", "creation"):
        critic = found() if inspect.isclass(found) else found
    if not callable(critic):
        raise PluginError(
            f"`{use}` is not callable; a critic is a function of (turn, principle), or a class "
            "with `__call__`"
        )
    return critic  # type: ignore[no-any-return]


def _as_verdict(found: Any, principle: str) -> Verdict:
    if isinstance(found, Verdict):
        return replace(found, principle=principle)
    try:
        probability = float(found)
    except (TypeError, ValueError):
        raise TypeError(f"returned {found!r:.80}; return a probability or a `Verdict`") from None
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"a probability is between 0 and 1, not {probability}")
    violated = probability >= 0.5
    reason = f"probability of a violation {probability:.3f}"
    return Verdict(principle, violated, reason, probability=probability)
