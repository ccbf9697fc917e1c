"""Ask a model one thing after another, outside of a run: what the `sdsd catalogue` commands share.

The answers are in a journal of their own next to what is written, so that a command that was
interrupted continues.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sdsd.config import Config
from sdsd.models.base import Model
from sdsd.runs.ask import Ask
from sdsd.runs.directory import RunDir
from sdsd.runs.events import OnEvent
from sdsd.runs.journal import Journal
from sdsd.runs.session import Needs, in_loop, needs_of, open_session
from sdsd.runs.signals import interruptible

T = TypeVar("T")

AskOf = Callable[[str, int], Ask]
"""Returns the access to the models for one thing, by its key in the journal and its number."""


def journaled(
    folder: Path,
    config: Config,
    on_event: OnEvent,
    models: Mapping[str, Model] | None,
    work: Callable[[Needs], Coroutine[Any, Any, T]],
) -> T:
    """Do `work` with the journal in `folder`, which is locked meanwhile."""
    rundir = RunDir(folder)
    with rundir.lock(), Journal(rundir.journal) as journal:
        return in_loop(work(needs_of(config, journal, rundir.models, on_event, models)))


@contextlib.asynccontextmanager
async def asking(needs: Needs) -> AsyncIterator[AskOf]:
    """Start the models, and stop them at the end. Ctrl-C stops the work in an orderly way."""
    with interruptible(needs.stop, needs.on_event):
        async with open_session(needs) as session:

            def ask(key: str, number: int) -> Ask:
                recorded = needs.journal.load(key)
                return Ask(key, needs.config.seed, recorded, session.send, session.names, number)

            yield ask
