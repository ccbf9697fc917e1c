"""A stand-in for servers with ways of their own: what they refuse, ignore, or take their time for.

Everything is a property of `Ways`, so that what is true of a server can be compared with what is
said of it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from sdsd.hashing import hash64

Fault = int | Literal["reset", "empty", "page", "busy in 200"]
"""A status, or a connection that is closed without a reply, or one of status 200 that is none."""
_NO_REPLIES = {
    "empty": "",
    "page": "<html><title>Just a moment</title></html>",
    "busy in 200": '{"error": {"code": 429, "message": "too many requests"}}',
}


_SHAPED = {
    "held": '{"a": true}', "spaced": '\n{\n  "a": true\n}', "cut": "{\n \n",
    "any object": '{"colours": ["red"]}', "fenced": '```json\n{"a": true}\n```',
}  # fmt: skip
"""Replies to a request with a schema."""


class Ways(Struct, frozen=True, kw_only=True):
    """What is true of a server."""

    refuses: Mapping[str, int] = {}
    """By request field, the status that it gets."""
    exclusive: tuple[str, str] | tuple[()] = ()
    """Two fields that it takes only apart."""
    invalid: tuple[tuple[str, float], ...] = ()
    """Values of fields that it does not take."""
    least_tokens: int = 1
    schema: Literal["held", "spaced", "cut", "any object", "fenced", "ignored", "refused"] = "held"
    alternatives: int = 20
    """Most alternatives per token, whatever is asked for."""
    most_alternatives: int = 20
    """More of them are refused."""
    places: Literal["list", "mapping", "texts", "none", "null"] = "list"
    """How probabilities are written, if they are."""
    token: str = "Red"
    """The token that every reply begins with, where probabilities are asked for."""
    system: bool = True
    raw: bool = True
    chats: bool = True
    seeded: bool = True
    greedy: bool = False
    silent: bool = False
    """It spends all tokens on thinking, and says nothing."""
    most_at_once: int = 1000
    """Beyond, it answers 429."""
    seconds: float = 0.01
    """For a reply."""
    starts_with: Sequence[Fault] = ()
    """What the first requests get."""
    once: Mapping[str, Fault] = {}
    """By part of a body or of a path, what the first request with it gets."""
    always: Mapping[str, Fault] = {}
    """By part of a body or of a path, what every request with it gets."""
    everything: int = 0
    """The status of all replies; 0: as the other ways say."""
    said: str = "that is not supported with this model"
    models: tuple[str, ...] = ("odd",)
    metrics: bool = False


class OddServer:
    """The server, and what it has been asked."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.bodies: list[dict[str, Any]] = []
        """Of the requests for completions."""
        self.paths: list[str] = []
        self._begun = list(ways.starts_with)
        self._once = dict(ways.once)
        self._numbers = itertools.count()
        self._busy = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _serve(self, http: web.Request) -> web.Response:
        text = await http.text()
        self.paths.append(http.path)
        if self._begun:
            return self._fail(http, self._begun.pop(0))
        for part in [part for part in self._once if part in text + http.path]:
            return self._fail(http, self._once.pop(part))
        for part, fault in self.ways.always.items():
            if part in text + http.path:
                return self._fail(http, fault)
        if self.ways.everything:
            return self._fail(http, self.ways.everything)
        if http.path == "/v1/models":
            return web.json_response({"data": [{"id": name} for name in self.ways.models]})
        if http.path == "/metrics" and self.ways.metrics:
            return web.Response(text="vllm:num_requests_running 1\n")
        able = {"/v1/chat/completions": self.ways.chats, "/v1/completions": self.ways.raw}
        if not able.get(http.path):
            return self._fail(http, 404)
        self._busy += 1
        try:
            if self._busy > self.ways.most_at_once:
                return self._fail(http, 429)
            await asyncio.sleep(self.ways.seconds)
            return self._complete(http, await http.json())
        finally:
            self._busy -= 1

    def _fail(self, http: web.Request, fault: Fault) -> web.Response:
        if fault == "reset":
            assert http.transport is not None
            http.transport.close()
            return web.Response()
        if isinstance(fault, str):
            return web.Response(text=_NO_REPLIES[fault])
        return web.json_response({"error": {"message": self.ways.said}}, status=fault)

    def _complete(self, http: web.Request, body: dict[str, Any]) -> web.Response:
        ways = self.ways
        self.bodies.append(body)
        length = body.get("max_tokens") or body.get("max_completion_tokens") or 999
        first = body.get("messages", [{}])[0]
        checks: list[Callable[[], int]] = [
            lambda: next((ways.refuses[field] for field in body if field in ways.refuses), 0),
            lambda: 400 * bool(ways.exclusive and all(f in body for f in ways.exclusive)),
            lambda: 400 * any(body.get(field) == value for field, value in ways.invalid),
            lambda: 400 * (length < ways.least_tokens),
            lambda: 400 * ("response_format" in body and ways.schema == "refused"),
            lambda: 400 * (body.get("top_logprobs", 0) > ways.most_alternatives),
            lambda: 400 * (first.get("role") == "system" and not ways.system),
        ]
        if status := next(filter(None, (check() for check in checks)), 0):
            return self._fail(http, status)
        choices = [self._choice(body, k) for k in range(body.get("n") or 1)]
        usage = {"prompt_tokens": 9, "completion_tokens": length if ways.silent else 5}
        return web.json_response({"model": "odd", "choices": choices, "usage": usage})

    def _choice(self, body: dict[str, Any], k: int) -> dict[str, Any]:
        ways = self.ways
        if ways.silent:
            message = {"content": None, "reasoning_content": "First I consider the question."}
            return {"message": message, "finish_reason": "length"}
        luck = body.get("seed", 0) if ways.seeded and "seed" in body else next(self._numbers)
        drawn = 0 if ways.greedy or not body.get("temperature", 1.0) else luck
        text = f"{ways.token} as the cherry number {hash64(drawn, k) % 1000}."
        if "response_format" in body:
            text = _SHAPED.get(ways.schema, text)
        choice: dict[str, Any] = {"finish_reason": "stop", "message": {"content": text}}
        if "prompt" in body:
            choice = {"finish_reason": "stop", "text": text}
        if body.get("logprobs"):
            many = min(body.get("top_logprobs", 0), ways.alternatives)
            tops = [{"token": f"{ways.token}{n}", "logprob": -1.0} for n in range(many)]
            written: Any = {
                "mapping": {top["token"]: top["logprob"] for top in tops},
                "texts": [{**top, "logprob": "-1.0"} for top in tops],
            }.get(ways.places, tops)
            place = {"token": ways.token, "logprob": -0.5, "top_logprobs": written}
            choice["logprobs"] = {"content": [] if ways.places == "none" else [place]}
            if ways.places == "null":
                choice["logprobs"] = None
        return choice
