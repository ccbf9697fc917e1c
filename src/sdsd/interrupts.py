"""Signals that ask the program to end: Ctrl-C, SIGTERM, and SIGHUP when a terminal closes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextlib.contextmanager
def like_ctrl_c() -> Iterator[None]:
    """Let every one of them raise `KeyboardInterrupt`, so that temporary files are removed.

    A signal that is ignored, as SIGHUP is under `nohup`, or that has a handler of the caller's
    stays as it is; so does everything outside the main thread, where signals do not arrive.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = NUMBERS if in_main_thread() else ()
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def in_main_thread() -> bool:
    """Return whether signals arrive on this thread."""
    return threading.current_thread() is threading.main_thread()
