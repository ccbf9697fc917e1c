"""The content of a message, in whatever parts servers send it: text apart from thinking."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from sdsd.models.wire import Unreadable, as_list

_DEEPEST = 100
"""Levels of nested JSON that are followed."""
THINKING_KEYS = (
    "reasoning_content", "reasoning", "thinking", "thought", "thoughts", "reasoning_text",
    "thinking_content", "reasoningContent", "reasoningText",
)  # fmt: skip
"""Where servers put thinking next to the content of a message."""
_BLOCKS = ("reasoning_details", "thinking_blocks")
"""Where gateways keep it in blocks, with its signatures."""
_EXTRA = ("provider_specific_fields", "model_extra", "additional_kwargs")
"""Where clients that serve as gateways keep what they do not know."""
_SAYS_KIND = ("type", "kind", "role", "channel")
_FLAGS = ("thought", "is_thought", "is_thinking", "thinking", "is_reasoning")
_THINKING_KIND = re.compile("think|reason|thought|analysis|commentary")
_NO_TEXT = re.compile("refusal|tool|image|audio|file")
_WRITTEN_OUT = re.compile(r"""\A\s*+\[\s*+\{\s*+(["'])(?:type|thinking|text)\1\s*:""")
_LONG = 20
"""Characters of thinking that do not begin a content by chance."""


def text_and_thinking(content: Any, depth: int = 0) -> tuple[str, str]:
    """Return the text and the thinking in the content of a message. Raises `Unreadable`."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if depth > _DEEPEST:
        raise Unreadable("its content is nested too deeply")
    if isinstance(content, list):
        found = [text_and_thinking(part, depth + 1) for part in content]
        return "".join(said for said, _ in found), "".join(thought for _, thought in found)
    if not isinstance(content, dict):
        return json.dumps(content), ""  # `true` or a number, from a server that decoded the JSON
    return _part(content, depth)


def _part(part: Mapping[str, Any], depth: int) -> tuple[str, str]:
    kinds = " ".join(str(part[k]) for k in _SAYS_KIND if isinstance(part.get(k), str)).casefold()
    has_text = any(key in part for key in ("text", "content", "value"))
    if not kinds and "parts" in part:
        return text_and_thinking(part["parts"], depth + 1)
    if _THINKING_KIND.search(kinds) or any(_is_set(part.get(flag)) for flag in _FLAGS):
        return "", text_of({**part}) or _beside(part)
    if not kinds and not has_text:
        thought = _beside(part)
        return ("", thought) if thought else (json.dumps(part, ensure_ascii=False), "")
    if _NO_TEXT.search(kinds):
        return "", ""
    said = part.get("text", part.get("content", part.get("value")))
    text, thought = text_and_thinking(said, depth + 1)
    return text, thought + ("" if kinds else _beside(part))


def _is_set(flag: Any) -> bool:
    return flag is True or flag == "true"


def thinking_beside(message: Mapping[str, Any]) -> str:
    """Return the thinking that is next to the content of a message."""
    blocks = ("\n".join(filter(None, map(text_of, as_list(message.get(k))))) for k in _BLOCKS)
    extra = (thinking_beside(m) for key in _EXTRA if isinstance(m := message.get(key), dict))
    return _beside(message) or next(filter(None, (*blocks, *extra)), "")


def _beside(message: Mapping[str, Any]) -> str:
    return next((t for key in THINKING_KEYS if (t := text_of(message.get(key)))), "")


def written_out(content: str) -> Any:
    """Return the parts that a gateway has written out as one text; the text if it has not."""
    if not (found := _WRITTEN_OUT.match(content)) or not content.rstrip().endswith("]"):
        return content
    try:
        parts = json.loads(content) if found[1] == '"' else ast.literal_eval(content.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return content
    known = all(isinstance(p, dict) and {"text", "thinking", "reasoning"} & p.keys() for p in parts)
    return parts if known else content


def unrepeated(content: str, thinking: str) -> str:
    """Return a content without the thinking that it begins with, as some gateways repeat it."""
    begins = thinking.strip()
    if len(begins) < _LONG or not content.lstrip().startswith(begins):
        return content
    return content.lstrip()[len(begins) :].lstrip() or content


def refusal_in(content: Any) -> str:
    """Return the refusal among the parts of a content; empty if there is none."""
    parts = (part for part in as_list(content) if isinstance(part, dict))
    return next((text_of(p.get("refusal")) for p in parts if p.get("type") == "refusal"), "")


def text_of(value: Any, depth: int = 0) -> str:
    """Return whatever text is in a value: itself, or in its fields and parts."""
    if isinstance(value, str):
        return value
    if depth > _DEEPEST:
        return ""
    if isinstance(value, list):
        return "".join(text_of(item, depth + 1) for item in value)
    if isinstance(value, dict):
        keys = ("text", "thinking", "reasoning", "summary", "content", "value", "parts",
                "reasoningText")  # fmt: skip
        return next((t for key in keys if (t := text_of(value.get(key), depth + 1))), "")
    return ""
