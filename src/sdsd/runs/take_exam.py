"""`sdsd exam`: put judges through the exam, in a directory of its own.

journal.sqlite   every answer of every model
exam.json        the result (`sdsd.reports.metrics.exam.ExamResult`)
exam.html        the same, to look at

The directory is named after everything but the number of items and the judges, so that more of
either continues the same exam.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.errors import ConfigError, RunDirError
from sdsd.files import write_atomic
from sdsd.models.base import Model
from sdsd.reports.html import exam as page
from sdsd.reports.metrics.exam import ExamResult, to_json
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Noted, OnEvent
from sdsd.runs.exam import DEFAULT_ITEMS, exam_on, exam_result, judges_of, results
from sdsd.runs.exam_cache import ExamCache
from sdsd.runs.inputs import Inputs, read_inputs
from sdsd.runs.journal import Journal
from sdsd.runs.session import Needs, in_loop, needs_of, open_session
from sdsd.runs.signals import interruptible
from sdsd.scenarios import exam_items
from sdsd.scenarios.exam_items import Item


class Taken(Struct, frozen=True):
    """A finished exam and its directory."""

    path: Path
    result: ExamResult


def take(
    config: Config,
    *,
    items: Path | None = None,
    n: int | None = None,
    judges: Sequence[str] = (),
    out: Path | None = None,
    on_event: OnEvent = lambda event: None,
    models: Mapping[str, Model] | None = None,
    cache: ExamCache | None = None,
) -> Taken:
    """Put judges through the exam, or continue one. A later run finds the results in the cache.

    items    labelled pairs (see `sdsd.scenarios.exam_items`); None: the packaged ones
    n        how many of them; None: 48 of the packaged ones, or all of yours
    judges   see `sdsd.runs.exam.judges_of`; none: the critics of the configuration or, without any,
             `verdict`, and `contrast` if the server can score text
    out      the directory; None: `exams/<model>-<digest>`

    The first Ctrl-C lets the requests in flight finish. Raises `Stopped` if the exam did not end,
    and `SdsdError` whose message has the remedy.
    """
    if n is not None and n < 1:
        raise ConfigError(f"an exam needs at least one item, not {n}; give a number with `-n`")
    inputs = read_inputs(config)
    pool = exam_items.load(items, inputs.catalogue if items else None)
    count = n or (len(pool) if items else DEFAULT_ITEMS)
    path = out or _default_path(config, pool)
    rundir = RunDir(path)
    if rundir.exists():
        raise RunDirError(f"{path}: is a run; give the exam another directory (`--out`)")
    with rundir.starting(), Journal(rundir.journal) as journal:
        needs = needs_of(config, journal, rundir.models, on_event, models)
        result = in_loop(_take(needs, inputs, pool, count, judges))
        chosen = exam_items.sample(pool, count, config.seed)
        try:
            write_atomic(path / "exam.json", to_json(result))
            write_atomic(path / "exam.html", page.render(result, chosen))
        except OSError as error:
            raise RunDirError(f"{path}: cannot be written: {error}; free some space") from None
    for judged in result.judges.values():
        (cache or ExamCache()).keep(judged)
    return Taken(path, result)


async def _take(
    needs: Needs, inputs: Inputs, pool: Sequence[Item], n: int, judges: Sequence[str]
) -> ExamResult:
    with interruptible(needs.stop, needs.on_event):
        async with open_session(needs) as session:
            exam = exam_on(pool, n, judges_of(judges, needs.config, session.fleet, pool), inputs)
            names = ", ".join(exam.judges)
            needs.on_event(Noted(f"{len(exam.items)} of {exam.of} items, judged by {names}"))
            judged = await results(exam, session, needs.journal, needs.stop, needs.on_event)
            return exam_result(exam, judged, session)


def _default_path(config: Config, pool: Sequence[Item]) -> Path:
    """Return `exams/<model>-<digest>`: the same configuration and items find their exam again."""
    model = Path(config.model_for("critic").model).name
    name = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")[:40] or "exam"
    digest = configuration.digest(config)[:6] + exam_items.digest(pool)[:4]
    return Path("exams") / f"{name}-{digest}"
