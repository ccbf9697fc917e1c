"""The journal: every answer of every model, on disk before anything uses it.

One SQLite file per run. The key is (scenario, step). The request's fingerprint is stored with the
answer and *checked*, never used as the key: counters and payload hashes as keys would replay the
wrong data after a crash; names do not. One writer thread puts whatever is waiting into one
transaction, with `synchronous=FULL`; an answer is returned only after its commit. WAL does not work
over network file systems: a journal lives on a local disk and has one writing process.

Finished dialogues are stored too, so that counting and exporting need no replay. They are derived
data: `sdsd verify` makes each of them again from the answers and compares.
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
from sdsd.scenarios.quotas import Assignment, Tally
from sdsd.types import Answer, Completion, Record, Request, Usage

VERSION = 4
"""Version of the schema, in `PRAGMA user_version`. 1 to 3 were never released."""
_SCHEMA = f"""
    BEGIN;
    CREATE TABLE answer (
        scenario TEXT NOT NULL,
        step     TEXT NOT NULL,
        request  BLOB NOT NULL,  -- fingerprint: {{part of the request: digest}}
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
    PRAGMA user_version = {VERSION};
    COMMIT;
"""

Fingerprint = dict[str, str]


class Ledger(Struct):
    """What a round is planned from: the counts of the first `counted` rounds."""

    state: Tally = msgspec.field(default_factory=Tally)
    counted: int = 0


class Round(Struct, frozen=True):
    """A row of the table `round`: what the dialogues from index `start` on are meant for."""

    number: int
    start: int
    slots: tuple[Assignment, ...]
    ledger: Ledger

    @property
    def end(self) -> int:
        """Index of the first dialogue after it."""
        return self.start + len(self.slots)


class Entry(Struct, frozen=True):
    """One recorded step: what was asked, as a fingerprint, and what came back."""

    request: Fingerprint
    answer: Answer


_answer = msgspec.json.Decoder(Answer)
_fingerprint = msgspec.json.Decoder(Fingerprint)
_record = msgspec.json.Decoder(Record)
_slots = msgspec.json.Decoder(tuple[Assignment, ...])
_ledger = msgspec.json.Decoder(Ledger)


def fingerprint(request: Request, model: str) -> Fingerprint:
    """Return a short digest of each part of a request, so that a divergence can name the change."""
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
        parts["choices"] = _short(msgspec.json.encode(request.choices))
    if request.given:
        parts["given"] = _short(request.given.encode("utf-8", "replace"))
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

    Raises `JournalError` when the file is not a journal, has another version, or cannot be
    written; after a failed write every later one fails too, so that nothing is returned that is not
    on disk.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        if readonly and not path.exists():
            raise JournalError(f"{path}: no journal here; `sdsd run` makes one")
        try:
            with contextlib.ExitStack() as opened:
                self._reader = opened.enter_context(_connect(path, readonly))
                _check_version(self._reader, path, readonly)
                self._connection = opened.enter_context(_connect(path, readonly))
                self._opened = opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: cannot be opened as a journal: {error}") from None
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._broken: JournalError | None = None
        self._writer = threading.Thread(target=self._write_all, name="journal", daemon=True)
        if not readonly:
            self._writer.start()

    def close(self) -> None:
        """Write what is waiting, then close the file."""
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
        """Load every recorded step of one scenario."""
        rows = self._read("SELECT step, request, body FROM answer WHERE scenario = ?", scenario)
        with self._blamed(f"an answer of {scenario}"):
            return {
                step: Entry(_fingerprint.decode(request), _answer.decode(body))
                for step, request, body in rows
            }

    def step(self, scenario: str, step: str) -> Entry | None:
        sql = "SELECT request, body FROM answer WHERE scenario = ? AND step = ?"
        rows = self._read(sql, scenario, step)
        if not rows:
            return None
        ((request, body),) = rows
        with self._blamed(f"the answer to {step} of {scenario}"):
            return Entry(_fingerprint.decode(request), _answer.decode(body))

    def unfinished(self, n: int, first: int = 0, chunk: int = 10_000) -> Iterator[int]:
        """Yield the indexes from `first` to below `n` without a record, in order.

        Memory does not grow with `n`.
        """
        for start in range(first, n, chunk):
            stop = min(start + chunk, n)
            rows = self._read(
                "SELECT number FROM record WHERE number >= ? AND number < ?", start, stop
            )
            finished = {number for (number,) in rows}
            yield from (i for i in range(start, stop) if i not in finished)

    def records(self, n: int = 2**62, start: int = 0) -> Iterator[Record]:
        """Yield the dialogues from `start` to below `n` in order, read as they are needed."""
        last = start - 1
        while rows := self._read(
            "SELECT number, body FROM record WHERE number > ? AND number < ? "
            "ORDER BY number LIMIT 256",
            last,
            n,
        ):
            for number, body in rows:
                with self._blamed(f"record {number}"):
                    record = _record.decode(body)
                yield record
                last = number

    def record(self, index: int) -> Record | None:
        rows = self._read("SELECT body FROM record WHERE number = ?", index)
        with self._blamed(f"record {index}"):
            return _record.decode(rows[0][0]) if rows else None

    def outcomes(self) -> dict[str, int]:
        """Count the records by `accepted`, `filtered/<rule>` and `failed`."""
        rows = self._read("SELECT outcome, rule, count(*) FROM record GROUP BY outcome, rule")
        return {f"{outcome}/{rule}" if rule else outcome: n for outcome, rule, n in rows}

    def failures(self) -> Iterator[Record]:
        """Yield the records of the dialogues that failed, in order."""
        rows = self._read("SELECT number FROM record WHERE outcome = 'failed' ORDER BY number")
        return (found for (number,) in rows if (found := self.record(number)) is not None)

    def finished(self) -> int:
        """Count the records."""
        return sum(self.outcomes().values())

    def pairs(self) -> int:
        """Count the verified pairs of all records."""
        ((count,),) = self._read("SELECT total(pairs) FROM record")
        return int(count)

    def answers(self) -> int:
        """Count the recorded model calls."""
        ((count,),) = self._read("SELECT count(*) FROM answer")
        return int(count)

    def usage(self) -> list[Usage]:
        """Return calls and tokens by stage, role and model."""
        rows = self._read("SELECT * FROM usage ORDER BY stage, role, model")
        return [Usage(*row) for row in rows]

    def rounds(self, first: int = 0) -> Iterator[Round]:
        """Yield the rounds from the `first` on, in order, read as they are needed."""
        number = first
        while rows := self._read("SELECT * FROM round WHERE number = ?", number):
            yield self._round(*rows[0])
            number += 1

    def round_of(self, index: int) -> Round | None:
        """Return the round that the dialogue `index` belongs to; for a large index the last one."""
        last = "SELECT * FROM round WHERE start <= ? ORDER BY start DESC LIMIT 1"
        rows = self._read(last, index)
        return self._round(*rows[0]) if rows else None

    def _round(self, number: int, start: int, slots: bytes, ledger: bytes) -> Round:
        with self._blamed(f"round {number}"):
            return Round(number, start, _slots.decode(slots), _ledger.decode(ledger))

    def times(self) -> Iterator[tuple[float, str, int]]:
        """Yield (unix time, stage, completion tokens) of every answer, in order of time."""
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
        """Turn a decoding error into one that names the row."""
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
        """Queue one answer for writing at once; the future resolves when it is on disk."""
        body = msgspec.json.encode(answer)
        row = (scenario, step, msgspec.json.encode(request), body, time.time())
        usage = None
        if isinstance(answer, Completion):
            key = (stage_of(step), request.get("role", ""), request.get("model", ""))
            tokens = (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens)
            usage = (*key, 1, *tokens, answer.seconds)
        return self._write("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", row, usage)

    def finish(self, record: Record) -> asyncio.Future[None]:
        """Queue a finished dialogue for writing, like `commit`."""
        scenario = record.scenario
        body = msgspec.json.encode(record)
        pairs = len(record.verified)
        row = (scenario.index, scenario.id, record.outcome, record.rule, pairs, body)
        return self._write("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", row)

    def plan_round(self, planned: Round) -> asyncio.Future[None]:
        """Queue a round for writing, like `commit`."""
        slots = msgspec.json.encode(planned.slots)
        ledger = msgspec.json.encode(planned.ledger, order="deterministic")
        row = (planned.number, planned.start, slots, ledger)
        return self._write("INSERT INTO round VALUES (?, ?, ?, ?)", row)

    def _write(
        self, sql: str, row: tuple[Any, ...], usage: tuple[Any, ...] | None = None
    ) -> asyncio.Future[None]:
        if not self._writer.is_alive():
            raise JournalError(f"{self.path}: is closed, or was opened for reading only")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(_Write(sql, row, done, usage))
        return done

    def _write_all(self) -> None:
        """Run the writer thread: everything that waits goes into one transaction."""
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
            except Exception as error:  # whatever it is, every waiter must get it
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                self._broken = JournalError(f"{self.path}: cannot be written: {_remedy(error)}")
        _resolve_all(batch, self._broken)


_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    seconds = seconds + excluded.seconds
"""


def _sums(batch: list[_Write]) -> list[tuple[Any, ...]]:
    """Return the rows of `usage` that a transaction adds, one per key."""
    sums: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for write in batch:
        if write.usage is not None:
            key, amounts = write.usage[:3], write.usage[3:]
            known = sums.get(key, (0,) * len(amounts))
            sums[key] = tuple(a + b for a, b in zip(known, amounts, strict=True))
    return [(*key, *amounts) for key, amounts in sums.items()]


def _remedy(error: Exception) -> str:
    if isinstance(error, sqlite3.IntegrityError):
        return f"recorded already ({error}); every step needs its own name"
    return (
        f"{error}; free some space or repair the disk, then run the same command again: "
        "nothing that was recorded is lost"
    )


def stage_of(step: str) -> str:
    """Return the stage that a step belongs to: `turn/3/user` -> `turn`."""
    return step.partition("/")[0]


def _resolve_all(batch: list[_Write], error: JournalError | None) -> None:
    """Resolve the futures of a transaction, with one message to each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for write in batch:
        loops.setdefault(write.done.get_loop(), []).append(write.done)
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no waiter is left
            loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[asyncio.Future[None]], error: JournalError | None) -> None:
    for future in futures:
        if future.done():  # cancelled in the meantime
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


@contextlib.contextmanager
def _connect(path: Path, readonly: bool) -> Iterator[sqlite3.Connection]:
    if not readonly:
        path.touch(0o600)  # only where it is new: servers' texts may hold what nobody knows of
    uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    with contextlib.closing(
        sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        if not readonly:
            connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
        yield connection


def _check_version(connection: sqlite3.Connection, path: Path, readonly: bool) -> None:
    """Create the tables of a new journal. Raises `JournalError` for another version's."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0 and not readonly:
        connection.executescript(_SCHEMA)
    elif version == 0:  # killed before the first table
        raise JournalError(f"{path}: no journal here; `sdsd run` makes one")
    elif version != VERSION:
        raise JournalError(
            f"{path}: journal version {version}, but this program reads {VERSION}; use the "
            "version of sdsd that wrote it"
        )
