"""`sdsd list`: the dialogues of a run, or their pairs, a line each."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdsd.cli.display import emit, out
from sdsd.errors import ConfigError
from sdsd.runs.progress import err, safe
from sdsd.runs.run import Run
from sdsd.types import Message, Outcome, PairKind, Record

_UNCUT = 10_000
"""Columns where the output is no terminal: nothing is cut then."""
_WIDE = 110
"""Columns from which there is room for the strategy."""
_CUT = ("topic", "rejected", "chosen")
"""Columns of the table that are cut where the terminal is narrow."""
_SHARED = 3
"""Words that two replies may begin with in common before these are left out."""


class Wanted(Struct, frozen=True):
    """Which dialogues to list; what is empty excludes none."""

    outcomes: Sequence[Outcome] = ()
    principle: str = ""
    """The id of the target principle."""
    strategy: str = ""
    random: int | None = None
    """That many of them, chosen at random."""


class Line(Struct, frozen=True):
    """One dialogue."""

    index: int
    outcome: Outcome
    rule: str
    """The rule by which it was filtered, or the step at which it failed."""
    pairs: int
    """Its pairs, as `sdsd status` counts them."""
    turns: int
    principle: str
    """The id of the target principle."""
    strategy: str
    topic: str


class PairLine(Struct, frozen=True):
    """One pair."""

    index: int
    """Of its dialogue."""
    kind: PairKind
    probability: float | None
    """That both labels are right, by the critic's exam; None without one."""
    principle: str
    strategy: str
    prompt: tuple[Message, ...]
    rejected: str
    chosen: str


def dialogues(run: Run, wanted: Wanted, *, json: bool) -> None:
    """Print a line for each wanted dialogue."""
    lines = [_line(record) for record in _chosen(run, wanted)]
    if json:
        emit(lines)
        return
    cells: dict[str, list[str]] = {
        "#": [str(line.index) for line in lines],
        "outcome": [_fate(line) for line in lines],
        "pairs": [str(line.pairs or "-") for line in lines],
        "principle": [line.principle for line in lines],
        "strategy": [line.strategy for line in lines],
        "topic": [line.topic for line in lines],
    }
    _print(cells)
    _print_count(run, len(lines), f"of {len(run):,} dialogues")


def pairs(run: Run, wanted: Wanted, *, json: bool) -> None:
    """Print a line for each pair of the wanted dialogues."""
    lines = [line for record in _chosen(run, wanted) for line in _pair_lines(record)]
    if json:
        emit(lines)
        return
    apart = [_from_difference(line.rejected, line.chosen) for line in lines]
    cells: dict[str, list[str]] = {
        "#": [str(line.index) for line in lines],
        "kind": [str(line.kind) for line in lines],
        "principle": [line.principle for line in lines],
        "rejected": [rejected for rejected, _ in apart],
        "chosen": [chosen for _, chosen in apart],
    }
    _print(cells)
    _print_count(run, len(lines), "pairs")


def _chosen(run: Run, wanted: Wanted) -> Iterator[Record]:
    if wanted.random is None:
        return _matching(run, wanted)
    indexes = [record.scenario.index for record in _matching(run, wanted)]
    chosen = random.sample(indexes, min(wanted.random, len(indexes)))
    return (run[index] for index in sorted(chosen))


def _matching(run: Run, wanted: Wanted) -> Iterator[Record]:
    """Yield the wanted dialogues. Raises `ConfigError` for a name that no dialogue has."""
    principles: set[str] = set()
    strategies: set[str] = set()
    for record in run:
        principle, strategy = record.scenario.target_principle.id, record.scenario.strategy
        principles.add(principle)
        strategies.add(strategy)
        if (
            record.outcome in (wanted.outcomes or (record.outcome,))
            and principle == (wanted.principle or principle)
            and strategy == (wanted.strategy or strategy)
        ):
            yield record
    _require("--principle", wanted.principle, principles, run)
    _require("--strategy", wanted.strategy, strategies, run)


def _require(option: str, name: str, known: set[str], run: Run) -> None:
    if name and known and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(known))}"
        raise ConfigError(f"{option} {name}: no dialogue of {run.path} has it; {hint}")


def _line(record: Record) -> Line:
    scenario = record.scenario
    return Line(
        scenario.index,
        record.outcome,
        record.failure.step if record.failure else record.rule,
        len(record.pairs),
        len(record.dialogue.messages) if record.dialogue else 0,
        scenario.target_principle.id,
        scenario.strategy,
        scenario.subarea,
    )


def _pair_lines(record: Record) -> Iterator[PairLine]:
    scenario = record.scenario
    for pair in record.pairs:
        if record.dialogue:
            yield PairLine(
                scenario.index,
                pair.kind,
                pair.probability,
                scenario.target_principle.id,
                scenario.strategy,
                record.dialogue.messages[:-1],
                record.dialogue.last_reply,
                pair.chosen,
            )


def _fate(line: Line) -> str:
    """Say `accepted`, the rule of a dialogue that was filtered, or where it failed."""
    if line.outcome == "failed":
        return f"failed: {line.rule}"
    return line.rule or line.outcome


def _from_difference(rejected: str, chosen: str) -> tuple[str, str]:
    """Return two replies, from shortly before the first word in which they differ."""
    replies = rejected.split(), chosen.split()
    same = sum(1 for _ in takewhile(lambda words: words[0] == words[1], zip(*replies)))  # noqa: B905
    if same <= _SHARED:
        return rejected, chosen
    first, second = (" ".join(["\u2026", *words[same - 1 :]]) for words in replies)
    return first, second


def _print(cells: Mapping[str, Sequence[str]]) -> None:
    """Print columns as a table that fits the terminal, with a line for each row."""
    screen = out if out.is_terminal else Console(width=_UNCUT, highlight=False, markup=False)
    width = screen.width
    shown = {head: texts for head, texts in cells.items() if head != "strategy" or width >= _WIDE}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in shown:
        right = head in ("#", "pairs")
        table.add_column(head, justify="right" if right else "left", no_wrap=head not in _CUT)
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(_cell, row))
    if table.rows:
        screen.print(table)


def _cell(text: str) -> Text:
    return Text(" ".join(safe(text).split()), no_wrap=True, overflow="ellipsis")


def _print_count(run: Run, count: int, of: str) -> None:
    err.print(Text(safe(f"{count:,} {of}; read one: sdsd show {run.path} INDEX")), soft_wrap=True)
