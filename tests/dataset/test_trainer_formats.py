"""Forms: every line is what the trainer's own documentation and loader ask for.

The validators below are written after them: OpenAI's fine-tuning guides, Axolotl's
`chat_template` and `chat_template.default`, LLaMA-Factory's sharegpt converter.
"""

from __future__ import annotations

import json
import re
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from msgspec.structs import replace

from sdsd.config import Config, ExportConfig
from sdsd.dataset.export import export, read
from sdsd.dataset.trainer_formats import FORMATS, write
from sdsd.dataset.views import VIEWS
from sdsd.errors import PluginError, SdsdError
from sdsd.text.normalize import encodable
from sdsd.types import Record
from tests.factories.records import (
    BROKEN,
    FIXED,
    HUGE,
    STRANGE,
    accepted,
    everything,
    manifest,
    on_policy,
    unplanned,
    unviolated,
)
from tests.helpers.reading import files, third_party

Line = dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An export of every kind of record, hostile ones among them, with the plan in `sft`."""
    config = Config(export=ExportConfig(include_plan=True))
    export([*everything(), on_policy(8)], manifest(), config, tmp_path / "data")
    return tmp_path / "data"


def lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def split_off(data: Path, view: Any, split: str, rows: list[Line]) -> None:
    """Another split of a view, as an export with splits has it."""
    table = pa.Table.from_pylist(rows, schema=VIEWS[view].schema())
    pq.write_table(table, data / view / f"{split}-00000-of-00001.parquet")


# --- what trainers ask for ------------------------------------------------------------------------


def check_chat(messages: list[Line], system: bool = True) -> None:
    """A system turn at most, then user and assistant in turn, none without text."""
    assert all(set(m) == {"role", "content"} for m in messages)
    assert all(isinstance(m["content"], str) and m["content"].strip() for m in messages)
    roles = [m["role"] for m in messages]
    if system and roles[0] == "system":
        roles = roles[1:]
    assert roles == [("user", "assistant")[k % 2] for k in range(len(roles))]


def check_openai(line: Line) -> None:
    """Supervised: ends on an assistant turn, and has nothing beside its messages."""
    assert set(line) == {"messages"}
    check_chat(line["messages"])
    assert line["messages"][-1]["role"] == "assistant"


def check_openai_preference(line: Line) -> None:
    """One assistant turn on each side; the input ends on the turn that they answer."""
    assert set(line) == {"input", "preferred_output", "non_preferred_output"}
    assert set(line["input"]) == {"messages", "tools", "parallel_tool_calls"}
    check_chat(line["input"]["messages"])
    assert line["input"]["messages"][-1]["role"] == "user"
    for side in ("preferred_output", "non_preferred_output"):
        (reply,) = line[side]
        assert reply["role"] == "assistant"
        assert reply["content"].strip()


def check_axolotl_dpo(line: Line) -> None:
    """Each reply is one message, as a template that trims writes it."""
    check_chat(line["messages"])
    assert line["messages"][-1]["role"] == "user"
    for side in ("chosen", "rejected"):
        assert set(line[side]) == {"role", "content"}
        assert line[side]["role"] == "assistant"
        assert line[side]["content"] == line[side]["content"].strip() != ""


def check_nemo_rl(line: Line) -> None:
    """Two completions, each one assistant turn, of different ranks: the lower is the better.

    The loader adds a column `task_name`, and fails where there is one already.
    """
    assert set(line) == {"context", "completions"}
    check_chat(line["context"])
    assert line["context"][-1]["role"] == "user"
    assert [set(c) for c in line["completions"]] == [{"rank", "completion"}] * 2
    assert [c["rank"] for c in line["completions"]] == [0, 1]
    for completion in line["completions"]:
        (reply,) = completion["completion"]
        assert reply["role"] == "assistant"
        assert reply["content"].strip()


def aligned(line: Line, entry: Line) -> tuple[list[Line], list[Line]]:
    """Prompt and response as LLaMA-Factory's converter takes them from a line of sharegpt.

    With no tags given it expects those of ShareGPT. An odd number of turns is broken data, and an
    even one where pairs are ranked; so are speakers that do not alternate.
    """
    columns, ranking = entry["columns"], entry["ranking"]
    turns = line[columns["messages"]]
    if turns and turns[0]["from"] == "system":
        turns = turns[1:]
    assert all(t["from"] == ("human", "gpt")[k % 2] for k, t in enumerate(turns))
    assert len(turns) % 2 == int(ranking)
    if ranking:
        sides = [line[columns[side]] for side in ("chosen", "rejected")]
        assert all(isinstance(side, dict) and side["from"] == "gpt" for side in sides)
        return turns, sides
    if tag := columns.get("kto_tag"):
        assert isinstance(line[tag], bool)
    return turns[:-1], turns[-1:]


def check_sharegpt(line: Line) -> None:
    entry = {"columns": {"messages": "conversations"}, "ranking": False}
    prompt, response = aligned(line, entry)
    assert prompt
    assert all(turn["value"].strip() for turn in (*prompt, *response))


CHECKS: dict[str, Callable[[Line], None]] = {
    "sharegpt": check_sharegpt,
    "openai": check_openai,
    "axolotl": check_openai,
    "openai-preference": check_openai_preference,
    "axolotl-dpo": check_axolotl_dpo,
    "nemo-rl": check_nemo_rl,
}


ROWS = {"sft": 5, "preference": 4}
"""Of `data`."""


@pytest.mark.parametrize("form", CHECKS)
def test_every_line_is_what_its_trainer_asks_for(data: Path, tmp_path: Path, form: str) -> None:
    counts = write(data, form, tmp_path / "out")
    assert list(counts) == [f"{form}-train.jsonl"]
    found = lines(tmp_path / "out" / f"{form}-train.jsonl")
    assert len(found) == counts[f"{form}-train.jsonl"] == ROWS[FORMATS[form].files[0].view]
    for line in found:
        CHECKS[form](line)


def test_llamafactory_finds_what_its_registry_names(data: Path, tmp_path: Path) -> None:
    counts = write(data, "llamafactory", tmp_path / "out")
    registry = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert {entry["file_name"] for entry in registry.values()} == set(counts)
    assert set(registry) == {"sdsd_sft", "sdsd_preference", "sdsd_kto"}
    for entry in registry.values():
        assert entry["formatting"] == "sharegpt"
        found = lines(tmp_path / "out" / entry["file_name"])
        assert len(found) == counts[entry["file_name"]] > 0
        for line in found:
            prompt, response = aligned(line, entry)
            assert len(prompt) % 2 == 1
            assert all(turn["value"].strip() for turn in response)
    labels = [line["kto_tag"] for line in lines(tmp_path / "out" / "kto-train.jsonl")]
    assert {True, False} == set(labels)


def test_a_system_prompt_comes_first_in_every_form(tmp_path: Path) -> None:
    """Not as the plan: that is what `sft` alone may have."""
    record = accepted()
    assert record.dialogue
    record = replace(record, dialogue=replace(record.dialogue, system="Be brief."))
    export([record], manifest(), Config(), tmp_path / "data")
    for form in FORMATS:
        for file in write(tmp_path / "data", form, tmp_path / form):
            for line in lines(tmp_path / form / file):
                (first,) = [
                    turns[0]
                    for holder in (line, line.get("input", {}))
                    for key in ("messages", "conversations", "context")
                    if (turns := holder.get(key))
                ]
                assert "system" in first.values(), (form, file)
                assert "Be brief." in first.values(), (form, file)
    for entry in json.loads((tmp_path / "llamafactory" / "dataset_info.json").read_text()).values():
        for line in lines(tmp_path / "llamafactory" / entry["file_name"]):
            aligned(line, entry)


def test_forms_say_what_the_views_say(data: Path, tmp_path: Path) -> None:
    for form in FORMATS:
        write(data, form, tmp_path / form)
    (pair, *_), (talk, *_) = read(data, "preference"), read(data, "sft")
    line = lines(tmp_path / "openai-preference" / "openai-preference-train.jsonl")[0]
    assert line["input"]["messages"] == pair["prompt"]
    assert line["preferred_output"] == pair["chosen"] == [{"role": "assistant", "content": FIXED}]
    assert line["non_preferred_output"] == pair["rejected"]
    (ranked, *_) = lines(tmp_path / "llamafactory" / "preference-train.jsonl")
    assert [t["value"] for t in ranked["conversations"]] == [m["content"] for m in pair["prompt"]]
    assert (ranked["chosen"]["value"], ranked["rejected"]["value"]) == (FIXED, BROKEN)
    (best, worst) = lines(tmp_path / "nemo-rl" / "nemo-rl-train.jsonl")[0]["completions"]
    assert (best["completion"], worst["completion"]) == (pair["chosen"], pair["rejected"])
    (shared, *_) = lines(tmp_path / "sharegpt" / "sharegpt-train.jsonl")
    assert [t["value"] for t in shared["conversations"]] == [m["content"] for m in talk["messages"]]
    assert shared["conversations"][0]["from"] == "system"


# --- hostile text ---------------------------------------------------------------------------------

PLANTED = {
    "mended": STRANGE,
    "huge": HUGE,
    "nul": "before\x00after",
    "right to left": "שלום \u202eabc\u202c مرحبا",
    "code": "```python\nprint('<b>', \"{x}\")\n```",
    "lines": "a\u2028b\u2029c\x85d\r\ne",
    "markup": "<script>alert(1)</script> <image> [[dummy_message]]",
    "emoji": "👩‍👩‍👧‍👦 🇩🇪",
}


@pytest.mark.parametrize("name", PLANTED)
def test_hostile_text_comes_through_every_form(tmp_path: Path, name: str) -> None:
    planted = PLANTED[name]
    record = accepted(last=planted, better=f"{planted} Rather not.")
    export([record, unviolated(1)], manifest(), Config(), tmp_path / "data")
    for form in FORMATS:
        for file in write(tmp_path / "data", form, tmp_path / form):
            raw = (tmp_path / form / file).read_bytes()
            assert raw.count(b"\n") == len(lines(tmp_path / form / file))
            texts = json.dumps(lines(tmp_path / form / file), ensure_ascii=False)
            assert json.dumps(encodable(planted), ensure_ascii=False)[1:-1] in texts


def test_space_around_a_reply_stays_where_nothing_is_looked_up(tmp_path: Path) -> None:
    export([accepted(last=f"\n{BROKEN} ")], manifest(), Config(), tmp_path / "data")
    for form in ("axolotl-dpo", "openai-preference"):
        write(tmp_path / "data", form, tmp_path / "out")
    (trimmed,) = lines(tmp_path / "out" / "axolotl-dpo-train.jsonl")
    (kept,) = lines(tmp_path / "out" / "openai-preference-train.jsonl")
    assert trimmed["rejected"]["content"] == BROKEN
    assert kept["non_preferred_output"][0]["content"] == f"\n{BROKEN} "


# --- files ----------------------------------------------------------------------------------------


def test_splits_are_files_of_their_own(data: Path, tmp_path: Path) -> None:
    held_out = list(read(data, "sft"))[:2]
    split_off(data, "sft", "validation", held_out)
    split_off(data, "sft", "test", held_out[:1])
    counts = write(data, "llamafactory", tmp_path / "out")
    assert {n: counts[n] for n in counts if n.startswith("sft")} == {
        "sft-train.jsonl": 5,
        "sft-validation.jsonl": 2,
        "sft-test.jsonl": 1,
    }
    registry = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert registry["sdsd_sft_validation"]["file_name"] == "sft-validation.jsonl"
    assert registry["sdsd_sft_test"]["columns"] == registry["sdsd_sft"]["columns"]

    for split in ("validation", "test"):
        (data / "sft" / f"{split}-00000-of-00001.parquet").unlink()
    (tmp_path / "out" / "sft-mine.jsonl").write_text("not ours")
    write(data, "llamafactory", tmp_path / "out")
    assert sorted(files(tmp_path / "out")) == [
        "dataset_info.json",
        "kto-train.jsonl",
        "preference-train.jsonl",
        "sft-mine.jsonl",
        "sft-train.jsonl",
    ]


def test_the_same_data_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for form in FORMATS:
        write(data, form, tmp_path / "a" / form)
        write(data, form, tmp_path / "b" / form)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_registry_of_others_is_never_written_over(data: Path, tmp_path: Path) -> None:
    registry = tmp_path / "dataset_info.json"
    for content in ('{"alpaca": {"file_name": "x.json"}}', "[]", "not json"):
        registry.write_text(content)
        with pytest.raises(SdsdError, match=r"dataset_info\.json: lists other data sets"):
            write(data, "llamafactory", tmp_path)
        assert registry.read_text() == content
    write(data, "openai", tmp_path)  # which has none of its own
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "data",
        "dataset_info.json",
        "openai-train.jsonl",
    ]


def refused(data: Path, form: str, out: Path) -> str:
    with pytest.raises(SdsdError) as caught:
        write(data, form, out)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_what_cannot_be_written_is_said(data: Path, tmp_path: Path) -> None:
    assert "`tsv` is not one of the formats: sharegpt, openai" in refused(
        data, "tsv", tmp_path / "out"
    )
    assert issubclass(PluginError, SdsdError)
    assert "no data here; `sdsd export`" in refused(tmp_path / "none", "openai", tmp_path / "out")
    (tmp_path / "file").write_text("a file")
    assert "file: cannot be written" in refused(data, "openai", tmp_path / "file")


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows_are_said_and_leave_nothing(tmp_path: Path, form: str) -> None:
    export([unplanned()], manifest(), Config(), tmp_path / "data")
    for out in (tmp_path / "out", tmp_path / "deep" / "er"):
        assert re.search("no rows in `(sft|preference)`", refused(tmp_path / "data", form, out))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (tmp_path / "mine").mkdir()
    refused(tmp_path / "data", form, tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_a_form_with_some_rows_leaves_the_rest_out(tmp_path: Path) -> None:
    export([unviolated()], manifest(), Config(), tmp_path / "data")
    counts = write(tmp_path / "data", "llamafactory", tmp_path / "out")
    assert counts == {"sft-train.jsonl": 1, "kto-train.jsonl": 1}
    registry = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert set(registry) == {"sdsd_sft", "sdsd_kto"}


def test_a_full_disk_leaves_the_old_files(data: Path, tmp_path: Path) -> None:
    write(data, "openai", tmp_path / "out")
    before = files(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        assert "cannot be written" in refused(data, "openai", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path / "out") == before


def many(n: int, size: int) -> list[Record]:
    return [accepted(i, last=f"{i}" * size) for i in range(n)]


@pytest.mark.e2e
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    n, size = 200, 20_000
    export(many(n, size), manifest(), Config(), tmp_path / "data", rows_per_group=5)
    write(tmp_path / "data", "axolotl-dpo", tmp_path / "out")
    tracemalloc.start()
    try:
        write(tmp_path / "data", "axolotl-dpo", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out" / "axolotl-dpo-train.jsonl").stat().st_size > n * size
    assert peak < n * size / 6


@third_party
@pytest.mark.parametrize("form", FORMATS)
def test_datasets_reads_every_form(data: Path, tmp_path: Path, form: str) -> None:
    import datasets

    datasets.disable_progress_bars()
    for name, n in write(data, form, tmp_path / "out").items():
        loaded = datasets.load_dataset(
            "json",
            data_files=str(tmp_path / "out" / name),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert loaded.num_rows == n
        assert list(loaded) == lines(tmp_path / "out" / name)


# --- documentation --------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"


def test_the_documentation_has_every_form_as_it_is() -> None:
    page = PAGE.read_text("utf-8")
    for name, form in FORMATS.items():
        views = ", ".join(f"`{part.view}`" for part in form.files)
        assert f"| `{name}` | {views} | {form.doc} |\n" in page


def test_the_configurations_in_the_documentation_name_what_is_written(
    data: Path, tmp_path: Path
) -> None:
    written = {f"{form}/{name}" for form in FORMATS for name in write(data, form, tmp_path / form)}
    registry = json.loads((tmp_path / "llamafactory" / "dataset_info.json").read_text())
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    configs = [yaml.safe_load(block) for block in blocks]
    named = [c for config in configs for c in config.get("datasets", [])]
    files_of = [entry["path"] for entry in named]
    files_of += [c["dataset"]["data_files"] for c in configs if isinstance(c.get("dataset"), dict)]
    forms = [path.removeprefix("RUN/formats/") for path in files_of if "/formats/" in path]
    assert len(forms) == 3
    assert written.issuperset(forms)
    sets = [c["dataset"] for c in configs if isinstance(c.get("dataset"), str)]
    assert set(sets) == set(registry)
