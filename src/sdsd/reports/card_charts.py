"""The card's plots: those of the report, each as a file that stands alone.

A card shows them by `<img>`, where no style of the page and no script reaches them: so each brings
its own style, with colours written out, on white.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from sdsd.reports.html import charts
from sdsd.reports.html.charts import Column, Part, Row
from sdsd.reports.html.page import STEPS
from sdsd.reports.html.text import clip, count, esc, percent, short
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.rates import Rate

_WIDTH, _EDGE, _AXIS, _HEAD = 760, 20, 44, 46
_MOST_ROWS, _MOST_COLUMNS = 20, 30
_FEW = 10
"""Of fewer observations the tables of the card say all there is to see."""
_FONT = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def plots(figures: Figures) -> dict[str, tuple[str, str]]:
    """By file name, what a plot shows, in words, and its SVG; none for a run of a few dialogues."""
    if figures.step("held") < _FEW:
        return {}
    drawn = (_funnel(figures), _principles(figures), _exchanges(figures), _strategies(figures))
    return {f"{name}.svg": (title, _standing(title, plot)) for name, title, plot in drawn if plot}


def _funnel(figures: Figures) -> tuple[str, str, str]:
    title = "From scenario to pair"
    items = []
    for step in figures.funnel:
        tone = "t-c" if step.name == "accepted" else "t-a"
        value = f"{count(step.n)} · {percent(step.n / figures.finished)}"
        items.append(Row(STEPS[step.name], (Part(step.n, tone, value),), value))
    return "funnel", title, charts.funnel(items, name=title)


def _principles(figures: Figures) -> tuple[str, str, str]:
    enough = figures.violations >= _FEW
    broken = [p for p in figures.principles if p.confirmed.k and enough]
    shown = broken[:_MOST_ROWS]
    whole = len(shown) == len(broken)
    title = "Confirmed violations by principle"
    title += "" if whole else f": the {len(shown)} most broken of {count(len(broken))}"
    items = []
    for p in shown:
        value = f"{count(p.confirmed.k)} of {count(p.confirmed.n)}"
        items.append(Row(p.id, (Part(p.confirmed.k, "t-b", p.text),), value, p.text))
    return "principles", title, charts.rows(items, name=title) if items else ""


def _exchanges(figures: Figures) -> tuple[str, str, str]:
    title = "Dialogues by number of exchanges"
    last = min(max(figures.exchanges), min(figures.exchanges) + _MOST_COLUMNS)
    numbers = range(min(figures.exchanges), last + 1)
    lengths = {number: figures.exchanges.get(number, 0) for number in numbers}
    items = [Column(str(k), n, f"{k}: {count(n)}") for k, n in lengths.items()]
    return "exchanges", title, charts.columns(items, name=title)


def _strategies(figures: Figures) -> tuple[str, str, str]:
    title = "Verified pairs of all scenarios, by strategy, with 95% intervals"
    shown = [s for s in figures.strategies if s.pairs.n >= _FEW][:_MOST_ROWS]
    if len(shown) < 2:
        return "strategies", title, ""
    top = min(charts.nice(max(s.pairs.high for s in shown)), 1.0)
    items = [_rate(s.name, s.pairs) for s in shown]
    return "strategies", title, charts.rows(items, name=title, top=top, ends=True)


def _rate(label: str, rate: Rate) -> Row:
    value = f"{percent(rate.share)} · {short(rate.k)}/{short(rate.n)}"
    part = Part(rate.share, "t-c", value)
    return Row(label, (part,), value, interval=(rate.low, rate.high))


def _standing(title: str, plot: str) -> str:
    """A plot of the report as a file: sized, styled, titled, on white."""
    height = float(re.search(r' height="([\d.]+)"', plot)[1])  # type: ignore[index]
    left = _EDGE + (_AXIS if 'class="plot axis"' in plot else 0)
    whole = round(_HEAD + height + _EDGE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{whole}" '
        f'viewBox="0 0 {_WIDTH} {whole}" role="img" aria-label="{esc(title)}">'
        f"<style>{_style()}</style>"
        '<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="{_EDGE}" y="28" class="title">{esc(clip(title, _WIDTH - 2 * _EDGE))}</text>'
        f'<svg x="{left}" y="{_HEAD}" width="{_WIDTH - left - _EDGE}" height="{height}" '
        f'class="open">{plot}</svg></svg>\n'
    )


@cache
def _style() -> str:
    """What the report's style sheet says of plots on light pages, with its colours written out."""
    sheet = files("sdsd.reports.html").joinpath("report.css").read_text("utf-8")
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", sheet)
    colours = dict(re.findall(r"(--[\w-]+):\s*([^;]+);", rules[0][1]))
    kept = [
        f"{' '.join(where.split())} {{ {' '.join(what.split())} }}"
        for where, what in rules
        if re.match(r"\s*(svg|\.(track|joint|rule|mark|band|whisker|hit|t-\w+)\b)", where)
    ]
    text = "\n".join([f"text {{ {_FONT}; fill: var(--ink) }}", *kept])
    text += "\n.title { font-size: 16px; font-weight: 600 } .open { overflow: visible }"
    return re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], text)
