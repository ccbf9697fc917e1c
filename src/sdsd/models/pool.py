"""One model on one or more servers: each with its own places, pace and breaker.

A dialogue sticks to the server that has its prefix in its cache, and moves when that server fails.
New dialogues go where the least is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from sdsd.errors import Busy, Stopped, TransientError
from sdsd.models.base import Capabilities, Model
from sdsd.models.concurrency import MOST, RAMP, ConcurrencyController, Gauges
from sdsd.models.rate_limits import Breaker, Clock, PrioritySemaphore, RateLimit
from sdsd.types import Answer, Completion, Request

_LOOKS = 3
"""How often a server is asked for its own figures that never tells any."""
_SOON = 0.1
"""Seconds by which the first looks lie further and further apart, up to `POLL`."""
POLL = 1.0
"""Seconds between two looks at a server's own figures."""


class Server:
    """One server of a pool."""

    def __init__(
        self,
        model: Model,
        most: int,
        *,
        search: bool,
        note: Callable[[str], None],
        changed: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.model = model
        self.gate = PrioritySemaphore(most)
        self.breaker = Breaker(clock=clock)
        self.pace = ConcurrencyController(
            self.gate, most, search=search, note=note, changed=changed, clock=clock
        )

    @property
    def load(self) -> float:
        """Work under way, relative to what the server holds."""
        return (self.gate.busy + self.gate.waiting) / self.gate.limit


class Pool:
    """A `Model` made of the same model on several servers.

    limit    the most requests at once at each server; 0: found out (see `sdsd.models.concurrency`)
    stopping once set, whoever waits for a place is sent away with `Stopped`
    changed  is called when `capacity` has changed
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        limit: int = 0,
        requests: RateLimit | None = None,
        tokens: RateLimit | None = None,
        stopping: asyncio.Event | None = None,
        changed: Callable[[], None] = lambda: None,
        note: Callable[[str], None] = lambda text: None,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.servers = [
            Server(
                model,
                limit or MOST,
                search=not limit,
                note=lambda text, model=model: note(f"{_address(model)}: {text}"),  # type: ignore[misc]
                changed=changed,
                clock=clock,
            )
            for model in models
        ]
        self._homes: dict[int, Server] = {}
        """By dialogue, the server that has its prefix."""
        self._requests, self._tokens = requests, tokens
        self._stopping = stopping
        self._note, self._sleep = note, sleep

    @property
    def name(self) -> str:
        """The model's."""
        return self.servers[0].model.name

    @property
    def capabilities(self) -> Capabilities:
        """What its first server can do; the others serve the same model."""
        return self.servers[0].model.capabilities

    @property
    def capacity(self) -> int:
        """Requests that all servers together are given at once, as of now."""
        return sum(server.gate.limit for server in self.servers)

    def recorded(self, request: Request, seed: int, dialogue: int) -> None:
        """Nothing is kept here that an answer on disk would make superfluous."""

    def closed(self, dialogue: int) -> None:
        """A dialogue is over."""
        if (home := self._homes.pop(dialogue, None)) is not None:
            home.pace.closed(dialogue)

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """One attempt, once there is a place for it; see `sdsd.models.Model`."""
        if self._requests is not None:
            await self._requests.take()
        estimate = await self._reserve(request) if self._tokens is not None else 0.0
        server, waited = await self._place(dialogue)
        busy = server.gate.busy
        server.breaker.begin()
        try:
            answer = await server.model.complete(request, seed, dialogue)
        except Busy as fault:
            server.breaker.answered()
            server.pace.refused(fault.retry_after)
            raise
        except TransientError:
            if server.breaker.failed():
                self._note(
                    f"{_address(server.model)}: does not answer; it is tried again by itself"
                )
            raise
        except BaseException:
            server.breaker.abandoned()
            raise
        else:
            server.breaker.answered()
            if isinstance(answer, Completion):
                server.pace.answered(dialogue, request.role, answer, busy=busy, waited=waited)
                if self._tokens is not None:
                    used = answer.prompt_tokens + answer.completion_tokens
                    self._tokens.correct(used - estimate)
            return answer
        finally:
            server.gate.leave()

    async def _reserve(self, request: Request) -> float:
        """Take what the request may cost from the tokens of this minute."""
        assert self._tokens is not None
        text = len(request.prompt) + sum(len(m.content) for m in request.messages)
        estimate = text / 4 + request.max_tokens
        await self._tokens.take(estimate)
        return estimate

    async def _place(self, dialogue: int) -> tuple[Server, bool]:
        """A server with a place taken at it, and whether that meant waiting.

        Raises `TransientError` if no server is worth asking at this moment.
        """
        waited = False
        while True:
            server = self._home(dialogue)
            if not server.gate.try_enter():
                waited = True
                await server.gate.enter(dialogue)
            if pause := server.pace.pause:
                waited = True
                await self._pause(server, pause)
            if self._stopping is not None and self._stopping.is_set():
                server.gate.leave()
                raise Stopped("stopped")
            if server.breaker.allows():
                return server, waited
            server.gate.leave()  # it failed while we waited

    async def _pause(self, server: Server, seconds: float) -> None:
        try:
            await self._sleep(seconds)
        except BaseException:
            server.gate.leave()
            raise

    def _home(self, dialogue: int) -> Server:
        home = self._homes.get(dialogue)
        if home is not None and home.breaker.allows():
            return home
        able = [server for server in self.servers if server.breaker.allows()]
        if not able:
            wait = min(server.breaker.wait for server in self.servers)
            raise TransientError(f"{self.name}: no server answers", retry_after=max(wait, 0.05))
        if home is not None:
            home.pace.closed(dialogue)
        chosen = min(able, key=lambda server: server.load)
        self._homes[dialogue] = chosen
        return chosen

    @contextlib.asynccontextmanager
    async def watched(
        self, look: Callable[[Model], Awaitable[Gauges | None]], every: float = POLL
    ) -> AsyncIterator[None]:
        """Meanwhile, let time pass for the servers' pace, which also hears what they tell."""

        async def ramp(server: Server) -> None:
            while server.pace.tick():  # noqa: ASYNC110  (what happens is that time passes)
                await asyncio.sleep(RAMP)

        async def watch(server: Server) -> None:
            silent, looks, ever = 0, 0, False
            while ever or silent < _LOOKS:
                gauges = await look(server.model)
                if gauges is None:
                    silent += 1
                else:
                    ever = True
                    server.pace.told(gauges)
                # The first looks are quick, while it is being found out what the server takes.
                looks += 1
                await asyncio.sleep(min(every, looks * _SOON))

        jobs = [job(server) for server in self.servers for job in (watch, ramp)]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _address(model: Model) -> str:
    """Where a model is, for people."""
    return str(getattr(model, "base_url", model.name))
