"""Targets: which cell a dialogue is meant for, and which strategy it tries, so that quotas are met.

A cell is one value of the axis that quotas are counted by: a principle, a category, a domain. The
controller works in rounds. `allocate` lays a round out from what the finished rounds have shown
and from what the round under way was meant for: a pure function, so that a run resumed or verified
lays out the same rounds. It knows counts alone, so its memory does not grow with the run.

Three questions, three answers:

* Which cells? In proportion to the dialogues that each still needs, which is the pairs it lacks
  over the rate at which it is expected to bring them; so all cells come to their ends together.
* Which strategy? Thompson sampling: each strategy's rate is drawn from what is known of it in this
  cell, and the best draw wins. What is known begins with what the strategy does in other cells and
  what the cell does with other strategies, because tries are dear and cells times strategies many.
  A share of the choices is uniform, so that every strategy's rate can still be estimated.
* When is it over? A cell is reached, or given up once a pair costs too much.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Literal, NamedTuple

from msgspec import Struct

from sdsd.hashing import hash64

Cell = str
"""A principle's id, or the name of a category, domain, field or strategy."""

Status = Literal["reached", "lagging", "given up"]


class Slot(Struct, frozen=True):
    """What one dialogue is for."""

    cell: Cell
    strategy: str


class Seen(Struct, frozen=True):
    """What came of one dialogue."""

    slot: Slot
    hit: bool
    """It has a verified pair that counts for the cell it was meant for."""
    cells: tuple[Cell, ...] = ()
    """All cells that its verified pair counts for."""
    cost: float = 1.0
    """What it took, e.g. in tokens; compared between strategies only."""


class Quota(Struct, frozen=True):
    """How many verified pairs are wanted, and how they may be come by."""

    wanted: dict[Cell, int]
    """Verified pairs by cell."""
    strategies: tuple[str, ...]
    """What may be tried in each cell."""
    by_strategy: bool = False
    """The cells are strategies, so each is tried by itself alone."""
    cost: float = 60.0
    """Dialogues that a pair may cost. A cell is given up once it has had `cost` times (`patience`
    more than its pairs): by default, when even a hit at the next try would have cost more."""
    patience: int = 1
    """Pairs' worth of dialogues that a cell may lag behind, at least 1. More forgives bad luck and
    the tries that strategies are found out with, and spends more on cells that yield nothing."""
    explore: float = 0.1
    """Share of strategies that are chosen uniformly. It fades where a cell needs fewer dialogues
    than there are strategies, because nothing is left to use the findings for."""
    least: int = 32
    """Dialogues in a round, if as many are needed."""
    most: int = 2000

    def ways(self, cell: Cell) -> tuple[str, ...]:
        """The strategies that may be tried in a cell."""
        return (cell,) if self.by_strategy else self.strategies


class State(Struct):
    """What finished dialogues have shown. Independent of the order in which they were added."""

    tries: dict[Cell, dict[str, int]] = {}
    """Dialogues by the cell they were meant for and the strategy they tried."""
    hits: dict[Cell, dict[str, int]] = {}
    """Of these, those that brought a pair for their cell."""
    pairs: dict[Cell, int] = {}
    """Verified pairs by cell, whatever their dialogues were meant for."""
    spent: dict[str, int] = {}
    """By strategy the costs, in thousandths: integers add up to the same in any order."""
    given_up: dict[Cell, str] = {}
    """Cells that get no dialogues any more, with the reason."""

    def add(self, seen: Seen) -> None:
        """Count one finished dialogue."""
        cell, strategy = seen.slot.cell, seen.slot.strategy
        _count(self.tries.setdefault(cell, {}), strategy)
        if seen.hit:
            _count(self.hits.setdefault(cell, {}), strategy)
        for won in {*seen.cells, *((cell,) if seen.hit else ())}:
            _count(self.pairs, won)
        _count(self.spent, strategy, round(1000 * seen.cost))

    def settle(self, quota: Quota) -> tuple[Cell, ...]:
        """Give up the cells that cost too much, and return them.

        To be called when a round is complete, before the next one is laid out. A cell that was
        given up stays so, even if a dialogue that was under way brings a pair after all.
        """
        open_cells = [cell for cell in quota.wanted if self.is_open(cell, quota)]
        lost = tuple(cell for cell in open_cells if self.room(cell, quota) <= 0)
        for cell in lost:
            self.given_up[cell] = (
                f"{self.tried(cell)} dialogues brought {self.pairs.get(cell, 0)} of "
                f"{quota.wanted[cell]} pairs; with {quota.patience} more, a pair would still have "
                f"cost {quota.cost:g} dialogues or more"
            )
        return lost

    def is_open(self, cell: Cell, quota: Quota) -> bool:
        """Whether a cell is neither reached nor given up."""
        return cell not in self.given_up and self.pairs.get(cell, 0) < quota.wanted[cell]

    def tried(self, cell: Cell) -> int:
        """Finished dialogues that were meant for a cell."""
        return sum(self.tries.get(cell, {}).values())

    def room(self, cell: Cell, quota: Quota) -> float:
        """Dialogues that a cell may have before it is given up, if none of them brings a pair."""
        return quota.cost * (self.pairs.get(cell, 0) + quota.patience) - self.tried(cell)


class Standing(Struct, frozen=True):
    """How far one cell has come."""

    cell: Cell
    status: Status
    wanted: int
    pairs: int
    tries: int
    """Finished dialogues that were meant for it."""
    reason: str = ""
    """Why it was given up."""


def summary(state: State, quota: Quota) -> tuple[Standing, ...]:
    """How far every cell of the quota has come, in the quota's order."""
    return tuple(_standing(cell, state, quota) for cell in quota.wanted)


def _standing(cell: Cell, state: State, quota: Quota) -> Standing:
    wanted, pairs = quota.wanted[cell], state.pairs.get(cell, 0)
    if pairs >= wanted:
        return Standing(cell, "reached", wanted, pairs, state.tried(cell))
    reason = state.given_up.get(cell, "")
    status: Status = "given up" if cell in state.given_up else "lagging"
    return Standing(cell, status, wanted, pairs, state.tried(cell), reason)


# -- a round -------------------------------------------------------------------------------

SHARE = 8
"""A round is at most this part of all dialogues still needed: what is decided later is decided
better."""
GROWTH = 2
"""A round is at most this part of all dialogues before it, so rounds grow with what is known."""


def allocate(
    state: State, in_flight: Sequence[Slot], quota: Quota, seed: int, number: int
) -> tuple[Slot, ...]:
    """The dialogues of round `number`; none if every cell is reached or given up.

    `state` holds all rounds before the one that is under way, and has been settled; `in_flight` is
    the whole of the one under way. No cell gets more than it is expected to need, rounded up, nor
    more than it may have before it is given up. One exception: where all that is needed is under
    way already, but may fail, the cell that lacks most gets one dialogue.
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
        slots.append(Slot(cell, way))
    return tuple(slots)


def _size(needs: Mapping[Cell, float], before: int, quota: Quota) -> int:
    """Dialogues in a round: one for each cell, or more as more is known and needed.

    Both `SHARE` and `GROWTH` give way to one for each cell, and all to the quota's bounds.
    """
    wished = max(len(needs), min(before / GROWTH, sum(needs.values()) / SHARE))
    return round(min(max(wished, quota.least), quota.most))


def _interleaved(needs: Mapping[Cell, float], size: int, seed: int, number: int) -> Iterator[Cell]:
    """Up to `size` cells: first each once, those in most need first, then in proportion to need.

    A cell's k-th turn is due at k / need, so turns are spread evenly and end at the need.
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
) -> tuple[Slot, ...]:
    """Strategies where nothing is known: a Latin square of cells and turns.

    Each cell goes through all strategies, and each strategy comes as often as any other.
    """
    ranks = _shuffled(tuple(quota.wanted), seed, "cell")
    rank = {cell: k for k, cell in enumerate(ranks)}
    turns = Counter(under_way)
    slots = []
    for cell in order:
        ways = _shuffled(quota.ways(cell), seed, "strategy")
        slots.append(Slot(cell, ways[(rank[cell] + turns[cell]) % len(ways)]))
        turns[cell] += 1
    return tuple(slots)


def _strategy(rates: Rates, cell: Cell, explore: float, place: tuple[int, ...]) -> str:
    """The strategy of one dialogue: uniform with probability `explore`, else the best draw."""
    ways, chance = rates.quota.ways(cell), Random(hash64("strategy", *place))  # noqa: S311
    if chance.random() < explore:
        return ways[int(chance.random() * len(ways))]
    drawn = {way: chance.betavariate(*rates.beta(cell, way)) / rates.price(way) for way in ways}
    return max(drawn, key=drawn.__getitem__)


def _shuffled(values: Sequence[str], seed: int, name: str) -> tuple[str, ...]:
    return tuple(sorted(values, key=lambda value: hash64(seed, "targets", name, value)))


# -- rates ---------------------------------------------------------------------------------

GUESS = (1, 4)
"""Hits and tries that are counted in before there are any: about what the method's authors saw."""
PASSES = 4
"""Of the fit; after so many, figures change by less than they are uncertain."""
SPREAD = (0.5, 2.0)
"""Variance of a rate's log-odds about the fit, before it is known, and the weight of that."""
SPREADS = (0.05, 4.0)
"""Bounds of the estimate of that variance."""


class _Row(NamedTuple):
    """What is known of one strategy in one cell."""

    cell: Cell
    way: str
    tries: int
    hits: int


class Rates:
    """How often each strategy brings a pair in each cell, as far as that is known.

    The prior of a rate is an empirical Bayes one. Its mean has the odds `base * cell's * way's`,
    fitted to all counts; how far rates stray from that is estimated too. Only sums, products
    and quotients are used, which are the same on every machine.
    """

    def __init__(self, state: State, quota: Quota) -> None:
        self.quota = quota
        self._rows = {
            (cell, way): _Row(cell, way, tries, state.hits.get(cell, {}).get(way, 0))
            for cell in quota.wanted
            for way in quota.ways(cell)
            if (tries := state.tries.get(cell, {}).get(way))
        }
        self._cells = dict.fromkeys(quota.wanted, 1.0)
        self._ways = {way: 1.0 for cell in quota.wanted for way in quota.ways(cell)}
        self._way_hits = dict.fromkeys(self._ways, 0)
        for row in self._rows.values():
            self._way_hits[row.way] += row.hits
        hits = sum(self._way_hits.values()) + GUESS[0]
        tries = sum(row.tries for row in self._rows.values()) + GUESS[1]
        self._base = hits / (tries - hits)
        for _ in range(PASSES):
            self._fit()
        self._spread = self._estimated_spread()
        self._prices = _prices(state, self._ways)
        self._betas: dict[tuple[Cell, str], tuple[float, float]] = {}

    def beta(self, cell: Cell, way: str) -> tuple[float, float]:
        """The parameters of what is known of a rate, as a Beta distribution."""
        known = self._betas.get((cell, way))
        if known is None:
            known = self._betas[cell, way] = self._posterior(cell, way)
        return known

    def mean(self, cell: Cell, way: str) -> float:
        """The expected rate."""
        a, b = self.beta(cell, way)
        return a / (a + b)

    def price(self, way: str) -> float:
        """What a try of a strategy costs, beside that of others."""
        return self._prices[way]

    def expected(self, cell: Cell) -> float:
        """The rate of a dialogue for the cell: that of its best strategy, mostly."""
        ways, explore = self.quota.ways(cell), self.quota.explore
        means = {way: self.mean(cell, way) for way in ways}
        best = max(ways, key=lambda way: means[way] / self._prices[way])
        return (1 - explore) * means[best] + explore * sum(means.values()) / len(ways)

    def _posterior(self, cell: Cell, way: str) -> tuple[float, float]:
        m = self._prior(cell, way)
        # A variance of the log-odds is one of the rate by the square of its slope, m (1 - m); of
        # the way's own odds we are as unsure as its hits are few.
        variance = self._spread + 1 / (self._way_hits[way] + 1)
        weight = max(1.0, 1 / (variance * m * (1 - m)) - 1)
        row = self._rows.get((cell, way))
        hits, tries = (row.hits, row.tries) if row else (0, 0)
        return m * weight + hits, (1 - m) * weight + tries - hits

    def _prior(self, cell: Cell, way: str) -> float:
        odds = self._base * self._cells[cell] * self._ways[way]
        return odds / (1 + odds)

    def _fit(self) -> None:
        """Move the ways', then the cells' odds to where they explain the hits.

        One hit is counted in where one was expected, which keeps those with few tries near 1.
        """
        for effects in (self._ways, self._cells):
            hits, due = dict.fromkeys(effects, 1.0), dict.fromkeys(effects, 0.0)
            for row in self._rows.values():
                name = row.way if effects is self._ways else row.cell
                hits[name] += row.hits
                due[name] += row.tries * self._prior(row.cell, row.way)
            for name, effect in effects.items():
                effects[name] = hits[name] / (due[name] / effect + 1)

    def _estimated_spread(self) -> float:
        """The variance of log-odds about the fit, by moments of what the fit leaves over."""
        excess, weight = SPREAD[0] * SPREAD[1], SPREAD[1]
        for row in self._rows.values():
            m = self._prior(row.cell, row.way)
            slope = m * (1 - m)
            excess += (row.hits - row.tries * m) ** 2 - row.tries * slope
            weight += row.tries * (row.tries - 1) * slope**2
        return min(max(excess / weight, SPREADS[0]), SPREADS[1])


def _prices(state: State, ways: Iterable[str]) -> dict[str, float]:
    """Mean cost of a try by strategy, over that of all; one average try is counted in."""
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
