"""The contract of a model, which answers requests. The sibling modules implement it.

openai_server   any OpenAI-compatible server; `probing` finds out what it supports
pool            the same model on one or more servers, with limits and load balancing
batch           a provider's batch API: answers in bulk, hours later, for less
llamacpp        starts the embedded engine, which is then such a server
vllm            starts `vllm serve`, restarts it when it dies, and stops it
scripted        answers from a script, without a server: for tests, examples and experiments

Your own model goes into a configuration as `models.<name>.backend: package.module:name`, a callable
that takes the `ModelConfig` and returns a `Model`:

    class Echo:
        def __init__(self, config: ModelConfig) -> None:
            self.name, self.capabilities = config.model, Capabilities()

        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            return Completion(request.messages[-1].content)

If it is an async context manager, it is entered before the first request and left after the last.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from msgspec import Struct

from sdsd.text.chat_format import Template
from sdsd.types import Answer, Request

Scoring = Literal["", "token_grammar", "prompt_logprobs", "echo"]
"""A way to score given text; empty if the server has none."""


class Capabilities(Struct, frozen=True):
    """What a server supports. Code checks these, never the server's brand."""

    chat: bool = True
    completions: bool = False
    """Raw continuation of a prompt (`/v1/completions`)."""
    template: Template | None = None
    """The seams of its chat template, if the server renders one (`/apply-template`)."""
    system: bool = True
    """Chats may begin with a system turn; otherwise it is merged into the first user turn."""
    schema: bool = False
    """Replies can be constrained by a JSON schema."""
    logprobs: bool = False
    """Chats return the probabilities of a token and of its alternatives."""
    alternatives: int = 5
    """Alternatives per token to ask for."""
    scoring: Scoring = ""
    """How the log probability of a given reply is found; see `sdsd.models.scoring`."""
    noise: float = 0.0
    """How much that log probability differed between two tries of the same text, in nats."""
    slots: int = 0
    """Requests answered at once, if the server reports it; 0: unknown."""
    metrics: bool = True
    """It reports its load (`/metrics`)."""
    refused: dict[str, str] = {}
    """Fields of requests that it does not take (`temperature`, `top_p`, `seed`, `stop`) and that
    are left out, each with what it said."""
    coldest: float = 0.0
    """The lowest `temperature` that it takes; lower ones are raised to it."""
    length_key: str = "max_tokens"
    """The field that limits the length of a reply."""
    least_tokens: int = 0
    """The least that it takes as that limit; lower ones are raised to it."""
    thinks: bool = False
    """Replies begin with thinking, for which requests must leave room."""
    thinking_opened: bool = False
    """The chat template begins the thinking, so that replies hold only the mark of its end."""
    thinking_fields: dict[str, Any] = {}
    """Fields of the request body that switch thinking on or off, as configured."""


@runtime_checkable
class Model(Protocol):
    """One model at one address."""

    @property
    def name(self) -> str:
        """Part of every request's fingerprint."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it supports."""
        ...

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """Answer one request, in one attempt.

        `dialogue` is the index of the dialogue that asks. Its requests share a prefix; where
        requests must wait, those with lower indexes go first.

        Raises `TransientError` for a fault that may pass and `ModelError` for one that concerns
        every request. If the server rejects this one request for good, returns a `Refusal`.
        """
        ...


class Served(Model, Protocol):
    """A model as a run uses it: it has a capacity, and is told which answers were recorded."""

    @property
    def capacity(self) -> int:
        """Requests that it accepts at once, as of now."""
        ...

    def recorded(self, request: Request, seed: int, dialogue: int) -> None:
        """Note that the answer to this call is on disk."""
        ...

    def closed(self, dialogue: int) -> None:
        """Note that a dialogue is finished and will ask for nothing more."""
        ...
