"""What is needed of a completion, as OpenAI-compatible servers write it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

MOST_TOKENS = 10_000_000
"""A larger count of tokens is none."""
Tokens = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]


class Unreadable(ValueError):
    """A body is no completion. Says why, as far as the decoder knows.

    It may quote the body: hide secrets in it before it is cut or shown.
    """


def as_list(value: Any) -> list[Any]:
    """Return a value that should be a list; an empty one if it is not."""
    return value if isinstance(value, list) else []


def as_dict(value: Any) -> dict[str, Any]:
    """Return a value that should be an object; an empty one if it is not."""
    return value if isinstance(value, dict) else {}


class Words(Struct):
    """The assistant's message."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    reasoning_text: Any = None
    thoughts: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    refusal: str | None = None


class TokenProb(Struct):
    """A token and its log probability."""

    token: str = ""
    logprob: float = 0.0


class Token(TokenProb):
    """A generated token, with its alternatives."""

    top_logprobs: list[TokenProb] | None = None


class Logprobs(Struct):
    """The generated tokens."""

    content: list[Token] | None = None


class Choice(Struct):
    """One of the replies; only the first is read."""

    text: str | None = None
    message: Words | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    """What a gateway was told by the server behind it."""
    stop_reason: Any = None
    """With some servers the text or token that ended the reply, with others a `finish_reason`."""
    content_filter_results: Any = None
    logprobs: Logprobs | None = None
    error: Any = None


class PromptDetails(Struct):
    """What the tokens of the prompt were."""

    cached_tokens: Tokens | None = 0


class CompletionDetails(Struct):
    """What the generated tokens were."""

    reasoning_tokens: Tokens | None = 0


class Counts(Struct):
    """Tokens used, as the server counts them."""

    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    total_tokens: Tokens | None = None
    cached_tokens: Tokens | None = 0
    prompt_cache_hit_tokens: Tokens | None = 0
    cache_read_input_tokens: Tokens | None = 0
    reasoning_tokens: Tokens | None = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Reply(Struct):
    """The body of a reply."""

    choices: list[Choice]
    usage: Counts | None = None
    model: str | None = ""
    error: Any = None
    """Some gateways answer with status 200 and an error."""
