"""The messages of `simulator.py`: requests as they arrive, correct and faulty responses."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from simengine import CHARS
from simhttp import head
from simoptions import Positive
from simworld import Turn

DEFAULT_MODEL = "sim"
_DRIP = 16
"""Bytes per piece of a body sent in pieces."""

encode = msgspec.json.Encoder().encode


class Asked(Struct):
    """The body of a completion request."""

    model: str = ""
    messages: list[Turn] = []
    prompt: str = ""
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None

    @property
    def limit(self) -> int | None:
        """Token limit of the reply, if given."""
        return self.max_tokens or self.max_completion_tokens

    @property
    def stops(self) -> list[str]:
        """Stop sequences."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    @property
    def schema(self) -> Any:
        """The JSON schema that the reply must satisfy, or None."""
        wanted = self.response_format or {}
        if wanted.get("type") == "json_object":
            return {"type": "object"}
        shape = wanted.get("json_schema")
        return shape.get("schema") if isinstance(shape, dict) else None


decode = msgspec.json.Decoder(Asked).decode


class Choice(Struct):
    text: str
    tokens: int
    finish: Literal["stop", "length"]


class Refused(Exception):
    """A refusal, as a response states it."""

    def __init__(
        self, status: int, message: str, kind: str, code: object, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error(message, kind, code)
        self.headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}


def error(message: str, kind: str, code: object) -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def bad(message: str) -> Refused:
    """Return the refusal of an invalid request."""
    return Refused(400, message, "BadRequestError", 400)


def too_long(context: int, prompt_tokens: int, limit: int) -> Refused:
    """Return the refusal of a request that exceeds the context, in vLLM's words."""
    return bad(
        f"This model's maximum context length is {context} tokens. However, you requested "
        f"{prompt_tokens + limit} tokens ({prompt_tokens} in the messages, {limit} in the "
        "completion). Please reduce the length of the messages or completion."
    )


def body(
    asked: Asked, number: int, choices: list[Choice], prompt_tokens: int, cached_tokens: int
) -> dict[str, Any]:
    """Return the response to a successful request, in chat format if it has messages."""
    written = sum(choice.tokens for choice in choices)
    return {
        "id": f"cmpl-{number}",
        "object": "chat.completion" if asked.messages else "text_completion",
        "created": int(time.time()),
        "model": asked.model or DEFAULT_MODEL,
        "choices": [_choice(asked, k, choice) for k, choice in enumerate(choices)],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": written,
            "total_tokens": prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        },
    }


def _choice(asked: Asked, index: int, choice: Choice) -> dict[str, Any]:
    chat = bool(asked.messages)
    written: dict[str, Any] = {"index": index, "finish_reason": choice.finish}
    if chat:
        written["message"] = {"role": "assistant", "content": choice.text}
    else:
        written["text"] = choice.text
    if asked.logprobs is not None and asked.logprobs is not False:
        most = int((asked.top_logprobs if chat else asked.logprobs) or 0)
        written["logprobs"] = _logprobs(choice.text, min(20, most), chat=chat)
    return written


def _logprobs(text: str, most: int, *, chat: bool) -> dict[str, Any]:
    """Return equal log probabilities for every token, for chat or raw completions."""
    offsets = list(range(0, len(text), CHARS))
    tokens = [text[at : at + CHARS] for at in offsets]
    others = [(f"<{k}>", -2.5 - k) for k in range(1, most)]
    if not chat:
        tops = [dict([(token, -0.1), *others]) for token in tokens]
        return {
            "tokens": tokens,
            "token_logprobs": [-0.1] * len(tokens),
            "top_logprobs": tops if most else None,
            "text_offset": offsets,
        }
    rest = [_entry(*other) for other in others]
    entries = [_entry(token, -0.1) for token in tokens]
    return {"content": [{**e, "top_logprobs": [e, *rest] if most else []} for e in entries]}


def _entry(token: str, logprob: float) -> dict[str, Any]:
    encoded = list(token.encode("utf-8", "replace"))
    return {"token": token, "logprob": logprob, "bytes": encoded}


# -- records ------------------------------------------------------------------------------


class Line(Struct, frozen=True):
    """One line of the log: a finished request."""

    number: int
    digest: str
    """Hex digest of the path and the body, byte for byte."""
    outcome: str
    """`answered`, `aborted` (the client left), `refused`, or the kind of its fault."""
    status: int
    """HTTP status; 0 if none was sent."""


class Stats(Struct):
    """Counters since the start or the last reset. Requests are completion requests."""

    requests: int = 0
    answered: int = 0
    aborted: int = 0
    """The client disconnected before the answer was ready."""
    refused: int = 0
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    """By kind. Each request ends as answered, aborted, refused or as a fault."""
    prompt_tokens: int = 0
    """This and the next four count sequences that were written to their end."""
    cached_tokens: int = 0
    computed_tokens: int = 0
    """Prompt tokens that were not cached."""
    least_tokens: int = 0
    """Prompt tokens that an unlimited cache would have left to compute."""
    completion_tokens: int = 0
    running: int = 0
    running_peak: int = 0
    waiting: int = 0
    waiting_peak: int = 0
    in_flight: int = 0
    in_flight_peak: int = 0
    busy_seconds: float = 0.0
    """Real seconds in which the engine took steps; 0 with `instant`."""
    cpu_seconds: float = 0.0
    """CPU seconds of this process since it started, to check that it is not the bottleneck."""
    first_request: float | None = None
    """On the system's monotonic clock, like `last_reply`."""
    last_reply: float | None = None
    tokens_per_second: float = 0.0
    """Completion tokens from the first request to the last reply."""
    series: list[float] = msgspec.field(default_factory=list)
    """Completion tokens per second, in intervals of ten seconds from the first request."""


# -- faults --------------------------------------------------------------------------------


def failure(fault: str, retry_after: float) -> tuple[int, bytes]:
    """Return status and response of a fault that does not involve the engine."""
    if fault == "html":
        page = b"<!DOCTYPE html><html><body><h1>We will be right back</h1></body></html>"
        return 200, head(200, len(page), "text/html") + page
    if fault == "error-200":
        data = encode(error("The upstream server is overloaded.", "server_error", 502))
        return 200, head(200, len(data)) + data
    status = int(fault[:3])
    if status == 204:
        return status, head(status, 0)
    wait = {"Retry-After": f"{retry_after:g}"} if fault == "429" else {}
    flagged = status in (400, 403)
    said = "This prompt was flagged by moderation." if flagged else f"Simulated fault {fault}."
    data = encode(error(said, "simulated_fault", status))
    return status, head(status, len(data), headers=wait) + data


def unusable(fault: str, whole: dict[str, Any]) -> bytes:
    """Return the response with `whole` as its body and a fault that arrives in one piece."""
    if fault == "empty-choices":
        whole = {**whole, "choices": []}
    if fault in ("null-content", "thinking-only"):
        thought = fault == "thinking-only"
        whole = {**whole, "choices": [_silent(c, thought=thought) for c in whole["choices"]]}
    data = encode(whole)
    if fault == "truncated":
        data = data[: len(data) // 2]
    return (head(200, len(data)) + data) * (2 if fault == "duplicate" else 1)


def _silent(choice: dict[str, Any], *, thought: bool) -> dict[str, Any]:
    """Return a choice without its text; with `thought`, as if all of it were thinking, and cut."""
    if "text" in choice:
        return {**choice, "text": None}
    message = {"role": "assistant", "content": None}
    if not thought:
        return {**choice, "message": message}
    message["reasoning_content"] = choice["message"]["content"]
    return {**choice, "message": message, "finish_reason": "length"}


def pieces(fault: str, whole: dict[str, Any]) -> list[bytes]:
    """Yield the response with `whole` as its body, in pieces."""
    data = encode(whole)
    begun = head(200, len(data))
    if fault == "slow-headers":
        return [*begun.splitlines(keepends=True), data]
    return [begun, *(data[at : at + _DRIP] for at in range(0, len(data), _DRIP))]
