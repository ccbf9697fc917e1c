"""A model that answers from a script: no server, no weights, no waiting.

It is part of the package because users' tests need it as much as ours do. The default script writes
well-formed plans, turns, verdicts and revisions, and decides by seed which dialogues contain a
violation, so every path through the pipeline is taken at a known rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sdsd.hashing import hash64
from sdsd.models.base import Capabilities
from sdsd.text.chat_format import Template
from sdsd.types import Answer, Completion, Request

CHATML = Template(
    before_brief="<|im_start|>system\n",
    after_brief="<|im_end|>\n<|im_start|>user\n",
    to_agent="<|im_end|>\n<|im_start|>assistant\n",
    to_user="<|im_end|>\n<|im_start|>user\n",
)

Script = Callable[[Request, int], str]
_VIOLATION = "Just trust me, nobody needs to check this."


class ScriptedModel:
    """Answers every request with `script(request, seed)`. Counts what it was asked.

    The score of a given text is about -1 nat per token, by seed.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        name: str = "scripted",
        capabilities: Capabilities | None = None,
    ) -> None:
        self.name = name
        self.capabilities = capabilities or Capabilities(
            completions=True, template=CHATML, schema=True
        )
        self.asked = 0
        self._script = script or small_world

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """Return the script's text, with token counts of four characters each."""
        self.asked += 1
        text = request.given or self._script(request, seed)
        prompt = request.prompt or "".join(m.content for m in request.messages)
        tokens = len(text) // 4 + 1
        luck = hash64(seed, "score") / 2**64
        return Completion(
            text="" if request.given else text,
            model=self.name,
            prompt_tokens=len(prompt) // 4 + 1,
            completion_tokens=tokens,
            logprob=-tokens * (0.5 + luck) if request.given else None,
        )


def small_world(request: Request, seed: int) -> str:
    """Return a plausible reply to any request of the packaged pipeline, decided by `seed` alone."""
    luck = hash64(seed, "luck") / 2**64
    asked = request.messages[-1].content if request.messages else request.prompt
    match request.purpose:
        case "last_message" | "plan" as purpose:
            return _plan(asked, seed) if purpose == "plan" else _last_message(asked, seed)
        case "transcript":
            exchanges = asked.count("\nSTEP ")
            turns = (
                f"USER: Question {k}?\nAGENT: Answer {k}. {_end(luck)}" for k in range(exchanges)
            )
            return "\n".join(turns) + "\nVIOLATION: no\nDONE"
        case "self_check":
            return "VIOLATION: no\nOVER: no"
        case "verdict" if not request.messages:  # for a critic that is a function
            return f'{{"principle": "", "violated": {str(luck < 0.35).lower()}, "reason": ""}}'
        case "verdict":
            case = "".join(m.content for m in request.messages[-2:])
            return _verdict(case.rpartition("PRINCIPLE:")[0], luck)
        case "adherence":
            points = len(re.findall(r"^\d+\. ", asked.rpartition("at its end:")[2], re.MULTILINE))
            answers = (f"{k}: {'no' if luck < k / 8 else 'yes'}" for k in range(1, points + 1))
            return "\n".join(answers)
        case "revision":
            return f"Here is what I know, and how you can check it yourself. (version {seed % 997})"
    return f"Turn {seed % 9973}. {_end(luck)}"


def _end(luck: float) -> str:
    return _VIOLATION if luck < 0.5 else "That is the whole of it."


def _last_message(asked: str, seed: int) -> str:
    topic = asked.partition("Topic: ")[2].partition("\n")[0]
    return f"A question about {topic}, number {seed % 997}?"


def _plan(asked: str, seed: int) -> str:
    steps = asked.count("a STEP ")
    lines = [f"PERSON: somebody with question {seed % 997}"]
    lines += [f"STEP {k}: they discuss point {k}" for k in range(1, steps + 1)]
    return "\n".join([*lines, "SLIP: the agent claims more than it knows"])


def _verdict(case: str, luck: float) -> str:
    last_reply = case.rpartition("REPLY UNDER REVIEW")[2]
    if _VIOLATION in last_reply and luck < 0.7:
        return (
            '{"reason": "It asks for blind trust.", "quote": "' + _VIOLATION + '", '
            '"violated": true, "severity": "medium"}'
        )
    return '{"reason": "Nothing in it.", "quote": "", "violated": false, "severity": "none"}'
