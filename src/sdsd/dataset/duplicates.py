"""Dialogues that say what an earlier one said already: the same, nearly the same, or the meaning.

    exact      the same words in the same order, but for case, space and kinds of quotes
    near       many runs of five words in common (`sdsd.text.near_duplicates`)
    semantic   similar embeddings: means of static vectors of tokens (WordLlama, Miller 2024)

Dialogues come one after another and each is held against those that stayed, so the first always
stays, and a run that grows changes no earlier decision.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from sdsd.config import DuplicatesConfig
from sdsd.errors import ConfigError, SdsdError, SourceError
from sdsd.hashing import hash64
from sdsd.scenarios.existing import SourceRow, read
from sdsd.text.near_duplicates import Embed, Near, spoken
from sdsd.text.normalize import normal, valid_unicode

Rule = Literal["duplicate_exact", "duplicate_near", "duplicate_semantic"]

Vector = Any
"""What `Embed` gives."""


class Repeat(NamedTuple):
    """What a dialogue repeats."""

    rule: Rule
    first: str
    """The id of the dialogue that stays; of one in `against`, where it stands."""


class Duplicates:
    """All dialogues so far that repeat no other.

    Memory for each that stays, in bytes: about 200 (exact), 3,000 to 4,000 more (near), 1,100 more
    (semantic). The cost of a look-up does not grow with their number, but for `semantic`, which
    compares with every one of them. Raises `ConfigError` for an `against` that cannot be read, and
    `SdsdError` where the extra `semantic` is missing.
    """

    def __init__(self, config: DuplicatesConfig, embed: Embed | None = None) -> None:
        self._ways: list[tuple[Rule, _Way]] = []
        if config.method != "off":
            self._ways.append(("duplicate_exact", _Exact()))
        if config.method in ("near", "semantic"):
            self._ways.append(("duplicate_near", Near(config.near)))
        if config.method == "semantic":
            self._ways.append(
                ("duplicate_semantic", _Semantic(config.semantic, embed or word_llama()))
            )
        for where in config.against if self._ways else ():
            self._stand(where)

    def find(self, key: str, text: str) -> Repeat | None:
        """The earlier dialogue that `text`, what was said in this one (`sketch.spoken`), repeats.

        None if there is none; then this one counts among the earlier ones from now on.
        """
        sketches = []
        for rule, way in self._ways:
            sketch = way.sketch(text)
            first = way.find(sketch)
            if first is not None:
                return Repeat(rule, first)
            sketches.append(sketch)
        for (_, way), sketch in zip(self._ways, sketches, strict=True):
            way.keep(key, sketch)
        return None

    def _stand(self, where: str) -> None:
        """Let the dialogues of another data set stand before all others."""
        try:
            for row in read(where):
                if isinstance(row, SourceRow):
                    # not the whole path: what is left out, and why, is handed on with the data
                    self.find(f"{Path(where).name}/{row.origin}", spoken(row.messages))
        except SourceError as error:
            raise ConfigError(f"export.duplicates.against: {error}") from None


class _Way(Protocol):
    """One way to be the same: by a sketch of the text, which is all that is kept of it."""

    def sketch(self, text: str) -> Any: ...

    def find(self, sketch: Any) -> str | None: ...

    def keep(self, key: str, sketch: Any) -> None: ...


class _Exact:
    """64 bits a text: among a million of them, two that differ collide with a chance of 3e-8."""

    def __init__(self) -> None:
        self._keys: dict[int, str] = {}

    def sketch(self, text: str) -> int:
        return hash64(normal(text))

    def find(self, sketch: int) -> str | None:
        return self._keys.get(sketch)

    def keep(self, key: str, sketch: int) -> None:
        self._keys[sketch] = key


_HALF = 20_000
"""Characters at either end of a text that are embedded; what lies between is not."""
_BLOCK = 4096
"""Vectors that are compared at once."""


class _Semantic:
    """Every vector is compared with all earlier ones, a block of them at a time."""

    def __init__(self, threshold: float, embed: Embed) -> None:
        self._threshold = threshold
        self._embed = embed
        self._keys: list[str] = []
        self._blocks: list[Vector] = []

    def sketch(self, text: str) -> Vector:
        """The embedding, of length one; zeros, which are like nothing, where nothing is said."""
        import numpy as np

        if len(text) > 2 * _HALF:
            text = f"{text[:_HALF]} {text[-_HALF:]}"
        vector = self._embed(valid_unicode(text))
        length = np.linalg.norm(vector)
        return vector / length if length else vector

    def find(self, sketch: Vector) -> str | None:
        for number, block in enumerate(self._blocks):
            start = number * _BLOCK
            alike = block[: len(self._keys) - start] @ sketch >= self._threshold
            if alike.any():
                return self._keys[start + int(alike.argmax())]
        return None

    def keep(self, key: str, sketch: Vector) -> None:
        import numpy as np

        if len(self._keys) == len(self._blocks) * _BLOCK:
            self._blocks.append(np.empty((_BLOCK, len(sketch)), np.float32))
        self._blocks[-1][len(self._keys) % _BLOCK] = sketch
        self._keys.append(key)


@cache
def word_llama() -> Embed:
    """The static embeddings that come in the wheel of `wordllama`: 256 numbers, nothing fetched.

    Raises `SdsdError` where the extra `semantic` is missing.
    """
    place = find_spec("wordllama")
    if place is None or not place.submodule_search_locations:
        raise SdsdError(
            "export.duplicates.method: `semantic` needs an extra: pip install 'sdsd[semantic]'"
        )
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from wordllama import WordLlama

    # the import sets up logging for the whole process
    root.handlers[:] = handlers
    root.setLevel(level)
    # by itself it looks for its tokenizer in a folder of another name, and then downloads it
    package = Path(place.submodule_search_locations[0])
    model = WordLlama.load(cache_dir=package, disable_download=True)
    return lambda text: model.embed(text)[0]
