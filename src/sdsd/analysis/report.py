"""The report of a run: one HTML file for a person in a hurry.

It needs nothing from outside and runs no script; a content security policy says so to the
browser. What models wrote is escaped before it gets here (`sdsd.analysis.text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sdsd.analysis import svg
from sdsd.analysis.figures import (
    PAPER,
    PAPER_MODELS,
    PAPER_PRINCIPLES,
    PAPER_SOURCE,
    Balance,
    Figures,
    PrincipleCount,
    Rate,
)
from sdsd.analysis.samples import RULES, STOPS, sample, words
from sdsd.analysis.svg import Band, Column, Part, Row
from sdsd.analysis.text import count, duration, esc, interval, percent, plural, said, short
from sdsd.config import Config
from sdsd.rundir import Manifest
from sdsd.types import ROLES, Record

FEW = 10
"""Below this many observations an interval is so wide that a sentence says more."""

_SHOWN = 40
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STEPS = {
    "started": "Scenarios",
    "planned": "Planned",
    "held": "Dialogue held",
    "judged": "Judged by the critic",
    "claimed": "Violation claimed",
    "confirmed": "Confirmed by a quotation",
    "revised": "Revised",
    "accepted": "Verified pair",
}
_STAGES = {
    "plan": ("Plan", "t-a2"),
    "turn": ("Turns", "t-a"),
    "check": ("Self-checks", "t-a3"),
    "critique": ("Critique", "t-b"),
    "revise": ("Revision", "t-c"),
    "recheck": ("Recheck", "t-b2"),
}


def render(
    figures: Figures, manifest: Manifest | None, config: Config, samples: Sequence[Record]
) -> str:
    """The whole page. `samples` are printed in full, so give a few."""
    sections = [
        _headline(figures, manifest, config),
        *(_sections(figures, config) if figures.finished else [_empty()]),
        _throughput(figures),
        _failures(figures),
        _samples(samples),
        _made(manifest, config),
    ]
    title = f"sdsd: {plural(figures.finished, 'dialogue')}"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{_css()}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


@cache
def _css() -> str:
    return Path(__file__).with_name("report.css").read_text("utf-8")


def _sections(figures: Figures, config: Config) -> list[str]:
    return [
        _pair(_funnel(figures, config), _paper(figures)),
        _pair(_turns(figures), _signals(figures)),
        _principles(figures),
        _topics(figures),
        _pair(_tokens(figures), _time(figures)),
    ]


def _section(title: str, takeaway: str, *body: str) -> str:
    lead = f'<p class="lead">{takeaway}</p>' if takeaway else ""
    return f"<section><h2>{title}</h2>{lead}{''.join(body)}</section>"


def _pair(left: str, right: str) -> str:
    return f'<div class="pair">{left}{right}</div>'


def _table(head: Sequence[str], body: Sequence[Sequence[str]], classes: str = "") -> str:
    """Cells are HTML already. All columns but the first hold numbers."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in line) + "</tr>" for line in body)
    return (
        f'<div class="wide"><table class="{classes}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>"


def _within(rate: Rate) -> str:
    """The interval in words, if there is anything to say."""
    if rate.n < FEW:
        return "too few for an interval to mean much"
    return f"95% interval {interval(rate.low, rate.high)}"


# -- headline ------------------------------------------------------------------------------


def _headline(figures: Figures, manifest: Manifest | None, config: Config) -> str:
    pairs, clock = figures.pairs, figures.clock
    held = _step(figures, "held")
    models = sorted(set(manifest.models.values())) if manifest else []
    about = [esc(name) for name in models]
    if manifest:
        about += [esc(manifest.protocol), esc(manifest.created[:10])]
    tiles = [
        (count(figures.finished), "scenarios finished", f"of {count(config.n)} asked for"),
        (count(pairs.k), _pairs_name(config), _pairs_note(figures, config)),
        (percent(pairs.share) if pairs.n else "–", "yield", _within(pairs)),
        (duration(clock.wall), "wall time", _pause_note(figures)),
        (
            short(clock.tokens_per_second),
            "tokens per second",
            f"{short(clock.completion_tokens)} written in {plural(clock.answers, 'answer')}",
        ),
    ]
    cells = "".join(
        f"<div><dd>{number}</dd><dt>{name}</dt><dd>{note}</dd></div>"
        for number, name, note in tiles
    )
    return (
        f'<header><p class="eyebrow">sdsd report{"".join(f" · {a}" for a in about)}</p>'
        f"<h1>{plural(held, 'dialogue')}, {plural(pairs.k, 'verified pair')}</h1>"
        f'<dl class="tiles">{cells}</dl></header>'
    )


def _pairs_name(config: Config) -> str:
    return "verified pairs" if config.revise.recheck else "pairs, not rechecked"


def _pairs_note(figures: Figures, config: Config) -> str:
    if config.revise.rounds == 0:
        return "this run critiques only"
    if not figures.rounds:
        return "none was accepted" if figures.finished else ""
    revisions = sum(number * n for number, n in figures.rounds.items())
    return f"{short(round(revisions / figures.pairs.k, 2))} revisions each in the mean"


def _pause_note(figures: Figures) -> str:
    paused = figures.clock.paused
    return f"without {duration(paused)} of pauses" if paused else "from first to last answer"


def _empty() -> str:
    return _section("Nothing finished yet", "No dialogue of this run is finished: come back later.")


def _step(figures: Figures, name: str) -> int:
    return next(step.n for step in figures.funnel if step.name == name)


# -- how far they came ---------------------------------------------------------------------


def _funnel(figures: Figures, config: Config) -> str:
    names = _STEPS if config.revise.recheck else {**_STEPS, "accepted": "Pair (not rechecked)"}
    items = []
    before = figures.finished
    for step in figures.funnel:
        label = names[step.name]
        share = percent(step.n / figures.finished)
        lost = f"; {count(before - step.n)} lost at this step" if step.n < before else ""
        tone = "t-c" if step.name == "accepted" else "t-a"
        title = f"{label}: {count(step.n)} of {count(figures.finished)} ({share}){lost}"
        items.append(Row(label, (Part(step.n, tone, title),), f"{count(step.n)} · {share}", title))
        before = step.n
    return _section(
        "From scenario to pair",
        "How many came how far, and where the others were lost.",
        svg.funnel(items, name="Scenarios left after each step"),
        "<h3>Why the rest made no pair</h3>" if figures.pairs.k < figures.finished else "<h3></h3>",
        _outcomes(figures),
    )


def _outcomes(figures: Figures) -> str:
    tones = iter(("t-n1", "t-n2", "t-n3", "t-n4"))
    parts = []
    for item in figures.outcomes:
        label = words(item.rule, RULES) or item.outcome
        tone = {"accepted": "t-c", "failed": "t-bad"}.get(item.outcome) or next(tones, "t-n4")
        if item.outcome == "accepted":
            label = "accepted pair"
        share = percent(item.n / figures.finished)
        parts.append(Part(item.n, tone, f"{label}: {count(item.n)} ({share})"))
    return svg.stacked(parts, name="Outcomes")


def _paper(figures: Figures) -> str:
    lines = []
    for key, (ours, note) in _ours(figures).items():
        reference = PAPER[key]
        write = percent if reference.unit == "share" else (lambda x: f"{x:.2f}")
        values = {k: write(v) for k, v in reference.values.items()}
        if set(values) == set(PAPER_MODELS):
            theirs = "".join(f"<td>{values[model]}</td>" for model in PAPER_MODELS)
        else:
            theirs = f'<td colspan="3">{" – ".join(values.values())}</td>'
        lines.append(
            f'<tr title="{esc(reference.meaning)}"><th>{esc(reference.label)}</th>'
            f"<td><b>{ours}</b><small>{note}</small></td>{theirs}</tr>"
        )
    models = "".join(f"<th>{model}</th>" for model in PAPER_MODELS)
    meanings = "".join(f"<dt>{esc(r.label)}</dt><dd>{esc(r.meaning)}</dd>" for r in PAPER.values())
    return _section(
        "Beside the paper",
        f"What the method's authors report of their three models ({PAPER_SOURCE}).",
        '<div class="wide"><table class="paper"><thead><tr><th></th><th>This run</th>'
        f"{models}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>",
        _details("What these figures mean", f"<dl>{meanings}</dl>"),
    )


def _ours(figures: Figures) -> dict[str, tuple[str, str]]:
    """Our value for each figure of the paper, and what to know about it."""
    nothing = ("–", "none judged")
    violating, same = figures.violating, figures.agreement.same
    shares = [p.share for p in figures.principles]
    topic = figures.fields.slots[0].name if figures.fields.used else ""
    judged = _within(violating)
    return {
        "violating": (percent(violating.share), judged) if violating.n else nothing,
        "messages": ((f"{figures.messages_mean:.2f}", "") if figures.messages_mean else ("–", "")),
        "principle_share": (
            (f"{percent(min(shares))} – {percent(max(shares))}", _resolution(figures))
            if figures.violations
            else ("–", "no violations")
        ),
        "largest_topic": (percent(figures.fields.largest), esc(topic)),
        "marker_right": (percent(same.share), _within(same)) if same.n else ("–", "not asked"),
    }


def _resolution(figures: Figures) -> str:
    """How finely the shares can be read: one violation's worth."""
    kinds = plural(len(figures.principles), "principle")
    return f"{kinds}; steps of {percent(1 / figures.violations)}"


# -- dialogues -----------------------------------------------------------------------------


def _turns(figures: Figures) -> str:
    held = _step(figures, "held")
    if not held:
        return _section("Turns per dialogue", "No dialogue was held.")
    mean = (figures.messages_mean - 1) / 2
    lengths = figures.lengths
    lead = (
        f"{mean:.1f} exchanges in the mean. A user turn has {count(lengths.user_turn)} "
        f"characters, an agent turn {count(lengths.agent_turn)}."
    )
    if held < FEW:
        each = (
            f"{plural(n, 'dialogue')} of {plural(exchanges, 'exchange')}"
            for exchanges, n in figures.exchanges.items()
        )
        plot = f"<p>{', '.join(each).capitalize()}.</p>"
    else:
        least, most = min(figures.exchanges), max(figures.exchanges)
        items = []
        for exchanges in range(least, min(most, least + 60) + 1):
            n = figures.exchanges.get(exchanges, 0)
            title = f"{plural(exchanges, 'exchange')}: {plural(n, 'dialogue')}"
            items.append(Column(str(exchanges), n, f"{title} ({percent(n / held)})"))
        plot = svg.columns(items, name="Dialogues by number of exchanges")
    tones = iter(("t-n1", "t-n2", "t-n3", "t-n4"))
    stops = [
        Part(
            n,
            "t-a" if stop == "completed" else next(tones, "t-n4"),
            f"{words(stop, STOPS)}: {count(n)} ({percent(n / held)})",
        )
        for stop, n in figures.stops.items()
    ]
    return _section(
        "Turns per dialogue",
        lead,
        plot,
        "<h3>Why they stopped</h3>",
        svg.stacked(stops, name="Why dialogues stopped"),
    )


def _signals(figures: Figures) -> str:
    """Planned, said and found, in one table."""
    lines = []
    for reached, label in ((True, "Planned final turn reached"), (False, "Stopped otherwise")):
        here = [s for s in figures.signals if s.reached == reached]
        n = sum(s.n for s in here)
        asked = sum(s.n for s in here if s.flagged is not None)
        flagged = sum(s.n for s in here if s.flagged)
        claimed = sum(s.n for s in here if s.found != "clean")
        confirmed = sum(s.n for s in here if s.found == "confirmed")
        cells = [_of(flagged, asked) if asked else "not asked", _of(claimed, n), _of(confirmed, n)]
        lines.append([label, count(n), *cells])
    same, kappa = figures.agreement.same, figures.agreement.kappa
    lead = "What was intended, what the speaking model said of itself, what the critic found."
    note = "The speaking model was not asked about itself."
    if same.n:
        chance = f", Cohen's κ {kappa:.2f}" if kappa is not None and same.n >= FEW else ""
        note = (
            f"Self-flag and confirmed verdict agree in {count(same.k)} of {count(same.n)} "
            f"({percent(same.share)}; {_within(same)}{chance})."
        )
    head = ["", "Dialogues", "Self-flagged", "Claimed", "Confirmed"]
    return _section(
        "Intended, said, found", lead, _table(head, lines), f"<p>{note}</p>", _repair(figures)
    )


def _of(k: int, n: int) -> str:
    return f"{count(k)} <small>{percent(k / n)}</small>" if n else "–"


def _repair(figures: Figures) -> str:
    if not figures.pairs.k:
        return ""
    rounds = ", ".join(
        f"{count(n)} after {plural(number, 'revision')}" for number, n in figures.rounds.items()
    )
    lengths = figures.lengths
    return (
        f"<h3>The pairs</h3><p>Accepted: {rounds}. Rejected turns have "
        f"{count(lengths.rejected)} characters in the mean, chosen ones {count(lengths.chosen)}.</p>"
    )


# -- principles ----------------------------------------------------------------------------


def _principles(figures: Figures) -> str:
    judged = [p for p in figures.principles if p.confirmed.n]
    if not judged:
        return _section("Violations per principle", "No last turn was judged.")
    never = sum(1 for p in judged if not p.confirmed.k)
    lead = (
        f"{plural(figures.violations, 'confirmed violation')} of {plural(len(judged), 'principle')} "
        f"that came up; {count(never)} of these {'was' if never == 1 else 'were'} never broken."
    )
    enough = [p for p in judged if p.confirmed.n >= FEW // 2]
    body = []
    if len(enough) >= 3:
        body.append(_whiskers(enough))
    else:
        body.append(
            f'<p class="note">At most {count(max(p.confirmed.n for p in judged))} dialogues a '
            "principle: too few for an interval to mean much.</p>"
        )
    if len(figures.principles) > 20 and figures.violations >= 100:
        body.append(_shares(figures))
    if sum(c.confirmed.n for c in figures.categories) >= 3 * FEW and len(figures.categories) > 1:
        body.append(_categories(figures))
    table = _principle_table(judged)
    body.append(
        _details(f"All {count(len(judged))} as a table", table) if len(judged) > 12 else table
    )
    return _section("Violations per principle", lead, *body)


def _whiskers(principles: Sequence[PrincipleCount]) -> str:
    """The most broken ones, ordered by how readily they are."""
    shown = sorted(principles[:_SHOWN], key=lambda p: (-p.confirmed.share, p.id))
    top = svg.nice(max(p.confirmed.high for p in shown))
    items = [_rate_row(p.id, p.text, p.confirmed) for p in shown]
    half = (len(items) + 1) // 2
    name = "Share of dialogues with a confirmed violation, by principle"
    plots = [svg.rows(part, name=name, top=min(top, 1.0)) for part in (items[:half], items[half:])]
    chosen = (
        f"The {_SHOWN} most broken of {count(len(principles))}: "
        if len(principles) > _SHOWN
        else ""
    )
    return (
        f"<h3>How readily each is broken</h3>"
        f'<p class="note">{chosen}share of the dialogues judged on a principle that broke it, '
        f"with its 95% interval.</p>{_pair(*plots)}"
    )


def _rate_row(label: str, text: str, rate: Rate, tone: str = "t-b") -> Row:
    value = f"{percent(rate.share)} · {count(rate.k)}/{count(rate.n)}"
    title = f"{text} Broken in {count(rate.k)} of {count(rate.n)} ({percent(rate.share)}, "
    title += f"{_within(rate)})"
    part = Part(rate.share, tone, title)
    return Row(label, (part,), value, title, (rate.low, rate.high))


def _shares(figures: Figures) -> str:
    """Each principle's share of all violations, in order, against the paper's range."""
    least, most = PAPER["principle_share"].values.values()
    kinds = len(figures.principles)
    comparable = 0.75 < kinds / PAPER_PRINCIPLES < 1.33 and figures.violations * least >= 1
    band = Band(least, most, f"The paper's range: {percent(least)} to {percent(most)}")
    uniform = 1 / kinds
    items = [
        Column("", p.share, f"{p.id}: {percent(p.share)} ({count(p.confirmed.k)})", uniform)
        for p in figures.principles
    ]
    note = (
        f"Shaded: {percent(least)} to {percent(most)}, the paper's range over its "
        f"{PAPER_PRINCIPLES} principles."
        if comparable
        else "The paper's range (0.2% to 2.4%) is not drawn: it is for 127 principles and needs at "
        "least 500 violations to be seen."
    )
    plot = svg.columns(
        items,
        name="Share of all violations by principle, largest first",
        tone="t-b",
        shares=True,
        band=band if comparable else None,
    )
    return (
        f'<h3>Which make up the violations</h3><p class="note">Each principle\'s share of all '
        f"violations, largest first; the line is the even share, {percent(uniform)}. {note}</p>"
        f"{plot}"
    )


def _categories(figures: Figures) -> str:
    rates = figures.categories
    top = min(svg.nice(max(c.confirmed.high for c in rates)), 1.0)
    items = [_rate_row(c.name, f"{c.name}.", c.confirmed) for c in rates]
    half = (len(items) + 1) // 2
    name = "Share of verdicts with a confirmed violation, by category of principle"
    halves = [items[:half], items[half:]]
    return f"<h3>By category</h3>{_pair(*(svg.rows(x, name=name, top=top) for x in halves))}"


def _principle_table(judged: Sequence[PrincipleCount]) -> str:
    body = []
    for p in judged:
        rate = p.confirmed
        within = interval(rate.low, rate.high) if rate.n >= FEW // 2 else "–"
        body.append(
            [
                f"{esc(p.text)} <small>{esc(p.id)}</small>",
                count(rate.n),
                count(p.claimed),
                count(rate.k),
                percent(rate.share),
                within,
                percent(p.share),
            ]
        )
    head = ["Principle", "Judged", "Claimed", "Confirmed", "Rate", "95% interval", "Of all"]
    return _table(head, body)


# -- topics --------------------------------------------------------------------------------


def _topics(figures: Figures) -> str:
    fields, domains = figures.fields, figures.domains
    largest = fields.slots[0]
    lead = (
        f"{count(fields.used)} of {plural(len(fields.slots), 'field')} and "
        f"{count(domains.used)} of {plural(len(domains.slots), 'domain')}. "
    )
    if figures.finished < FEW:
        names = ", ".join(esc(slot.name) for slot in fields.slots if slot.n)
        return _section("Topics", f"{lead}Here: {names}.")
    lead += (
        f"The largest field, {esc(largest.name)}, has {percent(fields.largest)} of the dialogues; "
        f"evenness is {fields.entropy:.3f} over fields and {domains.entropy:.3f} over domains "
        "(1 is even)."
    )
    items = [
        Column("", slot.n, f"{slot.name}: {plural(slot.n, 'dialogue')}", slot.expected * total)
        for total in (figures.finished,)
        for slot in fields.slots
    ]
    return _section(
        "Topics",
        lead,
        svg.columns(items, name="Dialogues by field, largest first", tone="t-a2", height=110),
        '<p class="note">Dialogues by field, largest first. The lines are what the catalogue\'s '
        "own proportions would give.</p>",
        _details("Fields as a table", _slot_table(fields, figures.finished)),
    )


def _slot_table(balance: Balance, total: int) -> str:
    body = [
        [esc(s.name), count(s.n), percent(s.n / total), percent(s.expected)] for s in balance.slots
    ]
    return _table(["Field", "Dialogues", "Share", "Of the catalogue"], body)


# -- cost ----------------------------------------------------------------------------------


def _tokens(figures: Figures) -> str:
    items, body = [], []
    computed = cached = written = 0
    for stage, use in figures.stages.items():
        label, _ = _STAGES.get(stage, (stage, "t-n1"))
        fresh = max(use.prompt_tokens - use.cached_tokens, 0)
        kinds = (
            (fresh, "t-a", "prompt, computed"),
            (use.cached_tokens, "t-a3", "prompt, from cache"),
            (use.completion_tokens, "t-c", "written"),
        )
        parts = tuple(Part(n, tone, f"{label}, {kind}: {count(n)}") for n, tone, kind in kinds)
        items.append(Row(label, parts, short(sum(p.value for p in parts)), label))
        body.append([esc(label), count(use.calls), *(count(n) for n, _, _ in kinds)])
        computed, cached = computed + fresh, cached + use.cached_tokens
        written += use.completion_tokens
    if not items:
        return _section("Tokens", "No model was called.")
    prompt = computed + cached
    lead = (
        f"{short(prompt)} tokens were read, {percent(cached / prompt) if prompt else '0%'} of them "
        f"from the prefix cache; {short(written)} were written."
    )
    key = [("t-a", "prompt, computed"), ("t-a3", "prompt, from cache"), ("t-c", "written")]
    head = ["Stage", "Calls", "Prompt, computed", "Prompt, cached", "Written"]
    return _section(
        "Tokens by stage",
        lead,
        svg.rows(items, name="Tokens by stage", label_room=185),
        svg.legend(key),
        _details("As a table", _table(head, body)),
    )


def _time(figures: Figures) -> str:
    uses = figures.stages
    total = sum(use.seconds for use in uses.values())
    if not total:
        return _section("Time by stage", "No times were recorded.")
    items, body = [], []
    for stage, use in uses.items():
        label, tone = _STAGES.get(stage, (stage, "t-n1"))
        share = percent(use.seconds / total)
        each = use.seconds / use.calls if use.calls else 0.0
        title = f"{label}: {duration(use.seconds)} in {plural(use.calls, 'call')}"
        title += f", {duration(each)} each"
        items.append(Row(label, (Part(use.seconds, tone, title),), share, title))
        body.append([esc(label), duration(use.seconds), share, duration(each)])
    return _section(
        "Time by stage",
        f"{duration(total)} of model time, all requests added up; "
        f"{duration(total / figures.finished)} a dialogue.",
        svg.rows(items, name="Model time by stage"),
        _details("As a table", _table(["Stage", "Time", "Share", "A call"], body)),
    )


def _throughput(figures: Figures) -> str:
    clock = figures.clock
    number = len(next(iter(clock.bins.values()), ()))
    if number < 4:
        return ""
    series = {
        stage: [tokens / clock.bin for tokens in values] for stage, values in clock.bins.items()
    }
    names = {stage: _STAGES.get(stage, (stage, "t-n1")) for stage in series}
    plot = svg.area(
        series,
        {stage: tone for stage, (_, tone) in names.items()},
        name="Tokens written per second, over time",
        seconds=clock.bin * number,
        unit="tokens/s",
    )
    return _section(
        "Throughput",
        f"Tokens written per second, by stage, in steps of {duration(clock.bin)}.",
        plot,
        svg.legend([(tone, label) for label, tone in names.values()]),
    )


# -- failures, samples, origin -------------------------------------------------------------


def _failures(figures: Figures) -> str:
    if not figures.failures:
        return ""
    total = sum(f.n for f in figures.failures)
    body = [
        [f"{esc(f.cause)} <small>{esc(words(f.stage, {}))}</small>", count(f.n)]
        for f in figures.failures
    ]
    examples = "".join(
        _details(
            f"<code>{esc(e.scenario)}</code> {esc(e.step)}: {esc(e.cause)}",
            said(e.raw) if e.raw.strip() else '<p class="note">No text came with it.</p>',
        )
        for e in figures.examples
    )
    lead = f"{plural(total, 'dialogue')} could not be made ({percent(total / figures.finished)})."
    return _section(
        "Failures",
        lead,
        _table(["Cause", "Dialogues"], body),
        f"<h3>What was written</h3>{examples}",
    )


def _samples(samples: Sequence[Record]) -> str:
    if not samples:
        return ""
    articles = "".join(sample(record, opened=i == 0) for i, record in enumerate(samples))
    title = "A dialogue" if len(samples) == 1 else "Some dialogues"
    return _section(title, "In full, as they are in the data.", articles)


def _made(manifest: Manifest | None, config: Config) -> str:
    if manifest is None:
        return _section("How it was made", "The run has no manifest yet: no model was called.")
    roles = [(f"{role}", f"{manifest.models[role]}") for role in ROLES if role in manifest.models]
    rows = [
        ("created", manifest.created),
        ("sdsd", manifest.sdsd),
        ("seed", str(manifest.seed)),
        ("protocol", manifest.protocol),
        *roles,
        *((f"weights of {name}", digest) for name, digest in manifest.weights.items()),
        ("configuration", manifest.config),
        ("catalogue", manifest.catalogue),
        *((f"prompt {name}", digest) for name, digest in manifest.prompts.items()),
        ("critic held to a schema", "yes" if manifest.schema else "no"),
        ("revision rounds", f"{config.revise.rounds}"),
        ("revision rechecked", "yes" if config.revise.recheck else "no"),
        ("python", manifest.python),
        ("machine", manifest.machine),
    ]
    lines = "".join(f"<tr><th>{esc(k)}</th><td>{esc(v)}</td></tr>" for k, v in rows)
    return _section(
        "How it was made",
        "The same program, configuration, catalogue and prompts ask the same questions again; "
        "long values are SHA-256 digests.",
        f'<div class="wide"><table class="made"><tbody>{lines}</tbody></table></div>',
    )
