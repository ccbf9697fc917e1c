"""Find dialogues that repeat an earlier one: in the same words, nearly the same, or in meaning.

    exact      the same words in the same order, ignoring case, white space and kinds of quotes
    near       many runs of five words in common (`sdsd.text.near_duplicates`)
    semantic   similar embeddings: averages of static token vectors (`sdsd.text.embeddings`)

Dialogues come one after another and are compared with those that stayed, so the first always stays,
and a growing run never changes an earlier decision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from sdsd.config import DuplicatesConfig
from sdsd.errors import ConfigError, SourceError
from sdsd.hashing import hash64
from sdsd.scenarios.existing import SourceRow, read
from sdsd.text.embeddings import Embed, word_llama
from sdsd.text.near_duplicates import Near, spoken
from sdsd.text.normalize import normal, valid_unicode

Rule = Literal["duplicate_exact", "duplicate_near", "duplicate_semantic"]


class Repeat(NamedTuple):
    """What a dialogue repeats."""

    rule: Rule
    first: str
    """Id of the dialogue that stays; for one of `against`, its file and row."""


class Duplicates:
    """All dialogues so far that repeat no other.

    Memory per dialogue that stays: about 200 bytes (exact), 3 to 4 kB more (near), 1.1 kB more
    (semantic). The cost of a look-up does not grow with their number, except for `semantic`, which
    compares with every one. Raises `ConfigError` for an `against` that cannot be read, and
    `SdsdError` if the extra `semantic` is missing.
    """

    def __init__(self, config: DuplicatesConfig, embed: Embed | None = None) -> None:
        self._methods: list[tuple[Rule, _Method]] = []
        if config.method != "off":
            self._methods.append(("duplicate_exact", _Exact()))
        if config.method in ("near", "semantic"):
            self._methods.append(("duplicate_near", Near(config.near)))
        if config.method == "semantic":
            self._methods.append(
                ("duplicate_semantic", _Semantic(config.semantic, embed or word_llama()))
            )
        for where in config.against if self._methods else ():
            self._add_all(where)

    def find(self, key: str, text: str) -> Repeat | None:
        """Return the earlier dialogue that a dialogue repeats; if none, remember this one.

        `text` is what was said in it (`sdsd.text.near_duplicates.spoken`).
        """
        sketches = []
        for rule, method in self._methods:
            sketch = method.sketch(text)
            first = method.find(sketch)
            if first is not None:
                return Repeat(rule, first)
            sketches.append(sketch)
        for (_, method), sketch in zip(self._methods, sketches, strict=True):
            method.keep(key, sketch)
        return None

    def _add_all(self, where: str) -> None:
        """Put the dialogues of another data set before all others."""
        try:
            for row in read(where):
                if isinstance(row, SourceRow):
                    # not the whole path: what is left out, and why, is published with the data
                    self.find(f"{Path(where).name}/{row.origin}", spoken(row.messages))
        except SourceError as error:
            raise ConfigError(f"export.duplicates.against: {error}") from None


class _Method(Protocol):
    """Compares texts by sketches, which is all that is kept of them."""

    def sketch(self, text: str) -> Any: ...

    def find(self, sketch: Any) -> str | None: ...

    def keep(self, key: str, sketch: Any) -> None: ...


class _Exact:
    """64 bits per text: among a million different ones, two collide with a probability of 3e-8."""

    def __init__(self) -> None:
        self._keys: dict[int, str] = {}

    def sketch(self, text: str) -> int:
        return hash64(normal(text))

    def find(self, sketch: int) -> str | None:
        return self._keys.get(sketch)

    def keep(self, key: str, sketch: int) -> None:
        self._keys[sketch] = key


_HALF = 20_000
"""Characters embedded at either end of a text; the middle of a longer one is skipped."""
_BLOCK = 4096
"""Vectors compared at once."""


class _Semantic:
    """Compares every vector with all earlier ones, a block at a time."""

    def __init__(self, threshold: float, embed: Embed) -> None:
        self._threshold = threshold
        self._embed = embed
        self._keys: list[str] = []
        self._blocks: list[Any] = []

    def sketch(self, text: str) -> Any:
        """Return the unit-length embedding; the zero vector for a text without words."""
        import numpy as np

        if len(text) > 2 * _HALF:
            text = f"{text[:_HALF]} {text[-_HALF:]}"
        vector = self._embed(valid_unicode(text))
        length = np.linalg.norm(vector)
        return vector / length if length else vector

    def find(self, sketch: Any) -> str | None:
        for number, block in enumerate(self._blocks):
            start = number * _BLOCK
            alike = block[: len(self._keys) - start] @ sketch >= self._threshold
            if alike.any():
                return self._keys[start + int(alike.argmax())]
        return None

    def keep(self, key: str, sketch: Any) -> None:
        import numpy as np

        if len(self._keys) == len(self._blocks) * _BLOCK:
            self._blocks.append(np.empty((_BLOCK, len(sketch)), np.float32))
        self._blocks[-1][len(self._keys) % _BLOCK] = sketch
        self._keys.append(key)
