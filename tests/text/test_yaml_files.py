"""YAML is read strictly, and whatever is read survives writing it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.text.yaml_files import YamlError, dump, parse


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' occurs twice, first on line 1"),
        ("b:\n- {x: 1}\n- x: 1\n  y: 2\n  x: 3", 5, "the key 'x' occurs twice, first on line 3"),
        ("{a: 1, 'a': 2}", 1, "the key 'a' occurs twice, first on line 1"),
        ("a: &x [1]\nb: *x", 2, "aliases are not read"),
        ("a: &x {b: 1}\nc:\n  <<: *x", 3, "aliases are not read"),
        ("[" * 33 + "]" * 33, 1, "nested more than 32 deep"),
        ("- " * 100_000, 1, "nested more than 32 deep"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("a: 1\nb: !thing 2", 2, "the tag '!thing' is not read"),
        ("a: !!set {b}", 1, "is not read"),
        ("a: b\nc: \0", 2, "not allowed"),
        ("a: b\nc: \ud800", 2, "half a character"),
        ("a: 1\nb: 010", 2, "010 is another number to YAML than to people"),
        ("a: 1\nb:\n  <<: {c: 1}", 3, "`<<` is not read"),
        ("{'<<': 1, a: 1, a: 2}", 1, "the key 'a' occurs twice"),
        ("? {a: 1}\n: 2", 1, "a key must be text"),
        ("n: " + "1" * 5_000, 1, "is not of the type int"),
        ("n: 1\na: !!int ''", 2, "'' is not of the type int"),
        ("a: !!float ''", 1, "'' is not of the type float"),
        ("a: !!timestamp 'x'", 1, "'x' is not of the type timestamp"),
        ("a: éééééééé\nb: ü\nc: \0", 3, "not allowed"),
    ],
)
def test_what_is_refused_has_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(YamlError) as fault:
        parse(text)
    assert fault.value.line == line
    assert problem in fault.value.problem


def test_a_bomb_of_aliases_takes_no_memory() -> None:
    """Nine levels of nine aliases would be 387 million values."""
    levels = [f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 9)}]" for k in range(1, 10)]
    with pytest.raises(YamlError, match="aliases"):
        parse("\n".join(["l0: &l0 [lol]", *levels]))


def test_keys_and_dates_are_text_as_written() -> None:
    assert parse("1: a\nyes: b\n2001-01-01: 2001-01-01 10:00:00") == {
        "1": "a", "yes": "b", "2001-01-01": "2001-01-01 10:00:00"
    }  # fmt: skip
    assert parse("[1e3, 1.5E-1, 0x1f, ~, '1e3', 1e3x]") == [1000, 0.15, 31, None, "1e3", "1e3x"]
    assert parse("[true, False, yes, No, on, OFF, 1:30, 10:00:30.5, 0, 0.5, 1_000, '010']") == [
        True, False, "yes", "No", "on", "OFF", "1:30", "10:00:30.5", 0, 0.5, 1000, "010"
    ]  # fmt: skip
    assert parse("") is parse("# nothing") is None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.from_regex(r"\A[-+]?[0-9]{1,3}(\.[0-9]{0,2})?[eE][-+]?[0-9]{1,2}\Z"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc1e-", max_size=4),
                                                                inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    assert parse(dump(value)) == value
