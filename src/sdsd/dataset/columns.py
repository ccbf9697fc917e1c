"""Columns of views: their types, and those that several views share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

from sdsd.types import Record

TEXT = pa.string()
TEXTS = pa.list_(TEXT)
CHAT = pa.list_(pa.struct([("content", TEXT), ("role", TEXT)]))
BOOL, INT, LONG, REAL = pa.bool_(), pa.int32(), pa.int64(), pa.float64()


class Column(NamedTuple):
    """One column of a view."""

    name: str
    type: Any
    """A pyarrow type, such as `TEXT` above."""
    meaning: str
    value: Callable[[Record], Any] | None = None
    """Fills the column from the record; `rows` leaves such a column out."""

    @property
    def label(self) -> str:
        """The type as the documentation shows it."""
        return _label(self.type)


def _label(kind: Any) -> str:
    if pa.types.is_list(kind):
        return f"list of {_label(kind.value_type)}"
    if pa.types.is_struct(kind):
        return f"{{{', '.join(f.name for f in kind)}}}"
    return str(kind)


# fmt: off
ID = Column("id", TEXT, "Id of the scenario; joins all views.", lambda r: r.scenario.id)
INDEX = Column("index", LONG, "Number of the scenario, from 0.", lambda r: r.scenario.index)
FIELD = Column("field", TEXT, "The catalogue's field of the domain.", lambda r: r.scenario.field)
DOMAIN = Column("domain", TEXT, "What the conversation is about.", lambda r: r.scenario.domain)
SUBAREA = Column("subarea", TEXT, "A topic within the domain.", lambda r: r.scenario.subarea)
STRATEGY = Column("strategy", TEXT, "How the violation was elicited; see `docs/strategies.md`.",
                  lambda r: r.scenario.strategy)
GOAL_ID = Column("goal_id", TEXT, "Id of the goal.", lambda r: r.scenario.goal.id)
PRINCIPLE_IDS = Column("principle_ids", TEXTS, "Ids of the principles, the target principle first.",
                       lambda r: [p.id for p in r.scenario.principles])
VIOLATION_IDS = Column("violation_ids", TEXTS, "Ids of the principles confirmed as violated.",
                       lambda r: list(r.critique.violations) if r.critique else [])
OUTCOME = Column("outcome", TEXT, "`accepted`, `filtered` or `failed`.", lambda r: r.outcome)
RULE = Column("rule", TEXT, "Why it is `filtered`, e.g. `no_violation`; else null.",
              lambda r: r.rule or None)
# fmt: on
