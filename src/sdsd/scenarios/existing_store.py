"""The rows of a source, as a run keeps them: copied once into an SQLite file of the run directory.

From then on resuming, verifying and exporting need that copy alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from sdsd.errors import SourceError
from sdsd.files import PRIVATE
from sdsd.scenarios.existing import Skipped, SourceRow

_SCHEMA = """
CREATE TABLE source(
    digest TEXT NOT NULL, count INTEGER NOT NULL, skipped TEXT NOT NULL, stamps TEXT NOT NULL
);
CREATE TABLE rows(number INTEGER PRIMARY KEY, row TEXT NOT NULL);
"""
_REMEDY = "restore it from a copy, or start another run from the source"


class StoredRows:
    """The usable rows of a source: `StoredRows(path)[index]`, in memory that does not grow.

    Holds no file open. Raises `SourceError` if the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():  # SQLite's own message does not say so
            raise SourceError(f"{path}: missing; {_REMEDY}")
        found = self._one(
            "SELECT digest, count, skipped, (SELECT max(number) FROM rows), stamps FROM source"
        )
        self.digest: str = found[0]
        """Hex SHA-256 of the rows' content, whatever files and formats they came from."""
        self._count: int = found[1]
        self.skipped: dict[str, int] = msgspec.json.decode(found[2])
        """Rows of the source that were left out, by reason."""
        self.stamps: str = found[4]
        """The files that the rows came from, with their sizes and times."""
        if found[3] != self._count - 1:
            raise SourceError(f"{path}: rows are missing; {_REMEDY}")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> SourceRow:
        if not 0 <= index < self._count:
            raise IndexError(index)
        (row,) = self._one("SELECT row FROM rows WHERE number = ?", index)
        try:
            return msgspec.json.decode(row, type=SourceRow)
        except msgspec.DecodeError as error:
            raise SourceError(f"{self.path}: row {index}: {error}; {_REMEDY}") from None

    def _one(self, query: str, *values: int) -> tuple[Any, ...]:
        try:
            address = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
                found: tuple[Any, ...] | None = db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise SourceError(f"{self.path}: cannot be read: {error}; {_REMEDY}") from None
        if found is None:
            raise SourceError(f"{self.path}: rows are missing; {_REMEDY}")
        return found


def store_rows(rows: Iterable[SourceRow | Skipped], path: Path, stamps: str = "") -> StoredRows:
    """Write the usable rows to `path`, all or none, and open them; count those skipped.

    Raises `SourceError` if no row is usable or the disk refuses. An earlier copy is untouched until
    all new rows are on disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.touch(PRIVATE)
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA} BEGIN")
            _write(rows, db, stamps)
            db.execute("COMMIT")
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise SourceError(f"{path}: cannot be written: {error}; free space or fix it") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return StoredRows(path)


def _write(rows: Iterable[SourceRow | Skipped], db: sqlite3.Connection, stamps: str) -> None:
    digest, count = hashlib.sha256(), 0
    skipped: Counter[str] = Counter()
    first: Skipped | None = None
    for row in rows:
        if isinstance(row, Skipped):
            skipped[row.reason] += 1
            first = first or row
            continue
        digest.update(_line(row))
        db.execute("INSERT INTO rows VALUES (?, ?)", (count, msgspec.json.encode(row).decode()))
        count += 1
    if not count:
        why = f"all were skipped, the first, {first.origin}: {first.reason}" if first else "none"
        raise SourceError(f"the source has no usable row ({why}); see docs/start-anywhere.md")
    known = (digest.hexdigest(), count, msgspec.json.encode(skipped).decode(), stamps)
    db.execute("INSERT INTO source VALUES (?, ?, ?, ?)", known)


def digest_of(rows: Iterable[SourceRow | Skipped]) -> str:
    """Return the digest that rows have when they are stored, without storing them."""
    digest = hashlib.sha256()
    for row in rows:
        if isinstance(row, SourceRow):
            digest.update(_line(row))
    return digest.hexdigest()


def _line(row: SourceRow) -> bytes:
    """Return what a row adds to the digest of a source."""
    return content(row) + b"\n"


def content(row: SourceRow) -> bytes:
    """Return the content of a row, independent of where it was read from.

    A system prompt that serves as the plan is in it once, as it was in earlier versions.
    """
    content = msgspec.to_builtins(replace(row, origin=""))
    if row.system in ("", row.plan):
        del content["system"]
    return msgspec.json.encode(content)
