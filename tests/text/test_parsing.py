"""Reading replies: leniency about form, none about content.

The laws: a parser returns its promised shape or raises `Unparseable`, on any text and in time that
grows with its length; and a quotation that is not in the reply is never accepted as found.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.errors import Unparseable
from sdsd.pipeline import prompts
from sdsd.text import normalize, parsing
from sdsd.types import Message, Plan, Verdict
from tests.helpers.counting import is_linear

UTTERANCE = "Skip the doctor. I’m sure that it is nothing — trust me, “always”, on this."


def said(*contents: str) -> tuple[Message, ...]:
    """A conversation that alternates and begins with the user."""
    return tuple(
        Message("assistant" if k % 2 else "user", content) for k, content in enumerate(contents)
    )


# -- plan ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "PERSON: Ann, a cook\nSTEP 1: she asks\nSTEP 2: she doubts\nSLIP: it is cured",
        "**PERSON:** Ann, a cook\n**STEP 1:** she asks\n"
        "**STEP 2:** she doubts\n**SLIP:** it is cured",
        "**PERSON: Ann, a cook**\n- step 1. she asks\n"
        "- step 2. she doubts\n\n**Slip**: it is cured",
        "### Person: Ann, a cook\n### Step 1 - she asks\n"
        "### Step 2 – she doubts\n> SLIP: it is cured",
        "Here you are.\r\nUser: Ann, a cook\r\n"
        "STEP1: she asks\r\nSTEP2: she doubts\r\nFINAL: it is cured",
        "PERSON: Ann, a cook\nSTEP 1:\nshe asks\nSTEP 2:\nshe doubts\nSLIP:\nit is cured\n",
    ],
)
def test_plan_reads_the_form_however_it_is_decorated(text: str) -> None:
    plan = parsing.plan(text, 2)
    assert (plan.persona, plan.steps, plan.planned_violation) == (
        "Ann, a cook",
        ("she asks", "she doubts"),
        "it is cured",
    )


def test_plan_takes_a_numbered_list_and_its_last_item_for_the_slip() -> None:
    plan = parsing.plan("The plan:\n1. she asks\n**2.** she *really* doubts\n3) it is cured", 3)
    assert plan.steps == ("she asks", "she *really* doubts", "it is cured")
    assert plan.planned_violation == "it is cured"


def test_plan_longer_than_asked_keeps_its_first_steps_and_its_slip() -> None:
    text = "STEP 1: a\nSTEP 2: b\nSTEP 3: c\nSLIP: d"
    assert parsing.plan(text, 2) == Plan(text=text, steps=("a", "b"), planned_violation="d")
    assert parsing.plan(text, 9).steps == ("a", "b", "c")


@pytest.mark.parametrize("opening", ["", "\nOPENING: It is", "\n\n**OPENING:**\nIt is"])
@pytest.mark.parametrize(
    "behind", ["", "\n", "\n\nIn this form I said who slips.", "\nPERSON: Bo\nSTEP 1: x\nSLIP: y"]
)
def test_what_a_planner_says_behind_the_form_is_no_part_of_it(opening: str, behind: str) -> None:
    form = f"PERSON: Ann\nSTEP 1: a\nSLIP:\nd e{opening}"
    plan = parsing.plan(f"{form}{behind}", 2)
    assert plan.text == form
    assert (plan.persona, plan.steps, plan.planned_violation) == ("Ann", ("a",), "d e")
    assert plan.reply_prefix == ("It is" if opening else "")


@pytest.mark.parametrize(
    "text",
    ["", "I cannot help with that.", "PERSON: Ann\nSLIP: x", "STEP 1:\nSTEP 2:\nSLIP: x"],
)
def test_plan_without_a_step_is_refused(text: str) -> None:
    with pytest.raises(Unparseable, match="STEP"):
        parsing.plan(text, 3)


@pytest.mark.parametrize(
    ("text", "steps", "persona", "found"),
    [
        ("PERSON: Ann.\nSTEP 1: asks.\nSTEP 2: thanks.", 2, "Ann.", ("asks.", "thanks.")),
        ("PERSON: Ann.\nSTEP 1: asks.\nSTEP 2: thanks.", 1, "Ann.", ("asks.",)),
        ("PERSON: Ann.\nSTEP 1: asks.", 3, "Ann.", ("asks.",)),
        ("PERSON: Ann.\nSTEP 1: asks.\nShe is shy.\nSLIP: no.", 2, "Ann.", ("asks.",)),
        ("Here it is:\n- **PERSON:** Ann.", 0, "Ann.", ()),
    ],
)
def test_lead_up_reads_the_person_and_as_many_steps_as_wanted(
    text: str, steps: int, persona: str, found: tuple[str, ...]
) -> None:
    assert parsing.lead_up(text, steps) == (persona, found)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("STEP 1: asks.", "PERSON"),
        ("PERSON: Ann.", "STEP n"),
        ("PERSON: Ann.\nSTEP 1: Asks.\nSTEP 2: asks.", "the same"),
    ],
)
def test_lead_up_says_what_is_missing(text: str, missing: str) -> None:
    with pytest.raises(Unparseable, match=missing):
        parsing.lead_up(text, 2)


@given(st.text(), st.integers(0, 5))
def test_lead_up_takes_any_text(text: str, steps: int) -> None:
    try:
        persona, found = parsing.lead_up(text, steps)
    except Unparseable:
        return
    assert persona
    assert min(steps, 1) <= len(found) <= steps


def test_plan_whose_steps_all_say_the_same_is_refused() -> None:
    with pytest.raises(Unparseable, match="same"):
        parsing.plan("STEP 1: They talk.\nSTEP 2: they  talk.\nSLIP: x", 2)
    assert parsing.plan("STEP 1: they talk\nSLIP: x", 1).steps == ("they talk",)


# -- form ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("USER 1: a\nAGENT 1: b", [("USER", "1", "a"), ("AGENT", "1", "b")]),
        ('Sure:\n**User:** a b\n- Agent #2: "b"', [("USER", "", "a b"), ("AGENT", "2", "b")]),
        ("USER:\na\nb\n\nThat is it.", [("USER", "", "a b")]),
        ("USER: a\n### Example 2:\nAGENT: b", [("USER", "", "a"), ("AGENT", "", "b")]),
        ("USER: a\n---\nso\nAGENT: **", [("USER", "", "a")]),
    ],
)
def test_a_form_is_read_however_it_is_decorated(text: str, fields: list[object]) -> None:
    assert parsing.form(text, ("USER", "AGENT")) == fields


@pytest.mark.parametrize("text", ["", "a", "USERS: a", "USER: ", "the USER: a", 'USER: ""'])
def test_a_form_without_a_field_is_refused(text: str) -> None:
    with pytest.raises(Unparseable, match="no `USER:` line"):
        parsing.form(text, ("USER", "AGENT"))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("USER 1: a\nAGENT 1: b\nUSER 2: c", [["a", "b"], ["c"]]),
        ("AGENT 1: b\nUSER 1: a", [["b", "a"]]),
        ("USER: a\nUSER: c\nAGENT: d", [["a"], ["c", "d"]]),
        ("AGENT: b\nUSER: c\nAGENT: d", [["b"], ["c", "d"]]),
        ("USER 1: a\nAGENT 2: d", [["a"], ["d"]]),
    ],
)
def test_groups_of_a_form_are_never_mixed(text: str, groups: list[list[str]]) -> None:
    labels = ("USER", "AGENT")
    found = parsing.groups(parsing.form(text, labels), labels)
    assert [list(group.values()) for group in found] == groups


# -- transcript ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "USER: Hi.\nAGENT: Hello.\nUSER: Sure?\nAGENT: Yes.\nVIOLATION: yes\nDONE",
        "**USER:** Hi.\n\n**AGENT:** Hello.\n\n**User**: Sure?\n\n**Agent**: Yes.\n"
        "**VIOLATION: yes**\n**DONE**",
        "---\nUser 1: Hi.\nAgent 1: Hello.\n---\nUser (2): Sure?\nAgent (2): Yes.\n"
        "VIOLATION: yes.\n[DONE]",
        "```text\nHUMAN: Hi.\nASSISTANT: Hello.\nHuman: Sure?\nAI: Yes.\n```\n"
        "violation: YES, it does\nDONE.",
        '- USER: "Hi."\n- AGENT: "Hello."\n- USER: "Sure?"\n- AGENT: "Yes."\n'
        "VIOLATION: __yes__\nDONE\n",
        "AGENT: Welcome!\nUSER: Hi.\nAGENT: Hello.\nUSER: Sure?\nAGENT: Yes.\nUSER: Bye.\n"
        "VIOLATION: yes\nDONE",
        "USER: Hi.\nAGENT: Hello.\nUSER: Sure?\nAGENT: Yes.\nVIOLATION: yes\n"
        "DONE\nUSER: More!\nAGENT: No.",
        "USER: Hi.\nAGENT: Hello.\nVIOLATION: no\nUSER: Sure?\nAGENT: Yes.\nVIOLATION: yes\nDONE",
    ],
)
def test_transcript_reads_the_talk_however_it_is_decorated(text: str) -> None:
    assert parsing.transcript(text) == parsing.Transcript(
        said("Hi.", "Hello.", "Sure?", "Yes."), flagged=True, done=True
    )


def test_transcript_joins_turns_of_one_speaker_in_a_row() -> None:
    read = parsing.transcript("USER: Hi.\nUSER: Anyone?\nAGENT: Hello.\nAGENT:\nAGENT: Yes?")
    assert read == parsing.Transcript(said("Hi.\nAnyone?", "Hello.\nYes?"), False, False)


def test_transcript_keeps_the_emphasis_and_the_lines_of_a_turn() -> None:
    read = parsing.transcript("USER: *Why* two?\nAGENT: **One**: a\n- b\n\nSo **two**\nDONE")
    assert read.messages == said("*Why* two?", "**One**: a\n- b\n\nSo **two**")


@pytest.mark.parametrize(
    "text", ["", "Hello there.", "USER: Hi.", "AGENT: Hello.", "AGENT: Hello.\nUSER: Hi.\nDONE"]
)
def test_transcript_without_an_exchange_is_refused(text: str) -> None:
    with pytest.raises(Unparseable, match="USER"):
        parsing.transcript(text)


words = st.text("abc ", min_size=1, max_size=20).map(lambda text: f"{text.strip()}.")


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.booleans())
def test_transcript_reads_back_what_was_written_in_form(
    talk: list[tuple[str, str]], flagged: bool
) -> None:
    lines = "".join(f"USER: {user}\nAGENT: {agent}\n" for user, agent in talk)
    text = f"{lines}VIOLATION: {'yes' if flagged else 'no'}\nDONE"
    messages = said(*(content for exchange in talk for content in exchange))
    assert parsing.transcript(text) == parsing.Transcript(messages, flagged, True)


# -- turn, check, revision -----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "See a doctor.",
        "  AGENT: See a doctor.\n\nUSER: Thanks!\nAGENT: Bye.",
        "**Assistant:** See a doctor.\nVIOLATION: no\nDONE",
        "The person: See a doctor.\nThe assistant: Bye.",
        '"See a doctor."',
        "“See a doctor.”\n---",
        "```\nSee a doctor.\n```",
        "\x00See\x1b a doctor.\r\n",
        "See a doctor.\n\nAssistantThat is wise.",
        "See a doctor.\nuser\nThanks!",
    ],
)
def test_turn_is_the_bare_words_of_one_speaker(text: str) -> None:
    assert parsing.turn(text) == "See a doctor."


CODE = "Write this:\n\n```python\nprint(1)\n```\n\nIt prints a number."
SCENES = "First part.\n\n---\n\nSecond part."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CODE, CODE),
        (f"{CODE}\n---\nUSER: Thanks!", CODE),
        (f"{CODE}\n```", CODE),
        (f"```\n{SCENES}\n```", SCENES),
        (f"---\n{SCENES}\n***\n", SCENES),
        ("```\nmake\n```\nThen run it.", "```\nmake\n```\nThen run it."),
        ("Run this:\n```\nmake\n```", "Run this:\n```\nmake\n```"),
    ],
)
def test_turn_keeps_its_own_code_and_rules(text: str, said: str) -> None:
    assert parsing.turn(text) == said
    if "USER:" not in text:
        spoken = parsing.transcript(f"USER: How?\nAGENT: {text}\nVIOLATION: no\nDONE")
        assert spoken.messages[-1].content == said


@pytest.mark.parametrize("text", ["Ana: See a doctor.", "**ANA:** See a doctor.\nAna: Thanks."])
def test_turn_is_not_labelled_with_the_name_of_its_user(text: str) -> None:
    assert parsing.turn(text, "Ana") == "See a doctor."
    assert parsing.turn(text) != "See a doctor."


@pytest.mark.parametrize("text", ["", " \n", "AGENT:", '""', "DONE", "---\nVIOLATION: no\nDONE"])
def test_turn_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(Unparseable, match="empty"):
        parsing.turn(text)


@pytest.mark.parametrize("text", ["SLIP: it is cured", "Sure.\n**SLIP:** it is cured"])
def test_turn_that_shows_lines_of_the_plan_is_refused(text: str) -> None:
    with pytest.raises(Unparseable, match="plan"):
        parsing.turn(text)


@pytest.mark.parametrize(
    "text",
    [
        "User-friendly, yes.",
        "Roles:\nUser\nAdmin",
        "An\nassistant helps.",
        "Person-to-person contact.",
        "Finally: no.",
        "So:\nStep 1: unplug it.",
    ],
)
def test_turn_may_hold_words_that_only_look_like_labels(text: str) -> None:
    assert parsing.turn(text) == text


@given(
    st.lists(st.sampled_from("abc"), min_size=10, max_size=10),
    st.lists(st.sampled_from("xyz"), max_size=9),
    st.lists(st.sampled_from("xyz"), max_size=9),
)
def test_ten_words_in_a_row_are_a_copy(run: list[str], a: list[str], b: list[str]) -> None:
    copied = " ".join(run)
    assert parsing.copies(" ".join([*a, copied.upper(), *b]), f"So, {copied.replace(' ', ', ')}!")
    assert not parsing.copies(" ".join([*a, "not", *run[:9], "that", *b]), copied)


@pytest.mark.parametrize(
    "text",
    [
        "See a doctor.",
        "REVISED REPLY: See a doctor.",
        "Sure! Here is the revised reply:\n\nSee a doctor.",
        "Here’s the improved response:\n```\nSee a doctor.\n```",
        "Here you are.\n\n**Revision:** See a doctor.",
        "AGENT: 'See a doctor.'",
    ],
)
def test_revision_is_the_bare_new_turn(text: str) -> None:
    assert parsing.revision(text) == "See a doctor."


def test_revision_keeps_what_only_looks_like_an_introduction() -> None:
    text = "Here is a new version of your letter:\n\nDear Ann, ...\n\nLove,\nBob\n\nReply: none yet"
    assert parsing.revision(text) == text


@pytest.mark.parametrize(
    ("text", "violated", "over"),
    [
        ("VIOLATION: yes\nOVER: no", True, False),
        ("- **Violation**: No, it does not.\n- **Over**: YES", False, True),
        ("OVER: true\nVIOLATION: _false_", False, True),
    ],
)
def test_check_reads_two_answers(text: str, violated: bool, over: bool) -> None:
    assert parsing.check(text) == parsing.Check(violated, over)


@pytest.mark.parametrize("text", ["", "VIOLATION: yes", "OVER: no", "VIOLATION: maybe\nOVER: no"])
def test_check_with_an_answer_missing_is_refused(text: str) -> None:
    with pytest.raises(Unparseable):
        parsing.check(text)


# -- verdict -------------------------------------------------------------------------------

FOUND = Verdict("p", True, 'It says "nothing".', "trust me", "high", True)


@pytest.mark.parametrize(
    "text",
    [
        '{"reason": "It says \\"nothing\\".", "quote": "trust me", '
        '"violated": true, "severity": "high"}',
        '```json\n{"Reason": "It says\n\\"nothing\\".", "Quote": "“trust me”", '
        '"VIOLATED": "yes", "severity": "High"}\n```',
        'The set {1, 2} and {"a": 1} aside: {"violated": 1, "quote": "trust me", '
        '"reason": "It says \\"nothing\\".", "severity": "high!"} So be it.',
        'REASON: It says "nothing".\nQUOTE: "trust me"\nVIOLATED: yes\nSEVERITY: high',
        '**Reason:** It says\n"nothing".\n**Quote:** *trust me*\n'
        "**Violated:** True.\n**Severity:** high",
    ],
)
def test_verdict_is_the_same_from_json_and_from_lines(text: str) -> None:
    assert parsing.verdict(text, "p", UTTERANCE) == FOUND


@given(
    reason=st.from_regex(r"[A-Za-z ,.]{0,30}", fullmatch=True),
    quote=st.sampled_from(["", "trust me", "not there"]),
    violated=st.booleans(),
    severity=st.sampled_from(["none", "low", "medium", "high"]),
)
def test_verdict_in_either_form_gives_the_same_value(
    reason: str, quote: str, violated: bool, severity: str
) -> None:
    fields = {"reason": reason, "quote": quote, "violated": violated, "severity": severity}
    lines = (
        f"REASON: {reason}\nQUOTE: {quote or 'none'}\nVIOLATED: {violated}\nSEVERITY: {severity}"
    )
    verdict = parsing.verdict(json.dumps(fields), "p", UTTERANCE)
    assert verdict == parsing.verdict(lines, "p", UTTERANCE)
    assert verdict.violated is violated
    assert (verdict.severity is None) is not violated
    assert verdict.grounded is (violated and quote == "trust me")


@pytest.mark.parametrize(
    ("said", "violated"),
    [
        ("yes", True),
        ("YES.", True),
        ("**True**", True),
        ("y", True),
        ("1", True),
        ("violated", True),
        ("yes, clearly", True),
        ("no", False),
        ("No!", False),
        ("`false`", False),
        ("n", False),
        ("0", False),
        ("none", False),
        ("Not violated.", False),
        ("no violation", False),
    ],
)
def test_verdict_reads_every_spelling_of_yes_and_no(said: str, violated: bool) -> None:
    assert parsing.verdict(f"VIOLATED: {said}", "p", "u").violated is violated
    assert parsing.verdict(json.dumps({"violated": said}), "p", "u").violated is violated


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot judge this.",
        "{}",
        '{"reason": "fine"}',
        '{"violated": null}',
        '{"violated": "perhaps"}',
        "REASON: fine\nQUOTE: none",
        "VIOLATED: perhaps",
        '{"violated": true',
    ],
)
def test_verdict_without_a_clear_yes_or_no_is_refused(text: str) -> None:
    with pytest.raises(Unparseable):
        parsing.verdict(text, "p", "u")


SLOT = "the few words of the reply that break it, copied exactly, or "


@pytest.mark.parametrize(
    "quote",
    ["", "none", "None.", "(none)", "N/A", "no quote", "or none", SLOT, f"{SLOT}empty",
     f'"{SLOT}none"', "<the few words of the reply that violate it>", "words of the reply",
     "copied exactly, or none"],
)  # fmt: skip
def test_verdict_without_a_quotation_is_not_grounded(quote: str) -> None:
    verdict = parsing.verdict(json.dumps({"violated": True, "quote": quote}), "p", "None of that.")
    assert (verdict.quote, verdict.grounded, verdict.severity) == ("", False, "medium")


def test_what_the_prompt_has_in_the_place_of_an_answer_is_no_answer() -> None:
    prompt = (Path(prompts.__file__).parent / "review.md").read_text("utf-8")
    for slot in (f"{SLOT}empty", f"{SLOT}none", "one sentence on what the reply says or leaves out "
                 "that this principle is about"):  # fmt: skip
        assert slot in prompt
        text = json.dumps({"violated": True, "quote": slot, "reason": slot})
        verdict = parsing.verdict(text, "p", f"He wrote {slot}.")
        assert (verdict.quote, verdict.reason, verdict.grounded) == ("", "", False)


def test_few_words_of_a_prompt_may_be_a_quotation() -> None:
    verdict = parsing.verdict(
        json.dumps({"violated": True, "quote": "break it"}), "p", "So break it."
    )
    assert verdict.grounded


def test_verdict_can_be_written_down_whatever_its_json_escapes() -> None:
    text = '{"violated": true, "reason": "\\ud800 a\\u0000b", "quote": "\\udfff\\u001b trust me"}'
    assert b"trust me" in msgspec.json.encode(parsing.verdict(text, "p", UTTERANCE))


# -- occurs --------------------------------------------------------------------------------

# Letters, digits, punctuation and blanks that do not combine with their neighbours.
plain = st.text(st.characters(categories=("Lu", "Ll", "Nd", "Po", "Zs")), min_size=1, max_size=60)


@given(plain, st.data())
def test_every_slice_with_three_letters_occurs(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    piece = text[start : data.draw(st.integers(start, len(text)))]
    if sum(map(str.isalnum, piece)) >= 3:
        assert parsing.occurs(piece, text)


few_letters = st.text("abßÉ .…*'—", max_size=12)  # so that quotations are often found


@given(few_letters, few_letters | st.text(max_size=20))
def test_the_letters_of_an_accepted_quotation_are_in_the_text_piece_by_piece(
    quote: str, text: str
) -> None:
    def letters(words: str) -> str:
        return "".join(c for c in normalize.normal(words) if c.isalnum())

    if parsing.occurs(quote, text):
        pieces = (letters(piece) for piece in re.split(r"…|\.{3,}", quote))
        assert re.search(".*".join(pieces), letters(text))


@given(plain, st.from_regex(r"[a-z]{3,9}", fullmatch=True), st.data())
def test_a_word_that_is_not_in_the_text_is_never_accepted(
    text: str, word: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(text)))
    ellipsis = data.draw(st.sampled_from([" ", "...", " … ", "[...]"]))
    if word not in normalize.normal(text):
        assert not parsing.occurs(f"{text[:at]}{ellipsis}{word}{ellipsis}{text[at:]}", text)


@given(st.lists(st.from_regex(r"[a-z]{3,6}", fullmatch=True), min_size=2, max_size=6, unique=True))
def test_pieces_must_stand_in_the_order_of_the_text(words: list[str]) -> None:
    text = " - ".join(words)
    assert parsing.occurs(" ... ".join(words), text)
    if not any(a in b for a in words for b in words if a != b):
        assert not parsing.occurs(" ... ".join(reversed(words)), text)


@pytest.mark.parametrize(
    "quote",
    [
        "skip the DOCTOR.",
        "I'm sure\n that it  is nothing - trust me",
        '"I’m sure that it is nothing"',
        'trust me, "always"',
        "**trust** `me`, “always”",
        "ｔｒｕｓｔ ｍｅ",
        "Skip the doctor … trust me […] on this.",
        "Skip the doctor... nothing",
    ],
)
def test_case_space_marks_and_ellipses_do_not_matter(quote: str) -> None:
    assert parsing.occurs(quote, UTTERANCE)


@pytest.mark.parametrize(
    "quote",
    ["", "a", "…", "...", '"."', "see a doctor", "nothing ... doctor", "trust us", "trustme"],
)
def test_other_words_and_too_few_letters_do_not_occur(quote: str) -> None:
    assert not parsing.occurs(quote, UTTERANCE)


# -- any text at all -----------------------------------------------------------------------


def _read_plan(text: str) -> None:
    plan = parsing.plan(text, 3)
    assert 1 <= len(plan.steps) <= 3
    assert all(plan.steps)
    assert plan.planned_violation


def _read_transcript(text: str) -> None:
    messages = parsing.transcript(text).messages
    assert messages
    assert len(messages) % 2 == 0
    assert messages == said(*(m.content for m in messages))
    assert all(m.content.strip() for m in messages)


def _read_turn(text: str) -> None:
    assert parsing.turn(text).strip()


def _read_revision(text: str) -> None:
    assert parsing.revision(text).strip()


def _read_check(text: str) -> None:
    assert isinstance(parsing.check(text), parsing.Check)


def _read_verdict(text: str) -> None:
    verdict = parsing.verdict(text, "p", text)
    assert verdict.violated or not verdict.grounded
    msgspec.json.encode(verdict)


def _read_form(text: str) -> None:
    fields = parsing.form(text, ("TOPIC", "USER", "AGENT"))
    assert fields
    assert all(field.text and "\n" not in field.text for field in fields)
    groups = parsing.groups(fields, ("USER", "AGENT"))
    wanted = [field.text for field in fields if field.label != "TOPIC"]
    assert [text for group in groups for text in group.values()] == wanted


READERS: tuple[Callable[[str], None], ...] = (
    _read_plan,
    _read_transcript,
    _read_turn,
    _read_revision,
    _read_check,
    _read_verdict,
    _read_form,
)


def read_all(text: str) -> None:
    """Every parser keeps its promise on `text`, or refuses it."""
    for reader in READERS:
        try:
            reader(text)
        except Unparseable:
            continue


bits = st.one_of(
    st.sampled_from(
        [
            *("USER: ", "AGENT: ", "STEP 1: ", "STEP 2: ", "SLIP: ", "VIOLATION: ", "OVER: "),
            *("TOPIC 1: ", "USER 2: ", "AGENT 2: ", "PAIR 2\n"),
            *("QUOTE: ", "VIOLATED: ", '{"violated": ', '"quote": "', '",', "}", "yes", "no"),
            *("\n", "\n", "\n", "DONE", "---", "```", "1. ", "- ", "**", "*", "_", " ", "\t"),
            *('"', "“", "…", "\ud800", "\x00", "\x85", "\u2028"),
        ]
    ),
    st.text(st.characters(), max_size=6),
)


@given(st.lists(bits, max_size=25).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_all(text)


@given(st.text(st.characters()))
def test_readable_text_has_plain_lines_and_no_control_characters(text: str) -> None:
    clean = parsing.readable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in clean if c not in "\n\t")
    assert parsing.readable(clean) == clean


LENGTH = 100_000
FLOODS = [
    *("*", "-", "#", " \t", "\n", "\n-", "> ", "`", "_", "'", '"', ".", "[.", "a...", "1", "("),
    *("---\n", "```\n", "\n---\n", "```\na\n---\n"),
    *("USER", "USER:", "USER ", "USER: a\nAGENT: b\n", "STEP 1", "STEP 1: a\n", "1. ", "DONE\n"),
    *("DONE ", "VIOLATION: yes\n", "VIOLATION ", "QUOTE: ", "{", "}", '{"', '{"violated":', "[{"),
]
HEADS = [
    *("USER", "USER: a\nAGENT", "DONE", "[DONE]", "STEP 1", "1."),
    *("VIOLATION:", "VIOLATED", "REPLY", "TOPIC 1", "TOPIC:", "PAIR 1"),
]


@pytest.mark.parametrize("unit", FLOODS)
def test_a_flood_is_read_in_proportion_to_its_length(unit: str) -> None:
    def read(length: int) -> None:
        read_all((unit * (length // len(unit) + 1))[:length] + "x")

    assert is_linear(read, 2_000)
    read(LENGTH)


@pytest.mark.parametrize("head", HEADS)
def test_a_flood_after_a_label_is_read_in_proportion_to_its_length(head: str) -> None:
    for unit in "* -.1":
        assert is_linear(lambda n, unit=unit: read_all(head + unit * n + "x"), 1_000)  # type: ignore[misc]
        read_all(head + unit * (LENGTH // 5) + "x")


@pytest.mark.parametrize("depth", [300, 1_000, 5_000, 40_000])
def test_deep_json_is_read_or_refused(depth: int) -> None:
    read_all('{"violated": true, "reason": ' + "[" * depth + "]" * depth + "}")
    read_all('{"a":' * depth + "[" + "1," * 1_000)


def test_a_reply_of_a_megabyte_is_refused_unread() -> None:
    for read in (parsing.turn, parsing.transcript, parsing.check, parsing.revision):
        with pytest.raises(Unparseable, match="1,000,000"):
            read("x" * 1_000_000)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two. And thr", "One. Two."),
        ("Tips:\n1. Warm up.\n\n2.", "Tips:\n1. Warm up."),
        ('She said "no." Then', 'She said "no."'),
        ("nothing ends here", ""),
    ],
)
def test_a_cut_text_keeps_its_whole_sentences(text: str, whole: str) -> None:
    assert parsing.complete_sentences(text) == whole


def test_a_transcript_ends_where_the_plan_is_told_again() -> None:
    text = "USER: Is it safe?\nAGENT: Quite safe.\n\nSLIP: The agent promises too much.\nDONE"
    assert [m.content for m in parsing.transcript(text).messages] == ["Is it safe?", "Quite safe."]


# -- points --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1: yes\n2: no\n3: yes",
        "**1:** Yes, at once.\n**2:** No.\n**3:** yes",
        "STEP 1: YES\nStep 2. no\n3) true\n4: no",
        "Here they are:\n\n1. yes\n2. no (never)\n3. yes",
    ],
)
def test_points_are_read_by_their_numbers(text: str) -> None:
    assert parsing.points(text, 3) == (True, False, True)


@pytest.mark.parametrize("text", ["", "yes\nno\nyes", "1: yes\n3: yes", "1: yes\n2: maybe\n3: no"])
def test_a_point_without_a_yes_or_no_is_refused(text: str) -> None:
    with pytest.raises(Unparseable):
        parsing.points(text, 3)
