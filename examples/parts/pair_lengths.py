"""A view of your own: one more table in the data set.

export:
  views: ["pair_lengths:pair_lengths"]
"""

from collections.abc import Iterator

from sdsd.dataset.columns import ID, INT, Column
from sdsd.dataset.view import Row, Selected, View

CHOSEN = Column("chosen_words", INT, "Words of the chosen reply.")


def rows(selected: Selected) -> Iterator[Row]:
    """Yield one row per verified pair."""
    for pair in selected.pairs:
        yield {"chosen_words": len(pair.chosen.split())}


pair_lengths = View("pair_lengths", "Lengths of the chosen replies.", (ID, CHOSEN), rows)
