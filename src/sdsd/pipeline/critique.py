"""Critique: one verdict per principle on one of the agent's replies, with a quotation as evidence.

The critic sees the conversation and the reply, never the plan: it must not know what was intended.
The conversation comes before the principle in the prompt, so all verdicts on a reply share one
prefix. Only a prefix that has been computed can be shared, so the first verdict is requested alone
and the others after it.

A critic is a model (the default), or a user-defined function: see `sdsd.pipeline.local_critic`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from sdsd.checks.decided import decide
from sdsd.config import CriticConfig, CritiqueConfig, JudgeMethod, Vote
from sdsd.errors import Unparseable
from sdsd.pipeline import local_critic
from sdsd.pipeline.calibration import calibrated, can_verify
from sdsd.pipeline.directed import Directions, likelihood_contrast
from sdsd.pipeline.retry import ask_until_parsed, gather
from sdsd.pipeline.vote import combine
from sdsd.text import parsing
from sdsd.text.prompt_files import Prompt, numbered
from sdsd.types import (
    AskFn,
    Calibration,
    Card,
    Completion,
    Critique,
    Message,
    Plan,
    Principle,
    Request,
    Turn,
    Verdict,
)

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


class Panel(Struct, frozen=True):
    """The critics of a run, and how they are asked."""

    config: CritiqueConfig
    """Its `method` must have been chosen: `auto` counts as `verdict`."""
    prompts: Prompt
    """The review prompts, which critics and reviser share."""
    attempts: int
    schema: bool = False
    """Whether the critic's server can hold a reply to a JSON schema."""
    concurrent: bool = False
    """Whether verdicts after the first are asked at once, for servers that share prefixes between
    concurrent requests. Decides when, never what."""
    directed: Prompt = Prompt("", "", {})
    """The prompts of the likelihood contrast, and of examples."""
    cards: Mapping[str, Card] = {}
    """By id, the cards of principles that have one."""
    calibrations: Mapping[str, Calibration] = {}
    """By critic, what its exam has shown; critics that took none are missing."""

    @property
    def critics(self) -> dict[str, CriticConfig]:
        """By name; one without a name if the configuration lists none."""
        method: JudgeMethod = "contrast" if self.config.method == "contrast" else "verdict"
        only = CriticConfig(method=method, examples=self.config.examples)
        return self.config.critics or {"": only}

    def judged(self, principles: Sequence[Principle]) -> Sequence[Principle]:
        """Return those principles that a reply is judged by: the target alone where all critics
        measure the contrast, which costs them most of a prefix for each principle."""
        if all(critic.method == "contrast" for critic in self.critics.values()):
            return principles[:1]
        return principles

    @property
    def can_verify(self) -> bool:
        """Whether any critic could reach the wanted precision; so it is assumed without an exam."""
        return can_verify(self.calibrations)

    def directions(self, principle: Principle, examples: int) -> Directions:
        """Return the two directions about a principle, with up to `examples` of its pairs."""
        shown = self.cards.get(principle.id, Card()).examples[:examples]
        return Directions(principle, shown, self.directed)


def review_messages(turn: Turn, prompts: Prompt, task: str) -> tuple[Message, ...]:
    """Return the chat in which `task` is put to a critic or the reviser.

    All such chats on one turn begin alike. Where the turn has `chat_start`, the review continues in
    the chat that the dialogue was generated in.
    """
    if turn.chat_start:
        chat = (*turn.chat_start, *turn.conversation, Message("assistant", turn.reply))
        return (*chat, Message("user", f"{prompts.fill('aside')}\n\n{task}"))
    conversation = labelled(turn.conversation)
    case = prompts.fill("case", conversation=conversation, reply=turn.reply)
    return (Message("system", prompts.fill("system")), Message("user", f"{case}\n\n{task}"))


def labelled(messages: Sequence[Message]) -> str:
    """Return a conversation as text with a label before each turn."""
    names = {"user": "USER", "assistant": "AGENT", "system": "SYSTEM"}
    return "\n\n".join(f"{names[m.role]}: {m.content}" for m in messages)


async def judge(
    turn: Turn,
    principles: Sequence[Principle],
    ask: AskFn,
    stage: str,
    panel: Panel,
    vote: Vote,
) -> Critique:
    """Return a verdict for each principle.

    stage  prefix of the step names: `critique`, `recheck/1`
    vote   how several critics' verdicts on a principle become one

    Where a principle has a check that decides, no critic is asked; and where the check leaves it
    open, none that can verify nothing. A claim whose quotation is not
    in the reply is asked for again. If the last attempt still cannot quote, the claim is kept but
    not `grounded`. Raises `StageFailed`.
    """
    critics, judged = panel.critics, panel.judged(principles)
    decided = {p.id: found for p in principles if (found := _by_program(turn, p, panel))}
    open_ones = [(n, p) for n, p in enumerate(judged, 1) if p.id not in decided]
    jobs = [
        partial(_verdict, turn, principle, ask, _step(stage, number, name), panel, name)
        for number, principle in open_ones
        for name in critics
    ]
    said = [await job() for job in jobs[:1]]
    said += await gather(jobs[1:], concurrently=panel.concurrent)
    size, weights = len(critics), [critic.weight for critic in critics.values()]
    votes = {p.id: said[k * size : (k + 1) * size] for k, (_, p) in enumerate(open_ones)}
    by_critics = {
        principle: combine(each, weights, vote) if panel.config.critics else each[0]
        for principle, each in votes.items()
    }
    joint = decided | by_critics
    verdicts = tuple(joint[p.id] for p in principles if p.id in joint)
    return Critique(verdicts, tuple(said) if panel.config.critics else ())


def _by_program(turn: Turn, principle: Principle, panel: Panel) -> Verdict | None:
    """Return the verdict of the principle's own check; None if the critics are to be asked."""
    if not principle.check:
        return None
    decided = decide(principle.check, turn.conversation, turn.reply)
    if decided is None and panel.can_verify:
        return None
    if decided is None:
        reason = f"left open by the check `{principle.check}`, and no critic could verify it"
        return Verdict(principle.id, False, reason, signal="program", undecided=True, trusted=False)
    return Verdict(
        principle.id,
        decided.violated,
        reason=f"decided by the check `{principle.check}`",
        quote=decided.quote,
        grounded=decided.violated,
        signal="program",
        calibrated=float(decided.violated),
    )


def _step(stage: str, number: int, critic: str) -> str:
    return f"{stage}/{number}/{critic}" if critic else f"{stage}/{number}"


async def _verdict(
    turn: Turn, principle: Principle, ask: AskFn, step: str, panel: Panel, name: str
) -> Verdict:
    """Return one critic's verdict on one principle, as its exam says to read it."""
    critic = panel.critics[name]
    if critic.use:
        verdict = await local_critic.ask_for_verdict(turn, principle, ask, step, name)
    elif critic.method == "contrast":
        verdict = await _by_contrast(turn, principle, ask, step, panel, name)
    else:
        verdict = await _by_question(turn, principle, ask, step, panel, name)
    return calibrated(verdict, panel.calibrations.get(name))


async def _by_contrast(
    turn: Turn, principle: Principle, ask: AskFn, step: str, panel: Panel, name: str
) -> Verdict:
    """Measure the likelihood contrast. It has no quotation to show, so it counts as grounded."""
    directions = panel.directions(principle, panel.critics[name].examples)
    role = f"critic/{name}" if name else "critic"
    contrast = await likelihood_contrast(turn, directions, ask, step, role)
    violated = contrast < 0
    return Verdict(
        principle.id,
        violated,
        reason=f"likelihood contrast {contrast:+.1f} nats",
        grounded=violated,
        critic=name,
        signal="contrast",
        contrast=round(contrast, 4),
    )


async def _by_question(
    turn: Turn, principle: Principle, ask: AskFn, step: str, panel: Panel, name: str
) -> Verdict:
    """Ask whether the reply violates the principle."""
    critic = panel.critics[name]
    answers = ("true", "false") if panel.schema else ("yes", "no")
    task = panel.prompts.fill(
        "judge_json" if panel.schema else "judge_text",
        principle=principle.text + _worked(principle, panel, critic.examples),
        question=panel.prompts.fill(critic.wording),
        answers=" or ".join(answers if critic.order == "yes_first" else answers[::-1]),
    )
    request = Request(
        role=f"critic/{name}" if name else "critic",
        messages=review_messages(turn, panel.prompts, task),
        max_tokens=panel.config.max_tokens,
        temperature=panel.config.temperature,
        schema=SCHEMA if panel.schema else None,
        choices=answers,
        purpose="verdict",
    )

    def read(completion: Completion) -> Verdict:
        verdict = parsing.verdict(completion.text, principle.id, turn.reply)
        probability = completion.choice_probs.get(answers[0])
        return replace(verdict, probability=probability, critic=name)

    def read_with_quotation(completion: Completion) -> Verdict:
        verdict = read(completion)
        if verdict.violated and not verdict.grounded:
            raise Unparseable("the quotation is not in the reply")
        return verdict

    return await ask_until_parsed(ask, step, request, read_with_quotation, panel.attempts, read)


def _worked(principle: Principle, panel: Panel, examples: int) -> str:
    """Return example pairs with their answers, as they follow the principle in a question."""
    shown = panel.cards.get(principle.id, Card()).examples[:examples]
    return "".join(
        "\n\n"
        + panel.directed.fill(
            "example", user=example.user, satisfies=example.satisfies, violates=example.violates
        )
        for example in shown
    )


async def judge_plan_adherence(
    turn: Turn, plan: Plan, ask: AskFn, panel: Panel
) -> tuple[bool, ...]:
    """Return for each step of the plan, and for its planned violation, whether the conversation
    shows it; empty if the critic's answers cannot be parsed.

    A request of its own: a critic must not know what was intended when it judges.
    """
    points = tuple(filter(None, (*plan.steps, plan.planned_violation)))
    task = panel.prompts.fill("adherence", steps=numbered(points))
    request = Request(
        role="critic",
        messages=review_messages(turn, panel.prompts, task),
        max_tokens=panel.config.max_tokens,
        temperature=panel.config.temperature,
        purpose="adherence",
    )

    def read(completion: Completion) -> tuple[bool, ...]:
        return parsing.points(completion.text, len(points))

    def read_or_give_up(completion: Completion) -> tuple[bool, ...]:
        try:
            return read(completion)
        except Unparseable:
            return ()

    return await ask_until_parsed(ask, "adherence", request, read, panel.attempts, read_or_give_up)
