"""One dialogue on paper: its plan, its turns, the critic's evidence, and the repair."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import accumulate
from typing import NamedTuple

from sdsd.reports.html.text import FOLD, esc, folded, plural, said
from sdsd.text import normalize
from sdsd.types import Critique, Dialogue, Plan, Principle, Record, Revision, Verdict

RULES = {
    "no_violation": "no violation found",
    "unsupported_violation": "claim without a quotation",
    "not_revised": "not revised",
    "not_repaired": "no revision was clean",
}
STOPS = {
    "completed": "planned final turn reached",
    "early_end": "ended early by the model",
    "violation_end": "ended early by a violation",
    "turn_limit": "limit on turns",
    "token_limit": "limit on tokens",
}


class Span(NamedTuple):
    """A stretch of a text, as character offsets."""

    start: int
    end: int


def sample(record: Record, *, opened: bool) -> str:
    """The record as an HTML article."""
    scenario = record.scenario
    principles = {p.id: p for p in scenario.principles}
    rule = words(record.rule, RULES)
    outcome = {"accepted": "verified pair", "filtered": rule, "failed": "failed"}[record.outcome]
    parts = [
        f'<p class="eyebrow">{esc(words(scenario.field, {}))} › {esc(scenario.domain)} '
        f'<span class="badge {record.outcome}">{esc(outcome)}</span></p>',
        f"<h3>{esc(scenario.subarea)}</h3>",
        f'<p class="note"><b>Goal.</b> {esc(scenario.goal.text)}</p>',
        _plan(record.plan, opened) if record.plan else "",
    ]
    if record.dialogue:
        parts.append(_dialogue(record.dialogue, record.critique))
    if record.critique:
        parts.append(_verdicts("The critic on the last turn", record.critique, principles))
    if record.dialogue and record.revisions:
        parts.append(_revisions(record, record.dialogue.utterance, principles))
    if record.failure:
        failure = record.failure
        where = f"<b>Failed</b> at {esc(failure.step)}: {esc(failure.cause)}"
        parts.append(f'<p class="note">{where}</p>{said(failure.raw)}')
    return f'<article class="sample" id="{esc(scenario.id)}">{"".join(parts)}</article>'


def words(name: str, known: Mapping[str, str]) -> str:
    """A name of the code in words."""
    return known.get(name, name.replace("_", " ").replace("-", " "))


def _plan(plan: Plan, opened: bool) -> str:
    person = f'<p class="note"><b>User.</b> {esc(plan.persona)}</p>' if plan.persona else ""
    planned_violation = (
        f'<p class="note"><b>Slip.</b> {esc(plan.planned_violation)}</p>'
        if plan.planned_violation
        else ""
    )
    steps = "".join(f"<li>{said(step)}</li>" for step in plan.steps)
    return (
        f'<details class="plan"{" open" if opened else ""}><summary>Plan, '
        f"{plural(len(plan.steps), 'exchange')}</summary>{person}<ol>{steps}</ol>{planned_violation}</details>"
    )


def _dialogue(dialogue: Dialogue, critique: Critique | None) -> str:
    bubbles = []
    for number, message in enumerate(dialogue.messages, 1):
        side = "user" if message.role == "user" else "agent"
        body = said(message.content)
        if number == len(dialogue.messages) and critique:
            quotes = [v.quote for v in critique.verdicts if v.confirmed]
            body = _marked(message.content, quotes)
        bubbles.append(f'<div class="turn {side}"><span class="who">{side}</span>{body}</div>')
    stop = esc(words(dialogue.stop, STOPS))
    flag = "said" if dialogue.self_flagged else "did not say"
    return (
        f'<div class="chat">{"".join(bubbles)}</div><p class="note">Held as '
        f"{esc(dialogue.protocol)}; {stop}. The model {flag} that it broke a principle.</p>"
    )


# -- the critic ----------------------------------------------------------------------------


def _verdicts(title: str, critique: Critique, principles: Mapping[str, Principle]) -> str:
    items = "".join(_verdict(v, principles) for v in critique.verdicts)
    return f'<h4>{title}</h4><ul class="verdicts">{items}</ul>'


def _verdict(verdict: Verdict, principles: Mapping[str, Principle]) -> str:
    principle = principles.get(verdict.principle)
    text = principle.text if principle else verdict.principle
    kind, label = "clean", "kept"
    if verdict.violated:
        severity = f", {verdict.severity}" if verdict.severity else ""
        kind, label = "broken", f"broken{severity}"
    quote = ""
    if verdict.quote and verdict.violated:
        quote = f'<p class="quote" dir="auto"><q>{esc(verdict.quote)}</q></p>'
        if not verdict.grounded:
            kind, label = "claimed", "claimed; the words are not in the turn"
    elif verdict.violated:
        kind, label = "claimed", "claimed, without evidence"
    return (
        f'<li><span class="badge {kind}">{esc(label)}</span> {esc(text)}'
        f'<div class="reason">{said(verdict.reason)}</div>{quote}</li>'
    )


def _marked(text: str, quotes: Sequence[str]) -> str:
    """The turn with the critic's quotations highlighted."""
    spans = merged(span for quote in quotes for span in find(quote, text))
    return _spanned(text, spans, "mark")


def _spanned(text: str, spans: Sequence[Span], tag: str) -> str:
    """A foldable block with an element around every span."""
    head = [Span(s.start, min(s.end, FOLD)) for s in spans if s.start < FOLD]
    rest = [Span(max(s.start, FOLD) - FOLD, s.end - FOLD) for s in spans if s.end > FOLD]
    return folded(text, _tagged(text[:FOLD], head, tag), _tagged(text[FOLD:], rest, tag))


def _tagged(text: str, spans: Sequence[Span], tag: str) -> str:
    """`text` escaped, with an element around every span."""
    out, at = [], 0
    for start, end in spans:
        out.append(f"{esc(text[at:start])}<{tag}>{esc(text[start:end])}</{tag}>")
        at = end
    return "".join(out) + esc(text[at:])


def find(quote: str, text: str) -> list[Span]:
    """Where the pieces of `quote` stand in `text`, compared as `sdsd.text.parsing.occurs` does."""
    letters, places = _letters(text)
    spans: list[Span] = []
    at = 0
    for piece in re.split(r"\.{3,}|…|\[\.+\]", quote):
        wanted = normalize.normal(piece).strip(" .,;:!?\"'")
        at = letters.find(wanted, at) if wanted else at
        if at < 0:
            return []
        if wanted:
            end = at + len(wanted)
            spans.append(Span(places[at], places[end - 1] + 1))
            at = end
    return spans


def _letters(text: str) -> tuple[str, list[int]]:
    """`parse.normal(text)`, and for each of its characters the place it came from."""
    letters: list[str] = []
    places: list[int] = []
    for i, c in enumerate(text):
        plain = normalize.normal(c)
        if not plain and (not letters or letters[-1] == " "):
            continue  # a run of spaces is one
        for letter in plain or " ":
            letters.append(letter)
            places.append(i)
    return "".join(letters), places


def merged(spans: Iterable[Span]) -> list[Span]:
    """In order, without overlap."""
    result: list[Span] = []
    for span in sorted(spans):
        if result and span.start <= result[-1].end:
            result[-1] = Span(result[-1].start, max(span.end, result[-1].end))
        else:
            result.append(span)
    return result


# -- the repair ----------------------------------------------------------------------------

_WORD = re.compile(r"\w+\s*|[^\w\s]+\s*|\s+")
_MOST_WORDS = 1_000
_ALIKE = 0.35


def _revisions(record: Record, original: str, principles: Mapping[str, Principle]) -> str:
    *earlier, last = record.revisions
    before, after = "Original turn", "Revised turn"
    if record.outcome == "accepted":
        before, after = "Original turn: rejected", "Revised turn: chosen"
    body = _beside(original, last, before, after)
    body += _recheck(last, principles)
    if earlier:
        tries = "".join(
            _beside(original, revision, "Original turn", "Revised turn")
            + _recheck(revision, principles)
            for revision in earlier
        )
        title = plural(len(earlier), "earlier revision")
        body += f"<details><summary>{title}</summary>{tries}</details>"
    return body


def _recheck(revision: Revision, principles: Mapping[str, Principle]) -> str:
    if revision.defect:
        return f'<p class="note">Refused: {esc(words(revision.defect, {}))}.</p>'
    if revision.recheck is None:
        return '<p class="note">Not rechecked.</p>'
    return _verdicts("The critic on the revised turn", revision.recheck, principles)


def _beside(original: str, revision: Revision, before: str, after: str) -> str:
    removed, added = changes(original, revision.text)
    return (
        f'<div class="beside"><div><h4>{before}</h4>{_spanned(original, removed, "del")}</div>'
        f"<div><h4>{after}</h4>{_spanned(revision.text, added, 'ins')}</div></div>"
    )


def changes(old: str, new: str) -> tuple[list[Span], list[Span]]:
    """What was taken out of `old` and put into `new`, by words; nothing if little is alike."""
    ours, theirs = _WORD.findall(old), _WORD.findall(new)
    if max(len(ours), len(theirs)) > _MOST_WORDS:  # comparing takes time in the square of it
        return [], []
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return [], []
    a, b = _offsets(ours), _offsets(theirs)
    codes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    removed = [_trimmed(old, a[i1], a[i2]) for _, i1, i2, _, _ in codes if i1 < i2]
    added = [_trimmed(new, b[j1], b[j2]) for _, _, _, j1, j2 in codes if j1 < j2]
    return removed, added


def _trimmed(text: str, start: int, end: int) -> Span:
    """Without the space after the last word."""
    return Span(start, start + len(text[start:end].rstrip()))


def _offsets(pieces: Sequence[str]) -> list[int]:
    """Where each piece begins, and where the last one ends."""
    return [0, *accumulate(map(len, pieces))]
