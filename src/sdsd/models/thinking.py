"""Find out whether a model thinks before it speaks, and how to switch that on or off.

Nothing in the API says so. A reasoning model shows itself in a reply: by thinking in it or next to
it, or by tokens that the server counts as reasoning. Switches differ from server to server, so the
known ones are tried until a reply shows that one works; many servers ignore fields that they do not
know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from sdsd.config import ThinkingMode
from sdsd.text.thinking import lacks_opening
from sdsd.types import Answer, Completion, Message, Request

Ask = Callable[[Request, dict[str, Any]], Awaitable[Answer | None]]
"""Sends a request with additional fields in its body; None if it fails."""

QUESTION = (Message("user", "Which is larger, 9.8 or 9.11? Answer with that number alone."),)
_TOKENS, _MORE_TOKENS = 192, 2048
"""For the answer; and again if it was cut, which may have been in unmarked thinking."""
_TEMPLATE = ("enable_thinking", "thinking")
"""Variables by which chat templates switch it: Qwen, GLM, Hunyuan; DeepSeek, Granite, Kimi."""


def switch(*, on: bool) -> dict[str, bool]:
    """Return the variables of chat templates that switch thinking."""
    return dict.fromkeys(_TEMPLATE, on)


_OFF: tuple[dict[str, Any], ...] = (
    {"chat_template_kwargs": switch(on=False)},  # vLLM, SGLang, llama.cpp
    {"reasoning_effort": "none"},
    {"reasoning_effort": "minimal"},
    {"enable_thinking": False},
    {"thinking": {"type": "disabled"}},
    {"reasoning": {"enabled": False}},
)
_ON: tuple[dict[str, Any], ...] = (
    {"chat_template_kwargs": switch(on=True)},
    {"reasoning_effort": "medium"},
    {"enable_thinking": True},
    {"thinking": {"type": "enabled"}},
    {"reasoning": {"enabled": True}},
)


class Thinking(Struct, frozen=True):
    """Whether a model shall think, and how much."""

    mode: ThinkingMode = "auto"
    tokens: int = 0
    """Room that requests leave for it, in addition to `Request.max_tokens`."""


class Found(Struct, frozen=True):
    """Whether and how a model thinks, with `fields` in the body of its requests."""

    thinks: bool = False
    opened: bool = False
    """The chat template begins the thinking, so that replies hold only the mark of its end."""
    fields: dict[str, Any] = {}


def thinks(answer: Answer | None) -> bool:
    """Whether an answer is that of a reasoning model."""
    return isinstance(answer, Completion) and bool(answer.thinking or answer.reasoning_tokens)


async def find_thinking(ask: Ask, wanted: ThinkingMode, *, opened: bool = False) -> Found:
    """Return how the model thinks, switched as `wanted` if any known switch works.

    opened  whether the chat template is known to begin the thinking: then a reply that is cut
            without a mark is nothing else
    """
    answer = await _answer(ask, {})
    found = _seen(answer, {})
    if opened and not found.thinks and _cut(answer):
        found = Found(thinks=True, opened=True)
    on = wanted == "on"
    if wanted == "auto" or found.thinks == on:
        return found
    for fields in _ON if on else _OFF:
        answer = await _answer(ask, fields)
        if isinstance(answer, Completion) and answer.finish == "stop" and thinks(answer) == on:
            return _seen(answer, fields)
    return found


def _seen(answer: Answer | None, fields: dict[str, Any]) -> Found:
    thinking = answer.thinking if isinstance(answer, Completion) else ""
    return Found(thinks(answer), lacks_opening(thinking), fields)


def _cut(answer: Answer | None) -> bool:
    return isinstance(answer, Completion) and answer.finish == "length"


async def _answer(ask: Ask, fields: dict[str, Any]) -> Answer | None:
    answer = await ask(Request("agent", _TOKENS, QUESTION, temperature=0.0), fields)
    if _cut(answer) and not thinks(answer):
        answer = await ask(Request("agent", _MORE_TOKENS, QUESTION, temperature=0.0), fields)
    return answer
