"""Any two runs held against each other, by their figures alone.

Unlike an experiment (`sdsd.reports.metrics.arms`), whose arms go through the same scenarios, two
runs may differ in everything. So nothing is paired, and an interval is that of two independent
samples: wider, and it says nothing of why they differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from sdsd import config
from sdsd.reports.metrics.diversity import LENGTHS, Diversity
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.rates import Estimate, Rate, Z, difference, rate


class Contrast(Struct, frozen=True):
    """A share in both runs."""

    name: str
    a: Rate
    b: Rate
    difference: Estimate | None
    """The second less the first, with its 95% interval (Newcombe 1998); None where either run has
    nothing to count."""


class Gap(Struct, frozen=True):
    """A number in both runs."""

    name: str
    a: float | None
    b: float | None
    """None where a run has none."""
    change: Estimate | None = None
    """Of costs the second over the first, of all others the second less the first, with its 95%
    interval; None where nothing tells how sure the numbers are."""


class RunComparison(Struct, frozen=True, kw_only=True):
    """Two runs in numbers: `a` is the one that the other, `b`, is compared with."""

    finished: tuple[int, int]
    shares: tuple[Contrast, ...]
    """How far dialogues came, and what they are like."""
    strategies: tuple[Contrast, ...]
    """Verified pairs by strategy, where both runs have it."""
    categories: tuple[Contrast, ...]
    """Confirmed violations by category of principle, where both runs have it."""
    flags: tuple[Contrast, ...]
    """Dialogues by the rules of `sdsd.checks.dialogue_rules` that they break in either run."""
    costs: tuple[Gap, ...]
    """Of a verified pair."""
    distinct: tuple[Gap, ...]
    """Distinct runs of words, by side and length."""
    means: tuple[Gap, ...]
    """Other numbers, without intervals."""
    changes: dict[str, tuple[Any, Any]]
    """Keys of the configuration that differ and decide what is made, with both values."""


def compare_runs(
    a: Figures, b: Figures, configs: tuple[config.Config, config.Config] | None = None
) -> RunComparison:
    """What differs between two runs, and how surely. `configs` are theirs, to name what was set."""
    return RunComparison(
        finished=(a.finished, b.finished),
        shares=_contrasts(_shares(a), _shares(b)),
        strategies=_contrasts(
            {s.name: s.pairs for s in a.strategies}, {s.name: s.pairs for s in b.strategies}
        ),
        categories=_contrasts(
            {c.name: c.confirmed for c in a.categories}, {c.name: c.confirmed for c in b.categories}
        ),
        flags=_flags(a, b),
        costs=_costs(a, b),
        distinct=_distinct(a.diversity, b.diversity),
        means=tuple(
            Gap(name, x, y)
            for (name, x), y in zip(_means(a).items(), _means(b).values(), strict=True)
        ),
        changes=_changes(*configs) if configs else {},
    )


def _shares(figures: Figures) -> dict[str, Rate]:
    """The shares that every run has."""
    steps = {step.name: step.n for step in figures.funnel}
    held, confirmed = steps["held"], steps["confirmed"]
    return {
        "yield": figures.pairs,
        "violating": figures.violating,
        "repaired": rate(steps["accepted"], confirmed),
        "unsupported": rate(steps["claimed"] - confirmed, steps["claimed"]),
        "failed": rate(sum(f.n for f in figures.failures), figures.finished),
        "completed": rate(figures.stops.get("completed", 0), held),
        "marker_right": figures.agreement.same,
        "chosen_longer": figures.biases.lengths["all"].longer,
        "repeats": figures.diversity.repeats,
    }


def _contrasts(a: Mapping[str, Rate], b: Mapping[str, Rate]) -> tuple[Contrast, ...]:
    return tuple(
        Contrast(name, a[name], b[name], difference(a[name], b[name])) for name in a if name in b
    )


def _flags(a: Figures, b: Figures) -> tuple[Contrast, ...]:
    ours, theirs = (
        {rule: rate(f.flags.get(rule, 0), f.step("held")) for rule in {**a.flags, **b.flags}}
        for f in (a, b)
    )
    return _contrasts(ours, theirs)


def _costs(a: Figures, b: Figures) -> tuple[Gap, ...]:
    ours, theirs = a.pair_cost, b.pair_cost
    return (
        _ratio("calls", ours.calls, theirs.calls),
        _ratio("tokens", ours.tokens, theirs.tokens),
        _ratio("written", ours.written, theirs.written),
        _ratio("seconds", ours.seconds, theirs.seconds),
        Gap("money", ours.money, theirs.money),
    )


def _ratio(name: str, a: Estimate | None, b: Estimate | None) -> Gap:
    """Two costs of a pair; their quotient's interval is that of a difference of logarithms."""
    change = None
    if a and b and a.low > 0 and b.low > 0:
        spread = math.exp(math.hypot(math.log(a.value / a.low), math.log(b.value / b.low)))
        value = b.value / a.value
        change = Estimate(value, value / spread, value * spread)
    return Gap(name, a.value if a else None, b.value if b else None, change)


def _distinct(a: Diversity, b: Diversity) -> tuple[Gap, ...]:
    found = []
    for side, ours, theirs in (("user", a.user, b.user), ("agent", a.agent, b.agent)):
        x, y = ours.distinct, theirs.distinct
        for k, length in enumerate(LENGTHS):
            change = None
            if x.errors and y.errors:
                gap = y.means[k] - x.means[k]
                half = Z * math.hypot(x.errors[k], y.errors[k])
                change = Estimate(gap, gap - half, gap + half)
            a_mean, b_mean = (d.means[k] if d.means else None for d in (x, y))
            found.append(Gap(f"{side}/{length}", a_mean, b_mean, change))
    return tuple(found)


def _means(figures: Figures) -> dict[str, float | None]:
    lengths, held = figures.lengths, figures.step("held")
    return {
        "messages": figures.messages_mean if held else None,
        "user_turn": lengths.user_turn if held else None,
        "agent_turn": lengths.agent_turn if held else None,
        "rejected": lengths.rejected if figures.kinds else None,
        "chosen": lengths.chosen if figures.kinds else None,
        "spread": figures.diversity.spread,
        "largest_topic": figures.fields.largest if figures.finished else None,
        "tokens_per_second": figures.clock.tokens_per_second,
    }


def _changes(a: config.Config, b: config.Config) -> dict[str, tuple[Any, Any]]:
    ours, theirs = dict(config.flat(a)), dict(config.flat(b))
    return {
        key: (ours.get(key), theirs.get(key))
        for key in {**ours, **theirs}
        if ours.get(key) != theirs.get(key) and not config.is_execution(key)
    }
