"""What every command that talks to models needs: events, models, the onion, a loop, Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from sdsd.config import Config
from sdsd.errors import Stopped
from sdsd.models import fleet as fleets
from sdsd.models.base import Model
from sdsd.models.fleet import Fleet
from sdsd.pipeline.local_critic import LocalCritic
from sdsd.runs import ask as door
from sdsd.runs.ask import Call, Responder, Sender
from sdsd.runs.budget import Account
from sdsd.runs.events import Called, Event, Noted
from sdsd.runs.journal import Journal
from sdsd.runs.prefix_cache import Economy
from sdsd.types import Answer, Completion, Role

T = TypeVar("T")


class Session(Struct, frozen=True):
    """Models that are up, and the way to them."""

    fleet: Fleet
    send: Sender
    economy: Economy
    critics: dict[Role, LocalCritic] = {}
    """By role, the critics that are functions."""

    def closed(self, dialogue: int) -> None:
        """A dialogue is over."""
        self.fleet.closed(dialogue)
        self.economy.closed(dialogue)

    @property
    def names(self) -> dict[str, str]:
        """By role, the model that plays it."""
        return {role: model.name for role, model in (self.fleet.models | self.critics).items()}


@contextlib.asynccontextmanager
async def open_session(
    config: Config,
    journal: Journal,
    stopping: asyncio.Event,
    tell: Callable[[Event], None],
    files: Mapping[str, Path],
    folder: Path,
    own: Mapping[str, Model] | None = None,
    answer_caches: Sequence[Journal] = (),
) -> AsyncIterator[Session]:
    """Start the models of `config` on their `files`, or take your `own`; wrap the onion around.

    In `folder` is kept what models need to remember. What `answer_caches` answered is not asked again.
    """

    account, economy = Account(config, journal.usage()), Economy()

    def watched(call: Call, answer: Answer) -> None:
        models[call.request.role].recorded(call.request, call.seed, call.dialogue)
        if isinstance(answer, Completion):
            tell(Called(call, answer))
            account.add(call.request.role, answer)
            economy.answered(call, answer)
            # What is in flight is finished and kept.
            if not stopping.is_set() and (why := account.exhausted):
                stopping.set()
                tell(Noted(why))

    def note(text: str) -> None:
        tell(Noted(text))

    async with contextlib.AsyncExitStack() as stack:
        if own is None:
            starting = fleets.start(config, files, note, folder, stopping)
            fleet = await stack.enter_async_context(starting)
        else:
            fleet = fleets.cast(own, config, stopping=stopping, note=note)
            await fleets.watch(stack, fleet)
        critics = {
            f"critic/{name}": LocalCritic(name, critic.use)
            for name, critic in config.critique.critics.items()
            if critic.use
        }
        models: dict[Role, Responder] = {**fleet.models, **critics}
        send = onion(models, config, journal, stopping, watched, answer_caches)
        yield Session(fleet, send, economy, critics)
        for name, value in economy.sums().items():
            await journal.add(name, value)


def onion(
    models: Mapping[Role, Responder],
    config: Config,
    journal: Journal,
    stopping: asyncio.Event,
    watched: Callable[[Call, Answer], None],
    answer_caches: Sequence[Journal] = (),
) -> Sender:
    """commit( halt( borrow( retry( complete )))): the way of a request that is not recorded."""

    async def sleep(seconds: float) -> None:
        """Wait, but not into a stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopping.wait()
                raise Stopped("stopped")

    patience = dict.fromkeys(models, door.RetryPolicy())  # for local critics, which never wait
    for role in config.cast:
        m = config.model_for(role)
        outage = math.inf if m.transport == "batch" else m.outage
        patience[role] = door.RetryPolicy(m.retries, outage)
    names: dict[Role, str] = {role: model.name for role, model in models.items()}
    send = door.complete(models)
    send = door.retry(send, patience, names, sleep=sleep)
    if answer_caches:
        send = door.from_caches(send, answer_caches)
    send = door.halt(send, stopping)
    return door.commit(send, journal, watched)


@contextlib.contextmanager
def interruptible(stopping: asyncio.Event, tell: Callable[[Event], None]) -> Iterator[None]:
    """Ctrl-C or SIGTERM once sets `stopping`; the second time cancels the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if stopping.is_set():
            task.cancel()
            return
        stopping.set()
        tell(Noted("stopping: calls in flight are finished and kept (once more: stop at once)"))

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # not on this system
            loop.add_signal_handler(number, stop)
    try:
        yield
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
        raise Stopped(
            "stopped at once; what was answered is kept, the same command goes on"
        ) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; from inside a running loop (a notebook), on a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _new_loop(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_new_loop, work).result()


def _new_loop(work: Coroutine[Any, Any, T]) -> T:
    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        value: T = runner.run(work)
        return value
