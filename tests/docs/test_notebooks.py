"""The notebooks among the examples run, and show what they print."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import notebooks
import pytest

NOTEBOOKS = sorted(notebooks.FOLDER.glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"first_run", "own_critic"}


@pytest.mark.e2e
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_prints(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    stored = json.loads(path.read_text("utf-8"))
    assert notebooks.executed(stored) == stored, "run: python scripts/notebooks.py"
