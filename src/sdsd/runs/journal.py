"""The journal: every answer of every model, on disk before anything uses it.

One SQLite file per run. The key is (scenario, step). The request's fingerprint is stored with the
answer and *checked*, never used as the key: counters and payload hashes as keys would replay the
wrong data after a crash; names do not. One writer thread puts whatever is waiting into one
transaction, with `synchronous=FULL`; an answer is returned only after its commit. WAL does not work
over network file systems: a journal lives on a local disk and has one writing process.

Finished dialogues are stored too, so that counting and exporting need no replay. They are derived
data: `sdsd verify` makes each of them again from the answers and compares. Each row has a digest of
its columns, so that a change on the disk is noticed by whoever reads the row.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
from msgspec import Struct

from sdsd.errors import JournalError
from sdsd.runs import journal_file
from sdsd.runs.journal_file import identity, is_sound, row_digest
from sdsd.scenarios.quotas import Assignment, Tally
from sdsd.types import Answer, Completion, Record, Request, Usage

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
    table: str
    row: tuple[Any, ...]
    """Its columns without the digest."""
    done: asyncio.Future[None]
    usage: tuple[Any, ...] | None = None
    """The fields of `Usage`, to be added to the sums."""


class Journal:
    """An open journal. Reads happen on the caller's thread, writes on the journal's own.

    Raises `JournalError` when the file is not a journal, has another version, or cannot be
    written; after a failed write every later one fails too, so that nothing is returned that is not
    on disk. A file that was moved or deleted while it is open cannot be written either.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        if readonly and not path.exists():
            raise JournalError(f"{path}: missing; {journal_file.NO_JOURNAL}")
        try:
            with contextlib.ExitStack() as opened:
                self._connection = opened.enter_context(
                    journal_file.connect(path, readonly=readonly)
                )
                version = journal_file.prepare(self._connection, path, readonly=readonly)
                self._reader = opened.enter_context(journal_file.connect(path, readonly=readonly))
                self._file = identity(path)
                self._opened = opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: cannot be opened as a journal: {error}") from None
        self.has_digests = version == journal_file.VERSION
        """Whether rows may have one; those of older versions have none."""
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
            self._reader.close()
            journal_file.leave(self._connection)  # the last connection
        self._opened.close()

    def require_in_place(self) -> None:
        """Raise `JournalError` if the file at `path` is no longer the one that is open."""
        if identity(self.path) != self._file:
            raise JournalError(
                f"{self.path}: is no longer the file that this run writes to. Move the directory "
                "back and run the same command again; if it was deleted, its answers are lost"
            )

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read inside be of one moment, whoever writes meanwhile."""
        self._read("BEGIN")
        try:
            yield
        finally:
            self._read("COMMIT")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------

    def load(self, scenario: str) -> dict[str, Entry]:
        """Load every recorded step of one scenario."""
        found: dict[str, Entry] = {}
        for row in self.rows("answer", "scenario = ?", scenario):
            step, request, body = row[1:4]
            with self._blamed(f"the answer to {step} of {scenario}", row):
                found[step] = Entry(_fingerprint.decode(request), _answer.decode(body))
        return found

    def step(self, scenario: str, step: str) -> Entry | None:
        for row in self.rows("answer", "scenario = ? AND step = ?", scenario, step):
            with self._blamed(f"the answer to {step} of {scenario}", row):
                return Entry(_fingerprint.decode(row[2]), _answer.decode(row[3]))
        return None

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
        where = "number > ? AND number < ? ORDER BY number LIMIT 256"
        while rows := self.rows("record", where, last, n):
            for row in rows:
                yield self._record(row)
                last = row[0]

    def record(self, index: int) -> Record | None:
        rows = self.rows("record", "number = ?", index)
        return self._record(rows[0]) if rows else None

    def _record(self, row: Sequence[Any]) -> Record:
        with self._blamed(f"the record of dialogue {row[0]}", row):
            return _record.decode(row[5])

    def indexes(self) -> list[int]:
        """Return the indexes of the records, in order."""
        return [number for (number,) in self._read("SELECT number FROM record ORDER BY number")]

    def open_scenarios(self) -> list[str]:
        """Return the scenarios of dialogues that have answers and no record yet."""
        rows = self._read(
            "SELECT DISTINCT scenario FROM answer WHERE scenario GLOB '[0-9]*-*' "
            "AND scenario NOT IN (SELECT scenario FROM record)"
        )
        return [scenario for (scenario,) in rows]

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
        while rows := self.rows("round", "number = ?", number):
            yield self._round(rows[0])
            number += 1

    def round_of(self, index: int) -> Round | None:
        """Return the round that the dialogue `index` belongs to; for a large index the last one."""
        rows = self.rows("round", "start <= ? ORDER BY start DESC LIMIT 1", index)
        return self._round(rows[0]) if rows else None

    def _round(self, row: Sequence[Any]) -> Round:
        number, start, slots, ledger = row[:4]
        with self._blamed(f"round {number}", row):
            return Round(number, start, _slots.decode(slots), _ledger.decode(ledger))

    def kept(self, name: str) -> bytes | None:
        """Return what `keep` wrote under a name."""
        for row in self.rows("kept", "name = ?", name) if self.has_digests else ():
            with self._blamed(f"the copy of {name}", row):
                return bytes(row[1])
        return None

    def times(self) -> Iterator[tuple[float, str, int]]:
        """Yield (unix time, stage, completion tokens) of every answer, in order of time."""
        rows = self._reader.execute("SELECT at, step, body FROM answer ORDER BY at")
        for at, step, body in rows:
            with self._blamed(f"the answer to {step} at {at}"):
                answer = _answer.decode(body)
            yield at, stage_of(step), getattr(answer, "completion_tokens", 0)

    def rows(self, table: str, where: str, *values: object) -> list[Any]:
        """Return rows of a table with all their columns; the last one is the digest, or None."""
        digest = "" if self.has_digests else ", NULL"
        return self._read(f"SELECT *{digest} FROM {table} WHERE {where}", *values)  # noqa: S608

    def _read(self, sql: str, *values: object) -> list[Any]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise JournalError(f"{self.path}: cannot be read: {error}") from None

    @contextlib.contextmanager
    def _blamed(self, what: str, row: Sequence[Any] = (None,)) -> Iterator[None]:
        """Turn a decoding error, or a digest that does not match, into one that names the row."""
        try:
            if not is_sound(row):
                raise ValueError("its digest does not match")
            yield
        except ValueError as error:
            raise JournalError(
                f"{self.path}: {what} is damaged ({error}); restore the file from a copy, or let "
                "`sdsd verify --drop` forget this dialogue, so that it is made again"
            ) from None

    # -- writing ---------------------------------------------------------------------------

    def commit(
        self, scenario: str, step: str, request: Fingerprint, answer: Answer
    ) -> asyncio.Future[None]:
        """Queue one answer for writing at once; the future resolves when it is on disk."""
        body = msgspec.json.encode(answer)
        row = (scenario, step, msgspec.json.encode(request), body, time.time())
        return self._write("answer", row, cost_of(step, request, answer))

    def finish(self, record: Record) -> asyncio.Future[None]:
        """Queue a finished dialogue for writing, like `commit`."""
        scenario = record.scenario
        body = msgspec.json.encode(record)
        pairs = len(record.verified)
        row = (scenario.index, scenario.id, record.outcome, record.rule, pairs, body)
        return self._write("record", row)

    def plan_round(self, planned: Round) -> asyncio.Future[None]:
        """Queue a round for writing, like `commit`."""
        slots = msgspec.json.encode(planned.slots)
        ledger = msgspec.json.encode(planned.ledger, order="deterministic")
        row = (planned.number, planned.start, slots, ledger)
        return self._write("round", row)

    def keep(self, name: str, body: bytes) -> asyncio.Future[None]:
        """Queue a copy of something that the run began with for writing, like `commit`."""
        return self._write("kept", (name, body))

    def _write(
        self, table: str, row: tuple[Any, ...], usage: tuple[Any, ...] | None = None
    ) -> asyncio.Future[None]:
        if not self._writer.is_alive():
            raise JournalError(f"{self.path}: is closed, or was opened for reading only")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(_Write(table, row, done, usage))
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
                    row = (*write.row, row_digest(write.row))
                    connection.execute(_INSERT[write.table], row)
                sums = add_up(w.usage for w in batch if w.usage is not None)
                connection.executemany(_ADD, [(*key, *of) for key, of in sums.items()])
                connection.execute("COMMIT")
                self.require_in_place()
            except Exception as error:  # whatever it is, every waiter must get it
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                self._broken = _broken(self.path, error)
        _resolve_all(batch, self._broken)


_INSERT = {
    "answer": "INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?)",
    "record": "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)",
    "round": "INSERT INTO round VALUES (?, ?, ?, ?, ?)",
    "kept": "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)",
}
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    seconds = seconds + excluded.seconds
"""


Sums = dict[tuple[Any, ...], tuple[Any, ...]]
"""By stage, role and model: calls, prompt, cached and completion tokens, seconds."""


def cost_of(step: str, request: Fingerprint, answer: Answer) -> tuple[Any, ...] | None:
    """Return the row of `usage` that an answer adds; None for a refusal."""
    if not isinstance(answer, Completion):
        return None
    key = (stage_of(step), request.get("role", ""), request.get("model", ""))
    tokens = (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens)
    return (*key, 1, *tokens, answer.seconds)


def add_up(rows: Iterable[tuple[Any, ...]], keys: int = 3) -> Sums:
    """Return by their first columns the sums of the others."""
    sums: Sums = {}
    for row in rows:
        key, amounts = row[:keys], row[keys:]
        known = sums.get(key, (0,) * len(amounts))
        sums[key] = tuple(a + b for a, b in zip(known, amounts, strict=True))
    return sums


def _broken(path: Path, error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    if isinstance(error, sqlite3.IntegrityError):
        why = f"recorded already ({error}); every step needs its own name"
    else:
        why = (
            f"{error}; free some space or repair the disk, then run the same command again: "
            "nothing that was recorded is lost"
        )
    return JournalError(f"{path}: cannot be written: {why}")


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
