"""Read which models a server lists, to explain why it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from rapidfuzz.distance.Indel import normalized_similarity as ratio

from sdsd.errors import ModelError, TransientError
from sdsd.models.openai_server import HttpModel

_SHOWN = 5
_ALIKE = 0.6
"""Likeness above which a name may be what was meant; the others keep their order."""
_PATIENCE = 10.0
"""Seconds that the list may take."""


async def served(model: HttpModel) -> list[str]:
    """Return the names of the models that a server lists (`/models`); empty if it lists none."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return names_in(await model.get("/models"))
    except (ModelError, TransientError, TimeoutError):
        return []


def names_in(body: bytes) -> list[str]:
    """Return the names in a list of models, under `data`, under `models` or alone.

    >>> names_in(b'{"data": [{"id": "a"}]}'), names_in(b'[{"id": "a"}]'), names_in(b"<html>")
    (['a'], ['a'], [])
    """
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return []
    if isinstance(found, dict):
        found = found.get("data") or found.get("models")
    entries = [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []
    named = (next((e[k] for k in ("id", "name", "model") if k in e), None) for e in entries)
    return [name for name in named if isinstance(name, str)]


async def listing(model: HttpModel) -> str:
    """Return a remark for an error message if the server lists models, but not this one."""
    names = await served(model)
    if not names or any(name.removeprefix("models/") == model.name for name in names):
        return ""
    return (
        f". `{model.name}` is not among the models that it lists: {some(alike(model.name, names))}"
    )


def alike(name: str, names: Sequence[str]) -> list[str]:
    """Return names with those first that are most like `name`: of hundreds only a few are shown.

    >>> alike("gpt-4o", ["a", "b", "openai/gpt-4o", "GPT-4o-mini"])
    ['openai/gpt-4o', 'GPT-4o-mini', 'a', 'b']
    """
    own = name.casefold()

    def likeness(other: str) -> float:
        other = other.casefold()
        found = max(ratio(own, other), ratio(_bare(own), _bare(other)))
        return found if found > _ALIKE else 0.0

    return sorted(names, key=likeness, reverse=True)


def _bare(name: str) -> str:
    """Return a name without its maker and its tag."""
    return name.rpartition("/")[2].partition(":")[0]


def some(names: Sequence[str]) -> str:
    """Return the first few of some names, and how many there are more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
