"""Write a data set as Parquet files in one pass over the records, and read it.

    data/<view>/<split>-00000-of-00001.parquet

Rows are gathered into row groups, so memory does not grow with the run. Files are written under
temporary names and renamed only when all views are on disk. Row groups hold a fixed number of rows
and their page boundaries depend on the content. So a run that grew, or lost a few rows, shares most
of its bytes with its last export, and a hub that stores by content uploads those once.
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
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from sdsd.config import Config, ExportConfig
from sdsd.config.manifest import Manifest
from sdsd.dataset.canary import canary, marked
from sdsd.dataset.extensions import views_of
from sdsd.dataset.provenance import provenance
from sdsd.dataset.selection import Selection
from sdsd.dataset.splits import SPLITS, Split, split
from sdsd.dataset.tokens import COUNTED, Lengths, TokenLengths, counted, tokenizer
from sdsd.dataset.view import Row, View, select
from sdsd.dataset.views import TRAINING
from sdsd.errors import PluginError, SdsdError
from sdsd.files import make_folder, sync_folder
from sdsd.text.normalize import encodable
from sdsd.types import Record

_SHARD = re.compile(rf"({'|'.join(SPLITS)})-(\d{{5}})-of-(\d{{5}})\.parquet")
_LEFTOVER = re.compile(rf"\.(?:{'|'.join(SPLITS)})-.*\.tmp")
_GROUP_ROWS = 1000
_FILE_BYTES = 400_000_000
_GROUP_TEXT = 1 << 24
"""Characters at which a row group is full, however few rows it has."""


class SplitCount(Struct, frozen=True):
    """What an export wrote of one split of a view."""

    rows: int
    files: int


class Counts(Struct, frozen=True, kw_only=True):
    """What an export wrote, by view."""

    rows: dict[str, int]
    files: dict[str, int]
    bytes: dict[str, int]
    digests: dict[str, str]
    """Hex SHA-256 of the view's files, concatenated in the order of `SPLITS`."""
    splits: dict[str, dict[Split, SplitCount]] = {}
    """The splits that have a file."""
    removed: dict[str, int] = {}
    """Dialogues and pairs left out, by rule (`sdsd.dataset.selection`)."""
    warnings: dict[str, int] = {}
    """Dialogues that break each quality rule (`sdsd.checks.dialogue_rules`)."""
    tokens: dict[str, TokenLengths] = {}
    """With `export.tokenizer`, how long the rows are, by view; without rows, a view is missing."""


def export(
    records: Iterable[Record],
    manifest: Manifest,
    config: Config,
    data: Path,
    *,
    selection: Selection | None = None,
    rows_per_group: int = _GROUP_ROWS,
    bytes_per_file: int = _FILE_BYTES,
) -> Counts:
    """Write all views of `records` below `data`, replacing those of an earlier export.

    `selection` must be new and planned; it may be omitted if `export.balance.by` is not set. A file
    that has grown past `bytes_per_file` is followed by another. The same records give the same
    bytes. If anything fails, the earlier files are untouched; a full or broken disk becomes an
    `SdsdError` that names the place.
    """
    selection = selection or Selection(config.export, manifest.seed)
    limits = (rows_per_group, bytes_per_file)
    with staged(records, manifest, config, data, selection=selection, limits=limits) as writers:
        counts = writers.counts(selection)
        writers.publish()
    return counts


@contextlib.contextmanager
def staged(
    records: Iterable[Record],
    manifest: Manifest,
    config: Config,
    data: Path,
    *,
    selection: Selection,
    limits: tuple[int, int] = (_GROUP_ROWS, _FILE_BYTES),
) -> Iterator[Writers]:
    """Yield all views of `records`, complete and on disk under temporary names.

    Takes the arguments of `export`. `Writers.publish` gives the files their names; those that it
    did not get to are removed at the end.
    """
    views = exported_views(manifest, config.export)
    story = provenance(manifest, config)
    schemas = {name: view.schema(story) for name, view in views.items()}
    measured = COUNTED if config.export.tokenizer else ()
    with Writers(data, schemas, *limits, measured) as writers:
        for made in _made(records, manifest, config, selection, views):
            for row in made.rows:
                writers.add(made.view, made.split, row, made.size)
        writers.finish()
        yield writers


def differing(
    records: Iterable[Record], manifest: Manifest, config: Config, data: Path, selection: Selection
) -> Iterator[str]:
    """Yield a message for each view whose files do not hold the rows of `records`.

    Takes the arguments of `export`, and compares row by row.
    """
    views = exported_views(manifest, config.export)
    written = {(name, each): read(data, name, each) for name in views for each in SPLITS}
    problems: dict[str, str] = {}

    def compare(name: str, each: Split, row: Row | None) -> None:
        try:
            if next(written[name, each], None) != row:
                where = data / name
                problems[name] = f"{where}: differs from the journal; `sdsd export` rewrites it"
        except SdsdError as error:
            problems[name] = str(error)

    for made in _made(records, manifest, config, selection, views):
        for row in made.rows:
            if made.view not in problems:
                compare(made.view, made.split, encodable(row))
    for name, each in written:
        if name not in problems:
            compare(name, each, None)
    yield from problems.values()


def exported_views(manifest: Manifest, config: ExportConfig) -> dict[str, View]:
    """Return all views by name, with the columns that the configuration adds to them."""
    views = views_of(config)
    if config.tokenizer:
        found = tokenizer(config.tokenizer)
        views |= {name: counted(views[name], found) for name in COUNTED}
    if text := canary(config, manifest):
        views |= {name: marked(views[name], text) for name in TRAINING}
    return views


class _Made(NamedTuple):
    """The rows of one record in one view."""

    view: str
    split: Split
    rows: list[Row]
    size: int
    """Approximate characters of a row, to bound row groups."""


def _made(
    records: Iterable[Record],
    manifest: Manifest,
    config: Config,
    selection: Selection,
    views: dict[str, View],
) -> Iterator[_Made]:
    for record in records:
        selected = select(record, selection.decide(record), manifest.models, config.export)
        size, where = _size(record), split(record.scenario, config.export.splits, manifest.seed)
        for name, view in views.items():
            yield _Made(name, where, view.of(selected), size)


def read(data: Path, view: str, split: Split | None = None) -> Iterator[Row]:
    """Yield the rows of an exported view, or of one split of it, reading a row group at a time.

    They come in the order of `SPLITS`, then of the records. A split may have no rows. Raises
    `SdsdError` if there is no export, or its files are damaged or from two exports.
    """
    for path in _shards(data / view, split):
        with _readable(path), pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_pylist()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SdsdError(f"{path}: cannot be read: {error}; `sdsd export` rewrites it") from None


def _shards(folder: Path, split: Split | None = None) -> list[Path]:
    """Return the files of a view, or of one split of it, in order."""
    names = sorted(p.name for p in folder.glob("*.parquet") if _SHARD.fullmatch(p.name))
    if not names:
        raise SdsdError(f"{folder}: no data here; `sdsd export` writes it")
    found: list[Path] = []
    for each in SPLITS:
        own = [name for name in names if name.startswith(f"{each}-")]
        if own != [_name(each, i, len(own)) for i in range(len(own))]:
            raise SdsdError(
                f"{folder}: a file is missing, or files of two exports are mixed; `sdsd export` "
                "rewrites them"
            )
        found += [folder / name for name in own if split in (None, each)]
    return found


def _name(split: Split, number: int, total: int) -> str:
    return f"{split}-{number:05d}-of-{total:05d}.parquet"


def _size(record: Record) -> int:
    """Return the number of characters in the long texts of a record."""
    texts = [message.content for message in record.dialogue.messages] if record.dialogue else []
    texts += [revision.text for revision in record.revisions]
    texts += [record.failure.raw] if record.failure else []
    return sum(map(len, texts))


class Writers(contextlib.AbstractContextManager["Writers"]):
    """All views on their way to disk, split by split.

    Whatever `publish` has not renamed is removed on exit.
    """

    def __init__(
        self,
        data: Path,
        schemas: dict[str, Any],
        rows_per_group: int,
        bytes_per_file: int,
        measured: Iterable[str] = (),
    ) -> None:
        self._data = data
        self._lengths: dict[str, Lengths] = {view: Lengths() for view in measured}
        self._schemas = schemas
        self._limits = (rows_per_group, bytes_per_file)
        self._writers: dict[str, dict[Split, _SplitWriter]] = {view: {} for view in schemas}

    def __exit__(self, *_: object) -> None:
        for splits in self._writers.values():
            for writer in splits.values():
                writer.discard()

    def add(self, view: str, split: Split, row: Row, size: int) -> None:
        """Add a row of about `size` characters."""
        splits = self._writers[view]
        if split not in splits:
            splits[split] = self._new(view, split)
        splits[split].add(row, size)
        if view in self._lengths:
            self._lengths[view].add(row)

    def _new(self, view: str, split: Split) -> _SplitWriter:
        return _SplitWriter(split, self._data / view, self._schemas[view], *self._limits)

    def finish(self) -> None:
        """Complete all files under temporary names. A view without rows has a file, too."""
        for view, splits in self._writers.items():
            made = splits or {"train": self._new(view, "train")}
            self._writers[view] = {split: made[split] for split in SPLITS if split in made}
            for writer in self._writers[view].values():
                writer.finish()

    def counts(self, selection: Selection) -> Counts:
        views = {view: list(splits.values()) for view, splits in self._writers.items()}
        return Counts(
            rows={view: sum(w.rows for w in each) for view, each in views.items()},
            files={view: sum(len(w.paths) for w in each) for view, each in views.items()},
            bytes={view: sum(w.bytes() for w in each) for view, each in views.items()},
            digests={view: _digest(self._data / view, each) for view, each in views.items()},
            splits={
                view: {split: SplitCount(w.rows, len(w.paths)) for split, w in splits.items()}
                for view, splits in self._writers.items()
            },
            removed=dict(selection.removed.most_common()),
            warnings=dict(selection.warnings.most_common()),
            tokens={
                view: lengths.result() for view, lengths in self._lengths.items() if lengths.rows
            },
        )

    def publish(self) -> list[Path]:
        """Rename the finished files, then remove those of earlier exports; return the files.

        In this order, so that a crash in between loses no row; `read` notices it.
        """
        found: list[Path] = []
        for view, splits in self._writers.items():
            folder = self._data / view
            with _blamed(folder):
                names = {
                    _name(split, i, len(writer.paths)): path
                    for split, writer in splits.items()
                    for i, path in enumerate(writer.paths)
                }
                for name, path in names.items():
                    path.replace(folder / name)
                    found.append(folder / name)
                for path in folder.iterdir():
                    old = _SHARD.fullmatch(path.name) and path.name not in names
                    if old or _LEFTOVER.fullmatch(path.name):
                        path.unlink()
                sync_folder(folder)
        _remove_stale(self._data, self._writers)
        return found


def _remove_stale(data: Path, views: Iterable[str]) -> None:
    """Remove the files of views that an earlier export had and this one has not."""
    with _blamed(data):
        for folder in data.iterdir():
            if folder.is_dir() and folder.name not in views:
                for path in folder.iterdir():
                    if _SHARD.fullmatch(path.name):
                        path.unlink()
                with contextlib.suppress(OSError):  # it holds other files
                    folder.rmdir()


def _digest(folder: Path, writers: Iterable[_SplitWriter]) -> str:
    digest = hashlib.sha256()
    with _blamed(folder):
        for path in (path for writer in writers for path in writer.paths):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


class _SplitWriter:
    """One split of a view: buffered rows, an open file, and finished files not yet renamed."""

    def __init__(
        self, split: Split, folder: Path, schema: Any, rows_per_group: int, bytes_per_file: int
    ) -> None:
        self.rows = 0
        self.paths: list[Path] = []
        self._split = split
        self._folder = folder
        self._schema = schema
        self._rows_per_group = rows_per_group
        self._bytes_per_file = bytes_per_file
        self._buffer: list[Row] = []
        self._buffered = 0
        self._file: pq.ParquetWriter | None = None

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
                self._file = self._open()
            if self._file:
                self._close(self._file)

    def discard(self) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):  # it failed before, on that disk
            if self._file:
                self._file.close()
        for path in self.paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    def _write_group(self) -> None:
        group = _arrow_table(self._buffer, self._schema, self._folder.name)
        self._buffer, self._buffered = [], 0
        with _blamed(self._folder):
            self._file = self._file or self._open()
            self._file.write_table(group, row_group_size=group.num_rows)
            if self.paths[-1].stat().st_size >= self._bytes_per_file:
                self._close(self._file)

    def _open(self) -> pq.ParquetWriter:
        make_folder(self._folder)
        path = self._folder / f".{self._split}-{len(self.paths):05d}.{os.getpid()}.tmp"
        self.paths.append(path)
        return pq.ParquetWriter(path, self._schema, **_format())

    def _close(self, file: pq.ParquetWriter) -> None:
        file.close()
        self._file = None
        with self.paths[-1].open("rb+") as written:
            os.fsync(written.fileno())


@contextlib.contextmanager
def _blamed(folder: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that names the place and the remedy."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SdsdError(
            f"{folder}: the data set cannot be written: {error}; free some space or fix the "
            "disk, then `sdsd export` (the run itself is safe in its journal)"
        ) from None


@cache
def _format() -> dict[str, Any]:
    """Return the options of the Parquet writer; pages by content need pyarrow 21."""
    options: dict[str, Any] = {"compression": "zstd", "write_page_index": True}
    if "use_content_defined_chunking" in inspect.signature(pq.ParquetWriter).parameters:
        options["use_content_defined_chunking"] = True
    return options


def _arrow_table(rows: list[Row], schema: Any, view: str) -> Any:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except UnicodeEncodeError:  # rare, so only then is every text inspected
        return pa.Table.from_pylist(encodable(rows), schema=schema)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise PluginError(
            f"view `{view}`: a row does not have the columns' types: {error}"
        ) from None
