"""`run` and `arun`: start or continue a run, make the missing dialogues, publish.

Resuming is the same function: what the journal holds is recalled, the rest is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

import sdsd
from sdsd import config as configuration
from sdsd.config import Config, JudgeMethod
from sdsd.config.manifest import Manifest
from sdsd.errors import INTERRUPTED, ConfigError, Divergence, ModelError, RunDirError, SdsdError
from sdsd.files import now
from sdsd.interrupts import like_ctrl_c
from sdsd.models.base import Model
from sdsd.models.fleet import fetch
from sdsd.pipeline.record import make_record
from sdsd.pipeline.versions import VERSIONS
from sdsd.reports.metrics.exam import ExamResult, to_json
from sdsd.runs import origin, publication
from sdsd.runs.ask import Ask
from sdsd.runs.budget import Account
from sdsd.runs.directory import CONFIG_NAME, RunDir, default_path
from sdsd.runs.events import Began, Fetching, Noted, OnEvent, Recorded
from sdsd.runs.exam import calibrations, chosen_method, examine, summary
from sdsd.runs.inputs import (
    Inputs,
    check_files,
    differences,
    inputs_of,
    keep_inputs,
    kept_rows,
    rows_of,
    sourced,
    start_of,
    verifiable,
    versions_of_parts,
)
from sdsd.runs.journal import Journal
from sdsd.runs.rounds import Rounds
from sdsd.runs.run import Run, standings_of
from sdsd.runs.scheduler import drive, each
from sdsd.runs.session import Needs, Session, in_loop, open_session
from sdsd.runs.signals import Stop, interruptible
from sdsd.runs.telemetry import listeners
from sdsd.types import Calibration, PairKind, Role

EXAM_ITEMS = 24
"""Items of the exam that critics take at a run's first start, where no result is at hand."""
_NO_END = 2**40
"""More dialogues than any run has."""
_WRITERS = ("planner", "user")
"""Roles that take no part in the review: all others may continue the dialogue's own chat."""


def run(
    config: Config | Path | str | Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    on_event: OnEvent | None = None,
    models: Mapping[str, Model] | None = None,
    progress: bool = True,
    answer_caches: Sequence[Path | str] = (),
    **overrides: Any,
) -> Run:
    """Make a data set, or continue one. Returns when it is published.

    config         a YAML file, a mapping, a `Config`, or None for the defaults; a run directory, or
                   its `config.yaml`, continues that run
    out            the run directory; None: `runs/<model>-<digest>` in the working directory
    on_event       is called with every `Event`
    models         your own `Model` objects by name, instead of those that `config.models` describes
    progress       without `on_event`: show progress in a terminal or notebook
    answer_caches  directories of other runs, whose answers to the same requests are taken over
    overrides      keys of the configuration, e.g. `n=100`, `model="smollm2-135m"`

    The first Ctrl-C, SIGTERM or SIGHUP lets the requests in flight finish and publishes; the second
    stops at once. No answer is lost either way. `Run.stopped` says why a run ended early. Raises
    `SdsdError` whose message has the remedy.
    """
    from sdsd.runs.progress import shown_progress

    chosen, path = resolve(config, out, overrides)
    with (
        like_ctrl_c(),
        shown_progress(on_event, progress) as emit,
        _launch(chosen, path, emit, models) as launch,
    ):
        if launch.anything_left():
            with launch.caches(answer_caches) as caches, launch.published_anyway():
                in_loop(launch.make(launch.fetch(), caches), launch.interrupt)
        launch.publish()
    return launch.result()


async def arun(
    config: Config | Path | str | Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    on_event: OnEvent | None = None,
    models: Mapping[str, Model] | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Run:
    """Do what `run` does, in the caller's event loop: for notebooks and async programs."""
    from sdsd.runs.progress import shown_progress

    chosen, path = resolve(config, out, overrides)
    with shown_progress(on_event, progress) as emit, _launch(chosen, path, emit, models) as launch:
        if launch.anything_left():
            with launch.published_anyway():
                await launch.make(await asyncio.to_thread(launch.fetch))
        await asyncio.to_thread(launch.publish)
    return launch.result()


def resolve(
    config: Config | Path | str | Mapping[str, Any] | None,
    out: Path | str | None,
    overrides: Mapping[str, Any],
) -> tuple[Config, Path]:
    """Return the configuration of a run and its directory.

    A run directory, or the `config.yaml` in one, stands for that run and its configuration.
    """
    if isinstance(config, str):
        config = Path(config)
    if isinstance(config, Path) and (rundir := _run_at(config)) is not None:
        if out is not None and Path(out).resolve() != rundir.path.resolve():
            raise ConfigError(
                f"{config} is a run and continues in its own directory; leave out `--out`, or copy "
                f"its {CONFIG_NAME} elsewhere to start another run with it"
            )
        rundir.config()  # refuses another format with a clear message
        chosen = configuration.load(rundir.config_file, overrides)
        configuration.check_parts(chosen)
        return chosen, rundir.path
    if isinstance(config, Config):
        config = configuration.tree(config)
    if not (config is None or isinstance(config, Path | Mapping)):
        raise ConfigError(
            f"a configuration is a path, a mapping or a `Config`, not a `{type(config).__name__}`; "
            "to continue a run, give its path"
        )
    chosen = configuration.load(config, overrides)
    configuration.check_parts(chosen)
    return chosen, Path(out) if out else default_path(chosen, Path.cwd())


def _run_at(path: Path) -> RunDir | None:
    """Return the run that a path stands for: its directory, or the configuration in it."""
    if path.is_dir():
        return RunDir(path)
    parent = RunDir(path.parent)
    return parent if path.name == CONFIG_NAME and parent.manifest_file.exists() else None


@contextlib.contextmanager
def _launch(
    config: Config, path: Path, emit: OnEvent, models: Mapping[str, Model] | None
) -> Iterator[Launch]:
    """Lock and prepare the directory, and open the journal and whatever listens to the run."""
    if not (models is None or isinstance(models, Mapping)):
        raise ConfigError(
            "`models` are model objects by name, such as {'default': model}, not a "
            f"`{type(models).__name__}`"
        )
    rundir = RunDir(path)
    with rundir.starting():
        rundir.check(config)
        publication.require_answers(rundir)
        restored = rundir.restore_manifest()
        inputs = inputs_of(rundir, config)
        check_files(config)
        notes: list[str] = []
        if restored:
            notes.append(f"{rundir.manifest_file} was missing; its copy is in place again")
        if (manifest := rundir.manifest()) is not None:
            notes += differences(inputs, manifest)
        if config.source.path and not rundir.source.exists():
            rows_of(config.source)  # a missing source is found before anything is written
        if done := _more_than_asked(config, rundir):
            notes.append(
                f"{path} has {done} dialogues, more than the {config.n} asked for: a run only grows"
            )
            config = replace(config, n=done)
        else:
            rundir.prepare(config)
        if config.source.path:
            n = len(kept_rows(config.source, rundir, notes))
            if config.n > n:
                notes.append(f"the source has {n} rows, fewer than the {config.n} asked for")
            config = replace(config, n=min(config.n or n, n))
        inputs = replace(inputs, config=config)
        with (
            listeners(path, emit, config.telemetry.port, sdsd.__version__) as to_all,
            Journal(rundir.journal) as journal,
        ):
            for note in notes:
                to_all(Noted(note))
            yield Launch(inputs, rundir, journal, to_all, models)


def _more_than_asked(config: Config, rundir: RunDir) -> int:
    """Return how many dialogues the run has if `config` asks for fewer; 0 if it does not."""
    if not (config.n and rundir.manifest_file.exists()):
        return 0
    with Journal(rundir.journal, readonly=True) as journal:
        done = journal.finished()
    return done if config.n < done else 0


class Launch:
    """One launch of a run, from the open journal to the published data set."""

    def __init__(
        self,
        inputs: Inputs,
        rundir: RunDir,
        journal: Journal,
        emit: OnEvent,
        models: Mapping[str, Model] | None,
    ) -> None:
        self._inputs, self._rundir, self._journal = inputs, rundir, journal
        self._emit, self._models = emit, models
        self._stop = Stop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began = time.monotonic()

    def anything_left(self) -> bool:
        """Return whether a dialogue is missing. Needs no server."""
        config = self._inputs.config
        if config.targets.on:
            return not self._rounds().over(config.n or _NO_END)
        return next(self._journal.unfinished(config.n), None) is not None

    def fetch(self) -> dict[str, Path]:
        """Download the model files that are missing. Blocks, so that Ctrl-C works as usual."""
        if self._models is not None:
            return {}
        return fetch(self._inputs.config, lambda *now: self._emit(Fetching(*now)))

    @contextlib.contextmanager
    def caches(self, paths: Sequence[Path | str]) -> Iterator[list[Journal]]:
        """Open the journals of other runs for reading."""
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(Journal(RunDir(Path(path)).journal, readonly=True))
                for path in paths
            ]

    def interrupt(self) -> None:
        """Stop the run, from another thread than its own."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop, INTERRUPTED)

    async def make(self, files: Mapping[str, Path], caches: Sequence[Journal] = ()) -> None:
        """Make the dialogues that are missing."""
        config, journal, stop = self._inputs.config, self._journal, self._stop
        self._loop = asyncio.get_running_loop()
        if why := Account(config, journal.usage()).exhausted:  # before any server is started
            stop(why)
            self._note(why)
            return
        folder = self._rundir.models
        needs = Needs(config, journal, folder, self._emit, stop, files, self._models, caches)
        with interruptible(stop, self._emit):
            async with open_session(needs) as session:
                manifest = await self._manifest(session)
                await self._drive(session, manifest)

    async def _drive(self, session: Session, manifest: Manifest) -> None:
        config, fleet, stopping = self._inputs.config, session.fleet, self._stop.requested
        rounds = self._rounds() if config.targets.on else None
        source = sourced(self._inputs, self._rundir)
        plain = self._inputs.scenarios if source is None else source
        scenarios = plain if rounds is None else rounds
        # llama.cpp's slots share no prefix, and it says how many there are; other servers do not.
        concurrent = not fleet.models["critic"].capabilities.slots
        method = replace(self._inputs.method(manifest), concurrent_verdicts=concurrent)

        async def work(index: int) -> None:
            scenario = scenarios[index]
            recorded = self._journal.load(scenario.id)
            ask = Ask(scenario.id, config.seed, recorded, session.send, session.names, index)
            record = await make_record(scenario, ask, method, start_of(scenario, source))
            await self._journal.finish(record)
            if rounds is not None:
                rounds.advance(index)
            self._emit(Recorded(record))

        def done(index: int) -> None:
            if rounds is not None and stopping.is_set():
                rounds.advance()
            fleet.closed(index)

        def capacity() -> int:
            return config.max_open_dialogues or fleet.capacity

        indexes = each(self._journal.unfinished(config.n))
        if rounds is not None:
            indexes = rounds.indexes(config.n or _NO_END, stopping)
        self._emit(self._beginning(capacity(), manifest))
        await drive(indexes, work, done, capacity, fleet.changed, stopping)

    def _verifiable(self, calibrated: Mapping[str, Calibration]) -> Inputs:
        """Return the inputs with the principles that the critics can verify; say if some are left
        out."""
        found = verifiable(self._inputs, calibrated)
        n, of = len(found.catalogue.principles), len(self._inputs.catalogue.principles)
        if n < of:
            self._note(
                f"no critic of this run can verify its own verdicts: it uses the {n} of {of} "
                "principles that a program decides (all: `--set catalogue.scope=all`)"
            )
        return found

    async def _exam(self, session: Session) -> ExamResult | None:
        """Return the exam of the run's critics, and keep it in the run; None if none is wanted."""
        wanted = self._inputs.config.critique.exam
        n = wanted if wanted is not None else 0 if self._models is not None else EXAM_ITEMS
        if not n:
            return None
        found = await examine(session, self._journal, self._inputs, n, self._stop, self._emit)
        self._rundir.keep_exam(to_json(found))
        for name, result in found.judges.items():
            self._note(summary(name, result))
        return found

    def publish(self) -> None:
        """Write the data set and the report, unless they are up to date."""
        self._journal.require_in_place()
        if self._rundir.manifest() is None or publication.current(self._rundir, self._journal):
            return
        from sdsd.runs.publish import publish  # imports pyarrow, needed nowhere else

        self._note("writing the data set and the report")
        publish(self._rundir, self._journal, self._inputs.catalogue)
        self._journal.require_in_place()

    @contextlib.contextmanager
    def published_anyway(self) -> Iterator[None]:
        """Publish what there is if a model stops the run: no start of it may lack its data."""
        try:
            yield
        except ModelError:
            if self._journal.finished():
                with contextlib.suppress(SdsdError):  # the model's error is the one to be told
                    self.publish()
            raise

    def result(self) -> Run:
        """Return the run as it is now."""
        seconds = time.monotonic() - self._began
        return Run(self._rundir.path, stopped=self._stop.reason, seconds=seconds)

    def _note(self, text: str) -> None:
        self._emit(Noted(text))

    def _rounds(self) -> Rounds:
        config = self._inputs.config
        scenarios = self._inputs.scenarios
        return Rounds(scenarios, config.targets, config.seed, self._journal, self._note)

    def _beginning(self, concurrency: int, manifest: Manifest) -> Began:
        standings = standings_of(self._inputs, self._journal)
        return Began(
            self._rundir.path,
            self._inputs.config.n,
            self._journal.finished(),
            concurrency,
            manifest.protocol,
            pairs=self._journal.pairs(),
            wanted=sum(s.wanted for s in standings),
            reached=sum(min(s.pairs, s.wanted) for s in standings),
        )

    async def _manifest(self, session: Session) -> Manifest:
        """Load the run's manifest; before the first dialogue, put the critics through their exam,
        write the manifest and copy the inputs."""
        old = self._rundir.manifest()
        if old is not None:
            _require_same_models(self._rundir.path, old.models, session.names)
            await origin.keep(self._journal, old, self._inputs.config)  # an old journal has none
            if not session.fleet.left_out.items() <= old.left_out.items():  # another server's
                old = replace(old, left_out=old.left_out | session.fleet.left_out)
                await origin.keep_manifest(self._journal, old)
                self._rundir.remember(old)
            return old
        inputs, fleet = self._inputs, session.fleet
        agent, critic = fleet.models["agent"].capabilities, fleet.models["critic"].capabilities
        exam = await self._exam(session)
        method = judge_method(inputs.config, exam, scoring=bool(critic.scoring))
        calibrated = calibrations(exam, inputs.config) if exam else {}
        inputs = self._inputs = self._verifiable(calibrated)
        reviewing = {name for role, name in fleet.roles.items() if role not in _WRITERS}
        manifest = Manifest(
            sdsd=sdsd.__version__,
            created=now(),
            python=platform.python_version(),
            machine=f"{platform.system()} {platform.machine()}",
            seed=inputs.config.seed,
            config=configuration.digest(inputs.config),
            catalogue=inputs.catalogue.digest,
            prompts={name: prompt.digest for name, prompt in inputs.texts.items()},
            models=session.names,
            weights=fleet.weights,
            protocol=fleet.protocol(inputs.config),
            template=agent.template,
            left_out=fleet.left_out,
            schema=critic.schema,
            shared=len(reviewing) == 1,
            method=method,
            pairs=pair_kinds(inputs.config, method, calibrated),
            calibrations=calibrated,
            versions=VERSIONS,
            parts=versions_of_parts(inputs),
        )
        keep_inputs(inputs, self._rundir)
        await origin.keep(self._journal, manifest, inputs.config)
        try:
            self._rundir.remember(manifest)
        except OSError as error:
            raise RunDirError(f"{self._rundir.path}: cannot be written: {error}") from None
        return manifest


def judge_method(config: Config, exam: ExamResult | None = None, *, scoring: bool) -> JudgeMethod:
    """Return how the single critic judges: as its exam says, and without one by likelihood contrast
    if its server can score text."""
    if config.critique.method != "auto":
        return config.critique.method
    if exam is not None and not config.critique.critics:
        return chosen_method(exam)
    return "contrast" if scoring else "verdict"


def pair_kinds(
    config: Config, method: JudgeMethod, calibrated: Mapping[str, Calibration] = {}
) -> tuple[PairKind, ...]:
    """Return the kinds of pairs that a run makes.

    A model that judges better by contrast than by its word is small: it can neither quote nor
    repair what it violates. Its pairs are made by construction, and so are those that no critic can
    be trusted to find. The last reply of an existing dialogue stays as it is: only a revision can
    make a pair with it.
    """
    if config.pairs != "auto":
        return config.pairs
    trusted = not calibrated or any(c.trusted for c in calibrated.values())
    if trusted and (method == "verdict" or config.critique.critics):
        return ("revision", "on_policy")
    return ("contrast", "revision") if config.source.path else ("contrast", "on_policy")


def _require_same_models(path: Path, before: Mapping[Role, str], now: Mapping[Role, str]) -> None:
    """Raise `Divergence` if a role has another model than when the run began."""
    pairs = {(before.get(role, "none"), now.get(role, "none")) for role in {**before, **now}}
    changed = ", ".join(f"`{old}` -> `{new}`" for old, new in sorted(pairs) if old != new)
    if changed:
        raise Divergence(
            f"{path}: made with other models; what changed: model {changed}. Give the same models "
            "to continue that run (from Python, the same `models`), or start another run directory"
        )
