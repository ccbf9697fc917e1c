"""Read which models a server lists, to explain why it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from sdsd.errors import ModelError, TransientError
from sdsd.models.openai_server import HttpModel

_SHOWN = 5
_PATIENCE = 10.0
"""Seconds that the list may take."""


class _Listed(Struct):
    id: str


class _Listing(Struct):
    data: list[_Listed] = []


async def served(model: HttpModel) -> list[str]:
    """Return the names of the models that a server lists (`/models`); empty if it lists none."""
    try:
        async with asyncio.timeout(_PATIENCE):
            found = msgspec.json.decode(await model.get("/models"), type=_Listing).data
    except (ModelError, TransientError, ValueError, TimeoutError):
        return []
    return [entry.id for entry in found]


async def listing(model: HttpModel) -> str:
    """Return a remark for an error message if the server lists models, but not this one."""
    names = await served(model)
    if not names or model.name in names:
        return ""
    return f". `{model.name}` is not among the models that it lists: {some(names)}"


def some(names: Sequence[str]) -> str:
    """Return the first few of some names, and how many there are more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
