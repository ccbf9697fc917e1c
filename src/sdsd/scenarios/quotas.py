"""Quotas: which cell each dialogue is meant for, and with which strategy, until all are reached.

A cell is one value of the axis that quotas are counted by: a principle, a category, a domain. The
controller works in rounds. `allocate` plans a round from what the finished rounds have shown and
from what the round in flight is meant for. It is a pure function, so a run that is resumed or
verified plans the same rounds; and it knows counts alone, so its memory does not grow with the run.

* Which cells? In proportion to the dialogues that each still needs: the pairs it lacks over the
  rate at which it is expected to yield them. So all cells finish together.
* Which strategy? Thompson sampling (Thompson 1933): a success rate is sampled for each strategy
  from what is known of it in this cell, and the highest wins. The prior comes from the strategy in
  other cells and from the cell under other strategies, because there are many pairs of the two and
  every trial is expensive. A share of the choices is uniform, so that every strategy's rate can
  still be estimated.
* When to stop? When a cell is reached, or given up because a pair costs too much.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Literal

from msgspec import Struct

from sdsd.hashing import hash64

Cell = str
"""A principle's id, or the name of a category, domain, field or strategy."""

Status = Literal["reached", "lagging", "given up"]

PATIENCE = 2
"""`Quota.patience` of a run. With 1, a median of six of 124 principles are given up although
they could have reached their quota; with 2 it is one, for a sixth more dialogues
(`docs/benchmarks.md`)."""


class Assignment(Struct, frozen=True):
    """The cell that a dialogue is meant for, and the strategy that it tries."""

    cell: Cell
    strategy: str


class Trial(Struct, frozen=True):
    """The outcome of one dialogue."""

    assignment: Assignment
    hit: bool
    """Whether it has a verified pair that counts for the cell it was meant for."""
    cells: tuple[Cell, ...] = ()
    """All cells that its verified pairs count for."""
    cost: float = 1.0
    """Its cost in any unit, e.g. tokens; compared only between strategies."""
    pairs: int = 1
    """Number of its verified pairs; more than one if several candidates are clean."""


class Quota(Struct, frozen=True):
    """How many verified pairs are wanted, and what may be tried to get them."""

    wanted: dict[Cell, int]
    """Verified pairs by cell."""
    strategies: tuple[str, ...]
    """Strategies that may be tried in each cell."""
    by_strategy: bool = False
    """The cells are strategies, and each of them tries only itself."""
    excluded: dict[Cell, tuple[str, ...]] = {}
    """Strategies that are not tried in a cell, because they contradict what it asks for."""
    cost: float = 60.0
    """Dialogues that a pair may cost. A cell is given up once it has had `cost` times its number of
    pairs plus `patience`."""
    patience: int = 1
    """Extra pairs' worth of dialogues before a cell is given up, at least 1. Higher: fewer wrong
    decisions, more spent on cells that yield nothing. 1: even a pair from the next dialogue would
    have cost too much."""
    explore: float = 0.1
    """Share of the strategies chosen uniformly. It shrinks where a cell needs fewer dialogues than
    there are strategies, because too few are left to profit from the findings."""
    least: int = 32
    """Fewest dialogues in a round, if that many are needed."""
    most: int = 2000
    """Most dialogues in a round."""

    def ways(self, cell: Cell) -> tuple[str, ...]:
        """Return the strategies that may be tried in a cell."""
        if self.by_strategy:
            return (cell,)
        if not (excluded := self.excluded.get(cell)):
            return self.strategies
        return tuple(s for s in self.strategies if s not in excluded) or self.strategies


class Tally(Struct):
    """Counts over finished dialogues, independent of the order in which they finished."""

    tries: dict[Cell, dict[str, int]] = {}
    """Dialogues by the cell they were meant for and the strategy they tried."""
    hits: dict[Cell, dict[str, int]] = {}
    """Those of them that yielded a pair for their cell."""
    pairs: dict[Cell, int] = {}
    """Verified pairs by cell, whatever their dialogues were meant for."""
    spent: dict[str, int] = {}
    """Costs by strategy, in thousandths: sums of integers do not depend on the order."""
    given_up: dict[Cell, str] = {}
    """Cells that get no more dialogues, with the reason."""

    def add(self, trial: Trial) -> None:
        cell, strategy = trial.assignment.cell, trial.assignment.strategy
        _count(self.tries.setdefault(cell, {}), strategy)
        if trial.hit:
            _count(self.hits.setdefault(cell, {}), strategy)
        for won in {*trial.cells, *((cell,) if trial.hit else ())}:
            _count(self.pairs, won, trial.pairs)
        _count(self.spent, strategy, round(1000 * trial.cost))

    def settle(self, quota: Quota) -> tuple[Cell, ...]:
        """Give up the cells that cost too much, and return them.

        Call it when a round is complete, before the next one is planned. A cell stays given up even
        if a dialogue in flight yields a pair after all.
        """
        open_cells = [cell for cell in quota.wanted if self.is_open(cell, quota)]
        lost = tuple(cell for cell in open_cells if self.room(cell, quota) <= 0)
        for cell in lost:
            self.given_up[cell] = (
                f"{self.tried(cell)} dialogues yielded {self.pairs.get(cell, 0)} of "
                f"{quota.wanted[cell]} pairs; even with {quota.patience} more, a pair would have "
                f"cost at least {quota.cost:g} dialogues"
            )
        return lost

    def is_open(self, cell: Cell, quota: Quota) -> bool:
        """Return whether a cell is neither reached nor given up."""
        return cell not in self.given_up and self.pairs.get(cell, 0) < quota.wanted[cell]

    def tried(self, cell: Cell) -> int:
        """Return how many finished dialogues were meant for a cell."""
        return sum(self.tries.get(cell, {}).values())

    def room(self, cell: Cell, quota: Quota) -> float:
        """Return how many more dialogues without a pair a cell may have before it is given up."""
        return quota.cost * (self.pairs.get(cell, 0) + quota.patience) - self.tried(cell)


class CellProgress(Struct, frozen=True):
    """The progress of one cell."""

    cell: Cell
    status: Status
    wanted: int
    pairs: int
    tries: int
    """Finished dialogues that were meant for it."""
    reason: str = ""
    """Why it was given up."""


def summary(state: Tally, quota: Quota) -> tuple[CellProgress, ...]:
    """Return the progress of every cell, in the quota's order."""
    cells = []
    for cell, wanted in quota.wanted.items():
        pairs, tries = state.pairs.get(cell, 0), state.tried(cell)
        reason = "" if pairs >= wanted else state.given_up.get(cell, "")
        status: Status = "reached" if pairs >= wanted else "given up" if reason else "lagging"
        cells.append(CellProgress(cell, status, wanted, pairs, tries, reason))
    return tuple(cells)


# -- a round -------------------------------------------------------------------------------

SHARE = 8
"""A round is at most this fraction of all dialogues still needed: later decisions know more."""
GROWTH = 2
"""A round is at most this fraction of all dialogues before it: rounds grow with what is known."""


def allocate(
    state: Tally, in_flight: Sequence[Assignment], quota: Quota, seed: int, number: int
) -> tuple[Assignment, ...]:
    """Plan round `number`; empty if every cell is reached or given up.

    `state` counts all rounds before the one in flight, and is settled; `in_flight` is all of that
    one. No cell gets more than it is expected to need, rounded up, nor more than it may have before
    it is given up. One exception: if all that is needed is in flight already, but may fail, the
    cell that lacks most gets one dialogue.
    """
    cells = [cell for cell in quota.wanted if state.is_open(cell, quota)]
    cells = [cell for cell in cells if state.room(cell, quota) > 0]
    if not cells:
        return ()
    rates = Rates(state, quota)
    lacking = {cell: float(quota.wanted[cell] - state.pairs.get(cell, 0)) for cell in cells}
    under_way = Counter(slot.cell for slot in in_flight)
    for slot in in_flight:
        if slot.cell in lacking:
            lacking[slot.cell] -= rates.mean(slot.cell, slot.strategy)
    needs = {}
    for cell in cells:
        room = state.room(cell, quota) - under_way[cell]
        need = min(lacking[cell] / rates.expected(cell), room)
        if need > 0:
            needs[cell] = need
    if not needs:
        needs = {max(cells, key=lacking.__getitem__): 1.0}
    before = len(in_flight) + sum(map(state.tried, quota.wanted))
    size = _size(needs, before, quota)
    order = list(_interleaved(needs, size, seed, number))
    if not state.tries:
        return _design(order, under_way, quota, seed)
    slots = []
    for place, cell in enumerate(order):
        explore = quota.explore * min(1.0, needs[cell] / len(quota.ways(cell)))
        way = _strategy(rates, cell, explore, (seed, number, place))
        slots.append(Assignment(cell, way))
    return tuple(slots)


def _size(needs: Mapping[Cell, float], before: int, quota: Quota) -> int:
    """Return the size of a round: one for each cell, or more as more is known and needed.

    One for each cell overrides `SHARE` and `GROWTH`; the quota's bounds override all.
    """
    wished = max(len(needs), min(before / GROWTH, sum(needs.values()) / SHARE))
    return round(min(max(wished, quota.least), quota.most))


def _interleaved(needs: Mapping[Cell, float], size: int, seed: int, number: int) -> Iterator[Cell]:
    """Yield up to `size` cells: each once, those in most need first, then in proportion to need.

    The k-th dialogue of a cell is due at k / need, so they are spread evenly.
    """
    due = [
        (0.0, -need, hash64(seed, "turn", number, cell), 0, cell) for cell, need in needs.items()
    ]
    heapq.heapify(due)
    for _ in range(size):
        if not due:
            return
        _, need, tie, k, cell = due[0]
        yield cell
        if k + 1 < -need:
            heapq.heapreplace(due, ((k + 1) / -need, need, tie, k + 1, cell))
        else:
            heapq.heappop(due)


def _design(
    order: Sequence[Cell], under_way: Mapping[Cell, int], quota: Quota, seed: int
) -> tuple[Assignment, ...]:
    """Assign strategies while nothing is known: a Latin square of cells and strategies.

    Each cell goes through all strategies, and all strategies are equally frequent.
    """
    ranks = _shuffled(tuple(quota.wanted), seed, "cell")
    rank = {cell: k for k, cell in enumerate(ranks)}
    turns = Counter(under_way)
    slots = []
    for cell in order:
        ways = _shuffled(quota.ways(cell), seed, "strategy")
        slots.append(Assignment(cell, ways[(rank[cell] + turns[cell]) % len(ways)]))
        turns[cell] += 1
    return tuple(slots)


def _strategy(rates: Rates, cell: Cell, explore: float, place: tuple[int, ...]) -> str:
    """Choose a strategy: uniformly with probability `explore`, else by Thompson sampling."""
    ways, chance = rates.quota.ways(cell), Random(hash64("strategy", *place))  # noqa: S311
    if chance.random() < explore:
        return ways[int(chance.random() * len(ways))]
    drawn = {way: chance.betavariate(*rates.beta(cell, way)) / rates.prices[way] for way in ways}
    return max(drawn, key=drawn.__getitem__)


def _shuffled(values: Sequence[str], seed: int, name: str) -> tuple[str, ...]:
    return tuple(sorted(values, key=lambda value: hash64(seed, "targets", name, value)))


# -- rates ---------------------------------------------------------------------------------

GUESS = (1, 4)
"""Prior hits and tries: about the rate that the method's authors report."""
PASSES = 4
"""Iterations of the fit: after four, estimates change by less than their uncertainty."""
SPREAD = (0.5, 2.0)
"""Prior variance of a rate's log-odds about the fit, and its weight."""
SPREADS = (0.05, 4.0)
"""Bounds of the estimated variance."""


class Rates:
    """Posterior rates at which each strategy yields a pair in each cell.

    The prior is empirical Bayes: its mean has the odds `base * cell effect * strategy effect`,
    fitted to all counts, and the spread of the rates about it is estimated too. Only sums, products
    and quotients are used, which give the same result on every machine.
    """

    def __init__(self, state: Tally, quota: Quota) -> None:
        self.quota = quota
        self._counts = {
            (cell, way): (tries, state.hits.get(cell, {}).get(way, 0))
            for cell in quota.wanted
            for way in quota.ways(cell)
            if (tries := state.tries.get(cell, {}).get(way))
        }
        self._cells = dict.fromkeys(quota.wanted, 1.0)
        self._ways = {way: 1.0 for cell in quota.wanted for way in quota.ways(cell)}
        self._way_hits = dict.fromkeys(self._ways, 0)
        for (_, way), (_, hits) in self._counts.items():
            self._way_hits[way] += hits
        hits = sum(self._way_hits.values()) + GUESS[0]
        tries = sum(tries for tries, _ in self._counts.values()) + GUESS[1]
        self._base = hits / (tries - hits)
        for _ in range(PASSES):
            self._fit()
        self._spread = self._estimated_spread()
        self.prices = _prices(state, self._ways)
        """By strategy, the mean cost of its dialogues, relative to that of all."""
        self._betas: dict[tuple[Cell, str], tuple[float, float]] = {}

    def beta(self, cell: Cell, way: str) -> tuple[float, float]:
        """Return the parameters of a rate's posterior, a Beta distribution."""
        known = self._betas.get((cell, way))
        if known is None:
            known = self._betas[cell, way] = self._posterior(cell, way)
        return known

    def mean(self, cell: Cell, way: str) -> float:
        a, b = self.beta(cell, way)
        return a / (a + b)

    def expected(self, cell: Cell) -> float:
        """Return the expected rate of the next dialogue for a cell."""
        ways, explore = self.quota.ways(cell), self.quota.explore
        means = {way: self.mean(cell, way) for way in ways}
        best = max(ways, key=lambda way: means[way] / self.prices[way])
        return (1 - explore) * means[best] + explore * sum(means.values()) / len(ways)

    def _posterior(self, cell: Cell, way: str) -> tuple[float, float]:
        m = self._prior(cell, way)
        # The delta method: the rate's variance is that of the log-odds times the squared slope,
        # m (1 - m). A strategy's own odds are the less certain the fewer its hits.
        variance = self._spread + 1 / (self._way_hits[way] + 1)
        weight = max(1.0, 1 / (variance * m * (1 - m)) - 1)
        tries, hits = self._counts.get((cell, way), (0, 0))
        return m * weight + hits, (1 - m) * weight + tries - hits

    def _prior(self, cell: Cell, way: str) -> float:
        odds = self._base * self._cells[cell] * self._ways[way]
        return odds / (1 + odds)

    def _fit(self) -> None:
        """Fit the effects of strategies, then of cells, so that they explain the hits.

        One expected and one observed hit are added to each, which keeps rare ones near 1.
        """
        for effects in (self._ways, self._cells):
            hits, due = dict.fromkeys(effects, 1.0), dict.fromkeys(effects, 0.0)
            for (cell, way), (tried, hit) in self._counts.items():
                name = way if effects is self._ways else cell
                hits[name] += hit
                due[name] += tried * self._prior(cell, way)
            for name, effect in effects.items():
                effects[name] = hits[name] / (due[name] / effect + 1)

    def _estimated_spread(self) -> float:
        """Return the variance of log-odds about the fit, by the method of moments."""
        excess, weight = SPREAD[0] * SPREAD[1], SPREAD[1]
        for (cell, way), (tries, hits) in self._counts.items():
            m = self._prior(cell, way)
            slope = m * (1 - m)
            excess += (hits - tries * m) ** 2 - tries * slope
            weight += tries * (tries - 1) * slope**2
        return min(max(excess / weight, SPREADS[0]), SPREADS[1])


def _prices(state: Tally, ways: Iterable[str]) -> dict[str, float]:
    """Return the mean cost of a try by strategy over that of all, with one average try added."""
    tries = dict.fromkeys(ways, 0)
    for by_way in state.tries.values():
        for way, count in by_way.items():
            tries[way] = tries.get(way, 0) + count
    spent, tried = sum(state.spent.values()), sum(tries.values())
    if not spent:
        return dict.fromkeys(tries, 1.0)
    mean = spent / tried
    return {way: (state.spent.get(way, 0) / mean + 1) / (n + 1) for way, n in tries.items()}


def _count(counts: dict[str, int], name: str, by: int = 1) -> None:
    counts[name] = counts.get(name, 0) + by
