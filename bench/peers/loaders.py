"""Read our views and trainer formats with the trainers' own loaders, and compare every row.

    python bench/peers/loaders.py RUN --tokenizer DIRECTORY [--gguf FILE]

`RUN` is an exported run; the tokenizer has a chat template (`--gguf`: that of the file in the
directory). The loaders are those of TRL, LLaMA-Factory (`llamafactory`), Axolotl, torchtune and
NeMo-RL (`nemo_rl`), as far as they can be imported. Nothing is trained. Prints the number of rows
that each loader took; a row that it drops or changes is an error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import load_dataset
from transformers import AutoTokenizer

from sdsd.dataset.export import read
from sdsd.dataset.trainer_formats import write

Row = dict[str, Any]


def texts(messages: list[Row]) -> list[str]:
    return [message["content"] for message in messages]


def same(ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise SystemExit(f"changed on the way:\n  ours   {ours!r:.500}\n  theirs {theirs!r:.500}")


# --- TRL ------------------------------------------------------------------------------------------


def trl(data: Path, out: Path, tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Do what every TRL trainer does first: recognise the row and apply the chat template."""
    from trl.data_utils import apply_chat_template, extract_prompt, is_conversational

    views: tuple[str, ...] = ("sft", "critique", "preference", "implicit", "kto")
    for view in views:
        rows = list(read(data, view, "train"))
        for row in rows:
            chats = {key: value for key, value in row.items() if key in CHATS}
            if not is_conversational(chats):
                raise SystemExit(f"{view}: not conversational")
            if view == "implicit":
                chats = extract_prompt(chats)
                same(chats["chosen"], row["chosen"][-1:])
                same(chats["rejected"], row["rejected"][-1:])
            made = apply_chat_template(dict(chats), tokenizer)
            for key, chat in chats.items():
                text = made["text" if key == "messages" else key]
                for said in texts(chat):
                    if said not in text:
                        same(said, text)
        yield view, len(rows)


CHATS = ("messages", "prompt", "completion", "chosen", "rejected")


# --- LLaMA-Factory --------------------------------------------------------------------------------


def llamafactory(data: Path, out: Path, tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Run registry, converter and tokenising processors for SFT, DPO and KTO."""
    from llamafactory.data import processor as made
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.data.template import TEMPLATES

    write(data, "llamafactory", out)
    options = SimpleNamespace(
        streaming=False,
        preprocessing_num_workers=None,
        overwrite_cache=True,
        media_dir=str(out),
        cutoff_len=1 << 30,
        train_on_prompt=False,
        mask_history=False,
    )
    views: dict[str, Any] = {
        "sft": made.SupervisedDatasetProcessor,
        "preference": made.PairwiseDatasetProcessor,
        "kto": made.FeedbackDatasetProcessor,
    }
    names = [f"sdsd_{view}" for view in views]
    for (view, kind), entry in zip(views.items(), get_dataset_list(names, str(out)), strict=True):
        lines = load_dataset("json", data_files=str(out / entry.dataset_name), split="train")
        aligned = align_dataset(lines, entry, options, SimpleNamespace(local_process_index=0))
        for row, got in zip(read(data, view, "train"), aligned, strict=True):
            prompt, response = _said(view, row)
            same(prompt, ([got["_system"]] if got["_system"] else []) + texts(got["_prompt"]))
            same(response, [text for text in texts(got["_response"]) if text])
        tokens = kind(TEMPLATES["chatml"], tokenizer, None, options).preprocess_dataset(aligned[:])
        yield f"{entry}", len(next(iter(tokens.values())))


def _said(view: str, row: Row) -> tuple[list[str], list[str]]:
    if view == "sft":
        return texts(row["messages"][:-1]), texts(row["messages"][-1:])
    if view == "kto":
        return texts(row["prompt"]), texts(row["completion"])
    return texts(row["prompt"]), texts(row["chosen"] + row["rejected"])


# --- Axolotl --------------------------------------------------------------------------------------


def axolotl(data: Path, out: Path, tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Run `chat_template` on the SFT format, and both DPO strategies on format and views."""
    from axolotl.prompt_strategies.chat_template import load
    from axolotl.prompt_strategies.dpo import chat_template as dpo
    from axolotl.utils.dict import DictDefault

    write(data, "axolotl", out)
    write(data, "axolotl-dpo", out)
    config = DictDefault(
        chat_template="chatml", sequence_len=1 << 20, train_on_inputs=False, datasets=[{}]
    )
    strategy = load(tokenizer, config, {"type": "chat_template"})
    n = 0
    for line in _lines(out / "axolotl-train.jsonl"):
        tokens = strategy.tokenize_prompt(line)
        learnt = tokenizer.decode([t for t in tokens["labels"] if t != -100])
        for turn in line["messages"]:
            if turn["role"] == "assistant" and turn["content"].strip() not in learnt:
                same(turn["content"], learnt)
        n += 1
    yield "chat_template", n

    pairs = list(_lines(out / "axolotl-dpo-train.jsonl"))
    yield "chat_template.default", _dpo(dpo.default, config, pairs, tokenizer)
    config.datasets = [{"field_messages": "prompt"}]
    rows = list(read(data, "preference", "train"))
    yield "chat_template.default on `preference`", _dpo(dpo.default, config, rows, tokenizer)
    config.datasets = [{}]
    whole = list(read(data, "implicit", "train"))
    yield (
        "chat_template.argilla_chat on `implicit`",
        _dpo(dpo.argilla_chat, config, whole, tokenizer),
    )


def _dpo(strategy: Callable[..., Any], config: Any, rows: list[Row], tokenizer: Any) -> int:
    transform, _ = strategy(config)
    for row in rows:
        got = transform(row, tokenizer=tokenizer)
        for side in ("chosen", "rejected"):
            reply = row[side] if isinstance(row[side], dict) else row[side][-1]
            same(reply["content"], got[side].removesuffix("<|im_end|>"))
    return len(rows)


# --- torchtune ------------------------------------------------------------------------------------


def torchtune(data: Path, out: Path, tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Run the message transforms of `chat_dataset` and `preference_dataset`."""
    from torchtune import data as tune

    for form, key, transform in (
        ("openai", "messages", tune.OpenAIToMessages()),
        ("sharegpt", "conversations", tune.ShareGPTToMessages()),
    ):
        write(data, form, out)
        found = list(_lines(out / f"{form}-train.jsonl"))
        for line in found:
            messages = transform(line)["messages"]
            tune.validate_messages(messages)
            ours = [turn.get("content", turn.get("value")) for turn in line[key]]
            same(ours, [message.text_content for message in messages])
        yield form, len(found)
    whole = list(read(data, "implicit", "train"))
    for row in whole:
        made = tune.ChosenRejectedToMessages()(row)
        for side in ("chosen", "rejected"):
            tune.validate_messages(made[side])
            same(texts(row[side]), [message.text_content for message in made[side]])
    yield "preference_dataset on `implicit`", len(whole)


# --- NeMo-RL --------------------------------------------------------------------------------------


def nemo_rl(data: Path, out: Path, tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Load the format as its data set does, and lay both completions out by the chat template."""
    from nemo_rl.data.datasets.preference_datasets.preference_dataset import PreferenceDataset
    from nemo_rl.data.processors import preference_preprocessor

    write(data, "nemo-rl", out)
    told = SimpleNamespace(prompt=None, system_prompt=None)
    loaded = PreferenceDataset(str(out / "nemo-rl-train.jsonl")).dataset
    rows = list(read(data, "preference", "train"))
    for number, (line, row) in enumerate(zip(loaded, rows, strict=True)):
        made = preference_preprocessor(line, told, tokenizer, 1 << 30, number)
        for side in ("chosen", "rejected"):
            chat, got = [*row["prompt"], *row[side]], made[f"message_log_{side}"]
            same([m["role"] for m in chat], [m["role"] for m in got])
            for said, text in zip(texts(chat), texts(got), strict=True):
                if said.strip() not in text:
                    same(said, text)
    yield "PreferenceDataset", len(rows)


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--gguf")
    options = parser.parse_args()
    named = {"gguf_file": options.gguf} if options.gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, **named)
    for loader in (trl, llamafactory, axolotl, torchtune, nemo_rl):
        try:
            importlib.import_module(loader.__name__)
        except ImportError as error:
            print(f"{loader.__name__}: not read, {error}")
            continue
        with tempfile.TemporaryDirectory() as out:
            for what, n in loader(options.run / "data", Path(out), tokenizer):
                print(f"{loader.__name__}: {what}: {n} rows")


if __name__ == "__main__":
    main()
