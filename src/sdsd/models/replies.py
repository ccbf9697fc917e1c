"""Read replies: turn any 2xx body into a `Completion`, or say why it is none.

    body -> strict decoder, or else the lenient reader -> text apart from thinking -> Completion

Nearly every body is what the strict decoder expects. Whatever it refuses goes to
`sdsd.models.odd_replies`, which reads what is needed of the variants that servers and gateways are
known to send. How the reply ended is judged strictly: only known endings, with text, are whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from sdsd.models import odd_replies, parts
from sdsd.models.endings import ending as meaning
from sdsd.models.wire import Choice, Counts, Logprobs, Reply, Token, TokenProb, Words
from sdsd.text.normalize import is_blank
from sdsd.text.thinking import Spoken, opens_thinking, spoken
from sdsd.types import Completion, Finish, Request

_decode = msgspec.json.Decoder(Reply).decode

_CHARS_PER_TOKEN, _SPARE_CHARS = 32, 4096
"""A reply may be this long for each token that was asked for, and in any case."""


class Reading(Struct, frozen=True):
    """How replies of one model are read."""

    room: int = 0
    """Tokens that requests leave for thinking, in addition to `Request.max_tokens`."""
    opened: bool = False
    """Whether the chat template begins the thinking, so that replies hold only its end."""


def read(
    body: bytes, request: Request, reading: Reading = Reading(), seconds: float = 0.0
) -> Completion:
    """Return the completion in the body of a 2xx response.

    seconds  from request to reply

    Raises `Unreadable` with the reason, and `ErrorReply` if the body
    reports an error instead.
    """
    reply = _reply(body)
    choice = reply.choices[0]
    # A prompt that ends with an opening mark begins the thinking itself.
    opened = reading.opened if request.messages else opens_thinking(request.prompt)
    said = _said(choice, opened)
    finish, ending = _finish(choice, reply.usage, request.max_tokens + reading.room)
    if said.ended and finish == "length":  # it had come to its end, and went on
        finish = "stop"
    if not said.closed and finish == "stop":
        finish = "length"
    used = _used(reply.usage, len(said.text), len(said.thinking))
    text, thinking, whole = _bounded(said, used, request.max_tokens, reading.room)
    if not whole and finish == "stop":
        finish = "length"
    if finish == "stop" and is_blank(text):
        finish = "empty"
    return Completion(
        text=text,
        finish=finish,
        model=reply.model or "",
        prompt_tokens=used.prompt,
        cached_tokens=used.cached,
        completion_tokens=used.completion,
        seconds=round(seconds, 4),
        choice_probs=_choice_probs(request.choices, choice.logprobs) if request.choices else {},
        thinking=thinking,
        reasoning_tokens=used.reasoning,
        ending=ending,
    )


def alternatives(body: bytes) -> int:
    """Return the most alternatives that can be read for one token of a reply.

    Raises as `read` does.
    """
    logprobs = _reply(body).choices[0].logprobs
    places = (logprobs and logprobs.content) or []
    return max((len(place.top_logprobs or ()) for place in places), default=0)


def _reply(body: bytes) -> Reply:
    try:
        reply = _decode(body)
        choice = reply.choices[0]
        if reply.error or choice.error or (choice.message is None and choice.text is None):
            raise ValueError("an error, or neither `message` nor `text`")
        if choice.message is not None and (choice.message.content or "").startswith("[{"):
            raise ValueError("perhaps parts, written out as a text")
        return reply
    except (ValueError, IndexError, RecursionError) as error:
        return odd_replies.recover(body, str(error))


def _said(choice: Choice, opened: bool) -> Spoken:
    """Return what was said, apart from what was thought."""
    message = choice.message
    if message is None:
        return spoken(choice.text or "", opened=opened)
    apart = message.reasoning_content or message.reasoning or message.thinking or ""
    if not apart and message != Words(message.content, refusal=message.refusal):
        apart = parts.thinking_beside(msgspec.structs.asdict(message))
    content = message.content or choice.text or ""
    if apart and is_blank(content):  # a server that did not see where the thinking ends
        inside = spoken(apart, opened=True)
        return inside if inside.closed and inside.text else Spoken("", apart)
    if apart:  # a server that takes the thinking out has seen where it ends
        inside = spoken(parts.unrepeated(content, apart))
        thinking = f"{apart}\n{inside.thinking}" if inside.thinking else apart
        return Spoken(inside.text, thinking, inside.closed, inside.ended)
    return spoken(content or message.refusal or "", opened=opened and bool(content))


def _finish(choice: Choice, counts: Counts | None, most: int) -> tuple[Finish, str]:
    """Return how the reply ended, and the server's word for it if that is unknown."""
    if choice.message is not None and choice.message.refusal:
        return "refused", ""
    if choice.content_filter_results and odd_replies.is_filtered(choice.content_filter_results):
        return "refused", ""
    given = choice.finish_reason or ""
    if not given and isinstance(choice.stop_reason, str) and meaning(choice.stop_reason):
        given = choice.stop_reason
    known: Finish | None = "stop" if given == "stop" else meaning(given)
    if known == "stop" and choice.native_finish_reason:
        known = meaning(choice.native_finish_reason) or known
    # Without a word that is known, a reply as long as it may be has been cut.
    if counts is not None and counts.completion_tokens >= most and not (given and known):
        return "length", "" if known else given[:80]
    return (known, "") if known else ("stop", given[:80])


class _Used(Struct, frozen=True):
    """Tokens used by one reply."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


def _used(counts: Counts | None, said: int, thought: int) -> _Used:
    """Return the tokens used.

    Thinking that the server does not count has the share of its characters. Some servers leave it
    out of the completion tokens, which shows in their total.
    """
    if counts is None:
        return _Used()
    prompt, completion = counts.prompt_tokens, counts.completion_tokens
    cached = (
        (counts.prompt_tokens_details and counts.prompt_tokens_details.cached_tokens)
        or counts.cached_tokens
        or counts.prompt_cache_hit_tokens
        or counts.cache_read_input_tokens
    )
    details = counts.completion_tokens_details
    reasoning = (details and details.reasoning_tokens) or counts.reasoning_tokens or 0
    if reasoning and counts.total_tokens == prompt + completion + reasoning:
        completion += reasoning
    elif thought and not reasoning:
        reasoning = completion * thought // (thought + said)
    return _Used(prompt, min(cached or 0, prompt), completion, min(reasoning, completion))


def _bounded(said: Spoken, used: _Used, most: int, room: int) -> tuple[str, str, bool]:
    """Cut a reply that is longer than was asked for, as some servers ignore the limit.

    Thinking has room of its own, so a text may also be too long because there was little of it.
    """
    spent = used.completion - used.reasoning
    chars = most * _CHARS_PER_TOKEN + _SPARE_CHARS
    if room and spent > most:
        chars = min(chars, len(said.text) * most // spent)
    whole = len(said.text) <= chars
    thought = (most + room) * _CHARS_PER_TOKEN + _SPARE_CHARS
    return said.text[:chars], said.thinking[:thought], whole


# -- probabilities -------------------------------------------------------------------------


def _choice_probs(words: Sequence[str], logprobs: Logprobs | None) -> dict[str, float]:
    """Return the probability of each of `words` where the reply last chose among them.

    Normalised over these words; empty if unknown.
    """
    for token in reversed((logprobs and logprobs.content) or []):
        if _bare(token.token) not in words:
            continue
        mass = dict.fromkeys(words, 0.0)
        for other in _alternatives(token):
            if _bare(other.token) in mass and not math.isnan(other.logprob):
                mass[_bare(other.token)] += math.exp(min(other.logprob, 0.0))
        total = sum(mass.values())
        return {word: round(share / total, 6) for word, share in mass.items()} if total else {}
    return {}


def _alternatives(token: Token) -> Iterator[TokenProb]:
    """Yield the alternatives at a position, the chosen token among them."""
    others = token.top_logprobs or []
    yield from others
    if all(other.token != token.token for other in others):
        yield token


def _bare(token: str) -> str:
    return token.strip(' \n":,{}').casefold()
