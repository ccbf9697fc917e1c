"""A whole run: prepare the directory, start the models, keep dialogues under way, publish.

Resuming is the same function: what the journal holds is recalled, the rest is asked. The number
of open dialogues is capped at what the servers take at once, so every dialogue is driven to its
end before another is begun (depth first): that is what keeps a server's prefix cache warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

import sdsd
from sdsd import config as configuration
from sdsd.config import Config, ExportConfig
from sdsd.config.manifest import Manifest
from sdsd.dataset.extensions import validate
from sdsd.errors import ConfigError, ModelError, RunDirError, SdsdError, Stopped
from sdsd.files import now
from sdsd.models import weights
from sdsd.models.base import Model
from sdsd.models.fleet import Fleet, fetch
from sdsd.pipeline.method import PROMPTS, Method, Start
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.runs.ask import Ask
from sdsd.runs.budget import Account
from sdsd.runs.directory import RunDir, default_path
from sdsd.runs.events import Began, Event, Noted, Recorded
from sdsd.runs.journal import Journal
from sdsd.runs.rounds import Rounds, quota_of
from sdsd.runs.session import Session, in_loop, interruptible, open_session
from sdsd.runs.telemetry import listeners
from sdsd.scenarios import catalogue as catalogues
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.existing import Given, Skipped, read
from sdsd.scenarios.existing_store import Kept, Sourced, dialogue_of, keep, plan_of
from sdsd.scenarios.quotas import Standing, summary
from sdsd.scenarios.sampler import Scenarios
from sdsd.scenarios.strategies import Strategy, load_strategies
from sdsd.text import prompt_files
from sdsd.types import Record, Role, Scenario


class Inputs(Struct, frozen=True):
    """Everything a run reads before it does anything."""

    config: Config
    catalogue: Catalogue
    prompts: dict[str, prompt_files.Prompt]
    scenarios: Scenarios
    strategies: dict[str, Strategy]


def sourced(inputs: Inputs, rundir: RunDir) -> Sourced | None:
    """The rows that the run in a directory starts from; None if it starts from nothing."""
    if not inputs.config.source.path:
        return None
    return Sourced(Kept(rundir.source), inputs.scenarios, inputs.catalogue)


def start_of(scenario: Scenario, source: Sourced | None) -> Start:
    """What there is of a scenario's dialogue already."""
    if source is None:
        return Start()
    given = source.kept[scenario.index]
    return Start(plan_of(given, scenario), dialogue_of(given))


class Result(Struct, frozen=True):
    """What came of a run."""

    path: Path
    n: int
    outcomes: dict[str, int]
    """Counts by `accepted`, `filtered/<rule>` and `failed`."""
    seconds: float
    targets: tuple[Standing, ...] = ()
    """How far each cell of the targets is; empty without targets."""
    stopped: bool = False
    """Asked to stop before all `n` were done; the same command continues."""

    @property
    def done(self) -> int:
        """Dialogues that have a record."""
        return sum(self.outcomes.values())

    @property
    def accepted(self) -> int:
        """Verified pairs."""
        return self.outcomes.get("accepted", 0)

    def records(self) -> Iterator[Record]:
        """Every finished dialogue, in order."""
        with Journal(RunDir(self.path).journal, readonly=True) as journal:
            yield from journal.records()


def read_inputs(config: Config) -> Inputs:
    """Load and check catalogue and prompts; any fault is found before anything is spent."""
    validate(config.export)
    lists = (config.catalogue.topics, config.catalogue.principles, config.catalogue.goals)
    catalogue = catalogues.load(*(Path(p) if p else None for p in lists))
    prompts = {name: load_prompt(name, getattr(config.prompts, name)) for name in PROMPTS}
    strategies = load_strategies(config.scenarios.strategies)
    scenarios = Scenarios(catalogue, config.scenarios, config.seed, tuple(strategies))
    if config.targets.on:
        quota_of(config.targets, scenarios)  # says which cell is none
    return Inputs(config, catalogue, prompts, scenarios, strategies)


def check_files(export: ExportConfig) -> None:
    """Raise `ConfigError` for a file that the export is going to need and that is not there."""
    for key, names in (
        ("duplicates.against", export.duplicates.against),
        ("contamination.sets", export.contamination.sets),
    ):
        for name in names:
            if not name.startswith("hf:") and not Path(name).exists():
                raise ConfigError(f"`export.{key}`: {name}: there is no such file; check the path")


def run(
    config: Config | Path | str | Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    on_event: Callable[[Event], None] | None = None,
    models: Mapping[str, Model] | None = None,
    progress: weights.Progress | None = None,
    answer_caches: Sequence[Path] = (),
    **overrides: Any,
) -> Result:
    """Make a data set, or continue one. Returns when it is published.

    config      a `Config`, a YAML file, a mapping, or None for the defaults
    out         the run directory; None: `runs/<model>-<digest>` under the working directory
    on_event    hears `Began`, `Called`, `Recorded`, `Noted` as they happen
    models      your own `Model` objects by name, instead of those that `config.models` describes
    lenders     directories of other runs, whose answers to the very same requests are taken over
    overrides   keys of the configuration, e.g. `n=100`, `model="smollm2-135m"`

    Ctrl-C once lets the calls in flight finish and publishes what is there; twice stops at once.
    Nothing that was answered is lost either way. Raises `SdsdError` with the remedy.
    """
    if not isinstance(config, Config):
        source = Path(config) if isinstance(config, str) else config
        config = configuration.load(source, overrides)
    elif overrides:
        config = configuration.load(configuration.tree(config), overrides)
    path = Path(out) if out else default_path(config, Path.cwd())
    started = time.monotonic()
    tell = on_event or (lambda event: None)
    inputs = read_inputs(config)
    check_files(config.export)
    rundir = RunDir(path)
    with rundir.lock():
        rundir.check(config)
        if (old := rundir.manifest()) is not None:
            check_manifest(old, inputs, rundir)
        if config.source.path and not rundir.source.exists():
            rows_of(config)  # a source that is not there leaves no directory behind
        rundir.prepare(config)
        if config.source.path:
            n = len(_kept(config, rundir, tell))
            config = replace(config, n=min(config.n or n, n))
            inputs = replace(inputs, config=config)
        wanted = asdict(config.telemetry)
        with (
            listeners(path, tell, version=sdsd.__version__, **wanted) as tell,
            Journal(rundir.journal) as journal,
            contextlib.ExitStack() as opened,
        ):
            stopped, before = False, sum(journal.outcomes().values())
            if _left(inputs, journal):
                files = fetch(config, progress) if models is None else {}
                others = [
                    opened.enter_context(Journal(RunDir(path).journal, readonly=True))
                    for path in answer_caches
                ]
                making = _make_all(inputs, rundir, journal, tell, files, models, others)
                stopped = in_loop(making)
            new = sum(journal.outcomes().values()) - before
            if new:
                tell(Noted("writing the data set and the report"))
            from sdsd.runs.publish import (  # brings pyarrow, which nothing else needs
                publish,
                published,
            )

            if new or not published(rundir, journal):
                publish(rundir, journal, inputs.catalogue)
            outcomes = outcome_counts(journal)
            standings = standings_of(inputs, journal)
    seconds = time.monotonic() - started
    return Result(path, config.n, outcomes, seconds, standings, stopped)


def _kept(config: Config, rundir: RunDir, tell: Callable[[Event], None]) -> Kept:
    """The rows of the source, kept in the run's directory so that they are there tomorrow."""
    if rundir.source.exists():
        return Kept(rundir.source)
    kept = keep(rows_of(config), rundir.source)
    reasons = "".join(f"; {n} left out: {reason}" for reason, n in kept.skipped.items())
    tell(Noted(f"{len(kept)} rows of {config.source.path}{reasons}"))
    return kept


def rows_of(config: Config) -> Iterator[Given | Skipped]:
    """The rows of the source, where it lies."""
    source = config.source
    return read(source.path, kind=source.kind, split=source.split)


def require_some(result: Result) -> None:
    """Raise `ModelError` if not one dialogue could be made: that is a model's fault, not chance."""
    if result.done and result.outcomes.get("failed") == result.done:
        first = next(result.records()).failure
        cause = f"{first.step}: {first.cause}" if first else "unknown"
        raise ModelError(
            f"all {result.done} dialogues failed, the first at {cause}. `sdsd show 0` has the raw "
            "reply; take a more capable model, another protocol, or prompts that it can follow"
        )


def outcome_counts(journal: Journal) -> dict[str, int]:
    """Records by `accepted`, `filtered/<rule>`, `failed`."""
    return {f"{o}/{rule}" if rule else o: k for (o, rule), k in journal.outcomes().items()}


async def _make_all(
    inputs: Inputs,
    rundir: RunDir,
    journal: Journal,
    tell: Callable[[Event], None],
    files: Mapping[str, Path],
    models: Mapping[str, Model] | None,
    answer_caches: Sequence[Journal],
) -> bool:
    """Make what is missing. True if asked to stop before the end."""
    config = inputs.config
    if why := Account(config, journal.usage()).exhausted:  # before any server is started
        tell(Noted(why))
        return True
    stopping = asyncio.Event()
    with interruptible(stopping, tell):
        async with open_session(
            config, journal, stopping, tell, files, rundir.models, models, answer_caches
        ) as session:
            manifest = _manifest(inputs, rundir, session.fleet, session.names)
            done = sum(journal.outcomes().values())
            slots = config.max_open_dialogues or session.fleet.capacity
            standings = standings_of(inputs, journal)
            wanted = sum(s.wanted for s in standings)
            pairs = sum(min(s.pairs, s.wanted) for s in standings)
            tell(Began(rundir.path, config.n, done, slots, manifest.protocol, wanted, pairs))
            critic = session.fleet.models["critic"].capabilities
            # llama.cpp's slots do not share: it tells how many there are, others do not.
            how = replace(method(inputs, manifest), concurrent_verdicts=not critic.slots)

            def note(text: str) -> None:
                tell(Noted(text))

            rounds, indexes = None, _each(journal.unfinished(config.n))
            if config.targets.on:
                rounds = Rounds(inputs.scenarios, config.targets, config.seed, journal, note)
                indexes = rounds.indexes(config.n or _NO_END, stopping)
            source = sourced(inputs, rundir)
            drive = _Drive(inputs, how, journal, session, stopping, tell, rounds, source)
            await drive.all(indexes, config.max_open_dialogues)
    return stopping.is_set()


class _Drive(Struct, frozen=True):
    """Everything that the open dialogues of a run share."""

    inputs: Inputs
    method: Method
    journal: Journal
    session: Session
    stopping: asyncio.Event
    tell: Callable[[Event], None]
    rounds: Rounds | None
    source: Sourced | None

    async def all(self, indexes: AsyncIterator[int], most: int) -> None:
        """Make the dialogues of `indexes`, until they are used up or the run is stopping.

        As many are under way as the servers take requests, which may change at any time, and at
        most `most` unless that is 0. An error stops the run as Ctrl-C does: calls in flight are
        finished and kept, then it is raised.
        """
        errors: list[SdsdError] = []
        fleet, room = self.session.fleet, self.session.fleet.changed
        under_way = 0

        async def make(index: int) -> None:
            nonlocal under_way
            try:
                await self.one(index)
            except Stopped:
                pass
            except SdsdError as error:
                errors.append(error)
                self.stopping.set()
            finally:
                if self.rounds and self.stopping.is_set():
                    self.rounds.told()
                self.session.closed(index)
                under_way -= 1
                room.set()

        async with asyncio.TaskGroup() as group:
            async for index in indexes:
                while under_way >= (most or fleet.capacity) and not self.stopping.is_set():
                    room.clear()
                    await room.wait()
                if self.stopping.is_set():
                    break
                under_way += 1
                group.create_task(make(index))
        if errors:
            raise errors[0]

    async def one(self, index: int) -> None:
        """Make, or resume, one dialogue."""
        scenario = (self.rounds or self.source or self.inputs.scenarios)[index]
        recorded = self.journal.load(scenario.id)
        seed, session = self.inputs.config.seed, self.session
        ask = Ask(scenario.id, seed, recorded, session.send, session.names, index)
        record = await make_record(scenario, ask, self.method, start_of(scenario, self.source))
        await self.journal.finish(record)
        if self.rounds:
            self.rounds.told(index)
        self.tell(Recorded(record))


def _left(inputs: Inputs, journal: Journal) -> bool:
    """Whether there is a dialogue to make: found out before any server is started."""
    config = inputs.config
    if config.targets.on:
        rounds = Rounds(inputs.scenarios, config.targets, config.seed, journal)
        return not rounds.over(config.n or _NO_END)
    return next(journal.unfinished(config.n), None) is not None


def standings_of(inputs: Inputs, journal: Journal) -> tuple[Standing, ...]:
    """How far the targets are; nothing without targets."""
    config = inputs.config
    if not config.targets.on:
        return ()
    rounds = Rounds(inputs.scenarios, config.targets, config.seed, journal)
    return summary(rounds.state(), rounds.quota)


def method(inputs: Inputs, manifest: Manifest) -> Method:
    """How the run's dialogues are made: what was configured, and what was found on the server."""
    return Method(
        inputs.config,
        inputs.prompts,
        inputs.strategies,
        manifest.protocol,
        manifest.template,
        manifest.schema,
        shared_chat=manifest.shared,
    )


def _manifest(inputs: Inputs, rundir: RunDir, fleet: Fleet, names: dict[Role, str]) -> Manifest:
    """The run's manifest: checked if there is one, else written from what was found."""
    old = rundir.manifest()
    if old is not None:
        return old
    protocol = fleet.protocol(inputs.config)
    manifest = Manifest(
        sdsd=sdsd.__version__,
        created=now(),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        seed=inputs.config.seed,
        config=configuration.digest(inputs.config),
        catalogue=inputs.catalogue.digest,
        prompts=_digests(inputs),
        models=names,
        weights=fleet.weights,
        protocol=protocol,
        template=fleet.models["agent"].capabilities.template,
        schema=fleet.models["critic"].capabilities.schema,
        shared=len({fleet.roles[role] for role in fleet.roles if role not in _WRITERS}) == 1,
    )
    rundir.remember(manifest)
    return manifest


def check_manifest(manifest: Manifest, inputs: Inputs, rundir: RunDir) -> None:
    """Raise `RunDirError` if catalogue or prompts are not those that the run was made with."""
    changed = [
        f"prompts.{name}"
        for name, digest in _digests(inputs).items()
        if manifest.prompts.get(name) != digest
    ]
    if manifest.catalogue != inputs.catalogue.digest:
        changed.append("catalogue")
    if changed:
        raise RunDirError(
            f"{rundir.path}: made with other files. What differs: {', '.join(changed)}. "
            "Put them back to continue that run, or give another directory (`--out`)"
        )


def _digests(inputs: Inputs) -> dict[str, str]:
    """By name, the digests of all prompts; a strategy is one, too."""
    strategies = {f"strategy/{name}": s.prompt.digest for name, s in inputs.strategies.items()}
    return {name: p.digest for name, p in inputs.prompts.items()} | strategies


_WRITERS = ("planner", "user")
"""Roles that have no part in the review: all others may read on in the chat that was held."""
_NO_END = 2**40
"""More dialogues than any run has."""


async def _each(indexes: Iterator[int]) -> AsyncIterator[int]:
    for index in indexes:
        yield index
