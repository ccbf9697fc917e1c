"""The engine that `simulator.py` imitates: continuous batching and a prefix cache, as arithmetic.

Time is in modelled milliseconds, supplied by the caller; nothing sleeps. The engine works in steps.
A step takes `a + b * running + c * fresh` ms: `running` sequences hold a slot, and `fresh` prompt
tokens were not in the cache and are computed in it. The step that computes the last token of a
prompt writes the first token of the reply, and each later step writes one more. A new sequence
joins the next step to begin, in order of arrival, as long as there are free slots.

Between two events (a sequence finishes, arrives or leaves) all steps are alike, so they are not
simulated one by one: the engine computes the end of such a span, and an event costs time
logarithmic in the number of running sequences.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from msgspec import Struct

CHARS = 4
"""Characters in a token."""
BLOCK = 16
"""Tokens in a block of the cache."""
_WIDTH = BLOCK * CHARS


def count(text: str) -> int:
    """Return the number of tokens of a text, at least one."""
    return max(1, -(-len(text) // CHARS))


def chained(text: str, last: int = 0) -> list[int]:
    """Return, for each full block of `text`, a hash of the block and everything before it.

    `last` is the hash of what comes before `text`. Hashes are valid within one process only.
    """
    hashes = []
    for start in range(0, len(text) - _WIDTH + 1, _WIDTH):
        last = hash((last, text[start : start + _WIDTH]))
        hashes.append(last)
    return hashes


def lengthened(chain: list[int], prompt: str, reply: str) -> list[int]:
    """Return the blocks of `prompt` and `reply` together; `chain` has those of `prompt`."""
    rest = prompt[len(chain) * _WIDTH :] + reply
    return chain + chained(rest, chain[-1] if chain else 0)


class PrefixCache:
    """Blocks of computed text, with LRU eviction.

    Later blocks of a text are evicted before earlier ones, without which they are useless. All
    blocks ever seen are remembered too, to tell what an unlimited cache would have done. Without
    `capacity` nothing is kept or counted.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: OrderedDict[int, None] = OrderedDict()
        self._ever: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def match(self, chain: Sequence[int], prompt_tokens: int) -> tuple[int, int]:
        """Return the tokens of a prompt found here, and those an unlimited cache would have.

        Never all of them: the last token is always computed, and with it its block.
        """
        most = min(len(chain), (prompt_tokens - 1) // BLOCK)
        held, ever = self._held, self._ever
        found = 0
        while found < most and chain[found] in held:
            found += 1
        least = found
        while least < most and chain[least] in ever:
            least += 1
        for block in reversed(chain[:found]):
            held.move_to_end(block)
        return found * BLOCK, least * BLOCK

    def clear(self) -> None:
        self._held.clear()
        self._ever.clear()

    def insert(self, chain: Sequence[int]) -> None:
        if not self.capacity:
            return
        held = self._held
        for block in reversed(chain):
            held[block] = None
            held.move_to_end(block)
        self._ever.update(chain)
        for _ in range(len(held) - self.capacity):
            held.popitem(last=False)


class Speed(Struct, frozen=True):
    """The engine's parameters; see the module's docstring."""

    slots: int = 256
    a: float = 6.0
    b: float = 0.05
    c: float = 0.02
    batch_tokens: int = 8192
    """Uncached prompt tokens that fit into one step."""


class Job:
    """One sequence: a prompt that is read and a reply that is written."""

    __slots__ = ("cached", "chain", "done", "ends", "gone", "least", "left", "prompt_tokens",
                 "reply_tokens", "whole")  # fmt: skip

    def __init__(
        self,
        prompt_tokens: int,
        reply_tokens: int,
        chain: list[int],
        whole: list[int],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.reply_tokens = reply_tokens
        self.chain = chain
        self.whole = whole
        self.done = done
        """Called by whoever drives the engine when the job is finished."""
        self.cached = 0
        """Prompt tokens found in the cache, once admitted."""
        self.least = 0
        """Prompt tokens that an unlimited cache would have held, once admitted."""
        self.left = 0
        """Prompt tokens still to compute, once admitted."""
        self.ends = 0
        """Number of the step that writes the last token; 0 while the prompt is read."""
        self.gone = False
        """Whether it was cancelled."""


class Engine:
    """Slots, a queue, and the steps. Call `advance` to a time before reporting its events."""

    def __init__(self, speed: Speed, cache: PrefixCache) -> None:
        self._speed = speed
        self._cache = cache
        self._waiting: deque[Job] = deque()
        self._inside: set[Job] = set()
        self._reading: deque[Job] = deque()
        self._read: list[Job] = []
        self._writing: list[tuple[int, int, Job]] = []
        self._numbers = itertools.count()
        self._step = 0
        self._start = 0.0
        self._length = 0.0
        self._span = 0
        self._leaving = False
        self.busy = 0.0
        """Return the milliseconds spent in finished steps."""
        self.running_peak = 0
        self.waiting_peak = 0

    @property
    def running(self) -> int:
        return len(self._inside)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def next(self) -> float | None:
        """Return when `advance` has something to do; None while the engine is idle."""
        return self._start + self._span * self._length if self._span else None

    def held(self) -> int:
        """Return the blocks that running sequences occupy now, counting shared ones once."""
        shared: set[int] = set().union(*(job.chain for job in self._inside))
        tails = 0
        for job in self._inside:
            written = job.reply_tokens - (job.ends - self._step) if job.ends else 0
            tails += -(-(job.prompt_tokens + written) // BLOCK) - len(job.chain)
        return len(shared) + tails

    def submit(self, job: Job, now: float) -> None:
        """Give a sequence a slot, or queue it."""
        self._waiting.append(job)
        if not self._span:
            self._start = now
            self._begin()
        elif len(self._inside) < self._speed.slots:
            self._cut(now)
        self.waiting_peak = max(self.waiting_peak, len(self._waiting))

    def abort(self, job: Job, now: float) -> None:
        """Remove a sequence if it is still here; its slot is free from the next step on."""
        job.gone = True
        if job in self._inside:
            self._leaving = True
            self._cut(now)
        elif job in self._waiting:
            self._waiting.remove(job)

    def advance(self, now: float) -> list[Job]:
        """Take all steps that end up to `now`; return the finished jobs, in order."""
        finished: list[Job] = []
        while self._span and self._start + self._span * self._length <= now:
            finished += self._end()
            self._begin()
        return finished

    def _cut(self, now: float) -> None:
        """End the span with the step in progress at `now`."""
        self._span = min(self._span, int((now - self._start) / self._length) + 1)

    def _begin(self) -> None:
        speed, budget = self._speed, self._speed.batch_tokens
        self._read = []
        while budget:
            if not self._reading:
                if not self._waiting or len(self._inside) == speed.slots:
                    break
                self._admit(self._waiting.popleft())
            job = self._reading[0]
            taken = min(budget, job.left)
            job.left -= taken
            budget -= taken
            if not job.left:
                self._read.append(self._reading.popleft())
                job.ends = self._step + job.reply_tokens
                heapq.heappush(self._writing, (job.ends, next(self._numbers), job))
        fresh, running = speed.batch_tokens - budget, len(self._inside)
        self.running_peak = max(self.running_peak, running)
        self._length = speed.a + speed.b * running + speed.c * fresh
        if not running:
            self._span = 0
        else:
            self._span = 1 if fresh else self._writing[0][0] - self._step

    def _admit(self, job: Job) -> None:
        job.cached, job.least = self._cache.match(job.chain, job.prompt_tokens)
        job.left = job.prompt_tokens - job.cached
        self._inside.add(job)
        self._reading.append(job)

    def _end(self) -> list[Job]:
        """Account for the span, and return the jobs that finished with it."""
        self._step += self._span
        self._start += self._span * self._length
        self.busy += self._span * self._length
        for job in self._read:
            self._cache.insert(job.chain)
        finished = []
        while self._writing and self._writing[0][0] <= self._step:
            job = heapq.heappop(self._writing)[2]
            if not job.gone:
                self._cache.insert(job.whole)
                self._inside.remove(job)
                finished.append(job)
        if self._leaving:
            self._leaving = False
            self._inside = {job for job in self._inside if not job.gone}
            self._reading = deque(job for job in self._reading if not job.gone)
        return finished
