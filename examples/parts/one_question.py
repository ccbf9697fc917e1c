"""A protocol of your own: one exchange, the user's turn taken from the plan as it stands.

dialogue:
  protocol: "one_question:one_question"
"""

from sdsd.pipeline.dialogue import DialogueTask
from sdsd.types import Dialogue, Message


async def one_question(task: DialogueTask) -> Dialogue:
    """Ask the agent the plan's first step, once."""
    question = Message("user", task.plan.steps[0])
    answer = await task.ask("turn/1/agent", task.request("agent", "agent_turn", [question]))
    messages = (question, Message("assistant", answer.text))
    return Dialogue(messages, "one_question", "completed", self_flagged=False)
