"""Parse what a model wrote: plans, transcripts, turns, self-checks, verdicts and revisions.

Pure functions from text to values. The input may be anything at all; the output has the promised
shape, or `Unparseable` says what was missing. Parsing is lenient about labels, order and
decoration, and never guesses content.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Struct

from sdsd.errors import Unparseable
from sdsd.text.normalize import normal, valid_unicode
from sdsd.text.words import grams
from sdsd.types import Message, Plan, Severity, Verdict

MAX_CHARS = 200_000
"""Longer replies are refused unparsed; no prompt asks for a hundredth of this."""

_DECORATION = r"[ \t>*_#`\-]*"
_ALL = f"{_DECORATION}+"
"""Possessive: never backtracks into the decoration, so matching is linear on any input."""
_AFTER = r"[*_`]*+[ \t]*+"
"""After a label's colon: the end of its emphasis. Emphasis further on is part of the text."""
_YES = {"yes", "true", "y", "1", "violated"}
_NO = {"no", "false", "n", "0", "none", "not violated"}


class Transcript(Struct, frozen=True):
    """A whole dialogue written in one reply."""

    messages: tuple[Message, ...]
    flagged: bool
    done: bool


class Check(Struct, frozen=True):
    """A self-check: what the speaking model says about its own conversation."""

    violated: bool
    over: bool


# -- plan ----------------------------------------------------------------------------------

_PLAN_LABEL = re.compile(
    rf"^{_ALL}(PERSON|USER|STEP[ \t]*\d+|SLIP|FINAL|OPENING){_DECORATION}"
    rf"(?:[:.)–—]|-(?!\w)){_AFTER}",
    re.IGNORECASE | re.MULTILINE,
)
_VIOLATION_LABELS = ("SLIP", "FINAL")
_PREFIX_WORDS = 12
"""Words of a reply prefix, at most; more would be a reply."""
_NUMBERED = re.compile(rf"^{_ALL}\d+[.):]{_DECORATION}[ \t]", re.MULTILINE)


def plan(text: str, exchanges: int) -> Plan:
    """Parse `PERSON: ...`, `STEP n: ...`, `SLIP: ...`, or a numbered list.

    If a plan has more steps than `exchanges`, the first ones and the planned violation are kept; a
    shorter plan is taken as it is. Without a `SLIP` the last step is the planned violation. Raises
    `Unparseable` if there is no step, or if all of them say the same.
    """
    text = _cut_after_plan(readable(text))
    fields = _plan_fields(text)
    opening = next((body for label, body in fields if label == "OPENING"), "")
    fields = [(label, body) for label, body in fields if label != "OPENING"]
    has_violation = bool(fields) and fields[-1][0] in _VIOLATION_LABELS
    steps = [body for label, body in fields if label.startswith("STEP")]
    if not steps:
        steps = [body for _, body in _labelled(_NUMBERED, text) if body]
    if not steps:
        raise Unparseable("no `STEP n:` line")
    _require_different(steps)
    planned_violation = fields[-1][1].splitlines()[0] if has_violation else steps[-1]
    words = unquoted(opening.splitlines()[0]).rstrip(" .…").split() if opening else []
    reply_prefix = " ".join(words[:_PREFIX_WORDS])
    return Plan(
        text,
        steps=tuple(steps[:exchanges]),
        planned_violation=planned_violation,
        persona=_persona(fields),
        reply_prefix=reply_prefix,
    )


def lead_up(text: str, steps: int) -> tuple[str, tuple[str, ...]]:
    """Parse `PERSON: ...` and up to `steps` lines `STEP n: ...`; return the persona and the steps.

    Raises `Unparseable` without a persona, without any step where some are wanted, or if all steps
    say the same.
    """
    lines = _plan_fields(readable(text))
    fields = [(label, body.splitlines()[0].rstrip()) for label, body in lines]
    persona = _persona(fields)
    found = tuple(body for label, body in fields if label.startswith("STEP"))[:steps]
    if not persona:
        raise Unparseable("no `PERSON:` line")
    if steps and not found:
        raise Unparseable("no `STEP n:` line")
    _require_different(found)
    return persona, found


def _plan_fields(text: str) -> list[tuple[str, str]]:
    """Return the lines of a plan: labels in upper case, with what follows them."""
    return [(m.group(1).upper(), body) for m, body in _labelled(_PLAN_LABEL, text) if body]


def _persona(fields: Sequence[tuple[str, str]]) -> str:
    return next((body for label, body in fields if label in ("PERSON", "USER")), "")


def _require_different(steps: Sequence[str]) -> None:
    if len(steps) > 1 and len({normal(step) for step in steps}) == 1:
        raise Unparseable("every step says the same")


def _cut_after_plan(text: str) -> str:
    """Cut `text` after the line of its first `SLIP`, or of an `OPENING` right after that.

    What follows, such as a comment on the form or a second plan, is not part of the plan.
    """
    lines = [m for m, body in _labelled(_PLAN_LABEL, text) if body]
    for label, after in itertools.zip_longest(lines, lines[1:]):
        if label.group(1).upper() in _VIOLATION_LABELS:
            last = after if after and after.group(1).upper() == "OPENING" else label
            said = text[last.end() :]
            begins = last.end() + len(said) - len(said.lstrip())
            return text[:begins] + text[begins:].partition("\n")[0].rstrip()
    return text


class Field(NamedTuple):
    """One line of a form, `LABEL: text` or `LABEL 2: text`."""

    label: str
    """In upper case."""
    number: str
    text: str


def form(text: str, labels: tuple[str, ...]) -> list[Field]:
    """Return the lines of a form that are filled in, in order, whatever comes between.

    A text goes up to an empty line, a heading such as `Example 2` or the next label, and has single
    spaces. Raises `Unparseable` if there is none.
    """
    fields = [
        Field(m[1].upper(), m[2], filled)
        for m, body in _labelled(_form_label(labels), _SEPARATOR.sub("", readable(text)))
        if m[1] and (filled := unquoted(" ".join(_PARAGRAPH.split(body)[0].split())))
    ]
    if not fields:
        raise Unparseable(f"no `{labels[0]}:` line")
    return fields


def groups(fields: Sequence[Field], labels: tuple[str, ...]) -> list[dict[str, str]]:
    """Return what a form has several times over, by label: one mapping for each time.

    Another one begins with another number, with a label that is there already and, without numbers,
    with a label out of order: two halves are better than a mixture.
    """
    found: list[dict[str, str]] = []
    last = None
    for field in (field for field in fields if field.label in labels):
        back = last and not field.number and labels.index(field.label) < labels.index(last.label)
        if not last or field.number != last.number or field.label in found[-1] or back:
            found.append({})
        found[-1][field.label] = field.text
        last = field
    return found


_PARAGRAPH = re.compile(r"\n[ \t]*\n")


@lru_cache(maxsize=16)
def _form_label(labels: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern with the label and its number as groups; neither for a heading."""
    return re.compile(
        rf"^{_ALL}(?:({'|'.join(labels)})[ \t]*+#?(\d{{0,3}}){_ALL}:{_AFTER}"
        rf"|(?:EXAMPLE|PAIR)[ \t]*+#?\d{{0,3}}{_ALL}:?{_ALL}$)",
        re.IGNORECASE | re.MULTILINE,
    )


# -- dialogue ------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _speaker(name: str = "") -> re.Pattern[str]:
    """Return a pattern for the label of a turn: a role, or the user's own `name`."""
    labels = "|".join(filter(None, ("USER|HUMAN|PERSON|AGENT|ASSISTANT|AI", re.escape(name))))
    return re.compile(
        rf"^{_ALL}(?:THE[ \t]++)?({labels})(?:[ \t]++(?:says|writes)\b)?[ \t]*+"
        rf"\(?\d*\)?{_ALL}:{_AFTER}",
        re.IGNORECASE | re.MULTILINE,
    )


_SPEAKER = _speaker()
_HEADER = re.compile(r"^(?:[Aa]ssistant(?=[A-Z])|(?:user|assistant)$)", re.MULTILINE)
"""What is left of a chat template's header: the other speaker's turn begins there."""
_VIOLATION = re.compile(rf"^{_ALL}VIOLATION{_ALL}:{_ALL}([^\W_]+).*$", re.IGNORECASE | re.MULTILINE)
_DONE = re.compile(rf"^{_ALL}\[?DONE\]?{_ALL}[.!]?{_ALL}$", re.MULTILINE)
_SEPARATOR = re.compile(r"^[ \t]*(?:-{3,}|={3,}|\*{3,}|`{3,}\w*)[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"[ \t]*`{3,}\w*[ \t]*")


def _unframed(turn: str) -> str:
    """Return a turn without lines such as `---` around it, or a fence around all of it.

    Inside, such lines are the speaker's own: a code block keeps its fences.
    """
    lines = turn.split("\n")
    fenced = [bool(_FENCE.fullmatch(line)) for line in lines]
    fences, first, last = sum(fenced), 0, len(lines) - 1

    def separates(end: int) -> bool:
        """Whether the line at an end only separates the turn from what stood around it."""
        if not fenced[end]:
            return not lines[end].strip() or bool(_SEPARATOR.fullmatch(lines[end]))
        return fences % 2 == 1 or (fences == 2 and fenced[first] and fenced[last])

    while first <= last and separates(first):
        fences -= fenced[first]
        first += 1
    while first <= last and separates(last):
        fences -= fenced[last]
        last -= 1
    return "\n".join(lines[first : last + 1])


_PLANNED_VIOLATION = re.compile(rf"^{_ALL}SLIP{_ALL}:", re.IGNORECASE | re.MULTILINE)


def transcript(text: str) -> Transcript:
    """Parse `USER:` and `AGENT:` turns, then `VIOLATION: yes|no` and `DONE`.

    Text after `DONE` is ignored. Consecutive turns of one speaker are joined; a leading agent turn
    and a trailing user turn are dropped, so that the result alternates and ends on the agent.
    Raises `Unparseable` if no exchange is left.
    """
    text = readable(text)
    end = _DONE.search(text)
    body = text[: end.start()] if end else text
    flagged = any(m.group(1).casefold() in _YES for m in _VIOLATION.finditer(body))
    body = _VIOLATION.sub("", body)
    turns: list[Message] = []
    for label, written in _labelled(_SPEAKER, body):
        role = "user" if label.group(1).upper() in ("USER", "HUMAN", "PERSON") else "assistant"
        said = unquoted(_unframed(written))
        if leak := _PLANNED_VIOLATION.search(said):  # the plan again: the conversation is over
            said = said[: leak.start()].strip()
        if not said or (not turns and role == "assistant"):
            continue
        if turns and turns[-1].role == role:
            said = f"{turns.pop().content}\n{said}"
        turns.append(Message(role, said))  # type: ignore[arg-type]
    if turns and turns[-1].role == "user":
        turns.pop()
    if not turns:
        raise Unparseable("no `USER:` turn answered by an `AGENT:` turn")
    return Transcript(tuple(turns), flagged, done=end is not None)


_INTRODUCTION = re.compile(
    r"\A[^\n]{0,40}\bhere(?:'s|’s| is)[^\n]{0,40}"
    r"(?: (?:message|reply|response|turn)[*_]*|\brevised\b[^\n:]{0,80}):[*_ \t]*\n"
    r"(?:[^\W\d_]{2,16}:[ \t])?",
    re.IGNORECASE,
)
"""`Sure, here is the first message:` on its own line, and the writer's name after it."""


def turn(text: str, name: str = "") -> str:
    """Return one turn without introduction, label, markers, or the other speaker's words after it.

    `name` is the user's own, which some models use as a label in place of the role. Raises
    `Unparseable` if nothing is left, or if the turn contains a line of the plan.
    """
    text = _INTRODUCTION.sub("", readable(text)).lstrip()
    speaker = _speaker(name)
    label = speaker.match(text)
    if label:
        text = text[label.end() :]
    for other in (speaker, _HEADER):
        nxt = other.search(text)
        text = text[: nxt.start()] if nxt else text
    said = unquoted(_unframed(_VIOLATION.sub("", _DONE.sub("", text))))
    if not said:
        raise Unparseable("an empty turn")
    if _PLANNED_VIOLATION.search(said):  # not `STEP 1:`, which honest instructions have too
        raise Unparseable("the plan leaks into the conversation")
    return said


_CHECK = re.compile(rf"^{_ALL}(VIOLATION|OVER){_ALL}:{_ALL}([^\W_]+)", re.IGNORECASE | re.MULTILINE)


def check(text: str) -> Check:
    """Parse `VIOLATION: yes|no` and `OVER: yes|no`. Raises `Unparseable` if either is missing."""
    said = {m.group(1).upper(): m.group(2).casefold() for m in _CHECK.finditer(readable(text))}
    return Check(_yes(said.get("VIOLATION"), "VIOLATION"), _yes(said.get("OVER"), "OVER"))


_POINT = re.compile(
    rf"^{_ALL}(?:STEP[ \t]*+)?(\d{{1,3}}){_ALL}[.):]{_ALL}([^\W_]+)", re.IGNORECASE | re.MULTILINE
)


def points(text: str, n: int) -> tuple[bool, ...]:
    """Parse `1: yes`, `2: no` and so on up to `n`. Raises `Unparseable` if one is missing."""
    said = {int(m.group(1)): m.group(2).casefold() for m in _POINT.finditer(readable(text))}
    return tuple(_yes(said.get(k), str(k)) for k in range(1, n + 1))


# -- review --------------------------------------------------------------------------------

_VERDICT_LABEL = re.compile(
    rf"^{_ALL}(REASON|QUOTE|VIOLATED|SEVERITY){_ALL}:{_AFTER}",
    re.IGNORECASE | re.MULTILINE,
)


def verdict(text: str, principle: str, last_reply: str) -> Verdict:
    """Parse a verdict, a JSON object or labelled lines.

    `grounded` says whether the quotation occurs in `last_reply`. Raises `Unparseable` without a
    clear yes or no.
    """
    text = readable(text)
    found = _json_object(text, "violated")
    if found is None:
        found = {m.group(1).lower(): body for m, body in _labelled(_VERDICT_LABEL, text)}
    violated = _yes(found.get("violated"), "violated")
    quote = _own_words(unquoted(readable(str(found.get("quote") or ""))))
    severity: Severity | None = None
    if violated:
        named = str(found.get("severity") or "").strip().casefold()
        levels: tuple[Severity, ...] = ("low", "medium", "high")
        severity = next((level for level in levels if level in named), "medium")
    return Verdict(
        principle=principle,
        violated=violated,
        reason=_own_words(" ".join(readable(str(found.get("reason") or "")).split())),
        quote=quote,
        severity=severity,
        grounded=violated and occurs(quote, last_reply),
    )


_SLOTS = (
    "the few words of the reply that break it copied exactly or empty",
    "the few words of the reply that break it copied exactly or none",
    "one sentence on what the reply says or leaves out that this principle is about",
)
"""What the packaged prompts have in the place of a quotation and a reason, without commas."""
_NOTHING = re.compile(
    r"\A\W*+(?:(?:or )?(?:none|empty)|n/?a|no quote|the few words of the reply\b.*"
    r"|one sentence on what the reply says\b.*)\W*",
    re.IGNORECASE | re.DOTALL,
)
_COPIED = 3
"""Words of a slot that are a copy of it."""


def _own_words(answer: str) -> str:
    """Return an answer; empty if it says "none", or copies what the prompt has in its place."""
    words = re.findall(r"\w+", normal(answer))
    copied = len(words) >= _COPIED and any(f" {' '.join(words)} " in f" {slot} " for slot in _SLOTS)
    return "" if copied or _NOTHING.fullmatch(answer) else answer


_REVISION_LABEL = re.compile(
    rf"^{_ALL}(?:REVISED REPLY|REVISION|REVISED|REPLY|AGENT|ASSISTANT){_ALL}:{_AFTER}",
    re.IGNORECASE | re.MULTILINE,
)


def revision(text: str) -> str:
    """Return the revised reply without label, fence, quotation marks or introduction.

    Raises `Unparseable` if nothing is left.
    """
    text = _SEPARATOR.sub("", readable(text)).strip()
    label = _REVISION_LABEL.search(text)
    # A label counts at the start, or after one line of introduction ("Here is ...:").
    if label and text[: label.start()].count("\n") <= 2:
        text = text[label.end() :]
    return turn(text)


ELLIPSIS = re.compile(r"\[[.… ]+\]|\.{3,}|…")
"""Where a quotation was shortened."""


def occurs(quote: str, text: str) -> bool:
    """Return whether `quote` occurs in `text` word for word.

    Both are compared in normal form and without the marks of emphasis and code. If a quotation is
    shortened by an ellipsis, all its pieces must occur, in order.
    """
    haystack = _without_marks(text)
    pieces = [_without_marks(piece).strip(" .,;:!?\"'") for piece in ELLIPSIS.split(quote)]
    pieces = [piece for piece in pieces if piece]
    if sum(map(len, pieces)) < 3:
        return False
    at = 0
    for piece in pieces:
        at = haystack.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def _without_marks(text: str) -> str:
    return " ".join(normal(text).replace("*", "").replace("`", "").split())


_SENTENCE_END = re.compile(r"[.!?…][\"')\]”’]*(?=\s|$)|[。！？][\"')\]”’」』]*")
_LAST_MARKER = re.compile(r"\n[ \t]*(?:\d{1,3}[.)]|[-*•])[ \t]*\Z")


def complete_sentences(text: str) -> str:
    """Return `text` up to its last complete sentence; the number of a list item is not one."""
    ends = [m.end() for m in _SENTENCE_END.finditer(text)]
    return _LAST_MARKER.sub("", text[: ends[-1]]).rstrip() if ends else ""


COPIED = 10
"""Words in a row from which a text counts as copied."""


def copies(text: str, source: str, run: int = COPIED) -> bool:
    """Return whether `text` and `source` share `run` consecutive words."""
    return not _runs_of_source(source, run).isdisjoint(_runs(text, run))


@lru_cache(maxsize=512)  # each source is compared with every turn of its dialogue
def _runs_of_source(source: str, length: int) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs(source, length))


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    return grams(re.findall(r"\w+", normal(text)), length)


# -- common --------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # Unicode's Cc but \n and \t


def readable(text: str) -> str:
    """Return `text` with plain line ends, as valid Unicode, without control characters.

    Raises `Unparseable` if it has more than `MAX_CHARS` characters.
    """
    if len(text) > MAX_CHARS:
        raise Unparseable(f"a reply of {len(text):,} characters")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", valid_unicode(text)).strip()


_AROUND = (*((mark, mark) for mark in ("**", "*", "_", "`", '"', "'")), ("“", "”"))


def unquoted(text: str) -> str:
    """Return `text` without emphasis, or one pair of quotation marks, around all of it."""
    text = text.strip()
    for opening, closing in _AROUND:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and opening not in inner:
            text = inner.strip()
    return text


def _labelled(label: re.Pattern[str], text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield every label with the text up to the next one."""
    matches = list(label.finditer(text))
    for k, match in enumerate(matches):
        end = matches[k + 1].start() if k + 1 < len(matches) else len(text)
        yield match, _without_odd_marks(text[match.end() : end].strip())


def _without_odd_marks(text: str) -> str:
    """Remove a mark of emphasis that was opened or closed outside of `text`."""
    if not text.strip("*_ "):
        return ""
    for mark in ("**", "__", "*", "_"):
        if text.count(mark) % 2:
            text = (text[: -len(mark)] if text.endswith(mark) else text.removeprefix(mark)).strip()
    return text


def _yes(value: object, name: str) -> bool:
    """Parse a yes or no in any of the usual spellings."""
    if isinstance(value, bool):
        return value
    if value is None:
        raise Unparseable(f"no `{name}`")
    word = str(value).strip(" \t\n.*_`\"'!").casefold()
    first = word.split()[0].strip(".,;:") if word.split() else ""
    if word in _NO or first in _NO:
        return False
    if word in _YES or first in _YES:
        return True
    raise Unparseable(f"`{name}` is neither yes nor no: {str(value)[:40]!r}")


_BRACE = re.compile(r"\{(?=\s*\")")
_BRACES = 200
"""Places where a JSON object may begin that are tried; a reply has one or two."""


def _json_object(text: str, key: str) -> dict[str, Any] | None:
    """Return the first JSON object in `text` that has `key`, with its keys in lower case."""
    decoder = json.JSONDecoder(strict=False)
    for brace in itertools.islice(_BRACE.finditer(text), _BRACES):
        try:
            value, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        value = {str(k).casefold(): v for k, v in value.items()}
        if key in value:
            return value
    return None
