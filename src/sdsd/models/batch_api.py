"""OpenAI's batch API: its routes, its wire format, and the state files that survive a crash.

`sdsd.models.batch` uses them, and explains why no request is paid for twice.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta, Raw, Struct

from sdsd.errors import JournalError, ModelError, TransientError
from sdsd.files import make_folder, write_atomic
from sdsd.models.batch_lines import ApiError, result_file
from sdsd.models.http_connection import Reply
from sdsd.models.web_pages import legible

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Id = Annotated[str, Meta(min_length=1)]

_MAY_PASS = {408, 409, 425, 429}
"""Statuses below 500 that are worth a retry."""
ENDED = {"completed", "failed", "expired", "cancelled"}
_SPELLINGS = {"canceled": "cancelled", "succeeded": "completed", "success": "completed",
              "error": "failed", "timeout_exceeded": "expired"}  # fmt: skip
"""Other words for a batch that has ended."""
_LONGEST_WAIT = 60.0
"""Longest wait between two tries, in seconds."""


class Transport(Protocol):
    """Sends HTTP requests to the provider, key included; `http_client.Client` is one."""

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> Reply:
        """Send one request; `path` is below the base URL. Raises `TransientError` on any fault."""
        ...


# -- wire format ---------------------------------------------------------------------------


class RequestLine(Struct):
    """One line of a batch's input."""

    custom_id: str
    method: str
    url: str
    body: Raw


class _Errors(Struct):
    data: list[ApiError] | None = None


class Counts(Struct):
    """Progress of a batch, in requests."""

    total: int | None = 0
    completed: int | None = 0
    failed: int | None = 0


class _Created(Struct):
    """A file or batch that the provider created."""

    id: Id


class Batch(Struct):
    """A batch as the provider reports it."""

    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | list[ApiError] | None = None
    request_counts: Counts | None = None

    def __post_init__(self) -> None:
        status = self.status.casefold()
        self.status = _SPELLINGS.get(status, status)

    @property
    def answered(self) -> int:
        """How many requests are said to be answered."""
        return (self.request_counts and self.request_counts.completed) or 0

    @property
    def lacks_files(self) -> bool:
        """Whether there must be results, and no file is named that has them."""
        named = self.output_file_id or self.error_file_id
        return self.status in ENDED and bool(self.answered) and not named

    @property
    def faults(self) -> list[ApiError]:
        """Why the whole batch was refused."""
        found = self.errors.data if isinstance(self.errors, _Errors) else self.errors
        return found or [ApiError(message="no reason given")]

    def progress(self, of: int) -> str:
        """Say how far it is, out of so many requests."""
        failures = self.request_counts and self.request_counts.failed
        failed = f", {failures:,} failed" if failures else ""
        ended = f", {self.status}" if self.status in ENDED else ""
        return f"{self.answered:,} of {of:,} answered{failed}{ended}"


class _Listed(Struct):
    id: Id
    input_file_id: str | None = None
    metadata: dict[str, Any] | None = None


class _Page(Struct):
    data: list[_Listed]
    has_more: bool | None = False


_created = msgspec.json.Decoder(_Created).decode
_batch = msgspec.json.Decoder(Batch, strict=False).decode
_page = msgspec.json.Decoder(_Page).decode
_encode = msgspec.json.Encoder().encode


def custom_id(dialogue: int, seed: int, body: bytes) -> str:
    """Return a request's id in its batch: the same for the same step, across restarts."""
    return f"{dialogue}-{seed}-{blake2b(body, digest_size=6).hexdigest()}"


def multipart(lines: Iterable[bytes]) -> tuple[str, bytes]:
    """Return content type and body of an upload of `lines` as a batch's input file."""
    lines = tuple(lines)
    names = (f"sdsd-batch-{k}" for k in itertools.count())
    boundary = next(n for n in names if not any(n.encode() in line for line in lines))
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="batch.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    body = b"".join((head.encode(), *lines, f"\r\n--{boundary}--\r\n".encode()))
    return f"multipart/form-data; boundary={boundary}", body


class Limits(Struct, frozen=True):
    """Sizes and times of batches. Times are seconds."""

    gather: float = 2.0
    """A batch is submitted after this long without a new request."""
    max_requests: int = 50_000
    """Requests per batch."""
    max_bytes: int = 180_000_000
    """Bytes of one batch's input. A longer request goes alone."""
    window: str = "24h"
    """The completion window, as the provider spells it."""
    poll: float = 15.0
    """First interval between two polls of a batch; grows by half each time."""
    max_poll: float = 300.0
    settle: float = 120.0
    """Time in which a batch that may have been created must appear in the provider's list."""
    retries: int = 20
    """Retries of a request to the provider after a transient fault."""


# -- state on disk -------------------------------------------------------------------------


class BatchState(Struct, frozen=True):
    """What the state file of a batch holds."""

    key: str
    """Our own unique name of the batch, also in its metadata at the provider."""
    number: int
    """Shown in notes; counts from 1."""
    endpoint: str
    began: float
    """Unix time of the first request; only for notes."""
    names: tuple[str, ...] = ()
    """The `custom_id` of every request."""
    file_id: str = ""
    """The provider's id of the uploaded requests. Once it is set, the batch may exist."""
    batch_id: str = ""
    """The provider's id of the batch."""
    failures: dict[str, int] = {}
    """By `custom_id`, how often a request has failed in earlier batches."""


class StateFiles:
    """The directory of state files: one per batch, and one of how often requests have failed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failures = folder / "failures.json"

    def load(self) -> list[BatchState]:
        paths = self._folder.glob("batch-*.json")
        return sorted((_read(path, BatchState) for path in paths), key=lambda state: state.number)

    def save(self, state: BatchState) -> None:
        """Write a state file atomically; it is on disk when this returns."""
        self._write(self._path(state), _encode(state))

    def failures(self) -> dict[str, int]:
        """Return by `custom_id` how often requests have failed."""
        return _read(self._failures, dict[str, int]) if self._failures.exists() else {}

    def save_failures(self, failures: Mapping[str, int]) -> None:
        """Write how often requests have failed; without any there is no file."""
        if failures:
            self._write(self._failures, _encode(failures))
        else:
            _delete(self._failures)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            make_folder(self._folder)
            write_atomic(path, data)
        except OSError as error:
            raise JournalError(
                f"{path}: cannot be written: {error}; free some space or repair the disk, then run "
                "the same command again: no batch is paid for twice"
            ) from None

    def remove(self, state: BatchState) -> None:
        """Delete a state file. One that remains does no harm: its answers are not asked for."""
        _delete(self._path(state))

    def _path(self, state: BatchState) -> Path:
        return self._folder / f"batch-{state.number:06}.json"


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalError(
            f"{path}: cannot be read: {error}; requests of it may already be paid for: "
            "restore the file from a copy, or delete it to send them again"
        ) from None


def refused(state: BatchState, batch: Batch) -> str:
    """Say why the provider refused a whole batch, and what to do."""
    errors = batch.faults
    shown = "; ".join(
        f"{e.code or 'error'}: {str(e.message)[:300]}" + (f" (line {e.line})" if e.line else "")
        for e in errors[:3]
    )
    more = f", and {len(errors) - 3:,} more" if len(errors) > 3 else ""
    return (
        f"batch {state.number} ({state.batch_id}): the provider refused it: {shown}{more}; "
        "none of it was generated. Fix the cause (if it is a limit on queued requests, wait for "
        "other batches or lower `batch.max_requests`), then run the same command again"
    )


def unnamed(state: BatchState, batch: Batch) -> str:
    """Say that there are answers, and nothing that leads to them."""
    return (
        f"batch {state.number} ({state.batch_id}): {batch.answered:,} requests are answered, but "
        "the provider names no file with the answers; the batch is kept: run the same command "
        "again to collect it"
    )


# -- the provider --------------------------------------------------------------------------


class Provider:
    """Calls the provider's routes. Transient faults are retried with exponential back-off."""

    def __init__(self, transport: Transport, retries: int, sleep: Sleep, remedy: str) -> None:
        self._transport = transport
        self._retries = retries
        self._sleep = sleep
        self._remedy = remedy

    async def upload(self, lines: Iterable[bytes]) -> str:
        kind, body = multipart(lines)
        made = await self._send("POST", "/files", _created, body, {"Content-Type": kind})
        return made.id

    async def create(self, state: BatchState, metadata: Mapping[str, str], window: str) -> str:
        """Try once to create the batch; return its id, or "" if the outcome is unknown."""
        body = {
            "input_file_id": state.file_id,
            "endpoint": state.endpoint,
            "completion_window": window,
            "metadata": metadata,
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": state.key}
        with contextlib.suppress(TransientError):
            return (await self._once("POST", "/batches", _created, _encode(body), headers)).id
        return ""

    async def find(self, state: BatchState) -> str:
        """Look for a batch in the provider's list; return its id, or "" if it is not there."""
        after, seen = "", set[str]()
        while True:
            start = f"&after={quote(after, safe='')}" if after else ""
            page = await self._send("GET", f"/batches?limit=100{start}", _page)
            for batch in page.data:
                key = (batch.metadata or {}).get("sdsd_batch")
                if key == state.key or batch.input_file_id == state.file_id:
                    return batch.id
            seen.add(after)
            after = page.data[-1].id if page.data else ""
            if not page.has_more or not after or after in seen:
                return ""

    async def batch(self, name: str) -> Batch:
        return await self._send("GET", f"/batches/{quote(name, safe='')}", _batch)

    async def content(self, file: str) -> bytes:
        return await self._send("GET", f"/files/{quote(file, safe='')}/content", result_file)

    async def _send(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        body: bytes = b"",
        headers: Mapping[str, str] = {},
    ) -> T:
        tries, wait = 0, 1.0
        while True:
            try:
                return await self._once(method, path, read, body, headers)
            except TransientError as fault:
                tries += 1
                if tries > self._retries:
                    raise ModelError(
                        f"no answer after {tries} tries, last: {fault}. Batches in progress are "
                        "kept; run the same command again to collect them"
                    ) from None
                await self._sleep(wait if fault.retry_after is None else fault.retry_after)
                wait = min(wait * 2, _LONGEST_WAIT)

    async def _once(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        body: bytes,
        headers: Mapping[str, str],
    ) -> T:
        reply = await self._transport.request(method, path, body, headers)
        status, shown = reply.status, legible(reply.body)
        if status in _MAY_PASS or status >= 500:
            raise TransientError(f"{method} {path}: HTTP {status}: {shown}")
        if not 200 <= status < 300:
            raise ModelError(f"{method} {path}: HTTP {status}: {shown}; {self._remedy}")
        try:
            return read(reply.body)
        except (ValueError, RecursionError):
            raise TransientError(f"{method} {path}: unexpected reply: {shown}") from None
