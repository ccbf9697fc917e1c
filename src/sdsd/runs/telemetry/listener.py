"""The contract of a listener, and how listeners guard against what models and servers send."""

from __future__ import annotations

from sdsd.runs.events import Event
from sdsd.text.normalize import encodable
from sdsd.types import Completion

MAX_CHARS = 4096
"""Characters kept of one text that a model or server sent."""
_MAX_COUNT = 2**63 - 1


class Listener:
    """Receives a run's events, all on one thread. An exception ends the listener, not the run."""

    def on_event(self, at: int, event: Event) -> None:
        """Take in one event, and when it happened: UTC, nanoseconds since 1970."""

    def tick(self, now: float) -> None:
        """Do what is due; called a few times a second with monotonic seconds."""

    def close(self) -> None:
        """Write what is left and release everything: the run is over."""


def tokens(count: int) -> int:
    """Clamp a server's token count to what 63 bits hold; a negative one becomes 0."""
    return min(max(count, 0), _MAX_COUNT)


class CallSums:
    """Sums over several calls."""

    calls = prompt_tokens = cached_tokens = completion_tokens = 0

    def add(self, answer: Completion) -> None:
        self.calls += 1
        self.prompt_tokens += tokens(answer.prompt_tokens)
        self.cached_tokens += tokens(answer.cached_tokens)
        self.completion_tokens += tokens(answer.completion_tokens)


def plain(text: str) -> str:
    """Cut a text at `MAX_CHARS` characters and replace lone surrogates."""
    cut: str = encodable(text[:MAX_CHARS])
    return cut
