"""Measure the CPU time of one POST by several HTTP clients on the same loop.

    python bench/http_clients.py [-n 4000] [--rounds 7] [--width 32]

Every client posts the same bytes to the tests' instant stand-in, which is another process,
`--width` requests at a time, and reads the replies; uvloop runs all of them. Only this process is
measured. The clients take turns, so that a busy machine disturbs all alike: use the ratios. Clients
that are not installed are left out. `ours, keyed` has four secrets to hide in each reply.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import resource
import statistics
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))
from sdsd.models.http_client import Client
from tests.stand_ins.model_server import spawned  # the tests' server: not part of the package

Post = Callable[[bytes], Awaitable[bytes]]
BODY = (
    b'{"model":"stand-in","max_tokens":64,"seed":7,"messages":[{"role":"user","content":"'
    + b"A question of some length, as they are asked. " * 20
    + b'"}]}'
)
PATH = "/chat/completions"


async def ours(stack: AsyncExitStack, url: str) -> Post:
    client = await stack.enter_async_context(Client(url, {"Content-Type": "application/json"}))

    async def post(body: bytes) -> bytes:
        return (await client.request("POST", PATH, body)).body

    return post


async def keyed(stack: AsyncExitStack, url: str) -> Post:
    secrets = [f"sk-{k}0123456789abcdef" for k in range(3)]
    client = Client(f"{url}?code=0123456789abcdef0123", key=secrets[0], secrets=secrets)
    await stack.enter_async_context(client)

    async def post(body: bytes) -> bytes:
        return (await client.request("POST", PATH, body)).body

    return post


async def by_aiohttp(stack: AsyncExitStack, url: str) -> Post:
    aiohttp = importlib.import_module("aiohttp")
    connector = aiohttp.TCPConnector(limit=0)
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def post(body: bytes) -> bytes:
        async with session.post(url + PATH, data=body) as reply:
            return bytes(await reply.read())

    return post


def by_httpx(name: str) -> Callable[[AsyncExitStack, str], Awaitable[Post]]:
    async def make(stack: AsyncExitStack, url: str) -> Post:
        client = await stack.enter_async_context(importlib.import_module(name).AsyncClient())

        async def post(body: bytes) -> bytes:
            return bytes((await client.post(url + PATH, content=body)).content)

        return post

    return make


def by_httpcore(name: str) -> Callable[[AsyncExitStack, str], Awaitable[Post]]:
    async def make(stack: AsyncExitStack, url: str) -> Post:
        pool = importlib.import_module(name).AsyncConnectionPool(max_connections=1000)
        await stack.enter_async_context(pool)

        async def post(body: bytes) -> bytes:
            return bytes((await pool.request("POST", url + PATH, content=body)).content)

        return post

    return make


CLIENTS: dict[str, Callable[[AsyncExitStack, str], Awaitable[Post]]] = {
    "ours": ours,
    "ours, keyed": keyed,
    "aiohttp": by_aiohttp,
    "httpcore": by_httpcore("httpcore"),
    "httpcore2": by_httpcore("httpcore2"),
    "httpx": by_httpx("httpx"),
    "httpx2": by_httpx("httpx2"),
}


async def cost(
    make: Callable[[AsyncExitStack, str], Awaitable[Post]], url: str, given: argparse.Namespace
) -> float:
    """Return the CPU microseconds per request."""
    left = iter(range(given.n))
    async with AsyncExitStack() as stack:
        post = await make(stack, url)
        await asyncio.gather(*(post(BODY) for _ in range(given.width)))  # opens the connections

        async def worker() -> None:
            for _ in left:
                assert b"choices" in await post(BODY)

        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.gather(*(worker() for _ in range(given.width)))
        after = resource.getrusage(resource.RUSAGE_SELF)
    used: float = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used * 1e6 / int(given.n)


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per POST of several HTTP clients.")
    parser.add_argument("-n", type=int, default=4000, help="requests per client and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=32, help="requests at once")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    with (
        spawned(Path("/dev/null")) as url,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
    ):
        for _ in range(given.rounds):
            for name, make in CLIENTS.items():
                try:
                    found.setdefault(name, []).append(loop.run(cost(make, url, given)))
                except ImportError:
                    found.pop(name, None)
    print("| client | CPU us per request | / ours |\n| --- | --- | --- |")
    for name, used in found.items():
        ratios = [a / b for a, b in zip(used, found["ours"], strict=True)]
        shown = f"{statistics.median(used):.0f} [{min(used):.0f} - {max(used):.0f}]"
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} - {max(ratios):.2f}]"
        print(f"| {name} | {shown} | {spread} |")


if __name__ == "__main__":
    main()
