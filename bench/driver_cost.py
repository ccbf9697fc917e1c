"""Measure the driver's CPU time per model call, compared with a bare HTTP loop.

    python bench/driver_cost.py [-n 200] [--rounds 9] [--open 64]

Both sides send byte-identical requests to one server, the tests' instant stand-in, which is another
process. Only the client process is measured (user and system time of all threads). `bare` posts the
requests with aiohttp on uvloop and decodes the replies: the least that a Python program can do with
these libraries. `driver` is a run from its first dialogue to its last record: scenarios, stages,
parsing, middleware, HTTP, and the journal, with every answer on disk before it is used. Start-up is
not included; publishing is shown separately.

The two take turns of about a second, so that a busy machine disturbs both alike. Use the ratio,
which is computed round by round, rather than the milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop
from msgspec import Struct

import sdsd
from sdsd import config as configuration
from sdsd.models.openai_server import HttpModel
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.events import Began, Called, Event, Noted
from sdsd.types import Answer, Request

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.stand_ins.model_server import spawned  # the tests' server: not part of the package

Posts = list[list[tuple[str, dict[str, Any]]]]
"""For each dialogue, the paths and bodies that it posts, in order."""


class Cost(Struct, frozen=True):
    """The cost of a number of calls."""

    calls: int
    cpu: float
    wall: float

    @property
    def per_call(self) -> float:
        """CPU time per call, in milliseconds."""
        return 1000 * self.cpu / self.calls


def cpu() -> float:
    """Return the CPU seconds of this process, over all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def keys(n: int, width: int, url: str) -> dict[str, Any]:
    model = {"model": "stand-in", "base_url": url, "parallel": width}
    return {"n": n, "models": {"default": model}, "critique": {"exam": 0}}


# -- bare ----------------------------------------------------------------------------------


def posts(n: int, url: str) -> Posts:
    """Return what a run of `n` dialogues posts, recorded from a run without a server."""
    wire = HttpModel("stand-in", url, capabilities=ScriptedModel().capabilities)
    found: Posts = []

    class Listening(ScriptedModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            if request.purpose == "last_message":
                found.append([])
            path, body = wire.encode(request, seed)
            found[-1].append((path, msgspec.json.decode(body)))
            return await super().complete(request, seed)

    config = configuration.load(keys(n, 1, ""))
    with tempfile.TemporaryDirectory() as out:
        sdsd.run(config, out=Path(out) / "run", models={"default": Listening()})
    return found


async def post_all(url: str, work: Posts, width: int) -> int:
    """Post everything, `width` dialogues at a time; return how many replies had text."""
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
    headers = {"Content-Type": "application/json"}
    left = iter(work)
    read = 0

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal read
        for dialogue in left:
            for path, body in dialogue:
                async with session.post(url + path, data=encode(body)) as response:
                    choice = decode(await response.read())["choices"][0]
                read += bool(choice.get("text") or choice["message"]["content"])

    connector = aiohttp.TCPConnector(limit=width)
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(width):
            group.create_task(worker(session))
    return read


def bare(work: Posts, width: int, url: str) -> Cost:
    before, started = cpu(), time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        calls = runner.run(post_all(url, work, width))
    return Cost(calls, cpu() - before, time.perf_counter() - started)


# -- driver --------------------------------------------------------------------------------


def driver(n: int, width: int, url: str) -> tuple[Cost, Cost]:
    """Measure a run: its dialogues, and their publication."""
    marks: list[tuple[float, float]] = []
    calls = 0

    def on_event(event: Event) -> None:
        nonlocal calls
        calls += isinstance(event, Called)
        if isinstance(event, Began) or (isinstance(event, Noted) and "data set" in event.text):
            marks.append((cpu(), time.perf_counter()))

    with tempfile.TemporaryDirectory() as out:
        sdsd.run(keys(n, width, url), out=Path(out) / "run", on_event=on_event)
    marks.append((cpu(), time.perf_counter()))
    made, published = (
        Cost(calls, end - start, stop - begun)
        for (start, begun), (end, stop) in itertools.pairwise(marks)
    )
    return made, published


# -- comparison ----------------------------------------------------------------------------


def shown(values: list[float], digits: int) -> str:
    """Median [minimum - maximum]."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f} - {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per call of the driver and of a bare loop.")
    parser.add_argument("-n", type=int, default=200, help="dialogues, about 13 calls each")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--open", type=int, default=64, help="dialogues in flight")
    given = parser.parse_args()
    theirs, ours, published = [], [], []
    with spawned(Path("/dev/null")) as url:
        work = posts(given.n, url)
        driver(given.n // 4, given.open, url)  # warm up
        for _ in range(given.rounds):
            gc.collect()
            theirs.append(bare(work, given.open, url))
            gc.collect()
            made, written = driver(given.n, given.open, url)
            ours.append(made)
            published.append(written)
            assert theirs[-1].calls == made.calls
    print(
        f"{given.n} dialogues, {ours[0].calls} calls, {given.open} in flight, {given.rounds} rounds"
    )
    print("| | CPU ms per call | calls/s |\n| --- | --- | --- |")
    for name, costs in (("bare", theirs), ("driver", ours), ("publishing", published)):
        rate = shown([c.calls / c.wall for c in costs], 0) if costs is not published else ""
        print(f"| {name} | {shown([c.per_call for c in costs], 3)} | {rate} |")
    ratios = [a.per_call / b.per_call for a, b in zip(ours, theirs, strict=True)]
    print(f"| driver / bare | {shown(ratios, 2)} | |")


if __name__ == "__main__":
    main()
