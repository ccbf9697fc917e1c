"""sdialog: two `Agent`s generate each dialogue with `dialog_with`, in a thread for each dialogue.

Its agents take instructions for a turn from an orchestrator, as a system message before the last
one, which is how the directions of the plan are passed. Its prompts are therefore its own, made
from the same texts. Plan, critique and revision are each one reply of an agent with that system
prompt. The library itself is serial; threads are the usual way to run many dialogues.

`own` gives each agent its own model object, as in the documentation; `shared` has one for each kind
of stage, which is cheaper. The HTTP client's line for each call is switched off. No telemetry. No
resume.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import measure
from langchain_openai import ChatOpenAI
from sdialog.agents import Agent
from sdialog.orchestrators import InstructionListOrchestrator
from workload import EXCHANGES, MODEL, STAGES, Messages, Row, Stage, due, messages, new_row, put

BY_NAME = {stage.name: stage for stage in STAGES}
TURNS = [stage for stage in STAGES if stage.exchange]


class Cast:
    def __init__(self, job: measure.Job) -> None:
        self._server: dict[str, Any] = {"base_url": job.url, "api_key": "none", "timeout": 600}
        self._shared: dict[str, ChatOpenAI] = {}
        if job.variant == "shared":
            self._shared = {stage.kind: self._object(stage) for stage in STAGES}

    def agent(self, name: str, stage: Stage, system: str, index: int, cues: list[str]) -> Agent:
        """Return an agent for `stage`, with an instruction for each turn."""
        limits = {"max_tokens": stage.max_tokens, "temperature": stage.temperature}
        model: dict[str, Any] = {"model": f"openai:{MODEL}", **self._server, **limits}
        if self._shared:
            model = {"model": self._shared[stage.kind]}
        made = Agent(name=name, system_prompt=system, can_finish=False, **model)
        if cues:
            made.add_orchestrators(InstructionListOrchestrator(cues))
        made.reset(seed=index)
        return made

    def _object(self, stage: Stage) -> ChatOpenAI:
        return ChatOpenAI(
            model=MODEL,
            max_tokens=stage.max_tokens,
            temperature=stage.temperature,
            **self._server,
        )

    def reply(self, stage: Stage, row: Row) -> str:
        """Return one reply to the two messages of a stage outside the conversation."""
        system, user = (message["content"] for message in messages(stage, row))
        text: str = self.agent(stage.kind, stage, system, row["index"], [])(user)
        return text


def system_and_cue(view: Messages) -> tuple[str, str]:
    """Return the system text of a view, and the direction appended to its last message."""
    return view[0]["content"], view[-1]["content"].rpartition("\n\n")[2]


def dialogue(index: int, cast: Cast) -> Row:
    """Make one dialogue, from plan to revision."""
    row = new_row(index)
    row = put(BY_NAME["plan"], row, cast.reply(BY_NAME["plan"], row))
    speakers = []
    for kind in ("user", "agent"):
        stages = [stage for stage in TURNS if stage.kind == kind]
        # A turn that does not exist yet stands for the conversation; only the cue after it is used.
        views = [messages(stage, {**row, "said": [""] * (kind == "agent")}) for stage in stages]
        cues = [system_and_cue(view)[1] for view in views]
        system = system_and_cue(views[0])[0]
        speakers.append(cast.agent(kind, stages[0], system, index, cues))
    user, agent = speakers
    held = user.dialog_with(agent, max_turns=2 * EXCHANGES, seed=index, keep_bar=False)
    for stage, turn in zip(TURNS, held.turns, strict=True):
        row = put(stage, row, turn.text)
    for stage in (BY_NAME["critique"], BY_NAME["revision"]):
        if due(stage, row):
            row = put(stage, row, cast.reply(stage, row))
    return row


def main() -> None:
    job = measure.job("own", "shared")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    cast = Cast(job)
    clock = measure.Clock()
    with ThreadPoolExecutor(job.open) as pool:
        rows = list(pool.map(lambda index: dialogue(index, cast), range(job.n)))
    clock.stop(job, "sdialog", rows)


if __name__ == "__main__":
    main()
