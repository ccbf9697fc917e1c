"""What `sdsd.config.schema` declares about its keys: types, descriptions, marks."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

from msgspec import Meta, Struct

from sdsd.config.schema import Config


class Key(Struct, frozen=True):
    """One key of a section."""

    name: str
    type: Any
    """Its annotation, as `typing.get_type_hints` gives it."""
    description: str
    """Its description; for a key that holds a section, the docstring of that section."""
    execution: bool
    """Its value decides how a run is carried out, not what it makes."""
    file: Literal["", "always", "if a path"]
    """Which of its strings are file names, as `FileName` and `NameOrFile` mark them."""
    section: type[Struct] | None
    """The type of the section that it holds, or that it maps names to."""
    named: bool
    """It maps user-chosen names to sections."""


@cache
def keys(section: type[Struct]) -> dict[str, Key]:
    """Return a section's keys by name, in the order of their declaration."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {name: _key(name, hints[name]) for name in section.__struct_fields__}


def _key(name: str, hint: Any) -> Key:
    kind = typing.get_args(hint)[0] if metas(hint) else hint
    values = typing.get_args(kind)
    named = typing.get_origin(kind) is dict and _is_section(values[1])
    section = values[1] if named else kind if _is_section(kind) else None
    items = metas(values[0]) if typing.get_origin(kind) is tuple else ()
    extra = {k: v for meta in (*items, *metas(hint)) for k, v in (meta.extra or {}).items()}
    said = next((meta.description for meta in metas(hint) if meta.description), "")
    return Key(
        name=name,
        type=hint,
        description=said or described(section) if section else said,
        execution=bool(extra.get("execution")),
        file=extra.get("file", ""),
        section=section,
        named=named,
    )


def choices(hint: Any) -> list[str]:
    """Return the values that a type lists, at any depth: `Literal`s in tuples and unions, too."""
    if typing.get_origin(hint) is Literal:
        return [str(value) for value in typing.get_args(hint)]
    return [value for part in typing.get_args(hint) for value in choices(part)]


def metas(hint: Any) -> tuple[Meta, ...]:
    """Return the `Meta`s of an annotation, the innermost first."""
    return tuple(m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Meta))


def described(section: type[Struct]) -> str:
    """Return a section's docstring on one line."""
    return " ".join((section.__doc__ or "").split())


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def walk(dotted: str) -> Iterator[Key]:
    """Yield the keys along a dotted key, up to the first unknown one."""
    section: type[Struct] | None = Config
    parts = iter(dotted.split("."))
    for part in parts:
        key = keys(section).get(part) if section else None
        if key is None:
            return
        yield key
        if key.named:
            next(parts, None)
        section = key.section


def is_execution(dotted: str) -> bool:
    """Return whether a key decides only how a run is carried out: it may change between starts."""
    return any(key.execution for key in walk(dotted))
