"""The embedded engine: llama.cpp inside this process, as an OpenAI-compatible server on loopback.

It is reached over HTTP like every other server, so there is one client and one code path. The
wheel `xllamacpp` brings it; no compiler is needed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from sdsd.errors import ModelError, WeightsError

MOST_SLOTS = 16
"""Beyond this many, batching on a CPU was seen to lose."""


def require() -> None:
    """Raise `ModelError` if the engine is not installed, before a model is downloaded for it."""
    if find_spec("xllamacpp") is None:
        raise ModelError(
            "the embedded engine is not installed: pip install 'sdsd[local]', or name a server "
            "with --url (`models.NAME.base_url`)"
        )


@contextlib.contextmanager
def serve(weights: Path, *, slots: int = 0, context: int = 4096, threads: int = 0) -> Iterator[str]:
    """Run the engine on a GGUF file; yields the `base_url` it answers at.

    `context` is in tokens for each of the `slots`. Raises `WeightsError` if the file cannot be
    loaded.
    """
    import xllamacpp

    slots = slots or default_slots()
    threads = threads or free_threads()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.model_alias = {weights.stem}  # else replies carry the path of this machine
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = _free_port()
    parameters.n_parallel = slots
    parameters.n_ctx = slots * context
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.endpoint_metrics = True
    parameters.warmup = False
    parameters.cache_ram_mib = 0  # prompts of finished dialogues are never asked again
    parameters.verbosity = 0
    try:
        with _quiet():
            server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights}: the engine cannot load this file ({error}); is it a whole GGUF model? "
            "`sdsd models verify` checks the named ones"
        ) from None
    try:
        yield f"{server.listening_address}/v1"
    finally:
        with _quiet():
            del server


def default_slots() -> int:
    """Two requests at a time for each core: one is often read while another is written."""
    return min(MOST_SLOTS, 2 * _cores())


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def free_threads(sample: float = 0.3) -> int:
    """One thread per core that nobody else keeps busy over `sample` seconds, at least one.

    llama.cpp's threads wait by spinning: one more than there are free cores costs most of the
    speed, because each step waits for the thread that got no core.
    """
    cores = _cores()
    return max(1, cores - round(_busy_cores(cores, sample)))


def _busy_cores(cores: int, sample: float) -> float:
    """Cores kept busy by others right now; 0 where the system does not say.

    Not the load average: it remembers the download and the installation that came just before.
    """
    try:
        before = _ticks()
        time.sleep(sample)
        after = _ticks()
    except (OSError, ValueError, IndexError):
        return 0.0
    total = sum(after) - sum(before)
    idle = sum(after[3:5]) - sum(before[3:5])  # idle and waiting for a disk
    return cores * (total - idle) / total if total > 0 else 0.0


def _ticks() -> list[int]:
    """Clock ticks of all cores together, by what they were spent on."""
    with Path("/proc/stat").open() as stat:
        return [int(ticks) for ticks in stat.readline().split()[1:9]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's own log lines off the user's terminal."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    saved = os.dup(2)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(devnull)
        os.close(saved)
