"""The journal: every answer of every model, on disk before anybody sees it.

One SQLite file per run. The key is (scenario, step). The request's fingerprint is kept beside the
answer and *checked*, never used as the key: counters and payload hashes as keys replay the wrong
data after a crash, names do not. One writer thread groups whatever is waiting into one
transaction, with `synchronous=FULL`; an answer is handed out after its commit. WAL does not work
over network file systems: a journal lives on a local disk and has one writing process.

Finished dialogues are kept too, so that counting and exporting need no replay. They are derived:
`sdsd verify` makes each of them again from the answers and compares.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
from msgspec import Struct

from sdsd.errors import JournalError
from sdsd.types import Answer, Completion, Record, Request, Usage

MIGRATIONS = (
    """
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
        body     BLOB NOT NULL
    );
    CREATE INDEX record_outcome ON record (outcome, rule);
    """,
    """
    CREATE TABLE usage (  -- sums over `answer`, so that nobody has to read it all to know them
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
    INSERT INTO usage SELECT
        CASE instr(step, '/') WHEN 0 THEN step ELSE substr(step, 1, instr(step, '/') - 1) END,
        json_extract(CAST(request AS TEXT), '$.role'),
        json_extract(CAST(request AS TEXT), '$.model'),
        count(*),
        total(json_extract(CAST(body AS TEXT), '$.prompt_tokens')),
        total(json_extract(CAST(body AS TEXT), '$.cached_tokens')),
        total(json_extract(CAST(body AS TEXT), '$.completion_tokens')),
        total(json_extract(CAST(body AS TEXT), '$.seconds'))
    FROM answer WHERE json_extract(CAST(body AS TEXT), '$.type') = 'completion' GROUP BY 1, 2, 3;
    CREATE TABLE sum (  -- figures of the making that no record holds
        name  TEXT PRIMARY KEY,
        value REAL NOT NULL
    );
    """,
    """
    CREATE TABLE round (  -- what the dialogues of a run with targets are meant for
        number INTEGER PRIMARY KEY,
        start  INTEGER NOT NULL UNIQUE,  -- index of its first dialogue
        slots  BLOB NOT NULL,     -- one for each of its dialogues
        ledger BLOB NOT NULL      -- what it was laid out from
    );
    """,
)
"""Schema versions in order; append only. `PRAGMA user_version` counts those applied."""

Fingerprint = dict[str, str]


class Round(Struct, frozen=True):
    """What the dialogues from index `start` on are meant for; see `sdsd.runs.rounds`."""

    number: int
    start: int
    slots: bytes
    ledger: bytes


class Entry(Struct, frozen=True):
    """One recorded step: what was asked, as a fingerprint, and what came back."""

    request: Fingerprint
    answer: Answer


_answer = msgspec.json.Decoder(Answer)
_fingerprint = msgspec.json.Decoder(Fingerprint)
_record = msgspec.json.Decoder(Record)


def fingerprint(request: Request, model: str) -> Fingerprint:
    """A short digest of each part of a request, so that a divergence can say what changed."""
    parts: Fingerprint = {"v": "1", "model": model, "role": request.role}
    for i, message in enumerate(request.messages):
        parts[f"message {i} ({message.role})"] = _short(message.content.encode("utf-8", "replace"))
    if request.prompt:
        parts["prompt"] = _short(request.prompt.encode("utf-8", "replace"))
    sampling = (request.max_tokens, request.temperature, request.top_p, request.stop)
    parts["sampling"] = _short(msgspec.json.encode(sampling))
    if request.schema is not None:
        parts["schema"] = _short(msgspec.json.encode(request.schema))
    if request.choices:
        parts["weigh"] = _short(msgspec.json.encode(request.choices))
    return parts


def _short(data: bytes) -> str:
    return blake2b(data, digest_size=6).hexdigest()


class _Write(Struct):
    sql: str
    row: tuple[Any, ...]
    done: asyncio.Future[None]
    usage: tuple[Any, ...] | None = None
    """The fields of `Usage`, to be added to the sums."""


class Journal:
    """An open journal. Reads happen on the caller's thread, writes on the journal's own.

    Raises `JournalError` when the file is not a journal, is newer than this program, or cannot be
    written; after a failed write every later one fails too, so that nothing is handed out that
    is not on disk.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        if readonly and not path.exists():
            raise JournalError(f"{path}: no journal here; `sdsd run` makes one")
        try:
            with contextlib.ExitStack() as opened:
                self._reader = opened.enter_context(_connect(path, readonly))
                if not readonly:
                    _migrate(self._reader)
                self._version = _version(self._reader, path)
                self._connection = opened.enter_context(_connect(path, readonly))
                self._opened = opened.pop_all()
        except sqlite3.Error as error:
            raise JournalError(f"{path}: cannot be opened as a journal: {error}") from None
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._broken: JournalError | None = None
        self._writer = threading.Thread(target=self._write_all, name="journal", daemon=True)
        if not readonly:
            self._writer.start()

    def close(self) -> None:
        """Write what is waiting, then let go of the file."""
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join()
        self._opened.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------

    def load(self, scenario: str) -> dict[str, Entry]:
        """Every recorded step of one scenario."""
        rows = self._read("SELECT step, request, body FROM answer WHERE scenario = ?", scenario)
        with self._blamed(f"an answer of {scenario}"):
            return {
                step: Entry(_fingerprint.decode(request), _answer.decode(body))
                for step, request, body in rows
            }

    def step(self, scenario: str, step: str) -> Entry | None:
        """One recorded step."""
        sql = "SELECT request, body FROM answer WHERE scenario = ? AND step = ?"
        rows = self._read(sql, scenario, step)
        with self._blamed(f"the answer to {step} of {scenario}"):
            return (
                Entry(_fingerprint.decode(rows[0][0]), _answer.decode(rows[0][1])) if rows else None
            )

    def unfinished(self, n: int, first: int = 0, chunk: int = 10_000) -> Iterator[int]:
        """The indexes from `first` to below `n` without a record, in order.

        Memory does not grow with `n`.
        """
        for start in range(first, n, chunk):
            stop = min(start + chunk, n)
            rows = self._read(
                "SELECT number FROM record WHERE number >= ? AND number < ?", start, stop
            )
            finished = {number for (number,) in rows}
            yield from (i for i in range(start, stop) if i not in finished)

    def records(self, n: int | None = None, start: int = 0) -> Iterator[Record]:
        """Finished dialogues in the order of their index, read as they are asked for."""
        limit = 2**62 if n is None else n
        last = start - 1
        while rows := self._read(
            "SELECT number, body FROM record WHERE number > ? AND number < ? "
            "ORDER BY number LIMIT 256",
            last,
            limit,
        ):
            for number, body in rows:
                with self._blamed(f"record {number}"):
                    record = _record.decode(body)
                yield record
                last = number

    def record(self, index: int) -> Record | None:
        """One finished dialogue."""
        rows = self._read("SELECT body FROM record WHERE number = ?", index)
        with self._blamed(f"record {index}"):
            return _record.decode(rows[0][0]) if rows else None

    def outcomes(self) -> dict[tuple[str, str], int]:
        """How many records there are by (outcome, rule)."""
        rows = self._read("SELECT outcome, rule, count(*) FROM record GROUP BY outcome, rule")
        return {(outcome, rule): count for outcome, rule, count in rows}

    def answers(self) -> int:
        """How many model calls are recorded."""
        ((count,),) = self._read("SELECT count(*) FROM answer")
        return int(count)

    def usage(self) -> list[Usage]:
        """What was asked and answered, by stage, role and model."""
        if self._version < 2:  # opened for reading: an older program's, without these sums
            return []
        rows = self._read("SELECT * FROM usage ORDER BY stage, role, model")
        return [Usage(*row) for row in rows]

    def sums(self) -> dict[str, float]:
        """What was added under each name."""
        return dict(self._read("SELECT name, value FROM sum")) if self._version > 1 else {}

    def rounds(self, first: int = 0) -> Iterator[Round]:
        """The rounds from the `first` on, in order, read as they are asked for."""
        number = first
        while self._version > 2 and (
            rows := self._read("SELECT * FROM round WHERE number = ?", number)
        ):
            yield Round(*rows[0])
            number += 1

    def round_of(self, index: int) -> Round | None:
        """The round that the dialogue `index` belongs to; for a large index the last one."""
        if self._version < 3:
            return None
        last = "SELECT * FROM round WHERE start <= ? ORDER BY start DESC LIMIT 1"
        rows = self._read(last, index)
        return Round(*rows[0]) if rows else None

    def times(self) -> Iterator[tuple[float, str, int]]:
        """(unix time, stage, completion tokens) of every answer, by time."""
        rows = self._reader.execute("SELECT at, step, body FROM answer ORDER BY at")
        for at, step, body in rows:
            with self._blamed(f"the answer to {step} at {at}"):
                answer = _answer.decode(body)
            yield at, stage_of(step), getattr(answer, "completion_tokens", 0)

    def _read(self, sql: str, *values: object) -> list[Any]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise JournalError(f"{self.path}: cannot be read: {error}") from None

    @contextlib.contextmanager
    def _blamed(self, what: str) -> Iterator[None]:
        """Say which row cannot be decoded."""
        try:
            yield
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JournalError(
                f"{self.path}: {what} is damaged ({error}); restore the file from a copy"
            ) from None

    # -- writing ---------------------------------------------------------------------------

    def commit(
        self, scenario: str, step: str, request: Fingerprint, answer: Answer
    ) -> asyncio.Future[None]:
        """Record one answer. It is on its way at once; awaiting says that it is on disk."""
        body = msgspec.json.encode(answer)
        row = (scenario, step, msgspec.json.encode(request), body, time.time())
        usage = None
        if isinstance(answer, Completion):
            key = (stage_of(step), request.get("role", ""), request.get("model", ""))
            tokens = (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens)
            usage = (*key, 1, *tokens, answer.seconds)
        return self._write("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", row, usage)

    def finish(self, record: Record) -> asyncio.Future[None]:
        """Record a finished dialogue, in the same way."""
        scenario = record.scenario
        body = msgspec.json.encode(record)
        row = (scenario.index, scenario.id, record.outcome, record.rule, body)
        return self._write("INSERT INTO record VALUES (?, ?, ?, ?, ?)", row)

    def lay_out(self, laid: Round) -> asyncio.Future[None]:
        """Record a round, in the same way."""
        row = (laid.number, laid.start, laid.slots, laid.ledger)
        return self._write("INSERT INTO round VALUES (?, ?, ?, ?)", row)

    def add(self, name: str, value: float) -> asyncio.Future[None]:
        """Add to a sum, in the same way."""
        row = (name, value)
        return self._write(
            "INSERT INTO sum VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET value = value + excluded.value",
            row,
        )

    def _write(
        self, sql: str, row: tuple[Any, ...], usage: tuple[Any, ...] | None = None
    ) -> asyncio.Future[None]:
        if not self._writer.is_alive():
            raise JournalError(f"{self.path}: is closed, or was opened for reading only")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(_Write(sql, row, done, usage))
        return done

    def _write_all(self) -> None:
        """The writer thread: everything that waits goes into one transaction."""
        while (first := self._queue.get()) is not None:
            batch = [first]
            last = False
            while not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    last = True
                    break
                batch.append(item)
            self._commit_batch(batch)
            if last:
                break

    def _commit_batch(self, batch: list[_Write]) -> None:
        connection = self._connection
        if self._broken is None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for write in batch:
                    connection.execute(write.sql, write.row)
                connection.executemany(_ADD, _sums(batch))
                connection.execute("COMMIT")
            except Exception as error:  # whatever it is, those who wait must hear of it
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                self._broken = JournalError(f"{self.path}: cannot be written: {_remedy(error)}")
        _tell(batch, self._broken)


_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    seconds = seconds + excluded.seconds
"""


def _sums(batch: list[_Write]) -> list[tuple[Any, ...]]:
    """The rows of `usage` that a transaction adds, one for each key."""
    sums: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for write in batch:
        if write.usage is not None:
            key, amounts = write.usage[:3], write.usage[3:]
            known = sums.get(key, (0,) * len(amounts))
            sums[key] = tuple(a + b for a, b in zip(known, amounts, strict=True))
    return [(*key, *amounts) for key, amounts in sums.items()]


def _remedy(error: Exception) -> str:
    """What went wrong with a write, and what to do."""
    if isinstance(error, sqlite3.IntegrityError):
        return f"recorded already ({error}); every step needs a name of its own"
    return (
        f"{error}; make room or mend the disk, then run the same command again: nothing that was "
        "recorded is lost"
    )


def stage_of(step: str) -> str:
    """The stage a step belongs to: `turn/3/user` -> `turn`."""
    return step.partition("/")[0]


def _tell(batch: list[_Write], error: JournalError | None) -> None:
    """Wake everybody who waited for this transaction, with one message to each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for write in batch:
        loops.setdefault(write.done.get_loop(), []).append(write.done)
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[asyncio.Future[None]], error: JournalError | None) -> None:
    for future in futures:
        if future.done():  # cancelled meanwhile
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


@contextlib.contextmanager
def _connect(path: Path, readonly: bool) -> Iterator[sqlite3.Connection]:
    mode = "ro" if readonly else "rwc"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with contextlib.closing(
        sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        if not readonly:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        yield connection


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's. Raises `JournalError` if this program does not know it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise JournalError(
            f"{path}: journal version {version}, this program knows {len(MIGRATIONS)}; "
            "use the sdsd that wrote it, or a newer one"
        )
    return int(version)
