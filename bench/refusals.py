"""Measure what refusals cost: at random, and by a server that takes no more than so many requests.

    python bench/refusals.py [--dialogues 1000] [--seconds 1.0] [--engine]

The real scheduler, retries, pool and concurrency controller run on a virtual clock against a model
of a server, so hours take seconds and nothing depends on the machine. A random refusal is a 429
with `Retry-After: 1` or a bare 503, by turns; each is compared with the time without any. The
capped server is compared with the ideal: every one of its places always taken.

`--engine` measures the random refusals on the simulated engine instead, over HTTP, in real time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from sdsd.errors import Busy
from sdsd.models.base import Capabilities, Model
from sdsd.models.pool import Pool
from sdsd.runs.middleware import Call, to_models
from sdsd.runs.retries import RetryPolicy, retry
from sdsd.runs.scheduler import drive, each
from sdsd.types import Answer, Completion, Request

T = TypeVar("T")
RATES = (0.005, 0.025, 0.05, 0.1)
WORST = (1.2, 1.3, 1.5, 2.0)
"""By rate, how many times as long a run may take."""
CALLS = 10
"""Requests of a dialogue, one after another."""
WORST_CAPPED = 1.15


class _Skipping(selectors.DefaultSelector):
    """Does not wait, but moves the clock of its loop."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for nothing"
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self._clock = _Skipping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual clock that begins at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class Server:
    """A server with so many slots: beyond them all are slower. It refuses at random, or at a cap.

    seconds   of a request that has a slot, on average
    """

    name = "sim"
    capabilities = Capabilities()

    def __init__(
        self, *, seconds: float = 1.0, slots: int = 256, rate: float = 0.0, cap: int = 10**9
    ) -> None:
        self._seconds, self._slots, self._rate, self._cap = seconds, slots, rate, cap
        self._chance = random.Random(1)
        self._running = 0
        self.refusals = self.peak = 0

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        await asyncio.sleep(0.01)
        if self._running >= self._cap or self._chance.random() < self._rate:
            self.refusals += 1
            raise Busy("refused", 1.0 if self.refusals % 2 else None)
        self._running += 1
        self.peak = max(self.peak, self._running)
        seconds = self._seconds * self._chance.uniform(0.5, 1.5)
        seconds *= max(1.0, self._running / self._slots)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._running -= 1
        return Completion("", completion_tokens=50, seconds=seconds)


async def dialogues(server: Model, n: int, limit: int = 0) -> float:
    """Make n dialogues; return the seconds that it takes."""
    loop, changed, stopping = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    pool = Pool([server], limit=limit, changed=changed.set, clock=loop.time)
    request = Request("agent", 64, prompt="Go on.")
    send = retry(
        to_models({"agent": pool}), {"agent": RetryPolicy()}, {"agent": "sim"}, clock=loop.time
    )

    async def work(index: int) -> None:
        for step in range(CALLS):
            await send(Call(str(index), str(step), request, 0, {}, index))

    async def no_metrics(model: Model) -> None:
        return None

    async with pool.monitored(no_metrics):
        await drive(each(range(n)), work, pool.closed, lambda: pool.capacity, changed, stopping)
        return loop.time()


class Measured(Struct, frozen=True):
    """One line of the table."""

    what: str
    seconds: float
    compared: float
    """With the time without refusals, or the ideal."""
    worst: float
    refusals: int
    peak: int


def at_random(n: int, seconds: float, rates: Sequence[float] = RATES) -> Iterator[Measured]:
    """Measure refusals at random, at each rate."""
    server = Server(seconds=seconds)
    without = virtually(dialogues(server, n))
    yield Measured("none", without, 1.0, 1.0, 0, server.peak)
    for rate, worst in zip(rates, WORST, strict=False):
        server = Server(seconds=seconds, rate=rate)
        took = virtually(dialogues(server, n))
        what = f"{rate:.1%} at random"
        yield Measured(what, took, took / without, worst, server.refusals, server.peak)


def capped(n: int, seconds: float, caps: Sequence[int] = (4, 16, 100)) -> Iterator[Measured]:
    """Measure servers that refuse whatever is more than they can take."""
    for cap in caps:
        server = Server(seconds=seconds, cap=cap)
        count = max(cap * 10, min(n, cap * 30))
        took = virtually(dialogues(server, count))
        ideal = count * CALLS * seconds / cap
        what = f"more than {cap} at once"
        yield Measured(what, took, took / ideal, WORST_CAPPED, server.refusals, server.peak)


def on_engine(n: int, rates: Sequence[float] = RATES) -> Iterator[Measured]:
    """Measure refusals at random on the simulated engine, over HTTP."""
    from schedule import driven, stats
    from simoptions import FaultKind, Options
    from simulator import spawned

    without = 0.0
    for rate, worst in zip((0.0, *rates), (1.0, *WORST), strict=False):
        faults: dict[FaultKind, float] = {"429": rate / 2, "503": rate / 2} if rate else {}
        with spawned(Options(faults=faults)) as url:
            took = driven(url, n, "chat", [])
            seen = stats(url)
        without = without or took
        refusals = sum(seen["faults"].values()) if rate else 0
        what = f"{rate:.1%} at random" if rate else "none"
        yield Measured(what, took, took / without, worst, refusals, seen["in_flight_peak"])


def table(found: Iterator[Measured]) -> Iterator[str]:
    for m in found:
        yield (
            f"| {m.what} | {m.seconds:,.1f} | {m.compared:.2f} | {m.worst:g} | {m.refusals:,} | "
            f"{m.peak:,} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=1000, help=f"of {CALLS} requests each")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a request, on average")
    parser.add_argument("--engine", action="store_true", help="on the simulated engine")
    given = parser.parse_args()
    random.seed(1)  # of the pauses between retries
    arms: list[Callable[[], Iterator[Measured]]] = [
        lambda: at_random(given.dialogues, given.seconds),
        lambda: capped(given.dialogues, given.seconds),
    ]
    if given.engine:
        arms = [lambda: on_engine(given.dialogues)]
    print("| refused | seconds | compared with none, or the ideal | at most | refusals | peak |")
    print("| --- | --- | --- | --- | --- | --- |")
    for arm in arms:
        for line in table(arm()):
            print(line, flush=True)


if __name__ == "__main__":
    main()
