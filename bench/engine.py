"""Measure the embedded engine on this machine, by slots and threads, idle and under load.

    python bench/engine.py [--model smollm2-135m] [--busy]

Each combination starts the engine again and gives it a closed loop: as many requests in flight as
it has slots, each with a different prompt, so that nothing comes from the prefix cache. It prints
tokens written per second over the whole loop, prompts included, and tokens read per second for the
first prompt. `--busy` keeps one core occupied by another process meanwhile. Quote ratios: absolute
figures depend on the machine and on what else runs there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time

from sdsd.models import llamacpp, weights
from sdsd.models.openai_server import HttpModel
from sdsd.types import Completion, Request

WRITE = 48
PROMPT = "Write about lighthouse number {k}. " + "The keeper trims the lamp and waits. " * 12


async def closed_loop(name: str, url: str, slots: int, rounds: int) -> tuple[float, float]:
    """Return tokens written per second, and tokens read per second by the first request alone."""
    async with HttpModel(name, url) as model:

        async def one(k: int) -> Completion:
            answer = await model.complete(
                Request("agent", WRITE, prompt=PROMPT.format(k=k)), seed=k
            )
            assert isinstance(answer, Completion)
            return answer

        started = time.perf_counter()
        first = await model.complete(Request("agent", 1, prompt=PROMPT.format(k=-1)), seed=0)
        assert isinstance(first, Completion)
        read = first.prompt_tokens / (time.perf_counter() - started)

        async def lane(k: int) -> int:
            return sum([(await one(k * rounds + r)).completion_tokens for r in range(rounds)])

        started = time.perf_counter()
        written = sum(await asyncio.gather(*(lane(k) for k in range(slots))))
        return written / (time.perf_counter() - started), read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=weights.DEFAULT)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    path = weights.locate(args.model)
    load = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if args.busy else None
    print(f"{args.model}, {os.cpu_count()} cores, {'one kept busy' if load else 'idle'}")
    print("slots  threads  written tokens/s  read tokens/s")
    try:
        for threads in sorted(set(args.threads)):
            for slots in args.slots:
                with llamacpp.serve(path, slots=slots, context=1024, threads=threads) as url:
                    written, read = asyncio.run(closed_loop(args.model, url, slots, args.rounds))
                print(f"{slots:5}  {threads:7}  {written:16.1f}  {read:13.1f}", flush=True)
    finally:
        if load is not None:
            load.kill()
            load.wait()


if __name__ == "__main__":
    main()
