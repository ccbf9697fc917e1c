"""A simulated inference engine behind an OpenAI-compatible server: everything is real but the
model.

    python bench/simulator.py [--slots 256] [--blocks 8192] [--port 0] [--instant] ...

It batches continuously, keeps a prefix cache, takes the time that an engine would take
(`simengine.py`), returns what the packaged prompts ask for (`simworld.py`), and fails on demand. It
prints its base URL once it listens, and runs until SIGTERM. A token is four characters. Routes:

    POST /v1/chat/completions, /v1/completions     GET /v1/models
    POST /apply-template (llama.cpp's)             GET /metrics (vLLM's)
    GET  /sim/stats     counters since the last reset
    POST /sim/reset     clears counters and cache; request numbers continue
    POST /sim/faults    {"kind": rate, ...} replaces the planned faults

Kinds of faults, by what the client sees: `429` (with Retry-After), `429-bare`, `503`, `500`, `403`
and `400` (flagged by moderation), `404`, `499`, `204`, `html` (status 200), `error-200` (an error
with status 200), `hang` (no answer), `reset-early` (before the first byte), and, after the engine
has done its work: `reset` (in the middle of the body), `drip` and `slow-headers` (the response
arrives a few bytes at a time), `truncated` (JSON that ends too early), `empty-choices`,
`null-content`, `thinking-only` (no content, but thinking, cut), `duplicate` (the response comes
twice).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvloop

from sdsd.hashing import hash64

sys.path.insert(0, str(Path(__file__).parent))
from simengine import CHARS, Engine, Job, PrefixCache, Speed, chained, count, lengthened
from simhttp import Connection, Exchange, head
from simoptions import FaultKind, Options, Rate, arguments, checked, parsed
from simwire import (
    DEFAULT_MODEL,
    Asked,
    Choice,
    Line,
    Refused,
    Stats,
    bad,
    body,
    decode,
    encode,
    failure,
    pieces,
    too_long,
    unusable,
)
from simworld import chatml, kind_of_chat, kind_of_stream, reply, task

_AT_ONCE = (
    "429", "429-bare", "503", "500", "html", "hang", "reset-early", "403", "404", "499", "204",
    "400", "error-200",
)  # fmt: skip
"""Faults that do not involve the engine."""
_GRAIN = 10
"""Seconds covered by an entry of `Stats.series`."""
_RAW_LIMIT = 16
"""Token limit of a raw completion that names none."""
_faults = msgspec.json.Decoder(dict[FaultKind, Rate])


class _Ticket:
    """A request for a completion while the server handles it."""

    def __init__(self, number: int, exchange: Exchange, fault: str) -> None:
        self.number = number
        self.exchange = exchange
        self.fault = fault
        self.asked = Asked()
        self.choices: list[Choice] = []
        self.jobs: list[Job] = []
        self.left = 0
        """Unfinished jobs."""
        self.over = False


class _Pump:
    """Runs an engine in real time, with one timer set for its next event."""

    def __init__(self, engine: Engine, time_scale: float) -> None:
        self._engine = engine
        self._seconds = time_scale / 1000
        """Real seconds per modelled millisecond."""
        self._loop = asyncio.get_running_loop()
        self._zero = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, job: Job) -> None:
        """Submit a job; `job.done` is called when it is finished."""
        now = self.catch_up()
        self._engine.submit(job, now)
        self._wind()

    def abort(self, job: Job) -> None:
        """Cancel a job."""
        now = self.catch_up()
        self._engine.abort(job, now)
        self._wind()

    def catch_up(self) -> float:
        """Take the steps that are due, and return the modelled time."""
        now = (time.monotonic() - self._zero) / self._seconds
        for job in self._engine.advance(now):
            self._loop.call_soon(job.done)
        return now

    def stop(self) -> None:
        """Stop the engine for good."""
        if self._timer is not None:
            self._timer.cancel()

    def _wind(self) -> None:
        self.stop()
        if self._engine.next is not None:
            due = self._zero + self._engine.next * self._seconds
            # Timers have a resolution of one millisecond, and one that fires early is useless.
            wait = max(0.001, due - time.monotonic())
            self._timer = self._loop.call_at(self._loop.time() + wait, self._tick)

    def _tick(self) -> None:
        self.catch_up()
        self._wind()


class Simulator:
    """The server. Call `start` and `stop`, or use `serving`."""

    def __init__(self, options: Options) -> None:
        self.options = checked(options)
        self._faults: dict[FaultKind, float] = dict(self.options.faults)
        self._port = self.options.port
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._number = 0
        self._keyed = 0
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._log = os.open(self.options.log, flags, 0o644) if self.options.log else None
        self._stats = Stats()
        self._series: dict[int, int] = {}
        self._busy_before = 0.0

    # -- life ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def start(self) -> None:
        """Start listening."""
        self._renew()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._answer, self._connections), "127.0.0.1", self._port
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection, as if killed. May be started again."""
        if self._server is None:
            return
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening)
        for _ in range(2):  # one that was just accepted is only known after two turns of the loop
            await asyncio.sleep(0)
        self._server.close()
        gone = [connection.closed for connection in self._connections]
        for connection in list(self._connections):
            connection.reset()
        await asyncio.gather(*gone)
        await self._server.wait_closed()
        self._pump.stop()
        self._server = None

    async def restart(self) -> None:
        """Start again on the same port with an empty cache; counters and log continue."""
        await self.stop()
        before = self._engine
        await self.start()
        self._engine.busy = before.busy
        self._engine.running_peak = before.running_peak
        self._engine.waiting_peak = before.waiting_peak

    def close(self) -> None:
        """Release what outlives `stop`."""
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _renew(self) -> None:
        o = self.options
        speed = Speed(o.slots, o.a, o.b, o.c, o.batch_tokens)
        self._cache = PrefixCache(o.blocks)
        self._engine = Engine(speed, self._cache)
        self._pump = _Pump(self._engine, o.time_scale)

    # -- control ---------------------------------------------------------------------------

    def set_faults(self, faults: dict[FaultKind, float]) -> None:
        """Replace the planned faults: the share of requests for each kind."""
        checked(msgspec.structs.replace(self.options, faults=faults))
        self._faults = dict(faults)

    def reset(self) -> None:
        """Clear counters and cache; requests in flight continue."""
        self._pump.catch_up()
        in_flight = self._stats.in_flight
        self._stats = Stats(in_flight=in_flight, in_flight_peak=in_flight)
        self._series = {}
        self._cache.clear()
        self._engine.running_peak = self._engine.running
        self._engine.waiting_peak = self._engine.waiting
        self._busy_before = self._engine.busy

    def stats(self) -> Stats:
        """Return the counters so far."""
        self._pump.catch_up()
        engine, stats = self._engine, msgspec.structs.replace(self._stats)
        stats.faults = dict(stats.faults)
        stats.running, stats.running_peak = engine.running, engine.running_peak
        stats.waiting, stats.waiting_peak = engine.waiting, engine.waiting_peak
        busy = engine.busy - self._busy_before
        stats.busy_seconds = busy * self.options.time_scale / 1000
        used = resource.getrusage(resource.RUSAGE_SELF)
        stats.cpu_seconds = used.ru_utime + used.ru_stime
        if stats.first_request is not None and stats.last_reply is not None:
            span = max(1e-9, stats.last_reply - stats.first_request)
            stats.tokens_per_second = stats.completion_tokens / span
        last = max(self._series, default=-1)
        stats.series = [self._series.get(k, 0) / _GRAIN for k in range(last + 1)]
        return stats

    # -- routes ----------------------------------------------------------------------------

    def _answer(self, exchange: Exchange) -> None:
        match exchange.method, exchange.path:
            case "POST", "/v1/chat/completions" | "/v1/completions":
                self._complete(exchange)
            case "GET", "/v1/models":
                self._models(exchange)
            case "POST", "/apply-template" if self.options.apply_template:
                self._template(exchange)
            case "GET", "/metrics" if self.options.metrics:
                text = self._metrics().encode()
                exchange.send(head(200, len(text), "text/plain; version=0.0.4") + text)
            case "GET", "/sim/stats":
                _respond(exchange, 200, self.stats())
            case "POST", "/sim/reset":
                self.reset()
                _respond(exchange, 200, {})
            case "POST", "/sim/faults":
                try:
                    self.set_faults(_faults.decode(exchange.body))
                    _respond(exchange, 200, self._faults)
                except ValueError as fault:
                    _respond(exchange, 400, bad(str(fault)).body)
            case _:
                _respond(exchange, 404, {"detail": "Not Found"})

    def _models(self, exchange: Exchange) -> None:
        try:
            self._check_key(exchange)
        except Refused as no:
            return _respond(exchange, no.status, no.body)
        names = self.options.models or (DEFAULT_MODEL,)
        data = [{"id": name, "object": "model", "owned_by": "sdsd"} for name in names]
        return _respond(exchange, 200, {"object": "list", "data": data})

    def _template(self, exchange: Exchange) -> None:
        try:
            messages = decode(exchange.body).messages
        except msgspec.DecodeError as fault:
            return _respond(exchange, 400, bad(str(fault)).body)
        return _respond(exchange, 200, {"prompt": chatml(messages)})

    def _metrics(self) -> str:
        self._pump.catch_up()
        engine, blocks = self._engine, self.options.blocks
        name = (self.options.models or (DEFAULT_MODEL,))[0]
        label = f'{{engine="0",model_name="{name}"}}'
        used = min(1.0, engine.held() / blocks) if blocks else 0.0
        cache = f'{{block_size="16",enable_prefix_caching="{blocks > 0}",engine="0",'
        cache += f'num_gpu_blocks="{blocks}"}}'
        rows: list[tuple[str, str, str, float]] = [
            ("num_requests_running", "gauge", label, engine.running),
            ("num_requests_waiting", "gauge", label, engine.waiting),
            ("kv_cache_usage_perc", "gauge", label, used),
            ("prefix_cache_queries_total", "counter", label, self._stats.prompt_tokens),
            ("prefix_cache_hits_total", "counter", label, self._stats.cached_tokens),
            ("cache_config_info", "gauge", cache, 1),
        ]
        return "".join(
            f"# TYPE vllm:{metric} {kind}\nvllm:{metric}{labels} {float(value)}\n"
            for metric, kind, labels, value in rows
        )

    # -- completions -----------------------------------------------------------------------

    def _complete(self, exchange: Exchange) -> None:
        number = self._number
        self._number += 1
        stats = self._stats
        stats.requests += 1
        stats.in_flight += 1
        stats.in_flight_peak = max(stats.in_flight_peak, stats.in_flight)
        if stats.first_request is None:
            stats.first_request = time.monotonic()
        ticket = _Ticket(number, exchange, self._fault(number))
        exchange.lost = partial(self._lost, ticket)
        try:
            self._check_key(exchange)
            self._check_cap()
            if ticket.fault in _AT_ONCE:
                return self._fail(ticket)
            self._read(ticket)
        except Refused as no:
            self._over(ticket, "refused", no.status)
            return _respond(exchange, no.status, no.body, no.headers)
        return self._work(ticket)

    def _fault(self, number: int) -> str:
        """Return the fault planned for a request, or ""."""
        if not self._faults:
            return ""
        luck = hash64(self.options.fault_seed, number) / 2**64
        for kind, rate in self._faults.items():
            luck -= rate
            if luck < 0:
                return kind
        return ""

    def _check_key(self, exchange: Exchange) -> None:
        key, last = self.options.key, self.options.key_expires_after
        if not key:
            return
        known = exchange.key == f"Bearer {key}"
        if known and exchange.method == "POST":
            self._keyed += 1
        if not known or (last and self._keyed > last):
            said = "The API key has expired." if known else "Incorrect API key provided."
            raise Refused(401, said, "invalid_request_error", "invalid_api_key")

    def _check_cap(self) -> None:
        cap, wait = self.options.cap, self.options.retry_after
        if cap and self._stats.in_flight > cap:
            said = "Too many requests in flight."
            raise Refused(429, said, "rate_limit_error", "rate_limited", wait)

    def _read(self, ticket: _Ticket) -> None:
        """Read the request and write the texts of its reply. Raises `Refused`."""
        try:
            asked = ticket.asked = decode(ticket.exchange.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise bad(str(fault)) from None
        known, context = self.options.models, self.options.max_context
        if known and asked.model not in known:
            said = f"The model `{asked.model}` does not exist."
            raise Refused(404, said, "NotFoundError", "model_not_found")
        chat = ticket.exchange.path == "/v1/chat/completions"
        if bool(asked.messages) != chat or bool(asked.prompt) == chat:
            raise bad("a chat takes `messages`, a raw completion takes a `prompt`; give that one")
        whole = chatml(asked.messages) if chat else asked.prompt
        tokens = count(whole)
        limit = asked.limit or (max(1, (context or 2**31) - tokens) if chat else _RAW_LIMIT)
        if context and tokens + limit > context:
            raise too_long(context, tokens, limit)
        chain = chained(whole) if self.options.blocks else []
        for choice in self._choices(asked, whole, limit):
            longer = lengthened(chain, whole, choice.text) if self.options.blocks else []
            done = partial(self._finished, ticket)
            ticket.choices.append(choice)
            ticket.jobs.append(Job(tokens, choice.tokens, chain, longer, done))

    def _choices(self, asked: Asked, whole: str, limit: int) -> Iterator[Choice]:
        """Return as many replies as are requested; `whole` is the complete prompt."""
        chat, schema, stops = asked.messages, asked.schema, asked.stops
        last = task(chat) if chat else whole
        kind = kind_of_chat(chat) if chat else kind_of_stream(whole)
        for k in range(asked.n or 1):
            text = reply(kind, whole, last, (asked.seed or 0) + k, self.options.violations, schema)
            for stop in stops:
                text = text.partition(stop)[0]
            finish: Literal["stop", "length"] = "stop"
            if len(text) > limit * CHARS:
                text, finish = text[: limit * CHARS], "length"
            yield Choice(text, count(text), finish)

    def _work(self, ticket: _Ticket) -> None:
        ticket.left = len(ticket.jobs)
        if not self.options.instant:
            for job in ticket.jobs:
                self._pump.submit(job)
            return
        for job in ticket.jobs:
            job.cached, job.least = self._cache.match(job.chain, job.prompt_tokens)
            self._cache.insert(job.whole)
            self._finished(ticket)

    def _finished(self, ticket: _Ticket) -> None:
        """Handle a finished sequence; if it was the last, send the response."""
        ticket.left -= 1
        if ticket.over or ticket.left:
            return None
        stats, now = self._stats, time.monotonic()
        for job in ticket.jobs:
            stats.prompt_tokens += job.prompt_tokens
            stats.cached_tokens += job.cached
            stats.computed_tokens += job.prompt_tokens - job.cached
            stats.least_tokens += job.prompt_tokens - job.least
            stats.completion_tokens += job.reply_tokens
            grain = int(now - (stats.first_request or now)) // _GRAIN
            self._series[grain] = self._series.get(grain, 0) + job.reply_tokens
        stats.last_reply = now
        if ticket.fault:
            return self._fail(ticket)
        data = encode(_whole(ticket))
        self._over(ticket, "answered", 200)
        return ticket.exchange.send(head(200, len(data)) + data)

    def _lost(self, ticket: _Ticket) -> None:
        """Handle a client that disconnected."""
        if ticket.over:
            return
        for job in ticket.jobs:
            if not self.options.instant:
                self._pump.abort(job)
        self._over(ticket, ticket.fault or "aborted", 0)

    def _over(self, ticket: _Ticket, outcome: str, status: int) -> None:
        ticket.over = True
        stats = self._stats
        stats.in_flight -= 1
        if outcome in ("answered", "aborted", "refused"):
            setattr(stats, outcome, getattr(stats, outcome) + 1)
        else:
            stats.faults[outcome] = stats.faults.get(outcome, 0) + 1
        if self._log is not None:
            asked = ticket.exchange
            digest = blake2b(asked.path.encode() + asked.body, digest_size=8).hexdigest()
            os.write(self._log, encode(Line(ticket.number, digest, outcome, status)) + b"\n")

    # -- faults ----------------------------------------------------------------------------

    def _fail(self, ticket: _Ticket) -> None:
        """Answer a request as its fault requires; `hang` requires nothing."""
        fault, exchange = ticket.fault, ticket.exchange
        if fault in ("drip", "slow-headers"):
            through = partial(self._over, ticket, fault, 200)
            exchange.dribble(pieces(fault, _whole(ticket)), through)
        elif fault == "reset-early":
            self._over(ticket, fault, 0)
            exchange.reset()
        elif fault == "reset":
            data = encode(_whole(ticket))
            self._over(ticket, fault, 200)
            exchange.reset(head(200, len(data)) + data[: len(data) // 2])
        elif fault in _AT_ONCE and fault != "hang":
            status, response = failure(fault, self.options.retry_after)
            self._over(ticket, fault, status)
            exchange.send(response)
        elif fault != "hang":
            self._over(ticket, fault, 200)
            exchange.send(unusable(fault, _whole(ticket)))


def _whole(ticket: _Ticket) -> dict[str, Any]:
    """Return the body of the response to a successful request."""
    first = ticket.jobs[0]
    return body(ticket.asked, ticket.number, ticket.choices, first.prompt_tokens, first.cached)


def _respond(
    exchange: Exchange, status: int, answer: object, headers: dict[str, str] | None = None
) -> None:
    data = encode(answer)
    exchange.send(head(status, len(data), headers=headers) + data)


# -- ways to run it ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(options: Options) -> AsyncIterator[Simulator]:
    """Run a simulator in this event loop."""
    simulator = Simulator(options)
    try:
        await simulator.start()
        yield simulator
    finally:
        await simulator.stop()
        simulator.close()


@contextlib.contextmanager
def spawned(options: Options) -> Iterator[str]:
    """Run a simulator in its own process; yield the base URL."""
    command = [sys.executable, __file__, *arguments(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def _main(options: Options) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serving(options) as simulator:
        print(simulator.url, flush=True)
        await stopped.wait()


if __name__ == "__main__":
    uvloop.run(_main(parsed()))
