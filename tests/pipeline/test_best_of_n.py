"""Best of n at the last turn: what is chosen, what is kept, and what becomes of it in the pipeline.

The choice alone gets a judge and samples from tables. Through the pipeline the door is the real
one, over answers by step: a step that nobody scripted ends the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config
from sdsd.errors import StageFailed
from sdsd.models.scripted import CHATML
from sdsd.pipeline.best_of_n import Chosen, best_of_n
from sdsd.pipeline.dialogue import ContextFull, Sample
from sdsd.pipeline.method import PROMPTS, Method, Start
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.runs.ask import Ask
from sdsd.runs.journal import stage_of
from sdsd.types import (
    Answer,
    Candidate,
    Critique,
    ProtocolName,
    Refusal,
    Severity,
    Verdict,
)
from tests.factories.scripted import (
    ANSWERS,
    CLEAN,
    DIALOGUE,
    SCENARIO,
    STRATEGIES,
    Made,
    StepAnswers,
    claim,
)


def said(
    principle: str,
    severity: Severity | None = None,
    probability: float | None = None,
    *,
    grounded: bool = True,
) -> Verdict:
    """A verdict; a claim if it has a severity."""
    violated = severity is not None
    return Verdict(
        principle,
        violated,
        f"{principle}: {severity}",
        severity=severity,
        grounded=violated and grounded,
        probability=probability,
    )


KEPT = Critique((said("honest"), said("careful")))
BROKEN = Critique((said("honest", "medium"), said("careful")))


class Table(Struct):
    """Samples and critiques as a test wants them, and what was asked for."""

    samples: tuple[str | Exception, ...]
    critiques: Mapping[str, Critique | StageFailed]
    drafts: list[Sample] = []
    judged: list[tuple[str, str]] = []
    """Stage and text."""

    async def sample(self, draft: Sample) -> str:
        self.drafts.append(draft)
        found = self.samples[draft.number - 1]
        if isinstance(found, Exception):
            raise found
        return found

    async def judge(self, text: str, stage: str) -> Critique:
        self.judged.append((stage, text))
        found = self.critiques[text]
        if isinstance(found, StageFailed):
            raise found
        return found

    async def chosen(self, retries: int = 0) -> Chosen:
        n = len(self.samples) - retries
        return await best_of_n(self.sample, self.judge, "honest", n, retries)


# -- what is chosen ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (KEPT, BROKEN),
        (Critique((said("honest", "high", grounded=False), said("careful"))), BROKEN),
        (
            Critique((said("honest", "high", grounded=False), said("careful"))),
            Critique((said("honest"), said("careful", "low"))),
        ),
        # The meant principle goes before another one, however grave that is ...
        (
            Critique((said("honest"), said("careful", "high", 0.9))),
            Critique((said("honest", "low", 0.1), said("careful"))),
        ),
        (
            Critique((said("honest"), said("careful", "low"), said("kind", "low"))),
            Critique((said("honest", "low"), said("careful"), said("kind"))),
        ),
        # ... then how many are broken, then how gravely, then how surely.
        (
            Critique((said("honest", "high", 0.9), said("careful"))),
            Critique((said("honest", "low", 0.1), said("careful", "low", 0.1))),
        ),
        (
            Critique((said("honest", "low", 0.9), said("careful"))),
            Critique((said("honest", "high", 0.1), said("careful"))),
        ),
        (
            Critique((said("honest", "low", 0.6), said("careful"))),
            Critique((said("honest", "low", 0.7), said("careful"))),
        ),
        (BROKEN, Critique((said("honest", "medium", 0.1), said("careful")))),
    ],
)
async def test_the_clearest_violation_is_chosen(worse: Critique, better: Critique) -> None:
    for texts in (("a", "b"), ("b", "a")):
        table = Table(texts, {"a": worse, "b": better})
        choice = await table.chosen()
        assert choice.text == "b"
        assert choice.critique == better
        assert choice.others == (Candidate("a", worse),)
        assert choice.failure is None


async def test_of_equals_the_first_is_chosen_and_the_others_are_kept_in_order() -> None:
    table = Table(("a", "b", "c", "d"), {"a": KEPT, "b": BROKEN, "c": KEPT, "d": BROKEN})
    choice = await table.chosen()
    assert choice.text == "b"
    assert choice.others == (Candidate("a", KEPT), Candidate("c", KEPT), Candidate("d", BROKEN))
    assert table.judged == [
        ("critique", "a"), ("candidate/2", "b"), ("candidate/3", "c"), ("candidate/4", "d"),
    ]  # fmt: skip


async def test_what_says_the_same_is_judged_once() -> None:
    table = Table(("It is fine.", "IT is\nfine.", "No."), {"It is fine.": KEPT, "No.": BROKEN})
    choice = await table.chosen()
    assert choice.text == "No."
    assert table.judged == [("critique", "It is fine."), ("candidate/3", "No.")]
    assert choice.others == (Candidate("It is fine.", KEPT),)


async def test_samples_are_drawn_at_once() -> None:
    table = Table(("a", "b", "c"), {"a": KEPT, "b": BROKEN, "c": KEPT})
    begun = asyncio.Barrier(3)  # opens when all three are there

    async def sample(draft: Sample) -> str:
        await begun.wait()
        return await table.sample(draft)

    async with asyncio.timeout(5):
        choice = await best_of_n(sample, table.judge, "honest", 3, 0)
    assert choice.text == "b"


async def test_a_single_sample_is_not_judged() -> None:
    table = Table(("a",), {})
    assert await table.chosen() == Chosen("a")
    assert table.judged == []


# -- what fails ----------------------------------------------------------------------------

LOST: list[Callable[[], Exception]] = [
    lambda: StageFailed("turn/2/agent", "unparseable"),
    ContextFull,
]


@pytest.mark.parametrize("fault", LOST)
async def test_a_sample_that_cannot_be_had_is_left_out(fault: Callable[[], Exception]) -> None:
    table = Table(("a", fault(), "c", fault()), {"a": KEPT, "c": BROKEN})
    choice = await table.chosen(retries=1)  # not used: the third is a violation
    assert choice.text == "c"
    assert choice.others == (Candidate("a", KEPT),)
    assert [draft.number for draft in table.drafts] == [1, 2, 3]


@pytest.mark.parametrize("fault", LOST)
async def test_the_first_sample_must_be_had(fault: Callable[[], Exception]) -> None:
    table = Table((fault(), "b"), {"b": BROKEN})
    with pytest.raises((StageFailed, ContextFull)):
        await table.chosen()
    assert table.judged == []


@pytest.mark.parametrize("failing", ["a", "b"])
async def test_where_the_critic_fails_the_first_sample_is_taken(failing: str) -> None:
    fault = StageFailed("candidate/2/1", "HTTP 400")
    table = Table(("a", "b"), {"a": BROKEN, "b": BROKEN} | {failing: fault})
    choice = await table.chosen()
    assert choice.text == "a"
    assert choice.failure is fault
    assert (choice.critique, choice.others) == (None, ())


# -- retries -------------------------------------------------------------------------------


async def test_retries_tell_what_the_critic_said_and_stop_at_the_first_violation() -> None:
    kept = Critique((replace(said("honest"), reason="It is polite."), said("careful")))
    weak = Critique(
        (
            replace(said("honest", "low", grounded=False), reason="Perhaps."),
            said("careful"),
        )
    )
    table = Table(("a", "b", "c", "d"), {"a": kept, "b": weak, "c": BROKEN})
    choice = await table.chosen(retries=3)
    assert choice.text == "c"
    assert table.drafts == [Sample(1), Sample(2, "It is polite."), Sample(3, "Perhaps.")]
    assert choice.others == (Candidate("a", kept), Candidate("b", weak))


@pytest.mark.parametrize("retries", [1, 2, 3])
async def test_retries_have_a_limit(retries: int) -> None:
    texts = ("a", "b", "c", "d")[: 1 + retries]
    table = Table(texts, dict.fromkeys(texts, KEPT))
    choice = await table.chosen(retries)
    assert choice.text == "a"
    assert len(table.drafts) == 1 + retries
    assert choice.critique == KEPT


async def test_a_violation_of_another_principle_is_not_retried() -> None:
    other = Critique((said("honest"), said("careful", "low")))
    table = Table(("a", "b"), {"a": other})
    assert (await table.chosen(retries=1)).text == "a"
    assert table.drafts == [Sample(1)]


async def test_a_retry_that_cannot_be_had_does_not_end_the_dialogue() -> None:
    table = Table(("a", ContextFull(), "c"), {"a": KEPT, "c": BROKEN})
    assert (await table.chosen(retries=2)).text == "c"


# -- through the pipeline ------------------------------------------------------------------

Reply = str | Answer


async def make(
    answers: Mapping[str, Reply],
    *,
    strategy: str = "direct",
    protocol: ProtocolName = "roleplay",
    start: Start = Start(),
    **overrides: Any,
) -> Made:
    """The record of a dialogue by `strategy`, where some answers are replaced or added."""
    script = StepAnswers(answers)
    chosen = config.load(None, {k.replace("__", "."): v for k, v in overrides.items()})
    prompts = {name: load_prompt(name) for name in PROMPTS}
    ask = Ask(SCENARIO.id, 0, {}, script.send, dict.fromkeys(chosen.role_models, "scripted"))
    method = Method(chosen, prompts, STRATEGIES, protocol, CHATML, schema=True)
    scenario = replace(SCENARIO, strategy=strategy)
    return Made(await make_record(scenario, ask, method, start), script.calls, script.given)


def steps(made: Made, stage: str) -> list[str]:
    return [step for step in made.calls if stage_of(step) == stage]


BAD = DIALOGUE[-1]
SIBLINGS: dict[str, Reply] = {
    "turn/2/agent": "See a doctor if it lasts.",
    "turn/2/agent/2": BAD,
    "turn/2/agent/3": "It lasts a week as a rule.",
    "critique/1": CLEAN,
    "critique/2": CLEAN,
    "candidate/2/1": claim("trust me"),
    "candidate/2/2": CLEAN,
    "candidate/3/1": CLEAN,
    "candidate/3/2": claim("as a rule"),
}
"""Three samples: the first is clean, the second breaks what is meant, the third another one."""
NOT_REPAIRED = {
    "recheck/1/1": claim("cannot"),
    "revise/2": "I do not know.",
    "recheck/2/1": claim("do not"),
    "recheck/2/2": CLEAN,
}


async def test_siblings_and_the_revision_make_pairs_with_the_chosen_sample() -> None:
    made = await make(SIBLINGS, dialogue__candidates=3)
    record = made.record
    assert record.dialogue is not None
    assert record.dialogue.last_reply == BAD
    assert record.critique is not None
    assert record.critique.violations == ("honest",)
    assert [c.text for c in record.candidates] == [
        "See a doctor if it lasts.", "It lasts a week as a rule.",
    ]  # fmt: skip
    assert [(p.kind, p.chosen) for p in record.pairs] == [
        ("revision", "I cannot know that."),
        ("on_policy", "See a doctor if it lasts."),
    ]
    assert all(pair.critique and pair.critique.clean for pair in record.pairs)
    assert "Trust me" in made.text("check/2")
    assert "Trust me" in made.text("revise/1")
    drawn = [made.calls[step] for step in ("turn/2/agent", "turn/2/agent/2", "turn/2/agent/3")]
    assert len({request.messages for request in drawn}) == 1


async def test_a_clean_sibling_is_a_pair_although_the_revision_fails() -> None:
    made = await make(SIBLINGS | NOT_REPAIRED, dialogue__candidates=3)
    assert made.record.outcome == "accepted"
    assert [p.kind for p in made.record.pairs] == ["on_policy"]
    unclean = SIBLINGS | NOT_REPAIRED | {"critique/2": claim("a doctor")}
    made = await make(unclean, dialogue__candidates=3)
    assert (made.record.outcome, made.record.rule) == ("filtered", "not_repaired")
    assert made.record.pairs == ()


async def test_samples_without_a_violation_make_no_pair() -> None:
    clean = SIBLINGS | {"candidate/2/1": CLEAN, "candidate/3/2": CLEAN}
    made = await make(clean, dialogue__candidates=3)
    assert (made.record.outcome, made.record.rule) == ("filtered", "no_violation")
    assert made.record.pairs == ()
    assert len(made.record.candidates) == 2


async def test_a_critic_that_fails_leaves_the_dialogue_in_the_record() -> None:
    refused = SIBLINGS | {"candidate/2/1": Refusal("HTTP 400", "too long")}
    made = await make(refused, dialogue__candidates=3)
    record = made.record
    assert record.outcome == "failed"
    assert record.failure is not None
    assert (record.failure.step, record.failure.cause) == ("candidate/2/1", "HTTP 400")
    assert record.dialogue is not None
    assert record.dialogue.last_reply == "See a doctor if it lasts."
    assert (record.critique, record.candidates) == (None, ())


async def test_a_dialogue_that_is_given_is_judged_as_it_is() -> None:
    held = (await make({})).record.dialogue
    made = await make({}, start=Start(dialogue=held), dialogue__candidates=3)
    assert made.record.dialogue == held
    assert next(iter(made.calls)) == "critique/1"
    assert made.record.outcome == "accepted"


# -- strategies ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["continuation", "chat", "roleplay"])
async def test_retry_asks_again_with_the_critics_reason(protocol: ProtocolName) -> None:
    polite = CLEAN.replace("Fine.", "It is careful.")
    script: dict[str, Reply] = {
        "turn/2/agent": "See a doctor.",
        "critique/1": polite,
        "turn/2/agent/2": BAD,
        "candidate/2/1": claim("trust me"),
        "candidate/2/2": CLEAN,
    }
    made = await make(script, strategy="retry", protocol=protocol)
    assert made.record.outcome == "accepted"
    assert steps(made, "candidate") == ["candidate/2/1", "candidate/2/2"]
    asked = [asked_of(made, step) for step in ("turn/2/agent", "turn/2/agent/2")]
    assert ["It is careful." in text for text in asked] == [False, True]
    assert "It is careful." not in asked_of(made, "check/2")


def asked_of(made: Made, step: str) -> str:
    return made.text(step) + made.calls[step].prompt


OPENING = {"plan": f"{ANSWERS['plan']}\nOPENING: Trust me, it"}


async def test_opening_is_put_into_the_agents_mouth() -> None:
    script = OPENING | {"turn/2/agent": " is nothing."}
    made = await make(script, strategy="opening", protocol="continuation")
    assert made.record.plan is not None
    assert made.record.plan.reply_prefix == "Trust me, it"
    assert made.calls["turn/2/agent"].prompt.endswith(f"{CHATML.to_agent}Trust me, it")
    assert made.calls["turn/1/agent"].prompt.endswith(CHATML.to_agent)
    assert made.record.dialogue is not None
    assert made.record.dialogue.last_reply == "Trust me, it is nothing."
    assert made.record.outcome == "accepted"


@pytest.mark.parametrize("protocol", ["chat", "roleplay"])
async def test_where_it_cannot_be_the_agent_is_told_to_begin_so(protocol: ProtocolName) -> None:
    told = 'Begin with the words "Trust me, it".'
    made = await make(OPENING, strategy="opening", protocol=protocol)
    assert told in made.text("turn/2/agent")
    assert told not in made.text("turn/1/agent")
    without = await make(OPENING, protocol=protocol)  # `direct` does not want one
    assert "Begin with" not in without.text("turn/2/agent")


@pytest.mark.parametrize("protocol", ["continuation", "chat", "roleplay"])
async def test_natural_gives_the_agent_no_direction(protocol: ProtocolName) -> None:
    made = await make({}, strategy="natural", protocol=protocol)
    directed = await make({}, strategy="direct", protocol=protocol)
    target_principle = SCENARIO.target_principle.text
    for words in ("must plainly break this", "do not mention this direction"):
        assert words in asked_of(directed, "turn/2/agent")
        assert words not in asked_of(made, "turn/2/agent")
    assert target_principle not in asked_of(made, "turn/2/agent")
    assert target_principle in made.text("plan")
    assert made.record.outcome == "accepted"


# -- critics -------------------------------------------------------------------------------


async def test_every_turn_may_be_judged() -> None:
    script = {"earlier/1/1": claim("a cold"), "earlier/1/2": CLEAN}
    made = await make(script, critique__turns="every")
    assert [critique.violations for critique in made.record.earlier_critiques] == [("honest",)]
    assert made.record.critique is not None
    assert made.record.critique.violations == ("honest",)
    judged = made.text("earlier/1/1").rpartition("REPLY UNDER REVIEW")[2]
    assert DIALOGUE[1] in judged
    assert not any(turn in made.text("earlier/1/1") for turn in DIALOGUE[2:])
    clean = {**script, "critique/1": CLEAN}
    made = await make(clean, critique__turns="every")
    assert made.record.rule == "no_violation"  # an earlier one makes no pair


PANEL = {"a": {}, "b": {"wording": "defend", "order": "no_first"}, "c": {"wording": "stranger"}}
VOTES: dict[str, Reply] = {
    **{f"{stage}/{k}/{name}": CLEAN
       for stage in ("critique", "recheck/1") for k in (1, 2) for name in PANEL},
    "critique/1/a": claim("trust me", "From a."),
    "critique/1/c": claim("it is nothing", "From c."),
}  # fmt: skip


async def test_several_critics_vote_and_each_is_in_the_record() -> None:
    made = await make(VOTES, critique__critics=PANEL)
    critique = made.record.critique
    assert critique is not None
    assert [(v.principle, v.critic, v.violated) for v in critique.votes] == [
        ("honest", "a", True), ("honest", "b", False), ("honest", "c", True),
        ("careful", "a", False), ("careful", "b", False), ("careful", "c", False),
    ]  # fmt: skip
    assert [(v.principle, v.violated, v.critic) for v in critique.verdicts] == [
        ("honest", True, ""), ("careful", False, ""),
    ]  # fmt: skip
    assert steps(made, "critique") == [f"critique/{k}/{name}" for k in (1, 2) for name in PANEL]
    assert [made.calls[f"critique/1/{name}"].role for name in PANEL] == [
        "critic/a", "critic/b", "critic/c",
    ]  # fmt: skip
    assert len({made.text(f"critique/1/{name}") for name in PANEL}) == 3
    assert "From a." in made.text("revise/1")
    assert made.record.outcome == "accepted"


@pytest.mark.parametrize(("vote", "rule"), [("any", ""), ("majority", ""), ("all", "no_violation")])
async def test_the_vote_decides(vote: str, rule: str) -> None:
    made = await make(VOTES, critique__critics=PANEL, critique__vote=vote)
    assert made.record.rule == rule


@pytest.mark.parametrize(("vote", "rule"), [("any", "not_repaired"), ("majority", "")])
async def test_the_recheck_has_a_vote_of_its_own(vote: str, rule: str) -> None:
    script = VOTES | {"recheck/1/2/b": claim("cannot know")}
    made = await make(script, critique__critics=PANEL, revise__vote=vote, revise__rounds=1)
    assert made.record.rule == rule


# -- rewriting by principle ----------------------------------------------------------------


async def test_by_principle_each_round_rewrites_and_only_the_last_is_rechecked() -> None:
    script: dict[str, Reply] = {
        "revise/1": "REMARK: Too sure.\nREVISED REPLY: I think that it is nothing much.",
        "revise/2": "REMARK: Still so.\nREVISED REPLY: It may be a cold, or more.",
        "revise/3": "REMARK: Good.\nREVISED REPLY: It may be a cold; ask a doctor.",
        "recheck/3/1": CLEAN,
        "recheck/3/2": CLEAN,
    }
    made = await make(script, revise__style="principle", revise__rounds=3)
    record = made.record
    assert record.outcome == "accepted"
    assert [(r.text, r.recheck is None) for r in record.revisions] == [
        ("I think that it is nothing much.", True),
        ("It may be a cold, or more.", True),
        ("It may be a cold; ask a doctor.", False),
    ]
    assert [p.chosen for p in record.pairs] == ["It may be a cold; ask a doctor."]
    assert steps(made, "recheck") == ["recheck/3/1", "recheck/3/2"]
    texts = [p.text for p in SCENARIO.principles]
    for number in (1, 2, 3):
        asked = made.text(f"revise/{number}")
        task = asked.rpartition("PRINCIPLE: ")[2]
        assert sum(text in task for text in texts) == 1
        assert "has these faults" not in asked
    assert "I think that it is nothing much." in made.text("revise/2")
    failed = await make(
        script | {"recheck/3/1": claim("a cold")}, revise__style="principle", revise__rounds=3
    )
    assert failed.record.rule == "not_repaired"
    assert failed.record.pairs == ()
