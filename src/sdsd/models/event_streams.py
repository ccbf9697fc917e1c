"""Join the streams that some servers send although nobody has asked for one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sdsd.models.odd_errors import reports_error
from sdsd.models.parts import text_and_thinking, text_of, thinking_beside
from sdsd.models.wire import Unreadable, as_dict, as_list

BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b":")
Decode = Callable[[str], Any]
_LINE = re.compile(r"\r\n|\n|\r")
"""The ends of lines; `str.splitlines` knows more, which are text here."""


def streamed(body: bytes, decode: Decode) -> dict[str, Any]:
    """Return a stream of server-sent events as one reply."""
    text = body.decode("utf-8", "replace")
    events = list(_events(_LINE.split(text)))
    data = [said for _, said in events]
    if not data:  # comments that keep the connection alive, and then JSON
        rest = "\n".join(line for line in _LINE.split(text) if not line.startswith(":"))
        if rest.strip().startswith("{"):
            value = decode(rest)
            return value if isinstance(value, dict) else {}
        raise Unreadable("a stream of events without any data")
    for name, said in events:
        if name == "error":
            return {"error": _error(said, decode)}
    found = joined(chunks(data, decode))
    if "error" in found or "choices" not in found or "[DONE]" in data:
        return found
    if not found["choices"][0]["finish_reason"]:
        raise Unreadable("a stream that breaks off before its end")
    return found


def _events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield name and data of each event. An event may have its data on several lines."""
    name, data = "", list[str]()
    for line in (*lines, ""):
        field, _, value = line.partition(":")
        if field == "data":
            if len(data) == 1 and _is_whole(data[0]):  # servers that leave the empty line out
                yield name, data.pop()
            if value.strip():
                data.append(value.strip())
        elif field == "event":
            name = value.strip()
        elif not line.strip():
            if data:
                yield name, "\n".join(data)
            name, data = "", []


def _is_whole(data: str) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return data == "[DONE]"
    return True


def _error(said: str, decode: Decode) -> Any:
    try:
        value = decode(said)
    except Unreadable:
        return said
    return value.get("error", value) if isinstance(value, dict) else said


def chunks(texts: Iterable[str], decode: Decode) -> Iterator[Any]:
    """Yield the chunks of a stream."""
    for text in texts:
        if text.strip() in ("", "[DONE]"):
            continue
        try:
            yield decode(text)
        except Unreadable as error:
            raise Unreadable(f"a stream with a line that is {error}: {text.strip()!r}") from None


def joined(chunks: Iterable[Any]) -> dict[str, Any]:
    """Return the chunks of a stream as one reply; the first that reports an error, as it is."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    whole: dict[str, Any] = {}
    tokens: list[Any] = []
    finish = usage = model = None
    seen = False
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error") or ("choices" not in chunk and reports_error(chunk)):
            return chunk
        usage, model = _usage(chunk) or usage, chunk.get("model") or model
        for choice in as_list(chunk.get("choices")):
            if not isinstance(choice, dict) or choice.get("index") not in (None, 0):
                continue
            seen = True
            delta = as_dict(choice.get("delta")) or choice
            whole = as_dict(choice.get("message")) or whole
            finish = choice.get("finish_reason") or finish
            tokens += as_list(as_dict(choice.get("logprobs")).get("content"))
            said, thought = text_and_thinking(delta.get("content") or choice.get("text"))
            texts["content"].append(said)
            texts["reasoning_content"] += [thought, thinking_beside(delta)]
            texts["refusal"].append(text_of(delta.get("refusal")))
    if not seen:
        raise Unreadable("a stream without a choice")
    message = {name: "".join(pieces) for name, pieces in texts.items()}
    choice = {
        "message": message if any(message.values()) else whole or message,
        "finish_reason": finish,
        "logprobs": {"content": tokens} if tokens else None,
    }
    return {"choices": [choice], "usage": usage, "model": model}


def _usage(chunk: dict[str, Any]) -> Any:
    first = as_dict(next(iter(as_list(chunk.get("choices"))), None))
    return chunk.get("usage") or as_dict(chunk.get("x_groq")).get("usage") or first.get("usage")
