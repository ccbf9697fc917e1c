"""Ask until a reply can be parsed, and gather requests so that a replay asks the same steps.

A reply that was refused, broke off with an error, or has no text is not parsed at all: whatever
stands in it is not what was asked for. A second attempt is a step of its own (`plan/retry/1`) with
its own seed. It is recorded and replayed like any other request, unlike retries of transport, which
leave no trace in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from sdsd.errors import NoAnswer, StageFailed, Unparseable
from sdsd.text.normalize import is_blank
from sdsd.types import AskFn, Completion, Request

T = TypeVar("T")

SHORT = 2
"""Times as many attempts for a short text, such as a turn: it costs little, and all that follows
rests on it."""
_WARM = 0.7
"""The lowest temperature from the second attempt on: greedy decoding would repeat the reply."""
_BY_CHANCE = 40
"""Characters below which two samples may be the same by chance."""
_REPEATS = 3
"""Times in a row that the same reply may come before asking again is given up: the server does not
sample, or the model cannot help it. A small model that repeats itself gives one twice."""


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

    The same reply three times in a row ends the attempts: another would not differ. Raises
    `StageFailed` with the cause and the raw text if no reply can be parsed.
    """
    cause, raw = "", ""
    before: Completion | None = None
    repeats = 1
    for k in range(attempts):
        name = step if k == 0 else f"{step}/retry/{k}"
        if k == 1:
            request = replace(request, temperature=max(request.temperature, _WARM))
        completion = await ask(name, request)
        repeats = repeats + 1 if _same(completion, before) else 1
        again, before = repeats == _REPEATS, completion
        reader = last if last and (again or k == attempts - 1) else read
        try:
            require_answer(completion, request)
            return reader(completion)
        except Unparseable as error:
            cut = ", cut at its token limit" if completion.finish == "length" else ""
            cause, raw = f"unparseable after {k + 1} tries: {error}{cut}", completion.text
            if isinstance(error, NoAnswer):
                cause = f"no usable reply in {k + 1} tries: {error}"
            elif again:
                cause += "; the reply was always the same, so asking again would not help"
        if again:
            break
    raise StageFailed(step, cause, raw)


def require_answer(completion: Completion, request: Request) -> None:
    """Raise `NoAnswer`, with the remedy, unless the model has said something of its own."""
    thought = completion.thinking or completion.reasoning_tokens
    if completion.finish == "refused":
        raise NoAnswer("the reply was refused, by the model or by a content filter")
    if completion.finish == "error":
        raise NoAnswer("the server broke off the reply with an error")
    if completion.finish == "length" and thought and is_blank(completion.text):
        spent = completion.reasoning_tokens or request.max_tokens
        raise NoAnswer(
            f"the model spent its {spent:,} tokens thinking; raise `thinking_tokens` in the "
            f"section of the {request.role}'s model, or set `thinking: off` there"
        )
    if completion.finish == "empty":
        why = (
            f"the model thought and said nothing; set `thinking: off` in the section of the "
            f"{request.role}'s model, or start its server with the model's own reasoning parser"
            if thought
            else "the reply was empty"
        )
        raise NoAnswer(f"{why} (it ended with `{completion.ending}`)" if completion.ending else why)


def _same(reply: Completion, before: Completion | None) -> bool:
    """Whether a reply repeats the one before, and is too long for chance."""
    if before is None or len(reply.text + reply.thinking) < _BY_CHANCE:
        return False
    return (reply.text, reply.thinking) == (before.text, before.thinking)


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
