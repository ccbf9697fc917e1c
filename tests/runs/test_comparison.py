"""Two finished runs compared from their directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdsd import Run, run
from sdsd.config import load
from sdsd.models.scripted import ScriptedModel

pytestmark = pytest.mark.e2e


def made(path: Path, **changes: object) -> Run:
    config = load({"n": 4, **changes})
    return run(config, out=path, models={"default": ScriptedModel()})


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    before, after = made(tmp_path / "a" / "run"), made(tmp_path / "b" / "run", seed=1)
    found = after.compare(before)
    assert list(found.runs) == ["run (first)", "run (second)"]
    assert not found.paired
    assert found.settings == {"seed": (0, 1)}
    page = after.report(against=before)
    assert page == after.path / "against-run.html"
    assert "run (second) compared with run (first)" in page.read_text("utf-8")


def test_the_compared_run_comes_after_the_baseline(tmp_path: Path) -> None:
    old, new = made(tmp_path / "old"), made(tmp_path / "new", dialogue={"candidates": 3})
    found = new.compare(old)
    assert list(found.runs) == ["old", "new"]
    assert found.settings == {"dialogue.candidates": (1, 3)}
