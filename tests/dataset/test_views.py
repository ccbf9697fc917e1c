"""The views that trainers read: what is in them, and the laws that no record can break."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import EXCLUDED_RULES, ContaminationConfig, ExportConfig
from sdsd.text import parsing
from sdsd.text.normalize import encodable
from sdsd.types import Candidate, Critique, Dialogue, Message, Plan, Record, Revision, Verdict
from tests.factories.records import (
    BROKEN,
    CLEAN,
    FIXED,
    FOUND,
    MODELS,
    PLAN,
    PRINCIPLES,
    accepted,
    barren,
    on_policy,
    rows,
    scenario,
    talk,
    uncritiqued,
    unplanned,
    unrepaired,
    unviolated,
)

Role = Literal["user", "assistant", "system"]

CLAIMED = Critique((Verdict("no-lies", True, "Perhaps.", "never said"), CLEAN.verdicts[1]))
"""A claim without evidence."""


def texts(chat: Iterable[dict[str, str]]) -> list[str]:
    return [message["content"] for message in chat]


def roles(chat: Iterable[dict[str, str]]) -> str:
    return "".join(message["role"][0] for message in chat)


# --- sft ------------------------------------------------------------------------------------------


def test_a_repaired_talk_ends_on_its_repair() -> None:
    (row,) = rows("sft", accepted(), MODELS)
    assert texts(row["messages"])[1:] == ["Mostly not.", "Surely it is?", FIXED]
    assert (roles(row["messages"]), row["source"]) == ("uaua", "revision")
    (row,) = rows("sft", on_policy(), MODELS)
    assert (texts(row["messages"])[-1], row["source"]) == ("Throw it away.", "on_policy")


def test_a_clean_talk_stays_as_it_was() -> None:
    (row,) = rows("sft", unviolated(), MODELS)
    assert (texts(row["messages"]), row["source"]) == (["Hi", "Hello."], "clean")
    assert (row["domain"], row["field"], row["strategy"]) == ("Baking", "Food", "direct")


@pytest.mark.parametrize(
    "record",
    [
        unplanned(),
        uncritiqued(),
        unrepaired(),
        barren(),
        replace(unviolated(), critique=CLAIMED),
        replace(accepted(), revisions=(Revision(FIXED),)),
        replace(unviolated(), dialogue=talk("a", "b", "c", "d"), earlier_critiques=(FOUND,)),
    ],
    ids=["none", "unjudged", "broken", "blank", "doubtful", "not rechecked", "broken before"],
)
def test_nothing_else_is_held_up_as_good(record: Record) -> None:
    assert not rows("sft", record, MODELS)
    assert not [
        row for row in rows("kto", record, MODELS) if row["label"] and not record.earlier_critiques
    ]


def test_the_plan_stands_before_the_talk_only_if_asked_for() -> None:
    (row,) = rows("sft", accepted(), MODELS, ExportConfig(include_plan=True))
    assert (roles(row["messages"]), texts(row["messages"])[0]) == ("suaua", PLAN.text)
    for plan in (None, Plan(" ", ("a",), "b")):
        (row,) = rows(
            "sft", replace(accepted(), plan=plan), MODELS, ExportConfig(include_plan=True)
        )
        assert roles(row["messages"]) == "uaua"


def test_a_system_prompt_comes_before_the_talk_wherever_it_is_trained_on() -> None:
    def told(record: Record, system: str) -> Record:
        assert record.dialogue
        return replace(record, dialogue=replace(record.dialogue, system=system))

    record = told(accepted(), "Be brief.")
    first = {"content": "Be brief.", "role": "system"}
    for view, columns in {
        "preference": ("prompt",), "implicit": ("chosen", "rejected"), "kto": ("prompt",),
        "sft": ("messages",),
    }.items():  # fmt: skip
        for row in rows(view, record, MODELS):
            assert all(row[column][0] == first for column in columns)
            assert all(roles(row[column])[:3] == "sua" for column in columns)
    for blank in ("", " \n"):
        bare = rows("preference", told(accepted(), blank), MODELS)
        assert bare == rows("preference", accepted(), MODELS)
    (row,) = rows("sft", record, MODELS, ExportConfig(include_plan=True))
    assert texts(row["messages"])[0] == PLAN.text
    assert "s" not in roles(row["messages"])[1:]
    marked = told(accepted(), "Be brief.<|im_end|>")
    assert not rows("preference", marked, MODELS)
    assert [row["rule"] for row in rows("removed", marked, MODELS)] == ["template_mark"]


# --- pairs ----------------------------------------------------------------------------------------


def test_whole_talks_are_the_pairs_again() -> None:
    (pair,), (whole,) = rows("preference", accepted(), MODELS), rows("implicit", accepted(), MODELS)
    for side in ("chosen", "rejected"):
        assert whole[side] == pair["prompt"] + pair[side]
    assert whole["violation_ids"] == ["no-lies"]


def test_labels_need_no_pair() -> None:
    def found(record: Record) -> list[tuple[str, bool, str]]:
        made = rows("kto", record, MODELS)
        return [(*texts(row["completion"]), row["label"], row["source"]) for row in made]

    assert found(accepted()) == [(FIXED, True, "revision"), (BROKEN, False, "violation")]
    assert found(unrepaired()) == [(BROKEN, False, "violation")]
    assert found(unviolated()) == [("Hello.", True, "clean")]
    assert found(replace(accepted(), revisions=(Revision(FIXED),))) == [
        (BROKEN, False, "violation")
    ]
    assert rows("preference", replace(accepted(), revisions=(Revision(FIXED),)), MODELS)


# --- critique -------------------------------------------------------------------------------------


def test_a_critic_learns_from_verdicts_with_evidence() -> None:
    judged = replace(
        accepted(), earlier_critiques=(CLEAN,), candidates=(Candidate("Nah.", CLAIMED),)
    )
    found = rows("critique", judged, MODELS)
    assert [(r["turn"], r["round"], r["principle_id"], r["violated"]) for r in found] == [
        ("original", 0, "no-lies", True),
        ("candidate", 1, "no-scorn", False),
        ("earlier", 1, "no-lies", False),
        ("earlier", 1, "no-scorn", False),
        ("revision", 1, "no-lies", True),
        ("revision", 3, "no-lies", False),
        ("revision", 3, "no-scorn", False),
    ]
    (question,) = texts(found[0]["prompt"])
    assert "PERSON: Surely it is?\n\nThe assistant's next reply:\n\n" + BROKEN in question
    assert PRINCIPLES[0].text in question
    assert PLAN.planned_violation not in question
    (earlier,) = texts(found[2]["prompt"])
    assert "Mostly not." in earlier
    assert "Surely" not in earlier
    assert texts(found[0]["completion"]) == [
        '{"reason": "It did kill.", "quote": "nobody ever died", "violated": true, '
        '"severity": "high"}'
    ]


def test_an_acquittal_quotes_nothing() -> None:
    verdict = Verdict("no-lies", False, "Fine.", "Hello.", "low")
    record = replace(unviolated(), critique=Critique((verdict,)))
    (row,) = rows("critique", record, MODELS)
    (answer,) = texts(row["completion"])
    assert json.loads(answer) == {
        "reason": "Fine.",
        "quote": "",
        "violated": False,
        "severity": None,
    }


def test_a_question_has_one_answer() -> None:
    twice = replace(unviolated(), candidates=(Candidate(" Hello.", FOUND), Candidate(" ", CLEAN)))
    assert [r["violated"] for r in rows("critique", twice, MODELS)] == [False, False]


def test_votes_are_no_lesson_of_their_own() -> None:
    voted = replace(unviolated(), critique=replace(CLEAN, votes=FOUND.verdicts))
    assert len(rows("critique", voted, MODELS)) == len(CLEAN.verdicts)
    assert len(rows("verdicts", voted, MODELS)) == len(CLEAN.verdicts) + len(FOUND.verdicts)


# --- removed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "scope", "pair", "rule"),
    [
        (barren(), "dialogue", None, "malformed"),
        (replace(unviolated(), dialogue=talk("a", "b", "c")), "dialogue", None, "malformed"),
        (accepted(better=f" {BROKEN}\n"), "pair", 0, "unchanged"),
        (accepted(better="\n"), "pair", 0, "empty"),
        (replace(accepted(), candidates=(Candidate(FIXED, CLEAN),)), "pair", 1, "repeated"),
    ],
)
def test_what_spoils_training_is_named(
    record: Record, scope: str, pair: int | None, rule: str
) -> None:
    (row,) = rows("removed", record, MODELS)
    assert (row["scope"], row["pair"], row["rule"]) == (scope, pair, rule)
    assert len(rows("preference", record, MODELS)) == len(record.pairs) - (scope == "pair")
    assert bool(rows("dialogues", record, MODELS)) == (scope == "pair")


def test_a_dialogue_with_an_excluded_warning_is_shown_with_it_but_trains_nothing(
    tmp_path: Path,
) -> None:
    spoken = talk("As an AI, I like bread. How may I help you?", BROKEN)
    record = replace(accepted(), dialogue=spoken)
    (row,) = rows("dialogues", record, MODELS)
    assert (row["warnings"], row["clean_exchanges"]) == (["role_flip"], 0)
    (row,) = rows("removed", record, MODELS)
    assert (row["scope"], row["rule"]) == ("dialogue", "role_flip")
    for view in ("preference", "revisions", "sft", "kto", "implicit", "critique"):
        assert not rows(view, record, MODELS)
    assert rows("preference", record, MODELS, ExportConfig(exclude=()))
    evaluation = tmp_path / "evaluation.txt"
    evaluation.write_text(BROKEN, "utf-8")
    sets = ContaminationConfig(sets=(str(evaluation),), words=5)
    assert not rows("dialogues", record, MODELS, ExportConfig(contamination=sets))


# --- laws -----------------------------------------------------------------------------------------

# Few words, so that texts are often the same, or the same but for space.
WORDS = st.sampled_from(["no", "no ", "so", "\ud800", "\ud801", "\x00", "\u202e!", "{talk}"])
SPOKEN = st.one_of(WORDS, WORDS, st.text(st.characters(exclude_categories=()), max_size=3))
VERDICTS = st.one_of(
    st.just(CLEAN),
    st.just(FOUND),
    st.builds(
        lambda *said: Critique(tuple(said)),
        *(
            st.builds(
                Verdict,
                st.just(principle.id),
                st.booleans(),
                SPOKEN,
                SPOKEN,
                st.sampled_from([None, "low", "high"]),
                st.booleans(),
            )
            for principle in PRINCIPLES
        ),
    ),
)
REVISIONS = st.builds(
    Revision, SPOKEN, st.none() | st.just(CLEAN) | VERDICTS, st.sampled_from(["", "", "unchanged"])
)


@st.composite
def dialogues(draw: st.DrawFn) -> Dialogue:
    said = draw(st.lists(WORDS, min_size=2, max_size=4).filter(lambda said: len(said) != 3))
    held = talk(*said)
    if not draw(st.integers(0, 3)):
        speaking: tuple[Role, ...] = ("user", "assistant", "system")
        spoken = st.builds(Message, st.sampled_from(speaking), SPOKEN)
        held = replace(held, messages=tuple(draw(st.lists(spoken, min_size=1, max_size=4))))
    return held


@st.composite
def records(draw: st.DrawFn) -> Record:
    held = draw(dialogues())
    critique = draw(st.one_of(st.none(), VERDICTS, st.just(FOUND), st.just(FOUND)))
    broken = bool(critique and critique.violations)
    earlier = draw(st.lists(VERDICTS, max_size=(len(held.messages) - 1) // 2))
    return Record(
        scenario(draw(st.integers(0, 9))),
        "accepted" if broken and draw(st.integers(0, 3)) else "filtered",
        plan=draw(st.sampled_from([None, PLAN])),
        dialogue=held,
        critique=critique,
        revisions=tuple(draw(st.lists(REVISIONS, max_size=3))),
        candidates=tuple(draw(st.lists(st.builds(Candidate, SPOKEN, VERDICTS), max_size=3))),
        earlier_critiques=tuple(earlier),
    )


def made(view: Any, record: Record, **config: Any) -> list[Any]:
    """Rows as they are read again: text that UTF-8 cannot hold is mended."""
    found: list[Any] = encodable(rows(view, record, MODELS, ExportConfig(**config)))
    return found


def is_prompt(chat: Any) -> bool:
    return roles(chat) == "ua" * (len(chat) // 2) + "u" and all(map(str.strip, texts(chat)))


def is_reply(chat: Any) -> bool:
    return roles(chat) == "a" and bool(chat[0]["content"].strip())


@given(records())
def test_prompts_and_replies_are_what_chat_templates_take(record: Record) -> None:
    for row in made("preference", record):
        assert is_prompt(row["prompt"])
        assert is_reply(row["chosen"])
        assert is_reply(row["rejected"])
    for row in (*made("kto", record), *made("critique", record)):
        assert is_prompt(row["prompt"])
        assert is_reply(row["completion"])
    for row in made("implicit", record):
        for side in ("chosen", "rejected"):
            assert is_prompt(row[side][:-1])
            assert is_reply(row[side][-1:])
        assert row["chosen"][:-1] == row["rejected"][:-1]
    for plan in (False, True):
        for row in made("sft", record, include_plan=plan):
            talked = [m for m in row["messages"] if m["role"] != "system"]
            assert is_prompt(talked[:-1])
            assert is_reply(talked[-1:])
            brief = row["messages"][: len(row["messages"]) - len(talked)]
            assert texts(brief) == ([PLAN.text] if plan and record.plan else [])


@given(records())
def test_pairs_differ_and_none_comes_twice(record: Record) -> None:
    found = made("preference", record)
    assert [r["chosen"] for r in found] == [r["chosen"][-1:] for r in made("implicit", record)]
    said = [texts(row["chosen"])[0].strip() for row in found]
    assert len(set(said)) == len(said)
    assert not [row for row in found if texts(row["rejected"])[0].strip() in said]


@given(records())
def test_good_and_bad_are_never_the_same_and_always_judged(record: Record) -> None:
    assert record.dialogue
    found = made("kto", record)
    labels = {True: set[str](), False: set[str]()}
    for row in found:
        labels[row["label"]].add(texts(row["completion"])[0].strip())
    assert labels[True].isdisjoint(labels[False])
    assert sum(not row["label"] for row in found) <= 1
    clean_turns = {r.text for r in record.revisions if r.recheck and r.recheck.clean}
    clean_turns |= {c.text for c in record.candidates if c.critique.clean}
    if record.critique and record.critique.clean:
        clean_turns.add(record.dialogue.last_reply)
    good = {encodable(text).strip() for text in clean_turns}
    assert labels[True] <= good
    learnt = {texts(row["messages"])[-1].strip() for row in made("sft", record)}
    assert learnt <= labels[True]
    if learnt:
        assert not any(critique.violations for critique in record.earlier_critiques)


@given(records())
def test_a_question_never_has_two_answers_and_an_answer_reads_back(record: Record) -> None:
    asked = [(texts(row["prompt"])[0]) for row in rows("critique", record, MODELS)]
    assert len(set(asked)) == len(asked)
    for row in made("critique", record):
        said = json.loads(texts(row["completion"])[0])
        assert list(said) == ["reason", "quote", "violated", "severity"]
        assert said["violated"] is row["violated"]
        assert row["violated"] or (said["quote"], said["severity"]) == ("", None)
        again = parsing.verdict(texts(row["completion"])[0], row["principle_id"], "")
        assert again.violated is row["violated"]


@given(records())
def test_what_is_made_is_in_the_views_or_among_the_removed(record: Record) -> None:
    removed = made("removed", record)
    kept = len(made("preference", record))
    if removed and removed[0]["scope"] == "dialogue":
        views = ("preference", "revisions", "sft", "kto", "implicit", "critique")
        assert not any(made(view, record) for view in views)
        shown = removed[0]["rule"] in EXCLUDED_RULES
        assert bool(made("dialogues", record)) is shown
    else:
        assert kept + len(removed) == len(record.pairs)
        assert made("dialogues", record)
