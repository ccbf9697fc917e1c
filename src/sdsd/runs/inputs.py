"""What a run is made from: configuration, catalogue, prompts and strategies.

A new run reads them from the package and from the user's files, checks them, and copies them into
its directory. From then on it reads only its own copies, so that an upgrade or an edit cannot
change a run part-way through; `differences` says what has changed outside in the meantime.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import plugins
from sdsd.config import Config
from sdsd.config.manifest import Manifest
from sdsd.config.schema import PROTOCOLS, SourceConfig
from sdsd.dataset.contamination import Contamination
from sdsd.dataset.extensions import validate
from sdsd.errors import ConfigError, PluginError, PromptError, RunDirError, SdsdError, SourceError
from sdsd.models import chat_templates
from sdsd.pipeline.calibration import can_verify
from sdsd.pipeline.method import PROMPTS, Method, Start
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.versions import VERSIONS
from sdsd.runs.directory import RunDir
from sdsd.runs.rounds import quota_of
from sdsd.scenarios import catalogue as catalogues
from sdsd.scenarios import existing
from sdsd.scenarios import strategies as strategy_files
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.existing import Skipped, SourceRow
from sdsd.scenarios.existing_scenarios import SourceScenarios, dialogue_of, plan_of
from sdsd.scenarios.existing_store import StoredRows, digest_of, store_rows
from sdsd.scenarios.sampler import Scenarios
from sdsd.scenarios.strategies import Strategy, load_strategies
from sdsd.text.prompt_files import Prompt
from sdsd.types import Calibration, Scenario

STRATEGY = "strategy/"
"""Before a strategy's name where prompts and strategies are listed together."""


class Inputs(Struct, frozen=True):
    """Everything a run reads before it does anything."""

    config: Config
    catalogue: Catalogue
    prompts: dict[str, Prompt]
    strategies: dict[str, Strategy]
    scenarios: Scenarios

    @property
    def texts(self) -> dict[str, Prompt]:
        """By name, all prompts; a strategy is one, too."""
        strategies = {f"{STRATEGY}{name}": s.prompt for name, s in self.strategies.items()}
        return self.prompts | strategies

    def method(self, manifest: Manifest) -> Method:
        """Combine what was configured with what was found on the servers."""
        critique = replace(self.config.critique, method=manifest.method)
        return Method(
            replace(self.config, critique=critique),
            self.prompts,
            self.strategies,
            manifest.protocol,
            manifest.template,
            manifest.schema,
            pairs=manifest.pairs,
            cards=self.catalogue.cards,
            calibrations=manifest.calibrations,
            shared_chat=manifest.shared,
        )


# -- reading ---------------------------------------------------------------------------------


def read_inputs(config: Config) -> Inputs:
    """Load and check what a new run reads, so that errors are found before anything is spent."""
    validate(config.export)
    catalogue = _catalogue(config)
    prompts = {name: load_prompt(name, getattr(config.prompts, name)) for name in PROMPTS}
    return _checked(config, catalogue, prompts, load_strategies(config.scenarios.strategies))


def kept_inputs(config: Config, rundir: RunDir, manifest: Manifest) -> Inputs:
    """Load the run's own copies.

    Raises `RunDirError` if a copy is missing or altered, or lacks what the current stages need.
    """
    validate(config.export)
    catalogue = msgspec.json.decode(
        rundir.kept_input(manifest.catalogue, ".json").read_bytes(), type=Catalogue
    )
    paths = {name: rundir.kept_input(d, ".md") for name, d in manifest.prompts.items()}
    try:
        prompts = {name: load_prompt(name, str(paths.get(name, ""))) for name in PROMPTS}
        strategies = {
            name.removeprefix(STRATEGY): strategy_files.read(path, name.removeprefix(STRATEGY))
            for name, path in paths.items()
            if name.startswith(STRATEGY)
        }
    except (KeyError, PromptError) as error:
        raise RunDirError(
            f"{rundir.path}: made by sdsd {manifest.sdsd}; its prompts do not fit this program's "
            f"stages: {error}. Continue it with the program that made it"
        ) from None
    return _checked(config, catalogue, prompts, strategies)


def inputs_of(rundir: RunDir, config: Config) -> Inputs:
    """Load the inputs of the run in a directory: its own copies, where it has them already."""
    manifest = rundir.manifest()
    if manifest is None:
        return read_inputs(config)
    return kept_inputs(config, rundir, manifest)


def keep_inputs(inputs: Inputs, rundir: RunDir) -> None:
    """Copy the inputs into the run's directory. Call it before the manifest is written."""
    try:
        rundir.keep_input(msgspec.json.encode(inputs.catalogue), ".json")
        for prompt in inputs.texts.values():
            rundir.keep_input(prompt.text.encode(), ".md")
    except OSError as error:
        raise RunDirError(f"{rundir.inputs}: cannot be written: {error}") from None


def _catalogue(config: Config) -> Catalogue:
    chosen = config.catalogue
    lists = (chosen.topics, chosen.principles, chosen.goals, chosen.affinities)
    catalogue = catalogues.load(*(Path(p) if p else None for p in lists))
    if chosen.scope != "decidable":
        return catalogue
    if not catalogue.decidable.principles:
        raise ConfigError(
            "`catalogue.scope` is `decidable`, but no principle has a `check`; give one a check "
            "(see docs/catalogue.md), or use `all`"
        )
    return catalogue.decidable


def _checked(
    config: Config,
    catalogue: Catalogue,
    prompts: dict[str, Prompt],
    strategies: dict[str, Strategy],
) -> Inputs:
    scenarios = Scenarios(catalogue, config.scenarios, config.seed, tuple(strategies))
    if config.targets.on:
        quota_of(config.targets, scenarios)  # names a cell that does not exist
    return Inputs(config, catalogue, prompts, strategies, scenarios)


def check_files(config: Config) -> None:
    """Read the files that are needed only later, so that a fault in one is found before any call.

    Raises `SdsdError` that names the file and what is wrong with it.
    """
    for name in config.export.duplicates.against:
        if not name.startswith("hf:"):
            _check_against(name)
    Contamination(config.export.contamination)
    for model in config.models.values():
        if model.chat_template:
            chat_templates.source(Path(model.chat_template))


def _check_against(name: str) -> None:
    try:
        for _ in existing.read(name):
            pass
    except SourceError as error:
        raise ConfigError(f"export.duplicates.against: {error}") from None


def verifiable(inputs: Inputs, calibrations: Mapping[str, Calibration]) -> Inputs:
    """Return the inputs of a run with the principles that its critics can verify.

    Where no critic can verify anything by its exam, a pair is verified only if a program decides
    its principle: dialogues on others would be paid for in vain. Principles that the user brought
    stay as they are, and so do named quotas and what comes from a source.

    calibrations  by critic; empty without an exam
    """
    config, decidable = inputs.config, inputs.catalogue.decidable
    if (
        config.catalogue.scope != "auto"
        or config.catalogue.principles
        or config.source.path
        or config.targets.cells
        or can_verify(calibrations)
        or len(decidable.principles) < config.scenarios.principles[1]
    ):
        return inputs
    return _checked(config, decidable, inputs.prompts, inputs.strategies)


# -- what a run starts from --------------------------------------------------------------------


def sourced(inputs: Inputs, rundir: RunDir) -> SourceScenarios | None:
    """Return the rows that the run starts from; None if it makes everything itself."""
    if not inputs.config.source.path:
        return None
    return SourceScenarios(StoredRows(rundir.source), inputs.scenarios, inputs.catalogue)


def rows_of(source: SourceConfig) -> Iterator[SourceRow | Skipped]:
    """Yield the rows of the source, from where the configuration says that they are."""
    return existing.read(source.path, kind=source.kind, split=source.split)


def kept_rows(source: SourceConfig, rundir: RunDir, notes: list[str]) -> StoredRows:
    """Return the rows of the source, copied into the run's directory at its first launch.

    `notes` gets what people should know: how many rows, which were left out, what has changed.
    """
    if rundir.source.exists():
        kept = StoredRows(rundir.source)
        notes += _source_differences(source, kept)
        return kept
    stamps = existing.stamps(source.path, kind=source.kind, split=source.split)
    kept = store_rows(rows_of(source), rundir.source, stamps)
    reasons = "".join(f"; {n} left out: {reason}" for reason, n in kept.skipped.items())
    rows = "1 row" if len(kept) == 1 else f"{len(kept)} rows"
    notes.append(f"{rows} of {source.path}{reasons}")
    return kept


def start_of(scenario: Scenario, source: SourceScenarios | None) -> Start:
    """Return what the source already has of a scenario's dialogue."""
    if source is None:
        return Start()
    given = source.rows[scenario.index]
    return Start(plan_of(given, scenario), dialogue_of(given))


# -- what has changed since the run began --------------------------------------------------------


def versions_of_parts(inputs: Inputs) -> dict[str, str]:
    """Return the version of each user-defined part that makes dialogues, by name.

    Parts of the export (views, filters, formats) are not among them: they may change at any time.
    """
    config, protocol = inputs.config, inputs.config.dialogue.protocol
    named = {config.pipeline: "pipelines", "" if protocol in PROTOCOLS else protocol: "protocols"}
    named |= {critic.use: "critics" for critic in config.critique.critics.values()}
    named |= {model.backend: "backends" for model in config.models.values()}
    checks = (principle.check for principle in inputs.catalogue.principles)
    named |= {check: "checks" for check in checks if plugins.is_spec(check)}
    parts = {name: group for name, group in named.items() if name}
    return {name: plugins.version(plugins.resolve(name, group)) for name, group in parts.items()}


def differences(inputs: Inputs, manifest: Manifest) -> Iterator[str]:
    """Yield a line for everything outside the run's directory that has changed since it began."""
    for name, gone in chain(_changed_prompts(inputs), _changed_lists(inputs, manifest)):
        if gone:
            yield f"{name} is gone or cannot be read; the run continues {_WITH_COPY}"
        else:
            yield f"{name} has changed since this run began; it continues {_WITH_COPY}"
    for stage in {**manifest.versions, **VERSIONS}:
        then, now = manifest.versions.get(stage, "none"), VERSIONS.get(stage, "none")
        if then != now:
            yield _other_version(f"the stage `{stage}`", str(then), str(now))
    try:
        parts = versions_of_parts(inputs)
    except PluginError as error:
        yield str(error)
        return
    for part, digest in parts.items():
        before = manifest.parts.get(part, "none")
        if before != digest:
            yield _other_version(f"`{part}`", before[:12], digest[:12])


_WITH_COPY = "with its own copy in inputs/"


def _other_version(what: str, then: str, now: str) -> str:
    return (
        f"{what} has changed since this run began (version {then} then, {now} now): recorded "
        "dialogues may replay differently, and new ones are made by the new version"
    )


def _source_differences(source: SourceConfig, kept: StoredRows) -> Iterator[str]:
    """Yield a line if the files of the source have other rows now than in the run's own copy.

    That they are gone is no difference, and what is on the hub is not downloaded to compare it.
    """
    try:
        now = existing.stamps(source.path, kind=source.kind, split=source.split)
        if now in ("", kept.stamps) or digest_of(rows_of(source)) == kept.digest:
            return
    except (SourceError, OSError):
        if not Path(source.path).exists():
            return
    yield (
        f"the source {source.path} has changed since this run began; it continues with its own "
        "copy in source.sqlite. To use the changed one, start another run directory (`--out`)"
    )


def _changed_prompts(inputs: Inputs) -> Iterator[tuple[str, bool]]:
    """Yield the prompts and strategies that differ from the run's, and whether they are gone."""
    config = inputs.config
    for name, prompt in inputs.prompts.items():
        try:
            if load_prompt(name, getattr(config.prompts, name)).text != prompt.text:
                yield f"prompts.{name}", False
        except PromptError:
            yield f"prompts.{name}", True
    now = _readable_strategies(config.scenarios.strategies)
    for name, strategy in inputs.strategies.items():
        if name not in now:
            yield f"the strategy `{name}`", True
        elif now[name].prompt.text != strategy.prompt.text:
            yield f"the strategy `{name}`", False


def _readable_strategies(names: Iterable[str]) -> dict[str, Strategy]:
    found: dict[str, Strategy] = {}
    for name in names:
        try:
            found |= load_strategies([name])
        except PromptError:
            continue
    return found


def _changed_lists(inputs: Inputs, manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Yield the lists of the catalogue that differ from the run's, and whether they are gone."""
    try:
        outside = replace(inputs, catalogue=_catalogue(inputs.config))
        chosen = verifiable(outside, manifest.calibrations)
    except SdsdError:
        yield "the catalogue", True
        return
    # A run that began before principles were left out has them all.
    either = (outside.catalogue, chosen.catalogue)
    attributes = {"topics": "domains"} | {n: n for n in ("principles", "goals", "affinities")}
    for name, attribute in attributes.items():
        kept = getattr(inputs.catalogue, attribute)
        if all(getattr(now, attribute) != kept for now in either):
            yield f"catalogue.{name}", False
