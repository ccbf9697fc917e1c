"""Read what a run wrote, as its readers do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


# `datasets` and what it pulls in warn about themselves; that is theirs to mend.
third_party = pytest.mark.filterwarnings("ignore")


def load(folder: Path, tmp_path: Path, *name: str, **options: Any) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    options = {"split": "train", "cache_dir": str(tmp_path / "cache"), **options}
    return datasets.load_dataset(str(folder), *name, **options)
