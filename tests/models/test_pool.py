"""One model on several servers: who is asked, and what happens when one fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from sdsd.errors import Busy, ModelError, Stopped, TransientError
from sdsd.models.base import Capabilities, Model
from sdsd.models.concurrency import Gauges
from sdsd.models.pool import Pool
from sdsd.models.rate_limits import RateLimit, RateLimits
from sdsd.types import Answer, Completion, Message, Refusal, Request

REQUEST = Request("agent", 100, (Message("user", "x" * 400),))


class Fake:
    """A server that does as it is told, and remembers who asked."""

    name = "model"
    capabilities = Capabilities()

    def __init__(self, base_url: str = "http://a") -> None:
        self.base_url = base_url
        self.dialogues: list[int] = []
        self.fault: Exception | None = None
        self.answer: Answer = Completion("hi", prompt_tokens=100, completion_tokens=50)
        self.hold: asyncio.Event | None = None

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        self.dialogues.append(dialogue)
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault
        return self.answer


def fakes(count: int) -> list[Fake]:
    return [Fake(f"http://server-{k}") for k in range(count)]


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def pool(models: Sequence[Model], time: Time | None = None, **options: object) -> Pool:
    time = time or Time()
    return Pool(models, clock=time, sleep=time.sleep, **options)  # type: ignore[arg-type]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_dialogue_stays_at_its_server_and_new_ones_go_where_least_is_done() -> None:
    servers = fakes(3)
    many = pool(servers, limit=8)
    for server in servers:
        server.hold = asyncio.Event()
    tasks = [asyncio.create_task(many.complete(REQUEST, 0, k)) for k in range(6)]
    await settled()
    assert [len(server.dialogues) for server in servers] == [2, 2, 2]
    for server in servers:
        assert server.hold is not None
        server.hold.set()
    await asyncio.gather(*tasks)
    for k in (3, 1, 5, 3, 0, 1):
        await many.complete(REQUEST, 0, k)
    homes = [set(server.dialogues) for server in servers]
    assert all(a.isdisjoint(b) for a in homes for b in homes if a is not b)


async def test_a_server_that_fails_loses_its_dialogues_and_gets_new_ones_when_it_is_back() -> None:
    first, second = servers = fakes(2)
    notes: list[str] = []
    time = Time()
    many = pool(servers, time, limit=8, note=notes.append)
    await many.complete(REQUEST, 0, 1)
    assert first.dialogues == [1]
    first.fault = TransientError("refused")
    for _ in range(5):
        with pytest.raises(TransientError):
            await many.complete(REQUEST, 0, 1)
    await many.complete(REQUEST, 0, 1)
    assert second.dialogues == [1]
    assert notes == ["http://server-0: does not answer (refused); it is retried automatically"]
    first.fault = None
    time.now += 1.0
    for k in range(2, 6):
        await many.complete(REQUEST, 0, k)
    assert first.dialogues[6:]  # tried once more, and it answers
    await many.complete(REQUEST, 0, 1)
    assert second.dialogues[-1] == 1  # but a dialogue does not move back


async def test_with_no_server_left_it_says_when_to_come_again() -> None:
    servers = fakes(2)
    many = pool(servers, limit=8)
    for server in servers:
        server.fault = TransientError("refused")
    for k in range(10):
        with pytest.raises(TransientError, match="refused"):
            await many.complete(REQUEST, 0, k)
    with pytest.raises(TransientError, match="model: no server answers") as caught:
        await many.complete(REQUEST, 0, 1)
    assert caught.value.retry_after == pytest.approx(0.5)
    assert len(servers[0].dialogues) == len(servers[1].dialogues) == 5


async def test_with_no_server_left_it_says_what_went_wrong_last() -> None:
    (server,) = servers = fakes(1)
    many = pool(servers, limit=8)
    server.fault = TransientError("HTTP 502: bad gateway")
    for k in range(5):
        with pytest.raises(TransientError):
            await many.complete(REQUEST, 0, k)
    with pytest.raises(TransientError, match="no server answers, last: HTTP 502: bad gateway"):
        await many.complete(REQUEST, 0, 9)


async def test_a_server_that_comes_back_gets_dialogues_back_where_others_wait() -> None:
    first, second = servers = fakes(2)
    time = Time()
    many = pool(servers, time, limit=2)
    first.fault = TransientError("refused")
    for k in range(5):
        with pytest.raises(TransientError):
            await many.complete(REQUEST, 0, 2 * k)
    for k in range(8):
        await many.complete(REQUEST, 0, k)  # all of them are at the second server now
    assert set(second.dialogues) == set(range(8))
    first.fault, first.dialogues = None, []
    time.now += 20.0
    second.hold = asyncio.Event()
    tasks = [asyncio.create_task(many.complete(REQUEST, 0, k)) for k in range(8)]
    await settled()
    assert first.dialogues
    second.hold.set()
    await asyncio.gather(*tasks)
    assert len(first.dialogues) + len(second.dialogues[8:]) == 8


async def test_a_server_that_asks_for_a_long_wait_is_left_alone_while_there_are_others() -> None:
    first, second = servers = fakes(2)
    time = Time()
    many = pool(servers, time, limit=8)
    first.fault = Busy("daily limit", retry_after=3600.0)
    with pytest.raises(Busy):
        await many.complete(REQUEST, 0, 1)
    await many.complete(REQUEST, 0, 1)
    assert (first.dialogues, second.dialogues) == ([1], [1])
    second.fault = Busy("daily limit", retry_after=7200.0)
    for _ in range(2):
        with pytest.raises(Busy, match="daily limit") as caught:
            await many.complete(REQUEST, 0, 2)
    assert caught.value.retry_after == pytest.approx(3600.0)  # the first one is back earlier
    assert len(second.dialogues) == 2


async def test_a_lone_long_wait_does_not_empty_the_only_server() -> None:
    (server,) = servers = fakes(1)
    many = pool(servers, limit=8)
    server.fault = Busy("slow down", retry_after=3600.0)
    with pytest.raises(Busy):
        await many.complete(REQUEST, 0, 1)
    server.fault = None
    assert isinstance(await many.complete(REQUEST, 0, 2), Completion)


async def test_a_dialogue_that_was_refused_makes_room_for_another_one() -> None:
    (server,) = servers = fakes(1)
    changes: list[None] = []
    many = pool(servers, limit=8, changed=lambda: changes.append(None))
    for k in range(8):
        await many.complete(REQUEST, 0, k)
    server.fault = Busy("503")
    with pytest.raises(Busy):
        await many.complete(REQUEST, 0, 3)
    assert (many.capacity, len(changes)) == (9, 1)
    server.fault = None
    await many.complete(REQUEST, 0, 3)
    assert many.capacity == 8
    many.closed(3)
    assert many.capacity == 8


async def test_being_busy_is_no_failure() -> None:
    (server,) = servers = fakes(1)
    many = pool(servers, limit=8)
    server.fault = Busy("429", retry_after=1.0)
    for k in range(20):
        with pytest.raises(Busy):
            await many.complete(REQUEST, 0, k)
    assert len(server.dialogues) == 20
    assert many.capacity == 1


@pytest.mark.parametrize("fault", [ModelError("key"), RuntimeError("mistake")])
async def test_other_errors_pass_and_give_their_place_back(fault: Exception) -> None:
    (server,) = servers = fakes(1)
    many = pool(servers, limit=1)
    server.fault = fault
    for _ in range(3):
        with pytest.raises(type(fault)):
            await many.complete(REQUEST, 0)
    server.fault = None
    server.answer = Refusal("HTTP 400")
    assert await many.complete(REQUEST, 0) == Refusal("HTTP 400")


async def test_whoever_waits_for_a_place_is_sent_away_when_the_run_stops() -> None:
    (server,) = servers = fakes(1)
    stopping = asyncio.Event()
    many = pool(servers, limit=2, stopping=stopping)
    server.hold = asyncio.Event()
    tasks = [asyncio.create_task(many.complete(REQUEST, 0, k)) for k in range(6)]
    await settled()
    stopping.set()
    server.hold.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(type(e) for e in ended) == {Completion: 2, Stopped: 4}
    assert server.dialogues == [0, 1]


async def test_one_who_gives_up_waiting_leaves_no_trace() -> None:
    (server,) = servers = fakes(1)
    many = pool(servers, limit=1)
    server.hold = asyncio.Event()
    tasks = [asyncio.create_task(many.complete(REQUEST, 0, k)) for k in range(3)]
    await settled()
    tasks[0].cancel()
    tasks[1].cancel()
    await settled()
    server.hold.set()
    assert isinstance(await tasks[2], Completion)
    assert server.dialogues == [0, 2]
    assert many.servers[0].permits.busy == 0


async def test_a_provider_s_limits_are_kept_to() -> None:
    time = Time()
    requests = RateLimit(60, burst=0.0, clock=time, sleep=time.sleep)
    many = pool(fakes(1), time, limit=8, rates=RateLimits(requests=requests))
    for _ in range(10):
        await many.complete(REQUEST, 0)
    assert time.now == pytest.approx(9.0)


async def test_tokens_are_reserved_before_and_settled_after() -> None:
    """About 200 are expected (400 characters and 100 of reply); 150 are used."""
    time = Time()
    tokens = RateLimit(6000, burst=0.0, clock=time, sleep=time.sleep)
    many = pool(fakes(1), time, limit=8, rates=RateLimits(tokens=tokens))
    for _ in range(10):
        await many.complete(REQUEST, 0)
    assert time.now == pytest.approx(9 * 1.5)


async def test_a_server_s_own_figures_are_listened_to() -> None:
    (server,) = servers = fakes(1)
    changes: list[None] = []
    many = pool(servers, changed=lambda: changes.append(None))
    looks = 0

    async def look(model: Model) -> Gauges | None:
        nonlocal looks
        assert model is server
        looks += 1
        return Gauges(running=3, waiting=9) if looks % 2 else None

    async with many.monitored(look, every=0.0):
        await asyncio.sleep(0.02)
    assert looks > 5
    assert many.capacity == 3
    assert changes


async def test_a_server_that_refuses_to_tell_is_asked_less_and_less() -> None:
    looks: list[Model] = []

    async def look(model: Model) -> Gauges | None:
        looks.append(model)
        return Gauges(running=1) if len(looks) < 20 else None

    async with pool(fakes(1)).monitored(look, every=0.002):
        await asyncio.sleep(0.4)
    assert 20 <= len(looks) < 40  # of 200


async def test_a_server_that_tells_nothing_is_not_asked_for_ever() -> None:
    looks: list[Model] = []

    async def look(model: Model) -> None:
        looks.append(model)

    async with pool(fakes(2)).monitored(look, every=0.0):
        await asyncio.sleep(0.02)
    assert len(looks) == 6
