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
    made = run(n=12, out=out, models={"default": ScriptedModel()})
    print(f"{len(made)} dialogues, {made.status().pairs} verified pairs in {made.path}")
    for record in made:
        print(record.scenario.index, record.outcome, record.rule or "-", record.scenario.subarea)
    for pair in made.pairs():
        print("\nviolates:", " ".join(pair.principles))
        print("rejected:", pair.rejected)
        print("chosen:  ", pair.chosen)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/scripted"))
