"""Sample scenarios: `Scenarios(...)[i]` has the inputs of dialogue i, for any i, without state.

Every axis (domains, goals, target principles, further principles, number of principles, exchanges,
strategies) goes through seeded permutations of its values, one after another: through blocks. So
over the first N scenarios the counts of any two values of an axis differ by at most one, for every
N. Within a block of domains, those of each field are spread evenly. Counts of all principles of a
dialogue, target and further ones together, differ by at most two. There is one exception: with
fewer than twice as many principles as a dialogue may have, the further ones follow the target in a
fixed order, and nothing bounds the difference between their counts.

What belongs together meets: inside each block, target principles are assigned to dialogues so that
they suit the topics of these, then goals and strategies so that they suit the target principles
(`affinities`). An axis is only permuted inside its own blocks, which keeps its balance; and where a
catalogue has no affinities, nothing moves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Literal

from sdsd.config import ScenariosConfig
from sdsd.errors import CatalogueError
from sdsd.hashing import hash64
from sdsd.scenarios import affinities
from sdsd.scenarios.assignment import assign
from sdsd.scenarios.catalogue import Catalogue
from sdsd.types import Scenario

Axis = Literal["principle", "category", "domain", "field", "strategy"]
"""What quotas may be counted by."""

_GAINS = ((0, 6, 9, 10), (0, 6, 9, 10), (0, 6, 9, 9))
"""What an affinity of 0, 1, 2 or 3 gains a dialogue. Concave: that nothing is absurd is more
important than that much is perfect. A third of the dialogues is content with what fits well, so
that a principle is not always met on the few topics, and with the few goals, that it fits best."""
_ODDS = (0, 0, 1, 3)
"""How often something of that affinity is drawn where its partner is given."""
_EXCLUDED = -(2**20)
"""The gain of what must not be: less than any sum of gains."""
_PIECE = 256
"""Most dialogues in one assignment, whose cost grows with the cube: longer blocks are divided."""


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        places[name].append(i)
    return dict(places)


@lru_cache(maxsize=256)
def _permutation(seed: int, name: str, n: int, block: int) -> tuple[int, ...]:
    return tuple(sorted(range(n), key=lambda i: hash64(seed, name, block, i)))


class Scenarios:
    """The endless sequence of a run's scenarios: `Scenarios(...)[i]`.

    Raises `CatalogueError` if the catalogue has too few principles.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        config: ScenariosConfig,
        seed: int,
        strategies: tuple[str, ...] = ("direct",),
    ) -> None:
        most = config.principles[1]
        if most > len(catalogue.principles):
            raise CatalogueError(
                f"`scenarios.principles` asks for up to {most} principles in a dialogue, but the "
                f"catalogue has {len(catalogue.principles)}; add principles or lower it"
            )
        self._catalogue = catalogue
        self._config = config
        self._seed = seed
        self._strategies = strategies
        self._members: dict[Axis, dict[str, list[int]]] = {
            "principle": _places(p.id for p in catalogue.principles),
            "category": _places(p.category for p in catalogue.principles),
            "domain": _places(d.name for d in catalogue.domains),
            "field": _places(d.field for d in catalogue.domains),
        }
        """The principles or domains of each cell, as indices into the catalogue."""
        known, ids = catalogue.affinities, tuple(self._members["principle"])
        self._suits_domain = affinities.topic_table(known, ids, catalogue.domains)
        goals = tuple(goal.id for goal in catalogue.goals)
        self._suits_goal = affinities.table(known, "goals", ids, goals)
        self._suits_strategy = affinities.table(known, "strategies", ids, strategies)
        self._domain_order = lru_cache(maxsize=8)(self._spread_fields)
        self._targets = lru_cache(maxsize=8)(self._target_order)
        self._goals = lru_cache(maxsize=16)(self._goal_order)
        self._ways = lru_cache(maxsize=256)(self._strategy_order)

    def __getitem__(self, index: int) -> Scenario:
        if index < 0:
            raise IndexError(index)
        place, visit = self._domain_at(index)
        block, within = divmod(index, len(self._strategies))
        strategy = self._strategies[self._ways(block)[within]]
        target = self._target_at(index)
        principles = (target, *self._further_at(index, target))
        return self._scenario(index, place, visit, self._goal_at(index), principles, strategy)

    def for_cell(self, index: int, axis: Axis, cell: str, strategy: str) -> Scenario:
        """Return the scenario at `index`, changed to belong to one cell and to use `strategy`.

        What neither the cell nor its affinities change is sampled as usual, so it stays balanced
        over the dialogues of a run. What does not go with the target principle is drawn again, by
        affinity.
        """
        place, visit = self._domain_at(index)
        target, goal = self._target_at(index), self._goal_at(index)
        further = self._further_at(index, target)
        way = self._strategies.index(strategy)
        possible = [row[way] > 0 for row in self._suits_strategy]
        if axis in ("principle", "category"):
            among = self._members[axis][cell]
            among = [p for p in among if possible[p]] or among
            target = among[self._at(f"meant/{cell}", len(among), index)]
            levels, demand = self._suits_domain[target], self._demand["domain"]
            drawn = self._suitable("domain", index, place, levels, demand)
            if drawn != place:
                place, visit = drawn, index
        else:
            if axis != "strategy":
                among = self._members[axis][cell]
                place = among[self._at(f"meant/{cell}", len(among), index)]
                visit = index  # not once in a walk over all domains: many times in a row
            fits = zip(self._suits_domain, possible, strict=True)
            levels = [row[place] * can for row, can in fits]
            target = self._suitable("target", index, target, levels, self._demand["target"])
        suits = self._suits_goal[target]
        goal = self._suitable("goal", index, goal, suits, self._demand["goal"])
        principles = (target, *(p for p in further if p != target))
        return self._scenario(index, place, visit, goal, principles, strategy)

    def absurd_strategies(self, axis: Axis, cell: str) -> tuple[str, ...]:
        """Return the strategies that contradict every principle of a cell."""
        if axis not in ("principle", "category"):
            return ()
        rows = [self._suits_strategy[p] for p in self._members[axis][cell]]
        return tuple(s for s, *of in zip(self._strategies, *rows, strict=True) if not any(of))

    def cells(self, axis: Axis) -> tuple[str, ...]:
        """Return all cells of an axis, in the order of the catalogue."""
        return self._strategies if axis == "strategy" else tuple(self._members[axis])

    def _scenario(
        self,
        index: int,
        place: int,
        visit: int,
        goal_place: int,
        principle_places: tuple[int, ...],
        strategy: str,
    ) -> Scenario:
        """Return the scenario on the `visit`-th subarea of the domain at `place`."""
        catalogue, config, seed = self._catalogue, self._config, self._seed
        domain, goal = catalogue.domains[place], catalogue.goals[goal_place]
        subarea = domain.subareas[self._at(f"subarea/{place}", len(domain.subareas), visit)]
        principles = tuple(catalogue.principles[p] for p in principle_places)
        least, most = config.exchanges
        exchanges = least + self._at("exchanges", most - least + 1, index)
        content = (domain.field, domain.name, subarea, goal.id, goal.text)
        texts = tuple(p.text for p in principles)
        return Scenario(
            # Without the strategy: the arms of an experiment share their scenarios.
            id=f"{index:06d}-{hash64(seed, index, *content, *texts, exchanges) >> 32:08x}",
            index=index,
            field=domain.field,
            domain=domain.name,
            subarea=subarea,
            goal=goal,
            principles=principles,
            exchanges=exchanges,
            strategy=strategy,
        )

    def _at(self, name: str, n: int, position: int) -> int:
        """Return one of n values, from an endless sequence of their permutations."""
        block, within = divmod(position, n)
        return _permutation(self._seed, name, n, block)[within]

    # -- what is sampled independently -------------------------------------------------------

    def _domain_at(self, index: int) -> tuple[int, int]:
        """Return the domain of a dialogue, and how many blocks of domains are before it."""
        visit, within = divmod(index, len(self._catalogue.domains))
        return self._domain_order(visit)[within], visit

    def _spread_fields(self, visit: int) -> tuple[int, ...]:
        """Return all domains once, each field's at even distances from a seeded offset."""
        position: dict[int, tuple[float, int]] = {}
        for field, members in self._members["field"].items():
            offset = hash64(self._seed, "field", visit, field) / 2**64
            order = _permutation(self._seed, f"domain/{field}", len(members), visit)
            for rank, i in enumerate(order):
                tie = hash64(self._seed, "tie", visit, field)
                position[members[i]] = ((rank + offset) / len(members), tie)
        return tuple(sorted(position, key=position.__getitem__))

    def _further_at(self, index: int, target: int) -> tuple[int, ...]:
        """Return the further principles of a dialogue."""
        further, n = self._further(index), len(self._catalogue.principles)
        if not self._few:
            return further
        order = _permutation(self._seed, "principle", n, 0)  # repeats are inevitable: in turn
        after = order.index(target) + 1
        return tuple(order[(after + k) % n] for k in range(len(further)))

    @property
    def _few(self) -> bool:
        """Whether there are too few principles to keep targets and further ones apart."""
        return len(self._catalogue.principles) < 2 * self._config.principles[1]

    def _further(self, index: int) -> tuple[int, ...]:
        """Return the next few of one long sequence of principles, none twice in a dialogue."""
        least, most = (size - 1 for size in self._config.principles)
        kinds = most - least + 1
        block, within = divmod(index, kinds)
        sizes = [least + k for k in _permutation(self._seed, "size", kinds, block)]
        start = block * (sum(range(least, most + 1))) + sum(sizes[:within])
        return tuple(self._principle_at(start + k, most) for k in range(sizes[within]))

    def _principle_at(self, position: int, most: int) -> int:
        n = len(self._catalogue.principles)
        block, within = divmod(position, n)
        return _joined(self._seed, n, most, block)[within]

    # -- what is assigned by affinity --------------------------------------------------------

    def _target_at(self, index: int) -> int:
        block, within = divmod(index, len(self._catalogue.principles))
        return self._targets(block)[within]

    def _goal_at(self, index: int) -> int:
        block, within = divmod(index, len(self._catalogue.goals))
        return self._goals(block)[within]

    def _target_order(self, block: int) -> tuple[int, ...]:
        """Return the targets of the next n dialogues: each principle once, and never one that is
        among the further principles of its dialogue.

        A target that is one swaps places with another. A partner always exists: a dialogue with m
        further principles excludes m targets, and at most m + 1 dialogues have the one to swap.
        """
        n = len(self._catalogue.principles)
        targets = list(_permutation(self._seed, "focus", n, block))
        excluded = [() if self._few else self._further(block * n + k) for k in range(n)]
        for k in range(n):
            if targets[k] not in excluded[k]:
                continue
            for j in range(n):
                if targets[j] not in excluded[k] and targets[k] not in excluded[j]:
                    targets[k], targets[j] = targets[j], targets[k]
                    break

        def gains(index: int) -> Sequence[int]:
            place, _ = self._domain_at(index)
            found = self._gains("target", index, [row[place] for row in self._suits_domain])
            for principle in excluded[index - block * n]:
                found[principle] = _EXCLUDED
            return found

        return self._assigned(targets, block, gains)

    def _goal_order(self, block: int) -> tuple[int, ...]:
        """Return the goals of the next dialogues: each once, and so that they suit the targets."""
        return self._suited("goal", len(self._catalogue.goals), block, self._suits_goal)

    def _strategy_order(self, block: int) -> tuple[int, ...]:
        """Return the strategies of the next dialogues: each once, to suit the targets."""
        return self._suited("strategy", len(self._strategies), block, self._suits_strategy)

    def _suited(
        self, name: str, n: int, block: int, table: Sequence[Sequence[int]]
    ) -> tuple[int, ...]:
        def gains(index: int) -> Sequence[int]:
            return self._gains(name, index, table[self._target_at(index)])

        return self._assigned(_permutation(self._seed, name, n, block), block, gains)

    def _gains(self, name: str, index: int, row: Sequence[int]) -> list[int]:
        """Return what each value of an axis gains a dialogue, from its affinities."""
        of_level = _GAINS[hash64(self._seed, "content", name, index) % len(_GAINS)]
        return [of_level[level] for level in row]

    def _assigned(
        self, order: Sequence[int], block: int, gains: Callable[[int], Sequence[int]]
    ) -> tuple[int, ...]:
        """Permute the values of a block so that the dialogues gain most; on a tie none moves.

        `gains` returns for the index of a dialogue what each value gains it.
        """
        if not self._catalogue.affinities:
            return tuple(order)
        assigned: list[int] = []
        for start in range(0, len(order), _PIECE):
            piece = order[start : start + _PIECE]
            # In a shuffled order: the method serves rows in turn, so values that fit nothing well
            # would gather where it begins.
            shuffled = _permutation(self._seed, "assigned", len(piece), block + start)
            found = (gains(block * len(order) + start + k) for k in shuffled)
            columns = assign([[of[piece[k]] for k in shuffled] for of in found])
            placed = dict(zip(shuffled, columns, strict=True))
            assigned += (piece[shuffled[placed[k]]] for k in range(len(piece)))
        return tuple(assigned)

    @cached_property
    def _demand(self) -> dict[str, list[int]]:
        """How much each domain, goal and target is asked for by all that it goes with."""
        topics, goals = self._suits_domain, self._suits_goal
        columns = {"domain": zip(*topics, strict=True), "goal": zip(*goals, strict=True)}
        lists: dict[str, Iterable[Iterable[int]]] = {**columns, "target": topics}
        return {name: [sum(_ODDS[a] for a in of) or 1 for of in lists[name]] for name in lists}

    def _suitable(
        self, name: str, index: int, usual: int, levels: Sequence[int], demand: Sequence[int]
    ) -> int:
        """Return the usual value if it fits well, or if nothing does and it is possible; otherwise
        another one that fits well, or is possible.

        What fits many is drawn less often by each, so that all values remain about as frequent.
        """
        best = min(max(levels), 2)
        if levels[usual] >= best:
            return usual
        odds = [_ODDS[a] for a in levels] if best == 2 else levels
        shares = ((odd << 40) // total for odd, total in zip(odds, demand, strict=True))
        sums = list(accumulate(shares))
        return bisect_right(sums, hash64(self._seed, "suitable", name, index) % sums[-1])


@lru_cache(maxsize=64)
def _joined(seed: int, n: int, most: int, block: int) -> tuple[int, ...]:
    """Return a permutation of the principles whose head does not repeat the previous one's tail.

    A dialogue may straddle two blocks, so up to `most` - 1 values on either side of the boundary
    must differ. Head values that would repeat swap places with values from the middle. That leaves
    every tail unchanged, so a block depends only on its neighbour. With too few principles for a
    middle the same order repeats, in which any `most` consecutive values differ anyway.
    """
    seam = most - 1
    if n < 4 * seam or seam == 0:
        return _permutation(seed, "principle", n, 0 if seam else block)
    order = list(_permutation(seed, "principle", n, block))
    if block == 0:
        return tuple(order)
    before = set(_permutation(seed, "principle", n, block - 1)[-seam:])
    spare = (k for k in range(seam, n - seam) if order[k] not in before)
    for k in range(seam):
        if order[k] in before:
            other = next(spare)
            order[k], order[other] = order[other], order[k]
    return tuple(order)
