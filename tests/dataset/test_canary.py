"""The canary: in every row of the training views, in no message, and the same for a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import Config, ExportConfig
from sdsd.dataset.canary import canary
from sdsd.dataset.export import export, read
from sdsd.dataset.trainer_formats import FORMATS, write
from sdsd.dataset.views import TRAINING, VIEWS
from sdsd.errors import ConfigError
from tests.factories.records import accepted, everything, manifest

MARKED = ExportConfig(canary=True)
MINE = "my own canary 1f0c9a7e"


def test_every_row_for_training_carries_it_last_and_no_message_does(tmp_path: Path) -> None:
    export(everything(), manifest(), Config(export=MARKED), tmp_path)
    text = canary(MARKED, manifest())
    for view in VIEWS:
        rows = list(read(tmp_path, view))
        assert rows or view == "removed"
        for row in rows:
            assert (list(row)[-1] == "canary") == (view in TRAINING)
            assert row.pop("canary", text) == text
            assert "canary" not in json.dumps(row)


def test_files_say_it_and_lines_for_trainers_do_not(tmp_path: Path) -> None:
    """Some trainers refuse keys that they do not know."""
    data = tmp_path / "data"
    export(everything(), manifest(), Config(export=ExportConfig(canary=MINE)), data)
    told = pq.read_schema(data / "sft" / "train-00000-of-00001.parquet").metadata[b"sdsd"]
    assert json.loads(told)["canary"] == MINE
    for form in FORMATS:
        for name in write(data, form, tmp_path / form):
            assert MINE not in (tmp_path / form / name).read_text("utf-8")


def test_the_guid_is_the_runs_own_and_stays() -> None:
    text = canary(MARKED, manifest())
    assert re.search(r"canary GUID [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", text)
    assert canary(MARKED, replace(manifest(), protocol="chat")) == text
    for other in ({"created": "2026-01-02T03:04:06Z"}, {"config": "d" * 64}, {"seed": 8}):
        assert canary(MARKED, manifest(**other)) != text


def test_without_one_nothing_changes(tmp_path: Path) -> None:
    values: tuple[bool | str, ...] = (False, "")
    for off in values:
        export([accepted()], manifest(), Config(export=ExportConfig(canary=off)), tmp_path / "d")
        (row,) = read(tmp_path / "d", "preference")
        assert "canary" not in row
        told = pq.read_schema(tmp_path / "d" / "sft" / "train-00000-of-00001.parquet").metadata
        assert b"canary" not in told[b"sdsd"]


def test_it_is_read_from_yaml_and_a_text_of_chance_is_refused() -> None:
    for value in (True, False, MINE):
        assert configuration.load({"export": {"canary": value}}).export.canary == value
    for short in ("on", "yes", "canary"):
        with pytest.raises(ConfigError, match=r"`export.canary`: `\w+` occurs .*; write `true`"):
            configuration.load({"export": {"canary": short}})
