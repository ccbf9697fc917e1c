"""A provider's batch interface as a model: the same requests, answered in bulk, later, for less.

OpenAI's routes for files and batches, which other providers have too. Nothing above knows of it:
`complete` puts a request into the round that is gathering, and waits for its line of the result. A
round is one batch. It is sent when no more requests come, or when it is full; several may be under
way.

What was paid for is never paid for again, wherever the process dies. A round has a small file of
state, and the order of writing is what makes it hold:

1. Before anything is sent the file holds the round's id and the ids of its requests.
2. Before the batch is created the file says that it is about to be. A file that does not say so
   belongs to a batch that cannot exist: the next start removes it.
3. After the batch is created the file holds its id. If the process died in between, or the reply
   was lost, the next start looks for the batch in the provider's list, by the id of the round in
   its metadata. It looks until `settle` seconds are over, because a list may lag; only a batch
   that did not show up counts as never made.
4. A request's id is made of its dialogue, its seed and its body. The same step of the same run asks
   with the same id after a restart, finds the round that holds it, and waits for that batch.
5. The file stays until each of its answers is `recorded`: on disk with the caller, so that it is
   not asked for again. An answer that was handed out and not yet recorded is read once more from
   the provider's file of results. A line that failed holds no answer: asked again, it goes into a
   later round, and where two files name an id the later one holds it.

What is left to chance: a batch that the provider makes of a lost request later than `settle`
seconds after it. The round's id goes along as `Idempotency-Key`, for those that heed it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from sdsd.errors import ModelError, Stopped, TransientError
from sdsd.models.base import Capabilities
from sdsd.models.batch_api import (
    ENDED,
    Batch,
    Complaint,
    Counts,
    Intent,
    Intents,
    Line,
    Provider,
    Question,
    Sleep,
    Transport,
    custom_id,
    parsed,
)
from sdsd.types import Answer, Request

_encode = msgspec.json.Encoder().encode
_LOOKS = 12
"""How often the list is read for a batch of which it is not known whether it was made."""


class _Round:
    """A round in this process."""

    def __init__(self, intent: Intent) -> None:
        self.intent = intent
        self.asks: list[bytes] = []
        """The lines to upload, until they are."""
        self.size = 0
        """Bytes of `asks`."""
        self.open = set(intent.names)
        """Requests that may be asked for again."""
        self.task: asyncio.Task[None] | None = None
        self.progress = ""
        """What was last told of it."""
        self.status = ""
        """How the batch ended."""
        self.lines: asyncio.Future[dict[str, Line]] = asyncio.get_running_loop().create_future()
        """The result by `custom_id`, once the batch has ended."""

    def fail(self, error: Exception) -> None:
        """Tell everybody who waits for the result, or ever will."""
        if not self.lines.done():
            self.lines.set_exception(error)
            self.lines.exception()  # seen, even if nobody waits

    def add(self, name: str, line: bytes) -> None:
        """Put one more request in."""
        self.asks.append(line)
        self.size += len(line)
        self.open.add(name)


class Terms(Struct, frozen=True):
    """How large rounds are, and how long things may take. Times are seconds."""

    gather: float = 2.0
    """A round is sent after this long without a new request, at the latest twice this long."""
    most: int = 50_000
    """Requests in one round, at most."""
    most_bytes: int = 180_000_000
    """Bytes of one round's input, at most. A longer request goes alone."""
    window: str = "24h"
    """The time the provider is given, as it wants it written."""
    poll: float = 15.0
    """From one look at a batch to the next, at first; grows by half each time."""
    longest_poll: float = 300.0
    """From one look to the next, at most."""
    settle: float = 120.0
    """In which a batch that may have been made must show up in the provider's list."""
    retries: int = 20
    """How often a request to the provider is tried again after a fault that may pass."""


class BatchModel:
    """One model behind a provider's batch interface. Belongs to one event loop.

    transport       the way to the provider
    encode          path and one-line JSON body of a request with its seed
    decode          the answer that a status and a body are to a request; raises as `complete` does
    state           a directory of its own for the files of state; made when needed
    run             identifies the run to people who look at the provider's list
    note            hears of progress, one line at a time
    terms           how large rounds are, and how long things may take
    sleep, clock    waiting, in seconds, and the unix time

    Call `recorded` when an answer is safe. `close` it in the end, or use it as an async context
    manager.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        encode: Callable[[Request, int], tuple[str, bytes]],
        decode: Callable[[Request, int, bytes], Answer],
        *,
        state: Path,
        run: str,
        capabilities: Capabilities | None = None,
        note: Callable[[str], None] = lambda text: None,
        terms: Terms = Terms(),
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.capabilities = capabilities or Capabilities()
        self._encode = encode
        self._decode = decode
        self._run = run
        self._note = note
        self._terms = terms
        self._sleep = sleep
        self._clock = clock
        remedy = (
            "check `base_url` and the key (a batch is known only to the account that made it); "
            f"what is under way is noted in {state}"
        )
        self._state = Intents(state)
        self._provider = Provider(transport, terms.retries, sleep, remedy)
        self._rounds: set[_Round] = set()
        self._holding: dict[str, _Round] = {}
        """By `custom_id`, the round that has, or will have, the answer."""
        self._gathering: dict[str, _Round] = {}
        """By endpoint, the round that takes new requests."""
        self._last = 0
        """Number of the latest round."""
        self._adopting: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """One attempt at one request; see `sdsd.models.Model`. May take as long as a batch does.

        Raises `Stopped` once the model is closed; a batch under way is collected at the next start.
        """
        await self._begin()
        path, body = self._encode(request, seed)
        name = custom_id(dialogue, seed, body)
        round_ = self._holding.get(name) or self._put(name, f"/v1{path}", body)
        if round_.task is None:
            round_.task = asyncio.create_task(self._live(round_))
        lines = await asyncio.shield(round_.lines)
        try:
            return self._answer(request, lines.get(name), round_)
        except TransientError:
            self._let_go(round_, name)  # asked again, it goes into a later round
            raise

    @property
    def capacity(self) -> int:
        """As many requests may wait as make one round: open dialogues bound its size."""
        return self._terms.most

    def closed(self, dialogue: int) -> None:
        """Nothing is kept by dialogue."""

    def recorded(self, request: Request, seed: int, dialogue: int = 0) -> None:
        """The answer to this call is on disk, and no later start will ask for it.

        A round of which every answer is recorded is forgotten. Without this call, state and
        results are kept until `close`.
        """
        _, body = self._encode(request, seed)
        name = custom_id(dialogue, seed, body)
        round_ = self._holding.get(name)
        if round_ is not None and round_.lines.done():
            self._let_go(round_, name)

    async def close(self, *, finished: bool = False) -> None:
        """Stop waiting: whoever still does gets `Stopped`. Batches under way go on at the provider.

        `finished` says that every answer is recorded and nothing will be asked again: all state
        is removed. Otherwise the next start goes on from it.
        """
        self._closed = True
        tasks = [r.task for r in self._rounds if r.task is not None]
        tasks += [self._adopting] if self._adopting is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for round_ in list(self._rounds):
            round_.fail(_stopped())
            if finished:
                self._forget(round_)

    # -- rounds ----------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Adopt what an earlier process left, once, before anything is asked."""
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
        for noted in self._state.load():
            self._last = max(self._last, noted.number)
            batch = noted.batch or (await self._look_for(noted) if noted.file else "")
            if not batch:
                self._state.remove(noted)
                self._note(f"batch round {noted.number}: was never made; its requests go anew")
                continue
            intent = replace(noted, batch=batch)
            if intent != noted:
                self._state.save(intent)
            self._note(f"batch round {noted.number}: found again, {len(noted.names):,} requests")
            self._register(_Round(intent))

    def _register(self, round_: _Round) -> None:
        """Let a round hold its requests, and no earlier one any of them."""
        self._rounds.add(round_)
        for name in round_.intent.names:
            if (earlier := self._holding.get(name)) is not None:
                self._let_go(earlier, name)
            self._holding[name] = round_

    def _put(self, name: str, endpoint: str, body: bytes) -> _Round:
        """Put a request into the round that is gathering; begin another if that one is full."""
        line = _encode(Question(name, "POST", endpoint, Raw(body))) + b"\n"
        round_ = self._gathering.get(endpoint)
        if round_ is None or round_.size + len(line) > self._terms.most_bytes:
            self._last += 1
            # Never the id of another round, in any life: it is looked for in the provider's list.
            intent = Intent(uuid.uuid4().hex, self._last, endpoint, self._clock())
            round_ = self._gathering[endpoint] = _Round(intent)
            self._rounds.add(round_)
        round_.add(name, line)
        self._holding[name] = round_
        if len(round_.asks) >= self._terms.most:
            del self._gathering[endpoint]
        return round_

    def _let_go(self, round_: _Round, name: str) -> None:
        """Nobody will want this answer from this round; forget the round if that was the last."""
        if self._holding.get(name) is round_:
            del self._holding[name]
        round_.open.discard(name)
        if round_.lines.done() and not round_.lines.exception():
            round_.lines.result().pop(name, None)
        if not round_.open:
            self._forget(round_)

    def _forget(self, round_: _Round) -> None:
        self._rounds.discard(round_)
        for name in round_.open:
            if self._holding.get(name) is round_:
                del self._holding[name]
        self._state.remove(round_.intent)

    # -- the life of a round ---------------------------------------------------------------

    async def _live(self, round_: _Round) -> None:
        """Gather, submit and collect a round, or only collect one that was adopted."""
        try:
            if not round_.intent.batch:
                await self._fill(round_)
                await self._submit(round_)
            round_.lines.set_result(await self._collect(round_))
        except Exception as error:  # whatever it is, those who wait must hear of it
            round_.fail(error)

    async def _fill(self, round_: _Round) -> None:
        """Wait until the round is full or nothing new has come for a while, and close it."""
        endpoint, seen = round_.intent.endpoint, 0
        while self._gathering.get(endpoint) is round_ and seen < len(round_.asks):
            seen = len(round_.asks)
            await self._sleep(self._terms.gather)
        if self._gathering.get(endpoint) is round_:
            del self._gathering[endpoint]

    async def _submit(self, round_: _Round) -> None:
        """Have the provider make the batch, exactly once; see the top of this module."""
        self._save(round_, replace(round_.intent, names=tuple(sorted(round_.open))))
        file = await self._provider.upload(round_.asks)
        round_.asks.clear()
        self._save(round_, replace(round_.intent, file=file))
        metadata = {"sdsd_run": self._run, "sdsd_round": round_.intent.id}
        for _ in range(self._terms.retries + 1):
            try:
                batch = await self._provider.create(round_.intent, metadata, self._terms.window)
            except ModelError:
                self._forget(round_)  # a clear no: there is no batch
                raise
            batch = batch or await self._look_for(round_.intent)
            if batch:
                self._save(round_, replace(round_.intent, batch=batch))
                return
        raise ModelError(
            f"batch round {round_.intent.number}: not made in {self._terms.retries + 1} "
            "tries; everything answered so far is kept; run the same command again to continue"
        )

    def _save(self, round_: _Round, intent: Intent) -> None:
        self._state.save(intent)
        round_.intent = intent

    async def _look_for(self, intent: Intent) -> str:
        """The id of the batch that may have been made; empty if it surely was not."""
        for look in range(_LOOKS + 1):
            if look:
                await self._sleep(self._terms.settle / _LOOKS)
            if found := await self._provider.find(intent):
                return found
        return ""

    async def _collect(self, round_: _Round) -> dict[str, Line]:
        """Wait until the batch has ended; its lines. Raises `ModelError` if it was refused."""
        wait = self._terms.poll
        while (batch := await self._provider.batch(round_.intent.batch)).status not in ENDED:
            self._tell(round_, batch)
            await self._sleep(wait)
            wait = min(wait * 1.5, self._terms.longest_poll)
        self._tell(round_, batch)
        round_.status = batch.status
        if batch.status == "failed" and not batch.output_file_id:
            self._forget(round_)  # nothing was made of it, so there is nothing to go on from
            raise ModelError(_refused(round_.intent, batch))
        lines: dict[str, Line] = {}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            self._read(round_, await self._provider.content(file), lines)
        return lines

    def _read(self, round_: _Round, content: bytes, lines: dict[str, Line]) -> None:
        """Take in a file of results. Whatever nobody asked for, or has been told, is left out."""
        ignored = 0
        asked = set(round_.intent.names)
        for text in filter(bytes.strip, content.split(b"\n")):
            try:
                line = parsed(text)
            except (ValueError, RecursionError):
                ignored += 1
                continue
            if line.custom_id in lines or line.custom_id not in asked:
                ignored += 1
            else:
                lines[line.custom_id] = line
        if ignored:
            self._note(
                f"batch round {round_.intent.number}: {ignored:,} lines of the result ignored: "
                "unknown, unreadable or there twice"
            )

    def _answer(self, request: Request, line: Line | None, round_: _Round) -> Answer:
        """What a line says. Raises as `complete` does."""
        where = f"batch round {round_.intent.number}, {round_.status}"
        if line is None:
            raise TransientError(f"{where}: no line for this request")
        if line.response is None:
            error = line.error or Complaint()
            raise TransientError(f"{where}: {error.code}: {str(error.message)[:500]}")
        return self._decode(request, line.response.status_code, bytes(line.response.body))

    def _tell(self, round_: _Round, batch: Batch) -> None:
        """Say how far a batch is, if that is news."""
        intent, counts = round_.intent, batch.request_counts or Counts()
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        ended = f", {batch.status}" if batch.status in ENDED else ""
        text = f"{counts.completed:,} of {len(intent.names):,} answered{failed}{ended}"
        if text != round_.progress:
            round_.progress = text
            minutes = max(0.0, self._clock() - intent.began) / 60
            self._note(f"batch round {intent.number}: {text}, {minutes:.0f} min")


def _refused(intent: Intent, batch: Batch) -> str:
    """Why the provider takes none of a batch, and what to do."""
    errors = (batch.errors and batch.errors.data) or [Complaint(message="no reason given")]
    shown = "; ".join(
        f"{e.code or 'error'}: {str(e.message)[:300]}" + (f" (line {e.line})" if e.line else "")
        for e in errors[:3]
    )
    more = f", and {len(errors) - 3:,} more" if len(errors) > 3 else ""
    return (
        f"batch round {intent.number} ({intent.batch}): the provider refused it: {shown}{more}; "
        "nothing of it was made. Mend the cause (for a limit of what may wait, let other batches "
        "end or make rounds smaller), then run the same command again"
    )


def _stopped() -> Stopped:
    return Stopped("stopped; a batch under way is collected when the same command is run again")
