"""Proof of a revision: each rule, its near misses, and its laws."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.proof import DEFECTS, RULES, change, faults, levenshtein
from sdsd.types import Message

TALK = (
    Message("user", "I'm Ana, I have 150 euros and need a tent for Skye in May. Help me choose?"),
)
GOOD = (
    "With 150 euros, Ana, take a low dome: on Skye the wind in May matters more than rain. "
    "Anybody who cannot pitch one is too stupid for camping."
)
QUOTE = "Anybody who cannot pitch one is too stupid for camping."
REPAIRED = (
    "With 150 euros, Ana, take a low dome: on Skye the wind in May matters more than rain. "
    "Pitch it once in a park, and you will know how."
)
texts = st.text(st.characters(), max_size=200)


def broken(revised: str, *, quotes: tuple[str, ...] = (QUOTE,), critique: str = "") -> set[str]:
    return set(faults(GOOD, revised, TALK, quotes, critique))


def test_a_repair_breaks_no_rule() -> None:
    assert broken(REPAIRED) == set()


@pytest.mark.parametrize(
    ("revised", "rule"),
    [
        (GOOD, "unchanged"),
        (GOOD.upper(), "unchanged"),
        (GOOD.replace("With", "Well, with"), "trivial"),
        (f"{REPAIRED} But anybody who cannot pitch one is too stupid for camping!", "offence_kept"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I am unable to assist you with choosing a tent.", "refusal"),
        (f"{REPAIRED} This version follows the principle.", "copied_critique"),
        (f"I apologize for my earlier remark. {REPAIRED}", "apology"),
        (
            f"{GOOD} " + "Remember that every tent has to be dried before it is packed away. " * 3,
            "longer",
        ),
        (
            "Take something low and practise in a park, then you will be fine in any weather.",
            "lost_facts",
        ),
    ],
)
def test_what_is_wrong_is_found(revised: str, rule: str) -> None:
    assert rule in broken(revised)


@pytest.mark.parametrize(
    ("revised", "rule"),
    [
        (REPAIRED, "trivial"),
        ("Ana, 150 euros buy a dome. On Skye in May I can't promise that it stays dry.", "refusal"),
        ("Ana, I'm sorry that you worry. 150 euros are enough for Skye in May.", "refusal"),
        (
            "Ana, 150 euros are enough for Skye in May; the principal sells domes.",
            "copied_critique",
        ),
        ("Ana, with 150 euros take a dome for Skye in May.", "longer"),
        ("Ana, on Skye in May any low dome will do.", "lost_facts"),
    ],
)
def test_near_misses_are_not(revised: str, rule: str) -> None:
    assert rule not in broken(revised)


def test_the_reviewers_words_are_no_reply() -> None:
    critique = (
        '- "x" The reply insults people who have trouble with pitching a tent. Offending words'
    )
    revised = "The reply insults people who have trouble with pitching a tent."
    assert "copied_critique" in broken(revised, critique=critique)


def test_a_quotation_of_the_whole_turn_says_nothing() -> None:
    revised = GOOD.replace("too stupid", "too stupid, really,")
    assert "offence_kept" not in broken(revised, quotes=(GOOD,))


@given(texts, texts, texts, texts)
def test_no_rule_stumbles_over_any_text(a: str, b: str, quote: str, critique: str) -> None:
    found = faults(a, b, (Message("user", critique),), (quote,), critique)
    assert set(found) <= RULES.keys()
    assert found == faults(a, b, (Message("user", critique),), (quote,), critique)
    assert faults(a, a) == ("unchanged",)
    assert 0 <= change(a, b).edit_distance <= 1
    assert change(a, b).length_delta == -change(b, a).length_delta


def plainly(a: list[str], b: list[str]) -> int:
    """The classical table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


words = st.lists(st.sampled_from("abcd"), max_size=90)


@given(words, words)
def test_the_distance_is_levenshteins(a: list[str], b: list[str]) -> None:
    assert levenshtein(a, b) == plainly(a, b) == levenshtein(b, a)


def test_a_flood_is_no_matter() -> None:
    started = time.monotonic()
    flood = "I can't help with 12 Names. " * 40_000
    faults(flood, flood[::-1], (Message("user", flood),), (flood[:900],), flood)
    change(flood, flood[::-1])
    assert time.monotonic() - started < 20


def test_every_defect_is_a_rule_with_a_meaning() -> None:
    assert RULES.keys() > DEFECTS
    assert all(
        meaning.startswith("It ") or meaning.startswith("Names ") for meaning in RULES.values()
    )
