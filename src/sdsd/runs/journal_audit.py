"""Check a journal's file, and forget a dialogue whose answers are damaged.

A replay finds what changes a record. This finds the rest: times, token counts, the answers of
dialogues that are not finished, sums, indexes, and tables or triggers that are not the program's.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sdsd.errors import JournalError
from sdsd.runs import journal_file
from sdsd.runs.journal import Fingerprint, Sums, add_up, cost_of
from sdsd.runs.journal_file import is_sound
from sdsd.types import Answer

DROPPED = "dropped"
"""The stage under which the cost of answers that were dropped goes on being counted."""

_answer = msgspec.json.Decoder(Answer)
_fingerprint = msgspec.json.Decoder(Fingerprint)


def audit(path: Path) -> Iterator[str]:
    """Yield what is wrong with a journal's file and rows, whatever they are about."""
    try:
        with journal_file.connect(path, readonly=True) as connection:
            has_digests = (
                journal_file.prepare(connection, path, readonly=True) == journal_file.VERSION
            )
            yield from _changed_tables(connection, has_digests)
            yield from _broken_pages(connection)
            if has_digests:
                yield from _damaged_rows(connection)
            yield from _wrong_sums(connection)
    except sqlite3.Error as error:
        yield f"{path.name}: {error}; restore it from a copy"


def _changed_tables(connection: sqlite3.Connection, has_digests: bool) -> Iterator[str]:
    found = journal_file.schema(connection)
    expected = journal_file.expected_schema(digests=has_digests)
    for name in {**expected, **found}:
        if name not in expected:
            yield f"journal.sqlite: has a {name}, which this program never makes; remove it"
        elif found.get(name) != expected[name]:
            yield f"journal.sqlite: {name} is not as this program makes it; restore a copy"


def _broken_pages(connection: sqlite3.Connection) -> Iterator[str]:
    for (line,) in connection.execute("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield f"journal.sqlite: {line}; restore it from a copy"


def _damaged_rows(connection: sqlite3.Connection) -> Iterator[str]:
    for number, *row in connection.execute(
        "SELECT r.number, a.* FROM answer a LEFT JOIN record r ON r.scenario = a.scenario"
    ):
        if not is_sound(row):
            what = f"the answer to {row[1]} of {row[0]}"
            yield f"{_dialogue(number, row[0])}{what} is damaged"
    for row in connection.execute("SELECT * FROM record"):
        if not is_sound(row):
            yield f"dialogue {row[0]}: its record is damaged"
    for table in ("round", "kept"):
        for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608
            if not is_sound(row):
                yield f"journal.sqlite: {table} {row[0]} is damaged; restore it from a copy"


def _dialogue(number: int | None, scenario: str) -> str:
    head = str(number) if number is not None else scenario.partition("-")[0].lstrip("0") or "0"
    return f"dialogue {head}: " if head.isdecimal() else ""


def _wrong_sums(connection: sqlite3.Connection) -> Iterator[str]:
    counted, found = _sums(connection), _usage(connection)
    for key in {**counted, **found}:
        known, true = found.get(key, ()), counted.get(key, ())
        same = len(known) == len(true) and all(map(_close, known, true))
        if not same and key[0] != DROPPED:
            yield f"journal.sqlite: the sums of {' '.join(key)} are not those of its answers"


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6)


def _usage(connection: sqlite3.Connection) -> Sums:
    return {tuple(row[:3]): tuple(row[3:]) for row in connection.execute("SELECT * FROM usage")}


def _sums(connection: sqlite3.Connection) -> Sums:
    """Add up what the answers cost; those that cannot be read cost nothing."""
    return add_up(_costs(connection))


def _costs(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    for step, request, body in connection.execute("SELECT step, request, body FROM answer"):
        try:
            cost = cost_of(step, _fingerprint.decode(request), _answer.decode(body))
        except ValueError:
            continue
        if cost is not None:
            yield cost


# -- forgetting ----------------------------------------------------------------------------


def drop(path: Path, index: int) -> int:
    """Forget what was recorded of a dialogue, and return how many answers that was.

    The run makes it again at its next start. If its answers are sound and only its record is
    damaged, the answers stay, and nothing is paid for again. What the dropped answers cost stays
    counted, as stage `dropped`. Raises `JournalError` if nothing is recorded of it, or if later
    rounds of a run with targets were planned from it.
    """
    if not path.exists():
        raise JournalError(f"{path}: is missing; restore a copy")
    try:
        with journal_file.connect(path, readonly=False) as connection:
            journal_file.prepare(connection, path, readonly=False)
            connection.execute("BEGIN IMMEDIATE")
            dropped = _drop(connection, path, index)
            connection.execute("COMMIT")
            journal_file.leave(connection)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: cannot be written: {error}; restore a copy") from None
    return dropped


def _drop(connection: sqlite3.Connection, path: Path, index: int) -> int:
    ids = f"{index:06d}-*"
    answers = connection.execute("SELECT * FROM answer WHERE scenario GLOB ?", (ids,)).fetchall()
    records = connection.execute("SELECT * FROM record WHERE number = ?", (index,)).fetchall()
    if not answers and not records:
        raise JournalError(f"{path}: nothing is recorded of dialogue {index}")
    _require_unplanned(connection, path, index)
    connection.execute("DELETE FROM record WHERE number = ?", (index,))
    if not all(map(is_sound, records)) and all(map(is_sound, answers)):
        return 0
    spent = _by_model(_usage(connection))
    connection.execute("DELETE FROM answer WHERE scenario GLOB ?", (ids,))
    left = _sums(connection)
    kept = _by_model(left)
    for (role, model), before in spent.items():
        after = kept.get((role, model), (0.0,) * len(before))
        lost = tuple(max(a - b, 0) for a, b in zip(before, after, strict=True))
        if lost[0]:
            left[DROPPED, role, model] = lost
    connection.execute("DELETE FROM usage")
    rows: list[tuple[Any, ...]] = [(*key, *amounts) for key, amounts in left.items()]
    connection.executemany("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return len(answers)


def _by_model(sums: Sums) -> Sums:
    """Return the sums over all stages, by role and model."""
    return add_up(((role, model, *amounts) for (_, role, model), amounts in sums.items()), 2)


def _require_unplanned(connection: sqlite3.Connection, path: Path, index: int) -> None:
    """Raise if a round was planned from the dialogue: all those two after its own and later."""
    later = connection.execute("SELECT count(*) FROM round WHERE start > ?", (index,)).fetchone()
    if later[0] > 1:
        raise JournalError(
            f"{path}: later rounds of this run were planned from dialogue {index}, so it cannot be "
            "made again; restore the journal from a copy, or start another run directory"
        )
