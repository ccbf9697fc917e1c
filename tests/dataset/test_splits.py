"""Splits: no group in two of them, shares as asked for, nothing ever moves, and files to match."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import Config, SplitsConfig
from sdsd.config.manifest import Manifest
from sdsd.dataset.export import Counts, SplitCount, differing, export, read
from sdsd.dataset.selection import Selection
from sdsd.dataset.splits import SPLITS, split
from sdsd.dataset.views import VIEWS
from sdsd.errors import SdsdError
from sdsd.types import ROLES, Dialogue, Goal, Message, Principle, Record, Scenario

PRINCIPLES = (Principle("p", "The assistant should be kind.", "f", "c"),)
NAMES = st.text(max_size=6)
PLACES = st.tuples(NAMES, NAMES, NAMES)
SHARES = st.floats(0, 0.5)
SEEDS = st.integers(0, 2**31)
DEPTH = {"field": 1, "domain": 2, "subarea": 3}
BY = st.sampled_from(list(DEPTH))


def scenario(field: str, domain: str, subarea: str, index: int = 0) -> Scenario:
    goal = Goal("g", "k", "Argue.")
    return Scenario(f"{index}", index, field, domain, subarea, goal, PRINCIPLES, 2)


@given(st.lists(PLACES, min_size=1), BY, SHARES, SHARES, SEEDS)
def test_no_group_is_in_two_splits(
    places: list[tuple[str, str, str]], by: str, validation: float, test: float, seed: int
) -> None:
    config = SplitsConfig(by=by, validation=validation, test=test)  # type: ignore[arg-type]
    found: dict[tuple[str, ...], set[str]] = {}
    for index, place in enumerate(places * 2):
        group = found.setdefault(place[: DEPTH[by]], set())
        group.add(split(scenario(*place, index), config, seed))
    assert all(len(splits) == 1 for splits in found.values())


@given(PLACES, BY, SHARES, SHARES, SHARES, SEEDS)
def test_what_is_in_test_stays_whatever_becomes_of_validation(
    place: tuple[str, str, str], by: str, test: float, before: float, after: float, seed: int
) -> None:
    def where(validation: float) -> str:
        config = SplitsConfig(by=by, validation=validation, test=test)  # type: ignore[arg-type]
        return split(scenario(*place), config, seed)

    assert (where(before) == "test") == (where(after) == "test")
    if where(min(before, after)) == "validation":
        assert where(max(before, after)) == "validation"


@pytest.mark.parametrize("seed", range(3))
def test_the_shares_are_those_of_the_groups(seed: int) -> None:
    config = SplitsConfig(validation=0.1, test=0.2)
    found = Counter(split(scenario("f", f"d{k}", "s"), config, seed) for k in range(10_000))
    assert found["test"] / 10_000 == pytest.approx(0.2, abs=0.015)  # nearly four deviations
    assert found["validation"] / 10_000 == pytest.approx(0.1, abs=0.012)


def test_another_seed_splits_otherwise() -> None:
    config = SplitsConfig(test=0.5)
    places = [scenario("f", f"d{k}", "s") for k in range(64)]
    assert [split(p, config, 0) for p in places] != [split(p, config, 1) for p in places]


@given(PLACES, SEEDS)
def test_without_shares_all_is_train(place: tuple[str, str, str], seed: int) -> None:
    assert split(scenario(*place), SplitsConfig(), seed) == "train"


def test_subareas_of_one_name_in_two_domains_are_two_groups() -> None:
    config = SplitsConfig(by="subarea", test=0.5)
    found = {split(scenario("f", f"d{k}", "general"), config, 0) for k in range(64)}
    assert found == {"train", "test"}


# -- files ---------------------------------------------------------------------------------

MANIFEST = Manifest(
    sdsd="0",
    created="2026-01-02T03:04:05Z",
    python="3",
    machine="any",
    seed=7,
    config="c",
    catalogue="a",
    prompts={},
    models=dict.fromkeys(ROLES, "m"),
    weights={},
    protocol="chat",
)


def config_of(**splits: Any) -> Config:
    return configuration.load({"export": {"splits": splits}})


HALVES = config_of(validation=0.3, test=0.3)


def record(index: int, domain: str = "", text: str = "") -> Record:
    messages = (Message("user", f"Question {index}?"), Message("assistant", text or "Yes."))
    return Record(
        scenario("field", domain or f"domain {index % 9}", "subarea", index),
        "filtered",
        "no_violation",
        dialogue=Dialogue(messages, "chat", "completed", self_flagged=False),
    )


RECORDS = [record(index) for index in range(36)]


def exported(data: Path, config: Config = Config(), n: int = 36) -> Counts:
    return export(RECORDS[:n], MANIFEST, config, data, rows_per_group=3, bytes_per_file=1)


def files(data: Path, view: str = "dialogues") -> dict[str, int]:
    """How many files of each split there are."""
    return dict(Counter(path.name.partition("-")[0] for path in (data / view).iterdir()))


def test_every_view_has_a_record_in_the_same_split(tmp_path: Path) -> None:
    counts = exported(tmp_path, HALVES)
    where = {r.scenario.id: split(r.scenario, HALVES.export.splits, 7) for r in RECORDS}
    for view in ("dialogues", "scenarios"):
        for each in SPLITS:
            ids = [row["id"] for row in read(tmp_path, view, each)]
            assert ids == [key for key, found in where.items() if found == each]
            assert counts.splits[view][each].rows == len(ids) > 0
            assert counts.splits[view][each].files == files(tmp_path, view)[each]
            assert len(list(read(tmp_path, view, each))) == len(ids)
        assert counts.rows[view] == len(list(read(tmp_path, view))) == 36


def test_all_splits_are_read_one_after_another(tmp_path: Path) -> None:
    exported(tmp_path, HALVES)
    whole = [row["id"] for row in read(tmp_path, "dialogues")]
    assert whole == [row["id"] for s in SPLITS for row in read(tmp_path, "dialogues", s)]


def test_a_split_without_rows_has_no_file_but_an_empty_view_has_one(tmp_path: Path) -> None:
    counts = exported(tmp_path, config_of(test=0.3))
    assert set(files(tmp_path)) == {"train", "test"}
    assert list(read(tmp_path, "dialogues", "validation")) == []
    assert files(tmp_path, "preference") == {"train": 1}
    assert counts.splits["preference"] == {"train": SplitCount(0, 1)}
    assert list(read(tmp_path, "preference")) == []


def test_files_of_other_splits_go_and_no_others(tmp_path: Path) -> None:
    exported(tmp_path, HALVES)
    for name in (".validation-00000.77.tmp", ".hidden.tmp", "mine-00000-of-00001.parquet"):
        (tmp_path / "dialogues" / name).write_bytes(b"")
    exported(tmp_path)
    left = {path.name for path in (tmp_path / "dialogues").iterdir()}
    ours = {f"train-{i:05d}-of-00012.parquet" for i in range(12)}
    assert left == ours | {".hidden.tmp", "mine-00000-of-00001.parquet"}


def test_a_split_of_which_a_file_is_missing_is_no_data_set(tmp_path: Path) -> None:
    exported(tmp_path, HALVES)
    (tmp_path / "dialogues" / f"test-00000-of-{files(tmp_path)['test']:05d}.parquet").unlink()
    with pytest.raises(SdsdError, match="a file is missing"):
        list(read(tmp_path, "dialogues", "train"))


@pytest.mark.parametrize("config", [Config(), HALVES])
def test_an_export_holds_the_rows_of_its_records(tmp_path: Path, config: Config) -> None:
    def faults(records: list[Record], config: Config = config) -> list[str]:
        selection = Selection(config.export, 7)
        found = differing(records, MANIFEST, config, tmp_path, selection)
        return [fault.replace(f"{tmp_path}{os.sep}", "") for fault in found]

    broken = replace(RECORDS[0], dialogue=None, outcome="failed")
    records = [broken, *RECORDS[1:], record(40, text="half \ud800")]
    export(records, MANIFEST, config, tmp_path)
    assert faults(records) == []
    both = {
        f"{view}: differs from the journal; `sdsd export` rewrites it"
        for view in ("dialogues", "sft", "kto", "critique", "scenarios", "removed")
    }
    assert set(faults(records[:-1])) < both
    assert set(faults([*records, record(41)])) < both
    assert set(faults(RECORDS)) < both
    other = config_of(test=0.9)
    assert faults(records, other)
    (tmp_path / "scenarios" / "train-00000-of-00001.parquet").write_bytes(b"")
    (fault,) = faults(records)
    assert fault.startswith("scenarios/train-00000-of-00001.parquet: cannot be read")
    assert len(faults([])) == sum(any(read(tmp_path, v)) for v in VIEWS if v != "scenarios") + 1


@pytest.mark.skipif(
    "use_content_defined_chunking" not in pq.ParquetWriter.__init__.__code__.co_varnames,
    reason="pages by content came with pyarrow 21",
)
@pytest.mark.e2e
def test_a_row_that_goes_leaves_most_bytes_as_they_were(tmp_path: Path) -> None:
    chance = random.Random(0)  # of other bytes, one run in ten has a page that ends elsewhere
    records = [record(index, text=chance.randbytes(4000).hex()) for index in range(600)]
    for name, kept in (("all", records), ("less", [*records[:100], *records[101:]])):
        export(kept, MANIFEST, Config(), tmp_path / name)
    whole, less = (
        (tmp_path / name / "dialogues" / "train-00000-of-00001.parquet").read_bytes()
        for name in ("all", "less")
    )
    blocks = [whole[start : start + 4096] for start in range(0, len(whole) - 4096, 50_000)]
    assert sum(block in less for block in blocks) > len(blocks) / 2
