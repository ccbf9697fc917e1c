"""A source: dialogues or plans that people already have, read into one kind of row.

    files -> rows -> `Given`, or `Skipped` with the reason

Nothing is dropped silently. A file that is broken, or that does not have the shape it was said to
have, is an error at `file:row`; a row of the right shape that no dialogue can be made of is
`Skipped`. Rows stream: memory does not grow with a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from sdsd.errors import Unparseable
from sdsd.scenarios.existing_files import Download, Place, fetch_dataset, find, rows
from sdsd.text import parsing
from sdsd.types import Message

Kind = Literal["auto", "messages", "sharegpt", "sdsd-dialogues", "sdsd-revisions", "plans"]
"""What the rows of a source are.

messages        a list of {role, content}, under `messages`, `conversation` or `prompt`
sharegpt        a list of {from, value}, under `conversations`
sdsd-dialogues  the columns of `allenai/sdsd-dialogues`
sdsd-revisions  the columns of `allenai/sdsd-revisions`
plans           only a plan: `plan`, or `person`, `steps` and `planned_violation`; turns are not looked at
auto            each row by the columns it has
"""

Reason = Literal[
    "no turns",
    "no user turn that the assistant answers",
    "a turn of an unknown speaker",
    "a turn that is not text",
    "no plan",
    "a text of more than 200,000 characters",
    "a topic, goal or principle of more than 2,000 characters",
    "more than 32 principles",
]
"""Why a row was skipped."""

_TOPIC_CHARS = 2_000
_PRINCIPLES = 32


class Given(Struct, frozen=True):
    """One row of a source: a finished dialogue, or a plan for one, and what it is about."""

    domain: str
    subarea: str
    field: str
    goal: str
    """Empty, as the three above, where the source does not say."""
    principles: tuple[str, ...]
    """Texts. Empty: to be drawn from the catalogue."""
    plan: str
    """May be empty if there are messages."""
    messages: tuple[Message, ...]
    """Alternates user and assistant, ends on the assistant. Empty: only a plan is given."""
    origin: str
    """File and row, for people; no part of what the row is."""
    is_violation: bool | None = None
    """The dialogue's own flag; None where the source has none."""
    is_truncated: bool | None = None
    """The dialogue stopped early; None where the source does not say."""


class Skipped(Struct, frozen=True):
    """A row that no dialogue can be made of."""

    origin: str
    reason: Reason


def read(
    where: str, *, kind: Kind = "auto", split: str = "", download: Download = fetch_dataset
) -> Iterator[Given | Skipped]:
    """The rows of a file, a directory of Parquet files, a run directory, or `hf:org/name`.

    `split` picks those of a directory's or data set's files that carry the name. What is missing
    is noticed at once, what is wrong inside a file when it is reached; both raise `SourceError`.
    """
    view = "revisions" if kind == "sdsd-revisions" else "dialogues"
    files = find(where, view, split, download)
    return itertools.chain.from_iterable(_read(path, name, kind) for path, name in files)


def _read(path: Path, name: str, kind: Kind) -> Iterator[Given | Skipped]:
    for place, row in rows(path, name, _COLUMNS):
        yield _given(place, row, kind)


_CHATS = ("messages", "conversation", "prompt")
_REPLIES = ("rejected", "completion")
"""What ends the chat that a `prompt` begins."""
_PLANS = ("plan", "steps")
_SHARED = ("domain", "subarea", "principle", "goal", "messages")
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "sharegpt": ("conversations",),
    "sdsd-dialogues": (*_SHARED, "is_violation", "is_truncated"),
    "sdsd-revisions": (*_SHARED, "plan", "critique", "violations", "revision"),
}
_ANY_OF: dict[Kind, tuple[str, ...]] = {
    "messages": _CHATS,
    "plans": (*_PLANS, "messages"),
}
_COLUMNS = {
    *_CHATS, *_REPLIES, *_PLANS, *itertools.chain(*_NEEDED.values()),
    "persona", "planned_violation", "field", "principles",
}  # fmt: skip

_USER = ("user", "human", "person", "prompter")
_ASSISTANT = ("assistant", "gpt", "chatgpt", "model", "ai", "agent", "bot", "bing", "bard")
_SYSTEM = ("system", "developer")
_TOOL = ("tool", "function", "function_call", "function_response", "observation", "ipython")
_Part = Literal["user", "assistant", "system", "tool"]
_PARTS: dict[str, _Part] = {
    **dict.fromkeys(_USER, "user"),
    **dict.fromkeys(_ASSISTANT, "assistant"),
    **dict.fromkeys(_SYSTEM, "system"),
    **dict.fromkeys(_TOOL, "tool"),
}


class _Unusable(Exception):
    """No dialogue can be made of this row."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def _given(place: Place, row: object, kind: Kind) -> Given | Skipped:
    if not isinstance(row, dict):
        raise place.error(f"expected an object, found {_named(row)}", "write one object per row")
    kind = _kind(place, row, kind)
    try:
        return _made(place, {key: value for key, value in row.items() if value is not None}, kind)
    except _Unusable as unusable:
        return Skipped(place.origin, unusable.reason)


def _kind(place: Place, row: dict[str, Any], kind: Kind) -> Kind:
    """The kind itself, if the row has its columns; of `auto`, the first that the row is of."""
    if kind == "auto":
        order: tuple[Kind, ...] = ("sdsd-revisions", "sdsd-dialogues", "sharegpt")
        for known in order:
            if row.keys() >= set(_NEEDED[known]):
                return known
        chat = any(key in row for key in _CHATS[:2]) or isinstance(row.get("prompt"), list)
        kind = "messages" if chat else "plans"
        remedy = f"rename a column to one of {', '.join((*_CHATS, 'conversations', *_PLANS))}"
    else:
        remedy = "name the kind that the rows are of, or rename the columns"
    missing = [key for key in _NEEDED.get(kind, ()) if key not in row]
    any_of = _ANY_OF.get(kind, ())
    if missing or (any_of and not any(key in row for key in any_of)):
        wanted = " or ".join(f"`{key}`" for key in missing[:1] or any_of)
        found = ", ".join(sorted(map(repr, row)))[:200] or "none"
        raise place.error(f"there is no {wanted} among the columns: {found}", remedy)
    return kind


def _made(place: Place, row: dict[str, Any], kind: Kind) -> Given:
    """The row's values, nulls left out, as one `Given`. Raises `_Unusable`."""
    turns = list(_turns(place, _chat(place, row, kind)))
    plan = _plan(place, row) or _joined(text for part, text in turns if part == "system")
    messages = () if kind == "plans" else _talk(turns)
    if kind == "plans" and not plan:
        raise _Unusable("no plan")
    tagged = kind == "sdsd-dialogues"
    return Given(
        domain=_topic(place, row, "domain"),
        subarea=_topic(place, row, "subarea"),
        field=_topic(place, row, "field"),
        goal=_topic(place, row, "goal"),
        principles=_principles(place, row),
        plan=plan,
        messages=messages,
        origin=place.origin,
        is_violation=_flag(place, row, "is_violation") if tagged else None,
        is_truncated=_flag(place, row, "is_truncated") if tagged else None,
    )


def _chat(place: Place, row: dict[str, Any], kind: Kind) -> list[Any]:
    """The row's list of turns; of `plans`, only what may hold the plan as a system turn."""
    if kind == "plans":
        own = any(key in row for key in _PLANS)
        return [] if own else _list(place, row, "messages")
    if kind == "sharegpt":
        return _list(place, row, "conversations")
    key = next((key for key in _CHATS if key in row), "messages")
    reply = next((k for k in _REPLIES if k in row), "") if key == "prompt" else ""
    return _list(place, row, key) + (_list(place, row, reply) if reply else [])


def _list(place: Place, row: dict[str, Any], key: str) -> list[Any]:
    value = row.get(key, [])
    if not isinstance(value, list):
        wrong = f"`{key}` must be a list of turns, not {_named(value)}"
        raise place.error(wrong, "write turns as {role, content}")
    return value


def _turns(place: Place, chat: list[Any]) -> Iterator[tuple[_Part, str]]:
    """Speaker and text of every turn that says something; what tools say is left out."""
    for turn in chat:
        if turn is None:
            continue
        if not isinstance(turn, dict):
            raise place.error(
                f"a turn must be an object, not {_named(turn)}", "write turns as {role, content}"
            )
        role = turn.get("from") if turn.get("role") is None else turn["role"]
        if role is not None and not isinstance(role, str):
            raise place.error(f"a role must be text, not {_named(role)}", "name the speaker")
        part = _PARTS.get((role or "").strip().casefold())
        if part is None:
            raise _Unusable("a turn of an unknown speaker")
        content = turn.get("value") if turn.get("content") is None else turn["content"]
        if part != "tool" and (text := _clean(_content(place, content))):
            yield part, text


def _content(place: Place, content: object) -> str:
    """A turn's text; a list of parts is joined if all of them are text."""
    if content is None:
        return ""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        said = [text for text in texts if isinstance(text, str)]
        if len(said) < len(texts):
            raise _Unusable("a turn that is not text")
        return "\n".join(said)
    return _text(place, content, "content")


def _talk(turns: list[tuple[_Part, str]]) -> tuple[Message, ...]:
    """The dialogue: alternates, begins with the user, ends on the assistant."""
    said = [(part, text) for part, text in turns if part in ("user", "assistant")]
    if not said:
        raise _Unusable("no turns")
    talk = [
        Message("user" if part == "user" else "assistant", _joined(text for _, text in group))
        for part, group in itertools.groupby(said, key=lambda turn: turn[0])
    ]
    if talk[0].role == "assistant":
        del talk[0]
    if talk and talk[-1].role == "user":
        del talk[-1]
    if not talk:
        raise _Unusable("no user turn that the assistant answers")
    return tuple(talk)


def _plan(place: Place, row: dict[str, Any]) -> str:
    """The plan's text: `plan`, or the form that a planner fills in, of its parts."""
    if text := _clean(_text(place, row.get("plan", ""), "plan")):
        return text
    steps = _texts(place, row, "steps")
    if not steps:
        return ""
    persona, planned_violation = (
        " ".join(_text(place, row.get(k, ""), k).split()) for k in ("persona", "planned_violation")
    )
    lines = [f"PERSON: {persona}"] if persona else []
    lines += [f"STEP {n}: {' '.join(step.split())}" for n, step in enumerate(steps, 1)]
    lines += [f"SLIP: {planned_violation}"] if planned_violation else []
    return _clean("\n".join(lines))


def _principles(place: Place, row: dict[str, Any]) -> tuple[str, ...]:
    key = "principle" if "principle" in row else "principles"
    texts = [_line(text) for text in _texts(place, row, key)]
    once = {parsing.normal(text): text for text in reversed(texts) if text}
    if len(once) > _PRINCIPLES:
        raise _Unusable("more than 32 principles")
    return tuple(reversed(once.values()))


def _topic(place: Place, row: dict[str, Any], key: str) -> str:
    return _line(_text(place, row.get(key, ""), key))


def _flag(place: Place, row: dict[str, Any], key: str) -> bool | None:
    value = row.get(key)
    if value is not None and not isinstance(value, bool):
        raise place.error(f"`{key}` must be true or false, not {_named(value)}", "change it")
    return value


def _texts(place: Place, row: dict[str, Any], key: str) -> list[str]:
    """A list of texts; one text is a list of one."""
    value = row.get(key, [])
    items = value if isinstance(value, list) else [value]
    texts = (_text(place, item, key) for item in items if item is not None)
    return [text for text in texts if text.strip()]


def _text(place: Place, value: object, key: str) -> str:
    if not isinstance(value, str):
        raise place.error(f"`{key}` must be text, not {_named(value)}", "change or rename it")
    return value


def _line(text: str) -> str:
    """What a dialogue is about, on one line."""
    line = " ".join(_clean(text).split())
    if len(line) > _TOPIC_CHARS:
        raise _Unusable("a topic, goal or principle of more than 2,000 characters")
    return line


def _joined(texts: Iterable[str]) -> str:
    """Texts of one speaker as one, with blank lines between them."""
    return _clean("\n\n".join(texts))


def _clean(text: str) -> str:
    """Plain line ends, no control characters, whole characters only, not too long."""
    try:
        return parsing.readable(text)
    except Unparseable:
        raise _Unusable("a text of more than 200,000 characters") from None


def _named(value: object) -> str:
    """What a value is, in a user's words."""
    names = {str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list"}
    names |= {dict: "an object", type(None): "null"}
    return names.get(type(value), "something else")
