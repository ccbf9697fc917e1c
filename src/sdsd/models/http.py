"""Any OpenAI-compatible server, over aiohttp. The only client there is, and no SDK in it.

What a server can do is found out by asking it (`probe`), never by its brand.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from sdsd.errors import ModelError, TransientError
from sdsd.models import Capabilities
from sdsd.template import Template, cut, marked
from sdsd.types import Answer, Completion, Message, Refusal, Request


class _Text(Struct):
    content: str | None = None


class _Choice(Struct):
    text: str | None = None
    message: _Text | None = None
    finish_reason: str | None = None


class _Details(Struct):
    cached_tokens: int | None = 0


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Reply(Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = ""


_reply = msgspec.json.Decoder(_Reply)
_encode = msgspec.json.Encoder().encode
_MAY_PASS = {408, 409, 425, 429}
"""Statuses that are worth another try, besides all from 500 up."""
_THIS_REQUEST = {400, 413, 414, 422, 451}
"""Statuses that judge this one request. Any other concerns every request: address, key, credit."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HttpModel:
    """One model behind one `base_url`. An async context manager: it owns its connections.

    `limit` is the most connections it opens; `timeout` the seconds one request may take.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
        limit: int = 64,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.capabilities = capabilities or Capabilities()
        self._extra = dict(extra_body or {})
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=15)
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limit, ttl_dns_cache=300),
            timeout=self._timeout,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self.base_url),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """One attempt at one request; see `sdsd.models.Model`."""
        started = time.perf_counter()
        status, body, retry_after = await self._post(*self._wire(request, seed))
        if status != 200:
            return self._refused(status, body, retry_after)
        try:
            reply = _decoded(body)
            choice = reply.choices[0]
        except (ValueError, RecursionError, IndexError):
            raise TransientError(f"{self.base_url}: not a completion: {body[:200]!r}") from None
        usage = reply.usage or _Usage()
        details = usage.prompt_tokens_details
        return Completion(
            text=choice.text or (choice.message and choice.message.content) or "",
            finish="length" if choice.finish_reason == "length" else "stop",
            model=reply.model or "",
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=(details and details.cached_tokens) or 0,
            completion_tokens=usage.completion_tokens,
            seconds=round(time.perf_counter() - started, 4),
        )

    def _wire(self, request: Request, seed: int) -> tuple[str, bytes]:
        """The path and the JSON body of a request."""
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": seed,
        }
        if request.stop:
            body["stop"] = request.stop
        if request.messages:
            path = "/chat/completions"
            can = self.capabilities
            body["messages"] = request.messages if can.system else folded(request.messages)
            if request.schema is not None and can.schema:
                shape = {"name": "reply", "schema": request.schema, "strict": True}
                body["response_format"] = {"type": "json_schema", "json_schema": shape}
        else:
            path = "/completions"
            body["prompt"] = request.prompt
        body.update(self._extra)
        return path, _encode(body)

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes, float | None]:
        assert self._session is not None, "use `async with HttpModel(...)`"
        try:
            async with self._session.post(self.base_url + path, data=body) as response:
                return response.status, await response.read(), _retry_after(response)
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise TransientError(f"{self.base_url}: {str(error) or type(error).__name__}") from None

    def _refused(self, status: int, body: bytes, retry_after: float | None) -> Refusal:
        said = body[:500].decode("utf-8", "replace")
        if status in _MAY_PASS or status >= 500:
            raise TransientError(f"{self.base_url}: HTTP {status}: {said}", retry_after)
        if status in _THIS_REQUEST:
            return Refusal(f"HTTP {status}", said)
        raise ModelError(
            f"{self.base_url}: HTTP {status} for model `{self.name}`: {said}; check "
            "`base_url`, `model` and the key (`sdsd doctor` shows what the server has)"
        )

    async def probe(self) -> Capabilities:
        """Ask the server what it can do, with requests of one token. Sets `capabilities`.

        Raises `ModelError` if it cannot be reached or does not know the model.
        """
        ping = (Message("user", "Say yes."),)
        try:
            chat = isinstance(await self.complete(Request("agent", 1, ping), 0), Completion)
        except TransientError as error:
            raise ModelError(f"{error}; is the server running, and is `base_url` right?") from None
        completions = await self._can(Request("agent", 1, prompt="One, two,"))
        self.capabilities = Capabilities(system=True, schema=True)  # so that both are tried
        template = await self._template(system=True)
        system = template is not None
        if template is None:
            template = await self._template(system=False)
            briefed = (Message("system", "Be brief."), *ping)
            system = template is None and await self._can(Request("agent", 1, briefed))
        shape = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        schema = chat and await self._can(Request("agent", 1, ping, schema=shape))
        self.capabilities = Capabilities(chat, completions, template, system, schema)
        return self.capabilities

    async def _can(self, request: Request) -> bool:
        try:
            return isinstance(await self.complete(request, 0), Completion)
        except (ModelError, TransientError):
            return False

    async def _template(self, *, system: bool) -> Template | None:
        """The server's chat template, learnt by having it render marked messages."""
        root = self.base_url.removesuffix("/v1")
        body = _encode({"messages": marked(system=system)})
        assert self._session is not None
        try:
            async with self._session.post(f"{root}/apply-template", data=body) as response:
                if response.status != 200:
                    return None
                return cut(str(msgspec.json.decode(await response.read())["prompt"]))
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, KeyError, TypeError):
            return None


def _decoded(body: bytes) -> _Reply:
    """The reply. Text cut inside a character (half a surrogate pair, say) gets U+FFFD there."""
    try:
        return _reply.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = json.dumps(json.loads(body.decode("utf-8", "replace")), ensure_ascii=False)
        return _reply.decode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for this address; never one for this machine.

    Looked up once: aiohttp's own `trust_env` goes through two threads for each request.
    """
    try:
        address = urlsplit(url)
        host = address.hostname or ""
    except ValueError:  # not an address: the first request says so
        return None
    if host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(address.scheme)


def folded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The chat without a system turn: its text opens the first user turn instead."""
    first, *rest = messages
    if first.role != "system" or not rest:
        return messages
    return (Message(rest[0].role, f"{first.content}\n\n{rest[0].content}"), *rest[1:])


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds, if the server named a number of them."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
