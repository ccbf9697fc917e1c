"""Plan: outline the conversation before it is generated."""

from __future__ import annotations

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
    at_stake: str = "",
) -> Plan:
    """Return a plan with a step per exchange and the violation planned for the last reply.

    `at_stake` says what the user must bring up, so that the target principle can be violated; a
    plan that leaves it out is asked for again. Raises `StageFailed` if no attempt gives a plan that
    can be parsed.
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
        at_stake=f"\n{prompts.fill('at_stake', at_stake=at_stake)}" if at_stake else "",
        stake=prompts.fill("stake") if at_stake else "",
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
        written = f"{plan.persona}\n{plan.at_stake}\n{plan.planned_violation}"
        if parsing.copies(written, prompts.sections["system"], run=7):
            raise Unparseable("the plan copies its example")
        if parsing.copies(plan.planned_violation, target, run=7):
            raise Unparseable("the planned violation only repeats the principle")
        return plan

    def read_with_stake(completion: Completion) -> Plan:
        plan = read(completion)
        if at_stake and not plan.at_stake:
            raise Unparseable("nothing is at stake: no `STAKE:` line")
        return plan

    return await ask_until_parsed(ask, "plan", request, read_with_stake, attempts, read)
