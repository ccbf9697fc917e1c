"""Rounds: what the dialogues of a run with targets are meant for, decided from what came before.

Round r is laid out from all records of rounds up to r - 2, so that it may begin while r - 1 is
still under way: no server waits at a barrier. It depends on nothing else, neither on the order of
completion nor on the clock, and it is in the journal before its first dialogue begins. So a run
that was killed goes on exactly, and `verify` can lay out every round again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import msgspec
from msgspec import Struct

from sdsd.config import TargetsConfig
from sdsd.errors import ConfigError
from sdsd.runs.journal import Journal, Round
from sdsd.scenarios.quotas import PATIENCE, Assignment, Quota, Tally, Trial, allocate
from sdsd.scenarios.sampler import Axis, Scenarios
from sdsd.types import Record, Scenario

_LAST = 2**62
"""Not before the last dialogue of any run."""
_slots = msgspec.json.Decoder(tuple[Assignment, ...])


class _Ledger(Struct):
    """What a round is laid out from: the counts of so many rounds before it."""

    state: Tally = msgspec.field(default_factory=Tally)
    counted: int = 0


_ledger = msgspec.json.Decoder(_Ledger)


def quota_of(config: TargetsConfig, scenarios: Scenarios) -> Quota:
    """What a configuration asks for. Raises `ConfigError` for a cell that there is none."""
    cells = scenarios.cells(config.by)
    for cell in config.cells:
        if cell not in cells:
            raise ConfigError(
                f"`targets.cells` names `{cell}`, which is no {config.by} of this run; "
                f"there are {', '.join(cells[:5])} ..."
            )
    wanted = dict.fromkeys(cells, config.pairs) | config.cells
    return Quota(
        wanted=wanted,
        strategies=scenarios.cells("strategy"),
        by_strategy=config.by == "strategy",
        cost=config.cost,
        patience=PATIENCE,
    )


def cells_of(record: Record, axis: Axis) -> tuple[str, ...]:
    """The cells that a record's verified pair counts for; none if it has no pair."""
    if not record.pairs or record.critique is None:
        return ()
    scenario = record.scenario
    if axis in ("domain", "field", "strategy"):
        return (str(getattr(scenario, axis)),)
    broken = [p for p in scenario.principles if p.id in record.critique.violations]
    return tuple(dict.fromkeys(p.id if axis == "principle" else p.category for p in broken))


def trial_of(record: Record, axis: Axis, slot: Assignment) -> Trial:
    """What became of the dialogue that a slot was for."""
    cells = cells_of(record, axis)
    tokens = sum(use.prompt_tokens + use.completion_tokens for use in record.usage.values())
    return Trial(assignment=slot, hit=slot.cell in cells, cells=cells, cost=float(tokens))


class Rounds:
    """The rounds of one run: those that its journal has, and the next ones."""

    def __init__(
        self,
        scenarios: Scenarios,
        config: TargetsConfig,
        seed: int,
        journal: Journal,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.quota = quota_of(config, scenarios)
        self._scenarios, self._axis, self._seed = scenarios, config.by, seed
        self._journal, self._note = journal, note
        self._at: tuple[int, tuple[Assignment, ...]] = (0, ())
        self._waiting: list[Round] = []
        """Laid out and not counted yet: two at most."""
        self._left: dict[int, int] = {}
        """By round, how many of its dialogues have no record yet."""
        self._news = asyncio.Event()

    # -- what is laid out --------------------------------------------------------------------

    def __getitem__(self, index: int) -> Scenario:
        """The scenario of a dialogue whose round was laid out."""
        slot = self.slot(index)
        return self._scenarios.for_cell(index, self._axis, slot.cell, slot.strategy)

    def slot(self, index: int) -> Assignment:
        """What a dialogue is meant for. Raises `IndexError` if no round holds it."""
        start, slots = self._at
        if not start <= index < start + len(slots):
            laid = self._journal.round_of(index)
            start, slots = (laid.start, _slots.decode(laid.slots)) if laid else (0, ())
            self._at = start, slots
        if index < 0:
            raise IndexError(index)
        return slots[index - start]

    def state(self) -> Tally:
        """The counts of everything that is finished."""
        last = self._journal.round_of(_LAST)
        if last is None:
            return Tally()
        ledger = _ledger.decode(last.ledger)
        for laid in self._journal.rounds(ledger.counted):
            self._count(ledger, laid)
        return ledger.state

    def over(self, most: int) -> bool:
        """Whether nothing is left to make below `most`: `indexes` would give none."""
        last = self._journal.round_of(_LAST)
        end = _end(last)
        if last is None or next(self._journal.unfinished(min(end, most)), None) is not None:
            return False
        ledger = _ledger.decode(last.ledger)
        waiting = list(self._journal.rounds(ledger.counted))
        if len(waiting) > 1:
            self._count(ledger, waiting.pop(0))
        return end >= most or not self._allocate(ledger, waiting)

    def faults(self) -> Iterator[str]:
        """Which rounds were not laid out as the records before them demand."""
        ledger, waiting = _Ledger(), list[Round]()
        for stored in self._journal.rounds():
            known = _ledger.decode(stored.ledger)
            while waiting and ledger.counted < known.counted:
                self._count(ledger, waiting.pop(0))
            if ledger != known or self._allocate(ledger, waiting) != _slots.decode(stored.slots):
                yield f"round {stored.number}: not what the records before it demand"
            waiting.append(stored)

    # -- laying out --------------------------------------------------------------------------

    async def indexes(self, most: int, stopping: asyncio.Event) -> AsyncIterator[int]:
        """The indexes below `most` of the dialogues that are still to be made, in order.

        Ends when every cell has its pairs or was given up, or when the run stops; waits where the
        next round depends on dialogues that are under way.
        """
        last = self._journal.round_of(_LAST)
        ledger = _Ledger()
        if last is not None:
            ledger = _ledger.decode(last.ledger)
            for old in self._journal.rounds(ledger.counted):
                self._waiting.append(old)
                for index in self._open(old, most):
                    yield index
        end = _end(last)
        while end < most and (slots := await self._next(ledger, stopping)):
            number = ledger.counted + len(self._waiting)
            new = Round(
                number,
                end,
                msgspec.json.encode(slots),
                msgspec.json.encode(ledger, order="deterministic"),
            )
            await self._journal.lay_out(new)
            self._waiting.append(new)
            for index in self._open(new, most):
                yield index
            end = _end(new)

    async def _next(self, ledger: _Ledger, stopping: asyncio.Event) -> tuple[Assignment, ...]:
        """The next round; nothing if there is no need of one, or the run stops."""
        if len(self._waiting) > 1 and not await self._settle(ledger, stopping):
            return ()
        return self._allocate(ledger, self._waiting)

    def _allocate(self, ledger: _Ledger, waiting: Sequence[Round]) -> tuple[Assignment, ...]:
        under_way = [slot for laid in waiting for slot in _slots.decode(laid.slots)]
        number = ledger.counted + len(waiting)
        return allocate(ledger.state, under_way, self.quota, self._seed, number)

    async def _settle(self, ledger: _Ledger, stopping: asyncio.Event) -> bool:
        """Wait for the end of the first round that is under way, and count it. False on a stop."""
        laid = self._waiting[0]
        while self._left[laid.number]:
            self._news.clear()
            if stopping.is_set():
                return False
            await self._news.wait()
        for cell in self._count(ledger, laid):
            self._note(f"`{cell}` is given up: {ledger.state.given_up[cell]}")
        del self._waiting[0], self._left[laid.number]
        return True

    def _count(self, ledger: _Ledger, laid: Round) -> tuple[str, ...]:
        """Add a round to the counts; returns the cells that are given up from here on."""
        for record in self._journal.records(_end(laid), laid.start):
            slot = self.slot(record.scenario.index)
            ledger.state.add(trial_of(record, self._axis, slot))
        ledger.counted += 1
        return ledger.state.settle(self.quota)

    def _open(self, laid: Round, most: int) -> list[int]:
        """The dialogues of a round that have no record, below `most`."""
        missing = list(self._journal.unfinished(_end(laid), laid.start))
        self._left[laid.number] = len(missing)
        return [i for i in missing if i < most]

    def told(self, index: int | None = None) -> None:
        """The record of a dialogue is in the journal; None: the run is stopping."""
        if index is not None:
            laid = next(r for r in reversed(self._waiting) if r.start <= index)
            self._left[laid.number] -= 1
        self._news.set()


def _end(laid: Round | None) -> int:
    """The index after a round's last."""
    return laid.start + len(_slots.decode(laid.slots)) if laid else 0
