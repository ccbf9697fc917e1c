"""The report of an experiment: its arms side by side, one HTML file.

Like the report of a run it needs nothing from outside and runs no script. Names of arms and
critics, principles and changes are escaped: some are what a model wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from sdsd.reports.html import charts
from sdsd.reports.html.charts import Part, Row
from sdsd.reports.html.page import (
    FEW,
    STEPS,
    agreements,
    details,
    document,
    pair,
    section,
    table,
    within,
)
from sdsd.reports.html.samples import words
from sdsd.reports.html.text import count, duration, esc, interval, percent, plural, short
from sdsd.reports.metrics.arms import Agreement, Arm, Comparison, Cost, Labelled, Measure, Paired
from sdsd.reports.rates import Rate

_CSS = """
.wrapped { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0 56px; }
@media (min-width: 900px) { .wrapped { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.wrapped + .note { margin-top: 16px; }
.wrapped h3 { margin-top: 20px; }
table.named th:first-child, table.named td:first-child { min-width: 11em; padding-right: 12px; }
table.named td:not(:first-child) small { white-space: nowrap; }
table.heat { width: auto; }
table.heat td:first-child { max-width: 26em; }
table.heat th:not(:first-child) { padding: 7px 14px; text-align: center; white-space: normal;
  max-width: 12em; overflow-wrap: anywhere; }
table.heat td.cell { padding: 7px 14px; text-align: center; min-width: 100px; white-space: nowrap; }
"""
_ENOUGH = FEW // 2
"""Dialogues that a cell of a heat map must have."""
_MOST = 40
"""Rows of a heat map."""

Write = Callable[[float], str]


def render(comparison: Comparison, changes: Mapping[str, Mapping[str, str]] = {}) -> str:
    """The whole page. `changes`: by arm, the keys of the configuration that it sets, and to what.

    An arm that is not in `changes` is shown without them.
    """
    arms = comparison.arms
    sections = [
        _headline(comparison),
        _arms(arms, changes),
        pair(_yields(arms), _violations(arms)),
        _differences(comparison),
        _funnels(arms),
        _costs(arms),
        _where(comparison),
        _agreement(comparison),
        _labels(comparison),
        _failures(arms),
        _method(comparison),
    ]
    title = f"sdsd experiment: {plural(len(arms), 'arm')}"
    return document(title, "".join(sections), _CSS)


def to_json(comparison: Comparison) -> bytes:
    """The same figures for programs, indented, with a line feed at the end."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n"


# -- headline ------------------------------------------------------------------------------


def _headline(comparison: Comparison) -> str:
    arms = comparison.arms
    scenarios = max(arm.finished for arm in arms)
    tiles = [_tile(arm, arms[0], comparison.paired) for arm in arms]
    return (
        '<header><p class="eyebrow">sdsd experiment</p>'
        f"<h1>{plural(len(arms), 'arm')}, {plural(scenarios, 'scenario')}</h1>"
        f'<ul class="tiles">{"".join(tiles)}</ul></header>'
    )


def _tile(arm: Arm, baseline: Arm, paired: Sequence[Paired]) -> str:
    """An arm's yield, and in words how it stands to the baseline."""
    note = "baseline"
    if arm is not baseline:
        found = next(p for p in paired if p.arm == arm.name and p.measure == "yield")
        note = _judged(found)
    value = percent(arm.accepted.share) if arm.accepted.n else "–"
    return f"<li><strong>{value}</strong><b>{esc(arm.name)}</b><small>yield, {note}</small></li>"


def _judged(found: Paired) -> str:
    if found.difference is None:
        return "no scenario shared with the baseline"
    change = f"{_signed(found.difference, _points)} points"
    if found.interval is None or found.n < FEW:
        return f"{change}; too few to tell"
    return change if _clear(found) else f"{change}, which may be chance"


def _clear(found: Paired) -> bool:
    """The interval leaves out zero, and comes of enough scenarios to be believed."""
    if found.interval is None or found.n < FEW:
        return False
    return not found.interval[0] <= 0 <= found.interval[1]


def _arms(arms: Sequence[Arm], changes: Mapping[str, Mapping[str, str]]) -> str:
    head = ["Arm", "Dialogues", "With a pair", "Pairs", "Violating", "Exchanges"]
    head += ["Tokens", "Tokens a pair"]
    body = []
    for arm in arms:
        sets = "".join(
            f"<br><small><code>{esc(key)}: {esc(value)}</code></small>"
            for key, value in changes.get(arm.name, {}).items()
        )
        each = arm.tokens.per_pair
        body.append(
            [
                f"<b>{esc(arm.name)}</b>{sets}",
                count(arm.finished),
                _share(arm.accepted),
                count(arm.pairs),
                _share(arm.violating),
                "–" if arm.exchanges is None else f"{arm.exchanges:.1f}",
                short(arm.tokens.total),
                short(each.value) if each else "–",
            ]
        )
    note = (
        '<p class="note">A dialogue of which several samples were drawn may give more than one '
        "pair. Violating: of the dialogues judged, those with a confirmed violation.</p>"
    )
    return section(
        "The arms", "The same scenarios, made in each way.", table(head, body, "named"), note
    )


# -- shares --------------------------------------------------------------------------------


def _yields(arms: Sequence[Arm]) -> str:
    return section(
        "Yield",
        "Of the dialogues finished, those that gave a verified pair.",
        _shares([(arm.name, arm.accepted) for arm in arms], "t-c", "Yield by arm"),
        '<p class="note">The line is a 95% interval (Wilson): of many such experiments, about 95 '
        "in 100 would draw it over the true share. Arms share their scenarios, so whether they "
        "differ is told by the paired differences, not by whether these lines overlap.</p>",
    )


def _violations(arms: Sequence[Arm]) -> str:
    return section(
        "Violations",
        "Of the dialogues judged, those with a confirmed violation.",
        _shares([(arm.name, arm.violating) for arm in arms], "t-b", "Violations by arm"),
        '<p class="note">Confirmed: the critic quotes words that are really in the turn. The line '
        "is a 95% interval (Wilson), as at the yield; it says how sure the share is, not how often "
        "the critic is right.</p>",
    )


def _shares(items: Sequence[tuple[str, Rate]], tone: str, name: str) -> str:
    shown = [(label, rate) for label, rate in items if rate.n]
    if not shown:
        return "<p>None yet.</p>"
    top = min(charts.nice(max(rate.high for _, rate in shown)), 1.0)
    rows = []
    for label, rate in shown:
        title = f"{label}: {count(rate.k)} of {count(rate.n)}, {percent(rate.share)}, "
        title += within(rate)
        value = f"{percent(rate.share)} · {short(rate.k)}/{short(rate.n)}"
        part = Part(rate.share, tone, title)
        rows.append(Row(label, (part,), value, title, (rate.low, rate.high)))
    return charts.rows(rows, name=name, top=top, ends=True)


# -- paired differences --------------------------------------------------------------------


def _differences(comparison: Comparison) -> str:
    title, baseline = "Differences", comparison.arms[0].name
    if not comparison.paired:
        return section(title, "One arm has nothing to be compared with.")
    kinds: tuple[tuple[Measure, str, str, Write], ...] = (
        ("yield", "Yield", "percentage points", _points),
        ("violation", "Violations", "percentage points", _points),
        ("tokens", "Tokens per dialogue", "tokens", short),
    )
    plots = [
        _differing([p for p in comparison.paired if p.measure == measure], label, unit, write)
        for measure, label, unit, write in kinds
    ]
    body = [
        [
            f"{esc(p.arm)} <small>{words(p.measure, {})}</small>",
            count(p.n),
            "–" if p.baseline is None else write(p.baseline),
            "–" if p.mean is None else write(p.mean),
            "–" if p.difference is None else _signed(p.difference, write),
            _ends(p, write),
        ]
        for measure, _, _, write in kinds
        for p in comparison.paired
        if p.measure == measure
    ]
    head = ["Arm", "Scenarios", esc(baseline), "Arm", "Difference", "95% interval"]
    return section(
        title,
        f"Each arm less <b>{esc(baseline)}</b>, scenario by scenario. The upright line is no "
        "difference; where the interval crosses it, the difference is drawn grey, and so it is "
        f"with fewer than {FEW} scenarios.",
        f'<div class="wrapped">{"".join(plots)}</div>',
        '<p class="note">The interval holds the middle 95% of the differences found in 2,000 '
        "samples of the scenarios, drawn with replacement (paired bootstrap). It speaks of other "
        "scenarios of this kind with the same models; among twenty differences that are none, "
        "about one looks clear by chance.</p>",
        details("As a table", table(head, body, "named")),
    )


def _differing(found: Sequence[Paired], label: str, unit: str, write: Write) -> str:
    """Dots with whiskers around zero, which is in the middle of the plot."""
    known = [p for p in found if p.difference is not None]
    reach = [abs(x) for p in known for x in (p.difference or 0.0, *(p.interval or ()))]
    top = charts.nice(max(reach, default=0.0))
    rows = []
    for p in known:
        value = p.difference or 0.0
        title = f"{p.arm}: {_signed(value, write)} {unit}, {_interval_words(p, write)}"
        tone = "t-a" if _clear(p) else "t-n1"
        ends = p.interval or (value, value)
        rows.append(
            Row(
                p.arm,
                (Part(value + top, tone, title),),
                _signed(value, write),
                title,
                (ends[0] + top, ends[1] + top),
                mark=top,
            )
        )
    if not rows:
        return f"<div><h3>{label}</h3><p>No scenario is in both.</p></div>"
    plot = charts.rows(rows, name=f"{label}: difference to the baseline", top=2 * top)
    scale = f"From {_signed(-top, write)} to {_signed(top, write)} {unit}."
    return f'<div><h3>{label}</h3>{plot}<p class="note">{scale}</p></div>'


def _interval_words(found: Paired, write: Write) -> str:
    over = plural(found.n, "scenario")
    if found.interval is None:
        return f"without an interval, over {over}"
    return f"95% interval {_ends(found, write)}, over {over}"


def _ends(found: Paired, write: Write) -> str:
    if found.interval is None:
        return "–"
    return " to ".join(_signed(end, write) for end in found.interval)


def _signed(value: float, write: Write) -> str:
    """With its sign; a true minus."""
    written = write(abs(value))
    if not any(c in "123456789" for c in written):
        return written
    return f"{'−' if value < 0 else '+'}{written}"


def _points(share: float) -> str:
    """A share in percentage points."""
    return f"{100 * share:.1f}"


# -- funnels and cost ----------------------------------------------------------------------


def _funnels(arms: Sequence[Arm]) -> str:
    funnels = "".join(
        f"<div><h3>{esc(arm.name)}</h3>{_funnel(arm)}</div>" for arm in arms if arm.finished
    )
    return section(
        "From scenario to pair",
        "How many came how far in each arm.",
        f'<div class="wrapped">{funnels}</div>',
        '<p class="note">Each bar counts the scenarios that came at least so far; what is missing '
        "from the bar above was lost at that step. Shares are of the arm's own scenarios.</p>",
    )


def _funnel(arm: Arm) -> str:
    rows = []
    for step in arm.funnel:
        label, share = STEPS[step.name], percent(step.n / arm.finished)
        title = f"{label}: {count(step.n)} of {count(arm.finished)} ({share})"
        tone = "t-c" if step.name == "accepted" else "t-a"
        rows.append(Row(label, (Part(step.n, tone, title),), f"{count(step.n)} · {share}", title))
    return charts.funnel(rows, name=f"Scenarios left after each step: {arm.name}")


def _costs(arms: Sequence[Arm]) -> str:
    kinds: tuple[tuple[str, Callable[[Arm], Cost], Write], ...] = (
        ("Tokens", lambda arm: arm.tokens, short),
        ("Model calls", lambda arm: arm.calls, lambda x: f"{x:,.1f}"),
        ("Model time", lambda arm: arm.seconds, duration),
    )
    plots = [
        _cost(label, [(arm.name, of(arm)) for arm in arms], write) for label, of, write in kinds
    ]
    shown = [plot for plot in plots if plot]
    if not shown:
        return section("Cost of a verified pair", "There is no verified pair to share the cost.")
    without = [esc(arm.name) for arm in arms if arm.tokens.per_pair is None]
    lead = "All that an arm spent, on dialogues without a pair too, over its pairs."
    if without:
        lead += f" Not drawn, because too few: {', '.join(without)}."
    return section(
        "Cost of a verified pair",
        lead,
        f'<div class="wrapped">{"".join(shown)}</div>',
        '<p class="note">The interval holds the middle 95% of the costs found in 2,000 samples of '
        "the scenarios, drawn with replacement. A line that runs to the right edge has no upper "
        "end: so few pairs were made that a sample may have had none.</p>",
    )


def _cost(label: str, costs: Sequence[tuple[str, Cost]], write: Write) -> str:
    known = [(name, cost.per_pair) for name, cost in costs if cost.per_pair and cost.total]
    if not known:
        return ""
    top = charts.nice(max(each.high or 2 * each.value for _, each in known))
    rows = []
    for name, each in known:
        upper = "no upper end" if each.high is None else f"to {write(each.high)}"
        title = f"{name}: {write(each.value)} a pair; 95% interval from {write(each.low)}, {upper}"
        ends = (each.low, top if each.high is None else each.high)
        value = write(each.value)
        rows.append(Row(name, (Part(each.value, "t-a", title),), value, title, ends))
    plot = charts.rows(rows, name=f"{label} for each verified pair", top=top)
    return f'<div><h3>{label}</h3>{plot}<p class="note">From 0 to {write(top)}.</p></div>'


# -- where it works ------------------------------------------------------------------------


def _where(comparison: Comparison) -> str:
    """The yield by principle, or by category where principles have too few, and by strategy."""
    arms, texts = comparison.arms, comparison.texts
    label, rates = "Principle", [arm.principles for arm in arms]
    if len(_dense(rates)) < 3:
        label, rates = "Category of principle", [arm.categories for arm in arms]
    names = {id_: f"{esc(text)} <small>{esc(id_)}</small>" for id_, text in texts.items()}
    body = [_heat(label, arms, rates, names)]
    strategies = [arm.strategies for arm in arms]
    if len({name for by_name in strategies for name in by_name}) > 1:
        body.append(_heat("Strategy", arms, strategies, {}))
    if not any(body):
        return ""
    return section(
        "Where it works",
        "The yield by what the dialogue was meant to break, and how.",
        *body,
        f'<p class="note">The darker, the larger the share of dialogues with a verified pair. '
        f"Cells of fewer than {_ENOUGH} dialogues are left empty, and with fewer than about thirty "
        "a cell may be off by twenty points and more: point at it for its interval.</p>",
    )


def _dense(rates: Sequence[Mapping[str, Rate]]) -> list[str]:
    """What has enough dialogues in some arm, those with the largest yield first."""
    best: dict[str, float] = {}
    for by_name in rates:
        for name, rate in by_name.items():
            if rate.n >= _ENOUGH:
                best[name] = max(best.get(name, 0.0), rate.share)
    return sorted(best, key=lambda name: (-best[name], name))


def _heat(
    label: str, arms: Sequence[Arm], rates: Sequence[Mapping[str, Rate]], names: Mapping[str, str]
) -> str:
    """A table whose cells are the darker the larger their share; nothing if none has enough."""
    shown = _dense(rates)
    if not shown:
        return ""
    head = "".join(f"<th>{esc(arm.name)}</th>" for arm in arms)
    lines = "".join(
        f"<tr><td>{names.get(name) or esc(words(name, {}))}</td>"
        + "".join(_cell(by_name.get(name)) for by_name in rates)
        + "</tr>"
        for name in shown[:_MOST]
    )
    more = f'<p class="note">The first {_MOST} of {len(shown)}.</p>' if len(shown) > _MOST else ""
    return (
        f'<div class="wide"><table class="named heat"><thead><tr><th>{label}</th>{head}</tr>'
        f"</thead><tbody>{lines}</tbody></table></div>{more}"
    )


def _cell(rate: Rate | None) -> str:
    if rate is None or rate.n < _ENOUGH:
        n = rate.n if rate else 0
        return f'<td class="cell" title="{plural(n, "dialogue")}"><small>–</small></td>'
    shade = f"background: color-mix(in srgb, var(--c) {round(75 * rate.share)}%, transparent)"
    return (
        f'<td class="cell" style="{shade}" title="{within(rate)}">{percent(rate.share)} '
        f"<small>{count(rate.k)}/{count(rate.n)}</small></td>"
    )


# -- agreement -----------------------------------------------------------------------------


def _agreement(comparison: Comparison) -> str:
    if not (comparison.critics or comparison.between):
        return ""
    body = ""
    if comparison.critics:
        panels = [
            [
                esc(panel.arm),
                esc(", ".join(critic or "the critic" for critic in panel.critics)),
                count(panel.n),
                _number(panel.alpha),
            ]
            for panel in comparison.panels
        ]
        head = ["Arm", "Critics", "Judged", "Krippendorff's α"]
        body += "<h3>Critics of one arm</h3>" + table(head, panels, "named")
        body += _pairs(comparison.critics, "Critics")
    if comparison.between:
        body += "<h3>Arms that judged the same conversations</h3>"
        body += _pairs(comparison.between, "Arms")
    return section(
        "Agreement",
        "How often two judges say the same of one turn and principle: broken, or kept.",
        body,
        '<p class="note">κ (Cohen) and α (Krippendorff) are agreement beyond chance: 1 is perfect, '
        "0 is what such judges reach by guessing. Where violations are rare the share is high "
        "without meaning much, so look at κ; a dash stands where all said the same and chance "
        "explains it. The interval (Wilson) takes judgements as independent; those on one turn "
        "are not quite, so it is a little narrow.</p>",
    )


def _pairs(found: Sequence[Agreement], title: str) -> str:
    pairs = (
        (f"{esc(a.first)} and {esc(a.second)}{_of(a.arm)}", a.same, _number(a.kappa)) for a in found
    )
    return agreements(title, pairs, "named")


def _of(arm: str) -> str:
    return f" <small>{esc(arm)}</small>" if arm else ""


def _labels(comparison: Comparison) -> str:
    if not comparison.labels:
        return ""
    given = plural(comparison.labels, "judgement")
    if not comparison.labelled:
        return section(
            "Against people", f"{given} by people, of none of the turns judged by the first arm."
        )
    several = {panel.arm for panel in comparison.panels}
    body = [
        [
            f"{esc(_critic(x, several))} <small>{esc(x.arm)}</small>",
            "with evidence" if x.grounded else "all",
            count(x.n),
            _share(x.found.precision),
            _share(x.found.recall),
            _number(x.kappa),
        ]
        for x in comparison.labelled
    ]
    head = ["Critic", "Claims", "Judged by both", "Precision", "Recall", "Cohen's κ"]
    return section(
        "Against people",
        f"{given} by people. Precision: of the violations a critic claims, those that people see. "
        "Recall: of those that people see, the ones it claims.",
        table(head, body, "named"),
        '<p class="note">The range is a 95% interval (Wilson), a little narrow where several '
        "judgements are on one turn. People judged the first arm's "
        "turns; another arm is held against them only where its conversation is the same, word "
        "for word.</p>",
    )


def _critic(found: Labelled, several: set[str]) -> str:
    if found.critic:
        return found.critic
    return "joint verdict" if found.arm in several else "the critic"


def _share(rate: Rate) -> str:
    """With its interval, or of how few it is."""
    if not rate.n:
        return "–"
    few = f"{count(rate.k)}/{count(rate.n)}"
    note = interval(rate.low, rate.high) if rate.n >= FEW else few
    return f"{percent(rate.share)}&nbsp;<small>{note}</small>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


# -- failures, method ----------------------------------------------------------------------


def _failures(arms: Sequence[Arm]) -> str:
    stages = list(dict.fromkeys(stage for arm in arms for stage in arm.failures))
    if not stages:
        return ""
    body = [
        [esc(arm.name), *(count(arm.failures.get(stage, 0)) for stage in stages)] for arm in arms
    ]
    return section(
        "Failures",
        "Dialogues that could not be made, by the stage where they ended. They count as scenarios "
        "without a pair.",
        table(["Arm", *(esc(words(stage, {})) for stage in stages)], body, "named"),
    )


def _method(comparison: Comparison) -> str:
    name = esc(comparison.arms[0].name)
    return section(
        "How to read this",
        "",
        f'<p class="note">All arms go through the same scenarios in the same order; <b>{name}</b>, '
        "the first, is what the others are compared with. An interval says how much a figure would "
        "change with other scenarios of the same kind. It does not know of what all arms share: "
        "one critic's blind spots, one model, one catalogue.</p>",
    )
