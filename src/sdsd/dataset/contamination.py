"""Evaluation sets, kept out of the data: no dialogue may share a long run of words with one.

As for GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C): a text is contaminated if 13 words
in a row, without case and punctuation, stand in an evaluation set as well. A text of a set that is
shorter counts if it stands in the dialogue as a whole and has five words.

Of a run of words only a hash of 61 bits is kept, a polynomial in hashes of the words (Karp and
Rabin 1987), so that any run of a text is hashed in one step. Held against a million of them, a run
is found by mistake with a chance of 4e-13.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sdsd.config import ContaminationConfig
from sdsd.errors import ConfigError, SourceError
from sdsd.hashing import hash64
from sdsd.scenarios.existing_files import SUFFIXES, rows
from sdsd.text.near_duplicates import SOLID, words

_LEAST = 5
"""Words that a text of an evaluation set must have to be looked for as a whole."""
_WORD = 3
"""What a word counts where a character of a script without spaces counts 1; there a word has two to
five of them."""
_SLOTS = 8
"""Places in the filter for each run of words, at least."""


class Hit(NamedTuple):
    """What a dialogue has in common with an evaluation set."""

    name: str
    """The file or directory of the set."""
    words: str


class Contamination:
    """The texts of all evaluation sets, as hashes of their runs of words: about 20 bytes each.

    Raises `ConfigError` for a set that is missing, cannot be read, or holds no text of five words.
    """

    def __init__(self, config: ContaminationConfig) -> None:
        self._size = _WORD * config.words
        self._least = _WORD * min(_LEAST, config.words)
        self._lengths: set[int] = set()
        begins = array("Q")
        self._sets = [
            (Path(where).name or where, self._hashes(where, begins)) for where in config.sets
        ]
        self._begins = _ordered(begins)
        self._marks = _marks([self._begins, *(hashes for _, hashes in self._sets)])

    def find(self, text: str) -> Hit | None:
        """The first run of words in `text` that an evaluation set has as well, or None."""
        if not self._sets:
            return None
        read, marks = _Text(text), self._marks
        last = len(marks) - 1
        for start, end, run in read.runs(self._size):
            if marks[run & last] and (name := self._set_of(run)):
                return Hit(name, read.words(start, end))
        for start, _, begin in read.runs(self._least) if self._lengths else ():
            if marks[begin & last] and _among(begin, self._begins):
                for end in (start + length for length in sorted(self._lengths)):
                    if end <= len(read) and (name := self._set_of(read.hash(start, end))):
                        return Hit(name, read.words(start, end))
        return None

    def _set_of(self, run: int) -> str | None:
        return next((name for name, hashes in self._sets if _among(run, hashes)), None)

    def _hashes(self, where: str, begins: array[int]) -> array[int]:
        """The hashes of one set, in order; what its short texts begin with goes to `begins`."""
        found = array("Q")
        for text in map(_Text, _texts(where)):
            before = len(found)
            found.extend(run for _, _, run in text.runs(self._size))
            begin = next(text.runs(self._least), None)
            if begin and len(found) == before:
                begins.append(begin[-1])
                self._lengths.add(len(text))
                found.append(text.hash(0, len(text)))
        if not found:
            raise _error(f"{where}: there is no text of {_LEAST} words in it; check the path")
        return _ordered(found)


# -- hashes --------------------------------------------------------------------------------

_PRIME = (1 << 61) - 1
_BASE = hash64("run of words") % _PRIME

_word = lru_cache(1 << 16)(hash64)
_power = lru_cache(1 << 10)(lambda length: pow(_BASE, length, _PRIME))
_solid = re.compile(f"[{SOLID}]").match


class _Text:
    """The words of a text, of which any run is hashed in one step."""

    def __init__(self, text: str) -> None:
        self._words = words(text)
        self._ahead = list(accumulate(map(_word, self._words), _longer, initial=0))
        """The hash of what stands before each word."""
        sizes = (1 if word >= "\u0e00" and _solid(word) else _WORD for word in self._words)
        self._reach = list(accumulate(sizes, initial=0))

    def __len__(self) -> int:
        return len(self._words)

    def words(self, start: int, end: int) -> str:
        return " ".join(self._words[start:end])

    def hash(self, start: int, end: int) -> int:
        return (self._ahead[end] - self._ahead[start] * _power(end - start)) % _PRIME

    def runs(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Start, end and hash of the shortest run of at least `size` from every word on.

        `_WORD` is the size of one word.
        """
        ahead, reach, end = self._ahead, self._reach, 0
        for start, before in enumerate(reach):
            while reach[end] < before + size:
                end += 1
                if end == len(reach):
                    return
            yield start, end, (ahead[end] - ahead[start] * _power(end - start)) % _PRIME


def _longer(run: int, word: int) -> int:
    return (run * _BASE + word) % _PRIME


def _ordered(values: array[int]) -> array[int]:
    """`values` without repetitions in 8 bytes each: a set of Python's would take ten times that."""
    numbers = pa.Array.from_buffers(pa.uint64(), len(values), [None, pa.py_buffer(values)])
    return array("Q", pc.unique(numbers).sort().buffers()[1].to_pybytes())


def _among(value: int, ordered: array[int]) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and ordered[place] == value


def _marks(sets: Sequence[array[int]]) -> bytearray:
    """Not 0 at the last bits of every value; a power of 2 in length."""
    size = _SLOTS * sum(map(len, sets))
    marks = bytearray(1 << size.bit_length())
    for values in sets:
        for value in values:
            marks[value & (len(marks) - 1)] = 1
    return marks


# -- files ---------------------------------------------------------------------------------

_KNOWN = (*SUFFIXES, ".txt")


def _texts(where: str) -> Iterator[str]:
    """Every text in every row of the files at `where`."""
    for path in _files(where):
        try:
            if path.name.lower().endswith(".txt"):
                yield from _paragraphs(path)
                continue
            for _, row in rows(path, path.name, ()):
                yield from _inside(row)
        except SourceError as error:
            raise _error(str(error)) from None


def _files(where: str) -> list[Path]:
    root = Path(where).expanduser()
    try:
        found = sorted(root.rglob("*")) if root.is_dir() else [root] if root.exists() else []
    except (OSError, ValueError) as error:
        raise _error(f"{where}: cannot be read: {error}; check the path") from None
    files = [path for path in found if path.name.lower().endswith(_KNOWN) and path.is_file()]
    if not files:
        known = ", ".join(_KNOWN)
        raise _error(f"{where}: there is no such file, nor a directory of files of type {known}")
    return files


def _paragraphs(path: Path) -> Iterator[str]:
    """The blocks between blank lines: a run of words may go on in the next line."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            for blank, lines in groupby(file, key=str.isspace):
                if not blank:
                    yield "".join(lines)
    except OSError as error:
        raise _error(f"{path}: cannot be read: {error}; check the file") from None


def _inside(row: Any) -> Iterator[str]:
    """The texts of a row, however deep."""
    held = [row]
    while held:
        value = held.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            held += value.values()
        elif isinstance(value, list):
            held += value


def _error(what: str) -> ConfigError:
    return ConfigError(f"export.contamination.sets: {what}")
