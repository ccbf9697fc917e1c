"""Draw the charts of the report from a run's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sdsd.config import ExportConfig
from sdsd.dataset.extensions import meanings_of
from sdsd.reports.html import charts
from sdsd.reports.html.charts import Column, Line, Tile
from sdsd.reports.html.page import OUTCOMES, STEPS, STOPS
from sdsd.reports.html.text import count, duration, percent, plural, short, within, words
from sdsd.reports.metrics.bias import STEP
from sdsd.reports.metrics.diversity import Voice
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.metrics.paper import PAPER, PAPER_PRINCIPLES
from sdsd.reports.metrics.principles import Cell, PrincipleCount, by_category
from sdsd.reports.stats import FEW, Proportion, proportion

_MOST_COLUMNS = 300
_GREYS = ("t-n1", "t-n2", "t-n3", *("t-n4",) * 10)
_STAGES = {
    "stake": ("Last message", "t-n3"),
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
_REMOVED = {
    "malformed": "a dialogue that no trainer could read",
    "template_mark": "holds a mark of a chat template, which would end a turn",
    "duplicate_exact": "repeats an earlier dialogue word for word",
    "duplicate_near": "nearly repeats an earlier dialogue",
    "duplicate_semantic": "says the same as an earlier dialogue in other words",
    "contaminated": "shares a long run of words with an evaluation set",
    "too_similar": "chosen and rejected are too similar",
    "length_ratio": "chosen and rejected differ too much in length",
    "small_margin": "the critics hardly distinguish chosen from rejected",
    "balance": "exceeds its share of a balanced data set",
}


def stage(name: str) -> tuple[str, str]:
    """Return the label and the colour of a stage."""
    return _STAGES.get(name, (name, "t-n1"))


def rules(counts: Mapping[str, int], export: ExportConfig, *, name: str, of: int = 0) -> Markup:
    """Draw counts by rule of the export or of its quality checks, with its meaning."""
    meanings = meanings_of(export) | _REMOVED
    items = ((rule, meanings.get(rule, words(rule)), n) for rule, n in counts.items())
    return charts.tallied(items, name=name, of=of)


# -- dialogues -----------------------------------------------------------------------------


def funnel(figures: Figures, name: str, last: str = "") -> Markup:
    """Draw how many scenarios reach each step; `last` replaces the label of the last one."""
    labels = {**STEPS, **({"accepted": last} if last else {})}
    return charts.funnel([(labels[step.name], step.n) for step in figures.funnel], name=name)


def outcomes(figures: Figures) -> Markup:
    greys, parts = iter(_GREYS), []
    for o in sorted(figures.outcomes, key=lambda o: o.outcome != "accepted"):
        tone = {"accepted": "t-c", "failed": "t-bad"}.get(o.outcome) or next(greys, "t-n4")
        parts.append((OUTCOMES.get(o.rule or o.outcome, words(o.rule)), o.n, tone))
    return charts.stacked(parts, name="How scenarios ended")


def stops(figures: Figures) -> Markup:
    found = sorted(figures.stops.items(), key=lambda item: item[0] != "completed")
    tones = ("t-a", *_GREYS) if "completed" in figures.stops else _GREYS
    parts = [(STOPS[stop], n, tone) for (stop, n), tone in zip(found, tones, strict=False)]
    return charts.stacked(parts, name="Why dialogues stopped")


def exchanges(figures: Figures, most: int = _MOST_COLUMNS) -> Markup:
    """Draw a histogram of the number of exchanges, over at most `most` numbers."""
    least, total, items = min(figures.exchanges), figures.reached("generated"), []
    for number in range(least, min(max(figures.exchanges), least + most) + 1):
        n = figures.exchanges.get(number, 0)
        title = f"{plural(number, 'exchange')}: {plural(n, 'dialogue')} ({percent(n / total)})"
        items.append(Column(str(number), n, title))
    return charts.columns(items, name="Dialogues by number of exchanges")


def topics(figures: Figures) -> Markup:
    """Draw the dialogues of each field, with what the catalogue's proportions would give."""
    total, items = figures.finished, []
    for t in figures.fields.topics[:_MOST_COLUMNS]:
        title = f"{words(t.name)}: {plural(t.n, 'dialogue')} ({percent(t.n / total)})"
        items.append(Column("", t.n, title, t.expected * total))
    name = "Dialogues by field, largest first"
    return charts.columns(items, name=name, tone="t-a2", height=110)


def openings(voice: Voice, name: str) -> Markup | None:
    """Draw the most frequent openings; None if hardly two turns begin alike."""
    shown = [o for o in voice.openings if o.turns.share >= 0.001]
    items = []
    for o in shown:
        title = f"“{o.words}”: {count(o.turns.k)} of {plural(o.turns.n, 'turn')}"
        value = f"{percent(o.turns.share)} · {short(o.turns.k)}"
        items.append(charts.Bar(o.words, o.turns.share, value, title, "t-a2"))
    top = min(max((charts.nice(o.turns.share) for o in shown), default=0.0), 1.0)
    return charts.bars(items, name=name, high=max(top, 0.1), ends=True) if shown else None


def deltas(found: Mapping[int, int]) -> Markup:
    """Draw a histogram of length differences, in at most 40 classes."""
    least, most, width, pairs = min(found), max(found), STEP, sum(found.values())
    while most // width - least // width >= 40:
        width *= 2
    items = []
    for low in range(least // width * width, most + 1, width):
        n = sum(m for at, m in found.items() if low <= at < low + width)
        title = f"{low:,} to {low + width:,} characters: {plural(n, 'pair')} ({percent(n / pairs)})"
        tone = "t-c" if low >= 0 else "t-n2"
        items.append(Column(f"{low}".replace("-", "−"), n, title.replace("-", "−"), tone=tone))
    return charts.columns(items, name="Pairs by difference in length", height=120)


# -- principles and fields -----------------------------------------------------------------


def paper_comparable(figures: Figures) -> bool:
    """Whether there are enough principles and violations to draw the paper's range."""
    least = PAPER["principle_share"].values["least"]
    kinds = len(figures.principles) / PAPER_PRINCIPLES
    return 0.75 < kinds < 1.33 and figures.violations * least >= 1


def principle_shares(figures: Figures) -> Markup:
    """Draw each principle's share of all violations, and the paper's range where comparable."""
    low, high = PAPER["principle_share"].values.values()
    band = (low, high, f"The paper's range: {percent(low)} to {percent(high)}")
    even, items = 1 / len(figures.principles), []
    for p in figures.principles[:_MOST_COLUMNS]:
        title = f"{p.id}: {percent(p.share)} ({count(p.confirmed.k)})"
        items.append(Column("", p.share, title, even))
    name = "Share of all violations by principle, largest first"
    shown = band if paper_comparable(figures) else None
    return charts.columns(items, name=name, tone="t-b", shares=True, band=shown)


class FieldMap:
    """Where violations occur: categories of principles, and single principles, by field."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._fields = sorted({cell.field for cell in figures.cells})
        self._grouped = by_category(figures.cells, figures.principles)
        cells = list(self._grouped.values())
        self.most = max((cell.judged for cell in cells), default=0)
        self.dense = _dense(cells)
        self.known = [cell for cell in cells if cell.judged >= FEW]
        judged = sum(cell.judged for cell in cells)
        self.overall = sum(cell.confirmed for cell in cells) / max(judged, 1)
        shares = [proportion(cell.confirmed, cell.judged) for cell in self.known]
        self.apart = sum(not p.low <= self.overall <= p.high for p in shares)
        highest = max((c.confirmed / c.judged for c in self.known or cells), default=1.0)
        self._top = min(charts.nice(highest), 1.0)

    def by_category(self) -> Markup:
        """Draw the map of categories, with a legend."""
        names = [c.name for c in self._figures.categories if c.confirmed.n]
        lines = [(name, f"{name}: all fields") for name in names]
        drawn = self._map(lines, self._grouped, "Confirmed violations by category and field")
        ends = [percent(self._top * k / charts.LEVELS) for k in range(charts.LEVELS + 1)]
        key = {"none": "h0"} | {f"up to {ends[k]}": f"h{k}" for k in range(1, charts.LEVELS)}
        return drawn + charts.legend(key | {f"more than {ends[-2]}": f"h{charts.LEVELS}"})

    def by_principle(self) -> Markup | None:
        """Draw the map of principles in the order of categories; None where cells are too small."""
        if not _dense(self._figures.cells):
            return None
        cells = {(c.principle, c.field): c for c in self._figures.cells}
        judged = [p for p in self._figures.principles if p.confirmed.n]
        lines = [(p.id, _about(p)) for p in sorted(judged, key=lambda p: (p.category, p.id))]
        return self._map(lines, cells, "Confirmed violations by principle and field", titled=False)

    def surest(self) -> list[tuple[Cell, Proportion]]:
        """Return the twelve cells whose share is most certainly high."""
        found = [(c, proportion(c.confirmed, c.judged)) for c in self._grouped.values()]
        return sorted(found, key=lambda x: (-x[1].low, x[0].principle, x[0].field))[:12]

    def _map(
        self,
        lines: Sequence[tuple[str, str]],
        cells: Mapping[tuple[str, str], Cell],
        name: str,
        titled: bool = True,
    ) -> Markup:
        drawn: list[Line] = [
            (key, title, [_tile(cells.get((key, field))) for field in self._fields])
            for key, title in lines
        ]
        heads = [*map(words, self._fields)]
        return charts.heat(drawn, heads, name=name, top=self._top, titled=titled)


def _about(p: PrincipleCount) -> str:
    k, n = count(p.confirmed.k), count(p.confirmed.n)
    return f"{p.category}: {p.text} Violated in {k} of {n}"


def _dense(cells: Sequence[Cell]) -> bool:
    """Whether a quarter of the cells have five judgements; otherwise a map shows only noise."""
    return 4 * sum(cell.judged >= FEW // 2 for cell in cells) >= len(cells)


def _tile(cell: Cell | None) -> Tile | None:
    if cell is None:
        return None
    p = proportion(cell.confirmed, cell.judged)
    title = f"{cell.principle}, {words(cell.field)}: {count(p.k)} of {count(p.n)} "
    title += f"({percent(p.share)}, {within(p)}); {plural(cell.pairs, 'verified pair')}"
    return Tile(p.share, title, cell.judged >= FEW)


# -- cost ----------------------------------------------------------------------------------


def tokens(figures: Figures) -> Markup:
    kinds = {"prompt, computed": "t-a", "prompt, from cache": "t-a3", "written": "t-c"}
    numbers = {
        stage(name)[0]: (
            max(use.prompt_tokens - use.cached_tokens, 0),
            use.cached_tokens,
            use.completion_tokens,
        )
        for name, use in figures.stages.items()
    }
    return charts.layers(numbers, kinds, name="Tokens by stage")


def times(figures: Figures) -> Markup:
    total, items = sum(use.seconds for use in figures.stages.values()), []
    for name, use in figures.stages.items():
        label, tone = stage(name)
        title = f"{label}: {duration(use.seconds)} in {plural(use.calls, 'call')}"
        items.append(charts.Bar(label, use.seconds, percent(use.seconds / total), title, tone))
    return charts.bars(items, name="Model time by stage")


def throughput(figures: Figures) -> Markup:
    """Draw tokens written per second over the run, by stage."""
    clock = figures.clock
    series = {stage(k)[0]: [n / clock.bin for n in values] for k, values in clock.bins.items()}
    seconds = clock.bin * len(next(iter(clock.bins.values())))
    tones = [stage(name)[1] for name in clock.bins]
    return charts.area(series, tones, name="Tokens written per second", seconds=seconds)
