"""Texts that nearly repeat one another: found, told from those that do not, and always alike."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.text.near_duplicates import Near, spoken
from sdsd.text.words import grams, words
from sdsd.types import Message
from tests.factories.essays import changed, essay
from tests.helpers.counting import is_linear


def jaccard(a: list[str], b: list[str]) -> float:
    ours, theirs = set(grams(a, 5)), set(grams(b, 5))
    return len(ours & theirs) / len(ours | theirs)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_pairs_well_above_the_threshold_are_found_and_those_well_below_are_not(
    threshold: float,
) -> None:
    above = below = found = mistaken = 0
    for seed in range(300):
        text = essay(seed)
        other = changed(text, share=(seed % 30) / 100, seed=seed).split()
        near = Near(threshold)
        near.add("a", " ".join(text))
        hit = near.add("b", " ".join(other)) == "a"
        share = jaccard(text, other)
        if share >= threshold + 0.1:
            above, found = above + 1, found + hit
        if share <= threshold - 0.12:
            below, mistaken = below + 1, mistaken + hit
    assert found >= 0.97 * above > 0
    assert mistaken <= 0.02 * below
    assert below


def test_the_earliest_is_named_and_what_repeats_is_not_kept() -> None:
    near, text = Near(0.7), essay(1)
    assert near.add("first", " ".join(text)) is None
    assert near.add("other", " ".join(essay(2))) is None
    assert near.add("second", changed(text, 0.02)) == "first"
    assert near.add("third", " ".join(text)) == "first"


def test_of_several_that_are_alike_the_earliest_is_named() -> None:
    text = essay(1)
    near = Near(0.5)
    for key, share in (("a", 0.06), ("b", 0.06)):  # each far from the other, near to the text
        assert near.add(key, changed(text, share, seed=ord(key))) is None
    assert near.add("c", " ".join(text)) == "a"


def test_one_key_may_stand_for_several_texts() -> None:
    near = Near(0.7)
    assert near.add("same", " ".join(essay(1))) is None
    assert near.add("same", " ".join(essay(2))) is None
    assert near.add("x", " ".join(essay(2))) == "same"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("", "", True),
        ("", "yes", False),
        ("Yes.", "yes.", True),
        ("yes", "no", False),
        ("\N{THUMBS UP SIGN}", "\N{THUMBS DOWN SIGN}", False),
        ("???", "!!!", False),
        ("one two three four", "one two three five", False),
        ("one two three four", "one  two\nthree FOUR", True),
        ("\ud800", "x", False),
        ("\ud800", "\ud800", True),
        ("\x00", "", False),
    ],
)
def test_short_texts_repeat_only_what_is_the_same(a: str, b: str, same: bool) -> None:
    near = Near(0.7)
    near.add("a", a)
    assert (near.add("b", b) == "a") is same


def test_scripts_without_spaces_are_compared_by_the_character() -> None:
    thai = "การเดินทางด้วยรถไฟในประเทศไทยนั้นสะดวกและราคาไม่แพง เหมาะสำหรับผู้ที่มีเวลามาก" * 3
    chinese = "这个城市的公共交通非常方便而且价格便宜，适合没有汽车的人出行，也适合来旅游的朋友。"
    near = Near(0.7)
    assert near.add("thai", thai) is None
    assert near.add("chinese", chinese) is None
    assert near.add("x", thai[:-3] + "น้อย") == "thai"
    assert near.add("x", chinese.replace("朋友", "游客")) == "chinese"
    assert (
        near.add("y", "昨天晚上我们一起去看了一场电影，回家的路上下起了大雨，大家都没有带伞。")
        is None
    )


def test_words_are_compared_without_case_punctuation_and_marks() -> None:
    assert words("“Don’t — STOP!”, _she_ said.") == ["dont", "stop", "she", "said"]
    assert words("हिन्दी में।") == ["हिन्दी", "में"]  # vowel signs do not cut a word
    assert words("مرحبا، كيف حالك؟") == ["مرحبا", "كيف", "حالك"]
    assert words("在2019年") == ["在", "2019", "年"]
    assert words("a\x00b \ud800 `code()`") == ["a", "b", "code"]


def test_runs_are_every_so_many_words_in_a_row() -> None:
    assert grams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert grams(["a"], 2) == []


def test_the_system_has_not_spoken() -> None:
    talk = (Message("system", "plan"), Message("user", "Hi."), Message("assistant", "Hello."))
    assert spoken(talk) == "Hi.\n\nHello."


@given(st.text(), st.text())
def test_whatever_the_text_it_repeats_itself(text: str, other: str) -> None:
    near = Near(0.7)
    assert near.add("a", text) is None
    near.add("b", other)
    assert near.add("c", text) == "a"


@given(st.lists(st.text(alphabet="ab \ud800中", max_size=30), max_size=12), st.integers(0, 12))
def test_what_comes_later_changes_no_earlier_decision(texts: list[str], cut: int) -> None:
    def decide(texts: list[str]) -> list[str | None]:
        near = Near(0.5)
        return [near.add(str(k), text) for k, text in enumerate(texts)]

    assert decide(texts)[:cut] == decide(texts[:cut])


def test_every_process_decides_alike() -> None:
    code = (
        "from tests.text.test_near_duplicates import *\n"
        "near = Near(0.7)\n"
        "print([near.add(str(k), changed(essay(k % 20), k / 2000, k)) for k in range(60)])\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert b"'0'" in said.pop()


@pytest.mark.parametrize("piece", ["a", "word ", "\u4e2d", "\x00", "<b>\u202e", " "])
def test_the_work_grows_with_the_text_at_most(piece: str) -> None:
    assert is_linear(lambda n: Near(0.7).add("a", piece * n), 2_000)
    Near(0.7).add("a", piece * (200_000 // len(piece)))


def test_of_a_very_long_text_beginning_and_end_count() -> None:
    long = [" ".join(essay(seed, 40_000)) for seed in (1, 2)]
    near = Near(0.7)
    assert near.add("a", long[0]) is None
    assert near.add("b", long[1]) is None
    assert near.add("c", long[0] + " and so on") == "a"
