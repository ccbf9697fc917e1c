"""Which dialogues are in flight: as many as the servers accept requests, each driven to its end.

Depth first: a dialogue that has begun is finished before another one begins, which keeps the
servers' prefix caches warm. Nothing here knows what a dialogue is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from sdsd.errors import Stopped


async def drive(
    indexes: AsyncIterator[int],
    work: Callable[[int], Awaitable[None]],
    done: Callable[[int], None],
    capacity: Callable[[], int],
    changed: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Work through `indexes` until they are used up or the run is stopping.

    work       makes one dialogue
    done       called when a dialogue has ended, however it ended
    capacity   how many dialogues may be in flight; may change at any time
    changed    set by whoever changes the capacity
    stopping   set to begin no further dialogue

    An error stops the run as Ctrl-C does: requests in flight are finished and recorded, then the
    first error is raised.
    """
    errors: list[Exception] = []
    in_flight = 0

    async def one(index: int) -> None:
        nonlocal in_flight
        try:
            await work(index)
        except Stopped:
            pass
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # A task group ignores it, and the dialogue would be missing without a word.
            errors.append(RuntimeError(f"dialogue {index} was cancelled by its own code"))
            stopping.set()
        except Exception as error:
            errors.append(error)
            stopping.set()
        finally:
            done(index)
            in_flight -= 1
            changed.set()

    async with asyncio.TaskGroup() as group:
        async for index in indexes:
            while in_flight >= capacity() and not stopping.is_set():
                changed.clear()
                await changed.wait()
            if stopping.is_set():
                break
            in_flight += 1
            group.create_task(one(index))
    if errors:
        raise errors[0]


async def each(indexes: Iterable[int]) -> AsyncIterator[int]:
    """Yield indexes that are known beforehand, as `drive` takes them."""
    for index in indexes:
        yield index
