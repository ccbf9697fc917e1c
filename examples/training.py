"""What the training examples share: a model to start from, and rows to train and evaluate on.

They need more than sdsd; docs/training.md says how to install it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "HF_HUB_DISABLE_TELEMETRY", "1"
)  # TRL would report every trainer that is created
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from sdsd.dataset.export import read
from sdsd.errors import SdsdError
from sdsd.hashing import hash64
from sdsd.models import weights

SMALL = "smollm2-135m"
# The model's own template, with the assistant's turns marked so that only they are learnt.
SMALL_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\
<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}
{{- '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


def arguments(about: str, out: str, rate: float) -> argparse.ArgumentParser:
    """Return a parser with the options that the training scripts share."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run directory, or a data set exported from one")
    parser.add_argument("--model", default=SMALL, help="a directory, or a model's name on the hub")
    parser.add_argument("--steps", type=int, default=20, help="optimisation steps")
    parser.add_argument("--batch", type=int, default=4, help="rows in a step")
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(out), help="where the model is saved")
    return parser


def settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of every TRL configuration, for a CPU or a GPU."""
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(chosen.out),
        "max_steps": chosen.steps,
        "per_device_train_batch_size": chosen.batch,
        "per_device_eval_batch_size": chosen.batch,
        "learning_rate": chosen.rate,
        "warmup_steps": chosen.steps // 10,
        "seed": chosen.seed,
        "bf16": gpu,  # on a CPU, bfloat16 and checkpointing only cost time
        "activation_checkpointing": gpu,
        "dataloader_pin_memory": gpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def start(name: str) -> tuple[Any, Any]:
    """Load a model in full precision, and its tokenizer.

    The small model is the file that the embedded engine loads; it is unpacked once and kept next to
    that file. Raises `SdsdError` if there is no model of this name.
    """
    place = unpacked(weights.locate(SMALL)) if name == SMALL else name
    disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(place)
    except OSError as error:
        said = str(error).partition("\n")[0]
        raise SdsdError(f"--model {name}: {said}; name a directory or a model's hub name") from None


def unpacked(file: Path) -> Path:
    """Return the directory with a GGUF file's model in transformers' format, made on first use."""
    folder = file.with_suffix(".unpacked")
    if folder.exists():
        return folder
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": file.parent, "gguf_file": file.name,
    }  # fmt: skip
    packed = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.chat_template = SMALL_TEMPLATE
    del packed.config.quantization_config
    plain = AutoModelForCausalLM.from_config(packed.config)
    plain.load_state_dict(packed.state_dict())
    with tempfile.TemporaryDirectory(dir=file.parent) as work:
        whole = Path(work) / folder.name
        for part in (plain, tokenizer):
            part.save_pretrained(whole)
        whole.rename(folder)
    return folder


def rows(run: Path, view: str) -> tuple[Dataset, Dataset]:
    """Return the training rows and the held-out rows of a view; no domain is in both.

    Uses the export's splits if it has them (`export.splits`), otherwise holds out a fifth of the
    domains. Raises `SdsdError` if there are too few rows.
    """
    if not any(read(run / "data", view)):
        raise SdsdError(
            f"{run}: no rows in `{view}`; it needs verified pairs: make more dialogues "
            "(`sdsd run -n`), or use a stronger critic and reviser"
        )
    data = load_dataset(str(run), view)
    for split in ("test", "validation"):
        if "train" in data and split in data:
            return data["train"], data[split]
    whole = concatenate_datasets(list(data.values()))
    domains = sorted(set(whole["domain"]), key=lambda name: hash64("held out", name))
    held = set(domains[: max(1, len(domains) // 5)])
    train = [i for i, domain in enumerate(whole["domain"]) if domain not in held]
    if not train:
        raise SdsdError(
            f"{run}: all rows in `{view}` are about {domains[0]}, so none can be held out; make "
            "more dialogues (`sdsd run -n`)"
        )
    apart = [i for i in range(len(whole)) if i not in set(train)]
    return whole.select(train), whole.select(apart)


def fit(trainer: Any, names: Mapping[str, str]) -> None:
    """Train and save; print held-out metrics, by `names`, before and after."""
    print(f"{len(trainer.train_dataset)} rows to train on, {len(trainer.eval_dataset)} held out")
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    trainer.save_model()
    print(f"{'held out':<16} before   after")
    for key, name in names.items():
        print(f"{name:<16} {before[key]:6.3f}  {after[key]:6.3f}")
    print(f"saved in {trainer.args.output_dir}")


def script(main: Callable[[], None]) -> None:
    """Run `main` as a program: an error that the user can fix is one line and exit code 2."""
    try:
        main()
    except SdsdError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
