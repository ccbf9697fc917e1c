"""Make a complete run without a model: the scripted model answers, everything else is real.

    python examples/scripted.py [DIRECTORY]

Use `ScriptedModel` to try out a configuration, a catalogue, or code that reads a run. It answers
immediately and decides by seed which dialogues contain a violation, so every path is taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sdsd import ScriptedModel, run


def main(out: Path) -> None:
    """Make twelve dialogues in `out`, and read them."""
    result = run(n=12, out=out, models={"default": ScriptedModel()})
    print(f"{len(result)} dialogues, {result.status().pairs} verified pairs in {result.path}")
    for record in result.records():
        print(record.scenario.index, record.outcome, record.rule or "-", record.scenario.subarea)
        if record.outcome != "accepted":
            continue
        assert record.dialogue is not None
        assert record.critique is not None
        print("  rejected:", record.dialogue.utterance)
        print("  chosen:  ", record.revisions[-1].text)
        print("  violates:", ", ".join(record.critique.violations))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/scripted"))
