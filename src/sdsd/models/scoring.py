"""Score given text: the log probability of a reply that somebody else wrote.

Chat APIs return probabilities of generated tokens only. Three ways lead to those of given tokens:

token_grammar    llama.cpp: a grammar that allows nothing but the reply's token ids, in their order,
                 makes the server "generate" it, with the probability of each token before sampling.
                 A grammar of strings will not do: it may split the text into other tokens. Of a
                 character of several tokens only the last counts: see `_runs`.
prompt_logprobs  vLLM: chat and reply as one prompt of token ids, with the probabilities of the
                 prompt
echo             older servers: the same prompt, echoed with `logprobs`

The chat is rendered and tokenised by the server, and the reply tokenised apart from it, so that it
has the same tokens in whichever chat it is scored.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from sdsd.models.base import Scoring
from sdsd.models.thinking import switch
from sdsd.types import Message

Post = Callable[[str, Mapping[str, object]], Any]
"""POST JSON to a path below the server's root; returns the decoded reply, or raises."""

_SILENT = {"chat_template_kwargs": switch(on=False)}
"""A given reply has no thinking: a template that begins it would score the reply as thinking."""
WAYS: tuple[Scoring, ...] = ("token_grammar", "prompt_logprobs", "echo")


class Score(Struct, frozen=True):
    """The log probability of a text, and what it cost to find."""

    logprob: float
    """Sum over the tokens, in nats."""
    tokens: int
    prompt_tokens: int
    cached_tokens: int = 0


async def score(
    way: Scoring, post: Post, model: str, messages: Sequence[Message], text: str
) -> Score:
    """Return the log probability of `text` as the assistant's reply to `messages`.

    Raises `ValueError`, `KeyError`, `IndexError` or `TypeError` if the server's answer does not
    have a probability for every token, and whatever `post` raises.
    """
    by = {"token_grammar": _by_grammar, "prompt_logprobs": _by_prompt, "echo": _by_echo}
    found: Score = await by[way](post, model, messages, text)
    if not math.isfinite(found.logprob):
        raise ValueError(f"the text has the log probability {found.logprob}")
    return found


async def _by_grammar(post: Post, model: str, messages: Sequence[Message], text: str) -> Score:
    asked = {"messages": messages, **_SILENT}
    prompt = (await post("/apply-template", asked))["prompt"]
    given = {"content": text, "add_special": False, "with_pieces": True}
    tokens = (await post("/tokenize", given))["tokens"]
    ids = [token["id"] for token in tokens]
    scores = []
    for run in _runs([_bytes(token["piece"]) for token in tokens]):
        before, own = ids[: run.start], ids[run.start : run.stop]
        scores.append(await _forced(post, [prompt, *before] if before else prompt, own))
    first = scores[0]
    return Score(
        sum(score.logprob for score in scores),
        sum(score.tokens for score in scores),
        first.prompt_tokens,
        first.cached_tokens,
    )


async def _forced(post: Post, prompt: str | list[str | int], ids: Sequence[int]) -> Score:
    """Score token ids after a prompt by letting the server generate nothing else.

    Neither way changes the probabilities that it reports: those before sampling.
    """
    alone = {"logit_bias": [[ids[0], 1000.0]]}  # no grammar lets part of a character through
    several = {"grammar": "root ::= " + " ".join(f"<[{token}]>" for token in ids)}
    reply = await post(
        "/completion",
        {
            "prompt": prompt,
            "n_predict": len(ids),
            "n_probs": 1,
            "post_sampling_probs": False,
            "temperature": 0.0,
            "cache_prompt": True,
            **(alone if len(ids) == 1 else several),
        },
    )
    found = [(token["id"], token["logprob"]) for token in reply["completion_probabilities"]]
    if [token for token, _ in found] != ids:
        raise ValueError(f"{len(found)} tokens came back for the {len(ids)} of a text")
    evaluated = reply["tokens_evaluated"]
    cached = evaluated - reply["timings"]["prompt_n"]
    return Score(sum(logprob for _, logprob in found), len(ids), evaluated, max(0, cached))


def _runs(pieces: Sequence[bytes]) -> Iterator[range]:
    """Yield the runs of tokens that llama.cpp gives probabilities for.

    A character may take several tokens, as many emoji do. llama.cpp withholds the probability of a
    token that leaves a character open, and the grammar rejects the one that completes it. So the
    former is left to the prompt of the next run, and the latter is a run by itself.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    start, was_open = 0, False
    for place, piece in enumerate(pieces):
        decoder.decode(piece)
        is_open = bool(decoder.getstate()[0])
        if is_open or was_open:
            if start < place:
                yield range(start, place)
            if not is_open:
                yield range(place, place + 1)
            start = place + 1
        was_open = is_open
    if start < len(pieces):
        yield range(start, len(pieces))


def _bytes(piece: str | list[int]) -> bytes:
    """Return the bytes of a token; llama.cpp lists them where they are not text by themselves."""
    return piece.encode() if isinstance(piece, str) else bytes(piece)


async def _by_prompt(post: Post, model: str, messages: Sequence[Message], text: str) -> Score:
    chat, ids = await _tokens(post, model, messages, text)
    choice = await _continued(post, model, [*chat, *ids], prompt_logprobs=0)
    entries = choice["prompt_logprobs"][len(chat) :]
    found = [entry[str(token)]["logprob"] for token, entry in zip(ids, entries, strict=True)]
    return _summed(found, chat, ids)


async def _by_echo(post: Post, model: str, messages: Sequence[Message], text: str) -> Score:
    chat, ids = await _tokens(post, model, messages, text)
    choice = await _continued(post, model, [*chat, *ids], echo=True, logprobs=1)
    # One token is generated as well: it comes last.
    found = choice["logprobs"]["token_logprobs"][len(chat) : len(chat) + len(ids)]
    return _summed(found, chat, ids)


async def _continued(post: Post, model: str, prompt: list[int], **wanted: object) -> Any:
    """Return the choice of a completion of one token, which has what is wanted of its prompt."""
    asked = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, **wanted}
    return (await post("/v1/completions", asked))["choices"][0]


async def _tokens(
    post: Post, model: str, messages: Sequence[Message], text: str
) -> tuple[list[int], list[int]]:
    """Return the token ids of the chat, up to where the assistant begins, and of the text."""
    chat = {"model": model, "messages": messages, "add_generation_prompt": True, **_SILENT}
    given = {"model": model, "prompt": text, "add_special_tokens": False}
    prompt, reply = await post("/tokenize", chat), await post("/tokenize", given)
    return prompt["tokens"], reply["tokens"]


def _summed(found: Sequence[float], chat: Sequence[int], ids: Sequence[int]) -> Score:
    if len(found) != len(ids):
        raise ValueError(f"{len(found)} tokens came back for the {len(ids)} of a text")
    return Score(float(sum(found)), len(ids), len(chat) + len(ids))
