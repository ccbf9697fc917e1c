"""Looking at a run: find it, count it, read one dialogue, publish it again. No model is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from sdsd import config as configuration
from sdsd.config.manifest import Manifest
from sdsd.dataset import trainer_formats
from sdsd.dataset.export import Counts
from sdsd.errors import RunDirError
from sdsd.files import write_atomic
from sdsd.reports.html import comparison_page
from sdsd.reports.metrics.comparison import compare_runs
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.money import money
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.publish import collect, publish
from sdsd.runs.runner import check_files, outcome_counts, read_inputs, standings_of
from sdsd.scenarios.quotas import Standing
from sdsd.types import Record, Usage


class State(Struct, frozen=True):
    """How far a run is."""

    path: Path
    n: int
    outcomes: dict[str, int]
    answers: int
    """Model calls recorded."""
    usage: list[Usage]
    """What was asked and answered, by stage, role and model."""
    money: float
    """What that cost; 0 where no model has a price."""
    manifest: Manifest | None
    running: bool
    """Another process holds the directory right now."""
    targets: tuple[Standing, ...] = ()
    """How far each cell of the targets is; empty without targets."""

    @property
    def done(self) -> int:
        """Dialogues that have a record."""
        return sum(self.outcomes.values())


def find(path: Path | None) -> RunDir:
    """The run at `path`, or the one under `runs/` that was last written to."""
    if path is not None:
        rundir = RunDir(path)
        rundir.config()  # says what is wrong if it is none
        return rundir
    journals = list(Path("runs").glob("*/journal.sqlite*"))
    if not journals:
        raise RunDirError("no run under ./runs; name a run directory, or begin with `sdsd run`")
    return RunDir(max(journals, key=lambda p: p.stat().st_mtime).parent)


def state(rundir: RunDir) -> State:
    """Counts from the journal, while the run goes on or afterwards."""
    config = rundir.config()
    with Journal(rundir.journal, readonly=True) as journal:
        usage = journal.usage()
        return State(
            path=rundir.path,
            n=config.n,
            outcomes=outcome_counts(journal),
            answers=journal.answers(),
            usage=usage,
            money=money(usage, config),
            manifest=rundir.manifest(),
            running=rundir.held(),
            targets=standings_of(read_inputs(config), journal) if config.targets.on else (),
        )


def record(rundir: RunDir, index: int) -> Record:
    """One finished dialogue. Raises `RunDirError` if it is not there (yet)."""
    with Journal(rundir.journal, readonly=True) as journal:
        found = journal.record(index)
        if found is None:
            done = sum(journal.outcomes().values())
            raise RunDirError(
                f"{rundir.path}: dialogue {index} is not finished or does not exist; "
                f"{done} are finished, counted from 0"
            )
        return found


def republish(rundir: RunDir, changes: Sequence[str] = ()) -> Counts | None:
    """Write the data set, the card and the report anew; None if there is nothing to write yet.

    `changes` are `key=value` of the configuration's `export`, which the run keeps.
    """
    config = rundir.config()
    if changes:
        said = dict(map(configuration.assignment, changes))
        keys = {f"export.{key.removeprefix('export.')}": value for key, value in said.items()}
        config = configuration.load(configuration.tree(config), keys)
    inputs = read_inputs(config)
    if changes:
        check_files(config.export)
        with rundir.lock():
            rundir.prepare(config)
    # No lock: a run may be going on. Every file is replaced whole, whoever writes it.
    with Journal(rundir.journal, readonly=True) as journal:
        return publish(rundir, journal, inputs.catalogue)


def write_format(rundir: RunDir, name: str, to: Path | None = None) -> dict[Path, int]:
    """Write the exported data set in a trainer's format; return the rows of each file."""
    out = to or rundir.path / "formats" / name.rpartition(":")[2]
    written = trainer_formats.write(rundir.data, name, out)
    return {out / path: rows for path, rows in written.items()}


def compared(rundir: RunDir, other: RunDir, *, json: bool = False) -> str:
    """A run held against another one: the path of a page beside its report, or figures as JSON."""
    configs = other.config(), rundir.config()
    found = compare_runs(_figures(other), _figures(rundir), configs)
    if json:
        return comparison_page.to_json(found).decode().rstrip()
    before, after = other.path.resolve().name, rundir.path.resolve().name
    path = rundir.path / f"against-{before}.html"
    write_atomic(path, comparison_page.render(found, before, after).encode("utf-8", "replace"))
    return str(path)


def figures(rundir: RunDir) -> str:
    """The report's figures as JSON."""
    return msgspec.json.format(msgspec.json.encode(_figures(rundir)), indent=2).decode()


def _figures(rundir: RunDir) -> Figures:
    inputs = read_inputs(rundir.config())
    with Journal(rundir.journal, readonly=True) as journal:
        return collect(journal, inputs.config, inputs.catalogue)
