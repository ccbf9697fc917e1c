"""Verify a run: replay every record from the recorded answers, and compare all files.

No model is called. A missing step, a different request, and a record that comes out differently are
named; so is every file that is not what was published, and whatever in the journal is damaged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator

import msgspec
from msgspec import Struct

from sdsd.config import Config
from sdsd.config.manifest import Manifest, shown
from sdsd.dataset import export
from sdsd.errors import PluginError, ReplayMiss, RunDirError, SdsdError
from sdsd.pipeline.method import Method
from sdsd.pipeline.record import make_record
from sdsd.runs import origin, publication
from sdsd.runs.ask import Ask
from sdsd.runs.directory import RunDir
from sdsd.runs.inputs import differences, kept_inputs, sourced, start_of
from sdsd.runs.journal import Journal
from sdsd.runs.journal_audit import audit
from sdsd.runs.middleware import replay_only
from sdsd.runs.publish import selection
from sdsd.runs.rounds import Rounds
from sdsd.runs.session import in_loop
from sdsd.scenarios.existing_scenarios import SourceScenarios
from sdsd.scenarios.sampler import Scenarios
from sdsd.types import Record, Scenario

_Scenarios = Scenarios | Rounds | SourceScenarios

MOST = 20
"""Most defects of one kind that are listed."""


class Verification(Struct, frozen=True):
    """What a replay found."""

    records: int
    answers: int
    defects: tuple[str, ...]
    """What differs from the journal, and what is damaged."""
    warnings: tuple[str, ...] = ()
    """What has changed outside the run since it began."""


def verify(rundir: RunDir) -> Verification:
    """Replay every dialogue, and compare the data set and all files with the journal."""
    config, manifest = rundir.config(), rundir.manifest()
    if manifest is None:
        raise RunDirError(f"{rundir.path}: nothing was made yet; start with `sdsd run`")
    with Journal(rundir.journal, readonly=True) as journal:
        inputs = kept_inputs(config, rundir, manifest)
        source = sourced(inputs, rundir)
        method = inputs.method(manifest)
        scenarios: _Scenarios = inputs.scenarios if source is None else source
        defects = _most(audit(rundir.journal))
        defects += _most(_compare_origin(rundir, journal, manifest, config))
        if config.targets.on:
            scenarios = rounds = Rounds(inputs.scenarios, config.targets, config.seed, journal)
            defects += _most(rounds.defects())
        replay = _Replay(journal, config.seed, method, manifest.models, scenarios, source)
        defects += in_loop(replay.defects())
        defects += _most(_compare_files(rundir, journal))
        if not defects:  # otherwise the files are not worth reading, or cannot be read
            defects += _most(_compare_rows(rundir, journal, manifest, config))
        warnings = tuple(differences(inputs, manifest))
        return Verification(journal.finished(), journal.answers(), tuple(defects), warnings)


def _most(found: Iterable[str]) -> list[str]:
    """Return the first `MOST` defects, and as one more whatever kept the rest from being found."""
    defects: list[str] = []
    try:
        for defect in found:
            if defect not in defects:
                defects.append(defect)
            if len(defects) == MOST:
                break
    except SdsdError as error:
        defects.append(str(error))
    except Exception as error:  # damaged data may raise anything
        defects.append(_said(error))
    return defects


def _said(error: Exception) -> str:
    return f"cannot be checked: {type(error).__name__}: {error}"


class _Replay(Struct, frozen=True):
    """Makes records again from what the journal holds."""

    journal: Journal
    seed: int
    method: Method
    names: dict[str, str]
    """Names of models by role."""
    scenarios: _Scenarios
    source: SourceScenarios | None

    async def defects(self) -> list[str]:
        """Return what is wrong with the journal's dialogues: the first `MOST` of it."""
        found: list[str] = []
        finished = self.journal.indexes()
        try:
            for index in finished:
                found += await self._guarded(index, self._finished(index))
            for name in self.journal.open_scenarios():
                number = name.partition("-")[0]
                if not number.isdecimal():
                    found.append(f"{name}: is not the name of a scenario")
                    continue
                found += await self._guarded(int(number), self._unfinished(int(number), name))
        except PluginError as error:  # would be the same for the others
            found = [*found[: MOST - 1], str(error)]
        return found[:MOST]

    async def _guarded(self, index: int, check: Awaitable[str]) -> list[str]:
        """Return the defect of a dialogue in a list; empty if there is none."""
        try:
            defect = await check
        except PluginError:
            raise
        except SdsdError as error:
            defect = str(error)
        except Exception as error:  # damaged data may raise anything
            defect = _said(error)
        return [f"dialogue {index}: {defect}"] if defect else []

    async def _finished(self, index: int) -> str:
        """Return what is wrong with a record; empty if it comes out the same."""
        record = self.journal.record(index)
        if record is None or (scenario := self.scenarios[index]) != record.scenario:
            return "its scenario is not the one that the catalogue gives"
        again, unused = await self._replay(scenario)
        if again != record:
            return f"{record.scenario.id}: replays differently, as {again.outcome}"
        return unused

    async def _unfinished(self, index: int, name: str) -> str:
        """Return what is wrong with the answers of a dialogue that has no record yet."""
        scenario = self.scenarios[index]
        if scenario.id != name:
            return f"{name}: is not the scenario that the catalogue gives"
        try:
            return (await self._replay(scenario))[1]
        except ReplayMiss:  # it goes on from here
            return ""

    async def _replay(self, scenario: Scenario) -> tuple[Record, str]:
        """Make a dialogue again; return its record, and which answers it had no use for."""
        recorded = self.journal.load(scenario.id)
        ask = Ask(scenario.id, self.seed, recorded, replay_only, self.names)
        start = start_of(scenario, self.source)
        record = await make_record(scenario, ask, self.method, start)
        unused = ", ".join(sorted(recorded.keys() - ask.asked))
        return record, f"{scenario.id}: recorded but never asked: {unused}" if unused else ""


def _compare_origin(
    rundir: RunDir, journal: Journal, manifest: Manifest, config: Config
) -> Iterator[str]:
    """Yield a line if the run did not begin with this manifest or configuration."""
    kept = origin.manifest_of(journal)
    if not rundir.manifest_file.exists():
        yield f"{rundir.manifest_file}: missing; `sdsd run {rundir.path}` writes it again"
    elif kept is not None and msgspec.json.decode(kept, type=Manifest) != manifest:
        yield (
            f"{rundir.manifest_file}: is not what the run began with; delete it, and "
            f"`sdsd run {rundir.path}` writes it again"
        )
    for name in origin.lost(journal):
        yield f"{rundir.journal}: its copy of {name} is gone; restore the journal from a copy"
    for key in origin.changed_keys(journal, config) or ():
        yield f"{rundir.config_file}: `{key}` is not what the run began with; restore its value"
    if manifest.seed != config.seed:
        yield f"{rundir.config_file}: its seed is not the manifest's; restore the one that is wrong"


def _compare_files(rundir: RunDir, journal: Journal) -> Iterator[str]:
    """Yield a line for each file that is not as it was published, or was not published."""
    yield from publication.differences(rundir, journal)
    yield from publication.unknown_files(rundir)


def _compare_rows(
    rundir: RunDir, journal: Journal, manifest: Manifest, config: Config
) -> Iterator[str]:
    """Yield a line for each view under `data/` that is not what the journal's records give."""
    chosen = selection(journal, manifest, config)
    yield from export.differing(journal.records(), shown(manifest), config, rundir.data, chosen)
