"""Ask until a reply can be parsed, and gather requests so that a replay asks the same steps.

A second attempt is a step of its own (`plan/retry/1`) with its own seed. It is recorded and
replayed like any other request, unlike retries of transport, which leave no trace in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from sdsd.errors import StageFailed, Unparseable
from sdsd.types import AskFn, Completion, Request

T = TypeVar("T")

_WARM = 0.7
"""The lowest temperature from the second attempt on: greedy decoding would repeat the reply."""


async def ask_until_parsed(
    ask: AskFn,
    step: str,
    request: Request,
    read: Callable[[Completion], T],
    attempts: int,
    last: Callable[[Completion], T] | None = None,
) -> T:
    """Return the first reply that `read` accepts, out of at most `attempts`.

    read  parses a completion or raises `Unparseable`
    last  parses the last attempt in place of `read`, usually less strictly

    Raises `StageFailed` with the cause and the raw text if no reply can be parsed.
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


async def gather(jobs: Sequence[Callable[[], Awaitable[T]]], *, concurrently: bool) -> list[T]:
    """Return the results in order, or raise the first failure in that order.

    Every job runs to its end even if another one fails. So the steps that are asked, and with them
    the recording, do not depend on which answer came first.
    """

    async def outcome(job: Callable[[], Awaitable[T]]) -> T | Exception:
        try:
            return await job()
        except Exception as error:  # raised below
            return error

    if concurrently:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(job)) for job in jobs]
        results = [task.result() for task in tasks]
    else:
        results = [await outcome(job) for job in jobs]
    failures = [result for result in results if isinstance(result, Exception)]
    # What stops the run comes before what ends this dialogue.
    for failure in sorted(failures, key=lambda error: isinstance(error, StageFailed)):
        raise failure
    return [result for result in results if not isinstance(result, Exception)]
