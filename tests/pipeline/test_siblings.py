"""Siblings of the last reply: which samples are drawn, which ends the dialogue, which make pairs.

The drawing alone gets samples and critiques from tables. Through the pipeline, `Ask` is the real
one, over answers by step: a step that nobody scripted ends the test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config
from sdsd.errors import StageFailed
from sdsd.models.base import Capabilities
from sdsd.models.scripted import CHATML, ScriptedModel
from sdsd.pipeline.best_of_n import Chosen
from sdsd.pipeline.dialogue import ContextFull, DialogueTask
from sdsd.pipeline.directed import Directions
from sdsd.pipeline.method import PROMPTS, Method
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.pipeline.siblings import draw_siblings
from sdsd.runs.ask import Ask
from sdsd.runs.journal import Entry
from sdsd.runs.middleware import Call
from sdsd.scenarios import catalogue
from sdsd.scenarios.sampler import Scenarios
from sdsd.text.prompt_files import Prompt
from sdsd.types import (
    ROLES,
    Answer,
    Calibration,
    Candidate,
    Card,
    Completion,
    Critique,
    Direction,
    Example,
    Message,
    PairKind,
    Plan,
    ProtocolName,
    Record,
    Refusal,
    Request,
    Verdict,
)
from tests.factories.scripted import (
    CLEAN,
    DIALOGUE,
    SCENARIO,
    STRATEGIES,
    Made,
    StepAnswers,
    claim,
)

EXAMPLE = Example(
    "My ear hurts, what is it?",
    "An ear can hurt for many reasons, so let somebody look into it this week.",
    "It is the wind of last night and nothing else, I promise you that.",
    topic="an ear that hurts",
)
DIRECTED = Directions(SCENARIO.target_principle, (EXAMPLE,), load_prompt("directed"))
SAID = tuple(
    Message("assistant" if k % 2 else "user", text) for k, text in enumerate(DIALOGUE[:-1])
)


def judged(
    nats: float | None = None,
    *,
    violated: bool = False,
    other: bool = False,
    p: float | None = None,
) -> Critique:
    """A critique: `violated` says whether of the target, `other` whether of the other principle."""
    target = Verdict("honest", violated, "r", grounded=violated, contrast=nats, probability=p)
    return Critique((target, Verdict("careful", other, "r", grounded=other)))


BAD, GOOD = judged(violated=True), judged()


class Table(Struct):
    """Samples by step, critiques by text, and what was asked for."""

    samples: Mapping[str, str | Exception]
    critiques: Mapping[str, Critique | StageFailed]
    asked: dict[str, Request] = {}
    judged: list[tuple[str, str]] = []
    """Stage and text."""

    async def ask(self, step: str, request: Request) -> Completion:
        short = step.removeprefix("turn/2/")
        self.asked[short] = request
        found = self.samples[short]
        if isinstance(found, Exception):
            raise found
        return Completion(found)

    async def judge(self, text: str, stage: str) -> Critique:
        self.judged.append((stage, text))
        found = self.critiques[text]
        if isinstance(found, StageFailed):
            raise found
        return found

    async def chosen(self, siblings: int = 3, attempts: int = 1) -> Chosen:
        plan = Plan("text", ("a", "b"), "c", persona="Ann")
        task = DialogueTask(
            SCENARIO,
            plan,
            self.ask,
            config.DialogueConfig(siblings=siblings),
            Prompt("", "", {}),
            attempts,
            STRATEGIES["direct"],
        )
        return await draw_siblings(task, SAID, DIRECTED, self.judge)


def table(
    violating: Mapping[str, Critique | StageFailed],
    satisfying: Mapping[str, Critique | StageFailed] = {},
) -> Table:
    """Samples in the order drawn under either direction, each with its critique."""
    ways: dict[Direction, Mapping[str, Critique | StageFailed]] = {
        "violate": violating,
        "satisfy": satisfying,
    }
    samples = {
        f"{way}/{number}": text
        for way, replies in ways.items()
        for number, text in enumerate(replies, 1)
    }
    return Table(samples, {**violating, **satisfying})


# -- what is drawn -------------------------------------------------------------------------


async def test_the_first_that_a_critic_confirms_ends_either_direction() -> None:
    drawn = table({"No need.": BAD}, {"Please do.": GOOD})
    chosen = await drawn.chosen()
    assert list(drawn.asked) == ["violate/1", "satisfy/1"]
    assert drawn.judged == [("critique", "No need."), ("candidate/2", "Please do.")]
    assert chosen == Chosen("No need.", BAD, (Candidate("Please do.", GOOD, "satisfy"),))


async def test_sampling_goes_on_until_one_is_confirmed() -> None:
    both = judged(violated=True, other=True)
    drawn = table({"a": GOOD, "b": BAD}, {"c": judged(other=True), "d": both, "e": GOOD})
    chosen = await drawn.chosen()
    assert list(drawn.asked) == ["violate/1", "violate/2", "satisfy/1", "satisfy/2", "satisfy/3"]
    assert [stage for stage, _ in drawn.judged] == [
        "critique", "candidate/2", "candidate/3", "candidate/4", "candidate/5",
    ]  # fmt: skip
    assert (chosen.text, chosen.critique) == ("b", BAD)
    assert [(c.text, c.direction) for c in chosen.others] == [
        ("a", "violate"), ("c", "satisfy"), ("d", "satisfy"), ("e", "satisfy"),
    ]  # fmt: skip


@pytest.mark.parametrize("siblings", [1, 2, 4])
async def test_where_nothing_is_violated_no_satisfying_reply_is_drawn(siblings: int) -> None:
    drawn = table(dict.fromkeys("abcd"[:siblings], GOOD))
    chosen = await drawn.chosen(siblings)
    assert list(drawn.asked) == [f"violate/{k}" for k in range(1, siblings + 1)]
    assert chosen.text == "a"
    assert len(chosen.others) == siblings - 1


async def test_where_the_target_is_satisfied_the_violation_of_another_principle_will_do() -> None:
    other = judged(other=True)
    drawn = table({"a": GOOD, "b": other, "c": judged(-9.0)}, {"d": other, "e": GOOD})
    chosen = await drawn.chosen()
    assert list(drawn.asked) == ["violate/1", "violate/2", "violate/3", "satisfy/1", "satisfy/2"]
    assert (chosen.text, chosen.critique) == ("b", other)


async def test_a_violation_of_the_target_goes_before_that_of_another_principle() -> None:
    drawn = table({"a": judged(other=True), "b": BAD}, {"c": GOOD})
    assert (await drawn.chosen()).text == "b"


async def test_satisfying_samples_have_the_same_limit() -> None:
    drawn = table({"a": BAD}, {"b": BAD, "c": judged(other=True)})
    chosen = await drawn.chosen(siblings=2)
    assert list(drawn.asked) == ["violate/1", "satisfy/1", "satisfy/2"]
    assert not any(candidate.critique.clean for candidate in chosen.others)


async def test_each_direction_has_its_own_chat_and_shows_no_sibling() -> None:
    drawn = table({"No need.": BAD}, {"Please do.": GOOD})
    await drawn.chosen()
    ways: tuple[Direction, ...] = ("violate", "satisfy")
    for way in ways:
        request = drawn.asked[f"{way}/1"]
        assert request.messages == DIRECTED.chat(way, SAID)
        assert (request.role, request.purpose) == ("agent", "agent_turn")
        assert "No need." not in str(request.messages)


# -- which one ends the dialogue -------------------------------------------------------------


@pytest.mark.parametrize(
    ("clear", "less"),
    [(judged(-2.0), judged(3.0)), (judged(p=0.4), judged(p=0.1)), (judged(p=0.1), judged())],
)
async def test_where_none_is_confirmed_the_clearest_ends_the_dialogue(
    clear: Critique, less: Critique
) -> None:
    for replies in ({"a": less, "b": clear}, {"b": clear, "a": less}):
        chosen = await table(replies).chosen(siblings=2)
        assert (chosen.text, chosen.critique) == ("b", clear)
        assert chosen.others == (Candidate("a", less, "violate"),)


async def test_a_confirmed_one_goes_before_whatever_looks_clearer() -> None:
    confirmed = judged(1.0, violated=True, p=0.2)
    others = {"a": judged(-9.0, p=0.9)}
    chosen = await table({**others, "b": confirmed}, {"c": judged(-20.0, p=0.99)}).chosen(2)
    assert (chosen.text, chosen.critique) == ("b", confirmed)


async def test_what_says_the_same_is_judged_once() -> None:
    drawn = table({"It is fine.": GOOD, "IT is\nfine.": GOOD, "No need.": BAD}, {"no  need.": GOOD})
    drawn.samples = {**drawn.samples, "satisfy/2": "It is fine.", "satisfy/3": "Please do."}
    drawn.critiques = {**drawn.critiques, "Please do.": GOOD}
    chosen = await drawn.chosen()
    assert drawn.judged == [
        ("critique", "It is fine."), ("candidate/2", "No need."), ("candidate/3", "Please do."),
    ]  # fmt: skip
    assert chosen.text == "No need."


# -- failures --------------------------------------------------------------------------------

LOST: list[Callable[[], StageFailed]] = [
    lambda: StageFailed("turn/2/violate/1", "HTTP 400", kind="rejected"),
    lambda: StageFailed("turn/2/violate/1", "too long", kind="context_full"),
]


@pytest.mark.parametrize("fault", LOST)
async def test_the_first_sample_must_be_had(fault: Callable[[], StageFailed]) -> None:
    drawn = Table({"violate/1": fault()}, {})
    with pytest.raises(ContextFull if fault().kind == "context_full" else StageFailed):
        await drawn.chosen()
    assert drawn.judged == []


def unreadable(*steps: str) -> dict[str, str]:
    """The user's words said back, in every attempt at these samples."""
    tries = (f"{step}{retry}" for step in steps for retry in ("", "/retry/1"))
    return dict.fromkeys(tries, SAID[-1].content)


async def test_a_first_sample_that_cannot_be_read_is_left_out() -> None:
    drawn = Table(
        {**unreadable("violate/1"), "violate/2": "a", "satisfy/1": "b"}, {"a": BAD, "b": GOOD}
    )
    chosen = await drawn.chosen()
    assert (chosen.text, chosen.others) == ("a", (Candidate("b", GOOD, "satisfy"),))


async def test_one_sample_at_least_must_be_readable() -> None:
    drawn = Table(unreadable("violate/1", "violate/2"), {})
    with pytest.raises(StageFailed, match="repeats an earlier") as failed:
        await drawn.chosen(siblings=2)
    assert failed.value.step == "turn/2/violate/1"


@pytest.mark.parametrize("fault", LOST)
async def test_a_later_sample_that_cannot_be_had_is_left_out(
    fault: Callable[[], StageFailed],
) -> None:
    samples: dict[str, str | Exception] = {
        "violate/1": "a", "violate/2": fault(), "violate/3": "b",
        "satisfy/1": fault(), "satisfy/2": "c",
    }  # fmt: skip
    drawn = Table(samples, {"a": GOOD, "b": BAD, "c": GOOD})
    chosen = await drawn.chosen()
    assert (chosen.text, chosen.failure) == ("b", None)
    assert chosen.others == (Candidate("a", GOOD, "violate"), Candidate("c", GOOD, "satisfy"))


async def test_a_sample_that_copies_an_example_is_asked_for_again() -> None:
    copied = {"violate/1": EXAMPLE.violates, "violate/1/retry/1": "No need.", "satisfy/1": "Do."}
    drawn = Table(copied, {"No need.": BAD, "Do.": GOOD})
    assert (await drawn.chosen(attempts=2)).text == "No need."


@pytest.mark.parametrize(("failing", "text"), [("a", "a"), ("b", "a"), ("c", "b"), ("d", "b")])
async def test_where_the_critic_fails_the_clearest_so_far_ends_the_dialogue(
    failing: str, text: str
) -> None:
    fault = StageFailed("candidate/2/1", "HTTP 400")
    known: dict[str, Critique | StageFailed] = {
        "a": judged(2.0), "b": judged(-3.0, violated=True), "c": BAD, "d": GOOD, failing: fault
    }  # fmt: skip
    violating, satisfying = ({k: known[k] for k in names} for names in ("ab", "cd"))
    chosen = await table(violating, satisfying).chosen()
    assert (chosen.text, chosen.failure) == (text, fault)
    assert (chosen.critique, chosen.others) == (None, ())


# -- what they are told ----------------------------------------------------------------------


def directions(card: Card) -> Directions:
    prompts = {name: load_prompt(name) for name in PROMPTS}
    method = Method(config.load({}), prompts, STRATEGIES, "chat", cards={"honest": card})
    return method.directions(SCENARIO.target_principle)


def test_a_card_that_says_how_to_violate_is_followed_word_for_word() -> None:
    told = directions(Card(violation="Promise the moon.", examples=(EXAMPLE,)))
    system, *rest = told.chat("violate", SAID)
    assert "Promise the moon." in system.content
    assert SCENARIO.target_principle.text not in system.content
    plain = directions(Card(examples=(EXAMPLE,)))
    assert rest[:-1] == list(plain.chat("violate", SAID)[1:-1])
    assert told.chat("satisfy", SAID) == plain.chat("satisfy", SAID)


def test_without_one_the_principle_is_to_be_broken() -> None:
    system, *rest = directions(Card(examples=(EXAMPLE,))).chat("violate", SAID)
    assert SCENARIO.target_principle.text in system.content
    assert rest[-1] == SAID[-1]


def test_what_to_do_is_told_again_after_the_last_message() -> None:
    told = directions(Card(violation="Promise the moon.", examples=(EXAMPLE,)))
    ways: tuple[Direction, ...] = ("satisfy", "violate")
    last = {way: told.chat(way, SAID)[-1].content for way in ways}
    assert last["violate"] == f"{SAID[-1].content}\n\n(Promise the moon.)"
    assert last["satisfy"] == f"{SAID[-1].content}\n\n({SCENARIO.target_principle.text})"
    told = directions(Card(satisfaction="Promise little."))
    assert told.chat("satisfy", SAID)[-1].content == f"{SAID[-1].content}\n\n(Promise little.)"


def test_a_reply_is_cut_where_it_repeats_what_it_was_told() -> None:
    told = directions(Card(violation="Promise the moon.", examples=(EXAMPLE,)))
    for echo in ("(Promise the moon.)", "Promise the moon."):
        assert told.before_reminder("violate", f"Wait.\n\n{echo} Or so.") == "Wait."
        assert told.before_reminder("violate", echo) == ""
        assert told.before_reminder("satisfy", echo) == echo
    for whole in ("Wait a week. ", "Wait (a week", ""):
        assert told.before_reminder("violate", whole) == whole
        assert DIRECTED.before_reminder("violate", whole) == whole


# -- through the pipeline --------------------------------------------------------------------

Reply = str | Answer
CONTRAST: tuple[PairKind, ...] = ("contrast",)
SIBLINGS: dict[str, Reply] = {
    "turn/2/violate/1": DIALOGUE[-1],
    "turn/2/satisfy/1": "See a doctor if it lasts.",
    "critique/1": claim("trust me"),
    "critique/2": CLEAN,
    "candidate/2/1": CLEAN,
    "candidate/2/2": CLEAN,
}
"""The first sample violates the target principle, and the second nothing."""


async def make(
    answers: Mapping[str, Reply] = SIBLINGS,
    *,
    protocol: ProtocolName = "roleplay",
    pairs: tuple[PairKind, ...] = CONTRAST,
    calibration: Calibration | None = None,
    **overrides: Any,
) -> Made:
    script = StepAnswers(answers)
    chosen = config.load(None, {k.replace("__", "."): v for k, v in overrides.items()})
    prompts = {name: load_prompt(name) for name in PROMPTS}
    ask = Ask(SCENARIO.id, 0, {}, script.send, dict.fromkeys(ROLES, "scripted"))
    cards = {"honest": Card(examples=(EXAMPLE,))}
    read = {"": calibration} if calibration else {}
    method = Method(
        chosen, prompts, STRATEGIES, protocol, CHATML,
        schema=True, pairs=pairs, cards=cards, calibrations=read,
    )  # fmt: skip
    return Made(await make_record(SCENARIO, ask, method), script.calls, script.given)


@pytest.mark.parametrize("protocol", ["transcript", "continuation", "chat", "roleplay"])
async def test_two_siblings_make_a_contrast_pair_and_no_reviser_is_asked(
    protocol: ProtocolName,
) -> None:
    made = await make(
        SIBLINGS | {"turn/2/violate/1": "It is nothing, trust me."}, protocol=protocol
    )
    record = made.record
    assert (record.outcome, record.rule) == ("accepted", "")
    assert record.dialogue is not None
    assert record.dialogue.last_reply == "It is nothing, trust me."
    assert [m.content for m in record.dialogue.messages[:-1]] == list(DIALOGUE[:-1])
    assert [(pair.kind, pair.chosen) for pair in record.pairs] == [
        ("contrast", "See a doctor if it lasts.")
    ]
    assert record.pairs[0].verified_by == ("verdict",)
    assert not {"turn/2/agent", "revise/1"} & made.calls.keys()
    assert record.revisions == ()


async def test_siblings_see_the_conversation_and_the_examples_but_not_the_plan() -> None:
    made = await make(
        {"plan": "PERSON: Quentin\nSTEP 1: zig\nSTEP 2: zag\nSLIP: zounds", **SIBLINGS}
    )
    for way in ("violate", "satisfy"):
        asked = made.text(f"turn/2/{way}/1")
        assert all(text in asked for text in (EXAMPLE.user, *DIALOGUE[:-1]))
        assert not any(word in asked for word in ("Quentin", "zig", "zag", "zounds"))


async def test_siblings_are_shown_other_examples_than_the_critic() -> None:
    """As far as the card has others: here it has one, and the critic is shown one."""
    card = Card(examples=(EXAMPLE, replace(EXAMPLE, user="And my nose?", topic="a nose")))
    prompts = {name: load_prompt(name) for name in PROMPTS}
    method = Method(config.Config(), prompts, STRATEGIES, "chat", cards={"honest": card})
    target = SCENARIO.target_principle
    assert method.directions(target).examples == card.examples[1:]
    assert method.panel.directions(target, 1).examples == card.examples[:1]
    few = replace(method, cards={"honest": Card(examples=card.examples[:1])})
    assert few.directions(target).examples == card.examples[:1]


async def test_without_a_violation_there_is_nothing_to_pair() -> None:
    clean = {**SIBLINGS, "critique/1": CLEAN}
    made = await make(clean, dialogue__siblings=1)
    assert (made.record.outcome, made.record.rule) == ("filtered", "no_violation")
    assert made.record.pairs == ()
    assert "turn/2/satisfy/1" not in made.calls


async def test_a_violation_without_a_satisfying_reply_is_filtered_by_its_rule() -> None:
    unclean = {**SIBLINGS, "candidate/2/2": claim("a doctor")}
    made = await make(unclean, dialogue__siblings=1)
    assert (made.record.outcome, made.record.rule) == ("filtered", "no_satisfying_reply")
    assert [c.direction for c in made.record.candidates] == ["satisfy"]
    # With revisions wanted as well, a repaired reply still makes a pair.
    both: tuple[PairKind, ...] = ("contrast", "revision")
    made = await make(unclean, pairs=both, dialogue__siblings=1)
    assert [pair.kind for pair in made.record.pairs] == ["revision"]


CLEAN_FIRST: dict[str, Reply] = {
    "critique/1": CLEAN,
    "turn/2/violate/2": "It is nothing, trust me.",
    "candidate/2/1": claim("trust me"),
    "candidate/2/2": CLEAN,
    "candidate/3/1": CLEAN,
    "candidate/3/2": CLEAN,
}
"""The first sample that was told to violate the principle satisfies it, the second does not."""


@pytest.mark.parametrize(
    ("pairs", "kinds"),
    [(CONTRAST, ["contrast"]), (("contrast", "on_policy"), ["on_policy", "contrast"])],
)
async def test_a_clean_sample_that_was_told_to_violate_makes_a_pair_only_if_that_kind_is_wanted(
    pairs: tuple[PairKind, ...], kinds: list[str]
) -> None:
    made = await make(SIBLINGS | CLEAN_FIRST, pairs=pairs, dialogue__siblings=2)
    assert [c.direction for c in made.record.candidates] == ["violate", "satisfy"]
    assert [pair.kind for pair in made.record.pairs] == kinds
    assert made.record.kinds == pairs


async def test_without_a_pair_of_a_wanted_kind_a_dialogue_is_not_accepted() -> None:
    unclean = CLEAN_FIRST | {"candidate/3/2": claim("a doctor"), "turn/2/satisfy/2": "a doctor!"}
    unclean |= {"candidate/4/1": CLEAN, "candidate/4/2": claim("a doctor")}
    made = await make(SIBLINGS | unclean, dialogue__siblings=2)
    assert (made.record.outcome, made.record.rule) == ("filtered", "no_satisfying_reply")
    assert made.record.pairs == ()
    both = await make(SIBLINGS | unclean, pairs=("contrast", "on_policy"), dialogue__siblings=2)
    assert [pair.kind for pair in both.record.pairs] == ["on_policy"]


def test_a_record_that_does_not_say_what_it_was_to_make_may_have_all_kinds() -> None:
    """As those of earlier versions."""
    record = Record(SCENARIO, "filtered")
    older = msgspec.to_builtins(record)
    del older["kinds"]
    assert msgspec.convert(older, Record) == record
    assert set(record.kinds) == {"contrast", "revision", "on_policy"}


async def test_a_refused_first_sample_is_the_failure_of_its_step() -> None:
    made = await make({**SIBLINGS, "turn/2/violate/1": Refusal("HTTP 400", "no")})
    assert made.record.failure is not None
    assert (made.record.failure.step, made.record.failure.cause) == ("turn/2/violate/1", "HTTP 400")


async def test_without_room_for_a_sibling_the_last_complete_exchange_ends_the_dialogue() -> None:
    full: dict[str, Reply] = {
        "turn/2/violate/1": Refusal("too long", kind="context_full"),
        "critique/1": CLEAN,
    }
    made = await make({**SIBLINGS, **full})
    assert made.record.dialogue is not None
    assert made.record.dialogue.stop == "token_limit"
    assert made.record.dialogue.last_reply == DIALOGUE[1]


async def test_a_critic_that_fails_leaves_the_dialogue_in_the_record() -> None:
    made = await make({**SIBLINGS, "candidate/2/1": Refusal("HTTP 400")})
    assert made.record.failure is not None
    assert made.record.failure.step == "candidate/2/1"
    assert made.record.dialogue is not None
    assert made.record.dialogue.last_reply == DIALOGUE[-1]


# -- laws ------------------------------------------------------------------------------------

SCENARIOS = Scenarios(catalogue.load(), config.Config().scenarios, 0)
CARDS = catalogue.load().cards
SCORING = Capabilities(completions=True, template=CHATML, scoring="token_grammar")
TEXTS = {name: load_prompt(name) for name in PROMPTS}


async def made_with(
    index: int, siblings: int, recorded: Mapping[str, Entry]
) -> tuple[Record, dict[str, Entry], set[str]]:
    """The record of a scenario with `contrast` pairs, what was sent, and all steps asked."""
    model, sent = ScriptedModel(capabilities=SCORING), dict[str, Entry]()

    async def send(call: Call) -> Answer:
        answer = await model.complete(call.request, call.seed)
        sent[call.step] = Entry(call.asked, answer)
        return answer

    chosen = config.load({"dialogue": {"siblings": siblings}, "critique": {"method": "contrast"}})
    method = Method(chosen, TEXTS, STRATEGIES, "continuation", CHATML, pairs=CONTRAST, cards=CARDS)
    scenario = SCENARIOS[index]
    ask = Ask(scenario.id, 0, recorded, send, dict.fromkeys(ROLES, model.name))
    return await make_record(scenario, ask, method), sent, ask.asked


@settings(max_examples=30)
@given(st.integers(0, 5000), st.integers(1, 4), st.data())
async def test_a_replay_asks_the_same_steps_and_makes_the_same_record(
    index: int, siblings: int, data: st.DataObject
) -> None:
    record, sent, asked = await made_with(index, siblings, {})
    assert asked == sent.keys()
    done = data.draw(st.integers(0, len(sent)))
    again, new, replayed = await made_with(index, siblings, dict(list(sent.items())[:done]))
    assert (again, replayed) == (record, asked)
    assert list(new) == list(sent)[done:]


@settings(max_examples=30)
@given(st.integers(0, 5000), st.integers(1, 4))
async def test_what_holds_of_every_dialogue_with_siblings(index: int, siblings: int) -> None:
    record, _, asked = await made_with(index, siblings, {})
    drawn = {way: sum(f"/{way}/" in s for s in asked if s.startswith("turn/") and "retry" not in s)
             for way in ("violate", "satisfy")}  # fmt: skip
    assert all(n <= siblings for n in drawn.values())
    assert record.critique is not None
    target = record.scenario.target_principle.id
    violated = bool(record.critique.violations)
    assert violated == bool(drawn["satisfy"])
    assert (record.outcome == "accepted") <= violated
    for candidate in record.candidates:
        if candidate.direction == "violate":  # one that was confirmed would have ended it
            assert target not in candidate.critique.violations
    kinds = [pair.kind for pair in record.pairs]
    assert kinds in ([], ["contrast"])
    assert not any(step.startswith(("revise", "recheck")) for step in asked)


# -- by margin ---------------------------------------------------------------------------------

UNSURE = Calibration(
    0.1,
    0.0,
    violated_from=2.0,
    satisfied_to=-1.0,
    trusted=True,
    pair_slope=1.0,
    pair_mean=2.0,
    pair_most=20.0,
    pair_from=0.9,
)
"""No reply can be labelled alone; a margin of 7 nats settles two."""


def scored(step: str, satisfy: float, violate: float) -> dict[str, Reply]:
    return {
        f"{step}/1/satisfy": Completion("", logprob=satisfy),
        f"{step}/1/violate": Completion("", logprob=violate),
    }


BY_MARGIN: dict[str, Reply] = {
    "turn/2/violate/1": DIALOGUE[-1],
    "turn/2/satisfy/1": "See a doctor if it lasts.",
    **scored("critique", -40.0, -39.0),
    **scored("candidate/2", -30.0, -37.0),
}


async def by_margin(
    answers: Mapping[str, Reply], siblings: int = 2, calibration: Calibration = UNSURE
) -> Made:
    return await make(
        answers, calibration=calibration, critique__method="contrast", dialogue__siblings=siblings
    )


async def test_a_margin_makes_a_pair_of_replies_that_no_critic_could_label_alone() -> None:
    made = await by_margin(BY_MARGIN)
    record = made.record
    assert record.outcome == "accepted"
    assert record.critique is not None
    assert record.critique.violations == ("honest",)
    (pair,) = record.pairs
    assert (pair.kind, pair.chosen) == ("contrast", "See a doctor if it lasts.")
    assert (pair.verified_by, pair.probability) == (("contrast",), 0.9427)
    assert record.verified == record.pairs


async def test_a_critic_that_can_verify_nothing_gets_one_of_each_and_an_unverified_pair() -> None:
    unable = replace(UNSURE, pair_from=2.0)
    record = (await by_margin(BY_MARGIN, 3, unable)).record
    assert record.outcome == "accepted"
    (pair,) = record.pairs
    assert (pair.verified_by, pair.probability) == ((), 0.9427)
    assert record.verified == ()
    against = BY_MARGIN | scored("candidate/2", -37.0, -30.0)
    record = (await by_margin(against, 3, unable)).record
    assert (record.outcome, record.rule, record.pairs) == ("filtered", "undecided", ())


async def test_a_program_that_decides_another_principle_verifies_no_pair() -> None:
    """The target's labels rest on a critic that can verify nothing."""
    unable = replace(UNSURE, pair_from=2.0)
    record = (await by_margin(BY_MARGIN, 3, unable)).record
    exact = Verdict("brief", violated=False, reason="", signal="program")

    def beside(critique: Critique | None) -> Critique:
        assert critique is not None
        return replace(critique, verdicts=(*critique.verdicts, exact))

    (candidate,) = record.candidates
    candidates = (replace(candidate, critique=beside(candidate.critique)),)
    both = replace(record, critique=beside(record.critique), candidates=candidates)
    assert [pair.verified_by for pair in both.pairs] == [()]
    assert both.verified == ()


async def test_a_narrow_margin_asks_for_more_and_the_best_two_are_taken() -> None:
    more = {
        **scored("candidate/2", -30.0, -32.0),
        "turn/2/violate/2": "Trust me, it is nothing at all.",
        **scored("candidate/3", -50.0, -44.0),
    }
    made = await by_margin(BY_MARGIN | more)
    record = made.record
    assert record.dialogue is not None
    assert record.dialogue.last_reply == "Trust me, it is nothing at all."
    assert [pair.chosen for pair in record.pairs] == ["See a doctor if it lasts."]
    assert len(record.candidates) == 2  # the clear one of the first two was not sampled again


async def test_a_reply_labelled_by_a_margin_makes_a_pair_with_no_other_sample() -> None:
    more = {
        **scored("candidate/2", -30.0, -32.0),
        "turn/2/violate/2": "Trust me, it is nothing at all.",
        **scored("candidate/3", -50.0, -44.0),
    }
    labels_clean = replace(UNSURE, satisfied_to=0.49)
    made = await make(
        BY_MARGIN | scored("critique", -40.0, -41.0) | more,
        calibration=labels_clean,
        critique__method="contrast",
        dialogue__siblings=2,
    )
    record = made.record
    assert [c.critique.clean for c in record.candidates] == [True, True]
    assert [pair.chosen for pair in record.pairs] == ["See a doctor if it lasts."]


async def test_where_no_margin_is_wide_enough_the_dialogue_is_undecided() -> None:
    made = await by_margin(BY_MARGIN | scored("candidate/2", -30.0, -32.0), siblings=1)
    assert (made.record.outcome, made.record.rule) == ("filtered", "undecided")
    assert made.record.pairs == ()
