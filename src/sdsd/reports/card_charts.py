"""The card's charts: those of the report, each as an SVG file of its own.

A card embeds them by `<img>`, where neither the page's styles nor scripts apply. Each file
therefore contains its styles, with colours written out, on a white background.
"""

from __future__ import annotations

import re
from functools import cache

from sdsd.reports.html import charts, page
from sdsd.reports.html import plots as drawing
from sdsd.reports.html.charts import Bar
from sdsd.reports.html.text import clip, count, esc
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.stats import FEW

_WIDTH, _EDGE, _AXIS, _HEAD = 760, 20, 44, 46
_MOST_ROWS, _MOST_COLUMNS = 20, 30
_FONT = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def plots(figures: Figures) -> dict[str, tuple[str, str]]:
    """Return title and SVG by file name; nothing for a run of fewer than ten dialogues."""
    if figures.reached("generated") < FEW:
        return {}
    lengths = "Dialogues by number of exchanges"
    drawn = {
        "funnel": ("From scenario to pair", drawing.funnel(figures, "From scenario to pair")),
        "principles": _principles(figures),
        "exchanges": (lengths, drawing.exchanges(figures, _MOST_COLUMNS)),
        "strategies": _strategies(figures),
    }
    return {
        f"{name}.svg": (title, _standalone(title, plot))
        for name, (title, plot) in drawn.items()
        if plot
    }


def _principles(figures: Figures) -> tuple[str, str]:
    violated = [p for p in figures.principles if p.confirmed.k and figures.violations >= FEW]
    shown = violated[:_MOST_ROWS]
    title = "Confirmed violations by principle"
    if len(shown) < len(violated):
        title += f": the {len(shown)} most often violated of {count(len(violated))}"
    items = [
        Bar(p.id, p.confirmed.k, f"{count(p.confirmed.k)} of {count(p.confirmed.n)}", p.text, "t-b")
        for p in shown
    ]
    return title, charts.bars(items, name=title) if items else ""


def _strategies(figures: Figures) -> tuple[str, str]:
    title = "Accepted dialogues, of finished scenarios, by strategy, with 95% intervals"
    shown = [s for s in figures.strategies if s.accepted.n >= FEW][:_MOST_ROWS]
    if len(shown) < 2:
        return title, ""
    items = [(s.name, f"Accepted dialogues with strategy {s.name}", s.accepted) for s in shown]
    return title, charts.dots(items, name=title, tone="t-c")[0]


def _standalone(title: str, plot: str) -> str:
    """Return a chart of the report as a file: sized, styled and titled."""
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
    """Return the style sheet's rules for charts on light pages, with colours written out."""
    sheet = (page.TEMPLATES / "page.css").read_text("utf-8")
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
