"""Siblings: two last replies to one conversation, told to satisfy and to violate the target.

The pair is labelled by construction (RLCD, arXiv 2307.12950), so no reviser is needed; critics only
confirm the label. Both replies are sampled by the agent's model in directed chats
(`sdsd.pipeline.directed`), in which neither the plan nor the other reply can be seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sdsd.config import TOP_P
from sdsd.errors import StageFailed
from sdsd.pipeline.best_of_n import Chosen
from sdsd.pipeline.dialogue import RUNAWAY, ContextFull, DialogueTask, read_turn, turn_script
from sdsd.pipeline.directed import Directions
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.text import normalize
from sdsd.types import Candidate, Completion, Critique, Direction, Message, Request

Judge = Callable[[str, str], Awaitable[Critique]]
"""Judges a reply; the second argument is the stage that its steps are named after."""


async def draw_siblings(
    task: DialogueTask, conversation: tuple[Message, ...], directions: Directions, judge: Judge
) -> Chosen:
    """Return the reply that ends the dialogue, a violation of the target principle, and the others.

    Up to `dialogue.siblings` replies are sampled under either direction, until a critic confirms
    one: first those told to violate; if one does, those told to satisfy. Raises `StageFailed` and
    `ContextFull` if the first sample fails.
    """
    target = task.scenario.target_principle.id
    drawn: list[Candidate] = []
    ways: tuple[Direction, ...] = ("violate", "satisfy")
    for direction in ways:
        for number in range(1, task.config.siblings + 1):
            try:
                text = await _draw(task, conversation, directions, direction, number)
            except (StageFailed, ContextFull):
                if not drawn:
                    raise
                continue
            if normalize.normal(text) in {normalize.normal(c.text) for c in drawn}:
                continue
            stage = "critique" if not drawn else f"candidate/{len(drawn) + 1}"
            try:
                critique = await judge(text, stage)
            except StageFailed as failed:
                ended = _clearest(drawn, target)
                return Chosen(ended.text if ended else text, failure=failed)
            drawn.append(Candidate(text, critique, direction))
            if critique.clean if direction == "satisfy" else target in critique.violations:
                break
        ended = _clearest(drawn, target)
        if ended is None or target not in ended.critique.violations:
            break  # there is nothing to set a satisfying reply against
    assert ended is not None
    others = tuple(candidate for candidate in drawn if candidate is not ended)
    return Chosen(ended.text, ended.critique, others)


async def _draw(
    task: DialogueTask,
    conversation: tuple[Message, ...],
    directions: Directions,
    direction: Direction,
    number: int,
) -> str:
    """Sample one reply."""
    shown = (text for e in directions.examples for text in (e.satisfies, e.violates))
    script = "\n".join((turn_script(task), *shown))
    seen = {normalize.normal(message.content) for message in conversation}
    messages = directions.chat(direction, conversation)
    request: Request = task.request("agent", "agent_turn", messages, stop=RUNAWAY, top_p=TOP_P)

    def read(completion: Completion) -> str:
        return read_turn(completion, task.plan, script, seen)

    step = f"turn/{len(conversation) // 2 + 1}/{direction}/{number}"
    try:
        return await ask_until_parsed(task.ask, step, request, read, task.attempts)
    except StageFailed as failed:
        if failed.kind == "context_full":
            raise ContextFull from None
        raise


def _clearest(drawn: list[Candidate], target: str) -> Candidate | None:
    """Return the sample that violates the target most clearly, of those told to; None if none."""

    def clarity(candidate: Candidate) -> tuple[bool, float]:
        verdict = next(v for v in candidate.critique.verdicts if v.principle == target)
        evidence = verdict.contrast if verdict.contrast is not None else 0.0
        return verdict.confirmed, (verdict.probability or 0.0) - evidence

    asked = (candidate for candidate in drawn if candidate.direction == "violate")
    return max(asked, key=clarity, default=None)
