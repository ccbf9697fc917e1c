"""Counters of a run for Prometheus: as a text file, and over HTTP if asked for.

Needs the extra `sdsd[metrics]`. The file is meant for node_exporter's textfile collector, which
reads many of them; so every sample has the label `run`, the name of the run's directory. Counters
start at 0 with the process; `sdsd_dialogues` is the state of the run.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sdsd.runs.events import Began, Called, Event, Recorded
from sdsd.runs.telemetry.listener import CallSums, Listener, plain
from sdsd.types import Completion

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
"""Upper bounds of `sdsd_call_seconds`: from a cached verdict to a long turn on a busy server."""
EVERY = 5.0
"""Seconds between two writes of the file."""
SILENCE = 10.0
"""Seconds after which a client that sends nothing is disconnected."""
_BOUNDS = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
_INFO = ("version", "protocol", "concurrency")
_CALL = ("role", "model", "stage")
_Samples = Mapping[tuple[str, ...], float]
"""By label values."""
_SUMS = {
    "calls": "Answers of models.",
    "prompt_tokens": "Prompt tokens.",
    "cached_tokens": "Prompt tokens that the server found in its cache.",
    "completion_tokens": "Completion tokens.",
}


class Metrics(Listener, Collector):
    """Counts a run's events. `MetricsFile` and the HTTP server read when they need to."""

    def __init__(self, run: str, version: str = "") -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._run, self._version = plain(run), version
        self._calls: defaultdict[tuple[str, ...], _Calls] = defaultdict(_Calls)
        self._records: Counter[tuple[str, ...]] = Counter()
        self._info: tuple[str, ...] | None = None
        self._done = self._wanted = self._pairs = self._accepted = 0
        self._server: WSGIServer | None = None

    def on_event(self, at: int, event: Event) -> None:
        if isinstance(event, Called):
            # The model's name is the requested one: what a server calls itself is up to the
            # server, and each new name would be a new series.
            call = event.call
            self._calls[call.request.role, call.asked["model"], event.stage].add(event.answer)
        elif isinstance(event, Recorded):
            pairs = len(event.record.pairs)
            self._done += 1
            self._pairs += pairs
            self._accepted += pairs > 0
            self._records[event.record.outcome, event.record.rule] += 1
        elif isinstance(event, Began):
            self._done, self._wanted = event.done, event.n
            self._info = (self._version, event.protocol, str(event.concurrency))

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def serve(self, port: int, silence: float = SILENCE) -> str:
        """Serve on 127.0.0.1; return the address. 0 takes a free port. Raises `OSError`.

        silence  seconds after which a client that sends nothing is disconnected
        """
        self._server, _ = start_http_server(port, "127.0.0.1", self.registry)
        # A client that disconnects is not worth a traceback on the terminal.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        # One that connects and sends nothing does not hold a thread and a file for ever.
        handler: Any = self._server.RequestHandlerClass
        self._server.RequestHandlerClass = type("Handler", (handler,), {"timeout": silence})
        return f"http://127.0.0.1:{self._server.server_port}/metrics"

    def collect(self) -> Iterator[Metric]:
        """Yield everything counted so far; prometheus_client calls this, on any thread."""
        info: _Samples = {} if self._info is None else {self._info: 1}
        state: _Samples = {("done",): self._done, ("wanted",): self._wanted} if info else {}
        gauge, counter, calls = GaugeMetricFamily, CounterMetricFamily, self._calls.copy()
        yield self._family(gauge, "run_info", "Constant 1.", _INFO, info)
        yield self._family(gauge, "dialogues", "Dialogues of the run.", ("state",), state)
        records, labels = self._records.copy(), ("outcome", "rule")
        yield self._family(counter, "records", "Finished dialogues.", labels, records)
        yield self._family(counter, "verified_pairs", "Verified pairs.", (), {(): self._pairs})
        meaning = "Dialogues with at least one verified pair."
        yield self._family(counter, "accepted_dialogues", meaning, (), {(): self._accepted})
        for name, meaning in _SUMS.items():
            sums = {key: getattr(call, name) for key, call in calls.items()}
            yield self._family(counter, name, meaning, _CALL, sums)
        seconds = HistogramMetricFamily(
            "sdsd_call_seconds", "Time from request to answer.", labels=("run", *_CALL)
        )
        for key, call in calls.items():
            buckets = zip(_BOUNDS, itertools.accumulate(call.buckets), strict=True)
            seconds.add_metric([self._run, *map(plain, key)], list(buckets), call.seconds)
        yield seconds

    def _family(
        self,
        kind: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        meaning: str,
        labels: tuple[str, ...],
        samples: _Samples,
    ) -> Metric:
        family = kind(f"sdsd_{name}", meaning, labels=("run", *labels))
        for key, value in samples.items():
            family.add_metric([self._run, *map(plain, key)], value)
        return family


class MetricsFile(Listener):
    """Writes metrics to a text file every few seconds; raises `OSError`."""

    def __init__(self, metrics: Metrics, path: Path) -> None:
        self._metrics, self._path = metrics, path
        self._written = float("-inf")

    def tick(self, now: float) -> None:
        """Write the file if the last version is old enough."""
        if now - self._written >= EVERY:
            self._written = now
            self.close()

    def close(self) -> None:
        write_to_textfile(str(self._path), self._metrics.registry)


class _Calls(CallSums):
    """Sums over the calls of one role, model and stage."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def add(self, answer: Completion) -> None:
        super().add(answer)
        self.seconds += answer.seconds
        self.buckets[bisect_left(BUCKETS, answer.seconds)] += 1
