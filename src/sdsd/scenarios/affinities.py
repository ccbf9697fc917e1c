"""Affinities: how well a principle goes with a field, a goal and a strategy, from 0 to 3.

3   the principle comes up there by itself, or the goal or strategy leads straight to where it can
    be violated
2   it fits well
1   it is possible; so is everything that no entry names
0   it is absurd: nothing could be at stake, or the strategy contradicts the principle

They come in files like the catalogue's (`data/affinities.yaml`). An entry lists principles and, by
affinity, the fields, domains, goals and strategies that go with them. Goals are named by kind or by
id, and `all` stands for all there are. What names less has precedence over what names more: a
domain over its field, an id over its kind, a kind over `all`. Otherwise a later entry has
precedence over an earlier one, so groups of principles come first and exceptions last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from sdsd.scenarios import strategies
from sdsd.scenarios.catalogue_files import Entry, Key, read
from sdsd.types import Domain, Goal

PACKAGED = Path(__file__).parent / "data" / "affinities.yaml"
NEUTRAL = 1
LEVELS = ("0", "1", "2", "3")
ALL = "all"
Axis = Literal["fields", "domains", "goals", "strategies"]
_AXES: tuple[Axis, ...] = get_args(Axis)

Levels = dict[str, int]
"""Affinities by name. What is not in it is neutral."""
Members = dict[str, tuple[str, ...]]
"""By a name in a file, the single fields, goals or strategies that it stands for."""


class Affinity(Struct, frozen=True):
    """What goes with one principle."""

    fields: Levels = {}
    """By field."""
    domains: Levels = {}
    """By domain; has precedence over its field."""
    goals: Levels = {}
    """By the id of the goal."""
    strategies: Levels = {}
    """By the name of the strategy."""


_NEUTRAL = Affinity()


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of a file."""

    principles: Annotated[tuple[str, ...], Meta(min_length=1)]
    fields: dict[str, tuple[str, ...]] = {}
    domains: dict[str, tuple[str, ...]] = {}
    goals: dict[str, tuple[str, ...]] = {}
    strategies: dict[str, tuple[str, ...]] = {}
    name: str = ""
    """For readers of the file."""


def load(
    path: Path | None,
    principles: Collection[str],
    domains: Sequence[Domain],
    goals: Sequence[Goal],
) -> dict[str, Affinity]:
    """Read the affinities of a catalogue, by principle; None: the packaged ones.

    Packaged affinities of what the catalogue does not have are left out, so that user-defined
    lists are neutral. In a user's file an unknown name is an error, except for strategies, which
    may be user-defined. Raises `CatalogueError` with the place in the file.
    """
    members = _members(domains, goals)
    entries = _packaged() if path is None else _users(path, principles, members)
    found: dict[str, dict[Axis, Levels]] = {}
    for entry in entries:
        levels = {axis: _levels(entry, axis, members[axis]) for axis in _AXES}
        for principle in entry.principles:
            if principle in principles:
                known = found.setdefault(principle, {axis: {} for axis in _AXES})
                for axis in _AXES:
                    known[axis] |= levels[axis]
    return {principle: _affinity(levels) for principle, levels in found.items()}


@cache
def _packaged() -> tuple[_Entry, ...]:
    """Read once: it takes longer than the rest of a small catalogue."""
    return tuple(entry.convert(_Entry) for entry in read(PACKAGED, "affinities"))


def _users(
    path: Path, principles: Collection[str], members: Mapping[Axis, Members]
) -> Iterator[_Entry]:
    """Yield the entries of a user's file, checked. Raises `CatalogueError`."""
    for entry in read(path, "affinities"):
        shaped = entry.convert(_Entry)
        for k, name in enumerate(shaped.principles):
            _check_name(entry, name, principles, ("principles", k))
        for axis in _AXES:
            _check_axis(entry, axis, shaped, members[axis])
        yield shaped


def _members(domains: Sequence[Domain], goals: Sequence[Goal]) -> dict[Axis, Members]:
    """Return by axis what each name in a file stands for."""
    single: dict[Axis, Iterable[str]] = {
        "fields": dict.fromkeys(domain.field for domain in domains),
        "domains": [domain.name for domain in domains],
        "goals": [goal.id for goal in goals],
        "strategies": strategies.packaged(),
    }
    members: dict[Axis, Members] = {
        axis: {ALL: tuple(names), **{name: (name,) for name in names}}
        for axis, names in single.items()
    }
    kinds: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for goal in goals:
        kinds[goal.kind] += (goal.id,)
    members["goals"] = kinds | members["goals"]
    return members


def _affinity(levels: Mapping[Axis, Levels]) -> Affinity:
    """Return the affinity of a principle, without what is neutral."""
    other = {axis: {k: v for k, v in levels[axis].items() if v != NEUTRAL} for axis in _AXES}
    other["domains"] = levels["domains"]  # a neutral domain may belong to a field that is not
    return Affinity(**other)


def table(
    affinities: Mapping[str, Affinity],
    axis: Literal["goals", "strategies"],
    principles: Iterable[str],
    names: Sequence[str],
) -> list[list[int]]:
    """Return the affinities of an axis: a row for each principle, a column for each name."""
    found = (getattr(affinities.get(p, _NEUTRAL), axis) for p in principles)
    return [[levels.get(name, NEUTRAL) for name in names] for levels in found]


def topic_table(
    affinities: Mapping[str, Affinity], principles: Iterable[str], domains: Sequence[Domain]
) -> list[list[int]]:
    """Return the affinities of topics: a row for each principle, a column for each domain."""
    fields = [domain.field for domain in domains]
    places = {domain.name: k for k, domain in enumerate(domains)}
    rows = []
    for principle in principles:
        known = affinities.get(principle, _NEUTRAL)
        row = [known.fields.get(field, NEUTRAL) for field in fields]
        for domain, level in known.domains.items():
            row[places[domain]] = level
        rows.append(row)
    return rows


def _levels(entry: _Entry, axis: Axis, members: Members) -> Levels:
    """Return what an entry says of one axis, by single field, domain, goal or strategy."""
    listed = {name: int(k) for k, names in getattr(entry, axis).items() for name in names}
    levels: Levels = {}
    for name in sorted(listed, key=lambda name: len(members.get(name, "1")), reverse=True):
        unknown = (name,) if axis == "strategies" else ()  # it may be user-defined
        levels |= dict.fromkeys(members.get(name, unknown), listed[name])
    return levels


def _check_axis(entry: Entry, axis: Axis, shaped: _Entry, members: Members) -> None:
    """Raise `CatalogueError` for an affinity that is none, and for a name that is unknown, looks
    like a misspelt strategy, or is listed twice."""
    listed: dict[str, str] = {}
    for level, names in getattr(shaped, axis).items():
        if level not in LEVELS:
            wrong = f"the affinity {level[:60]!r} is unknown"
            raise entry.error(wrong, f"use {', '.join(LEVELS)}", axis, level)
        for k, name in enumerate(names):
            if axis != "strategies" or get_close_matches(name, members, 1, 0.8):
                _check_name(entry, name, members, (axis, level, k))
            if listed.setdefault(name, level) != level:
                wrong = f"{name[:60]!r} is listed with two affinities, {listed[name]} and {level}"
                raise entry.error(wrong, "remove one", axis, level, k)


def _check_name(entry: Entry, name: str, known: Collection[str], place: tuple[Key, ...]) -> None:
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else "correct it, or remove it"
        raise entry.error(f"{name[:60]!r} is not among the {place[0]}", hint, *place)
