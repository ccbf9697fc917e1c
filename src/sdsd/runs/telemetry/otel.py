"""OpenTelemetry: spans and metrics by the GenAI semantic conventions, sent by OTLP over HTTP.

Needs the extra `sdsd[otel]`; nothing else imports this module before it is switched on.

Each dialogue is a trace of its own, with a span for each call, and links to the span of the run:
a run of a million calls as one trace is more than any backend takes, and this way a sampler
(`OTEL_TRACES_SAMPLER`) keeps or drops whole dialogues. Events come when an answer is on disk, so
a call's span ends then and starts `Completion.seconds` earlier.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, set_span_in_context

from sdsd.runs.events import Began, Called, Event, Recorded
from sdsd.runs.middleware import Call
from sdsd.runs.telemetry.listener import plain, tokens
from sdsd.text.normalize import valid_unicode
from sdsd.types import Completion, Record, Request

PROVIDER = "openai"
"""`gen_ai.provider.name`: the interface that is spoken, whoever serves it."""
QUEUE = 16_384
"""Spans that may wait for a batch, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise."""
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(4**k for k in range(14))
"""The conventions' bucket bounds."""


class Telemetry:
    """Makes spans and measurements of a run's events. A `Listener`; closes both providers."""

    def __init__(
        self,
        run: str,
        tracers: TracerProvider,
        meters: MeterProvider,
        version: str = "",
        *,
        content: bool = False,
    ) -> None:
        self._run = plain(run)
        self._content = content
        self._providers = (tracers, meters)
        self._tracer = tracers.get_tracer("sdsd", version)
        meter = meters.get_meter("sdsd", version)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._seconds = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._root: Span | None = None
        self._open: dict[int, _Open] = {}
        self._last = 0

    def hear(self, at: int, event: Event) -> None:
        """One event; see `Listener`."""
        self._last = at
        match event:
            case Called(call, answer):
                self._called(at, event.stage, call, answer)
            case Recorded(record):
                self._recorded(at, record)
            case Began(_, n, done, _, protocol):
                about: dict[str, str | int] = {
                    "sdsd.run": self._run,
                    "sdsd.wanted": n,
                    "sdsd.done": done,
                    "sdsd.protocol": protocol,
                }
                self._root = self._tracer.start_span(
                    "run", Context(), attributes=about, start_time=at
                )

    def tick(self, now: float) -> None:
        """Nothing is due: the providers have threads of their own."""

    def close(self) -> None:
        """End what is open, as of the last event, and send everything."""
        for talk in self._open.values():
            talk.span.end(self._last)
        self._open.clear()
        if self._root is not None:
            self._root.end(self._last)
        for provider in self._providers:
            provider.shutdown()

    def _called(self, at: int, stage: str, call: Call, answer: Completion) -> None:
        start = at - int(answer.seconds * 1e9)
        talk = self._talk(call.dialogue, call.scenario, start)
        request, model = call.request, call.asked["model"]
        operation = "chat" if request.messages else "text_completion"
        # A server may call itself something else each time, which would be a new series.
        kind = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": plain(model),
        }
        read, written = tokens(answer.prompt_tokens), tokens(answer.completion_tokens)
        self._seconds.record(answer.seconds, kind)
        self._tokens.record(read, {**kind, "gen_ai.token.type": "input"})
        self._tokens.record(written, {**kind, "gen_ai.token.type": "output"})
        attributes: dict[str, Any] = {
            **kind,
            "gen_ai.conversation.id": call.scenario,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
            "gen_ai.request.seed": call.seed,
            "gen_ai.response.model": plain(answer.model or model),
            "gen_ai.response.finish_reasons": (answer.finish,),
            "gen_ai.usage.input_tokens": read,
            "gen_ai.usage.output_tokens": written,
            "gen_ai.usage.cache_read.input_tokens": tokens(answer.cached_tokens),
            "sdsd.role": request.role,
            "sdsd.stage": stage,
            "sdsd.step": call.step,
        }
        if self._content:
            attributes |= _content(request, answer)
        self._tracer.start_span(
            f"{operation} {kind['gen_ai.request.model']}",
            talk.context,
            SpanKind.CLIENT,
            attributes,
            start_time=start,
        ).end(at)

    def _recorded(self, at: int, record: Record) -> None:
        span = self._talk(record.scenario.index, record.scenario.id, at).span
        del self._open[record.scenario.index]
        span.set_attributes({"sdsd.outcome": record.outcome, "sdsd.rule": record.rule})
        if record.failure is not None:
            # A cause may quote the reply; the step does not.
            said = f": {plain(record.failure.cause)}" if self._content else ""
            span.set_attribute("error.type", "stage_failed")
            span.set_status(StatusCode.ERROR, record.failure.step + said)
        span.end(at)

    def _talk(self, index: int, scenario: str, start: int) -> _Open:
        """The dialogue's open span, started at `start` if it is new."""
        talk = self._open.get(index)
        if talk is None:
            span = self._tracer.start_span(
                "dialogue",
                Context(),
                attributes={
                    "sdsd.run": self._run,
                    "sdsd.dialogue": index,
                    "gen_ai.conversation.id": scenario,
                },
                links=[Link(self._root.get_span_context())] if self._root is not None else (),
                start_time=start,
            )
            talk = self._open[index] = _Open(span, set_span_in_context(span, Context()))
        return talk


class _Open(Struct, frozen=True):
    """A dialogue that is under way: its span, and the context that its calls' spans start in."""

    span: Span
    context: Context


def connect(path: Path, version: str, *, content: bool, note: Callable[[str], None]) -> Telemetry:
    """Send to where the environment's OTEL_* variables say; `note` hears of what does not arrive.

    A signal whose exporter is `none` (OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER) is not sent.
    """
    # What the SDK has to say of failed exports is told once, by the notes. A program that set up
    # logging of its own still gets it all.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        mine = {SERVICE_NAME: "sdsd", "service.version": version}
        resource = resource.merge(Resource(mine))
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
        tracers.add_span_processor(_Batches(_Spans(note), note))
    readers = []
    if os.environ.get("OTEL_METRICS_EXPORTER") != "none":
        readers.append(PeriodicExportingMetricReader(_Measurements(note)))
    meters = MeterProvider(readers, resource, shutdown_on_exit=False)
    return Telemetry(path.absolute().name, tracers, meters, version, content=content)


class _Spans(OTLPSpanExporter):
    """Counts what arrived, and tells of the first batch that did not."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note
        self._told = False
        self.failing = self.closing = False
        self.arrived = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.failing and self.closing:  # trying each batch that waits would hold the run up
            return SpanExportResult.FAILURE
        result = super().export(spans)
        self.failing = result is not SpanExportResult.SUCCESS
        if not self.failing:
            self.arrived += len(spans)
        elif not self._told:
            self._told = True
            self._note(_unreached("spans", "OTEL_TRACES_EXPORTER"))
        return result


class _Batches(BatchSpanProcessor):
    """Counts what is handed in, and tells at the end how much of it was lost."""

    def __init__(self, spans: _Spans, note: Callable[[str], None]) -> None:
        size = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE))
        super().__init__(spans, max_queue_size=size)
        self._spans = spans
        self._note = note
        self._ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._ended += 1
        super().on_end(span)

    def shutdown(self) -> None:
        self._spans.closing = True
        if self._spans.failing:  # ends the wait for the next try too
            self._spans.shutdown()  # type: ignore[no-untyped-call]
        super().shutdown()  # type: ignore[no-untyped-call]
        if lost := self._ended - self._spans.arrived:
            self._note(f"OpenTelemetry: {lost} of {self._ended} spans were lost")


class _Measurements(OTLPMetricExporter):
    """Tells of the first export that did not arrive."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note
        self._told = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        if result is not MetricExportResult.SUCCESS and not self._told:
            self._told = True
            self._note(_unreached("metrics", "OTEL_METRICS_EXPORTER"))
        return result


def _unreached(what: str, switch: str) -> str:
    return (
        f"OpenTelemetry: {what} are not taken; is a collector listening for OTLP over HTTP where "
        f"OTEL_EXPORTER_OTLP_ENDPOINT says? {switch}=none leaves them out. The run goes on"
    )


def _content(request: Request, answer: Completion) -> dict[str, str]:
    """What was said, as the conventions lay it out: JSON in two attributes."""
    asked = [(m.role, m.content) for m in request.messages] or [("user", request.prompt)]
    replied = {**_message("assistant", answer.text), "finish_reason": answer.finish}
    return {
        "gen_ai.input.messages": _json([_message(role, text) for role, text in asked]),
        "gen_ai.output.messages": _json([replied]),
    }


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": valid_unicode(text)}]}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
