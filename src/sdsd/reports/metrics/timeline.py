"""Throughput over time: completion tokens per second of work, pauses left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

STAGES = ("stake", "plan", "turn", "check", "critique", "revise", "recheck")


class Clock(Struct, frozen=True):
    """When the completions arrived."""

    answers: int
    completion_tokens: int
    wall: float
    """Seconds from the first request to the last completion, without pauses."""
    paused: float
    """Seconds between stopping and continuing the run."""
    tokens_per_second: float
    bin: float
    """Width of a bin, in seconds of work."""
    bins: dict[str, tuple[int, ...]]
    """Completion tokens over time, by stage; empty with too few completions."""


def in_order(stages: Iterable[str]) -> list[str]:
    """Sort stages in the order of the pipeline; unknown ones come last."""
    return sorted(stages, key=lambda s: (STAGES.index(s) if s in STAGES else len(STAGES), s))


_FINE = 2048
_BINS = 60
_ANSWERS_PER_BIN = 4


class Timeline:
    """Tokens over seconds of work. Bins grow with the run, so memory does not."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._width = 1 / 16
        self._tokens: Counter[tuple[str, int]] = Counter()
        self._last = -math.inf
        self._elapsed = 0.0
        self._paused = 0.0
        self._starts = 0
        self._answers = 0

    def add(self, at: float, stage: str, tokens: int) -> None:
        """Count one completion that arrived at Unix time `at`. Call in order of time."""
        gap = at - self._last
        if gap > self._pause:
            # No request may take this long: nothing was running in the meantime.
            self._starts += 1
            self._paused += gap if math.isfinite(gap) else 0.0
        else:
            self._elapsed += max(gap, 0.0)
        self._last = max(self._last, at)
        self._answers += 1
        while self._elapsed / self._width >= _FINE:
            self._coarsen()
        self._tokens[stage, int(self._elapsed / self._width)] += tokens

    def clock(self, mean_call: float) -> Clock:
        """Return the totals; `mean_call` seconds stand for the first completion of each start."""
        total = self._tokens.total()
        wall = self._elapsed + self._starts * mean_call
        number = min(_BINS, self._answers // _ANSWERS_PER_BIN) if self._elapsed else 0
        return Clock(
            answers=self._answers,
            completion_tokens=total,
            wall=wall,
            paused=self._paused,
            tokens_per_second=total / wall if wall else 0.0,
            bin=self._elapsed / number if number else 0.0,
            bins=self._bins(number) if number else {},
        )

    def _coarsen(self) -> None:
        self._width *= 2
        merged: Counter[tuple[str, int]] = Counter()
        for (stage, k), tokens in self._tokens.items():
            merged[stage, k // 2] += tokens
        self._tokens = merged

    def _bins(self, number: int) -> dict[str, tuple[int, ...]]:
        bins = {stage: [0] * number for stage in in_order({s for s, _ in self._tokens})}
        for (stage, k), tokens in self._tokens.items():
            at = int((k + 0.5) * self._width / self._elapsed * number)
            bins[stage][min(at, number - 1)] += tokens
        return {stage: tuple(values) for stage, values in bins.items()}
