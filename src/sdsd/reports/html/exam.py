"""The page of an exam: how far each judge can be trusted, and where it goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup

from sdsd.pipeline.calibration import probability
from sdsd.reports.html import charts, page
from sdsd.reports.html.charts import Bar, Dot
from sdsd.reports.html.text import decimal, percent, plural, words
from sdsd.reports.metrics.exam import ExamResult, Figures, JudgeResult, Threshold, best
from sdsd.reports.stats import FEW, Interval, wilson
from sdsd.scenarios.exam_items import LABELS, Item, Label

MISTAKES = 10
_TONES = ("t-a", "t-b", "t-c", "t-bad", "t-a2", "t-b2", "t-n1", "t-n3")
_SUBTLE = {"plain": 0, "middling": 1, "subtle": 2}
_OTHER: dict[Label, Label] = {"satisfies": "violates", "violates": "satisfies"}


def render(result: ExamResult, items: Sequence[Item]) -> str:
    """Return the page; `items` have the texts of the exam."""
    return page.render("exam.html", exam=result, v=_View(result, items), charts=charts)


class Mistake(NamedTuple):
    """A reply that a judge reads wrongly."""

    item: Item
    label: Label
    probability: float
    """Of a violation, as calibrated."""

    @property
    def reply(self) -> str:
        return getattr(self.item.pair, self.label)  # type: ignore[no-any-return]

    @property
    def other(self) -> str:
        """The other reply of the pair."""
        return getattr(self.item.pair, _OTHER[self.label])  # type: ignore[no-any-return]


class _View:
    """What the template asks for."""

    def __init__(self, result: ExamResult, items: Sequence[Item]) -> None:
        self._judges, self._items = result.judges, {item.id: item for item in items}
        self._tones = dict(zip(result.judges, _TONES * len(result.judges), strict=False))
        self.best = best(result.judges)
        self.graded = [name for name, j in self._judges.items() if j.overall.auc]
        self.calibrated = {n: j for n, j in self._judges.items() if j.curves.thresholds}
        self.trusted = [
            name for name, j in result.judges.items() if j.calibration and j.calibration.trusted
        ]

    # -- charts

    def scores(self, name: str, of: Callable[[Figures], Interval | None]) -> Markup:
        """Draw a score of every judge with its interval; the line marks chance."""
        found = [
            (judge, self._tones[judge], score)
            for judge, j in self._judges.items()
            if (score := of(j.overall))
        ]
        return _scores(found, name)

    def auc(self) -> Markup:
        return self.scores("AUC by judge", lambda figures: figures.auc)

    def within(self) -> Markup:
        return self.scores("Within-pair accuracy by judge", lambda figures: figures.within)

    def groups(self) -> Markup:
        """Draw the AUC of the best judge by subtlety and by category."""
        assert self.best is not None
        found = [
            (f"{words(name)} ({f.items})", "t-a2" if f.items >= FEW else "t-n2", f.auc)
            for name, f in _groups(self._judges[self.best]).items()
            if f.auc
        ]
        return _scores(found, f"AUC of {self.best}")

    def by_group(self) -> list[tuple[str, list[Interval | None]]]:
        """Return the AUC of every graded judge for each group of items."""
        each = [_groups(self._judges[name]) for name in self.graded]
        names = dict.fromkeys(name for groups in each for name in groups)
        return [
            (name, [groups[name].auc if name in groups else None for groups in each])
            for name in names
        ]

    def roc(self) -> Markup:
        lines = {name: [j.curves.roc] for name, j in self._judges.items() if j.curves.roc}
        return charts.curves(
            lines,
            [self._tones[name] for name in lines],
            name="ROC curves of all judges",
            axes=("satisfying replies called violating", "violating replies found"),
            diagonal=True,
        )

    def thresholds(self, judge: str) -> Markup:
        """Draw precision and recall of claims by the probability that they need."""
        found = self._judges[judge].curves.thresholds
        lines = {
            "precision": _pieces(found),
            "recall": [[(t.probability, t.recall) for t in found]],
        }
        axes = ("least calibrated probability of a claim", "share")
        return charts.curves(lines, ("t-a", "t-b"), name=f"Precision and recall of {judge}",
                             axes=axes)  # fmt: skip

    def reliability(self, judge: str) -> Markup:
        """Draw the observed share of violations by the calibrated probability."""
        dots = []
        for group in self._judges[judge].curves.reliability:
            k = round(group.share * group.replies)
            low, high = wilson(k, group.replies)
            some = plural(group.replies, "reply", "replies")
            title = f"{some} of about {percent(group.probability)}: {percent(group.share)} violate "
            title += f"({percent(low)} to {percent(high)})"
            dots.append(Dot(group.probability, group.share, low, high, title))
        axes = ("calibrated probability of a violation", "share that violates")
        return charts.curves({}, (), name=f"Reliability of {judge}", axes=axes, dots=dots,
                             diagonal=True)  # fmt: skip

    # -- lists

    def failures(self) -> list[tuple[str, str, int]]:
        """Return judge, cause and number of the items without an answer."""
        return [
            (name, cause, n)
            for name, judge in self._judges.items()
            for cause, n in Counter(judge.failures.values()).most_common()
        ]

    def mistakes(self) -> list[Mistake]:
        """Return what the best judge is most wrongly sure of, the worst first."""
        judge = self._judges[self.best] if self.best else None
        found = sorted(_wrong(judge, self._items), key=_surest) if judge else []
        return found[:MISTAKES]


def _groups(judge: JudgeResult) -> dict[str, Figures]:
    """Return figures by subtlety, the plain violations first, then by category."""
    subtle = sorted(judge.subtlety.items(), key=lambda item: _SUBTLE.get(item[0], 9))
    return dict(subtle) | judge.categories


def _scores(found: Sequence[tuple[str, str, Interval]], name: str) -> Markup:
    bars = []
    for label, tone, score in found:
        ends = f"95% interval {decimal(score.low)} to {decimal(score.high)}"
        title = f"{label}: {decimal(score.value)}, {ends}"
        shown = decimal(score.value)
        bars.append(Bar(label, score.value, shown, title, tone, (score.low, score.high)))
    return charts.bars(bars, name=name, high=1.0, mark=0.5)


def _pieces(found: Sequence[Threshold]) -> list[list[tuple[float, float]]]:
    """Return the precision where there are claims."""
    groups = groupby(found, key=lambda t: t.precision is not None)
    return [
        [(t.probability, t.precision or 0.0) for t in piece] for known, piece in groups if known
    ]


def _wrong(judge: JudgeResult, items: dict[str, Item]) -> Iterator[Mistake]:
    """Yield the replies whose calibrated probability is on the wrong side of one half."""
    if judge.calibration is None:
        return
    for answer in judge.answers:
        for label in LABELS:
            p = probability(judge.calibration, getattr(answer, label))
            if (p > 0.5) == (label == "satisfies") and p != 0.5 and answer.item in items:
                yield Mistake(items[answer.item], label, p)


def _surest(mistake: Mistake) -> float:
    return -abs(mistake.probability - 0.5)
