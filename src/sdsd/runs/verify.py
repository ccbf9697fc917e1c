"""Proof that a run is what its journal says: make every record again with the door locked.

Nothing is asked of any model. A step that is missing, a request that differs, or a record that
comes out otherwise is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from msgspec import Struct

from sdsd.config import Config
from sdsd.config.manifest import Manifest, shown
from sdsd.dataset import export
from sdsd.errors import RunDirError, SdsdError
from sdsd.pipeline.method import Start
from sdsd.pipeline.record import make_record
from sdsd.runs.ask import Ask, locked
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.publish import selection
from sdsd.runs.rounds import Rounds
from sdsd.runs.runner import Inputs, check_manifest, method, read_inputs, sourced, start_of
from sdsd.scenarios.existing_store import Sourced
from sdsd.scenarios.sampler import Scenarios
from sdsd.types import Record, Scenario

MOST = 20
"""Faults that are kept; a run that is wrong everywhere need not say so a million times."""


class Replay(Struct, frozen=True):
    """What was found."""

    records: int
    answers: int
    faults: tuple[str, ...]


def verify(rundir: RunDir) -> Replay:
    """Replay every finished dialogue, and compare the data set with the journal."""
    inputs = read_inputs(rundir.config())
    manifest = rundir.manifest()
    if manifest is None:
        raise RunDirError(f"{rundir.path}: nothing was made yet; `sdsd run` begins")
    faults: list[str] = []
    records = 0
    with Journal(rundir.journal, readonly=True) as journal, asyncio.Runner() as loop:
        if journal.outcomes() and not journal.answers():
            raise RunDirError(
                f"{rundir.path}: the model calls of these dialogues are not here (`sdsd pull` "
                "fetches none), so nothing can be replayed"
            )
        check_manifest(manifest, inputs, rundir)
        source = sourced(inputs, rundir)
        scenarios: Scenarios | Rounds | Sourced = source or inputs.scenarios
        if (targets := inputs.config.targets).on:
            scenarios = Rounds(inputs.scenarios, targets, inputs.config.seed, journal)
            faults += scenarios.faults()
        for record in journal.records():
            records += 1
            scenario = scenarios[record.scenario.index]
            start = start_of(scenario, source)
            fault = loop.run(_replay(record, scenario, start, journal, inputs, manifest))
            if fault and len(faults) < MOST:
                faults.append(fault)
        faults += _compare_data(rundir, journal, manifest, inputs.config)
        return Replay(records, journal.answers(), tuple(faults))


async def _replay(
    record: Record,
    scenario: Scenario,
    start: Start,
    journal: Journal,
    inputs: Inputs,
    manifest: Manifest,
) -> str | None:
    """What is wrong with the record of a scenario; None if it comes out the same."""
    index = scenario.index
    if scenario != record.scenario:
        return f"dialogue {index}: its scenario is not the one that the catalogue gives today"
    try:
        recorded = journal.load(scenario.id)
        ask = Ask(scenario.id, inputs.config.seed, recorded, locked, manifest.models)
        again = await make_record(scenario, ask, method(inputs, manifest), start)
    except SdsdError as error:
        return str(error)
    if again != record:
        return f"dialogue {index} ({scenario.id}): replays differently, as {again.outcome}"
    unused = recorded.keys() - ask.asked
    if unused:
        names = ", ".join(sorted(unused))
        return f"dialogue {index} ({scenario.id}): recorded but never asked: {names}"
    return None


def _compare_data(
    rundir: RunDir, journal: Journal, manifest: Manifest, config: Config
) -> Iterator[str]:
    """Whether every view under `data/` holds what the journal's records give, row by row."""
    if not rundir.data.exists():
        yield f"{rundir.data}: missing; `sdsd export` writes it"
        return
    chosen = selection(journal, manifest, config)
    yield from export.differing(journal.records(), shown(manifest), config, rundir.data, chosen)
