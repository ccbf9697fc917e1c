"""What the selection decides about one record."""

from __future__ import annotations

from msgspec import Struct

from sdsd.checks.dialogue_rules import Finding


class Removal(Struct, frozen=True):
    """Why a dialogue or a pair is left out."""

    rule: str
    detail: str = ""


class Decision(Struct, frozen=True):
    """What of one record is left out."""

    removed: Removal | None = None
    """Why the dialogue is left out; None if it stays."""
    pairs: dict[int, Removal] = {}
    """The pairs that are left out, by their number in `Record.pairs`."""
    findings: tuple[Finding, ...] = ()
    """What the quality rules found in the dialogue, whether it stays or not."""
    only_warned: bool = False
    """The dialogue is left out for nothing but what a quality rule found, so a view that shows
    warnings may show it."""
