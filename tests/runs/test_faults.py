"""Servers that fail in every way they can, and runs that lose nothing by it.

Whole runs against `bench/simulator.py` over real sockets; `bench/faults.py` holds what they leave
behind against the server's log, and prints the same matrix for larger runs.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

import sdsd
from faults import (
    DENIALS,
    ENGINE,
    KINDS,
    PLACES,
    QUICK,
    RATES,
    Contents,
    Host,
    Judged,
    Outage,
    audit,
    capped,
    contents,
    delivered,
    disturbed,
    judge,
    keys,
    left,
    trial,
    undisturbed,
)
from sdsd.cli.app import main
from sdsd.errors import ModelError, TransientError
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.journal_file import row_digest
from sdsd.runs.middleware import Call
from sdsd.runs.retries import RetryPolicy, retry
from sdsd.runs.verify import verify
from sdsd.types import Answer, Completion, Request
from simoptions import FaultKind

pytestmark = pytest.mark.e2e
N = 12
"""Dialogues of a run of the matrix."""
MANY = 40
"""Dialogues of a run that is to last some seconds."""
WORDS: dict[FaultKind, str] = {
    "null-content": "the reply was empty", "thinking-only": "the model spent its "
}  # fmt: skip
"""What is said of replies without text."""
LATE = 4.0
"""Seconds after which a reply counts as late: more than any takes, however busy the machine."""
LIFT = 8.0
"""Seconds after which half of the requests fail no longer: the waits between tries double."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """The data set that every run of `MANY` dialogues must give."""
    return undisturbed(tmp_path_factory.mktemp("clean"), MANY)


def first(clean: Contents, n: int) -> Contents:
    """What a run of `n` dialogues must give."""
    return {k: rows for k, rows in clean.items() if k < n}


Matrix = dict[tuple[FaultKind, float], Future[Judged]]


@pytest.fixture(scope="module", autouse=True)
def matrix(
    clean: Contents, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Matrix]:
    """The runs of the matrix, in the background: they mostly wait for another try."""
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [spec.params for spec in specs if spec is not None]
    pool = ThreadPoolExecutor(len(KINDS))
    try:
        yield {
            (kind, rate): pool.submit(
                trial, tmp_path_factory.mktemp("trial"), kind, rate, first(clean, N), LIFT, LATE
            )
            for rate in sorted(RATES, reverse=True)
            for kind in KINDS
            if {"kind": kind, "rate": rate} in wanted
        }
    finally:
        pool.shutdown(cancel_futures=True)


# -- servers that go and come --------------------------------------------------------------


def test_one_of_three_is_killed_and_comes_back(tmp_path: Path, clean: Contents) -> None:
    done = disturbed(tmp_path, clean, servers=3, die=1, missed=60)
    assert done.judged.wrong(cut=PLACES) == []
    assert min(done.served) > 0
    assert done.before > 0
    assert done.after > 0
    # Three times four dialogues were under way. Those at the dead one move, and whatever waits for
    # a place may move to a server with at most half the load.
    assert 0 < done.judged.moves[1] <= 12
    assert all(route.count(0) <= 2 for route in done.judged.routes.values())


def test_all_are_gone_for_a_while_and_the_run_waits(tmp_path: Path, clean: Contents) -> None:
    done = disturbed(tmp_path, clean, servers=3, die=3, gone=2.0, outage=120.0)
    assert done.judged.wrong(cut=3 * PLACES) == []
    assert done.judged.outcomes.get("failed", 0) == 0
    assert done.after > 0


def test_gone_for_longer_than_allowed_it_stops_and_the_same_command_goes_on(
    tmp_path: Path, clean: Contents
) -> None:
    out = tmp_path / "run"
    with Host(tmp_path / "log", **ENGINE) as host:
        probes = host.probed()
        config = keys(MANY, [host], parallel=PLACES, outage=1.5)
        outage = Outage([host], after=MANY)
        with pytest.raises(ModelError) as caught:
            sdsd.run(config, out=out, on_event=outage)
        for words in ("`sim` has not answered for 1.5 s", "run the same command again"):
            assert words in str(caught.value)
        with Journal(RunDir(out).journal, readonly=True) as journal:
            recorded = journal.answers()
        before = len(host.lines())
        host.restart()
        judged = judge(sdsd.run(config, out=out), [host], probes, clean)
        lines = [line for line in host.lines()[before:] if line.digest not in probes]
    assert judged.wrong(cut=PLACES) == []
    assert recorded >= MANY
    assert len(lines) == judged.account.recorded - recorded  # each asked once, none again


class Time:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_an_outage_is_no_fault_of_the_requests_that_meet_it() -> None:
    """Another request was answered after this one began; then, for five minutes, nobody was."""
    time = Time()
    request = Request("agent", 1, prompt="x")

    async def send(call: Call) -> Answer:
        if call.step == "quick":
            return Completion("yes")
        if time.now == 0.0:
            await time.sleep(1.0)
            await again(Call("s", "quick", request, 0, {}))
        if time.now < 300.0:
            raise TransientError("no server answers", retry_after=5.0)
        return Completion("at last")

    patience = RetryPolicy(retries=16, outage=600.0)
    again = retry(send, {"agent": patience}, {"agent": "model"}, sleep=time.sleep, clock=time)
    assert await again(Call("s", "slow", request, 0, {})) == Completion("at last")


# -- servers that say no -------------------------------------------------------------------


def test_a_key_that_expires_stops_the_run_and_another_goes_on(
    tmp_path: Path, clean: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, known = tmp_path / "run", {"api_key_env": "SDSD_TEST_KEY", "parallel": 4}
    old = Host(tmp_path / "old", **QUICK, key="alpha", key_expires_after=60)
    new = Host(tmp_path / "new", **QUICK, key="beta")
    with old, new:
        probes = old.probed("alpha")
        monkeypatch.setenv("SDSD_TEST_KEY", "alpha")
        with pytest.raises(ModelError) as caught:
            sdsd.run(keys(MANY, [old], **known), out=out)
        for words in (old.url, "HTTP 401", "check `base_url`, `model` and the key"):
            assert words in str(caught.value)
        monkeypatch.setenv("SDSD_TEST_KEY", "beta")
        result = sdsd.run(keys(MANY, [new], **known), out=out)
        judged = judge(result, [old, new], probes, clean)
        served = [sum(map(delivered, host.lines())) for host in (old, new)]
    assert judged.wrong() == []
    assert served[0] == 60
    assert served[1] > 60


def test_a_model_that_does_not_exist_fails_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Host(tmp_path / "log", **QUICK, models=("real",)) as host:
        out = str(tmp_path / "run")
        with pytest.raises(SystemExit) as caught:
            main(["run", "-m", "absent", "--url", host.url, "-n", "2", "-o", out])
        assert caught.value.code == 4
        assert "`absent`" in " ".join(capsys.readouterr().err.split())
        assert len(host.lines()) == 2  # a chat, and a raw completion


def test_a_context_that_overflows_is_recorded_and_not_tried_again(tmp_path: Path) -> None:
    with Host(tmp_path / "log", **QUICK, max_context=820) as host:
        probes = host.probed()
        long = {"scenarios": {"exchanges": [6, 8]}}  # longer than what a plan is asked with
        result = sdsd.run(keys(MANY, [host]) | long, out=tmp_path / "run")
        lines = host.lines()
    found = left(result.path)
    account = audit(found, lines, probes)
    assert (account.lost, account.invented, account.twice) == (0, 0, 0)
    assert verify(RunDir(result.path)).defects == ()
    refused = Counter(line.digest for line in lines if line.status == 400)
    assert set(refused.values()) == {1}
    stops = Counter(r.dialogue.stop for r in found.records if r.dialogue)
    causes = Counter(r.failure.cause for r in found.records if r.failure)
    assert stops["token_limit"] > 0  # where a turn did not fit
    assert set(causes) == {"HTTP 400"}  # where a verdict or a revision did not


# -- machines that fail --------------------------------------------------------------------


SMALL_DISK = """
import resource, sys
from sdsd.cli.app import main

resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
main(sys.argv[1:])
"""


def test_a_full_disk_stops_the_run_and_with_room_it_goes_on(
    tmp_path: Path, clean: Contents
) -> None:
    out, config = tmp_path / "run", tmp_path / "config.yaml"
    with Host(tmp_path / "log", **QUICK) as host:
        probes = host.probed()
        config.write_text(json.dumps(keys(MANY, [host], parallel=PLACES)))  # JSON is YAML
        sdsd.run(config, out=out, n=1)  # the catalogue's copy is larger than the disk
        command = [sys.executable, "-c", SMALL_DISK, "run", str(config), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = " ".join(done.stderr.split())
        assert done.returncode == 2, said
        assert "cannot be written" in said
        assert "free some space" in said
        with Journal(RunDir(out).journal, readonly=True) as journal:
            recorded = journal.answers()
        assert recorded > 0
        before = len(host.lines())
        judged = judge(sdsd.run(config, out=out), [host], probes, clean)
        lines = [line for line in host.lines()[before:] if line.digest not in probes]
    assert len(lines) == judged.account.recorded - recorded
    # One answer of each dialogue under way had come and could not be written.
    assert judged.wrong(cut=PLACES) == []


def test_a_clock_that_steps_back_spoils_nothing(tmp_path: Path, clean: Contents) -> None:
    """A run whose first half was recorded by a clock an hour ahead of that of the second."""
    out = tmp_path / "run"
    with Host(tmp_path / "log", **QUICK) as host:
        probes = host.probed()
        sdsd.run(keys(MANY // 2, [host]), out=out)
        with closing(sqlite3.connect(RunDir(out).journal)) as journal:
            columns = "scenario, step, request, body, at"
            rows = journal.execute(f"SELECT {columns} FROM answer").fetchall()
            for scenario, step, request, body, at in rows:
                digest = row_digest((scenario, step, request, body, at + 3600))
                journal.execute(
                    "UPDATE answer SET at = ?, digest = ? WHERE scenario = ? AND step = ?",
                    (at + 3600, digest, scenario, step),
                )
            journal.commit()
        judged = judge(sdsd.run(keys(MANY, [host]), out=out), [host], probes, clean)
    assert judged.wrong() == []
    with closing(sqlite3.connect(RunDir(out).journal)) as journal:
        times = [at for (at,) in journal.execute("SELECT at FROM answer ORDER BY rowid")]
    assert min(b - a for a, b in pairwise(times)) < -3000
    assert "<svg" in (out / "report.html").read_text("utf-8")


# -- the matrix ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rate", [pytest.param(r, marks=[] if r == 0.1 else pytest.mark.slow) for r in RATES]
)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_fails_nothing_is_lost_and_nothing_asked_twice(
    matrix: Matrix, kind: FaultKind, rate: float
) -> None:
    judged = matrix[kind, rate].result()
    assert judged.wrong() == []
    assert judged.account.injected > 0
    if rate == 0.5:
        assert judged.account.injected > N
    # Only answers without text can spoil a dialogue: a stage asks again, but not for ever.
    if kind in WORDS:
        known = (
            f"no usable reply in 3 tries: {WORDS[kind]}",
            f"no usable reply in 6 tries: {WORDS[kind]}",  # a turn, which has twice as many
            "token limit in the first exchange",
        )
        assert all(cause.startswith(known) for cause in judged.causes)
    elif kind == "400":
        assert judged.causes.keys() == {"HTTP 400"}
        assert judged.differing == judged.silent
    elif kind in DENIALS:
        assert judged.causes.keys() <= {f"HTTP {kind}"}
        assert judged.differing <= judged.given_up
        if rate < 0.1:
            assert judged.outcomes.get("failed", 0) == 0  # three times in a row is not chance
    else:
        assert judged.differing == judged.silent == frozenset()
        assert judged.outcomes.get("failed", 0) == 0


def test_the_audit_notices(tmp_path: Path) -> None:
    """What the matrix counts on: log and journal are really compared."""
    with Host(tmp_path / "log", **QUICK) as host:
        probes = host.probed()
        result = sdsd.run(keys(2, [host]), out=tmp_path / "run")
        lines = host.lines()
    found = left(result.path)
    whole = audit(found, lines, probes)
    assert (whole.twice, whole.lost, whole.invented) == (0, 0, 0)
    assert audit(found, [*lines, lines[-1]], probes).lost == 1
    assert audit(found, lines[:-1], probes).invented == 1
    assert audit(replace(found, posts=found.posts[1:]), lines, probes).lost == 1
    assert audit(replace(found, answers=found.answers + 1), lines, probes).twice == 1
    assert contents(result.path).keys() == {0, 1}


# -- a server with a cap -------------------------------------------------------------------


def test_a_server_that_refuses_the_seventeenth_is_kept_full(tmp_path: Path, matrix: Matrix) -> None:
    for future in matrix.values():
        future.exception()  # the machine is ours again
    done = capped(tmp_path / "log")
    assert done.answered == 600
    assert done.refusals < 80
    assert done.ideal <= done.steps <= 1.15 * done.ideal
