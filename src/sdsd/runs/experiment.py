"""`sdsd experiment`: run the same scenarios under several configurations and compare them.

An arm is a run in its own directory whose configuration changes any part of the base. All arms have
the base's seed and number of dialogues, so dialogue i of one arm is dialogue i of every other, and
differences are taken scenario by scenario. An arm reuses every answer that an earlier arm has to an
identical request, so an arm that changes only the critic pays only for the critic. (Its figures
count reused answers as its own.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.errors import ConfigError, SdsdError
from sdsd.files import write_atomic
from sdsd.models.base import Model
from sdsd.reports.html.comparison import render
from sdsd.reports.metrics.comparison import Comparison, Pairing, compare, to_json
from sdsd.runs.directory import RunDir
from sdsd.runs.events import OnEvent
from sdsd.runs.inputs import inputs_of
from sdsd.runs.journal import Journal
from sdsd.runs.publish import collect
from sdsd.runs.run import Run
from sdsd.runs.runner import run
from sdsd.text.encodings import NotText, decode

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,59}")
"""Names of arms: they become directories."""
_SHARED = ("n", "seed")
"""Keys that an arm cannot change: the scenarios would not be the same."""
_SCENARIOS = re.compile(r"(catalogue|source)\..*|scenarios\.(principles|exchanges)")
"""Further keys that an arm cannot change."""


class Experiment(Struct, frozen=True):
    """What is compared."""

    arms: dict[str, Config]
    """By name; the first is what the others are compared with."""
    labels: dict[tuple[str, str], bool]
    """By scenario and principle, whether people find a violation in the first arm's reply."""


class Outcome(Struct, frozen=True):
    """The outcome of an experiment."""

    path: Path
    runs: dict[str, Run]
    """By arm."""
    comparison: Comparison | None
    """None if it was stopped before every arm had all its dialogues."""
    stopped: str = ""
    """Why it stopped."""


class Label(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a file of labels."""

    scenario: str
    principle: str
    violated: bool


def load(path: Path, changes: Mapping[str, Any] = {}) -> Experiment:
    """Load the experiment that a YAML file describes, with `changes` to its base by dotted key.

    Raises `ConfigError` that names the file, the arm, the key and the remedy.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file; docs/experiments.md shows how to write one")
    tree = configuration.read(path)
    unknown = tree.keys() - {"base", "arms", "labels"}
    if unknown:
        raise ConfigError(f"{path}: unknown key `{min(unknown)}`; known: base, arms, labels")
    arms, base = tree.get("arms"), tree.get("base") or {}
    if not isinstance(arms, dict) or len(arms) < 2 or not isinstance(base, dict):
        raise ConfigError(
            f"{path}: `arms` must map at least two names to what each changes in `base`; "
            "see docs/experiments.md"
        )
    found: dict[str, Config] = {}
    for name, own in arms.items():
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: `arms.{name}`: a name has at most 60 letters, digits, `_`, `+` and `-`"
            )
        if own is not None and not isinstance(own, dict):
            raise ConfigError(f"{path}: `arms.{name}` must be a mapping of keys, or empty")
        if fixed := [key for key in _SHARED if key in (own or {})]:
            raise ConfigError(
                f"{path}: `arms.{name}` changes `{fixed[0]}`, but all arms share their scenarios; "
                "set it under `base`"
            )
        anchored = configuration.anchored(base, path.parent, str(path))
        mine = configuration.anchored(own or {}, path.parent, str(path))
        found[name] = _shared(configuration.load(_merged(anchored, mine), changes))
    _check(found, path)
    labels = tree.get("labels")
    return Experiment(found, read_labels(path.parent / str(labels)) if labels else {})


def _shared(config: Config) -> Config:
    """Return an arm's configuration with nothing that depends on its own critic's exam, which the
    scenarios would then follow."""
    if config.catalogue.scope != "auto":
        return config
    return replace(config, catalogue=replace(config.catalogue, scope="all"))


def _check(arms: Mapping[str, Config], path: Path) -> None:
    """Raise `ConfigError` if the arms would not have the same scenarios."""
    first, *_ = arms.values()
    ours = dict(configuration.flat(first))
    for name, config in arms.items():
        if config.targets.on:
            raise ConfigError(
                f"{path}: `targets` choose scenarios by earlier results, so no two arms would "
                "share theirs; leave them out"
            )
        for key, value in configuration.flat(config):
            if _SCENARIOS.fullmatch(key) and value != ours[key]:
                raise ConfigError(
                    f"{path}: `arms.{name}` changes `{key}`, but all arms share their scenarios; "
                    "set it under `base`"
                )


def read_labels(path: Path) -> dict[tuple[str, str], bool]:
    """People's judgements: JSON lines of `scenario` and `principle` (ids) and `violated`."""
    found: dict[tuple[str, str], bool] = {}
    try:
        lines = decode(path.read_bytes()).split("\n")
    except NotText as error:
        raise ConfigError(error.at(path)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; give a file of JSON lines") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                label = msgspec.json.decode(line, type=Label)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ConfigError(
                    f"{path}:{number}: {error}; a line looks like "
                    '{"scenario": "000000-...", "principle": "...", "violated": true}'
                ) from None
            place = (label.scenario, label.principle)
            if found.setdefault(place, label.violated) != label.violated:
                wrong = "this reply and principle have another label further up"
                raise ConfigError(f"{path}:{number}: {wrong}; remove one of them")
    return found


def carry_out(
    experiment: Experiment,
    out: Path,
    *,
    on_event: OnEvent | None = None,
    models: Mapping[str, Model] | None = None,
) -> Outcome:
    """Run every arm, or what is missing from it, then compare the arms.

    Writes `arms/<name>/` (a run directory each), `report.html` and `figures.json`.
    """
    runs: dict[str, Run] = {}
    for name, config in experiment.arms.items():
        runs[name] = run(
            config,
            out=out / "arms" / name,
            on_event=on_event,
            models=models,
            answer_caches=[made.path for made in runs.values()],
        )
        if why := runs[name].stopped:
            return Outcome(out, runs, None, why)
    comparison = _compared(experiment, {name: RunDir(r.path) for name, r in runs.items()})
    try:
        html = render(comparison)
        write_atomic(out / "report.html", html)
        write_atomic(out / "figures.json", to_json(comparison))
    except OSError as error:
        raise SdsdError(
            f"{out}: cannot be written: {error}; free some space, then run it again"
        ) from None
    return Outcome(out, runs, comparison)


def _compared(experiment: Experiment, arms: Mapping[str, RunDir]) -> Comparison:
    pairing, figures = Pairing(experiment.labels), {}
    for name, rundir in arms.items():
        inputs = inputs_of(rundir, rundir.config())
        with Journal(rundir.journal, readonly=True) as journal:
            records = pairing.through(name, journal.records())
            figures[name] = collect(
                rundir, journal, inputs.config, inputs.catalogue, records=records
            )
    return compare(figures, experiment.arms, pairing)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the leaves of `own` in their places."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged
