"""Client of any OpenAI-compatible server, without an SDK.

What a server supports is found by probing it, never by its brand.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from sdsd.errors import ModelError, ServerGone, TransientError
from sdsd.models import odd_replies, replies, scoring, statuses
from sdsd.models.base import Capabilities, Scoring
from sdsd.models.concurrency import Gauges
from sdsd.models.http_client import Client, Timeouts, decode_json
from sdsd.models.replies import Reading
from sdsd.models.thinking import Thinking, find_thinking
from sdsd.text.chat_format import Template, cut, marked
from sdsd.text.thinking import opens_thinking
from sdsd.types import Answer, Completion, Message, Refusal, Request

_encode = msgspec.json.Encoder().encode
MAX_SLOTS = 4096
"""A reported number of slots above this is ignored."""
_TOP = 5
"""Alternatives requested per token, where probabilities are wanted."""


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
            return self._refused(reply.status, reply.body, statuses.retry_after(reply))
        return self._answer(request, reply.body, time.perf_counter() - started)

    async def _score(self, request: Request) -> Answer:
        """Return the log probability of `request.given`."""
        can, started = self.capabilities, time.perf_counter()

        async def post(path: str, asked: Mapping[str, object]) -> Any:
            reply = await self.client.request("POST", path, _encode(asked), root=True)
            if reply.status != 200:
                raise _Refused(self._refused(reply.status, reply.body, statuses.retry_after(reply)))
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
        return self._refused(status, self.client.secrets.hide_in_error(body), None)

    def _answer(self, request: Request, body: bytes, seconds: float = 0.0) -> Answer:
        """Read the body of a good response; errors in it count as if their status had come."""
        can = self.capabilities
        reading = Reading(self._room(request), can.thinking_opened)
        try:
            return replies.read(body, request, reading, seconds)
        except odd_replies.ErrorReply as error:
            said = self.client.secrets.hide_in_error(error.text.encode())
            return self._refused(error.status, said, None)
        except odd_replies.Unreadable as error:
            said = self.client.secrets.hide_in_error(body)[:200]
            raise TransientError(
                f"not a completion: {error}: {said!r}", server=self.base_url
            ) from None

    def _room(self, request: Request) -> int:
        """Return the tokens that a request leaves for thinking."""
        if request.messages:
            return self.thinking.tokens if self.capabilities.thinks else 0
        return self.thinking.tokens if opens_thinking(request.prompt) else 0

    def encode(self, request: Request, seed: int) -> tuple[str, bytes]:
        can = self.capabilities
        body: dict[str, Any] = {
            "model": self.name,
            can.length_key: request.max_tokens + self._room(request),
        }
        if can.sampling:
            body["temperature"] = request.temperature
            body["top_p"] = request.top_p
        if can.seed:
            body["seed"] = seed
        if request.stop:
            body["stop"] = request.stop
        if request.messages:
            path = "/chat/completions"
            body["messages"] = request.messages if can.system else folded(request.messages)
            if request.schema is not None and can.schema:
                shape = {"name": "reply", "schema": request.schema, "strict": True}
                body["response_format"] = {"type": "json_schema", "json_schema": shape}
            if request.choices and can.logprobs:
                body["logprobs"] = True
                body["top_logprobs"] = _TOP
        else:
            path = "/completions"
            body["prompt"] = request.prompt
        body.update(can.thinking_fields)
        body.update(self._extra)
        return path, _encode(body)

    def _refused(self, status: int, body: bytes, retry_after: float | None) -> Refusal:
        return statuses.refused(
            status, body, where=self.base_url, model=self.name, retry_after=retry_after
        )

    # -- what the server can do ------------------------------------------------------------

    async def probe(self) -> Capabilities:
        """Find out what the server supports, with requests of one token. Sets `capabilities`.

        Raises `ModelError` if it cannot be reached or does not know the model.
        """
        chat = await self._dialect()
        completions = await self._can(Request("agent", 1, prompt="One, two,"))
        template = await self._template(system=True)
        system = template is not None
        if template is None:
            template = await self._template(system=False)
            briefed = (Message("system", "Be brief."), *_PING)
            system = template is None and await self._can(Request("agent", 1, briefed))
        known = replace(self.capabilities, chat=chat, completions=completions, template=template)
        # Assume that both work, and try them.
        self.capabilities = replace(known, system=system, schema=True, logprobs=True)
        schema = chat and await self._can(Request("agent", 1, _PING, schema=_SHAPE))
        answer = await self._try(Request("agent", 1, _PING, choices=("yes",))) if chat else None
        logprobs = isinstance(answer, Completion) and bool(answer.choice_probs)
        if chat:
            await self._find_thinking()
        slots = await self._slots()
        way, noise = await self.find_scoring() if chat else ("", 0.0)
        self.capabilities = replace(
            self.capabilities,
            schema=schema,
            logprobs=logprobs,
            slots=slots,
            scoring=way,
            noise=noise,
        )
        return self.capabilities

    async def _find_thinking(self) -> None:
        """Find out how the model thinks, and switch it as configured."""
        before = self.capabilities

        async def ask(request: Request, fields: dict[str, Any]) -> Answer | None:
            self.capabilities = replace(before, thinking_fields=fields)
            return await self._try(request)

        found = await find_thinking(ask, self.thinking.mode)
        self.capabilities = replace(
            before,
            thinks=found.thinks,
            thinking_opened=found.opened,
            thinking_fields=found.fields,
        )

    async def find_scoring(self) -> tuple[Scoring, float]:
        """Find the way to score given text, with a pair of replies whose order is known; return it
        with the difference between two tries."""
        before = self.capabilities
        for way in scoring.WAYS:
            self.capabilities = replace(before, scoring=way)
            found: list[float] = []
            for text in _GIVEN:
                answer = await self._try(Request("agent", 1, _ECHO, given=text))
                if not isinstance(answer, Completion) or answer.logprob is None:
                    break
                found.append(answer.logprob)
            else:
                asked, other, again = found
                if asked > other:
                    return way, round(abs(asked - again), 4)
        self.capabilities = before
        return "", 0.0

    async def post(self, path: str, asked: Mapping[str, object]) -> dict[str, object] | None:
        """POST JSON to a path below the server's root; return the JSON reply, None on failure."""
        try:
            reply = await self.client.request("POST", path, _encode(asked), root=True)
            if reply.status != 200:
                return None
            return msgspec.json.decode(reply.body, type=dict[str, object])
        except (TransientError, msgspec.DecodeError, UnicodeError):
            return None

    async def gauges(self) -> Gauges | None:
        """Return the server's own metrics (`/metrics`); None if it has none."""
        try:
            reply = await self.client.request("GET", "/metrics", root=True)
        except TransientError:
            return None
        return gauges(reply.body.decode("utf-8", "replace")) if reply.status == 200 else None

    async def _slots(self) -> int:
        """Return the server's number of slots (`/props`); 0 if it does not report it."""
        try:
            reply = await self.client.request("GET", "/props", root=True)
            slots = msgspec.json.decode(reply.body)["total_slots"] if reply.status == 200 else 0
        except (TransientError, ValueError, KeyError, TypeError):
            return 0
        return slots if isinstance(slots, int) and 0 < slots < MAX_SLOTS else 0

    async def _dialect(self) -> bool:
        """Find the request fields that the server accepts; return whether it can chat."""
        first = self.capabilities
        for length_key, seed, sampling in _DIALECTS:
            self.capabilities = replace(
                first, length_key=length_key, seed=seed, sampling=sampling, system=True
            )
            try:
                answer = await self.complete(Request("agent", 1, _PING), 0)
            except TransientError as error:
                raise ServerGone(
                    f"{error.with_server}; is the server running, and is `base_url` right?"
                ) from None
            if isinstance(answer, Completion):
                return True
        self.capabilities = first
        return False

    async def _can(self, request: Request) -> bool:
        return isinstance(await self._try(request), Completion)

    async def _try(self, request: Request) -> Answer | None:
        try:
            return await self.complete(request, 0)
        except (ModelError, TransientError):
            return None

    async def _template(self, *, system: bool) -> Template | None:
        """Return the server's chat template, by having it render marked messages."""
        said = await self.post("/apply-template", {"messages": marked(system=system)})
        return cut(str(said["prompt"])) if said and "prompt" in said else None


def _good(status: int) -> bool:
    """Whether a response has a reply; 204 and 205 never have."""
    return 200 <= status < 300 and status not in (204, 205)


_PING = (Message("user", "Say yes."),)
_ECHO = (Message("user", "Repeat these words, and nothing else: red lamp, green boat, blue chair"),)
_GIVEN = ("red lamp, green boat, blue chair", "a cold soup of nine old wheels",
          "red lamp, green boat, blue chair")  # fmt: skip
"""The reply that was asked for, another one, and the first again."""
_SHAPE = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
_DIALECTS: tuple[tuple[str, bool, bool], ...] = tuple(
    itertools.product(("max_tokens", "max_completion_tokens"), (True, False), (True, False))
)
"""Request fields to try: (length key, with a seed, with temperature and top_p)."""


_GAUGE = re.compile(
    r"^(?:vllm:|sglang:|llamacpp:)(num_requests_running|num_running_reqs|requests_processing|"
    r"num_requests_waiting|num_queue_reqs|requests_deferred)(?:\{[^}\n]*\})? +([0-9.e+-]+)",
    re.MULTILINE,
)
_SIZE = re.compile(r'(num_gpu_blocks|block_size)="(\d{1,12})"')
_CACHE = re.compile(r"^vllm:cache_config_info\{([^}\n]*)\}", re.MULTILINE)


def gauges(text: str) -> Gauges | None:
    """Parse the metrics of vLLM, SGLang or llama.cpp (Prometheus text); None if there are none."""
    running = waiting = 0.0
    found = False
    for name, value in _GAUGE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        found = True
        if name in ("num_requests_running", "num_running_reqs", "requests_processing"):
            running += number
        else:
            waiting += number
    if not found:
        return None
    labels = _CACHE.search(text)
    sizes = dict(_SIZE.findall(labels[1] if labels else ""))
    cache = int(sizes.get("num_gpu_blocks", 0)) * int(sizes.get("block_size", 0))
    return Gauges(running, waiting, cache)


def folded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the chat with its system turn merged into the first user turn."""
    first, *rest = messages
    if first.role != "system" or not rest:
        return messages
    return (Message(rest[0].role, f"{first.content}\n\n{rest[0].content}"), *rest[1:])
