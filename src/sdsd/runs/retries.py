"""Retry a failed request, and find out whether the fault is its own or everybody's.

    fault              nothing answered in this run yet    the model has answered others
    -----------------  ----------------------------------  ------------------------------------
    `Denied` (403...)  everybody: stop                     asked `DENIALS` times, then its own
    `TransientError`   everybody: wait, stop at `outage`   tried `retries` + 1 times, then its own
    `Busy`             everybody: wait, stop at `outage`   waited for, however many tries
    `ModelError`       the account: stop at once           the account: stop at once

"Has answered others" is two things. In the past: the journal, or this start, has an answer of the
model. At present: another request was answered meanwhile; and if there is no other, or a denial has
to be told from a key that was just revoked, the model is asked something harmless (`Check`). If it
does not answer that, the fault is not the request's, so it waits, up to `outage` seconds without
any answer. If it does answer it when they are over, only this request is abandoned.

What is abandoned becomes a `Refusal`, which is recorded, so the run continues to its end.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from msgspec import Struct

from sdsd.errors import Busy, Denied, ModelError, Stopped, TransientError
from sdsd.models.base import Capabilities
from sdsd.reports.html.text import duration
from sdsd.runs.middleware import Call, Send
from sdsd.types import Answer, Message, Refusal, Request, Role

Check = Callable[[Call], Awaitable[object]]
"""Asks the model of a call something harmless; raises if it does not answer."""
DENIALS = 3
"""Times that a request is sent to a server that denies it and answers others."""
_DOUBTS = 8
"""Failed checks in a row, and nothing else answered, after which a denial concerns everybody."""
_LONG = 60.0
"""Seconds; longer waits are noted."""
_FOREVER = 1e10
"""Seconds; no server means a longer wait, and no calendar has its end."""


class RetryPolicy(Struct, frozen=True):
    """How long to keep trying a role's model."""

    retries: int = 16
    """Retries before a request is abandoned while its model keeps answering others."""
    outage: float = 600.0
    """Seconds without any answer from a model before the run stops."""
    first_wait: float = 0.5
    longest_wait: float = 30.0
    """Bounds of the pause between two tries, in seconds; it is drawn between 0 and the bound."""


def harmless(can: Capabilities) -> Request:
    """Return a request that any server with these capabilities answers, for a few tokens."""
    if can.chat:
        return Request("agent", 16, (Message("user", "Say yes."),))
    return Request("agent", 16, prompt="One, two,")


class _Standing:
    """What is known of one model: whether it ever answered, when it last did, what was noted."""

    def __init__(
        self, name: str, answered: bool, check: Check | None, note: Callable[[str], None]
    ) -> None:
        self.name = name
        self.ever = answered
        self.at = -math.inf
        """When it last answered."""
        self.in_flight = 0
        self.checked = check is not None
        self._check, self._note = check, note
        self._checking: asyncio.Task[bool] | None = None
        self._noted = -math.inf
        """Until when a wait has been noted."""

    def answered(self, now: float) -> None:
        self.ever, self.at = True, now

    async def answers(self, call: Call) -> bool:
        """Return whether the model answers something harmless; simultaneous callers share it."""
        if self._check is None:
            return False
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._answers(self._check, call))
        return await asyncio.shield(self._checking)

    async def _answers(self, check: Check, call: Call) -> bool:
        try:
            await check(call)
        except Stopped:
            raise
        except Exception:  # whatever it is, it is no answer
            return False
        return True

    def note(self, why: str, now: float, until: float) -> None:
        """Note a wait until `until`, unless one of about that length has been noted."""
        if until > self._noted + _LONG:
            self._noted = until
            self._note(f"`{self.name}` {why}; waiting until {clock_time(until - now)} at most")


class _Attempts:
    """The attempts at one request, and what follows from each that failed."""

    def __init__(self, call: Call, standing: _Standing, policy: RetryPolicy, now: float) -> None:
        self._call, self._standing, self._policy = call, standing, policy
        self._began = self._since = now
        self._tries = self._denials = self._doubts = 0
        self._wait = policy.first_wait

    async def denied(self, fault: Denied, now: float) -> Refusal | float:
        """Return a pause before the next attempt, or the refusal if the fault is the request's.

        Raises `fault` if it concerns everybody.
        """
        model = self._standing
        if not model.ever:
            raise fault
        # Answers to others do not confirm it: they may have been sent before a key was revoked.
        others = model.at > self._since
        self._since = now
        if await model.answers(self._call):
            self._denials, self._doubts = self._denials + 1, 0
        elif model.checked:
            self._doubts = 1 if others else self._doubts + 1
        if self._doubts == _DOUBTS:
            raise fault
        if self._denials == DENIALS or not model.checked:  # a batch has tried it as often
            return Refusal(fault.cause, fault.raw, fault.kind)
        return random.uniform(0, self._policy.first_wait)  # noqa: S311

    async def failed(self, fault: TransientError, now: float) -> Refusal | float:
        """Return a pause before the next attempt, or the refusal if the fault is the request's.

        Raises `ModelError` if the model does not answer anybody.
        """
        model, policy = self._standing, self._policy
        others = model.at > self._since  # answered while this request failed once more
        silent = now - max(model.at, self._began)
        if silent >= policy.outage:
            if model.ever and await model.answers(self._call):
                return _abandoned(duration(now - self._began), fault)
            raise ModelError(
                f"{self._who} has not answered for {policy.outage:g} s, last: "
                f"{fault.with_server}. {_KEPT} to continue"
            )
        if not isinstance(fault, Busy):
            if not others and self._tries and model.ever:
                others = await model.answers(self._call)
            self._tries += others or not self._tries
            if self._tries > policy.retries and others:
                return _abandoned(f"{self._tries} tries", fault)
        self._since = now
        return self._pause(fault, now, silent, others=others)

    def _pause(self, fault: TransientError, now: float, silent: float, *, others: bool) -> float:
        policy, asked = self._policy, fault.retry_after
        if asked is not None:
            asked = min(asked, _FOREVER)
        if others:  # the model does not need a long pause
            self._wait = policy.first_wait
        pause = random.uniform(0, self._wait)  # noqa: S311
        self._wait = min(self._wait * 2, policy.longest_wait)
        if asked is not None and asked <= policy.outage:
            if asked > _LONG:
                why = f"asks to wait {duration(asked)} ({fault.with_server})"
                self._standing.note(why, now, now + asked)
            return asked + pause / 10
        if asked is not None and not others:
            raise ModelError(
                f"{self._who} asks to wait {duration(asked)}, until {clock_time(asked)}, longer "
                f"than `outage` ({policy.outage:g} s): {fault.with_server}. {_KEPT} then"
            )
        if silent > _LONG and policy.outage < math.inf:  # a batch is silent for hours
            why = f"has not answered for {duration(silent)} (last: {fault.with_server})"
            self._standing.note(why, now, now + policy.outage - silent)
        return pause

    @property
    def _who(self) -> str:
        return f"{self._call.request.role}: `{self._standing.name}`"


def retry(
    send: Send,
    policies: Mapping[Role, RetryPolicy],
    names: Mapping[Role, str],
    *,
    answered: Collection[str] = (),
    checks: Mapping[str, Check] = {},
    note: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Send:
    """Retry after transient errors, with exponential back-off and full jitter.

    answered   models that have answered in an earlier start of the run
    checks     by model, how to ask it something harmless; without, only other requests tell

    A server's Retry-After is honoured up to `outage`. The jitter is the only deliberate randomness
    in a run: it decides when a request is sent, never what.
    """
    standings = {
        name: _Standing(name, name in answered, checks.get(name), note) for name in names.values()
    }

    async def again(call: Call) -> Answer:
        role = call.request.role
        standing = standings[names[role]]
        attempts = _Attempts(call, standing, policies[role], clock())
        while True:
            standing.in_flight += 1
            try:
                answer = await send(call)
            except (Denied, TransientError) as error:
                fault: Denied | TransientError = error
            else:
                standing.answered(clock())
                return answer
            finally:
                standing.in_flight -= 1
            if isinstance(fault, Denied):
                while standing.in_flight and not standing.ever:  # one of these may be answered
                    await sleep(policies[role].first_wait)
                outcome = await attempts.denied(fault, clock())
            else:
                outcome = await attempts.failed(fault, clock())
            if isinstance(outcome, Refusal):
                return outcome
            await sleep(outcome)

    return again


def clock_time(seconds: float) -> str:
    """Return the local time in so many seconds, with the date unless it is today."""
    now = time.time()
    then, today = (time.localtime(now + s) for s in (seconds, 0.0))
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


_KEPT = "Everything answered so far is kept; run the same command again"


def _abandoned(how: str, fault: TransientError) -> Refusal:
    cause = f"no answer in {how}, while other requests were answered"
    return Refusal(cause, str(fault), "unanswered")
