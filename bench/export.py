"""Measure time and memory of a large export, and of `datasets` for the same rows.

    python bench/export.py [-n 1000000]

Records are generated as they are read: four exchanges of about sixty words per turn, in sentences
whose words have the frequencies of the packaged catalogue. Each row of the table is a separate
process with its own peak of resident memory:

    records    generating them, and nothing else: part of all other rows
    export     the complete export: selection, checks, all views
    sdsd       only the views `preference` and `dialogues`, without selection and checks
    datasets   the same rows with `Dataset.from_generator(...).to_parquet(...)`, which writes one
               set at a time, so the records are generated twice
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scale import alone, peak
from sdsd.config import Config, ExportConfig
from sdsd.config.manifest import Manifest
from sdsd.dataset.decision import Decision
from sdsd.dataset.export import Writers, export
from sdsd.dataset.selection import Selection
from sdsd.dataset.view import Row, select
from sdsd.dataset.views import VIEWS
from sdsd.scenarios import catalogue
from sdsd.types import (
    ROLES,
    Critique,
    Dialogue,
    Message,
    Outcome,
    Plan,
    Principle,
    Record,
    Revision,
    Scenario,
    StageUsage,
    Verdict,
)

MODELS: dict[str, str] = dict.fromkeys(ROLES, "bench/model")
MANIFEST = Manifest(
    sdsd="0",
    created="2026-01-01T00:00:00Z",
    python="3",
    machine="any",
    seed=0,
    config="c" * 64,
    catalogue="a" * 64,
    prompts={},
    models=MODELS,
    weights={},
    protocol="chat",
)
POOL = 200_000
"""Number of sentences that turns are made of: enough that a Parquet page rarely repeats one."""


class World:
    """Generates records, the same ones every time."""

    def __init__(self) -> None:
        self._chance = chance = random.Random(0)
        self._catalogue = known = catalogue.load()
        texts = [p.text for p in known.principles] + [g.text for g in known.goals]
        words = " ".join(texts).replace(".", "").lower().split()
        lengths = chance.choices(range(6, 19), k=POOL)
        drawn = iter(chance.choices(words, k=sum(lengths)))
        self._sentences = [
            " ".join(next(drawn) for _ in range(length)).capitalize() + chance.choice("...?")
            for length in lengths
        ]

    def records(self, n: int) -> Iterator[Record]:
        for index in range(n):
            yield self._record(index)

    def _say(self, sentences: int) -> str:
        return " ".join(self._chance.choices(self._sentences, k=sentences))

    def _scenario(self, index: int) -> Scenario:
        domain = self._chance.choice(self._catalogue.domains)
        return Scenario(
            id=f"{index:06d}-{index * 2654435761 % 2**32:08x}",
            index=index,
            field=domain.field,
            domain=domain.name,
            subarea=self._chance.choice(domain.subareas),
            goal=self._chance.choice(self._catalogue.goals),
            principles=tuple(self._chance.sample(self._catalogue.principles, 2)),
            exchanges=4,
        )

    def _critique(self, principles: tuple[Principle, ...], quote: str = "") -> Critique:
        first = Verdict(
            principles[0].id,
            bool(quote),
            self._say(2),
            quote,
            "medium" if quote else None,
            grounded=bool(quote),
            probability=0.9 if quote else 0.1,
        )
        others = (Verdict(p.id, False, self._say(1), probability=0.1) for p in principles[1:])
        return Critique((first, *others))

    def _record(self, index: int) -> Record:
        scenario = self._scenario(index)
        turns = [self._say(5) for _ in range(8)]
        messages = tuple(
            Message("assistant" if k % 2 else "user", text) for k, text in enumerate(turns)
        )
        steps = tuple(self._say(1) for _ in range(4))
        plan = Plan("\n".join(steps), steps, self._say(1), self._say(1))
        outcome: Outcome = "accepted" if self._chance.random() < 0.6 else "filtered"
        revisions: tuple[Revision, ...] = ()
        quote = ""
        if outcome == "accepted":
            quote = turns[-1][:40]
            better = f"{self._say(2)}{turns[-1][turns[-1].find('.') + 1 :]}"
            revisions = (Revision(better, self._critique(scenario.principles)),)
        return Record(
            scenario,
            outcome,
            "" if revisions else "no_violation",
            plan,
            Dialogue(messages, "chat", "completed", bool(quote)),
            self._critique(scenario.principles, quote),
            revisions,
            usage={"turn": StageUsage(9, 9000, 7000, 800, 12.5)},
        )


TWO = ("preference", "dialogues")


def rows_of(view: str, n: int) -> Iterator[Row]:
    for record in World().records(n):
        yield from VIEWS[view].of(select(record, Decision(), MODELS))


def records(n: int, out: Path) -> dict[str, int]:
    deque(World().records(n), maxlen=0)
    return {}


def whole(n: int, out: Path) -> dict[str, int]:
    counts = export(World().records(n), MANIFEST, Config(), out)
    return {str(view): size for view, size in counts.bytes.items()}


def ours(n: int, out: Path) -> dict[str, int]:
    schemas = {view: VIEWS[view].schema() for view in TWO}
    with Writers(out, schemas, 1000, 400_000_000) as writers:
        for record in World().records(n):
            selected = select(record, Decision(), MODELS)
            for view in TWO:
                for row in VIEWS[view].of(selected):
                    writers.add(view, "train", row, 5000)
        writers.finish()
        counts = writers.counts(Selection(ExportConfig(), 0))
        writers.publish()
    return counts.bytes


def theirs(n: int, out: Path) -> dict[str, int]:
    import datasets

    datasets.disable_progress_bars()
    written: dict[str, int] = {}
    for view in TWO:
        made = datasets.Dataset.from_generator(
            rows_of,
            features=datasets.Features.from_arrow_schema(VIEWS[view].schema()),
            cache_dir=str(out / "cache"),
            gen_kwargs={"view": view, "n": n},
        )
        made.to_parquet(str(out / f"{view}.parquet"))
        written[view] = (out / f"{view}.parquet").stat().st_size
    return written


SIDES: dict[str, Callable[[int, Path], dict[str, int]]] = {
    "records": records,
    "export": whole,
    "sdsd": ours,
    "datasets": theirs,
}


def measured(side: str, n: int, out: Path) -> dict[str, Any]:
    started = time.perf_counter()
    written = SIDES[side](n, out)
    seconds, cpu = time.perf_counter() - started, time.process_time()
    return {"seconds": seconds, "cpu": cpu, "peak": peak(), "bytes": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=1_000_000, help="records")
    n = parser.parse_args().n
    print(f"{n:,} records\n\n| side | wall, s | CPU, s | peak, MB | written, MB |")
    print("| --- | --- | --- | --- | --- |")
    found = {}
    for side in SIDES:
        with tempfile.TemporaryDirectory() as folder:
            found[side] = it = alone(measured, side, n, Path(folder))
        size = sum(it["bytes"].values()) / 1e6
        line = f"| {side} | {it['seconds']:.1f} | {it['cpu']:.1f} | {it['peak']:.0f} | {size:.1f} |"
        print(line, flush=True)
    sdsd, datasets = found["sdsd"], found["datasets"]
    ratios = (f"{key} {datasets[key] / sdsd[key]:.2f}" for key in ("seconds", "cpu", "peak"))
    print(f"\ndatasets / sdsd: {', '.join(ratios)}\n\n| view | bytes per record |\n| --- | --- |")
    for view, size in found["export"]["bytes"].items():
        print(f"| {view} | {size / n:,.0f} |")


if __name__ == "__main__":
    main()
