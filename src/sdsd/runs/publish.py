"""Make what people receive from the journal: the data set, its card and the report.

A pure function of the journal's records, so it can be repeated at any time without a model. Every
file is replaced atomically.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sdsd.config import Config
from sdsd.config.manifest import Manifest, nameable, shown
from sdsd.dataset import export
from sdsd.dataset.selection import Selection
from sdsd.errors import RunDirError, SdsdError
from sdsd.files import write_atomic
from sdsd.reports import card
from sdsd.reports.card_charts import plots
from sdsd.reports.html import report
from sdsd.reports.metrics import figures
from sdsd.reports.metrics.exam import ExamResult, JudgeResult
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.scenarios.catalogue import Catalogue
from sdsd.text.embeddings import Embed, word_llama
from sdsd.types import Record

SAMPLES = 3
"""Dialogues printed in the report."""
_AMONG = 200
"""They are picked from this many at the start, so that a report of a large run takes no longer."""


def collect(
    rundir: RunDir,
    journal: Journal,
    config: Config,
    catalogue: Catalogue,
    warnings: Mapping[str, int] | None = None,
    records: Iterable[Record] | None = None,
) -> figures.Figures:
    """Return the figures of a run so far.

    warnings  as in `Counts.warnings`, if an export has counted them already
    records   the journal's, as an experiment passes them on; throughput is then left out, because
              an arm reuses the answers of others
    """
    return figures.collect(
        journal.records() if records is None else records,
        journal.times() if records is None else (),
        config,
        (catalogue.principles, catalogue.domains),
        [replace(usage, model=nameable(usage.model)) for usage in journal.usage()],
        warnings,
        _embed(),
        _exam(rundir, config),
    )


def _exam(rundir: RunDir, config: Config) -> JudgeResult | None:
    """Return the exam of the run's single critic; None if it has several, or took none."""
    manifest = rundir.manifest()
    if manifest is None or config.critique.critics or not rundir.exam.exists():
        return None
    try:
        found = msgspec.json.decode(rundir.exam.read_bytes(), type=ExamResult)
    except (OSError, msgspec.DecodeError) as error:
        raise RunDirError(
            f"{rundir.exam}: cannot be read: {error}; restore it, or delete it to do without the "
            "expected precision"
        ) from None
    return found.judges.get(manifest.method)


def _embed() -> Embed | None:
    """Return the embedding of the extra `semantic`; None where it is not installed."""
    try:
        return word_llama()
    except SdsdError:
        return None


def selection(journal: Journal, manifest: Manifest, config: Config) -> Selection:
    """Decide which of the journal's records go into the data set."""
    chosen = Selection(config.export, manifest.seed)
    chosen.plan(journal.records())
    return chosen


def published(rundir: RunDir, journal: Journal) -> bool:
    """Return whether all of the journal's records are in what was written last.

    Records never change, so comparing their number is enough.
    """
    if not (rundir.report.exists() and rundir.card.exists()):
        return False
    try:
        return export.count(rundir.data, "scenarios") == journal.finished()
    except SdsdError:
        return False


def publish(rundir: RunDir, journal: Journal, catalogue: Catalogue) -> export.Counts | None:
    """Write `data/`, `README.md`, `plots/` and `report.html` of a run, from what it has so far.

    Returns what the data set holds; None before the run's first model call.
    """
    made = rundir.manifest()
    if made is None:
        return None
    config, manifest = rundir.config(), shown(made)
    chosen = selection(journal, manifest, config)
    counts = export.export(journal.records(), manifest, config, rundir.data, selection=chosen)
    found = collect(rundir, journal, config, catalogue, counts.warnings)
    html = report.render(found, manifest, config, samples(journal.records()), counts.removed)
    try:
        write_atomic(rundir.report, html)
        _draw(rundir.path / "plots", {name: plot for name, (_, plot) in plots(found).items()})
        write_atomic(rundir.card, card.card(manifest, config, counts, found))
    except OSError as error:
        raise SdsdError(
            f"{rundir.path}: cannot be written: {error}; free some space, then `sdsd report`"
        ) from None
    return counts


def samples(records: Iterable[Record]) -> list[Record]:
    """Return a few records to read: one of each outcome if possible, then the first ones."""
    early = list(islice(records, _AMONG))
    kinds = {record.outcome: record for record in reversed(early)}
    picked = [kinds[o] for o in ("accepted", "filtered", "failed") if o in kinds]
    picked += [record for record in early if record not in picked]
    return sorted(picked[:SAMPLES], key=lambda record: record.scenario.index)


def _draw(folder: Path, drawn: Mapping[str, str]) -> None:
    """Write the card's charts, and remove those of an earlier card."""
    if drawn:
        folder.mkdir(exist_ok=True)
    for name, plot in drawn.items():
        write_atomic(folder / name, plot)
    for path in folder.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()
