"""Plan: what the conversation is going to be, written before it is held."""

from __future__ import annotations

from sdsd import parse, prompt
from sdsd.config import PlanConfig
from sdsd.prompt import Prompt
from sdsd.reask import parsed
from sdsd.types import AskFn, Message, Plan, Request, Scenario


async def write_plan(
    scenario: Scenario, ask: AskFn, config: PlanConfig, prompts: Prompt, attempts: int
) -> Plan:
    """A plan with a step for each exchange, and the slip that the last reply shall show."""
    messages = (
        Message("system", prompts.fill("system")),
        Message(
            "user",
            prompts.fill(
                "user",
                domain=scenario.domain,
                subarea=scenario.subarea,
                goal=scenario.goal.text,
                principles=prompt.numbered([p.text for p in scenario.principles]),
                steps=", ".join(f"a STEP {k} line" for k in range(1, scenario.exchanges + 1)),
            ),
        ),
    )
    request = Request(
        role="planner",
        messages=messages,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
    )
    return await parsed(
        ask, "plan", request, lambda c: parse.plan(c.text, scenario.exchanges), attempts
    )
