"""Count the work that a function does: a clock would measure the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType


def calls(function: Callable[[], object]) -> int:
    """Return how many calls `function()` makes, of Python functions and of built-in ones.

    What one built-in call does inside, such as a search with a regular expression, counts once:
    if that takes for ever, the time-out of the whole suite ends it (`faulthandler_timeout`).
    """
    made = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return made


def is_linear(work: Callable[[int], object], n: int) -> bool:
    """Return whether `work(2 * n)` makes at most about twice the calls of `work(n)`."""
    work(n)  # fills caches, so that both are counted alike
    return calls(lambda: work(2 * n)) <= 2.2 * calls(lambda: work(n)) + 500
