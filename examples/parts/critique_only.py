"""A pipeline of your own: the packaged stages in another order, and a figure of your own.

pipeline: "critique_only:critique_only"
"""

from sdsd.pipeline.critique import judge
from sdsd.pipeline.method import Ask, Method, Start
from sdsd.types import Message, Record, Request, Scenario, Turn


async def critique_only(scenario: Scenario, ask: Ask, method: Method, start: Start) -> Record:
    """Ask one question about the topic and judge the answer; revise nothing."""
    question = (Message("user", f"Tell me about {scenario.subarea}."),)
    answer = await ask("answer", Request("agent", 100, question, purpose="agent_turn"))
    turn = Turn(question, answer.text)
    critique = await judge(
        turn, scenario.principles, ask, "critique", method.panel, method.config.critique.vote
    )
    rule = "no_violation" if critique.clean else "not_revised"
    extra = {"words": len(answer.text.split())}
    return Record(scenario, "filtered", rule, critique=critique, usage=ask.usage, extra=extra)
