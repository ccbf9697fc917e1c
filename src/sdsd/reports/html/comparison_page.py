"""The report of two runs held against each other: one HTML file, without a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec

from sdsd.reports.html import charts
from sdsd.reports.html.charts import Part, Row
from sdsd.reports.html.page import FEW, details, document, pair, section, table
from sdsd.reports.html.text import count, duration, esc, interval, percent, plural, short
from sdsd.reports.metrics.comparison import Contrast, Gap, RunComparison
from sdsd.reports.rates import Rate

Names = tuple[str, str]
Write = Callable[[float], str]

_SHARES = {
    "yield": ("Yield", "scenarios with a verified pair"),
    "violating": ("Violations", "dialogues with a confirmed one, of those judged"),
    "repaired": ("Repaired", "scenarios with a pair, of those with a confirmed violation"),
    "unsupported": ("Claims unfounded", "claims without a quotation, of all claims"),
    "failed": ("Failed", "dialogues that could not be made, of scenarios"),
    "completed": ("Final turn reached", "dialogues that came to their planned final turn"),
    "marker_right": ("Own marker right", "the model's own flag is the critic's confirmed verdict"),
    "chosen_longer": ("Chosen longer", "pairs whose chosen turn is longer, of those that differ"),
    "repeats": ("Repeats", "dialogues that nearly repeat an earlier one"),
}
_COSTS: dict[str, tuple[str, Write]] = {
    "calls": ("Model calls", lambda x: f"{x:,.1f}"),
    "tokens": ("Tokens read and written", short),
    "written": ("Tokens written", short),
    "seconds": ("Model time", duration),
    "money": ("Money", lambda x: f"{x:,.4f}"),
}
_MEANS: dict[str, tuple[str, Write]] = {
    "messages": ("Messages a dialogue, plan included", lambda x: f"{x:.2f}"),
    "user_turn": ("Characters of a user turn", count),
    "agent_turn": ("Characters of an agent turn", count),
    "rejected": ("Characters of a rejected turn", count),
    "chosen": ("Characters of a chosen turn", count),
    "spread": ("Distance in meaning", lambda x: f"{x:.3f}"),
    "largest_topic": ("Share of the largest field", percent),
    "tokens_per_second": ("Tokens written per second", short),
}
_CSS = """
table.runs th:first-child, table.runs td:first-child { min-width: 13em; }
table.runs td:not(:first-child) { white-space: nowrap; }
table.set td { overflow-wrap: anywhere; }
"""


def render(comparison: RunComparison, first: str, second: str) -> str:
    """The whole page, of two runs by these names: `second` is held against `first`."""
    if first == second:
        first, second = f"{first} (first)", f"{second} (second)"
    names = (first, second)
    sections = [
        _headline(comparison, names),
        _shares(comparison.shares, names),
        pair(
            _small("Yield by strategy", comparison.strategies, names),
            _small("Violations by category", comparison.categories, names),
        ),
        _costs(comparison.costs, names),
        pair(_distinct(comparison.distinct, names), _flags(comparison.flags, names)),
        _means(comparison.means, names),
        _changes(comparison, names),
        section("How to read this", "", _METHOD),
    ]
    return document("sdsd: two runs", "".join(sections), _CSS)


def to_json(comparison: RunComparison) -> bytes:
    """The same figures for programs, indented, with a line feed at the end."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n"


_METHOD = (
    '<p class="note">Intervals of a difference of shares are score intervals (Newcombe 1998); '
    "those of a quotient of costs are made of the costs' own, on a logarithmic scale. They take "
    "the two runs as independent samples and say how far chance alone may carry the figures; of "
    "twenty differences that are none, about one looks clear. They do not say why two runs differ: "
    "that takes an experiment, in which one thing changes and the scenarios stay.</p>"
)


# -- headline ------------------------------------------------------------------------------


def _headline(comparison: RunComparison, names: Names) -> str:
    shares = {contrast.name: contrast for contrast in comparison.shares}
    tiles = [
        (_change(shares[name]), f"points of {what}", _verdict(shares[name]))
        for name, what in (("yield", "yield"), ("violating", "violations"))
    ]
    tokens = next(gap for gap in comparison.costs if gap.name == "tokens")
    note = f"{_written(tokens.a, short)}, now {_written(tokens.b, short)}"
    tiles.append((_times(tokens), "tokens a verified pair", note))
    cells = "".join(
        f"<li><strong>{number}</strong><b>{name}</b><small>{note}</small></li>"
        for number, name, note in tiles
    )
    first, second = comparison.finished
    return (
        f'<header><p class="eyebrow">sdsd report · two runs · {count(second)} against '
        f"{plural(first, 'scenario')}</p><h1>{esc(names[1])} against {esc(names[0])}</h1>"
        f'<ul class="tiles">{cells}</ul></header>'
    )


def _verdict(contrast: Contrast) -> str:
    """Whether the difference may be chance, in words."""
    if min(contrast.a.n, contrast.b.n) < FEW or contrast.difference is None:
        return "too few to tell"
    low, high = contrast.difference.low, contrast.difference.high
    ends = _ends(low, high)
    return f"{ends} points" if _clear(contrast) else f"{ends} points: may be chance"


def _clear(contrast: Contrast) -> bool:
    """The interval leaves out zero, and comes of enough observations to be believed."""
    found = contrast.difference
    if found is None or found.high is None or min(contrast.a.n, contrast.b.n) < FEW:
        return False
    return not found.low <= 0 <= found.high


def _change(contrast: Contrast) -> str:
    return "–" if contrast.difference is None else _points(contrast.difference.value)


def _points(value: float) -> str:
    """A difference of shares in percentage points, with its sign; a true minus."""
    return _signed(100 * value, 1)


def _signed(value: float, digits: int) -> str:
    """With its sign, a true minus; none for what is zero when rounded."""
    written = f"{abs(value):.{digits}f}"
    if not any(c in "123456789" for c in written):
        return written
    return f"{'−' if value < 0 else '+'}{written}"


def _times(gap: Gap) -> str:
    """The second over the first."""
    return f"× {gap.b / gap.a:.2f}" if gap.a and gap.b else "–"


def _ends(low: float, high: float | None) -> str:
    return f"{_points(low)} to {'–' if high is None else _points(high)}"


# -- shares --------------------------------------------------------------------------------


def _shares(contrasts: Sequence[Contrast], names: Names) -> str:
    body = [
        _line(f"{_SHARES[c.name][0]}: {_SHARES[c.name][1]}", c)
        for c in contrasts
        if c.difference is not None
    ]
    if not body:
        return section("Shares", "One of the runs has nothing finished yet.")
    return section(
        "Shares",
        f"<b>{esc(names[1])}</b> less <b>{esc(names[0])}</b>, in percentage points. The upright "
        "line is no difference; where the interval crosses it, or either run has fewer than "
        f"{FEW} observations, the difference is drawn grey.",
        _differences(contrasts, "Differences of shares"),
        details("As a table", _table(body, names, "Share")),
    )


def _small(title: str, contrasts: Sequence[Contrast], names: Names) -> str:
    known = [c for c in contrasts if c.difference is not None]
    if not known:
        return section(title, "The two runs have none in common.")
    body = [_line(c.name, c) for c in known]
    return section(
        title,
        "",
        _differences(known, title),
        details("As a table", _table(body, names, "")),
    )


def _differences(contrasts: Sequence[Contrast], name: str) -> str:
    """Dots with whiskers around zero, which is in the middle of the plot."""
    known = [(c, c.difference) for c in contrasts if c.difference is not None]
    ends = [abs(x) for _, d in known for x in (d.value, d.low, d.high or 0.0)]
    top = min(charts.nice(max(ends)), 1.0)
    rows = []
    for contrast, found in known:
        high = found.high or found.value
        label, meaning = _SHARES.get(contrast.name, (contrast.name, contrast.name))
        title = f"{meaning}: {_share(contrast.a)} and {_share(contrast.b)}; "
        title += f"{_points(found.value)} points, 95% interval {_ends(found.low, high)}"
        part = Part(found.value + top, "t-a" if _clear(contrast) else "t-n1", title)
        rows.append(
            Row(
                label,
                (part,),
                _points(found.value),
                title,
                (found.low + top, high + top),
                mark=top,
            )
        )
    scale = f"From {_points(-top)} to {_points(top)} points."
    return charts.rows(rows, name=name, top=2 * top) + f'<p class="note">{scale}</p>'


def _share(rate: Rate) -> str:
    return f"{percent(rate.share)} ({count(rate.k)} of {count(rate.n)})"


def _line(label: str, contrast: Contrast) -> list[str]:
    found = contrast.difference
    shares = [
        f"{percent(r.share)} <small>{interval(r.low, r.high) if r.n >= FEW else f'{r.k}/{r.n}'}"
        "</small>"
        for r in (contrast.a, contrast.b)
    ]
    return [
        esc(label),
        *shares,
        _change(contrast),
        "–" if found is None else _ends(found.low, found.high),
    ]


def _table(body: Sequence[Sequence[str]], names: Names, what: str) -> str:
    head = [what, esc(names[0]), esc(names[1]), "Points", "95% interval"]
    return table(head, body, "runs")


# -- numbers -------------------------------------------------------------------------------


def _costs(gaps: Sequence[Gap], names: Names) -> str:
    body = []
    for gap in gaps:
        label, write = _COSTS[gap.name]
        if gap.a is None and gap.b is None:
            continue
        change = gap.change
        ends = f"× {change.low:.2f} to × {change.high:.2f}" if change and change.high else "–"
        body.append([label, _written(gap.a, write), _written(gap.b, write), _times(gap), ends])
    title = "Cost of a verified pair"
    if not body:
        return section(title, "Neither run has a verified pair.")
    head = ["", esc(names[0]), esc(names[1]), "Second over first", "95% interval"]
    lead = "All that a run spent on its finished dialogues (of money: on those under way, too), "
    lead += "over the pairs that came of them."
    return section(title, lead, table(head, body, "runs"))


def _distinct(gaps: Sequence[Gap], names: Names) -> str:
    body = []
    for gap in gaps:
        side, _, length = gap.name.partition("/")
        line = [f"{side.capitalize()}, {length}"]
        line += [_written(mean, lambda x: f"{x:.3f}") for mean in (gap.a, gap.b)]
        known = gap.a is not None and gap.b is not None
        line.append(_signed((gap.b or 0) - (gap.a or 0), 3) if known else "–")
        change = gap.change
        if change and change.high is not None:
            line.append(f"{_signed(change.low, 3)} to {_signed(change.high, 3)}")
        body.append(line if len(line) == 5 else [*line, "–"])
    head = ["Distinct", esc(names[0]), esc(names[1]), "Change", "95% interval"]
    lead = "Different runs of 1, 2 and 3 words, of all in blocks of equal size."
    return section("Words", lead, table(head, body))


def _flags(contrasts: Sequence[Contrast], names: Names) -> str:
    if not contrasts:
        return section("Quality", "No dialogue of either run breaks a rule of quality.")
    lead = "Dialogues that break a rule of quality, found without a model."
    body = [_line(c.name, c) for c in contrasts]
    return section("Quality", lead, _table(body, names, "Rule"))


def _means(gaps: Sequence[Gap], names: Names) -> str:
    body = []
    for gap in gaps:
        label, write = _MEANS[gap.name]
        if gap.a is not None or gap.b is not None:
            body.append([label, _written(gap.a, write), _written(gap.b, write)])
    if not body:
        return ""
    head = ["", esc(names[0]), esc(names[1])]
    return section("Other numbers", "Without intervals.", table(head, body, "runs"))


def _written(value: float | None, write: Write) -> str:
    return "–" if value is None else write(value)


def _changes(comparison: RunComparison, names: Names) -> str:
    if not comparison.changes:
        return ""
    body = [
        [f"<code>{esc(key)}</code>", *(f"<code>{esc(_value(x))}</code>" for x in values)]
        for key, values in comparison.changes.items()
    ]
    lead = "Keys of the configuration that decide what is made, where the runs differ."
    head = ["Key", esc(names[0]), esc(names[1])]
    return section("What was set", lead, table(head, body, "set"))


def _value(value: object) -> str:
    return "not there" if value is None else json.dumps(value, ensure_ascii=False)
