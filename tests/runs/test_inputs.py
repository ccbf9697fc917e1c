"""What a run is made from: its own copies decide, also where they are older than the program."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.errors import ConfigError
from sdsd.runs.directory import RunDir
from sdsd.runs.inputs import differences, keep_inputs, kept_inputs, read_inputs, verifiable
from sdsd.scenarios.sampler import Scenarios
from sdsd.types import Calibration
from tests.factories.records import manifest

ABLE = Calibration(1.0, 0.0, violated_from=0.9, satisfied_to=0.1, trusted=True)
UNABLE = replace(ABLE, violated_from=2.0, satisfied_to=-1.0)
FAILED = replace(ABLE, trusted=False)


def test_a_run_kept_before_there_were_affinities_samples_as_it_did(tmp_path: Path) -> None:
    config = configuration.load({})
    now, rundir = read_inputs(config), RunDir(tmp_path)
    keep_inputs(now, rundir)
    tree = msgspec.to_builtins(replace(now.catalogue, affinities={}))
    del tree["affinities"]
    old = msgspec.json.encode(tree)
    rundir.keep_input(old, ".json")
    prompts = {name: prompt.digest for name, prompt in now.texts.items()}
    before = manifest(catalogue=hashlib.sha256(old).hexdigest(), prompts=prompts)
    kept = kept_inputs(config, rundir, before)
    neutral = replace(now.catalogue, affinities={})
    usual = Scenarios(neutral, config.scenarios, config.seed)
    assert [kept.scenarios[i] for i in range(300)] == [usual[i] for i in range(300)]
    assert [kept.scenarios[i] for i in range(9)] != [now.scenarios[i] for i in range(9)]
    assert [line for line in differences(kept, before) if "catalogue" in line] == [
        "catalogue.affinities has changed since this run began; it continues with its own copy "
        "in inputs/"
    ]


def test_a_users_affinities_are_read_and_kept(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("- {principles: [plain-words], fields: {3: [music], 0: [physics]}}")
    inputs = read_inputs(configuration.load(None, {"catalogue.affinities": str(own)}))
    assert set(inputs.catalogue.affinities) == {"plain-words"}
    rundir = RunDir(tmp_path / "run")
    rundir.path.mkdir()
    keep_inputs(inputs, rundir)
    digests = {name: prompt.digest for name, prompt in inputs.texts.items()}
    own.write_text("- principles: [plain-words]")
    began = manifest(catalogue=inputs.catalogue.digest, prompts=digests)
    kept = kept_inputs(inputs.config, rundir, began)
    assert kept.catalogue == inputs.catalogue
    assert [kept.scenarios[i] for i in range(50)] == [inputs.scenarios[i] for i in range(50)]


# -- principles that can be verified -------------------------------------------------------------


@pytest.mark.parametrize("unable", [UNABLE, FAILED])
def test_where_no_critic_can_verify_the_principles_are_those_that_a_program_decides(
    unable: Calibration,
) -> None:
    inputs = read_inputs(configuration.load({}))
    found = verifiable(inputs, {"": unable})
    assert found.catalogue.principles
    assert all(p.check for p in found.catalogue.principles)
    assert all(p.check for i in range(50) for p in found.scenarios[i].principles)
    assert (found.catalogue.domains, found.catalogue.cards) == (
        inputs.catalogue.domains,
        inputs.catalogue.cards,
    )


@pytest.mark.parametrize(
    ("changes", "calibrations"),
    [
        ({}, {}),
        ({}, {"": ABLE}),
        ({}, {"one": UNABLE, "other": ABLE}),
        ({"catalogue.scope": "all"}, {"": UNABLE}),
        ({"targets.pairs": 1, "targets.cells": {"plain-words": 2}}, {"": UNABLE}),
        ({"scenarios.principles": [1, 30]}, {"": UNABLE}),
    ],
)
def test_otherwise_all_principles_stay(
    changes: dict[str, object], calibrations: dict[str, Calibration]
) -> None:
    inputs = read_inputs(configuration.load(None, changes))
    assert verifiable(inputs, calibrations) is inputs


def test_principles_that_the_user_brought_stay(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("- text: Be brief.\n- {text: Say it in ten., check: max_words 10}")
    chosen = {"catalogue.principles": str(own), "scenarios.principles": [1, 1]}
    inputs = read_inputs(configuration.load(None, chosen))
    assert verifiable(inputs, {"": UNABLE}) is inputs


def test_a_run_on_fewer_principles_keeps_them_and_has_not_changed(tmp_path: Path) -> None:
    config = configuration.load({})
    found, rundir = verifiable(read_inputs(config), {"": UNABLE}), RunDir(tmp_path)
    keep_inputs(found, rundir)
    digests = {name: prompt.digest for name, prompt in found.texts.items()}
    began = manifest(catalogue=found.catalogue.digest, prompts=digests)
    began = replace(began, calibrations={"": UNABLE})
    kept = kept_inputs(config, rundir, began)
    assert kept.catalogue == found.catalogue
    assert [kept.scenarios[i] for i in range(50)] == [found.scenarios[i] for i in range(50)]
    assert [line for line in differences(kept, began) if "catalogue" in line] == []


def test_a_run_that_began_before_principles_were_left_out_has_not_changed(tmp_path: Path) -> None:
    config, rundir = configuration.load({}), RunDir(tmp_path)
    whole = read_inputs(config)
    keep_inputs(whole, rundir)
    digests = {name: prompt.digest for name, prompt in whole.texts.items()}
    began = manifest(catalogue=whole.catalogue.digest, prompts=digests)
    began = replace(began, calibrations={"": UNABLE})
    assert [line for line in differences(whole, began) if "catalogue" in line] == []
    fewer = replace(whole.catalogue, principles=whole.catalogue.principles[1:])
    (line,) = (
        line for line in differences(replace(whole, catalogue=fewer), began) if "catalogue" in line
    )
    assert line.startswith("catalogue.principles has changed since this run began")


def test_only_decidable_principles_can_be_asked_for(tmp_path: Path) -> None:
    inputs = read_inputs(configuration.load(None, {"catalogue.scope": "decidable"}))
    assert all(p.check for p in inputs.catalogue.principles)
    own = tmp_path / "own.yaml"
    own.write_text("- text: Be brief.")
    chosen = {"catalogue.principles": str(own), "catalogue.scope": "decidable"}
    with pytest.raises(ConfigError, match=r"no principle has a `check`; give one a check"):
        read_inputs(configuration.load(None, chosen))
