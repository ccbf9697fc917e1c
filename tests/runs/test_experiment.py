"""Experiments: the same scenarios in every arm, nothing paid twice, and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdsd import config as configuration
from sdsd.cli import display
from sdsd.errors import ConfigError, ModelError
from sdsd.models.scripted import ScriptedModel, small_world
from sdsd.reports.metrics.comparison import settings
from sdsd.runs.experiment import Experiment, carry_out, load
from sdsd.runs.runner import run
from sdsd.types import Request

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"
CRITICS = """
base: {n: 12, seed: 3}
arms:
  one: {}
  three:
    critique:
      critics: {a: {}, b: {wording: defend}, c: {wording: stranger, order: no_first}}
  blunt: {scenarios: {strategies: [haste]}}
"""


def described(tmp_path: Path, text: str) -> Experiment:
    path = tmp_path / "what.yaml"
    path.write_text(text, "utf-8")
    return load(path)


def test_arms_share_scenarios_and_what_does_not_differ_is_asked_once(tmp_path: Path) -> None:
    model = ScriptedModel()
    chosen = described(tmp_path, CRITICS)
    outcome = carry_out(chosen, tmp_path / "out", models={"default": model})
    records = {name: list(result.records()) for name, result in outcome.runs.items()}
    for name in ("three", "blunt"):
        ids = [r.scenario.id for r in records[name]]
        assert ids == [r.scenario.id for r in records["one"]]
    one, three = records["one"], records["three"]
    assert [r.dialogue for r in one] == [r.dialogue for r in three]
    for critique in (r.critique for r in three if r.critique):
        asked = [v for v in critique.verdicts if v.signal != "program"]
        assert len(critique.votes) == 3 * len(asked)
    calls = {
        name: sum(use.calls for r in rows for use in r.usage.values())
        for name, rows in records.items()
    }
    shared = sum(r.usage[stage].calls for r in one for stage in ("plan", "turn", "check"))
    assert model.asked <= sum(calls.values()) - shared
    for result in outcome.runs.values():
        assert result.verify().defects == ()

    comparison = outcome.comparison
    assert comparison is not None
    assert list(comparison.runs) == ["one", "three", "blunt"]
    assert {figures.finished for figures in comparison.runs.values()} == {12}
    assert [name for name, figures in comparison.runs.items() if figures.critics] == ["three"]
    pairs = sum(len(r.pairs) for r in records["one"])
    assert comparison.runs["one"].pairs == pairs
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "three" in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "https://" not in report
    assert json.loads((tmp_path / "out" / "figures.json").read_bytes())["runs"]


def test_an_arm_takes_no_answer_to_another_question(tmp_path: Path) -> None:
    """Last messages and plans are asked for again; they come out alike, so what follows does."""
    model = ScriptedModel()
    text = "base: {n: 4}\narms: {a: {}, b: {plan: {temperature: 0.1}}}"
    carry_out(described(tmp_path, text), tmp_path / "out", models={"default": model})
    single = ScriptedModel()
    first = described(tmp_path, text).arms["a"]
    run(first, out=tmp_path / "alone", models={"default": single})
    assert model.asked == single.asked + 2 * 4


def test_killed_in_an_arm_it_goes_on(tmp_path: Path) -> None:
    chosen = described(tmp_path, CRITICS)
    left = 200

    def dying(request: Request, seed: int) -> str:
        nonlocal left
        left -= 1
        if not left:
            raise ModelError("gone")
        return small_world(request, seed)

    with pytest.raises(ModelError):
        carry_out(chosen, tmp_path / "out", models={"default": ScriptedModel(dying)})
    outcome = carry_out(chosen, tmp_path / "out", models={"default": ScriptedModel()})
    whole = carry_out(chosen, tmp_path / "whole", models={"default": ScriptedModel()})
    assert outcome.comparison == whole.comparison


def test_critics_are_compared_with_labels_of_people(tmp_path: Path) -> None:
    first = carry_out(
        described(tmp_path, CRITICS), tmp_path / "a", models={"default": ScriptedModel()}
    )
    lines = [
        {"scenario": r.scenario.id, "principle": v.principle, "violated": v.confirmed}
        for r in first.runs["one"].records()
        for v in (r.critique.verdicts if r.critique else ())
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    chosen = described(tmp_path, CRITICS + "labels: labels.jsonl\n")
    outcome = carry_out(chosen, tmp_path / "b", models={"default": ScriptedModel()})
    assert outcome.comparison is not None
    assert outcome.comparison.labels == len(lines)
    own = [found for found in outcome.comparison.labelled if found.run == "one"]
    assert {found.kappa for found in own} == {1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arms: {a: {}}", "`arms` must map at least two names"),
        ("arms: {a: {}, b: {}}\nfoo: 1", "unknown key `foo`"),
        ("arms: {a: {}, b: {n: 3}}", "`arms.b` changes `n`, but all arms share"),
        ("arms: {a: {}, b: {scenarios: {principles: [3, 3]}}}", "changes `scenarios.principles`"),
        ("base: {targets: {pairs: 1}}\narms: {a: {}, b: {}}", "leave them out"),
        ("arms: {a: {}, ../b: {}}", "`arms.../b`: a name has at most 60 letters"),
        ("arms: {a: {}, b: {critic: {}}}", "unknown key `critic`; did you mean `critique`?"),
        ("arms: {a: {}, b: 3}", "`arms.b` must be a mapping"),
        ("arms: {a: {}, b: {}}\nlabels: none.jsonl", "none.jsonl: cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as fault:
        described(tmp_path, text)
    assert said in str(fault.value)


def test_a_label_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"scenario": "x"}\n', "utf-8")
    with pytest.raises(ConfigError, match=r"labels\.jsonl:1: .*a line looks like"):
        described(tmp_path, "arms: {a: {}, b: {}}\nlabels: labels.jsonl")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'\n{"scenario": "caf\xe9"}', r"labels\.jsonl:2: the byte 0xe9 is not UTF-8"),
        (b"[" * 100_000, r"labels\.jsonl:1: "),
        (
            b'{"scenario": "x", "principle": "y", "violated": true}\n' * 2
            + b'{"scenario": "x", "principle": "y", "violated": false}',
            r"labels\.jsonl:3: this reply and principle have another label further up; remove one",
        ),
    ],
)
def test_labels_that_cannot_be_read_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "labels.jsonl").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        described(tmp_path, "arms: {a: {}, b: {}}\nlabels: labels.jsonl")


@pytest.mark.parametrize(
    "path", [EXAMPLES / "strategies.yaml", EXAMPLES / "critics.yaml"], ids=lambda path: path.stem
)
def test_the_examples_are_experiments(path: Path) -> None:
    chosen = load(path)
    assert len(chosen.arms) >= 3
    first, *others = chosen.arms.values()
    assert {configuration.digest(arm) for arm in others}.isdisjoint({configuration.digest(first)})
    for arm in others:
        assert settings({"first": first, "arm": arm})


def test_the_terminal_shows_each_arm_and_its_paired_differences(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "base: {n: 12}\narms: {one: {}, many: {dialogue: {candidates: 4}}}"
    outcome = carry_out(
        described(tmp_path, text), tmp_path / "out", models={"default": ScriptedModel()}
    )
    assert outcome.comparison is not None
    pairs = outcome.comparison.runs["many"].pairs
    capfd.readouterr()
    display.compared(outcome, json=False)
    shown = capfd.readouterr().out
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("many ")]
    assert str(pairs) in row
    assert pairs > outcome.comparison.runs["many"].accepted.k
    assert "many: yield +" in shown
    assert "compared with one" in shown
