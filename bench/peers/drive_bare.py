"""The yardstick: the least that a Python program can do. aiohttp on uvloop, orjson, a semaphore.

Two orders. `breadth` starts every dialogue and limits the *calls* in flight, as most programs do:
all dialogues advance together. `depth` limits the *dialogues* in flight, so that what the server
has computed for a dialogue is still cached at its next turn. No resume.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import aiohttp
import measure
import orjson
import uvloop
from workload import MODEL, STAGES, Row, Stage, due, messages, new_row, put

Call = Callable[[Stage, Row], Awaitable[str]]


async def dialogue(index: int, call: Call) -> Row:
    """Make one dialogue, from plan to revision."""
    row = new_row(index)
    for stage in STAGES:
        if due(stage, row):
            row = put(stage, row, await call(stage, row))
    return row


async def main(job: measure.Job) -> None:
    """Make all dialogues, and write the figures."""
    places = asyncio.Semaphore(job.open)
    free = contextlib.nullcontext()
    per_call, per_dialogue = (places, free) if job.variant == "breadth" else (free, places)
    url = f"{job.url}/chat/completions"

    async def call(stage: Stage, row: Row) -> str:
        body = {
            "model": MODEL,
            "messages": messages(stage, row),
            "max_tokens": stage.max_tokens,
            "temperature": stage.temperature,
        }
        async with per_call, session.post(url, data=orjson.dumps(body)) as response:
            response.raise_for_status()
            reply = orjson.loads(await response.read())
        text: str = reply["choices"][0]["message"]["content"]
        return text

    async def held(index: int) -> Row:
        async with per_dialogue:
            return await dialogue(index, call)

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=job.open),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Content-Type": "application/json"},
    ) as session:
        clock = measure.Clock()
        rows = await asyncio.gather(*(held(index) for index in range(job.n)))
    clock.stop(job, "aiohttp", rows)


if __name__ == "__main__":
    uvloop.run(main(measure.job("breadth", "depth")))
