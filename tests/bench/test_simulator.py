"""The engine simulator: its arithmetic against naive versions, its faults over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdsd
from sdsd.errors import ModelError, TransientError
from sdsd.models.openai_server import HttpModel
from sdsd.models.probing import probe
from sdsd.models.scripted import CHATML
from sdsd.text import parsing
from sdsd.types import Completion, Message, Refusal, Request
from simengine import BLOCK, CHARS, Engine, Job, PrefixCache, Speed, chained, count, lengthened
from simoptions import FaultKind, Options, arguments, parsed
from simulator import Simulator, serving, spawned
from simwire import Line
from simworld import Kind, Turn, instance, kind_of_chat, kind_of_stream, reply

pytestmark = pytest.mark.e2e

# -- the engine ----------------------------------------------------------------------------

SPEED = Speed(slots=3, a=4.0, b=0.5, c=0.25, batch_tokens=8)
"""Fractions that floats hold exactly."""


class Visit(msgspec.Struct):
    """One sequence that comes, and perhaps leaves before it is finished."""

    at: float
    prompt: int
    reply: int
    leaves: float | None


def events(visits: list[Visit]) -> list[tuple[float, int, int]]:
    """(time, who, 0 for coming or 1 for leaving) in order."""
    comes = [(v.at, k, 0) for k, v in enumerate(visits)]
    return sorted(comes + [(v.leaves, k, 1) for k, v in enumerate(visits) if v.leaves is not None])


def run_engine(visits: list[Visit]) -> tuple[dict[int, float], float]:
    """When each is finished, and how long the engine was busy."""
    engine = Engine(SPEED, PrefixCache(0))
    jobs = [Job(v.prompt, v.reply, [], []) for v in visits]
    ends: dict[int, float] = {}

    def advance(now: float) -> None:
        while engine.next is not None and engine.next <= now:
            at = engine.next
            ends.update({jobs.index(job): at for job in engine.advance(at)})

    for at, who, leaving in events(visits):
        advance(at)
        (engine.abort if leaving else engine.submit)(jobs[who], at)
    advance(float("inf"))
    assert (engine.running, engine.waiting, engine.next) == (0, 0, None)
    return ends, engine.busy


def run_steps(visits: list[Visit]) -> tuple[dict[int, float], float]:
    """The same by taking every single step."""
    ends: dict[int, float] = {}
    queue: list[list[int]] = []  # [who, prompt tokens left, reply tokens left]
    inside: list[list[int]] = []
    to_come, busy, now = events(visits), 0.0, 0.0

    def happen() -> None:
        _, who, leaving = to_come.pop(0)
        if not leaving:
            queue.append([who, visits[who].prompt, visits[who].reply])
        for place in (queue, inside):
            place[:] = [x for x in place if not (leaving and x[0] == who)]

    while to_come or inside or queue:
        if not inside and not queue:
            now = max(now, to_come[0][0])
            happen()
            continue
        budget, reads = SPEED.batch_tokens, set()
        while budget:
            reading = next((x for x in inside if x[1]), None)
            if reading is None and queue and len(inside) < SPEED.slots:
                reading = queue.pop(0)
                inside.append(reading)
            if reading is None:
                break
            taken = min(budget, reading[1])
            budget, reading[1] = budget - taken, reading[1] - taken
            reads.add(reading[0])
        length = SPEED.a + SPEED.b * len(inside) + SPEED.c * (SPEED.batch_tokens - budget)
        now, busy = now + length, busy + length
        before = {x[0] for x in inside}
        while to_come and to_come[0][0] < now:
            happen()
        for x in inside:
            x[2] -= x[1] == 0
        assert before >= {x[0] for x in inside}
        ends.update({x[0]: now for x in inside if x[2] == 0})
        inside[:] = [x for x in inside if x[2]]
    return ends, busy


sixteenths = st.integers(0, 1600).map(lambda k: k / 16)
visits = st.lists(
    st.builds(Visit, sixteenths, st.integers(1, 30), st.integers(1, 20), st.none() | sixteenths),
    min_size=1,
    max_size=12,
).map(lambda vs: [
    msgspec.structs.replace(v, leaves=None if v.leaves is None else v.at + v.leaves + 1 / 64)
    for v in vs
])  # fmt: skip


@given(visits)
def test_spans_end_when_single_steps_would(visits: list[Visit]) -> None:
    assert run_engine(visits) == run_steps(visits)


def test_the_arithmetic_of_steps() -> None:
    """By hand: 12 prompt tokens need two steps of at most 8; then two write side by side."""
    ends, busy = run_engine([Visit(0, 12, 3, None), Visit(5.5, 2, 1, None)])
    first = 4 + 0.5 + 8 * 0.25  # ends at 6.5; the second came meanwhile
    second = 4 + 2 * 0.5 + (4 + 2) * 0.25  # both have read, and written their first token
    assert ends == {1: first + second, 0: first + second + 2 * (4 + 0.5)}
    assert busy == ends[0]


def test_many_sequences_cost_few_events() -> None:
    engine = Engine(Speed(), PrefixCache(0))
    for k in range(256):
        engine.submit(Job(10, 100 + k % 4, [], []), 0.0)
    advances = 0
    while engine.next is not None:
        engine.advance(engine.next)
        advances += 1
    assert advances <= 8
    assert engine.running_peak == 256


def test_blocks_in_use_count_shared_ones_once() -> None:
    engine, chain = Engine(Speed(), PrefixCache(100)), chained("x" * 256)
    for _ in range(2):
        engine.submit(Job(70, 30, chain, chain), 0.0)
    assert engine.held() == 5  # the second joins the next step
    assert engine.next is not None
    engine.advance(engine.next)
    assert (engine.running, engine.held()) == (2, 4 + 1 + 1)


# -- the cache -----------------------------------------------------------------------------


class NaiveCache:
    """Blocks by the whole text up to their end, in a list: the last used come last."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: list[str] = []
        self.ever: list[str] = []

    def blocks(self, text: str) -> list[str]:
        width = BLOCK * CHARS
        return [text[:end] for end in range(width, len(text) + 1, width)]

    def match(self, text: str) -> tuple[int, int]:
        usable = [b for b in self.blocks(text) if len(b) // CHARS < count(text)]
        found = [k for k in range(len(usable) + 1) if set(usable[:k]) <= set(self.held)][-1]
        least = [k for k in range(len(usable) + 1) if set(usable[:k]) <= set(self.ever)][-1]
        self.use(usable[:found])
        return found * BLOCK, least * BLOCK

    def use(self, blocks: list[str]) -> None:
        for block in reversed(blocks):
            self.held = [b for b in self.held if b != block] + [block]
        self.ever += blocks
        self.held = self.held[-self.capacity :]


texts = st.tuples(st.text("ab", max_size=3), st.integers(0, 70)).map(
    lambda t: "".join(letter * 64 for letter in t[0]) + "c" * t[1]
)


@given(st.integers(1, 6), st.lists(st.tuples(texts, texts, st.booleans()), max_size=12))
def test_the_cache_keeps_what_a_naive_one_keeps(
    capacity: int, asked: list[tuple[str, str, bool]]
) -> None:
    """Some sequences are written to their end, others only looked for what is there."""
    cache, naive = PrefixCache(capacity), NaiveCache(capacity)
    for prompt, answer, finished in asked:
        chain = chained(prompt)
        assert cache.match(chain, count(prompt)) == naive.match(prompt)
        whole = lengthened(chain, prompt, answer)
        assert whole == chained(prompt + answer)
        if finished:
            cache.insert(whole)
            naive.use(naive.blocks(prompt + answer))
        assert len(cache) == len(naive.held) <= capacity


def test_the_last_token_is_always_computed() -> None:
    cache = PrefixCache(100)
    chain = chained("x" * 256)
    cache.insert(chain)
    assert cache.match(chain, 64) == (48, 48)


def test_without_a_cache_nothing_is_found() -> None:
    cache = PrefixCache(0)
    cache.insert(chained("x" * 256))
    assert cache.match(chained("x" * 256), 64) == (0, 0)


# -- the wire ------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello. " * 30}]}


async def raw(
    simulator: Simulator, body: object, path: str = CHAT, method: str = "POST", headers: str = ""
) -> tuple[bytes, bool]:
    """All bytes that come back, and whether the connection was reset."""
    pieces, reset = await received(simulator, body, path, method, headers)
    return b"".join(pieces), reset


async def received(
    simulator: Simulator, body: object, path: str = CHAT, method: str = "POST", headers: str = ""
) -> tuple[list[bytes], bool]:
    """What comes back, piece by piece, and whether the connection was reset."""
    port = int(simulator.url.rpartition(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    pieces, reset = list[bytes](), False
    try:
        while piece := await reader.read(4096):
            pieces.append(piece)
    except ConnectionError:
        reset = True
    finally:
        writer.close()
    return pieces, reset


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, two seconds at most."""
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


def split(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    start, _, body = response.partition(b"\r\n\r\n")
    line, *rest = start.decode().split("\r\n")
    return int(line.split()[1]), dict(h.split(": ", 1) for h in rest), body


async def said(simulator: Simulator, body: object, *args: str, **more: str) -> tuple[int, Any]:
    """Status and decoded body."""
    status, _, data = split((await raw(simulator, body, *args, **more))[0])
    return status, json.loads(data)


async def test_real_time_is_modelled_time_scaled() -> None:
    options = Options(time_scale=0.1)
    async with serving(options) as simulator:
        status, answer = await said(simulator, HELLO)
        usage, stats = answer["usage"], simulator.stats()
    o = options
    modelled = (o.a + o.b) * usage["completion_tokens"] + o.c * usage["prompt_tokens"]
    assert (status, usage["prompt_tokens_details"]["cached_tokens"]) == (200, 0)
    assert stats.busy_seconds == pytest.approx(modelled * 0.1 / 1000)


async def test_the_slower_of_two_servers_answers_later() -> None:
    slow, fast = serving(Options(time_scale=1.0)), serving(Options(time_scale=0.01))
    async with slow as one, fast as other:
        asked = [asyncio.create_task(said(server, HELLO)) for server in (one, other)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert done == {asked[1]}
        await asked[0]


async def test_what_is_computed_is_accounted_for() -> None:
    async with serving(Options(instant=True, blocks=100)) as simulator:
        first = (await said(simulator, HELLO))[1]
        reply_text = first["choices"][0]["message"]["content"]
        longer = [*HELLO["messages"], {"role": "assistant", "content": reply_text},
                  {"role": "user", "content": "And?"}]  # fmt: skip
        second = (await said(simulator, {"messages": longer}))[1]
        stats = simulator.stats()
    seen = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert seen - BLOCK < cached <= seen  # the reply's blocks too
    assert stats.cached_tokens == cached
    assert stats.computed_tokens == stats.least_tokens == stats.prompt_tokens - cached
    assert (stats.requests, stats.answered, stats.in_flight) == (2, 2, 0)
    assert stats.completion_tokens / 10 == pytest.approx(sum(stats.series))
    assert stats.tokens_per_second > 0


async def test_full_slots_make_a_queue() -> None:
    async with serving(Options(slots=2, time_scale=0.5)) as simulator:
        await asyncio.gather(*(raw(simulator, HELLO | {"seed": k}) for k in range(5)))
        stats = simulator.stats()
    assert (stats.answered, stats.running_peak, stats.in_flight_peak) == (5, 2, 5)
    assert stats.waiting_peak >= 3


async def test_choices_stops_limits_logprobs_and_schemas() -> None:
    shape = {"type": "object", "properties": {"ok": {"type": "boolean"}, "k": {"enum": ["a"]}}}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": shape}}
    async with serving(Options(instant=True)) as simulator:
        _, many = await said(simulator, HELLO | {"n": 3})
        _, again = await said(simulator, HELLO)
        _, cut = await said(simulator, HELLO | {"max_tokens": 2, "logprobs": True,
                                                "top_logprobs": 3})  # fmt: skip
        _, stopped = await said(simulator, HELLO | {"stop": [" knows"]})
        _, held = await said(simulator, HELLO | {"response_format": schema})
        _, plain = await said(
            simulator, {"prompt": "One, two,", "max_tokens": 3, "logprobs": 1}, "/v1/completions"
        )
    contents = [c["message"]["content"] for c in many["choices"]]
    assert len(set(contents)) == 3
    assert again["choices"][0]["message"]["content"] == contents[0]
    assert cut["choices"][0]["message"]["content"] == contents[0][:8]
    assert cut["choices"][0]["finish_reason"] == "length"
    tokens = cut["choices"][0]["logprobs"]["content"]
    assert "".join(t["token"] for t in tokens) == contents[0][:8]
    assert [len(t["top_logprobs"]) for t in tokens] == [3, 3]
    assert stopped["choices"][0]["message"]["content"] == contents[0].partition(" knows")[0]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert json.loads(held["choices"][0]["message"]["content"]) == {"ok": False, "k": "a"}
    assert len(plain["choices"][0]["text"]) == 12
    assert plain["choices"][0]["logprobs"]["token_logprobs"] == [-0.1] * 3


async def test_what_is_refused_and_how() -> None:
    options = Options(instant=True, max_context=100, models=("m", "other"), key="k",
                      key_expires_after=6)  # fmt: skip
    key = "Authorization: Bearer k\r\n"
    async with serving(options) as simulator:
        assert (await said(simulator, HELLO))[0] == 401
        assert (await said(simulator, HELLO, headers="Authorization: Bearer x\r\n"))[0] == 401
        assert (await said(simulator, HELLO | {"max_tokens": 9}, headers=key))[0] == 200
        status, error = await said(simulator, HELLO | {"max_tokens": 90}, headers=key)
        assert status == 400
        assert "maximum context length is 100 tokens" in error["error"]["message"]
        status, error = await said(simulator, HELLO | {"model": "n"}, headers=key)
        assert (status, error["error"]["code"]) == (404, "model_not_found")
        assert (await said(simulator, b"{", headers=key))[0] == 400
        assert (await said(simulator, {"model": "m"}, headers=key))[0] == 400
        assert (await said(simulator, HELLO | {"max_tokens": 9}, headers=key))[0] == 200
        assert (await said(simulator, HELLO, headers=key))[0] == 401  # expired
        assert split((await raw(simulator, b"", "/nowhere"))[0])[0] == 404
        assert (simulator.stats().answered, simulator.stats().refused) == (2, 7)


async def test_no_more_in_flight_than_the_cap() -> None:
    async with serving(Options(cap=2, retry_after=3, time_scale=0.02)) as simulator:
        got = await asyncio.gather(*(raw(simulator, HELLO) for _ in range(5)))
        free = await raw(simulator, HELLO)
    heads = [split(response) for response, _ in got]
    assert Counter(status for status, _, _ in heads) == {200: 2, 429: 3}
    assert all(h["Retry-After"] == "3" for status, h, _ in heads if status == 429)
    assert split(free[0])[0] == 200


async def test_the_other_routes() -> None:
    async with serving(Options(time_scale=0.01)) as simulator:
        rendered = await said(simulator, HELLO, "/apply-template")
        models = await said(simulator, b"", "/v1/models", method="GET")
        await raw(simulator, HELLO)
        metrics = split((await raw(simulator, b"", "/metrics", method="GET"))[0])[2].decode()
        assert (await said(simulator, {"429": 0.5}, "/sim/faults"))[0] == 200
        assert (await said(simulator, {"429": 0.5, "500": 0.6}, "/sim/faults"))[0] == 400
        assert (await said(simulator, {"flood": 0.5}, "/sim/faults"))[0] == 400
        assert (await said(simulator, b"", "/sim/stats", method="GET"))[1]["answered"] == 1
        assert (await said(simulator, b"", "/sim/reset"))[0] == 200
        assert (await said(simulator, b"", "/sim/stats", method="GET"))[1]["answered"] == 0
    assert rendered[1]["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert models[1]["data"][0]["id"] == "sim"
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    label = '{engine="0",model_name="sim"}'
    assert values[f"vllm:prefix_cache_queries_total{label}"] == str(
        float(count(rendered[1]["prompt"]))
    )
    assert values[f"vllm:num_requests_running{label}"] == "0.0"
    assert 'block_size="16"' in metrics
    assert 'num_gpu_blocks="32768"' in metrics
    async with serving(Options(apply_template=False, metrics=False)) as simulator:
        for path, method in (("/apply-template", "POST"), ("/metrics", "GET")):
            assert split((await raw(simulator, HELLO, path, method))[0])[0] == 404


async def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with serving(Options(slots=1, time_scale=0.02, log=str(log))) as simulator:
        slow = asyncio.create_task(raw(simulator, HELLO | {"n": 100}))
        await until(lambda: simulator.stats().running > 0)
        slow.cancel()
        assert split((await raw(simulator, HELLO))[0])[0] == 200
        stats = simulator.stats()
    assert (stats.aborted, stats.answered, stats.in_flight, stats.running) == (1, 1, 0, 0)
    assert stats.busy_seconds < 0.2  # a hundred sequences would take a second
    assert [(line.number, line.outcome) for line in lines(log)] == [(0, "aborted"), (1, "answered")]


def lines(log: Path) -> list[Line]:
    return [msgspec.json.decode(line, type=Line) for line in log.read_bytes().splitlines()]


async def test_killed_and_revived_on_the_same_port(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with serving(Options(log=str(log))) as simulator:
        url, waiting = simulator.url, asyncio.create_task(raw(simulator, HELLO))
        await until(lambda: simulator.stats().running > 0)
        await simulator.stop()
        assert await waiting == (b"", True)
        with pytest.raises(ConnectionRefusedError):
            await raw(simulator, HELLO)
        await simulator.restart()
        assert simulator.url == url
        assert (await said(simulator, HELLO | {"max_tokens": 1}))[0] == 200
        assert (simulator.stats().answered, simulator.stats().aborted) == (1, 1)
    first, second = lines(log)
    assert (first.outcome, second.outcome) == ("aborted", "answered")
    assert first.digest != second.digest


@pytest.mark.parametrize("turns", range(5))
async def test_killed_while_a_client_connects(turns: int) -> None:
    """However far the connection has come, it ends: nobody waits for an answer of the dead."""
    async with serving(Options()) as simulator:
        port = int(simulator.url.rpartition(":")[2].partition("/")[0])
        data = json.dumps(HELLO).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(
                f"POST {CHAT} HTTP/1.1\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            await simulator.stop()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


async def test_requests_on_one_connection_are_answered_in_order() -> None:
    async with serving(Options(instant=True)) as simulator:
        port = int(simulator.url.rpartition(":")[2].partition("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in ("/v1/models", "/nowhere", "/sim/stats"):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        statuses = []
        for _ in range(3):
            status, headers, _ = split(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(int(headers["Content-Length"]))
            statuses.append(status)
        writer.write(b"what?\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
    assert statuses == [200, 404, 200]


# -- faults --------------------------------------------------------------------------------

SHORT = HELLO | {"max_tokens": 1}


async def failing(kind: FaultKind) -> tuple[bytes, bool]:
    async with serving(Options(instant=True, faults={kind: 1.0})) as simulator:
        got = await raw(simulator, SHORT)
        stats = simulator.stats()
        assert (stats.faults, stats.answered, stats.in_flight) == ({kind: 1}, 0, 0)
    return got


@pytest.mark.parametrize("kind", ["429", "429-bare", "503", "500", "403", "404", "499", "400"])
async def test_faults_with_a_status(kind: FaultKind) -> None:
    status, headers, body = split((await failing(kind))[0])
    assert status == int(kind[:3])
    assert headers.get("Retry-After") == ("1" if kind == "429" else None)
    assert json.loads(body)["error"]["code"] == status


async def test_fault_204() -> None:
    """A success that says nothing."""
    status, headers, body = split((await failing("204"))[0])
    assert (status, headers["Content-Length"], body) == (204, "0", b"")


async def test_fault_error_200() -> None:
    status, _, body = split((await failing("error-200"))[0])
    assert (status, json.loads(body)["error"]["code"]) == (200, 502)


async def test_fault_thinking_only() -> None:
    choice = json.loads(split((await failing("thinking-only"))[0])[2])["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "length")
    assert choice["message"]["reasoning_content"]


async def test_fault_html() -> None:
    status, headers, body = split((await failing("html"))[0])
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert body.startswith(b"<!DOCTYPE html>")


async def test_fault_reset_early() -> None:
    assert await failing("reset-early") == (b"", True)


async def test_fault_reset() -> None:
    got, reset = await failing("reset")
    status, headers, body = split(got)
    assert (status, reset) == (200, True)
    assert 0 < len(body) < int(headers["Content-Length"])


async def test_fault_hang() -> None:
    async with serving(Options(faults={"hang": 1.0})) as simulator:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw(simulator, SHORT), 0.2)
        await until(lambda: simulator.stats().in_flight == 0)
        assert simulator.stats().faults == {"hang": 1}


@pytest.mark.parametrize("kind", ["drip", "slow-headers"])
async def test_faults_that_dribble_end_whole(kind: FaultKind) -> None:
    async with serving(Options(instant=True, faults={kind: 1.0})) as simulator:
        pieces, _ = await received(simulator, SHORT)
    assert len(pieces) > 3
    status, headers, body = split(b"".join(pieces))
    assert (status, int(headers["Content-Length"])) == (200, len(body))
    assert json.loads(body)["choices"]


async def test_fault_truncated() -> None:
    status, headers, body = split((await failing("truncated"))[0])
    assert (status, int(headers["Content-Length"])) == (200, len(body))
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


async def test_fault_empty_choices() -> None:
    assert json.loads(split((await failing("empty-choices"))[0])[2])["choices"] == []


async def test_fault_null_content() -> None:
    (choice,) = json.loads(split((await failing("null-content"))[0])[2])["choices"]
    assert choice["message"]["content"] is None


async def test_fault_duplicate() -> None:
    got, _ = await failing("duplicate")
    half = len(got) // 2
    assert got[:half] == got[half:]
    assert json.loads(split(got[:half])[2])["choices"]


async def test_faults_come_at_their_rates_by_number_and_seed() -> None:
    plan: dict[FaultKind, float] = {"500": 0.2, "html": 0.3}
    outcomes = []
    for _ in range(2):
        async with serving(Options(instant=True, faults=plan, fault_seed=7)) as simulator:
            model = HttpModel("m", simulator.url)
            outcomes.append([kind async for kind in asked(model, 300)])
            stats = simulator.stats()
    assert outcomes[0] == outcomes[1]
    assert stats.answered + sum(stats.faults.values()) == stats.requests == 300
    assert stats.faults["500"] == pytest.approx(60, abs=25)
    assert stats.faults["html"] == pytest.approx(90, abs=25)


async def asked(model: HttpModel, n: int) -> Any:
    """What becomes of `n` requests, one after the other."""
    async with model:
        for k in range(n):
            try:
                yield type(await model.complete(Request("agent", 1, prompt="Hm"), k))
            except TransientError as fault:
                yield str(fault)


async def test_the_client_of_the_package_reads_it() -> None:
    async with (
        serving(Options(instant=True, max_context=80)) as simulator,
        HttpModel("m", simulator.url) as model,
    ):
        can = await probe(model)
        assert (can.chat, can.completions, can.system, can.schema) == (True, True, True, True)
        assert can.template == CHATML
        done = await model.complete(Request("agent", 20, (Message("user", "Hello."),)), 1)
        assert isinstance(done, Completion)
        assert (done.finish, done.completion_tokens, len(done.text)) == ("length", 20, 80)
        full = await model.complete(Request("agent", 100, prompt="Hello."), 1)
        assert isinstance(full, Refusal)
        assert "maximum context length" in full.raw
    async with (
        serving(Options(instant=True, models=("x",))) as simulator,
        HttpModel("m", simulator.url) as model,
    ):
        with pytest.raises(ModelError, match="HTTP 404"):
            await probe(model)


# -- replies -------------------------------------------------------------------------------


def test_replies_are_a_function_of_text_and_seed() -> None:
    first = reply("agent", "Some text", "", 1, 0.35)
    assert first == reply("agent", "Some text", "", 1, 0.35)
    assert first != reply("agent", "Some text", "", 2, 0.35)
    assert first != reply("agent", "Another text", "", 1, 0.35)
    assert isinstance(reply("agent", "\ud800", "", -(2**63), 0.35), str)


@given(st.integers(0, 2**31), st.sampled_from(["user", "agent", "revision"]))
def test_turns_are_turns_and_do_not_copy_plans(seed: int, kind: Any) -> None:
    plans = [reply("plan", f"{k}", "a STEP 1 line, a STEP 2 line", seed, 0.35) for k in range(40)]
    plan = parsing.plan(plans[0], 2)
    assert len(plan.steps) == 2
    text = reply(kind, "x", "", seed, 0.35)
    assert parsing.turn(text) == text
    assert not parsing.copies(text, "\n".join(plans))


@pytest.mark.parametrize("rate", [0.0, 0.35, 1.0])
def test_the_critic_finds_violations_at_the_rate_asked_for(rate: float) -> None:
    case = "CONVERSATION\n\nUSER: {k}?\n\nREPLY UNDER REVIEW\n\nA {k}. No more.\n\nPRINCIPLE: {p}"
    kinds: tuple[Kind, Kind] = ("verdict", "labelled")
    found = 0
    for k in range(1000):
        verdicts = [
            parsing.verdict(reply(kind, case.format(k=k, p=p), case.format(k=k, p=p), p, rate),
                          "p", f"A {k}. No more.")
            for p, kind in enumerate(kinds)
        ]  # fmt: skip
        assert len({v.violated for v in verdicts}) == 1
        assert all(v.grounded == v.violated for v in verdicts)
        found += verdicts[0].violated
    assert found == pytest.approx(1000 * rate, abs=50)


def test_what_is_no_prompt_of_ours_is_answered_as_an_agent() -> None:
    assert kind_of_chat([Turn("user", "Hello")]) == "agent"
    assert kind_of_stream("<|im_start|>user\n") == "user"
    assert kind_of_stream("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n") == "agent"


def test_an_instance_of_a_schema() -> None:
    listed = {"type": "array", "items": {"type": "integer"}}
    properties = {"a": listed, "b": {"const": 3}, "c": {"type": "string"}}
    shape = {"type": "object", "properties": properties}
    assert instance(shape) == {"a": [1], "b": 3, "c": "so"}
    assert instance(True) is None


# -- whole runs ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spawned_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    log = tmp_path_factory.mktemp("sim") / "log"
    with spawned(Options(time_scale=0.01, log=str(log))) as url:
        yield url, log


@pytest.mark.parametrize("protocol", ["continuation", "roleplay", "transcript"])
def test_a_run_against_it_ends_well(
    protocol: str, spawned_one: tuple[str, Path], tmp_path: Path
) -> None:
    url, log = spawned_one
    before = len(lines(log)) if log.exists() else 0
    keys: dict[str, Any] = {"dialogue.protocol": protocol, "n": 12}
    config = {"models": {"default": {"model": "sim", "base_url": url}}, "critique": {"exam": 0}}
    result = sdsd.run(config, out=tmp_path / "run", **keys)
    outcomes = Counter(record.outcome for record in result.records())
    assert outcomes["accepted"] > 0
    assert outcomes["filtered"] > 0
    assert outcomes["failed"] == 0
    finished = lines(log)[before:]
    assert {line.outcome for line in finished} == {"answered"}
    assert len(finished) > 12 * (3 if protocol == "transcript" else 6)


# -- the command line ----------------------------------------------------------------------


def test_options_survive_the_command_line() -> None:
    options = Options(
        port=8, slots=2, a=1.5, time_scale=0.5, instant=True, models=("x", "y/z"), key="k",
        faults={"429-bare": 0.25, "drip": 0.5}, metrics=False, log="a b",
    )  # fmt: skip
    assert parsed(arguments(options)) == options
    assert parsed([]) == parsed(arguments(Options())) == Options()


@pytest.mark.parametrize(
    "words", [["--slots=0"], ["--faults", "flood=1"], ["--faults", "429=0.6", "500=0.6"], ["--x"]]
)
def test_a_wrong_option_ends_with_a_message(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(words)
    assert words[0].strip("-").partition("=")[0] in capsys.readouterr().err


def test_every_kind_of_fault_is_tested_here() -> None:
    source = Path(__file__).read_text("utf-8")
    assert all(f'"{kind}"' in source for kind in get_args(FaultKind))
