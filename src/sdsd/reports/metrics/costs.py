"""What a verified pair costs: calls, tokens, model time, and money where models have a price."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import astuple

from sdsd.reports.stats import Interval, Ratio
from sdsd.types import Record, StageUsage


class PairCost(Struct, frozen=True):
    """Everything spent on finished dialogues, divided by the number of verified pairs.

    Dialogues without a pair are included in the cost. None without a pair.
    """

    calls: Interval | None
    tokens: Interval | None
    """Read and written, including those found in a prefix cache."""
    written: Interval | None
    seconds: Interval | None
    """Model time, summed over all requests."""
    money: float | None
    """In the currency of the prices, including dialogues in progress; None without prices."""


class CostTally:
    """Sums up what finished dialogues cost."""

    def __init__(self) -> None:
        self._ratios = [Ratio() for _ in range(4)]
        self._pairs = 0

    def add(self, record: Record) -> None:
        pairs = len(record.pairs)
        self._pairs += pairs
        use = total(record.usage.values())
        read, written = use.prompt_tokens, use.completion_tokens
        spent = (use.calls, read + written, written, use.seconds)
        for ratio, each in zip(self._ratios, spent, strict=True):
            ratio.add(each, pairs)

    def result(self, money: float) -> PairCost:
        """Return the costs; `money` is what the whole run cost, 0 without prices."""
        each = money / self._pairs if money and self._pairs else None
        calls, tokens, written, seconds = (ratio.estimate() for ratio in self._ratios)
        return PairCost(calls, tokens, written, seconds, each)


def total(uses: Iterable[StageUsage]) -> StageUsage:
    return StageUsage(*map(sum, zip(*map(astuple, uses), strict=True)))
