"""Client of any OpenAI-compatible server, without an SDK.

What a server supports is found by probing it (`sdsd.models.probing`), never by its brand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from sdsd.errors import Malformed, ModelError, TransientError
from sdsd.models import odd_errors, replies, scoring, statuses
from sdsd.models.base import Capabilities
from sdsd.models.concurrency import Gauges
from sdsd.models.http_client import Client, decode_json
from sdsd.models.http_connection import Reply as HttpReply
from sdsd.models.http_connection import Timeouts
from sdsd.models.metrics import gauges
from sdsd.models.odd_errors import ErrorReply
from sdsd.models.replies import Reading
from sdsd.models.thinking import Thinking
from sdsd.models.web_pages import page
from sdsd.models.wire import Unreadable, as_dict
from sdsd.text.thinking import opens_thinking
from sdsd.types import Answer, Completion, Message, Refusal, Request

_encode = msgspec.json.Encoder().encode
_BUSY = (429, 503)
_QUOTED = 200
"""Bytes of an unreadable body that are shown."""


class _Refused(Exception):
    """Carries a `Refusal` out of a sequence of requests."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


class HttpModel:
    """One model behind one `base_url`. An async context manager: it owns its connections."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        key: str = "",
        headers: Mapping[str, str] = {},
        extra_body: Mapping[str, Any] = {},
        timeouts: Timeouts = Timeouts(),
        capabilities: Capabilities = Capabilities(),
        secrets: Sequence[str] = (),
    ) -> None:
        """`secrets` are values in `headers` and `extra_body` that no text may repeat."""
        self.name = name
        self.capabilities = capabilities
        self._extra = extra_body
        self.thinking = Thinking()
        """Whether and how much it shall think."""
        own = {"Content-Type": "application/json", **headers}
        self.client = Client(base_url, own, timeouts, key=key, secrets=secrets)
        self.base_url = self.client.base_url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        if request.given:
            return await self._score(request)
        started = time.perf_counter()
        path, body = self.encode(request, seed)
        reply = await self.client.request("POST", path, body)
        if not _good(reply.status):
            return self._refused_by(reply)
        return self._answer(request, reply.body, time.perf_counter() - started)

    async def _score(self, request: Request) -> Answer:
        """Return the log probability of `request.given`."""
        can, started = self.capabilities, time.perf_counter()

        async def post(path: str, asked: Mapping[str, object]) -> Any:
            reply = await self.client.request("POST", path, _encode(asked), root=True)
            if reply.status != 200:
                raise _Refused(self._refused_by(reply))
            return decode_json(reply.body, msgspec.json.decode)

        messages = request.messages if can.system else folded(request.messages)
        if not can.scoring:
            return Refusal("the server cannot score given text")
        try:
            found = await scoring.score(can.scoring, post, self.name, messages, request.given)
        except _Refused as refused:
            return refused.refusal
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return Refusal(f"scoring by {can.scoring}: {type(error).__name__}: {error}")
        return Completion(
            "",
            model=self.name,
            prompt_tokens=found.prompt_tokens,
            cached_tokens=found.cached_tokens,
            completion_tokens=found.tokens if can.scoring == "token_grammar" else 0,
            seconds=round(time.perf_counter() - started, 4),
            logprob=round(found.logprob, 4),
        )

    def decode(self, request: Request, status: int, body: bytes) -> Answer:
        """Return the answer to `request` for a status and a body. Raises as `complete` does."""
        if _good(status):
            return self._answer(request, body)
        return self._refused(status, self.client.secrets.hide_in_error(body))

    def _answer(self, request: Request, body: bytes, seconds: float = 0.0) -> Answer:
        """Read the body of a good response; errors in it count as if their status had come."""
        can = self.capabilities
        reading = Reading(self._room(request), can.thinking_opened)
        try:
            return replies.read(body, request, reading, seconds)
        except ErrorReply as error:
            said = self.client.secrets.hide_in_error(error.text.encode())
            return self._refused(error.status, said)
        except Unreadable as error:
            hide = self.client.secrets.hide_in_error
            why = hide(str(error).encode())[:_QUOTED].decode("utf-8", "replace")
            said = hide(body)
            shown = "" if page(said) else f": {said[:_QUOTED]!r}"
            raise Malformed(f"not a completion: {why}{shown}", server=self.base_url) from None

    def _room(self, request: Request) -> int:
        """Return the tokens that a request leaves for thinking."""
        # A stream begins its replies without thinking, unless that is wanted.
        may = bool(request.messages) or self.thinking.mode == "on"
        thinks = may and self.capabilities.thinks
        return self.thinking.tokens if thinks or opens_thinking(request.prompt) else 0

    def encode(self, request: Request, seed: int) -> tuple[str, bytes]:
        can = self.capabilities
        body: dict[str, Any] = {
            "model": self.name,
            can.length_key: max(request.max_tokens + self._room(request), can.least_tokens),
            "temperature": max(request.temperature, can.coldest),
            "top_p": request.top_p,
            "seed": seed,
        }
        if request.stop:
            body["stop"] = request.stop
        for field in can.refused:
            body.pop(field, None)
        if request.messages:
            path = "/chat/completions"
            body["messages"] = request.messages if can.system else folded(request.messages)
            if request.schema is not None and can.schema:
                shape = {"name": "reply", "schema": request.schema, "strict": True}
                body["response_format"] = {"type": "json_schema", "json_schema": shape}
            if request.choices and can.logprobs:
                body["logprobs"] = True
                body["top_logprobs"] = can.alternatives
        else:
            path = "/completions"
            body["prompt"] = request.prompt
        body.update(can.thinking_fields)
        body.update(self._extra)
        return path, _encode(body)

    def _refused_by(self, reply: HttpReply) -> Refusal:
        return self._refused(reply.status, reply.body, statuses.retry_after(reply))

    def _refused(self, status: int, body: bytes, retry_after: float | None = None) -> Refusal:
        return statuses.refused(
            status, body, where=self.base_url, model=self.name, retry_after=retry_after
        )

    # -- what the server says about itself ---------------------------------------------------

    async def post(self, path: str, asked: Mapping[str, object]) -> dict[str, object] | None:
        """POST JSON to a path below the server's root; return the JSON reply, None without one.

        Raises as `complete` does.
        """
        reply = await self.client.request("POST", path, _encode(asked), root=True)
        if reply.status != 200:
            self._refused_by(reply)
            return None
        self._not_busy(reply.body)
        try:
            return msgspec.json.decode(reply.body, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeError):
            return None

    async def get(self, path: str, *, root: bool = False) -> bytes:
        """GET a path below `base_url`, or the server's root; return the body, b"" without one.

        Raises as `complete` does.
        """
        reply = await self.client.request("GET", path, root=root)
        if reply.status != 200:
            self._refused_by(reply)
            return b""
        self._not_busy(reply.body)
        return reply.body

    def _not_busy(self, body: bytes) -> None:
        """Raise `Busy` if the body of a good response says so; other errors in it are no faults."""
        if body.startswith(b"{"):
            try:
                odd_errors.raise_error(as_dict(decode_json(body, msgspec.json.decode)), None)
            except ErrorReply as error:
                if error.status in _BUSY:
                    said = self.client.secrets.hide_in_error(error.text.encode())
                    self._refused(error.status, said)
            except (ValueError, RecursionError):
                return

    async def gauges(self) -> Gauges | None:
        """Return the server's own metrics (`/metrics`); None if it has none, or none at present."""
        if not self.capabilities.metrics:
            return None
        try:
            return gauges(await self.get("/metrics", root=True))
        except (ModelError, TransientError):
            return None


def _good(status: int) -> bool:
    """Whether a response has a reply; 204 and 205 never have."""
    return 200 <= status < 300 and status not in (204, 205)


def folded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the chat with its system turn merged into the first user turn."""
    first, *rest = messages
    if first.role != "system" or not rest:
        return messages
    return (Message(rest[0].role, f"{first.content}\n\n{rest[0].content}"), *rest[1:])
