"""Which principles are violated, how often, and in which fields."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct

from sdsd.reports.stats import Proportion, proportion
from sdsd.types import Principle, Record


class PrincipleCount(Struct, frozen=True):
    """How often one principle was judged, violated and targeted."""

    id: str
    text: str
    family: str
    category: str
    claimed: int
    """Verdicts that claim a violation, with or without evidence."""
    confirmed: Proportion
    """Dialogues with a confirmed violation, of those judged on this principle."""
    share: float
    """This principle's share of all confirmed violations of the run."""
    targeted: Proportion
    """Accepted dialogues, of those whose target principle this was."""


class CategoryCount(Struct, frozen=True):
    """The principles of one category, added up."""

    name: str
    confirmed: Proportion
    """Verdicts with a confirmed violation, of all verdicts."""
    targeted: Proportion
    """Accepted dialogues, of those whose target principle was in this category."""


class Cell(Struct, frozen=True):
    """One principle (or category of principles) in the dialogues of one field."""

    principle: str
    field: str
    confirmed: int
    """Verdicts with a confirmed violation."""
    judged: int
    pairs: int
    """Verified pairs of the dialogues in which it is violated."""


class PrincipleTally:
    """Counts the verdicts on last replies."""

    def __init__(self, catalogue: Iterable[Principle]) -> None:
        self._principles = {p.id: p for p in catalogue}
        self._cells: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._claimed: Counter[str] = Counter()
        self._targeted: Counter[str] = Counter()
        self._accepted: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        for principle in record.scenario.principles:
            self._principles.setdefault(principle.id, principle)
        self._targeted[record.scenario.target_principle.id] += 1
        self._accepted[record.scenario.target_principle.id] += bool(record.pairs)
        if record.critique is None:
            return
        for verdict in record.critique.verdicts:
            cell = self._cells[verdict.principle, record.scenario.field]
            cell[1] += 1
            self._claimed[verdict.principle] += verdict.violated
            if verdict.confirmed:
                cell[0] += 1
                cell[2] += len(record.pairs)

    def principles(self) -> tuple[PrincipleCount, ...]:
        """Return every principle of the catalogue and the records, most violations first."""
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
                proportion(confirmed[p.id], judged[p.id]),
                confirmed[p.id] / total if total else 0.0,
                proportion(self._accepted[p.id], self._targeted[p.id]),
            )
            for p in self._principles.values()
        )
        return tuple(sorted(counts, key=lambda c: (-c.confirmed.k, -c.confirmed.n, c.id)))

    def cells(self) -> tuple[Cell, ...]:
        """Return every principle in every field in which it was judged."""
        return tuple(Cell(*key, *counts) for key, counts in sorted(self._cells.items()))


def categories(principles: Iterable[PrincipleCount]) -> tuple[CategoryCount, ...]:
    """Add the principles up by category, the most often violated first."""
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for p in principles:
        parts = (p.confirmed.k, p.confirmed.n, p.targeted.k, p.targeted.n)
        sums[p.category] = [a + b for a, b in zip(sums[p.category], parts, strict=True)]
    counts = (
        CategoryCount(name, proportion(k, n), proportion(accepted, targeted))
        for name, (k, n, accepted, targeted) in sums.items()
        if n or targeted
    )
    return tuple(sorted(counts, key=lambda c: (-c.confirmed.share, c.name)))


def by_category(
    cells: Iterable[Cell], principles: Sequence[PrincipleCount]
) -> dict[tuple[str, str], Cell]:
    """Add the cells up by (category, field)."""
    category = {p.id: p.category for p in principles}
    sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for cell in cells:
        key = category[cell.principle], cell.field
        parts = (cell.confirmed, cell.judged, cell.pairs)
        sums[key] = [a + b for a, b in zip(sums[key], parts, strict=True)]
    return {key: Cell(*key, *counts) for key, counts in sums.items()}
