"""A handful of plots as inline SVG: no dependency, no script, readable light and dark.

Geometry is in percent of whatever width the page gives and in pixels of height, so type keeps its
size on a telephone. Colours are classes (`t-a`, `t-b`, ...), which the page's style sheet fills.
Every mark has a `<title>`: pointing at it shows the full label and the exact number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from sdsd.reports.html.text import clip, duration, esc, percent, short

_ROW = 25
_BAR = 13
_BASE = 18  # room for the labels under a horizontal axis
_TOP = 10
_PHONE = 290  # pixels of plot on a narrow screen: axis labels must not meet there


class Part(NamedTuple):
    """A piece of a bar: its length, its colour class, and what pointing at it says."""

    value: float
    tone: str
    title: str


class Row(NamedTuple):
    """One horizontal bar of one or more parts; with an interval, a dot with whiskers instead."""

    label: str
    parts: tuple[Part, ...]
    value: str
    title: str = ""
    interval: tuple[float, float] | None = None
    mark: float | None = None
    """Where to draw a reference tick."""


class Column(NamedTuple):
    """One column of a histogram."""

    label: str
    value: float
    title: str
    mark: float | None = None
    tone: str = ""
    """Its own colour class; empty: that of the histogram."""


class Tile(NamedTuple):
    """One cell of a heat map."""

    share: float
    title: str
    sure: bool = True
    """Drawn in full; else small, because it rests on little."""


class Band(NamedTuple):
    """A range to draw across the plot, for comparison."""

    low: float
    high: float
    label: str


# -- horizontal ----------------------------------------------------------------------------


def rows(items: Sequence[Row], *, name: str, top: float = 0.0, ends: bool = False) -> str:
    """Horizontal bars, labels to the left and values to the right.

    `top` is the value at the right end (0: the largest); `ends` prints it below, as a share.
    """
    top = top or max((sum(p.value for p in row.parts) for row in items), default=0) or 1
    body = [_row(row, i * _ROW, top) for i, row in enumerate(items)]
    height = _ROW * len(items)
    if ends:
        height += _BASE
        body.append(_text("36%", height - 4, "0%", "faint"))
        body.append(_text("76%", height - 4, percent(top), "faint end"))
    return _root("rows", name, height, body)


def _row(row: Row, y: int, top: float) -> str:
    title = row.title or row.label
    plot = [_rect(0, (_ROW - _BAR) / 2, 100, _BAR, "track")]
    at = 0.0
    if row.interval is None:
        for part in row.parts:
            width = 100 * part.value / top
            plot.append(_titled(_rect(at, 6, width, _BAR, part.tone), part.title))
            at += width
    else:
        at = sum(100 * part.value / top for part in row.parts)
        tone = row.parts[0].tone if row.parts else "t-a"
        plot = [_line(0, _ROW / 2, 100, _ROW / 2, "rule"), _whisker(row.interval, top, tone)]
        plot.append(f'<circle cx="{_n(at)}%" cy="{_ROW / 2}" r="4.5" class="{tone}"/>')
    if row.mark is not None:
        x = 100 * row.mark / top
        plot.append(_line(x, 3, x, _ROW - 3, "mark"))
    return _titled(
        f'<rect x="0" y="{y}" width="100%" height="{_ROW}" class="hit"/>'
        f"{_label(row.label, y, _ROW, 185)}"
        f'<svg x="36%" y="{y}" width="40%" height="{_ROW}" class="open">{"".join(plot)}</svg>'
        f"{_text('100%', y + _ROW / 2 + 4.5, row.value, 'value end')}",
        title,
    )


def _whisker(interval: tuple[float, float], top: float, tone: str) -> str:
    low, high = (min(100 * x / top, 100.0) for x in interval)
    return _line(low, _ROW / 2, high, _ROW / 2, f"whisker {tone}")


def funnel(items: Sequence[Row], *, name: str) -> str:
    """Bars under one another, each joined to the next by what is lost between them."""
    step, bar = 38, 22
    top = max((row.parts[0].value for row in items), default=0) or 1
    ends = [100 * row.parts[0].value / top for row in items]
    joints = "".join(
        f'<path d="M0 {i * step + bar}H{_n(a)}L{_n(b)} {(i + 1) * step}H0Z" class="joint"/>'
        for i, (a, b) in enumerate(pairwise(ends))
    )
    height = step * len(items) - (step - bar)
    body = [
        f'<svg x="40%" y="0" width="39%" height="{height}" viewBox="0 0 100 {height}" '
        f'preserveAspectRatio="none">{joints}</svg>'
    ]
    for i, row in enumerate(items):
        y = i * step
        body.append(
            _titled(
                f"{_label(row.label, y, bar, 215, share=39)}"
                f'<svg x="40%" y="{y}" width="39%" height="{bar}">'
                f"{_rect(0, 0, ends[i], bar, row.parts[0].tone)}</svg>"
                f"{_text('100%', y + bar / 2 + 4.5, row.value, 'value end')}",
                row.title or row.label,
            )
        )
    return _root("funnel", name, height, body)


def stacked(parts: Sequence[Part], *, name: str) -> str:
    """One bar of all parts, with its legend."""
    total = sum(p.value for p in parts) or 1
    at, body = 0.0, []
    for part in parts:
        width = 100 * part.value / total
        body.append(_titled(_rect(at, 0, width, 22, part.tone), part.title))
        at += width
    return _root("stacked", name, 22, body) + legend([(p.tone, p.title) for p in parts])


def legend(items: Sequence[tuple[str, str]]) -> str:
    """Colours and what they mean."""
    entries = "".join(f'<li><i class="{tone}"></i>{esc(text)}</li>' for tone, text in items)
    return f'<ul class="legend">{entries}</ul>'


# -- vertical ------------------------------------------------------------------------------


def columns(
    items: Sequence[Column],
    *,
    name: str,
    tone: str = "t-a",
    height: int = 150,
    shares: bool = False,
    band: Band | None = None,
) -> str:
    """Vertical bars over a count axis, or a percentage axis for `shares`."""
    highest = max([c.value for c in items] + [c.mark or 0 for c in items], default=0)
    top = nice(max(highest, band.high if band else 0))
    slot = 100 / max(len(items), 1)
    fill = 0.68 if len(items) < 60 else 0.8
    body = _grid(top, height, shares)
    if band:
        y, below = (_y(v, top, height) for v in (band.high, band.low))
        area = _rect(0, y, 100, below - y, "band")
        body.append(_titled(area, band.label))
    for i, column in enumerate(items):
        y = _y(column.value, top, height)
        x = slot * (i + (1 - fill) / 2)
        shape = _rect(x, y, slot * fill, _TOP + height - y, column.tone or tone)
        shape += _rect(slot * i, _TOP, slot, height, "hit")
        if column.mark is not None:
            at = _y(column.mark, top, height)
            shape += _line(x, at, x + slot * fill, at, "mark")
        if 0 < len(items) <= 12 and not shares:
            shape += _text(f"{_n(slot * (i + 0.5))}%", y - 5, short(column.value), "value middle")
        body.append(_titled(shape, column.title))
    body += _column_labels(items, slot, _TOP + height + 14)
    return _root("axis", name, _TOP + height + _BASE, body)


def _column_labels(items: Sequence[Column], slot: float, y: float) -> list[str]:
    widest = max((len(c.label) for c in items), default=0) * 8 + 8
    every = max(1, math.ceil(len(items) * widest / _PHONE))
    return [
        _text(f"{_n(slot * (i + 0.5))}%", y, column.label, "middle")
        for i, column in enumerate(items)
        if column.label and i % every == 0
    ]


def area(
    series: Mapping[str, Sequence[float]],
    tones: Mapping[str, str],
    *,
    name: str,
    seconds: float,
    unit: str,
    height: int = 170,
) -> str:
    """Series stacked over time, `seconds` long in equal bins."""
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    top = nice(max(totals, default=0))
    number = len(totals)
    below = [0.0] * number
    shapes = []
    for key, values in series.items():
        above = [b + v for b, v in zip(below, values, strict=True)]
        shapes.append(f'<path d="{_ribbon(below, above, top, height)}" class="{tones[key]}"/>')
        below = above
    hits = (
        _titled(
            _rect(100 * i / number, _TOP, 100 / number, height, "hit"),
            f"{duration(seconds * (i + 0.5) / number)}: {short(total)} {unit}",
        )
        for i, total in enumerate(totals)
    )
    plot = (
        f'<svg y="{_TOP}" width="100%" height="{height}" viewBox="0 0 {number} {height}" '
        f'preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )
    ends = ((0, "start"), (50, "middle"), (100, "end"))
    ticks = [
        _text(f"{x}%", _TOP + height + 14, duration(seconds * x / 100), anchor)
        for x, anchor in ends
    ]
    body = [*_grid(top, height, shares=False), plot, *hits, *ticks]
    return _root("axis", name, _TOP + height + _BASE, body)


def _ribbon(below: Sequence[float], above: Sequence[float], top: float, height: int) -> str:
    """Steps: each bin is flat, because within it nothing is known."""
    up = [f"H{i}V{_n(height * (1 - v / top))}H{i + 1}" for i, v in enumerate(above)]
    down = [f"V{_n(height * (1 - v / top))}H{i}" for i, v in reversed(list(enumerate(below)))]
    return f"M0 {height}{''.join(up)}{''.join(down)}Z"


def _grid(top: float, height: int, shares: bool) -> list[str]:
    lines = []
    for value in (0.0, top / 2, top):
        if value == top / 2 and not shares and top < 10 and top % 2:
            continue  # no half things
        y = _y(value, top, height)
        lines.append(_line(0, y, 100, y, "rule"))
        text = percent(value) if shares else short(value)
        lines.append(f'<text x="-8" y="{_n(y + 4.5)}" class="end">{text}</text>')
    return lines


def nice(value: float) -> float:
    """The next round number for the end of an axis: 1, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    if value < 1e-12:
        return 1.0
    size: float = 10.0 ** math.floor(math.log10(value))
    step = next(m for m in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if value <= m * size * (1 + 1e-9))
    return step * size


def _y(value: float, top: float, height: int) -> float:
    return _TOP + height * (1 - value / top)


# -- both ways -----------------------------------------------------------------------------

_TILE, _GAP = 19, 2
_SMALL = 7  # pixels of a tile that rests on little
_SLANT = 65  # degrees
_LABEL, _HEAD = 170, 185  # pixels of the longest labels to the left and above
LEVELS = 5
"""Shades of a heat map; a sixth is for nothing."""


def heat(
    lines: Sequence[tuple[str, str, Sequence[Tile | None]]],
    heads: Sequence[str],
    *,
    name: str,
    top: float,
    titled: bool = True,
) -> str:
    """Tiles by line and column, darker for more; `top` is the share of the darkest.

    A line is its label, what pointing at it says, and a tile or None for each of `heads`. The plot
    is as wide as it has to be. Without `titled`, tiles say nothing when pointed at: large maps are
    a fraction of the size then.
    """
    slope = math.radians(_SLANT)
    left = min(max((8 * len(label) for label, _, _ in lines), default=0), _LABEL) + 10
    over = min(max((8 * len(head) for head in heads), default=0), _HEAD)
    up = int(over * math.sin(slope)) + 12
    width = left + _TILE * len(heads) + int(over * math.cos(slope))
    body = []
    for k, head in enumerate(heads):
        x = left + _TILE * (k + 0.75)
        text = f'<text transform="translate({_n(x)} {up - 6}) rotate(-{_SLANT})">'
        body.append(_titled(f"{text}{esc(clip(head, over))}</text>", head))
    for i, (label, title, tiles) in enumerate(lines):
        y = up + _TILE * i
        body.append(_titled(_text("0", y + 13.5, clip(label, 1.15 * left), ""), title))
        body.append(_tiles(tiles, left, y, top, titled))
    height = up + _TILE * len(lines)
    return (
        f'<div class="wide"><svg class="plot heat" role="img" aria-label="{esc(name)}" '
        f'width="{width}" height="{height}">{"".join(body)}</svg></div>'
    )


def _tiles(tiles: Sequence[Tile | None], x: int, y: int, top: float, titled: bool) -> str:
    shapes: dict[str, str] = {}
    body = []
    for k, tile in enumerate(tiles):
        if tile is None:
            continue
        side = _TILE - _GAP if tile.sure else _SMALL
        inset = (_TILE - side) / 2
        square = f"M{_n(x + _TILE * k + inset)} {_n(y + inset)}h{side}v{side}h-{side}z"
        tone = f"h{level(tile.share, top)}"
        if titled:
            body.append(_titled(f'<path d="{square}" class="{tone}"/>', tile.title))
        else:
            shapes[tone] = shapes.get(tone, "") + square
    body += [f'<path d="{squares}" class="{tone}"/>' for tone, squares in shapes.items()]
    return "".join(body)


def level(share: float, top: float) -> int:
    """The shade of a share: 0 for none, then evenly up to `LEVELS` from `top` on."""
    return min(math.ceil(LEVELS * share / top), LEVELS) if share else 0


# -- pieces --------------------------------------------------------------------------------


def _root(kind: str, name: str, height: float, body: Sequence[str]) -> str:
    return (
        f'<svg class="plot {kind}" role="img" aria-label="{esc(name)}" width="100%" '
        f'height="{_n(height)}">{"".join(body)}</svg>'
    )


def _label(label: str, y: float, height: float, room: int, share: int = 35) -> str:
    """A label in a window of its own, which cuts it off where the page is narrow."""
    return (
        f'<svg x="0" y="{y}" width="{share}%" height="{height}">'
        f"{_text('0', height / 2 + 4.5, clip(label, room), '')}</svg>"
    )


def _text(x: str, y: float, text: str, classes: str) -> str:
    return f'<text x="{x}" y="{_n(y)}" class="{classes}">{esc(text)}</text>'


def _titled(shape: str, title: str) -> str:
    return f"<g><title>{esc(title)}</title>{shape}</g>"


def _rect(x: float, y: float, width: float, height: float, tone: str) -> str:
    width = max(width, 0.0)
    return (
        f'<rect x="{_n(x)}%" y="{_n(y)}" width="{_n(width)}%" height="{_n(max(height, 0.0))}" '
        f'class="{tone}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, tone: str) -> str:
    return f'<line x1="{_n(x1)}%" y1="{_n(y1)}" x2="{_n(x2)}%" y2="{_n(y2)}" class="{tone}"/>'


def _n(value: float) -> str:
    """A coordinate, to the hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
