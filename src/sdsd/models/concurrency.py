"""How many requests a server is given at once, found out while it works.

Four things bound it, and whichever is lowest holds:

* refusals. 429 and its like say that there were too many. The limit falls to what the server was
  seen to hold, and rises again by one at a time, more rarely after each refusal (additive increase,
  and a decrease to the number that was accepted; halved where nothing is).
* the knee. Servers that queue instead of refusing (vLLM, SGLang, llama.cpp) never say no. The
  limit doubles while the tokens written per second rise with it, and stays where they stop.
* memory. A dialogue in progress has its prefix in the server's cache. When replies say that the
  prefixes of dialogues under way are no longer found there, too many are under way: together they
  are more than the cache holds. The limit falls until those that began first fit, and the newest
  wait; a server that tells its cache's size is believed from the beginning.
* the user. An explicit limit is never exceeded, and nothing is searched for then.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from msgspec import Struct

from sdsd.models.rate_limits import Clock, PrioritySemaphore
from sdsd.types import Completion, Role

RAMP = 0.1
"""Seconds between two doublings before the first refusal."""
FIRST = 16
"""Requests at once to begin with, where nothing is known."""
MOST = 1024
"""Never more than this at one server, unless the user says so."""
_GAIN = 1.05
"""Doubling the limit must make so much more of the tokens per second to be worth it."""
_QUEUES = 3
"""Looks in a row that make a queue one; the prompts of those just let in wait for a moment."""
_FILL = 0.9
"""Share of the cache that dialogues under way may fill; the rest is for those just finished."""
_LOST = 0.5
"""A prefix counts as lost when less than this share of it was found in the cache."""
_TOLERATED = 0.05
_MANY = 0.15
"""Shares of lost prefixes up to which memory suffices, and from which it does not."""
_WORTH = 64
"""Tokens; shorter prefixes say nothing."""


class Gauges(Struct, frozen=True):
    """What a server tells about itself while it works (`/metrics`)."""

    running: float = 0.0
    """Requests being answered."""
    waiting: float = 0.0
    """Requests in its queue."""
    cache_tokens: int = 0
    """Tokens that its prefix cache holds; 0 where it does not say."""


class ConcurrencyController:
    """Decides `gate.limit`. Hears what becomes of requests; `note` hears what was found out.

    `most` is the limit, or the bound of the search if `search`.
    """

    def __init__(
        self,
        gate: PrioritySemaphore,
        most: int,
        *,
        search: bool,
        note: Callable[[str], None] = lambda text: None,
        changed: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._gate, self._most = gate, most
        self._note, self._changed = note, changed
        self._refusals = _Refusals(min(FIRST, most), clock)
        self._knee = _Knee(min(FIRST, most), most, clock) if search else None
        self._memory = _Memory() if search else None
        self._answers = 0
        self._set()

    def answered(
        self, dialogue: int, role: Role, answer: Completion, *, busy: int, waited: bool
    ) -> None:
        """A reply came.

        `busy` requests, this one included, were at the server when it was sent. `waited`: it stood
        in the queue before that, so its prefix may be gone.
        """
        gate, pressed = self._gate, self._pressed(busy)
        self._refusals.accepted(pressed=pressed)
        if self._knee and pressed and self._knee.limit == gate.limit:
            found = self._knee.answered(busy, answer.completion_tokens, answer.seconds)
            if found:
                self._note(found)
        if self._memory:
            self._memory.answered(dialogue, role, answer, waited=waited)
            self._answers += 1
            if self._answers % max(8, gate.limit // 8) == 0:
                self._memory.choices(gate.limit)
        self._set()

    def refused(self, retry_after: float | None) -> None:
        """The server said that it has too much to do."""
        self._refusals.refused(self._gate.busy, retry_after)
        self._set()

    def told(self, gauges: Gauges) -> None:
        """The server told about itself."""
        if self._memory:
            self._memory.told(gauges.cache_tokens)
        if self._knee:
            self._knee.told(gauges, pressed=self._pressed(self._gate.busy))
        self._set()

    def tick(self) -> bool:
        """Time has passed: `RAMP` seconds. False when there is no more use in telling that."""
        more = self._refusals.ramp(self._most, pressed=self._pressed(self._gate.busy))
        self._set()
        return more

    def _pressed(self, busy: int) -> bool:
        """Whether the limit is what holds requests back."""
        return busy >= 0.9 * self._gate.limit

    def closed(self, dialogue: int) -> None:
        """A dialogue is over; its prefix is of no more use."""
        if self._memory:
            self._memory.closed(dialogue)

    @property
    def pause(self) -> float:
        """Seconds for which nothing should be sent, because all that was sent was refused."""
        return self._refusals.pause

    def _set(self) -> None:
        limit = min(self._most, self._refusals.limit)
        if self._knee:
            limit = min(limit, self._knee.limit)
        if self._memory and self._memory.fits:
            limit = min(limit, self._memory.fits)
        if limit != self._gate.limit:
            self._gate.limit = limit
            self._gate.admit()
            self._changed()


class _Refusals:
    """The bound that refusals set: found by slow start, then additive increase.

    A refusal comes at once, whatever an answer takes. So before the first one the bound doubles
    every `RAMP` seconds under full load, and not only when answers come.
    """

    _SHORTEST, _LONGEST = 1.0, 15.0

    def __init__(self, limit: int, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._ever = False
        self._since = 0
        """Refusals since the last acceptance."""
        self._every = self._SHORTEST
        """Seconds between two attempts to raise the limit."""
        self._next = 0.0
        self._raised = False
        self._paused = 0.0

    def refused(self, busy: int, retry_after: float | None) -> None:
        now = self._clock()
        held = busy - 1  # all that are there but the one that was refused
        self.limit = max(1, min(self.limit, held))
        if self._since and not held:  # not even one was taken
            self._paused = max(self._paused, now + (retry_after or 0.0))
        self._ever = True
        self._since += 1
        if self._raised:  # the last raise was too much
            self._every = min(self._every * 4, self._LONGEST)
            self._raised = False
        self._next = now + self._every

    def accepted(self, *, pressed: bool) -> None:
        self._since = 0
        if not pressed:
            return
        if self._ever and self._clock() >= self._next:
            if self._raised:  # and that was fine
                self._every = max(self._every / 2, self._SHORTEST)
            self.limit += 1
            self._raised = True
            self._next = self._clock() + self._every

    def ramp(self, most: int, *, pressed: bool) -> bool:
        """Double, if nothing was refused yet; False when that is over."""
        if self._ever or self.limit >= most:
            return False
        if pressed:
            self.limit = min(2 * self.limit, most)
        return True

    @property
    def pause(self) -> float:
        return max(0.0, self._paused - self._clock())


class _Knee:
    """The limit beyond which a server writes no more tokens per second.

    By Little's law a server that has k requests writes k times the tokens per second of one; so a
    few requests that found the server full tell its rate, without waiting for a steady state. From
    the first limit it goes up in doublings while that pays; if the first of them does not, down in
    halves while that costs nothing.
    """

    _AGAIN = 60.0
    """Seconds until a knee is doubted, and one step up is tried once more."""

    def __init__(self, first: int, most: int, clock: Clock) -> None:
        self.limit = first
        self._most = most
        self._clock = clock
        self._rates: dict[int, float] = {}
        self._step = 2.0
        """Factor to the next limit; 0: the knee is found."""
        self._before = 0
        """The limit that this one is compared with."""
        self._queues = 0
        """Looks in a row that saw a queue in the server; -1: what it tells is of no more use."""
        self._begin(first)

    def _begin(self, limit: int) -> None:
        self.limit = limit
        self._skip = limit // 4  # these shared the server with the prompts of those just let in
        self._answers = 0
        self._work = self._seconds = 0.0
        self._began = self._clock()

    def answered(self, busy: int, tokens: int, seconds: float) -> str:
        """A reply, asked `seconds` ago as one of `busy`; a line when the knee was found."""
        if not self._step:
            if self._clock() - self._began > self._AGAIN and self.limit < self._most:
                self._rates = {self.limit: self._rates.get(self.limit, 0.0)}
                self._go(1.25)
            return ""
        if busy > 1.1 * self.limit:  # it began at another limit
            return ""
        if self._skip > 0:
            self._skip -= 1
            return ""
        self._answers += 1
        self._work += busy * tokens
        self._seconds += seconds
        if self._answers < max(8, self.limit // 4):
            return ""
        self._rates[self.limit] = self._work / max(self._seconds, 1e-9)
        return self._compare()

    def _compare(self) -> str:
        limit, before, rate = self.limit, self._before, self._rates[self.limit]
        if not before:
            return self._go(2.0)
        if limit > before:
            worth = 1 + (_GAIN - 1) * (limit / before - 1)
            if rate >= worth * self._rates[before]:
                return self._go(self._step)
            if len(self._rates) == 2 and self._step == 2.0:  # it never paid: look below
                self._begin(before)
                return self._go(0.5)
            return self._settle(before)
        if rate * _GAIN >= self._rates[before]:
            return self._go(0.5)
        return self._settle(before)

    def _go(self, step: float) -> str:
        """On to the next limit, or stay if there is none."""
        following = (
            int(self.limit * step) if step < 1 else max(self.limit + 1, int(self.limit * step))
        )
        following = max(1, min(following, self._most))
        if following == self.limit:
            return self._settle(self.limit)
        self._before, self._step = self.limit, step
        self._begin(following)
        return ""

    def _settle(self, limit: int) -> str:
        self._begin(limit)
        self._step = 0.0
        known = ", ".join(f"{rate:,.0f} tokens/s at {n}" for n, rate in sorted(self._rates.items()))
        return f"{limit} requests at once from here on ({known})"

    def told(self, gauges: Gauges, *, pressed: bool) -> None:
        """While the server, full by our limit, has no queue, the limit doubles unmeasured.

        From where a queue stays, the search goes on by measuring.
        """
        if self._queues < 0:
            return
        if gauges.waiting <= max(4.0, 0.1 * gauges.running):
            self._queues = 0
            if pressed and self.limit < self._most:
                self._rates.clear()
                self._before = 0
                self._begin(min(2 * self.limit, self._most))
            return
        self._queues += 1
        if self._queues == _QUEUES:
            self._queues = -1
            self._rates.clear()
            self._before = 0
            self._begin(max(1, min(self.limit, int(gauges.running))))


class _Memory:
    """The bound that the server's prefix cache sets, in dialogues; 0 while none is known."""

    def __init__(self) -> None:
        self.fits = 0
        """Dialogues that fit, those begun first."""
        self._capacity = 0.0
        """Tokens that dialogues under way may hold; 0: not known."""
        self._told = 0
        self._held: dict[int, int] = {}
        """By dialogue, the tokens of its last prompt and reply."""
        self._prompts: dict[int, dict[Role, int]] = {}
        """By dialogue and role, the tokens of its last prompt: what must be found again."""
        self._reported = False
        self._kept = self._lost = 0

    def answered(self, dialogue: int, role: Role, answer: Completion, *, waited: bool) -> None:
        prompts = self._prompts.setdefault(dialogue, {})
        before = prompts.get(role, 0)
        if answer.cached_tokens:
            self._reported = True
        if before >= _WORTH and self._reported and not waited:
            if answer.cached_tokens < _LOST * before:
                self._lost += 1
            else:
                self._kept += 1
        prompts[role] = answer.prompt_tokens
        self._held[dialogue] = answer.prompt_tokens + answer.completion_tokens

    def closed(self, dialogue: int) -> None:
        self._held.pop(dialogue, None)
        self._prompts.pop(dialogue, None)

    def told(self, tokens: int) -> None:
        if tokens and tokens != self._told:
            self._told = tokens
            self._capacity = tokens * _FILL

    def choices(self, limit: int) -> None:
        """Draw conclusions from what was lost, and count who fits."""
        held = [tokens for _, tokens in sorted(self._held.items())]
        seen = self._kept + self._lost
        if held and seen >= max(16, limit // 2):
            lost = self._lost / seen
            self._kept = self._lost = 0
            if lost > _MANY:
                now = float(sum(held[:limit]))
                self._capacity = _FILL * min(self._capacity or now, now)
            elif lost < _TOLERATED and self.fits and self.fits <= limit:
                self._capacity *= 1.03
        if not self._capacity or not held:
            return
        within = sum(total <= self._capacity for total in itertools.accumulate(held))
        if within == len(held):  # those to come are as large as these are on average
            within += int((self._capacity - sum(held)) / (sum(held) / len(held)))
        self.fits = max(1, within)
