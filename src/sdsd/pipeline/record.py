"""READ THIS FIRST. How one dialogue is made, from its scenario to its record.

    scenario -> plan -> dialogue -> critique -> (revise -> recheck) x R -> record

The dialogue's last turn may be drawn several times; then the critique is what chooses among them.
Plain control flow in one coroutine. Every model call goes through `ask`, which recalls what the
journal already holds; so running this function again after a crash replays it, and running it
with the door locked verifies it. Nothing here knows of files, servers or other dialogues.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from sdsd.checks import revision_rules
from sdsd.config import Config, Vote
from sdsd.errors import StageFailed
from sdsd.hashing import hash64
from sdsd.pipeline.best_of_n import Choice
from sdsd.pipeline.critique import Case, criticise, plan_adherence
from sdsd.pipeline.dialogue import Talk, hold, opened
from sdsd.pipeline.plan import write_plan
from sdsd.pipeline.revise import faults, write_revision
from sdsd.scenarios.strategies import Strategy
from sdsd.text import normalize
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
    ProtocolName,
    Record,
    Request,
    Revision,
    Scenario,
    StageUsage,
)

PROMPTS = ("plan", "transcript", "continuation", "chat", "roleplay", "review")


class Ask(Protocol):
    """The way to the models: recalls what is recorded, and records what is new."""

    @property
    def use(self) -> dict[str, StageUsage]:
        """What was asked so far, by stage."""
        ...

    async def __call__(self, step: str, request: Request) -> Completion:
        """The answer to one request; `step` is used once in a dialogue."""
        ...


class Method(Struct, frozen=True):
    """How every dialogue of a run is made; fixed when the run begins."""

    config: Config
    prompts: dict[str, Prompt]
    """By name, the files of `PROMPTS`."""
    strategies: dict[str, Strategy]
    """By name, those that scenarios may have."""
    protocol: ProtocolName
    template: Template | None = None
    """The chat template's seams, for `continuation`."""
    schema: bool = False
    """The critic's server can hold a reply to a JSON schema."""
    burst: bool = False
    """The critic's server shares a prefix between requests at once. Decides when, never what."""
    shared: bool = False
    """Critic and reviser are the agent's own model: they read on in the chat that it held."""


class Start(Struct, frozen=True):
    """What a dialogue begins with: nothing, or what somebody has already."""

    plan: Plan | None = None
    dialogue: Dialogue | None = None


class _Draft:
    """What has been made so far, so that a failure keeps it."""

    def __init__(self, start: Start) -> None:
        self.plan = start.plan
        self.dialogue = start.dialogue
        self.critique: Critique | None = None
        self.candidates: tuple[Candidate, ...] = ()
        self.earlier: tuple[Critique, ...] = ()
        self.plan_adherence: tuple[bool, ...] = ()
        self.revisions: tuple[Revision, ...] = ()


async def make_record(
    scenario: Scenario, ask: Ask, method: Method, start: Start = Start()
) -> Record:
    """The finished record of one scenario: accepted, filtered by a named rule, or failed."""
    draft = _Draft(start)
    failure = None
    try:
        outcome, rule = await _make(draft, scenario, ask, method)
    except StageFailed as stage:
        outcome, rule = "failed", ""
        failure = Failure(stage.step, stage.cause, stage.raw)
    return Record(
        scenario=scenario,
        outcome=outcome,
        rule=rule,
        plan=draft.plan,
        dialogue=draft.dialogue,
        critique=draft.critique,
        revisions=draft.revisions,
        failure=failure,
        usage=ask.use,
        candidates=draft.candidates,
        earlier_critiques=draft.earlier,
        plan_adherence=draft.plan_adherence,
    )


async def _make(draft: _Draft, scenario: Scenario, ask: Ask, method: Method) -> tuple[Outcome, str]:
    opening = await _hold(draft, scenario, ask, method)
    assert draft.dialogue is not None
    messages, critique = draft.dialogue.messages, method.config.critique

    async def judge(k: int, stage: str) -> Critique:
        case = Case(messages[:k], messages[k].content, opening)
        return await _judge(case, scenario, ask, stage, method, critique.vote)

    last = len(messages) - 1
    if draft.critique is None:
        draft.critique = await judge(last, "critique")
    if critique.turns == "every":
        for number, k in enumerate(range(1, last, 2), 1):
            draft.earlier += (await judge(k, f"earlier/{number}"),)
    original = Case(messages[:-1], messages[-1].content, opening)
    if critique.adherence and draft.plan:
        review, tries = method.prompts["review"], method.config.attempts
        draft.plan_adherence = await plan_adherence(
            original, draft.plan, ask, critique, review, tries
        )
    if draft.critique.clean:
        return "filtered", "no_violation"
    if not draft.critique.violations:
        return "filtered", "unsupported_violation"
    outcome, rule = await _repair(draft, original, scenario, ask, method)
    if any(candidate.critique.clean for candidate in draft.candidates):
        return "accepted", ""
    return outcome, rule


async def _hold(draft: _Draft, scenario: Scenario, ask: Ask, method: Method) -> tuple[Message, ...]:
    """Plan and dialogue, unless there are some; returns what the dialogue's one chat began with.

    Where the last turn is chosen among several, its critique is there already, too.
    """
    if draft.dialogue is not None:
        return ()
    config, prompts, tries = method.config, method.prompts, method.config.attempts
    strategy = method.strategies[scenario.strategy]
    if draft.plan is None:
        form = prompts["plan"]
        draft.plan = await write_plan(scenario, ask, config.plan, form, tries, strategy)
    voice = prompts[method.protocol]
    talk = Talk(scenario, draft.plan, ask, config.dialogue, voice, tries, strategy)
    talk = replace(talk, template=method.template)
    opening = opened(talk) if method.protocol == "chat" and method.shared else ()

    async def judge(before: tuple[Message, ...], text: str, stage: str) -> Critique:
        case = Case(before, text, opening)
        return await _judge(case, scenario, ask, stage, method, config.critique.vote)

    n = strategy.settings.candidates or config.dialogue.candidates
    choice = Choice(judge, scenario.target_principle.id, n, strategy.settings.retries)
    if choice.needed:
        talk = replace(talk, choose=choice)
    draft.dialogue = await hold(method.protocol, talk)
    draft.critique, draft.candidates = choice.critique, choice.others
    if choice.failure:
        raise choice.failure
    return opening


async def _repair(
    draft: _Draft, original: Case, scenario: Scenario, ask: Ask, method: Method
) -> tuple[Outcome, str]:
    """Revise and recheck until the critics are content, at most `revise.rounds` times."""
    config, critique = method.config.revise, draft.critique
    assert critique is not None
    if config.rounds == 0:
        return "filtered", "not_revised"
    case, quotes = original, tuple(v.quote for v in critique.verdicts if v.confirmed)
    for number in range(1, config.rounds + 1):
        refused = draft.revisions[-1].defect if draft.revisions else ""
        task, said = _task(case, critique, scenario, method, number, refused)
        messages = case.messages(method.prompts["review"], task)
        step = f"revise/{number}"
        text = await write_revision(messages, ask, step, config, method.config.attempts)
        found = revision_rules.faults(original.utterance, text, original.before, quotes, said)
        if normalize.normal(text) == normalize.normal(case.utterance):
            found = ("unchanged", *found)
        defect = next((rule for rule in found if rule in revision_rules.DEFECTS), "")
        doubts = tuple(rule for rule in found if rule not in revision_rules.DEFECTS)
        if defect:
            draft.revisions += (Revision(text, defect=defect, warnings=doubts),)
            continue
        case = replace(case, utterance=text)
        through = config.style == "principle" and number < config.rounds
        if through or not config.recheck:
            draft.revisions += (Revision(text, warnings=doubts),)
            if through:
                continue
            return "accepted", ""
        stage = f"recheck/{number}"
        critique = await _judge(case, scenario, ask, stage, method, config.vote)
        draft.revisions += (Revision(text, critique, warnings=doubts),)
        if critique.clean:
            return "accepted", ""
    return "filtered", "not_repaired"


def _task(
    case: Case, critique: Critique, scenario: Scenario, method: Method, number: int, defect: str
) -> tuple[str, str]:
    """What the reviser is told, and of it what the review said.

    `defect` is the rule by which the attempt before was refused, if it was.
    """
    review, principles = method.prompts["review"], {p.id: p for p in scenario.principles}
    if method.config.revise.style == "principle":
        drawn = hash64(scenario.id, "rewrite", number) % len(scenario.principles)
        return review.fill("rewrite", principle=scenario.principles[drawn].text), ""
    said = faults([v for v in critique.verdicts if v.violated], principles)
    refused = f"\n\n{review.fill('refused', defect=revision_rules.RULES[defect])}" if defect else ""
    return review.fill("revise", faults=said, refused=refused), said


async def _judge(
    case: Case, scenario: Scenario, ask: Ask, stage: str, method: Method, vote: Vote
) -> Critique:
    """The critics on all principles of the scenario."""
    return await criticise(
        case,
        scenario.principles,
        ask,
        stage,
        method.config.critique,
        method.prompts["review"],
        method.config.attempts,
        vote=vote,
        schema=method.schema,
        burst=method.burst,
    )
