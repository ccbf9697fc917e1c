"""No pattern of the package takes more than linear time, whatever text it is given.

A model's reply may be a megabyte of blanks. What is compared is growth, not speed: a search is too
slow if four times the text takes more than eight times as long, and long enough to be measured.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sdsd

PIECES = (
    " ", "\n", " \n", "\t", "\r\n", "a", "A", "1", "a ", "A ", "1 ", "a\n", "Aa ", "a, ", ".", "a.",
    "A.", "1.", "1,", "!", "?", "'", '"', "`", "*", "_", "-", "=", "#", "[", "{", "(", "<", "|",
    ":", ",", "\u201c", "\u2019", "\u3002", "é", "中", "a'", "a-", "1:", "- ", "* ", "**", "##",
    "> ", "I am ", "the user ", "you ", "not ", "STEP 1 ", "VIOLATION ", '{"', "```", "https://",
    "[.", "…", "<a", "[A", "\x1b[", "%", "\\",
)  # fmt: skip
LONG = 2_000
"""Characters; a quadratic search of this many takes milliseconds, a linear one microseconds."""
MEASURABLE = 0.004
"""Seconds of CPU time."""
FULL = {
    "sdsd.text.sentences._NO_END",
    "sdsd.runs.hub._REPO",
    "sdsd.text.yaml_files._EXPONENT",
    "sdsd.text.parsing._FENCE",
    "sdsd.models.statuses._UNITS",
    "sdsd.models.weights._HUB_NAME",
    "sdsd.config.environment._OTHER_FORM",
}
"""Patterns that are only matched in full, with a short text or in linear time."""


def patterns() -> dict[re.Pattern[str], str]:
    """Return every pattern that a module of the package holds, with a name for people."""
    found: dict[re.Pattern[str], str] = {}

    def add(value: Any, name: str) -> None:
        if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
            found.setdefault(value, name)
        elif isinstance(value, dict):
            add(list(value.values()), name)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                add(item, name)
        elif type(value).__module__.startswith("sdsd.checks"):
            add(getattr(value, "pattern", None), name)

    for module in pkgutil.walk_packages(sdsd.__path__, "sdsd."):
        if not module.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(module.name)).items():
                add(value, f"{module.name}.{name}")
    return found


def seconds(pattern: re.Pattern[str], text: str) -> float:
    began = time.process_time()
    for _ in pattern.finditer(text):
        pass
    return time.process_time() - began


def slow(pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield the pieces whose repetition takes a search more than linear time."""
    for piece in PIECES:
        for end in ("", "\0"):
            long = piece * (LONG // len(piece)) + end
            if seconds(pattern, long) < MEASURABLE:
                continue
            short = piece * (LONG // 4 // len(piece)) + end
            if min(seconds(pattern, long) for _ in range(3)) > 8 * max(
                1e-5, *(seconds(pattern, short) for _ in range(3))
            ):
                yield piece


@pytest.mark.parametrize("pattern", [r"\s*x", r"^\W*STEP", r"(?:a|1)*x", r"\w*:"])
def test_a_slow_pattern_is_found(pattern: str) -> None:
    assert next(slow(re.compile(pattern, re.MULTILINE)), None) is not None


def test_every_pattern_takes_linear_time() -> None:
    known = patterns()
    assert len(known) > 150
    found = {name: piece for pattern, name in known.items() for piece in slow(pattern)}
    assert found.keys() <= FULL, found
