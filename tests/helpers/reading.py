"""Read what a run wrote, as its readers do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


Test = TypeVar("Test", bound=Callable[..., Any])


def third_party(test: Test) -> Test:
    """Mark a test that reads with `datasets`, which warns about its own dependencies."""
    marked: Test = pytest.mark.e2e(pytest.mark.filterwarnings("ignore")(test))
    return marked


def load(folder: Path, tmp_path: Path, *name: str, **options: Any) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    options = {"split": "train", "cache_dir": str(tmp_path / "cache"), **options}
    return datasets.load_dataset(str(folder), *name, **options)
