"""The one door to a model: recall, retry, complete, commit.

`complete`, `retry`, `halt` and `commit` are small senders, each wrapped around the next, as an
onion; `Ask` is the outermost skin, one per dialogue, and the only thing a stage ever sees.

    answer = await ask("turn/1/user", request)

The first thing it does is to look whether the journal has that step. If so, the recorded answer
comes back and no model is called: resuming a run is replaying it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from sdsd.errors import (
    Busy,
    Divergence,
    ModelError,
    ReplayMiss,
    StageFailed,
    Stopped,
    TransientError,
)
from sdsd.hashing import call_seed
from sdsd.models.base import Model
from sdsd.runs.journal import Entry, Fingerprint, Journal, fingerprint, stage_of
from sdsd.types import Answer, Completion, Refusal, Request, Role, StageUsage


class Call(Struct, frozen=True):
    """One request on its way to a model."""

    scenario: str
    step: str
    request: Request
    seed: int
    asked: Fingerprint
    dialogue: int = 0
    """Index of the dialogue: where calls must wait, lower ones go first."""


Sender = Callable[[Call], Awaitable[Answer]]


class Responder(Protocol):
    """Whatever answers the requests of a role: a model, or a critic that is a function."""

    @property
    def name(self) -> str:
        """Goes into every request's fingerprint."""
        ...

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """Make one attempt at one request."""
        ...

    def recorded(self, request: Request, seed: int, dialogue: int) -> None:
        """Take note that the answer is on disk."""
        ...


def complete(models: Mapping[Role, Model | Responder]) -> Sender:
    """The core: hand the request to the model that plays its role."""

    async def send(call: Call) -> Answer:
        model = models[call.request.role]
        answer = await model.complete(call.request, call.seed, call.dialogue)
        if isinstance(answer, Completion) and not answer.text.isascii():
            return replace(answer, text=whole(answer.text))
        return answer

    return send


class RetryPolicy(Struct, frozen=True):
    """How long a role's model is waited for."""

    retries: int = 16
    """Tries after the first before a request is given up that the model, which answers others,
    does not answer."""
    outage: float = 600.0
    """Seconds in which a model may answer nothing at all before the run stops."""


def retry(
    send: Sender,
    patience: Mapping[Role, RetryPolicy],
    names: Mapping[Role, str],
    *,
    first_wait: float = 0.5,
    longest_wait: float = 30.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Sender:
    """Try again after faults of transport, with exponential back-off and full jitter.

    Two cases are kept apart. A request that fails again and again while its model answers others
    is at fault itself: it is given up, which is an answer (`Refusal`) and is recorded. A model that
    answers nobody is gone: it is waited for, and `ModelError` stops the run when it stays away.

    Waits are seconds; a server's Retry-After is honoured. The jitter is the one thing that is
    random on purpose: it decides when, never what.
    """
    heard: dict[str, float] = dict.fromkeys(names.values(), -math.inf)

    async def again(call: Call) -> Answer:
        role = call.request.role
        name, allowed = names[role], patience[role]
        begun = since = clock()
        tries, wait = 0, first_wait
        while True:
            try:
                answer = await send(call)
            except TransientError as fault:
                last = fault
            else:
                heard[name] = clock()
                return answer
            now = clock()
            if now - max(heard[name], begun) >= allowed.outage:
                raise ModelError(
                    f"{role}: `{name}` has not answered for {allowed.outage:g} s, last: {last}. "
                    "Everything answered so far is kept; run the same command again to continue"
                )
            others = heard[name] > since  # while this request failed once more
            if not isinstance(last, Busy) and (others or not tries):
                tries += 1
                if tries > allowed.retries and others:
                    cause = f"no answer in {tries} tries, while others had theirs"
                    return Refusal(cause, str(last), "unanswered")
            if others:  # the model has no need of a long pause
                wait = first_wait
            since = now
            pause = random.uniform(0, wait)  # noqa: S311
            await sleep(pause if last.retry_after is None else last.retry_after + pause / 10)
            wait = min(wait * 2, longest_wait)

    return again


def from_caches(send: Sender, answer_caches: Sequence[Journal]) -> Sender:
    """Take an answer from another run that asked the very same thing, under the same step.

    The same scenario, step and request mean the same sampling seed if the runs have the same, so
    it is the answer that would have been asked for. That is how the arms of an experiment pay only
    for what differs.
    """

    async def or_ask(call: Call) -> Answer:
        for lender in answer_caches:
            entry = lender.step(call.scenario, call.step)
            if entry is not None and entry.request == call.asked:
                return entry.answer
        return await send(call)

    return or_ask


def halt(send: Sender, stopping: asyncio.Event) -> Sender:
    """Let nothing new through once the run is asked to stop."""

    async def unless(call: Call) -> Answer:
        if stopping.is_set():
            raise Stopped("stopped")
        return await send(call)

    return unless


def commit(send: Sender, journal: Journal, watched: Callable[[Call, Answer], None]) -> Sender:
    """Write the answer down before anybody sees it; `watched` hears of it afterwards."""

    async def durable(call: Call) -> Answer:
        answer = await send(call)
        # On its way before it is awaited: once paid for, an answer is written even if the dialogue
        # is being torn down.
        await journal.commit(call.scenario, call.step, call.asked, answer)
        watched(call, answer)
        return answer

    return durable


async def locked(call: Call) -> Answer:
    """A sender for replaying: whatever is not recorded is an error."""
    raise ReplayMiss(
        f"{call.scenario} {call.step}: not in the journal; `sdsd run` again to complete it"
    )


def whole(text: str) -> str:
    """`text` as UTF-8 can hold it: half a surrogate pair, where a reply was cut, is U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Ask:
    """The door as one dialogue sees it: recalls what is recorded, sends what is not."""

    def __init__(
        self,
        scenario: str,
        seed: int,
        recorded: Mapping[str, Entry],
        send: Sender,
        names: Mapping[str, str],
        dialogue: int = 0,
    ) -> None:
        self.scenario = scenario
        self._dialogue = dialogue
        self.usage: dict[str, StageUsage] = {}
        """What the dialogue has cost so far, per stage; the same after a replay."""
        self._seed = seed
        self._recorded = recorded
        self._send = send
        self._names = names
        self.asked: set[str] = set()
        """Names of the steps asked so far."""

    async def __call__(self, step: str, request: Request) -> Completion:
        """The model's answer to `request`, recorded under `step`.

        Raises `Divergence` if the step is recorded for another request, `StageFailed` if the
        server refused this request for good, and `ValueError` for a step asked twice.
        """
        if step in self.asked:
            raise ValueError(f"{self.scenario}: step `{step}` asked twice; give it its own name")
        self.asked.add(step)
        asked = fingerprint(request, self._names[request.role])
        entry = self._recorded.get(step)
        if entry is None:
            seed = call_seed(self._seed, self.scenario, step)
            call = Call(self.scenario, step, request, seed, asked, self._dialogue)
            answer = await self._send(call)
        else:
            self._compare(step, entry.request, asked)
            answer = entry.answer
        if isinstance(answer, Refusal):
            raise StageFailed(step, answer.cause, answer.raw, answer.kind)
        self._count(stage_of(step), answer)
        return answer

    def _compare(self, step: str, recorded: Fingerprint, asked: Fingerprint) -> None:
        if recorded == asked:
            return
        keys = [k for k in {**recorded, **asked} if recorded.get(k) != asked.get(k)]
        raise Divergence(
            f"{self.scenario} {step}: recorded for another request; what changed: "
            f"{', '.join(keys)}. The prompts, the catalogue or the program changed under this "
            "run; put them back, or start another run directory"
        )

    def _count(self, stage: str, answer: Completion) -> None:
        old = self.usage.get(stage, StageUsage())
        self.usage[stage] = StageUsage(
            calls=old.calls + 1,
            prompt_tokens=old.prompt_tokens + answer.prompt_tokens,
            cached_tokens=old.cached_tokens + answer.cached_tokens,
            completion_tokens=old.completion_tokens + answer.completion_tokens,
            seconds=round(old.seconds + answer.seconds, 4),
        )
