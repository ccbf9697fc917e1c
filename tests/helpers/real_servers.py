"""Real servers as processes of their own, and questions to them that do not go through sdsd."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv-vllm" / "servers"
"""Where `scripts/real-servers` puts them."""
_START = 600.0
"""Seconds that a server may take until it answers: half a minute, unless the machine is busy."""
VLLM = (
    "--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "4096",
    # On a CPU it dies of a seeded prompt that is prefilled in chunks.
    "--max-num-batched-tokens", "16384",
)  # fmt: skip
"""Options that every vLLM has here."""
_OURS = ("--generation-config", "vllm", "--enable-prefix-caching", "--enable-prompt-tokens-details")
"""What docs/servers.md says to start vLLM with."""


class Served(Struct, frozen=True):
    """A running server."""

    url: str
    """Its `base_url`."""
    log: Path

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return what a path below the server's root answers: JSON, or text."""
        where = self.url.removesuffix("/v1") + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(where, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as reply:
            text = reply.read().decode()
        with contextlib.suppress(ValueError):
            return json.loads(text)
        return text


@contextlib.contextmanager
def running(line: Sequence[str], port: int, log: Path, health: str = "/health") -> Iterator[Served]:
    """Start a program, wait until it answers, and end its whole process group afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            line, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    served = Served(f"http://127.0.0.1:{port}/v1", log)
    try:
        until = time.monotonic() + _START
        while not _answers(served, health):
            said = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"{line[0]} ended: {said}"
            assert time.monotonic() < until, f"{line[0]} does not come up: {said}"
            time.sleep(0.5)
        yield served
    finally:
        _end(process)


def vllm(
    model: Path, log: Path, *options: str, name: str = "smol"
) -> contextlib.AbstractContextManager[Served]:
    """Run a vLLM server of the model in a folder."""
    port = free_port()
    line = [str(PROGRAMS / "vllm"), "serve", str(model), "--host", "127.0.0.1"]
    line += ["--port", str(port), "--served-model-name", name, *VLLM, *_OURS, *options]
    return running(line, port, log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(served: Served, path: str) -> bool:
    try:
        served.ask(path)
    except (OSError, urllib.error.URLError):
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
            if number == signal.SIGKILL:
                return
