"""`scenario(i)`: the inputs of dialogue i, from the run's seed and the index alone.

Random access, no state, no end. Every axis (domains, goals, principles, number of principles,
exchanges) walks through seeded permutations of its values, one after another, so that over the
first N scenarios the counts of any two values of an axis differ by at most one, for every N.
Within a permutation the domains are laid out so that each field is spread evenly over it.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

from sdsd.catalogue import Catalogue
from sdsd.chance import draw
from sdsd.config import ScenariosConfig
from sdsd.errors import CatalogueError
from sdsd.types import Principle, Scenario


class _Axis(NamedTuple):
    """n values walked in blocks; each block is a permutation of all of them."""

    seed: int
    name: str
    n: int

    def at(self, position: int) -> int:
        block, within = divmod(position, self.n)
        return _permutation(self.seed, self.name, self.n, block)[within]


@lru_cache(maxsize=256)
def _permutation(seed: int, name: str, n: int, block: int) -> tuple[int, ...]:
    return tuple(sorted(range(n), key=lambda i: draw(seed, name, block, i)))


class Scenarios:
    """The endless sequence of scenarios of a run: `Scenarios(...)[i]`."""

    def __init__(self, catalogue: Catalogue, config: ScenariosConfig, seed: int) -> None:
        most = config.principles[1]
        if most > len(catalogue.principles):
            raise CatalogueError(
                f"`scenarios.principles` asks for up to {most} principles in a dialogue, but the "
                f"catalogue has {len(catalogue.principles)}; add principles or lower it"
            )
        self._catalogue = catalogue
        self._config = config
        self._seed = seed
        self._field_members: dict[str, list[int]] = defaultdict(list)
        for i, domain in enumerate(catalogue.domains):
            self._field_members[domain.field].append(i)
        self._domain_order = lru_cache(maxsize=8)(self._spread_fields)

    def __getitem__(self, index: int) -> Scenario:
        if index < 0:
            raise IndexError(index)
        catalogue, config, seed = self._catalogue, self._config, self._seed
        visit, within = divmod(index, len(catalogue.domains))
        place = self._domain_order(visit)[within]
        domain = catalogue.domains[place]
        subarea = _Axis(seed, f"subarea/{place}", len(domain.subareas)).at(visit)
        goal = catalogue.goals[_Axis(seed, "goal", len(catalogue.goals)).at(index)]
        principles = self._principles(index)
        least, most = config.exchanges
        exchanges = least + _Axis(seed, "exchanges", most - least + 1).at(index)
        content = (domain.field, domain.name, domain.subareas[subarea], goal.id, goal.text)
        texts = tuple(p.text for p in principles)
        return Scenario(
            id=f"{index:06d}-{draw(seed, index, *content, *texts, exchanges) >> 32:08x}",
            index=index,
            field=domain.field,
            domain=domain.name,
            subarea=domain.subareas[subarea],
            goal=goal,
            principles=principles,
            exchanges=exchanges,
        )

    def _spread_fields(self, visit: int) -> tuple[int, ...]:
        """All domains once: each field's members at even distances, from a seeded offset."""
        position: dict[int, tuple[float, int]] = {}
        for field, members in self._field_members.items():
            offset = draw(self._seed, "field", visit, field) / 2**64
            order = _permutation(self._seed, f"domain/{field}", len(members), visit)
            for rank, i in enumerate(order):
                tie = draw(self._seed, "tie", visit, field)
                position[members[i]] = ((rank + offset) / len(members), tie)
        return tuple(sorted(position, key=position.__getitem__))

    def _principles(self, index: int) -> tuple[Principle, ...]:
        """The next few of one long stream of principles, never one twice in a dialogue."""
        least, most = self._config.principles
        kinds = most - least + 1
        block, within = divmod(index, kinds)
        sizes = [least + k for k in _permutation(self._seed, "size", kinds, block)]
        start = block * (sum(range(least, most + 1))) + sum(sizes[:within])
        chosen = (self._principle_at(start + k) for k in range(sizes[within]))
        return tuple(self._catalogue.principles[i] for i in chosen)

    def _principle_at(self, position: int) -> int:
        n, most = len(self._catalogue.principles), self._config.principles[1]
        block, within = divmod(position, n)
        return _joined(self._seed, n, most, block)[within]


@lru_cache(maxsize=64)
def _joined(seed: int, n: int, most: int, block: int) -> tuple[int, ...]:
    """A permutation of the principles whose head does not repeat the tail of the one before.

    A dialogue may straddle two blocks, so up to `most` - 1 values on either side of the seam must
    differ. Head values that would repeat are exchanged with values from the middle, which leaves
    every tail as it was drawn, so no block depends on more than its neighbour. Too few principles
    for a middle: the same order over and over, where any `most` in a row differ anyway.
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
