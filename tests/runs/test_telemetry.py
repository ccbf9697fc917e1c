"""What a run tells while it goes on: the log, Prometheus' metrics, OpenTelemetry, and that none of
them can hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import generate_latest

from sdsd import run
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Began, Called, Event, Noted, Recorded
from sdsd.runs.journal import Journal, fingerprint
from sdsd.runs.middleware import Call
from sdsd.runs.telemetry import BACKLOG, CONTENT, Dispatcher, listeners
from sdsd.runs.telemetry.listener import Listener
from sdsd.runs.telemetry.prometheus import Metrics, MetricsFile
from sdsd.runs.telemetry.runlog import RunLog
from sdsd.types import (
    Candidate,
    Completion,
    Critique,
    Failure,
    Goal,
    Message,
    Record,
    Request,
    Revision,
    Scenario,
    StageUsage,
)
from tests.stand_ins.collector import collector

SECOND = 10**9
AT = 1_800_000_000 * SECOND
CHAT = Request("critic", 64, (Message("system", "secret brief"), Message("user", "secret ask")))
RAW = Request("agent", 32, prompt="secret prompt", temperature=0.8, top_p=0.9)
ANSWER = Completion("secret reply", "stop", "tiny-v2", 100, 60, 20, 0.5)
ENV = {"PYTHONPATH": os.pathsep.join(sys.path)}
"""For other interpreters: the same packages, and nothing else of this environment."""
HOSTILE = 'a "quote" \\ back\nslash \x1b[31m\u2028 \x9b \ud800 {}'


def called(
    request: Request = CHAT,
    answer: Completion = ANSWER,
    step: str = "critique/1",
    dialogue: int = 0,
) -> Called:
    scenario = f"s-{dialogue}"
    return Called(Call(scenario, step, request, 7, fingerprint(request, "tiny"), dialogue), answer)


def recorded(index: int = 0, **changes: Any) -> Recorded:
    goal = Goal("g", "kind", "text")
    scenario = Scenario(f"s-{index}", index, "field", "domain", "subarea", goal, (), 2)
    use = {"plan": StageUsage(1, 100, 60, 20, 0.5), "turn": StageUsage(2, 10, 0, 4, 0.25)}
    made = Record(scenario, "accepted", revisions=(Revision("better"),), usage=use)
    return Recorded(replace(made, **changes))


def failed(cause: str) -> Recorded:
    return recorded(0, outcome="failed", failure=Failure("plan/1", cause, "raw secret"))


BEGAN = Began(Path("runs/x"), 5, 2, 4, "roleplay")
FILTERED = recorded(1, outcome="filtered", rule="no_violation", revisions=())
THREE_PAIRS = recorded(2, candidates=(Candidate("a", Critique(())), Candidate("b", Critique(()))))


def heard(listener: Any, *events: Event) -> None:
    for number, event in enumerate(events):
        listener.on_event(AT + number * SECOND, event)


def lines(path: Path) -> list[dict[str, Any]]:
    """The log, read by a parser that takes nothing but JSON, one value a line."""
    data = path.read_bytes()
    assert data.isascii()
    assert data.endswith(b"\n")
    return [msgspec.json.decode(line) for line in data.split(b"\n")[:-1]]


# -- the log -------------------------------------------------------------------------------


def test_log_says_what_was_done_and_what_it_cost(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "logs" / "run.jsonl", "1.2")
    log.tick(100.0)
    heard(log, BEGAN, called(), called(RAW, dialogue=3), recorded(), FILTERED, Noted("hello"))
    log.tick(110.0)
    log.close()
    began, record, filtered, note, summary = lines(tmp_path / "logs" / "run.jsonl")
    assert began["time"] == "2027-01-15T08:00:00.000Z"
    assert began["sdsd"] == "1.2"
    assert {k: began[k] for k in ("event", "path", "n", "done", "concurrency", "protocol")} == {
        "event": "began", "path": "runs/x", "n": 5, "done": 2, "concurrency": 4,
        "protocol": "roleplay",
    }  # fmt: skip
    assert {k: v for k, v in record.items() if k != "time"} == {
        "event": "record", "index": 0, "id": "s-0", "outcome": "accepted", "rule": "", "pairs": 1,
        "failure": None, "seconds": 0.75,
        "stages": {
            "plan": {"calls": 1, "prompt_tokens": 100, "cached_tokens": 60,
                     "completion_tokens": 20, "reasoning_tokens": 0, "seconds": 0.5},
            "turn": {"calls": 2, "prompt_tokens": 10, "cached_tokens": 0,
                     "completion_tokens": 4, "reasoning_tokens": 0, "seconds": 0.25},
        },
    }  # fmt: skip
    assert (filtered["outcome"], filtered["rule"]) == ("filtered", "no_violation")
    assert (note["event"], note["text"]) == ("note", "hello")
    assert {k: v for k, v in summary.items() if k != "time"} == {
        "event": "summary", "seconds": 10.0, "calls": 2, "prompt_tokens": 200,
        "cached_tokens": 120, "completion_tokens": 40, "tokens_per_second": 4.0,
        "open": 1, "done": 4, "wanted": 5,
    }  # fmt: skip


def test_log_names_the_cause_and_never_what_was_said(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    heard(log, called(), called(RAW, step="turn/2/agent", dialogue=3), failed("no STEP line"))
    log.close()
    record, summary = lines(tmp_path / "run.jsonl")
    assert record["failure"] == {"step": "plan/1", "cause": "no STEP line"}
    assert summary["calls"] == 2
    assert "secret" not in (tmp_path / "run.jsonl").read_text()


def test_log_is_json_whatever_is_said(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    heard(log, Noted(HOSTILE), failed(HOSTILE), Noted("x" * 1_000_000))
    log.close()
    note, record, long, _ = lines(tmp_path / "run.jsonl")
    assert note["text"] == record["failure"]["cause"] == HOSTILE.replace("\ud800", "�")
    assert len(long["text"]) == 4096


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_stays_one_line_of_json(text: str) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        log = RunLog(Path(folder) / "run.jsonl")
        heard(log, Noted(text))
        log.close()
        assert len(lines(Path(folder) / "run.jsonl")) == 2


def test_log_sums_up_once_a_minute(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    for now in (1000.0, 1059.9, 1060.0, 1061.0, 1119.0, 1120.5):
        heard(log, called())
        log.tick(now)
    first, second = lines(tmp_path / "run.jsonl")
    assert (first["calls"], first["seconds"]) == (3, 60.0)
    assert (second["calls"], second["seconds"]) == (3, 60.5)
    log.close()


def test_log_goes_on_where_a_crash_cut_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"event":"note"}\n{"event":"no')
    log = RunLog(path)
    heard(log, Noted("again"))
    log.close()
    whole, torn, note, _ = path.read_bytes().splitlines()
    assert (whole, torn) == (b'{"event":"note"}', b'{"event":"no')
    assert json.loads(note)["text"] == "again"


def test_log_rotates_and_stays_bounded(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl", limit=1000, keep=2)
    for number in range(100):
        heard(log, Noted(f"note {number} {'x' * 100}"))
        log.tick(float(number))
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.jsonl", "run.jsonl.1", "run.jsonl.2"]
    assert all(p.stat().st_size <= 1000 for p in tmp_path.iterdir())
    said = [
        line["text"].split()[1]
        for name in ("run.jsonl.2", "run.jsonl.1", "run.jsonl")
        for line in lines(tmp_path / name)
        if line["event"] == "note"
    ]
    assert said == [str(k) for k in range(100 - len(said), 100)]  # the newest, in order, no gap
    assert len(said) > 10


def test_log_counts_what_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_bytes(b"x" * 998 + b"\n")
    log = RunLog(tmp_path / "run.jsonl", limit=1000, keep=1)
    log.close()
    assert (tmp_path / "run.jsonl.1").stat().st_size == 999


# -- Prometheus ----------------------------------------------------------------------------

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """The exposition format, strictly: anything that is not in its grammar is an error."""
    found: Samples = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    family = ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# "):
            _, keyword, name, rest = line.split(" ", 3)
            assert keyword in ("HELP", "TYPE")
            if keyword == "HELP":
                assert name not in kinds  # a family stands in one place
                kinds[name], family = "", name
            else:
                assert name == family
                assert kinds[name] == ""
                kinds[name] = rest
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        name, inside, value = match.groups()
        assert name in [family + suffix for suffix in _SUFFIXES[kinds[family]]], line
        labels: dict[str, str] = {}
        end = 0
        for label in _LABEL.finditer(inside or ""):
            assert label.start() == end, line
            end = label.end()
            assert label[1] not in labels
            labels[label[1]] = re.sub(
                r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2], flags=re.S
            )
        assert end == len(inside or ""), line
        key = (name, frozenset(labels.items()))
        assert key not in found, line
        found[key] = float(value)
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """The one sample of that name that has at least these labels."""
    (found,) = [v for (n, has), v in samples.items() if n == name and has >= set(labels.items())]
    return found


def rendered(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_metrics_count_by_role_model_and_stage() -> None:
    metrics = Metrics("x", "1.2")
    turn = called(RAW, step="turn/1/agent")
    heard(metrics, BEGAN, called(), called(), turn, recorded(), FILTERED, failed("no"))
    samples = parsed(rendered(metrics))
    critic = {"run": "x", "role": "critic", "model": "tiny", "stage": "critique"}
    assert value(samples, "sdsd_calls_total", **critic) == 2
    assert value(samples, "sdsd_calls_total", role="agent", stage="turn") == 1
    assert value(samples, "sdsd_prompt_tokens_total", **critic) == 200
    assert value(samples, "sdsd_cached_tokens_total", **critic) == 120
    assert value(samples, "sdsd_completion_tokens_total", **critic) == 40
    assert value(samples, "sdsd_records_total", outcome="accepted", rule="") == 1
    assert value(samples, "sdsd_records_total", outcome="filtered", rule="no_violation") == 1
    assert value(samples, "sdsd_records_total", outcome="failed") == 1
    assert value(samples, "sdsd_verified_pairs_total") == 1
    assert value(samples, "sdsd_dialogues", state="wanted") == 5
    assert value(samples, "sdsd_dialogues", state="done") == 2 + 3
    assert value(samples, "sdsd_run_info", protocol="roleplay", concurrency="4", version="1.2") == 1


def test_pairs_and_the_dialogues_that_have_some_are_two_metrics() -> None:
    metrics = Metrics("x")
    heard(metrics, recorded(), THREE_PAIRS, FILTERED)
    samples = parsed(rendered(metrics))
    assert value(samples, "sdsd_verified_pairs_total") == 1 + 3
    assert value(samples, "sdsd_accepted_dialogues_total") == 2


def test_metrics_of_nothing_are_well_formed() -> None:
    samples = parsed(rendered(Metrics("x")))
    assert value(samples, "sdsd_verified_pairs_total") == 0
    assert not [name for name, _ in samples if name == "sdsd_dialogues"]  # not a run of none


def test_histogram_is_cumulative_and_its_bounds_belong_to_it() -> None:
    metrics = Metrics("x")
    times = (0.01, 0.05, 0.051, 0.1, 20.0, 1000.0)
    heard(metrics, *(called(answer=replace(ANSWER, seconds=s)) for s in times))
    samples = parsed(rendered(metrics))
    bounds = ("0.05", "0.1", "0.25", "10", "20", "320", "+Inf")
    below = [value(samples, "sdsd_call_seconds_bucket", le=bound) for bound in bounds]
    assert below == [2, 4, 4, 4, 5, 5, 6]
    assert value(samples, "sdsd_call_seconds_count") == 6
    assert value(samples, "sdsd_call_seconds_sum") == pytest.approx(sum(times))


def test_a_server_can_neither_turn_counters_back_nor_make_series() -> None:
    metrics = Metrics("x")
    odd = [
        replace(ANSWER, model=f"m{k}", prompt_tokens=-5, completion_tokens=2**80) for k in (1, 2)
    ]
    heard(metrics, *(called(answer=answer) for answer in odd))
    samples = parsed(rendered(metrics))
    assert value(samples, "sdsd_calls_total") == 2
    assert value(samples, "sdsd_prompt_tokens_total") == 0
    assert value(samples, "sdsd_completion_tokens_total") == float(2**64)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
@example('a\\b"c\nd')
def test_any_name_survives_as_a_label(name: str) -> None:
    request = replace(called().call, asked=fingerprint(CHAT, name))
    metrics = Metrics(name)
    heard(metrics, Called(request, ANSWER))
    text = rendered(metrics).encode().decode()
    assert value(parsed(text), "sdsd_calls_total", run=name, model=name) == 1


def test_file_is_whole_and_written_at_most_every_five_seconds(tmp_path: Path) -> None:
    metrics, path = Metrics("x"), tmp_path / "metrics.prom"
    file = MetricsFile(metrics, path)
    seen = []
    for now in (10.0, 14.9, 15.0, 19.9):
        heard(metrics, recorded())
        file.tick(now)
        seen.append(value(parsed(path.read_text()), "sdsd_verified_pairs_total"))
    file.close()
    seen.append(value(parsed(path.read_text()), "sdsd_verified_pairs_total"))
    assert seen == [1, 1, 3, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.prom"]


async def asked(port: int, request: bytes) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of one answer over a real socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    try:
        data = await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        data = b""
    writer.close()
    head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    return first, dict(line.split(": ", 1) for line in rest), body


async def test_endpoint_answers_a_scrape_and_outlives_nonsense(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = Metrics("x")
    heard(metrics, recorded())
    port = int(metrics.serve(0, silence=0.5).removesuffix("/metrics").rpartition(":")[2])
    get = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    status, headers, body = await asked(port, get)
    assert status.endswith("200 OK")
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert value(parsed(body), "sdsd_verified_pairs_total") == 1
    assert "405" in (await asked(port, get.replace(b"GET", b"POST")))[0]
    await asked(port, b"\xff\xfe\r\n\r\n")
    await asked(port, b"x" * 100_000)
    with socket.create_connection(("127.0.0.1", port)) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        rude.sendall(get[:20])  # and a reset
    assert "200" in (await asked(port, get))[0]
    with contextlib.ExitStack() as stack:  # half-open: they connect, and no more is heard of them
        half = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in "half"]
        half[0].sendall(get[:20])
        assert "200" in (await asked(port, get))[0]
        for connection in half:
            connection.settimeout(5)
            assert await asyncio.to_thread(connection.recv, 100) in (b"", b"HTTP/1.0 408")
    metrics.close()
    assert capsys.readouterr().err == ""
    with pytest.raises(OSError, match="Connect call failed"):
        await asked(port, get)


# -- all together --------------------------------------------------------------------------


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Noted)]


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold before a test that hangs would be given up."""
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def test_a_whole_run_is_logged_and_counted(tmp_path: Path) -> None:
    path, events = tmp_path / "x", list[Event]()
    RunDir(path).path.mkdir()
    with listeners(tmp_path, events.append) as tell:
        result = run(n=12, out=path, on_event=tell, models={"default": ScriptedModel()})
    with Journal(RunDir(path).journal, readonly=True) as journal:
        records = list(journal.records())
    log = lines(tmp_path / "logs" / "run.jsonl")
    kinds = Counter(line["event"] for line in log)
    assert (kinds["began"], kinds["record"]) == (1, len(result))
    assert {line["index"] for line in log if line["event"] == "record"} == set(range(12))
    assert sum(isinstance(event, Recorded) for event in events) == 12  # it was told all the same
    samples = parsed((tmp_path / "metrics.prom").read_text())
    for name in ("calls", "prompt_tokens", "completion_tokens"):
        counted = sum(v for (n, _), v in samples.items() if n == f"sdsd_{name}_total")
        spent = sum(getattr(use, name) for record in records for use in record.usage.values())
        assert counted == spent == sum(line[name] for line in log if line["event"] == "summary")
    assert value(samples, "sdsd_verified_pairs_total") == sum(len(r.pairs) for r in records)
    assert value(samples, "sdsd_accepted_dialogues_total") == sum(bool(r.pairs) for r in records)
    assert value(samples, "sdsd_dialogues", state="done") == 12


def test_lines_are_on_disk_within_a_second(tmp_path: Path) -> None:
    with listeners(tmp_path, lambda event: None) as tell:
        tell(Noted("now"))
        assert soon(lambda: b'"now"' in (tmp_path / "logs" / "run.jsonl").read_bytes())


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run.jsonl").symlink_to("/dev/full")
    events = list[Event]()
    with listeners(tmp_path, events.append) as tell:

        def told() -> bool:
            tell(FILTERED)
            return bool(texts(events))

        assert soon(told)
        tell(recorded())
    (said,) = texts(events)
    assert "logs/run.jsonl" in said
    assert "No space left" in said
    assert "the run continues" in said
    assert events[-1] == recorded()
    assert value(parsed((tmp_path / "metrics.prom").read_text()), "sdsd_verified_pairs_total") == 1


def test_what_cannot_be_opened_is_left_out_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    events = list[Event]()
    with listeners(tmp_path, events.append) as tell:
        tell(recorded())
    assert len(texts(events)) == 1
    assert "logs/run.jsonl" in texts(events)[0]
    assert (tmp_path / "metrics.prom").exists()


class Broken(Listener):
    """Raises where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.closed = 0

    def _at(self, where: str) -> None:
        if where == self.where:
            raise ValueError(f"broken at {where}")

    def on_event(self, at: int, event: Event) -> None:
        self._at("on_event")

    def tick(self, now: float) -> None:
        self._at("tick")

    def close(self) -> None:
        self.closed += 1
        self._at("close")


class Hears(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.threads: set[int] = set()

    def on_event(self, at: int, event: Event) -> None:
        self.heard.append(event)
        self.threads.add(threading.get_ident())


@pytest.mark.parametrize("where", ["on_event", "tick", "close"])
def test_a_listener_that_raises_is_switched_off_with_one_note(where: str) -> None:
    events, broken, hears = list[Event](), Broken(where), Hears()
    fan = Dispatcher(events.append)
    fan.add("broken", lambda: broken)
    fan.add("hears", lambda: hears)
    fan.start()
    for number in range(10):
        fan(called(dialogue=number))
    fan.close()
    assert len(texts(events)) == 1
    assert f"broken: ValueError: broken at {where}; switched off" in texts(events)[0]
    assert broken.closed == 1
    assert [e.call.dialogue for e in hears.heard if isinstance(e, Called)] == list(range(10))
    assert texts(hears.heard) == texts(events)  # the others hear of it


def test_more_events_than_can_wait_are_counted_and_left_out() -> None:
    events, hears = list[Event](), Hears()
    fan = Dispatcher(events.append)
    fan.add("hears", lambda: hears)
    for _ in range(BACKLOG + 5):
        fan(FILTERED)
    fan.start()
    fan.close()
    assert len(events) == BACKLOG + 5 + 1  # whoever started the run has heard all of it
    assert sum(isinstance(event, Recorded) for event in hears.heard) == BACKLOG
    assert texts(events) == ["5 events came too fast and are missing in logs and metrics"]


def test_the_callers_own_callback_is_called_in_its_thread_and_may_raise() -> None:
    threads, hears = set[int](), Hears()

    def tell(event: Event) -> None:
        threads.add(threading.get_ident())
        if isinstance(event, Began):
            raise KeyError("mine")

    fan = Dispatcher(tell)
    fan.add("hears", lambda: hears)
    fan.start()
    fan.note("from elsewhere")
    with pytest.raises(KeyError, match="mine"):
        fan(BEGAN)
    fan.close()
    assert threads == {threading.get_ident()}
    assert threads.isdisjoint(hears.threads)
    assert [type(event) for event in hears.heard] == [Noted, Began]


def test_it_closes_when_the_run_raises(tmp_path: Path) -> None:
    def work() -> None:
        with listeners(tmp_path, lambda event: None) as tell:
            tell(recorded())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    log = lines(tmp_path / "logs" / "run.jsonl")
    assert [line["event"] for line in log] == ["record", "summary"]
    assert not [t for t in threading.enumerate() if t.name == "telemetry"]


@pytest.mark.e2e
async def test_endpoint_of_a_run_and_a_port_that_is_taken(tmp_path: Path) -> None:
    first, second = list[Event](), list[Event]()
    with listeners(tmp_path, first.append, port=0) as tell:
        tell(recorded())
        (said,) = texts(first)
        port = int(said.removesuffix("/metrics").rpartition(":")[2])
        with listeners(tmp_path, second.append, port=port):
            pass
        assert "metrics endpoint" in texts(second)[0]
        assert "another port" in texts(second)[0]
        await asyncio.sleep(0.3)
        _, _, body = await asked(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert value(parsed(body), "sdsd_verified_pairs_total") == 1


# -- OpenTelemetry -------------------------------------------------------------------------

OTLP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def recorded_spans(*events: Event, content: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """The spans and, by name, the metrics that the events give, through the SDK."""
    pytest.importorskip(OTLP)
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from sdsd.runs.telemetry.otel import Telemetry

    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = Telemetry("x", tracers, meters, content=content)
    heard(telemetry, *events)
    data: Any = reader.get_metrics_data()
    telemetry.close()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else []
    return list(spans.get_finished_spans()), {metric.name: metric for metric in metrics}


def test_spans_of_run_dialogue_and_call() -> None:
    raw = called(RAW, replace(ANSWER, finish="length", seconds=2.0), "turn/1/agent", 1)
    spans, _ = recorded_spans(BEGAN, called(), raw, called(), recorded(), called(dialogue=2))
    first, second, third, done, fourth, *rest = spans
    assert [s.name for s in (first, second, third, fourth)] == [
        "chat tiny", "text_completion tiny", "chat tiny", "chat tiny"
    ]  # fmt: skip
    *unfinished, root = rest
    assert [s.name for s in (done, *unfinished, root)] == ["dialogue"] * 3 + ["run"]
    assert first.parent.span_id == third.parent.span_id == done.context.span_id
    assert first.context.trace_id == done.context.trace_id != root.context.trace_id
    assert second.context.trace_id != first.context.trace_id
    assert done.links[0].context.span_id == root.context.span_id
    assert (first.start_time, first.end_time) == (AT + SECOND // 2, AT + SECOND)
    assert (second.start_time, second.end_time) == (AT, AT + 2 * SECOND)
    assert (done.start_time, done.end_time) == (AT + SECOND // 2, AT + 4 * SECOND)
    assert (root.start_time, root.end_time) == (AT, AT + 5 * SECOND)
    assert done.attributes["sdsd.outcome"] == "accepted"
    assert all("sdsd.outcome" not in span.attributes for span in unfinished)
    assert root.attributes["sdsd.wanted"] == 5


def test_attributes_are_those_of_the_conventions() -> None:
    (span, _), _ = recorded_spans(called(RAW, ANSWER, "turn/1/agent"))
    assert span.kind.name == "CLIENT"
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny-v2",
        "gen_ai.conversation.id": "s-0",
        "gen_ai.request.max_tokens": 32,
        "gen_ai.request.temperature": 0.8,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "sdsd.role": "agent",
        "sdsd.stage": "turn",
        "sdsd.step": "turn/1/agent",
    }


def test_nothing_that_was_said_leaves_unless_asked() -> None:
    events = (BEGAN, called(), called(RAW), failed("neither yes nor no: 'secret'"))
    quiet, _ = recorded_spans(*events)
    assert "secret" not in "".join(span.to_json() for span in quiet)
    assert quiet[2].status.description == "plan/1"
    assert not quiet[2].status.is_ok
    chat, raw, talk, _ = recorded_spans(*events, content=True)[0]
    assert json.loads(chat.attributes["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "secret brief"}]},
        {"role": "user", "parts": [{"type": "text", "content": "secret ask"}]},
    ]
    (asked_for,) = json.loads(raw.attributes["gen_ai.input.messages"])
    assert asked_for["parts"][0]["content"] == "secret prompt"
    (replied,) = json.loads(raw.attributes["gen_ai.output.messages"])
    assert replied == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "secret reply"}],
        "finish_reason": "stop",
    }
    assert "secret" in talk.status.description


def test_measurements_are_those_of_the_conventions() -> None:
    _, metrics = recorded_spans(called(), called(), called(RAW))
    usage, duration = (
        metrics["gen_ai.client.token.usage"],
        metrics["gen_ai.client.operation.duration"],
    )
    assert (usage.unit, duration.unit) == ("{token}", "s")
    points = {
        (p.attributes["gen_ai.operation.name"], p.attributes["gen_ai.token.type"]): (p.count, p.sum)
        for p in usage.data.data_points
    }
    assert points == {
        ("chat", "input"): (2, 200), ("chat", "output"): (2, 40),
        ("text_completion", "input"): (1, 100), ("text_completion", "output"): (1, 20),
    }  # fmt: skip
    chat = next(p for p in duration.data.data_points if p.count == 2)
    assert dict(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "tiny",
    }
    assert chat.explicit_bounds[0] == 0.01
    assert usage.data.data_points[0].explicit_bounds[:3] == (1, 4, 16)


def test_spans_and_metrics_arrive_over_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(OTLP)
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    events = list[Event]()
    odd = replace(ANSWER, model=HOSTILE, text=HOSTILE, prompt_tokens=2**80, completion_tokens=-1)
    with collector() as (url, posts):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv(CONTENT, "true")
        with listeners(tmp_path, events.append, version="1.2") as tell:
            for event in (BEGAN, called(answer=odd), failed(HOSTILE)):
                tell(event)
    assert texts(events) == []
    assert {kind for _, kind, _ in posts} == {"application/x-protobuf"}
    bodies: dict[str, Any] = {path: body for path, _, body in posts}
    sent = ExportTraceServiceRequest.FromString(bodies["/v1/traces"]).resource_spans[0]
    service = {a.key: a.value.string_value for a in sent.resource.attributes}
    assert (service["service.name"], service["service.version"]) == ("sdsd", "1.2")
    names = [span.name for span in sent.scope_spans[0].spans]
    assert names == ["chat tiny", "dialogue", "run"]
    attributes = {a.key: a.value for a in sent.scope_spans[0].spans[0].attributes}
    assert attributes["gen_ai.response.model"].string_value == HOSTILE.replace("\ud800", "�")
    assert attributes["gen_ai.usage.input_tokens"].int_value == 2**63 - 1
    measured = ExportMetricsServiceRequest.FromString(bodies["/v1/metrics"]).resource_metrics[0]
    assert {m.name for m in measured.scope_metrics[0].metrics} == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
    }


def test_a_collector_that_refuses_is_told_once_with_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(OTLP)
    events = list[Event]()
    with collector(status=404) as (url, posts):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        with listeners(tmp_path, events.append) as tell:
            for index in range(3):
                tell(called(dialogue=index))
                tell(recorded(index))
    assert {path for path, _, _ in posts} == {"/v1/traces"}
    first, last = texts(events)
    assert "spans are not accepted" in first
    assert "OTEL_TRACES_EXPORTER=none" in first
    assert last == "OpenTelemetry: 6 of 6 spans were lost"
    logged = [line["text"] for line in lines(tmp_path / "logs" / "run.jsonl") if "text" in line]
    assert logged == [first, last]


def test_a_sampler_leaves_dialogues_out_and_nothing_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(OTLP)
    events = list[Event]()
    with collector() as (url, posts):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        with listeners(tmp_path, events.append) as tell:
            tell(called())
            tell(recorded())
    assert texts(events) == []
    assert {path for path, _, _ in posts} == {"/v1/metrics"}


def test_settings_that_the_sdk_refuses_are_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(OTLP)
    events = list[Event]()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    with listeners(tmp_path, events.append) as tell:
        tell(recorded())
    assert len(texts(events)) == 1
    assert "OpenTelemetry: ValueError" in texts(events)[0]


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from pathlib import Path\n"
        "from sdsd.runs.telemetry import listeners\n"
        "with listeners(Path(sys.argv[1]), lambda event: print(event.text)): pass\n"
    )
    environment = ENV | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.count("\n") == 1
    assert 'pip install "sdsd[otel]"' in said


@pytest.mark.parametrize("port", [None, 0])
def test_metrics_without_their_extra_are_a_note_if_asked_for(
    tmp_path: Path, port: int | None
) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from pathlib import Path\n"
        "from sdsd.runs.telemetry import listeners\n"
        f"with listeners(Path(sys.argv[1]), lambda event: print(event.text), {port}): pass\n"
    )
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path],
        env=ENV, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.count("\n") == (port is not None)
    if port is not None:
        assert "`telemetry.port` is set" in said
        assert 'pip install "sdsd[metrics]"' in said
    assert not (tmp_path / "metrics.prom").exists()
    assert (tmp_path / "logs" / "run.jsonl").exists()


def test_nothing_of_opentelemetry_is_loaded_unless_it_is_switched_on(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sdsd.runs.telemetry import listeners\n"
        "with listeners(Path(sys.argv[1]), print): pass\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=ENV, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said == "[]\n"
