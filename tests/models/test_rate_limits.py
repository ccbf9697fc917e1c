"""Places, rates and breakers: small mechanisms, each by its law."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.models.rate_limits import Breaker, PrioritySemaphore, RateLimit


class Time:
    """Passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- places --------------------------------------------------------------------------------


async def test_the_dialogues_begun_first_go_first() -> None:
    gate, entered = PrioritySemaphore(1), []

    async def visit(order: int) -> None:
        await gate.acquire(order)
        entered.append(order)
        await asyncio.sleep(0)
        gate.release()

    assert gate.try_acquire()
    tasks = [asyncio.create_task(visit(order)) for order in (5, 3, 9, 3, 1)]
    await settled()
    assert (gate.busy, gate.waiting) == (1, 5)
    assert not gate.try_acquire()
    gate.release()
    await asyncio.gather(*tasks)
    assert entered == [1, 3, 3, 5, 9]
    assert (gate.busy, gate.waiting) == (0, 0)


async def test_a_limit_that_rises_lets_in_and_one_that_falls_sends_nobody_away() -> None:
    gate = PrioritySemaphore(2)
    tasks = [asyncio.create_task(gate.acquire(k)) for k in range(6)]
    await settled()
    assert gate.busy == 2
    gate.limit = 4
    gate.admit()
    await settled()
    assert (gate.busy, gate.waiting) == (4, 2)
    gate.limit = 1
    for _ in range(3):
        gate.release()
    await settled()
    assert (gate.busy, gate.waiting) == (1, 2)
    for _ in range(2):
        gate.release()
    await asyncio.gather(*tasks)


@given(st.lists(st.sampled_from(["enter", "leave", "cancel", "up", "down"]), max_size=60))
def test_places_are_never_lost_nor_doubled(moves: list[str]) -> None:
    async def go() -> None:
        gate = PrioritySemaphore(2)
        inside: list[asyncio.Task[None]] = []
        waiting: list[asyncio.Task[None]] = []
        for order, move in enumerate(moves):
            if move == "enter":
                waiting.append(asyncio.create_task(gate.acquire(order)))
            elif move == "leave" and inside:
                inside.pop()
                gate.release()
            elif move == "cancel" and waiting:
                waiting.pop().cancel()  # perhaps in the same moment as its place comes
            elif move in ("up", "down"):
                gate.limit = max(1, gate.limit + (1 if move == "up" else -1))
                gate.admit()
            if order % 2:
                await settled()
            inside += [task for task in waiting if task.done() and not task.cancelled()]
            waiting = [task for task in waiting if not task.done()]
        await settled()
        inside += [task for task in waiting if task.done() and not task.cancelled()]
        waiting = [task for task in waiting if not task.done()]
        assert gate.busy == len(inside)
        assert not waiting or gate.busy >= gate.limit
        for task in waiting:
            task.cancel()

    asyncio.run(go())


# -- rates ---------------------------------------------------------------------------------


@given(st.integers(1, 6000), st.lists(st.floats(0.1, 20), min_size=1, max_size=80))
def test_no_minute_sees_more_than_the_rate_its_burst_and_one_request(
    per_minute: int, amounts: list[float]
) -> None:
    async def go() -> list[tuple[float, float]]:
        time = Time()
        rate = RateLimit(per_minute, burst=5.0, clock=time, sleep=time.sleep)
        taken = []
        for amount in amounts:
            await rate.take(amount)
            taken.append((time.now, amount))
        return taken

    taken = asyncio.run(go())
    for start, _ in taken:
        within = [amount for at, amount in taken if start <= at < start + 60]
        assert sum(within) <= per_minute * 65 / 60 + max(amounts) + 1e-6


async def test_a_rate_is_used_up_evenly_and_corrected() -> None:
    time = Time()
    rate = RateLimit(60, burst=0.0, clock=time, sleep=time.sleep)
    for _ in range(4):
        await rate.take()
    assert time.now == pytest.approx(103.0)
    rate.correct(10)  # the last one cost more than was thought
    await rate.take()
    assert time.now == pytest.approx(114.0)


async def test_no_rate_is_no_wait() -> None:
    await RateLimit(0).take(1e9)


# -- breakers ------------------------------------------------------------------------------


def test_a_breaker_opens_tries_again_by_itself_and_closes() -> None:
    time = Time()
    breaker = Breaker(threshold=3, first=1.0, longest=4.0, clock=time)
    assert [breaker.failed() for _ in range(4)] == [False, False, True, False]
    waits = []
    for _ in range(4):
        assert not breaker.allows()
        waits.append(breaker.wait)
        time.now += breaker.wait
        assert breaker.allows()
        breaker.begin()
        assert not breaker.allows()  # one at a time
        assert not breaker.failed()
    assert waits == [1.0, 2.0, 4.0, 4.0]
    time.now += breaker.wait
    breaker.begin()
    breaker.answered()
    assert breaker.allows()
    assert not breaker.open
    breaker.failed()
    breaker.failed()
    assert not breaker.open
    breaker.failed()
    assert breaker.wait == 1.0


def test_a_trial_that_was_given_up_leaves_room_for_the_next() -> None:
    time = Time()
    breaker = Breaker(threshold=1, clock=time)
    breaker.failed()
    time.now += breaker.wait
    breaker.begin()
    breaker.abandoned()
    assert breaker.allows()
