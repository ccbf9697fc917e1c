"""Token counts: as a trainer counts them, in files that real readers load."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sdsd.config import Config, ExportConfig
from sdsd.dataset.export import differing, export, read
from sdsd.dataset.extensions import validate
from sdsd.dataset.selection import Selection
from sdsd.dataset.tokens import COUNTED, TokenLengths
from sdsd.errors import ConfigError
from tests.factories.records import (
    BROKEN,
    FIXED,
    accepted,
    everything,
    manifest,
    on_policy,
    talk,
    unviolated,
    write_run,
)
from tests.helpers.reading import load, third_party

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
EOS = "</s>"


def tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A model's files whose tokens are the bytes of a text."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    engine = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: k for k, letter in enumerate(alphabet)}, [])
    )
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder.mkdir(exist_ok=True)
    engine.save(str(folder / "tokenizer.json"))
    told: dict[str, Any] = {"eos_token": {"content": EOS}}
    told |= {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def counting(folder: Path, **keys: Any) -> Config:
    return Config(export=ExportConfig(tokenizer=str(folder), **keys))


def laid_out(chat: Iterable[Mapping[str, str]]) -> int:
    """Bytes of a chat under `TEMPLATE`, counted by hand."""
    return sum(len(f"[{m['role']}]{m['content']}{EOS}".encode()) for m in chat)


def rows(data: Path, view: str) -> list[dict[str, Any]]:
    return list(read(data, view))


def test_every_side_is_counted_after_its_prompt(tmp_path: Path) -> None:
    counts = export(everything(), manifest(), counting(tokenizer(tmp_path / "m")), tmp_path / "d")
    opened = len("[assistant]")
    for row in rows(tmp_path / "d", "preference"):
        prompt = laid_out(row["prompt"])
        assert row["prompt_tokens"] == prompt + opened
        for side in ("chosen", "rejected"):
            assert row[f"{side}_tokens"] == laid_out(row[side]) - opened
    for view in ("kto", "critique"):
        for row in rows(tmp_path / "d", view):
            whole = laid_out([*row["prompt"], *row["completion"]])
            assert row["prompt_tokens"] + row["completion_tokens"] == whole
    for row in rows(tmp_path / "d", "implicit"):
        assert row["chosen_tokens"] == laid_out(row["chosen"])
        assert row["rejected_tokens"] == laid_out(row["rejected"])
    for row in rows(tmp_path / "d", "sft"):
        assert row["messages_tokens"] == laid_out(row["messages"])
    for view in COUNTED:
        longest = max(
            laid_out([*row.get("prompt", []), *row[side]])
            for row in rows(tmp_path / "d", view)
            for side in ("chosen", "rejected", "completion", "messages")
            if side in row
        )
        assert counts.tokens[view].longest == longest
        assert sum(counts.tokens[view].histogram.values()) == counts.rows[view]


def test_the_longest_row_says_what_clips_none(tmp_path: Path) -> None:
    """Of a pair the longer side counts, and bars end at multiples of 64."""
    exact = 64 - laid_out([{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}])
    records = [
        replace(unviolated(0), dialogue=talk("a", "b" * exact)),
        replace(unviolated(1), dialogue=talk("a", "c" * (exact + 1))),
        accepted(2, last=BROKEN * 9),
    ]
    counts = export(records, manifest(), counting(tokenizer(tmp_path / "m")), tmp_path / "d")
    assert counts.tokens["kto"].histogram.keys() >= {64, 128}
    (pair,) = rows(tmp_path / "d", "preference")
    longest = pair["prompt_tokens"] + pair["rejected_tokens"]
    assert counts.tokens["preference"] == TokenLengths(
        longest, pair["prompt_tokens"], {-(-longest // 64) * 64: 1}
    )
    assert counts.tokens["sft"].longest_prompt == 0


def test_without_a_template_only_the_messages_count(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "m", template=None)
    export([accepted()], manifest(), counting(folder), tmp_path / "d")
    (pair,) = rows(tmp_path / "d", "preference")
    said = "".join(message["content"] for message in pair["prompt"])
    assert pair["prompt_tokens"] == len(said.encode())
    assert pair["chosen_tokens"] == len(FIXED.encode())


def test_a_template_in_its_own_file_has_precedence(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "m")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    export([accepted()], manifest(), counting(folder), tmp_path / "d")
    (pair,) = rows(tmp_path / "d", "preference")
    assert pair["chosen_tokens"] == len(FIXED.encode())


def test_an_export_without_a_tokenizer_has_no_counts(tmp_path: Path) -> None:
    assert export([accepted()], manifest(), Config(), tmp_path / "d").tokens == {}
    (pair,) = rows(tmp_path / "d", "preference")
    assert not [name for name in pair if name.endswith("_tokens")]


def test_counts_are_made_again_to_compare(tmp_path: Path) -> None:
    records, config = [accepted(), on_policy(1)], counting(tokenizer(tmp_path / "m"))
    export(records, manifest(), config, tmp_path / "d")

    def found(config: Config) -> list[str]:
        chosen = Selection(config.export, manifest().seed)
        return list(differing(records, manifest(), config, tmp_path / "d", chosen))

    assert found(config) == []
    other = tokenizer(tmp_path / "other", "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert any("preference" in line for line in found(counting(other)))


@third_party
def test_the_columns_reach_those_who_load_the_data_set(tmp_path: Path) -> None:
    config = counting(tokenizer(tmp_path / "m"), canary=True)
    write_run(tmp_path / "run", [accepted(), on_policy(1), unviolated(2)], config)
    loaded = load(tmp_path / "run", tmp_path, "preference")
    written = rows(tmp_path / "run" / "data", "preference")
    for name in ("prompt_tokens", "chosen_tokens", "rejected_tokens", "canary"):
        assert list(loaded[name]) == [row[name] for row in written]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{{ raise_exception('no system turns') }}", "the chat template: no system turns; name"),
        ("{% for %}", "the chat template: "),
    ],
)
def test_a_template_that_refuses_the_chats_is_named(tmp_path: Path, broken: str, said: str) -> None:
    config = counting(tokenizer(tmp_path / "m", broken))
    with pytest.raises(ConfigError, match=f"export.tokenizer: {said}"):
        export([accepted()], manifest(), config, tmp_path / "d")
    assert not list((tmp_path / "d").rglob("*.parquet"))


def test_a_directory_that_holds_no_tokenizer_is_found_before_anything_is_spent(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(counting(tmp_path).export)
    said = str(raised.value)
    assert said.startswith(f"export.tokenizer: {tmp_path}: ")
    assert said.endswith("; name a directory with a model's tokenizer.json")
    assert "\n" not in said


def test_a_name_that_the_hub_cannot_have_is_one_line() -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ConfigError) as raised:
        validate(ExportConfig(tokenizer="hf:no name"))
    said = str(raised.value)
    assert said.startswith("export.tokenizer: hf:no name: ")
    assert said.endswith("; check the name and the connection")
    assert "\n" not in said
