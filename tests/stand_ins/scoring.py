"""Servers that score given text: llama.cpp by a grammar of token ids, and vLLM by its prompt.

Both know one language: a token is a word with the space before it, and its log probability is
`logprob(token, last user message)`: words that the user has used are likely, others are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from sdsd.types import Message
from tests.stand_ins.model_server import chatml

LIKELY, UNLIKELY = -0.5, -4.0


class Language:
    """Token ids of words, given out as the words come."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def ids(self, text: str) -> list[int]:
        found = re.findall(r"\s*\S+", text)
        self.words += [word for word in dict.fromkeys(found) if word not in self.words]
        return [self.words.index(word) for word in found]

    def logprob(self, token: int, prompt: str) -> float:
        bare = self.words[token].strip(" ,.").casefold()
        return LIKELY if bare in prompt.casefold() else UNLIKELY


def expected(text: str, prompt: str) -> float:
    """The log probability of a text after a prompt."""
    language = Language()
    return sum(language.logprob(token, prompt) for token in language.ids(text))


async def _chat(_: web.Request) -> web.Response:
    return web.json_response({"choices": [{"message": {"content": "Red."}}]})


class LlamaCpp:
    """`/apply-template`, `/tokenize` and `/completion` as llama.cpp has them."""

    def __init__(self) -> None:
        self.language = Language()
        self.lost = 0
        """Tokens that are left out of each answer."""
        self.changed: dict[str, Any] = {}
        """What the entry of each token has instead."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", _chat)
        app.router.add_post("/apply-template", self._template)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/completion", self._complete)
        return app

    async def _template(self, http: web.Request) -> web.Response:
        messages = [Message(**m) for m in (await http.json())["messages"]]
        return web.json_response({"prompt": chatml(messages)})

    async def _tokenize(self, http: web.Request) -> web.Response:
        body = await http.json()
        assert body["add_special"] is False
        return web.json_response({"tokens": self.language.ids(body["content"])})

    async def _complete(self, http: web.Request) -> web.Response:
        body = await http.json()
        ids = [int(token) for token in re.findall(r"<\[(\d+)\]>", body["grammar"])]
        assert body["grammar"].startswith("root ::= ")
        assert (body["n_predict"], body["post_sampling_probs"]) == (len(ids), False)
        entries = [
            {"id": token, "logprob": self.language.logprob(token, body["prompt"])} | self.changed
            for token in ids[: len(ids) - self.lost]
        ]
        n = len(body["prompt"].split())
        return web.json_response(
            {
                "completion_probabilities": entries,
                "tokens_evaluated": n,
                "timings": {"prompt_n": n - 2},
            }
        )


class Vllm:
    """`/tokenize` and `/v1/completions` as vLLM has them; `echo` alone where it is older."""

    def __init__(self, *, old: bool = False) -> None:
        self.language = Language()
        self.old = old

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", _chat)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _tokenize(self, http: web.Request) -> web.Response:
        body = await http.json()
        if "messages" in body:
            text = chatml(Message(**m) for m in body["messages"])
            if not body["add_generation_prompt"]:
                text = text.removesuffix("<|im_start|>assistant\n")
        else:
            text = body["prompt"]
        ids = self.language.ids(text)
        return web.json_response({"tokens": ids, "count": len(ids)})

    async def _complete(self, http: web.Request) -> web.Response:
        body = await http.json()
        prompt: Sequence[int] = body["prompt"]
        if not isinstance(prompt, list):
            return web.json_response({"choices": [{"text": "x"}]})
        heads = ["".join(self.language.words[t] for t in prompt[:k]) for k in range(len(prompt))]
        # A model sees what comes before; here, the chat: the words of the reply tell nothing new.
        found = [
            self.language.logprob(token, head.rpartition("assistant")[0] or head)
            for token, head in zip(prompt, heads, strict=True)
        ]
        choice: dict[str, Any] = {"text": " x", "finish_reason": "length"}
        if body.get("echo"):
            choice["logprobs"] = {"token_logprobs": [None, *found[1:], -1.0]}
        elif "prompt_logprobs" in body and not self.old:
            other = {"999999": {"logprob": -0.1, "rank": 1}}
            choice["prompt_logprobs"] = [
                None,
                *(
                    {str(token): {"logprob": value, "rank": 2}} | other
                    for token, value in zip(prompt[1:], found[1:], strict=True)
                ),
            ]
        return web.json_response({"choices": [choice]})
