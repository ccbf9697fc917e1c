"""Events: what `on_event` is called with during a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from sdsd.runs.journal import stage_of
from sdsd.runs.middleware import Call
from sdsd.types import Completion, Record


class Began(Struct, frozen=True):
    """The models are up and the run starts or continues."""

    path: Path
    n: int
    """Dialogues that the run should have. 0: as many as the targets need."""
    done: int
    """Dialogues that are finished already."""
    concurrency: int
    """Dialogues in flight at once."""
    protocol: str
    pairs: int = 0
    """Verified pairs that exist already."""
    wanted: int = 0
    """Verified pairs that the targets ask for, over all cells; 0 without targets."""
    reached: int = 0
    """How many of `wanted` the run has already; a cell's surplus does not count."""


class Called(Struct, frozen=True):
    """A model answered, and the answer is in the journal."""

    call: Call
    answer: Completion

    @property
    def stage(self) -> str:
        """The stage that asked."""
        return stage_of(self.call.step)


class Recorded(Struct, frozen=True):
    """A dialogue is finished, and its record is in the journal."""

    record: Record


class Noted(Struct, frozen=True):
    """A message for the user."""

    text: str


class Fetching(Struct, frozen=True):
    """A model file is being downloaded or checked: `done` of `total` bytes."""

    what: str
    done: int
    total: int


class Examined(Struct, frozen=True):
    """All judges have answered an item of the exam: `done` of `n`."""

    done: int
    n: int
    left: float = 0.0
    """Seconds that the others may take; 0 if unknown."""


Event = Began | Called | Recorded | Noted | Fetching | Examined
OnEvent = Callable[[Event], None]
