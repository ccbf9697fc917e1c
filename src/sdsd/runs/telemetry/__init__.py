"""What a run tells a person, a log, Prometheus and OpenTelemetry while it goes on.

    with listeners(path, on_event) as tell: ...

`tell` takes every event of a run. The caller pays for one append to a queue; a thread hands the
events on, a few times a second, to listeners that know nothing of each other. None of them can
hurt the run: one that raises is switched off with a note.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from sdsd.runs.events import Event, Noted
from sdsd.runs.telemetry.listener import Listener
from sdsd.runs.telemetry.prometheus import Metrics, MetricsFile
from sdsd.runs.telemetry.runlog import RunLog

PAUSE = 0.2
"""Seconds between two rounds of handing on."""
BACKLOG = 100_000
"""Events that may wait to be handed on; more are counted and left out."""
CLOSING = 30.0
"""Seconds that closing the listeners may take; a run does not wait longer for them."""
OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The environment variable that switches OpenTelemetry on."""
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""OpenTelemetry's own switch for the texts of prompts and replies in spans."""


@contextlib.contextmanager
def listeners(
    path: Path,
    tell: Callable[[Event], None],
    *,
    version: str = "",
    log: bool = True,
    calls: bool = False,
    metrics: bool = True,
    port: int | None = None,
    content: bool = False,
) -> Iterator[Callable[[Event], None]]:
    """One callback for the events of the run in `path`; everything is written when it closes.

    tell      hears every event first, and the notes of the listeners, on the caller's threads
    version   of this program, as all of them state it
    log       keep `logs/run.jsonl`; with `calls`, a line for each call too
    metrics   keep `metrics.prom`
    port      answer `GET /metrics` on 127.0.0.1; 0 takes a free port, which a note names
    content   let texts of prompts and replies into OpenTelemetry's spans
    """
    fan = Fan(tell)
    if os.environ.get(OTLP):
        fan.add("OpenTelemetry", lambda: _telemetry(path, version, content or _content(), fan.note))
    counted = Metrics(path.absolute().name, version)
    if metrics or port is not None:
        fan.add("metrics", lambda: counted)
    if metrics:
        fan.add("metrics.prom", lambda: MetricsFile(counted, path / "metrics.prom"))
    if log:  # last, so that it hears what the others say when they are closed
        file = path / "logs" / "run.jsonl"
        fan.add("logs/run.jsonl", lambda: RunLog(file, version, calls=calls))
    fan.start(None if port is None else lambda: counted.serve(port))
    try:
        yield fan
    finally:
        fan.close()


def _content() -> bool:
    return os.environ.get(CONTENT, "").casefold() in ("true", "span_only", "span_and_event")


def _telemetry(
    path: Path, version: str, content: bool, note: Callable[[str], None]
) -> Listener | None:
    try:
        from sdsd.runs.telemetry import otel
    except ImportError as error:
        note(
            f"{OTLP} is set, but OpenTelemetry cannot be imported ({error}); "
            '`pip install "sdsd[otel]"` brings it. The run goes on without'
        )
        return None
    return otel.connect(path, version, content=content, note=note)


class Fan:
    """Takes events in the run's thread and hands them to listeners in one of its own."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._listeners: dict[str, Listener] = {}
        self._waiting: deque[tuple[int, Event]] = deque()
        self._notes: deque[Event] = deque()
        self._missed = 0
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()

    def __call__(self, event: Event) -> None:
        """One event of the run. What `tell` raises is raised; nothing else is."""
        if len(self._waiting) < BACKLOG:
            self._waiting.append((time.time_ns(), event))
        else:
            self._missed += 1
        self._tell(event)
        self._say()

    def note(self, text: str) -> None:
        """A note of a listener: for the other listeners now, for `tell` with the next event."""
        noted = Noted(text)
        self._waiting.append((time.time_ns(), noted))
        self._notes.append(noted)

    def add(self, name: str, make: Callable[[], Listener | None]) -> None:
        """Before `start`: add the listener that `make` gives, if any; notes call it `name`."""
        try:
            listener = make()
        except Exception as error:
            self.note(_switched_off(name, error))
            return
        if listener is not None:
            self._listeners[name] = listener

    def start(self, serve: Callable[[], Awaitable[asyncio.Server]] | None = None) -> None:
        """Begin to hand on. `serve` starts an endpoint beside it; returns when that listens."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._work(serve)), name="observe", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        self._say()

    def close(self) -> None:
        """Hand on what waits, close every listener, and tell what they have noted."""
        assert self._thread is not None
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # its loop is gone already
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            self.note(f"{', '.join(self._listeners)}: not closed after {CLOSING:.0f} s, left alone")
        self._say()

    def _say(self) -> None:
        while self._notes:
            self._tell(self._notes.popleft())

    async def _work(self, serve: Callable[[], Awaitable[asyncio.Server]] | None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            server = await self._listening(serve)
        finally:
            self._ready.set()
        while not self._closing.is_set():
            self._hand_on()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), PAUSE)
        if self._missed:
            self.note(f"{self._missed} events came too fast and are missing in logs and metrics")
        for name in list(self._listeners):
            self._hand_on()
            self._end(name)
        if server is not None:
            server.close()

    async def _listening(
        self, serve: Callable[[], Awaitable[asyncio.Server]] | None
    ) -> asyncio.Server | None:
        if serve is None:
            return None
        try:
            server = await serve()
        except (OSError, OverflowError) as error:
            self.note(f"metrics endpoint: {error}; give another port. The run goes on without")
            return None
        host, port = server.sockets[0].getsockname()[:2]
        self.note(f"metrics at http://{host}:{port}/metrics")
        return server

    def _hand_on(self) -> None:
        """All that waits to every listener, one listener after the other."""
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        now = time.monotonic()
        for name, listener in list(self._listeners.items()):
            try:
                for at, event in batch:
                    listener.hear(at, event)
                listener.tick(now)
            except Exception as error:
                del self._listeners[name]
                self.note(_switched_off(name, error))
                with contextlib.suppress(Exception):
                    listener.close()

    def _end(self, name: str) -> None:
        listener = self._listeners.pop(name, None)
        if listener is None:  # switched off in this last round
            return
        try:
            listener.close()
        except Exception as error:
            self.note(_switched_off(name, error))


def _switched_off(name: str, error: Exception) -> str:
    return f"{name}: {type(error).__name__}: {error}; switched off, the run goes on without it"
