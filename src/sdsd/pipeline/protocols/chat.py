"""The `chat` protocol: one growing chat, the agent's, that also asks for the user's turns.

For servers that only chat. Both speakers share one prefix, and so do critic and reviser if they
are the agent's own model: they continue in the chat (`first_messages`).
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
from sdsd.types import Dialogue, Message, Request


async def chat(task: DialogueTask) -> Dialogue | OpenDialogue:
    """Generate the conversation in one chat."""
    return await generate("chat", _Chat(task), task)


def first_messages(task: DialogueTask) -> tuple[Message, ...]:
    """Return what the chat begins with, for reviewers who continue in it."""
    return (Message("system", task.fill("brief", **task.outline)),)


class _Chat(Conversation):
    def __init__(self, task: DialogueTask) -> None:
        super().__init__(task)
        self.messages = first_messages(task)

    def turn(self, speaker: Speaker, exchange: int, sample: Sample) -> Request:
        task = self.task
        if speaker == "user":
            wanted = f"{task.fill('user_cue', number=str(exchange))}\n\n{task.user_cue(exchange)}"
            asked = (*self.messages, Message("user", wanted.strip()))
            return task.request("agent", "user_turn", asked, stop=RUNAWAY)
        cue = task.agent_cue(exchange, "cue", sample)
        last = Message("user", f"{self.messages[-1].content}\n\n{cue}".strip())
        return task.request("agent", "agent_turn", (*self.messages[:-1], last), stop=RUNAWAY)

    def append(self, speaker: Speaker, text: str) -> None:
        role = Message("user" if speaker == "user" else "assistant", text)
        self.messages = (*self.messages, role)

    def self_check(self) -> Request:
        question = Message("user", self.task.fill("check", principles=self.task.principles))
        return Request(
            "agent",
            SELF_CHECK_TOKENS,
            (*self.messages, question),
            temperature=0.0,
            purpose="self_check",
        )
