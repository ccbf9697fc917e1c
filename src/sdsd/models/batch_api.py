"""A provider's batch interface: its routes, what goes over them, and the files that remember it.

OpenAI's routes for files and batches. What is done with them, and why nothing is paid for twice, is
said in `sdsd.models.batch`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta, Raw, Struct

from sdsd.errors import JournalError, ModelError, TransientError
from sdsd.text.normalize import valid_unicode

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Id = Annotated[str, Meta(min_length=1)]

_MAY_PASS = {408, 409, 425, 429}
"""Statuses that are worth another try, besides all from 500 up."""
ENDED = {"completed", "failed", "expired", "cancelled"}
_LONGEST_WAIT = 60.0
"""Seconds between two tries of a request to the server, at most."""


class Transport(Protocol):
    """The way to the provider: one HTTP request at a time, with the key already on board."""

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes]:
        """Status and body of the reply. `path` is below the base URL.

        Raises `TransientError` for whatever happens on the way.
        """
        ...


# -- what goes over the wire ---------------------------------------------------------------


class Question(Struct):
    """One line of a batch's input."""

    custom_id: str
    method: str
    url: str
    body: Raw


class Response(Struct):
    """What the server said to one request."""

    status_code: int
    body: Raw = Raw(b"null")


class Complaint(Struct):
    """What went wrong, with a request or with the whole batch."""

    code: str | None = None
    message: str | None = None
    line: int | None = None


class Line(Struct):
    """One line of a batch's output, or of its errors."""

    custom_id: str
    response: Response | None = None
    error: Complaint | None = None


class _Errors(Struct):
    data: list[Complaint] | None = None


class Counts(Struct):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class _Made(Struct):
    """A file or a batch that the provider made."""

    id: Id


class Batch(Struct):
    """How a batch stands."""

    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | None = None
    request_counts: Counts | None = None


class _Listed(Struct):
    id: Id
    input_file_id: str | None = None
    metadata: dict[str, Any] | None = None


class _Page(Struct):
    data: list[_Listed]
    has_more: bool | None = False


_made = msgspec.json.Decoder(_Made).decode
_batch = msgspec.json.Decoder(Batch).decode
_page = msgspec.json.Decoder(_Page).decode
_line = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode


def custom_id(dialogue: int, seed: int, body: bytes) -> str:
    """A request's name in its batch: the same for the same step of the same run, in any life."""
    return f"{dialogue}-{seed}-{blake2b(body, digest_size=6).hexdigest()}"


def multipart(lines: Iterable[bytes]) -> tuple[str, bytes]:
    """Content type and body of an upload of these lines as a file for a batch."""
    lines = tuple(lines)
    names = (f"sdsd-round-{k}" for k in itertools.count())
    boundary = next(n for n in names if not any(n.encode() in line for line in lines))
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="round.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    body = b"".join((head.encode(), *lines, f"\r\n--{boundary}--\r\n".encode()))
    return f"multipart/form-data; boundary={boundary}", body


def parsed(line: bytes) -> Line:
    """A line of a result. Text cut inside a character gets U+FFFD there."""
    try:
        return _line(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = json.dumps(json.loads(line.decode("utf-8", "replace")), ensure_ascii=False)
        return _line(valid_unicode(text))


# -- what is on disk -----------------------------------------------------------------------


class Intent(Struct, frozen=True):
    """A round as its file of state holds it."""

    id: str
    """Names the round at the provider too, in the batch's metadata."""
    number: int
    """Counts the rounds, for people."""
    endpoint: str
    began: float
    """Unix time of the first request; for progress only."""
    names: tuple[str, ...] = ()
    """The `custom_id` of every request."""
    file: str = ""
    """The provider's id of the uploaded requests. From here on there may be a batch."""
    batch: str = ""
    """The provider's id of the batch."""


class Intents:
    """The directory of files of state, one for each round."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> list[Intent]:
        """Every round that is noted, in the order they were begun."""
        found = []
        for path in self._folder.glob("round-*.json"):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Intent))
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise JournalError(
                    f"{path}: cannot be read: {error}; it notes a batch that may be paid for: "
                    "restore it from a copy, or delete it to have its requests made anew"
                ) from None
        return sorted(found, key=lambda intent: intent.number)

    def save(self, intent: Intent) -> None:
        """Write a round's file whole; it is on disk when this returns."""
        path = self._path(intent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(_encode(intent))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(self._folder)
        except OSError as error:
            raise JournalError(
                f"{path}: cannot be written: {error}; make room or mend the disk, then run the "
                "same command again: no batch is paid for twice"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def remove(self, intent: Intent) -> None:
        """Forget a round. A file that stays does no harm: nobody asks for its answers."""
        with contextlib.suppress(OSError):
            self._path(intent).unlink(missing_ok=True)

    def _path(self, intent: Intent) -> Path:
        return self._folder / f"round-{intent.number:06}.json"


def _sync(folder: Path) -> None:
    """Have the names in a directory on disk; where a directory cannot be opened, go without."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the provider --------------------------------------------------------------------------


class Provider:
    """The provider's routes. Faults that may pass are tried again, with back-off."""

    def __init__(self, transport: Transport, retries: int, sleep: Sleep, remedy: str) -> None:
        self._transport = transport
        self._retries = retries
        self._sleep = sleep
        self._remedy = remedy

    async def upload(self, lines: Iterable[bytes]) -> str:
        """Send the requests of a round; the id of the file that holds them."""
        kind, body = multipart(lines)
        made = await self._send("POST", "/files", _made, body, {"Content-Type": kind})
        return made.id

    async def create(self, intent: Intent, metadata: Mapping[str, str], window: str) -> str:
        """One attempt at making the batch: its id, or empty if nobody knows whether it was made."""
        body = {
            "input_file_id": intent.file,
            "endpoint": intent.endpoint,
            "completion_window": window,
            "metadata": metadata,
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": intent.id}
        with contextlib.suppress(TransientError):
            return (await self._once("POST", "/batches", _made, _encode(body), headers)).id
        return ""

    async def find(self, intent: Intent) -> str:
        """The id of the batch that was made of a round; empty if the list has none."""
        after, seen = "", set[str]()
        while True:
            start = f"&after={quote(after, safe='')}" if after else ""
            page = await self._send("GET", f"/batches?limit=100{start}", _page)
            for batch in page.data:
                marked = (batch.metadata or {}).get("sdsd_round")
                if marked == intent.id or batch.input_file_id == intent.file:
                    return batch.id
            seen.add(after)
            after = page.data[-1].id if page.data else ""
            if not page.has_more or not after or after in seen:
                return ""

    async def batch(self, name: str) -> Batch:
        """How a batch stands."""
        return await self._send("GET", f"/batches/{quote(name, safe='')}", _batch)

    async def content(self, file: str) -> bytes:
        """What is in a file."""
        return await self._send("GET", f"/files/{quote(file, safe='')}/content", bytes)

    async def _send(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        body: bytes = b"",
        headers: Mapping[str, str] = {},
    ) -> T:
        wait = 1.0
        for _ in range(self._retries):
            try:
                return await self._once(method, path, read, body, headers)
            except TransientError as fault:
                await self._sleep(wait if fault.retry_after is None else fault.retry_after)
                wait = min(wait * 2, _LONGEST_WAIT)
        try:
            return await self._once(method, path, read, body, headers)
        except TransientError as fault:
            raise ModelError(
                f"no answer after {self._retries + 1} tries, last: {fault}. What is under way is "
                "kept; run the same command again to collect it"
            ) from None

    async def _once(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        body: bytes,
        headers: Mapping[str, str],
    ) -> T:
        status, said = await self._transport.request(method, path, body, headers)
        shown = said[:500].decode("utf-8", "replace")
        if status in _MAY_PASS or status >= 500:
            raise TransientError(f"{method} {path}: HTTP {status}: {shown}")
        if not 200 <= status < 300:
            raise ModelError(f"{method} {path}: HTTP {status}: {shown}; {self._remedy}")
        try:
            return read(said)
        except (ValueError, RecursionError):
            raise TransientError(f"{method} {path}: not what was asked for: {shown}") from None
