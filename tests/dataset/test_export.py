"""The data set: rows of hand-made records, and files that real readers load."""

from __future__ import annotations

import os
import resource
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.checks.dialogue_rules import Finding
from sdsd.config import Config, ExportConfig
from sdsd.dataset.decision import Decision, Removal
from sdsd.dataset.export import export, read
from sdsd.dataset.measures import similarity
from sdsd.dataset.splits import SPLITS
from sdsd.dataset.views import VIEWS
from sdsd.errors import SdsdError
from sdsd.reports.metrics.figures import collect
from sdsd.text.normalize import encodable
from sdsd.types import (
    Candidate,
    Record,
    Revision,
)
from tests.factories.records import (
    BROKEN,
    CLEAN,
    FIXED,
    HUGE,
    MODELS,
    PLAN,
    PRINCIPLES,
    accepted,
    barren,
    everything,
    manifest,
    on_policy,
    rows,
    uncritiqued,
    unplanned,
    unrepaired,
    unviolated,
    write_run,
)
from tests.helpers.reading import files, load, third_party

PUBLISHED = {
    "dialogues": {
        "domain": "string",
        "subarea": "string",
        "principle": "texts",
        "goal": "string",
        "messages": "chat",
        "is_violation": "bool",
        "is_truncated": "bool",
    },
    "revisions": {
        "messages": "chat",
        "domain": "string",
        "subarea": "string",
        "principle": "texts",
        "goal": "string",
        "plan": "string",
        "critique": "string",
        "violations": "texts",
        "revision": "string",
    },
}
KINDS: dict[str, Any] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "texts": pa.list_(pa.string()),
    "chat": pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())])),
}


def test_a_clean_sample_makes_a_pair_and_verifies_no_revision() -> None:
    (pair,) = rows("preference", on_policy(), MODELS)
    assert (pair["kind"], pair["chosen"][0]["content"]) == ("on_policy", "Throw it away.")
    (revision,) = rows("revisions", on_policy(), MODELS)
    assert revision["verified"] is False
    assert rows("revisions", accepted(), MODELS)[0]["verified"] is True
    found = collect([on_policy()], (), Config(), ((), ()))
    assert (found.rounds, found.lengths.chosen) == ({}, len("Throw it away."))


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_every_row_has_the_columns_of_its_view(view: str) -> None:
    found = [row for record in everything() for row in rows(view, record, MODELS)]
    assert found
    assert all(set(row) == {column.name for column in VIEWS[view].columns} for row in found)


@pytest.mark.parametrize("view", PUBLISHED)
def test_published_columns_come_first_with_their_types(view: str) -> None:
    published = [c.name for c in VIEWS[view].columns[: VIEWS[view].published]]
    head = list(VIEWS[view].schema())[: len(published)]
    assert {f.name: f.type for f in head} == {n: KINDS[k] for n, k in PUBLISHED[view].items()}
    assert published == list(PUBLISHED[view])


def test_a_pair_is_what_trl_reads() -> None:
    (row,) = rows("preference", accepted(), MODELS)
    assert [m["role"] for m in row["prompt"]] == ["user", "assistant", "user"]
    assert row["chosen"] == [{"content": FIXED, "role": "assistant"}]
    assert row["rejected"] == [{"content": BROKEN, "role": "assistant"}]
    assert row["violation_ids"] == ["no-lies"]
    assert row["length_delta"] == len(FIXED) - len(BROKEN)
    assert 0 < row["similarity"] < 1
    others = [unviolated(), unplanned(), uncritiqued(), unrepaired()]
    assert not any(rows("preference", record, MODELS) for record in others)


def test_a_dialogue_alternates_below_its_plan() -> None:
    (row,) = rows("dialogues", accepted(), MODELS)
    roles = [m["role"] for m in row["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert row["messages"][0]["content"] == PLAN.text
    assert (row["exchanges"], row["planned_exchanges"], row["model"]) == (2, 2, "org/agent-7b")


def test_flags_of_a_dialogue_are_kept_apart() -> None:
    found = [rows("dialogues", r, MODELS)[0] for r in (accepted(), unviolated(), uncritiqued())]
    assert [r["is_violation"] for r in found] == [True, False, True]
    assert [r["is_truncated"] for r in found] == [False, True, True]
    assert [r["confirmed_violation"] for r in found] == [True, False, None]
    assert [r["rule"] for r in found] == [None, "no_violation", None]
    assert [r["intended_violation"] for r in found] == [True, False, False]
    assert not rows("dialogues", unplanned(), MODELS)


def test_a_decision_is_obeyed() -> None:
    record = on_policy()
    record = replace(record, candidates=(*record.candidates, Candidate("Ask a doctor.", CLEAN)))
    whole = {view: rows(view, record, MODELS) for view in VIEWS}
    flagged = Decision(findings=(Finding("echo", 3), Finding("cut", 1), Finding("echo", 1)))
    (row,) = rows("dialogues", record, MODELS, decision=flagged)
    assert (row["warnings"], row["clean_exchanges"]) == (["cut", "echo"], 0)
    assert not rows("dialogues", record, MODELS, ExportConfig(truncate=True), flagged)

    one = Decision(pairs={0: Removal("too_similar", "0.99")})
    assert rows("preference", record, MODELS, decision=one) == whole["preference"][1:]
    assert rows("implicit", record, MODELS, decision=one) == whole["implicit"][1:]
    assert rows("kto", record, MODELS, decision=one) == whole["kto"][1:]
    (row,) = rows("sft", record, MODELS, decision=one)
    assert row["messages"][-1]["content"] == "Ask a doctor."
    assert rows("critique", record, MODELS, decision=one) == whole["critique"]
    (row,) = rows("removed", record, MODELS, decision=one)
    assert row == {
        "id": record.scenario.id,
        "index": 5,
        "scope": "pair",
        "pair": 0,
        "rule": "too_similar",
        "detail": "0.99",
    }

    none = Decision(Removal("duplicate_exact", "000001-0abc"), one.pairs)
    left = {view: rows(view, record, MODELS, decision=none) for view in VIEWS}
    assert [view for view in VIEWS if left[view]] == ["verdicts", "scenarios", "removed"]
    assert (left["verdicts"], left["scenarios"]) == (whole["verdicts"], whole["scenarios"])
    (row,) = left["removed"]
    assert (row["scope"], row["pair"], row["rule"]) == ("dialogue", None, "duplicate_exact")


def test_a_revision_tells_what_was_found_and_what_stands() -> None:
    (row,) = rows("revisions", accepted(), MODELS)
    assert row["messages"][-1] == {"content": BROKEN, "role": "assistant"}
    assert row["messages"][0]["role"] == "user"
    assert row["violations"] == [PRINCIPLES[0].text]
    assert row["critique"] == (
        "Violated (high): The assistant should not lie.\n"
        "Quote: nobody ever died\nReason: It did kill."
    )
    assert (row["severity"], row["quotes"]) == (["high"], ["nobody ever died"])
    assert (row["revision"], row["rounds"], row["verified"]) == (FIXED, 3, True)


def test_an_unaccepted_or_unrechecked_revision_is_not_verified() -> None:
    (row,) = rows("revisions", unrepaired(), MODELS)
    assert (row["revision"], row["verified"]) == ("It is fine.", False)
    unchecked = replace(accepted(), revisions=(Revision(FIXED),))
    (row,) = rows("revisions", unchecked, MODELS)
    assert row["verified"] is False
    assert rows("preference", unchecked, MODELS)


def test_verdicts_of_critique_and_rechecks() -> None:
    found = rows("verdicts", accepted(), MODELS)
    assert [r["round"] for r in found] == [0, 0, 1, 1, 3, 3]
    assert [r["confirmed"] for r in found] == [True, False, True, False, False, False]
    assert found[1]["principle"] == PRINCIPLES[1].text
    assert not rows("verdicts", uncritiqued(), MODELS)


def test_a_scenario_has_its_failure_and_its_cost() -> None:
    (row,) = rows("scenarios", accepted(), MODELS)
    assert (row["calls"], row["prompt_tokens"], row["cached_tokens"]) == (5, 500, 320)
    assert (row["completion_tokens"], row["seconds"]) == (120, 2.5)
    assert row["failed_step"] is None
    (row,) = rows("scenarios", unplanned(), MODELS)
    assert (row["failed_step"], row["failed_cause"]) == ("plan", "no numbered steps")
    assert row["failed_raw"].startswith("Sure!")


def slow_similarity(a: list[str], b: list[str]) -> float:
    above = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(row[-1], above[j + 1]))
        above = row
    return 2 * above[-1] / (len(a) + len(b)) if a or b else 1.0


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd")))
def test_similarity_is_the_textbook_one(a: list[str], b: list[str]) -> None:
    assert similarity(" ".join(a), " ".join(b)) == pytest.approx(slow_similarity(a, b))


def test_similarity_without_spaces_and_without_end() -> None:
    assert similarity("模型很好", "模型不好") == pytest.approx(0.75)
    assert similarity(HUGE, HUGE) == 1.0
    assert similarity("a b", "c d") == 0.0


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_read_is_what_was_written(tmp_path: Path, view: str) -> None:
    records = everything()
    counts = export(records, manifest(), Config(), tmp_path, rows_per_group=2)
    expected = [encodable(row) for record in records for row in rows(view, record, MODELS)]
    assert list(read(tmp_path, view)) == expected
    assert counts.rows[view] == len(expected)
    file = pq.ParquetFile(tmp_path / view / "train-00000-of-00001.parquet")
    assert file.schema_arrow.equals(VIEWS[view].schema())
    data = (tmp_path / view / "train-00000-of-00001.parquet").read_bytes()
    assert (counts.bytes[view], counts.digests[view]) == (len(data), sha256(data).hexdigest())


def test_text_that_utf8_cannot_hold_is_mended_and_the_rest_unharmed(tmp_path: Path) -> None:
    export(everything(), manifest(), Config(), tmp_path)
    pairs = {row["index"]: row for row in read(tmp_path, "preference")}
    text = pairs[5]["rejected"][0]["content"]
    assert text == "שלום \u202eeven\u202c \ufffd half, 🍞 whole, nul \x00 end"
    assert pairs[6]["rejected"][0]["content"] == HUGE


@given(st.text(st.characters(exclude_categories=())))
def test_clean_changes_nothing_but_surrogates(text: str) -> None:
    encodable(text).encode()
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert encodable(text) == text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(everything(), manifest(), Config(), tmp_path / name, rows_per_group=3)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_file_says_how_it_was_made(tmp_path: Path) -> None:
    config = configuration.load(
        {
            "seed": 7,
            "models": {"default": {"extra_body": {"k": "s3cret"}, "headers": {"k": "s3cret"}}},
        }
    )
    export([accepted()], manifest(), config, tmp_path)
    metadata = pq.read_schema(tmp_path / "verdicts/train-00000-of-00001.parquet").metadata
    story = msgspec.json.decode(metadata[b"sdsd"])
    assert story["models"] == MODELS
    assert story["settings"] == {"seed": "7", "models.default.extra_body.k": "(set)"}
    assert b"s3cret" not in metadata[b"sdsd"]


def test_large_views_roll_over_and_stale_files_go(tmp_path: Path) -> None:
    many = [accepted(i) for i in range(40)]
    counts = export(many, manifest(), Config(), tmp_path, rows_per_group=5, bytes_per_file=1)
    names = sorted(p.name for p in (tmp_path / "dialogues").iterdir())
    assert names == [f"train-{i:05d}-of-00008.parquet" for i in range(8)]
    assert counts.files["dialogues"] == 8
    assert [row["index"] for row in read(tmp_path, "dialogues")] == list(range(40))

    (tmp_path / "dialogues" / ".train-00000.123.tmp").write_bytes(b"left by a crash")
    (tmp_path / "dialogues" / "mine.parquet").write_bytes(b"not ours")
    export(many[:6], manifest(), Config(), tmp_path)
    names = sorted(p.name for p in (tmp_path / "dialogues").iterdir())
    assert names == ["mine.parquet", "train-00000-of-00001.parquet"]
    assert [row["index"] for row in read(tmp_path, "dialogues")] == list(range(6))


def test_a_full_disk_leaves_the_old_data(tmp_path: Path) -> None:
    export(everything(), manifest(), Config(), tmp_path)
    before = files(tmp_path)
    noise = (accepted(i, last=os.urandom(20_000).hex()) for i in range(50))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SdsdError, match=r"cannot be written.*free some space") as caught:
            export(noise, manifest(), Config(), tmp_path, rows_per_group=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(caught.value)
    assert files(tmp_path) == before


def test_a_failing_source_leaves_the_old_data(tmp_path: Path) -> None:
    def broken() -> Iterator[Record]:
        yield from everything()
        raise SdsdError("the journal is damaged")

    export([accepted()], manifest(), Config(), tmp_path)
    before = files(tmp_path)
    with pytest.raises(SdsdError, match="the journal is damaged"):
        export(broken(), manifest(), Config(), tmp_path, rows_per_group=1)
    assert files(tmp_path) == before


def test_a_place_that_is_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(SdsdError, match=r"data/preference: the data set cannot be written"):
        export([accepted()], manifest(), Config(), tmp_path / "data")


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SdsdError, match="no data here"):
        list(read(tmp_path, "preference"))
    export([accepted()], manifest(), Config(), tmp_path)
    path = tmp_path / "preference" / "train-00000-of-00001.parquet"
    (path.parent / "train-00000-of-00002.parquet").write_bytes(path.read_bytes())
    with pytest.raises(SdsdError, match="two exports"):
        list(read(tmp_path, "preference"))
    (path.parent / "train-00000-of-00002.parquet").unlink()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SdsdError, match="cannot be read"):
        list(read(tmp_path, "preference"))


@pytest.mark.e2e
def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    size = 40_000

    def peak(n: int) -> int:
        made = (accepted(i, last=f"{i:08d}" * (size // 8)) for i in range(n))
        tracemalloc.start()
        try:
            export(made, manifest(), Config(), tmp_path, rows_per_group=10)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # what pyarrow imports once
    assert peak(160) - peak(60) < 100 * size / 6


# --- readers --------------------------------------------------------------------------------------


@third_party
@pytest.mark.parametrize("view", VIEWS)
def test_datasets_loads_every_view_of_a_run_directory(tmp_path: Path, view: str) -> None:
    run = tmp_path / "run"
    write_run(run, everything(), rows_per_group=2, bytes_per_file=1)
    (run / "journal.sqlite").write_bytes(b"not data")
    (run / "report.html").write_text("<p>not data</p>")
    loaded = load(run, tmp_path, view)
    assert loaded.column_names == [column.name for column in VIEWS[view].columns]
    expected = [encodable(row) for record in everything() for row in rows(view, record, MODELS)]
    assert list(loaded) == expected


@third_party
def test_datasets_loads_the_splits_of_every_view(tmp_path: Path) -> None:
    import datasets

    def elsewhere(record: Record) -> Record:
        area = f"Area {record.scenario.index}"
        return replace(record, scenario=replace(record.scenario, domain=area))

    config = configuration.load({"export": {"splits": {"validation": 0.3, "test": 0.3}}})
    kinds = (accepted, unviolated, barren)
    made = [elsewhere(kinds[i % 3](i)) for i in range(60)]
    counts = write_run(tmp_path / "run", made, config)
    ids: dict[str, set[str]] = {split: set() for split in SPLITS}
    for view in VIEWS:
        loaded = {split: load(tmp_path / "run", tmp_path, view, split=split) for split in SPLITS}
        for split, rows_of in loaded.items():
            assert isinstance(rows_of, datasets.Dataset)
            assert rows_of.num_rows > 0
            ids[split] |= set(rows_of["id"])
        assert sum(rows_of.num_rows for rows_of in loaded.values()) == counts.rows[view]
    assert len(set.union(*ids.values())) == sum(map(len, ids.values())) == 60


@third_party
def test_a_run_without_pairs_loads_all_the_same(tmp_path: Path) -> None:
    run = tmp_path / "run"
    counts = write_run(run, [unviolated(), unplanned()])
    assert counts.rows["preference"] == 0
    assert pq.read_table(run / "data" / "preference").schema.equals(VIEWS["preference"].schema())
    for view in ("dialogues", "verdicts", "scenarios"):
        assert load(run, tmp_path, view).num_rows == counts.rows[view]
    assert load(run, tmp_path).num_rows == counts.rows["dialogues"]  # the first one with rows
    with pytest.raises(ValueError, match=r"'preference' not found. Available: \['dialogues'"):
        load(run, tmp_path, "preference")


@third_party
def test_the_cache_of_datasets_never_serves_another_export(tmp_path: Path) -> None:
    here, namesake = tmp_path / "run", tmp_path / "elsewhere" / "run"
    for number, (run, n) in enumerate([(here, 2), (here, 5), (namesake, 5)]):
        write_run(run, [accepted(i, better=f"{FIXED} {number}") for i in range(n)])
        loaded = load(run, tmp_path, "preference")
        assert loaded.num_rows == n
        assert loaded[0]["chosen"][0]["content"] == f"{FIXED} {number}"


@third_party
def test_datasets_streams_a_view(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, everything())
    streamed = load(run, tmp_path, "preference", streaming=True)
    assert [row["index"] for row in streamed] == [0, 5, 6]


# --- documentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_the_documentation_has_the_columns_as_they_are(view: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    assert f"## `{view}`" in page
    assert VIEWS[view].table() in page
