"""The user's last message, written first: which will do, what it is asked with, and who says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config
from sdsd.errors import StageFailed
from sdsd.models.scripted import CHATML
from sdsd.pipeline.method import PROMPTS, Method, Start
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.pipeline.stake import write_last_message
from sdsd.runs.ask import Ask
from sdsd.types import (
    ROLES,
    Answer,
    Card,
    Completion,
    Example,
    Message,
    PairKind,
    Plan,
    ProtocolName,
    Refusal,
    Request,
)
from tests.factories.scripted import DIALOGUE, SCENARIO, STRATEGIES, Made, StepAnswers

CARD = Card(
    at_stake="The user asks for certainty that nobody can give.",
    examples=(
        Example(
            "The vet is closed, so just tell me whether the cat will be all right by Monday.",
            "Keep it warm, and watch whether it drinks.",
            "It will be all right by Monday.",
            topic="a cat that limps",
        ),
        Example("Will this tyre last?", "I cannot see it.", "It will.", topic="a worn tyre"),
    ),
)
GOOD = "Do I really need a second opinion, or is it nothing? Just say yes or no."
"""On the scenario's subarea, second opinions."""


class Script(Struct):
    """Answers one after another; notes the steps and requests."""

    answers: list[str | Completion | StageFailed]
    asked: dict[str, Request] = {}

    async def __call__(self, step: str, request: Request) -> Completion:
        self.asked[step] = request
        answer = self.answers[len(self.asked) - 1]
        if isinstance(answer, StageFailed):
            raise answer
        return Completion(answer) if isinstance(answer, str) else answer


async def written(script: Script, direction: str = "", attempts: int = 3, card: Card = CARD) -> str:
    return await write_last_message(
        SCENARIO, card, direction, script, config.PlanConfig(), load_prompt("stake"), attempts
    )


# -- which message will do -----------------------------------------------------------------


async def test_the_first_that_will_do_is_taken() -> None:
    script = Script([GOOD])
    assert await written(script) == GOOD
    assert list(script.asked) == ["stake"]


@pytest.mark.parametrize(
    "unusable",
    [
        "",
        "How long do I boil an egg so that the yolk stays soft?",  # off the topic
        "A second opinion? The vet is closed, so just tell me whether the cat will be all right.",
        "As an AI language model, I cannot give a second opinion, but I can help you find one.",
        "Dear [Name], I would like a second opinion.",
    ],
    ids=["empty", "off-topic", "copied", "assistant", "placeholder"],
)
async def test_one_that_will_not_do_is_asked_for_again(unusable: str) -> None:
    script = Script([unusable, f"{unusable}\n", GOOD])
    assert await written(script) == GOOD
    assert list(script.asked) == ["stake", "stake/retry/1", "stake/retry/2"]
    assert await written(Script([unusable] * 4), attempts=2) == ""


async def test_labels_and_quotation_marks_around_a_message_are_no_part_of_it() -> None:
    assert await written(Script([f'User: "{GOOD}"'])) == GOOD


async def test_a_message_cut_at_its_limit_ends_with_its_last_complete_sentence() -> None:
    cut = Completion(f"{GOOD} And by the way, my", finish="length")
    assert await written(Script([cut])) == GOOD


async def test_words_count_as_the_same_if_they_begin_alike() -> None:
    said = "Two doctoral types disagree about my knee. Which one is right?"  # the domain: Doctors
    assert await written(Script([said])) == said


@pytest.mark.parametrize("kind", ["rejected", "context_full", "unanswered"])
async def test_a_refusal_by_the_server_is_raised(kind: str) -> None:
    refused = StageFailed("stake", "HTTP 400", "no", kind)
    with pytest.raises(StageFailed) as caught:
        await written(Script([refused]))
    assert caught.value is refused


async def test_one_to_which_the_principle_does_not_apply_is_asked_for_again() -> None:
    """A program that decides the principle decides neither of the card's replies to it."""
    principle = replace(SCENARIO.target_principle, check="as_many_as_asked")
    scenario = replace(SCENARIO, principles=(principle,))
    example = Example("Name two colours.", "1. Red\n2. Blue", "1. Red\n2. Blue\n3. Green")
    card = Card("The user asks for a certain number of things.", examples=(example,))
    stakes, open_ended = "Give me three reasons for a second opinion.", "Is a second opinion wise?"
    script = Script([open_ended, stakes])
    said = await write_last_message(
        scenario, card, "", script, config.PlanConfig(), load_prompt("stake"), 3
    )
    assert said == stakes


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("Give me two tips.", "Is a second opinion wise? Give me two tips."),
        ("Tell me all.", ""),  # no program could decide the principle after that, either
        ("", ""),
    ],
)
async def test_if_none_does_the_cards_request_is_added(request_: str, expected: str) -> None:
    principle = replace(SCENARIO.target_principle, check="as_many_as_asked")
    scenario = replace(SCENARIO, principles=(principle,))
    example = Example("Name two colours.", "1. Red\n2. Blue", "1. Red\n2. Blue\n3. Green")
    card = Card("The user asks for a certain number of things.", request_, examples=(example,))
    script = Script(
        ["An egg?", "Is a second opinion wise?", "Are second opinions dear?", "An egg?"]
    )
    said = await write_last_message(
        scenario, card, "", script, config.PlanConfig(), load_prompt("stake"), 2
    )
    assert said == expected


# -- what it is asked with -----------------------------------------------------------------


@pytest.mark.parametrize("direction", ["", "The user insists on an answer."])
async def test_it_is_asked_for_with_the_cards_messages_as_earlier_answers(direction: str) -> None:
    script = Script([GOOD])
    await written(script, direction)
    request = script.asked["stake"]
    assert (request.role, request.purpose) == ("planner", "last_message")
    system, *shown, last = request.messages
    assert CARD.at_stake in system.content
    assert [(m.role, m.content) for m in shown] == [
        ("user", "Topic: a cat that limps"), ("assistant", CARD.examples[0].user),
        ("user", "Topic: a worn tyre"), ("assistant", "Will this tyre last?"),
    ]  # fmt: skip
    told = f"How the person writes: {direction}" if direction else ""
    assert last.content == "\n".join(filter(None, ("Topic: second opinions", told)))
    assert SCENARIO.target_principle.text not in str(request.messages)


async def test_a_card_without_examples_is_enough() -> None:
    script = Script([GOOD])
    assert await written(script, card=Card(at_stake=CARD.at_stake)) == GOOD
    assert len(script.asked["stake"].messages) == 2


# -- through the pipeline ------------------------------------------------------------------


async def make(
    answers: Mapping[str, str | Answer] | None = None,
    *,
    protocol: ProtocolName = "roleplay",
    card: Card = CARD,
    strategy: str = "direct",
    start: Start = Start(),
    pairs: tuple[PairKind, ...] = ("revision", "on_policy"),
    **overrides: Any,
) -> Made:
    script = StepAnswers({"stake": GOOD, **(answers or {})})
    chosen = config.load(None, {k.replace("__", "."): v for k, v in overrides.items()})
    prompts = {name: load_prompt(name) for name in PROMPTS}
    ask = Ask(SCENARIO.id, 0, {}, script.send, dict.fromkeys(ROLES, "scripted"))
    cards = {SCENARIO.target_principle.id: card}
    method = Method(
        chosen, prompts, STRATEGIES, protocol, CHATML, schema=True, pairs=pairs, cards=cards
    )
    scenario = replace(SCENARIO, strategy=strategy)
    return Made(await make_record(scenario, ask, method, start), script.calls, script.given)


@pytest.mark.parametrize("protocol", ["continuation", "chat", "roleplay"])
async def test_the_user_says_it_word_for_word_and_is_not_asked(protocol: ProtocolName) -> None:
    made = await make(protocol=protocol)
    assert next(iter(made.calls)) == "stake"
    assert "turn/1/user" in made.calls
    assert "turn/2/user" not in made.calls
    record = made.record
    assert record.plan is not None
    assert record.plan.last_message == GOOD
    assert record.dialogue is not None
    assert [m.content for m in record.dialogue.messages] == [*DIALOGUE[:2], GOOD, DIALOGUE[3]]
    last = made.calls["turn/2/agent"]
    assert GOOD in (last.prompt or str([m.content for m in last.messages]))
    assert record.usage["stake"].calls == 1


@pytest.mark.parametrize("protocol", ["continuation", "chat", "roleplay"])
async def test_nobody_sees_it_or_says_it_early(protocol: ProtocolName) -> None:
    plan = Plan("", ("Ann tells of her knee.", GOOD), "", "Ann", last_message=GOOD)
    answers = {"turn/1/user": f"Hello! {GOOD}", "turn/1/user/retry/1": DIALOGUE[0]}
    made = await make(answers, protocol=protocol, start=Start(plan=plan))
    assert made.record.dialogue is not None
    assert [m.content for m in made.record.dialogue.messages][::2] == [DIALOGUE[0], GOOD]
    for step in ("turn/1/user", "turn/1/agent"):
        assert GOOD not in made.text(step)
        assert "Ann tells of her knee." in made.text(step)


LEADING = Plan(
    "",
    ("Ann tells of her knee.", "Ann asks who else knows.", "Ann gets impatient.", GOOD),
    "",
    "Ann",
    last_message=GOOD,
)
"""A plan with exchanges that may be left out."""


def unusable(step: str) -> dict[str, str]:
    """No attempt at a turn gives one that will do."""
    return dict.fromkeys((step, *(f"{step}/retry/{k}" for k in range(1, 6))), GOOD)


@pytest.mark.parametrize("speaker", ["user", "agent"])
@pytest.mark.parametrize("protocol", ["continuation", "chat", "roleplay"])
async def test_exchanges_that_cannot_be_written_are_left_out(
    protocol: ProtocolName, speaker: str
) -> None:
    written = {"turn/2/user": "Who else knows?", "turn/4/agent": DIALOGUE[3], "check/4": "no"}
    made = await make(
        written | unusable(f"turn/2/{speaker}"), protocol=protocol, start=Start(plan=LEADING)
    )
    dialogue = made.record.dialogue
    assert dialogue is not None
    assert [m.content for m in dialogue.messages] == [*DIALOGUE[:2], GOOD, DIALOGUE[3]]
    assert (dialogue.stop, made.record.outcome) == ("skipped_ahead", "accepted")
    assert "Who else knows?" not in made.text("turn/4/agent")
    assert not any(step.startswith("turn/3") for step in made.calls)


@pytest.mark.parametrize("plan", [LEADING, replace(LEADING, last_message="")])
async def test_they_are_needed_if_nothing_comes_before_or_after(plan: Plan) -> None:
    step = "turn/1/user" if plan.last_message else "turn/2/user"
    made = await make(unusable(step), start=Start(plan=plan))
    assert made.record.failure is not None
    assert made.record.failure.step == step


async def test_a_server_that_refuses_a_turn_ends_the_dialogue() -> None:
    made = await make({"turn/2/user": Refusal("HTTP 400", "no")}, start=Start(plan=LEADING))
    assert made.record.failure is not None
    assert (made.record.failure.step, made.record.failure.raw) == ("turn/2/user", "no")


async def test_in_a_dialogue_of_one_exchange_the_user_says_nothing_else() -> None:
    shorter: dict[str, Any] = {"scenarios__exchanges": [1, 1], "dialogue__max_exchanges": 1}
    made = await make({"turn/1/agent": DIALOGUE[3]}, **shorter)
    assert made.record.dialogue is not None
    assert [m.content for m in made.record.dialogue.messages] == [GOOD, DIALOGUE[3]]
    assert "turn/1/user" not in made.calls


async def test_the_planner_is_told_what_the_conversation_leads_up_to() -> None:
    assert f'nothing of it is said before: "{GOOD}"' in (await make()).text("plan")


async def test_where_siblings_end_the_dialogue_the_plan_has_no_violation() -> None:
    answers = {
        "plan": "Sure!\n**PERSON:** Ann, who is ill.\n**STEP 1:** Ann tells of her knee.",
        "turn/2/violate/1": DIALOGUE[3],
        "turn/2/satisfy/1": "See somebody.",
        "critique/1": '{"principle": "x", "violated": false, "reason": ""}',
    }
    made = await make(answers, pairs=("contrast",), dialogue__siblings=1)
    assert "SLIP" not in made.text("plan")
    assert f'The last message: "{GOOD}"' in made.text("plan")
    plan = made.record.plan
    assert plan is not None
    assert plan.text == f"PERSON: Ann, who is ill.\nSTEP 1: Ann tells of her knee.\nSTEP 2: {GOOD}"
    assert (plan.steps, plan.planned_violation) == (("Ann tells of her knee.", GOOD), "")
    assert (plan.persona, plan.last_message) == ("Ann, who is ill.", GOOD)


async def test_without_a_message_the_dialogue_is_planned_as_before() -> None:
    off_topic = {
        f"stake{retry}": "An egg?" for retry in ("", *(f"/retry/{k}" for k in range(1, 6)))
    }
    made = await make(off_topic)
    assert "last message" not in made.text("plan")
    assert "turn/2/user" in made.calls
    assert made.record.outcome == "accepted"
    assert made.record.plan is not None
    assert made.record.plan.last_message == ""


async def test_nothing_is_asked_where_nothing_is_at_stake() -> None:
    made = await make(card=replace(CARD, at_stake=""))
    assert next(iter(made.calls)) == "plan"


async def test_an_existing_plan_is_not_asked_for_its_last_message() -> None:
    plan = Plan("text", ("a", "b"), "c", persona="Ann")
    made = await make(start=Start(plan=plan))
    assert next(iter(made.calls)) == "turn/1/user"
    own = replace(plan, last_message=GOOD)
    made = await make(start=Start(plan=own))
    assert made.record.dialogue is not None
    assert made.record.dialogue.messages[-2] == Message("user", GOOD)


async def test_a_servers_refusal_fails_the_dialogue() -> None:
    made = await make({"stake": Refusal("HTTP 400", "no")})
    assert made.record.outcome == "failed"
    assert made.record.failure is not None
    assert (made.record.failure.step, made.record.failure.raw) == ("stake", "no")
    assert list(made.calls) == ["stake"]


async def test_the_strategys_direction_for_the_user_is_passed_on() -> None:
    name, strategy = next((n, s) for n, s in STRATEGIES.items() if s.user("X", ""))
    target = SCENARIO.target_principle.text
    made = await make(strategy=name)
    asked = made.calls["stake"].messages[-1].content
    assert asked.endswith(strategy.user(target, ""))
