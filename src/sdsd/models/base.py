"""Models: whatever answers requests. This module is the contract, its siblings are the family.

http       any OpenAI-compatible server
pool       the same model on one server or several, with what paces and balances them
batch      a provider's batch interface: answers in bulk, later, for less
llamacpp   starts the embedded engine, which is then such a server
vllm       starts `vllm serve`, watches it and stops it
scripted   answers from a script, without a server: for tests, examples and trying things out
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from sdsd.text.chat_format import Template
from sdsd.types import Answer, Request


class Capabilities(Struct, frozen=True):
    """What a server was found to support. The code asks this, never the brand."""

    chat: bool = True
    completions: bool = False
    """Raw continuation of a prompt (`/v1/completions`)."""
    template: Template | None = None
    """The seams of its chat template, if it renders one for us (`/apply-template`)."""
    system: bool = True
    """Chats may open with a system turn. Otherwise it is folded into the first user turn."""
    schema: bool = False
    """Replies can be held to a JSON schema."""
    logprobs: bool = False
    """Chats tell how likely their tokens were."""
    slots: int = 0
    """Requests that it answers at once, if it tells; 0: not known."""
    seed: bool = True
    """A sampling seed is taken."""
    sampling: bool = True
    """Temperature and top_p are taken."""
    length_key: str = "max_tokens"
    """The field that limits the length of a reply."""


class Model(Protocol):
    """One model at one address."""

    @property
    def name(self) -> str:
        """Goes into every request's fingerprint."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """One attempt at one request.

        `dialogue` is the index of the dialogue that asks: its requests share a prefix, and where
        some must wait, those of lower indexes go first.

        Raises `TransientError` for a fault that may pass and `ModelError` for one that concerns
        every request. A permanent no to this one request is returned, as a `Refusal`.
        """
        ...


class Served(Model, Protocol):
    """A model as a run uses it: it says how much it takes, and hears what became of it."""

    @property
    def capacity(self) -> int:
        """Requests that it takes at once, as of now."""
        ...

    def recorded(self, request: Request, seed: int, dialogue: int) -> None:
        """The answer to this call is on disk."""
        ...

    def closed(self, dialogue: int) -> None:
        """A dialogue is over; nothing more will be asked for it."""
        ...
