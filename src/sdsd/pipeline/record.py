"""READ THIS FIRST. How one dialogue is made, from its scenario to its record.

    scenario -> last message -> plan -> dialogue -> critique -> (revision -> recheck) x R -> record

Plain control flow in one coroutine. Every model request goes through `ask`, which returns what the
journal already holds: running this function again after a crash replays it, and running it with
nothing but the journal verifies it. Nothing here knows about files, servers or other dialogues.
"""

from __future__ import annotations

from msgspec.structs import replace

from sdsd.checks import revision_rules
from sdsd.config import Vote
from sdsd.errors import StageFailed
from sdsd.hashing import hash64
from sdsd.pipeline.best_of_n import best_of_n
from sdsd.pipeline.critique import judge, judge_plan_adherence, review_messages
from sdsd.pipeline.custom import make_record_with
from sdsd.pipeline.dialogue import ContextFull, DialogueTask, OpenDialogue
from sdsd.pipeline.method import Ask, Method, Start
from sdsd.pipeline.plan import lead_up, write_plan
from sdsd.pipeline.protocols import find_protocol
from sdsd.pipeline.protocols.chat import first_messages
from sdsd.pipeline.revise import critique_text, with_why, write_revision
from sdsd.pipeline.siblings import draw_siblings
from sdsd.pipeline.stake import write_last_message
from sdsd.text import normalize
from sdsd.text.prompt_files import Prompt
from sdsd.types import (
    Candidate,
    Card,
    Critique,
    Dialogue,
    Failure,
    Message,
    Outcome,
    Plan,
    Record,
    Revision,
    Scenario,
    Turn,
)


async def make_record(
    scenario: Scenario, ask: Ask, method: Method, start: Start = Start()
) -> Record:
    """Return the record of one scenario: accepted, filtered by a named rule, or failed."""
    if method.config.pipeline:
        return await make_record_with(method.config.pipeline, scenario, ask, method, start)
    work = _Work(scenario, ask, method, start)
    try:
        outcome, rule = await _make(work)
    except StageFailed as failed:
        return work.record("failed", failure=Failure(failed.step, failed.cause, failed.raw))
    return work.record(outcome, rule)


async def _make(work: _Work) -> tuple[Outcome, str]:
    if work.dialogue is None:
        await _plan_and_generate(work)
    assert work.dialogue is not None
    messages, config = work.dialogue.messages, work.method.config.critique
    last = work.turn(messages[:-1], messages[-1].content)
    if work.critique is None:  # else it has chosen the last reply among several
        work.critique = await work.judge(last, "critique")
    if config.turns == "every":
        for number, k in enumerate(range(1, len(messages) - 1, 2), 1):
            earlier = work.turn(messages[:k], messages[k].content)
            work.earlier_critiques += (await work.judge(earlier, f"earlier/{number}"),)
    if config.adherence and work.plan:
        panel = work.method.panel
        work.plan_adherence = await judge_plan_adherence(last, work.plan, work.ask, panel)
    if not work.critique.violations:
        return _without_violation(work.critique)
    outcome: Outcome = "filtered"
    rule = "no_satisfying_reply"
    if "revision" in work.method.pairs:
        outcome, rule = await _repair(work, work.critique, last)
    if work.record("accepted").pairs:  # whatever happens to the revision
        return "accepted", ""
    return outcome, rule


def _without_violation(critique: Critique) -> tuple[Outcome, str]:
    """Return how a dialogue ends whose last reply has no confirmed violation."""
    if any(verdict.violated for verdict in critique.verdicts):
        return "filtered", "unsupported_violation"
    if any(verdict.undecided for verdict in critique.verdicts):
        return "filtered", "undecided"
    return "filtered", "no_violation"


async def _plan_and_generate(work: _Work) -> None:
    """Write the plan, unless there is one, and generate the dialogue."""
    scenario, ask, method = work.scenario, work.ask, work.method
    config, prompts, strategy = method.config, method.prompts, method.strategies[scenario.strategy]
    if work.plan is None:
        work.plan = await _plan(work)
    task = DialogueTask(
        scenario,
        work.plan,
        ask,
        config.dialogue,
        prompts.get(method.protocol, Prompt("", "", {})),
        config.attempts,
        strategy,
        method.template,
    )
    if method.protocol == "chat" and method.shared_chat:
        work.chat_start = first_messages(task)
    dialogue = await find_protocol(method.protocol)(task)
    if "contrast" in method.pairs:
        await _choose_among_siblings(work, dialogue, task)
    elif isinstance(dialogue, Dialogue):
        work.dialogue = dialogue
    else:
        await _choose_last_reply(work, dialogue)


async def _plan(work: _Work) -> Plan:
    """Write the user's last message, if anything says what is at stake, and the plan."""
    scenario, ask, method = work.scenario, work.ask, work.method
    config, prompts = method.config, method.prompts["plan"]
    strategy, siblings = method.strategies[scenario.strategy], "contrast" in method.pairs
    last = await _last_message(work)
    if last and siblings:  # they are told the principle alone: a planned violation has no reader
        return await lead_up(scenario, ask, config.plan, prompts, config.attempts, strategy, last)
    return await write_plan(
        scenario, ask, config.plan, prompts, config.attempts, strategy, last, commits=not siblings
    )


async def _last_message(work: _Work) -> str:
    """Write the user's last message first; empty where nothing says what is at stake."""
    scenario, method = work.scenario, work.method
    card = method.cards.get(scenario.target_principle.id, Card())
    if not card.at_stake:
        return ""
    direction = method.strategies[scenario.strategy].user(scenario.target_principle.text, "")
    prompts, attempts = method.prompts["stake"], method.config.attempts
    config = method.config.plan
    return await write_last_message(scenario, card, direction, work.ask, config, prompts, attempts)


async def _choose_last_reply(work: _Work, dialogue: OpenDialogue) -> None:
    """End the dialogue with the best of several samples of the last reply, or with its only one."""
    settings = work.method.strategies[work.scenario.strategy].settings

    async def critique(reply: str, stage: str) -> Critique:
        return await work.judge(work.turn(dialogue.messages, reply), stage)

    n = settings.candidates or work.method.config.dialogue.candidates
    target = work.scenario.target_principle.id
    try:
        chosen = await best_of_n(dialogue.sample_reply, critique, target, n, settings.retries)
    except ContextFull:
        work.dialogue = dialogue.truncated()
        return
    work.critique, work.candidates = chosen.critique, chosen.others
    work.dialogue = await dialogue.close(chosen.text)
    if chosen.failure:
        raise chosen.failure


async def _choose_among_siblings(
    work: _Work, dialogue: OpenDialogue | Dialogue, task: DialogueTask
) -> None:
    """End the dialogue with a reply that was told to violate the target principle.

    One that has ended already, because the protocol writes it whole or its model thought it over,
    gets its last reply replaced.
    """
    method, conversation = work.method, dialogue.messages
    if isinstance(dialogue, Dialogue):
        conversation = conversation[:-1]
    directions = method.directions(work.scenario.target_principle)

    async def critique(reply: str, stage: str) -> Critique:
        return await work.judge(work.turn(conversation, reply), stage)

    try:
        chosen = await draw_siblings(
            task, conversation, directions, critique, method.calibrations.get("")
        )
    except ContextFull:
        work.dialogue = dialogue if isinstance(dialogue, Dialogue) else dialogue.truncated()
        return
    work.critique, work.candidates = chosen.critique, chosen.others
    if isinstance(dialogue, Dialogue):
        messages = (*conversation, Message("assistant", chosen.text))
        work.dialogue = replace(dialogue, messages=messages)
    else:
        work.dialogue = await dialogue.close(chosen.text)
    if chosen.failure:
        raise chosen.failure


async def _repair(work: _Work, critique: Critique, original: Turn) -> tuple[Outcome, str]:
    """Revise and recheck until the critics find nothing, at most `revise.rounds` times."""
    config, review = work.method.config.revise, work.method.prompts["review"]
    if config.rounds == 0:
        return "filtered", "not_revised"
    turn, quotes = original, tuple(v.quote for v in critique.verdicts if v.confirmed)
    for number in range(1, config.rounds + 1):
        task, said = _reviser_task(work, critique, number)
        step, attempts = f"revise/{number}", work.method.config.attempts
        messages = review_messages(turn, review, task)
        text = await write_revision(messages, work.ask, step, config, attempts)
        defect, warnings = _check(text, turn, original, quotes, said)
        if defect:
            work.revisions += (Revision(text, defect=defect, warnings=warnings),)
            continue
        turn = replace(turn, reply=text)
        if config.style == "principle" and number < config.rounds:  # only the last is rechecked
            work.revisions += (Revision(text, warnings=warnings),)
            continue
        if not config.recheck:
            work.revisions += (Revision(text, warnings=warnings),)
            return "accepted", ""
        critique = await work.judge(turn, f"recheck/{number}", config.vote)
        work.revisions += (Revision(text, critique, warnings=warnings),)
        if critique.clean:
            return "accepted", ""
    return "filtered", "not_repaired"


def _reviser_task(work: _Work, critique: Critique, number: int) -> tuple[str, str]:
    """Return the reviser's task, and the part of it that comes from the critique."""
    review, principles = work.method.prompts["review"], work.scenario.principles
    if work.method.config.revise.style == "principle":
        drawn = principles[hash64(work.scenario.id, "rewrite", number) % len(principles)]
        return review.fill("rewrite", principle=with_why(drawn, work.method.cards)), ""
    claims = [v for v in critique.verdicts if v.violated]
    said = critique_text(claims, {p.id: p for p in principles}, work.method.cards)
    defect = work.revisions[-1].defect if work.revisions else ""
    refused = review.fill("refused", defect=revision_rules.RULES[defect]) if defect else ""
    return review.fill("revise", faults=said, refused=refused and f"\n\n{refused}"), said


def _check(
    text: str, turn: Turn, original: Turn, quotes: tuple[str, ...], said: str
) -> tuple[str, tuple[str, ...]]:
    """Return the defect that refuses a revision (empty: none), and the warnings about it."""
    found = revision_rules.broken_rules(original.reply, text, original.conversation, quotes, said)
    if normalize.normal(text) == normalize.normal(turn.reply):
        found = ("unchanged", *found)
    defect = next((rule for rule in found if rule in revision_rules.DEFECTS), "")
    return defect, tuple(rule for rule in found if rule not in revision_rules.DEFECTS)


class _Work:
    """One dialogue in the making: its inputs, and what has been made so far, which a failure
    keeps."""

    def __init__(self, scenario: Scenario, ask: Ask, method: Method, start: Start) -> None:
        self.scenario, self.ask, self.method = scenario, ask, method
        self.plan = start.plan
        self.dialogue = start.dialogue
        self.critique: Critique | None = None
        self.revisions: tuple[Revision, ...] = ()
        self.candidates: tuple[Candidate, ...] = ()
        self.earlier_critiques: tuple[Critique, ...] = ()
        self.plan_adherence: tuple[bool, ...] = ()
        self.chat_start: tuple[Message, ...] = ()
        """What reviewers who continue the dialogue's chat find before the conversation."""

    def turn(self, conversation: tuple[Message, ...], reply: str) -> Turn:
        return Turn(conversation, reply, self.chat_start)

    async def judge(self, turn: Turn, stage: str, vote: Vote | None = None) -> Critique:
        method, principles = self.method, self.scenario.principles
        rule = vote or method.config.critique.vote
        return await judge(turn, principles, self.ask, stage, method.panel, rule)

    def record(self, outcome: Outcome, rule: str = "", failure: Failure | None = None) -> Record:
        return Record(
            scenario=self.scenario,
            outcome=outcome,
            rule=rule,
            plan=self.plan,
            dialogue=self.dialogue,
            critique=self.critique,
            revisions=self.revisions,
            failure=failure,
            usage=self.ask.usage,
            candidates=self.candidates,
            earlier_critiques=self.earlier_critiques,
            plan_adherence=self.plan_adherence,
            kinds=self.method.pairs,
        )
