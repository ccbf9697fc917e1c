"""The `roleplay` protocol: two chats, one for each side, possibly by two models.

In the user's chat the roles are swapped: the user simulator is its assistant. The agent may be
kept blind to the plan (`dialogue.agent_sees_plan: false`), which gives natural replies and system
turns that can be trained on.
"""

from __future__ import annotations

from sdsd.pipeline.dialogue import (
    RUNAWAY,
    SELF_CHECK_TOKENS,
    Conversation,
    DialogueTask,
    OpenDialogue,
    Sample,
    Speaker,
    generate,
)
from sdsd.types import Dialogue, Message, Purpose, Request


async def roleplay(task: DialogueTask) -> Dialogue | OpenDialogue:
    """Generate the conversation in two chats."""
    return await generate("roleplay", _Roleplay(task), task)


class _Roleplay(Conversation):
    def __init__(self, task: DialogueTask) -> None:
        super().__init__(task)
        informed, outline = task.config.agent_sees_plan, task.outline
        agent = task.fill("agent_system", **outline) if informed else task.fill("agent_blind")
        self.system = "" if informed else agent
        self.views = {
            "user": (
                Message("system", task.fill("user_system", **outline)),
                Message("user", task.fill("user_start")),
            ),
            "agent": (Message("system", agent),),
        }

    def turn(self, speaker: Speaker, exchange: int, sample: Sample) -> Request:
        task, view = self.task, self.views[speaker]
        step = task.plan.steps[exchange - 1]
        if speaker == "user":
            cue = f"{task.fill('user_cue', step=step)}\n\n{task.user_cue(exchange)}".strip()
        elif task.config.agent_sees_plan:
            final = task.agent_cue(exchange, "final_cue", sample)
            cue = final or task.fill("agent_cue", step=step)
        else:
            cue = ""
        last = Message(view[-1].role, f"{view[-1].content}\n\n{cue}".strip())
        purpose: Purpose = "user_turn" if speaker == "user" else "agent_turn"
        return task.request(speaker, purpose, (*view[:-1], last), stop=RUNAWAY)

    def append(self, speaker: Speaker, text: str) -> None:
        self.views = {
            side: (*view, Message("assistant" if side == speaker else "user", text))
            for side, view in self.views.items()
        }

    def self_check(self) -> Request:
        question = Message("user", self.task.fill("check", principles=self.task.principles))
        messages = (*self.views["agent"], question)
        return Request("agent", SELF_CHECK_TOKENS, messages, temperature=0.0, purpose="self_check")
