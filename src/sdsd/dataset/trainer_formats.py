"""Trainer formats: JSON lines for trainers that do not read our Parquet files.

A user-defined format is a `Format`, named on the command line as `package.module:name`:

    def line(row):
        return {"question": row["prompt"][-1]["content"], "answer": row["chosen"][0]["content"]}

    questions = Format("Questions and answers.", (File("questions", "preference", line),))

    sdsd export --format my_formats:questions

The packaged ones follow what the trainers document and their loaders check; `docs/trainers.md` says
how to use each.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sdsd import plugins
from sdsd.dataset.export import read
from sdsd.dataset.splits import SPLITS, Split
from sdsd.dataset.view import Row
from sdsd.errors import PluginError, SdsdError
from sdsd.files import missing_folders, write_atomic

_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
"""Names of the roles in ShareGPT."""
_REGISTRY, _OURS = "dataset_info.json", "sdsd_"
"""LLaMA-Factory's list of data sets, and the prefix of ours in it."""


class File(Struct, frozen=True):
    """One kind of file in a format, written once per split as `<name>-<split>.jsonl`."""

    name: str
    view: str
    line: Callable[[Row], dict[str, Any]]
    """Makes the JSON object of one row of the view."""
    registry: dict[str, str] = {}
    """What LLaMA-Factory's registry says about a line's keys; empty for other trainers."""


class Format(Struct, frozen=True):
    """What one trainer reads."""

    doc: str
    """What it is for, in one line."""
    files: tuple[File, ...]


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": row["messages"]}


def _sharegpt(row: Row) -> dict[str, Any]:
    return {"conversations": _named(row["messages"])}


def _openai_preference(row: Row) -> dict[str, Any]:
    given = {"messages": row["prompt"], "tools": [], "parallel_tool_calls": True}
    return {
        "input": given,
        "preferred_output": row["chosen"],
        "non_preferred_output": row["rejected"],
    }


def _axolotl_dpo(row: Row) -> dict[str, Any]:
    # Axolotl looks a reply up in what the chat template made of it, and many templates trim.
    replies = {
        side: {"role": "assistant", "content": row[side][0]["content"].strip()}
        for side in ("chosen", "rejected")
    }
    return {"messages": row["prompt"], **replies}


def _nemo_rl(row: Row) -> dict[str, Any]:
    ranked = enumerate((row["chosen"], row["rejected"]))  # the lowest rank is the best
    completions = [{"rank": rank, "completion": side} for rank, side in ranked]
    return {"context": row["prompt"], "completions": completions}


def _ranking(row: Row) -> dict[str, Any]:
    sides = {side: _named(row[side])[0] for side in ("chosen", "rejected")}
    return {"conversations": _named(row["prompt"]), **sides}


def _labelled(row: Row) -> dict[str, Any]:
    turns = [*row["prompt"], *row["completion"]]
    return {"conversations": _named(turns), "kto_tag": row["label"]}


def _named(messages: Iterable[Row]) -> list[dict[str, str]]:
    return [{"from": _SPEAKERS[m["role"]], "value": m["content"]} for m in messages]


_CONVERSATIONS = {"messages": "conversations"}
_RANKED = {**_CONVERSATIONS, "chosen": "chosen", "rejected": "rejected"}

FORMATS: dict[str, Format] = {
    "sharegpt": Format(
        "Supervised fine-tuning, as `conversations` of `from` and `value`; read by many trainers.",
        (File("sharegpt", "sft", _sharegpt),),
    ),
    "openai": Format(
        "Supervised fine-tuning, as `messages`: OpenAI's upload, and torchtune.",
        (File("openai", "sft", _messages),),
    ),
    "openai-preference": Format(
        "Preference fine-tuning: OpenAI's upload.",
        (File("openai-preference", "preference", _openai_preference),),
    ),
    "axolotl": Format(
        "Supervised fine-tuning in Axolotl: `type: chat_template`.",
        (File("axolotl", "sft", _messages),),
    ),
    "axolotl-dpo": Format(
        "DPO and IPO in Axolotl: `type: chat_template.default`.",
        (File("axolotl-dpo", "preference", _axolotl_dpo),),
    ),
    "nemo-rl": Format(
        "DPO and reward models in NeMo-RL: `dataset_name: PreferenceDataset`.",
        (File("nemo-rl", "preference", _nemo_rl),),
    ),
    "llamafactory": Format(
        "SFT, DPO and KTO in LLaMA-Factory: a `dataset_dir` with its registry.",
        (
            File("sft", "sft", _sharegpt, _CONVERSATIONS),
            File("preference", "preference", _ranking, _RANKED),
            File("kto", "kto", _labelled, {**_CONVERSATIONS, "kto_tag": "kto_tag"}),
        ),
    ),
}
"""The packaged formats, by name."""


# --- files ----------------------------------------------------------------------------------------


def format_of(name: str) -> Format:
    """Return a packaged or user-defined format. Raises `PluginError` if there is no such format."""
    if name in FORMATS:
        return FORMATS[name]
    found = plugins.resolve(name, "formats", tuple(FORMATS))
    if not isinstance(found, Format):
        raise PluginError(f"`{name}` is not a format; make it a `{Format.__module__}.Format`")
    for file in found.files:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", file.name):
            raise PluginError(
                f"`{name}`: a file cannot be called `{file.name}`; use letters, digits, `_`, `-` "
                "and `.`"
            )
    return found


def write(data: Path, name: str, out: Path) -> dict[str, int]:
    """Write the data set below `data` in a format into the directory `out`.

    Returns the number of rows by file name; a split without rows has no file. No file is renamed
    into place before all are on disk; then files that this format left there for splits that are
    gone are removed. Raises `PluginError` for a format that does not exist, and `SdsdError` if it
    has no rows, if `out` holds somebody else's registry, or if the disk is full.
    """
    files = format_of(name).files
    missing = missing_folders(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(file.registry for file in files):
            _check_registry(out / _REGISTRY)
        with tempfile.TemporaryDirectory(prefix=".sdsd-", dir=out) as folder:
            counts = _write_all(data, name, files, Path(folder))
            for written in counts:
                Path(folder, written).replace(out / written)
        for path, _, _ in _paths(files):
            if path not in counts:
                (out / path).unlink(missing_ok=True)
        if registry := _registry(files, counts):
            write_atomic(out / _REGISTRY, registry)
    except OSError as error:
        raise SdsdError(
            f"{out}: cannot be written: {error}; free some space, or name another directory"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # nothing was written: leave no empty directory
            for empty in missing:
                empty.rmdir()
    return counts


def _write_all(data: Path, name: str, files: tuple[File, ...], folder: Path) -> dict[str, int]:
    """Write all files, and return the rows of those that have any."""
    written = {
        path: _write_lines(folder / path, name, file, read(data, file.view, split))
        for path, file, split in _paths(files)
    }
    counts = {path: n for path, n in written.items() if n}
    if not counts:
        views = " or ".join(f"`{file.view}`" for file in files)
        raise SdsdError(f"{data}: no rows in {views}, so there is nothing to write")
    return counts


def _paths(files: tuple[File, ...]) -> list[tuple[str, File, Split]]:
    return [(f"{file.name}-{split}.jsonl", file, split) for file in files for split in SPLITS]


def _write_lines(path: Path, name: str, file: File, rows: Iterable[Row]) -> int:
    """Write one line per row, to disk; return how many there were."""
    encode, written = msgspec.json.Encoder().encode, 0
    with path.open("wb") as out:
        for row in rows:
            with plugins.blamed(f"format `{name}`", f"{row.get('id', 'a row')} of `{file.view}`"):
                line = file.line(row)
                if not isinstance(line, dict):
                    raise TypeError(f"return a dict, not {line!r:.80}")
                out.write(encode(line) + b"\n")
            written += 1
        out.flush()
        os.fsync(out.fileno())
    return written


def _registry(files: tuple[File, ...], counts: dict[str, int]) -> bytes:
    """Return LLaMA-Factory's registry: `sdsd_sft`, `sdsd_sft_validation` and so on."""
    entries = {
        f"{_OURS}{file.name}{'' if split == 'train' else f'_{split}'}": {
            "file_name": path,
            "formatting": "sharegpt",
            "ranking": "chosen" in file.registry,
            "columns": file.registry,
        }
        for path, file, split in _paths(files)
        if file.registry and path in counts
    }
    return msgspec.json.format(msgspec.json.encode(entries), indent=2) if entries else b""


def _check_registry(path: Path) -> None:
    """Refuse to replace a file that lists other data sets, or that is not a registry."""
    if not path.exists():
        return
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError:
        known = {"": None}
    if not all(name.startswith(_OURS) for name in known):
        raise SdsdError(
            f"{path}: lists other data sets and is not replaced; name another directory, and use "
            "it as `dataset_dir` in training"
        )
