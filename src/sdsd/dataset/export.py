"""Parquet files of a data set: written in one pass over the records, whole or not at all.

    data/<view>/train-00000-of-00001.parquet

Rows are gathered into row groups, so memory does not grow with the run. Files are written under
temporary names and take their places only when all views are on disk. Row groups hold a fixed
number of rows, so a run that grew shares its leading bytes with its last export, which a hub that
stores by content uploads once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from sdsd.config import Config
from sdsd.dataset.schema import VIEWS, View, arrow, clean, provenance
from sdsd.dataset.views import Row, rows
from sdsd.errors import SdsdError
from sdsd.rundir import Manifest
from sdsd.types import Record

_SHARD = re.compile(r"train-(\d{5})-of-(\d{5})\.parquet")
_GROUP_TEXT = 1 << 26
"""Characters that make a row group full, however few rows it has."""


class Counts(Struct, frozen=True, kw_only=True):
    """What an export wrote, by view."""

    rows: dict[View, int]
    files: dict[View, int]
    bytes: dict[View, int]
    digests: dict[View, str]
    """Hex SHA-256 of the view's files, one after another."""


def export(
    records: Iterable[Record],
    manifest: Manifest,
    config: Config,
    data: Path,
    *,
    rows_per_group: int = 1000,
    bytes_per_file: int = 500_000_000,
) -> Counts:
    """Write all views of `records` below `data`, in place of those of an earlier export.

    A file that has grown past `bytes_per_file` is followed by another. The same records give
    the same bytes. If anything fails, the earlier files are untouched; what the machine refuses
    (a full disk, say) becomes an `SdsdError` that names the place.
    """
    metadata = provenance(manifest, config)
    with contextlib.ExitStack() as stack:
        writers = {
            view: stack.enter_context(
                _Writer(data / view, arrow(view, metadata), rows_per_group, bytes_per_file)
            )
            for view in VIEWS
        }
        for record in records:
            size = _size(record)
            for view, writer in writers.items():
                for row in rows(view, record, manifest.models, config.export):
                    writer.add(row, size)
        for writer in writers.values():
            writer.finish()
        for writer in writers.values():
            writer.publish()
    return Counts(
        rows={view: writer.rows for view, writer in writers.items()},
        files={view: writer.files for view, writer in writers.items()},
        bytes={view: writer.bytes for view, writer in writers.items()},
        digests={view: writer.digest.hexdigest() for view, writer in writers.items()},
    )


def read(data: Path, view: View) -> Iterator[Row]:
    """The rows of an exported view, in order, a row group at a time.

    Raises `SdsdError` if there is no export, or its files are damaged or of two exports.
    """
    for path in _shards(data / view):
        try:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield from file.read_row_group(group).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise SdsdError(
                f"{path}: cannot be read: {error}; `sdsd export` writes it anew"
            ) from None


def count(data: Path, view: View) -> int:
    """How many rows an exported view has, from the files' footers alone. Raises as `read` does."""
    rows = 0
    for path in _shards(data / view):
        try:
            rows += pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise SdsdError(
                f"{path}: cannot be read: {error}; `sdsd export` writes it anew"
            ) from None
    return rows


def _shards(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*.parquet") if _SHARD.fullmatch(path.name))
    if not found:
        raise SdsdError(f"{folder}: no data here; `sdsd export` writes it")
    if [path.name for path in found] != [_name(i, len(found)) for i in range(len(found))]:
        raise SdsdError(
            f"{folder}: a file is missing, or files of two exports are mixed; `sdsd export` "
            "writes them anew"
        )
    return found


def _name(number: int, total: int) -> str:
    return f"train-{number:05d}-of-{total:05d}.parquet"


def _size(record: Record) -> int:
    """Characters of the texts that can be long; enough to keep a row group in bounds."""
    texts = [message.content for message in record.dialogue.messages] if record.dialogue else []
    texts += [revision.text for revision in record.revisions]
    texts += [record.failure.raw] if record.failure else []
    return sum(map(len, texts))


class _Writer:
    """One view on its way to disk: buffered rows, an open file, finished files.

    Used as a context manager: whatever `publish` has not put in its place is removed at the end.
    """

    def __init__(self, folder: Path, schema: Any, rows_per_group: int, bytes_per_file: int) -> None:
        self.rows = 0
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._folder = folder
        self._schema = schema
        self._rows_per_group = rows_per_group
        self._bytes_per_file = bytes_per_file
        self._buffer: list[Row] = []
        self._buffered = 0
        self._temporary: list[Path] = []
        self._file: BinaryIO | None = None
        self._parquet: Any = None

    @property
    def files(self) -> int:
        return len(self._temporary)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):  # it failed already, on that disk
            if self._parquet:
                self._parquet.close()
        with contextlib.suppress(OSError):
            if self._file:
                self._file.close()
        for path in self._temporary:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def add(self, row: Row, size: int) -> None:
        """Take one row that holds about `size` characters."""
        self.rows += 1
        self._buffer.append(row)
        self._buffered += size
        if len(self._buffer) >= self._rows_per_group or self._buffered >= _GROUP_TEXT:
            self._write_group()

    def finish(self) -> None:
        """Everything on disk, under temporary names. A view without rows is a file all the same."""
        if self._buffer:
            self._write_group()
        with self._blamed():
            if not self._temporary:
                self._open()
            self._close()

    def publish(self) -> None:
        """Give the finished files their names, then remove those of earlier exports.

        In this order, so that a crash in between leaves every row in place; `read` notices.
        """
        with self._blamed():
            names = {_name(i, self.files) for i in range(self.files)}
            for path, name in zip(self._temporary, sorted(names), strict=True):
                path.replace(self._folder / name)
            for path in self._folder.iterdir():
                old = _SHARD.fullmatch(path.name) and path.name not in names
                if old or re.fullmatch(r"\.train-.*\.tmp", path.name):
                    path.unlink()

    def _write_group(self) -> None:
        group = _arrow_table(self._buffer, self._schema)
        self._buffer, self._buffered = [], 0
        with self._blamed():
            file = self._file or self._open()
            self._parquet.write_table(group, row_group_size=group.num_rows)
            if file.tell() >= self._bytes_per_file:
                self._close()

    def _open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".train-{self.files:05d}.{os.getpid()}.tmp"
        self._temporary.append(path)
        self._file = file = path.open("wb")
        self._parquet = pq.ParquetWriter(
            file, self._schema, compression="zstd", write_page_index=True
        )
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
        with self._temporary[-1].open("rb") as file:
            while block := file.read(1 << 16):
                self.digest.update(block)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Say where the machine refused, and what to do."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise SdsdError(
                f"{self._folder}: the data set cannot be written: {error}; make room or mend the "
                "disk, then `sdsd export` (the run itself is safe in its journal)"
            ) from None


def _arrow_table(buffer: list[Row], schema: Any) -> Any:
    try:
        return pa.Table.from_pylist(buffer, schema=schema)
    except UnicodeEncodeError:  # rare, so only then is every text looked at
        return pa.Table.from_pylist(clean(buffer), schema=schema)
