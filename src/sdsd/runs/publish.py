"""Make what people receive from the journal: the data set, its card and the report.

A pure function of the journal's records, so it can be repeated at any time without a model. Every
file is replaced atomically, and a marker with all digests is written last
(`sdsd.runs.publication`).
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
from sdsd.files import make_folder, write_atomic
from sdsd.reports import card
from sdsd.reports.card_charts import plots
from sdsd.reports.html import report
from sdsd.reports.metrics import figures
from sdsd.reports.metrics.exam import ExamResult, JudgeResult
from sdsd.runs import publication
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


def publish(rundir: RunDir, journal: Journal, catalogue: Catalogue) -> export.Counts | None:
    """Write `data/`, `README.md`, `plots/` and `report.html` of a run, from what it has so far.

    All of it is of one moment, even while a run is in progress. Returns what the data set holds;
    None before the run's first model call.
    """
    manifest = rundir.manifest()
    if manifest is None:
        return None
    with rundir.publishing(), journal.snapshot():
        try:
            return _publish(rundir, journal, catalogue, shown(manifest))
        except OSError as error:
            raise SdsdError(
                f"{rundir.path}: cannot be written: {error}; free some space, then `sdsd export`"
            ) from None


def _publish(
    rundir: RunDir, journal: Journal, catalogue: Catalogue, manifest: Manifest
) -> export.Counts:
    config = rundir.config()
    chosen = selection(journal, manifest, config)
    staged = export.staged(journal.records(), manifest, config, rundir.data, selection=chosen)
    with staged as views:
        counts = views.counts(chosen)
        found = collect(rundir, journal, config, catalogue, counts.warnings)
        html = report.render(found, manifest, config, samples(journal.records()), counts.removed)
        drawn = {name: plot for name, (_, plot) in plots(found).items()}
        text = card.card(manifest, config, counts, found)
        publication.withdraw(rundir)
        data = views.publish()
    write_atomic(rundir.report, html)
    shapes = _draw(rundir.path / "plots", drawn)
    write_atomic(rundir.card, text)
    publication.write(rundir, journal, [*data, rundir.report, *shapes, rundir.card])
    return counts


def samples(records: Iterable[Record]) -> list[Record]:
    """Return a few records to read: one of each outcome if possible, then the first ones."""
    early = list(islice(records, _AMONG))
    kinds = {record.outcome: record for record in reversed(early)}
    picked = [kinds[o] for o in ("accepted", "filtered", "failed") if o in kinds]
    picked += [record for record in early if record not in picked]
    return sorted(picked[:SAMPLES], key=lambda record: record.scenario.index)


def _draw(folder: Path, drawn: Mapping[str, str]) -> list[Path]:
    """Write the card's charts, and remove those of an earlier card; return the files."""
    if drawn:
        make_folder(folder)
    for name, plot in drawn.items():
        write_atomic(folder / name, plot)
    for path in folder.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()
    return [folder / name for name in drawn]
