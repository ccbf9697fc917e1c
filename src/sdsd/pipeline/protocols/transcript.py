"""The `transcript` protocol: one completion writes the whole conversation as labelled text."""

from __future__ import annotations

from sdsd.errors import Unparseable
from sdsd.pipeline.dialogue import DialogueTask
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.text import parsing
from sdsd.types import Completion, Dialogue, Message, StopReason


async def transcript(task: DialogueTask) -> Dialogue:
    """Ask for the conversation at once and parse it."""
    scenario = task.scenario
    user = task.fill(
        "user",
        domain=scenario.domain,
        subarea=scenario.subarea,
        target_principle=scenario.target_principle.text,
        direction=task.direction or "as an assistant would give it.",
        plan=task.plan.text,
        exchanges=str(task.exchanges),
    )
    messages = (Message("system", task.fill("system")), Message("user", user))
    room = task.config.max_tokens * 2 * task.exchanges
    request = task.request("agent", "transcript", messages, max_tokens=room)

    def read(completion: Completion) -> Dialogue:
        written = parsing.transcript(completion.text)
        complete = written.done or completion.finish == "stop"
        if not complete:
            written = parsing.transcript(parsing.complete_sentences(completion.text))
        turns = written.messages[: 2 * task.config.max_exchanges]
        if any(parsing.copies(m.content, task.directions) for m in turns):
            raise Unparseable("a direction leaks into the conversation")
        stop = _stop_reason(task, written, len(turns), complete=complete)
        return Dialogue(turns, "transcript", stop, written.flagged)

    return await ask_until_parsed(task.ask, "turn/all", request, read, task.attempts)


def _stop_reason(
    task: DialogueTask, written: parsing.Transcript, turns: int, *, complete: bool
) -> StopReason:
    if turns < len(written.messages):
        return "turn_limit"
    if not complete:
        return "token_limit"
    if turns < 2 * task.exchanges:
        return "violation_end" if written.flagged else "early_end"
    return task.planned_end
