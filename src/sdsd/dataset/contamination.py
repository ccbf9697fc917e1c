"""Keep evaluation sets out of the data: no dialogue may share a long run of words with one.

As for GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C), a text is contaminated if 13
consecutive words, ignoring case and punctuation, occur in an evaluation set. A shorter text of a
set counts if the dialogue contains all of it and it has at least five words. Only hashes of the
runs are kept (`sdsd.text.word_runs`).
"""

from __future__ import annotations

import contextlib
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sdsd.config import ContaminationConfig
from sdsd.errors import ConfigError, SourceError
from sdsd.scenarios.existing_files import SUFFIXES, rows
from sdsd.text.encodings import NotText, decode
from sdsd.text.word_runs import WORD, HashedText, bitmap, contains, ordered

_LEAST = 5
"""Words that a short text of an evaluation set must have."""
_KNOWN = (*SUFFIXES, ".txt", ".txt.gz")
_UNREAD = (".arrow", ".feather", ".xlsx", ".xls", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst")
"""Files of data that are not read: in a directory, a set would be compared without them."""
_IDENTIFIER = re.compile(r"\w*", re.ASCII)
"""What names a column, and is no text: `what_is_the_correct_answer` has five words."""
_ADDRESS = re.compile(r"hf:|https?:")
_UNSEEN = re.compile("[\xad\u200b\u2060\ufeff]")


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
        hashed, marks = HashedText(_plain(text)), self._bitmap
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
        names: set[str] = set()
        try:
            for _, row in rows(path, path.name, (), headed=False):
                yield from map(_plain, _inside(row, names))
        except SourceError as error:
            raise _error(str(error)) from None


def _plain(text: str) -> str:
    """Return a text without what nobody sees inside of words: soft hyphens, and the like."""
    return text if text.isascii() else _UNSEEN.sub("", text)


def _files(where: str) -> list[Path]:
    if not where or _ADDRESS.match(where):
        raise _error(f"{where!r}: give the path of a file or directory on this machine")
    try:
        root = Path(where).expanduser()
        found = sorted(_below(root)) if root.is_dir() else [root] if root.exists() else []
    except (OSError, ValueError, RuntimeError) as error:  # the last: `~name` of an unknown user
        raise _error(f"{where}: cannot be read: {error}; check the path") from None
    known = ", ".join(_KNOWN)
    files = [path for path in found if path.name.lower().endswith(_KNOWN)]
    for path in found:
        name = path.name.lower()
        if not name.endswith(_KNOWN) and (path == root or name.endswith(_UNREAD)):
            raise _error(f"{path}: cannot read files of type {path.suffix!r}; use one of {known}")
    if not files:
        wrong = (
            f"no file in this directory is of type {known}"
            if root.is_dir()
            else "no such file or directory; check the path"
        )
        raise _error(f"{where}: {wrong}")
    return files


def _below(root: Path) -> Iterator[Path]:
    """Yield the files in a directory, however deep, but for hidden ones. Raises `OSError`."""

    def failed(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=failed, followlinks=True):
        place = os.path.realpath(folder)
        folders[:] = [] if place in seen else [name for name in folders if name[0] != "."]
        yield from (Path(folder, name) for name in names if name[0] != "." and place not in seen)
        seen.add(place)


def _inside(row: Any, names: set[str]) -> Iterator[str]:
    """Yield the texts of a row, at any depth, and the names of its fields that are not in `names`.

    A name may be the question to which the field has the answer.
    """
    pending = [row]
    while pending:
        value = pending.pop()
        if isinstance(value, bytes):  # texts in Parquet that are not marked as such
            with contextlib.suppress(NotText):
                value = decode(value)
        if isinstance(value, str) and not _IDENTIFIER.fullmatch(value):
            yield value
        elif isinstance(value, dict):
            pending += (*value.values(), *(value.keys() - names))
            names |= value.keys()
        elif isinstance(value, list | tuple):
            pending += value


def _error(what: str) -> ConfigError:
    return ConfigError(f"export.contamination.sets: {what}")
