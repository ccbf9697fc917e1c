"""Rounds: what the dialogues of a run with targets are meant for, decided from what came before.

Round r is planned from all records of the rounds up to r - 2, so that it may begin while r - 1 is
still in flight: no server waits at a barrier. It depends on nothing else, neither on the order of
completion nor on the clock, and it is in the journal before its first dialogue begins. So a run
that was killed continues exactly, and `verify` can plan every round again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from sdsd.config import TargetsConfig
from sdsd.errors import ConfigError
from sdsd.runs.journal import Journal, Ledger, Round
from sdsd.scenarios.quotas import PATIENCE, Assignment, Quota, Tally, Trial, allocate
from sdsd.scenarios.sampler import Axis, Scenarios
from sdsd.types import Record, Scenario

_LAST = 2**62
"""Not before the last dialogue of any run."""


def quota_of(config: TargetsConfig, scenarios: Scenarios) -> Quota:
    """Return what a configuration asks for. Raises `ConfigError` for an unknown cell."""
    cells = scenarios.cells(config.by)
    for cell in config.cells:
        if cell not in cells:
            raise ConfigError(
                f"`targets.cells` names `{cell}`, which is not a {config.by} of this run; "
                f"it has {', '.join(cells[:5])} ..."
            )
    wanted = dict.fromkeys(cells, config.pairs) | config.cells
    absurd = {cell: scenarios.absurd_strategies(config.by, cell) for cell in wanted}
    return Quota(
        wanted=wanted,
        strategies=scenarios.cells("strategy"),
        by_strategy=config.by == "strategy",
        excluded={cell: names for cell, names in absurd.items() if names},
        cost=config.cost,
        patience=PATIENCE,
    )


def cells_of(record: Record, axis: Axis) -> tuple[str, ...]:
    """Return the cells that a record's verified pairs count for; none if it has no pair."""
    if not record.verified or record.critique is None:
        return ()
    scenario = record.scenario
    if axis in ("domain", "field", "strategy"):
        return (str(getattr(scenario, axis)),)
    violated = [p for p in scenario.principles if p.id in record.critique.violations]
    return tuple(dict.fromkeys(p.id if axis == "principle" else p.category for p in violated))


def trial_of(record: Record, axis: Axis, slot: Assignment) -> Trial:
    """Return the outcome of the dialogue that a slot was for."""
    cells = cells_of(record, axis)
    tokens = sum(use.prompt_tokens + use.completion_tokens for use in record.usage.values())
    hit, pairs = slot.cell in cells, len(record.verified)
    return Trial(assignment=slot, hit=hit, cells=cells, cost=float(tokens), pairs=pairs)


class Rounds:
    """The rounds of one run: those in its journal, and the next ones."""

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
        self._at: Round | None = None
        """The round that was read last."""
        self._waiting: list[Round] = []
        """Rounds that are planned but not counted yet; at most two."""
        self._left: dict[int, int] = {}
        """By round, how many of its dialogues have no record yet."""
        self._advanced = asyncio.Event()

    # -- what is planned ---------------------------------------------------------------------

    def __getitem__(self, index: int) -> Scenario:
        """Return the scenario of a dialogue whose round is planned."""
        slot = self.slot(index)
        return self._scenarios.for_cell(index, self._axis, slot.cell, slot.strategy)

    def slot(self, index: int) -> Assignment:
        """Return what a dialogue is meant for. Raises `IndexError` if no round has it."""
        planned = self._at
        if planned is None or not planned.start <= index < planned.end:
            planned = self._at = self._journal.round_of(index)
        if planned is None:
            raise IndexError(index)
        return planned.slots[index - planned.start]

    def state(self) -> Tally:
        """Return the counts over everything that is finished."""
        last = self._journal.round_of(_LAST)
        if last is None:
            return Tally()
        ledger = last.ledger
        for planned in self._journal.rounds(ledger.counted):
            self._count(ledger, planned)
        return ledger.state

    def over(self, most: int) -> bool:
        """Return whether nothing is left to make below `most`: `indexes` would yield none."""
        last = self._journal.round_of(_LAST)
        if last is None or next(self._journal.unfinished(min(last.end, most)), None) is not None:
            return False
        ledger = last.ledger
        waiting = list(self._journal.rounds(ledger.counted))
        if len(waiting) > 1:
            self._count(ledger, waiting.pop(0))
        return last.end >= most or not self._allocate(ledger, waiting)

    def defects(self) -> Iterator[str]:
        """Yield a line for each round that does not follow from the records before it."""
        ledger, waiting = Ledger(), list[Round]()
        for stored in self._journal.rounds():
            while waiting and ledger.counted < stored.ledger.counted:
                self._count(ledger, waiting.pop(0))
            if ledger != stored.ledger or self._allocate(ledger, waiting) != stored.slots:
                yield f"round {stored.number}: does not follow from the records before it"
            waiting.append(stored)

    # -- planning ----------------------------------------------------------------------------

    async def indexes(self, most: int, stopping: asyncio.Event) -> AsyncIterator[int]:
        """Yield the indexes below `most` of the dialogues that are still to be made, in order.

        Ends when every cell has its pairs or was given up, or when the run stops; waits where the
        next round depends on dialogues in flight.
        """
        last = self._journal.round_of(_LAST)
        ledger, end = Ledger(), 0
        if last is not None:
            ledger, end = last.ledger, last.end
            for old in self._journal.rounds(ledger.counted):
                self._waiting.append(old)
                for index in self._open(old, most):
                    yield index
        while end < most and (slots := await self._next(ledger, stopping)):
            number = ledger.counted + len(self._waiting)
            new = Round(number, end, slots, ledger)
            await self._journal.plan_round(new)
            self._waiting.append(new)
            for index in self._open(new, most):
                yield index
            end = new.end

    async def _next(self, ledger: Ledger, stopping: asyncio.Event) -> tuple[Assignment, ...]:
        """Return the next round; empty if none is needed, or the run stops."""
        if len(self._waiting) > 1 and not await self._settle(ledger, stopping):
            return ()
        return self._allocate(ledger, self._waiting)

    def _allocate(self, ledger: Ledger, waiting: Sequence[Round]) -> tuple[Assignment, ...]:
        in_flight = [slot for planned in waiting for slot in planned.slots]
        number = ledger.counted + len(waiting)
        return allocate(ledger.state, in_flight, self.quota, self._seed, number)

    async def _settle(self, ledger: Ledger, stopping: asyncio.Event) -> bool:
        """Wait for the end of the first round in flight, and count it. Returns False on a stop."""
        planned = self._waiting[0]
        while self._left[planned.number]:
            self._advanced.clear()
            if stopping.is_set():
                return False
            await self._advanced.wait()
        for cell in self._count(ledger, planned):
            self._note(f"`{cell}` is given up: {ledger.state.given_up[cell]}")
        del self._waiting[0], self._left[planned.number]
        return True

    def _count(self, ledger: Ledger, planned: Round) -> tuple[str, ...]:
        """Add a round to the counts; return the cells that are given up from here on."""
        for record in self._journal.records(planned.end, planned.start):
            slot = planned.slots[record.scenario.index - planned.start]
            ledger.state.add(trial_of(record, self._axis, slot))
        ledger.counted += 1
        return ledger.state.settle(self.quota)

    def _open(self, planned: Round, most: int) -> list[int]:
        """Return the dialogues of a round that have no record, below `most`."""
        missing = list(self._journal.unfinished(planned.end, planned.start))
        self._left[planned.number] = len(missing)
        return [i for i in missing if i < most]

    def advance(self, index: int | None = None) -> None:
        """Note that a dialogue's record is in the journal; None means that the run is stopping."""
        if index is not None:
            planned = next(r for r in reversed(self._waiting) if r.start <= index)
            self._left[planned.number] -= 1
        self._advanced.set()
