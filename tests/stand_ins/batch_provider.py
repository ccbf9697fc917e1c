"""A stand-in for a provider's batch interface: files and batches over a real socket.

A batch is validated on creation and ends after `polls` looks at it, or when it is told to. Its
lines are answered by the scripted model in an order of their own. `processed` counts every request
that was answered, and so paid for, by its `custom_id`: nothing may stand there twice.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from email.parser import BytesParser
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Struct, field

from sdsd.models.scripted import ScriptedModel
from sdsd.types import Completion, Message, Request
from tests.stand_ins.model_server import asked_for

Fault = Callable[[str], tuple[int, Any] | None]
"""By `custom_id`, status and body of a line that fails; None for one that does not."""
ENDED = ("completed", "failed", "expired", "cancelled")


class Asked(Struct):
    """One line of a batch's input."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


class Batch(Struct):
    """A batch as the provider keeps it."""

    id: str
    endpoint: str
    input_file_id: str
    metadata: dict[str, str]
    asked: list[Asked]
    status: str = "in_progress"
    looks: int = 0
    """How often it was asked after."""
    counts: dict[str, int] = field(default_factory=dict)
    files: tuple[str | None, str | None] = (None, None)
    """Of output and of errors."""
    errors: list[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """The batch as the routes give it."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "input_file_id": self.input_file_id,
            "metadata": self.metadata,
            "status": self.status,
            "output_file_id": self.files[0],
            "error_file_id": self.files[1],
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "request_counts": self.counts or None,
        }


class BatchStandIn:
    """The provider's routes, what it was asked, and what it has been told to do."""

    def __init__(self, *, polls: int = 2, page: int = 2) -> None:
        self.polls = polls
        """Looks after which a batch ends by itself; 0: only when told."""
        self.page = page
        """Batches on one page of the list, at most."""
        self.fault: Fault = lambda name: None
        self.refusal: list[dict[str, Any]] = []
        """Errors of validation that the next batch fails with."""
        self.expires_after: int | None = None
        """The next batch to end expires with this many lines answered."""
        self.rewrite: Callable[[bytes], bytes] = lambda data: data
        """What becomes of a result file."""
        self.worded: Callable[[dict[str, Any]], dict[str, Any]] = lambda shown: shown
        """What becomes of what is said of a batch."""
        self.extra: list[bytes] = []
        """Further lines in every output."""
        self.statuses: list[int] = []
        """The next requests get these instead of an answer."""
        self.lose_created = 0
        """So many batches are made, and their creation answered with 500."""
        self.hidden = 0
        """So many times the list does not yet have the latest batch."""
        self.batches: dict[str, Batch] = {}
        self.files: dict[str, bytes] = {}
        self.processed: Counter[str] = Counter()
        self.lines: list[Asked] = []
        """Every line of every batch that was made."""
        self._model = ScriptedModel()
        self._numbers = itertools.count(1)

    @property
    def twice(self) -> list[str]:
        """Requests that were paid for more than once."""
        return [name for name, count in self.processed.items() if count > 1]

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=2**28, middlewares=[self._faulty])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._retrieve)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)
        return app

    @web.middleware
    async def _faulty(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.statuses:
            await request.read()
            return web.json_response({"error": {"message": "no"}}, status=self.statuses.pop(0))
        return await handler(request)

    async def _upload(self, http: web.Request) -> web.Response:
        head = b"Content-Type: " + http.headers["Content-Type"].encode() + b"\r\n\r\n"
        message = BytesParser().parsebytes(head + await http.read())
        parts = {
            str(part.get_param("name", header="Content-Disposition")): part.get_payload(decode=True)
            for part in message.walk()
            if not part.is_multipart()
        }
        if parts["purpose"] != b"batch":
            return web.json_response({"error": {"message": "purpose?"}}, status=400)
        data = parts["file"]
        assert isinstance(data, bytes)
        return web.json_response({"id": self._keep(data), "object": "file"})

    def _keep(self, data: bytes) -> str:
        name = f"file-{next(self._numbers)}"
        self.files[name] = data
        return name

    async def _content(self, http: web.Request) -> web.Response:
        data = self.files.get(http.match_info["id"])
        return web.Response(body=self.rewrite(data)) if data is not None else _unknown()

    async def _create(self, http: web.Request) -> web.Response:
        given = msgspec.json.decode(await http.read())
        data = self.files.get(given["input_file_id"])
        if data is None or given["completion_window"] != "24h":
            return web.json_response({"error": {"message": "bad batch"}}, status=400)
        asked = [msgspec.json.decode(line, type=Asked) for line in data.splitlines()]
        batch = Batch(
            f"batch-{next(self._numbers)}",
            given["endpoint"],
            given["input_file_id"],
            given["metadata"],
            asked,
        )
        self.batches[batch.id] = batch
        self.lines += asked
        self._validate(batch)
        if self.lose_created:
            self.lose_created -= 1
            return web.json_response({"error": {"message": "lost"}}, status=500)
        return web.json_response(batch.shown())

    def _validate(self, batch: Batch) -> None:
        names = [line.custom_id for line in batch.asked]
        if len(set(names)) < len(names) or any(len(name) > 64 for name in names):
            self.refusal = [{"code": "bad_custom_id", "message": "must be unique and short"}]
        if any(line.url != batch.endpoint or line.method != "POST" for line in batch.asked):
            self.refusal = [{"code": "mismatched_endpoint", "message": "must be the batch's"}]
        if self.refusal:
            batch.status, batch.errors, self.refusal = "failed", self.refusal, []

    async def _list(self, http: web.Request) -> web.Response:
        newest = list(reversed(self.batches.values()))
        if self.hidden:
            self.hidden -= 1
            newest = newest[1:]
        after = http.query.get("after")
        if after:
            newest = newest[[batch.id for batch in newest].index(after) + 1 :]
        size = min(self.page, int(http.query["limit"]))
        page = [batch.shown() for batch in newest[:size]]
        return web.json_response({"data": page, "has_more": len(newest) > size})

    async def _retrieve(self, http: web.Request) -> web.Response:
        batch = self.batches.get(http.match_info["id"])
        if batch is None:
            return _unknown()
        batch.looks += 1
        if self.polls and batch.looks >= self.polls and batch.status not in ENDED:
            if self.expires_after is None:
                await self.end(batch)
            else:
                await self.end(batch, "expired", self.expires_after)
                self.expires_after = None
        return web.json_response(self.worded(batch.shown()))

    async def _cancel(self, http: web.Request) -> web.Response:
        batch = self.batches[http.match_info["id"]]
        await self.end(batch, "cancelled", 0)
        return web.json_response(batch.shown())

    async def end(self, batch: Batch, status: str = "completed", first: int | None = None) -> None:
        """Answer the `first` lines (None: all) and end the batch."""
        lines = list(batch.asked)
        random.Random(batch.id).shuffle(lines)
        output: list[bytes] = list(self.extra)
        errors: list[bytes] = []
        for k, asked in enumerate(lines):
            if first is not None and k >= first:
                error = {"code": f"batch_{status}", "message": "not done in time"}
                errors.append(_line(asked.custom_id, None, error))
            elif (fault := self.fault(asked.custom_id)) is not None:
                errors.append(_line(asked.custom_id, fault))
            else:
                self.processed[asked.custom_id] += 1
                output.append(_line(asked.custom_id, (200, await self._reply(asked.body))))
        done = len(output) - len(self.extra)
        batch.counts = {"total": len(lines), "completed": done, "failed": len(lines) - done}
        batch.files = (
            self._keep(b"\n".join(output) + b"\n") if output else None,
            self._keep(b"\n".join(errors) + b"\n") if errors else None,
        )
        batch.status = status

    async def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = msgspec.convert(body.get("messages", []), tuple[Message, ...])
        prompt = body.get("prompt", "")
        role, purpose = asked_for(messages, prompt)
        request = Request(role, body["max_tokens"], messages, prompt, purpose=purpose)
        done = await self._model.complete(request, body["seed"])
        assert isinstance(done, Completion)
        usage = {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
        }
        said: dict[str, Any] = {"finish_reason": "stop", "index": 0}
        if messages:
            said["message"] = {"role": "assistant", "content": done.text}
        else:
            said["text"] = done.text
        return {"model": "stand-in", "choices": [said], "usage": usage}


def _line(name: str, reply: tuple[int, Any] | None, error: Any = None) -> bytes:
    response = reply and {"status_code": reply[0], "request_id": "r", "body": reply[1]}
    line = {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": error}
    return msgspec.json.encode(line)


def _unknown() -> web.Response:
    return web.json_response({"error": {"message": "no such thing"}}, status=404)
