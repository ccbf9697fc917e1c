"""How much may be asked of a server: places, rates, and when to leave it alone.

Small mechanisms without any knowledge of HTTP or of dialogues. What decides the number of places
is in `sdsd.models.concurrency`; `sdsd.models.pool` puts both around the servers of a model.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable

Clock = Callable[[], float]
"""Seconds that only ever go forward."""


class PrioritySemaphore:
    """Places at one server. Where some must wait, those of the lowest order go first.

    Dialogues are ordered by their index, so the ones begun first are driven to their end first:
    what waits is the newest, with the least in the server's cache.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.busy = 0
        """Places taken."""
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.busy >= self.limit or self._queue:
            return False
        self.busy += 1
        return True

    async def enter(self, order: int) -> None:
        """Take a place, or wait for one."""
        if self.try_enter():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (order, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place had come already
            else:
                turn.cancel()
            raise

    def leave(self) -> None:
        """Give the place back."""
        self.busy -= 1
        self.admit()

    def admit(self) -> None:
        """Let in who may enter now; to be called when `limit` has risen."""
        while self._queue and self.busy < self.limit:
            _, _, turn = heapq.heappop(self._queue)
            if not turn.done():
                self.busy += 1
                turn.set_result(None)


class RateLimit:
    """So much a minute, evenly: the generic cell rate algorithm (ITU-T I.371) with a small burst.

    `per_minute` 0 means no limit. `burst` is in seconds of the rate that may be used at once.
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
        """Wait until all that was taken before is paid for, and take `amount`."""
        if not self._each:
            return
        now = self._clock()
        wait = self._due - self._burst - now
        self._due = max(self._due, now) + amount * self._each
        if wait > 0:
            await self._sleep(wait)

    def correct(self, amount: float) -> None:
        """What was taken was too little by `amount` (or too much, if that is negative)."""
        self._due += amount * self._each


class Breaker:
    """Leaves a server alone that answers nothing, and tries it again by itself.

    After `most` faults in a row it opens, for `first` seconds, twice as long each time up to
    `longest`; then one request may try. One answer closes it.
    """

    def __init__(
        self,
        *,
        most: int = 5,
        first: float = 0.5,
        longest: float = 15.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._most, self._first, self._longest = most, first, longest
        self._clock = clock
        self._faults = 0
        self._wait = first
        self._until = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """The server is being left alone."""
        return self._faults >= self._most

    def allows(self) -> bool:
        """Whether a request may go now; if the breaker is open, only one at a time may try."""
        if not self.open:
            return True
        return not self._trying and self._clock() >= self._until

    def begin(self) -> None:
        """A request goes."""
        self._trying = self.open

    @property
    def wait(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._until - self._clock())

    def answered(self) -> None:
        """The server answered, whatever it said."""
        self._faults = 0
        self._wait = self._first
        self._trying = False

    def failed(self) -> bool:
        """The server did not answer. True if that opens the breaker."""
        was = self.open
        self._faults += 1
        if not self.open or (was and not self._trying):
            return False
        self._trying = False
        self._until = self._clock() + self._wait
        self._wait = min(self._wait * 2, self._longest)
        return not was

    def abandoned(self) -> None:
        """The request was given up before the server could answer."""
        self._trying = False
