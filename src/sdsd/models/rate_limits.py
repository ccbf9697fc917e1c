"""Limits on what one server is sent: permits, rates, and a circuit breaker.

They know nothing of HTTP or dialogues. `sdsd.models.concurrency` decides how many permits a server
has, and `sdsd.models.pool` applies both to the servers of a model.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

Clock = Callable[[], float]
"""Monotonic seconds."""


class PrioritySemaphore:
    """Permits for requests at one server; waiters are served in ascending order of priority number.

    The number is the dialogue's index, so the dialogues begun first finish first, and the newest,
    with the least in the server's prefix cache, wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.busy = 0
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def try_acquire(self) -> bool:
        """Take a permit if one is free and no request is waiting for it."""
        if self.busy >= self.limit or self._queue:
            return False
        self.busy += 1
        return True

    async def acquire(self, order: int) -> None:
        if self.try_acquire():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (order, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the permit had already been granted
            else:
                turn.cancel()
            raise

    def release(self) -> None:
        self.busy -= 1
        self.admit()

    def admit(self) -> None:
        """Grant free permits to waiters. Call it after raising `limit`."""
        while self._queue and self.busy < self.limit:
            _, _, turn = heapq.heappop(self._queue)
            if not turn.done():
                self.busy += 1
                turn.set_result(None)


class RateLimit:
    """A number of requests or tokens per minute, spread evenly with a small burst.

    The generic cell rate algorithm (ITU-T I.371). `per_minute` 0 means unlimited; `burst` is the
    seconds' worth of the rate that may be used at once.
    """

    def __init__(
        self,
        per_minute: float,
        *,
        burst: float = 5.0,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._each = 60.0 / per_minute if per_minute else 0.0
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._due = 0.0

    async def take(self, amount: float = 1.0) -> None:
        """Use up `amount`, after waiting until the rate allows it."""
        if not self._each:
            return
        now = self._clock()
        wait = self._due - self._burst - now
        self._due = max(self._due, now) + amount * self._each
        if wait > 0:
            await self._sleep(wait)

    def correct(self, amount: float) -> None:
        """Add to what was taken, once the real amount is known; negative to give some back."""
        self._due += amount * self._each


class RateLimits(Struct, frozen=True):
    """A provider's limits per minute; None: unlimited."""

    requests: RateLimit | None = None
    tokens: RateLimit | None = None
    """Prompt and completion tokens together."""


class Breaker:
    """A circuit breaker: stops sending to a server that fails, and probes it from time to time.

    It opens after `threshold` consecutive faults, for `first` seconds, doubling up to `longest`;
    then one request may try. One answer closes it.
    """

    def __init__(
        self,
        *,
        threshold: int = 5,
        first: float = 0.5,
        longest: float = 15.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._threshold, self._first, self._longest = threshold, first, longest
        self._clock = clock
        self._faults = 0
        self._wait = first
        self._until = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether the server is considered down."""
        return self._faults >= self._threshold

    def allows(self) -> bool:
        """Return whether a request may be sent now; while open, one at a time may try."""
        if not self.open:
            return True
        return not self._trying and self._clock() >= self._until

    def begin(self) -> None:
        """Note that a request is being sent."""
        self._trying = self.open

    @property
    def wait(self) -> float:
        return max(0.0, self._until - self._clock())

    def answered(self) -> None:
        """Note that the server answered, with whatever status."""
        self._faults = 0
        self._wait = self._first
        self._trying = False

    def failed(self) -> bool:
        """Note that the server did not answer; return whether that opens the breaker."""
        was = self.open
        self._faults += 1
        if not self.open or (was and not self._trying):
            return False
        self._trying = False
        self._until = self._clock() + self._wait
        self._wait = min(self._wait * 2, self._longest)
        return not was

    def abandoned(self) -> None:
        """Note that the request was cancelled before the server could answer."""
        self._trying = False
