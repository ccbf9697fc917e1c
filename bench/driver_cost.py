"""What the driver itself costs: CPU per model call, beside a bare HTTP loop that asks the same.

    python bench/driver_cost.py [--rounds 5] [--small 50] [--large 500] [--open 64]

Both sides ask one server, the instant stand-in of the tests in a process of its own, for the very
same requests, byte for byte, and only the asking process is measured (user and system time of all
its threads). `bare` posts them with aiohttp on uvloop and decodes the replies: the least that a
Python program can do with these libraries. `driver` is a whole run: scenarios, stages, parsing,
the door, HTTP, and the journal with every answer on disk before it is used.

Start-up is left out: the cost of a call is the slope between a small and a large run. Rounds are
interleaved, so that a busy machine disturbs both sides alike; read the ratio, not the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

import sdsd
from sdsd import config as configuration
from sdsd.models.http import HttpModel
from sdsd.models.scripted import ScriptedModel
from sdsd.session import Event, Noted
from sdsd.types import Answer, Request

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from standin import spawned  # the tests' server: not part of the package

Posts = list[list[tuple[str, dict[str, Any]]]]
"""For each dialogue the paths and bodies that it posts, in order."""


def cpu() -> float:
    """Seconds of CPU that this process has used, over all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def keys(n: int, width: int, url: str) -> dict[str, Any]:
    """The run's configuration."""
    model = {"model": "stand-in", "base_url": url, "parallel": width}
    return {"n": n, "models": {"default": model}}


# -- bare ----------------------------------------------------------------------------------


def posts(n: int, url: str) -> Posts:
    """What a run of `n` dialogues posts, had from one without a server."""
    wire = HttpModel("stand-in", url, capabilities=ScriptedModel().capabilities)
    found: Posts = []

    class Listening(ScriptedModel):
        async def complete(self, request: Request, seed: int) -> Answer:
            if request.role == "planner":
                found.append([])
            path, body = wire._wire(request, seed)
            found[-1].append((path, msgspec.json.decode(body)))
            return await super().complete(request, seed)

    config = configuration.load(keys(n, 1, ""))
    with tempfile.TemporaryDirectory() as out:
        sdsd.run(config, out=Path(out) / "run", models={"default": Listening()})
    return found


async def post_all(url: str, work: Posts, width: int) -> int:
    """Post everything, `width` dialogues at a time; returns how many replies had a text."""
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


def bare(n: int, width: int, url: str) -> dict[str, float]:
    """Measure the bare loop."""
    work = posts(n, url)
    calls = sum(map(len, work))
    before, started = cpu(), time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(post_all(url, work, width)) == calls
    return {"calls": calls, "cpu": cpu() - before, "wall": time.perf_counter() - started}


# -- driver --------------------------------------------------------------------------------


def driver(n: int, width: int, url: str) -> dict[str, float]:
    """Measure a run, up to its last record and to its end."""
    marks: dict[str, float] = {}
    started = time.perf_counter()

    def hear(event: Event) -> None:
        if isinstance(event, Noted) and "writing the data set" in event.text:
            marks.update(cpu=cpu(), wall=time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as out:
        result = sdsd.run(keys(n, width, url), out=Path(out) / "run", on_event=hear)
        calls = sum(sum(use.calls for use in r.use.values()) for r in result.records())
    return {"calls": calls, **marks, "published": cpu() - marks["cpu"]}


# -- comparison ----------------------------------------------------------------------------


def measured(kind: str, n: int, width: int, url: str) -> dict[str, float]:
    """One measurement, in a process of its own."""
    command = [sys.executable, __file__, "--only", kind, "--small", str(n), "--open", str(width)]
    done = subprocess.run([*command, "--url", url], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def slope(small: dict[str, float], large: dict[str, float], key: str) -> float:
    """Milliseconds for one call more."""
    return 1000 * (large[key] - small[key]) / (large["calls"] - small["calls"])


def rounds(given: argparse.Namespace, url: str) -> Iterator[dict[str, float]]:
    """Marginal costs, one round after another."""
    for _ in range(given.rounds):
        pairs = {}
        for kind in ("bare", "driver"):
            small, large = (measured(kind, n, given.open, url) for n in (given.small, given.large))
            pairs[kind] = small, large
        ours, theirs = pairs["driver"], pairs["bare"]
        yield {
            "bare": slope(*theirs, "cpu"),
            "driver": slope(*ours, "cpu"),
            "publish": slope(*ours, "published"),
            "ratio": slope(*ours, "cpu") / slope(*theirs, "cpu"),
            "bare/s": theirs[1]["calls"] / theirs[1]["wall"],
            "driver/s": ours[1]["calls"] / ours[1]["wall"],
        }


def shown(values: list[float], digits: int) -> str:
    """Median [least - most]."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f} - {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per call of the driver and of a bare loop.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", type=int, default=50, help="dialogues")
    parser.add_argument("--large", type=int, default=500, help="dialogues")
    parser.add_argument("--open", type=int, default=64, help="dialogues under way at once")
    parser.add_argument("--only", choices=["bare", "driver"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        kind = bare if given.only == "bare" else driver
        print(json.dumps(kind(given.small, given.open, given.url)))
        return
    with spawned(Path("/dev/null")) as url:
        found = list(rounds(given, url))
    columns = {key: [row[key] for row in found] for key in found[0]}
    print(f"{given.rounds} rounds, {given.small} and {given.large} dialogues, {given.open} open")
    print("| | CPU ms per call | calls/s |\n| --- | --- | --- |")
    print(f"| bare | {shown(columns['bare'], 3)} | {shown(columns['bare/s'], 0)} |")
    print(f"| driver | {shown(columns['driver'], 3)} | {shown(columns['driver/s'], 0)} |")
    print(f"| driver / bare | {shown(columns['ratio'], 2)} | |")
    print(f"| publishing, besides | {shown(columns['publish'], 3)} | |")


if __name__ == "__main__":
    main()
