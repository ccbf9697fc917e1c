"""From the journal to what people receive: the data set, its card and the report.

A pure function of the journal's records, so it can be run again at any time without a model. Every
file is replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from sdsd.analysis import figures, report
from sdsd.catalogue import Catalogue
from sdsd.config import Config
from sdsd.dataset import card, export
from sdsd.errors import SdsdError
from sdsd.journal import Journal
from sdsd.rundir import RunDir, write
from sdsd.types import Record

SAMPLES = 3
"""Dialogues printed in the report."""
_AMONG = 200
"""They are picked from the first so many: a report must not take longer as a run grows."""


def collect(journal: Journal, config: Config, catalogue: Catalogue) -> figures.Figures:
    """The figures of a run so far."""
    return figures.collect(
        journal.records(),
        journal.times(),
        config,
        catalogue.principles,
        catalogue.domains,
        journal.usage(),
        journal.sums(),
    )


def published(rundir: RunDir, journal: Journal) -> bool:
    """Whether all of the journal's records are in what was written last.

    Records never change, so their number tells.
    """
    if not (rundir.report.exists() and rundir.card.exists()):
        return False
    try:
        return export.count(rundir.data, "scenarios") == sum(journal.outcomes().values())
    except SdsdError:
        return False


def publish(rundir: RunDir, journal: Journal, catalogue: Catalogue) -> None:
    """Write `data/`, `README.md` and `report.html` of a run, from what it has so far."""
    manifest = rundir.manifest()
    if manifest is None:  # not one model call was made
        return
    config = rundir.config()
    counts = export.export(journal.records(), manifest, config, rundir.data)
    found = collect(journal, config, catalogue)
    html = report.render(found, manifest, config, samples(journal.records()))
    try:
        write(rundir.report, html.encode("utf-8", "replace"))
        write(rundir.card, card.card(manifest, config, counts, found).encode("utf-8", "replace"))
    except OSError as error:
        raise SdsdError(
            f"{rundir.path}: cannot be written: {error}; make room, then `sdsd report`"
        ) from None


def samples(records: Iterable[Record]) -> list[Record]:
    """A few records to read: one of each outcome if there are, then the first ones."""
    early = list(islice(records, _AMONG))
    kinds = {record.outcome: record for record in reversed(early)}
    picked = [kinds[o] for o in ("accepted", "filtered", "failed") if o in kinds]
    picked += [record for record in early if record not in picked]
    return sorted(picked[:SAMPLES], key=lambda record: record.scenario.index)
