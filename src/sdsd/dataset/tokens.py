"""Count the tokens of rows as a trainer does: by a model's own tokenizer and chat template.

The counts become columns of the views that trainers read (`counted`). How long their rows are goes
into `Counts.tokens`, which says what `max_length` clips none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config.hub import hub_words
from sdsd.dataset.columns import CHAT, INT, Column
from sdsd.dataset.view import Row, Selected, View
from sdsd.errors import ConfigError, WeightsError
from sdsd.models import chat_templates
from sdsd.text.normalize import encodable
from sdsd.types import Message

COUNTED = ("preference", "sft", "kto", "implicit", "critique")
"""The views whose rows are counted: those that trainers read."""
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_BAR = 64
"""Tokens that one bar of a histogram covers."""


class TokenLengths(Struct, frozen=True):
    """How long the rows of a view are, each with its prompt; of a pair, the longer side."""

    longest: int
    """The smallest `max_length` that clips no row."""
    longest_prompt: int
    """0 for views whose rows have no prompt."""
    histogram: dict[int, int]
    """Rows by length, rounded up to a multiple of 64 tokens."""


class Lengths:
    """Measures the rows of a view while they are written."""

    def __init__(self) -> None:
        self.rows = self._longest = self._longest_prompt = 0
        self._bars: Counter[int] = Counter()

    def add(self, row: Row) -> None:
        counts = {name: n for name, n in row.items() if name.endswith("_tokens")}
        prompt = counts.pop("prompt_tokens", 0)
        length = prompt + max(counts.values())
        self._longest = max(self._longest, length)
        self._longest_prompt = max(self._longest_prompt, prompt)
        self.rows += 1
        self._bars[-(-length // _BAR) * _BAR] += 1

    def result(self) -> TokenLengths:
        return TokenLengths(self._longest, self._longest_prompt, dict(sorted(self._bars.items())))


class Tokenizer:
    """A model's tokenizer and chat template, from the files in `folder`."""

    def __init__(self, folder: Path) -> None:
        try:
            from tokenizers import Tokenizer as Engine
        except ImportError:
            raise _unusable("needs an extra: pip install 'sdsd[tokens]'") from None
        try:
            self._engine = Engine.from_file(str(folder / "tokenizer.json"))
            files = [folder / name for name in _FILES if (folder / name).is_file()]
            self.sha256 = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
            self._template = chat_templates.source(folder) if _has_template(folder) else None
        except Exception as error:  # the engine raises Exception itself
            why = " ".join(str(error).split())[:300]
            raise _unusable(
                f"{folder}: {why}; name a directory with a model's tokenizer.json"
            ) from None

    def count(self, chat: Sequence[Row], *, prompt: bool = False) -> int:
        """Return the tokens of a chat as the template lays it out; with `prompt`, those that open
        the reply, too. Without a template, the tokens of the messages alone."""
        if self._template is None:
            return sum(self._tokens(message["content"]) for message in chat)
        messages = [Message(message["role"], message["content"]) for message in chat]
        source, special = self._template.text, self._template.special
        try:
            return self._tokens(
                chat_templates.render(source, messages, special=special, prompt=prompt)
            )
        except WeightsError as error:
            raise _unusable(
                f"{error}; name the tokenizer of the model that you train, or none"
            ) from None

    def _tokens(self, text: str) -> int:
        return len(self._engine.encode(encodable(text), add_special_tokens=False))


def _unusable(why: str) -> ConfigError:
    return ConfigError(f"export.tokenizer: {why}")


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(json.loads(path.read_bytes()).get("chat_template"))


@cache
def tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer in a directory, or of a model on the hub (`hf:org/name`).

    Raises `ConfigError` if the extra `tokens` is missing, or if the files are missing or damaged.
    """
    return Tokenizer(_fetched(name) if name.startswith("hf:") else Path(name))


def _fetched(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise _unusable("needs an extra: pip install 'sdsd[tokens]'") from None
    try:
        return Path(snapshot_download(name.removeprefix("hf:"), allow_patterns=list(_FILES)))
    except Exception as error:  # the hub's errors share no base class in all its versions
        why = hub_words(error) or type(error).__name__
        raise _unusable(f"{name}: {why}; check the name and the connection") from None


def counted(view: View, tokens: Tokenizer) -> View:
    """Return the view with a column of token counts for each of its chats."""
    chats = [column.name for column in view.columns if column.type == CHAT]
    continues = "prompt" in chats

    def rows(selected: Selected) -> Iterator[Row]:
        for row in view.rows(selected):
            yield row | counts(row)

    def counts(row: Mapping[str, Any]) -> Row:
        before = tokens.count(row["prompt"], prompt=True) if continues else 0
        found = {"prompt_tokens": before} if continues else {}
        for name in chats[continues:]:
            chat = [*row["prompt"], *row[name]] if continues else row[name]
            found[f"{name}_tokens"] = tokens.count(chat) - before
        return found

    def column(name: str) -> Column:
        said = f"Tokens of `{name}`"
        if continues:
            said += ", with those that open the reply" if name == "prompt" else " after the prompt"
        return Column(f"{name}_tokens", INT, f"{said}, by `export.tokenizer`.")

    return replace(view, columns=(*view.columns, *map(column, chats)), rows=rows)
