"""The word list finds what the glossary replaces, and nothing else."""

from __future__ import annotations

import runpy
from importlib.metadata import version
from pathlib import Path

import pytest

import sdsd

ROOT = Path(__file__).parents[2]
check_words = runpy.run_path(str(ROOT / "scripts" / "check_words.py"))
banned_words = check_words["banned_words"]


@pytest.mark.parametrize(
    "line",
    [
        "it begins Anew",
        "in the mean.",
        "a talk of two",
        "def tell(event):",
        "too dear",
        "what came of it",
    ],
)
def test_a_banned_word_is_named_with_its_place(line: str) -> None:
    (found,) = banned_words("docs/page.md", f"fine\n{line}")
    assert found.startswith("docs/page.md:2: `")


@pytest.mark.parametrize(
    "line",
    ["renewed", "in the meantime", "talk to a server", "recommend", "space", "which is no longer"],
)
def test_ordinary_words_are_not(line: str) -> None:
    assert not list(banned_words("docs/page.md", line))


def test_the_glossary_may_name_them() -> None:
    assert not list(banned_words("CONTRIBUTING.md", "| anew | again |"))
    assert list(banned_words("CONTRIBUTING.md", "Do it anew."))


def test_the_installed_version_is_that_of_the_source() -> None:
    assert version("sdsd") == sdsd.__version__
