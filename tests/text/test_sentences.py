"""Sentences and words are counted between bounds that every reader's count lies in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.text.sentences import short_spans, spans, word_bounds


def cut(text: str) -> list[str]:
    return [text[a:b] for a, b in spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" ... ", []),
        ("It is so. Is it? Yes!", ["It is so.", "Is it?", "Yes!"]),
        ("See Dr. Osei at 3 p.m. in Room 4. Bring tea.", ["See Dr. Osei at 3 p.m. in Room 4.",
                                                           "Bring tea."]),
        ("1. Boil. 2. Stir.", ["1. Boil.", "2. Stir."]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("You need:\n- jam\n- bread", ["You need:", "- jam", "- bread"]),
        ("One line\n\nanother", ["One line", "another"]),
        ("你好。世界。", ["你好。", "世界。"]),
        ("Pi is 3.14. So", ["Pi is 3.14.", "So"]),
    ],
)  # fmt: skip
def test_sentences_end_where_every_reader_ends_them(text: str, sentences: list[str]) -> None:
    assert cut(text) == sentences


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("", (0, 0)),
        ("Jam, bread and tea.", (4, 4)),
        ("a half-hour walk", (3, 4)),
        ("it's 3.5 km", (3, 4)),
        ("tea - or coffee", (3, 3)),
        ("好 tea", None),
    ],
)
def test_words_are_counted_between_bounds(text: str, bounds: tuple[int, int] | None) -> None:
    assert word_bounds(text) == bounds


@given(st.text(st.characters(exclude_categories=())) | st.text("ab .!?\n-1'\"E"))
def test_the_fewest_are_never_more_than_the_most(text: str) -> None:
    assert len(spans(text)) <= len(short_spans(text))
    for found in (spans(text), short_spans(text)):
        assert all(a < b and text[a:b] == text[a:b].strip() for a, b in found)
        assert all(one[1] <= other[0] for one, other in pairwise(found))
    bounds = word_bounds(text)
    assert bounds is None or bounds[0] <= bounds[1]
