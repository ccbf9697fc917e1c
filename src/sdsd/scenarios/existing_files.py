"""The files of a source: found, or downloaded, and their rows, one after another.

Parquet, JSON lines and JSON lists are read a piece at a time. What is in a row is not looked at
here; what cannot be read is an error that names the place.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sdsd.errors import SourceError

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_ROW = 1 << 26
"""Bytes of one row of JSON, at most: what a file without line ends may cost."""
_PIECE = 1 << 20
_BATCH = 256


Download = Callable[[str, tuple[str, ...]], Path]
"""From a data set's id and patterns of file names to the directory that has the files."""


def fetch_dataset(repo: str, patterns: tuple[str, ...]) -> Path:
    """Download a data set's files from the Hugging Face hub into the hub's own cache.

    `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` hold. Raises `SourceError`.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise SourceError(f"hf:{repo}: needs an extra: pip install 'sdsd[hub]'") from None
    try:
        return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:  # the hub's errors have no base class that all its versions share
        why = " ".join(str(error).split())[:300] or type(error).__name__
        remedy = "check the name and the connection, or download its Parquet files yourself"
        raise SourceError(f"hf:{repo}: {why}; {remedy}") from error


class Place(NamedTuple):
    """Where a row stands: its file, the file's name for people, and the line or `row 3`."""

    path: Path
    name: str
    row: int | str

    @property
    def origin(self) -> str:
        """The place for people: no matter where the file lies."""
        return f"{self.name}:{self.row}"

    def error(self, wrong: str, remedy: str) -> SourceError:
        """What is wrong here, and what to do."""
        return SourceError(f"{self.path}:{self.row}: {wrong}; {remedy}")


def find(where: str, view: str, split: str, download: Download) -> list[tuple[Path, str]]:
    """The files at `where`, each with its name for people; of a run, those of the `view`.

    Raises `SourceError` if there are none.
    """
    if not where.startswith("hf:"):
        return _local(where, view, split)
    repo = where.removeprefix("hf:")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise SourceError(f"{where!r} names no data set; write hf:org/name")
    name = glob.escape(split)
    patterns = (f"{name}*.parquet", f"*/{name}*.parquet") if split else ("*.parquet",)
    return _directory(where, download(repo, patterns), view, split)


def _local(where: str, view: str, split: str) -> list[tuple[Path, str]]:
    root = Path(where).expanduser()
    try:
        if root.is_dir():
            return _directory(where, root, view, split)
        there = root.exists()
    except (OSError, ValueError) as error:
        raise SourceError(f"{where}: cannot be read: {error}; check the path") from error
    if not there:
        raise SourceError(f"{where}: there is no such file; check the path")
    if not root.name.lower().endswith(SUFFIXES):
        known = ", ".join(SUFFIXES)
        raise SourceError(f"{where}: cannot read files of type {root.suffix!r}; use one of {known}")
    if split:
        raise SourceError(f"{where}: a single file has no splits; leave out {split!r}")
    return [(root, _plain(root.name))]


def _directory(where: str, root: Path, view: str, split: str) -> list[tuple[Path, str]]:
    """A directory's Parquet files by name; of a run's data set, those of one view."""
    ours = (root / "data" / view).is_dir()
    folder = root / "data" / view if ours else root
    found = [path.relative_to(root) for path in sorted(folder.rglob("*.parquet"))]
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    if not found:
        remedy = "name a file; `sdsd export` writes those of a run"
        raise SourceError(f"{where}: there are no .parquet files here; {remedy}")
    shards = Counter(_SHARD.sub("", path.stem) for path in found)  # by split
    if ours and any(_of_how_many(path) != shards[_SHARD.sub("", path.stem)] for path in found):
        wrong = "a file is missing, or files of two exports are mixed"
        raise SourceError(f"{where}: {wrong}; `sdsd export` writes them anew")
    chosen = [path for path in found if not split or _is_of(path, split)]
    if not chosen:
        names = ", ".join(sorted({_SHARD.sub("", path.stem) for path in found})[:10])
        raise SourceError(f"{where}: no file is of the split {split!r}; there are: {names}")
    return [(root / path, _plain(path.as_posix())) for path in chosen]


_SHARD = re.compile(r"-\d+(?:-of-(\d+))?(?:-[0-9a-f]+)?$")


def _of_how_many(path: Path) -> int:
    shard = _SHARD.search(path.stem)
    return int(shard[1]) if shard and shard[1] else 1


def _is_of(path: Path, split: str) -> bool:
    """Whether a file carries the name of a split, or lies in a directory that does."""
    return split in path.parts[:-1] or _SHARD.sub("", path.stem) == split


def _plain(name: str) -> str:
    """A file's name as UTF-8 can hold it."""
    return name.encode("utf-8", "replace").decode()


def rows(path: Path, name: str, columns: Collection[str]) -> Iterator[tuple[Place, Any]]:
    """The rows of one file as they stand there; of Parquet, only `columns` are read.

    Raises `SourceError`.
    """
    import pyarrow as pa

    try:
        if path.name.lower().endswith(".parquet"):
            yield from _parquet(path, name, columns)
        else:
            yield from _text(path, name)
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:300]
        remedy = "check the file, or make or download it anew"
        raise SourceError(f"{path}: cannot be read: {why}; {remedy}") from error


def _parquet(path: Path, name: str, columns: Collection[str]) -> Iterator[tuple[Place, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        known = [column for column in file.schema_arrow.names if column in columns]
        numbers = itertools.count(1)
        for batch in file.iter_batches(_BATCH, columns=known or None):
            for row in batch.to_pylist():
                yield Place(path, name, f"row {next(numbers)}"), row


def _text(path: Path, name: str) -> Iterator[tuple[Place, Any]]:
    bare = path.name.lower().removesuffix(".gz")
    scan = _json if bare.endswith(".json") else _lines
    with path.open("rb") as raw:
        zipped = path.name.lower() != bare
        yield from scan(gzip.GzipFile(fileobj=raw) if zipped else raw, path, name)


def _lines(file: Any, path: Path, name: str) -> Iterator[tuple[Place, Any]]:
    """The value on each line that is not blank."""
    for number in itertools.count(1):
        line = file.readline(_ROW + 1)
        if not line:
            return
        place = Place(path, name, number)
        if len(line) > _ROW:
            raise place.error(f"more than {_ROW:,} bytes", "write one object per line")
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            wrong = f"the byte 0x{error.object[error.start]:02x} is not UTF-8"
            raise place.error(wrong, "save the file as UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise place.error(f"bad JSON: {error}", "write one object per line") from None
        yield place, value


_GAP = re.compile(r"[\s,]*")


def _json(file: Any, path: Path, name: str) -> Iterator[tuple[Place, Any]]:
    """The items of a list, or values one after another, of which only one is held at a time."""
    decode = json.JSONDecoder().raw_decode
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()

    def more(size: int) -> str:
        data = file.read(size)
        return utf8.decode(data, final=len(data) < size)

    held = more(_PIECE).lstrip()
    listed = held.startswith("[")
    held, at, number = held[listed:], 0, 1
    while True:
        place = Place(path, name, f"row {number}")
        at = _end(held, at)
        if listed and held.startswith("]", at):
            break
        fault = "the list does not end"
        if at < len(held):
            try:
                value, at = decode(held, at)
            except (ValueError, RecursionError) as error:
                fault = getattr(error, "msg", str(error))  # or the rest of it is still to come
            else:
                yield place, value
                number += 1
                continue
        piece = more(max(_PIECE, len(held) - at))
        if not piece and (listed or at < len(held)):
            raise place.error(f"bad JSON: {fault}", "mend the file, or make or download it anew")
        if not piece:
            return
        held, at = held[at:] + piece, 0
        if len(held) > _ROW:
            raise place.error(f"more than {_ROW:,} characters", "write a list of smaller objects")
    _require_end(place, held[at + 1 :] + more(_PIECE))


def _require_end(place: Place, rest: str) -> None:
    if rest.strip():
        raise place.error("bad JSON: text after the end of the list", "remove it")


def _end(text: str, at: int) -> int:
    """Where the space and commas at `at` end."""
    gap = _GAP.match(text, at)
    return gap.end() if gap else at
