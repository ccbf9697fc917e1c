"""The model of the demonstration: replies by scenario and step, whatever the request says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdsd import config
from sdsd.errors import ConfigError
from sdsd.hashing import call_seed
from sdsd.models.hand_written import BACKEND, HandWritten, file_name, is_hand_written, read
from sdsd.plugins import resolve
from sdsd.types import Completion, Request

SEED, SCENARIO = 7, "000003-0a1b2c3d"
REQUEST = Request("planner", max_tokens=9, prompt="whatever it says")
FILE = f"""
scenario: {SCENARIO}
outcome: failed
replies:
  plan: no form
  plan/retry/1: |-
    no form
    again
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "replies").mkdir()
    (tmp_path / "config.yaml").write_text(f"seed: {SEED}")
    (tmp_path / "replies" / file_name(3)).write_text(FILE)
    return tmp_path


async def test_a_reply_belongs_to_its_scenario_and_step(folder: Path) -> None:
    model = HandWritten(config.ModelConfig(model="by-hand"), folder)
    for step, text in (("plan", "no form"), ("plan/retry/1", "no form\nagain")):
        answer = await model.complete(REQUEST, call_seed(SEED, SCENARIO, step), 3)
        assert answer == Completion(text, model="by-hand")


async def test_a_missing_reply_names_the_file(folder: Path) -> None:
    model = HandWritten(config.ModelConfig(), folder)
    with pytest.raises(LookupError, match=r"no reply to this step in .*03\.yaml"):
        await model.complete(REQUEST, call_seed(SEED, SCENARIO, "stake"), 3)
    with pytest.raises(LookupError, match="for 1 dialogues only"):
        await model.complete(REQUEST, call_seed(SEED, SCENARIO, "plan"), 4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (FILE.replace("outcome: failed", "outcome: lost"), "outcome"),
        (FILE + "reply: x", "reply"),
        (FILE.replace("no form", "[1]", 1), "replies"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(folder: Path, text: str, named: str) -> None:
    (folder / "replies" / file_name(3)).write_text(text)
    with pytest.raises(ConfigError, match=rf"03\.yaml: .*{named}"):
        read(folder)


def test_only_its_backend_counts_as_written_by_hand() -> None:
    assert resolve(BACKEND, "backends") is HandWritten
    written = {"model": "hand-written"}
    by_hand, other = written | {"backend": BACKEND}, written | {"base_url": "http://127.0.0.1:1/v1"}
    assert is_hand_written(config.load({"models": {"default": by_hand}}))
    both = {"models": {"default": by_hand, "other": other}, "roles": {"critic": "other"}}
    assert not is_hand_written(config.load(both))
