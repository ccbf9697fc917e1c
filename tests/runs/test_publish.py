"""Publishing: data set, card, plots and report, all of one choice of the journal's records."""

from __future__ import annotations

from pathlib import Path

import pytest

import sdsd
from sdsd import config as configuration
from sdsd.dataset.export import read
from sdsd.models.scripted import ScriptedModel, small_world
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.publish import collect, publish, selection
from sdsd.scenarios.catalogue import load

pytestmark = pytest.mark.e2e


def test_what_is_published_is_one_choice_of_the_records(tmp_path: Path) -> None:
    keys = {"n": 16, "seed": 1, "export": {"balance": {"by": "strategy", "max_pairs": 2}}}
    sdsd.run(keys, out=tmp_path, models={"default": ScriptedModel(small_world)})
    rundir = RunDir(tmp_path)
    plots = {path.name for path in (tmp_path / "plots").iterdir()}
    assert plots
    (tmp_path / "plots" / "of-an-earlier-card.svg").write_text("<svg/>")
    (tmp_path / "plots" / "mine.png").write_bytes(b"")
    with Journal(rundir.journal, readonly=True) as journal:
        counts = publish(rundir, journal, load())
        assert counts
        found = collect(rundir, journal, rundir.config(), load())
        manifest = rundir.manifest()
        assert manifest
        chosen = selection(journal, manifest, rundir.config())
        left = sum(len(chosen.decide(record).pairs) for record in journal.records())
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {*plots, "mine.png"}
    assert counts.warnings == found.warnings
    assert counts.rows["preference"] == found.pairs - left
    assert counts.removed["balance"] == left == len(list(read(rundir.data, "removed"))) > 0
    assert len(list(read(rundir.data, "preference"))) == counts.rows["preference"] == 2


def test_before_the_first_call_there_is_nothing_to_publish(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path / "run")
    rundir.prepare(configuration.load({}))
    with Journal(rundir.journal) as journal:
        assert publish(rundir, journal, load()) is None
    assert not rundir.data.exists()
