"""Parquet files of a data set: written in one pass over the records, whole or not at all.

    data/<view>/<split>-00000-of-00001.parquet

Rows are gathered into row groups, so memory does not grow with the run. Files are written under
temporary names and take their places only when all views are on disk. Row groups hold a fixed
number of rows, and their pages end where the content says so, so a run that grew, or of which a few
rows went, shares most of its bytes with its last export: a hub that stores by content uploads those
once.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from sdsd.config import Config
from sdsd.config.manifest import Manifest
from sdsd.dataset.schema import SPLITS, VIEWS, Split, View, arrow, clean, provenance
from sdsd.dataset.selection import Selection
from sdsd.dataset.splits import split
from sdsd.dataset.views import Row, rows
from sdsd.errors import SdsdError
from sdsd.types import Record

_SHARD = re.compile(rf"({'|'.join(SPLITS)})-(\d{{5}})-of-(\d{{5}})\.parquet")
_LEFT = re.compile(rf"\.(?:{'|'.join(SPLITS)})-.*\.tmp")
_GROUP_TEXT = 1 << 24
"""Characters that make a row group full, however few rows it has."""


class SplitCount(Struct, frozen=True):
    """What an export wrote of one split of a view."""

    rows: int
    files: int


class Counts(Struct, frozen=True, kw_only=True):
    """What an export wrote, by view."""

    rows: dict[View, int]
    files: dict[View, int]
    bytes: dict[View, int]
    digests: dict[View, str]
    """Hex SHA-256 of the view's files, one after another, in the order of `SPLITS`."""
    splits: dict[View, dict[Split, SplitCount]] = {}
    """Of those splits that have a file."""
    removed: dict[str, int] = {}
    """How many dialogues and pairs each rule of `sdsd.dataset.selection` left out."""
    flagged: dict[str, int] = {}
    """How many dialogues break each rule of `sdsd.checks.dialogue_rules`."""


def export(
    records: Iterable[Record],
    manifest: Manifest,
    config: Config,
    data: Path,
    *,
    selection: Selection | None = None,
    rows_per_group: int = 1000,
    bytes_per_file: int = 400_000_000,
) -> Counts:
    """Write all views of `records` below `data`, in place of those of an earlier export.

    `selection` is a new one, planned; it may be left out where `export.balance.by` is not set. A
    file that has grown past `bytes_per_file` is followed by another. The same records give the same
    bytes. If anything fails, the earlier files are untouched; what the machine refuses (a full
    disk, say) becomes an `SdsdError` that names the place.
    """
    metadata = provenance(manifest, config)
    selection = selection or Selection(config.export, manifest.seed)
    with contextlib.ExitStack() as stack:
        views = {
            view: stack.enter_context(
                _View(data / view, arrow(view, metadata), rows_per_group, bytes_per_file)
            )
            for view in VIEWS
        }
        for made in _made(records, manifest, config, selection):
            for row in made.rows:
                views[made.view].add(made.split, row, made.size)
        for writer in views.values():
            writer.finish()
        for writer in views.values():
            writer.publish()
    return Counts(
        rows={view: writer.rows for view, writer in views.items()},
        files={view: writer.files for view, writer in views.items()},
        bytes={view: writer.bytes for view, writer in views.items()},
        digests={view: writer.digest for view, writer in views.items()},
        splits={view: writer.splits for view, writer in views.items()},
        removed=dict(selection.removed.most_common()),
        flagged=dict(selection.flagged.most_common()),
    )


def differing(
    records: Iterable[Record], manifest: Manifest, config: Config, data: Path, selection: Selection
) -> Iterator[str]:
    """What is wrong with an export, a line for each view of which it does not hold the rows.

    Takes what `export` takes, and compares row by row.
    """
    written = {(view, each): read(data, view, each) for view in VIEWS for each in SPLITS}
    faults: dict[View, str] = {}

    def compare(view: View, each: Split, row: Row | None) -> None:
        try:
            if next(written[view, each], None) != row:
                where = data / view
                faults[view] = f"{where}: not the journal's records; `sdsd export` writes it anew"
        except SdsdError as error:
            faults[view] = str(error)

    for made in _made(records, manifest, config, selection):
        for row in made.rows:
            if made.view not in faults:
                compare(made.view, made.split, clean(row))
    for view, each in written:
        if view not in faults:
            compare(view, each, None)
    yield from faults.values()


class _Made(NamedTuple):
    """The rows of one record in one view."""

    view: View
    split: Split
    rows: list[Row]
    size: int
    """Characters of a row, about: enough to keep a row group in bounds."""


def _made(
    records: Iterable[Record], manifest: Manifest, config: Config, selection: Selection
) -> Iterator[_Made]:
    for record in records:
        choice, size = selection.choose(record), _size(record)
        where = split(record.scenario, config.export.splits, manifest.seed)
        for view in VIEWS:
            found = rows(view, record, manifest.models, config.export, choice)
            yield _Made(view, where, found, size)


def read(data: Path, view: View, split: Split | None = None) -> Iterator[Row]:
    """The rows of an exported view, or of one split of it, a row group at a time.

    In the order of `SPLITS`, and of the records in each. A split without rows is no fault. Raises
    `SdsdError` if there is no export, or its files are damaged or of two exports.
    """
    for path in _shards(data / view, split):
        with _readable(path), pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_pylist()


def count(data: Path, view: View, split: Split | None = None) -> int:
    """How many rows an exported view has, from the files' footers alone. Raises as `read` does."""
    found = 0
    for path in _shards(data / view, split):
        with _readable(path):
            found += pq.read_metadata(path).num_rows
    return found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SdsdError(f"{path}: cannot be read: {error}; `sdsd export` writes it anew") from None


def _shards(folder: Path, split: Split | None = None) -> list[Path]:
    """The files of a view, or of one split of it, in order."""
    names = sorted(p.name for p in folder.glob("*.parquet") if _SHARD.fullmatch(p.name))
    if not names:
        raise SdsdError(f"{folder}: no data here; `sdsd export` writes it")
    found: list[Path] = []
    for each in SPLITS:
        own = [name for name in names if name.startswith(f"{each}-")]
        if own != [_name(each, i, len(own)) for i in range(len(own))]:
            raise SdsdError(
                f"{folder}: a file is missing, or files of two exports are mixed; `sdsd export` "
                "writes them anew"
            )
        found += [folder / name for name in own if split in (None, each)]
    return found


def _name(split: Split, number: int, total: int) -> str:
    return f"{split}-{number:05d}-of-{total:05d}.parquet"


def _size(record: Record) -> int:
    """Characters of a record's texts that can be long."""
    texts = [message.content for message in record.dialogue.messages] if record.dialogue else []
    texts += [revision.text for revision in record.revisions]
    texts += [record.failure.raw] if record.failure else []
    return sum(map(len, texts))


class _View:
    """One view on its way to disk, split by split.

    Used as a context manager: whatever `publish` has not put in its place is removed at the end.
    """

    def __init__(self, folder: Path, schema: Any, rows_per_group: int, bytes_per_file: int) -> None:
        self.digest = ""
        self._folder = folder
        self._form = (folder, schema, rows_per_group, bytes_per_file)
        self._writers: dict[Split, _Writer] = {}

    @property
    def rows(self) -> int:
        return sum(writer.rows for writer in self._writers.values())

    @property
    def files(self) -> int:
        return sum(len(writer.paths) for writer in self._writers.values())

    @property
    def bytes(self) -> int:
        return sum(writer.bytes for writer in self._writers.values())

    @property
    def splits(self) -> dict[Split, SplitCount]:
        writers = {split: self._writers[split] for split in SPLITS if split in self._writers}
        return {split: SplitCount(w.rows, len(w.paths)) for split, w in writers.items()}

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.discard()

    def add(self, split: Split, row: Row, size: int) -> None:
        """Take one row that holds about `size` characters."""
        if split not in self._writers:
            self._writers[split] = _Writer(split, *self._form)
        self._writers[split].add(row, size)

    def finish(self) -> None:
        """Everything on disk, under temporary names. A view without rows is a file all the same."""
        if not self._writers:
            self._writers["train"] = _Writer("train", *self._form)
        for writer in self._writers.values():
            writer.finish()
        digest = hashlib.sha256()
        with _blamed(self._folder):
            for split in self.splits:
                for path in self._writers[split].paths:
                    with path.open("rb") as file:
                        while block := file.read(1 << 20):
                            digest.update(block)
        self.digest = digest.hexdigest()

    def publish(self) -> None:
        """Give the finished files their names, then remove those of earlier exports.

        In this order, so that a crash in between leaves every row in place; `read` notices.
        """
        with _blamed(self._folder):
            names = {
                _name(split, i, len(writer.paths)): path
                for split, writer in self._writers.items()
                for i, path in enumerate(writer.paths)
            }
            for name, path in names.items():
                path.replace(self._folder / name)
            for path in self._folder.iterdir():
                old = _SHARD.fullmatch(path.name) and path.name not in names
                if old or _LEFT.fullmatch(path.name):
                    path.unlink()


class _Writer:
    """One split of a view: buffered rows, an open file, finished files under temporary names."""

    def __init__(
        self, split: Split, folder: Path, schema: Any, rows_per_group: int, bytes_per_file: int
    ) -> None:
        self.rows = 0
        self.bytes = 0
        self.paths: list[Path] = []
        self._split = split
        self._folder = folder
        self._schema = schema
        self._rows_per_group = rows_per_group
        self._bytes_per_file = bytes_per_file
        self._buffer: list[Row] = []
        self._buffered = 0
        self._file: BinaryIO | None = None
        self._parquet: Any = None

    def add(self, row: Row, size: int) -> None:
        self.rows += 1
        self._buffer.append(row)
        self._buffered += size
        if len(self._buffer) >= self._rows_per_group or self._buffered >= _GROUP_TEXT:
            self._write_group()

    def finish(self) -> None:
        if self._buffer:
            self._write_group()
        with _blamed(self._folder):
            if not self.paths:
                self._open()
            self._close()

    def discard(self) -> None:
        """Remove what has not been published."""
        with contextlib.suppress(OSError, pa.ArrowException):  # it failed already, on that disk
            if self._parquet:
                self._parquet.close()
        with contextlib.suppress(OSError):
            if self._file:
                self._file.close()
        for path in self.paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _write_group(self) -> None:
        group = _arrow_table(self._buffer, self._schema)
        self._buffer, self._buffered = [], 0
        with _blamed(self._folder):
            file = self._file or self._open()
            self._parquet.write_table(group, row_group_size=group.num_rows)
            if file.tell() >= self._bytes_per_file:
                self._close()

    def _open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".{self._split}-{len(self.paths):05d}.{os.getpid()}.tmp"
        self.paths.append(path)
        self._file = file = path.open("wb")
        self._parquet = pq.ParquetWriter(file, self._schema, **_layout())
        return file

    def _close(self) -> None:
        if not self._file:
            return
        self._parquet.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.bytes += self._file.tell()
        self._file.close()
        self._file = self._parquet = None


@contextlib.contextmanager
def _blamed(folder: Path) -> Iterator[None]:
    """Say where the machine refused, and what to do."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SdsdError(
            f"{folder}: the data set cannot be written: {error}; make room or mend the "
            "disk, then `sdsd export` (the run itself is safe in its journal)"
        ) from None


@cache
def _layout() -> dict[str, Any]:
    """How files are laid out: in pages by content, where pyarrow can (from 21 on)."""
    layout: dict[str, Any] = {"compression": "zstd", "write_page_index": True}
    if "use_content_defined_chunking" in inspect.signature(pq.ParquetWriter).parameters:
        layout["use_content_defined_chunking"] = True
    return layout


def _arrow_table(buffer: list[Row], schema: Any) -> Any:
    try:
        return pa.Table.from_pylist(buffer, schema=schema)
    except UnicodeEncodeError:  # rare, so only then is every text looked at
        return pa.Table.from_pylist(clean(buffer), schema=schema)
