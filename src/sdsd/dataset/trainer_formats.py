"""Forms: what trainers read that do not read our Parquet files, as JSON lines.

Made from the exported rows, a row at a time. The schemas are those that the trainers document, and
that their loaders check; `docs/trainers.md` says how each is used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sdsd.dataset.export import read
from sdsd.dataset.schema import SPLITS, Split, View
from sdsd.dataset.views import Row
from sdsd.errors import ConfigError, SdsdError
from sdsd.files import write_atomic

_TURN = {"user": "human", "assistant": "gpt", "system": "system"}
"""ShareGPT's names of the speakers."""
_REGISTRY, _OURS = "dataset_info.json", "sdsd_"
"""LLaMA-Factory's list of data sets, and how the names of ours begin."""


class _Part(Struct, frozen=True):
    """One kind of file in a form."""

    name: str
    view: View
    line: Callable[[Row], dict[str, Any]]
    columns: dict[str, str] = {}
    """What LLaMA-Factory's registry says of a line's keys; empty where it is not for that."""


class Form(Struct, frozen=True):
    """What a trainer reads."""

    meaning: str
    """In one line, for people who choose."""
    parts: tuple[_Part, ...]
    """Its files; each is written once for every split."""


# --- lines ----------------------------------------------------------------------------------------


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


def _ranking(row: Row) -> dict[str, Any]:
    sides = {side: _named(row[side])[0] for side in ("chosen", "rejected")}
    return {"conversations": _named(row["prompt"]), **sides}


def _labelled(row: Row) -> dict[str, Any]:
    turns = [*row["prompt"], *row["completion"]]
    return {"conversations": _named(turns), "kto_tag": row["label"]}


def _named(messages: Iterable[Row]) -> list[dict[str, str]]:
    return [{"from": _TURN[m["role"]], "value": m["content"]} for m in messages]


_TALK = {"messages": "conversations"}

FORMS: dict[str, Form] = {
    "sharegpt": Form(
        "Supervised fine-tuning, as `conversations` of `from` and `value`; read by many trainers.",
        (_Part("sharegpt", "sft", _sharegpt),),
    ),
    "openai": Form(
        "Supervised fine-tuning, as `messages`: OpenAI's upload, and torchtune.",
        (_Part("openai", "sft", _messages),),
    ),
    "openai-preference": Form(
        "Preference fine-tuning: OpenAI's upload.",
        (_Part("openai-preference", "preference", _openai_preference),),
    ),
    "axolotl": Form(
        "Supervised fine-tuning in Axolotl: `type: chat_template`.",
        (_Part("axolotl", "sft", _messages),),
    ),
    "axolotl-dpo": Form(
        "DPO and IPO in Axolotl: `type: chat_template.default`.",
        (_Part("axolotl-dpo", "preference", _axolotl_dpo),),
    ),
    "llamafactory": Form(
        "SFT, DPO and KTO in LLaMA-Factory: a `dataset_dir` with its registry.",
        (
            _Part("sft", "sft", _sharegpt, _TALK),
            _Part(
                "preference",
                "preference",
                _ranking,
                {**_TALK, "chosen": "chosen", "rejected": "rejected"},
            ),
            _Part("kto", "kto", _labelled, {**_TALK, "kto_tag": "kto_tag"}),
        ),
    ),
}
"""By name, what `write` can write."""


# --- files ----------------------------------------------------------------------------------------


def write(data: Path, form: str, out: Path) -> dict[str, int]:
    """Write the data set below `data` in a form into the directory `out`.

    Returns the rows of each file by its name, `<part>-<split>.jsonl`; a split without rows has
    none. Nothing takes its place before all of it is on disk; then files that this form left there
    for splits that are gone are removed. Raises `ConfigError` for a form that does not exist, and
    `SdsdError` if it has no rows, if `out` holds another registry, or if the machine refuses.
    """
    if form not in FORMS:
        raise ConfigError(f"{form!r} is no form; there are {', '.join(FORMS)}")
    parts = FORMS[form].parts
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(part.columns for part in parts):
            _check_registry(out / _REGISTRY)
        with tempfile.TemporaryDirectory(prefix=".sdsd-", dir=out) as draft:
            counts = _draft(data, parts, Path(draft))
            for name in counts:
                Path(draft, name).replace(out / name)
        for name, _, _ in _files(parts):
            if name not in counts:
                (out / name).unlink(missing_ok=True)
        if registry := _registry(parts, counts):
            write_atomic(out / _REGISTRY, registry)
    except OSError as error:
        raise SdsdError(
            f"{out}: cannot be written: {error}; make room, or give another directory"
        ) from None
    return counts


def _draft(data: Path, parts: tuple[_Part, ...], folder: Path) -> dict[str, int]:
    """All files, on disk; returns the rows of those that have any."""
    written = {
        name: _write_lines(folder / name, map(part.line, read(data, part.view, split)))
        for name, part, split in _files(parts)
    }
    counts = {name: n for name, n in written.items() if n}
    if not counts:
        views = " or ".join(f"`{part.view}`" for part in parts)
        raise SdsdError(f"{data}: no rows in {views}, so there is nothing to write")
    return counts


def _files(parts: tuple[_Part, ...]) -> list[tuple[str, _Part, Split]]:
    return [(f"{part.name}-{split}.jsonl", part, split) for part in parts for split in SPLITS]


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    """How many there were; all of them are on disk then."""
    encode, written = msgspec.json.Encoder().encode, 0
    with path.open("wb") as file:
        for line in lines:
            file.write(encode(line) + b"\n")
            written += 1
        file.flush()
        os.fsync(file.fileno())
    return written


def _registry(parts: tuple[_Part, ...], counts: dict[str, int]) -> bytes:
    """What LLaMA-Factory knows data sets by: `sdsd_sft`, `sdsd_sft_validation` and so on."""
    entries = {
        f"{_OURS}{part.name}{'' if split == 'train' else f'_{split}'}": {
            "file_name": name,
            "formatting": "sharegpt",
            "ranking": "chosen" in part.columns,
            "columns": part.columns,
        }
        for name, part, split in _files(parts)
        if part.columns and name in counts
    }
    return msgspec.json.format(msgspec.json.encode(entries), indent=2) if entries else b""


def _check_registry(path: Path) -> None:
    """Never write over a registry that has other data sets in it, or that is none."""
    if not path.exists():
        return
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError:
        known = {"": None}
    if not all(name.startswith(_OURS) for name in known):
        raise SdsdError(
            f"{path}: holds other data sets, and is not written over; give another directory, and "
            "name it as `dataset_dir` in training"
        )
