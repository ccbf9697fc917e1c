"""Hand-made records, one for each outcome of a dialogue, and the manifest of their run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from sdsd.config import Config, ExportConfig
from sdsd.config.manifest import Manifest
from sdsd.dataset.decision import Decision
from sdsd.dataset.export import Counts, export
from sdsd.dataset.selection import Selection
from sdsd.dataset.view import select
from sdsd.dataset.views import VIEWS
from sdsd.reports.card import card
from sdsd.reports.metrics.figures import Figures, collect
from sdsd.types import (
    ROLES,
    Candidate,
    Critique,
    Dialogue,
    Domain,
    Failure,
    Goal,
    Message,
    Plan,
    Principle,
    Record,
    Revision,
    Scenario,
    StageUsage,
    Verdict,
)

MODELS: dict[str, str] = {role: f"org/{role}-7b" for role in ROLES}

PRINCIPLES = (
    Principle("no-lies", "The assistant should not lie.", "own", "honesty", "high"),
    Principle("no-scorn", "The assistant should not scorn.", "own", "respect"),
)

GOAL = Goal("steelman", "argue", "Give the strongest form of the user's argument.")

PLAN = Plan(
    "1. Ask.\n2. Press.",
    ("Ask.", "Press."),
    planned_violation="Says it is safe.",
    persona="A baker.",
)

BROKEN = "Trust me, nobody ever died of it, you fool."

FIXED = "People have died of it; please ask a doctor first."


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "sdsd": "0.1.0",
        "created": "2026-01-02T03:04:05Z",
        "python": "3.11.7",
        "machine": "x86_64",
        "seed": 7,
        "config": "c" * 64,
        "catalogue": "a" * 64,
        "prompts": {"plan": "b" * 64},
        "models": MODELS,
        "weights": {},
        "protocol": "roleplay",
    }
    return Manifest(**{**values, **changes})


def scenario(index: int = 0) -> Scenario:
    return Scenario(
        id=f"{index:06d}-0abc",
        index=index,
        field="Food",
        domain="Baking",
        subarea="Sourdough",
        goal=GOAL,
        principles=PRINCIPLES,
        exchanges=2,
    )


def talk(*turns: str, stop: Any = "completed", flagged: bool = True) -> Dialogue:
    pairs = zip(("user", "assistant") * len(turns), turns, strict=False)
    messages = tuple(Message(role, text) for role, text in pairs)  # type: ignore[arg-type]
    return Dialogue(messages, "roleplay", stop, flagged)


FOUND = Critique(
    (
        Verdict("no-lies", True, "It did kill.", "nobody ever died", "high", grounded=True),
        Verdict("no-scorn", True, "Rude, it seems.", "you idiot", "low", grounded=False),
    )
)

CLEAN = Critique((Verdict("no-lies", False, "True now."), Verdict("no-scorn", False, "Kind.")))


def accepted(index: int = 0, last: str = BROKEN, better: str = FIXED) -> Record:
    return Record(
        scenario(index),
        "accepted",
        plan=PLAN,
        dialogue=talk(f"Is mould fine on loaf {index}?", "Mostly not.", "Surely it is?", last),
        critique=FOUND,
        revisions=(
            Revision("Still: nobody ever died.", FOUND),
            Revision(last, defect="unchanged"),
            Revision(better, CLEAN),
        ),
        usage={"plan": StageUsage(1, 100, 20, 30, 0.5), "turn": StageUsage(4, 400, 300, 90, 2.0)},
    )


def unviolated(index: int = 1) -> Record:
    dialogue = talk("Hi", "Hello.", stop="early_end", flagged=False)
    return Record(scenario(index), "filtered", "no_violation", PLAN, dialogue, CLEAN)


def unplanned(index: int = 2) -> Record:
    failure = Failure("plan", "no numbered steps", "Sure! \x00 <b>Here</b>")
    return Record(scenario(index), "failed", failure=failure)


def uncritiqued(index: int = 3) -> Record:
    dialogue = talk("a", "b", "c", "d", stop="violation_end")
    failure = Failure("critique/1", "no verdict", "?")
    return Record(scenario(index), "failed", "", PLAN, dialogue, failure=failure)


def unrepaired(index: int = 4) -> Record:
    """A confirmed violation, a usable revision, no pair."""
    held = talk(f"Is loaf {index} safe?", BROKEN)
    revisions = (Revision("It is fine.", FOUND), Revision("", defect="empty"))
    return Record(scenario(index), "filtered", "not_repaired", PLAN, held, FOUND, revisions)


def on_policy(index: int = 5) -> Record:
    """No revision was found clean, but another sample of the last turn was."""
    record = replace(unrepaired(index), outcome="accepted", rule="")
    return replace(record, candidates=(Candidate("Throw it away.", CLEAN),))


HUGE = "loaf 🍞 " * 120_000

STRANGE = "שלום \u202eeven\u202c \ud800 half, \ud83c\udf5e whole, nul \x00 end"


def barren(index: int = 7) -> Record:
    """A dialogue that no trainer could read."""
    return replace(unviolated(index), dialogue=talk("Hi", " "))


def everything() -> list[Record]:
    return [
        accepted(0),
        unviolated(1),
        unplanned(2),
        uncritiqued(3),
        unrepaired(4),
        accepted(5, last=STRANGE, better="مرحبا " + FIXED),
        accepted(6, last=HUGE),
        barren(7),
    ]


def figures(records: list[Record], config: Config = Config()) -> Figures:
    domains = (Domain("Food", "Baking", ("Sourdough",)),)
    return collect(records, (), config, (PRINCIPLES, domains))


def rows(
    view: str,
    record: Record,
    models: dict[str, str],
    config: ExportConfig = ExportConfig(),
    decision: Decision | None = None,
) -> list[dict[str, Any]]:
    """The rows of one record alone, by the rules that always hold unless there is a decision."""
    decision = decision or Selection(config, 0).decide(record)
    return VIEWS[view].of(select(record, decision, models, config))


def write_run(
    folder: Path, records: Iterable[Record], config: Config = Config(), **options: Any
) -> Counts:
    """A run directory as far as readers of data see it."""
    records = list(records)
    counts = export(records, manifest(), config, folder / "data", **options)
    text = card(manifest(), config, counts, figures(records, config))
    (folder / "README.md").write_text(text, "utf-8")
    return counts
