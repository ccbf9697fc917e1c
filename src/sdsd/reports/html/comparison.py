"""The page of a comparison: runs, or the arms of an experiment, next to each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

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
from sdsd.reports.metrics.comparison import Change, Comparison, Measure
from sdsd.reports.stats import FEW, Proportion

Write = Callable[[float], str]
_Charted = tuple[str, list[tuple[str, Change]], Write, str]
"""Title, changes, how to write them, and their unit."""
_Heat = tuple[str, list[tuple[str, str, list[tuple[str, Proportion | None]]]], int]
"""Title, rows (name, id, shaded cells), and how many rows there are in all."""

_ENOUGH = FEW // 2
"""Dialogues that a cell of a heat map must have."""
_MOST = 40
"""Rows of a heat map."""
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
            return "nothing in common with the baseline to compare"
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
                label, meaning, write = _written(measure)
                cells = [_cell(measure, k, write) for k in range(len(self.names))]
                found.append((label, meaning, cells))
        return found

    def accepted(self) -> list[tuple[str, str, Proportion]]:
        return [(name, f"Yield of {name}", f.accepted) for name, f in self._comparison.runs.items()]

    def violating(self) -> list[tuple[str, str, Proportion]]:
        runs = self._comparison.runs.items()
        return [(name, f"Violations in {name}", f.violating) for name, f in runs]

    def failures(self) -> tuple[list[str], list[list[int]]]:
        """Return the stages at which dialogues failed, and the failures of each run there."""
        each = [Counter({x.stage: 0 for x in f.failures}) for f in self._runs]
        for f, found in zip(self._runs, each, strict=True):
            for failure in f.failures:
                found[failure.stage] += failure.n
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
        """Draw what a verified pair costs in each run."""
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

    def heats(self) -> list[_Heat]:
        """Return where the runs succeed: by principle (or category) and by strategy."""
        by_id = [{p.id: p.targeted for p in f.principles} for f in self._runs]
        texts = {p.id: p.text for f in self._runs for p in f.principles}
        strategies = [{s.name: s.accepted for s in f.strategies} for f in self._runs]
        found = []
        if len(_dense(by_id)) >= 3:
            found.append(("Yield by target principle", by_id))
        else:
            targeted = [{c.name: c.targeted for c in f.categories} for f in self._runs]
            found.append(("Yield by category of the target principle", targeted))
        if len({name for each in strategies for name in each}) > 1:
            found.append(("Yield by strategy", strategies))
        confirmed = [{c.name: c.confirmed for c in f.categories} for f in self._runs]
        found.append(("Confirmed violations by category of principle", confirmed))
        tables = []
        for title, shares in found:
            shown = _dense(shares)
            rows = [(texts.get(x, words(x)), x if x in texts else "", _shaded(x, shares))
                    for x in shown[:_MOST]]  # fmt: skip
            if rows:
                tables.append((title, rows, len(shown)))
        return tables


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
        return (
            ("Tokens", "", short) if measure.group == "cost" else ("Tokens per dialogue", "", short)
        )
    label, write = _NUMBERS[measure.name]
    return label, "", write


def _cell(measure: Measure, k: int, write: Write) -> tuple[str, str]:
    """Return a value and the note on it: its change, or else how certain it is."""
    value = measure.values[k]
    if value is None:
        return "–", ""
    change = measure.changes[k - 1] if k else None
    if change:
        return write(value), _noted(measure, change, write)
    if measure.proportions:
        p = measure.proportions[k]
        return write(value), interval(p.low, p.high) if p.n >= FEW else f"{p.k}/{p.n}"
    return write(value), ""


def _noted(measure: Measure, change: Change, write: Write) -> str:
    sign: Write = _points if measure.proportions else lambda x: _signed(x, write)
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


def _dense(shares: Sequence[Mapping[str, Proportion]]) -> list[str]:
    """Return what has enough dialogues in some run, the largest share first."""
    best: dict[str, float] = {}
    for each in shares:
        for name, p in each.items():
            if p.n >= _ENOUGH:
                best[name] = max(best.get(name, 0.0), p.share)
    return sorted(best, key=lambda name: (-best[name], name))


def _shaded(
    name: str, shares: Sequence[Mapping[str, Proportion]]
) -> list[tuple[str, Proportion | None]]:
    cells = [each.get(name) for each in shares]
    return [
        (f"h{charts.level(p.share, 1.0)}", p) if p and p.n >= _ENOUGH else ("", p) for p in cells
    ]


def _points(share: float) -> str:
    return signed(100 * share)


def _rough(value: float) -> str:
    return _signed(value, short)


def _signed(value: float, write: Write) -> str:
    written = write(abs(value))
    if not any(c in "123456789" for c in written):
        return written
    return f"{'−' if value < 0 else '+'}{written}"
