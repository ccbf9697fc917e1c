"""What a person sees in the terminal: progress, and results read well.

Text that a model wrote passes through `safe`: it may neither move the cursor, nor colour the
screen, nor turn the reading direction. On a pipe there are plain lines, with `--json` JSON.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sdsd.types import Critique, Record, Scenario, Verdict

if TYPE_CHECKING:
    from sdsd.dataset.export import Counts
    from sdsd.models.doctor import Finding
    from sdsd.models.weights import Status
    from sdsd.runs.directory import RunDir
    from sdsd.runs.estimate import Estimate
    from sdsd.runs.events import Event
    from sdsd.runs.experiment import Outcome
    from sdsd.runs.runner import Result
    from sdsd.runs.status import State
    from sdsd.runs.verify import Replay
    from sdsd.scenarios.catalogue import Catalogue
    from sdsd.scenarios.quotas import Standing
    from sdsd.types import Usage

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

_UNSEEN = {*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200B, 0x200E, 0x200F, 0xFEFF,
           *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x0A}  # fmt: skip
_SHOWN = {code: f"\\u{code:04x}" if code != 9 else "    " for code in _UNSEEN}


def safe(text: str) -> str:
    """`text` with control and bidirectional characters spelled out."""
    return text.encode("utf-8", "replace").decode().translate(_SHOWN)


def emit(value: object) -> None:
    """`value` as JSON on standard output."""
    data = msgspec.json.encode(value, enc_hook=str)
    sys.stdout.write(msgspec.json.format(data, indent=2).decode() + "\n")


def fault(message: str) -> None:
    """One error, for a person, on standard error."""
    err.print(Text.assemble(("error: ", "bold red"), safe(message)), soft_wrap=True)


# -- progress ------------------------------------------------------------------------------

STAGES = ("plan", "turn", "check", "critique", "revise", "recheck")
_COUNTED_AS = dict.fromkeys(("candidate", "earlier", "adherence"), "critique")
"""Stages that are counted with another one."""


class Screen:
    """Hears a run's events and shows them; `hear` and `download` are handed to the run."""

    def __init__(self, *, lines: bool = False, quiet: bool = False) -> None:
        self._lines = lines
        self._quiet = quiet
        self._n = self._done = self._begun_with = self._wanted = self._pairs = 0
        self._began = False
        self._title = ""
        self._notes: deque[str] = deque(maxlen=3)
        self._calls: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._recent: deque[tuple[float, int]] = deque()
        self._outcomes: Counter[str] = Counter()
        self._started = time.monotonic()
        self._told = 0.0
        self._fetching = ""
        self._tenths: dict[str, int] = {}

    def hear(self, event: Event) -> None:
        """One event of `sdsd.runs.session`."""
        from sdsd.runs import events

        match event:
            case events.Began(path, n, done, slots, protocol, wanted, pairs):
                self._n, self._done, self._begun_with = n, done, done
                self._wanted, self._pairs, self._began = wanted, pairs, True
                self._started = time.monotonic()
                self._title = f"{path} · {protocol} · {slots} open at once"
                so_far = f"{done} of {n}" if n else str(done)
                if wanted:
                    so_far += f" ({pairs} of {wanted} pairs)"
                self._line(f"{path}: {so_far} dialogues done, {protocol}, {slots} open")
            case events.Called(_, answer):
                self._called(event.stage, answer.completion_tokens, answer.seconds)
            case events.Recorded(record):
                self._recorded(record)
            case events.Noted(text):
                self._notes.append(text)
                self._line(text)

    def download(self, what: str, done: int, total: int) -> None:
        """How far a download or a check of a file is, in bytes."""
        tenth = 10 * done // max(total, 1)
        size = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        self._fetching = f"{_bar(done / max(total, 1))} {what}, {size}"
        if tenth > self._tenths.get(what, -1):
            self._tenths[what] = tenth
            self._line(f"{what}: {10 * tenth}% of {total / 1e6:,.0f} MB")

    def _called(self, stage: str, tokens: int, seconds: float) -> None:
        now = time.monotonic()
        stage = _COUNTED_AS.get(stage, stage)
        self._calls[stage] += 1
        self._tokens[stage] += tokens
        self._seconds[stage] += seconds
        self._recent.append((now, tokens))
        while self._recent and self._recent[0][0] < now - 30:
            self._recent.popleft()
        if now - self._told > 20:
            self._told = now
            calls = " ".join(f"{s} {self._calls[s]}" for s in STAGES if self._calls[s])
            self._line(f"  calls so far: {calls}; {self._rate(now):.1f} tokens/s")

    def _recorded(self, record: Record) -> None:
        self._done += 1
        self._outcomes[record.outcome] += 1
        self._pairs += bool(record.pairs)
        if not self._quiet:  # above the live picture too: it stays when the picture is gone
            count = f"{self._done}/{self._n}" if self._n else f"{self._done}"
            line = f"[{count}] dialogue {record.scenario.index}: {headline(record)}"
            err.print(Text(safe(line + self._eta())), soft_wrap=True)

    def _rate(self, now: float) -> float:
        if not self._recent:
            return 0.0
        span = max(now - self._recent[0][0], now - max(self._started, now - 30), 1.0)
        return sum(tokens for _, tokens in list(self._recent)) / span

    def _eta(self) -> str:
        made = self._done - self._begun_with
        left = self._n - self._done
        if not made or left <= 0:
            return ""
        return f"  (about {duration((time.monotonic() - self._started) / made * left)} left)"

    def _line(self, text: str) -> None:
        if self._lines:
            err.print(Text(safe(text)), soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """The live picture; drawn by the display's own thread, so it copies what it walks over."""
        parts: list[RenderableType] = []
        if self._began:
            now = time.monotonic()
            share = self._pairs / self._wanted if self._wanted else self._done / self._n
            count = f"{self._done}/{self._n}" if self._n else f"{self._done}"
            accepted = self._outcomes["accepted"]
            made = self._done - self._begun_with
            yields = f"{accepted} pairs ({100 * accepted / made:.0f}%)" if made else "no pair yet"
            head = (f" {count} dialogues  ", (yields, "green"))
            rest = f"  {self._rate(now):.1f} tokens/s  {duration(now - self._started)}"
            parts.append(Text.assemble((_bar(share), "cyan"), *head, rest, self._eta()))
            parts.append(self._stages())
        if self._fetching and not self._began:
            parts.append(Text(self._fetching, style="cyan", no_wrap=True))
        parts += [Text(safe(note), style="dim", no_wrap=True) for note in list(self._notes)]
        return Panel(Group(*parts), title=Text(safe(self._title) or "sdsd"), title_align="left")

    def _stages(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("")
        for stage in STAGES:
            table.add_column(stage, justify="right", min_width=8)
        for name, counts in (("calls", self._calls), ("tokens", self._tokens)):
            table.add_row(name, *(f"{counts[s]:,}" for s in STAGES))
        table.add_row(
            "s/call", *(f"{self._seconds[s] / self._calls[s]:.1f}" if self._calls[s] else "-"
                        for s in STAGES)
        )  # fmt: skip
        return table


def _bar(share: float, width: int = 36) -> str:
    filled = min(width, int(width * share))
    return "█" * filled + "░" * (width - filled)


@contextlib.contextmanager
def progress(*, json: bool = False) -> Iterator[Screen]:
    """A live picture on a terminal, plain lines elsewhere, silence with `json`."""
    screen = Screen(lines=not json and not err.is_terminal, quiet=json)
    if json or not err.is_terminal:
        yield screen
        return
    # Twice a second: drawing costs time that the embedded engine wants.
    with Live(screen, console=err, refresh_per_second=2, transient=True):
        yield screen


def headline(record: Record) -> str:
    """One record on one line."""
    topic = f"{record.scenario.subarea}"
    if record.failure:
        return f"failed at {record.failure.step} ({record.failure.cause}) - {topic}"
    fate = record.outcome if not record.rule else f"{record.outcome}: {record.rule}"
    turns = f", {len(record.dialogue.messages)} turns" if record.dialogue else ""
    return f"{fate}{turns} - {topic}"


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s`, `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


# -- results -------------------------------------------------------------------------------


def finished(result: Result, *, json: bool) -> None:
    """What came of a run, and where it is."""
    if json:
        emit(result)
        return
    how = "stopped" if result.stopped else "done"
    of = f"{result.done} of {result.n}" if result.n else str(result.done)
    out.print(
        f"{how}: {of} dialogues, {result.accepted} verified pairs, in {duration(result.seconds)}"
    )
    for name, count in sorted(result.outcomes.items()):
        out.print(f"  {count:>6}  {name}")
    for line in targets(result.targets):
        out.print(safe(line), soft_wrap=True)
    if result.done:
        out.print(f"data    {result.path / 'data'}", soft_wrap=True)
        out.print(f"report  {result.path / 'report.html'}", soft_wrap=True)
        out.print(f"read    sdsd show 0 {result.path}", soft_wrap=True)
    if result.stopped:
        out.print("the same command goes on where this stopped")


def exported(
    rundir: RunDir, counts: Counts | None, files: Mapping[Path, int], *, json: bool
) -> None:
    """What an export wrote, and what it left out."""
    if json:
        emit({"counts": counts, "files": {str(path): rows for path, rows in files.items()}})
        return
    if counts is None:
        out.print("nothing to export yet: no model was called")
        return
    for view, rows in counts.rows.items():
        splits = counts.splits.get(view, {})
        where = "  ".join(f"{name} {part.rows:,}" for name, part in splits.items())
        out.print(f"{rows:>8,}  {view}" + (f"  ({where})" if len(splits) > 1 else ""))
    for rule, number in counts.removed.items():
        out.print(f"{number:>8,}  left out: {safe(rule)}")
    for path in (rundir.data, rundir.card, rundir.report):
        out.print(str(path), soft_wrap=True)
    for path, rows in files.items():
        out.print(f"{path}  ({rows:,} lines)", soft_wrap=True)


def compared(outcome: Outcome, *, json: bool) -> None:
    """What came of an experiment."""
    if json:
        emit(outcome)
        return
    found = outcome.comparison
    if found is None:
        out.print("stopped; the same command goes on where this stopped")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("arm", "scenarios", "violations", "yield", "95%", "verified pairs", "tokens per pair")
    for head in heads:
        table.add_column(head, justify="left" if head == "arm" else "right")
    for name, figures in found.runs.items():
        yielded, cost = figures.accepted, figures.pair_cost.tokens
        table.add_row(
            Text(safe(name)),
            f"{figures.finished:,}",
            f"{figures.violating.share:.1%}",
            f"{yielded.share:.1%}",
            f"{yielded.low:.0%} to {yielded.high:.0%}",
            f"{figures.pairs:,}",
            f"{cost.value:,.0f}" if cost else "-",
        )
    out.print(table)
    baseline, *others = found.runs
    for measure in found.measures:
        for name, change in zip(others, measure.changes, strict=True):
            if change and change.paired and change.interval:
                low, high = change.interval.low, change.interval.high
                text = f"{name}: {measure.name} {change.value:+,.3g} ({low:+,.3g} to {high:+,.3g})"
                out.print(Text(safe(f"{text} compared with {baseline}")), soft_wrap=True)
    out.print(f"report  {outcome.path / 'report.html'}", soft_wrap=True)


def targets(standings: Sequence[Standing]) -> Iterator[str]:
    """How far targets are; those given up by name, with the reason."""
    if not standings:
        return
    counts = Counter(s.status for s in standings)
    pairs = [s.pairs for s in standings if s.wanted]
    yield (
        f"targets: {counts['reached']} of {len(standings)} cells reached, "
        f"{counts['lagging']} under way, {counts['given up']} given up; "
        f"{min(pairs, default=0)} to {max(pairs, default=0)} pairs in a cell"
    )
    for standing in standings:
        if standing.status == "given up":
            yield f"  given up: {standing.cell}: {standing.reason}"


def status(state: State, *, json: bool) -> None:
    """How far a run is."""
    if json:
        emit({"path": state.path, "n": state.n, "done": state.done, "answers": state.answers,
              "running": state.running, "outcomes": state.outcomes, "usage": state.usage,
              "money": state.money})  # fmt: skip
        return
    whole = state.n and state.done >= state.n
    now = "running" if state.running else ("complete" if whole else "not running")
    of = f"{state.done} of {state.n}" if state.n else str(state.done)
    out.print(f"{state.path}: {of} dialogues, {now}", soft_wrap=True)
    for line in targets(state.targets):
        out.print(safe(line), soft_wrap=True)
    for name, count in sorted(state.outcomes.items()):
        out.print(f"  {count:>6}  {name}")
    out.print(f"  {state.answers:>6}  model calls recorded")
    if state.manifest:
        names = sorted(set(state.manifest.models.values()))
        out.print(f"made with {', '.join(names)} by {state.manifest.protocol}", soft_wrap=True)
    if state.usage:
        out.print(_spent(state.usage))
    if state.money:
        out.print(f"cost so far: {state.money:,.2f}")


def _spent(usage: Sequence[Usage]) -> Table:
    """Calls and tokens by stage and role."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "role", "model"):
        table.add_column(name)
    for name in ("calls", "read", "from cache", "written", "s/call"):
        table.add_column(name, justify="right")
    for u in usage:
        cached = f"{u.cached_tokens / u.prompt_tokens:.0%}" if u.cached_tokens else "-"
        each = f"{u.seconds / u.calls:.2f}" if u.calls and u.seconds else "-"
        numbers = (f"{u.calls:,}", f"{u.prompt_tokens:,}", cached, f"{u.completion_tokens:,}")
        table.add_row(u.stage, u.role, safe(u.model), *numbers, each)
    return table


_RATES = (50, 1_000, 20_000)
"""Tokens written per second: a laptop, one GPU, a few."""


def estimate(found: Estimate, *, json: bool) -> None:
    """What a run is going to take."""
    if json:
        emit(found)
        return
    out.print(f"{found.left:,} dialogues to make; estimated from {found.basis}", soft_wrap=True)
    if not found.calls:
        return
    out.print(_spent(found.usage))
    read, written = found.prompt_tokens, found.completion_tokens
    out.print(f"in all {found.calls:,} calls, {read:,} tokens read, {written:,} written")
    if found.money:
        out.print(f"cost   {found.money:,.2f}, without what a cache saves")
    times = ", ".join(f"{duration(written / rate)} at {rate:,}" for rate in _RATES)
    out.print(f"time   {times} tokens written per second (`sdsd doctor` measures)", soft_wrap=True)


def verified(verdict: Replay, *, json: bool) -> None:
    """The outcome of a replay."""
    if json:
        emit(verdict)
        return
    for found in verdict.faults:
        err.print(Text.assemble(("fault: ", "bold red"), safe(found)), soft_wrap=True)
    if not verdict.faults:
        out.print(
            f"verified: {verdict.records} records from {verdict.answers} recorded answers replay "
            "to the same data set"
        )


def dialogue(record: Record, *, json: bool) -> None:
    """One dialogue, to be read."""
    if json:
        emit(record)
        return
    _print_scenario(record.scenario)
    if record.plan:
        plan = Text(safe(record.plan.text))
        out.print(Panel(plan, title="plan", title_align="left", style="dim"))
    if record.dialogue:
        for message in record.dialogue.messages:
            name, style = ("user", "cyan") if message.role == "user" else ("agent", "yellow")
            out.print(Text(name, style=f"bold {style}"))
            out.print(Text(safe(message.content) + "\n"))
        out.print(Text(f"stop: {record.dialogue.stop}\n", style="dim"))
    for name, critique in _critiques(record):
        for verdict in critique.verdicts:
            _print_verdict(name, verdict)
    for number, revision in enumerate(record.revisions, 1):
        out.print(Text(f"\nrevision {number} {revision.defect}", style="bold green"))
        out.print(Text(safe(revision.text)))
    out.print(Text(f"\n{safe(headline(record))}", style="bold"))
    if record.failure and record.failure.raw:
        out.print(Panel(Text(safe(record.failure.raw)), title="raw reply", title_align="left"))


def _print_scenario(s: Scenario) -> None:
    head = Table.grid(padding=(0, 2))
    head.add_row("topic", Text(safe(f"{s.subarea} ({s.domain}; {s.field})")))
    head.add_row("goal", Text(safe(s.goal.text)))
    for principle in s.principles:
        head.add_row("principle", Text(safe(principle.text)))
    out.print(Panel(head, title=f"dialogue {s.index}", title_align="left"))


def _print_verdict(name: str, v: Verdict) -> None:
    mark = "violated" if v.confirmed else ("claimed, no evidence" if v.violated else "kept")
    style = "red" if v.violated else "green"
    out.print(Text(safe(f"{name}: {v.principle}: {mark}"), style=style))
    out.print(Text(safe(v.reason), style="dim"))
    if v.quote:
        out.print(Text(safe(f'"{v.quote}"'), style="italic"))


def _critiques(record: Record) -> Iterator[tuple[str, Critique]]:
    if record.critique:
        yield "critique", record.critique
    for number, revision in enumerate(record.revisions, 1):
        if revision.recheck:
            yield f"recheck {number}", revision.recheck


def models(statuses: Sequence[Status], *, json: bool) -> None:
    """The named models."""
    if json:
        emit([msgspec.to_builtins(s, enc_hook=str) for s in statuses])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "size", "licence", "here", "note"):
        table.add_column(column)
    for s in statuses:
        row = s.row
        table.add_row(row.name, f"{row.size / 1e6:,.0f} MB", row.licence, s.state, row.note)
    out.print(table)


def catalogue(loaded: Catalogue, *, json: bool) -> None:
    """What is in a catalogue."""
    families = Counter(p.family for p in loaded.principles)
    counts = {
        "fields": len(loaded.fields),
        "domains": len(loaded.domains),
        "subareas": sum(len(d.subareas) for d in loaded.domains),
        "principles": len(loaded.principles),
        "goals": len(loaded.goals),
        "digest": loaded.digest,
    }
    if json:
        emit({**counts, "families": families})
        return
    for name, count in counts.items():
        out.print(f"{name:<11}{count}", soft_wrap=True)
    out.print("families   " + ", ".join(f"{name} {k}" for name, k in families.most_common()))


def scenarios(found: Sequence[Scenario]) -> None:
    """Scenarios, one block each."""
    for s in found:
        out.print(Text(safe(f"{s.id}  {s.domain}: {s.subarea}"), style="bold"), soft_wrap=True)
        out.print(Text(safe(f"  {s.goal.text}")), soft_wrap=True)
        for p in s.principles:
            out.print(Text(safe(f"  - {p.text}"), style="dim"), soft_wrap=True)


def findings(found: Sequence[Finding], *, json: bool) -> None:
    """What `doctor` found."""
    if json:
        emit(found)
        return
    marks = {True: ("ok  ", "green"), False: ("BAD ", "bold red"), None: ("    ", "dim")}
    width = max(len(f.name) for f in found) + 2
    for f in found:
        out.print(Text.assemble(marks[f.ok], f"{f.name:<{width}}", safe(f.text)), soft_wrap=True)
