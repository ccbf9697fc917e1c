"""Whose fault a failed request is: a test for each cell of the table in `sdsd.runs.retries`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.errors import Busy, Denied, ModelError, Stopped, TransientError
from sdsd.models.base import Capabilities
from sdsd.runs.middleware import Call, Send
from sdsd.runs.retries import DENIALS, RetryPolicy, harmless, retry
from sdsd.types import ROLES, Answer, Completion, Message, Refusal, Request, Role
from tests.factories.scripted import answering

REQUEST = Request("agent", 64, (Message("user", "Hello?"),))
CALL = Call("s", "plan", REQUEST, 1, {})
OTHER = replace(CALL, step="turn/1/user")
FAULT = TransientError("HTTP 500: template error")
BUSY = Busy("HTTP 503: loading")
DENIED = Denied("http://a: HTTP 403: flagged; check the key", "HTTP 403", "flagged")
HERE = Completion("there")


class World:
    """One model behind `retry`, on a clock that only waiting moves.

    `own` is how it answers `CALL`, `others` how it answers everything else and the check.
    """

    def __init__(
        self,
        own: Exception | None,
        others: Exception | None = None,
        *,
        answered: bool = True,
        checked: bool = True,
        policy: RetryPolicy = RetryPolicy(),
    ) -> None:
        self.own, self.others = own, others
        self.now = 0.0
        self.tries = self.checks = 0
        self.notes: list[str] = []
        self.during: Callable[[], None] = lambda: None
        """Called whenever somebody waits."""
        self.send = retry(
            self._answer,
            dict.fromkeys(ROLES, policy),
            dict.fromkeys(ROLES, "model"),
            answered={"model"} if answered else (),
            checks={"model": self._check} if checked else {},
            note=self.notes.append,
            sleep=self._sleep,
            clock=lambda: self.now,
        )

    async def _answer(self, call: Call) -> Answer:
        fault = self.others
        if call is CALL:
            self.tries += 1
            fault = self.own
        if fault is not None:
            raise fault
        return HERE

    async def _check(self, call: Call) -> None:
        self.checks += 1
        if self.others is not None:
            raise self.others

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during()


# -- denied --------------------------------------------------------------------------------


async def test_denied_before_anything_was_answered_concerns_everybody() -> None:
    world = World(DENIED, answered=False)
    with pytest.raises(Denied, match="check the key"):
        await world.send(CALL)
    assert (world.tries, world.checks) == (1, 0)


async def test_denied_first_of_all_while_others_are_in_flight_waits_for_them() -> None:
    """A moderated prompt is denied at once, and answers take their time."""
    world = World(DENIED, answered=False)
    slow = asyncio.Event()

    async def answer(call: Call) -> Answer:
        if call is OTHER:
            await slow.wait()
        return await world._answer(call)

    async def sleep(seconds: float) -> None:
        world.now += seconds
        if world.now > 60.0:
            slow.set()
        await asyncio.sleep(0)

    send = retry(
        answer, dict.fromkeys(ROLES, RetryPolicy()), dict.fromkeys(ROLES, "model"),
        checks={"model": world._check}, sleep=sleep, clock=lambda: world.now,
    )  # fmt: skip
    refusal = Refusal("HTTP 403", "flagged", "rejected")
    assert list(await asyncio.gather(send(OTHER), send(CALL))) == [HERE, refusal]


async def test_denied_after_others_were_answered_in_this_start_is_its_own() -> None:
    world = World(DENIED, answered=False)
    assert await world.send(OTHER) == HERE
    assert await world.send(CALL) == Refusal("HTTP 403", "flagged", "rejected")
    assert world.tries == DENIALS


async def test_denied_after_others_were_answered_in_an_earlier_start_is_its_own() -> None:
    world = World(DENIED)
    assert await world.send(CALL) == Refusal("HTTP 403", "flagged", "rejected")


async def test_denied_like_everything_else_from_now_on_concerns_everybody() -> None:
    """The key was revoked: no dialogue may be recorded as failed for that."""
    world = World(DENIED, DENIED)
    with pytest.raises(Denied):
        await world.send(CALL)
    assert world.now < 5.0


async def test_denied_once_is_no_more_than_a_delay() -> None:
    world = World(DENIED)

    def recover() -> None:
        world.own = None

    world.during = recover
    assert await world.send(CALL) == HERE


async def test_denied_while_the_check_meets_a_passing_fault_is_its_own() -> None:
    world = World(DENIED, FAULT)

    def recover() -> None:
        world.others = None

    world.during = recover
    assert await world.send(CALL) == Refusal("HTTP 403", "flagged", "rejected")


async def test_what_a_batch_denies_has_been_tried_there() -> None:
    world = World(DENIED, checked=False)
    assert await world.send(CALL) == Refusal("HTTP 403", "flagged", "rejected")
    assert world.tries == 1


# -- a fault that may pass -----------------------------------------------------------------


async def test_a_fault_before_anything_was_answered_is_waited_for_and_then_stops_the_run() -> None:
    world = World(FAULT, answered=False, policy=RetryPolicy(retries=2, outage=300.0))
    with pytest.raises(ModelError, match="`model` has not answered for 300 s, last: HTTP 500"):
        await world.send(CALL)
    assert world.checks == 0


async def test_a_request_that_alone_gets_no_answer_is_abandoned_after_its_retries() -> None:
    """It is the last one of its run, so nobody else shows that the model answers."""
    world = World(FAULT, policy=RetryPolicy(retries=4))
    cause = "no answer in 5 tries, while other requests were answered"
    assert await world.send(CALL) == Refusal(cause, str(FAULT), "unanswered")
    assert world.tries == 5
    assert world.now < 10.0


async def test_an_outage_is_not_the_fault_of_a_request() -> None:
    world = World(FAULT, FAULT, policy=RetryPolicy(retries=2, outage=300.0))
    with pytest.raises(ModelError, match="has not answered for 300 s"):
        await world.send(CALL)
    assert world.tries > 5


async def test_after_an_outage_the_request_is_answered() -> None:
    world = World(FAULT, FAULT, policy=RetryPolicy(retries=2, outage=300.0))

    def recover() -> None:
        if world.now > 200.0:
            world.own = world.others = None

    world.during = recover
    assert await world.send(CALL) == HERE


async def test_a_model_that_cannot_be_checked_is_waited_for() -> None:
    world = World(FAULT, checked=False, policy=RetryPolicy(retries=2, outage=300.0))
    with pytest.raises(ModelError, match="has not answered for 300 s"):
        await world.send(CALL)


# -- busy ----------------------------------------------------------------------------------


async def test_a_model_too_busy_for_everybody_stops_the_run_after_the_outage() -> None:
    world = World(BUSY, BUSY, policy=RetryPolicy(outage=300.0))
    with pytest.raises(ModelError, match="has not answered for 300 s, last: HTTP 503"):
        await world.send(CALL)


async def test_a_request_that_alone_meets_a_busy_model_is_abandoned_after_the_outage() -> None:
    world = World(BUSY, policy=RetryPolicy(outage=300.0))
    refusal = await world.send(CALL)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "unanswered"
    assert refusal.raw == str(BUSY)
    assert world.now >= 300.0


async def test_a_request_that_is_always_outrun_by_others_is_not_abandoned() -> None:
    """A tight rate limit: others are answered all the time, and one day this one is, too."""
    world = World(BUSY)
    waits = itertools.count()

    async def sleep(seconds: float) -> None:
        world.now += seconds
        await world.send(OTHER)
        if next(waits) == 200:
            world.own = None

    world.send = retry(
        world._answer, dict.fromkeys(ROLES, RetryPolicy(retries=2, outage=30.0)),
        dict.fromkeys(ROLES, "model"), sleep=sleep, clock=lambda: world.now,
    )  # fmt: skip
    assert await world.send(CALL) == HERE
    assert world.now > 30.0


# -- the account ---------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [True, False])
async def test_no_credit_stops_the_run_at_once(answered: bool) -> None:
    world = World(ModelError("HTTP 402: insufficient credits"), answered=answered)
    with pytest.raises(ModelError, match="insufficient credits"):
        await world.send(CALL)
    assert world.tries == 1


# -- long waits ----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [86400.0, 601.0, float("inf"), 1e300])
async def test_a_wait_longer_than_the_outage_stops_the_run_and_says_until_when(
    seconds: float,
) -> None:
    world = World(Busy("HTTP 429: daily limit", seconds))
    with pytest.raises(
        ModelError, match=r"asks to wait .*, until .*\d\d:\d\d.*daily limit"
    ) as told:
        await world.send(CALL)
    assert "run the same command again then" in str(told.value)
    assert world.now == 0.0


async def test_a_wait_of_minutes_is_noted_once() -> None:
    fault = Busy("HTTP 429: slow down", 300.0)
    world = World(fault)

    def recover() -> None:
        world.own = None

    world.during = recover
    assert list(await asyncio.gather(world.send(CALL), world.send(CALL))) == [HERE, HERE]
    (note,) = world.notes
    assert note.startswith("`model` asks to wait 5 min 0 s (HTTP 429: slow down); waiting until ")


async def test_a_short_wait_is_not_worth_a_note() -> None:
    world = World(Busy("HTTP 429", 30.0))

    def recover() -> None:
        world.own = None

    world.during = recover
    assert await world.send(CALL) == HERE
    assert world.notes == []


async def test_a_silent_model_is_noted_with_the_cause() -> None:
    world = World(FAULT, FAULT, policy=RetryPolicy(outage=300.0))
    with pytest.raises(ModelError):
        await world.send(CALL)
    (note,) = world.notes
    assert "has not answered for" in note
    assert "(last: HTTP 500: template error)" in note


async def test_a_batch_may_be_silent_for_hours() -> None:
    world = World(FAULT, checked=False, policy=RetryPolicy(outage=float("inf")))

    def recover() -> None:
        if world.now > 10_000.0:
            world.own = None

    world.during = recover
    assert await world.send(CALL) == HERE
    assert world.notes == []


async def test_a_long_wait_that_only_one_request_is_asked_for_is_not_waited_for() -> None:
    """Its server has a daily limit; the others are answered by another server of the model."""
    world = World(Busy("HTTP 429: daily limit", 86400.0))

    async def sleep(seconds: float) -> None:
        world.now += seconds
        await world.send(OTHER)
        if world.tries == 9:
            world.own = None

    async def answer(call: Call) -> Answer:
        if call is CALL and not world.tries:
            world.now += 1.0
            await world.send(OTHER)
        return await world._answer(call)

    world.send = retry(
        answer, dict.fromkeys(ROLES, RetryPolicy()), dict.fromkeys(ROLES, "model"),
        sleep=sleep, clock=lambda: world.now,
    )  # fmt: skip
    assert await world.send(CALL) == HERE
    assert world.now < 60.0


# -- the check -----------------------------------------------------------------------------


async def test_simultaneous_checks_are_one() -> None:
    asked, hold = 0, asyncio.Event()

    async def check(call: Call) -> None:
        nonlocal asked
        asked += 1
        await hold.wait()

    async def send(call: Call) -> Answer:
        raise DENIED

    again = retry(
        send, dict.fromkeys(ROLES, RetryPolicy()), dict.fromkeys(ROLES, "m"),
        answered={"m"}, checks={"m": check},
    )  # fmt: skip
    calls = [asyncio.ensure_future(again(CALL)) for _ in range(9)]
    await asyncio.sleep(0.01)
    assert asked == 1
    hold.set()
    assert len(await asyncio.gather(*calls)) == 9


async def test_a_run_that_stops_during_a_check_stops() -> None:
    world = World(DENIED, Stopped("stopped"))
    with pytest.raises(Stopped):
        await world.send(CALL)


def test_what_is_asked_suits_the_server() -> None:
    assert harmless(Capabilities()).messages
    assert harmless(Capabilities(chat=False, completions=True)).prompt


# -- waiting -------------------------------------------------------------------------------


def retrying(
    patience: RetryPolicy, *answers: Answer | Exception
) -> tuple[Send, list[Call], list[float]]:
    """The retry skin around scripted answers, with the waits that it would have made.

    Time passes only by waiting.
    """
    send, calls = answering(*answers)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    patient = dict.fromkeys(ROLES, patience)
    names: dict[Role, str] = dict.fromkeys(ROLES, "model")
    clock = lambda: sum(waits)  # noqa: E731
    return retry(send, patient, names, sleep=sleep, clock=clock), calls, waits


async def test_a_fault_of_transport_is_tried_again() -> None:
    fault = TransientError("reset")
    send, calls, waits = retrying(RetryPolicy(), fault, fault, Completion("there"))
    assert await send(CALL) == Completion("there")
    assert len(calls) == 3
    assert len(waits) == 2
    assert {call.seed for call in calls} == {CALL.seed}


@given(st.integers(0, 12), st.floats(0.01, 5), st.floats(5, 50))
def test_waits_double_up_to_the_longest_and_lie_anywhere_below(
    faults: int, first: float, longest: float
) -> None:
    async def go() -> list[float]:
        answers = [TransientError("reset")] * faults
        send, _, waits = retrying(
            RetryPolicy(first_wait=first, longest_wait=longest), *answers, Completion("")
        )
        await send(CALL)
        return waits

    waits = asyncio.run(go())
    assert len(waits) == faults
    bounds = [min(first * 2**k, longest) for k in range(faults)]
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))


async def test_jitter_is_full() -> None:
    """Over many calls the first wait falls everywhere between nothing and its bound."""
    first: list[float] = []
    for _ in range(200):
        answers = (TransientError("reset"), Completion(""))
        send, _, waits = retrying(RetryPolicy(first_wait=1.0), *answers)
        await send(CALL)
        first += waits
    assert min(first) < 0.2
    assert max(first) > 0.8


async def test_what_the_server_asks_to_wait_is_waited() -> None:
    fault = TransientError("slow down", retry_after=42.0)
    send, _, waits = retrying(RetryPolicy(), fault, fault, Completion(""))
    await send(CALL)
    assert all(42.0 <= wait < 45.0 for wait in waits)


@pytest.mark.parametrize("fault", [TransientError("reset"), Busy("HTTP 503", retry_after=9.0)])
async def test_a_model_that_answers_nobody_stops_the_run_after_the_outage(
    fault: TransientError,
) -> None:
    send, calls, waits = retrying(RetryPolicy(retries=2, outage=300.0), *[fault] * 500)
    with pytest.raises(ModelError) as caught:
        await send(CALL)
    assert f"agent: `model` has not answered for 300 s, last: {fault}" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert 300.0 <= sum(waits) <= 331.0
    assert len(calls) == len(waits) + 1 > 3


async def test_a_request_that_fails_while_others_are_answered_is_given_up() -> None:
    """One bad prompt ends its own dialogue, not the run; the fault is recorded as an answer."""
    bad, good = CALL, replace(CALL, step="turn/1/user")
    others: list[Answer] = []

    async def answer(call: Call) -> Answer:
        if call is bad:
            raise TransientError("HTTP 500: assertion failed")
        return Completion("there")

    async def sleep(seconds: float) -> None:
        others.append(await send(good))

    patient = dict.fromkeys(ROLES, RetryPolicy(retries=4))
    ticks = itertools.count()
    send = retry(
        answer, patient, dict.fromkeys(ROLES, "m"), sleep=sleep, clock=lambda: float(next(ticks))
    )
    refusal = await send(bad)
    assert refusal == Refusal(
        "no answer in 5 tries, while other requests were answered",
        "HTTP 500: assertion failed",
        "unanswered",
    )
    assert others == [Completion("there")] * 4


async def test_being_busy_is_no_fault_of_a_request() -> None:
    busy = [Busy("HTTP 429", retry_after=1.0)] * 50
    send, calls, _ = retrying(RetryPolicy(retries=2), *busy, Completion("at last"))
    assert await send(CALL) == Completion("at last")
    assert len(calls) == 51


@pytest.mark.parametrize("error", [ModelError("wrong key"), RuntimeError("a mistake")])
async def test_nothing_else_is_tried_again(error: Exception) -> None:
    send, calls, _ = retrying(RetryPolicy(), error)
    with pytest.raises(type(error)):
        await send(CALL)
    assert len(calls) == 1
