"""Plan: outline the conversation before it is generated."""

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
    task = prompts.fill(
        "user",
        domain=scenario.domain,
        subarea=scenario.subarea,
        goal=scenario.goal.text,
        approach=strategy.plan.replace("{{target_principle}}", target),
        target_principle=target,
        others=f"\n{also}" if others else "",
        last=f"\n{prompts.fill('last', message=last_message)}" if last_message else "",
        opening=prompts.fill("opening") if strategy.settings.reply_prefix else "",
        steps=", ".join(f"a STEP {k} line" for k in range(1, scenario.exchanges + 1)),
    )
    request = Request(
        role="planner",
        messages=(Message("system", prompts.fill("system")), Message("user", task)),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=TOP_P,
        purpose="plan",
    )

    def read(completion: Completion) -> Plan:
        plan = parsing.plan(completion.text, scenario.exchanges)
        written = f"{plan.persona}\n{plan.planned_violation}"
        if parsing.copies(written, prompts.sections["system"], run=7):
            raise Unparseable("the plan copies its example")
        if commits and parsing.copies(plan.planned_violation, target, run=7):
            raise Unparseable("the planned violation only repeats the principle")
        return replace(plan, last_message=last_message)

    return await ask_until_parsed(ask, "plan", request, read, attempts)
