"""Which principles are broken, how readily, and in talk about what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct

from sdsd.reports.rates import Rate, rate
from sdsd.types import Principle, Record


class PrincipleCount(Struct, frozen=True):
    """How often one principle was judged, and broken."""

    id: str
    text: str
    family: str
    category: str
    claimed: int
    confirmed: Rate
    """Of the dialogues critiqued on this principle, those with a confirmed violation."""
    share: float
    """Of all confirmed violations of the run, those of this principle."""


class CategoryCount(Struct, frozen=True):
    """The same, for all principles of a category; `n` counts verdicts."""

    name: str
    confirmed: Rate


class Cell(Struct, frozen=True):
    """One principle in the dialogues of one field."""

    principle: str
    field: str
    confirmed: int
    """Dialogues in which its violation is confirmed."""
    judged: int
    """Dialogues that were judged on it."""
    pairs: int
    """Verified pairs of those in which it is broken."""


class PrincipleTally:
    """Counters over the verdicts on last turns."""

    def __init__(self, catalogue: Iterable[Principle]) -> None:
        self._principles = {p.id: p for p in catalogue}
        self._cells: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._claimed: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """One more record."""
        for principle in record.scenario.principles:
            self._principles.setdefault(principle.id, principle)
        if record.critique is None:
            return
        pairs = len(record.pairs)
        for verdict in record.critique.verdicts:
            cell = self._cells[verdict.principle, record.scenario.field]
            cell[1] += 1
            if verdict.violated:
                self._claimed[verdict.principle] += 1
            if verdict.confirmed:
                cell[0] += 1
                cell[2] += pairs

    def principles(self) -> tuple[PrincipleCount, ...]:
        """All of the catalogue and of the records, most violations first."""
        confirmed: Counter[str] = Counter()
        judged: Counter[str] = Counter()
        for (principle, _), (k, n, _) in self._cells.items():
            confirmed[principle] += k
            judged[principle] += n
        total = confirmed.total()
        counts = (
            PrincipleCount(
                p.id,
                p.text,
                p.family,
                p.category,
                self._claimed[p.id],
                rate(confirmed[p.id], judged[p.id]),
                confirmed[p.id] / total if total else 0.0,
            )
            for p in self._principles.values()
        )
        return tuple(sorted(counts, key=lambda c: (-c.confirmed.k, -c.confirmed.n, c.id)))

    def cells(self) -> tuple[Cell, ...]:
        """Every principle in every field in which it was judged."""
        return tuple(Cell(*key, *counts) for key, counts in sorted(self._cells.items()))


def categories(principles: Iterable[PrincipleCount]) -> tuple[CategoryCount, ...]:
    """The principles added up by category, the most readily broken first."""
    broken: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for p in principles:
        broken[p.category] += p.confirmed.k
        judged[p.category] += p.confirmed.n
    counts = (CategoryCount(name, rate(broken[name], n)) for name, n in judged.items() if n)
    return tuple(sorted(counts, key=lambda c: (-c.confirmed.share, c.name)))


def by_category(
    cells: Iterable[Cell], principles: Sequence[PrincipleCount]
) -> dict[tuple[str, str], Cell]:
    """The cells added up by (category, field)."""
    category = {p.id: p.category for p in principles}
    sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for cell in cells:
        total = sums[category[cell.principle], cell.field]
        for k, part in enumerate((cell.confirmed, cell.judged, cell.pairs)):
            total[k] += part
    return {key: Cell(*key, *counts) for key, counts in sums.items()}
