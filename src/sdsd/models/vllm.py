"""Start `vllm serve MODEL`, restart it when it dies, and stop it.

    this process --pipe--> guard -> vllm serve -> engine processes

The guard, a few lines of Python, leads its own process group, which Ctrl-C in the terminal does not
reach. When the pipe to it closes, because the server should stop or because this process died in
any way, it ends the whole group: SIGTERM, some seconds of grace, SIGKILL. A parent-death signal
(PR_SET_PDEATHSIG) would do less: it exists only on Linux, it is sent when the *thread* that started
the child ends, and it reaches the child but not the processes that hold the GPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from sdsd.config.hub import hub_secrets
from sdsd.errors import ConfigError, ModelError, TransientError
from sdsd.models.base import Capabilities, Model
from sdsd.text.secrets import Secrets
from sdsd.types import Answer, Request

_GUARD = """
import os, signal, subprocess, sys, threading, time

def end():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(float(sys.argv[1]))
    os.killpg(0, signal.SIGKILL)

# A no-op handler rather than SIG_IGN: child processes inherit ignored signals, not handlers.
signal.signal(signal.SIGTERM, lambda *_: None)
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=2)
threading.Thread(target=end, daemon=True).start()
print(child.wait(), flush=True)
os.killpg(0, signal.SIGKILL)  # orphaned engine processes still hold the GPU
"""

_FIXED = ("model", "host", "port", "uds", "served-model-name")
"""Options that decide the server's address and model name: chosen at launch."""
KEY = "VLLM_API_KEY"
"""The environment variable from which vLLM takes the key that it asks for."""
_SECRET = {"api-key": KEY, "hf-token": "HF_TOKEN"}
"""Options whose values anyone on the machine could see, and the variables to set instead."""
_DYING = 5.0
"""Seconds an unhealthy server has to exit before it counts as up."""
_TAIL = 1 << 16
"""Bytes at the end of the log that are searched for a cause."""
_LAST_WORDS = 8
"""Lines at the end of the log that may say why the server was ended."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COMPLAINT = re.compile(r"Error\b|error:|\bERROR\b|Exception\b|CRITICAL")
_REMEDIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), remedy)
    for pattern, remedy in (
        (
            r"larger than the (maximum number of tokens|available KV cache)|needed.*KV cache",
            "lower `context`, or give the cache more with `--gpu-memory-utilization 0.95`",
        ),
        (
            r"out of ?memory|free memory on device|no available memory for the cache",
            "stop other programs that use the GPU, lower `context` or `parallel`, or add "
            "`--gpu-memory-utilization 0.8` or `--tensor-parallel-size N` to `arguments`",
        ),
        (
            r"gated repo|\b40[13] client error|access to model .* is restricted",
            "accept the model's licence on the hub and set HF_TOKEN",
        ),
        (
            r"not a valid model identifier|repository ?not ?found|404 client error"
            r"|invalid repository id|model not found|not find .*config\.json",
            "check the name in `model`: a repository on the hub, or a directory with weights",
        ),
        (
            r"derived max_model_len|max_position_embeddings",
            "lower `context`: the model supports no more",
        ),
        (
            r"unrecognized arguments|invalid choice|expected one argument",
            "correct `arguments`: this version of vLLM does not take them (`vllm serve --help`)",
        ),
        (r"address already in use", "run the same command again: it takes another port"),
        (
            r"no CUDA GPUs|failed to infer device type|no platform detected|nvidia driver",
            "vLLM sees no GPU: run on a machine with one, or set `base_url` to a server there",
        ),
    )
)


class Launch(Struct, frozen=True):
    """A server to launch, and its time limits."""

    model: str
    log: Path
    """Its output is appended here."""
    arguments: tuple[str, ...] = ()
    """The user's options; they replace ours."""
    context: int = 0
    """Longest prompt plus reply, in tokens; 0 leaves it to vLLM."""
    parallel: int = 0
    """Requests computed at once; 0 leaves it to vLLM."""
    program: str = "vllm"
    start_timeout: float = 1800.0
    """Seconds that loading may take."""
    grace: float = 20.0
    """Seconds between SIGTERM and SIGKILL."""
    restarts: int = 3
    """Restarts in all, after it dies."""


def command(launch: Launch, port: int) -> list[str]:
    """Return the command line of a server on loopback.

    Raises `ConfigError` for an argument that would move the server away from `port` or rename its
    model, or that holds a secret.
    """
    given = [_option(a) for a in launch.arguments if a.startswith("--")]
    for name in given:
        if _meant(name, _FIXED):
            raise ConfigError(
                f"`arguments` has `--{name}`, which is chosen when the server is launched; "
                "remove it, or start the server yourself and set `base_url`"
            )
        if variable := _SECRET.get(_meant(name, _SECRET)):
            raise ConfigError(
                f"`arguments` has `--{name}`, which would show a secret to everybody on this "
                f"machine; set the environment variable {variable} instead"
            )
    for argument in launch.arguments:
        if re.match(r"--[^\s=]+\s", argument):
            raise ConfigError(
                f"`arguments` has `{argument}` as one text, which vLLM does not take: write the "
                "option and its value as two, or with `=` between them"
            )
    ours: dict[str, str] = {
        "generation-config": "vllm",  # else the repository's sampling defaults join ours
        "enable-prefix-caching": "",
        "enable-prompt-tokens-details": "",  # else replies do not report cached tokens
        "disable-uvicorn-access-log": "",
    }
    if launch.context:
        ours["max-model-len"] = str(launch.context)
    if launch.parallel:
        ours["max-num-seqs"] = str(launch.parallel)
    line = [launch.program, "serve", launch.model, "--host", "127.0.0.1", "--port", str(port)]
    line += ["--served-model-name", launch.model]
    for name, value in ours.items():
        if name not in given:
            line += [f"--{name}", value] if value else [f"--{name}"]
    return [*line, *launch.arguments]


def _option(argument: str) -> str:
    """Return an option's name as vLLM reads it: `--no-max_x.y=1` is `max-x`.

    The value may be in the same text, after a blank.
    """
    name = re.split(r"[=.\s]", argument.removeprefix("--"), maxsplit=1)[0]
    return name.replace("_", "-").removeprefix("no-")


def _meant(name: str, options: Iterable[str]) -> str:
    """Return which of the options a name stands for; empty if none: `api-k` is `api-key`."""
    short = "-" in name[:-1]  # a shorter one would be ambiguous
    return next((o for o in options if o == name or (short and o.startswith(name))), "")


class Server:
    """A launched server: its address, and whether it is up."""

    def __init__(self, launch: Launch, port: int, note: Callable[[str], None]) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.failed = ""
        """Why it was abandoned; empty unless it was."""
        self._launch = launch
        self._line = command(launch, port)
        self._port = port
        self._note = note
        self._up = asyncio.Event()
        self._process: _Process | None = None

    async def up(self) -> bool:
        """Wait until the server is healthy; return whether it was down.

        Raises `ModelError` once it is abandoned.
        """
        process = self._process
        if process is not None and self._up.is_set() and not await _healthy(self._port):
            # It is about to exit: a client may notice before the guard does.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DYING):
                    await process.ended.wait()
        down = not self._up.is_set()
        await self._up.wait()
        if self.failed:
            raise ModelError(self.failed)
        return down

    async def start(self) -> None:
        """Start the server and wait until it is healthy. Raises `ModelError` if that fails."""
        await self.stop()
        self._process = process = _Process(self._line, self._launch.log, self._launch.grace)
        wait = 0.05
        try:
            async with asyncio.timeout(self._launch.start_timeout):
                while not await _healthy(self._port):
                    if process.ended.is_set():
                        raise ModelError(self._ended(process))
                    await asyncio.sleep(wait)
                    wait = min(wait * 1.5, 1.0)
        except TimeoutError:
            remedy = "if it was still loading or compiling, raise `start_timeout`"
            raise ModelError(
                f"{shlex.join(self._line)}: not healthy after {self._launch.start_timeout:g} s; "
                f"{_reason(process, remedy)}"
            ) from None
        self._up.set()

    async def stop(self) -> None:
        self._up.clear()
        if self._process is not None:
            await self._process.stop()

    async def watch(self) -> None:
        """Restart the server whenever it dies, on the same port, until no `restarts` are left."""
        left = self._launch.restarts
        while True:
            process = self._process
            assert process is not None
            await process.ended.wait()
            why = self._ended(process)
            self._up.clear()
            while not self._up.is_set():
                if not left:
                    await self._abandon(why)
                    return
                left -= 1
                self._note(f"{why}. Restarting it; {left} more restarts after this one")
                try:
                    await self.start()
                except ModelError as error:
                    why = str(error)

    async def _abandon(self, why: str) -> None:
        await self.stop()
        restarts = self._launch.restarts
        self.failed = "abandoned" + (f" after {restarts} restarts" if restarts else "") + f": {why}"
        self._up.set()
        self._note(self.failed)

    def _ended(self, process: _Process) -> str:
        how, remedy = f"exit code {process.code}", "read the log"
        if process.code < 0:
            how = f"killed by signal {-process.code} ({signal.strsignal(-process.code)})"
        if process.code == -signal.SIGKILL:
            remedy = "unless someone killed it, this machine ran out of memory"
        return f"{shlex.join(self._line)}: {how}; {_reason(process, remedy)}"


@contextlib.asynccontextmanager
async def serve(
    launch: Launch, note: Callable[[str], None] = lambda text: None
) -> AsyncIterator[Server]:
    """Run a server; yield it once it is healthy, and stop it on exit.

    `note` receives one line per restart, and one when the server is abandoned (also in
    `Server.failed`). Raises `ModelError` if it cannot be started.
    """
    if shutil.which(launch.program) is None:
        raise ModelError(
            f"`{launch.program}` is not installed here: `pip install vllm` on a machine with a "
            "GPU, or set `base_url` to a running server"
        )
    server = Server(launch, _free_port(), note)
    try:
        await server.start()
        watcher = asyncio.create_task(server.watch())
        try:
            yield server
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    finally:
        await server.stop()


class LaunchedModel:
    """A model on a launched server. Requests that fail during a restart wait for it and are resent.

    Otherwise the retries would be used up during the minutes that a start takes, and the run would
    stop because of an outage that is about to end.
    """

    def __init__(self, model: Model, server: Server) -> None:
        self.model = model
        self.server = server

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def capabilities(self) -> Capabilities:
        return self.model.capabilities

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """See `sdsd.models.base.Model`. Raises `ModelError` once the server is abandoned."""
        try:
            return await self.model.complete(request, seed, dialogue)
        except TransientError:
            if not await self.server.up():  # it was up all along
                raise
        return await self.model.complete(request, seed, dialogue)


class _Process:
    """One run of the server program, behind its guard."""

    def __init__(self, line: Sequence[str], log: Path, grace: float) -> None:
        self.log = log
        self.ended = asyncio.Event()
        self.code = 0
        self._grace = grace
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            output.write(f"$ {shlex.join(line)}\n".encode())
            output.flush()
            self.begin = log.stat().st_size
            """Offset in the log at which its own lines begin."""
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD, str(grace), *line],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                env={"VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1", **os.environ},
            )
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._hold, self._said = self._guard.stdin, self._guard.stdout
        asyncio.get_running_loop().add_reader(self._said, self._reap)

    def _reap(self) -> None:
        """Read the exit code that the guard prints last, and reap the guard."""
        asyncio.get_running_loop().remove_reader(self._said)
        self._hold.close()
        with self._said:
            said = self._said.read()
        self.code = self._guard.wait()
        if said:
            self.code = int(said)
        else:  # the guard itself was killed, and did not end the group
            self._kill()
        self.ended.set()

    async def stop(self) -> None:
        """Have the guard end the group. Even if this is interrupted, nothing is left running."""
        self._hold.close()
        try:
            # Not `wait_for`: before Python 3.12 it may swallow a cancellation.
            async with asyncio.timeout(self._grace + 5):
                await self.ended.wait()
        except TimeoutError:
            pass
        finally:
            if not self.ended.is_set():
                self._kill()
                self._reap()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guard.pid, signal.SIGKILL)


async def _healthy(port: int) -> bool:
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
            try:
                writer.write(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    return status.split()[1:2] == [b"200"]


def _reason(process: _Process, remedy: str) -> str:
    """Quote the log lines that name a cause, with its remedy (`remedy` if the cause is unknown)."""
    with process.log.open("rb") as file:
        file.seek(max(process.begin, file.seek(0, os.SEEK_END) - _TAIL))
        text = _COLOUR.sub("", file.read().decode("utf-8", "replace"))
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
    lines = [line[:300] for line in lines if line]
    if process.ended.is_set() and process.code <= 0:
        # Somebody ended it: what it complained of long before is not the reason.
        lines = [line for line in lines[-_LAST_WORDS:] if _COMPLAINT.search(line)]
    telling = [line for line in lines if _COMPLAINT.search(line)] or lines
    said = telling[-2:]
    for pattern, known in _REMEDIES:
        causes = [line for line in lines if pattern.search(line)]
        if causes:
            said = [causes[-1], *said]
            remedy = known
            break
    secrets = Secrets([*hub_secrets(), os.environ.get(KEY, "")])
    quoted = secrets.hide(" | ".join(dict.fromkeys(said))) or "nothing"
    return f"its log says: {quoted}; {remedy}. Full log: {process.log}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
