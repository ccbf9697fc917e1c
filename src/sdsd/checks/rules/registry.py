"""The rules by name, and from a function to a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sdsd.checks.dialogue_text import DialogueText, TurnText

RULES: dict[str, str] = {}
"""Every packaged rule by name, and what it finds."""

Check = Callable[[DialogueText], Iterable[int]]
CHECKS: dict[str, Check] = {}


def rule(meaning: str) -> Callable[[Check], Check]:
    """Register a rule that yields the indices of the turns that break it."""

    def register(check: Check) -> Check:
        name = check.__name__.strip("_")
        RULES[name], CHECKS[name] = meaning, check
        return check

    return register


Predicate = Callable[[TurnText, DialogueText], bool]
PREDICATES: dict[str, Predicate] = {}
"""How a rule decides on one turn alone, for those that can."""


def turn_rule(meaning: str) -> Callable[[Predicate], Predicate]:
    """Register a rule that decides on one turn at a time."""

    def register(breaks: Predicate) -> Predicate:
        def check(whole: DialogueText) -> list[int]:
            return [
                turn.index for turn in whole.turns if turn.role != "system" and breaks(turn, whole)
            ]

        check.__name__ = breaks.__name__
        rule(meaning)(check)
        PREDICATES[breaks.__name__.strip("_")] = breaks
        return breaks

    return register
