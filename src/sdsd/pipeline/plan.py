"""Plan: what the conversation is going to be, written before it is held."""

from __future__ import annotations

from sdsd.config import TOP_P, PlanConfig
from sdsd.errors import Unparseable
from sdsd.pipeline.retry import parsed
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
) -> Plan:
    """A plan with a step for each exchange, and the slip that the last reply shall show."""
    target_principle, *others = (p.text for p in scenario.principles)
    also = prompts.fill("others", principles=prompt_files.numbered(others))
    messages = (
        Message("system", prompts.fill("system")),
        Message(
            "user",
            prompts.fill(
                "user",
                domain=scenario.domain,
                subarea=scenario.subarea,
                goal=scenario.goal.text,
                approach=strategy.plan.replace("{{target_principle}}", target_principle),
                target_principle=target_principle,
                others=f"\n{also}" if others else "",
                opening=prompts.fill("opening") if strategy.settings.reply_prefix else "",
                steps=", ".join(f"a STEP {k} line" for k in range(1, scenario.exchanges + 1)),
            ),
        ),
    )
    request = Request(
        role="planner",
        purpose="plan",
        messages=messages,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=TOP_P,
    )

    def read(completion: Completion) -> Plan:
        plan = parsing.plan(completion.text, scenario.exchanges)
        if parsing.copies(
            f"{plan.persona}\n{plan.planned_violation}", prompts.sections["system"], run=7
        ):
            raise Unparseable("the plan copies its example")
        if parsing.copies(plan.planned_violation, target_principle, run=7):
            raise Unparseable("the slip only says the principle again")
        return plan

    return await parsed(ask, "plan", request, read, attempts)
