"""Critique: one verdict for each principle on one agent turn, with a quotation as evidence.

The critic sees the conversation and the turn, not the plan: it must not know what was intended.
The conversation stands before the principle, so all verdicts on a turn share one prefix. Only a
prefix that has been computed can be shared: the first verdict goes alone, the others after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config import CriticConfig, CritiqueConfig, Vote
from sdsd.errors import StageFailed, Unparseable
from sdsd.pipeline.retry import parsed
from sdsd.pipeline.vote import combine
from sdsd.text import parsing
from sdsd.text.prompt_files import Prompt, numbered
from sdsd.types import AskFn, Completion, Critique, Message, Plan, Principle, Request, Verdict

T = TypeVar("T")

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
    vote: Vote = "majority",
    schema: bool,
    burst: bool = False,
) -> Critique:
    """A verdict for each principle; `stage` prefixes the step names (`critique`, `recheck/1`).

    With several critics each gives one, and `vote` makes one of them. A claim whose quotation is
    not in the utterance is asked again. If the last attempt still cannot quote, the claim is kept,
    but not `grounded`. With `burst` the verdicts after the first are asked for at once: the first
    has had the prefix computed that they share. Without it they come one after the other, for
    engines whose slots do not share.
    """

    panel = config.critics or {"": CriticConfig()}

    async def judge(number: int, principle: Principle, name: str) -> Verdict:
        critic = panel[name]
        answers = ("true", "false") if schema else ("yes", "no")
        task = prompts.fill(
            "judge_json" if schema else "judge_text",
            principle=principle.text,
            question=prompts.fill(critic.wording),
            answers=" or ".join(answers if critic.order == "yes_first" else answers[::-1]),
        )
        request = Request(
            role=f"critic/{name}" if name else "critic",
            messages=case.messages(prompts, task),
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            schema=SCHEMA if schema else None,
            choices=answers,
        )

        def read(completion: Completion) -> Verdict:
            verdict = parsing.verdict(completion.text, principle.id, case.utterance)
            weights = completion.choice_probs
            return replace(verdict, probability=weights.get(answers[0]), critic=name)

        def strict(completion: Completion) -> Verdict:
            verdict = read(completion)
            if verdict.violated and not verdict.grounded:
                raise Unparseable("the quotation is not in the reply")
            return verdict

        step = f"{stage}/{number}/{name}" if name else f"{stage}/{number}"
        return await parsed(ask, step, request, strict, attempts, last=read)

    numbered = enumerate(principles, 1)
    first, *others = [partial(judge, number, p, name) for number, p in numbered for name in panel]
    said = (await first(), *(await together(others, at_once=burst)))
    if not config.critics:
        return Critique(said)
    size, weights = len(panel), [critic.weight for critic in panel.values()]
    by_principle = [said[k : k + size] for k in range(0, len(said), size)]
    return Critique(tuple(combine(votes, weights, vote) for votes in by_principle), said)


async def plan_adherence(
    case: Case, plan: Plan, ask: AskFn, config: CritiqueConfig, prompts: Prompt, attempts: int
) -> tuple[bool, ...]:
    """For each step of the plan and for its slip, whether the talk shows it; empty if the critic's
    answers cannot be read. Asked apart from the verdicts: a critic must not know what was intended.
    """
    points = (*plan.steps, plan.planned_violation)
    task = prompts.fill("adherence", steps=numbered(points))
    request = Request(
        role="critic",
        messages=case.messages(prompts, task),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
    )

    def read(completion: Completion) -> tuple[bool, ...]:
        return parsing.points(completion.text, len(points))

    def lenient(completion: Completion) -> tuple[bool, ...]:
        try:
            return read(completion)
        except Unparseable:
            return ()

    return await parsed(ask, "adherence", request, read, attempts, last=lenient)


async def together(jobs: Sequence[Callable[[], Awaitable[T]]], *, at_once: bool) -> list[T]:
    """The results in order. Raises the first failure, in the same order.

    Each is brought to its end even if another one fails: so the steps that are asked, and with
    them the recording, do not depend on which came first.
    """

    async def ended(job: Callable[[], Awaitable[T]]) -> T | Exception:
        try:
            return await job()
        except Exception as error:  # raised below
            return error

    if at_once:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ended(job)) for job in jobs]
        results = [task.result() for task in tasks]
    else:
        results = [await ended(job) for job in jobs]
    failures = [result for result in results if isinstance(result, Exception)]
    # What stops the run goes before what ends this dialogue.
    for failure in sorted(failures, key=lambda error: isinstance(error, StageFailed)):
        raise failure
    return [result for result in results if not isinstance(result, Exception)]
