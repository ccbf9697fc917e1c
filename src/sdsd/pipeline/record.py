"""READ THIS FIRST. How one dialogue is made, from its scenario to its record.

    scenario -> plan -> dialogue -> critique -> (revision -> recheck) x R -> record

Plain control flow in one coroutine. Every model request goes through `ask`, which returns what the
journal already holds: running this function again after a crash replays it, and running it with
nothing but the journal verifies it. Nothing here knows about files, servers or other dialogues.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from sdsd.checks import revision_rules
from sdsd.config import Config
from sdsd.errors import StageFailed
from sdsd.hashing import draw
from sdsd.pipeline.best_of_n import best_of_n
from sdsd.pipeline.critique import Panel, judge, judge_plan_adherence, review_messages
from sdsd.pipeline.dialogue import ContextFull, DialogueTask, OpenDialogue
from sdsd.pipeline.plan import write_plan
from sdsd.pipeline.protocols import find_protocol
from sdsd.pipeline.protocols.chat import first_messages
from sdsd.pipeline.revise import critique_text, write_revision
from sdsd.plugins import resolve
from sdsd.scenarios.strategies import Strategy
from sdsd.text import parsing
from sdsd.text.chat_format import Template
from sdsd.text.prompt_files import Prompt
from sdsd.types import (
    Candidate,
    Completion,
    Critique,
    Dialogue,
    Failure,
    Message,
    Outcome,
    Plan,
    Record,
    Request,
    Revision,
    Scenario,
    StageUsage,
    Turn,
)

PROMPTS = ("plan", "transcript", "continuation", "chat", "roleplay", "review")
_NO_PROMPT = Prompt("", "", {})


class Ask(Protocol):
    """The way to the models: returns what is recorded, asks and records what is not."""

    @property
    def usage(self) -> dict[str, StageUsage]:
        """What the dialogue has cost so far, by stage."""
        ...

    async def __call__(self, step: str, request: Request) -> Completion:
        """Return the answer to one request.

        step  a name used once in a dialogue: `plan`, `turn/2/agent`, `critique/1`

        Raises `StageFailed` if the server refused the request for good.
        """
        ...


class Method(Struct, frozen=True):
    """How every dialogue of a run is made; fixed when the run begins."""

    config: Config
    prompts: dict[str, Prompt]
    """By name, the files of `PROMPTS`."""
    strategies: dict[str, Strategy]
    """By name, those that scenarios use."""
    protocol: str
    """A packaged protocol or `package.module:name`; never `auto`."""
    template: Template | None = None
    """The model's chat format, for `continuation`."""
    schema: bool = False
    """Whether the critic's server can hold a reply to a JSON schema."""
    concurrent_verdicts: bool = False
    """Whether the critic's server shares a prefix between concurrent requests. Decides when a
    request is sent, never what is asked."""
    shared_chat: bool = False
    """Whether critic and reviser are the agent's own model, so that they can continue its chat."""

    @property
    def panel(self) -> Panel:
        """The critics, and how they are asked."""
        config, review = self.config, self.prompts["review"]
        return Panel(
            config.critique, review, config.attempts, self.schema, self.concurrent_verdicts
        )


class Start(Struct, frozen=True):
    """What a dialogue starts from: nothing, an existing plan, or an existing dialogue."""

    plan: Plan | None = None
    dialogue: Dialogue | None = None


class Pipeline(Protocol):
    """Make the record of one scenario: a pipeline of your own, in place of the packaged one.

    Named in the configuration as `pipeline: package.module:name`. Models are reached by `ask`
    alone; whatever else belongs to the record goes into `Record.extra`, as JSON values.
    """

    def __call__(
        self, scenario: Scenario, ask: Ask, method: Method, start: Start
    ) -> Awaitable[Record]:
        """Return the finished record."""
        ...


async def make_record(
    scenario: Scenario, ask: Ask, method: Method, start: Start = Start()
) -> Record:
    """Return the record of one scenario: accepted, filtered by a named rule, or failed."""
    if method.config.pipeline:
        pipeline: Pipeline = resolve(method.config.pipeline, "pipelines")
        return await pipeline(scenario, ask, method, start)
    made = _Made(start)
    failure = None
    try:
        outcome, rule = await _make(made, scenario, ask, method)
    except StageFailed as stage:
        outcome, rule = "failed", ""
        failure = Failure(stage.step, stage.cause, stage.raw)
    return Record(
        scenario=scenario,
        outcome=outcome,
        rule=rule,
        plan=made.plan,
        dialogue=made.dialogue,
        critique=made.critique,
        revisions=made.revisions,
        failure=failure,
        usage=ask.usage,
        candidates=made.candidates,
        earlier_critiques=made.earlier_critiques,
        plan_adherence=made.plan_adherence,
    )


class _Made:
    """What has been made so far: a failure keeps it."""

    def __init__(self, start: Start) -> None:
        self.plan = start.plan
        self.dialogue = start.dialogue
        self.critique: Critique | None = None
        self.candidates: tuple[Candidate, ...] = ()
        self.earlier_critiques: tuple[Critique, ...] = ()
        self.plan_adherence: tuple[bool, ...] = ()
        self.revisions: tuple[Revision, ...] = ()


async def _make(made: _Made, scenario: Scenario, ask: Ask, method: Method) -> tuple[Outcome, str]:
    chat_start: tuple[Message, ...] = ()
    if made.dialogue is None:
        chat_start = await _plan_and_generate(made, scenario, ask, method)
    assert made.dialogue is not None
    messages, config = made.dialogue.messages, method.config.critique
    last = Turn(messages[:-1], messages[-1].content, chat_start)

    async def critique(turn: Turn, stage: str) -> Critique:
        return await judge(turn, scenario.principles, ask, stage, method.panel, config.vote)

    if made.critique is None:  # else it chose the last reply
        made.critique = await critique(last, "critique")
    if config.turns == "every":
        for number, k in enumerate(range(1, len(messages) - 1, 2), 1):
            turn = Turn(messages[:k], messages[k].content, chat_start)
            made.earlier_critiques += (await critique(turn, f"earlier/{number}"),)
    if config.adherence and made.plan:
        made.plan_adherence = await judge_plan_adherence(last, made.plan, ask, method.panel)
    if made.critique.clean:
        return "filtered", "no_violation"
    if not made.critique.violations:
        return "filtered", "unsupported_violation"
    outcome, rule = await _repair(made, last, scenario, ask, method)
    if any(candidate.critique.clean for candidate in made.candidates):
        return "accepted", ""  # an on-policy pair, whatever became of the revision
    return outcome, rule


async def _plan_and_generate(
    made: _Made, scenario: Scenario, ask: Ask, method: Method
) -> tuple[Message, ...]:
    """Write the plan, unless there is one, and the dialogue.

    Returns the messages that reviewers find before the conversation if they continue its chat.
    """
    config, prompts, strategy = method.config, method.prompts, method.strategies[scenario.strategy]
    if made.plan is None:
        made.plan = await write_plan(
            scenario, ask, config.plan, prompts["plan"], config.attempts, strategy
        )
    task = DialogueTask(
        scenario,
        made.plan,
        ask,
        config.dialogue,
        prompts.get(method.protocol, _NO_PROMPT),
        config.attempts,
        strategy,
        method.template,
    )
    shared = method.protocol == "chat" and method.shared_chat
    chat_start = first_messages(task) if shared else ()
    dialogue = await find_protocol(method.protocol)(task)
    if isinstance(dialogue, Dialogue):
        made.dialogue = dialogue
    else:
        await _write_last_reply(made, dialogue, chat_start, scenario, ask, method)
    return chat_start


async def _write_last_reply(
    made: _Made,
    dialogue: OpenDialogue,
    chat_start: tuple[Message, ...],
    scenario: Scenario,
    ask: Ask,
    method: Method,
) -> None:
    """End the dialogue with the best of several samples of the last reply, or with its only one."""
    strategy, config = method.strategies[scenario.strategy].settings, method.config

    async def critique(reply: str, stage: str) -> Critique:
        turn = Turn(dialogue.messages, reply, chat_start)
        principles, vote = scenario.principles, config.critique.vote
        return await judge(turn, principles, ask, stage, method.panel, vote)

    n = strategy.candidates or config.dialogue.candidates
    target = scenario.target_principle.id
    try:
        chosen = await best_of_n(dialogue.sample_reply, critique, target, n, strategy.retries)
    except ContextFull:
        made.dialogue = dialogue.truncated()
        return
    made.critique, made.candidates = chosen.critique, chosen.others
    made.dialogue = await dialogue.close(chosen.text)
    if chosen.failure:
        raise chosen.failure


async def _repair(
    made: _Made, original: Turn, scenario: Scenario, ask: Ask, method: Method
) -> tuple[Outcome, str]:
    """Revise and recheck until the critics find nothing, at most `revise.rounds` times."""
    config, critique = method.config.revise, made.critique
    assert critique is not None
    if config.rounds == 0:
        return "filtered", "not_revised"
    turn, quotes = original, tuple(v.quote for v in critique.verdicts if v.confirmed)
    for number in range(1, config.rounds + 1):
        refused = made.revisions[-1].defect if made.revisions else ""
        task, said = _reviser_task(critique, scenario, method, number, refused)
        messages = review_messages(turn, method.prompts["review"], task)
        step, attempts = f"revise/{number}", method.config.attempts
        text = await write_revision(messages, ask, step, config, attempts)
        defect, warnings = _check(text, turn, original, quotes, said)
        if defect:
            made.revisions += (Revision(text, defect=defect, warnings=warnings),)
            continue
        turn = replace(turn, reply=text)
        if config.style == "principle" and number < config.rounds:  # only the last is rechecked
            made.revisions += (Revision(text, warnings=warnings),)
            continue
        if not config.recheck:
            made.revisions += (Revision(text, warnings=warnings),)
            return "accepted", ""
        stage, vote = f"recheck/{number}", config.vote
        critique = await judge(turn, scenario.principles, ask, stage, method.panel, vote)
        made.revisions += (Revision(text, critique, warnings=warnings),)
        if critique.clean:
            return "accepted", ""
    return "filtered", "not_repaired"


def _check(
    text: str, turn: Turn, original: Turn, quotes: tuple[str, ...], said: str
) -> tuple[str, tuple[str, ...]]:
    """Return the defect that refuses a revision, or nothing, and the warnings about it."""
    found = revision_rules.faults(original.reply, text, original.conversation, quotes, said)
    if parsing.normal(text) == parsing.normal(turn.reply):
        found = ("unchanged", *found)
    defect = next((rule for rule in found if rule in revision_rules.DEFECTS), "")
    return defect, tuple(rule for rule in found if rule not in revision_rules.DEFECTS)


def _reviser_task(
    critique: Critique, scenario: Scenario, method: Method, number: int, refused: str
) -> tuple[str, str]:
    """Return the reviser's task, and the part of it that comes from the critique.

    refused  the defect of the attempt before, if it had one
    """
    review, principles = method.prompts["review"], {p.id: p for p in scenario.principles}
    if method.config.revise.style == "principle":
        drawn = draw(scenario.id, "rewrite", number) % len(scenario.principles)
        return review.fill("rewrite", principle=scenario.principles[drawn].text), ""
    said = critique_text([v for v in critique.verdicts if v.violated], principles)
    again = review.fill("refused", defect=revision_rules.RULES[refused]) if refused else ""
    return review.fill("revise", faults=said, refused=again and f"\n\n{again}"), said
