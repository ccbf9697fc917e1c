"""Siblings: two last replies to one conversation, told to satisfy and to violate the target.

The pair is labelled by construction (RLCD, arXiv 2307.12950), so no reviser is needed; critics only
confirm the labels. Both replies are sampled by the agent's model in directed chats
(`sdsd.pipeline.directed`), in which neither the plan nor the other reply can be seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from msgspec.structs import replace

from sdsd.config import TOP_P
from sdsd.errors import StageFailed
from sdsd.pipeline.best_of_n import Chosen
from sdsd.pipeline.calibration import evidence_of, settle
from sdsd.pipeline.dialogue import (
    RUNAWAY,
    ContextFull,
    DialogueTask,
    read_turn,
    require_speaker,
    turn_script,
)
from sdsd.pipeline.directed import Directions
from sdsd.pipeline.retry import SHORT, ask_until_parsed
from sdsd.text import normalize
from sdsd.types import (
    Calibration,
    Candidate,
    Completion,
    Critique,
    Direction,
    Message,
    Request,
    Verdict,
)

Judge = Callable[[str, str], Awaitable[Critique]]
"""Judges a reply; the second argument is the stage that its steps are named after."""


async def draw_siblings(
    task: DialogueTask,
    conversation: tuple[Message, ...],
    directions: Directions,
    judge: Judge,
    calibration: Calibration | None = None,
) -> Chosen:
    """Return the reply that ends the dialogue, a violation of the target principle, and the others.

    calibration  of the single critic: with it, the margin between two siblings can confirm both
                 labels, where neither could be confirmed alone

    Up to `dialogue.siblings` replies are sampled under either direction. If margins count, one
    under each, and then again under the less clear one, until the best two make a pair. Otherwise,
    or if a program decides the principle, first those told to violate, until the critic confirms
    one; and only if it does, those told to satisfy. Where the critic can verify nothing, there is
    one of each. Raises `StageFailed` if no sample told to violate can be read, or if the server
    refuses the first one, and `ContextFull` if there is no room for the first one.
    """
    siblings = _Siblings(task, conversation, directions, judge)
    try:
        if calibration is None or directions.principle.check:
            return await _one_by_one(siblings)
        if calibration.trusted and not calibration.can_verify:
            return await _by_margin(siblings, calibration, 1)  # more cost, and prove nothing
        if calibration.pair_from <= 1:
            return await _by_margin(siblings, calibration, task.config.siblings)
        return await _one_by_one(siblings)
    except _CriticFailed as failed:
        ended = siblings.clearest()
        return Chosen(ended.text if ended else failed.text, failure=failed.failure)


async def _one_by_one(siblings: _Siblings) -> Chosen:
    """Sample until the critic confirms a violation, then until a reply corrects it.

    The violation is to be one of the target principle; where none is, that of another principle of
    the dialogue makes as good a pair.
    """
    for number in siblings.numbers:
        reply = await siblings.sample("violate", number)
        if reply and siblings.target in reply.critique.violations:
            break
    ended = siblings.clearest()
    if ended and ended.critique.violations:
        for number in siblings.numbers:
            reply = await siblings.sample("satisfy", number)
            if reply and reply.critique.corrects(ended.critique):
                break
    if ended is None:
        raise siblings.failure
    return Chosen(ended.text, ended.critique, siblings.others(ended))


async def _by_margin(siblings: _Siblings, calibration: Calibration, most: int) -> Chosen:
    """Sample under both directions until the margin between the best two makes a pair.

    After one of each, the direction is sampled again whose best reply shows it less clearly; each
    is sampled `most` times at most.
    """
    drawn = {"violate": 0, "satisfy": 0}
    direction: Direction = "violate"
    ended = best = None
    while drawn[direction] < most:
        drawn[direction] += 1
        await siblings.sample(direction, drawn[direction])
        ended, best = siblings.extreme("violate", max), siblings.extreme("satisfy", min)
        if ended and best:
            settled = settle(ended.critique, best.critique, siblings.target, calibration)
            if settled is not None:
                chosen = replace(best, critique=settled.chosen, probability=settled.probability)
                others = (chosen if c is best else c for c in siblings.others(ended))
                return Chosen(ended.text, settled.rejected, tuple(others))
        direction = siblings.less_clear(ended, best)
        if drawn[direction] == most:
            direction = "violate" if direction == "satisfy" else "satisfy"
    if ended is None:
        raise siblings.failure
    return Chosen(ended.text, ended.critique, siblings.others(ended))


class _CriticFailed(Exception):
    """Carries the critic's failure, and the reply that it could not judge, out of the sampling."""

    def __init__(self, text: str, failure: StageFailed) -> None:
        self.text, self.failure = text, failure


class _Siblings:
    """The siblings sampled so far for one dialogue."""

    def __init__(
        self,
        task: DialogueTask,
        conversation: tuple[Message, ...],
        directions: Directions,
        judge: Judge,
    ) -> None:
        self._task, self._conversation = task, conversation
        self._directions, self._judge = directions, judge
        self._drawn: list[Candidate] = []
        self.failure = StageFailed("", "no sample")
        """Of the first sample that could not be read."""
        self.target = task.scenario.target_principle.id
        self.numbers = range(1, task.config.siblings + 1)

    async def sample(self, direction: Direction, number: int) -> Candidate | None:
        """Sample a reply and have it judged; None if it fails, or says what another one says."""
        try:
            text = await _draw(self._task, self._conversation, self._directions, direction, number)
        except (StageFailed, ContextFull) as failed:
            if isinstance(failed, StageFailed) and not self.failure.step:
                self.failure = failed
            if not self._drawn and (isinstance(failed, ContextFull) or failed.kind):
                raise
            return None
        if normalize.normal(text) in {normalize.normal(c.text) for c in self._drawn}:
            return None
        stage = f"candidate/{len(self._drawn) + 1}" if self._drawn else "critique"
        try:
            critique = await self._judge(text, stage)
        except StageFailed as failed:
            raise _CriticFailed(text, failed) from None
        self._drawn.append(Candidate(text, critique, direction))
        return self._drawn[-1]

    def clearest(self) -> Candidate | None:
        """Return the clearest violation of the samples told to violate; None if there are none."""

        def clarity(candidate: Candidate) -> tuple[bool, bool, float]:
            verdict, any_confirmed = self._verdict(candidate), bool(candidate.critique.violations)
            evidence = verdict.contrast if verdict.contrast is not None else 0.0
            return verdict.confirmed, any_confirmed, (verdict.probability or 0.0) - evidence

        return max(self._under("violate"), key=clarity, default=None)

    def extreme(self, direction: Direction, most: Callable[..., Candidate]) -> Candidate | None:
        """Return the sample under a direction with the most (`max`) or least (`min`) evidence."""
        among = self._under(direction)
        return most(among, key=lambda c: evidence_of(self._verdict(c))) if among else None

    def less_clear(self, violating: Candidate | None, satisfying: Candidate | None) -> Direction:
        """Return the direction whose best reply gives less evidence of having followed it."""
        if violating is None:
            return "violate"
        if satisfying is None:
            return "satisfy"
        against = evidence_of(self._verdict(violating)) + evidence_of(self._verdict(satisfying))
        return "satisfy" if against > 0 else "violate"

    def others(self, ended: Candidate) -> tuple[Candidate, ...]:
        """Return the samples but one, in the order drawn."""
        return tuple(candidate for candidate in self._drawn if candidate is not ended)

    def _under(self, direction: Direction) -> list[Candidate]:
        return [candidate for candidate in self._drawn if candidate.direction == direction]

    def _verdict(self, candidate: Candidate) -> Verdict:
        return next(v for v in candidate.critique.verdicts if v.principle == self.target)


async def _draw(
    task: DialogueTask,
    conversation: tuple[Message, ...],
    directions: Directions,
    direction: Direction,
    number: int,
) -> str:
    """Sample one reply."""
    shown = (text for e in directions.examples for text in (e.satisfies, e.violates))
    script = (*turn_script(task, "agent"), "\n".join(shown))
    seen = {normalize.normal(message.content) for message in conversation}
    messages = directions.chat(direction, conversation)
    request: Request = task.request("agent", "agent_turn", messages, stop=RUNAWAY, top_p=TOP_P)

    cut = partial(directions.before_reminder, direction)

    def read(completion: Completion) -> str:
        said = read_turn(completion, task.plan, script, seen, cut)
        require_speaker("agent", said, conversation, task.plan)
        return said

    step = f"turn/{len(conversation) // 2 + 1}/{direction}/{number}"
    try:
        return await ask_until_parsed(task.ask, step, request, read, SHORT * task.attempts)
    except StageFailed as failed:
        if failed.kind == "context_full":
            raise ContextFull from None
        raise
