"""Draw the charts of the report from a run's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from sdsd.checks import dialogue_rules
from sdsd.reports.html import charts
from sdsd.reports.html.charts import Band, Bar, Column, Line, Part, Tile
from sdsd.reports.html.page import OUTCOMES, STEPS, STOPS
from sdsd.reports.html.text import count, duration, percent, plural, short, within, words
from sdsd.reports.metrics.bias import STEP, Thirds
from sdsd.reports.metrics.diversity import Voice
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.metrics.paper import PAPER, PAPER_PRINCIPLES
from sdsd.reports.metrics.principles import Cell, PrincipleCount, by_category
from sdsd.reports.stats import FEW, Proportion, proportion, wilson

Item = tuple[str, str, Proportion]
"""A proportion with its label and the beginning of its tooltip."""
_MOST_COLUMNS = 300
_GREYS = ("t-n1", "t-n2", "t-n3", "t-n4")
STAGES = {
    "plan": ("Plan", "t-a2"),
    "turn": ("Turns", "t-a"),
    "check": ("Self-checks", "t-a3"),
    "candidate": ("Candidates", "t-n2"),
    "critique": ("Critique", "t-b"),
    "earlier": ("Critique of earlier turns", "t-n1"),
    "adherence": ("Plan adherence", "t-n2"),
    "revise": ("Revision", "t-c"),
    "recheck": ("Recheck", "t-b2"),
}
"""Label and colour of each stage."""


def stage(name: str) -> tuple[str, str]:
    """Return the label and the colour of a stage."""
    return STAGES.get(name, (name, "t-n1"))


# -- proportions and counts ----------------------------------------------------------------


def dots(
    items: Iterable[Item], *, name: str, tone: str = "t-b", halves: bool = False
) -> list[Markup]:
    """Draw each proportion as a dot with its interval; in two parts of one scale for `halves`."""
    known = list(items)
    top = min(charts.nice(max((p.high for _, _, p in known if p.n), default=1.0)), 1.0)
    drawn = [_dot(label, text, found, tone) for label, text, found in known]
    half = (len(drawn) + 1) // 2 if halves else len(drawn)
    parts = (drawn[:half], drawn[half:]) if halves else (drawn,)
    return [charts.bars(part, name=name, top=top, ends=True) for part in parts]


def _dot(label: str, text: str, found: Proportion, tone: str) -> Bar:
    if not found.n:
        return Bar(label, (), "–", f"{text}: nothing observed")
    value = f"{percent(found.share)} · {short(found.k)}/{short(found.n)}"
    title = (
        f"{text}: {count(found.k)} of {count(found.n)} ({percent(found.share)}, {within(found)})"
    )
    return Bar(label, (Part(found.share, tone, title),), value, title, (found.low, found.high))


def tallied(counts: Mapping[str, int], *, name: str, of: int = 0) -> Markup:
    """Draw a bar for each rule; its tooltip says what the rule means."""
    items = []
    for rule, n in counts.items():
        meaning = REMOVED.get(rule) or dialogue_rules.RULES.get(rule) or words(rule)
        value = f"{count(n)} · {percent(n / of)}" if of else count(n)
        title = f"{meaning}: {count(n)}" + (f" of {plural(of, 'dialogue')}" if of else "")
        items.append(Bar(rule, (Part(n, "t-n1", title),), value, title))
    return charts.bars(items, name=name, top=of)


REMOVED = {
    "malformed": "a dialogue that no trainer could read",
    "duplicate_exact": "repeats an earlier dialogue word for word",
    "duplicate_near": "nearly repeats an earlier dialogue",
    "duplicate_semantic": "says the same as an earlier dialogue in other words",
    "contaminated": "shares a long run of words with an evaluation set",
    "too_similar": "chosen and rejected are too similar",
    "length_ratio": "chosen and rejected differ too much in length",
    "small_margin": "the critics hardly distinguish chosen from rejected",
    "balance": "exceeds its share of a balanced data set",
}
"""What the rules of the export mean; those of `sdsd.checks.dialogue_rules` come on top."""


# -- from scenario to pair -----------------------------------------------------------------


def funnel(figures: Figures, name: str, last: str = "") -> Markup:
    """Draw how many scenarios reach each step; `last` replaces the label of the last one."""
    items, before = [], figures.finished
    for step in figures.funnel:
        label, share = STEPS[step.name], percent(step.n / max(figures.finished, 1))
        label = last if last and step.name == "accepted" else label
        lost = f"; {count(before - step.n)} lost at this step" if step.n < before else ""
        tone = "t-c" if step.name == "accepted" else "t-a"
        title = f"{label}: {count(step.n)} of {count(figures.finished)} ({share}){lost}"
        items.append(Bar(label, (Part(step.n, tone, title),), f"{count(step.n)} · {share}", title))
        before = step.n
    return charts.funnel(items, name=name)


def outcomes(figures: Figures) -> Markup:
    """Draw how the scenarios ended."""
    greys, parts = iter(_GREYS), []
    for item in sorted(figures.outcomes, key=lambda o: o.outcome != "accepted"):
        label = OUTCOMES.get(item.rule or item.outcome, words(item.rule))
        tone = {"accepted": "t-c", "failed": "t-bad"}.get(item.outcome) or next(greys, "t-n4")
        share = percent(item.n / figures.finished)
        parts.append(Part(item.n, tone, f"{label}: {count(item.n)} ({share})"))
    return charts.stacked(parts, name="How scenarios ended")


def exchanges(figures: Figures, most: int = _MOST_COLUMNS) -> Markup:
    """Draw a histogram of the number of exchanges."""
    least, total = min(figures.exchanges), figures.reached("generated")
    items = []
    for number in range(least, min(max(figures.exchanges), least + most) + 1):
        n = figures.exchanges.get(number, 0)
        title = f"{plural(number, 'exchange')}: {plural(n, 'dialogue')} ({percent(n / total)})"
        items.append(Column(str(number), n, title))
    return charts.columns(items, name="Dialogues by number of exchanges")


def stops(figures: Figures) -> Markup:
    """Draw why dialogues stopped."""
    greys, total = iter(_GREYS), figures.reached("generated")
    parts = []
    for stop, n in sorted(figures.stops.items(), key=lambda item: item[0] != "completed"):
        tone = "t-a" if stop == "completed" else next(greys, "t-n4")
        parts.append(Part(n, tone, f"{STOPS[stop]}: {count(n)} ({percent(n / total)})"))
    return charts.stacked(parts, name="Why dialogues stopped")


# -- principles and fields -----------------------------------------------------------------


def paper_comparable(figures: Figures) -> bool:
    """Whether there are enough principles and violations to draw the paper's range."""
    least = PAPER["principle_share"].values["least"]
    kinds = len(figures.principles) / PAPER_PRINCIPLES
    return 0.75 < kinds < 1.33 and figures.violations * least >= 1


def principle_shares(figures: Figures) -> Markup:
    """Draw each principle's share of all violations, and the paper's range where comparable."""
    low, high = PAPER["principle_share"].values.values()
    band = Band(low, high, f"The paper's range: {percent(low)} to {percent(high)}")
    even = 1 / len(figures.principles)
    items = [
        Column("", p.share, f"{p.id}: {percent(p.share)} ({count(p.confirmed.k)})", even)
        for p in figures.principles[:_MOST_COLUMNS]
    ]
    name = "Share of all violations by principle, largest first"
    shown = band if paper_comparable(figures) else None
    return charts.columns(items, name=name, tone="t-b", shares=True, band=shown)


class FieldMap:
    """Where violations occur: categories of principles, and single principles, by field."""

    def __init__(self, figures: Figures) -> None:
        grouped = by_category(figures.cells, figures.principles)
        self.cells = list(grouped.values())
        self.most = max((cell.judged for cell in self.cells), default=0)
        self.dense = _dense(self.cells)
        self.known = [cell for cell in self.cells if cell.judged >= FEW]
        judged = sum(cell.judged for cell in self.cells)
        self.overall = sum(cell.confirmed for cell in self.cells) / max(judged, 1)
        bounds = [wilson(cell.confirmed, cell.judged) for cell in self.known]
        self.apart = sum(not low <= self.overall <= high for low, high in bounds)
        sure = self.known or self.cells
        highest = max((c.confirmed / c.judged for c in sure), default=1.0)
        self.top = min(charts.nice(highest), 1.0)
        self._figures = figures
        self._fields = sorted({cell.field for cell in figures.cells})
        self._grouped = grouped

    def by_category(self) -> Markup:
        """Draw the map of categories."""
        names = [c.name for c in self._figures.categories if c.confirmed.n]
        name = "Confirmed violations by category and field"
        return self._map([(n, f"{n}: all fields", n) for n in names], self._grouped, name)

    def by_principle(self) -> Markup | None:
        """Draw the map of principles in the order of categories; None where cells are too small."""
        if not _dense(self._figures.cells):
            return None
        cells = {(c.principle, c.field): c for c in self._figures.cells}
        judged = [p for p in self._figures.principles if p.confirmed.n]
        lines = [(p.id, _about(p), p.id) for p in sorted(judged, key=lambda p: (p.category, p.id))]
        return self._map(lines, cells, "Confirmed violations by principle and field", titled=False)

    def _map(
        self,
        lines: Sequence[tuple[str, str, str]],
        cells: Mapping[tuple[str, str], Cell],
        name: str,
        titled: bool = True,
    ) -> Markup:
        drawn: list[Line] = [
            (label, title, [_tile(cells.get((key, field))) for field in self._fields])
            for label, title, key in lines
        ]
        return charts.heat(
            drawn, [*map(words, self._fields)], name=name, top=self.top, titled=titled
        )

    def legend(self) -> Markup:
        """Explain the shades."""
        ends = [percent(self.top * k / charts.LEVELS) for k in range(charts.LEVELS + 1)]
        items = [("h0", "none")] + [(f"h{k}", f"up to {ends[k]}") for k in range(1, charts.LEVELS)]
        return charts.legend([*items, (f"h{charts.LEVELS}", f"more than {ends[-2]}")])

    def surest(self) -> list[tuple[Cell, Proportion]]:
        """Return the twelve cells whose share is most certainly high."""
        found = [(cell, proportion(cell.confirmed, cell.judged)) for cell in self.cells]
        return sorted(found, key=lambda x: (-x[1].low, x[0].principle, x[0].field))[:12]


def _about(p: PrincipleCount) -> str:
    k, n = count(p.confirmed.k), count(p.confirmed.n)
    return f"{p.category}: {p.text} Violated in {k} of {n}"


def _dense(cells: Sequence[Cell]) -> bool:
    """Whether a quarter of the cells has five judgements: otherwise a map shows only noise."""
    return 4 * sum(cell.judged >= FEW // 2 for cell in cells) >= len(cells)


def _tile(cell: Cell | None) -> Tile | None:
    if cell is None:
        return None
    found = proportion(cell.confirmed, cell.judged)
    title = f"{cell.principle}, {words(cell.field)}: {count(found.k)} of {count(found.n)} "
    title += f"({percent(found.share)}, {within(found)}); {plural(cell.pairs, 'verified pair')}"
    return Tile(found.share, title, cell.judged >= FEW)


def topics(figures: Figures) -> Markup:
    """Draw the dialogues of each field, with what the catalogue's proportions would give."""
    total = figures.finished
    items = [
        Column(
            "",
            topic.n,
            f"{words(topic.name)}: {plural(topic.n, 'dialogue')} ({percent(topic.n / total)})",
            topic.expected * total,
        )
        for topic in figures.fields.topics[:_MOST_COLUMNS]
    ]
    name = "Dialogues by field, largest first"
    return charts.columns(items, name=name, tone="t-a2", height=110)


# -- diversity and biases ------------------------------------------------------------------


def openings(voice: Voice, name: str) -> Markup | None:
    """Draw the most frequent openings; None if hardly two turns begin alike."""
    shown = [opening for opening in voice.openings if opening.turns.share >= 0.001]
    if not shown:
        return None
    items = []
    for opening in shown:
        turns = opening.turns
        about = f"{opening.words}: {count(turns.k)} of {plural(turns.n, 'turn')}"
        value = f"{percent(turns.share)} · {short(turns.k)}"
        items.append(Bar(opening.words, (Part(turns.share, "t-a2", about),), value, about))
    top = min(max(charts.nice(shown[0].turns.share), 0.1), 1.0)
    return charts.bars(items, name=name, top=top, ends=True)


def deltas(found: Mapping[int, int]) -> Markup:
    """Draw a histogram of length differences, in at most 40 classes."""
    least, most, width, pairs = min(found), max(found), STEP, sum(found.values())
    while most // width - least // width >= 40:
        width *= 2
    items = []
    for k in range(least // width, most // width + 1):
        n, low = sum(m for at, m in found.items() if at // width == k), k * width
        title = f"{low:,} to {low + width:,} characters: {plural(n, 'pair')} ({percent(n / pairs)})"
        tone = "t-c" if low >= 0 else "t-n2"
        items.append(Column(f"{low}".replace("-", "−"), n, title.replace("-", "−"), tone=tone))
    return charts.columns(items, name="Pairs by difference in length", height=120)


def thirds(found: Thirds, name: str) -> Markup:
    """Draw how positions are distributed over a turn."""
    labels = ("first third", "middle third", "last third")
    parts = [
        Part(n, tone, f"{label}: {count(n)} ({percent(n / sum(found))})")
        for n, tone, label in zip(found, ("t-b", "t-b2", "t-n3"), labels, strict=True)
    ]
    return charts.stacked(parts, name=name)


# -- cost ----------------------------------------------------------------------------------

KINDS = (("prompt, computed", "t-a"), ("prompt, from cache", "t-a3"), ("written", "t-c"))
"""Kinds of tokens and their colours."""


def tokens(figures: Figures) -> Markup:
    """Draw the tokens of each stage."""
    items = []
    for name, use in figures.stages.items():
        label, _ = stage(name)
        fresh = max(use.prompt_tokens - use.cached_tokens, 0)
        numbers = (fresh, use.cached_tokens, use.completion_tokens)
        parts = tuple(
            Part(n, tone, f"{label}, {kind}: {count(n)}")
            for n, (kind, tone) in zip(numbers, KINDS, strict=True)
        )
        items.append(Bar(label, parts, short(sum(numbers))))
    key = charts.legend([(tone, kind) for kind, tone in KINDS])
    return charts.bars(items, name="Tokens by stage") + key


def times(figures: Figures) -> Markup:
    """Draw the model time of each stage."""
    total = sum(use.seconds for use in figures.stages.values())
    items = []
    for name, use in figures.stages.items():
        label, tone = stage(name)
        title = f"{label}: {duration(use.seconds)} in {plural(use.calls, 'call')}"
        items.append(Bar(label, (Part(use.seconds, tone, title),), percent(use.seconds / total)))
    return charts.bars(items, name="Model time by stage")


def throughput(figures: Figures) -> Markup:
    """Draw tokens per second over the run."""
    clock = figures.clock
    number = len(next(iter(clock.bins.values())))
    series = {name: [n / clock.bin for n in values] for name, values in clock.bins.items()}
    plot = charts.area(
        series,
        {name: stage(name)[1] for name in series},
        name="Tokens written per second, over time",
        seconds=clock.bin * number,
        unit="tokens/s",
    )
    return plot + charts.legend([stage(name)[::-1] for name in series])
