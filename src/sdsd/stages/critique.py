"""Critique: one verdict for each principle on one agent turn, with a quotation as evidence.

The critic sees the conversation and the turn, not the plan: it must not know what was intended.
The conversation stands before the principle, so all verdicts on a turn share one prefix; they are
asked one after the other, because only a prefix that has been computed can be shared.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from sdsd import parse
from sdsd.config import CritiqueConfig
from sdsd.errors import Unparseable
from sdsd.prompt import Prompt
from sdsd.reask import parsed
from sdsd.types import AskFn, Completion, Critique, Message, Principle, Request, Verdict

SCHEMA = {
    "type": "object",
    "properties": {  # in this order: reason and evidence come before the verdict
        "reason": {"type": "string"},
        "quote": {"type": "string"},
        "violated": {"type": "boolean"},
        "severity": {"type": "string", "enum": ["none", "low", "medium", "high"]},
    },
    "required": ["reason", "quote", "violated", "severity"],
    "additionalProperties": False,
}


class Case(Struct, frozen=True):
    """What is judged: the agent's `utterance` and the conversation before it."""

    before: tuple[Message, ...]
    utterance: str
    opening: tuple[Message, ...] = ()
    """What the chat began with that the dialogue was held in, if the review goes on in it."""

    def messages(self, prompts: Prompt, task: str) -> tuple[Message, ...]:
        """The chat that critic and reviser share, with `task` at its end."""
        if self.opening:
            said = (*self.opening, *self.before, Message("assistant", self.utterance))
            return (*said, Message("user", f"{prompts.fill('aside')}\n\n{task}"))
        case = prompts.fill("case", conversation=spoken(self.before), utterance=self.utterance)
        return (Message("system", prompts.fill("system")), Message("user", f"{case}\n\n{task}"))


def spoken(messages: Sequence[Message]) -> str:
    """A conversation as labelled text."""
    names = {"user": "USER", "assistant": "AGENT", "system": "SYSTEM"}
    return "\n\n".join(f"{names[m.role]}: {m.content}" for m in messages)


async def criticise(
    case: Case,
    principles: Sequence[Principle],
    ask: AskFn,
    stage: str,
    config: CritiqueConfig,
    prompts: Prompt,
    attempts: int,
    *,
    schema: bool,
) -> Critique:
    """A verdict for each principle; `stage` prefixes the step names (`critique`, `recheck/1`).

    A claim whose quotation is not in the utterance is asked again. If the last attempt still
    cannot quote, the claim is kept, but not `grounded`.
    """
    verdicts = []
    for number, principle in enumerate(principles, 1):
        task = prompts.fill("judge_json" if schema else "judge_text", principle=principle.text)
        request = Request(
            role="critic",
            messages=case.messages(prompts, task),
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            schema=SCHEMA if schema else None,
            weigh=("true", "false") if schema else ("yes", "no"),
        )

        def read(completion: Completion, principle: Principle = principle) -> Verdict:
            verdict = parse.verdict(completion.text, principle.id, case.utterance)
            weights = completion.weights
            return replace(verdict, probability=weights.get("true", weights.get("yes")))

        def strict(completion: Completion) -> Verdict:
            verdict = read(completion)
            if verdict.violated and not verdict.grounded:
                raise Unparseable("the quotation is not in the reply")
            return verdict

        step = f"{stage}/{number}"
        verdicts.append(await parsed(ask, step, request, strict, attempts, last=read))
    return Critique(tuple(verdicts))
