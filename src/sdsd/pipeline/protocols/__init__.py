"""Protocols: ways for one model, or two, to generate the planned conversation.

transcript     one completion writes the whole conversation as labelled text
continuation   one growing stream in the model's own chat format; the model writes both sides
chat           one growing chat, the agent's; the user's turns are asked for from within it
roleplay       two chats, one for each side, with the roles swapped in the user's

A protocol is `async def protocol(task: DialogueTask) -> Dialogue`. It may also return an
`OpenDialogue`, which waits for the agent's last reply: then best-of-n and retries work with it.
Your own is named as `dialogue.protocol: package.module:name`.
"""

from __future__ import annotations

from typing import Protocol

from sdsd.errors import PluginError, StageFailed
from sdsd.pipeline.dialogue import DialogueTask, OpenDialogue
from sdsd.pipeline.protocols.chat import chat
from sdsd.pipeline.protocols.continuation import continuation
from sdsd.pipeline.protocols.roleplay import roleplay
from sdsd.pipeline.protocols.transcript import transcript
from sdsd.plugins import blamed, function
from sdsd.types import Dialogue, require_json


class DialogueProtocol(Protocol):
    """Generate one dialogue.

    The result alternates user and agent, begins with the user and ends with the agent. Models are
    reached by `task.ask(step, request)` alone, with a new step name for every request: that is
    what makes a run resumable. Raise `StageFailed` if no dialogue can be made.
    """

    async def __call__(self, task: DialogueTask) -> Dialogue | OpenDialogue:
        """Generate it, completely or up to the last reply."""
        ...


PROTOCOLS: dict[str, DialogueProtocol] = {
    "transcript": transcript,
    "continuation": continuation,
    "chat": chat,
    "roleplay": roleplay,
}


def find_protocol(name: str) -> DialogueProtocol:
    """Return a packaged protocol, or import one. Raises `PluginError`."""
    return PROTOCOLS.get(name) or _checked(name)


def _checked(name: str) -> DialogueProtocol:
    """Import a protocol whose errors name it, and whose dialogues are checked."""
    protocol = function(name, "protocols", tuple(PROTOCOLS))

    async def checked(task: DialogueTask) -> Dialogue | OpenDialogue:
        with blamed(f"protocol `{name}`", task.scenario.id, StageFailed):
            dialogue = await protocol(task)
            if isinstance(dialogue, OpenDialogue):
                return dialogue
            if not isinstance(dialogue, Dialogue):
                raise PluginError(
                    f"protocol `{name}` returned a value of type `{type(dialogue).__name__}`; "
                    "return a `Dialogue` or an `OpenDialogue`"
                )
            require_json(dialogue)
            roles = [message.role for message in dialogue.messages]
            if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
                raise PluginError(
                    f"protocol `{name}` returned messages with the roles "
                    f"{', '.join(roles) or 'none'}; they have to alternate, begin with `user` and "
                    "end with `assistant`"
                )
            return dialogue

    return checked
