"""Show a run's progress: a live panel in a terminal, a few lines of HTML in a notebook.

Text that a model wrote passes through `safe` first: it may neither move the cursor, nor colour the
screen, nor turn the reading direction.
"""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sdsd.reports.html.text import duration
from sdsd.runs.events import (
    Began,
    Called,
    Event,
    Examined,
    Fetching,
    Noted,
    OnEvent,
    Recorded,
)
from sdsd.text.normalize import valid_unicode
from sdsd.types import Record


class _StandardError:
    """Standard error, whose faults end nothing: a closed terminal, a broken pipe, a full disk."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


err = Console(file=cast("IO[str]", _StandardError()), highlight=False, markup=False)

STAGES = ("stake", "plan", "turn", "check", "critique", "revise", "recheck")
_COUNTED_AS = dict.fromkeys(("candidate", "earlier", "adherence"), "critique")
"""Stages that are counted with another one."""
_WINDOW = 30.0
"""Seconds over which the rate of tokens is measured."""
_WIDTH = 36
"""Characters of the bar."""
_REDRAW = 0.5
"""Seconds between two redraws: drawing takes CPU time from an embedded engine."""

_UNSEEN = {*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200B, 0x200E, 0x200F, 0xFEFF,
           *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x0A}  # fmt: skip
_SHOWN = {code: f"\\u{code:04x}" if code != 9 else "    " for code in _UNSEEN}


def safe(text: str) -> str:
    """Return `text` with control and bidirectional characters spelled out."""
    return valid_unicode(text).translate(_SHOWN)


def headline(record: Record) -> str:
    """Describe one record on one line."""
    topic = record.scenario.subarea
    if record.failure:
        return f"failed at {record.failure.step} ({record.failure.cause}) - {topic}"
    fate = record.outcome if not record.rule else f"{record.outcome}: {record.rule}"
    if len(record.pairs) > 1:
        fate += f", {len(record.pairs)} pairs"
    turns = f", {len(record.dialogue.messages)} turns" if record.dialogue else ""
    return f"{fate}{turns} - {topic}"


class Progress:
    """Counts what a run's events say: dialogues, verified pairs, calls, tokens."""

    def __init__(self) -> None:
        self.n = self.done = self.pairs = 0
        self.wanted = self.reached = 0
        self.began = False
        self.title = ""
        self.calls: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._done_before = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._started = time.monotonic()

    def count(self, event: Event) -> None:
        match event:
            case Began(path, n, done, concurrency, protocol):
                self.n, self.done, self._done_before = n, done, done
                self.pairs, self.wanted, self.reached = event.pairs, event.wanted, event.reached
                self.began, self._started = True, time.monotonic()
                self.title = f"{path} · {protocol} · up to {concurrency} in flight"
            case Called(_, answer):
                stage = _COUNTED_AS.get(event.stage, event.stage)
                self.calls[stage] += 1
                self.tokens[stage] += answer.completion_tokens
                self.seconds[stage] += answer.seconds
                now = time.monotonic()
                self._recent.append((now, answer.completion_tokens))
                while self._recent[0][0] < now - _WINDOW:
                    self._recent.popleft()
            case Recorded(record):
                self.done += 1
                self.pairs += len(record.pairs)
                self.reached += len(record.pairs)

    @property
    def share(self) -> float:
        """Share that is done, from 0 to 1: of the wanted pairs where the run has targets."""
        return self.reached / self.wanted if self.wanted else self.done / max(self.n, 1)

    @property
    def dialogues(self) -> str:
        """`3/20`, or `3` for a run without a fixed number."""
        return f"{self.done}/{self.n}" if self.n else f"{self.done}"

    @property
    def verified(self) -> str:
        """`5 verified pairs`, and how many the targets ask for."""
        wanted = f" of {self.wanted} wanted" if self.wanted else ""
        return f"{self.pairs} verified pairs{wanted}"

    @property
    def rate(self) -> float:
        """Recent completion tokens per second."""
        if not self._recent:
            return 0.0
        now = time.monotonic()
        span = max(now - self._recent[0][0], now - max(self._started, now - _WINDOW), 1.0)
        return sum(tokens for _, tokens in list(self._recent)) / span

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    @property
    def remaining(self) -> str:
        """`  (about 3 min 20 s left)`; empty before the first dialogue."""
        made, left = self.done - self._done_before, self.n - self.done
        if not made or left <= 0:
            return ""
        return f"  (about {duration(self.elapsed / made * left)} left)"


class Screen:
    """Shows a run's progress in a terminal, or as plain lines in a file or pipe."""

    def __init__(self, *, live: bool = True, quiet: bool = False) -> None:
        self._progress = Progress()
        self._live, self._quiet = live, quiet
        self._first = ""
        """What is shown before the first dialogue: a download, or the exam."""
        self._tenths: dict[str, int] = {}
        self._last_line = 0.0

    def on_event(self, event: Event) -> None:
        self._progress.count(event)
        match event:
            case Began(path, n, done, concurrency, protocol):
                of = f"{done} of {n} dialogues done" if n else f"{done} dialogues done"
                if event.wanted:
                    of += f", {event.reached} of {event.wanted} pairs"
                self._plain(f"{path}: {of}, {protocol}, up to {concurrency} in flight")
            case Called():
                self._called()
            case Recorded(record):
                line = f"[{self._progress.dialogues}] dialogue {record.scenario.index}: "
                self._line(line + headline(record) + self._progress.remaining)
            case Noted(text):
                self._line(text)
            case Fetching(what, done, total):
                self.download(what, done, total)
            case Examined(done, n, left):
                time_left = f"  (about {duration(left)} left)" if left else ""
                self._first = f"{_bar(done / max(n, 1))} exam: {done}/{n} items{time_left}"
                self._plain(f"[{done}/{n}] exam{time_left}")

    def download(self, what: str, done: int, total: int) -> None:
        """Show the progress of a file's download or check, in bytes."""
        tenth = 10 * done // max(total, 1)
        size = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        self._first = f"{_bar(done / max(total, 1))} {what}, {size}"
        if tenth > self._tenths.get(what, -1):
            self._tenths[what] = tenth
            self._plain(f"{what}: {10 * tenth}% of {total / 1e6:,.0f} MB")

    def _called(self) -> None:
        now = time.monotonic()
        if now - self._last_line > 20:
            self._last_line = now
            counts = self._progress.calls
            stages = (*STAGES, "exam")
            calls = " ".join(f"{stage} {counts[stage]}" for stage in stages if counts[stage])
            calls = calls or str(sum(counts.values()))  # not of a run: of a catalogue
            self._plain(f"  calls so far: {calls}; {self._progress.rate:.1f} tokens/s")

    def _plain(self, text: str) -> None:
        """Print a line whose content the live panel shows anyway."""
        if not self._live:
            self._line(text)

    def _line(self, text: str) -> None:
        """Print a line; above the live panel, so that it stays when the panel is gone."""
        if not self._quiet:
            err.print(Text(safe(text)), soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """Draw the live panel. Rich calls it on another thread, so it copies what it iterates."""
        seen = self._progress
        parts: list[RenderableType] = []
        if seen.began:
            head = (f" {seen.dialogues} dialogues  ", (seen.verified, "green"))
            rest = f"  {seen.rate:.1f} tokens/s  {duration(seen.elapsed)}"
            bar = (_bar(seen.share), "cyan")
            parts.append(Text.assemble(bar, *head, rest, seen.remaining))
            parts.append(self._stages())
        elif self._first:
            parts.append(Text(self._first, style="cyan", no_wrap=True))
        return Panel(Group(*parts), title=Text(safe(seen.title) or "sdsd"), title_align="left")

    def _stages(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("")
        for stage in STAGES:
            table.add_column(stage, justify="right", min_width=8)
        seen = self._progress
        for name, counts in (("calls", seen.calls), ("tokens", seen.tokens)):
            table.add_row(name, *(f"{counts[s]:,}" for s in STAGES))
        each = {s: seen.seconds[s] / seen.calls[s] for s in STAGES if seen.calls[s]}
        table.add_row("s/call", *(f"{each[s]:.1f}" if s in each else "-" for s in STAGES))
        return table


def _bar(share: float) -> str:
    filled = min(_WIDTH, int(_WIDTH * share))
    return "█" * filled + "░" * (_WIDTH - filled)


class Notebook:
    """Shows a run's progress in the output of a notebook's cell, as HTML that is replaced."""

    def __init__(self, update: Callable[[str], None]) -> None:
        self._update = update
        self._progress = Progress()
        self._notes: deque[str] = deque(maxlen=5)
        self._drawn = 0.0

    def on_event(self, event: Event) -> None:
        """Show one event; not every call is drawn."""
        self._progress.count(event)
        if isinstance(event, Noted):
            self._notes.append(event.text)
        elif isinstance(event, Fetching):
            self._progress.title = f"{event.what}: {event.done:,} of {event.total:,} bytes"
        if time.monotonic() - self._drawn >= _REDRAW or isinstance(event, Noted | Began):
            self.draw()

    def draw(self) -> None:
        self._drawn = time.monotonic()
        seen = self._progress
        lines = [seen.title, *self._notes]
        if seen.began:
            counts = f"{seen.dialogues} dialogues, {seen.verified}, {seen.rate:.1f} tokens/s"
            lines[1:1] = [counts + seen.remaining]
        bar = f"<progress value='{seen.share:.3f}' max='1' style='width:24em'></progress>"
        text = "<br>".join(html.escape(safe(line)) for line in lines if line)
        self._update(f"<div>{bar}<br>{text}</div>")


@contextlib.contextmanager
def terminal(*, quiet: bool = False) -> Iterator[Screen]:
    """Show a live panel on a terminal, plain lines elsewhere, nothing if `quiet`."""
    live = err.is_terminal and not quiet
    screen = Screen(live=live, quiet=quiet)
    if not live:
        yield screen
        return
    with Live(screen, console=err, refresh_per_second=1 / _REDRAW, transient=True):
        yield screen


@contextlib.contextmanager
def shown_progress(on_event: OnEvent | None, progress: bool) -> Iterator[OnEvent]:
    """Yield the function that gets a run's events: the caller's, or one that displays them."""
    if on_event is not None:
        yield on_event
    elif progress and (update := _cell_output()) is not None:
        notebook = Notebook(update)
        yield notebook.on_event
        notebook.draw()
    elif progress and err.is_terminal:
        with terminal() as screen:
            yield screen.on_event
    else:
        yield lambda event: None


def _cell_output() -> Callable[[str], None] | None:
    """Return what replaces the output of the notebook cell that is running; None elsewhere."""
    ipython: Any = sys.modules.get("IPython")  # a notebook has imported it
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda text: handle.update(HTML(text))
