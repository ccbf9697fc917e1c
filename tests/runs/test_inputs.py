"""What a run is made from: its own copies decide, also where they are older than the program."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.runs.directory import RunDir
from sdsd.runs.inputs import differences, keep_inputs, kept_inputs, read_inputs
from sdsd.scenarios.sampler import Scenarios
from tests.factories.records import manifest


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
