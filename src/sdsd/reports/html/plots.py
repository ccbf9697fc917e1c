"""The sections that are pictures: dialogues, principles, topics, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdsd.checks.dialogue_rules import RULES
from sdsd.config import Config
from sdsd.reports.html import charts
from sdsd.reports.html.charts import Band, Column, Part, Row
from sdsd.reports.html.page import FEW, details, pair, section, table, within
from sdsd.reports.html.samples import STOPS, words
from sdsd.reports.html.text import count, duration, esc, interval, percent, plural, short
from sdsd.reports.metrics.figures import Balance, Figures
from sdsd.reports.metrics.paper import PAPER, PAPER_PRINCIPLES
from sdsd.reports.metrics.principles import PrincipleCount
from sdsd.reports.money import money
from sdsd.reports.rates import Rate
from sdsd.types import Usage

_SHOWN = 40  # principles in the plot; the table has them all
_MOST_COLUMNS = 300
_GREYS = ("t-n1", "t-n2", "t-n3", "t-n4")

_STAGES = {
    "plan": ("Plan", "t-a2"),
    "turn": ("Turns", "t-a"),
    "check": ("Self-checks", "t-a3"),
    "candidate": ("Candidates", "t-n2"),
    "critique": ("Critique", "t-b"),
    "earlier": ("Earlier turns judged", "t-n1"),
    "adherence": ("Plan against talk", "t-n2"),
    "revise": ("Revision", "t-c"),
    "recheck": ("Recheck", "t-b2"),
}


# -- dialogues -----------------------------------------------------------------------------


def turns(figures: Figures) -> str:
    """How long the dialogues are, and why they stopped."""
    held = figures.step("held")
    if not held:
        return section("Turns per dialogue", "No dialogue was held.")
    mean = (figures.messages_mean - 1) / 2
    lengths = figures.lengths
    lead = (
        f"{mean:.1f} exchanges in the mean. A user turn has {count(lengths.user_turn)} "
        f"characters, an agent turn {count(lengths.agent_turn)}."
    )
    return section(
        "Turns per dialogue",
        lead,
        _exchanges(figures.exchanges, held),
        "<h3>Why they stopped</h3>",
        _stops(figures, held),
    )


def _exchanges(exchanges: Mapping[int, int], held: int) -> str:
    if held < FEW:
        each = (
            f"{plural(n, 'dialogue')} of {plural(number, 'exchange')}"
            for number, n in exchanges.items()
        )
        return f"<p>{', '.join(each)}.</p>"
    least, most = min(exchanges), max(exchanges)
    items = []
    for number in range(least, min(most, least + _MOST_COLUMNS) + 1):
        n = exchanges.get(number, 0)
        title = f"{plural(number, 'exchange')}: {plural(n, 'dialogue')}"
        items.append(Column(str(number), n, f"{title} ({percent(n / held)})"))
    caption = '<p class="note">Dialogues by number of exchanges.</p>'
    return charts.columns(items, name="Dialogues by number of exchanges") + caption


def _stops(figures: Figures, held: int) -> str:
    stops = sorted(figures.stops.items(), key=lambda item: item[0] != "completed")
    greys = iter(_GREYS)
    parts = [
        Part(
            n,
            "t-a" if stop == "completed" else next(greys, "t-n4"),
            f"{words(stop, STOPS)}: {count(n)} ({percent(n / held)})",
        )
        for stop, n in stops
    ]
    return charts.stacked(parts, name="Why dialogues stopped")


def signals(figures: Figures) -> str:
    """Planned, said and found, in one table."""
    lines = []
    for reached, label in ((True, "Planned final turn reached"), (False, "Stopped otherwise")):
        here = [s for s in figures.signals if s.reached == reached]
        n = sum(s.n for s in here)
        asked = sum(s.n for s in here if s.flagged is not None)
        flagged = sum(s.n for s in here if s.flagged)
        claimed = sum(s.n for s in here if s.found != "clean")
        confirmed = sum(s.n for s in here if s.found == "confirmed")
        own = _of(flagged, asked) if asked or not n else "not asked"
        lines.append([label, count(n), own, _of(claimed, n), _of(confirmed, n)])
    same, kappa = figures.agreement.same, figures.agreement.kappa
    lead = "What was intended, what the speaking model said of itself, what the critic found."
    note = "The speaking model was not asked about itself."
    if same.n:
        chance = f", Cohen's κ {kappa:.2f}" if kappa is not None and same.n >= FEW else ""
        note = (
            f"Self-flag and confirmed verdict agree in {count(same.k)} of {count(same.n)} "
            f"({percent(same.share)}; {within(same)}{chance})."
        )
    head = ["", "Dialogues", "Self-flagged", "Claimed", "Confirmed"]
    return section(
        "Intended, said, found", lead, table(head, lines), f"<p>{note}</p>", _repair(figures)
    )


def _of(k: int, n: int) -> str:
    return f"{count(k)}&nbsp;<small>{percent(k / n)}</small>" if n else "–"


def _repair(figures: Figures) -> str:
    if not figures.pairs.k:
        return ""
    rounds = ", ".join(
        f"{count(n)} after {plural(number, 'revision')}" for number, n in figures.rounds.items()
    )
    lengths = figures.lengths
    return (
        f"<h3>The pairs</h3><p>Accepted: {rounds}. A rejected turn has {count(lengths.rejected)} "
        f"characters in the mean, a chosen one {count(lengths.chosen)}.</p>"
    )


# -- principles ----------------------------------------------------------------------------


def principles(figures: Figures) -> str:
    """Which principles are broken, how readily, and how much of the data each makes up."""
    title = "Violations per principle"
    judged = [p for p in figures.principles if p.confirmed.n]
    if not judged:
        return section(title, "No last turn was judged.")
    never = sum(1 for p in judged if not p.confirmed.k)
    kinds = plural(len(judged), "principle")
    lead = f"No confirmed violation of the {kinds} that came up."
    if figures.violations:
        found = plural(figures.violations, "confirmed violation")
        were = "was" if never == 1 else "were"
        lead = f"{found}. Of the {kinds} that came up, {count(never)} {were} never broken."
        if not never:
            lead = f"{found}. Each of the {kinds} that came up was broken."
    enough = [p for p in judged if p.confirmed.n >= FEW // 2]
    most = plural(max(p.confirmed.n for p in judged), "dialogue")
    few = f"At most {most} a principle: too few for an interval to mean much."
    body = [_whiskers(enough) if len(enough) >= 3 else f'<p class="note">{few}</p>']
    if len(figures.principles) > 20 and figures.violations >= 100:
        body.append(_shares(figures))
    if len(figures.categories) > 1 and sum(c.confirmed.n for c in figures.categories) >= 3 * FEW:
        body.append(_categories(figures))
    whole = _principle_table(judged)
    if len(judged) > 12:
        whole = details(f"All {count(len(judged))} as a table", whole)
    return section(title, lead, *body, whole)


def strategies(figures: Figures) -> str:
    """Which strategies bring violations and pairs; nothing if there is only one."""
    each = figures.strategies
    if len(each) < 2:
        return ""
    top = charts.nice(max((s.violating.high for s in each if s.violating.n), default=1.0))
    plots = []
    for title, tone, rates in (
        ("Confirmed violations, of dialogues judged", "t-b", [s.violating for s in each]),
        ("Verified pairs, of all scenarios", "t-c", [s.pairs for s in each]),
    ):
        items = [
            rate_row(s.name, f"{title}, by strategy {s.name}:", rate, tone)
            for s, rate in zip(each, rates, strict=True)
        ]
        drawn = charts.rows(items, name=title, top=min(top, 1.0), ends=True)
        plots.append(f"<div><h3>{title}</h3>{drawn}</div>")
    lead = "How often each way of eliciting a violation worked, with 95% intervals."
    return section("Strategies", lead, pair(*plots))


def quality(figures: Figures) -> str:
    """Which rules dialogues break that no model is needed for."""
    held = figures.step("held")
    if not held:
        return ""
    items = []
    for rule, n in figures.flags.items():
        title = f"{RULES.get(rule, rule)}: {count(n)} of {count(held)} dialogues"
        value = f"{count(n)} · {percent(n / held)}"
        items.append(Row(rule, (Part(n / held, "t-n1", title),), value, title))
    lead = "No dialogue breaks a rule of quality."
    if items:
        lead = "Rules of quality that dialogues break, found without a model. Nothing was left out "
        lead += (
            "for it unless <code>export.exclude</code> says so; the column <code>warnings</code> "
        )
        lead += "has them."
    body = [charts.rows(items, name="Dialogues by the rules they break")] if items else []
    return section("Quality of the dialogues", lead, *body)


def _whiskers(principles: Sequence[PrincipleCount]) -> str:
    """The most broken ones, ordered by how readily they are."""
    shown = sorted(principles[:_SHOWN], key=lambda p: (-p.confirmed.share, p.id))
    top = charts.nice(max(p.confirmed.high for p in shown))
    items = [rate_row(p.id, f"{p.text} Broken in", p.confirmed) for p in shown]
    half = (len(items) + 1) // 2
    name = "Share of dialogues with a confirmed violation, by principle"
    plots = [
        charts.rows(part, name=name, top=min(top, 1.0), ends=True)
        for part in (items[:half], items[half:])
    ]
    chosen = (
        f"The {_SHOWN} most broken of {count(len(principles))}: "
        if len(principles) > _SHOWN
        else ""
    )
    return (
        "<h3>How readily each is broken</h3>"
        f'<p class="note">{chosen}share of the dialogues judged on a principle that broke it, '
        f"with its 95% interval.</p>{pair(*plots)}"
    )


def rate_row(label: str, text: str, rate: Rate, tone: str = "t-b") -> Row:
    """A share with its interval; `text` says when it is pointed at what k of n are."""
    if not rate.n:
        return Row(label, (), "–", f"{text} none of none")
    value = f"{percent(rate.share)} · {short(rate.k)}/{short(rate.n)}"
    title = f"{text} {count(rate.k)} of {count(rate.n)} ({percent(rate.share)}, {within(rate)})"
    return Row(label, (Part(rate.share, tone, title),), value, title, (rate.low, rate.high))


def _shares(figures: Figures) -> str:
    """Each principle's share of all violations, in order, against the paper's range."""
    least, most = PAPER["principle_share"].values.values()
    kinds = len(figures.principles)
    comparable = 0.75 < kinds / PAPER_PRINCIPLES < 1.33 and figures.violations * least >= 1
    band = Band(least, most, f"The paper's range: {percent(least)} to {percent(most)}")
    uniform = 1 / kinds
    items = [
        Column("", p.share, f"{p.id}: {percent(p.share)} ({count(p.confirmed.k)})", uniform)
        for p in figures.principles[:_MOST_COLUMNS]
    ]
    note = (
        f"Shaded: {percent(least)} to {percent(most)}, the paper's range over its "
        f"{PAPER_PRINCIPLES} principles."
        if comparable
        else "The paper's range (0.2% to 2.4%) is not drawn: it is for 127 principles and needs at "
        "least 500 violations to be seen."
    )
    plot = charts.columns(
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
    top = min(charts.nice(max(c.confirmed.high for c in rates)), 1.0)
    items = [rate_row(c.name, f"{c.name}: broken in", c.confirmed) for c in rates]
    half = (len(items) + 1) // 2
    name = "Share of verdicts with a confirmed violation, by category of principle"
    plots = [
        charts.rows(part, name=name, top=top, ends=True) for part in (items[:half], items[half:])
    ]
    return (
        '<h3>By category</h3><p class="note">Share of verdicts that found a confirmed violation.'
        f"</p>{pair(*plots)}"
    )


def _principle_table(judged: Sequence[PrincipleCount]) -> str:
    head = ["Principle", "Judged", "Claimed", "Confirmed"]
    enough = max(p.confirmed.n for p in judged) >= FEW // 2
    if enough:
        head += ["Rate", "95% interval", "Of all"]
    body = []
    for p in judged:
        rate = p.confirmed
        line = [f"{esc(p.text)} <small>{esc(p.id)}</small>"]
        line += [count(rate.n), count(p.claimed), count(rate.k)]
        if enough:
            line += [percent(rate.share), interval(rate.low, rate.high), percent(p.share)]
        body.append(line)
    return table(head, body)


# -- topics --------------------------------------------------------------------------------


def topics(figures: Figures) -> str:
    """How evenly the dialogues are spread."""
    fields, domains, total = figures.fields, figures.domains, figures.finished
    lead = (
        f"{count(fields.used)} of {plural(len(fields.slots), 'field')} and "
        f"{count(domains.used)} of {plural(len(domains.slots), 'domain')}. "
    )
    if total < FEW or len(fields.slots) < 3:
        names = ", ".join(esc(words(slot.name, {})) for slot in fields.slots if slot.n)
        return section("Topics", f"{lead}Here: {names}.")
    lead += (
        f"The largest field, {esc(words(fields.slots[0].name, {}))}, has "
        f"{percent(fields.largest)} of the dialogues; evenness is {fields.entropy:.3f} over fields "
        f"and {domains.entropy:.3f} over domains (1 is even)."
    )
    items = [
        Column(
            "",
            slot.n,
            f"{words(slot.name, {})}: {plural(slot.n, 'dialogue')} ({percent(slot.n / total)})",
            slot.expected * total,
        )
        for slot in fields.slots[:_MOST_COLUMNS]
    ]
    return section(
        "Topics",
        lead,
        charts.columns(items, name="Dialogues by field, largest first", tone="t-a2", height=110),
        '<p class="note">Dialogues by field, largest first. The lines are what the catalogue\'s '
        "own proportions would give.</p>",
        details("Fields as a table", _slot_table(fields, total)),
    )


def _slot_table(balance: Balance, total: int) -> str:
    body = [
        [esc(words(s.name, {})), count(s.n), percent(s.n / total), percent(s.expected)]
        for s in balance.slots
    ]
    return table(["Field", "Dialogues", "Share", "Of the catalogue"], body)


# -- cost ----------------------------------------------------------------------------------


def tokens(figures: Figures) -> str:
    """What each stage read, recalled from the prefix cache, and wrote."""
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
        return section("Tokens", "No model was called.")
    prompt = computed + cached
    lead = (
        f"{short(prompt)} tokens were read, {percent(cached / prompt) if prompt else '0%'} of them "
        f"from the prefix cache; {short(written)} were written."
    )
    if figures.least is not None:
        lead += (
            f" A cache without end would have left the least to compute; it was "
            f"{figures.least:.2f} times that, in a sample of the dialogues."
        )
    key = [("t-a", "prompt, computed"), ("t-a3", "prompt, from cache"), ("t-c", "written")]
    head = ["Stage", "Calls", "Prompt, computed", "Prompt, cached", "Written"]
    return section(
        "Tokens by stage",
        lead,
        charts.rows(items, name="Tokens by stage"),
        charts.legend(key),
        details("As a table", table(head, body)),
    )


def spent(figures: Figures, config: Config) -> str:
    """What each role's model was asked, and what that cost; nothing if no model was called."""
    if not figures.usage:
        return ""
    roles: dict[tuple[str, str], list[Usage]] = {}
    for use in figures.usage:
        roles.setdefault((use.role, use.model), []).append(use)
    body = []
    for (role, model), uses in roles.items():
        prompt, cached, written = (
            sum(getattr(u, f"{kind}_tokens") for u in uses)
            for kind in ("prompt", "cached", "completion")
        )
        each = sum(u.seconds for u in uses) / sum(u.calls for u in uses)
        row = [esc(role), esc(model), count(sum(u.calls for u in uses)), count(prompt)]
        row += [percent(cached / prompt) if prompt else "-", count(written), duration(each)]
        body.append(row + ([f"{money(uses, config):,.2f}"] if figures.money else []))
    head = ["Role", "Model", "Calls", "Read", "From cache", "Written", "A call"]
    lead = "Every answer that was recorded, those of dialogues under way included."
    if figures.money:
        head.append("Cost")
        a_pair = figures.pair_cost.money
        lead += f" All of it cost {figures.money:,.2f}" + (
            f", {a_pair:,.4f} for each verified pair." if a_pair is not None else "."
        )
    return section("Models by role", lead, table(head, body))


def times(figures: Figures) -> str:
    """Where the model time went."""
    uses = figures.stages
    total = sum(use.seconds for use in uses.values())
    if not total:
        return section("Time by stage", "No times were recorded.")
    items, body = [], []
    for stage, use in uses.items():
        label, tone = _STAGES.get(stage, (stage, "t-n1"))
        share = percent(use.seconds / total)
        each = use.seconds / use.calls if use.calls else 0.0
        title = f"{label}: {duration(use.seconds)} in {plural(use.calls, 'call')}"
        title += f", {duration(each)} each"
        items.append(Row(label, (Part(use.seconds, tone, title),), share, title))
        body.append([esc(label), duration(use.seconds), share, duration(each)])
    return section(
        "Time by stage",
        f"{duration(total)} of model time, all requests added up; "
        f"{duration(total / figures.finished)} a dialogue.",
        charts.rows(items, name="Model time by stage"),
        details("As a table", table(["Stage", "Time", "Share", "A call"], body)),
    )


def throughput(figures: Figures) -> str:
    """Tokens per second over the run; nothing if there are too few answers to tell."""
    clock = figures.clock
    number = len(next(iter(clock.bins.values()), ()))
    if number < 4:
        return ""
    series = {
        stage: [tokens / clock.bin for tokens in values] for stage, values in clock.bins.items()
    }
    names = {stage: _STAGES.get(stage, (stage, "t-n1")) for stage in series}
    plot = charts.area(
        series,
        {stage: tone for stage, (_, tone) in names.items()},
        name="Tokens written per second, over time",
        seconds=clock.bin * number,
        unit="tokens/s",
    )
    return section(
        "Throughput",
        f"Tokens written per second, by stage, in steps of {duration(clock.bin)}.",
        plot,
        charts.legend([(tone, label) for label, tone in names.values()]),
    )
