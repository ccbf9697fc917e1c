"""A finished run, for the commands that read one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import sdsd
from sdsd.models.scripted import ScriptedModel


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of eight dialogues; not to be changed."""
    out = tmp_path_factory.mktemp("cli") / "run"
    sdsd.run(n=8, out=out, models={"default": ScriptedModel()})
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A complete run that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
