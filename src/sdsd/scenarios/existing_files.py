"""The files of a source: found or downloaded, and read row by row.

Parquet, JSON lines and CSV stream; a JSON list is read at once. `existing` interprets the rows; a
file that cannot be read is an error that names the place.
"""

from __future__ import annotations

import csv
import glob
import io
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any, NamedTuple

from sdsd.config.hub import hub_words
from sdsd.errors import SourceError
from sdsd.text.encodings import NotText, as_utf8, decode
from sdsd.text.normalize import valid_unicode

_TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUFFIXES = (".parquet", *_TEXTS, *(f"{suffix}.gz" for suffix in _TEXTS))
_LINE = 1 << 26
"""Bytes of one line, at most: bounds the memory that a file without line ends takes."""
_LIST = 1 << 30
"""Bytes of a `.json` file, at most, because it is read at once."""
_BATCH = 256

_GZIP = b"\x1f\x8b"
_POINTER = b"version https://git-lfs.github.com/spec/"
"""What a clone has in place of a large file that was not fetched."""
_LISTS = ("data", "train", "rows", "examples", "items")
"""Under which a JSON file may have its rows."""

Download = Callable[[str, tuple[str, ...]], Path]
"""From a data set's id and patterns of file names to the directory that has the files."""


def fetch_dataset(repo: str, patterns: tuple[str, ...]) -> Path:
    """Download a data set's files from the Hugging Face hub into the hub's own cache.

    `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured. Raises `SourceError`.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise SourceError(f"hf:{repo}: needs an extra: pip install 'sdsd[hub]'") from None
    try:
        return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:  # the hub's errors share no base class in all its versions
        why = hub_words(error) or type(error).__name__
        remedy = "check the name and the connection, or download its Parquet files yourself"
        raise SourceError(f"hf:{repo}: {why}; {remedy}") from error


class Place(NamedTuple):
    """Where a row is: its file, the file's name for people, and the line or `row 3`."""

    path: Path
    name: str
    row: int | str

    @property
    def origin(self) -> str:
        """The place without the directory of the file."""
        return f"{self.name}:{self.row}"

    def error(self, wrong: str, remedy: str) -> SourceError:
        return SourceError(f"{self.path}:{self.row}: {wrong}; {remedy}")


def find(where: str, view: str, split: str, download: Download) -> list[tuple[Path, str]]:
    """Return the files at `where`, each with its name for people; for a run, those of the `view`.

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
    try:
        root = Path(where).expanduser()
        if root.is_dir():
            return _directory(where, root, view, split)
        exists = root.exists()
    except (OSError, ValueError, RuntimeError) as error:  # the last: `~name` of an unknown user
        raise SourceError(f"{where}: cannot be read: {error}; check the path") from error
    if not exists:
        raise SourceError(f"{where}: no such file; check the path")
    if not root.name.lower().endswith(SUFFIXES):
        known = ", ".join(SUFFIXES)
        raise SourceError(f"{where}: cannot read files of type {root.suffix!r}; use one of {known}")
    if split:
        raise SourceError(f"{where}: a single file has no splits; leave out {split!r}")
    return [(root, valid_unicode(root.name))]


def _directory(where: str, root: Path, view: str, split: str) -> list[tuple[Path, str]]:
    """Return a directory's Parquet files by name; of a run's data set, those of one view."""
    is_run = (root / "data" / view).is_dir()
    folder = root / "data" / view if is_run else root
    found = [path.relative_to(root) for path in sorted(folder.rglob("*.parquet"))]
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    if not found:
        remedy = "name a file; `sdsd export` writes those of a run"
        raise SourceError(f"{where}: no .parquet files here; {remedy}")
    shards = Counter(_SHARD.sub("", path.stem) for path in found)  # by split
    if is_run and any(_of_how_many(path) != shards[_SHARD.sub("", path.stem)] for path in found):
        wrong = "a file is missing, or files of two exports are mixed"
        raise SourceError(f"{where}: {wrong}; `sdsd export` rewrites them")
    chosen = [path for path in found if not split or _is_of(path, split)]
    if not chosen:
        names = ", ".join(sorted({_SHARD.sub("", path.stem) for path in found})[:10])
        raise SourceError(f"{where}: no file is of the split {split!r}; the splits are: {names}")
    return [(root / path, valid_unicode(path.as_posix())) for path in chosen]


_SHARD = re.compile(r"-\d+(?:-of-(\d+))?(?:-[0-9a-f]+)?$")


def _of_how_many(path: Path) -> int:
    shard = _SHARD.search(path.stem)
    return int(shard[1]) if shard and shard[1] else 1


def _is_of(path: Path, split: str) -> bool:
    """Return whether a file is named after a split, or is in a directory that is."""
    return split in path.parts[:-1] or _SHARD.sub("", path.stem) == split


def rows(
    path: Path, name: str, columns: Collection[str], *, headed: bool = True
) -> Iterator[tuple[Place, Any]]:
    """Yield the rows of one file, unchecked; from Parquet, only `columns` (empty: all) are read.

    headed  whether the first line of a table has the names of its columns; if it need not have, all
            its lines are rows, as lists

    Raises `SourceError`.
    """
    import pyarrow as pa

    kind = path.name.lower()
    read = _READERS[f".{kind.removesuffix('.gz').rpartition('.')[2]}"]
    try:
        with path.open("rb") as raw:
            if raw.peek(len(_POINTER)).startswith(_POINTER):
                wrong = "holds only a pointer of Git LFS to the file"
                raise SourceError(f"{path}: {wrong}; fetch the file itself with `git lfs pull`")
            if read is None:
                yield from _parquet(path, name, columns)
                return
            # By the content: downloads are unpacked, and packed, without being renamed.
            plain = GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw
            with as_utf8(plain) as file:
                yield from (_cells if read is _table and not headed else read)(file, path, name)
    except NotText as error:
        raise SourceError(error.at(path)) from None
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:300]
        remedy = "check the file, or write or download it again"
        raise SourceError(f"{path}: cannot be read: {why}; {remedy}") from error


def _parquet(path: Path, name: str, columns: Collection[str]) -> Iterator[tuple[Place, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        known = [name for name in names if name in columns or plain_name(name) in columns]
        numbers = itertools.count(1)
        for batch in file.iter_batches(_BATCH, columns=known or None):
            for row in batch.to_pylist():
                yield Place(path, name, f"row {next(numbers)}"), row


def _texts(file: IO[bytes], path: Path, name: str, remedy: str) -> Iterator[tuple[Place, str]]:
    """Yield the lines, with their ends. Raises `SourceError` for one that is too long."""
    for number, line in enumerate(iter(partial(file.readline, _LINE + 1), b""), 1):
        place = Place(path, name, number)
        if len(line) > _LINE:
            raise place.error(f"more than {_LINE:,} bytes", remedy)
        yield place, decode(line, number)


def _lines(file: IO[bytes], path: Path, name: str) -> Iterator[tuple[Place, Any]]:
    """Yield the value on each line that is not blank."""
    for place, text in _texts(file, path, name, "write one object per line"):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise place.error(f"bad JSON: {error}", "write one object per line") from None
        yield place, value


def _json(file: IO[bytes], path: Path, name: str) -> Iterator[tuple[Place, Any]]:
    """Yield the items of a list, or the values on the lines."""
    data = file.read(_LIST + 1)
    if len(data) > _LIST:
        raise Place(path, name, 1).error(f"more than {_LIST:,} bytes", "write it as JSON lines")
    text = decode(data)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            line = getattr(error, "lineno", 1)
            remedy = "correct the file, or write or download it again"
            raise Place(path, name, line).error(f"bad JSON: {error}", remedy) from None
        yield from _lines(io.BytesIO(data), path, name)
        return
    for number, row in enumerate(_rows_in(value), 1):
        yield Place(path, name, f"row {number}"), row


def _rows_in(value: Any) -> list[Any]:
    """Return the rows of a JSON value: the items of a list, also where an object has it as a field.

    The hub's viewer writes `{"rows": [{"row": {...}}]}`.
    """
    if isinstance(value, list):
        return value
    for key in _LISTS:
        found = value.get(key) if isinstance(value, dict) else None
        if isinstance(found, list) and found and all(map(_is_row, found)):
            return [row["row"] if isinstance(row.get("row"), dict) else row for row in found]
    return [value]


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and not {"role", "from"} & value.keys()  # which is a turn


def plain_name(column: str) -> str:
    """Return the name of a column in lower case, without blanks around it."""
    return column.strip().casefold()


def _table(file: IO[bytes], path: Path, name: str) -> Iterator[tuple[Place, Any]]:
    """Yield the rows below a line of column names, as texts, by column."""
    table = _cells(file, path, name)
    _, names = next(table, (None, []))
    if repeated := [column for column, n in Counter(names).items() if n > 1]:
        wrong = f"the column {repeated[0][:60]!r} occurs twice"
        raise Place(path, name, 1).error(wrong, "rename one of them")
    for place, row in table:
        yield place, dict(zip(names, row, strict=True))


def _cells(file: IO[bytes], path: Path, name: str) -> Iterator[tuple[Place, list[str]]]:
    """Yield the rows of a table, as many cells in each as in the first.

    What separates the cells (a comma, semicolon, tab or bar) is seen in the first line.
    """
    texts = (text for _, text in _texts(file, path, name, "write one row per line"))
    first = next(texts, "")
    if stated := re.fullmatch(r"sep=(.)\s*", first):  # as spreadsheets write it
        first = next(texts, "")
    separator = stated[1] if stated else max(",;\t|", key=first.count)
    if not stated and "\t" in first and ".tsv" in path.name.lower():
        separator = "\t"
    csv.field_size_limit(_LINE)
    table = csv.reader(itertools.chain([first], texts), delimiter=separator, strict=True)
    many: int | None = None
    try:
        for row in table:
            place = Place(path, name, table.line_num)
            many = len(row) if many is None else many
            if row and len(row) != many:
                wrong = f"{len(row)} cells under {many} column names"
                raise place.error(wrong, "put quotes around a cell that has the separator")
            if row:
                yield place, row
    except csv.Error as error:
        wrong = f"bad CSV: {error}"
        raise Place(path, name, table.line_num).error(wrong, "correct the file") from None


def _paragraphs(file: IO[bytes], path: Path, name: str) -> Iterator[tuple[Place, str]]:
    """Yield the blocks between blank lines of a text."""
    texts = _texts(file, path, name, "break it into lines")
    for blank, block in itertools.groupby(texts, key=lambda line: line[1].isspace()):
        if not blank:
            (place, first), *others = block
            yield place, "".join([first, *(text for _, text in others)])


_READERS = {".parquet": None, ".jsonl": _lines, ".ndjson": _lines, ".json": _json,
            ".csv": _table, ".tsv": _table, ".txt": _paragraphs}  # fmt: skip
"""By type of file; Parquet is not read as a stream of bytes, and a text is no source."""
