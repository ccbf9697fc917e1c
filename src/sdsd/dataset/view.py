"""A view: one table of the data set, its columns, and how its rows are made from a record.

A user-defined view is a `View`, named in `export.views` as `package.module:name`:

    def rows(selected):
        for pair in selected.pairs:
            yield {"words": len(pair.chosen.split())}

    words = Column("words", INT, "Words of the chosen reply.")
    lengths = View("lengths", "One row per pair.", (ID, words), rows)

It is written next to the packaged views (`sdsd.dataset.views`), in every split, and listed on the
card. `rows` must be a pure function: `sdsd verify` calls it again and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
from msgspec import Struct

from sdsd.config import ExportConfig
from sdsd.dataset.columns import Column
from sdsd.dataset.decision import Decision
from sdsd.types import Dialogue, Message, Pair, Record

Row = dict[str, Any]
"""One row of a view: a value by column."""
Models = Mapping[str, str]
"""Model names by role, as in `Manifest.models`."""


class Selected(NamedTuple):
    """One record, and what the export keeps of it for training."""

    record: Record
    dialogue: Dialogue | None
    """None if there is none, or if it is left out."""
    pairs: tuple[Pair, ...]
    """The verified pairs that are not left out."""
    decision: Decision
    """What is left out, and the findings of the quality rules."""
    models: Models
    config: ExportConfig


class View(Struct, frozen=True):
    """One table of the data set."""

    name: str
    doc: str
    """What one row is, in a sentence."""
    columns: tuple[Column, ...]
    rows: Callable[[Selected], Iterable[Row]]
    """Yields the rows of one record: none, one or several. Every row has all columns but those that
    have a `value`."""
    published: int = 0
    """How many of the first columns are those of a published data set, by name and meaning."""

    def of(self, selected: Selected) -> list[Row]:
        """Return the complete rows of one record."""
        rows = list(self.rows(selected))
        if not rows:
            return rows
        shared = {c.name: c.value(selected.record) for c in self.columns if c.value}
        return [shared | row for row in rows]

    def schema(self, metadata: dict[bytes, bytes] | None = None) -> Any:
        """Return the pyarrow schema, carrying `metadata`."""
        return pa.schema([(c.name, c.type) for c in self.columns], metadata=metadata)

    def table(self) -> str:
        """Return the columns as a Markdown table, for the documentation."""
        lines = ["| column | type | published | meaning |", "| --- | --- | --- | --- |"]
        for k, c in enumerate(self.columns):
            published = "yes" if k < self.published else ""
            lines.append(f"| `{c.name}` | {c.label} | {published} | {c.meaning} |")
        return "\n".join(lines) + "\n"


def select(
    record: Record, decision: Decision, models: Models, config: ExportConfig = ExportConfig()
) -> Selected:
    if decision.removed:
        return Selected(record, None, (), decision, models, config)
    pairs = tuple(p for k, p in enumerate(record.pairs) if k not in decision.pairs)
    return Selected(record, record.dialogue, pairs, decision, models, config)


def chat(messages: Iterable[Message]) -> list[Row]:
    """Return messages as rows of the type `CHAT`."""
    return [{"content": m.content, "role": m.role} for m in messages]


def prompt(dialogue: Dialogue) -> list[Row]:
    """Return what comes before the last reply, the agent's system prompt first if it has one."""
    system = [Message("system", dialogue.system)] if dialogue.system.strip() else []
    return chat([*system, *dialogue.messages[:-1]])


def reply(text: str) -> list[Row]:
    """Return one assistant turn as a row of the type `CHAT`."""
    return [{"content": text, "role": "assistant"}]
