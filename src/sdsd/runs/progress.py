"""Show a run's progress: a live display in a terminal, a few lines of HTML in a notebook.

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
from textwrap import shorten
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
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
_WIDEST = 100
"""Columns that the live display takes at most: what belongs together stays together."""
_QUIET = 30.0
"""Seconds between two lines of progress where the output is no terminal."""
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


def gained(record: Record) -> str:
    """Describe what one record is worth: its pairs, or why it has none."""
    topic = record.scenario.subarea
    if record.failure:
        return f"failed at {record.failure.step} - {topic}"
    pairs = len(record.pairs)
    worth = f"{pairs} pair{'s' * (pairs > 1)}" if pairs else f"no pair ({record.rule})"
    return f"{worth} - {topic}"


class Progress:
    """Counts what a run's events say: dialogues, verified pairs, calls, tokens."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.n = self.done = self.pairs = 0
        self.wanted = self.reached = 0
        self.began = False
        self.title = ""
        self.calls: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._share_before = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._started = self._clock()

    def count(self, event: Event) -> None:
        match event:
            case Began(path, n, done, concurrency, protocol):
                self.n, self.done = n, done
                self.pairs, self.wanted, self.reached = event.pairs, event.wanted, event.reached
                self._share_before = self.share
                self.began, self._started = True, self._clock()
                self.title = f"{path} · {protocol} · up to {concurrency} in flight"
            case Called(_, answer):
                stage = _COUNTED_AS.get(event.stage, event.stage)
                self.calls[stage] += 1
                self.tokens[stage] += answer.completion_tokens
                self.seconds[stage] += answer.seconds
                now = self._clock()
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
    def counts(self) -> str:
        """`12/60 dialogues, 9 pairs`; with targets also how many pairs are wanted."""
        dialogues = f"{self.done:,}/{self.n:,}" if self.n else f"{self.done:,}"
        wanted = f" ({self.reached:,} of {self.wanted:,} wanted)" if self.wanted else ""
        return f"{dialogues} dialogues, {self.pairs:,} pair{'s' * (self.pairs != 1)}{wanted}"

    @property
    def rate(self) -> float:
        """Recent completion tokens per second."""
        if not self._recent:
            return 0.0
        now = self._clock()
        span = max(now - self._recent[0][0], now - max(self._started, now - _WINDOW), 1.0)
        return sum(tokens for _, tokens in list(self._recent)) / span

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._started

    @property
    def left(self) -> str:
        """`about 3 min 20 s left`; says so while that is not known."""
        gained = self.share - self._share_before
        if gained <= 0:
            return "no estimate yet"
        if self.share >= 1:
            return "almost done"
        return left(self.elapsed / gained * max(0.0, 1 - self.share))


def left(seconds: float) -> str:
    """`about 3 min 20 s left`."""
    return f"about {_whole(seconds)} left"


def _whole(seconds: float) -> str:
    """Write a time without fractions of a second."""
    return f"{round(seconds)} s" if seconds < 59.5 else duration(round(seconds))


class Screen:
    """Shows a run's progress in a terminal, or as a few plain lines in a file or pipe."""

    def __init__(
        self,
        *,
        live: bool = True,
        quiet: bool = False,
        lines: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = Progress(clock)
        self._live, self._quiet, self._lines, self._clock = live, quiet, lines, clock
        self._first: RenderableType = ""
        """What is shown before the first dialogue: a download, or the exam."""
        self._tenths: dict[str, int] = {}
        self._last_line = -_QUIET

    def on_event(self, event: Event) -> None:
        seen = self._progress
        seen.count(event)
        match event:
            case Began(path, _, _, concurrency, protocol):
                self._plain(f"{path}: {seen.counts}, {protocol}, up to {concurrency} in flight")
                self._last_line = self._clock()
            case Called():
                calls = f"{sum(seen.calls.values())} calls"  # without a run: of a catalogue
                self._alive(f"{seen.left}: {seen.counts}" if seen.began else calls)
            case Recorded(record) if self._lines:
                of = f"/{seen.n}" if seen.n else ""
                text = f"[{seen.done}{of}] dialogue {record.scenario.index}: {gained(record)}"
                self._line(shorten(text, err.width, placeholder=" ...") if self._live else text)
            case Noted(text):
                self._line(text)
            case Fetching(what, done, total):
                self.download(what, done, total)
            case Examined(done, n, seconds):
                time_left = f"{left(seconds)}: " if seconds else ""
                self._first = _line_of(done / max(n, 1), time_left, f"exam: {done}/{n} items")
                self._alive(f"{time_left}exam: {done}/{n} items", last=done == n)

    def download(self, what: str, done: int, total: int) -> None:
        """Show the progress of a file's download or check, in bytes."""
        tenth = 10 * done // max(total, 1)
        size = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        self._first = _line_of(done / max(total, 1), "", f"{what}, {size}")
        if tenth > self._tenths.get(what, -1):
            self._tenths[what] = tenth
            self._plain(f"{what}: {10 * tenth}% of {total / 1e6:,.0f} MB")

    def _alive(self, text: str, *, last: bool = False) -> None:
        """Print a line where no live display shows it, unless the last one was just now."""
        now = self._clock()
        if last or now - self._last_line >= _QUIET:
            self._last_line = now
            self._plain(text)

    def _plain(self, text: str) -> None:
        """Print a line whose content the live display shows anyway."""
        if not self._live:
            self._line(text)

    def _line(self, text: str) -> None:
        """Print a line; above the live display, so that it stays when that is gone.

        In a terminal, it is broken between words; elsewhere, it stays one line.
        """
        if not self._quiet:
            err.print(Text(safe(text)), soft_wrap=not err.is_terminal)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the live display. Rich calls it on another thread, so it copies what it iterates."""
        seen, width = self._progress, min(options.max_width, _WIDEST)
        parts: list[RenderableType] = []
        if seen.began:
            speed = f"{seen.rate:,.0f} tokens/s, {_whole(seen.elapsed)} so far"
            parts += [_cut(seen.title, "dim"), _line_of(seen.share, f"{seen.left} ", seen.counts)]
            parts += [_cut(speed), self._stages()]
        elif self._first:
            parts.append(self._first)
        yield from console.render(Group(*parts), options.update(width=width))

    def _stages(self) -> Table:
        """Draw calls, tokens and seconds of the stages that were asked for."""
        seen = self._progress
        stages = [stage for stage in STAGES if seen.calls[stage]]
        table = Table(box=None, pad_edge=False, header_style="dim")
        for head in ("", *stages):
            table.add_column(head, justify="right" if head else "left", no_wrap=True)
        for name, counts in (("calls", seen.calls), ("tokens", seen.tokens)):
            table.add_row(name, *(_short(counts[s]) for s in stages))
        table.add_row("s/call", *(f"{seen.seconds[s] / seen.calls[s]:.1f}" for s in stages))
        return table


def _line_of(share: float, before: str, after: str) -> RenderableType:
    """Draw a bar between two texts; it takes the columns that they leave."""
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1, min_width=4)
    row.add_column()  # the first to be cut
    row.add_row(_cut(before.rstrip()), ProgressBar(1.0, share), _cut(after, "green"))
    return row


def _cut(text: str, style: str = "") -> Text:
    return Text(safe(text), style=style, no_wrap=True, overflow="ellipsis")


def _short(number: int) -> str:
    """Write a count in at most five characters: `9,999`, `150k`, `1.5M`."""
    if number < 10_000:
        return f"{number:,}"
    return f"{number / 1e3:.0f}k" if number < 1_000_000 else f"{number / 1e6:.1f}M"


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
            lines[1:1] = [f"{seen.left}: {seen.counts}, {seen.rate:,.0f} tokens/s"]
        bar = f"<progress value='{seen.share:.3f}' max='1' style='width:24em'></progress>"
        text = "<br>".join(html.escape(safe(line)) for line in lines if line)
        self._update(f"<div>{bar}<br>{text}</div>")


@contextlib.contextmanager
def terminal(*, quiet: bool = False, lines: bool = False) -> Iterator[Screen]:
    """Show a live display on a terminal, a few lines elsewhere, nothing if `quiet`.

    With `lines`, also print a line for each finished dialogue.
    """
    live = err.is_terminal and not quiet
    screen = Screen(live=live, quiet=quiet, lines=lines)
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
