"""sdsd itself: a complete run, from its scenarios to the published data set.

Its scenarios are its own. Four exchanges, one principle without a card, no exam, no self-checks and
one revision without a recheck give each dialogue the same calls. `roleplay` sends two views of the
conversation as the others do, `continuation` one growing stream, `chat` one growing chat. The
requests by which it probes the server are not counted. There is no telemetry.

Resume: the same call again with the same directory.
"""

from __future__ import annotations

import json
from pathlib import Path

import measure
from workload import EXCHANGES, MODEL, PLAN_TOKENS, Row

import sdsd
from sdsd.scenarios import catalogue
from sdsd.types import Record


def bare_principles(path: Path) -> str:
    """Write the packaged principles without their cards, so that there is no last message to write
    first: no other program has that call."""
    keys = ("id", "text", "family", "category")
    rows = [{key: getattr(p, key) for key in keys} for p in catalogue.load().principles]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return str(path)


def row_of(record: Record) -> Row:
    """Return a record as a dialogue."""
    assert record.plan, f"{record.scenario.id}: {record.failure}"
    assert record.dialogue, f"{record.scenario.id}: {record.failure}"
    assert record.critique, f"{record.scenario.id}: {record.failure}"
    revision = record.revisions[0].text if record.revisions else ""
    return {
        "index": record.scenario.index,
        "plan": record.plan.text,
        "said": [message.content for message in record.dialogue.messages],
        "verdict": json.dumps({"violated": bool(record.critique.violations)}),
        "revision": revision,
    }


def main() -> None:
    job = measure.job("roleplay", "continuation", "chat")
    config = {
        "n": job.n,
        "catalogue": {"principles": bare_principles(job.state / "principles.jsonl")},
        "max_open_dialogues": job.open,
        "scenarios": {"exchanges": [EXCHANGES, EXCHANGES], "principles": [1, 1]},
        "plan": {"max_tokens": PLAN_TOKENS},
        "dialogue": {"protocol": job.variant, "self_check": "never"},
        "critique": {"exam": 0},
        "revise": {"rounds": 1, "recheck": False},
        "models": {"default": {"model": MODEL, "base_url": job.url, "parallel": job.open}},
    }
    clock = measure.Clock()
    result = sdsd.run(config, out=job.state / "run")
    clock.stop(job, "sdsd", [row_of(record) for record in result.records()])


if __name__ == "__main__":
    main()
