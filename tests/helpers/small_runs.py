"""Runs that are as short as a run can be, for servers that are slow."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sdsd
from sdsd.dataset.export import read
from sdsd.dataset.views import VIEWS
from sdsd.models.doctor import Diagnosis, examine


def config(
    model: dict[str, Any], plans: Path, protocol: str = "chat", n: int = 2
) -> dict[str, Any]:
    """A run from plans: two exchanges of a few words, one verdict, one revision."""
    return {
        "n": n,
        "models": {"default": model},
        "source": {"path": str(plans), "kind": "plans"},
        "scenarios": {"principles": [1, 1], "exchanges": [2, 2]},
        "pairs": ["revision"],
        "dialogue": {"protocol": protocol, "max_tokens": 32, "self_check": "last"},
        "critique": {"exam": 0, "max_tokens": 48},
        "revise": {"rounds": 1, "max_tokens": 32},
    }


def assert_sound(made: sdsd.Run, n: int) -> None:
    """All dialogues are done and published, and every record follows from the journal."""
    status = made.status()
    assert (made.stopped, status.done, status.unpublished) == ("", n, 0)
    found = made.verify()
    assert found.defects == ()
    assert found.records == n


def answers(run: Path) -> dict[tuple[str, str], bytes]:
    """What a journal holds, by dialogue and step."""
    with sqlite3.connect(f"file:{run}/journal.sqlite?mode=ro", uri=True) as journal:
        return {(name, step): body for name, step, body in journal.execute(_ANSWERS)}


_ANSWERS = "SELECT scenario, step, body FROM answer"


def rows(run: Path) -> str:
    """Everything in the data set, as text."""
    return "\n".join(str(row) for view in VIEWS for row in read(run / "data", view))


def seen(model: dict[str, Any]) -> dict[str, Diagnosis]:
    """The doctor's diagnoses of a model by name; the last one of each."""
    found = examine(None, {"models": {"default": model}})
    return {diagnosis.name: diagnosis for diagnosis in found}
