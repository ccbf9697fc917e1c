"""The report of a run: one HTML file for a person in a hurry.

It needs nothing from outside and runs no script; a content security policy says so to the
browser. What models wrote is escaped before it gets here (`sdsd.reports.html.text`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdsd.config import Config
from sdsd.config.manifest import Manifest
from sdsd.reports.html import audit, charts, plots
from sdsd.reports.html.charts import Part, Row
from sdsd.reports.html.page import FEW, STEPS, details, document, pair, section, table, within
from sdsd.reports.html.samples import RULES, sample, words
from sdsd.reports.html.text import count, duration, esc, percent, plural, said, short
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.metrics.paper import PAPER, PAPER_MODELS, PAPER_SOURCE
from sdsd.reports.rates import Rate
from sdsd.types import Record


def render(
    figures: Figures,
    manifest: Manifest | None,
    config: Config,
    samples: Sequence[Record],
    removed: Mapping[str, int] = {},
) -> str:
    """The whole page.

    samples  are printed in full, so give a few
    removed  what the export left out, by rule
    """
    sections = [
        _headline(figures, manifest, config),
        *(_sections(figures, config, removed) if figures.finished else [_empty()]),
        plots.throughput(figures),
        _failures(figures),
        _samples(samples),
        _made(manifest, config),
    ]
    title = f"sdsd: {plural(figures.step('held'), 'dialogue')}"
    return document(title, "".join(sections))


def _sections(figures: Figures, config: Config, removed: Mapping[str, int]) -> list[str]:
    return [
        pair(_funnel(figures, config), _paper(figures)),
        pair(plots.turns(figures), plots.signals(figures)),
        plots.strategies(figures),
        plots.principles(figures),
        audit.where(figures),
        audit.critics(figures),
        audit.biases(figures),
        plots.topics(figures),
        audit.diversity(figures),
        _left_out(plots.quality(figures), audit.cleaning(removed)),
        pair(plots.tokens(figures), plots.times(figures)),
        plots.spent(figures, config),
    ]


def _left_out(quality: str, cleaning: str) -> str:
    return pair(quality, cleaning) if quality and cleaning else quality + cleaning


# -- headline ------------------------------------------------------------------------------


def _headline(figures: Figures, manifest: Manifest | None, config: Config) -> str:
    pairs, clock = figures.pairs, figures.clock
    held = figures.step("held")
    kind = "verified pair" if config.revise.recheck else "pair"
    models = sorted(set(manifest.models.values())) if manifest else []
    about = [esc(name) for name in models]
    if manifest:
        about += [esc(manifest.protocol), esc(manifest.created[:10])]
    asked = f"of {count(config.n)} asked for" if config.n else "as many as the targets took"
    tiles = [
        (count(figures.finished), "scenarios finished", asked),
        (count(figures.pair_count), _pairs_name(config), _pairs_note(figures, config)),
        (percent(pairs.share) if pairs.n else "–", "yield", within(pairs)),
        (duration(clock.wall), "wall time", _pause_note(figures)),
        (
            short(clock.tokens_per_second),
            "tokens per second",
            f"{short(clock.completion_tokens)} written in {plural(clock.answers, 'answer')}",
        ),
    ]
    if cost := audit.pair_cost(figures):
        tiles.insert(3, cost)
    cells = "".join(
        f"<li><strong>{number}</strong><b>{name}</b><small>{note}</small></li>"
        for number, name, note in tiles
    )
    return (
        f'<header><p class="eyebrow">sdsd report{"".join(f" · {a}" for a in about)}</p>'
        f"<h1>{plural(held, 'dialogue')}, {plural(figures.pair_count, kind)}</h1>"
        f'<ul class="tiles">{cells}</ul></header>'
    )


def _pairs_name(config: Config) -> str:
    return "verified pairs" if config.revise.recheck else "pairs, not rechecked"


def _pairs_note(figures: Figures, config: Config) -> str:
    if config.revise.rounds == 0:
        return "this run critiques only"
    if not figures.rounds:
        return "none was accepted" if figures.finished else ""
    revisions = sum(number * n for number, n in figures.rounds.items())
    mean = round(revisions / figures.pairs.k, 2)
    several = f"in {plural(figures.pairs.k, 'dialogue')}; "
    return (
        f"{several if figures.pair_count > figures.pairs.k else ''}"
        f"{short(mean)} {'revision' if mean == 1 else 'revisions'} each in the mean"
    )


def _pause_note(figures: Figures) -> str:
    paused = figures.clock.paused
    return f"without {duration(paused)} of pauses" if paused else "from first to last answer"


def _empty() -> str:
    return section("Nothing finished yet", "No dialogue of this run is finished: come back later.")


# -- how far they came ---------------------------------------------------------------------


def _funnel(figures: Figures, config: Config) -> str:
    names = STEPS if config.revise.recheck else {**STEPS, "accepted": "Pair (not rechecked)"}
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
    return section(
        "From scenario to pair",
        "How many came how far, and where the others were lost.",
        charts.funnel(items, name="Scenarios left after each step"),
        "<h3>How they ended</h3>",
        _outcomes(figures),
    )


def _outcomes(figures: Figures) -> str:
    tones = iter(("t-n1", "t-n2", "t-n3", "t-n4"))
    parts = []
    ended = sorted(figures.outcomes, key=lambda o: o.outcome != "accepted")
    for item in ended:
        label = words(item.rule, RULES) or item.outcome
        tone = {"accepted": "t-c", "failed": "t-bad"}.get(item.outcome) or next(tones, "t-n4")
        if item.outcome == "accepted":
            label = "accepted pair"
        share = percent(item.n / figures.finished)
        parts.append(Part(item.n, tone, f"{label}: {count(item.n)} ({share})"))
    return charts.stacked(parts, name="Outcomes")


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
    return section(
        "Beside the paper",
        f"What the method's authors report of their three models ({PAPER_SOURCE}).",
        '<div class="wide"><table class="paper"><thead><tr><th></th><th>This run</th>'
        f"{models}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>",
        details("What these figures mean", f"<dl>{meanings}</dl>"),
    )


def _ours(figures: Figures) -> dict[str, tuple[str, str]]:
    """Our value for each figure of the paper, and what to know about it."""
    violating, same = figures.violating, figures.agreement.same
    ours = dict.fromkeys(PAPER, ("–", "too few"))
    if violating.n:
        ours["violating"] = percent(violating.share), _noted(violating)
    if figures.messages_mean:
        ours["messages"] = f"{figures.messages_mean:.2f}", ""
    if figures.violations >= FEW:
        shares = [p.share for p in figures.principles]
        least, most = percent(min(shares)), percent(max(shares))
        ours["principle_share"] = f"{least} – {most}", _resolution(figures)
    if figures.finished >= FEW:
        topic = words(figures.fields.slots[0].name, {})
        ours["largest_topic"] = percent(figures.fields.largest), esc(topic)
    if same.n:
        ours["marker_right"] = percent(same.share), _noted(same)
    return ours


def _noted(rate: Rate) -> str:
    """What stands small below a share: its interval, or of how few it is."""
    return within(rate) if rate.n >= FEW else f"of {count(rate.n)}"


def _resolution(figures: Figures) -> str:
    """How finely the shares can be read: one violation's worth."""
    kinds = plural(len(figures.principles), "principle")
    return f"{kinds}; steps of {percent(1 / figures.violations)}"


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
        details(
            f"<code>{esc(e.scenario)}</code> {esc(e.step)}: {esc(e.cause)}",
            said(e.raw) if e.raw.strip() else '<p class="note">No text came with it.</p>',
        )
        for e in figures.examples
    )
    lead = f"{plural(total, 'dialogue')} could not be made ({percent(total / figures.finished)})."
    return section(
        "Failures",
        lead,
        table(["Cause", "Dialogues"], body),
        f"<h3>What was written</h3>{examples}",
    )


def _samples(samples: Sequence[Record]) -> str:
    if not samples:
        return ""
    articles = "".join(sample(record, opened=i == 0) for i, record in enumerate(samples))
    title = "A dialogue" if len(samples) == 1 else "Some dialogues"
    return section(title, "In full, as they are in the data.", articles)


def _made(manifest: Manifest | None, config: Config) -> str:
    if manifest is None:
        return section("How it was made", "The run has no manifest yet: no model was called.")
    roles = list(manifest.models.items())
    facts = [
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
    lines = "".join(f"<tr><th>{esc(k)}</th><td>{esc(v)}</td></tr>" for k, v in facts)
    return section(
        "How it was made",
        "The same program, configuration, catalogue and prompts ask the same questions again; "
        "long values are SHA-256 digests.",
        f'<div class="wide"><table class="made"><tbody>{lines}</tbody></table></div>',
    )
