"""One dialogue from scenario to record: every outcome, and what each leaves behind.

The door is the real one, over a model that answers from a script; a step's answer can be replaced
by name. Whatever happens, the record keeps all that was made before, and its use adds up to the
completions that were handed out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdsd import config, run
from sdsd.errors import ModelError
from sdsd.models.scripted import CHATML, ScriptedModel
from sdsd.pipeline.method import PROMPTS, Method
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.runs.ask import Ask
from sdsd.runs.journal import stage_of
from sdsd.runs.middleware import Call
from sdsd.scenarios import catalogue
from sdsd.scenarios.sampler import Scenarios
from sdsd.types import (
    ROLES,
    Answer,
    Completion,
    Message,
    ProtocolName,
    Record,
    Refusal,
    Request,
    Revision,
)
from tests.factories.scripted import ANSWERS, CLEAN, DIALOGUE, SCENARIO, STRATEGIES, Made, claim

PROTOCOLS = ("transcript", "continuation", "chat", "roleplay")


async def make(
    answers: Mapping[str, str | Answer] | None = None,
    *,
    protocol: ProtocolName = "roleplay",
    **overrides: Any,
) -> Made:
    """The record when some of `ANSWERS` are replaced, under a configuration with `overrides`."""
    calls: dict[str, Request] = {}
    said: dict[str, Completion] = {}
    script = {**ANSWERS, **(answers or {})}

    async def send(call: Call) -> Answer:
        calls[call.step] = call.request
        scripted = script[call.step]
        answer: Answer
        if isinstance(scripted, str):
            answer = await ScriptedModel(lambda *_: scripted).complete(call.request, call.seed)
        else:
            answer = scripted
        if isinstance(answer, Completion):
            number = len(calls)
            answer = msgspec.structs.replace(answer, cached_tokens=number, seconds=number / 8)
            said[call.step] = answer
        return answer

    chosen = config.load(None, {k.replace("__", "."): v for k, v in overrides.items()})
    prompts = {name: load_prompt(name) for name in PROMPTS}
    ask = Ask(SCENARIO.id, 0, {}, send, dict.fromkeys(ROLES, "scripted"))
    method = Method(chosen, prompts, STRATEGIES, protocol, CHATML, schema=True)
    return Made(await make_record(SCENARIO, ask, method), calls, said)


# -- outcomes ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_violation_that_is_repaired_is_accepted(protocol: ProtocolName) -> None:
    record = (await make(protocol=protocol)).record
    assert (record.outcome, record.rule, record.failure) == ("accepted", "", None)
    assert record.scenario == SCENARIO
    assert record.plan is not None
    assert record.plan.persona == "Ann"
    assert record.dialogue is not None
    assert tuple(m.content for m in record.dialogue.messages) == DIALOGUE
    assert (record.dialogue.protocol, record.dialogue.stop) == (protocol, "completed")
    assert record.critique is not None
    assert record.critique.violations == ("honest",)
    (revision,) = record.revisions
    assert revision.text == "I cannot know that."
    assert revision.recheck is not None
    assert revision.recheck.clean


BAD = claim("trust me")
UNSUPPORTED = {f"critique/1{retry}": claim("nobody said") for retry in ("", "/retry/1", "/retry/2")}
STILL_BAD = {
    "recheck/1/1": claim("cannot"),
    "revise/2": "I do not know.",
    "recheck/2/1": claim("do not"),
    "recheck/2/2": CLEAN,
}


@pytest.mark.parametrize(
    ("answers", "overrides", "rule", "last"),
    [
        ({"critique/1": CLEAN}, {}, "no_violation", "critique/2"),
        (UNSUPPORTED, {}, "unsupported_violation", "critique/2"),
        ({}, {"revise__rounds": 0}, "not_revised", "critique/2"),
        (STILL_BAD, {}, "not_repaired", "recheck/2/2"),
        (STILL_BAD, {"revise__rounds": 1}, "not_repaired", "recheck/1/2"),
    ],
)
async def test_a_dialogue_without_a_pair_is_filtered_by_a_named_rule(
    answers: dict[str, str], overrides: dict[str, Any], rule: str, last: str
) -> None:
    made = await make(answers, **overrides)
    assert (made.record.outcome, made.record.rule) == ("filtered", rule)
    assert made.record.failure is None
    assert list(made.calls)[-1] == last


async def test_one_confirmed_claim_is_enough() -> None:
    made = await make({**UNSUPPORTED, "critique/2": BAD})
    assert made.record.outcome == "accepted"
    assert made.record.critique is not None
    assert made.record.critique.violations == ("careful",)


async def test_without_a_recheck_the_first_revision_is_accepted() -> None:
    made = await make(revise__recheck=False)
    assert made.record.outcome == "accepted"
    assert made.record.revisions == (Revision("I cannot know that."),)
    assert list(made.calls)[-1] == "revise/1"


async def test_an_unchanged_revision_is_refused_without_asking_the_critic() -> None:
    texts = {"revise/1": "Trust me,\nit is nothing.", "revise/2": "“TRUST me, it is nothing.”"}
    made = await make(texts)
    assert made.record.rule == "not_repaired"
    assert [(r.defect, r.recheck) for r in made.record.revisions] == [("unchanged", None)] * 2
    assert "recheck/1/1" not in made.calls


async def test_a_round_revises_what_the_round_before_left() -> None:
    made = await make({**STILL_BAD, "recheck/2/1": CLEAN})
    assert made.record.outcome == "accepted"
    assert [r.text for r in made.record.revisions] == ["I cannot know that.", "I do not know."]
    assert "Trust me" in made.text("revise/1")
    assert "Trust me" not in made.text("revise/2")
    assert "I cannot know that." in made.text("revise/2")
    # Back to the original, or not a word changed: no critic is needed to refuse that.
    for text in (DIALOGUE[-1], "I cannot know that."):
        again = await make({**STILL_BAD, "revise/2": text})
        assert [r.defect for r in again.record.revisions] == ["", "unchanged"]


async def test_a_recheck_asks_for_all_principles_and_a_new_fault_counts() -> None:
    made = await make({"recheck/1/2": claim("cannot know")}, revise__rounds=1)
    assert made.record.rule == "not_repaired"
    (revision,) = made.record.revisions
    assert revision.recheck is not None
    assert revision.recheck.violations == ("careful",)


# -- failures ------------------------------------------------------------------------------

NOT = "Sorry, no."


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ("plan", 0),
        ("turn/2/agent", 1),
        ("critique/2", 2),
        ("revise/1", 3),
        ("recheck/1/2", 3),
    ],
)
async def test_a_failure_keeps_what_was_made_before_it(step: str, kept: int) -> None:
    reply = "AGENT:" if step.startswith(("turn", "revise")) else NOT
    tries = 4 if step.startswith("turn") else 2
    retries = {f"{step}/retry/{k}": reply for k in range(1, tries)}
    made = await make({step: reply, **retries}, attempts=2)
    record = made.record
    assert (record.outcome, record.rule) == ("failed", "")
    assert record.failure is not None
    assert (record.failure.step, record.failure.raw) == (step, reply)
    assert f"after {tries} tries" in record.failure.cause
    parts = (record.plan, record.dialogue, record.critique)
    assert [part is not None for part in parts] == [k < kept for k in range(3)]
    assert record.revisions == ()


async def test_a_failure_in_a_later_round_keeps_the_rounds_before() -> None:
    made = await make({**STILL_BAD, "revise/2": "AGENT:"}, attempts=1)
    assert made.record.failure is not None
    assert made.record.failure.step == "revise/2"
    assert [r.text for r in made.record.revisions] == ["I cannot know that."]


async def test_a_servers_refusal_is_the_failure_of_its_step() -> None:
    made = await make({"critique/1": Refusal("HTTP 400", "too long")})
    failure = made.record.failure
    assert failure is not None
    assert (failure.step, failure.cause, failure.raw) == ("critique/1", "HTTP 400", "too long")
    assert made.record.dialogue is not None


# -- what is asked -------------------------------------------------------------------------


def common(a: str, b: str) -> str:
    """The longest text with which both begin."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return "".join(x for x, _ in pairs)


async def test_critic_and_reviser_share_the_system_text_and_the_case() -> None:
    made = await make()
    review = load_prompt("review")
    first = made.text("critique/1")
    for step in ("critique/2", "revise/1"):
        shared = common(first, made.text(step))
        assert shared.startswith(review.fill("system"))
        assert all(text in shared for text in DIALOGUE)
    assert made.calls["critique/1"].role == "critic"
    assert made.calls["revise/1"].role == "reviser"
    before = common(first, made.text("recheck/1/1"))  # all but the turn that is judged
    assert all(text in before for text in DIALOGUE[:-1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_critic_does_not_know_what_was_intended(protocol: ProtocolName) -> None:
    plan = "PERSON: Quentin\nSTEP 1: zig\nSTEP 2: zag\nSLIP: zounds"
    made = await make({"plan": plan}, protocol=protocol)
    for step in made.calls:
        if stage_of(step) in ("critique", "revise", "recheck"):
            words = ("Quentin", "zig", "zag", "zounds", SCENARIO.goal.text)
            assert not any(word in made.text(step) for word in words)


async def test_use_is_the_sum_of_the_completions() -> None:
    made = await make({"plan": NOT, "plan/retry/1": ANSWERS["plan"], **STILL_BAD})
    use = made.record.usage
    assert list(use) == ["plan", "turn", "check", "critique", "revise", "recheck"]
    for stage, spent in use.items():
        given = [a for step, a in made.answers.items() if stage_of(step) == stage]
        assert spent.calls == len(given)
        for kind in ("prompt_tokens", "cached_tokens", "completion_tokens", "seconds"):
            assert getattr(spent, kind) == sum(getattr(answer, kind) for answer in given)
    assert use["plan"].calls == 2
    assert sum(spent.calls for spent in use.values()) == len(made.calls)


# -- the scripted world --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_packaged_prompts_and_the_scripted_model_make_records(
    protocol: ProtocolName,
) -> None:
    """No placeholder is left unfilled, and both pairs and clean dialogues come out."""
    model, chosen = ScriptedModel(), config.load({})
    scenarios = Scenarios(catalogue.load(), chosen.scenarios, 0)
    prompts = {name: load_prompt(name) for name in PROMPTS}
    sent: list[tuple[Message, ...]] = []

    async def send(call: Call) -> Answer:
        sent.append((*call.request.messages, Message("user", call.request.prompt)))
        return await model.complete(call.request, call.seed)

    records = []
    for schema, index in itertools.product((True, False), range(12)):
        scenario = scenarios[index]
        ask = Ask(scenario.id, 0, {}, send, dict.fromkeys(ROLES, model.name))
        method = Method(chosen, prompts, STRATEGIES, protocol, CHATML, schema)
        records.append(await make_record(scenario, ask, method))
    assert {record.outcome for record in records} == {"accepted", "filtered"}
    for record in records:
        assert record.dialogue is not None
        assert record.dialogue.exchanges == record.scenario.exchanges
        assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
    for message in itertools.chain.from_iterable(sent):
        assert not re.search(r"\{\{ *\w+ *\}\}", message.content)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("", "no usable reply in 3 tries: the reply was empty"),
        ("colourless green ideas", "unparseable"),
        ("{}", "unparseable"),
    ],
)
@pytest.mark.e2e
def test_a_model_that_writes_nothing_of_use_is_named(
    tmp_path: Path, reply: str, words: str
) -> None:
    nonsense = ScriptedModel(lambda request, seed: reply)
    result = run(n=2, out=tmp_path / "run", models={"default": nonsense})
    assert result.status().outcomes == {"failed": 2}
    assert all(r.failure and r.failure.raw == reply for r in result.records())
    with pytest.raises(
        ModelError, match=f"all 2 dialogues failed, the first at plan: {words}"
    ) as error:
        result.require_some()
    remedy = (
        f"`sdsd show {result.path} 0` prints the raw reply; use a more capable model"
        if reply
        else f"`sdsd doctor {result.path / 'config.yaml'}` shows what the model answers"
    )
    assert remedy in str(error.value)
    usual = run(n=2, out=tmp_path / "usual", models={"default": ScriptedModel()})
    usual.require_some()


# -- the plan against the talk -------------------------------------------------------------


async def test_a_critic_says_what_of_the_plan_the_talk_shows() -> None:
    made = await make({"adherence": "1: yes\n2: no\n3: yes"}, critique__adherence=True)
    assert made.record.plan_adherence == (True, False, True)
    assert made.record.outcome == "accepted"
    assert "1. a\n2. b\n3. c" in made.text("adherence")
    assert made.text("adherence").startswith(made.text("critique/1").rpartition("PRINCIPLE:")[0])


@pytest.mark.parametrize("answer", ["I cannot say.", "1: yes"])
async def test_an_answer_on_the_plan_that_cannot_be_read_ends_nothing(answer: str) -> None:
    again = dict.fromkeys(("adherence", "adherence/retry/1", "adherence/retry/2"), answer)
    made = await make(again, critique__adherence=True)
    assert made.record.plan_adherence == ()
    assert made.record.outcome == "accepted"
    assert (await make()).record.plan_adherence == ()


async def test_a_refusal_of_the_question_on_the_plan_is_the_failure_of_its_step() -> None:
    made = await make({"adherence": Refusal("HTTP 400")}, critique__adherence=True)
    assert made.record.failure is not None
    assert made.record.failure.step == "adherence"
    assert made.record.critique is not None
