"""One model on one or more servers, each with its own permits, concurrency and circuit breaker.

A dialogue stays with the server that has its prefix in its cache, and moves when that server fails,
or when requests wait there and another has at most half its load. New dialogues go to the least
loaded server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from sdsd.errors import Busy, PluginError, Stopped, TransientError
from sdsd.models.base import Capabilities, Model
from sdsd.models.concurrency import MAX_LIMIT, RAMP, ConcurrencyController, Gauges
from sdsd.models.rate_limits import Breaker, Clock, PrioritySemaphore, RateLimits
from sdsd.types import Answer, Completion, Refusal, Request

_SILENT_POLLS = 3
"""Polls after which a server that never reported metrics is no longer polled."""
_POLL_STEP = 0.1
"""Seconds by which the interval between polls grows, up to `POLL`."""
POLL = 1.0
"""Seconds between two polls of a server's metrics."""
_SLOWEST_POLLS = 5
"""Polls in a row without metrics, each of which doubles the interval."""
_LONG_WAIT = 60.0
"""A server that asks for a longer wait is left alone, if there are others."""


class Server:
    """One server of a pool."""

    def __init__(
        self,
        model: Model,
        limit: int,
        *,
        search: bool,
        note: Callable[[str], None],
        changed: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.model = model
        self.permits = PrioritySemaphore(limit)
        self.breaker = Breaker(clock=clock)
        self.concurrency = ConcurrencyController(
            self.permits, limit, search=search, note=note, changed=changed, clock=clock
        )

        self.fault: TransientError | None = None
        """The last one."""
        self.rests_until = 0.0
        """When it may be used again, as it said itself."""

    def allows(self, now: float) -> bool:
        """Return whether a request may be sent now."""
        return now >= self.rests_until and self.breaker.allows()

    def wait(self, now: float) -> float:
        """Return the seconds until a request may be sent."""
        return max(self.breaker.wait, self.rests_until - now)

    @property
    def load(self) -> float:
        """Requests sent or waiting, as a share of the permits."""
        return (self.permits.busy + self.permits.waiting) / self.permits.limit


class Pool:
    """A `Model` that spreads requests over several servers of the same model.

    limit      most requests in flight per server; 0: found by `sdsd.models.concurrency`
    rates      the provider's limits, over all servers
    stopping   once set, requests that wait for a permit raise `Stopped`
    changed    called when `capacity` changes
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        limit: int = 0,
        rates: RateLimits = RateLimits(),
        stopping: asyncio.Event | None = None,
        changed: Callable[[], None] = lambda: None,
        note: Callable[[str], None] = lambda text: None,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.servers = [
            Server(
                model,
                limit or MAX_LIMIT,
                search=not limit,
                note=lambda text, model=model: note(f"{_address(model)}: {text}"),  # type: ignore[misc]
                changed=changed,
                clock=clock,
            )
            for model in models
        ]
        self._homes: dict[int, Server] = {}
        """By dialogue, the server that has its prefix cached."""
        self._requests, self._tokens = rates.requests, rates.tokens
        self._stopping = stopping
        self._note, self._sleep = note, sleep
        self._changed, self._clock = changed, clock
        self._resting: set[int] = set()
        """Dialogues that were refused and have not asked again."""

    @property
    def name(self) -> str:
        return self.servers[0].model.name

    @property
    def capabilities(self) -> Capabilities:
        """Those of the first server; the others serve the same model."""
        return self.servers[0].model.capabilities

    @property
    def capacity(self) -> int:
        """The permits, and half as many dialogues that wait without one after a refusal."""
        permits = sum(server.permits.limit for server in self.servers)
        return permits + min(len(self._resting), permits // 2)

    def recorded(self, request: Request, seed: int, dialogue: int) -> None:
        """Do nothing: no state depends on an answer being on disk."""

    def closed(self, dialogue: int) -> None:
        """Forget which server a finished dialogue is on."""
        self._resting.discard(dialogue)
        if (home := self._homes.pop(dialogue, None)) is not None:
            home.concurrency.closed(dialogue)

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """Send the request once a permit is free; see `sdsd.models.base.Model`."""
        if self._requests is not None:
            await self._requests.take()
        estimate = await self._reserve(request) if self._tokens is not None else 0.0
        server, waited = await self._acquire(dialogue)
        busy, number = server.permits.busy, server.concurrency.sent()
        self._resting.discard(dialogue)
        server.breaker.begin()
        try:
            answer = await server.model.complete(request, seed, dialogue)
        except Busy as fault:
            server.breaker.answered()
            server.concurrency.refused(number, fault.retry_after)
            self._rest(server, dialogue, fault)
            raise
        except TransientError as fault:
            server.fault = fault
            if server.breaker.failed():
                self._note(
                    f"{_address(server.model)}: does not answer ({fault}); it is retried "
                    "automatically"
                )
            raise
        except BaseException:
            server.breaker.abandoned()
            raise
        else:
            server.breaker.answered()
            server.rests_until = 0.0
            check_answer(answer, server.model)
            if isinstance(answer, Completion):
                server.concurrency.answered(
                    dialogue, request.role, answer, number=number, busy=busy, waited=waited
                )
                if self._tokens is not None:
                    used = answer.prompt_tokens + answer.completion_tokens
                    self._tokens.correct(used - estimate)
            return answer
        finally:
            server.permits.release()

    def _rest(self, server: Server, dialogue: int, fault: Busy) -> None:
        """Let the dialogue's place go to another one while it waits; use other servers meanwhile.

        They are used if the wait is long: a server that has reached its daily limit, say.
        """
        server.fault = fault
        if len(self.servers) > 1 and (fault.retry_after or 0.0) > _LONG_WAIT:
            server.rests_until = self._clock() + (fault.retry_after or 0.0)
        self._resting.add(dialogue)
        self._changed()

    async def _reserve(self, request: Request) -> float:
        """Reserve the tokens that the request may cost at most; return that estimate."""
        assert self._tokens is not None
        text = len(request.prompt) + sum(len(m.content) for m in request.messages)
        estimate = text / 4 + request.max_tokens
        await self._tokens.take(estimate)
        return estimate

    async def _acquire(self, dialogue: int) -> tuple[Server, bool]:
        """Take a permit; return its server, and whether that meant waiting.

        Raises `TransientError` if no server can be tried at this moment.
        """
        waited = False
        while True:
            server = self._home(dialogue)
            if not server.permits.try_acquire():
                waited = True
                await server.permits.acquire(dialogue)
            if pause := server.concurrency.pause:
                waited = True
                await self._pause(server, pause)
            if self._stopping is not None and self._stopping.is_set():
                server.permits.release()
                raise Stopped("stopped")
            if server.allows(self._clock()):
                return server, waited
            server.permits.release()  # it failed while this request waited

    async def _pause(self, server: Server, seconds: float) -> None:
        try:
            await self._sleep(seconds)
        except BaseException:
            server.permits.release()
            raise

    def _home(self, dialogue: int) -> Server:
        home, now = self._homes.get(dialogue), self._clock()
        stays = home is not None and home.allows(now)
        if home is not None and stays and (len(self.servers) == 1 or home.load <= 1):
            return home
        able = [server for server in self.servers if server.allows(now)]
        if not able:
            raise self._none_left()
        chosen = min(able, key=lambda server: server.load)
        if home is not None:
            # Requests wait there: one with a lot of room, such as a server that has come back, is
            # worth computing the prefix again.
            if stays and chosen.load > home.load / 2:
                return home
            home.concurrency.closed(dialogue)
        self._homes[dialogue] = chosen
        return chosen

    def _none_left(self) -> TransientError:
        """Return an error that says when to try again, and what went wrong last."""
        now = self._clock()
        first = min(self.servers, key=lambda server: server.wait(now))
        kind = Busy if isinstance(first.fault, Busy) else TransientError
        last = f", last: {first.fault}" if first.fault else ""
        return kind(f"{self.name}: no server answers{last}", max(first.wait(now), 0.05))

    @contextlib.asynccontextmanager
    async def monitored(
        self, read: Callable[[Model], Awaitable[Gauges | None]], every: float = POLL
    ) -> AsyncIterator[None]:
        """Adapt each server's concurrency while the context is open, also by its metrics.

        `read` returns a server's metrics, or None if it reports none.
        """

        async def ramp(server: Server) -> None:
            while server.concurrency.tick():  # noqa: ASYNC110  (it waits for time to pass)
                await asyncio.sleep(RAMP)

        async def poll(server: Server) -> None:
            silent, polls, ever = 0, 0, False
            while ever or silent < _SILENT_POLLS:
                gauges = await read(server.model)
                if gauges is None:
                    silent += 1
                else:
                    silent, ever = 0, True
                    server.concurrency.observe(gauges)
                # The first polls come quickly, while the server's limit is being searched for. One
                # that refuses is polled less often: polls may count against its rate limit.
                polls += 1
                slower = 2 ** min(silent, _SLOWEST_POLLS)
                await asyncio.sleep(min(every * slower, polls * _POLL_STEP))

        jobs = [job(server) for server in self.servers for job in (poll, ramp)]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def check_answer(answer: object, model: Model) -> None:
    """Raise `PluginError` for what is no answer: in the journal, it could not be read again."""
    if isinstance(answer, Completion):
        if (
            type(answer.text) is type(answer.model) is str
            and type(answer.prompt_tokens) is type(answer.cached_tokens) is int
            and type(answer.completion_tokens) is int
        ):
            return
    elif isinstance(answer, Refusal):
        return
    else:
        raise PluginError(
            f"model `{model.name}` returned a value of type `{type(answer).__name__}`; return a "
            "`Completion` or a `Refusal`"
        )
    raise PluginError(
        f"model `{model.name}` answered {answer!r:.200}; a `Completion` has a text and whole "
        "numbers of tokens"
    )


def _address(model: Model) -> str:
    return str(getattr(model, "base_url", model.name))
