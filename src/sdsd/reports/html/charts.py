"""Charts as inline SVG: no script, readable in light and dark. The shapes are in `charts.html`.

Horizontal positions are percentages of the width that the page gives, vertical ones are pixels, so
type keeps its size on a telephone. Colours are classes (`t-a`, `t-b`, ...) of the style sheet.
Every mark has a `<title>`: hovering shows the full label and the exact number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from sdsd.reports.html.page import coordinate, macro

_PHONE = 290
"""Width of a plot on a narrow screen, in pixels: axis labels must not overlap there."""


class Part(NamedTuple):
    """One segment of a bar: its length, its colour class and its tooltip."""

    value: float
    tone: str
    title: str


class Bar(NamedTuple):
    """A horizontal bar of one or more parts; with an interval, a dot with whiskers instead."""

    label: str
    parts: tuple[Part, ...]
    value: str
    title: str = ""
    interval: tuple[float, float] | None = None
    mark: float | None = None
    """Where to draw a reference line."""

    @property
    def length(self) -> float:
        """The sum of the parts."""
        return sum(part.value for part in self.parts)


class Column(NamedTuple):
    """One column of a histogram."""

    label: str
    value: float
    title: str
    mark: float | None = None
    tone: str = ""
    """Its own colour class, if it differs from that of the histogram."""


class Tile(NamedTuple):
    """One cell of a heat map."""

    share: float
    title: str
    sure: bool = True
    """Drawn at full size; otherwise small, because few observations support it."""


class Band(NamedTuple):
    """A range shaded across the plot, for comparison."""

    low: float
    high: float
    label: str


Line = tuple[str, str, Sequence[Tile | None]]
"""A line of a heat map: its label, its tooltip, and a tile or None for each column."""


def bars(items: Sequence[Bar], *, name: str, top: float = 0.0, ends: bool = False) -> Markup:
    """Draw horizontal bars, with labels on the left and values on the right.

    `top` is the value at the right end (0: the largest); `ends` prints it below, as a percentage.
    """
    return _draw("bars", items, name, top or _longest(items), ends)


def funnel(items: Sequence[Bar], *, name: str) -> Markup:
    """Draw bars below each other, each joined to the next by what is lost between them."""
    top = _longest(items)
    return _draw("funnel", items, name, [100 * item.length / top for item in items])


def stacked(parts: Sequence[Part], *, name: str) -> Markup:
    """Draw one bar of all parts, with its legend."""
    return _draw("stacked", parts, name, sum(p.value for p in parts) or 1)


def legend(items: Sequence[tuple[str, str]]) -> Markup:
    """Explain colour classes."""
    return _draw("legend", items)


def columns(
    items: Sequence[Column],
    *,
    name: str,
    tone: str = "t-a",
    height: int = 150,
    shares: bool = False,
    band: Band | None = None,
) -> Markup:
    """Draw vertical bars over an axis of counts, or of percentages for `shares`."""
    highest = max([c.value for c in items] + [c.mark or 0 for c in items], default=0)
    top = nice(max(highest, band.high if band else 0))
    widest = max((len(c.label) for c in items), default=0) * 8 + 8
    every = max(1, math.ceil(len(items) * widest / _PHONE))
    return _draw("columns", items, name, tone, height, shares, band, top, every)


def area(
    series: Mapping[str, Sequence[float]],
    tones: Mapping[str, str],
    *,
    name: str,
    seconds: float,
    unit: str,
    height: int = 170,
) -> Markup:
    """Stack series over time, `seconds` long in equal bins."""
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    top, below, ribbons = nice(max(totals, default=0)), [0.0] * len(totals), []
    for key, values in series.items():
        above = [b + v for b, v in zip(below, values, strict=True)]
        ribbons.append((_ribbon(below, above, top, height), tones[key]))
        below = above
    return _draw("area", ribbons, totals, name, seconds, unit, height, top)


def heat(
    lines: Sequence[Line], heads: Sequence[str], *, name: str, top: float, titled: bool = True
) -> Markup:
    """Draw tiles by line and column, darker for larger shares; from `top` on they are darkest.

    Without `titled`, tiles have no tooltips, which makes large maps a fraction of the size.
    """
    left = min(max((8 * len(label) for label, _, _ in lines), default=0), 170) + 10
    over = min(max((8 * len(head) for head in heads), default=0), 185)
    up = int(over * 0.906) + 12  # the heads slant by 65 degrees, whose sine this is
    drawn = []
    for i, (label, title, tiles) in enumerate(lines):
        shapes: dict[tuple[str, str], str] = {}
        for k, tile in enumerate(tiles):
            if tile:
                key = f"h{level(tile.share, top)}", tile.title if titled else ""
                shapes[key] = shapes.get(key, "") + _square(left + 19 * k, up + 19 * i, tile.sure)
        drawn.append((label, title, shapes))
    return _draw("heat", drawn, heads, name, left, over, up)


def _square(x: float, y: float, large: bool) -> str:
    side = 17 if large else 7
    inset = (19 - side) / 2
    return f"M{coordinate(x + inset)} {coordinate(y + inset)}h{side}v{side}h-{side}z"


LEVELS = 5
"""Shades of a heat map, besides that of zero."""


def level(share: float, top: float) -> int:
    """Return the shade of a share: 0 for zero, otherwise 1 to `LEVELS`, reached at `top`."""
    return min(math.ceil(LEVELS * share / top), LEVELS) if share else 0


def nice(value: float) -> float:
    """Return the next round number, to end an axis with: 1, 1.2, 1.6, 2, 3 ... times 10^k."""
    if value < 1e-12:
        return 1.0
    size: float = 10.0 ** math.floor(math.log10(value))
    step = next(m for m in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if value <= m * size * (1 + 1e-9))
    return step * size


def _longest(items: Sequence[Bar]) -> float:
    return max((item.length for item in items), default=0) or 1


def _ribbon(below: Sequence[float], above: Sequence[float], top: float, height: int) -> str:
    """Return the path between two step functions: within a bin nothing is known, so it is flat."""

    def y(value: float) -> str:
        return coordinate(height * (1 - value / top))

    up = [f"H{i}V{y(v)}H{i + 1}" for i, v in enumerate(above)]
    down = [f"V{y(v)}H{i}" for i, v in reversed(list(enumerate(below)))]
    return f"M0 {height}{''.join(up)}{''.join(down)}Z"


def _draw(name: str, *values: object) -> Markup:
    return macro("charts.html", name, *values)
