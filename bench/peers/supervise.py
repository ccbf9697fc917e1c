"""The programs compared, and how one of them is run and measured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".bench"
SIMULATOR = ROOT / "bench" / "simulator.py"
STALL = 90.0
"""Seconds without an answered call after which a peer hangs; start-up takes up to 20."""
MODES = {
    "instant": ["--instant"],
    "engine": ["--slots", "256", "--blocks", "32768"],
    "scarce": ["--slots", "256", "--blocks", "8192"],
}


class Peer(NamedTuple):
    """One program in one variant."""

    title: str
    env: str
    """Name of its environment and its script; `sdsd` runs in the current environment."""
    variant: str = ""
    own_prompts: bool = False
    """Whether it cannot send the common messages, or has its own scenarios."""
    probes: int = 0
    """Answered requests with which it probes the server at start-up."""
    resumes: bool = True
    """Whether it can resume after a crash."""
    kill_only: bool = False
    """Whether the variant is only for crashes."""


PEERS = {
    "bare": Peer("bare aiohttp, breadth first", "bare", "breadth", resumes=False),
    "bare-depth": Peer("bare aiohttp, depth first", "bare", "depth", resumes=False),
    "openai": Peer("openai, gather", "openai", resumes=False),
    "inspect": Peer("inspect_ai", "inspect", "retry"),
    "inspect-cache": Peer("inspect_ai, cache on", "inspect", "cache", kill_only=True),
    "distilabel": Peer("distilabel, one task", "distilabel", "loop"),
    "distilabel-chain": Peer("distilabel, a task per stage", "distilabel", "chain"),
    "curator": Peer("curator", "curator"),
    "designer": Peer("data-designer", "designer", "whole", own_prompts=True),
    "designer-groups": Peer(
        "data-designer, groups of 10", "designer", "groups", own_prompts=True, kill_only=True
    ),
    "sdialog": Peer("sdialog", "sdialog", "own", own_prompts=True, resumes=False),
    "sdialog-shared": Peer(
        "sdialog, shared models", "sdialog", "shared", own_prompts=True, resumes=False
    ),
    "sdsd": Peer("sdsd, roleplay", "sdsd", "roleplay", own_prompts=True, probes=4),
    "sdsd-chat": Peer("sdsd, chat", "sdsd", "chat", own_prompts=True, probes=4),
    "sdsd-continuation": Peer(
        "sdsd, continuation", "sdsd", "continuation", own_prompts=True, probes=4
    ),
}


class PeerFailed(Exception):
    """A peer failed; the message has its last output."""

    def __init__(self, said: str, *, killed: bool = False) -> None:
        super().__init__(said)
        self.killed = killed
        """Whether it was killed as planned."""


class Run(NamedTuple):
    """One run of one peer."""

    peer: str
    version: str
    dialogues: int
    calls: int
    """Calls that its dialogues needed."""
    answered: int
    """Calls that the server answered, without probes."""
    whole_s: float
    """Of the process, from start to end."""
    start_s: float
    """From the start of the process to its first request."""
    span_s: float
    """From the first request to the last reply, as the server saw them."""
    cpu_s: float
    """User and system time of the process and its children."""
    peak_rss_mb: float
    """Resident memory of all its processes together."""
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    completion_tokens: int


def python_of(peer: Peer) -> Path:
    """Return the interpreter that runs a peer."""
    if peer.env == "sdsd":
        return Path(sys.executable)
    return ENVIRONMENTS / peer.env / "bin" / "python"


# -- server --------------------------------------------------------------------------------


class Server(NamedTuple):
    """The simulated engine in its own process."""

    url: str

    def stats(self) -> dict[str, Any]:
        """Return the counters since the start or the last reset."""
        return self._asked("stats")

    def reset(self) -> None:
        """Clear counters and cache."""
        self._asked("reset", b"")

    def rest(self) -> None:
        """Wait until no request is in progress, as after a client's death."""
        while self.stats()["in_flight"]:
            time.sleep(0.05)

    def _asked(self, what: str, data: bytes | None = None) -> dict[str, Any]:
        url = f"{self.url.removesuffix('/v1')}/sim/{what}"
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as reply:
            return json.loads(reply.read() or b"{}") or {}


@contextlib.contextmanager
def served(mode: str, log: Path | None = None) -> Iterator[Server]:
    """Start the simulator, and stop it at the end."""
    command = [sys.executable, str(SIMULATOR), *MODES[mode], "--port", "0"]
    if log is not None:
        command += ["--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process.stdout.readline().strip())
        finally:
            process.terminate()


# -- one run -------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Watches a running peer: its memory, its progress, and when to kill it.

    A peer is a process group: whatever it starts belongs to it.
    """

    PERIOD = 0.1

    def __init__(self, group: int, server: Server, dies_at: float = float("inf")) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        """Peak memory, in bytes."""
        self.hung = False
        self.killed = False
        self._group = group
        self._server = server
        self._dies_at = dies_at
        self._over = threading.Event()

    def run(self) -> None:
        answered, moved = -1, time.monotonic()
        while not self._over.wait(self.PERIOD):
            self.peak = max(self.peak, sum(map(resident, members(self._group))))
            now, seen = time.monotonic(), self._server.stats()["answered"]
            if seen != answered:
                answered, moved = seen, now
            self.hung = now - moved > STALL
            self.killed = answered >= self._dies_at
            if self.hung or self.killed:
                kill(self._group)
                return

    def stop(self) -> None:
        """The peer has ended."""
        self._over.set()
        self.join()


def members(group: int) -> list[int]:
    """Return the processes of a group."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                fields = Path(entry.path, "stat").read_text("utf-8").rpartition(")")[2].split()
                if int(fields[2]) == group:
                    found.append(int(entry.name))
    return found


def resident(process: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def kill(group: int) -> None:
    """Send SIGKILL to a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def drive(
    name: str, server: Server, n: int, opened: int, state: Path, dies_at: float = float("inf")
) -> Run:
    """Run a peer to its end, or kill it after a number of answered calls.

    Raises `PeerFailed`, also if it was killed.
    """
    peer, out = PEERS[name], state / "figures.json"
    out.unlink(missing_ok=True)
    command = [str(python_of(peer)), str(HERE / f"drive_{peer.env}.py")]
    command += ["--url", server.url, "--n", str(n), "--open", str(opened)]
    command += ["--state", str(state), "--out", str(out)]
    command += ["--variant", peer.variant] if peer.variant else []
    # Nothing of the user's: no proxy, key, configuration or cache, and no hub.
    clean = {"PATH": os.environ["PATH"], "HOME": str(state), "LANG": "C.UTF-8",
             "HF_HUB_OFFLINE": "1"}  # fmt: skip
    if not python_of(peer).exists():
        raise PeerFailed(f"not built: `python bench/compare.py build {name}`")
    with (state / "output.txt").open("wb") as said:
        started = time.monotonic()
        process = subprocess.Popen(
            command, env=clean, cwd=state, stdout=said, stderr=said, start_new_session=True
        )
        watch = Watch(process.pid, server, dies_at)
        watch.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
            whole = time.monotonic() - started
        finally:
            watch.stop()
            kill(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not out.exists():
        killed = watch.killed and process.returncode == -signal.SIGKILL
        raise PeerFailed(_last_word(state, watch, process.returncode), killed=killed)
    figures, seen = json.loads(out.read_text("utf-8")), server.stats()
    return Run(
        peer=name,
        version=figures["version"],
        dialogues=figures["dialogues"],
        calls=figures["calls"],
        answered=seen["answered"] - peer.probes,
        whole_s=whole,
        start_s=seen["first_request"] - started,
        span_s=seen["last_reply"] - seen["first_request"],
        cpu_s=used.ru_utime + used.ru_stime,
        peak_rss_mb=max(watch.peak, used.ru_maxrss * 1024) / 2**20,
        **{key: seen[key] for key in Run._fields if key.endswith("_tokens")},
    )


def _last_word(state: Path, watch: Watch, code: int) -> str:
    if watch.hung:
        return f"hangs: no call answered for {STALL:.0f} s"
    lines = (state / "output.txt").read_text("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"exit code {code}: {' '.join(last.split())[:120]}"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a directory for one run of a peer, or for two."""
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as path:
        yield Path(path)
