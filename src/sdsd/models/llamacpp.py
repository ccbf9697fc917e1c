"""The embedded engine: llama.cpp in this process, as an OpenAI-compatible server on loopback.

It is called over HTTP like any other server, so there is one client and one code path. The wheel
`xllamacpp` contains it; no compiler is needed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from sdsd.errors import ModelSetup, WeightsError

MAX_SLOTS = 16
"""On a CPU, larger batches were measured to be slower."""
_SAMPLE = 0.3
"""Seconds over which the load of the machine is measured."""


def require() -> None:
    """Raise `ModelSetup` if the engine is not installed, before a model is downloaded for it."""
    if find_spec("xllamacpp") is None:
        raise ModelSetup(
            "the embedded engine is not installed: pip install 'sdsd[local]', or name a server "
            "with --url (`models.NAME.base_url`)"
        )


@contextlib.contextmanager
def serve(weights: Path, *, slots: int = 0, context: int = 4096, threads: int = 0) -> Iterator[str]:
    """Run the engine on a GGUF file; yield its `base_url`.

    `context` is in tokens per slot. Raises `WeightsError` if the file cannot be loaded.
    """
    import xllamacpp

    slots = slots or default_slots()
    threads = threads or free_threads()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.model_alias = {weights.stem}  # else replies contain a path of this machine
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0  # any free one
    parameters.n_parallel = slots
    parameters.n_ctx = slots * context
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.endpoint_metrics = True
    parameters.warmup = False
    parameters.cache_ram_mib = 0  # prompts of finished dialogues never recur
    parameters.verbosity = 0
    try:
        with _quiet():
            server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights}: the engine cannot load this file ({error}); is it a complete GGUF "
            "model? `sdsd models verify` checks the named ones"
        ) from None
    try:
        yield f"{server.listening_address}/v1"
    finally:
        with _quiet():
            del server


def default_slots() -> int:
    """Return two slots per core: one request's prefill often overlaps with another's decoding."""
    return min(MAX_SLOTS, 2 * _cores())


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def free_threads() -> int:
    """Return the number of cores that were idle over `_SAMPLE` seconds, at least one.

    llama.cpp's threads spin while they wait: one thread more than free cores costs most of the
    speed, because each step waits for the thread that got no core.
    """
    cores = _cores()
    return max(1, cores - round(_busy_cores(cores)))


def _busy_cores(cores: int) -> float:
    """Return how many cores other processes use right now; 0 where the system does not report it.

    Not the load average, which still includes the download and installation just before.
    """
    try:
        before = _ticks()
        time.sleep(_SAMPLE)
        after = _ticks()
    except (OSError, ValueError, IndexError):
        return 0.0
    total = sum(after) - sum(before)
    idle = sum(after[3:5]) - sum(before[3:5])  # idle and waiting for a disk
    return cores * (total - idle) / total if total > 0 else 0.0


def _ticks() -> list[int]:
    """Return the clock ticks of all cores together, by state (see `proc_stat(5)`)."""
    with Path("/proc/stat").open() as stat:
        return [int(ticks) for ticks in stat.readline().split()[1:9]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's log lines off the terminal."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    saved = os.dup(2)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(devnull)
        os.close(saved)
