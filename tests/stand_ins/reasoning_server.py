"""A stand-in for reasoning models, which think before they speak in each of the ways there are.

inline   between `<think>` and `</think>` in the content
opened   the same, but the chat template has written the opening mark
beside   in `reasoning_content`, next to the content
parts    as a part of a content that is a list
harmony  in channels, with the special tokens in the content

A word counts as a token, and no reply has more of them than `max_tokens`, thinking included.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from aiohttp import web

from sdsd.types import Message
from tests.stand_ins.model_server import StandIn, chatml

Manner = Literal["inline", "opened", "beside", "parts", "harmony"]
MANNERS: tuple[Manner, ...] = ("inline", "opened", "beside", "parts", "harmony")
CLOSED = "<think>\n\n</think>\n\n"
"""What the chat template begins a reply with where thinking is switched off."""
WORD = "ponderingly"
"""Every word of the thinking."""


class ReasoningStandIn(StandIn):
    """A server whose model thinks `words` words before every reply in chats."""

    def __init__(self, manner: Manner, words: int = 40, *, switch: bool = False) -> None:
        super().__init__()
        self.manner = manner
        self.words = words
        self.switch = switch
        """Whether `enable_thinking` in `chat_template_kwargs` is heard."""

    async def _template(self, http: web.Request) -> web.Response:
        body = await http.json()
        messages = msgspec.convert(body["messages"], tuple[Message, ...])
        wanted = body.get("chat_template_kwargs", {}).get("enable_thinking", True)
        opening = "<think>\n" if self.manner == "opened" else ""
        if self.switch and not wanted:
            opening = CLOSED
        return web.json_response({"prompt": chatml(messages) + opening})

    def _worded(self, reply: dict[str, Any], asked: bytes) -> dict[str, Any]:
        body = msgspec.json.decode(asked)
        in_chat = "messages" in body
        wanted = body.get("chat_template_kwargs", {}).get("enable_thinking", True)
        thinks = in_chat and (wanted or not self.switch)
        prompt = body.get("prompt", "").rstrip()
        thinks = thinks or prompt.endswith("<think>")
        # A model whose template leaves it to think does so in every reply that says nothing else.
        by_itself = self.manner == "inline" and prompt.endswith("<|im_start|>assistant")
        thinks = thinks or by_itself
        (choice,) = reply["choices"]
        text = choice["message"]["content"] if in_chat else choice["text"]
        room = body["max_tokens"]
        thought = min(self.words, room) if thinks else 0
        said = _first_words(text, room - thought)
        whole = said == text and (not thinks or thought == self.words)
        choice["finish_reason"] = "stop" if whole else "length"
        thinking = " ".join([WORD] * thought)
        if in_chat:
            choice["message"] = {"role": "assistant", **self._message(thinking, said)}
        else:
            begun = "<think>\n" if by_itself else ""
            choice["text"] = f"{begun}{thinking}\n</think>\n\n{said}" if thinks else said
        used = {"prompt_tokens": 9, "completion_tokens": thought + len(said.split())}
        return reply | {"usage": used}

    def _message(self, thinking: str, said: str) -> dict[str, Any]:
        if not thinking:
            return {"content": said}
        match self.manner:
            case "inline":
                return {
                    "content": f"<think>\n{thinking}" + (f"\n</think>\n\n{said}" if said else "")
                }
            case "opened":
                return {"content": thinking + (f"\n</think>\n\n{said}" if said else "")}
            case "beside":
                return {"content": said or None, "reasoning_content": thinking}
            case "parts":
                parts = [{"type": "thinking", "thinking": [{"type": "text", "text": thinking}]}]
                spoken = [{"type": "text", "text": said}] if said else []
                return {"content": [*parts, *spoken]}
            case "harmony":
                final = "<|end|><|start|>assistant<|channel|>final<|message|>"
                channel = f"<|channel|>analysis<|message|>{thinking}"
                return {"content": channel + (f"{final}{said}<|return|>" if said else "")}


def _first_words(text: str, most: int) -> str:
    """Return the first words of a text, with what is between them."""
    words = list(re.finditer(r"\S+", text))
    if len(words) <= most:
        return text
    return text[: words[most - 1].end()] if most > 0 else ""
