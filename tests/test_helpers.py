"""The helpers of the tests see what they are for."""

from __future__ import annotations

from tests.helpers.counting import calls, is_linear


def test_calls_of_python_and_of_built_in_functions_count() -> None:
    assert calls(lambda: [abs(k) for k in range(50)]) >= 50
    assert calls(lambda: None) < 5


def test_more_than_linear_work_is_noticed() -> None:
    def linear(n: int) -> None:
        for _ in range(n):
            abs(1)

    def quadratic(n: int) -> None:
        for _ in range(n):
            linear(n)

    assert is_linear(linear, 1_000)
    assert not is_linear(quadratic, 100)
