"""The contract of a listener, and how listeners guard against what models and servers send."""

from __future__ import annotations

from typing import Protocol

from sdsd.runs.events import Event
from sdsd.text.normalize import encodable

MAX_CHARS = 4096
"""Characters kept of one text that a model or server sent."""
_MAX_COUNT = 2**63 - 1


class Listener(Protocol):
    """Receives a run's events, all on one thread. An exception ends the listener, not the run."""

    def on_event(self, at: int, event: Event) -> None:
        """Handle one event and the time it happened: UTC, nanoseconds since 1970."""
        ...

    def tick(self, now: float) -> None:
        """Do what is due; called a few times a second with monotonic seconds."""
        ...

    def close(self) -> None:
        """Write what is left and release everything: the run is over."""
        ...


def tokens(count: int) -> int:
    """Clamp a server's token count to what 63 bits hold; a negative one becomes 0."""
    return min(max(count, 0), _MAX_COUNT)


def plain(text: str) -> str:
    """Cut a text at `MAX_CHARS` characters and replace lone surrogates."""
    cut: str = encodable(text[:MAX_CHARS])
    return cut
