"""Observe a run in progress: a log, Prometheus metrics, OpenTelemetry spans and metrics.

    with listeners(path, on_event) as emit: ...

`emit` takes every event of a run. The caller pays for one append to a queue; a thread passes the
events on a few times a second to independent listeners. None of them can harm
the run: a listener that raises is switched off with a note.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sdsd.runs.events import Event, Noted
from sdsd.runs.telemetry.listener import Listener
from sdsd.runs.telemetry.runlog import RunLog

PAUSE = 0.2
"""Seconds between two deliveries of events."""
BACKLOG = 100_000
"""Events that may wait in the queue; further ones are counted and dropped."""
CLOSING = 30.0
"""Seconds that a run waits for its listeners to close."""
OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The environment variable that switches OpenTelemetry on."""
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""OpenTelemetry's own switch for the texts of prompts and replies in spans."""


@contextlib.contextmanager
def listeners(
    path: Path,
    on_event: Callable[[Event], None],
    port: int | None = None,
    version: str = "",
) -> Iterator[Callable[[Event], None]]:
    """Yield one callback for the events of the run in `path`; write everything out on exit.

    on_event   gets every event first, and the listeners' notes, on the caller's thread
    port       serve Prometheus metrics on 127.0.0.1; 0 takes a free port, which a note names
    version    of this program

    `metrics.prom` is kept where the extra `metrics` is installed, `logs/run.jsonl` always.
    """
    dispatcher = Dispatcher(on_event)
    if os.environ.get(OTLP):
        dispatcher.add("OpenTelemetry", lambda: _opentelemetry(path, version, dispatcher.note))
    dispatcher.add("metrics", lambda: _prometheus(path, version, port, dispatcher))
    # Last, so that it gets what the others note when they close.
    dispatcher.add("logs/run.jsonl", lambda: RunLog(path / "logs" / "run.jsonl", version))
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        dispatcher.close()


def _opentelemetry(path: Path, version: str, note: Callable[[str], None]) -> Listener | None:
    try:
        from sdsd.runs.telemetry import otel
    except ImportError as error:
        note(_missing(f"{OTLP} is set", "OpenTelemetry", error, "otel"))
        return None
    content = os.environ.get(CONTENT, "").casefold() in ("true", "span_only", "span_and_event")
    return otel.connect(path, version, content=content, note=note)


def _prometheus(
    path: Path, version: str, port: int | None, dispatcher: Dispatcher
) -> Listener | None:
    try:
        from sdsd.runs.telemetry.prometheus import Metrics, MetricsFile
    except ImportError as error:
        if port is not None:
            asked = "`telemetry.port` is set"
            dispatcher.note(_missing(asked, "prometheus_client", error, "metrics"))
        return None
    metrics = Metrics(path.absolute().name, version)
    dispatcher.add("metrics.prom", lambda: MetricsFile(metrics, path / "metrics.prom"))
    if port is not None:
        try:
            dispatcher.note(f"metrics at {metrics.serve(port)}")
        except OSError as error:
            remedy = "give another port. The run continues without it"
            dispatcher.note(f"metrics endpoint: {error}; {remedy}")
    return metrics


def _missing(asked: str, what: str, error: ImportError, extra: str) -> str:
    return (
        f"{asked}, but {what} cannot be imported ({error}); install it with "
        f'`pip install "sdsd[{extra}]"`. The run continues without it'
    )


class Dispatcher:
    """Takes events on the run's thread and passes them to listeners on a thread of its own."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._listeners: dict[str, Listener] = {}
        self._queue: deque[tuple[int, Event]] = deque()
        self._notes: deque[Event] = deque()
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)

    def __call__(self, event: Event) -> None:
        """Queue one event. Only what `on_event` raises is raised."""
        if len(self._queue) < BACKLOG:
            self._queue.append((time.time_ns(), event))
        else:
            self._dropped += 1
        self._on_event(event)
        self._pass_notes()

    def note(self, text: str) -> None:
        """Queue a listener's note for the others; `on_event` gets it with the next event."""
        noted = Noted(text)
        self._queue.append((time.time_ns(), noted))
        self._notes.append(noted)

    def add(self, name: str, make: Callable[[], Listener | None]) -> None:
        """Add the listener that `make` returns, if any, under `name` for notes. Before `start`."""
        try:
            listener = make()
        except Exception as error:
            self.note(_switched_off(name, error))
            return
        if listener is not None:
            self._listeners[name] = listener

    def start(self) -> None:
        self._thread.start()
        self._pass_notes()

    def close(self) -> None:
        """Pass on what is queued, close every listener, and emit their notes."""
        self._closing.set()
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            self.note(f"{', '.join(self._listeners)}: not closed after {CLOSING:.0f} s, abandoned")
        self._pass_notes()

    def _pass_notes(self) -> None:
        while self._notes:
            self._on_event(self._notes.popleft())

    def _work(self) -> None:
        while not self._closing.is_set():
            self._dispatch()
            self._closing.wait(PAUSE)
        if self._dropped:
            self.note(f"{self._dropped} events came too fast and are missing in logs and metrics")
        for name in list(self._listeners):
            self._dispatch()
            if listener := self._listeners.pop(name, None):  # not switched off just now
                self._guarded(name, listener.close)

    def _dispatch(self) -> None:
        events = [self._queue.popleft() for _ in range(len(self._queue))]
        for name, listener in list(self._listeners.items()):
            if not self._guarded(name, partial(_deliver, listener, events)):
                del self._listeners[name]
                with contextlib.suppress(Exception):
                    listener.close()

    def _guarded(self, name: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:
            self.note(_switched_off(name, error))
            return False
        return True


def _deliver(listener: Listener, events: list[tuple[int, Event]]) -> None:
    for at, event in events:
        listener.on_event(at, event)
    listener.tick(time.monotonic())


def _switched_off(name: str, error: Exception) -> str:
    return f"{name}: {type(error).__name__}: {error}; switched off, the run continues without it"
