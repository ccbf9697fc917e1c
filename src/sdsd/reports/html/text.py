"""Format text and numbers for people. Model output is hostile until it passes through `visible`."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable

from sdsd.reports.stats import FEW, Proportion

# Needed to write Persian, Indic scripts and many emoji; they cannot reorder or hide text.
_JOINERS = "\u200c\u200d"
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str) -> str:
    """Spell out every control, direction-changing, invisible or broken character of `text`.

    Such characters make a page show something other than the data ("Trojan source",
    CVE-2021-42574). Line feed, tab and the two joiners stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(c):04X}⟩"
        if c not in "\n\t" and c not in _JOINERS and unicodedata.category(c) in _HIDDEN
        else c
        for c in text
    )


def esc(text: str) -> str:
    """Escape `text` for use between tags or inside a quoted attribute."""
    return html.escape(visible(text), quote=True)


def clip(text: str, room: float) -> str:
    """Put `text` on one line, cut with an ellipsis if wider than `room` pixels in 13 px type."""
    line = " ".join(visible(text[:400]).split())
    used = 0.0
    for i, c in enumerate(line):
        used += _width(c)
        if used > room:
            return line[: max(i - 1, 1)].rstrip() + "…"
    return line


def _width(c: str) -> float:
    """Return an upper estimate of the width in pixels; the font is unknown here."""
    if unicodedata.east_asian_width(c) in "WF":
        return 13.5
    if unicodedata.combining(c):
        return 0.0
    return 9.0 if c.isupper() or c in "mw" else 6.9


def words(name: str) -> str:
    """Turn an identifier into words: `early_end` -> `early end`."""
    return name.replace("_", " ").replace("-", " ")


def count(n: float) -> str:
    """`12,345`."""
    return f"{n:,.0f}"


def short(n: float) -> str:
    """Write a number with three digits: `950`, `12.3k`, `4.56M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size * (10 if unit == "k" else 1):
            return f"{n / size:.3g}{unit}" if n / size < 999.5 else f"{n / size:,.0f}{unit}"
    return count(n) if n >= 10 or n == int(n) else f"{n:.2g}"


def percent(share: float) -> str:
    """Write a fraction of 1 as a percentage, with a decimal where it matters."""
    if 0 < share < 0.0005:
        return "<0.1%"
    fine = 0 < share < 0.0995 or 0.995 <= share < 1
    return f"{share:.1%}" if fine else f"{share:.0%}"


def interval(low: float, high: float) -> str:
    """Write two shares as a range: `12–19%`."""
    if low >= 0.0995:
        return f"{100 * low:.{1 if low >= 0.995 else 0}f}–{percent(high)}"
    return f"{100 * low:.1f}–{100 * high:.1f}%"


def within(found: Proportion) -> str:
    """Describe the interval, if there are enough observations for one."""
    if found.n < FEW:
        return "too few for an interval"
    return f"95% interval {interval(found.low, found.high)}"


def signed(value: float, write: Callable[[float], str] = count) -> str:
    """Write a number with its sign, a true minus; without one if it rounds to zero."""
    written = write(abs(value))
    if not any(c in "123456789" for c in written):
        return written
    return f"{'−' if value < 0 else '+'}{written}"


def decimal(value: float | None, digits: int = 2, missing: str = "–") -> str:
    """Write a number with a true minus."""
    return missing if value is None else f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Write a time in its two largest units: `3 h 12 min`."""
    if seconds == 0:
        return "0 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"


def plural(n: int, one: str, many: str = "") -> str:
    """`1 dialogue`, `2 dialogues`."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"
