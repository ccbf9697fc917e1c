"""Measure whether a run's memory grows with its size, and how long a large run takes to resume.

    python bench/scale.py [--sizes 1000 10000 100000] [--open 256]

Each size is a separate run in its own process, against the simulator answering instantly. `making`
is the peak of resident memory until the last dialogue was finished, `publishing` the peak including
the writing of data set and report (pyarrow is a large part of it). Then the largest run is started
again, once with nothing left to do and once with ten more dialogues; the time from the start of the
process to the first new call is printed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sdsd
from sdsd.runs.events import Began, Called, Event, Noted
from simoptions import Options
from simulator import spawned


def peak() -> float:
    """Return the peak resident memory of this process so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def made(url: str, n: int, opened: int, out: Path) -> dict[str, Any]:
    """Make or continue a run, and return what it took."""
    started = time.perf_counter()
    found: dict[str, Any] = {"first_call": None, "began": None, "making": 0.0, "calls": 0}

    def on_event(event: Event) -> None:
        now = time.perf_counter() - started
        if isinstance(event, Called):
            found["calls"] += 1
            found["first_call"] = found["first_call"] or now
        elif isinstance(event, Began):
            found["began"] = now
        elif isinstance(event, Noted) and "data set" in event.text:
            found["making"], found["made"] = peak(), now

    model = {"model": "sim", "base_url": url, "parallel": opened}
    result = sdsd.run(
        {
            "n": n,
            "models": {"default": model},
            "scenarios": {"exchanges": [4, 4], "principles": [1, 1]},
            "dialogue": {"protocol": "chat", "self_check": "never"},
            "critique": {"exam": 0},
            "revise": {"rounds": 1, "recheck": False},
        },
        out=out,
        on_event=on_event,
    )
    journal = (out / "journal.sqlite").stat().st_size / 1e6
    whole = time.perf_counter() - started
    return {**found, "publishing": peak(), "seconds": whole, "done": len(result), "MB": journal}


def _child(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    pipe.send(json.dumps(work(*arguments)))


def alone(work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call `work` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, work, arguments))
    process.start()
    found: dict[str, Any] = json.loads(ours.recv())
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--open", type=int, default=256)
    given = parser.parse_args()
    print("| dialogues | calls | making, s | making, MB | publishing, s | publishing, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for n in given.sizes:
            out = Path(folder) / f"run-{n}"
            with spawned(Options(instant=True, blocks=0)) as url:
                run = alone(made, url, n, given.open, out)
                assert run["done"] == n
                writing = run["seconds"] - run["made"]
                print(
                    f"| {n:,} | {run['calls']:,} | {run['made']:.1f} | {run['making']:.0f} | "
                    f"{writing:.1f} | {run['publishing']:.0f} |",
                    flush=True,
                )
        with spawned(Options(instant=True, blocks=0)) as url:
            nothing = alone(made, url, n, given.open, out)
            more = alone(made, url, n + 10, given.open, out)
    print(f"again, nothing to do: {nothing['seconds']:.1f} s, {nothing['calls']} calls")
    print(
        f"again, ten more: first call after {more['first_call']:.2f} s, {more['calls']} calls, "
        f"{more['seconds']:.1f} s in all, publishing included; journal {more['MB']:,.0f} MB"
    )


if __name__ == "__main__":
    main()
