"""Keep evaluation sets out of the data: no dialogue may share a long run of words with one.

As for GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C), a text is contaminated if 13
consecutive words, ignoring case and punctuation, occur in an evaluation set. A shorter text of a
set counts if the dialogue contains all of it and it has at least five words. Only hashes of the
runs are kept (`sdsd.text.word_runs`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from sdsd.config import ContaminationConfig
from sdsd.errors import ConfigError, SourceError
from sdsd.scenarios.existing_files import SUFFIXES, rows
from sdsd.text.encodings import NotText, as_utf8, lines
from sdsd.text.word_runs import WORD, HashedText, bitmap, contains, ordered

_LEAST = 5
"""Words that a short text of an evaluation set must have."""
_KNOWN = (*SUFFIXES, ".txt")


class Hit(NamedTuple):
    """What a dialogue has in common with an evaluation set."""

    name: str
    """The file or directory of the set."""
    words: str


class Contamination:
    """The texts of all evaluation sets, as hashes of their runs of words: about 20 bytes each.

    Raises `ConfigError` for a set that is missing, cannot be read, or has no text of five words.
    """

    def __init__(self, config: ContaminationConfig) -> None:
        self._size = WORD * config.words
        self._least = WORD * min(_LEAST, config.words)
        self._lengths: set[int] = set()
        beginnings = array("Q")
        self._sets = [
            (Path(where).name or where, self._hashes(where, beginnings)) for where in config.sets
        ]
        self._beginnings = ordered(beginnings)
        self._bitmap = bitmap([self._beginnings, *(hashes for _, hashes in self._sets)])

    def find(self, text: str) -> Hit | None:
        """Return the first run of words in `text` that an evaluation set has, or None."""
        if not self._sets:
            return None
        hashed, marks = HashedText(text), self._bitmap
        last = len(marks) - 1
        for start, end, run in hashed.runs(self._size):
            if marks[run & last] and (name := self._set_of(run)):
                return Hit(name, hashed.words(start, end))
        for start, _, begin in hashed.runs(self._least) if self._lengths else ():
            if marks[begin & last] and contains(self._beginnings, begin):
                for end in (start + length for length in sorted(self._lengths)):
                    if end <= len(hashed) and (name := self._set_of(hashed.hash(start, end))):
                        return Hit(name, hashed.words(start, end))
        return None

    def _set_of(self, run: int) -> str | None:
        return next((name for name, hashes in self._sets if contains(hashes, run)), None)

    def _hashes(self, where: str, beginnings: array[int]) -> array[int]:
        """Return the hashes of one set; the beginnings of its short texts go to `beginnings`."""
        found = array("Q")
        for text in map(HashedText, _texts(where)):
            before = len(found)
            found.extend(run for _, _, run in text.runs(self._size))
            begin = next(text.runs(self._least), None)
            if begin and len(found) == before:
                beginnings.append(begin[-1])
                self._lengths.add(len(text))
                found.append(text.hash(0, len(text)))
        if not found:
            raise _error(f"{where}: has no text of {_LEAST} words; check the path")
        return ordered(found)


def _texts(where: str) -> Iterator[str]:
    """Yield every text in every row of the files at `where`."""
    for path in _files(where):
        try:
            if path.name.lower().endswith(".txt"):
                yield from _paragraphs(path)
                continue
            for _, row in rows(path, path.name, ()):
                yield from _inside(row)
        except SourceError as error:
            raise _error(str(error)) from None
        except NotText as error:
            raise _error(error.at(path)) from None


def _files(where: str) -> list[Path]:
    try:
        root = Path(where).expanduser()
        found = sorted(root.rglob("*")) if root.is_dir() else [root] if root.exists() else []
    except (OSError, ValueError, RuntimeError) as error:  # the last: `~name` of an unknown user
        raise _error(f"{where}: cannot be read: {error}; check the path") from None
    files = [path for path in found if path.name.lower().endswith(_KNOWN) and path.is_file()]
    if not files:
        known = ", ".join(_KNOWN)
        if root.is_file():
            wrong = f"cannot read files of type {root.suffix!r}; use one of {known}"
        elif root.is_dir():
            wrong = f"no file in this directory is of type {known}"
        else:
            wrong = "no such file or directory; check the path"
        raise _error(f"{where}: {wrong}")
    return files


def _paragraphs(path: Path) -> Iterator[str]:
    """Yield the blocks between blank lines, because a run of words may cross a line break."""
    try:
        with path.open("rb") as raw, as_utf8(raw) as file:
            for blank, block in groupby(lines(file), key=str.isspace):
                if not blank:
                    yield "".join(block)
    except (OSError, UnicodeDecodeError) as error:
        raise _error(f"{path}: cannot be read: {error}; check the file") from None


def _inside(row: Any) -> Iterator[str]:
    """Yield the texts of a row, at any depth."""
    pending = [row]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _error(what: str) -> ConfigError:
    return ConfigError(f"export.contamination.sets: {what}")
