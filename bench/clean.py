"""Measure what finding repeated and contaminated dialogues costs, and how many are found.

    python bench/clean.py [-n 100000] [--semantic 20000] [--grams 1000000]

Dialogues of about 300 words are generated; each draws from a hundred words of its own, taken from
the packaged topics. Every tenth repeats an earlier one with some of the words replaced. Every row
of the table is a separate process. `--semantic 0` does without the extra `semantic`.

ms       CPU time per dialogue
late     the same for the last thousand
bytes    growth of resident memory per dialogue kept (`contamination`: per word sequence in the
         evaluation sets)
true     repetitions found, of those at or above the threshold by the exact Jaccard coefficient of
         their five-word sequences
false    new dialogues taken for repetitions
changed  share of repetitions found, by share of words replaced
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from sdsd.config import ContaminationConfig, DuplicatesConfig
from sdsd.dataset.contamination import Contamination
from sdsd.dataset.duplicates import Duplicates
from sdsd.text.words import grams, words

OWN = 100
"""Words that a dialogue draws from; the k-th has a weight of 1 / (k + 3)."""
_TOTALS = list(accumulate(1 / (rank + 3) for rank in range(OWN)))
CHANGED = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3)
"""Shares of the words that are replaced in a repetition."""


class Made(NamedTuple):
    """A dialogue, and what it repeats."""

    text: str
    jaccard: float
    """Of its five-word sequences with those of the dialogue it repeats; 0 if it is new."""
    changed: float


def vocabulary() -> list[str]:
    topics = (path.read_text() for path in (files("sdsd.data") / "topics").iterdir())
    return sorted({word for text in topics for word in words(text) if len(word) > 3})


def written(chance: random.Random, known: list[str], size: int) -> list[str]:
    return chance.choices(chance.sample(known, OWN), cum_weights=_TOTALS, k=size)


def dialogues(n: int) -> Iterator[Made]:
    """Yield `n` dialogues; every tenth repeats one of the hundred before it."""
    chance, known = random.Random(2), vocabulary()
    before: list[list[str]] = []
    for k in range(n):
        if k % 10 == 9:
            first, changed = chance.choice(before), CHANGED[k // 10 % len(CHANGED)]
            text = list(first)
            for place in chance.sample(range(len(text)), round(changed * len(text))):
                text[place] = chance.choice(known)
            yield Made(" ".join(text), jaccard(first, text), changed)
            continue
        size = max(20, round(chance.gauss(300, 80)))
        text = written(chance, known, size)
        before = [*before[-99:], text]
        yield Made(" ".join(text), 0.0, 0.0)


def jaccard(a: list[str], b: list[str]) -> float:
    ours, theirs = (set(grams(words(" ".join(text)), 5)) for text in (a, b))
    return len(ours & theirs) / len(ours | theirs)


def resident() -> int:
    """Return the resident memory of this process now, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def repeats(find: Any, n: int) -> dict[str, Any]:
    config = DuplicatesConfig(method=find)
    duplicates = Duplicates(config)
    duplicates.find("warm", "up")
    cost, late, start = 0.0, 0.0, resident()
    found = {changed: [0, 0] for changed in CHANGED}
    planted = true = new = false = kept = 0
    for k, made in enumerate(dialogues(n)):
        begin = time.process_time()
        hit = duplicates.find(f"{k:06d}-0abc", made.text)
        took = time.process_time() - begin
        cost += took
        late += took if k >= n - 1000 else 0.0
        kept += hit is None
        if made.jaccard:
            found[made.changed][0] += 1
            found[made.changed][1] += hit is not None
        above = made.jaccard >= config.near
        planted, true = planted + above, true + (above and hit is not None)
        new, false = new + (not made.jaccard), false + (hit is not None and not made.jaccard)
    return {
        "ms": 1e3 * cost / n,
        "late": 1e3 * late / min(n, 1000),
        "bytes": (resident() - start) / kept,
        "true": f"{true}/{planted}",
        "false": f"{false}/{new}",
        "changed": " ".join(
            f"{c:.0%}:{hit / max(all_, 1):.0%}" for c, (all_, hit) in found.items()
        ),
    }


def contaminated(n: int, grams: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        exam, chance, known = Path(folder) / "exam.jsonl", random.Random(3), vocabulary()
        with exam.open("w") as file:
            for _ in range(grams // 50):  # 62 words have fifty runs of thirteen
                text = " ".join(written(chance, known, 62))
                file.write(json.dumps({"question": text, "choices": [text[:60]]}) + "\n")
        last = text.split()
        start, begin = resident(), time.process_time()
        contamination = Contamination(ContaminationConfig(sets=(str(exam),)))
        build, held = time.process_time() - begin, resident() - start
    cost, true, false, planted = 0.0, 0, 0, 0
    for k, made in enumerate(dialogues(n)):
        inside = k % 100 == 0
        text = f"{made.text} {' '.join(last[20:33])} {made.text}" if inside else made.text
        begin = time.process_time()
        hit = contamination.find(text)
        cost += time.process_time() - begin
        planted, true = planted + inside, true + (inside and hit is not None)
        false += hit is not None and not inside
    return {
        "ms": 1e3 * cost / n,
        "bytes": held / grams,
        "true": f"{true}/{planted}",
        "false": f"{false}/{n - planted}",
        "changed": f"(sets read in {build:.1f} s)",
    }


def apart(task: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run `task` in a separate process and return what it found."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("-n", type=int, default=100_000, help="dialogues")
    options.add_argument("--semantic", type=int, default=20_000, help="dialogues; 0: leave it out")
    options.add_argument("--grams", type=int, default=1_000_000, help="word sequences in the sets")
    chosen = options.parse_args()
    print(f"{'':14}{'n':>8}{'ms':>8}{'late':>8}{'bytes':>8}{'true':>14}{'false':>14}  changed")
    tasks: list[tuple[str, int, Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
        ("exact", chosen.n, repeats, ("exact", chosen.n)),
        ("near", chosen.n, repeats, ("near", chosen.n)),
        ("semantic", chosen.semantic, repeats, ("semantic", chosen.semantic)),
        ("contamination", chosen.n, contaminated, (chosen.n, chosen.grams)),
    ]
    for name, n, task, arguments in tasks:
        if n:
            row = apart(task, *arguments)
            late = f"{row['late']:8.2f}" if "late" in row else f"{'':8}"
            print(
                f"{name:14}{n:8}{row['ms']:8.2f}{late}{row['bytes']:8.0f}"
                f"{row['true']:>14}{row['false']:>14}  {row['changed']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
