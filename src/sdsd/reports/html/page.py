"""The pieces that every section of the report is laid out with. They take and give HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from sdsd.reports.html.text import count, interval, percent
from sdsd.reports.rates import Rate

STEPS = {
    "started": "Scenarios",
    "planned": "Planned",
    "held": "Dialogue held",
    "judged": "Judged by the critic",
    "claimed": "Violation claimed",
    "confirmed": "Confirmed by a quotation",
    "revised": "Revised",
    "accepted": "Verified pair",
}
"""Names of the steps of a funnel (`figures.FUNNEL`)."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
FEW = 10
"""Below this many observations an interval is so wide that a sentence says more."""


def document(title: str, body: str, css: str = "") -> str:
    """A whole page, which loads nothing from anywhere; `css` is added to the common style."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{_css()}{css}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


@cache
def _css() -> str:
    return Path(__file__).with_name("report.css").read_text("utf-8")


def section(title: str, takeaway: str, *body: str) -> str:
    """A titled part of the page; `takeaway` says in a sentence what it shows."""
    lead = f'<p class="lead">{takeaway}</p>' if takeaway else ""
    return f"<section><h2>{title}</h2>{lead}{''.join(body)}</section>"


def pair(left: str, right: str) -> str:
    """Two things side by side where the page is wide enough."""
    return f'<div class="pair">{left}{right}</div>'


def table(head: Sequence[str], body: Sequence[Sequence[str]], classes: str = "") -> str:
    """Cells are HTML already. All columns but the first hold numbers."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in line) + "</tr>" for line in body)
    return (
        f'<div class="wide"><table class="{classes}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def agreements(title: str, rows: Iterable[tuple[str, Rate, str]], classes: str = "") -> str:
    """Raters two by two: who (HTML), how often they say the same, and kappa as text."""
    body = [
        [
            who,
            count(same.n),
            percent(same.share) if same.n else "–",
            interval(same.low, same.high) if same.n >= FEW else "–",
            kappa,
        ]
        for who, same, kappa in rows
    ]
    return table([title, "Judged", "Same", "95% interval", "Cohen's κ"], body, classes)


def details(summary: str, body: str) -> str:
    """Something to unfold."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def within(rate: Rate) -> str:
    """The interval in words, if there is anything to say."""
    if rate.n < FEW:
        return "too few for an interval to mean much"
    return f"95% interval {interval(rate.low, rate.high)}"
