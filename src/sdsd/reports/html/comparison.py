"""The page of a comparison: runs, or the arms of an experiment, next to each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

from markupsafe import Markup

from sdsd.reports.html import charts, page, plots
from sdsd.reports.html.charts import Bar
from sdsd.reports.html.text import (
    count,
    decimal,
    duration,
    interval,
    percent,
    plural,
    short,
    signed,
    words,
)
from sdsd.reports.metrics.comparison import Change, Comparison, Group, Measure
from sdsd.reports.stats import FEW, Proportion

Write = Callable[[float], str]
_Charted = tuple[str, list[tuple[str, Change]], Write, str]
"""Title, changes, how to write them, and their unit."""
ENOUGH = FEW // 2
"""Observations that a cell of a heat map must have."""
_HEATS = {
    "principle": "Yield by target principle",
    "target": "Yield by category of the target principle",
    "strategy": "Yield by strategy",
    "category": "Confirmed violations by category of principle",
}
_SHARES = {
    "yield": ("Yield", "accepted dialogues, of finished scenarios"),
    "violating": ("Violations", "dialogues with a confirmed violation, of those judged"),
    "repaired": ("Repaired", "accepted dialogues, of those with a confirmed violation"),
    "unsupported": ("Unsupported claims", "claims without a quotation, of dialogues with a claim"),
    "failed": ("Failed", "dialogues that could not be completed, of finished scenarios"),
    "completed": ("Planned last reply reached", "of dialogues generated"),
    "self_check_right": ("Self-check right", "self-check agrees with the confirmed verdict"),
    "chosen_longer": ("Chosen longer", "pairs whose chosen turn is longer, of those that differ"),
    "repeats": ("Repeats", "dialogues that nearly repeat an earlier one"),
}
_NUMBERS: dict[str, tuple[str, Write]] = {
    "calls": ("Model calls", lambda x: decimal(x, 1)),
    "written": ("Tokens written", short),
    "seconds": ("Model time", duration),
    "money": ("Money", lambda x: decimal(x, 4)),
    "messages": ("Messages per dialogue, including the plan", decimal),
    "user_turn": ("Characters per user turn", count),
    "agent_turn": ("Characters per agent turn", count),
    "rejected": ("Characters per rejected turn", count),
    "chosen": ("Characters per chosen turn", count),
    "spread": ("Distance in meaning", lambda x: decimal(x, 3)),
    "largest_topic": ("Share of the largest field", percent),
    "tokens_per_second": ("Tokens written per second", short),
}


def render(comparison: Comparison) -> str:
    """Return the page. The first run is the baseline."""
    return page.render(
        "comparison.html", c=comparison, v=_View(comparison), charts=charts, plots=plots
    )


class _View:
    """What the template asks for."""

    def __init__(self, comparison: Comparison) -> None:
        self.names = list(comparison.runs)
        self.baseline, *self.others = self.names
        self._comparison = comparison
        self._runs = list(comparison.runs.values())

    # -- words and tables

    def verdict(self, k: int) -> str:
        """Say how the yield of run `k` differs from the baseline's."""
        change = self._comparison.measure("share", "yield").changes[k - 1]
        if change is None:
            paired = self._comparison.paired
            return "no scenario in common with the baseline" if paired else "nothing to compare yet"
        points = f"{_points(change.value)} points"
        if change.n < FEW:
            return f"{points}; too few to tell"
        if change.interval is None:
            return (
                f"{points} in every scenario" if change.value else "no difference in any scenario"
            )
        return points if change.clear else f"{points}; may be chance"

    def rows(self, group: str) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Return the known measures of a group: label, meaning, and for each run value and note."""
        found = []
        for measure in self._comparison.measures:
            if measure.group == group and any(x is not None for x in measure.values):
                cells = [self.cell(measure, k) for k in range(len(self.names))]
                found.append((*_written(measure)[:2], cells))
        return found

    def share(self, name: str) -> list[tuple[str, str, Proportion]]:
        """Return a share of every run, with labels and tooltips."""
        measure = self._comparison.measure("share", name)
        texts = [f"{_SHARES[name][0]} of {run}" for run in self.names]
        return list(zip(self.names, texts, measure.proportions, strict=True))

    def failures(self) -> tuple[list[str], list[list[int]]]:
        """Return the stages at which dialogues failed, and the failures of each run there."""
        each = [sum((Counter({x.stage: x.n}) for x in f.failures), Counter()) for f in self._runs]
        stages = list(dict.fromkeys(stage for found in each for stage in found))
        return [words(s) for s in stages], [[found[s] for s in stages] for found in each]

    def settings(self) -> list[tuple[str, list[str]]]:
        return [
            (key, ["not set" if x is None else json.dumps(x, ensure_ascii=False) for x in values])
            for key, values in self._comparison.settings.items()
        ]

    # -- charts

    def differences(self) -> list[tuple[str, Markup]]:
        """Draw the differences: all shares of one other run, or yield and violations of several."""
        shares = [m for m in self._comparison.measures if m.group == "share"]
        charted: list[_Charted] = [("Shares", self._changes(shares), _points, "percentage points")]
        if len(self.others) > 1:
            charted = [
                (_SHARES[m.name][0], self._changes([m]), _points, "percentage points")
                for m in shares
                if m.name in ("yield", "violating")
            ]
        if self._comparison.paired:
            tokens = self._changes([self._comparison.measure("mean", "tokens")])
            charted.append(("Tokens per dialogue", tokens, _rough, "tokens"))
        drawn = [(title, _differences(x, title, write, unit)) for title, x, write, unit in charted]
        return [(title, plot) for title, plot in drawn if plot]

    def _changes(self, measures: Sequence[Measure]) -> list[tuple[str, Change]]:
        several = len(self.others) > 1
        return [
            (name if several else _written(measure)[0], change)
            for measure in measures
            for name, change in zip(self.others, measure.changes, strict=True)
            if change
        ]

    def costs(self) -> list[tuple[str, Markup]]:
        drawn = []
        for key in ("tokens", "calls", "seconds"):
            label, _, write = _written(self._comparison.measure("cost", key))
            found = {n: getattr(f.pair_cost, key) for n, f in self._comparison.runs.items()}
            known = {name: each for name, each in found.items() if each}
            if not known:
                continue
            top = charts.nice(max(min(each.high, 3 * each.value) for each in known.values()))
            bars = []
            for name, each in known.items():
                value, ends = write(each.value), f"{write(each.low)} to {write(each.high)}"
                title = f"{name}: {value} per verified pair, 95% interval {ends}"
                bars.append(Bar(name, each.value, value, title, "t-a2", (each.low, each.high)))
            plot = charts.bars(bars, name=f"{label} per verified pair", high=top)
            drawn.append((label, plot + page.macro("macros.html", "scale", "0", write(top), "")))
        return drawn

    def heats(self) -> list[tuple[str, list[Measure]]]:
        """Return where the runs succeed, the largest shares first: titles and measures."""
        kinds: list[Group] = ["principle" if len(self._dense("principle")) >= 3 else "target"]
        strategies = [m for m in self._comparison.measures if m.group == "strategy"]
        kinds += ["strategy", "category"] if len(strategies) > 1 else ["category"]
        return [(_HEATS[kind], found) for kind in kinds if (found := self._dense(kind))]

    def _dense(self, group: Group) -> list[Measure]:
        best = {
            m: max((p.share for p in m.proportions if p.n >= ENOUGH), default=-1.0)
            for m in self._comparison.measures
            if m.group == group
        }
        return sorted((m for m in best if best[m] >= 0), key=lambda m: (-best[m], m.name))

    def shade(self, found: Proportion) -> str:
        """Return the class of a cell; none with too few observations."""
        return f"h{charts.level(found.share, 1.0)}" if found.n >= ENOUGH else ""

    def cell(self, measure: Measure, k: int) -> tuple[str, str]:
        """Return a value and the note on it: its change, or else how certain it is."""
        value, (_, _, write) = measure.values[k], _written(measure)
        change = measure.changes[k - 1] if k else None
        if value is None:
            return "–", ""
        if change:
            return write(value), _noted(measure, change, write)
        if measure.proportions:
            p = measure.proportions[k]
            return write(value), interval(p.low, p.high) if p.n >= FEW else f"{p.k}/{p.n}"
        return write(value), ""


def _written(measure: Measure) -> tuple[str, str, Write]:
    """Return a measure's label, what it means, and how its values are written."""
    if measure.group == "share":
        return *_SHARES[measure.name], percent
    if measure.proportions:
        return words(measure.name), "", percent
    if measure.group == "distinct":
        side, _, n = measure.name.partition("/")
        return f"{side.capitalize()} turns, {plural(int(n), 'word')}", "", lambda x: decimal(x, 3)
    if measure.name == "tokens":
        return "Tokens" if measure.group == "cost" else "Tokens per dialogue", "", short
    label, write = _NUMBERS[measure.name]
    return label, "", write


def _noted(measure: Measure, change: Change, write: Write) -> str:
    sign: Write = _points if measure.proportions else lambda x: signed(x, write)
    if measure.group == "cost":
        sign = lambda x: f"× {decimal(x)}"  # noqa: E731
    if change.interval is None:
        return sign(change.value)
    return f"{sign(change.value)} ({sign(change.interval.low)} to {sign(change.interval.high)})"


def _differences(
    items: Sequence[tuple[str, Change]], name: str, write: Write, unit: str
) -> Markup | None:
    """Draw dots with whiskers around zero, which is in the middle."""
    ends = [(c.interval.low, c.interval.high) if c.interval else (c.value,) * 2 for _, c in items]
    if not items:
        return None
    top = charts.nice(max(abs(x) for (_, c), each in zip(items, ends, strict=True)
                          for x in (c.value, *each)))  # fmt: skip
    bars = []
    for (label, change), (low, high) in zip(items, ends, strict=True):
        certain = (
            f"95% interval {write(low)} to {write(high)}" if change.interval else "no interval"
        )
        over = plural(change.n, "scenario" if change.paired else "observation")
        title = f"{label}: {write(change.value)} {unit}; {certain}; {over}"
        tone = "t-a" if change.clear else "t-n1"
        bars.append(Bar(label, change.value, write(change.value), title, tone, (low, high)))
    plot = charts.bars(bars, name=f"{name}: difference from the baseline", low=-top, high=top)
    return plot + page.macro("macros.html", "scale", write(-top), write(top), unit)


def _points(share: float) -> str:
    return signed(100 * share, lambda x: decimal(x, 1))


def _rough(value: float) -> str:
    return signed(value, short)
