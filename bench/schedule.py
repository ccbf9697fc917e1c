"""Measure wall time and prefix-cache efficiency of scheduling orders on the simulated engine.

    python bench/schedule.py [-n 1000] [--blocks 32768] [--time-scale 1.0] [--arms NAME ...]

All arms make the same dialogues: a plan, four turns of each speaker, one verdict, and a revision in
about a third. Replies depend only on the requests, so all arms with one protocol send the same
requests in different orders:

breadth       a bare aiohttp loop with a semaphore of 256 per *call*: all dialogues advance together
depth         the same with a semaphore of 256 per *dialogue*
roleplay      sdsd with default settings and limits that it finds itself; two chats per dialogue
continuation  the same with one growing stream
chat          the same with one chat for both speakers, critic and reviser

Prompt tokens computed are compared with the minimum, which is what an unlimited cache would have
computed. Judge by seconds and by tokens written per second: an order may keep every slot busy and
still be slow, because uncached prompts use up steps.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

import sdsd
from sdsd.models.openai_server import HttpModel
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.events import Event, Noted
from sdsd.types import Answer, Request
from simoptions import Options
from simulator import spawned

Posts = list[list[tuple[str, bytes]]]
"""For each dialogue, the paths and bodies that it posts, in order."""
OPEN = 256


def keys(n: int, url: str, protocol: str) -> dict[str, Any]:
    return {
        "n": n,
        "models": {"default": {"model": "sim", "base_url": url}},
        "scenarios": {"exchanges": [4, 4], "principles": [1, 1]},
        "dialogue": {"protocol": protocol, "self_check": "never"},
        "critique": {"exam": 0},
        "revise": {"rounds": 1, "recheck": False},
    }


def recorded(n: int, protocol: str) -> Posts:
    """Return what a run of `n` dialogues posts."""
    posts: Posts = [[] for _ in range(n)]

    class Listening(HttpModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            posts[dialogue].append(self.encode(request, seed))
            return await super().complete(request, seed, dialogue)

    with spawned(Options(instant=True, blocks=0)) as url, tempfile.TemporaryDirectory() as out:
        can = ScriptedModel().capabilities
        model = Listening("sim", url, capabilities=can)
        sdsd.run(keys(n, url, protocol), out=Path(out) / "run", models={"default": model})
    return posts


async def post_all(url: str, work: Posts, *, per_call: bool, most: int = OPEN) -> None:
    """Post everything, with a semaphore of `most` for calls or for dialogues."""
    call = asyncio.Semaphore(most)
    whole = asyncio.Semaphore(len(work) if per_call else most)

    async def dialogue(session: aiohttp.ClientSession, posts: list[tuple[str, bytes]]) -> None:
        async with whole:
            for path, body in posts:
                async with call, session.post(url + path, data=body) as response:
                    assert response.status == 200
                    await response.read()

    connector = aiohttp.TCPConnector(limit=most)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session,
        asyncio.TaskGroup() as group,
    ):
        for posts in work:
            group.create_task(dialogue(session, posts))


def bare(url: str, work: Posts, *, per_call: bool, most: int = OPEN) -> float:
    """Return the seconds of a bare loop."""
    started = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(post_all(url, work, per_call=per_call, most=most))
    return time.perf_counter() - started


def driven(url: str, n: int, protocol: str, notes: list[str]) -> float:
    """Return the seconds of a run, from its start to its last record."""
    ended = started = time.perf_counter()

    def on_event(event: Event) -> None:
        nonlocal ended
        if isinstance(event, Noted):
            ended = time.perf_counter()
            notes.append(event.text)

    with tempfile.TemporaryDirectory() as out:
        sdsd.run(keys(n, url, protocol), out=Path(out) / "run", on_event=on_event)
    return ended - started


def stats(url: str) -> dict[str, Any]:
    """Return the simulator's own counters."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/sim/stats") as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def measured(arm: str, options: Options, n: int, work: Posts) -> Iterator[str]:
    """Run one arm; yield lines to print."""
    notes: list[str] = []
    with spawned(options) as url:
        if arm in ("breadth", "depth"):
            seconds = bare(url, work, per_call=arm == "breadth")
        else:
            seconds = driven(url, n, arm, notes)
        seen = stats(url)
    seconds /= options.time_scale
    prompt, computed = seen["prompt_tokens"], seen["computed_tokens"]
    yield (
        f"| {arm} | {seconds:.1f} | {seen['completion_tokens'] / seconds:,.0f} | "
        f"{1 - computed / prompt:.3f} | {computed:,} | {computed / seen['least_tokens']:.2f} | "
        f"{seen['requests']:,} | {seen['in_flight_peak']} |"
    )
    for note in notes[:-1]:
        yield f"  ({note})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="dialogues, about 10.35 calls each")
    parser.add_argument("--blocks", type=int, default=32768, help="of 16 tokens, in the cache")
    parser.add_argument("--time-scale", type=float, default=1.0, help="below 1: faster than real")
    parser.add_argument("--metrics", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument(
        "--arms", nargs="+", default=["breadth", "depth", "roleplay", "continuation"]
    )
    given = parser.parse_args()
    options = Options(blocks=given.blocks, time_scale=given.time_scale, metrics=given.metrics)
    work = recorded(given.n, "roleplay") if {"breadth", "depth"} & set(given.arms) else []
    print(f"{given.n} dialogues, {given.blocks:,} blocks, seconds of the modelled engine")
    print("| order | seconds | tokens/s | from cache | computed | / minimum | calls | peak |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for arm in given.arms:
        with contextlib.closing(measured(arm, options, given.n, work)) as lines:  # type: ignore[type-var]
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
