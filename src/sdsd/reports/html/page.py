"""Render the templates of this package.

Everything printed is escaped, and hidden characters are spelt out (`text.visible`), unless it is
markup that a template or a chart made.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sdsd.reports import stats
from sdsd.reports.html import samples, text

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
STEPS = {
    "started": "Scenarios",
    "planned": "Planned",
    "generated": "Dialogue generated",
    "judged": "Judged by the critic",
    "claimed": "Violation claimed",
    "confirmed": "Violation confirmed",
    "revised": "Last reply revised",
    "accepted": "Accepted",
}
"""Labels of the steps of `figures.FUNNEL`."""
OUTCOMES = {
    "accepted": "accepted",
    "failed": "failed",
    "no_violation": "no violation found",
    "unsupported_violation": "violation claimed without a quotation",
    "undecided": "too close to call",
    "no_satisfying_reply": "no sibling satisfied the principle",
    "not_revised": "not revised",
    "not_repaired": "no revision was clean",
}
"""What the outcomes and filter rules mean."""
STOPS = {
    "completed": "planned last reply reached",
    "skipped_ahead": "last reply reached, exchanges left out",
    "early_end": "ended early by the model",
    "violation_end": "ended early after a violation",
    "turn_limit": "turn limit",
    "token_limit": "token limit",
}


@cache
def environment() -> Environment:
    """Return the environment of all templates; Jinja2 is imported on first use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: text.visible(value) if type(value) is str else value,
    )
    names = "clip count decimal duration percent plural short signed within words"
    env.filters.update({name: getattr(text, name) for name in names.split()}, n=coordinate)
    env.globals.update(FEW=stats.FEW, STOPS=STOPS, OUTCOMES=OUTCOMES, range_=text.interval)
    env.globals.update(said=samples.said, marked=samples.marked, compared=samples.compared)
    env.globals["css"] = Markup((TEMPLATES / "page.css").read_text("utf-8"))  # noqa: S704
    return env


def render(template: str, **values: Any) -> str:
    return environment().get_template(template).render(values).lstrip()


def macro(template: str, name: str, *values: Any) -> Markup:
    found: Markup = getattr(environment().get_template(template).module, name)(*values)
    return found


def coordinate(value: float) -> str:
    """Write a coordinate, to the hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
