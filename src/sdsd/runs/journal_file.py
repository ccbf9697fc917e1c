"""The SQLite file of a journal: its tables, how it is opened, and how it is left.

While a run writes, its latest answers are in the write-ahead log next to the file
(`journal.sqlite-wal`). At the end everything is moved into the one file, so a finished run can be
copied by its name and read from a directory that cannot be written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from sdsd.errors import JournalError
from sdsd.files import sync_folder

VERSION = 5
"""Version of the schema, in `PRAGMA user_version`. 1 to 3 were never released."""
_WITHOUT_DIGESTS = 4
"""The version before rows had digests: still read, and extended when it is next written."""
_TABLES = """
    CREATE TABLE answer (
        scenario TEXT NOT NULL,
        step     TEXT NOT NULL,
        request  BLOB NOT NULL,  -- fingerprint: {part of the request: digest}
        body     BLOB NOT NULL,  -- Completion or Refusal
        at       REAL NOT NULL,  -- unix time of the answer; for plots only
        PRIMARY KEY (scenario, step)
    );
    CREATE TABLE record (
        number   INTEGER PRIMARY KEY,  -- the scenario's index
        scenario TEXT NOT NULL UNIQUE,
        outcome  TEXT NOT NULL,
        rule     TEXT NOT NULL,
        pairs    INTEGER NOT NULL,  -- verified pairs, so that counting decodes no record
        body     BLOB NOT NULL
    );
    CREATE INDEX record_outcome ON record (outcome, rule, pairs);
    CREATE TABLE usage (  -- sums over `answer`, kept so that no reader must add them up
        stage  TEXT NOT NULL,
        role   TEXT NOT NULL,
        model  TEXT NOT NULL,
        calls  INTEGER NOT NULL,
        prompt_tokens     INTEGER NOT NULL,
        cached_tokens     INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        seconds           REAL NOT NULL,
        PRIMARY KEY (stage, role, model)
    );
    CREATE TABLE round (  -- what the dialogues of a run with targets are meant for
        number INTEGER PRIMARY KEY,
        start  INTEGER NOT NULL UNIQUE,  -- index of its first dialogue
        slots  BLOB NOT NULL,     -- one for each of its dialogues
        ledger BLOB NOT NULL      -- the counts it was planned from
    );
"""
_DIGESTS = """
    ALTER TABLE answer ADD COLUMN digest BLOB;  -- of the row's other columns; NULL in old rows
    ALTER TABLE record ADD COLUMN digest BLOB;
    ALTER TABLE round ADD COLUMN digest BLOB;
    CREATE TABLE kept (  -- what the run began with (see `sdsd.runs.origin`)
        name   TEXT PRIMARY KEY,
        body   BLOB NOT NULL,
        digest BLOB
    );
"""
_WRITTEN = 0x73647364
"""`PRAGMA application_id` of a file whose write-ahead log holds a part of it; 0 at other times."""
_APPLICATION_ID = slice(68, 72)
"""Where the file's header has it."""


def row_digest(row: Sequence[Any]) -> bytes:
    """Return a short digest of a row's columns, to find what a disk or a copy has changed."""
    return blake2b(msgspec.msgpack.encode(row), digest_size=8).digest()


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from others, whatever they are called; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_sound(row: Sequence[Any]) -> bool:
    """Return whether a row, as `Journal.rows` gives it, is what was written."""
    return row[-1] is None or row[-1] == row_digest(row[:-1])


def schema(connection: sqlite3.Connection) -> dict[str, str]:
    """Return table and SQL of every table, index, trigger and view by its name."""
    rows = connection.execute(
        "SELECT type || ' ' || name, tbl_name || ': ' || coalesce(sql, '') FROM sqlite_schema"
    )
    return dict(rows.fetchall())


def expected_schema(*, digests: bool) -> dict[str, str]:
    """Return the `schema` of every journal of this version, or of the one before it."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_TABLES + (_DIGESTS if digests else ""))
        return schema(connection)


@contextlib.contextmanager
def connect(path: Path, *, readonly: bool) -> Iterator[sqlite3.Connection]:
    """Open the file; what is written is on disk after each commit.

    Raises `sqlite3.Error` if it cannot be opened, and `JournalError` if its log is missing.
    """
    _require_log(path)
    if not readonly:
        path.touch(0o600)  # only where it is new: servers' texts may hold what nobody knows of
    mode = "ro" if readonly else "rwc"
    if readonly and not os.access(path.parent, os.W_OK) and not _log_size(path):
        mode += "&immutable=1"  # otherwise SQLite creates a file next to it
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with contextlib.closing(
        sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        if not readonly:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        yield connection


def prepare(connection: sqlite3.Connection, path: Path, *, readonly: bool) -> int:
    """Create the tables of a new journal, and extend those of an old one; return the version.

    Raises `JournalError` for the journal of another version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0 and readonly:  # emptied, or killed before the first table
        raise JournalError(f"{path}: empty; {NO_JOURNAL}")
    if version not in (0, _WITHOUT_DIGESTS, VERSION):
        raise JournalError(
            f"{path}: journal version {version}, but this program reads {VERSION}; use the "
            "version of sdsd that wrote it"
        )
    if readonly:
        return int(version)
    if version != VERSION:
        tables = _DIGESTS if version else _TABLES + _DIGESTS
        connection.executescript(f"BEGIN; {tables} PRAGMA user_version = {VERSION}; COMMIT;")
        sync_folder(path.parent)
    connection.execute(f"PRAGMA application_id = {_WRITTEN}")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # into the file itself
    return VERSION


def leave(connection: sqlite3.Connection) -> None:
    """Move everything into the one file. Does nothing if it is being read, or the disk is full.

    The log is emptied first. Where it has filled the disk, it has no room for another page; and
    when it is closed, SQLite may still find room in the file and delete the log, which must not be
    missed later.
    """
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA application_id = 0")
        connection.execute("PRAGMA journal_mode = DELETE")


NO_JOURNAL = "a run that was made needs it back from a copy; a new run begins with `sdsd run`"
"""The remedy where a journal holds nothing."""


def _log_size(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return -1


def _require_log(path: Path) -> None:
    """Raise `JournalError` if answers were in a write-ahead log that is not there."""
    try:
        with path.open("rb") as file:
            head = file.read(_APPLICATION_ID.stop)
    except OSError:
        return  # SQLite says so better
    if head[_APPLICATION_ID] == _WRITTEN.to_bytes(4, "big") and _log_size(path) < 0:
        raise JournalError(
            f"{path}: its latest answers were in {path.name}-wal, which is missing; copy that file "
            "as well from where the run was made, or start another run directory (`--out`)"
        )
