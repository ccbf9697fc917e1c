"""Read replies that are not quite as OpenAI's API describes them.

Servers and gateways send texts in parts, counts as texts or fractions, streams and compressed
bodies that nobody asked for, and errors with status 200. `recover` reads what is needed of them,
and says what it does not understand. It is the way round for bodies that the strict decoder of
`sdsd.models.replies` refuses, so it may take its time; it never trusts their size or depth.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Sequence
from typing import Any

from sdsd.models import event_streams, parts
from sdsd.models.compression import unpacked
from sdsd.models.endings import word_of
from sdsd.models.odd_errors import raise_error
from sdsd.models.web_pages import page
from sdsd.models.wire import (
    MOST_TOKENS,
    Choice,
    CompletionDetails,
    Counts,
    Logprobs,
    PromptDetails,
    Reply,
    Token,
    TokenProb,
    Unreadable,
    Words,
    as_dict,
    as_list,
)
from sdsd.text.normalize import encodable

_WRAPPERS = ("result", "data", "output", "response", "body")
"""Fields in which gateways put the whole reply."""


def recover(body: bytes, reason: str) -> Reply:
    """Return what is needed of an unusual body.

    reason  why the strict decoder refused it

    Raises `Unreadable` and `ErrorReply`.
    """
    try:
        body = unpacked(body)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        body = body.decode("utf-16", "replace").encode("utf-8", "replace")
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    if not body:
        raise Unreadable("the body is empty")
    if what := page(body):
        raise Unreadable(f"it is {what}")
    try:
        if body.startswith(event_streams.BEGINNINGS):
            value: Any = event_streams.streamed(body, _json)
        else:
            value = _decoded(body.decode("utf-8", "replace"))
        for _ in range(2):  # JSON as a text, as some batch APIs write it; or a list of one reply
            if isinstance(value, str) and value.strip().startswith(("{", "[", '"')):
                value = _decoded(value.strip())
            elif isinstance(value, list) and len(value) == 1:
                value = value[0]
        return _reply(value, reason)
    except RecursionError:
        raise Unreadable("its JSON is nested too deeply") from None


def _decoded(text: str) -> Any:
    """Decode JSON, or chunks of a stream, one a line."""
    try:
        return _json(text)
    except Unreadable:
        lines = text.splitlines()
        if len(lines) < 2 or not all(line.startswith("{") for line in lines if line.strip()):
            raise
        return event_streams.joined(event_streams.chunks(lines, _json))


def _json(text: str) -> Any:
    """Decode JSON as leniently as Python can: with NaN, control characters, lone surrogates."""
    try:
        return encodable(json.loads(text, strict=False, parse_int=_integer))
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}") from None


def _integer(digits: str) -> int:
    """Convert digits; a number of hundreds of them is only "very large"."""
    return int(digits) if len(digits) < 40 else int(digits[:39])


# -- one reply -----------------------------------------------------------------------------


def _reply(value: Any, reason: str) -> Reply:
    if not isinstance(value, dict):
        raise Unreadable(f"a JSON {_kind(value)} where an object was expected")
    for key in _WRAPPERS:
        inner = value.get(key)
        if "choices" not in value and isinstance(inner, dict) and inner.get("choices"):
            value = {"usage": value.get("usage"), **inner}
    choices = value.get("choices")
    first = choices if isinstance(choices, dict) else next(iter(as_list(choices)), None)
    raise_error(value, first)
    if _withheld(value) and not as_dict(first).get("message"):
        return Reply([Choice(text="", finish_reason="content_filter")], _counts(value.get("usage")))
    if not isinstance(first, dict):
        if "choices" not in value:
            keys = ", ".join(f"`{key}`" for key in list(value)[:8]) or "nothing"
            raise Unreadable(f"it has no `choices`, only {keys}, as another API would")
        raise Unreadable(f"its `choices` are {json.dumps(choices)}")
    return Reply(
        [_choice(first, reason)],
        _counts(value.get("usage")),
        value["model"] if isinstance(value.get("model"), str) else "",
    )


def _choice(choice: dict[str, Any], reason: str) -> Choice:
    finish = choice.get("finish_reason") or choice.get("stop_reason") or choice.get("finishReason")
    message = choice.get("message", choice.get("delta"))
    if isinstance(message, list):
        message = message[-1] if message else None
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, dict):
        message = {}
        if not (finish or isinstance(choice.get("text"), str | list | dict)):
            raise Unreadable(f"its choice has no text: {reason}")
    content = message.get("content")
    content = choice.get("text") if content is None else content
    if isinstance(content, str):
        content = parts.written_out(content)
    said, thought = parts.text_and_thinking(content)
    apart = parts.thinking_beside(message) or parts.thinking_beside(choice)
    native = choice.get("native_finish_reason")
    return Choice(
        message=Words(
            content=said,
            reasoning_content="\n".join(filter(None, (apart, thought))),
            refusal=parts.text_of(message.get("refusal")) or parts.refusal_in(content),
        ),
        finish_reason=word_of(finish),
        native_finish_reason=native if isinstance(native, str) else None,
        content_filter_results=choice.get("content_filter_results"),
        logprobs=_logprobs(choice.get("logprobs")),
    )


_PROMPT = ("prompt_tokens", "input_tokens", "promptTokens", "inputTokens", "promptTokenCount")
_COMPLETION = (
    "completion_tokens", "output_tokens", "completionTokens", "outputTokens",
    "candidatesTokenCount",
)  # fmt: skip
_CACHED = (
    "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedTokens",
)  # fmt: skip


def _counts(usage: Any) -> Counts | None:
    if not isinstance(usage, dict):
        return None
    if isinstance(usage.get("tokens"), dict):
        usage = usage["tokens"] | usage
    prompt = as_dict(usage.get("prompt_tokens_details"))
    completion = as_dict(usage.get("completion_tokens_details"))
    return Counts(
        _count(_first(usage, _PROMPT)),
        _count(_first(usage, _COMPLETION)),
        _count(usage.get("total_tokens")),
        prompt_tokens_details=PromptDetails(
            _count(prompt.get("cached_tokens", _first(usage, _CACHED)))
        ),
        completion_tokens_details=CompletionDetails(
            _count(completion.get("reasoning_tokens", usage.get("reasoning_tokens")))
        ),
    )


def _first(values: dict[str, Any], keys: Sequence[str]) -> Any:
    """Return the first of these values that there is."""
    return next((values[key] for key in keys if key in values), None)


def _count(value: Any) -> int:
    """Return a count of tokens from a number or a text; 0 if it is none."""
    try:
        if isinstance(value, bool):
            return 0
        number = float(value) if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return MOST_TOKENS if isinstance(value, int) and value > 0 else 0
    return 0 if math.isnan(number) else int(min(max(number, 0.0), MOST_TOKENS))


def _logprobs(value: Any) -> Logprobs | None:
    found = [token for item in as_list(as_dict(value).get("content")) if (token := _token(item))]
    return Logprobs(found) if found else None


def _token(value: Any) -> Token | None:
    known = _prob(value)
    if known is None:
        return None
    others = (_prob(other) for other in as_list(value.get("top_logprobs")))
    return Token(known.token, known.logprob, [other for other in others if other])


def _prob(value: Any) -> TokenProb | None:
    token, logprob = as_dict(value).get("token"), as_dict(value).get("logprob")
    if not isinstance(token, str) or not isinstance(logprob, int | float) or math.isnan(logprob):
        return None
    return TokenProb(token, float(max(-9999.0, min(logprob, 0.0))))


# -- filters -------------------------------------------------------------------------------


def _withheld(value: dict[str, Any]) -> bool:
    """Whether a filter kept the reply back: Azure's and Google's ways to say so."""
    if as_dict(value.get("promptFeedback")).get("blockReason"):
        return True
    entries = as_list(value.get("prompt_filter_results"))
    return any(is_filtered(as_dict(entry).get("content_filter_results")) for entry in entries)


def is_filtered(results: Any) -> bool:
    """Whether one of a filter's results is that it kept the reply back."""
    return any(as_dict(result).get("filtered") is True for result in as_dict(results).values())


def _kind(value: Any) -> str:
    names = {list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")
