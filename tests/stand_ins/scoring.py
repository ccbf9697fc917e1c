"""Servers that score given text: llama.cpp by a grammar of token ids, and vLLM by its prompt.

Both know one language: a token is a word with the space before it, and its log probability is
`logprob(token, last user message)`: words that the user has used are likely, others are not.
"""

from __future__ import annotations

import codecs
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


class Bytewise(Language):
    """A language in which each character beyond ASCII takes two tokens: all its bytes but the last,
    and the last. Words hold bytes that are no text as surrogates."""

    def ids(self, text: str) -> list[int]:
        found: list[str] = []
        for whole, other in re.findall(r"(\s*[!-~]+)|(\s*[^!-~\s])", text):
            data = other.encode()
            parts = [data[:-1], data[-1:]] if other else [whole.encode()]
            found += [part.decode(errors="surrogateescape") for part in parts]
        self.words += [word for word in dict.fromkeys(found) if word not in self.words]
        return [self.words.index(word) for word in found]


class LlamaCpp:
    """`/apply-template`, `/tokenize` and `/completion` as llama.cpp has them.

    No grammar lets part of a character through, and the probability of a token that leaves one open
    is withheld; generation goes on until it is whole.
    """

    def __init__(self) -> None:
        self.language: Language = Bytewise()
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
        assert body["with_pieces"] is True
        ids = self.language.ids(body["content"])
        return web.json_response({"tokens": [{"id": k, "piece": self._piece(k)} for k in ids]})

    def _piece(self, token: int) -> str | list[int]:
        word = self.language.words[token]
        data = word.encode(errors="surrogateescape")
        return word if word.isprintable() else list(data)

    async def _complete(self, http: web.Request) -> web.Response:
        body = await http.json()
        if "grammar" in body:
            assert body["grammar"].startswith("root ::= ")
            ids = [int(token) for token in re.findall(r"<\[(\d+)\]>", body["grammar"])]
            parts = [token for token in ids if not self.language.words[token].isprintable()]
        else:
            ids = [token for token, _ in body["logit_bias"]]
            parts = [token for token in ids if _leaves_open(self.language.words[token])]
        if parts:
            said = "got exception: Unexpected empty grammar stack after accepting piece: . (30)"
            return web.json_response({"error": {"code": 500, "message": said}}, status=500)
        assert (body["n_predict"], body["post_sampling_probs"]) == (len(ids), False)
        text, *before = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        entries = [
            {"id": token, "logprob": self.language.logprob(token, text)} | self.changed
            for token in ids[: len(ids) - self.lost]
        ]
        n = len(text.split()) + len(before)
        return web.json_response(
            {
                "completion_probabilities": entries,
                "tokens_evaluated": n,
                "timings": {"prompt_n": n - 2},
            }
        )


def _leaves_open(word: str) -> bool:
    """Whether the bytes end with the first ones of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(word.encode(errors="surrogateescape"))
    return bool(decoder.getstate()[0])


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
