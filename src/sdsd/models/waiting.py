"""Wait for a server that is loading, busy or broken, before a run begins, as patiently as in it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sdsd.errors import (
    Busy,
    Denied,
    Malformed,
    ModelError,
    ServerGone,
    Stopped,
    TransientError,
    Unreachable,
)
from sdsd.models.model_list import listing
from sdsd.models.openai_server import HttpModel
from sdsd.types import Refusal

T = TypeVar("T")

_LONGEST_WAIT = 30.0
_FOREVER = 1e10
"""Seconds; no calendar has the end of a longer wait."""
_PROOFS, _BUSY_PROOFS = 5, 8
"""Failures, each followed by an answer to another request, after which a request counts as refused.
With half of all requests failing by chance, that errs once in 240 times, and once in 6,500."""


class PatientServer:
    """A server that may be loading, busy or broken at times."""

    def __init__(
        self,
        model: HttpModel,
        outage: float,
        note: Callable[[str], None],
        stopping: asyncio.Event,
        first_wait: float = 0.5,
    ) -> None:
        self._model, self._outage, self._note = model, outage, note
        self._stopping, self._first_wait = stopping, first_wait
        self._known: Callable[[], Awaitable[object]] | None = None
        """Repeats a request that it has answered."""

    async def answer(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return what `send` returns, however long the server has to be waited for.

        Raises `ServerGone`.
        """
        began, wait, failures = time.monotonic(), self._first_wait, 0
        while True:
            try:
                found = await send()
            except TransientError as error:
                last = error
            else:
                self._known = self._known or send
                return found
            seconds = wait if last.retry_after is None else last.retry_after
            waited = time.monotonic() - began
            stranger = isinstance(last, Malformed) and failures >= _PROOFS
            if self._known is None and (stranger or isinstance(last, Unreachable)):
                raise ServerGone(
                    f"{last.with_server}; is the server running, and is `base_url` right?"
                )
            if waited + seconds > self._outage:
                raise ServerGone(
                    f"{await self._explained(last)}; no answer in {waited:.0f} s, and `outage` is "
                    f"{self._outage:g}: try again later, or raise it"
                )
            if not failures:
                why = await self._explained(last)
                self._note(f"{why}; waiting for it, for up to {self._outage:g} s")
            failures += 1
            await self._pause(last, wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def attempt(self, send: Callable[[], Awaitable[T]]) -> T | Refusal:
        """Return what `send` returns, or why the server never answers this request."""
        assert self._known is not None
        wait, failures = self._first_wait, 0
        while True:
            try:
                return await send()
            except Denied as error:
                return Refusal(error.cause, error.raw, error.kind)
            except ModelError as error:
                return Refusal(str(error))
            except TransientError as error:
                last = error
            failures += 1
            if failures > (_BUSY_PROOFS if isinstance(last, Busy) else _PROOFS):
                return Refusal(str(last))
            if isinstance(last, Busy):  # the same wait before both: a rate limit treats them alike
                await self._pause(last, wait)
                await self.answer(self._known)
                await self._pause(last, wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                await self.answer(self._known)

    async def _explained(self, last: TransientError) -> str:
        asked = f"; it asks to wait {_until(last.retry_after)}" if last.retry_after else ""
        said = " ".join(last.with_server.split())
        return f"{said}{await listing(self._model)}{asked}"

    async def _pause(self, last: TransientError, wait: float) -> None:
        seconds = random.uniform(wait / 2, wait)  # noqa: S311
        if last.retry_after is not None:
            seconds = min(last.retry_after, self._outage) + seconds / 10
        await sleep_unless(self._stopping, seconds)


def _until(seconds: float) -> str:
    """Say how long a wait is, and until when if that is more than a minute."""
    if not 60 < seconds < _FOREVER:
        return f"for {seconds:,.0f} s" if 1 <= seconds < _FOREVER else f"for {seconds:g} s"
    then = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
    return f"for {seconds:,.0f} s, until {then}"


async def sleep_unless(stopping: asyncio.Event, seconds: float) -> None:
    """Wait; raise `Stopped` as soon as `stopping` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
            raise Stopped("stopped")
