"""The pieces that every section of the report is laid out with. They take and give HTML."""

from __future__ import annotations

from collections.abc import Sequence

from sdsd.analysis.figures import Rate
from sdsd.analysis.text import interval

FEW = 10
"""Below this many observations an interval is so wide that a sentence says more."""


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


def details(summary: str, body: str) -> str:
    """Something to unfold."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def within(rate: Rate) -> str:
    """The interval in words, if there is anything to say."""
    if rate.n < FEW:
        return "too few for an interval to mean much"
    return f"95% interval {interval(rate.low, rate.high)}"
