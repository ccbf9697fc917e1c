"""The assignment problem: the best sum, each column once, and nothing moves without a gain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from sdsd.scenarios.assignment import assign

gains = st.sampled_from([-1000, 0, 6, 9, 10])


@st.composite
def squares(draw: st.DrawFn, most: int) -> list[list[int]]:
    n = draw(st.integers(0, most))
    return draw(st.lists(st.lists(gains, min_size=n, max_size=n), min_size=n, max_size=n))


def total(matrix: list[list[int]], columns: Sequence[int]) -> int:
    return sum(row[column] for row, column in zip(matrix, columns, strict=True))


@given(squares(6))
def test_no_other_assignment_gains_more(matrix: list[list[int]]) -> None:
    columns = assign(matrix)
    others = permutations(range(len(matrix)))
    assert total(matrix, columns) == max(total(matrix, other) for other in others)


@given(squares(40))
def test_every_column_is_assigned_once(matrix: list[list[int]]) -> None:
    columns = assign(matrix)
    assert sorted(columns) == list(range(len(matrix)))
    assert total(matrix, columns) >= total(matrix, range(len(matrix)))


@given(squares(12))
def test_it_does_not_depend_on_a_constant_per_row(matrix: list[list[int]]) -> None:
    shifted = [[gain + 7 * k for gain in row] for k, row in enumerate(matrix)]
    assert assign(shifted) == assign(matrix)


@given(st.integers(0, 50), gains)
def test_equal_gains_move_nothing(n: int, gain: int) -> None:
    assert assign([[gain] * n for _ in range(n)]) == list(range(n))


def test_what_is_best_on_the_diagonal_stays() -> None:
    assert assign([[3, 3, 0], [3, 3, 0], [0, 0, 3]]) == [0, 1, 2]


def test_rows_move_on_if_another_has_no_choice() -> None:
    assert assign([[3, 2, 0], [3, 0, 0], [0, 3, 2]]) == [1, 0, 2]
