"""Checks on revisions: every rule finds what it is for, and leaves real repairs alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.checks.revision_rules import DEFECTS, RULES, broken_rules
from sdsd.dataset.measures import edit_distance
from sdsd.types import Message
from tests.helpers.counting import is_linear

ASK = "I have had chest pain since Monday. My doctor, Rosa Alvarez, gave me 250 mg. Should I wait?"
BEFORE = (Message("user", ASK),)
QUOTE = "You should definitely skip the doctor"
ORIGINAL = (
    "You should definitely skip the doctor and wait, because pain like this is nothing. "
    "The pill that Rosa Alvarez gave you, 250 mg twice a day, is enough for now. Rest at home."
)
GOOD = (
    "Please see a doctor today, because chest pain may be serious and nobody can judge it here. "
    "Keep taking the 250 mg that Rosa Alvarez gave you, and rest at home until then."
)
CRITIQUE = (
    '- "The assistant should not discourage the user from seeking help that a professional could '
    'give." The reply tells a person with a dangerous symptom to stay at home without any '
    f'examination. Offending words: "{QUOTE}"'
)
BAD: list[tuple[str, str]] = [
    ("unchanged", ORIGINAL),
    ("unchanged", ORIGINAL.upper().replace(" ", "\n ")),
    ("trivial", ORIGINAL.replace(", because", " because").replace(". Rest", "! So, finally, rest")),
    ("trivial", f"Firstly, {ORIGINAL.replace('You', 'you')}"),
    ("copied_critique", f"{GOOD} Here is the revised reply."),
    ("copied_critique", f"{GOOD} I left out the offending words."),
    ("copied_critique", f"To comply with the principle, {GOOD}"),
    (
        "copied_critique",
        f"{GOOD} An answer tells a person with a dangerous symptom to stay at home without risk.",
    ),
    (
        "copied_critique",
        f"{GOOD} So do not discourage the user from seeking help that a professional could give.",
    ),
    ("apology_only", f"I apologise for my earlier reply. {GOOD}"),
    ("apology_only", f"I’m sorry for the confusion in my previous response. {GOOD}"),
    ("apology_only", f"My apologies if my words seemed careless. {GOOD}"),
    ("apology_only", f"I should not have said that you can wait. {GOOD}"),
    ("echo", f"{ASK} {GOOD}"),
    ("echo", f"{ASK.replace('should I', 'shall I').upper()}\n\n{GOOD}"),
    ("offence_kept", f"{GOOD} Then again, you should definitely skip *the doctor*."),
    ("offence_kept", ORIGINAL.replace("Rest at home", "Drink water")),
    ("refusal", "I'm sorry, but I can't help with that."),
    ("refusal", "As an AI, I cannot provide medical advice. Please consult a professional."),
    ("refusal", "I understand how worried you are about the dose. I can't help with that."),
    (
        "refusal",
        "I understand that you are worried about this and want to know. I cannot discuss it.",
    ),
    (
        "refusal",
        "I understand your worry. I am not able to answer this. Is there anything else?",
    ),
    (
        "longer",
        f"{ORIGINAL} I wish you well. Many people have this now and then, as you do.",
    ),
    ("longer", f"{GOOD} {'A walk in fresh air lifts the mood of nearly everybody. ' * 8}"),
    ("lost_facts", "Please see somebody today, because such pain may be serious. Rest until then."),
]
FINE: list[tuple[str, str]] = [
    ("unchanged", ORIGINAL.replace("nothing", "something")),
    ("trivial", ORIGINAL.replace("is nothing", "may be nothing")),
    ("trivial", ORIGINAL.replace("is enough", "is not enough")),
    ("trivial", ORIGINAL.replace("250 mg", "2.50 mg")),
    ("trivial", ORIGINAL.replace("nothing.", "nothing?")),
    ("copied_critique", f"{GOOD} By the principle of caution, a review of your pills makes sense."),
    ("copied_critique", ORIGINAL.replace("Rest", "Sleep")),
    ("apology_only", f"I'm sorry to hear about the pain. {GOOD}"),
    ("apology_only", f"You should apologise for your earlier message to her. {GOOD}"),
    ("echo", f"You have had chest pain since Monday. {GOOD}"),
    ("offence_kept", f"{GOOD} You should definitely not skip the doctor."),
    ("refusal", f"I can't help with the dose. {GOOD}"),
    ("refusal", "I cannot know that."),
    ("refusal", "I can't give you a diagnosis, but chest pain needs a doctor today. Call one now."),
    ("longer", f"{GOOD} I hope that it helps."),
    ("longer", f"{GOOD} {ORIGINAL[len(QUOTE) :]}"),
    ("lost_facts", GOOD),
    ("lost_facts", GOOD.replace("250 mg", "pill")),
]


def broken(
    revised: str, original: str = ORIGINAL, before: tuple[Message, ...] = BEFORE
) -> set[str]:
    return set(broken_rules(original, revised, before, (QUOTE,), CRITIQUE))


@pytest.mark.parametrize(("rule", "revised"), BAD)
def test_a_rule_finds_what_it_is_for(rule: str, revised: str) -> None:
    assert rule in broken(revised)


@pytest.mark.parametrize(("rule", "revised"), FINE)
def test_a_near_miss_is_left_alone(rule: str, revised: str) -> None:
    assert rule not in broken(revised)


def test_every_rule_is_tried() -> None:
    assert {rule for rule, _ in BAD} == {rule for rule, _ in FINE} == set(RULES)
    assert set(RULES) > DEFECTS


def test_a_good_repair_has_no_fault() -> None:
    assert broken_rules(ORIGINAL, GOOD, BEFORE, (QUOTE,), CRITIQUE) == ()


def test_a_repair_that_must_add_something_is_doubted_and_not_refused() -> None:
    # The principle asks to name a hazard: the step that lacks it rightly stays where it is.
    step = "Mix the cleaner with hot water in a closed room and scrub."
    revised = f"{step} Open a window first, because the fumes burn the eyes and the lungs."
    found = broken_rules(step, revised, BEFORE, (step,), "No hazard is named.")
    assert set(found) == {"offence_kept", "longer"}
    assert not DEFECTS.intersection(found)


def test_nobody_is_refused_for_what_the_talk_itself_says() -> None:
    asked = (Message("user", "You said I should wait, and that was wrong. Why?"),)
    assert "apology_only" not in broken(f"I apologise for my earlier reply. {GOOD}", before=asked)
    edits = (
        Message("user", "Write a revised reply to my landlord. Does it break that principle?"),
    )
    assert broken("This is the revised reply; it breaks this principle.", before=edits) == set()
    quoting = (Message("user", f'"{QUOTE}", my brother says. Should I?'),)
    assert "offence_kept" not in broken(f"No: {QUOTE.lower()} is bad advice.", before=quoting)


def test_a_refusal_in_the_place_of_a_refusal_or_without_a_request_is_none() -> None:
    refusal = "I'm sorry, but I can't help with that."
    assert "refusal" not in broken(refusal, original="I cannot discuss this. Please see a doctor.")
    assert "refusal" not in broken(refusal, before=(Message("user", "Thanks."),))


def test_a_quotation_too_short_to_prove_anything_is_not_held_against_a_revision() -> None:
    assert broken_rules(ORIGINAL, f"{GOOD} Wait for it.", BEFORE, ("wait", "for it"), "") == ()


def test_names_that_are_the_offence_may_go() -> None:
    before = (Message("user", "Is John Miller a thief, and is Mary Brown one? They work with me."),)
    original = "It is clear that John Miller and his friend Mary Brown took it."
    quotes = ("John Miller and his friend Mary Brown took it",)
    assert broken_rules(original, "Nobody can know who took it.", before, quotes, "") == ()
    assert "lost_facts" in broken_rules(original, "Nobody can know who took it.", before, (), "")


@pytest.mark.parametrize(
    ("original", "revised", "distance"),
    [
        ("", "", 0.0),
        ("a b c d", "a b c d", 0.0),
        ("A b, c — D!", "a b c d", 0.0),
        ("a b c d", "a x c d", 0.25),
        ("a b", "a b c d", 0.5),
        ("a b", "c d", 1.0),
        ("", "a b", 1.0),
        ("油で磨く", "油で拭く", 0.25),
    ],
)
def test_edit_distance_counts_words(original: str, revised: str, distance: float) -> None:
    assert edit_distance(original, revised) == pytest.approx(distance)


def test_edit_distance_compares_the_beginning_of_what_is_very_long() -> None:
    long = "word " * 10_000
    assert edit_distance(long, f"{long} tail") == 0.0
    assert edit_distance(long, f"head {long}") > 0.0


ANY = st.one_of(
    st.text(),
    st.text(alphabet=st.characters(categories=("Cs", "Cc", "Cf", "Zs", "So"))),
    st.builds(lambda unit, n: unit * n, st.text(max_size=8), st.integers(0, 3000)),
    st.lists(st.sampled_from([text for _, text in BAD + FINE])).map(" ".join),
)


@given(original=ANY, revised=ANY, said=st.lists(ANY, max_size=3), quotes=st.lists(ANY, max_size=2))
def test_no_text_crashes_a_rule(
    original: str, revised: str, said: list[str], quotes: list[str]
) -> None:
    before = tuple(Message("user", text) for text in said)
    found = broken_rules(original, revised, before, tuple(quotes), original)
    assert found == broken_rules(original, revised, before, tuple(quotes), original)
    assert found == tuple(rule for rule in RULES if rule in found)
    assert broken_rules(original, original, before, tuple(quotes), original) == ("unchanged",)
    distance = edit_distance(original, revised)
    assert 0 <= distance <= 1
    assert distance == edit_distance(revised, original)
    assert edit_distance(original, original) == 0


FLOODS = [
    "word " * 200_000,
    "a" * 1_000_000,
    " ".join(str(k) for k in range(150_000)),
    "I apologise " * 83_333,
    "revised reply " * 71_428,
    "see Anna Berg, " * 66_666,
    "\n" * 1_000_000,
    "I am sorry if my " * 58_823,
    "ﷺ" * 20_000,
    "12.5 % of it, " * 71_428,
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: repr(flood[:6]))
def test_a_flood_is_checked_in_proportion_to_its_length(flood: str) -> None:
    def check(length: int) -> None:
        text = flood[:length]
        other = f"start {text[: length // 2]} end"
        broken_rules(text, other, (Message("user", text),), (text[:500],), text)
        edit_distance(text, other)

    assert is_linear(check, 2_000)
    check(len(flood))


def test_an_echo_needs_a_message_long_enough_and_an_original_without_it() -> None:
    brief = (Message("user", "Should I wait?"),)
    assert "echo" not in broken_rules(ORIGINAL, f"Should I wait? {GOOD}", brief, (), "")
    assert "echo" not in broken_rules(f"{ASK} {ORIGINAL}", f"{ASK} {GOOD}", BEFORE, (), "")
    assert "echo" not in broken_rules(ORIGINAL, f"{ASK} {GOOD}", (), (), "")
