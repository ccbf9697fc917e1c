"""Compare the tokens per second of a run on the embedded engine with those of a bare loop.

    python bench/engine_use.py [-n 12] [--rounds 3] [--slots 4] [--model smollm2-135m]

One engine serves both, in turn. `run` is sdsd from its first call to its last record. `loop` is a
bare aiohttp loop that posts the same requests, one dialogue at a time in each slot, and does
nothing else. Tokens are those that the engine reports having written.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import sdsd
from schedule import Posts, bare
from sdsd.models import llamacpp, weights
from sdsd.models.base import Capabilities
from sdsd.models.openai_server import HttpModel
from sdsd.models.probing import probe
from sdsd.runs.events import Began, Event, Recorded
from sdsd.types import Answer, Request


def written(url: str) -> float:
    """Return the tokens that the engine reports having written so far."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as reply:
        text = reply.read().decode()
    return float(text.partition("\nllamacpp:tokens_predicted_total ")[2].split()[0])


def run(url: str, name: str, can: Capabilities, n: int, slots: int) -> tuple[float, Posts]:
    """Return the seconds of a run, and what it posted."""
    posts: Posts = [[] for _ in range(n)]

    class Listening(HttpModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            posts[dialogue].append(self.encode(request, seed))
            return await super().complete(request, seed, dialogue)

    began = ended = 0.0

    def on_event(event: Event) -> None:
        nonlocal began, ended
        if isinstance(event, Began):
            began = time.perf_counter()
        elif isinstance(event, Recorded):
            ended = time.perf_counter()

    model = Listening(name, url, capabilities=can)
    keys = {"n": n, "models": {"default": {"model": name, "parallel": slots}}}
    with tempfile.TemporaryDirectory() as out:
        sdsd.run(keys, out=Path(out) / "run", models={"default": model}, on_event=on_event)
    return ended - began, posts


async def probed(name: str, url: str) -> Capabilities:
    async with HttpModel(name, url) as model:
        return await probe(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=12, help="dialogues")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--model", default="smollm2-135m")
    given = parser.parse_args()
    ratios = []
    with llamacpp.serve(weights.locate(given.model), slots=given.slots) as url:
        can = asyncio.run(probed(given.model, url))
        print("| round | run, tokens/s | loop, tokens/s | ratio | calls |")
        print("| --- | --- | --- | --- | --- |")
        for number in range(1, given.rounds + 1):
            before = written(url)
            seconds, posts = run(url, given.model, can, given.n, given.slots)
            middle = written(url)
            loop = bare(url, posts, per_call=False, most=given.slots)
            ours, theirs = (middle - before) / seconds, (written(url) - middle) / loop
            ratios.append(ours / theirs)
            calls = sum(map(len, posts))
            shown = f"{ours:.1f} | {theirs:.1f} | {ratios[-1]:.3f}"
            print(f"| {number} | {shown} | {calls} |", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
