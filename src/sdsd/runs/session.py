"""Start the models of a run, and put the middleware between them and the journal."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from sdsd.config import Config
from sdsd.files import allow_many_files
from sdsd.models import fleet as fleets
from sdsd.models.base import Model
from sdsd.models.fleet import Fleet
from sdsd.models.pool import Pool
from sdsd.models.waiting import sleep_unless
from sdsd.pipeline.local_critic import LocalCritic
from sdsd.runs import middleware
from sdsd.runs.budget import Account
from sdsd.runs.events import Called, Fetching, Noted, OnEvent
from sdsd.runs.journal import Journal
from sdsd.runs.middleware import Call, Responder, Send
from sdsd.runs.retries import RetryPolicy, harmless, retry
from sdsd.runs.signals import Stop
from sdsd.types import Answer, Completion, Role

T = TypeVar("T")


class Needs(Struct, frozen=True):
    """What a session is opened with."""

    config: Config
    journal: Journal
    folder: Path
    """Where models keep what they must remember between two starts."""
    on_event: OnEvent
    stop: Stop
    files: Mapping[str, Path] = {}
    """Model files by name, as `sdsd.models.fleet.fetch` found them."""
    models: Mapping[str, Model] | None = None
    """The caller's own models, instead of those that the configuration describes."""
    answer_caches: Sequence[Journal] = ()
    """Journals whose answers are taken over where the requests are the same."""


def needs_of(
    config: Config,
    journal: Journal,
    folder: Path,
    on_event: OnEvent,
    models: Mapping[str, Model] | None,
) -> Needs:
    """Return what a session outside of a run is opened with. Downloads missing model files."""
    files = fleets.fetch(config, lambda *now: on_event(Fetching(*now))) if models is None else {}
    return Needs(config, journal, folder, on_event, Stop(), files, models)


class Session(Struct, frozen=True):
    """Models that are up, and how to reach them."""

    fleet: Fleet
    send: Send
    critics: dict[Role, LocalCritic] = {}
    """By role, the critics that are functions."""

    @property
    def names(self) -> dict[Role, str]:
        """Names of models by role."""
        return {role: model.name for role, model in (self.fleet.models | self.critics).items()}


@contextlib.asynccontextmanager
async def open_session(needs: Needs) -> AsyncIterator[Session]:
    """Start the models, and stop them at the end. A used-up budget stops the run."""
    config, stop, on_event = needs.config, needs.stop, needs.on_event
    account = Account(config, needs.journal.usage())
    allow_many_files()
    endings: set[str] = set()  # unknown ones, each noted once

    def committed(call: Call, answer: Answer) -> None:
        models[call.request.role].recorded(call.request, call.seed, call.dialogue)
        if isinstance(answer, Completion):
            on_event(Called(call, answer))
            account.add(call.request.role, answer)
            if answer.ending and answer.ending not in endings:
                endings.add(answer.ending)
                note(
                    f"`{call.request.role}`: a reply ended with `{answer.ending}`, which is none "
                    "of the known endings; such replies count as whole"
                )
            if not stop.requested.is_set() and (why := account.exhausted):
                stop(why)  # requests in flight are finished and recorded
                note(why)

    def note(text: str) -> None:
        on_event(Noted(text))

    async with contextlib.AsyncExitStack() as stack:
        if needs.models is None:
            starting = fleets.start(config, needs.files, note, needs.folder, stop.requested)
            fleet = await stack.enter_async_context(starting)
        else:
            fleet = fleets.assign_roles(needs.models, config, stopping=stop.requested, note=note)
            await fleets.monitor(stack, fleet)
        critics = {
            f"critic/{name}": LocalCritic(critic.use)
            for name, critic in config.critique.critics.items()
            if critic.use
        }
        models: dict[Role, Responder] = {**fleet.models, **critics}
        yield Session(fleet, chain(needs, models, committed), critics)


def chain(
    needs: Needs, models: Mapping[Role, Responder], committed: Callable[[Call, Answer], None]
) -> Send:
    """Return `commit(until_stopped(from_caches(retry(to_models))))`."""
    stopping, config = needs.stop.requested, needs.config

    policies = dict.fromkeys(models, RetryPolicy())  # for local critics, which never wait
    for role in config.role_models:
        model = config.model_for(role)
        outage = math.inf if model.transport == "batch" else model.outage
        policies[role] = RetryPolicy(model.retries, outage)
    names: dict[Role, str] = {role: model.name for role, model in models.items()}

    async def check(call: Call) -> None:
        model = models[call.request.role]
        assert isinstance(model, Pool)
        await model.complete(harmless(model.capabilities), 0, call.dialogue)

    send = retry(
        middleware.to_models(models),
        policies,
        names,
        answered={usage.model for usage in needs.journal.usage()},
        checks={model.name: check for model in models.values() if isinstance(model, Pool)},
        note=lambda text: needs.on_event(Noted(text)),
        sleep=partial(sleep_unless, stopping),
    )
    if needs.answer_caches:
        send = middleware.from_caches(send, needs.answer_caches)
    send = middleware.until_stopped(send, stopping)
    return middleware.commit(send, needs.journal, committed)


def in_loop(work: Coroutine[Any, Any, T], interrupt: Callable[[], None] = lambda: None) -> T:
    """Run a coroutine to its end; from inside a running loop (a notebook), on a thread.

    Signals do not reach a thread: there, Ctrl-C calls `interrupt` and waits for the end.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _new_loop(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        future = thread.submit(_new_loop, work)
        try:
            return future.result()
        except KeyboardInterrupt:
            interrupt()
            return future.result()


def _new_loop(work: Coroutine[Any, Any, T]) -> T:
    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        value: T = runner.run(work)
        return value
