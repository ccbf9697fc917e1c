"""The `continuation` protocol: one growing stream in the model's own chat format.

The next speaker's header is opened and the model writes that turn, the user's turns too (as in
Magpie, arXiv 2406.08464). The whole conversation is one prefix, so a server with a prefix cache
computes only the newest turn.

The user's first message is written apart, after a worked example: with nothing before it but a plan
in the third person, small models go on with the plan instead of speaking as the person.
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
from sdsd.types import Dialogue, Purpose, Request


async def continuation(task: DialogueTask) -> Dialogue | OpenDialogue:
    """Generate the conversation as one stream of text."""
    return await generate("continuation", _Stream(task), task)


class _Stream(Conversation):
    def __init__(self, task: DialogueTask) -> None:
        super().__init__(task)
        assert task.template is not None, "continuation needs the model's chat format"
        self.template = task.template
        self.brief = task.fill("brief", **task.outline)
        self.text = self.template.open(self.brief)
        self.empty = True

    def turn(self, speaker: Speaker, exchange: int, sample: Sample) -> Request:
        template, task = self.template, self.task
        by_agent = speaker == "agent"
        cue = task.agent_cue(exchange, "cue", sample) if by_agent else task.user_cue(exchange)
        cue = template.clean(f"\n\n{cue}") if cue else ""
        stream = self._opening(cue) if self.empty else self.text + cue + self._header(speaker)
        prompt = self._begun(
            stream, self.prefix(speaker, exchange), by_agent=by_agent or self.empty
        )
        stop = (*template.stops("agent" if self.empty else speaker), *RUNAWAY)
        purpose: Purpose = "agent_turn" if by_agent else "user_turn"
        return task.request("agent", purpose, prompt=prompt, stop=stop)

    def _begun(self, stream: str, prefix: str = "", *, by_agent: bool = True) -> str:
        """Return the prompt for a turn whose header ends the stream."""
        if prefix:
            return stream + self.template.closed().opening + prefix
        return self.template.begun(stream) if by_agent else stream.rstrip(" ")

    def _opening(self, cue: str) -> str:
        """Return the prompt for the user's first message."""
        template, task = self.template, self.task
        about = {name: task.outline[name] for name in ("subarea", "persona")}
        step = next(iter(task.plan.descriptions), task.scenario.subarea)
        return (
            template.open(task.fill("opening_system"))
            + template.clean(task.fill("opening_example"))
            + template.to_agent
            + template.clean(task.fill("opening_message"))
            + template.to_user
            + template.clean(task.fill("opening", **about, step=step))
            + cue
            + template.to_agent
        )

    def append(self, speaker: Speaker, text: str) -> None:
        self.text += text if self.empty else self._header(speaker) + text
        self.empty = False

    def self_check(self) -> Request:
        template = self.template
        question = self.task.fill("check", principles=self.task.principles)
        return Request(
            "agent",
            SELF_CHECK_TOKENS,
            prompt=self._begun(
                self.text + template.to_user + template.clean(question) + template.to_agent
            ),
            temperature=0.0,
            stop=template.stops("agent"),
            purpose="self_check",
        )

    def prefix(self, speaker: Speaker, exchange: int) -> str:
        last = speaker == "agent" and exchange == self.task.exchanges
        return self.template.clean(self.task.reply_prefix) if last else ""

    def cut(self, text: str) -> str:
        return self.template.cut(text)

    def _header(self, speaker: Speaker) -> str:
        return self.template.to_agent if speaker == "agent" else self.template.to_user
