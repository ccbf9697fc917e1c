"""Verify a run: replay every record from the recorded answers, and compare the data set.

No model is called. A missing step, a different request, and a record that comes out differently are
named.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from sdsd.config import Config
from sdsd.config.manifest import Manifest, shown
from sdsd.dataset import export
from sdsd.errors import RunDirError, SdsdError
from sdsd.pipeline.method import Method, Start
from sdsd.pipeline.record import make_record
from sdsd.runs.ask import Ask
from sdsd.runs.directory import RunDir
from sdsd.runs.inputs import differences, kept_inputs, sourced, start_of
from sdsd.runs.journal import Journal
from sdsd.runs.middleware import replay_only
from sdsd.runs.publish import selection
from sdsd.runs.rounds import Rounds
from sdsd.runs.session import in_loop
from sdsd.scenarios.existing_scenarios import SourceScenarios
from sdsd.scenarios.sampler import Scenarios
from sdsd.types import Record, Scenario

_Scenarios = Scenarios | Rounds | SourceScenarios

MOST = 20
"""Most defects of records that are listed."""


class Verification(Struct, frozen=True):
    """What a replay found."""

    records: int
    answers: int
    defects: tuple[str, ...]
    """What differs from the journal."""
    warnings: tuple[str, ...] = ()
    """What has changed outside the run since it began."""


def verify(rundir: RunDir) -> Verification:
    """Replay every finished dialogue, and compare the data set with the journal."""
    config, manifest = rundir.config(), rundir.manifest()
    if manifest is None:
        raise RunDirError(f"{rundir.path}: nothing was made yet; start with `sdsd run`")
    with Journal(rundir.journal, readonly=True) as journal:
        inputs = kept_inputs(config, rundir, manifest)
        source = sourced(inputs, rundir)
        scenarios: _Scenarios = inputs.scenarios if source is None else source
        defects: list[str] = []
        if config.targets.on:
            scenarios = Rounds(inputs.scenarios, config.targets, config.seed, journal)
            defects += scenarios.defects()
        replay = _Replay(journal, config.seed, inputs.method(manifest), manifest.models)
        defects += in_loop(replay.defects(scenarios, source))
        defects += _compare_data(rundir, journal, manifest, config)
        warnings = tuple(differences(inputs, manifest))
        return Verification(journal.finished(), journal.answers(), tuple(defects), warnings)


class _Replay(Struct, frozen=True):
    """Makes records again from what the journal holds."""

    journal: Journal
    seed: int
    method: Method
    names: dict[str, str]
    """Names of models by role."""

    async def defects(self, scenarios: _Scenarios, source: SourceScenarios | None) -> list[str]:
        """Return what is wrong with the journal's records: the first `MOST` of it."""
        found: list[str] = []
        for record in self.journal.records():
            scenario = scenarios[record.scenario.index]
            defect = await self._defect(record, scenario, start_of(scenario, source))
            if defect and defect not in found and len(found) < MOST:
                found.append(defect)
        return found

    async def _defect(self, record: Record, scenario: Scenario, start: Start) -> str | None:
        """Return what is wrong with a record; None if it comes out the same."""
        index = scenario.index
        if scenario != record.scenario:
            return f"dialogue {index}: its scenario is not the one that the catalogue gives"
        try:
            recorded = self.journal.load(scenario.id)
            ask = Ask(scenario.id, self.seed, recorded, replay_only, self.names)
            again = await make_record(scenario, ask, self.method, start)
        except SdsdError as error:
            return str(error)
        if again != record:
            return f"dialogue {index} ({scenario.id}): replays differently, as {again.outcome}"
        if unused := recorded.keys() - ask.asked:
            names = ", ".join(sorted(unused))
            return f"dialogue {index} ({scenario.id}): recorded but never asked: {names}"
        return None


def _compare_data(
    rundir: RunDir, journal: Journal, manifest: Manifest, config: Config
) -> Iterator[str]:
    """Yield a line for each view under `data/` that is not what the journal's records give."""
    if not rundir.data.exists():
        yield f"{rundir.data}: missing; `sdsd export` writes it"
        return
    chosen = selection(journal, manifest, config)
    yield from export.differing(journal.records(), shown(manifest), config, rundir.data, chosen)
