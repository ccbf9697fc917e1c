"""Read replies that are not quite as OpenAI's API describes them.

Servers and gateways send texts in parts, counts as texts or fractions, streams and compressed
bodies that nobody asked for, and errors with status 200. `recover` reads what is needed of them,
and says what it does not understand. It is the way round for bodies that the strict decoder of
`sdsd.models.replies` refuses, so it may take its time; it never trusts their size or depth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from sdsd.models.compression import unpacked
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
    Words,
)
from sdsd.text.normalize import encodable

_DEEPEST = 100
"""Levels of nested JSON that are followed."""
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_text")
"""Where servers put thinking next to the content of a message."""
_STREAM = (b"data:", b"event:", b"id:", b"retry:", b":")
_STATUS_WORDS = (
    (402, ("quota", "credit", "balance", "billing", "payment", "arrear")),
    (429, ("rate_limit", "rate limit", "too_many", "too many", "resource_exhausted", "throttl")),
    (503, ("overload", "unavailable", "busy", "capacity", "insufficient_system_resource")),
    (401, ("api_key", "api key", "unauthorized", "unauthenticated", "authentication")),
    (403, ("permission", "forbidden")),
    (400, ("context_length", "context length", "maximum context", "invalid_request", "invalid_arg",
           "bad_request", "badrequest", "content_filter", "moderation", "flagged", "validation")),
    (404, ("not_found", "not found", "does not exist")),
    (408, ("timeout", "timed out", "deadline")),
)  # fmt: skip
"""Statuses that errors stand for, by words in their type, code or message; the first that fits."""


class Unreadable(ValueError):
    """A body is no completion. Says why, as far as the decoder knows.

    It may quote the body: hide secrets in it before it is cut or shown.
    """


class ErrorReply(Exception):
    """A body with a 2xx status reports an error: `status` is the one that it stands for.

    `text` is the server's: hide secrets in it before it is cut or shown.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status, self.text = status, text


def recover(body: bytes, reason: str) -> Reply:
    """Return what is needed of an unusual body.

    reason  why the strict decoder refused it

    Raises `Unreadable` and `ErrorReply`.
    """
    try:
        body = unpacked(body)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    body = body.removeprefix(b"\xef\xbb\xbf").strip()
    if not body:
        raise Unreadable("the body is empty")
    try:
        value = _streamed(body) if body.startswith(_STREAM) else _decoded(body)
        for _ in range(2):  # JSON as a text, as some batch APIs write it; or a list of one reply
            if isinstance(value, str) and value.strip().startswith(("{", "[", '"')):
                value = _decoded(value.strip().encode())
            elif isinstance(value, list) and len(value) == 1:
                value = value[0]
        return _reply(value, reason)
    except RecursionError:
        raise Unreadable("its JSON is nested too deeply") from None


def _decoded(body: bytes) -> Any:
    """Decode JSON as leniently as Python can: with NaN, control characters, lone surrogates."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text, strict=False, parse_int=_integer)
    except ValueError as error:
        if "\n" in text and text.startswith("{"):  # chunks, one a line
            return _joined(_lines(text.splitlines()))
        raise Unreadable(f"not JSON: {error}") from None
    return encodable(value)


def _integer(digits: str) -> int:
    """Convert digits; a number of hundreds of them is only "very large"."""
    return int(digits) if len(digits) < 40 else int(digits[:39])


def _lines(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        if line.strip() in ("", "[DONE]"):
            continue
        try:
            yield encodable(json.loads(line, strict=False, parse_int=_integer))
        except ValueError as error:
            raise Unreadable(f"a stream with a line that is not JSON: {error}") from None


# -- streams -------------------------------------------------------------------------------


def _streamed(body: bytes) -> dict[str, Any]:
    """Join a stream of server-sent events that nobody asked for."""
    lines = body.decode("utf-8", "replace").splitlines()
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    if not data:  # comments that keep the connection alive, and then JSON
        rest = "\n".join(line for line in lines if not line.startswith(":"))
        if rest.strip().startswith("{"):
            value = _decoded(rest.encode())
            return value if isinstance(value, dict) else {}
        raise Unreadable("a stream of events without any data")
    joined = _joined(_lines(data))
    if "error" not in joined and "[DONE]" not in data and not joined["choices"][0]["finish_reason"]:
        raise Unreadable("a stream that breaks off before its end")
    return joined


def _joined(chunks: Iterable[Any]) -> dict[str, Any]:
    """Return the chunks of a stream as one reply."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    whole: dict[str, Any] = {}
    tokens: list[Any] = []
    finish = usage = model = None
    seen = False
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error"):
            return chunk
        usage, model = chunk.get("usage") or usage, chunk.get("model") or model
        for choice in _list(chunk.get("choices")):
            if not isinstance(choice, dict) or choice.get("index") not in (None, 0):
                continue
            seen = True
            delta = _dict(choice.get("delta")) or choice
            whole = _dict(choice.get("message")) or whole
            finish = choice.get("finish_reason") or finish
            tokens += _list(_dict(choice.get("logprobs")).get("content"))
            said, thought = _parts(delta.get("content") or choice.get("text"))
            texts["content"].append(said)
            texts["reasoning_content"] += [thought, _first_text(delta, _THINKING_KEYS)]
            texts["refusal"].append(_text(delta.get("refusal")))
    if not seen:
        raise Unreadable("a stream without a choice")
    message = {name: "".join(pieces) for name, pieces in texts.items()}
    choice = {
        "message": message if any(message.values()) else whole or message,
        "finish_reason": finish,
        "logprobs": {"content": tokens} if tokens else None,
    }
    return {"choices": [choice], "usage": usage, "model": model}


# -- one reply -----------------------------------------------------------------------------


def _reply(value: Any, reason: str) -> Reply:
    if not isinstance(value, dict):
        raise Unreadable(f"a JSON {_kind(value)} where an object was expected")
    choices = value.get("choices")
    first = choices if isinstance(choices, dict) else next(iter(_list(choices)), None)
    _raise_error(value, first)
    if _withheld(value) and not _dict(first).get("message"):
        return Reply([Choice(text="", finish_reason="content_filter")], _counts(value.get("usage")))
    if not isinstance(first, dict):
        if "choices" not in value:
            keys = ", ".join(f"`{key}`" for key in list(value)[:8]) or "nothing"
            raise Unreadable(f"it has no `choices`, only {keys}")
        raise Unreadable(f"its `choices` are {json.dumps(choices)}")
    return Reply(
        [_choice(first, reason)],
        _counts(value.get("usage")),
        value["model"] if isinstance(value.get("model"), str) else "",
    )


def _choice(choice: dict[str, Any], reason: str) -> Choice:
    finish = choice.get("finish_reason") or choice.get("stop_reason") or choice.get("finishReason")
    message = choice.get("message", choice.get("delta"))
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, dict):
        message = {}
        if not isinstance(choice.get("text"), str | list | dict):
            raise Unreadable(f"its choice has no text: {reason}")
    content = message.get("content")
    said, thought = _parts(choice.get("text") if content is None else content)
    apart = _first_text(message, _THINKING_KEYS) or _thinking_blocks(message)
    words = Words(
        content=said,
        reasoning_content="\n".join(filter(None, (apart, thought))),
        refusal=_text(message.get("refusal")) or _refusal(content),
    )
    known = isinstance(finish, str) or not finish
    return Choice(
        message=words,
        finish_reason=(finish or None) if known else json.dumps(finish)[:80],
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _thinking_blocks(message: dict[str, Any]) -> str:
    """Return the thinking that gateways keep in blocks, with its signatures."""
    blocks = message.get("reasoning_details") or message.get("thinking_blocks")
    return "\n".join(filter(None, (_text(block) for block in _list(blocks))))


def _parts(content: Any, depth: int = 0) -> tuple[str, str]:
    """Return the text and the thinking in the content of a message."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if depth > _DEEPEST:
        raise Unreadable("its content is nested too deeply")
    if isinstance(content, list):
        found = [_parts(part, depth + 1) for part in content]
        return "".join(said for said, _ in found), "".join(thought for _, thought in found)
    if not isinstance(content, dict):
        return json.dumps(content), ""  # `true` or a number, from a server that decoded the JSON
    kind = content.get("type")
    if not isinstance(kind, str):
        kind = ""
        if "parts" in content:
            return _parts(content["parts"], depth + 1)
        if not any(key in content for key in ("text", "content", "value", *_THINKING_KEYS)):
            return json.dumps(content, ensure_ascii=False), ""  # the same: an object
    if (
        any(word in kind for word in ("think", "reason", "thought"))
        or content.get("thought") is True
    ):
        return "", _text(content)
    if any(word in kind for word in ("refusal", "tool", "image", "audio", "file")):
        return "", ""
    said = content.get("text", content.get("content", content.get("value")))
    text, thought = _parts(said, depth + 1)
    apart = "" if kind else _first_text(content, _THINKING_KEYS)
    return text, thought + apart


def _refusal(content: Any) -> str:
    """Return the refusal among the parts of a content; empty if there is none."""
    parts = (part for part in _list(content) if isinstance(part, dict))
    return next((_text(p.get("refusal")) for p in parts if p.get("type") == "refusal"), "")


def _text(value: Any, depth: int = 0) -> str:
    """Return whatever text is in a value: itself, or in its fields and parts."""
    if isinstance(value, str):
        return value
    if depth > _DEEPEST:
        return ""
    if isinstance(value, list):
        return "".join(_text(item, depth + 1) for item in value)
    if isinstance(value, dict):
        keys = ("text", "thinking", "reasoning", "summary", "content", "value", "parts")
        return _first_text(value, keys, depth + 1)
    return ""


def _first_text(fields: dict[str, Any], keys: Iterable[str], depth: int = 0) -> str:
    """Return the text of the first of these fields that has any."""
    return next((text for key in keys if (text := _text(fields.get(key), depth))), "")


def _counts(usage: Any) -> Counts | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = (
        _dict(usage.get("prompt_tokens_details")),
        usage.get("completion_tokens_details"),
    )
    return Counts(
        _count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        _count(usage.get("completion_tokens", usage.get("output_tokens"))),
        _count(usage.get("total_tokens")),
        PromptDetails(_count(prompt.get("cached_tokens"))),
        CompletionDetails(
            _count(_dict(completion).get("reasoning_tokens", usage.get("reasoning_tokens")))
        ),
    )


def _count(value: Any) -> int:
    """Return a count of tokens from a number or a text; 0 if it is none."""
    try:
        number = float(value) if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return MOST_TOKENS if isinstance(value, int) and value > 0 else 0
    return 0 if math.isnan(number) else int(min(max(number, 0.0), MOST_TOKENS))


def _logprobs(value: Any) -> Logprobs | None:
    found = [token for item in _list(_dict(value).get("content")) if (token := _token(item))]
    return Logprobs(found) if found else None


def _token(value: Any) -> Token | None:
    known = _prob(value)
    if known is None:
        return None
    others = (_prob(other) for other in _list(value.get("top_logprobs")))
    return Token(known.token, known.logprob, [other for other in others if other])


def _prob(value: Any) -> TokenProb | None:
    token, logprob = _dict(value).get("token"), _dict(value).get("logprob")
    if not isinstance(token, str) or not isinstance(logprob, int | float) or math.isnan(logprob):
        return None
    return TokenProb(token, float(max(-9999.0, min(logprob, 0.0))))


# -- errors --------------------------------------------------------------------------------


def _raise_error(value: dict[str, Any], choice: Any) -> None:
    """Raise `ErrorReply` if a reply reports an error instead of a completion."""
    error = value.get("error") or _dict(choice).get("error")
    has_choice = isinstance(choice, dict) and not _dict(choice).get("error")
    if not error and not has_choice:
        if value.get("object") == "error" or value.get("type") == "error":
            error = value
        else:
            keys = ("errors", "detail", "message", "error_msg", "msg", "error_message")
            error = next((value[key] for key in keys if value.get(key)), None)
    if not error or (has_choice and _is_false(error)):
        return
    text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    raise ErrorReply(_status(error, value, text), text)


def _is_false(error: Any) -> bool:
    """Whether an `error` next to a choice only says that nothing is wrong."""
    return error in ("null", "none", "None", "") or isinstance(error, bool)


def _status(error: Any, value: dict[str, Any], text: str) -> int:
    """Return the HTTP status that an error stands for; 500 if it does not tell."""
    described = error[0] if isinstance(error, list) and error else error
    for source in (_dict(described), value):
        for key in ("code", "status", "status_code", "http_code", "error_code"):
            number = _count(source.get(key))
            if 400 <= number <= 599:
                return number
    said = _dict(described)
    named = " ".join(str(said.get(key, "")) for key in ("type", "code", "status"))
    for words in (named.casefold(), text.casefold()):
        for status, known in _STATUS_WORDS:
            if any(word in words for word in known):
                return status
    return 500


def _withheld(value: dict[str, Any]) -> bool:
    """Whether a filter kept the reply back: Azure's and Google's ways to say so."""
    if _dict(value.get("promptFeedback")).get("blockReason"):
        return True
    for entry in _list(value.get("prompt_filter_results")):
        results = _dict(_dict(entry).get("content_filter_results")).values()
        if any(_dict(result).get("filtered") is True for result in results):
            return True
    return False


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _kind(value: Any) -> str:
    names = {list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")
