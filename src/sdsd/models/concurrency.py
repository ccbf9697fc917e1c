"""Find how many requests a server should be given at once, while it works.

Four bounds apply, and the lowest one holds:

* Refusals. HTTP 429 and similar mean too many requests, if they are many: some servers refuse one
  request in fifty whatever their load. Once too large a share is refused, the limit falls to the
  number that the server accepted. It rises again by one, two, four ..., less often after each
  rise that was too much.
* The knee. Servers that queue instead of refusing (vLLM, SGLang, llama.cpp) never say no. The limit
  doubles while the tokens generated per second rise with it, and stays where they stop rising.
* Memory. An open dialogue has its prefix in the server's cache. When replies show that prefixes of
  open dialogues are no longer cached, more dialogues are open than the cache can hold. The limit
  falls until the oldest dialogues fit, and the newest wait. If a server reports the size of its
  cache, that is used from the beginning.
* The user. A configured limit is never exceeded, and no search takes place.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from sdsd.models.rate_limits import Clock, PrioritySemaphore
from sdsd.types import Completion, Role

RAMP = 0.1
"""Seconds between two doublings before the first refusal."""
INITIAL_LIMIT = 16
MAX_LIMIT = 1024
"""The highest limit that the search may reach; a configured limit may be higher."""
_GAIN = 1.05
"""Factor by which tokens per second must rise for doubling the limit to pay off."""
_QUEUES = 3
"""Consecutive polls that must see a queue; prompts that just arrived queue for a moment."""
_FILL = 0.9
"""Share of the cache that open dialogues may fill; finished ones still occupy the rest."""
_LOST = 0.5
"""A prefix counts as lost if less than this share of it was found in the cache."""
_TOLERATED = 0.05
_MANY = 0.15
"""Shares of lost prefixes below which memory suffices, and above which it does not."""
_WORTH = 64
"""Tokens; shorter prefixes are not evidence."""


class Gauges(Struct, frozen=True):
    """A server's own metrics (`/metrics`)."""

    running: float = 0.0
    """Requests being processed."""
    waiting: float = 0.0
    """Requests in its queue."""
    cache_tokens: int = 0
    """Size of its prefix cache in tokens; 0: unknown."""


class ConcurrencyController:
    """Sets `permits.limit` from the outcomes of requests, and notes the limit it found.

    `max_limit` is the limit itself, or the bound of the search if `search`.
    """

    def __init__(
        self,
        permits: PrioritySemaphore,
        max_limit: int,
        *,
        search: bool,
        note: Callable[[str], None] = lambda text: None,
        changed: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._permits, self._max_limit = permits, max_limit
        self._note, self._changed = note, changed
        self._refusals = _Refusals(min(INITIAL_LIMIT, max_limit), clock)
        self._knee = _Knee(min(INITIAL_LIMIT, max_limit), max_limit, clock) if search else None
        self._memory = _Memory() if search else None
        self._answers = 0
        self._update()

    def sent(self) -> int:
        """Note that a request is being sent; return its number."""
        return self._refusals.sent()

    def answered(
        self,
        dialogue: int,
        role: Role,
        answer: Completion,
        *,
        number: int,
        busy: int,
        waited: bool,
    ) -> None:
        """Learn from a completed request.

        number   as `sent` returned it
        busy     requests in flight when it was sent, itself included
        waited   it queued for a permit first, so its prefix may have been evicted
        """
        permits, pressed = self._permits, self._pressed(busy)
        self._refusals.accepted(number, pressed=pressed)
        if self._knee and pressed and self._knee.limit == permits.limit:
            found = self._knee.answered(busy, answer.completion_tokens, answer.seconds)
            if found:
                self._note(found)
        if self._memory:
            self._memory.answered(dialogue, role, answer, waited=waited)
            self._answers += 1
            if self._answers % max(8, permits.limit // 8) == 0:
                self._memory.decide(permits.limit)
        self._update()

    def refused(self, number: int, retry_after: float | None) -> None:
        """Learn from a refusal of the request that was sent as `number`."""
        self._refusals.refused(number, self._permits.busy, retry_after)
        self._update()

    def observe(self, gauges: Gauges) -> None:
        if self._memory:
            self._memory.observe(gauges.cache_tokens)
        if self._knee:
            self._knee.observe(gauges, pressed=self._pressed(self._permits.busy))
        self._update()

    def tick(self) -> bool:
        """Ramp up, `RAMP` seconds after the last call; return whether to call again."""
        more = self._refusals.ramp(self._max_limit, pressed=self._pressed(self._permits.busy))
        self._update()
        return more

    def _pressed(self, busy: int) -> bool:
        """Whether the limit is what holds requests back, so that outcomes are evidence on it."""
        return busy >= 0.9 * self._permits.limit

    def closed(self, dialogue: int) -> None:
        """Forget a finished dialogue: its prefix is no longer needed."""
        if self._memory:
            self._memory.closed(dialogue)

    @property
    def pause(self) -> float:
        """Seconds to send nothing for, because every request was refused."""
        return self._refusals.pause

    def _update(self) -> None:
        limit = min(self._max_limit, self._refusals.limit)
        if self._knee:
            limit = min(limit, self._knee.limit)
        if self._memory and self._memory.fits:
            limit = min(limit, self._memory.fits)
        if limit != self._permits.limit:
            self._permits.limit = limit
            self._permits.admit()
            self._changed()


class _Refusals:
    """The bound set by refusals: slow start, then increase by doubling steps.

    A full server refuses most of what is sent, since every place that it has no room for is tried
    again and again; at random, few are refused. A cumulative sum test (Page 1954) tells which: of
    two hypotheses, that a request is refused with probability `_RARE` or `_OFTEN`, it adds up the
    log likelihood ratio of the outcomes, at least 0, and decides at `_ALARM`. With `_RARE` it errs
    once in more than e^`_ALARM` requests, and an error costs one place for some seconds.

    Outcomes count in the order of sending. A refusal arrives at once, however long an answer takes;
    so what was sent before a refused request and is still in flight counts as accepted, and the
    limit doubles every `RAMP` seconds under full load without waiting for answers. As refusals may
    overtake each other, what was accepted within `_LAG` seconds may take the sum below 0.
    """

    _SHORTEST, _LONGEST = 1.0, 15.0
    _LAG = 0.2
    _RARE, _OFTEN = 0.1, 0.5
    _REFUSED = math.log(_OFTEN / _RARE)
    _ACCEPTED = math.log((1 - _OFTEN) / (1 - _RARE))
    _ALARM = 6.0

    def __init__(self, limit: int, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._sent = self._counted = 0
        """The last request, and the last one whose outcome is in the sum."""
        self._sum = 0.0
        self._lately: deque[tuple[float, int]] = deque()
        """When how many requests were counted as accepted, within `_LAG` seconds."""
        self._late = 0
        """Their number."""
        self._ever = False
        self._since = 0
        """Refusals since the last acceptance."""
        self._every = self._SHORTEST
        """Seconds between two attempts to raise the limit."""
        self._step = 1
        self._next = 0.0
        self._raised = False
        self._paused = 0.0

    def sent(self) -> int:
        self._sent += 1
        return self._sent

    def refused(self, number: int, busy: int, retry_after: float | None) -> None:
        now = self._clock()
        accepted = busy - 1  # all in flight but the refused one
        if self._since and not accepted:  # not even one was accepted
            self._paused = max(self._paused, now + (retry_after or 0.0))
        self._since += 1
        self._count(number - 1)
        ratio = self._REFUSED
        if number <= self._counted:  # it had been counted as accepted
            ratio -= self._ACCEPTED
        self._counted = max(self._counted, number)
        self._sum = min(self._sum + ratio, 2 * self._ALARM)
        if self._sum < self._ALARM:
            return
        self.limit = max(1, min(self.limit, accepted))
        self._ever = True
        self._step = 1
        if self._raised:  # the last raise was too much
            self._every = min(self._every * 4, self._LONGEST)
            self._raised = False
        self._next = now + self._every

    def accepted(self, number: int, *, pressed: bool) -> None:
        self._since = 0
        self._count(number)
        if not (pressed and self._ever and self._clock() >= self._next):
            return
        if self._raised:  # and that was fine
            self._every = max(self._every / 2, self._SHORTEST)
            self._step *= 2
        self.limit += self._step
        self._raised = True
        self._next = self._clock() + self._every

    def _count(self, number: int) -> None:
        """Count the requests up to `number` as accepted, unless their outcome is known."""
        now = self._clock()
        if fresh := max(0, number - self._counted):
            self._lately.append((now, fresh))
            self._late += fresh
            self._counted = number
        while self._lately and self._lately[0][0] < now - self._LAG:
            self._late -= self._lately.popleft()[1]
        self._sum = max(self._late * self._ACCEPTED, self._sum + fresh * self._ACCEPTED)

    def ramp(self, max_limit: int, *, pressed: bool) -> bool:
        """Double until the first alarm; return whether that phase continues."""
        if self._ever or self.limit >= max_limit:
            return False
        if pressed:
            self.limit = min(2 * self.limit, max_limit)
        return True

    @property
    def pause(self) -> float:
        return max(0.0, self._paused - self._clock())


class _Knee:
    """The limit beyond which a server generates no more tokens per second.

    By Little's law a server with k requests in flight generates k times the tokens per second of
    one request; so a few requests sent at full load give its rate, without a steady state. The
    limit doubles from the first one while that pays off; if the first doubling does not, it halves
    while that costs nothing.
    """

    _AGAIN = 60.0
    """Seconds after which one step above a found knee is tried again."""

    def __init__(self, first: int, max_limit: int, clock: Clock) -> None:
        self.limit = first
        self._max_limit = max_limit
        self._clock = clock
        self._rates: dict[int, float] = {}
        self._step = 2.0
        """Factor to the next limit; 0: the knee was found."""
        self._before = 0
        """The limit that the current one is compared with."""
        self._queues = 0
        """Consecutive polls that saw a queue; -1: metrics are no longer used."""
        self._begin(first)

    def _begin(self, limit: int) -> None:
        self.limit = limit
        self._skip = limit // 4  # these shared the server with the prefill of new requests
        self._answers = 0
        self._work = self._seconds = 0.0
        self._began = self._clock()

    def answered(self, busy: int, tokens: int, seconds: float) -> str:
        """Add a reply that took `seconds` as one of `busy`; return a note if the knee was found."""
        if not self._step:
            if self._clock() - self._began > self._AGAIN and self.limit < self._max_limit:
                self._rates = {self.limit: self._rates.get(self.limit, 0.0)}
                self._go(1.25)
            return ""
        if busy > 1.1 * self.limit:  # it was sent under another limit
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
            if len(self._rates) == 2 and self._step == 2.0:  # doubling never paid off: search below
                self._begin(before)
                return self._go(0.5)
            return self._settle(before)
        if rate * _GAIN >= self._rates[before]:
            return self._go(0.5)
        return self._settle(before)

    def _go(self, step: float) -> str:
        """Move on to the next limit, or settle if there is none."""
        following = (
            int(self.limit * step) if step < 1 else max(self.limit + 1, int(self.limit * step))
        )
        following = max(1, min(following, self._max_limit))
        if following == self.limit:
            return self._settle(self.limit)
        self._before, self._step = self.limit, step
        self._begin(following)
        return ""

    def _settle(self, limit: int) -> str:
        self._begin(limit)
        self._step = 0.0
        known = ", ".join(f"{rate:,.0f} tokens/s at {n}" for n, rate in sorted(self._rates.items()))
        return f"{limit} requests at once from now on ({known})"

    def observe(self, gauges: Gauges, *, pressed: bool) -> None:
        """Double without measuring while the server, under full load, has no queue.

        Once a queue persists, the search continues by measuring.
        """
        if self._queues < 0:
            return
        if gauges.waiting <= max(4.0, 0.1 * gauges.running):
            self._queues = 0
            if pressed and self.limit < self._max_limit:
                self._rates.clear()
                self._before = 0
                self._begin(min(2 * self.limit, self._max_limit))
            return
        self._queues += 1
        if self._queues == _QUEUES:
            self._queues = -1
            self._rates.clear()
            self._before = 0
            self._begin(max(1, min(self.limit, int(gauges.running))))


class _Memory:
    """The bound set by the server's prefix cache, in dialogues."""

    def __init__(self) -> None:
        self.fits = 0
        """Dialogues that fit, oldest first; 0: unknown."""
        self._capacity = 0.0
        """Tokens that open dialogues may occupy; 0: unknown."""
        self._cache_size = 0
        self._sizes: dict[int, int] = {}
        """By dialogue, the tokens of its last prompt and reply."""
        self._prompts: dict[int, dict[Role, int]] = {}
        """By dialogue and role, the tokens of its last prompt: a prefix of the next one."""
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
        self._sizes[dialogue] = answer.prompt_tokens + answer.completion_tokens

    def closed(self, dialogue: int) -> None:
        self._sizes.pop(dialogue, None)
        self._prompts.pop(dialogue, None)

    def observe(self, tokens: int) -> None:
        if tokens and tokens != self._cache_size:
            self._cache_size = tokens
            self._capacity = tokens * _FILL

    def decide(self, limit: int) -> None:
        """Adjust the capacity by the share of lost prefixes, and count the dialogues that fit."""
        sizes = [tokens for _, tokens in sorted(self._sizes.items())]
        seen = self._kept + self._lost
        if sizes and seen >= max(16, limit // 2):
            lost = self._lost / seen
            self._kept = self._lost = 0
            if lost > _MANY:
                now = float(sum(sizes[:limit]))
                self._capacity = _FILL * min(self._capacity or now, now)
            elif lost < _TOLERATED and self.fits and self.fits <= limit:
                self._capacity *= 1.03
        if not self._capacity or not sizes:
            return
        within = sum(total <= self._capacity for total in itertools.accumulate(sizes))
        if within == len(sizes):  # assume that new dialogues are of average size
            within += int((self._capacity - sum(sizes)) / (sum(sizes) / len(sizes)))
        self.fits = max(1, within)
