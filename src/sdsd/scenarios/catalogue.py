"""The catalogue: what dialogues are about (topics), may violate (principles) and are for (goals).

`catalogue_files` reads YAML or JSONL into entries with line numbers; here entries become the
lists that scenarios are sampled from.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from sdsd.checks import decided
from sdsd.scenarios import affinities as affinity_files
from sdsd.scenarios.affinities import Affinity
from sdsd.scenarios.catalogue_files import Entry, Key, read
from sdsd.scenarios.similarity import content_words
from sdsd.types import Card, Domain, Example, Framing, Goal, Message, Principle, Severity

PACKAGED = Path(__file__).parent / "data"
_USER = "user"
_TEXTS = ("at_stake", "request", "why", "violation", "satisfaction")
_OF_CARD = (*_TEXTS, "examples")
_OPTIONAL = ("framing", "check")
"""Family, category and kind of entries that state none."""


class Catalogue(Struct, frozen=True):
    """The three lists that scenarios are sampled from. Their order is part of the digest."""

    domains: tuple[Domain, ...]
    principles: tuple[Principle, ...]
    goals: tuple[Goal, ...]
    cards: dict[str, Card] = {}
    """By id, the cards of principles that have one."""
    affinities: dict[str, Affinity] = {}
    """By id, what goes with a principle. Where it says nothing, everything goes with everything."""

    @property
    def digest(self) -> str:
        """SHA-256 of the content, independent of files, formats and comments."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    @property
    def decidable(self) -> Catalogue:
        """The catalogue with those principles alone that a program decides."""
        return replace(self, principles=tuple(p for p in self.principles if p.check))

    @property
    def fields(self) -> dict[str, tuple[Domain, ...]]:
        """Every field with its domains, both in the order of the files."""
        fields: dict[str, list[Domain]] = {}
        for domain in self.domains:
            fields.setdefault(domain.field, []).append(domain)
        return {field: tuple(domains) for field, domains in fields.items()}


def load(
    topics: Path | None = None,
    principles: Path | None = None,
    goals: Path | None = None,
    affinities: Path | None = None,
) -> Catalogue:
    """Read the three lists and what goes with what, each from a file or a directory of files; None:
    what is packaged.

    Raises `CatalogueError` at the first error, as `path:line: what is wrong; what to do`.
    """
    domains = _domains(read(topics or PACKAGED / "topics", "fields"))
    entries = read(principles or PACKAGED / "principles", "principles")
    rows = _rows(entries, _Principle, "principle")
    checked = msgspec.convert(rows, tuple[Principle, ...])
    for entry, principle in zip(entries, checked, strict=True):
        if principle.check and (wrong := decided.fault(principle.check)):
            raise entry.error(*wrong, "check")
    cards = {p.id: card for p, e in zip(checked, entries, strict=True) if (card := _card(e))}
    rows = _rows(read(goals or PACKAGED / "goals.yaml", "goals"), _Goal, "goal")
    checked_goals = msgspec.convert(rows, tuple[Goal, ...])
    fitting = affinity_files.load(affinities, {p.id for p in checked}, domains, checked_goals)
    return Catalogue(domains, checked, checked_goals, cards, fitting)


# --- the shapes of entries ----------------------------------------------------------------------


class _Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of a file, before its texts are checked."""


class ExampleEntry(_Shape, frozen=True):
    """An example pair, or an item of the exam."""

    user: str
    satisfies: str
    violates: str
    earlier: tuple[Message, ...] = ()
    topic: str = ""
    subtle: Literal["", "plain", "middling", "subtle"] = ""
    """How hard the violation is to see; for readers of the file."""


class _Principle(_Shape, frozen=True):
    text: str
    id: str = ""
    family: str = _USER
    category: str = _USER
    severity: Severity = "medium"
    framing: Framing = ""
    check: str = ""
    at_stake: str = ""
    request: str = ""
    why: str = ""
    violation: str = ""
    satisfaction: str = ""
    examples: tuple[ExampleEntry, ...] = ()


class _Goal(_Shape, frozen=True):
    text: str
    id: str = ""
    kind: str = _USER


class _Domain(_Shape, frozen=True):
    name: str
    subareas: Annotated[tuple[str, ...], Meta(min_length=1)]


class _Field(_Shape, frozen=True):
    field: str
    domains: Annotated[tuple[_Domain, ...], Meta(min_length=1)]
    name: str | None = None
    """A title for readers of the file."""


# --- entries into lists -------------------------------------------------------------------------


class _Once:
    """Texts of one kind, no two of which may be equal, ignoring case."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: dict[str, tuple[Entry, tuple[Key, ...]]] = {}

    def __contains__(self, text: object) -> bool:
        return str(text).casefold() in self._first

    def add(self, text: str, entry: Entry, *keys: Key) -> None:
        """Take in the text at `keys`. Raises `CatalogueError` if it was there before."""
        first = self._first.setdefault(text.casefold(), (entry, keys))
        if first != (entry, keys):
            place = first[0].place(*first[1])
            raise entry.error(
                f"the {self._what} {text[:60]!r} is also at {place}", "change or remove one", *keys
            )


def _domains(entries: Sequence[Entry]) -> tuple[Domain, ...]:
    names = _Once("domain")
    return tuple(domain for entry in entries for domain in _domains_of(entry, names))


def _domains_of(entry: Entry, names: _Once) -> Iterator[Domain]:
    field = entry.convert(_Field)
    title = entry.text(field.field, "field")
    if field.name is not None:
        entry.text(field.name, "name")
    for k, domain in enumerate(field.domains):
        name = entry.text(domain.name, "domains", k, "name")
        names.add(name, entry, "domains", k, "name")
        once, subareas = _Once("subarea"), []
        for j, subarea in enumerate(domain.subareas):
            subareas.append(entry.text(subarea, "domains", k, "subareas", j))
            once.add(subareas[-1], entry, "domains", k, "subareas", j)
        yield Domain(title, name, tuple(subareas))


def _rows(
    entries: Sequence[Entry], shape: type[_Principle | _Goal], what: str
) -> list[dict[str, str]]:
    """Return the entries as rows of clean text, each with an id of its own."""
    texts, ids = _Once(what), _Once("id")
    rows: list[dict[str, str]] = []
    for entry, shaped in zip(entries, [entry.convert(shape) for entry in entries], strict=True):
        row = {
            key: entry.text(value, key) if key not in _OPTIONAL or value else value
            for key, value in msgspec.structs.asdict(shaped).items()
            if key not in _OF_CARD and (key != "id" or "id" in entry.value)
        }
        texts.add(row["text"], entry, "text")
        if "id" in row:
            ids.add(row["id"], entry, "id")
            if not re.fullmatch(r"\w[\w.-]*", row["id"]):
                wrong = f"the id {row['id'][:60]!r} is not one word"
                raise entry.error(wrong, "use letters, digits, '-', '_' and '.'", "id")
        rows.append(row)
    for entry, row in zip(entries, rows, strict=True):
        if "id" not in row:  # last, because explicit ids have precedence over generated ones
            row["id"] = made_id(row["text"], ids)
            ids.add(row["id"], entry)
    return rows


def _card(entry: Entry) -> Card | None:
    """Return what a principle's entry says apart from the principle itself; None if nothing."""
    shaped = entry.convert(_Principle)
    said = {key: getattr(shaped, key) for key in _TEXTS}
    if not (any(said.values()) or shaped.examples):
        return None
    texts = {key: entry.text(text, key) for key, text in said.items() if text}
    examples = tuple(example_at(entry, e, "examples", k) for k, e in enumerate(shaped.examples))
    return Card(**texts, examples=examples)


def example_at(entry: Entry, example: ExampleEntry, *place: Key) -> Example:
    """Return the example pair at `place` in an entry. Raises `CatalogueError`."""
    texts = {
        key: entry.text(getattr(example, key), *place, key)
        for key in ("user", "satisfies", "violates")
    }
    if len({text.casefold() for text in texts.values()}) < 3:
        raise entry.error("two texts of an example are equal", "change one", *place)
    earlier = tuple(
        Message(message.role, entry.text(message.content, *place, "earlier", j, "content"))
        for j, message in enumerate(example.earlier)
    )
    roles = [message.role for message in earlier]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise entry.error(
            "the earlier turns of an example do not alternate", "begin with `user` and end with "
            "`assistant`", *place, "earlier"
        )  # fmt: skip
    topic = entry.text(example.topic, *place, "topic") if example.topic else ""
    return Example(**texts, earlier=earlier, topic=topic)


def made_id(text: str, taken: Container[str]) -> str:
    """Return a readable id: the text's first content words, with a number if that is taken."""
    slug = "-".join(content_words(text)[:6])[:48].strip("-") or "text"
    numbered = (f"{slug}-{n}" for n in itertools.count(2))
    return next(name for name in itertools.chain([slug], numbered) if name not in taken)
