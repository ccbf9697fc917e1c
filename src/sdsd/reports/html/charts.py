"""Charts as inline SVG: no script, readable in light and dark. The shapes are in `charts.html`.

Horizontal positions are percentages of the width that the page gives, vertical ones are pixels, so
type keeps its size on a telephone. Colours are classes (`t-a`, `t-b`, ...) of the style sheet.
Every mark has a `<title>`: hovering shows the full label and the exact number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from sdsd.reports.html.page import coordinate, macro
from sdsd.reports.html.text import count, percent, plural, short, within
from sdsd.reports.stats import Proportion

_PHONE = 290
"""Width of a plot on a narrow screen, in pixels: axis labels must not overlap there."""
LEVELS = 5
"""Shades of a heat map, besides that of zero."""


class Bar(NamedTuple):
    """A horizontal bar; with an interval, a dot with whiskers instead."""

    label: str
    value: float | None
    shown: str
    title: str
    tone: str = "t-a"
    interval: tuple[float, float] | None = None


class Column(NamedTuple):
    """One column of a histogram, with an optional reference line."""

    label: str
    value: float
    title: str
    mark: float | None = None
    tone: str = ""


class Tile(NamedTuple):
    """One cell of a heat map; drawn small unless `sure`, because few observations support it."""

    share: float
    title: str
    sure: bool = True


class Dot(NamedTuple):
    """A point over two axes of shares, with an interval of the second."""

    x: float
    y: float
    low: float
    high: float
    title: str
    tone: str = "t-a"


Line = tuple[str, str, Sequence[Tile | None]]
"""A line of a heat map: its label, its tooltip, and a tile or None for each column."""


def bars(
    items: Sequence[Bar],
    *,
    name: str,
    low: float = 0.0,
    high: float = 0.0,
    ends: bool = False,
    mark: float | None = None,
) -> Markup:
    """Draw horizontal bars from `low` to `high` (0: the largest value).

    `ends` prints the scale below, in percent. `mark` draws a line there; a negative `low`, one at
    zero.
    """
    high = high or max((bar.value or 0 for bar in items), default=0) or 1
    mark = 0.0 if mark is None and low < 0 else mark
    return _draw("bars", items, name, low, high, ends, mark)


def dots(
    items: Iterable[tuple[str, str, Proportion]],
    *,
    name: str,
    tone: str = "t-b",
    halves: bool = False,
) -> list[Markup]:
    """Draw proportions, given with label and tooltip, as dots with their intervals.

    With `halves` in two charts of one scale, otherwise in one.
    """
    drawn, top = [], 0.0
    for label, text, p in items:
        title = f"{text}: {count(p.k)} of {count(p.n)} ({percent(p.share)}, {within(p)})"
        shown = f"{percent(p.share)} · {short(p.k)}/{short(p.n)}"
        top = max(top, p.high if p.n else 0.0)
        known = Bar(label, p.share, shown, title, tone, (p.low, p.high))
        drawn.append(known if p.n else Bar(label, None, "–", f"{text}: nothing observed"))
    half = (len(drawn) + 1) // 2 if halves else len(drawn)
    parts = (drawn[:half], drawn[half:]) if halves else (drawn,)
    return [bars(part, name=name, high=min(nice(top), 1.0), ends=True) for part in parts]


def tallied(items: Iterable[tuple[str, str, int]], *, name: str, of: int = 0) -> Markup:
    """Draw a bar for each label, tooltip and number; as a share of dialogues if `of` is given."""
    drawn = []
    for label, text, n in items:
        title = f"{text}: {count(n)}" + (f" of {plural(of, 'dialogue')}" if of else "")
        shown = f"{count(n)} · {percent(n / of)}" if of else count(n)
        drawn.append(Bar(label, n, shown, title, "t-n1"))
    return bars(drawn, name=name, high=of)


def layers(items: Mapping[str, Sequence[float]], kinds: Mapping[str, str], *, name: str) -> Markup:
    """Draw bars of several parts, in the order of `kinds`, which gives their colours."""
    top = max((sum(parts) for parts in items.values()), default=0) or 1
    return _draw("layers", items, kinds, name, top) + legend(kinds)


def funnel(items: Sequence[tuple[str, int]], *, name: str) -> Markup:
    """Draw the number left after each step, as a share of the first."""
    return _draw("funnel", items, name, max((n for _, n in items), default=0) or 1)


def stacked(items: Sequence[tuple[str, float, str]], *, name: str) -> Markup:
    """Draw one bar of all parts, given as label, number and colour, with a legend."""
    total = sum(n for _, n, _ in items) or 1
    parts = {f"{label}: {count(n)} ({percent(n / total)})": (n, tone) for label, n, tone in items}
    drawn = _draw("stacked", parts, name, total)
    return drawn + legend({title: tone for title, (_, tone) in parts.items()})


def legend(items: Mapping[str, str]) -> Markup:
    """Explain colours, by what they stand for."""
    return _draw("legend", items)


def columns(
    items: Sequence[Column],
    *,
    name: str,
    tone: str = "t-a",
    height: int = 150,
    shares: bool = False,
    band: tuple[float, float, str] | None = None,
) -> Markup:
    """Draw vertical bars over an axis of counts, or of percentages for `shares`.

    `band` shades a range for comparison: its ends and what it is.
    """
    highest = max([c.value for c in items] + [c.mark or 0 for c in items], default=0)
    top = nice(max(highest, band[1] if band else 0))
    widest = max((len(c.label) for c in items), default=0) * 8 + 8
    every = max(1, math.ceil(len(items) * widest / _PHONE))
    return _draw("columns", items, name, tone, height, shares, band, top, every)


def area(
    series: Mapping[str, Sequence[float]], tones: Sequence[str], *, name: str, seconds: float
) -> Markup:
    """Stack series of rates per second over time, `seconds` long in equal bins."""
    totals, height = [sum(values) for values in zip(*series.values(), strict=True)], 170
    top, below, ribbons = nice(max(totals, default=0)), [0.0] * len(totals), []
    for values, tone in zip(series.values(), tones, strict=True):
        above = [b + v for b, v in zip(below, values, strict=True)]
        ribbons.append((_ribbon(below, above, top, height), tone))
        below = above
    drawn = _draw("area", ribbons, totals, name, seconds, height, top)
    return drawn + legend(dict(zip(series, tones, strict=True)))


def curves(
    lines: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    tones: Sequence[str],
    *,
    name: str,
    axes: tuple[str, str],
    dots: Sequence[Dot] = (),
    diagonal: bool = False,
) -> Markup:
    """Draw lines over two axes of shares, each in pieces where it is not defined throughout.

    `diagonal` draws the line from 0 to 1. With several lines, a legend names them.
    """
    paths = [
        (label, "".join(map(_polyline, pieces)), tone)
        for (label, pieces), tone in zip(lines.items(), tones, strict=False)
    ]
    drawn = _draw("curves", paths, dots, name, 300, *axes, diagonal)
    legend_ = legend({label: tone for label, _, tone in paths})
    return drawn + legend_ if len(paths) > 1 else drawn


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.4f} {1 - y:.4f}" for x, y in points) if points else ""


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


def _ribbon(below: Sequence[float], above: Sequence[float], top: float, height: int) -> str:
    """Return the path between two step functions: within a bin nothing is known, so it is flat."""

    def y(value: float) -> str:
        return coordinate(height * (1 - value / top))

    up = [f"H{i}V{y(v)}H{i + 1}" for i, v in enumerate(above)]
    down = [f"V{y(v)}H{i}" for i, v in reversed(list(enumerate(below)))]
    return f"M0 {height}{''.join(up)}{''.join(down)}Z"


def _draw(name: str, *values: object) -> Markup:
    return macro("charts.html", name, *values)
