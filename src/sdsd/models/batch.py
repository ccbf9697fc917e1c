"""A model behind a provider's batch API: the same requests answered in bulk, hours later, for less.

OpenAI's routes for files and batches, which other providers offer too. The callers do not notice:
`complete` adds a request to the batch that is gathering, and waits for its line of the result. A
batch is submitted when no more requests arrive, or when it is full; several may be in progress.

Nothing is paid for twice, wherever the process dies. Each batch has a small state file, and the
order of writes guarantees this:

1. Before anything is sent, the file holds the batch's key and the ids of its requests.
2. Before the batch is created, the file says that it is about to be. A file that does not say so
   belongs to a batch that cannot exist: the next start removes it.
3. After the batch is created, the file holds the provider's id. If the process died in between, or
   the reply was lost, the next start looks for the batch in the provider's list, by the key in its
   metadata. It keeps looking for `settle` seconds, because a list may lag; only a batch that did
   not appear counts as never created.
4. A request's id consists of its dialogue, its seed and a hash of its body. After a restart, the
   same step of the same run asks with the same id, finds the batch that holds it, and waits.
5. The file stays until each answer is `recorded`: on the caller's disk, so that it is not asked for
   again. An answer that was returned but not recorded is read again from the provider's result
   file.
6. A line without a usable answer goes into a later batch, and if two files list an id, the later
   one counts. The earlier file stays until the later one is written. How often a request has
   failed is in a file of its own until its answer is recorded, whatever becomes of its batches:
   at `_MOST` it is given up, so nothing is bought more often than that.

One gap remains: a batch that the provider creates from a lost request more than `settle` seconds
after it. The key is also sent as `Idempotency-Key`, for providers that honour it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, Self

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from sdsd.errors import Denied, ModelError, Stopped, TransientError
from sdsd.models.base import Capabilities
from sdsd.models.batch_api import (
    ENDED,
    Batch,
    BatchState,
    Limits,
    Provider,
    RequestLine,
    Sleep,
    StateFiles,
    Transport,
    custom_id,
    refused,
    unnamed,
)
from sdsd.models.batch_lines import ResultLine, add_lines
from sdsd.types import Answer, Request

_encode = msgspec.json.Encoder().encode
_SEARCHES = 12
"""How often the provider's list is searched for a batch that may have been created."""
_MOST = 3
"""Batches that a request may be in; and batches in a row that may end without any answer."""


class _Job:
    """One batch in this process: its requests, its task, and its result."""

    def __init__(self, state: BatchState) -> None:
        self.state = state
        self.lines: list[bytes] = []
        """Request lines to upload; empty once they are."""
        self.size = 0
        self.open = set(state.names)
        """Requests whose answers may still be asked for."""
        self.task: asyncio.Task[None] | None = None
        self.progress = ""
        """The last progress that was noted."""
        self.status = ""
        """The provider's status once the batch has ended."""
        self.answered = False
        """Whether any of its lines has an answer."""
        self.result: asyncio.Future[dict[str, ResultLine]] = (
            asyncio.get_running_loop().create_future()
        )
        """By `custom_id`, once the batch has ended."""

    def fail(self, error: Exception) -> None:
        """Raise `error` in every caller that waits for the result, now or later."""
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # mark as retrieved, even without a waiter

    def add(self, name: str, line: bytes) -> None:
        self.lines.append(line)
        self.size += len(line)
        self.open.add(name)


class Online(Protocol):
    """A model over HTTP, such as `HttpModel`: what batches need of it."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def encode(self, request: Request, seed: int) -> tuple[str, bytes]:
        """Return path and one-line JSON body of a request with its seed."""
        ...

    def decode(self, request: Request, status: int, body: bytes) -> Answer:
        """Return the answer to a request for a status and a body; raises as `complete` does."""
        ...


class BatchModel:
    """One model behind a provider's batch API. Belongs to one event loop.

    online          the same model, as it is asked without batches
    transport       sends HTTP requests to the provider
    state           a directory for state files only; created when needed
    run             identifies the run in the provider's list
    note            called with one line of progress at a time
    sleep, clock    wait in seconds; unix time

    Call `recorded` when an answer is on disk, and `close` in the end, or use it as an async
    context manager.
    """

    def __init__(
        self,
        online: Online,
        transport: Transport,
        *,
        state: Path,
        run: str,
        note: Callable[[str], None] = lambda text: None,
        limits: Limits = Limits(),
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = online.name
        self.capabilities = replace(online.capabilities, scoring="")  # not a request for a batch
        self._encode = online.encode
        self._decode = online.decode
        self._run = run
        self._note = note
        self._limits = limits
        self._sleep = sleep
        self._clock = clock
        remedy = (
            "check `base_url` and the key (a batch is visible only to the account that made it); "
            f"the batches in progress are listed in {state}"
        )
        self._files = StateFiles(state)
        self._provider = Provider(transport, limits.retries, sleep, remedy)
        self._jobs: set[_Job] = set()
        self._holding: dict[str, _Job] = {}
        """By `custom_id`, the batch that has, or will have, the answer."""
        self._gathering: dict[str, _Job] = {}
        """By endpoint, the batch that takes new requests."""
        self._failures: dict[str, int] = {}
        """By `custom_id`, in how many batches a request has failed that is not recorded yet."""
        self._failed: dict[str, _Job] = {}
        """By `custom_id`, the last batch that it failed in, until a later one is on disk."""
        self._fruitless = 0
        """Batches in a row that ended without any answer."""
        self._last = 0
        self._adopting: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """See `sdsd.models.base.Model`. Takes as long as a batch does.

        Raises `Stopped` once the model is closed; the next start collects batches in progress.
        Raises `TransientError` for a line without an answer, and `Denied` once that was the case in
        `_MOST` batches.
        """
        await self._begin()
        path, body = self._encode(request, seed)
        name = custom_id(dialogue, seed, body)
        job = self._holding.get(name) or self._put(name, f"/v1{path}", body)
        if job.task is None:
            job.task = asyncio.create_task(self._process(job))
        result = await asyncio.shield(job.result)
        try:
            return self._answer(request, result.get(name), job)
        except (TransientError, Denied) as fault:
            raise self._unusable(job, name, fault) from None

    def _unusable(self, job: _Job, name: str, fault: Exception) -> Exception:
        """Return the error for a line without an answer; asked again, it is in a later batch.

        At the last failure the batch keeps the line, so that another start finds it and does not
        buy it again.
        """
        line = job.result.result().get(name)
        paid = line is not None and line.answered
        if paid or (job.status == "completed" and (job.answered or len(job.state.names) == 1)):
            failures = max(self._failures.get(name, 0), job.state.failures.get(name, 0) + 1)
            if failures >= _MOST:
                cause = f"no answer in {failures} batches"
                message = f"{cause}, last: {fault}; nothing was answered yet, so it is not retried"
                return Denied(message, cause, str(fault), "unanswered")
            self._failures[name] = failures
        if self._holding.get(name) is job:
            del self._holding[name]
            self._failed[name] = job
        return fault if isinstance(fault, TransientError) else TransientError(str(fault))

    @property
    def capacity(self) -> int:
        """As many requests as fit one batch: the number of open dialogues limits its size."""
        return self._limits.max_requests

    def closed(self, dialogue: int) -> None:
        """Do nothing: no state is kept per dialogue."""

    def recorded(self, request: Request, seed: int, dialogue: int = 0) -> None:
        """Note that the answer to this call is on disk, so that no later start asks for it.

        A batch is forgotten once every answer is recorded. Without this call, state and results are
        kept until `close`.
        """
        _, body = self._encode(request, seed)
        name = custom_id(dialogue, seed, body)
        if self._failures.pop(name, 0):
            self._files.save_failures(self._failures)
        job = self._holding.get(name)
        if job is not None and job.result.done():
            self._let_go(job, name)

    async def close(self) -> None:
        """Stop waiting: pending calls raise `Stopped`. Batches continue at the provider."""
        self._closed = True
        tasks = [job.task for job in self._jobs if job.task is not None]
        tasks += [self._adopting] if self._adopting is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for job in list(self._jobs):
            job.fail(_stopped())

    # -- the set of batches ----------------------------------------------------------------

    async def _begin(self) -> None:
        """Adopt the batches of an earlier process, once, before anything is asked."""
        if self._closed:
            raise _stopped()
        if self._adopting is None:
            self._adopting = asyncio.create_task(self._adopt())
        try:
            await asyncio.shield(self._adopting)
        except asyncio.CancelledError:
            if self._closed:
                raise _stopped() from None
            raise

    async def _adopt(self) -> None:
        self._failures = self._files.failures()
        for state in self._files.load():
            self._last = max(self._last, state.number)
            batch_id = state.batch_id or (await self._search(state) if state.file_id else "")
            if not batch_id:
                self._files.remove(state)
                self._note(f"batch {state.number}: never created; its requests are sent again")
                continue
            adopted = replace(state, batch_id=batch_id)
            if adopted != state:
                self._files.save(adopted)
            self._note(f"batch {state.number}: found again, {len(state.names):,} requests")
            self._register(_Job(adopted))

    def _register(self, job: _Job) -> None:
        """Let a batch hold its requests, and no earlier batch any of them."""
        self._jobs.add(job)
        for name in job.state.names:
            if (earlier := self._holding.get(name)) is not None:
                self._let_go(earlier, name)
            self._holding[name] = job

    def _put(self, name: str, endpoint: str, body: bytes) -> _Job:
        """Add a request to the batch that is gathering, or to a new one if that is full."""
        line = _encode(RequestLine(name, "POST", endpoint, Raw(body))) + b"\n"
        job = self._gathering.get(endpoint)
        if job is None or job.size + len(line) > self._limits.max_bytes:
            self._last += 1
            # Unique across restarts: the provider's list is searched for it.
            state = BatchState(uuid.uuid4().hex, self._last, endpoint, self._clock())
            job = self._gathering[endpoint] = _Job(state)
            self._jobs.add(job)
        job.add(name, line)
        self._holding[name] = job
        if len(job.lines) >= self._limits.max_requests:
            del self._gathering[endpoint]
        return job

    def _let_go(self, job: _Job, name: str) -> None:
        """Drop an answer that this batch will not be asked for; forget the batch after the last."""
        if self._holding.get(name) is job:
            del self._holding[name]
        job.open.discard(name)
        if job.result.done() and not job.result.exception():
            job.result.result().pop(name, None)
        if not job.open:
            self._forget(job)

    def _forget(self, job: _Job) -> None:
        self._jobs.discard(job)
        for name in job.open:
            if self._holding.get(name) is job:
                del self._holding[name]
        self._files.remove(job.state)

    # -- one batch -------------------------------------------------------------------------

    async def _process(self, job: _Job) -> None:
        """Gather, submit and collect a batch; an adopted one is only collected."""
        try:
            if not job.state.batch_id:
                await self._gather(job)
                await self._submit(job)
            job.result.set_result(await self._collect(job))
        except Exception as error:  # whatever it is, the callers that wait must get it
            job.fail(error)

    async def _gather(self, job: _Job) -> None:
        """Wait until the batch is full or no new request arrives for a while, and close it."""
        endpoint, seen = job.state.endpoint, 0
        while self._gathering.get(endpoint) is job and seen < len(job.lines):
            seen = len(job.lines)
            await self._sleep(self._limits.gather)
        if self._gathering.get(endpoint) is job:
            del self._gathering[endpoint]

    async def _submit(self, job: _Job) -> None:
        """Have the provider create the batch, exactly once; see the module docstring."""
        names = tuple(sorted(job.open))
        failures = {name: self._failures[name] for name in names if name in self._failures}
        self._files.save_failures(self._failures)
        self._save(job, replace(job.state, names=names, failures=failures))
        for name in names:
            if (earlier := self._failed.pop(name, None)) is not None:
                self._let_go(earlier, name)
        file_id = await self._provider.upload(job.lines)
        job.lines.clear()
        self._save(job, replace(job.state, file_id=file_id))
        metadata = {"sdsd_run": self._run, "sdsd_batch": job.state.key}
        for _ in range(self._limits.retries + 1):
            try:
                batch_id = await self._provider.create(job.state, metadata, self._limits.window)
            except ModelError:
                self._forget(job)  # a definite refusal: the batch does not exist
                raise
            batch_id = batch_id or await self._search(job.state)
            if batch_id:
                self._save(job, replace(job.state, batch_id=batch_id))
                return
        raise ModelError(
            f"batch {job.state.number}: not created in {self._limits.retries + 1} tries; "
            "everything answered so far is kept; run the same command again to continue"
        )

    def _save(self, job: _Job, state: BatchState) -> None:
        self._files.save(state)
        job.state = state

    async def _search(self, state: BatchState) -> str:
        """Return the id of a batch that may have been created; "" if it certainly was not."""
        for attempt in range(_SEARCHES + 1):
            if attempt:
                await self._sleep(self._limits.settle / _SEARCHES)
            if found := await self._provider.find(state):
                return found
        return ""

    async def _collect(self, job: _Job) -> dict[str, ResultLine]:
        """Wait until the batch ends; return its lines. Raises `ModelError` if it was refused."""
        wait, searches = self._limits.poll, 0
        while True:
            batch = await self._provider.batch(job.state.batch_id)
            self._note_progress(job, batch)
            searches += batch.lacks_files
            if batch.status in ENDED and (not batch.lacks_files or searches > _SEARCHES):
                break
            await self._sleep(wait)
            wait = min(wait * 1.5, self._limits.max_poll)
        if batch.lacks_files:
            raise ModelError(unnamed(job.state, batch))
        job.status = batch.status
        if batch.status == "failed" and not batch.output_file_id:
            self._forget(job)  # nothing was generated, so there is nothing to continue from
            raise ModelError(refused(job.state, batch))
        lines: dict[str, ResultLine] = {}
        ignored, asked = 0, set(job.state.names)
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            ignored += add_lines(lines, await self._provider.content(file), asked)
        if ignored:
            what = "lines of the result ignored: unknown, unreadable or repeated"
            self._note(f"batch {job.state.number}: {ignored:,} {what}")
        job.answered = any(line.answered for line in lines.values())
        self._require_some(job, lines)
        return lines

    def _require_some(self, job: _Job, lines: Mapping[str, ResultLine]) -> None:
        """Raise `ModelError` if several batches in a row ended without any answer.

        A batch of one request does not count: its fault may be the request's.
        """
        if job.answered:
            self._fruitless = 0
        elif len(job.state.names) > 1:
            self._fruitless += 1
        if self._fruitless < _MOST:
            return
        first = next(iter(lines.values()), None)
        cause = "no lines" if first is None else first.fault
        raise ModelError(
            f"{self._fruitless} batches in a row ended without any answer, last: "
            f"{job.status}, {cause}. Everything answered so far is kept; run the same command "
            "again to continue"
        )

    def _answer(self, request: Request, line: ResultLine | None, job: _Job) -> Answer:
        where = f"batch {job.state.number}, {job.status}"
        if line is None:
            raise TransientError(f"{where}: no line for this request")
        if line.response is None:
            raise TransientError(f"{where}: {line.fault}")
        return self._decode(request, line.response.status_code, line.response.content)

    def _note_progress(self, job: _Job, batch: Batch) -> None:
        if (text := batch.progress(len(job.state.names))) != job.progress:
            job.progress = text
            minutes = max(0.0, self._clock() - job.state.began) / 60
            self._note(f"batch {job.state.number}: {text}, {minutes:.0f} min")


def _stopped() -> Stopped:
    return Stopped("stopped; run the same command again to collect batches in progress")
