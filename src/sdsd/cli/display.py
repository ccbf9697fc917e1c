"""Print the results of commands, as text or, with `--json`, as JSON.

Text that a model wrote passes through `safe` first.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sdsd.cli.streams import print_json
from sdsd.reports.html.text import duration
from sdsd.runs.progress import err, headline, safe
from sdsd.types import Critique, Record, Scenario, Verdict

if TYPE_CHECKING:
    from sdsd.dataset.export import Counts
    from sdsd.models.doctor import Diagnosis
    from sdsd.models.weights import Status
    from sdsd.reports.advice import Advice
    from sdsd.reports.stats import Interval
    from sdsd.runs.estimate import Estimate
    from sdsd.runs.experiment import Outcome
    from sdsd.runs.run import Run, RunStatus
    from sdsd.runs.take_exam import Taken
    from sdsd.runs.verify import Verification
    from sdsd.scenarios.catalogue import Catalogue
    from sdsd.scenarios.quotas import CellProgress
    from sdsd.types import Usage

out = Console(highlight=False, markup=False)
_CAUSES = 8
"""Causes of failure that are listed, and dialogues of each."""


def emit(value: object) -> None:
    """Print `value` as JSON."""
    data = msgspec.json.encode(value, enc_hook=str)
    print_json(msgspec.json.format(data, indent=2).decode())


def result(text: str, value: object, *, json: bool) -> None:
    """Print what a command made: `text`, or with `json` the `value`."""
    if json:
        emit(value)
    else:
        out.print(text, soft_wrap=True)


def written(path: Path, counts: msgspec.Struct, text: str, *, json: bool) -> None:
    """Say what a command wrote to `path`."""
    result(safe(text), {"path": path, **msgspec.structs.asdict(counts)}, json=json)


def error_line(message: str) -> None:
    """Print one error to standard error."""
    err.print(Text.assemble(("error: ", "bold red"), safe(message)), soft_wrap=True)


# -- results -------------------------------------------------------------------------------


def finished(run: Run, status: RunStatus, *, json: bool) -> None:
    if json:
        emit({**msgspec.structs.asdict(status), "seconds": run.seconds, "stopped": run.stopped})
        return
    how = "stopped" if run.stopped else "done"
    out.print(f"{how}: {_counts(status)}, in {duration(run.seconds)}")
    _print_outcomes(status)
    if status.done:
        out.print(f"data    {run.path / 'data'}", soft_wrap=True)
        out.print(f"report  {run.path / 'report.html'}", soft_wrap=True)
        out.print(f"read    sdsd show {shlex.quote(str(run.path))} 0", soft_wrap=True)
    if run.stopped:
        _print_stop(run.stopped)
    elif status.advice:
        _print_advice(status.advice)


def _print_stop(reason: str) -> None:
    out.print(f"stopped because: {safe(reason)}", soft_wrap=not out.is_terminal)
    out.print("the same command continues from here")


def dropped(index: int, answers: int) -> None:
    """Say what `sdsd verify --drop` has removed."""
    what = f"{answers} answers and its record" if answers else "its record; its answers are sound"
    err.print(Text(f"dialogue {index}: removed {what}; `sdsd run` makes it again"), soft_wrap=True)


def demonstrated(path: Path) -> None:
    """Say what to look at in the demonstration."""
    run = shlex.quote(str(path))
    out.print("\nThe replies of this run were written by hand; the pipeline did the rest. Look at")
    for command, what in (
        (f"sdsd list {run}", "its dialogues, a line each"),
        (f"sdsd show {run} 2", "one dialogue: plan, turns, verdicts, three pairs"),
        (f"sdsd verify {run}", "every record made again from its recorded answers"),
        (f"sdsd export {run} --format openai-preference", "the same pairs for another trainer"),
    ):
        out.print(f"  {command}", soft_wrap=True)
        out.print(f"      {what}")
    out.print(f"and open {path / 'report.html'} in a browser.", soft_wrap=True)


def _print_advice(found: Sequence[Advice]) -> None:
    """Say why a run has no verified pairs, and what would help."""
    out.print("\nWhy there are no verified pairs:")
    for advice in found:
        out.print(f"- {advice.reason}; {advice.remedy}", soft_wrap=True)
        if advice.options:
            out.print(f"    sdsd run {advice.options}", soft_wrap=True, markup=False)


def _counts(status: RunStatus) -> str:
    of = f"{status.done} of {status.n}" if status.n else str(status.done)
    return f"{of} dialogues, {status.accepted} accepted, {status.pairs} verified pairs"


def _print_outcomes(status: RunStatus) -> None:
    for name, count in sorted(status.outcomes.items()):
        out.print(f"  {count:>6}  {name}")
    for cause, indexes in sorted(status.failures.items(), key=lambda f: -len(f[1]))[:_CAUSES]:
        which = ", ".join(map(str, indexes[:_CAUSES])) + (", ..." if len(indexes) > _CAUSES else "")
        out.print(f"          {len(indexes)} x {safe(cause)} (dialogue {which})", soft_wrap=True)
    for line in targets(status.targets):
        out.print(safe(line), soft_wrap=True)


def exported(path: Path, counts: Counts | None, files: Mapping[Path, int], *, json: bool) -> None:
    if json:
        emit({"counts": counts, "files": {str(file): rows for file, rows in files.items()}})
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
    for name in ("data", "README.md", "report.html"):
        out.print(str(path / name), soft_wrap=True)
    for file, rows in files.items():
        out.print(f"{file}  ({rows:,} lines)", soft_wrap=True)


def figures(run: Run, other: Run | None) -> None:
    """Print the figures of a run's report, or of its comparison with another, as JSON."""
    if other is None:
        emit(run.figures())
        return
    from sdsd.reports.metrics.comparison import to_json

    print_json(to_json(run.compare(other)).decode())


def compared(outcome: Outcome, *, json: bool) -> None:
    if json:
        emit({"path": outcome.path, "comparison": outcome.comparison, "stopped": outcome.stopped,
              "runs": {name: run.status() for name, run in outcome.runs.items()}})  # fmt: skip
        return
    found = outcome.comparison
    if found is None:
        _print_stop(outcome.stopped)
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


def examined(taken: Taken, *, json: bool) -> None:
    """Print an exam's table: a row for each judge, with 95% intervals."""
    result = taken.result
    if json:
        emit(result)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    failed = any(judged.failures for judged in result.judges.values())
    for head in ("judge", "AUC", "in pair", "precision", "recall", "tokens", "s"):
        left, wide = head == "judge", head not in ("judge", "tokens", "s")
        table.add_column(head, justify="left" if left else "right", min_width=9 if wide else None)
    if failed:
        table.add_column("failed", justify="right")
    for name, judged in result.judges.items():
        figures, cost, n = judged.overall, judged.cost, max(len(judged.answers), 1)
        claims = figures.violated
        scores = (figures.auc, figures.within, claims.precision, claims.recall)
        table.add_row(
            Text(safe(name)),
            *map(_interval, scores),
            f"{(cost.prompt_tokens + cost.completion_tokens) / n:,.0f}",
            f"{cost.seconds / n:.1f}",
            *([str(len(judged.failures) or "-")] if failed else ()),
        )
    out.print(f"{result.model}: {result.n} of {result.of} items", soft_wrap=True)
    out.print(table)
    out.print(
        f"precision and recall of claimed violations, at a wanted precision of {result.precision:g}"
        " and on principles that the threshold was not chosen on; tokens and seconds per item",
        soft_wrap=True,
    )
    for name, judged in result.judges.items():
        if judged.calibration and not judged.calibration.trusted:
            out.print(
                Text(safe(f"{name}: no better than chance as far as these items show, so it cannot "
                          "verify pairs"), style="yellow"),
                soft_wrap=True,
            )  # fmt: skip
    for name in ("exam.json", "exam.html"):
        out.print(str(taken.path / name), soft_wrap=True)


def _interval(found: Interval | None) -> str:
    """Write a share, and its interval below it."""
    return f"{found.value:.2f}\n{found.low:.2f}-{found.high:.2f}" if found else "-"


def targets(standings: Sequence[CellProgress]) -> Iterator[str]:
    """Yield lines on the progress of the targets, with the reason for each cell given up."""
    if not standings:
        return
    counts = Counter(s.status for s in standings)
    pairs = [s.pairs for s in standings if s.wanted]
    yield (
        f"targets: {counts['reached']} of {len(standings)} cells reached, "
        f"{counts['lagging']} in progress, {counts['given up']} given up; "
        f"{min(pairs, default=0)} to {max(pairs, default=0)} verified pairs per cell"
    )
    for standing in standings:
        if standing.status == "given up":
            yield f"  given up: {standing.cell}: {standing.reason}"


def status(found: RunStatus, *, json: bool) -> None:
    if json:
        emit(found)
        return
    complete = found.n and found.done >= found.n
    now = "running" if found.running else ("complete" if complete else "not running")
    out.print(f"{found.path}: {_counts(found)}, {now}", soft_wrap=True)
    _print_outcomes(found)
    out.print(f"  {found.answers:>6}  model calls recorded")
    if found.unpublished and not found.running:
        lacking = f"  {found.unpublished:>6}  not in the data set yet; `sdsd export` writes it"
        out.print(lacking, soft_wrap=True)
    if found.models:
        names = ", ".join(sorted(set(found.models.values())))
        out.print(f"made with {safe(names)} by {found.protocol}", soft_wrap=True)
    if found.usage:
        out.print(_spent(found.usage))
    if found.money:
        out.print(f"cost so far: {found.money:,.2f}")


def _spent(usage: Sequence[Usage]) -> Table:
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
"""Completion tokens per second: a laptop, one GPU, a few."""


def estimate(found: Estimate, *, json: bool) -> None:
    if json:
        emit(found)
        return
    out.print(f"{found.left:,} dialogues to make; estimated from {found.basis}", soft_wrap=True)
    if not found.calls:
        return
    out.print(_spent(found.usage))
    read, written = found.prompt_tokens, found.completion_tokens
    out.print(f"total  {found.calls:,} calls, {read:,} tokens read, {written:,} written")
    if found.money:
        out.print(f"cost   {found.money:,.2f}, before any savings from a prefix cache")
    times = ", ".join(f"{duration(written / rate)} at {rate:,}" for rate in _RATES)
    out.print(f"time   {times} tokens written per second (`sdsd doctor` measures)", soft_wrap=True)


def verified(path: Path, found: Verification, *, json: bool) -> None:
    if json:
        emit(found)
        return
    for text in found.warnings:
        err.print(Text.assemble(("warning: ", "bold yellow"), safe(text)), soft_wrap=True)
    for text in found.defects:
        err.print(Text.assemble(("defect: ", "bold red"), safe(text)), soft_wrap=True)
    if not found.defects:
        out.print(
            f"verified: {found.records} records from {found.answers} recorded answers replay to "
            f"the data set in {path}",
            soft_wrap=True,
        )


def dialogue(record: Record, *, json: bool) -> None:
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
    if record.critique:
        _print_critique("critique", record.critique)
    for number, revision in enumerate(record.revisions, 1):
        refused = f", refused: {revision.defect}" if revision.defect else ""
        out.print(Text(f"\nrevision {number}{refused}", style="bold green"))
        out.print(Text(safe(revision.text) + "\n"))
        if revision.recheck:
            _print_critique(f"recheck {number}", revision.recheck)
    _print_pairs(record)
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


def _print_pairs(record: Record) -> None:
    chosen = {
        "contrast": "a sibling, told to satisfy the principle",
        "revision": "the last revision",
        "on_policy": "another sample of the last reply",
    }
    verified = record.verified
    for number, pair in enumerate(record.pairs, 1):
        head = f"\npair {number}: rejected is the last reply, chosen is {chosen[pair.kind]}"
        out.print(Text(head, style="bold green"))
        likely = "" if pair.probability is None else f", true with probability {pair.probability}"
        out.print(Text(f"{'verified' if pair in verified else 'unverified'}{likely}", style="dim"))
        out.print(Text(safe(pair.chosen)))


def _print_critique(name: str, critique: Critique) -> None:
    for verdict in critique.verdicts:
        _print_verdict(name, verdict)


def _print_verdict(name: str, v: Verdict) -> None:
    mark, style = _verdict_mark(v)
    probability = v.probability if v.calibrated is None else v.calibrated
    likely = "" if probability is None else f" (violated with probability {probability:.2f})"
    out.print(Text(safe(f"{name}: {v.principle}: {mark}{likely}"), style=style))
    out.print(Text(safe(v.reason), style="dim"))
    if v.quote:
        out.print(Text(safe(f'"{v.quote}"'), style="italic"))


def _verdict_mark(v: Verdict) -> tuple[str, str]:
    """Return what a verdict says, and its colour."""
    if v.undecided:
        return "undecided", "yellow"
    if v.violated:
        return "violated" if v.confirmed else "violated, without evidence", "red"
    return "satisfied", "green"


def models(statuses: Sequence[Status], *, json: bool) -> None:
    if json:
        emit(statuses)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "size", "licence", "here", "note"):
        table.add_column(column)
    for s in statuses:
        row = s.weights
        table.add_row(row.name, f"{row.size / 1e6:,.0f} MB", row.licence, s.state, row.note)
    out.print(table)


def catalogue(loaded: Catalogue, *, json: bool) -> None:
    families = Counter(p.family for p in loaded.principles)
    counts = {
        "fields": len(loaded.fields),
        "domains": len(loaded.domains),
        "subareas": sum(len(d.subareas) for d in loaded.domains),
        "principles": len(loaded.principles),
        "goals": len(loaded.goals),
        "affinities": len(loaded.affinities),
        "digest": loaded.digest,
    }
    if json:
        emit({**counts, "families": families})
        return
    for name, count in counts.items():
        out.print(f"{name:<11}{count}", soft_wrap=True)
    out.print("families   " + ", ".join(f"{name} {k}" for name, k in families.most_common()))


def scenarios(found: Sequence[Scenario], *, json: bool = False) -> None:
    if json:
        emit(found)
        return
    for s in found:
        out.print(Text(safe(f"{s.id}  {s.domain}: {s.subarea}"), style="bold"), soft_wrap=True)
        out.print(Text(safe(f"  {s.goal.text}")), soft_wrap=True)
        for p in s.principles:
            out.print(Text(safe(f"  - {p.text}"), style="dim"), soft_wrap=True)


def diagnoses(found: Sequence[Diagnosis], *, json: bool) -> None:
    if json:
        emit(found)
        return
    marks = {True: ("ok  ", "green"), False: ("BAD ", "bold red"), None: ("    ", "dim")}
    width = max(len(f.name) for f in found) + 2
    for f in found:
        out.print(Text.assemble(marks[f.ok], f"{f.name:<{width}}", safe(f.text)), soft_wrap=True)
