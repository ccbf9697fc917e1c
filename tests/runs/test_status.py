"""Two finished runs compared from their directories."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sdsd.config import load
from sdsd.models.scripted import ScriptedModel
from sdsd.reports.metrics.comparison import Comparison
from sdsd.runs.directory import RunDir
from sdsd.runs.runner import run
from sdsd.runs.status import compared


def made(path: Path, **changes: object) -> RunDir:
    config = load({"n": 4, **changes})
    return RunDir(run(config, out=path, models={"default": ScriptedModel()}).path)


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    before, after = made(tmp_path / "a" / "run"), made(tmp_path / "b" / "run", seed=1)
    found = msgspec.json.decode(compared(after, before, json=True), type=Comparison)
    assert list(found.runs) == ["run (first)", "run (second)"]
    assert not found.paired
    assert found.settings == {"seed": (0, 1)}
    page = Path(compared(after, before))
    assert page == after.path / "against-run.html"
    assert "run (second) compared with run (first)" in page.read_text("utf-8")


def test_the_compared_run_comes_after_the_baseline(tmp_path: Path) -> None:
    old, new = made(tmp_path / "old"), made(tmp_path / "new", dialogue={"candidates": 3})
    found = msgspec.json.decode(compared(new, old, json=True), type=Comparison)
    assert list(found.runs) == ["old", "new"]
    assert found.settings == {"dialogue.candidates": (1, 3)}
