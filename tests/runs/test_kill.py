"""kill -9 at random moments, again and again, and not one answer is lost or bought twice.

A real `sdsd run` against a stand-in server in a process of its own. Each start of the command is a
*life*; it names itself to the server in a header, and the server's log outlives it. The law:

* the finished data set is that of a run which nobody disturbed;
* in no life is anything asked that was recorded before it;
* what was asked and not recorded was in flight at a kill, and belongs to dialogues that were open
  together: to no more of them than may be. (A dialogue's critiques go out as one burst, so that
  one dialogue may have several calls in flight.)

Runs as a script too, and prints the counts: `python -m tests.runs.test_kill --seed 1 --kills 20`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from sdsd.dataset.export import read
from sdsd.dataset.views import VIEWS
from sdsd.hashing import call_seed
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal, Ledger
from sdsd.runs.verify import verify
from sdsd.scenarios.quotas import Assignment
from tests.stand_ins.model_server import Line, read_log, spawned

pytestmark = pytest.mark.e2e
SDSD = Path(sys.executable).with_name("sdsd")
OPEN = 8
PATIENCE = 60.0
"""Seconds after which a process that does not move has failed the test."""


# -- processes -----------------------------------------------------------------------------


@contextlib.contextmanager
def life(
    out: Path, url: str, n: int, name: str, more: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """One start of the command, with its standard error at hand; `more` are keys to set."""
    keys = {"parallel": OPEN, "headers": f"{{X-Life: '{name}'}}"}
    models = (f"models.default.{k}={v}" for k, v in keys.items())
    changes = [*models, "critique.exam=0", *more]
    sets = [word for change in changes for word in ("--set", change)]
    command = [str(SDSD), "run", "-m", "stand-in", "--url", url, "-n", str(n), "-o", str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *sets], stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def asked(log: Path) -> list[Line]:
    """Requests so far, without those that only look what the server can do."""
    return [line for line in read_log(log) if line.event == "asked" and not line.probe]


def about(log: Path, since: int = 0) -> float:
    """Calls since the log had that size, cheaply: each writes two lines of about 80 bytes."""
    return (log.stat().st_size - since) / 160


def recorded(out: Path) -> dict[int, str]:
    """By seed, which stands for scenario and step: the scenario of every call answered on disk."""
    try:
        uri = f"{RunDir(out).journal.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            rows = connection.execute("SELECT scenario, step FROM answer").fetchall()
    except sqlite3.OperationalError:  # killed before there was a journal, or a table in it
        return {}
    seeds = {call_seed(0, scenario, step): scenario for scenario, step in rows}
    assert len(seeds) == len(rows)
    return seeds


def views(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The content of a data set, without times."""
    return {
        view: [{k: v for k, v in row.items() if k != "seconds"} for row in read(out / "data", view)]
        for view in VIEWS
    }


def heard(process: subprocess.Popen[str], words: str) -> None:
    """Wait until the command says so on standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}")


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing moves any more"
        time.sleep(0.002)


# -- kills ---------------------------------------------------------------------------------


class Life(Struct, frozen=True):
    """One start of the command and its end."""

    name: str
    moment: str
    before: frozenset[int]
    """Seeds of the answers that were on disk when it began."""
    after: frozenset[int]
    """And when it ended."""


class Row(Struct, frozen=True):
    """What one life did."""

    moment: str
    asked: int
    recorded: int
    in_flight: int
    """Asked, and not recorded when it ended."""
    dialogues: int
    """To how many dialogues those belong."""
    repeated: int
    """Asked although it was recorded, or asked before in the same life. Must be none."""


class Tally(Struct, frozen=True):
    """A run that was killed over and over, and ended in the end."""

    rows: list[Row]
    """One for each life; the last one ended by itself."""
    asked: int
    recorded: int
    same: bool
    """Its data set is that of the undisturbed run."""

    @property
    def in_flight(self) -> int:
        """Calls under way at a kill, over all kills: all that may be asked again."""
        return sum(row.in_flight for row in self.rows)


def one_life(
    out: Path,
    log: Path,
    url: str,
    n: int,
    name: str,
    moment: str,
    chance: random.Random,
    more: Sequence[str] = (),
) -> Life:
    """Start the command, and kill it at a moment of that kind."""
    before, size = frozenset(recorded(out)), log.stat().st_size
    with life(out, url, n, name, more) as process:
        if moment == "starting":
            time.sleep(chance.uniform(0, 1))
        elif moment == "calling":
            calls = chance.uniform(0, 30)
            until(lambda: about(log, size) > calls or process.poll() is not None)
            time.sleep(chance.uniform(0, 0.02))
        elif moment == "publishing":
            heard(process, "writing the data set")
            time.sleep(chance.uniform(0, 0.2))
        else:
            told = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, told
    return Life(name, moment, before, frozenset(recorded(out)))


def torment(root: Path, *, seed: int, kills: int, n: int, latency: float) -> Tally:
    """Kill one run at `kills` moments, let it end, and compare it with one that was left alone."""
    chance = random.Random(seed)
    last = kills // 5 or 1  # kills while publishing, each after one more dialogue
    moments = chance.choices(["starting", "calling"], [1, 5], k=kills - last)
    moments += ["publishing"] * last + ["left alone"]
    more = n + last
    log, out, undisturbed = root / "log", root / "killed", root / "undisturbed"
    with spawned(log, latency) as url:
        lives = [
            one_life(
                out,
                log,
                url,
                min(n + max(0, number - kills + last + 1), more),
                str(number),
                moment,
                chance,
            )
            for number, moment in enumerate(moments)
        ]
        one_life(undisturbed, log, url, more, "undisturbed", "left alone", chance)
    lines, scenarios = asked(log), recorded(undisturbed)
    assert recorded(out) == scenarios
    assert verify(RunDir(out)).defects == ()
    return Tally(
        rows=[row(lived, lines, scenarios) for lived in lives],
        asked=sum(line.life != "undisturbed" for line in lines),
        recorded=len(recorded(out)),
        same=views(out) == views(undisturbed),
    )


def row(lived: Life, lines: list[Line], scenarios: dict[int, str]) -> Row:
    """What a life did, by the server's log."""
    seeds = [line.seed for line in lines if line.life == lived.name]
    different = set(seeds)
    return Row(
        moment=lived.moment,
        asked=len(seeds),
        recorded=len(lived.after - lived.before),
        in_flight=len(different - lived.after),
        dialogues=len({scenarios[seed] for seed in different - lived.after}),
        repeated=len(different & lived.before) + len(seeds) - len(different),
    )


def check(tally: Tally) -> None:
    """The law."""
    assert tally.same
    for row in tally.rows:
        assert row.repeated == 0
        assert row.dialogues <= OPEN
        assert row.asked == row.recorded + row.in_flight
    assert tally.asked == tally.recorded + tally.in_flight


@pytest.mark.parametrize(
    ("kills", "n"),
    [
        (5, 12),
        pytest.param(20, 30, marks=pytest.mark.slow),
        pytest.param(200, 240, marks=pytest.mark.slow),
    ],
)
def test_kills_lose_nothing_and_buy_nothing_twice(tmp_path: Path, kills: int, n: int) -> None:
    tally = torment(tmp_path, seed=20, kills=kills, n=n, latency=0.02)
    check(tally)
    assert tally.in_flight > kills  # the kills did hit calls


# -- targets ------------------------------------------------------------------------------

QUOTAS = ("targets.by=category", "targets.pairs=2", "scenarios.strategies=[direct,haste]")


def rounds(out: Path) -> list[tuple[int, tuple[Assignment, ...], Ledger]]:
    """What each round was laid out as, and from what."""
    with Journal(RunDir(out).journal, readonly=True) as journal:
        return [(r.start, r.slots, r.ledger) for r in journal.rounds()]


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_quotas_are_exact_after_kills(tmp_path: Path, kills: int) -> None:
    chance, log = random.Random(7), tmp_path / "log"
    out, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    with spawned(log, 0.01) as url:
        for number in range(kills):
            one_life(out, log, url, 500, str(number), "calling", chance, QUOTAS)
        one_life(out, log, url, 500, "last", "left alone", chance, QUOTAS)
        one_life(undisturbed, log, url, 500, "undisturbed", "left alone", chance, QUOTAS)
    assert len(rounds(out)) > 2
    assert rounds(out) == rounds(undisturbed)
    assert recorded(out) == recorded(undisturbed)
    assert views(out) == views(undisturbed)
    assert verify(RunDir(out)).defects == ()


# -- Ctrl-C --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_finishes_what_is_in_flight_and_publishes(
    tmp_path: Path, number: signal.Signals
) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    with spawned(log, 0.05) as url:
        with life(out, url, 12, "first") as process:
            until(lambda: about(log) > 100)
            process.send_signal(number)
            printed, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert "stopping: requests in flight are finished and kept" in errors
        assert "stopped: " in printed
        assert "stopped because: interrupted\n" in printed
        stopped = asked(log)
        assert set(recorded(out)) == {line.seed for line in stopped}  # not one was thrown away
        assert len(recorded(out)) == len(stopped)
        done = len(views(out)["scenarios"])
        assert 0 < done < 12
        assert (out / "report.html").exists()
        assert verify(RunDir(out)).defects == ()

        one_life(out, log, url, 12, "second", "left alone", random.Random())
        assert len(asked(log)) == len(recorded(out))
        assert len(views(out)["scenarios"]) == 12


def test_asked_twice_it_stops_at_once(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    with spawned(log, 30) as url, life(out, url, 3, "first") as process:
        until(lambda: len(asked(log)) >= 3)  # nobody will answer these for a while
        process.send_signal(signal.SIGINT)
        heard(process, "stopping")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "stopped at once; recorded answers are kept" in errors
    assert "Traceback" not in errors


# -- as a script ---------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run over and over; print the counts.")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("-n", type=int, default=30, help="dialogues")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds per reply, about")
    given = parser.parse_args()
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as root:
        tally = torment(Path(root), **vars(given))
    print(f"{'ended while':<14}{'asked':>7}{'recorded':>10}{'in flight':>11}{'repeated':>10}")
    for row in tally.rows:
        print(
            f"{row.moment:<14}{row.asked:>7}{row.recorded:>10}{row.in_flight:>11}{row.repeated:>10}"
        )
    print(
        f"in all {tally.asked} asked = {tally.recorded} recorded + {tally.in_flight} in flight at "
        f"a kill; data set {'the same' if tally.same else 'DIFFERENT'}"
    )
    check(tally)


if __name__ == "__main__":
    main()
