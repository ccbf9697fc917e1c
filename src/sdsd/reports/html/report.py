"""The report of a run: one HTML file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup
from msgspec.structs import astuple

from sdsd.config import Config
from sdsd.config.manifest import Manifest
from sdsd.reports.advice import advice
from sdsd.reports.html import charts, page, plots
from sdsd.reports.html.text import decimal, percent, plural, within, words
from sdsd.reports.metrics.costs import total
from sdsd.reports.metrics.diversity import SAMPLE
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.metrics.paper import PAPER, PAPER_MODELS, PAPER_SOURCE, Reference
from sdsd.reports.metrics.principles import PrincipleCount
from sdsd.reports.money import money
from sdsd.reports.stats import FEW, Proportion
from sdsd.types import Record, StageUsage, Usage

Item = tuple[str, str, Proportion]
"""Label, tooltip, and what is charted."""
_MOST_PRINCIPLES = 40


def render(
    figures: Figures,
    manifest: Manifest | None,
    config: Config,
    samples: Sequence[Record],
    removed: Mapping[str, int] = {},
) -> str:
    """Return the page.

    samples  are printed in full, so give only a few
    removed  what the export left out, by rule
    """
    ordered = dict(sorted(removed.items(), key=lambda item: (-item[1], item[0])))
    return page.render(
        "report.html",
        figures=figures,
        advice=advice(
            {f"{o.outcome}/{o.rule}" if o.rule else o.outcome: o.n for o in figures.outcomes},
            figures.verified,
            manifest.calibrations if manifest else {},
        ),
        manifest=manifest,
        config=config,
        samples=samples,
        removed=ordered,
        charts=charts,
        plots=plots,
        paper=list(_paper(figures)),
        paper_models=PAPER_MODELS,
        paper_source=PAPER_SOURCE,
        sample_size=SAMPLE,
        spent=_spent(figures.usage, config),
        v=_View(figures),
    )


class _View:
    """What the template charts: proportions with labels and tooltips."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def principles(self, judged: Sequence[PrincipleCount]) -> list[Markup]:
        """Draw the most often violated principles, by how often they are."""
        shown = sorted(judged[:_MOST_PRINCIPLES], key=lambda p: (-p.confirmed.share, p.id))
        items = [(p.id, f"{p.text} Violated in", p.confirmed) for p in shown]
        return charts.dots(items, name="Confirmed violations by principle", halves=True)

    def categories(self) -> list[Markup]:
        judged = [c for c in self._figures.categories if c.confirmed.n]
        items = [(c.name, f"{c.name}: violated in", c.confirmed) for c in judged]
        return charts.dots(items, name="Confirmed violations by category", halves=True)

    def strategies(self, what: str, text: str) -> list[Item]:
        return [(s.name, f"{text} {s.name}", getattr(s, what)) for s in self._figures.strategies]

    def exchanges(self) -> list[Item]:
        judged = [(k, p) for k, p in self._figures.biases.exchanges.items() if p.n >= FEW]
        text = "Confirmed violations in exchange"
        return [(f"Exchange {k}", f"{text} {k}", p) for k, p in judged[:12]]

    def claims(self) -> list[Item]:
        found = self._figures.critics.claims if self._figures.critics else {}
        return [(name, f"Violations claimed by {name}", p) for name, p in found.items()]


def _paper(figures: Figures) -> Iterable[tuple[Reference, str, str, list[str]]]:
    """Yield each of the paper's figures with ours, a note on ours, and theirs."""
    ours = _ours(figures)
    for key, reference in PAPER.items():
        theirs = reference.values.values()
        written = [percent(x) if reference.unit == "share" else decimal(x) for x in theirs]
        yield reference, *ours.get(key, ("–", "too few")), written


def _ours(figures: Figures) -> dict[str, tuple[str, str]]:
    found = {}
    if figures.violating.n:
        found["violating"] = percent(figures.violating.share), _noted(figures.violating)
    if figures.messages_mean:
        found["messages"] = decimal(figures.messages_mean), ""
    if figures.violations >= FEW:
        shares = [p.share for p in figures.principles]
        steps = f"in steps of {percent(1 / figures.violations)}"
        note = f"{plural(len(figures.principles), 'principle')}, {steps}"
        found["principle_share"] = f"{percent(min(shares))} – {percent(max(shares))}", note
    if figures.finished >= FEW:
        topic = words(figures.fields.topics[0].name)
        found["largest_topic"] = percent(figures.fields.largest), topic
    if figures.agreement.same.n:
        same = figures.agreement.same
        found["marker_right"] = percent(same.share), _noted(same)
    return found


def _noted(found: Proportion) -> str:
    return within(found) if found.n >= FEW else f"of {found.n}"


def _spent(usage: Sequence[Usage], config: Config) -> list[tuple[str, str, StageUsage, float]]:
    """Add usage up by role and model, with its cost."""
    groups: dict[tuple[str, str], list[Usage]] = {}
    for use in usage:
        groups.setdefault((use.role, use.model), []).append(use)
    # A Usage is a StageUsage after its stage, role and model.
    return [
        (*key, total(StageUsage(*astuple(u)[3:]) for u in uses), money(uses, config))
        for key, uses in groups.items()
    ]
