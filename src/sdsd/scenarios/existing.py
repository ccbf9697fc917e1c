"""A source: dialogues or plans that people already have, read into one kind of row.

    files -> rows -> `SourceRow`, or `Skipped` with the reason

Nothing is dropped silently. A damaged file, or one without the stated layout, is an error at
`file:row`; a row of the right layout that no dialogue can be made of is `Skipped`. Rows stream.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import Struct

from sdsd.config.schema import SourceKind
from sdsd.errors import Unparseable
from sdsd.scenarios import existing_shapes as shapes
from sdsd.scenarios.existing_files import (
    Download,
    Place,
    fetch_dataset,
    find,
    plain_name,
    rows,
)
from sdsd.text import normalize, parsing
from sdsd.text.thinking import spoken
from sdsd.types import Message

T = TypeVar("T")
Kind = SourceKind
"""The layout of the rows of a source.

messages        a list of {role, content}, under `messages`, `conversation`, `data` or `prompt`; or
                a transcript under `text`
sharegpt        a list of {from, value}, under `conversations`
preference      two replies to one prompt, of which the worse is taken: `rejected`, or two columns
                and which is better
instruction     a prompt (`prompt`, `question`, `instruction`, ...) and a reply to it
sdsd-dialogues  the columns of `allenai/sdsd-dialogues`
sdsd-revisions  the columns of `allenai/sdsd-revisions`
plans           a plan alone: `plan`, or `persona`, `steps` and `planned_violation`
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


class SourceRow(Struct, frozen=True):
    """One row of a source: a finished dialogue or a plan for one, and its topic."""

    domain: str
    subarea: str
    field: str
    goal: str
    """This and the three fields above are empty where the source does not say."""
    principles: tuple[str, ...]
    """Texts. Empty: the run takes those of its own scenario."""
    plan: str
    """May be empty if there are messages."""
    messages: tuple[Message, ...]
    """Alternates user and assistant, ends on the assistant. Empty: only a plan is given."""
    origin: str
    """File and row, to show to people; not part of the row's content."""
    is_violation: bool | None = None
    """The dialogue's own flag; None where the source has none."""
    is_truncated: bool | None = None
    """The dialogue stopped early; None where the source does not say."""
    system: str = ""
    """Its system prompt; empty where the layout has the plan there."""


class Skipped(Struct, frozen=True):
    """A row that no dialogue can be made of."""

    origin: str
    reason: Reason


def read(
    where: str, *, kind: Kind = "auto", split: str = "", download: Download = fetch_dataset
) -> Iterator[SourceRow | Skipped]:
    """Yield the rows of a file, a directory of Parquet files, a run directory, or `hf:org/name`.

    `split` selects the files of a directory or data set that are named after it. Raises
    `SourceError`: at once if a file is missing, and for damage when it is reached.
    """
    files = find(where, _view(kind), split, download)
    return itertools.chain.from_iterable(_read(path, name, kind) for path, name in files)


def stamps(where: str, *, kind: Kind = "auto", split: str = "") -> str:
    """Return name, size and time of each local file that `read` reads; empty for the hub's.

    Raises `SourceError` if a file is missing.
    """
    if where.startswith("hf:"):
        return ""
    files = [(name, path.stat()) for path, name in find(where, _view(kind), split, fetch_dataset)]
    return "\n".join(f"{stat.st_size} {stat.st_mtime_ns} {name}" for name, stat in files)


def _view(kind: Kind) -> str:
    """Return which view of a run's data set is read."""
    return "revisions" if kind == "sdsd-revisions" else "dialogues"


def _read(path: Path, name: str, kind: Kind) -> Iterator[SourceRow | Skipped]:
    for place, row in shapes.threads(rows(path, name, _COLUMNS)):
        yield source_row(place, row, kind)


_CHATS = (*shapes.CHATS, "prompt", "text", "data")
_PLANS = ("plan", "steps")
_SHARED = ("domain", "subarea", "principle", "goal", "messages")
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "sharegpt": ("conversations",),
    "sdsd-dialogues": (*_SHARED, "is_violation", "is_truncated"),
    "sdsd-revisions": (*_SHARED, "plan", "critique", "violations", "revision"),
}
_ANY_OF: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "messages": (_CHATS,),
    "preference": (shapes.PREFERENCES,),
    "instruction": (shapes.PROMPTS, shapes.REPLIES),
    "plans": ((*_PLANS, "messages"),),
}
"""Of each of these groups, a row needs one column."""
_COLUMNS = {
    *shapes.COLUMNS, *_CHATS, *_PLANS, *itertools.chain(*_NEEDED.values()),
    "persona", "planned_violation", "field", "principles",
}  # fmt: skip

_NAMES: dict[type, str] = {
    str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list",
    dict: "an object", bytes: "bytes", type(None): "null",
}  # fmt: skip


class _Unusable(Exception):
    """No dialogue can be made of this row."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def source_row(place: Place, row: object, kind: Kind) -> SourceRow | Skipped:
    """Return what a row of the given kind says. Raises `SourceError` if it is of another kind."""
    if not isinstance(row, dict):
        wrong = f"expected an object, found {_named(row)}"
        raise place.error(wrong, "write one object per row")
    row = _named_plainly(row)
    kind = _kind(place, row, kind)
    filled = {key: value for key, value in row.items() if value is not None}
    try:
        return _Row(place, filled, kind).read()
    except _Unusable as unusable:
        return Skipped(place.origin, unusable.reason)


def _named_plainly(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the names of known columns in lower case, without blanks around them."""
    known = {key: plain_name(key) for key in row.keys() - _COLUMNS}
    return {**{plain: row[key] for key, plain in known.items() if plain in _COLUMNS}, **row}


def _kind(place: Place, row: dict[str, Any], kind: Kind) -> Kind:
    """Return `kind` if the row has its columns; for `auto`, the first kind whose columns it has."""
    remedy = "name the kind of the rows, or rename the columns"
    if kind == "auto":
        order: tuple[Kind, ...] = ("sdsd-revisions", "sdsd-dialogues")
        for known in order:
            if row.keys() >= set(_NEEDED[known]):
                return known
        kind = _recognised(row)
        remedy = f"rename a column to one of {', '.join((*_CHATS, 'conversations', *_PLANS))}"
    needed = [(key,) for key in _NEEDED.get(kind, ())]
    for keys in (*needed, *_ANY_OF.get(kind, ())):
        if any(key in row for key in keys):
            continue
        wanted = " or ".join(f"`{key}`" for key in keys)
        found = ", ".join(sorted(map(repr, row)))[:200] or "none"
        raise place.error(f"no {wanted} among the columns: {found}", remedy)
    return kind


def _recognised(row: dict[str, Any]) -> Kind:
    """Return the kind of a row that has not the columns of a published one."""
    if shapes.is_preference(row):
        return "preference"
    if "conversations" in row:
        return "sharegpt"
    if any(key in row for key in shapes.CHATS) or isinstance(row.get("prompt"), list):
        return "messages"
    if shapes.is_instruction(row):
        return "instruction"
    chat = shapes.is_transcript(row.get("text")) or shapes.alternating(row.get("data"))
    return "messages" if chat else "plans"


class _Row(Struct, frozen=True):
    """A row's columns that are not null, of a known kind. Methods raise `_Unusable`."""

    place: Place
    columns: dict[str, Any]
    kind: Kind

    def read(self) -> SourceRow:
        turns = list(self.turns())
        system = _joined(dict.fromkeys(text for role, text in turns if role == "system"))
        plan = self.plan() or system
        messages = () if self.kind == "plans" else _conversation(turns)
        if self.kind == "plans" and not plan:
            raise _Unusable("no plan")
        flagged = self.kind == "sdsd-dialogues"
        return SourceRow(
            domain=_line(self.text("domain")),
            subarea=_line(self.text("subarea")),
            field=_line(self.text("field")),
            goal=_line(self.text("goal")),
            principles=self.principles(),
            plan=plan,
            messages=messages,
            origin=self.place.origin,
            is_violation=self.flag("is_violation") if flagged else None,
            is_truncated=self.flag("is_truncated") if flagged else None,
            system="" if flagged or self.kind == "plans" else system,
        )

    def turns(self) -> Iterator[tuple[str, str]]:
        """Yield speaker and text of every turn that says something; tools' turns are left out."""
        for item in self.chat():
            if item is None:
                continue
            turn = self.checked(item, dict, "a turn", "write turns as {role, content}")
            name = shapes.speaker(turn)
            self.checked("" if name is None else name, str, "a role", "name the speaker")
            if (role := shapes.role(turn)) not in shapes.SPEAKERS:
                raise _Unusable("a turn of an unknown speaker")
            if role == "tool":
                continue
            content = self.content(shapes.first(turn, shapes.TEXTS))
            if role == "assistant":  # of models that think, some data sets have that, too
                content = spoken(content).text
            if text := _clean(content):
                yield role, text

    def chat(self) -> list[Any]:
        """Return the list of turns; of `plans`, only what may have the plan as a system turn."""
        if self.kind == "plans":
            return [] if any(key in self.columns for key in _PLANS) else self.turn_list("messages")
        keys = ("conversations",) if self.kind == "sharegpt" else shapes.CHATS
        key = next((key for key in keys if key in self.columns), "")
        if key and self.kind not in ("preference", "instruction"):
            return self.turn_list(key)
        if self.kind == "messages" and "prompt" not in self.columns:
            data = shapes.alternating(self.columns.get("data"))
            return data or shapes.turns(self.text("text"), "user")
        return shapes.exchange({name: _listed(value) for name, value in self.columns.items()})

    def turn_list(self, key: str) -> list[Any]:
        value = shapes.transposed(_listed(self.columns.get(key, [])))
        if len(said := shapes.alternating(value)) > 1:
            return shapes.chat(self.columns, said)
        if not isinstance(value, list):
            wrong = f"`{key}` must be a list of turns, not {_named(value)}"
            raise self.place.error(wrong, "write turns as {role, content}")
        return shapes.chat(self.columns, value)

    def content(self, content: object) -> str:
        """Return a turn's text; a list of parts is joined if all of them are text."""
        if not isinstance(content, list):
            return "" if content is None else self.as_text(content, "content")
        content = [part for part in content if not _is_thinking(part)]
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise _Unusable("a turn that is not text")
        return "\n".join(texts)

    def plan(self) -> str:
        """Return the column `plan`, or its parts in the form that a planner fills in."""
        if text := _clean(self.text("plan")):
            return text
        if not (steps := self.texts("steps")):
            return ""
        persona, planned = self.text("persona"), self.text("planned_violation")
        numbered = [(f"STEP {n}", step) for n, step in enumerate(steps, 1)]
        lines = [("PERSON", persona), *numbered, ("SLIP", planned)]
        lines = [(label, " ".join(text.split())) for label, text in lines]
        return _clean("\n".join(f"{label}: {text}" for label, text in lines if text))

    def principles(self) -> tuple[str, ...]:
        key = "principle" if "principle" in self.columns else "principles"
        texts = map(_line, self.texts(key))
        first = dict[str, str]()
        for text in filter(None, texts):
            first.setdefault(normalize.normal(text), text)
        if len(first) > _PRINCIPLES:
            raise _Unusable("more than 32 principles")
        return tuple(first.values())

    def flag(self, key: str) -> bool | None:
        value = self.columns.get(key)
        if value is not None and not isinstance(value, bool):
            wrong = f"`{key}` must be true or false, not {_named(value)}"
            raise self.place.error(wrong, "change it")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; one text counts as a list of one."""
        value = self.columns.get(key, [])
        items = value if isinstance(value, list) else [value]
        texts = (self.as_text(item, key) for item in items if item is not None)
        return [text for text in texts if text.strip()]

    def text(self, key: str) -> str:
        return self.as_text(self.columns.get(key, ""), key)

    def as_text(self, value: object, key: str) -> str:
        return self.checked(value, str, f"`{key}`", "change or rename it")

    def checked(self, value: object, kind: type[T], what: str, remedy: str) -> T:
        """Return the value if it is of a kind. Raises `SourceError`."""
        if not isinstance(value, kind):
            wrong = f"{what} must be {_NAMES[kind]}, not {_named(value)}"
            raise self.place.error(wrong, remedy)
        return value


def _conversation(turns: list[tuple[str, str]]) -> tuple[Message, ...]:
    """Return messages that alternate, begin with the user and end on the assistant."""
    spoken = [(role, text) for role, text in turns if role != "system"]
    if not spoken:
        raise _Unusable("no turns")
    messages = [
        Message("user" if role == "user" else "assistant", _joined(text for _, text in group))
        for role, group in itertools.groupby(spoken, key=lambda turn: turn[0])
    ]
    if messages[0].role == "assistant":
        del messages[0]
    if messages and messages[-1].role == "user":
        del messages[-1]
    if not messages:
        raise _Unusable("no user turn that the assistant answers")
    return tuple(messages)


_JSON_LIST = re.compile(r"\A\s*+\[\s*+\{")


def _is_thinking(part: Any) -> bool:
    """Whether a part of a turn is what a model thought."""
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and any(word in kind for word in ("think", "reason"))


def _listed(value: Any) -> Any:
    """Return the list that a text is in JSON, as in a cell of a table; any other value as it is."""
    if isinstance(value, str) and _JSON_LIST.match(value):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _line(text: str) -> str:
    """Return a topic, goal or principle on one line."""
    line = " ".join(_clean(text).split())
    if len(line) > _TOPIC_CHARS:
        raise _Unusable("a topic, goal or principle of more than 2,000 characters")
    return line


def _joined(texts: Iterable[str]) -> str:
    """Return texts of one speaker as one, with blank lines between them."""
    return _clean("\n\n".join(texts))


def _clean(text: str) -> str:
    """Return `text` with plain line ends and without control characters."""
    try:
        return parsing.readable(text)
    except Unparseable:
        raise _Unusable("a text of more than 200,000 characters") from None


def _named(value: object) -> str:
    return _NAMES.get(type(value), "something else")
