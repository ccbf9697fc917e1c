"""vLLM for the user: `vllm serve MODEL` started, watched, started again and stopped.

    this process --pipe--> guard -> vllm serve -> the processes of its engine

The guard, a few lines of Python, leads a process group of its own, which Ctrl-C in the terminal
does not reach. When the pipe to it closes, because the server is to stop or because this process
died in whatever way, it ends the whole group: SIGTERM, some seconds of grace, SIGKILL. A parent's
death signal (PR_SET_PDEATHSIG) would do less: Linux has it alone, it is sent when the *thread*
that started the child ends, and it reaches the child but not the processes that hold the GPU.
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
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from sdsd.errors import ConfigError, ModelError, TransientError
from sdsd.models.base import Capabilities, Model
from sdsd.types import Answer, Request

_GUARD = """
import os, signal, subprocess, sys, threading, time

def end():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(float(sys.argv[1]))
    os.killpg(0, signal.SIGKILL)

# A handler that does nothing, since a program inherits what is ignored, but no handler.
signal.signal(signal.SIGTERM, lambda *_: None)
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=2)
threading.Thread(target=end, daemon=True).start()
print(child.wait(), flush=True)
os.killpg(0, signal.SIGKILL)  # what the program left behind still holds the GPU
"""

_FIXED = ("model", "host", "port", "uds", "served-model-name")
"""Options that say where and as what the server is reached: not the user's to give."""
_SECRET = ("api-key", "hf-token")
_DYING = 5.0
"""Seconds that a server which refuses connections is given to end, before it counts as up."""
_TAIL = 1 << 16
"""Bytes at the end of the log that are searched for a reason."""
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
            "end what else uses the GPU, lower `context` or `parallel`, or add "
            "`--gpu-memory-utilization 0.8` or `--tensor-parallel-size N` to `arguments`",
        ),
        (
            r"gated repo|\b40[13] client error|access to model .* is restricted",
            "accept the model's licence on the hub and set HF_TOKEN",
        ),
        (
            r"not a valid model identifier|repository ?not ?found|404 client error"
            r"|invalid repository id|model not found|not find .*config\.json",
            "check the name in `model`: a repository of the hub, or a directory with weights",
        ),
        (
            r"derived max_model_len|max_position_embeddings",
            "lower `context`: the model takes no more",
        ),
        (
            r"unrecognized arguments|invalid choice|expected one argument",
            "correct `arguments`: this version of vLLM does not take them (`vllm serve --help`)",
        ),
        (r"address already in use", "run the same command again: it takes another port"),
        (
            r"no CUDA GPUs|failed to infer device type|no platform detected|nvidia driver",
            "vLLM sees no GPU here: run on a machine with one, or set `base_url` of a server there",
        ),
    )
)


def command(
    model: str,
    *,
    port: int,
    arguments: Sequence[str] = (),
    context: int = 0,
    parallel: int = 0,
    program: str = "vllm",
) -> list[str]:
    """The command line of a server for `model` on loopback.

    `context` is the longest prompt and reply in tokens, `parallel` the requests computed at once;
    0 leaves either to vLLM. `arguments` are the user's own: an option among them takes the place
    of ours. Raises `ConfigError` for one that would move the server away from `port` and `model`.
    """
    given = [_option(a) for a in arguments if a.startswith("--")]
    for name in given:
        if name in _FIXED:
            raise ConfigError(
                f"`arguments` has `--{name}`, which is chosen when the server is launched; "
                "take it out, or start the server yourself and set `base_url`"
            )
    ours: dict[str, str] = {
        "generation-config": "vllm",  # else the repository's sampling defaults join ours
        "enable-prefix-caching": "",
        "enable-prompt-tokens-details": "",  # else replies do not say what the cache saved
        "disable-uvicorn-access-log": "",
    }
    if context:
        ours["max-model-len"] = str(context)
    if parallel:
        ours["max-num-seqs"] = str(parallel)
    line = [program, "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    line += ["--served-model-name", model]
    for name, value in ours.items():
        if name not in given:
            line += [f"--{name}", value] if value else [f"--{name}"]
    return [*line, *arguments]


def _option(argument: str) -> str:
    """An option's name as vLLM understands it: `--no-max_x.y=1` is `max-x`."""
    name = re.split(r"[=.]", argument.removeprefix("--"), maxsplit=1)[0]
    return name.replace("_", "-").removeprefix("no-")


class Server:
    """A launched server: where it answers, and whether it still does."""

    def __init__(
        self,
        line: Sequence[str],
        port: int,
        log: Path,
        *,
        start_timeout: float,
        grace: float,
        restarts: int,
        note: Callable[[str], None],
        gave_up: Callable[[str], None],
    ) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.failed = ""
        """Why it was given up; empty as long as it was not."""
        self._line = line
        self._port = port
        self._log = log
        self._start_timeout = start_timeout
        self._grace = grace
        self._restarts = restarts
        self._note = note
        self._gave_up = gave_up
        self._up = asyncio.Event()
        self._life: _Life | None = None

    async def up(self) -> bool:
        """Wait until the server answers; whether that meant waiting.

        Raises `ModelError` once it is given up.
        """
        life = self._life
        if life is not None and self._up.is_set() and not await _healthy(self._port):
            # It is about to end: who asked it can know before the guard does.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(life.ended.wait(), _DYING)
        down = not self._up.is_set()
        await self._up.wait()
        if self.failed:
            raise ModelError(self.failed)
        return down

    async def start(self) -> None:
        """Start it and wait until it is healthy. Raises `ModelError` if that fails."""
        await self.stop()
        self._life = life = _Life(self._line, self._log, self._grace)
        wait = 0.05
        try:
            async with asyncio.timeout(self._start_timeout):
                while not await _healthy(self._port):
                    if life.ended.is_set():
                        raise ModelError(self._ended(life))
                    await asyncio.sleep(wait)
                    wait = min(wait * 1.5, 1.0)
        except TimeoutError:
            raise ModelError(
                f"{_shown(self._line)}: not healthy after {self._start_timeout:g} s; "
                f"{_reason(life, 'if it was still loading or compiling, raise `start_timeout`')}"
            ) from None
        self._up.set()

    async def stop(self) -> None:
        """End it, with all processes that it started."""
        self._up.clear()
        if self._life is not None:
            await self._life.stop()

    async def watch(self) -> None:
        """Start it again whenever it ends, on the same port, until `restarts` are used up."""
        left = self._restarts
        while True:
            life = self._life
            assert life is not None
            await life.ended.wait()
            why = self._ended(life)
            self._up.clear()
            while not self._up.is_set():
                if not left:
                    await self._give_up(why)
                    return
                left -= 1
                self._note(f"{why}. Starting it again; {left} more tries after this one")
                try:
                    await self.start()
                except ModelError as error:
                    why = str(error)

    async def _give_up(self, why: str) -> None:
        await self.stop()
        tries = f" after {self._restarts} new starts" if self._restarts else ""
        self.failed = f"given up{tries}: {why}"
        self._up.set()
        self._gave_up(self.failed)

    def _ended(self, life: _Life) -> str:
        how, remedy = f"exit code {life.code}", "look there"
        if life.code < 0:
            how = f"killed by signal {-life.code} ({signal.strsignal(-life.code)})"
        if life.code == -signal.SIGKILL:
            remedy = "if nobody killed it, this machine ran out of memory"
        return f"{_shown(self._line)}: {how}; {_reason(life, remedy)}"


@contextlib.asynccontextmanager
async def serve(
    model: str,
    *,
    log: Path,
    arguments: Sequence[str] = (),
    context: int = 0,
    parallel: int = 0,
    program: str = "vllm",
    start_timeout: float = 1800.0,
    grace: float = 20.0,
    restarts: int = 3,
    note: Callable[[str], None] = lambda _: None,
    gave_up: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Server]:
    """Run `vllm serve` (see `command`); yields it once it is healthy, and stops it at the end.

    Its output is appended to `log`. `start_timeout` is the seconds that loading may take, `grace`
    those between SIGTERM and SIGKILL. If it ends in between it is started again, at most
    `restarts` times in all: `note` hears of each, `gave_up` of the end, with the message that
    `Server.failed` then holds. Raises `ModelError` if it cannot be started.
    """
    if shutil.which(program) is None:
        raise ModelError(
            f"`{program}` is not installed here: `pip install vllm` on a machine with a GPU, or "
            "set `base_url` of a server that is running"
        )
    port = _free_port()
    line = command(
        model,
        port=port,
        arguments=arguments,
        context=context,
        parallel=parallel,
        program=program,
    )
    server = Server(
        line,
        port,
        log,
        start_timeout=start_timeout,
        grace=grace,
        restarts=restarts,
        note=note,
        gave_up=gave_up,
    )
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


class Patient:
    """A model on a launched server: who asks while that is starting again waits, and is answered.

    Without it, requests would be tried in vain for the minutes that a start takes, and a run would
    stop because of an outage that is about to end.
    """

    def __init__(self, model: Model, server: Server) -> None:
        self.model = model
        self.server = server

    @property
    def name(self) -> str:
        """See `sdsd.models.Model`."""
        return self.model.name

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return self.server.base_url

    @property
    def capabilities(self) -> Capabilities:
        """See `sdsd.models.Model`."""
        return self.model.capabilities

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """See `sdsd.models.Model`. `ModelError` too once the server is given up."""
        try:
            return await self.model.complete(request, seed, dialogue)
        except TransientError:
            if not await self.server.up():  # it was up all the time
                raise
        return await self.model.complete(request, seed, dialogue)


class _Life:
    """One life of the server, from its start to its end, behind its guard."""

    def __init__(self, line: Sequence[str], log: Path, grace: float) -> None:
        self.log = log
        self.ended = asyncio.Event()
        self.code = 0
        """The exit code, once it ended; negative for a signal."""
        self._grace = grace
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            output.write(f"$ {_shown(line)}\n".encode())
            output.flush()
            self.begin = output.tell()
            """Where in the log its own lines begin."""
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
        asyncio.get_running_loop().add_reader(self._said, self._over)

    def _over(self) -> None:
        """The guard said its last word, the exit code, and is gone or about to be."""
        asyncio.get_running_loop().remove_reader(self._said)
        self._hold.close()
        with self._said:
            said = self._said.read()
        self.code = self._guard.wait()
        if said:
            self.code = int(said)
        else:  # the guard itself was ended, and did not end the group
            self._kill()
        self.ended.set()

    async def stop(self) -> None:
        """Have the guard end the group. However this is interrupted, nothing is left running."""
        self._hold.close()
        try:
            await asyncio.wait_for(self.ended.wait(), self._grace + 5)
        except TimeoutError:
            pass
        finally:
            if not self.ended.is_set():
                self._kill()
                self._over()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guard.pid, signal.SIGKILL)


async def _healthy(port: int) -> bool:
    """Whether `/health` answers 200."""
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


def _reason(life: _Life, remedy: str) -> str:
    """The lines of its log that tell why, the remedy (`remedy` if none is known), and the log."""
    with life.log.open("rb") as file:
        file.seek(max(life.begin, file.seek(0, os.SEEK_END) - _TAIL))
        text = _COLOUR.sub("", file.read().decode("utf-8", "replace"))
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
    lines = [line[:300] for line in lines if line]
    telling = [line for line in lines if _COMPLAINT.search(line)] or lines
    said = telling[-2:]
    for pattern, known in _REMEDIES:
        causes = [line for line in lines if pattern.search(line)]
        if causes:
            said = [causes[-1], *said]
            remedy = known
            break
    quoted = " | ".join(dict.fromkeys(said)) or "nothing"
    return f"its log says: {quoted}; {remedy}. The whole log: {life.log}"


def _shown(line: Sequence[str]) -> str:
    """A command line to show to people: as a shell takes it, without the secrets in it."""
    shown, hide = [], False
    for word in line:
        name, is_set, _ = word.partition("=")
        secret = word.startswith("--") and _option(word) in _SECRET
        if hide:
            shown.append("***")
        else:
            shown.append(f"{name}=***" if secret and is_set else word)
        hide = secret and not is_set
    return shlex.join(shown)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
