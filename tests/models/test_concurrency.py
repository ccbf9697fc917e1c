"""The number of places, found against servers whose behaviour is known."""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.models.concurrency import INITIAL_LIMIT, RAMP, ConcurrencyController, Gauges
from sdsd.models.rate_limits import PrioritySemaphore
from sdsd.types import Completion


class World:
    """A closed loop: `dialogues` of `turns` each, as many at once as the semaphore has permits.

    `seconds(running)` is how long a server takes for one reply with so many at once. Its cache
    holds `blocks` prefixes' tokens, least recently used first out.
    """

    def __init__(
        self,
        seconds: Callable[[int], float],
        *,
        search: bool = True,
        most: int = 1024,
        cap: int = 10**9,
        cache: int = 10**9,
        reports: bool = True,
    ) -> None:
        self.now = 0.0
        self.permits = PrioritySemaphore(most)
        self.notes: list[str] = []
        self.concurrency = ConcurrencyController(
            self.permits, most, search=search, note=self.notes.append, clock=lambda: self.now
        )
        self.refused = 0
        self.cached = self.asked = 0
        self.peak = 0
        self._seconds, self._cap, self._cache, self._reports = seconds, cap, cache, reports

    def run(self, dialogues: int, turns: int = 8, words: int = 60) -> float:
        """Seconds until all are done."""
        ends: list[tuple[float, int, float, int, int]] = []
        depth = dict.fromkeys(range(dialogues), 0)
        ready = list(range(dialogues))
        held: OrderedDict[int, int] = OrderedDict()
        since = dict.fromkeys(range(dialogues), 0.0)
        heapq.heapify(ready)
        tick = 0.0
        while ready or ends:
            while ready and self.permits.busy < self.permits.limit:
                index = heapq.heappop(ready)
                self.permits.busy += 1
                self.peak = max(self.peak, self.permits.busy)
                number = self.concurrency.sent()
                if self.permits.busy > self._cap:
                    self.refused += 1
                    self.concurrency.refused(number, 1.0)
                    self.permits.busy -= 1
                    heapq.heappush(ends, (self.now + 1.0, -index - 1, 0.0, 0, 0))
                    continue
                heapq.heappush(
                    ends,
                    (
                        self.now + self._seconds(self.permits.busy),
                        index,
                        self.now,
                        self.permits.busy,
                        number,
                    ),
                )
            if tick <= ends[0][0]:
                self.now, tick = tick, tick + RAMP if self.concurrency.tick() else math.inf
                continue
            self.now, index, began, busy, number = heapq.heappop(ends)
            if index < 0:
                heapq.heappush(ready, -index - 1)
                continue
            found = held.pop(index, 0)
            prompt = words * (depth[index] + 1)
            held[index] = prompt + words
            while sum(held.values()) > self._cache:
                held.popitem(last=False)
            self.cached += found
            self.asked += prompt
            answer = Completion(
                "",
                prompt_tokens=prompt,
                cached_tokens=min(found, prompt) if self._reports else 0,
                completion_tokens=words,
                seconds=self.now - began,
            )
            self.concurrency.answered(
                index, "agent", answer, number=number, busy=busy, waited=began > since[index]
            )
            self.permits.busy -= 1
            depth[index] += 1
            since[index] = self.now
            if depth[index] < turns:
                heapq.heappush(ready, index)
            else:
                self.concurrency.closed(index)
        return self.now


@pytest.mark.parametrize("slots", [1, 4, 32, 256])
def test_the_knee_of_a_server_that_queues_is_found(slots: int) -> None:
    """A server of so many slots writes no more with more requests: they only wait in it."""
    world = World(lambda running: max(running, slots) / slots)
    world.run(3000 if slots > 32 else 600)
    assert slots / 2 <= world.permits.limit <= 2 * slots
    assert any("requests at once from now on" in note for note in world.notes)


def test_a_server_that_never_slows_down_gets_all() -> None:
    world = World(lambda running: 1.0)
    world.run(2500)
    assert world.permits.limit == 1024


def test_an_explicit_limit_is_never_exceeded() -> None:
    world = World(lambda running: 1.0, search=False, most=24)
    world.run(400)
    assert world.peak == 24 == world.permits.limit


@pytest.mark.parametrize("search", [True, False])
def test_refusals_teach_what_the_server_holds(search: bool) -> None:
    world = World(lambda running: 0.2, search=search, most=128, cap=16)
    took = world.run(600, turns=1)
    assert took <= 1.15 * 600 * 0.2 / 16
    assert world.refused < 80
    assert world.permits.limit in (16, 17)


class Refusing:
    """A controller of `most` permits on a clock of its own, and a server that refuses by chance."""

    def __init__(self, most: int, seed: int = 0) -> None:
        self.now = 0.0
        self.permits = PrioritySemaphore(most)
        self.concurrency = ConcurrencyController(
            self.permits, most, search=False, clock=lambda: self.now
        )
        self._chance = random.Random(seed)
        while self.concurrency.tick():  # under full load
            self.permits.busy = self.permits.limit
        self.permits.busy = 0

    def burst(self, rate: float, *, shuffled: bool = False) -> None:
        """Fill all permits at once; refusals come back at once, in any order, answers later."""
        self.permits.busy = self.permits.limit
        sent = [self.concurrency.sent() for _ in range(self.permits.busy)]
        refused = [number for number in sent if self._chance.random() < rate]
        if shuffled:
            self._chance.shuffle(refused)
        for number in refused:
            self.concurrency.refused(number, 1.0)
            self.permits.busy -= 1
        self.now += 1.0
        for number in sorted(set(sent) - set(refused)):
            answer = Completion("", seconds=1.0)
            self.concurrency.answered(
                0, "agent", answer, number=number, busy=len(sent), waited=False
            )
            self.permits.busy -= 1


@given(st.floats(0.0, 0.1), st.integers(0, 99), st.booleans())
def test_refusals_at_random_cost_next_to_no_permits(rate: float, seed: int, mixed: bool) -> None:
    server = Refusing(1000, seed)
    limits = []
    for _ in range(20):
        server.burst(rate, shuffled=mixed)
        limits.append(server.permits.limit)
    assert min(limits) > 900


def test_a_server_that_can_take_less_from_now_on_is_noticed_and_so_is_the_opposite() -> None:
    server = Refusing(256)
    server.burst(0.9)
    assert server.permits.limit < 64
    since = server.now
    while server.permits.limit < 256:
        server.burst(0.02)
        assert server.now - since < 20.0  # one, two, four ... more each second


def test_a_server_that_refuses_everything_is_left_alone_for_as_long_as_it_says() -> None:
    gate, now = PrioritySemaphore(8), [0.0]
    pace = ConcurrencyController(gate, 8, search=False, clock=lambda: now[0])
    numbers = [pace.sent() for _ in range(8) if gate.try_acquire()]
    for number in numbers:
        pace.refused(number, 30.0)
        gate.release()
    assert gate.limit == 1
    assert pace.pause == 30.0
    now[0] = 31.0
    assert pace.pause == 0.0


def test_dialogues_under_way_are_no_more_than_the_cache_holds() -> None:
    """Found from the replies alone, and worth it: much more comes from the cache than without."""
    room = 64 * 540  # of the 256 that it could answer at once
    seconds = lambda running: max(running, 256) / 256  # noqa: E731
    blind = World(seconds, most=256, cache=room, reports=False)
    blind.run(2000)
    seeing = World(seconds, most=256, cache=room)
    seeing.run(2000)
    assert blind.cached / blind.asked < 0.3
    assert seeing.cached / seeing.asked > 0.7
    assert 32 <= seeing.permits.limit <= 128


def test_a_server_that_tells_its_cache_is_believed() -> None:
    gate = PrioritySemaphore(256)
    pace = ConcurrencyController(gate, 256, search=True)
    pace.observe(Gauges(cache_tokens=8_000))
    for index in range(256):
        answer = Completion("", prompt_tokens=700, completion_tokens=20, seconds=1.0)
        pace.answered(index, "agent", answer, number=pace.sent(), busy=9, waited=False)
    assert gate.limit == 10


def test_a_server_that_tells_its_queue_is_filled_without_measuring() -> None:
    gate = PrioritySemaphore(1024)
    pace = ConcurrencyController(gate, 1024, search=True)
    for _ in range(5):  # no replies yet, but nothing waits either
        gate.busy = gate.limit
        pace.tick()
        pace.observe(Gauges(running=gate.busy, waiting=0))
    assert gate.limit == 32 * INITIAL_LIMIT
    gate.busy = gate.limit
    for _ in range(2):
        pace.observe(Gauges(running=300, waiting=212))
    assert gate.limit == 32 * INITIAL_LIMIT  # it may be prompts that are being read
    pace.observe(Gauges(running=300, waiting=212))
    assert gate.limit == 300
