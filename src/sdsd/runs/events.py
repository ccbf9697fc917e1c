"""What a run tells while it goes on."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from sdsd.runs.ask import Call
from sdsd.runs.journal import stage_of
from sdsd.types import Completion, Record


class Began(Struct, frozen=True):
    """The run knows what there is to do: `done` of `n` dialogues are there already."""

    path: Path
    n: int
    """0: as many as the targets take."""
    done: int
    slots: int
    protocol: str
    wanted: int = 0
    """Verified pairs that the targets ask for, together; 0 without targets."""
    pairs: int = 0
    """Of these, those that there are already."""


class Called(Struct, frozen=True):
    """A model answered."""

    call: Call
    answer: Completion

    @property
    def stage(self) -> str:
        """The stage that asked."""
        return stage_of(self.call.step)


class Recorded(Struct, frozen=True):
    """A dialogue is finished."""

    record: Record


class Noted(Struct, frozen=True):
    """Something worth a line."""

    text: str


Event = Began | Called | Recorded | Noted
