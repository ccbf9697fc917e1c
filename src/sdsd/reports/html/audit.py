"""The sections on what the data would teach: where it breaks, repeats, or gives itself away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdsd.checks import dialogue_rules
from sdsd.reports.html import charts
from sdsd.reports.html.charts import Column, Part, Row, Tile
from sdsd.reports.html.page import FEW, agreements, details, pair, section, table, within
from sdsd.reports.html.plots import rate_row
from sdsd.reports.html.samples import words
from sdsd.reports.html.text import count, duration, esc, interval, percent, plural, short
from sdsd.reports.metrics.bias import STEP, PairLengths, Thirds
from sdsd.reports.metrics.diversity import BLOCK, SAMPLE, Diversity, Voice
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.metrics.principles import Cell, by_category
from sdsd.reports.rates import rate, wilson

# -- where -----------------------------------------------------------------------------------

_ENOUGH = FEW // 2
"""Judgements that a fair part of the cells must have, or a map shows noise alone."""
_NAMED = 12


def where(figures: Figures) -> str:
    """Categories of principles by fields, and single principles by fields to unfold."""
    cells = by_category(figures.cells, figures.principles)
    fields = sorted({cell.field for cell in figures.cells})
    if len(fields) < 2 or not figures.violations:
        return ""
    title = "Where violations are"
    if not _dense(list(cells.values())):
        most = plural(max(cell.judged for cell in cells.values()), "judgement")
        return section(
            title,
            f"Categories of principles by fields of talk: at most {most} a cell, too few to tell "
            "cells apart. <code>sdsd report --json</code> has them.",
        )
    names = [c.name for c in figures.categories]
    top = _top(list(cells.values()))
    lines = [
        (name, f"{name}: all fields", [_tile(cells.get((name, f)), name) for f in fields])
        for name in names
    ]
    heads = [words(field, {}) for field in fields]
    plot = charts.heat(lines, heads, name="Confirmed violations by category and field", top=top)
    return section(
        title,
        "The share of judgements that found a confirmed violation, by category of principle, the "
        f"most broken first, and field of talk. {_apart(list(cells.values()))}",
        plot,
        _shades(top),
        details("The cells broken most surely, as a table", _surest(list(cells.values()))),
        _by_principle(figures, fields, top),
    )


def _dense(cells: Sequence[Cell]) -> bool:
    return 4 * sum(cell.judged >= _ENOUGH for cell in cells) >= len(cells)


def _top(cells: Sequence[Cell]) -> float:
    """The share of the darkest shade: the largest of cells that mean something."""
    sure = [c for c in cells if c.judged >= FEW] or cells
    return min(charts.nice(max(c.confirmed / c.judged for c in sure)), 1.0)


def _tile(cell: Cell | None, line: str) -> Tile | None:
    if cell is None:
        return None
    found = rate(cell.confirmed, cell.judged)
    title = f"{line}, {words(cell.field, {})}: {count(found.k)} of {count(found.n)} "
    title += f"({percent(found.share)}, {within(found)}); {plural(cell.pairs, 'verified pair')}"
    return Tile(found.share, title, cell.judged >= FEW)


def _apart(cells: Sequence[Cell]) -> str:
    """How many cells differ from the whole, beside how many would by chance."""
    known = [cell for cell in cells if cell.judged >= FEW]
    if len(known) < FEW:
        return ""
    overall = sum(cell.confirmed for cell in cells) / sum(cell.judged for cell in cells)
    bounds = [wilson(cell.confirmed, cell.judged) for cell in known]
    apart = sum(not low <= overall <= high for low, high in bounds)
    return (
        f"All together it is {percent(overall)}. Of {count(len(known))} cells with {FEW} "
        f"judgements or more, {count(apart)} have a 95% interval that leaves it out; about "
        f"{count(round(len(known) / 20))} would by chance."
    )


def _shades(top: float) -> str:
    """The scale of a heat map."""
    ends = [percent(top * k / charts.LEVELS) for k in range(charts.LEVELS + 1)]
    items = [("h0", "none")]
    items += [(f"h{k}", f"up to {ends[k]}") for k in range(1, charts.LEVELS)]
    items.append((f"h{charts.LEVELS}", f"more than {ends[-2]}"))
    note = f"A small tile rests on fewer than {FEW} judgements; where there is none, nothing was "
    return f'{charts.legend(items)}<p class="note">{note}judged.</p>'


def _surest(cells: Sequence[Cell]) -> str:
    rates = {(c.principle, c.field): rate(c.confirmed, c.judged) for c in cells}
    best = sorted(cells, key=lambda c: (-rates[c.principle, c.field].low, c.principle, c.field))
    body = []
    for cell in best[:_NAMED]:
        found = rates[cell.principle, cell.field]
        line = [f"{esc(cell.principle)} <small>{esc(words(cell.field, {}))}</small>"]
        line += [count(found.n), count(found.k), percent(found.share)]
        body.append([*line, interval(found.low, found.high), count(cell.pairs)])
    head = ["Category and field", "Judged", "Confirmed", "Rate", "95% interval", "Pairs"]
    return table(head, body)


def _by_principle(figures: Figures, fields: Sequence[str], top: float) -> str:
    if not _dense(figures.cells):
        return ""
    cells = {(c.principle, c.field): c for c in figures.cells}
    judged = [p for p in figures.principles if p.confirmed.n]
    lines = [
        (
            p.id,
            f"{p.category}: {p.text} Broken in {count(p.confirmed.k)} of {count(p.confirmed.n)}",
            [_tile(cells.get((p.id, field)), p.id) for field in fields],
        )
        for p in sorted(judged, key=lambda p: (p.category, p.id))
    ]
    plot = charts.heat(
        lines,
        [words(field, {}) for field in fields],
        name="Confirmed violations by principle and field",
        top=top,
        titled=False,
    )
    note = "The same, principle by principle in the order of categories; exact numbers of cells: "
    return details(
        f"All {count(len(judged))} principles",
        f'<p class="note">{note}<code>sdsd report --json</code>.</p>{plot}',
    )


# -- diversity -------------------------------------------------------------------------------

_RARE = 0.001
"""Openings of fewer turns are not worth a line."""


def diversity(figures: Figures) -> str:
    """How different the dialogues are from one another."""
    found = figures.diversity
    if not found.dialogues:
        return ""
    among = f"the first {count(SAMPLE)} dialogues" if found.dialogues == SAMPLE else "the dialogues"
    body = [
        [side, *_distinct(voice), count(voice.distinct.words), count(voice.distinct.blocks)]
        for side, voice in (("User turns", found.user), ("Agent turns", found.agent))
    ]
    head = ["", "Distinct-1", "Distinct-2", "Distinct-3", "Words", "Blocks"]
    return section(
        "Diversity",
        f"How different {among} are from one another. {_repeats(found)} {_spread(found)}",
        table(head, body),
        f'<p class="note">Distinct-n: different runs of n words, of all of them, in the mean over '
        f"blocks of {count(BLOCK)} words of consecutive dialogues, so that the size of the run "
        "does not matter. ± is the standard error.</p>",
        pair(
            _openings("User turns begin with", found.user),
            _openings("Agent turns begin with", found.agent),
        ),
    )


def _distinct(voice: Voice) -> list[str]:
    means, errors = voice.distinct.means, voice.distinct.errors
    if not means:
        return ["too few words"] + ["–"] * 2
    if not errors:
        return [f"{mean:.3f}" for mean in means]
    return [
        f"{mean:.3f}&nbsp;<small>± {f'{error:.3f}' if error >= 0.0005 else '&lt;0.001'}</small>"
        for mean, error in zip(means, errors, strict=True)
    ]


def _repeats(found: Diversity) -> str:
    repeats = found.repeats
    like = f"share {percent(found.threshold)} or more of their runs of five words with an earlier"
    if not repeats.k:
        return f"None of {count(repeats.n)} seems to {like} one (MinHash)."
    return (
        f"{count(repeats.k)} of {count(repeats.n)} ({percent(repeats.share)}, {within(repeats)}) "
        f"{like} one (MinHash); the largest group has {percent(found.largest)} of the dialogues."
    )


def _spread(found: Diversity) -> str:
    if found.spread is None:
        return "How far they lie apart in meaning: <code>pip install 'sdsd[semantic]'</code>."
    return (
        f"In meaning two of them lie {found.spread:.2f} apart in the mean (1 less the cosine of "
        "static embeddings)."
    )


def _openings(title: str, voice: Voice) -> str:
    shown = [opening for opening in voice.openings if opening.turns.share >= _RARE]
    if not shown:
        return f"<div><h3>{title}</h3><p>Hardly two of them begin alike.</p></div>"
    top = max(charts.nice(shown[0].turns.share), 0.1)
    items = []
    for opening in shown:
        turns = opening.turns
        about = f"{opening.words}: {count(turns.k)} of {count(turns.n)} turns"
        value = f"{percent(turns.share)} · {short(turns.k)}"
        items.append(Row(opening.words, (Part(turns.share, "t-a2", about),), value, about))
    plot = charts.rows(items, name=title, top=min(top, 1.0), ends=True)
    return f"<div><h3>{title}</h3>{plot}</div>"


# -- biases ----------------------------------------------------------------------------------

_COLUMNS = 40
_KINDS = {"all": "All pairs", "revision": "Revised", "on_policy": "Another sample"}
_THIRDS = ("first third", "middle third", "last third")


def biases(figures: Figures) -> str:
    """Length and place: what a trainer may learn instead of what the pairs are about."""
    lengths = figures.biases.lengths
    pairs = lengths["all"].longer.n + lengths["all"].equal
    if not pairs and not any(figures.biases.quotes):
        return ""
    left = _lengths(lengths, pairs) if pairs else "<p>No verified pair yet.</p>"
    return pair(
        section("Length of chosen and rejected", _rule(lengths["all"]), left),
        section("Place of the violation", _PLACE, *_places(figures)),
    )


_PLACE = "Where in the rejected turn, and how late in the dialogue, what is wrong stands."


def _rule(found: PairLengths) -> str:
    """What length alone tells."""
    longer = found.longer
    if longer.n < FEW:
        return "Too few pairs to say what length alone would tell a trainer."
    right, better = max((longer.share, "longer"), (1 - longer.share, "shorter"))
    low, high = longer.low, longer.high
    if better == "shorter":
        low, high = 1 - high, 1 - low
    equal = f", {count(found.equal)} of equal length aside" if found.equal else ""
    return (
        f"A trainer that looked at nothing but length, and took the {better} turn, would be right "
        f"in {percent(right)} of {plural(longer.n, 'pair')}{equal} (95% interval "
        f"{interval(low, high)}); 50% would tell it nothing."
    )


def _lengths(lengths: Mapping[str, PairLengths], pairs: int) -> str:
    shown = {kind: lengths[kind] for kind in _KINDS if kind in lengths}
    if len(shown) == 2:  # of one kind: all of them
        del shown["all"]
    body = [
        [
            _KINDS[kind],
            count(found.longer.n + found.equal),
            percent(found.longer.share) if found.longer.n else "–",
            f"{found.delta:+,.0f}".replace("-", "−"),
            f"{found.ratio:.2f}",
        ]
        for kind, found in shown.items()
    ]
    head = ["Pairs", "Number", "Chosen longer", "Characters", "Ratio"]
    note = (
        '<p class="note">Pairs by chosen less rejected, in characters; the longer ones coloured. '
        "The ratio is the geometric mean of chosen over rejected.</p>"
    )
    plot = _deltas(lengths["all"].deltas, pairs) + note if pairs >= FEW else ""
    return plot + table(head, body)


def _deltas(deltas: Mapping[int, int], pairs: int) -> str:
    """The histogram, in classes so wide that there are not too many."""
    least, most = min(deltas), max(deltas)
    wide = STEP
    while most // wide - least // wide >= _COLUMNS:
        wide *= 2
    merged: dict[int, int] = {}
    for low, n in deltas.items():
        merged[low // wide] = merged.get(low // wide, 0) + n
    items = []
    for k in range(least // wide, most // wide + 1):
        n, low = merged.get(k, 0), k * wide
        title = f"{low:,} to {low + wide:,} characters: {plural(n, 'pair')} ({percent(n / pairs)})"
        tone = "t-c" if low >= 0 else "t-n2"
        items.append(Column(f"{low}".replace("-", "−"), n, title.replace("-", "−"), tone=tone))
    return charts.columns(items, name="Pairs by difference in length", height=120)


def _places(figures: Figures) -> list[str]:
    found, body = figures.biases, []
    for title, thirds in (
        ("The critic's quotation", found.quotes),
        ("The first word that the revision changes", found.changes),
    ):
        if any(thirds):
            body.append(f"<h3>{title}</h3>{_third(thirds, title)}")
        if thirds is found.quotes and found.quoted is not None:
            share = percent(found.quoted)
            body.append(f"<p>It is {share} of its turn in the mean: the less, the plainer.</p>")
    judged = {k: r for k, r in found.exchanges.items() if r.n >= FEW}
    if len(judged) > 1:
        top = min(charts.nice(max(r.high for r in judged.values())), 1.0)
        items = [
            rate_row(f"Exchange {k}", f"Violations confirmed in exchange {k}:", r)
            for k, r in list(judged.items())[:_NAMED]
        ]
        body.append("<h3>Turns with a confirmed violation, of those judged</h3>")
        body.append(charts.rows(items, name="Violations by exchange", top=top, ends=True))
    return body


def _third(thirds: Thirds, name: str) -> str:
    total = sum(thirds)
    parts = [
        Part(n, tone, f"{label}: {count(n)} ({percent(n / total)})")
        for n, tone, label in zip(thirds, ("t-b", "t-b2", "t-n3"), _THIRDS, strict=True)
    ]
    return charts.stacked(parts, name=name)


# -- critics ---------------------------------------------------------------------------------


def critics(figures: Figures) -> str:
    """Whether several critics agree; nothing if there is one."""
    found = figures.critics
    if found is None:
        return ""
    claims = [
        rate_row(name, f"{name} claims a violation in", claimed, "t-b")
        for name, claimed in found.claims.items()
    ]
    top = min(charts.nice(max(claimed.high for claimed in found.claims.values())), 1.0)
    pairs = ((f"{esc(p.first)} and {esc(p.second)}", p.same, _number(p.kappa)) for p in found.pairs)
    return section(
        "Agreement of the critics",
        f"{count(len(found.claims))} critics on {plural(found.judged, 'judgement')}: "
        f"Krippendorff's α is {_number(found.alpha)} (1 is perfect, 0 is chance).",
        pair(
            "<div><h3>Violations claimed</h3>"
            f"{charts.rows(claims, name='Violations claimed by critic', top=top, ends=True)}</div>",
            f"<div><h3>Two by two</h3>{agreements('Critics', pairs)}</div>",
        ),
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}".replace("-", "−")


# -- cleaning --------------------------------------------------------------------------------

_REMOVED = {
    "malformed": "a dialogue that no trainer could read",
    "duplicate_exact": "the words of an earlier dialogue",
    "duplicate_near": "nearly the words of an earlier dialogue",
    "duplicate_semantic": "an earlier dialogue in other words",
    "contaminated": "words in a row with an evaluation set",
    "too_similar": "a pair whose turns are too alike",
    "length_ratio": "a pair whose turns differ too much in length",
    "small_margin": "a pair whose turns the critics hardly tell apart",
    "balance": "a pair beyond its cell's share",
}
"""Rules of the export and what they find; those of `sdsd.checks.dialogue_rules` come on top."""


def cleaning(removed: Mapping[str, int]) -> str:
    """What the export left out, by rule; nothing if it left out nothing."""
    if not removed:
        return ""
    items = []
    for rule, n in sorted(removed.items(), key=lambda item: (-item[1], item[0])):
        meaning = _REMOVED.get(rule) or dialogue_rules.RULES.get(rule) or words(rule, {})
        title = f"{meaning}: {count(n)}"
        items.append(Row(rule, (Part(n, "t-n1", title),), count(n), title))
    return section(
        "What cleaning left out",
        "Dialogues and pairs that are not in the views for training, by the first rule that they "
        "break; the view <code>removed</code> names each.",
        charts.rows(items, name="Left out, by rule"),
    )


# -- cost ------------------------------------------------------------------------------------


def pair_cost(figures: Figures) -> tuple[str, str, str] | None:
    """The headline's tile: number, name and note; None without a pair."""
    cost = figures.pair_cost
    if cost.tokens is None or cost.calls is None or cost.seconds is None:
        return None
    note = (
        f"{short(round(cost.calls.value, 1))} calls, {duration(cost.seconds.value)} of model time"
    )
    if cost.money is None:
        return short(cost.tokens.value), "tokens a verified pair", note
    return (
        f"{cost.money:,.4f}",
        "cost of a verified pair",
        f"{short(cost.tokens.value)} tokens, {note}",
    )
