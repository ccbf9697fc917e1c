"""Stop a run in an orderly way, whoever asks: a signal, a budget, a server that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from sdsd.errors import INTERRUPTED, Stopped
from sdsd.interrupts import NUMBERS, in_main_thread
from sdsd.runs.events import Noted, OnEvent


class Stop:
    """The request to stop a run, and who or what made it."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.reason = ""

    def __call__(self, reason: str) -> None:
        """Stop for `reason`, unless the run is stopping already."""
        if not self.requested.is_set():
            self.reason = reason
            self.requested.set()


@contextlib.contextmanager
def interruptible(stop: Stop, on_event: OnEvent) -> Iterator[None]:
    """Let the first signal stop the run in an orderly way, and the second cancel it."""
    if not in_main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupted() -> None:
        if stop.requested.is_set():
            task.cancel()
            return
        stop(INTERRUPTED)
        on_event(
            Noted(
                "stopping: requests in flight are finished and kept (press again to stop at once)"
            )
        )

    before = {number: signal.getsignal(number) for number in NUMBERS}
    ours = [n for n, handler in before.items() if n == signal.SIGINT or handler != signal.SIG_IGN]
    for number in ours:
        with contextlib.suppress(NotImplementedError):  # not on this system
            loop.add_signal_handler(number, interrupted)
    try:
        yield
    except asyncio.CancelledError:
        if not stop.requested.is_set():
            raise
        raise Stopped(
            "stopped at once; recorded answers are kept, and the same command continues",
            INTERRUPTED,
        ) from None
    finally:
        for number in ours:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
                signal.signal(number, before[number] or signal.SIG_DFL)  # the loop resets it
