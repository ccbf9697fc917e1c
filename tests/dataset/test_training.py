"""What a run exports can be trained on: real trainers take real steps on the files as they are.

Needs PyTorch and TRL, as docs/training.md installs them, and is left out without them. The model
file (98 MB) is fetched on first use, as a user's would be.
"""

from __future__ import annotations

import argparse
import importlib
import math
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdsd
from sdsd.errors import SdsdError
from sdsd.models import weights

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.train,
    pytest.mark.xdist_group("train"),  # they share a model
    # TRL 1.16 still goes by the names that transformers 5.24 deprecates.
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning"),
]
CONFIG = {
    "n": 32,
    "scenarios": {"exchanges": [2, 2], "principles": [2, 2]},
    "dialogue": {"self_check": "never"},
}


# -- what they begin with ------------------------------------------------------------------


@pytest.fixture(scope="session")
def training() -> Any:
    """The module that the training examples share."""
    for name in ("torch", "trl"):
        pytest.importorskip(name, reason=f"{name} is not installed; docs/training.md says how")
    return importlib.import_module("training")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with pairs in several domains."""
    made = sdsd.run(
        CONFIG,
        out=tmp_path_factory.mktemp("run") / "run",
        models={"default": sdsd.ScriptedModel()},
    )
    assert made.status().pairs > 6
    return made.path


@pytest.fixture(scope="session")
def tiny(training: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first two of the small model's thirty layers, for tests that are not about the model."""
    model, tokenizer = training.start(training.SMALL)
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL reports every trainer that is made to its authors, but for those made in CI."""
    monkeypatch.setenv("CI", "true")


def chosen(run: Path, out: Path, **changes: Any) -> argparse.Namespace:
    """A script's arguments."""
    given = {"run": run, "out": out, "model": "smollm2-135m", "steps": 3, "batch": 2, "seed": 0}
    return argparse.Namespace(**given | {"rate": 1e-4, "beta": 0.1} | changes)


def printed(said: str) -> dict[str, tuple[float, float]]:
    """The held-out figures before and after training, by name."""
    found = re.findall(r"^(\w+) +(-?\d+\.\d+) +(-?\d+\.\d+)$", said, re.MULTILINE)
    return {name: (float(before), float(after)) for name, before, after in found}


def change(model: Any, saved: Path | str) -> float:
    """The greatest difference of any weight from a saved model's."""
    transformers = importlib.import_module("transformers")
    other = transformers.AutoModelForCausalLM.from_pretrained(saved).state_dict()
    mine = model.state_dict()
    return max(float((mine[k] - other[k]).abs().max()) for k in mine if k in other)


# -- the scripts, on the whole model -------------------------------------------------------


@pytest.mark.slow
def test_the_sft_script_learns_from_a_run(
    run: Path, training: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module("train_sft")
    trainer = script.trainer(chosen(run, tmp_path))
    training.fit(trainer, {"eval_loss": "loss"})
    before, after = printed(capsys.readouterr().out)["loss"]
    assert after < before - 0.1
    assert change(trainer.model, training.unpacked(weights.locate(training.SMALL))) > 1e-5
    assert change(trainer.model, tmp_path) == 0


@pytest.mark.slow
def test_the_dpo_script_learns_from_a_run(
    run: Path, training: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module("train_dpo")
    trainer = script.trainer(chosen(run, tmp_path, rate=2e-5))
    names = {"eval_loss": "loss", "eval_rewards/accuracies": "accuracy"}
    training.fit(trainer, names | {"eval_rewards/margins": "margin"})
    figures = printed(capsys.readouterr().out)
    assert figures["loss"][0] == pytest.approx(math.log(2), abs=1e-3)
    assert figures["loss"][1] < 0.6
    assert figures["accuracy"] == (0, 1)
    assert figures["margin"][1] > figures["margin"][0] == 0
    assert change(trainer.model, tmp_path) == 0


def test_only_what_the_assistant_says_is_learnt(training: Any) -> None:
    """And the marks around it change nothing of the text that the model was made with."""
    _, tokenizer = training.start(training.SMALL)
    transformers = importlib.import_module("transformers")
    file = weights.locate(training.SMALL)
    original = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    talk = [
        {"role": "user", "content": " Which oil?\n"},
        {"role": "assistant", "content": "Linseed.\n\nA thin film. "},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Bake it."},
    ]
    briefed = [{"role": "system", "content": "Talk about pans."}, *talk]
    for messages, opened in ((talk, False), (talk[:3], True), (briefed, False)):
        shown = (
            t.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)
            for t in (tokenizer, original)
        )
        assert len(set(shown)) == 1
    found = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    marked = found["input_ids"], found["assistant_masks"]
    learnt = [t for t, kept in zip(*marked, strict=True) if kept]
    assert tokenizer.decode(learnt) == "Linseed.\n\nA thin film. <|im_end|>Bake it.<|im_end|>"


# -- every view, on two layers -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "view", "options"),
    [
        ("SFT", "sft", {"assistant_only_loss": True}),
        ("SFT", "critique", {}),
        ("DPO", "preference", {}),
        ("DPO", "implicit", {}),
        ("KTO", "kto", {}),
        ("Reward", "preference", {}),
        ("Reward", "implicit", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_trainer_takes_the_view_as_it_is(
    kind: str, view: str, options: dict[str, Any], run: Path, training: Any, tiny: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Steps on the same two rows: the loss on them falls, and the weights are others."""
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    data = datasets.load_dataset(str(run), view, split="train")
    if view == "kto":
        labels = data["label"]
        data = data.select([labels.index(True), labels.index(False)])
    else:
        data = data.select(range(2))
    keys = training.settings(chosen(run, tmp_path, steps=4, rate=1e-3))
    trainer = getattr(trl, f"{kind}Trainer")(
        model=tiny,
        args=getattr(trl, f"{kind}Config")(**keys, **options, max_length=2048),
        train_dataset=data,
        eval_dataset=data,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert trainer.state.global_step == 4
    assert after < before - 0.05
    assert change(trainer.model, tiny) > 1e-5


# -- rows ----------------------------------------------------------------------------------


def test_token_counts_are_those_of_the_trainer(tiny: str, tmp_path: Path) -> None:
    """And `longest` is the smallest `max_length` that clips none."""
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    made = sdsd.run(
        {**CONFIG, "export": {"tokenizer": tiny, "canary": True}},
        out=tmp_path / "run",
        models={"default": sdsd.ScriptedModel()},
    )
    counts = made.export()
    assert counts
    lengths = counts.tokens["preference"]
    rows = datasets.load_dataset(
        str(made.path), "preference", split="train", cache_dir=str(tmp_path / "cache")
    )
    options = {"output_dir": str(tmp_path / "out"), "report_to": [], "use_cpu": True, "bf16": False}
    trainer = trl.DPOTrainer(
        tiny, args=trl.DPOConfig(**options, max_length=lengths.longest), train_dataset=rows
    )
    trained = trainer.train_dataset
    assert len(trained) == len(rows) == counts.rows["preference"] > 6
    sides = ("prompt", "chosen", "rejected")
    for row, taken in zip(rows, trained, strict=True):
        assert [len(taken[f"{s}_ids"]) for s in sides] == [row[f"{s}_tokens"] for s in sides]
    whole = [
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in trained
    ]
    assert lengths.longest == max(whole)
    assert lengths.longest_prompt == max(len(row["prompt_ids"]) for row in trained)


def test_no_domain_is_both_trained_on_and_held_out(run: Path, training: Any) -> None:
    whole = training.load_dataset(str(run), "preference", split="train")
    train, held_out = training.rows(run, "preference")
    assert len(train) + len(held_out) == len(whole)
    assert len(train) > len(held_out) > 0
    assert not set(train["domain"]) & set(held_out["domain"])


def test_splits_of_the_export_are_taken_as_they_are(training: Any, tmp_path: Path) -> None:
    config = CONFIG | {"export": {"splits": {"test": 0.3, "validation": 0.3}}}
    path = sdsd.run(config, out=tmp_path / "run", models={"default": sdsd.ScriptedModel()}).path
    train, held_out = training.rows(path, "sft")
    exported = training.load_dataset(str(path), "sft")
    assert train["id"] == exported["train"]["id"]
    assert held_out["id"] == exported["test"]["id"]


def test_a_run_without_pairs_says_what_to_do(training: Any, tmp_path: Path) -> None:
    keys = CONFIG | {"n": 2, "revise": {"rounds": 0}}
    path = sdsd.run(keys, out=tmp_path / "run", models={"default": sdsd.ScriptedModel()}).path
    with pytest.raises(SdsdError, match=r"no rows in `preference`.*sdsd run -n"):
        training.rows(path, "preference")
    with pytest.raises(SdsdError, match="sdsd export"):
        training.rows(tmp_path / "nowhere", "preference")


def test_rows_of_one_domain_cannot_be_held_out(training: Any, tmp_path: Path) -> None:
    keys = CONFIG | {"n": 1}
    path = sdsd.run(keys, out=tmp_path / "run", models={"default": sdsd.ScriptedModel()}).path
    with pytest.raises(SdsdError, match="none can be held out"):
        training.rows(path, "sft")


def test_a_model_that_is_not_there_is_one_line(
    training: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        training.start(str(tmp_path / "none"))

    with pytest.raises(SystemExit) as end:
        training.script(main)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --model {tmp_path / 'none'}: ")
    assert said.count("\n") == 1


# -- multi-turn and single-turn ------------------------------------------------------------


@pytest.fixture(scope="session")
def versus(training: Any) -> Any:
    return importlib.import_module("multi_turn_vs_single")


def test_the_arms_read_as_many_tokens(run: Path, training: Any, versus: Any, tiny: str) -> None:
    model, tokenizer = training.start(tiny)
    known = versus.both(training.rows(run, "preference")[0], model, tokenizer)
    for seed, budget in ((0, 10**9), (1, 700), (2, 1)):
        arms = versus.drawn(known, seed, budget)
        multi, single, same = arms.values()
        assert same == multi
        assert single[: len(multi)] == multi
        assert len(single) > len(multi) or budget == 1
        longest = max(one.multi.tokens for one in known)
        read = sum(o.multi.tokens for o in multi), sum(o.single.tokens for o in single)
        assert abs(read[0] - read[1]) <= longest


def test_a_single_turn_pair_is_the_end_of_the_multi_turn_one(
    run: Path, training: Any, versus: Any, tiny: str
) -> None:
    _, tokenizer = training.start(tiny)
    for row in training.rows(run, "preference")[1]:
        multi, single = (versus.pair(row, form, tokenizer) for form in versus.FORMS)
        assert (multi.chosen, multi.rejected) == (single.chosen, single.rejected)
        assert tokenizer.decode(multi.chosen) == row["chosen"][0]["content"] + "<|im_end|>\n"
        shown = tokenizer.decode(single.prompt)
        assert shown.count("<|im_start|>user") == 1
        assert row["prompt"][-1]["content"] in shown
        assert (
            tokenizer.decode(multi.prompt).count("<|im_start|>user") == len(row["prompt"]) // 2 + 1
        )
        assert multi.tokens > single.tokens


@given(st.lists(st.integers(2, 300), min_size=1, max_size=40), st.integers(1, 12))
def test_every_pair_is_in_one_batch_and_batches_are_alike(
    training: Any, versus: Any, sizes: list[int], steps: int
) -> None:
    pairs = [
        versus.Both(*[versus.Pair(str(i), [], [0] * size, [])] * 2, opinion={})
        for i, size in enumerate(sizes)
    ]
    cut = versus.batches(pairs, "multi", steps)
    assert [one for batch in cut for one in batch] == pairs
    assert all(cut)
    assert len(cut) <= steps
    for batch in cut:
        assert sum(one.multi.tokens for one in batch) <= sum(sizes) / steps + max(sizes)


@pytest.mark.slow
def test_its_loss_is_that_of_trl(
    run: Path, training: Any, versus: Any, tiny: str, tmp_path: Path
) -> None:
    trl = importlib.import_module("trl")
    train, held_out = training.rows(run, "preference")
    model, tokenizer = training.start(tiny)
    known, judged = (versus.both(part, model, tokenizer) for part in (train, held_out))
    keys = chosen(run, tmp_path, rate=1e-4, steps=3)
    versus.train(model, known, "multi", keys)
    scores = versus.scores(model, judged, "multi", keys.beta)
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=training.start(tiny)[0],
        args=trl.DPOConfig(**training.settings(keys), beta=keys.beta, max_length=2048),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    theirs = trainer.evaluate()
    assert theirs["eval_loss"] < math.log(2) - 0.05
    assert fmean(s.loss for s in scores) == pytest.approx(theirs["eval_loss"], abs=2e-3)
    assert fmean(s.right for s in scores) == pytest.approx(theirs["eval_rewards/accuracies"])


@pytest.mark.slow
def test_the_comparison_from_end_to_end(
    run: Path, training: Any, versus: Any, tiny: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    keys = chosen(run, tmp_path, model=tiny, seeds=2, steps=2, tokens=600)
    found = versus.compare(keys)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 3
    assert set(found) == {(arm, form) for arm in versus.ARMS for form in versus.FORMS}
    assert all(first != second for first, second in found.values())  # the seeds draw other pairs
    table = versus.table(found).splitlines()
    assert len(table) == 2 + 3 + 1
    for (arm, form), seeds in found.items():
        values = versus.by_dialogue(seeds, "loss")
        assert len(values) == len({s.dialogue for s in seeds[0]})
        assert max(values) < math.log(2), (arm, form)
        assert any(line.startswith(f"| {arm} | ") for line in table)
    gap = re.match(r"\| multi minus single \| (-?\d\.\d+) \[", table[-1])
    assert gap is not None
    means = [fmean(versus.by_dialogue(found[arm, "multi"], "loss")) for arm in ("multi", "single")]
    assert float(gap.group(1)) == pytest.approx(means[0] - means[1], abs=6e-4)


# -- recipes for GPUs ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one_sft", "one_dpo", "node_sft", "node_dpo"])
def test_every_key_of_a_recipe_is_known(training: Any, name: str) -> None:
    trl = importlib.import_module("trl")
    of_trainer = trl.SFTConfig if name.endswith("sft") else trl.DPOConfig
    kinds = (trl.ScriptArguments, of_trainer, trl.ModelConfig, trl.DatasetMixtureConfig)
    script, trainer, model, _, unknown = trl.TrlParser(kinds).parse_args_and_config(
        ["--config", str(ROOT / "examples" / "gpu" / f"{name}.yaml"), "--use_cpu"],
        return_remaining_strings=True,
    )
    assert unknown == (["--accelerate_config", "fsdp2"] if name.startswith("node") else [])
    assert script.dataset_config == ("sft" if name.endswith("sft") else "preference")
    assert model.use_peft == name.startswith("one")
    assert trainer.max_length >= 4096


# -- what is installed for it --------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """The packages that a file of requirements pins, each with its block of lines."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return {
        block.partition("==")[0]: block
        for block in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)
        if "==" in block
    }


def test_what_training_needs_is_pinned_once_and_by_hash() -> None:
    ours = pins("train.txt")
    assert {"trl", "transformers", "accelerate", "gguf"} <= set(ours)
    assert not set(ours) & set(pins("dev.txt"))
    assert not [name for name in ours if name == "torch" or name.startswith("nvidia")]
    assert all("--hash=sha256:" in block for block in ours.values())
