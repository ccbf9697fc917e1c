"""Directed chats: one conversation under two opposite directions about a principle.

A model that is told to keep a principle gives other replies than one that is told to break it. So
the two chats serve twice: the agent's last reply is sampled in them, which labels it by
construction (as in RLCD, arXiv 2307.12950), and the difference of a reply's log probabilities in
the two chats, its likelihood contrast, says which of the directions the reply follows (as in SAMI,
arXiv 2404.14313). Small models tell good replies from bad ones far better in this way than by
answering a question about them.

The principle's example pairs come first, as earlier exchanges that follow the chat's direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from sdsd.errors import StageFailed
from sdsd.text.prompt_files import Prompt
from sdsd.types import AskFn, Direction, Example, Message, Principle, Request, Role, Turn


class Directions(Struct, frozen=True):
    """The two directions about one principle."""

    principle: Principle
    examples: tuple[Example, ...]
    """Example pairs to show."""
    prompts: Prompt
    """The prompt file `directed`."""
    violating: str = ""
    """A system message in place of the prompt file's `violate`."""
    reminders: Mapping[Direction, str] = {}
    """Added to the last message, where a reply is to be sampled: what to do in it."""

    def chat(self, direction: Direction, conversation: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the chat in which the agent's reply to `conversation` follows `direction`."""
        system = self.violating if direction == "violate" else ""
        system = system or self.prompts.fill(direction, principle=self.principle.text)
        if reminder := self.reminders.get(direction):
            *before, last = conversation
            last = replace(last, content=f"{last.content}\n\n{reminder}")
            conversation = (*before, last)
        return (Message("system", system), *self._shown(direction), *conversation)

    def before_reminder(self, direction: Direction, reply: str) -> str:
        """Return a reply up to where it repeats its reminder, if it does."""
        words = self.reminders.get(direction, "").strip("()")
        said, found, _ = reply.partition(words) if words else (reply, "", "")
        return said.rstrip("( \n") if found else reply

    def _shown(self, direction: Direction) -> Iterator[Message]:
        for example in self.examples:
            reply = example.satisfies if direction == "satisfy" else example.violates
            yield from (
                *example.earlier,
                Message("user", example.user),
                Message("assistant", reply),
            )


async def likelihood_contrast(
    turn: Turn, directions: Directions, ask: AskFn, step: str, role: Role
) -> float:
    """Return log P(reply | satisfy) - log P(reply | violate), in nats: below 0 for a violation.

    The sum over all tokens, not the mean: a few telltale words decide. Two requests, `step`/satisfy
    and `step`/violate. Raises `StageFailed`, also if the model answers without scoring the reply.
    """
    logprobs: list[float] = []
    ways: tuple[Direction, ...] = ("satisfy", "violate")
    for direction in ways:
        request = Request(
            role,
            max_tokens=1,
            messages=directions.chat(direction, turn.conversation),
            temperature=0.0,
            given=turn.reply,
            purpose="score",
        )
        name = f"{step}/{direction}"
        answer = await ask(name, request)
        if answer.logprob is None:
            raise StageFailed(name, "the model does not score given text", answer.text)
        logprobs.append(answer.logprob)
    return logprobs[0] - logprobs[1]
