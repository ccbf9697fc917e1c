"""Texts as vectors of their meaning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdsd.errors import SdsdError

Embed = Callable[[str], Any]
"""Maps a text to its embedding: a one-dimensional numpy array of float32, of any length, zero only
if the text has no words. `numpy` comes with the extra `semantic` only."""


@cache
def word_llama() -> Embed:
    """Return the static embeddings in the wheel of `wordllama` (Miller 2024): 256 numbers a text.

    Nothing is downloaded. Raises `SdsdError` if the extra `semantic` is missing.
    """
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise SdsdError(
            "export.duplicates.method: `semantic` needs an extra: pip install 'sdsd[semantic]'"
        )
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from wordllama import WordLlama

    # the import sets up logging for the whole process
    root.handlers[:] = handlers
    root.setLevel(level)
    # by default it looks for its tokenizer in a folder of another name, and then downloads it
    package = Path(spec.submodule_search_locations[0])
    model = WordLlama.load(cache_dir=package, disable_download=True)
    return lambda text: model.embed(text)[0]
