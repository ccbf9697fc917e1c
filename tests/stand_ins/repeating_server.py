"""A model server that repeats all it knows: in refusals, in errors, and in what it "writes"."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.stand_ins.model_server import StandIn

PROBE = 32
"""Requests for fewer tokens are answered as they should be."""


def app(known: str = "") -> web.Application:
    """Return the stand-in's routes, of which three requests in six repeat their request.

    known  what else the server knows, such as the hub's token
    """
    numbers = itertools.count()

    @web.middleware
    async def repeating(request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.read()
        asked: dict[str, Any] = json.loads(body) if body else {}
        if asked.get("max_tokens", 0) < PROBE:
            return await handler(request)
        case = next(numbers) % 6
        if case in (1, 2):
            return web.json_response(
                {"error": f"{known} {_repeated(request, body)}"}, status=(400, 500)[case - 1]
            )
        response = await handler(request)
        if case == 3 and isinstance(response, web.Response):
            said = json.loads(bytes(response.body or b""))  # type: ignore[arg-type]
            for choice in said["choices"]:
                place, key = (
                    (choice["message"], "content") if "message" in choice else (choice, "text")
                )
                place[key] += f" {known} You sent {_repeated(request, body)}."
            said["model"] = request.headers.get("Authorization", "")
            return web.json_response(said)
        return response

    whole = StandIn().app()
    whole.middlewares.append(repeating)
    return whole


def _repeated(request: web.Request, body: bytes) -> str:
    """Everything that a server knows of a request, user name and password included."""
    _, _, word = request.headers.get("Authorization", "").partition("Basic ")
    known = [f"{request.url}", json.dumps(dict(request.headers)), repr(request.raw_headers)]
    return " ".join([*known, base64.b64decode(word).decode(), body.decode()[-400:]])
