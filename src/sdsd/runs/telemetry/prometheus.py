"""Counters of a run in Prometheus' text format: as a file, and over HTTP if asked for.

The file is for node_exporter's textfile collector, which takes many of them: so every sample
carries the label `run`, the name of the run's directory. Counters count since the process
started; `sdsd_dialogues` is the state of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from sdsd.runs.events import Began, Called, Event, Recorded
from sdsd.runs.telemetry.listener import plain, tokens
from sdsd.types import Completion

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
"""Upper bounds of `sdsd_call_seconds`: from a cached verdict to a long turn at a crowded server."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EVERY = 5.0
"""Seconds between two versions of the file."""
PATIENCE = 5.0
"""Seconds that a client of the endpoint may take."""
LONGEST_HEAD = 16 * 1024
"""Bytes of a request that the endpoint reads."""

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]
"""A suffix of the family's name, the labels, the value."""


class Metrics:
    """Counts a run's events. A `Listener`; use it from one thread."""

    def __init__(self, run: str, version: str = "") -> None:
        self._run = run
        self._version = version
        self._uses: dict[tuple[str, str, str], _Use] = {}
        self._records: Counter[tuple[str, str]] = Counter()
        self._info: Labels | None = None
        self._done = self._wanted = self._pairs = 0

    def hear(self, at: int, event: Event) -> None:
        """One event; see `Listener`."""
        match event:
            case Called(call, answer):
                # The model's name is the one we asked for: what a server calls itself is up to
                # the server, and would be a new series each time.
                key = (call.request.role, call.asked["model"], event.stage)
                use = self._uses.get(key)
                if use is None:
                    use = self._uses[key] = _Use()
                use.add(answer)
            case Recorded(record):
                self._done += 1
                self._records[record.outcome, record.rule] += 1
                self._pairs += len(record.pairs)
            case Began(_, n, done, concurrency, protocol):
                self._done, self._wanted = done, n
                self._info = {
                    "version": self._version,
                    "protocol": protocol,
                    "concurrency": str(concurrency),
                }

    def tick(self, now: float) -> None:
        """Nothing is due."""

    def close(self) -> None:
        """Nothing is held."""

    def render(self) -> str:
        """Everything counted so far, in the text format."""
        parts = [
            self._family("sdsd_run_info", "gauge", "What makes the run; always 1.", self._about()),
            self._family(
                "sdsd_dialogues", "gauge", "Dialogues of the run, by state.", self._state()
            ),
            self._family(
                "sdsd_records_total", "counter", "Dialogues finished by this process.",
                [("", {"outcome": o, "rule": r}, k) for (o, r), k in self._records.items()],
            ),
            self._family(
                "sdsd_verified_pairs_total", "counter",
                "Verified pairs made by this process.", [("", {}, self._pairs)],
            ),
            self._by_use("sdsd_calls_total", "Answers of models.", lambda use: use.calls),
            self._by_use("sdsd_prompt_tokens_total", "Tokens read.", lambda use: use.prompt),
            self._by_use(
                "sdsd_cached_tokens_total", "Tokens of prompts that the server had in its cache.",
                lambda use: use.cached,
            ),
            self._by_use(
                "sdsd_completion_tokens_total", "Tokens written.", lambda use: use.completion
            ),
            self._family(
                "sdsd_call_seconds", "histogram", "How long an answer took, without waiting.",
                self._histograms(),
            ),
        ]  # fmt: skip
        return "".join(parts)

    async def serve(self, port: int) -> asyncio.Server:
        """Answer `GET /metrics` on 127.0.0.1 in this loop; 0 takes a free port.

        Raises `OSError` if the port is taken.
        """
        return await asyncio.start_server(self._answer, "127.0.0.1", port, limit=LONGEST_HEAD)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(
                OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(head))
                    await writer.drain()
        finally:
            writer.close()

    def _response(self, head: bytes) -> bytes:
        method, target, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
        status, text = "200 OK", ""
        if target.split(b"?", 1)[0] != b"/metrics":
            status, text = "404 Not Found", "The metrics are at /metrics.\n"
        elif method not in (b"GET", b"HEAD"):
            status, text = "405 Method Not Allowed", "GET, please.\n"
        body = (text or self.render()).encode("utf-8")
        lines = (
            f"HTTP/1.1 {status}",
            f"Content-Type: {CONTENT_TYPE}",
            f"Content-Length: {len(body)}",
            *(["Allow: GET, HEAD"] if status.startswith("405") else []),
            "Connection: close",
        )
        start = "".join(f"{line}\r\n" for line in lines).encode("ascii") + b"\r\n"
        return start if method == b"HEAD" else start + body

    def _about(self) -> list[Sample]:
        return [] if self._info is None else [("", self._info, 1)]

    def _state(self) -> list[Sample]:
        if self._info is None:  # nothing is known of the run before it has begun
            return []
        return [("", {"state": "done"}, self._done), ("", {"state": "wanted"}, self._wanted)]

    def _by_use(self, name: str, meaning: str, value: Callable[[_Use], int]) -> str:
        samples = [("", _labels(key), value(use)) for key, use in self._uses.items()]
        return self._family(name, "counter", meaning, samples)

    def _histograms(self) -> Iterator[Sample]:
        for key, use in self._uses.items():
            labels = _labels(key)
            bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
            for bound, below in zip(bounds, itertools.accumulate(use.buckets), strict=True):
                yield "_bucket", {**labels, "le": bound}, below
            yield "_sum", labels, use.seconds
            yield "_count", labels, use.calls

    def _family(self, name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> str:
        lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        for suffix, labels, value in samples:
            pairs = ",".join(f'{k}="{escaped(v)}"' for k, v in {"run": self._run, **labels}.items())
            lines.append(f"{name}{suffix}{{{pairs}}} {value}")
        return "\n".join(lines) + "\n"


class MetricsFile:
    """Keeps `metrics` in the file at `path`, always whole. A `Listener` that hears nothing itself.

    Raises `OSError` when it cannot be written.
    """

    def __init__(self, metrics: Metrics, path: Path) -> None:
        self._metrics = metrics
        self._path = path
        self._written = float("-inf")

    def hear(self, at: int, event: Event) -> None:
        """The metrics hear it."""

    def tick(self, now: float) -> None:
        """Write the file if the last version is old enough."""
        if now - self._written >= EVERY:
            self._written = now
            self._write()

    def close(self) -> None:
        """Write the last version."""
        self._write()

    def _write(self) -> None:
        # Its name does not end in .prom, and it is not forced to disk: a crash may cost seconds.
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(self._metrics.render().encode("utf-8"))
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)


class _Use:
    """What one role, model and stage cost."""

    def __init__(self) -> None:
        self.calls = self.prompt = self.cached = self.completion = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def add(self, answer: Completion) -> None:
        self.calls += 1
        self.prompt += tokens(answer.prompt_tokens)
        self.cached += tokens(answer.cached_tokens)
        self.completion += tokens(answer.completion_tokens)
        self.seconds += answer.seconds
        self.buckets[bisect_left(BUCKETS, answer.seconds)] += 1


def _labels(key: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("role", "model", "stage"), key, strict=True))


def escaped(value: str) -> str:
    """A label's value as the format wants it between its quotes."""
    return plain(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
