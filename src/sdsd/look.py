"""Looking at a run: find it, count it, read one dialogue, publish it again. No model is called."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from sdsd.account import money
from sdsd.errors import RunDirError
from sdsd.journal import Journal, Usage
from sdsd.publish import collect, publish
from sdsd.rundir import Manifest, RunDir
from sdsd.runner import outcome_counts, read_inputs, standings_of
from sdsd.targets import Standing
from sdsd.types import Record


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


def republish(rundir: RunDir) -> None:
    """Write the data set, the card and the report anew."""
    inputs = read_inputs(rundir.config())
    # No lock: a run may be going on. Every file is replaced whole, whoever writes it.
    with Journal(rundir.journal, readonly=True) as journal:
        publish(rundir, journal, inputs.catalogue)


def figures(rundir: RunDir) -> str:
    """The report's figures as JSON."""
    inputs = read_inputs(rundir.config())
    with Journal(rundir.journal, readonly=True) as journal:
        found = collect(journal, inputs.config, inputs.catalogue)
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
