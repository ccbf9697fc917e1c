"""The one door to a model: recall, limit, retry, complete, commit.

`complete`, `retry`, `limit` and `commit` are small senders, each wrapped around the next, as an
onion; `Ask` is the outermost skin, one per dialogue, and the only thing a stage ever sees.

    answer = await ask("turn/1/user", request)

The first thing it does is to look whether the journal has that step. If so, the recorded answer
comes back and no model is called: resuming a run is replaying it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from sdsd.chance import call_seed
from sdsd.errors import Divergence, ModelError, ReplayMiss, StageFailed, Stopped, TransientError
from sdsd.journal import Entry, Fingerprint, Journal, fingerprint, stage_of
from sdsd.models import Model
from sdsd.types import Answer, Completion, Refusal, Request, Role, StageUse


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


def complete(models: Mapping[Role, Model]) -> Sender:
    """The core: hand the request to the model that plays its role."""

    async def send(call: Call) -> Answer:
        model = models[call.request.role]
        answer = await model.complete(call.request, call.seed, call.dialogue)
        if isinstance(answer, Completion) and not answer.text.isascii():
            return replace(answer, text=whole(answer.text))
        return answer

    return send


def retry(
    send: Sender,
    retries: Mapping[Role, int],
    *,
    first_wait: float = 0.5,
    longest_wait: float = 60.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Sender:
    """Try again after faults of transport, with exponential back-off and full jitter.

    Waits are seconds; a server's Retry-After is honoured. The jitter is the one thing that is
    random on purpose: it decides when, never what.
    """

    async def again(call: Call) -> Answer:
        wait, tries = first_wait, retries[call.request.role]
        for _ in range(tries):
            try:
                return await send(call)
            except TransientError as fault:
                asked = fault.retry_after
                await sleep(random.uniform(0, wait) if asked is None else asked + wait / 10)  # noqa: S311
                wait = min(wait * 2, longest_wait)
        try:
            return await send(call)
        except TransientError as fault:
            raise ModelError(
                f"{call.request.role}: no answer after {tries + 1} tries, last: {fault}. "
                "Everything answered so far is kept; run the same command again to continue"
            ) from None

    return again


def limit(send: Sender, places: Mapping[Role, asyncio.Semaphore]) -> Sender:
    """No more requests in flight than the model that plays the role takes at once."""

    async def wait(call: Call) -> Answer:
        async with places[call.request.role]:
            return await send(call)

    return wait


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
        # Shielded: once paid for, an answer is written even if the dialogue is being torn down.
        await asyncio.shield(journal.commit(call.scenario, call.step, call.asked, answer))
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
        self.use: dict[str, StageUse] = {}
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
            raise StageFailed(step, answer.cause, answer.raw)
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
        old = self.use.get(stage, StageUse())
        self.use[stage] = StageUse(
            calls=old.calls + 1,
            prompt_tokens=old.prompt_tokens + answer.prompt_tokens,
            cached_tokens=old.cached_tokens + answer.cached_tokens,
            completion_tokens=old.completion_tokens + answer.completion_tokens,
            seconds=round(old.seconds + answer.seconds, 4),
        )
