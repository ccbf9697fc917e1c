"""Asking for a reply that can be read, and asking again when it cannot.

A second try is a step of its own (`plan/retry/1`) with a seed of its own: it is recorded and
replayed like any other call, above the journal, unlike retries of transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from sdsd.errors import StageFailed, Unparseable
from sdsd.types import AskFn, Completion, Request

T = TypeVar("T")

_WARM = 0.7
"""At least this temperature from the second try on: a greedy reply would only come again."""


async def parsed(
    ask: AskFn,
    step: str,
    request: Request,
    read: Callable[[Completion], T],
    attempts: int,
    last: Callable[[Completion], T] | None = None,
) -> T:
    """The first reply that `read` can read, out of at most `attempts`.

    `last`, if given, reads the last attempt instead of `read`, and may be content with less.
    Raises `StageFailed` with the cause and the raw text when none can be read.
    """
    cause, raw = "", ""
    for k in range(attempts):
        name = step if k == 0 else f"{step}/retry/{k}"
        if k == 1:
            request = replace(request, temperature=max(request.temperature, _WARM))
        completion = await ask(name, request)
        reader = last if last and k == attempts - 1 else read
        try:
            return reader(completion)
        except Unparseable as error:
            cut = ", cut at its token limit" if completion.finish == "length" else ""
            cause, raw = f"unparseable after {attempts} tries: {error}{cut}", completion.text
    raise StageFailed(step, cause, raw)
