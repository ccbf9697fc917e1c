"""Progress: how long it will take, in a terminal of any width and in a log file."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

import sdsd
from sdsd.runs.events import Began, Called, Event, Recorded
from sdsd.runs.middleware import Call
from sdsd.runs.progress import Screen, gained
from sdsd.types import Completion, Record, Request
from tests.helpers.terminals import in_terminal
from tests.stand_ins.model_server import spawned

SDSD = Path(sys.executable).with_name("sdsd")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def began(n: int, **more: int) -> Began:
    return Began(Path("runs/mine"), n, 0, 4, "chat", **more)


def called(tokens: int = 50) -> Called:
    request = Request("agent", 10)
    return Called(
        Call("s", "turn/1/agent", request, 0, {}), Completion("x", completion_tokens=tokens)
    )


@pytest.fixture(scope="module")
def records(finished: Path) -> list[Record]:
    return list(sdsd.Run.open(finished))


def drawn(screen: Screen, columns: int) -> list[str]:
    """What is on the screen, line by line."""
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(screen)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_time_left_comes_first(records: list[Record]) -> None:
    clock = Clock()
    screen = Screen(clock=clock)
    screen.on_event(began(8))
    clock.now += 60
    assert drawn(screen, 80)[1].startswith("no estimate yet ")
    for record in records[:2]:
        screen.on_event(Recorded(record))
    pairs = sum(len(record.pairs) for record in records[:2])
    line = drawn(screen, 80)[1]
    assert line.startswith("about 3 min 0 s left ")
    assert line.endswith(f" 2/8 dialogues, {pairs} pair{'s' * (pairs != 1)}")


def test_with_targets_it_is_the_time_until_they_are_reached(records: list[Record]) -> None:
    clock = Clock()
    screen = Screen(clock=clock)
    screen.on_event(began(0, pairs=5, wanted=20, reached=5))
    clock.now += 100
    record = next(record for record in records if record.pairs)
    for _ in range(5 // len(record.pairs)):
        screen.on_event(Recorded(record))
    more = len(record.pairs) * (5 // len(record.pairs))
    seconds = round(100 / more * (15 - more))
    line = drawn(screen, 100)[1]
    assert line.startswith(f"about {seconds // 60} min {seconds % 60} s left ")
    assert f"({5 + more} of 20 wanted)" in line


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_it_fits_the_terminal(records: list[Record], columns: int) -> None:
    screen = Screen(clock=Clock())
    screen.on_event(began(1_000_000, wanted=1_000_000))
    for record in records:
        screen.on_event(Recorded(record))
    for _ in range(40):
        screen.on_event(called(1_234_567))
    lines = drawn(screen, columns)
    assert max(map(len, lines)) <= min(columns, 100)
    assert len(lines) == 7  # none was broken
    assert lines[1].startswith("about 0 s left ")
    assert ("1,000,000 wanted)" in lines[1]) == (columns >= 80)
    assert lines[3:] == ["         turn", "calls      40", "tokens  49.4M", "s/call    0.0"]


def test_a_log_file_gets_a_line_at_intervals(
    records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    screen = Screen(live=False, clock=clock)
    events: list[Event] = [began(8), *(e for r in records for e in (called(), Recorded(r)))]
    for event in events:
        screen.on_event(event)
        clock.now += 10
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "runs/mine: 0/8 dialogues, 0 pairs, chat, up to 4 in flight"
    assert len(lines) == 4  # 160 seconds
    for line in lines:
        assert re.fullmatch(r"about (\d+ min )?[\d.]+ s left: \d/8 dialogues, \d+ pairs?", line)


def test_a_line_for_each_dialogue_is_printed_on_request(
    records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(live=False, lines=True, clock=Clock())
    screen.on_event(began(8))
    for record in records:
        screen.on_event(Recorded(record))
    _, *lines = capsys.readouterr().err.splitlines()
    assert lines == [f"[{k}/8] dialogue {r.scenario.index}: {gained(r)}" for k, r in
                     enumerate(records, 1)]  # fmt: skip
    for record in records:
        said = gained(record)
        worth = f"{len(record.pairs)} pair" if record.pairs else f"no pair ({record.rule})"
        assert said.startswith(worth)
        assert said.endswith(f" - {record.scenario.subarea}")


@pytest.mark.e2e
@pytest.mark.parametrize("columns", [80, 120])
def test_the_reason_of_a_stop_outlives_the_live_display(tmp_path: Path, columns: int) -> None:
    """And no word is broken at the edge of the terminal."""
    with spawned(tmp_path / "log") as url:
        command: list[str | Path] = [
            SDSD, "run", "-n", "20", "-m", "m", "--url", url, "-o", "mine",
                   "--set", "critique.exam=0", "--set", "budget.tokens=3000"]  # fmt: skip
        seen = in_terminal(command, columns, cwd=tmp_path)
    assert seen.code == 3
    why = "the budget of 3,000 tokens is used up"
    shown = " ".join(seen.lines)
    assert shown.count(why) == 2  # when it happened, and at the end
    assert "raise `budget.tokens` and run the same command again to continue" in shown
    assert "tokens/s" in seen.written
    assert "tokens/s" not in shown
    assert max(map(len, seen.lines)) <= columns
