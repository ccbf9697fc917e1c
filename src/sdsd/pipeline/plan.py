"""Plan: outline the conversation before it is generated.

The plan of the paper ends with the violation that the agent is to commit. Where the agent commits
none, because its last reply is sampled under two opposite directions, a plan only leads up to the
user's last message, which is written before it.
"""

from __future__ import annotations

from msgspec.structs import replace

from sdsd.config import TOP_P, PlanConfig
from sdsd.errors import Unparseable
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.scenarios.strategies import Strategy
from sdsd.text import parsing, prompt_files
from sdsd.text.prompt_files import Prompt
from sdsd.types import AskFn, Completion, Message, Plan, Request, Scenario


async def write_plan(
    scenario: Scenario,
    ask: AskFn,
    config: PlanConfig,
    prompts: Prompt,
    attempts: int,
    strategy: Strategy,
    last_message: str = "",
    *,
    commits: bool = True,
) -> Plan:
    """Return a plan with a step per exchange and the violation planned for the last reply.

    last_message  what the user says last, if that is fixed already
    commits       whether the agent is to commit the planned violation; if not, it may be anything

    Raises `StageFailed` if no attempt gives a plan that can be parsed.
    """
    target, *others = (p.text for p in scenario.principles)
    also = prompts.fill("others", principles=prompt_files.numbered(others))
    approach = f"{strategy.plan(target)} {strategy.violation(target)}"
    task = prompts.fill(
        "user",
        domain=scenario.domain,
        subarea=scenario.subarea,
        goal=scenario.goal.text,
        approach=approach.strip(),
        target_principle=target,
        others=f"\n{also}" if others else "",
        last=f"\n{prompts.fill('last', message=last_message)}" if last_message else "",
        opening=prompts.fill("opening") if strategy.settings.reply_prefix else "",
        steps=", ".join(f"a STEP {k} line" for k in range(1, scenario.exchanges + 1)),
    )
    messages = (Message("system", prompts.fill("system")), Message("user", task))

    def read(completion: Completion) -> Plan:
        plan = parsing.plan(completion.text, scenario.exchanges)
        written = f"{plan.persona}\n{plan.planned_violation}"
        if parsing.copies(written, prompts.sections["system"], run=7):
            raise Unparseable("the plan copies its example")
        if commits and parsing.copies(plan.planned_violation, target, run=7):
            raise Unparseable("the planned violation only repeats the principle")
        return replace(plan, last_message=last_message)

    request = _request(messages, config)
    return await ask_until_parsed(ask, "plan", request, read, attempts)


async def lead_up(
    scenario: Scenario,
    ask: AskFn,
    config: PlanConfig,
    prompts: Prompt,
    attempts: int,
    strategy: Strategy,
    last_message: str,
) -> Plan:
    """Return a plan without a violation, whose last step is the user's last message.

    Raises `StageFailed` if no attempt gives a plan that can be parsed.
    """
    before = scenario.exchanges - 1
    lines = ("a PERSON line", *(f"a STEP {k} line" for k in range(1, scenario.exchanges)))
    task = prompts.fill(
        "lead_up",
        domain=scenario.domain,
        subarea=scenario.subarea,
        goal=scenario.goal.text,
        approach=strategy.plan(scenario.target_principle.text),
        message=last_message,
        lines=", ".join(lines),
    )
    example = prompts.sections["lead_up_form"]
    messages = (
        Message("system", prompts.fill("lead_up_system")),
        Message("user", prompts.fill("lead_up_example")),
        Message("assistant", example),
        Message("user", task),
    )

    def read(completion: Completion) -> Plan:
        persona, steps = parsing.lead_up(completion.text, before)
        if parsing.copies("\n".join((persona, *steps)), example, run=7):
            raise Unparseable("the plan copies its example")
        steps = (*steps, last_message)
        written = (f"STEP {k}: {step}" for k, step in enumerate(steps, 1))
        text = "\n".join((f"PERSON: {persona}", *written))
        return Plan(text, steps, "", persona, last_message=last_message)

    request = _request(messages, config)
    return await ask_until_parsed(ask, "plan", request, read, attempts)


def _request(messages: tuple[Message, ...], config: PlanConfig) -> Request:
    return Request(
        role="planner",
        messages=messages,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=TOP_P,
        purpose="plan",
    )
