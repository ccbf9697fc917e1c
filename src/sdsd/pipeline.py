"""READ THIS FIRST. How one dialogue is made, from its scenario to its record.

    scenario -> plan -> dialogue -> critique -> (revise -> recheck) x R -> record

Plain control flow in one coroutine. Every model call goes through `ask`, which recalls what the
journal already holds; so running this function again after a crash replays it, and running it
with the door locked verifies it. Nothing here knows of files, servers or other dialogues.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sdsd import parse
from sdsd.ask import Ask
from sdsd.config import Config
from sdsd.errors import StageFailed
from sdsd.prompt import Prompt
from sdsd.stages.critique import Case, criticise
from sdsd.stages.dialogue import Talk, hold, opened
from sdsd.stages.plan import write_plan
from sdsd.stages.revise import faults, write_revision
from sdsd.template import Template
from sdsd.types import (
    Critique,
    Dialogue,
    Failure,
    Outcome,
    Plan,
    Principle,
    ProtocolName,
    Record,
    Revision,
    Scenario,
)

PROMPTS = ("plan", "transcript", "continuation", "chat", "roleplay", "review")


class Method(Struct, frozen=True):
    """How every dialogue of a run is made; fixed when the run begins."""

    config: Config
    prompts: dict[str, Prompt]
    """By name, the files of `PROMPTS`."""
    protocol: ProtocolName
    template: Template | None = None
    """The chat template's seams, for `continuation`."""
    schema: bool = False
    """The critic's server can hold a reply to a JSON schema."""
    burst: bool = False
    """The critic's server shares a prefix between requests at once. Decides when, never what."""
    shared: bool = False
    """Critic and reviser are the agent's own model: they read on in the chat that it held."""


class _Draft:
    """What has been made so far, so that a failure keeps it."""

    plan: Plan | None = None
    dialogue: Dialogue | None = None
    critique: Critique | None = None
    revisions: tuple[Revision, ...] = ()


async def make_record(scenario: Scenario, ask: Ask, method: Method) -> Record:
    """The finished record of one scenario: accepted, filtered by a named rule, or failed."""
    draft = _Draft()
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
        use=ask.use,
    )


async def _make(draft: _Draft, scenario: Scenario, ask: Ask, method: Method) -> tuple[Outcome, str]:
    config, prompts, tries = method.config, method.prompts, method.config.attempts

    draft.plan = await write_plan(scenario, ask, config.plan, prompts["plan"], tries)

    voice = prompts[method.protocol]
    talk = Talk(scenario, draft.plan, ask, config.dialogue, voice, tries, method.template)
    draft.dialogue = await hold(method.protocol, talk)

    opening = opened(talk) if method.protocol == "chat" and method.shared else ()
    original = Case(draft.dialogue.messages[:-1], draft.dialogue.utterance, opening)
    draft.critique = await _judge(original, scenario, ask, "critique", method)
    if draft.critique.clean:
        return "filtered", "no_violation"
    if not draft.critique.violations:
        return "filtered", "unsupported_violation"
    if config.revise.rounds == 0:
        return "filtered", "not_revised"
    return await _repair(draft, original, scenario, ask, method)


async def _repair(
    draft: _Draft, original: Case, scenario: Scenario, ask: Ask, method: Method
) -> tuple[Outcome, str]:
    """Revise and recheck until the critic is content, at most `revise.rounds` times."""
    config, review = method.config.revise, method.prompts["review"]
    principles = {p.id: p for p in scenario.principles}
    assert draft.critique is not None
    case, critique = original, draft.critique
    for number in range(1, config.rounds + 1):
        found = [v for v in critique.verdicts if v.violated]
        messages = case.messages(review, review.fill("revise", faults=faults(found, principles)))
        step = f"revise/{number}"
        text = await write_revision(messages, ask, step, config, method.config.attempts)
        if parse.normal(text) in (parse.normal(case.utterance), parse.normal(original.utterance)):
            draft.revisions += (Revision(text, fault="unchanged"),)
            continue
        if not config.recheck:
            draft.revisions += (Revision(text),)
            return "accepted", ""
        case = replace(original, utterance=text)
        critique = await _judge(case, scenario, ask, f"recheck/{number}", method)
        draft.revisions += (Revision(text, critique),)
        if critique.clean:
            return "accepted", ""
    return "filtered", "not_repaired"


async def _judge(case: Case, scenario: Scenario, ask: Ask, stage: str, method: Method) -> Critique:
    """The critic on all principles of the scenario."""
    principles: tuple[Principle, ...] = scenario.principles
    return await criticise(
        case,
        principles,
        ask,
        stage,
        method.config.critique,
        method.prompts["review"],
        method.config.attempts,
        schema=method.schema,
        burst=method.burst,
    )
