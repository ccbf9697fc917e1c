"""What listens to a run, and how it guards itself against what models and servers say."""

from __future__ import annotations

from typing import Protocol

from sdsd.runs.events import Event
from sdsd.runs.middleware import valid_utf8

LONGEST = 4096
"""Characters of one text from outside that are kept."""
_MOST = 2**63 - 1


class Listener(Protocol):
    """Hears a run's events, all on one thread. Whatever it raises ends it and not the run."""

    def hear(self, at: int, event: Event) -> None:
        """One event, and when it happened: nanoseconds since 1970, UTC."""
        ...

    def tick(self, now: float) -> None:
        """Called a few times a second; `now` is monotonic, in seconds."""
        ...

    def close(self) -> None:
        """The run is over: write what is left, let go of everything."""
        ...


def tokens(count: int) -> int:
    """A server's count as 63 bits can hold it: a negative one is 0."""
    return min(max(count, 0), _MOST)


def plain(text: str) -> str:
    """A text from outside, cut at `LONGEST` characters, without halves of surrogate pairs."""
    return valid_utf8(text[:LONGEST])
