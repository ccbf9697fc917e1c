"""The demonstration: a complete run from hand-written replies, and the script for their writers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import write_demo
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import sdsd
from sdsd import Run, config
from sdsd.errors import PluginError, RunDirError
from sdsd.models.hand_written import FOLDER, read
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.demo import demo
from sdsd.runs.directory import RunDir
from sdsd.runs.inputs import Inputs, read_inputs
from sdsd.runs.journal import Journal
from sdsd.scenarios import catalogue

REPLIES = read()
SQLITE_HEADER = 100
"""Bytes before the first page's content."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return demo(tmp_path_factory.mktemp("demo") / "run")


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return read_inputs(config.load(FOLDER / "config.yaml"))


# -- the run -------------------------------------------------------------------------------


def test_there_is_a_file_for_each_dialogue(inputs: Inputs) -> None:
    assert list(REPLIES) == list(range(inputs.config.n))
    for index, written in REPLIES.items():
        assert written.scenario == inputs.scenarios[index].id
        assert written.name == inputs.scenarios[index].subarea


def test_every_reply_is_used(made: Run) -> None:
    """And every request is answered, or there would be no run."""
    with Journal(RunDir(made.path).journal, readonly=True) as journal:
        for written in REPLIES.values():
            assert set(written.replies) == set(journal.load(written.scenario)), written.name


def test_every_dialogue_ends_as_its_file_says(made: Run) -> None:
    for index, written in REPLIES.items():
        record = made[index]
        ended = record.outcome, record.rule, tuple(pair.kind for pair in record.pairs)
        assert ended == (written.outcome, written.rule, written.pairs), written.name


def test_it_shows_every_kind_of_pair_and_of_outcome(made: Run) -> None:
    assert {kind for written in REPLIES.values() for kind in written.pairs} == {
        "contrast",
        "revision",
        "on_policy",
    }
    assert {r.outcome for r in REPLIES.values()} == {"accepted", "filtered", "failed"}
    assert made.figures().pairs == sum(len(written.pairs) for written in REPLIES.values())


def test_accepted_dialogues_are_in_the_training_views_but_for_one(made: Run) -> None:
    accepted = {made[k].scenario.id for k, r in REPLIES.items() if r.outcome == "accepted"}
    trained, removed = (pq.read_table(made.path / "data" / v) for v in ("preference", "removed"))
    left_out = dict(zip(*(removed[c].to_pylist() for c in ("id", "rule")), strict=True))
    inside = set(trained["id"].to_pylist())
    assert inside < accepted
    assert {left_out[scenario] for scenario in accepted - inside} == {"placeholder"}


def test_it_replays_to_the_same_data_set(made: Run) -> None:
    found = made.verify()
    assert not found.defects
    assert not found.warnings
    assert found.answers == sum(len(written.replies) for written in REPLIES.values())


def test_the_card_says_who_wrote_it(made: Run) -> None:
    card = (made.path / "README.md").read_text("utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert "No language model was called" in card
    assert "The authors of sdsd wrote all replies by hand" in card
    assert "Language models wrote" not in card
    assert "terms of those who provide the models" not in card


def test_a_second_start_finishes_at_once(made: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made.path, tmp_path / "copy"))

    def files() -> dict[Path, bytes]:
        """All but what tells of the last start: logs and metrics."""
        telling = {*(copy / "logs").iterdir(), copy / "metrics.prom"}
        inside = {path for path in copy.rglob("*") if path.is_file()} - telling
        found = {path: path.read_bytes() for path in inside}
        journal = copy / "journal.sqlite"
        # SQLite's header counts how often the file was opened for writing.
        return found | {journal: found[journal][SQLITE_HEADER:]}

    before = files()
    assert len(demo(copy)) == len(REPLIES)
    assert files() == before


def test_a_copy_whose_package_has_moved_continues(made: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made.path, tmp_path / "copy"))
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace(str(FOLDER), "/somewhere/else"))
    assert len(demo(copy)) == len(REPLIES)


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    sdsd.run(n=1, out=tmp_path / "run", models={"default": ScriptedModel()}, progress=False)
    with pytest.raises(RunDirError, match="made with another configuration"):
        demo(tmp_path / "run")


def test_it_cannot_grow_beyond_its_replies(made: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made.path, tmp_path / "copy"))
    beyond = len(REPLIES)
    with pytest.raises(PluginError, match=rf"`hand-written` failed on {beyond:06d}-\w+ stake: "):
        sdsd.run(copy, n=beyond + 1, progress=False)


def test_its_principles_are_packaged_ones() -> None:
    packaged = {p.id: p.text for p in catalogue.load().principles}
    own = catalogue.load(principles=FOLDER / "principles.yaml").principles
    assert {p.id: packaged.get(p.id) for p in own} == {p.id: p.text for p in own}


# -- the script for writers ----------------------------------------------------------------


def test_a_writer_gets_the_next_request(inputs: Inputs) -> None:
    replies = dict(REPLIES[0].replies)
    first = next(iter(replies))
    del replies["turn/2/user"]
    for given_replies, step in (({}, first), (replies, "turn/2/user")):
        with pytest.raises(write_demo.UnansweredError) as open_request:
            write_demo.replay(inputs, 0, given_replies)
        assert open_request.value.step == step
        assert open_request.value.request.messages


def test_a_writer_sees_the_records_of_the_run(inputs: Inputs, made: Run) -> None:
    for index, written in REPLIES.items():
        record, asked = write_demo.replay(inputs, index, written.replies)
        assert set(asked) == set(written.replies)
        assert (record.outcome, record.rule, record.pairs) == (
            made[index].outcome,
            made[index].rule,
            made[index].pairs,
        )


lines = st.text("abz .,:#'\"-[]{}|>é?!", max_size=250).map(str.strip)


@example(":\n:  :")
@given(st.lists(lines, min_size=1, max_size=4).map("\n".join).map(str.strip).filter(bool))
def test_an_answer_is_written_as_it_was_given(text: str) -> None:
    assert yaml.safe_load(f"replies:\n  plan: {write_demo.block(text)}\n") == {
        "replies": {"plan": text}
    }
