"""What the scripts of all programs share: their arguments, and the figures that they return.

Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from workload import EXCHANGES, STAGES, Row, due


@dataclass(frozen=True)
class Job:
    """The task of a script."""

    url: str
    """Base URL of the server, with `/v1`."""
    n: int
    open: int
    """Requests, or dialogues, in flight at once."""
    out: Path
    state: Path
    """Directory for whatever the peer writes, including what a run that died has left."""
    variant: str
    """One of the script's variants."""


@dataclass(frozen=True)
class Figures:
    """Figures of a run. CPU and memory are measured from outside, children included."""

    peer: str
    version: str
    dialogues: int
    calls: int
    revised: int
    setup_s: float
    """From the start of the process to the first dialogue: imports, clients, probes."""
    wall_s: float
    """From there to the last reply, as the peer measures it."""


def job(*variants: str) -> Job:
    """Parse the command line. The first of `variants` is the default."""
    parser = argparse.ArgumentParser(description="One peer, one run.")
    parser.add_argument("--url", required=True, help="base URL of the server, with /v1")
    parser.add_argument("--n", type=int, default=20, help="dialogues")
    parser.add_argument("--open", type=int, default=256, help="in flight")
    parser.add_argument("--out", type=Path, required=True, help="where the figures go")
    parser.add_argument("--state", type=Path, help="where the peer writes, and resumes from")
    parser.add_argument("--variant", choices=variants, default=variants[0] if variants else "")
    given = parser.parse_args()
    if given.state is None:
        given.state = Path(tempfile.mkdtemp(prefix="peer-"))
    return Job(**vars(given))


class Clock:
    """A stopwatch that starts with the first dialogue."""

    def __init__(self) -> None:
        self.setup = _age()
        self._began = time.perf_counter()

    def stop(self, job: Job, package: str, rows: Iterable[Row]) -> None:
        """Write the figures of the finished dialogues. Raises `ValueError` if one is incomplete."""
        wall = time.perf_counter() - self._began
        done = [row for row in rows if _whole(row)]
        if len(done) != job.n:
            raise ValueError(f"{job.n - len(done)} of {job.n} dialogues are incomplete")
        revised = sum(bool(row["revision"]) for row in done)
        figures = Figures(
            peer=package,
            version=version(package) if package else "",
            dialogues=len(done),
            calls=(len(STAGES) - 1) * len(done) + revised,
            revised=revised,
            setup_s=round(self.setup, 3),
            wall_s=round(wall, 3),
        )
        job.out.write_text(json.dumps(asdict(figures)), "utf-8")


def _age() -> float:
    """Return the seconds since this process started, according to Linux."""
    fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _whole(row: Row) -> bool:
    """Return whether every stage that was due has its text."""
    revised = bool(row["revision"]) == due(STAGES[-1], row)
    spoken = len(row["said"]) == 2 * EXCHANGES and all(row["said"])
    return bool(row["plan"] and spoken and row["verdict"]) and revised
