"""Sample scenarios: `Scenarios(...)[i]` has the inputs of dialogue i, for any i, without state.

Every axis (domains, goals, target principles, further principles, number of principles, exchanges,
strategies) goes through seeded permutations of its values, one after another. So over the first N
scenarios the counts of any two values of an axis differ by at most one, for every N. Within a
permutation of the domains, those of each field are spread evenly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from sdsd.config import ScenariosConfig
from sdsd.errors import CatalogueError
from sdsd.hashing import hash64
from sdsd.scenarios.catalogue import Catalogue
from sdsd.types import Principle, Scenario

Axis = Literal["principle", "category", "domain", "field", "strategy"]
"""What quotas may be counted by."""


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
        self._domain_order = lru_cache(maxsize=8)(self._spread_fields)
        self._targets = lru_cache(maxsize=8)(self._target_order)

    def __getitem__(self, index: int) -> Scenario:
        if index < 0:
            raise IndexError(index)
        visit, within = divmod(index, len(self._catalogue.domains))
        strategy = self._strategies[self._at("strategy", len(self._strategies), index)]
        place = self._domain_order(visit)[within]
        return self._scenario(index, place, visit, self._principles(index), strategy)

    def for_cell(self, index: int, axis: Axis, cell: str, strategy: str) -> Scenario:
        """Return the scenario at `index`, changed to belong to one cell and to use `strategy`.

        Everything else is sampled as usual, so it stays balanced over the dialogues of a run.
        """
        usual = self[index]
        [place] = self._members["domain"][usual.domain]
        visit, principles = index // len(self._catalogue.domains), usual.principles
        if axis != "strategy":
            among = self._members[axis][cell]
            member = among[self._at(f"meant/{cell}", len(among), index)]
            if axis in ("principle", "category"):
                target_principle = self._catalogue.principles[member]
                further = (p for p in principles[1:] if p.id != target_principle.id)
                principles = (target_principle, *further)
            else:
                place = member
                visit = index  # not once in a walk over all domains: many times in a row
        return self._scenario(index, place, visit, principles, strategy)

    def cells(self, axis: Axis) -> tuple[str, ...]:
        """Return all cells of an axis, in the order of the catalogue."""
        return self._strategies if axis == "strategy" else tuple(self._members[axis])

    def _scenario(
        self, index: int, place: int, visit: int, principles: tuple[Principle, ...], strategy: str
    ) -> Scenario:
        """Return the scenario on the `visit`-th subarea of the domain at `place`."""
        catalogue, config, seed = self._catalogue, self._config, self._seed
        domain = catalogue.domains[place]
        subarea = domain.subareas[self._at(f"subarea/{place}", len(domain.subareas), visit)]
        goal = catalogue.goals[self._at("goal", len(catalogue.goals), index)]
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

    def _principles(self, index: int) -> tuple[Principle, ...]:
        """Return the target principle, then the further ones."""
        n = len(self._catalogue.principles)
        turn, within = divmod(index, n)
        target_principle, further = self._targets(turn)[within], self._further(index)
        if self._few:  # repeats are inevitable: continue in one fixed order
            order = _permutation(self._seed, "principle", n, 0)
            after = order.index(target_principle) + 1
            further = tuple(order[(after + k) % n] for k in range(len(further)))
        return tuple(self._catalogue.principles[i] for i in (target_principle, *further))

    @property
    def _few(self) -> bool:
        """Whether there are too few principles to keep targets and further ones apart."""
        return len(self._catalogue.principles) < 2 * self._config.principles[1]

    def _target_order(self, turn: int) -> tuple[int, ...]:
        """Return the targets of the next n dialogues: each principle once, and never one that is
        among the further principles of its dialogue.

        A target that is one swaps places with another. A partner always exists: a dialogue with m
        further principles excludes m targets, and at most m + 1 dialogues have the one to swap.
        """
        n = len(self._catalogue.principles)
        targets = list(_permutation(self._seed, "focus", n, turn))
        if self._few:
            return tuple(targets)
        further = [self._further(turn * n + k) for k in range(n)]
        for k in range(n):
            if targets[k] not in further[k]:
                continue
            for j in range(n):
                if targets[j] not in further[k] and targets[k] not in further[j]:
                    targets[k], targets[j] = targets[j], targets[k]
                    break
        return tuple(targets)

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
