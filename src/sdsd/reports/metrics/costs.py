"""What a verified pair costs: calls, tokens, model time, and money where models have a price."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from sdsd.reports.rates import Estimate, Ratio
from sdsd.types import Record, StageUsage


class PairCost(Struct, frozen=True):
    """Everything spent over the verified pairs that came of it; None where there are none.

    Dialogues that gave no pair are paid for by those that did. The intervals tell how sure the
    figures are for other dialogues of the same kind.
    """

    calls: Estimate | None
    tokens: Estimate | None
    """Read and written; those found in a prefix cache count too."""
    written: Estimate | None
    """Tokens written."""
    seconds: Estimate | None
    """Model time, all requests added up."""
    money: float | None
    """In the currency of the prices, dialogues under way included; None without prices."""


class CostTally:
    """Sums over finished dialogues."""

    def __init__(self) -> None:
        self._ratios = [Ratio() for _ in range(4)]
        self._pairs = 0

    def add(self, record: Record) -> None:
        """One more record."""
        pairs = len(record.pairs)
        self._pairs += pairs
        for ratio, spent in zip(self._ratios, _spent(record.usage.values()), strict=True):
            ratio.add(spent, pairs)

    def found(self, money: float) -> PairCost:
        """What was counted; `money` is what all of the run cost, 0 without prices."""
        each = money / self._pairs if money and self._pairs else None
        calls, tokens, written, seconds = (ratio.estimate() for ratio in self._ratios)
        return PairCost(calls, tokens, written, seconds, each)


def _spent(uses: Collection[StageUsage]) -> tuple[float, float, float, float]:
    written = sum(use.completion_tokens for use in uses)
    read = sum(use.prompt_tokens for use in uses)
    seconds = sum(use.seconds for use in uses)
    return sum(use.calls for use in uses), read + written, written, seconds
