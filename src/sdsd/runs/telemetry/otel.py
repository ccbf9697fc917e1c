"""OpenTelemetry spans and metrics by the GenAI semantic conventions, sent by OTLP over HTTP.

Needs the extra `sdsd[otel]`, and is imported only when it is switched on.

Each dialogue is a trace with a span per call, linked to the span of the run: a run of a million
calls as one trace is more than any backend accepts, and this way a sampler (`OTEL_TRACES_SAMPLER`)
keeps or drops whole dialogues. Events are emitted when an answer is on disk, so a call's span ends
then, and starts `Completion.seconds` earlier.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, set_span_in_context

from sdsd.runs.events import Began, Called, Event, Recorded
from sdsd.runs.telemetry.listener import Listener, plain, tokens
from sdsd.text.normalize import encodable
from sdsd.types import Completion, Record, Request

PROVIDER = "openai"
"""`gen_ai.provider.name`: the API that is used, whoever serves it."""
QUEUE = 16_384
"""Spans that may wait to be sent, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise."""
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(4**k for k in range(14))
"""Bucket bounds, as the conventions recommend them."""


class Telemetry(Listener):
    """Turns a run's events into spans and measurements, which the SDK's own threads send."""

    def __init__(
        self,
        run: str,
        tracers: TracerProvider,
        meters: MeterProvider,
        version: str = "",
        *,
        content: bool = False,
        exporter: _Exporter | None = None,
    ) -> None:
        """`content` also sends prompts and replies; `exporter` is that of the spans, if any."""
        self._run = plain(run)
        self._content = content
        self._providers = (tracers, meters)
        self._exporter = exporter
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
        self._dialogues: dict[int, _Dialogue] = {}
        self._last = 0
        self._ended = 0

    def on_event(self, at: int, event: Event) -> None:
        self._last = at
        if isinstance(event, Called):
            self._called(at, event)
        elif isinstance(event, Recorded):
            self._recorded(at, event.record)
        elif isinstance(event, Began):
            attributes: dict[str, str | int] = {
                "sdsd.run": self._run,
                "sdsd.wanted": event.n,
                "sdsd.done": event.done,
                "sdsd.protocol": event.protocol,
            }
            self._root = self._tracer.start_span(
                "run", Context(), attributes=attributes, start_time=at
            )

    def close(self) -> None:
        """End open spans as of the last event, and send everything."""
        for dialogue in self._dialogues.values():
            self._end(dialogue.span, self._last)
        self._dialogues.clear()
        if self._root is not None:
            self._end(self._root, self._last)
        if self._exporter is not None:
            self._exporter.stop_retrying()
        for provider in self._providers:
            provider.shutdown()
        if self._exporter is not None:
            self._exporter.note_lost(self._ended)

    def _called(self, at: int, event: Called) -> None:
        call, answer = event.call, event.answer
        start = at - int(answer.seconds * 1e9)
        dialogue = self._dialogue(call.dialogue, call.scenario, start)
        request, model = call.request, call.asked["model"]
        operation = "chat" if request.messages else "text_completion"
        # The requested model: a server may report another name each time, a new series.
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
            "sdsd.stage": event.stage,
            "sdsd.step": call.step,
        }
        if self._content:
            attributes |= _content(request, answer)
        name = f"{operation} {kind['gen_ai.request.model']}"
        span = self._tracer.start_span(
            name, dialogue.context, SpanKind.CLIENT, attributes, start_time=start
        )
        self._end(span, at)

    def _recorded(self, at: int, record: Record) -> None:
        span = self._dialogue(record.scenario.index, record.scenario.id, at).span
        del self._dialogues[record.scenario.index]
        span.set_attributes({"sdsd.outcome": record.outcome, "sdsd.rule": record.rule})
        if record.failure is not None:
            # A cause may quote the reply; the step does not.
            cause = f": {plain(record.failure.cause)}" if self._content else ""
            span.set_attribute("error.type", "stage_failed")
            span.set_status(StatusCode.ERROR, record.failure.step + cause)
        self._end(span, at)

    def _dialogue(self, index: int, scenario: str, start: int) -> _Dialogue:
        """Return the dialogue's open span, started at `start` if it is new."""
        dialogue = self._dialogues.get(index)
        if dialogue is None:
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
            dialogue = _Dialogue(span, set_span_in_context(span, Context()))
            self._dialogues[index] = dialogue
        return dialogue

    def _end(self, span: Span, at: int) -> None:
        self._ended += span.get_span_context().trace_flags.sampled
        span.end(at)


class _Dialogue(Struct, frozen=True):
    """The open span of a dialogue, and the context that its calls' spans start in."""

    span: Span
    context: Context


def connect(path: Path, version: str, *, content: bool, note: Callable[[str], None]) -> Telemetry:
    """Send to where the OTEL_* environment variables say; note what does not arrive.

    A signal whose exporter is `none` (OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER) is not sent.
    """
    # The SDK's own messages about failed exports are replaced by one note. A program that has set
    # up logging still gets them.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        mine = {SERVICE_NAME: "sdsd", "service.version": version}
        resource = resource.merge(Resource(mine))
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    spans: Any = None  # `Any`: by delegation it has what the SDK calls of an exporter
    if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
        spans = _Exporter(OTLPSpanExporter(), "spans", "OTEL_TRACES_EXPORTER", note)
        size = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE))
        tracers.add_span_processor(BatchSpanProcessor(spans, max_queue_size=size))
    readers = []
    if os.environ.get("OTEL_METRICS_EXPORTER") != "none":
        metrics: Any = _Exporter(OTLPMetricExporter(), "metrics", "OTEL_METRICS_EXPORTER", note)
        readers.append(PeriodicExportingMetricReader(metrics))
    meters = MeterProvider(readers, resource, shutdown_on_exit=False)
    name = path.absolute().name
    return Telemetry(name, tracers, meters, version, content=content, exporter=spans)


class _Exporter:
    """An SDK exporter that notes its first failure and counts the spans that arrive."""

    def __init__(self, exporter: Any, what: str, switch: str, note: Callable[[str], None]) -> None:
        self._exporter = exporter
        self._what, self._switch, self._note = what, switch, note
        self._arrived = 0
        self._failure: Any = None
        """The last export's result, if it failed."""
        self._noted = self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)

    def export(self, batch: Any, *args: Any, **keywords: Any) -> Any:
        if self._failure is not None and self._closing:
            return self._failure
        result = self._exporter.export(batch, *args, **keywords)
        self._failure = None if result.name == "SUCCESS" else result
        if self._failure is None:
            self._arrived += len(batch) if self._what == "spans" else 0
        elif not self._noted:
            self._noted = True
            self._note(
                f"OpenTelemetry: {self._what} are not accepted; is a collector listening for OTLP "
                "over HTTP at OTEL_EXPORTER_OTLP_ENDPOINT? "
                f"{self._switch}=none switches them off. The run continues"
            )
        return result

    def stop_retrying(self) -> None:
        """Keep a dead collector from delaying the end of the run."""
        self._closing = True
        if self._failure is not None:
            self._exporter.shutdown()  # ends the wait for the next retry

    def note_lost(self, ended: int) -> None:
        """Note how many of `ended` spans did not arrive."""
        if lost := ended - self._arrived:
            self._note(f"OpenTelemetry: {lost} of {ended} spans were lost")


def _content(request: Request, answer: Completion) -> dict[str, str]:
    """Return prompt and reply as the conventions lay them out: JSON in two attributes."""
    asked = [(m.role, m.content) for m in request.messages] or [("user", request.prompt)]
    replied = {**_message("assistant", answer.text), "finish_reason": answer.finish}
    return {
        "gen_ai.input.messages": _json([_message(role, text) for role, text in asked]),
        "gen_ai.output.messages": _json([replied]),
    }


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": encodable(text)}]}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
