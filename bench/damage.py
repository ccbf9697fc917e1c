"""Damage a finished run in every way that we know of, and count what `sdsd verify` finds.

    python bench/damage.py [--parquet 3600] [--journal 260]

`sdsd demo` makes the run. Each damage is done to it, verified in this process, and undone. After a
flipped bit of a Parquet file only the published files are compared, as `verify` does before it
reads them; every hundredth time all is verified. Bits of the journal count if they are in use: if
SQLite then reads something else, or fails.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from sdsd.config import is_execution
from sdsd.errors import SdsdError
from sdsd.runs import publication
from sdsd.runs.demo import demo
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.verify import verify

BITS = 5
"""Bits that are flipped in each of the other files."""
_BIT = "a bit of a Parquet file"
_LEFT_ALONE = ("lock", "metrics.prom")
_TABLES: dict[str, tuple[Any, ...]] = {
    "answer": (5, "scenario", "step", "request", "body", "at"),
    "record": (5, "number", "scenario", "outcome", "rule", "pairs", "body"),
    "kept": (2, "name", "body"),
}
"""By table, of how many rows which columns are changed."""
_SUMS = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds")
_SCHEMA = (
    "CREATE TRIGGER t AFTER INSERT ON answer BEGIN DELETE FROM record; END",
    "CREATE VIEW v AS SELECT * FROM answer",
    "CREATE TABLE more (x)",
    "CREATE INDEX more ON answer (at)",
    "DROP INDEX record_outcome",
    "ALTER TABLE answer ADD COLUMN more TEXT",
)

Damage = Callable[[random.Random], None]


class Count(Struct):
    """What became of one kind of damage."""

    done: int = 0
    found: int = 0
    missed: list[str] = []


# -- damages -------------------------------------------------------------------------------


def flip(path: Path, chance: random.Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_any(paths: Sequence[Path], chance: random.Random) -> None:
    """Flip one bit of one of these files, each byte being as likely."""
    flip(chance.choices(paths, [path.stat().st_size for path in paths])[0], chance)


def flip_used(journal: Path, chance: random.Random) -> None:
    """Flip one bit of the journal that makes a difference to SQLite."""
    data, before = journal.read_bytes(), content(journal)
    while content(journal) == before:
        journal.write_bytes(data)
        flip(journal, chance)


def content(path: Path) -> object:
    """Return everything that a journal holds, or the error that reading it ends with."""
    tables = ("answer", "record", "usage", "round", "kept", "sqlite_schema")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
            return [connection.execute(f"SELECT * FROM {t}").fetchall() for t in tables]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return str(error)


def execute(path: Path, sql: str, _: random.Random) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()


def write(path: Path, data: bytes, _: random.Random) -> None:
    path.write_bytes(data)


def remove(path: Path, _: random.Random) -> None:
    path.unlink()


def edited(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tree once for each of its values, with another one in its place, and its path."""
    items: Any = enumerate(tree) if isinstance(tree, list) else tree.items()
    for key, value in list(items):
        if isinstance(value, dict | list):
            for path, _ in edited(value):
                yield f"{key}.{path}", tree
            continue
        tree[key] = f"{value}x" if isinstance(value, str | None) else value + 1
        if isinstance(value, bool):
            tree[key] = not value
        yield str(key), tree
        tree[key] = value


def damages(run: RunDir, parquet: int, journal: int) -> Iterator[tuple[str, str, Damage]]:
    """Yield the kinds of damage, what exactly is damaged, and how."""
    data = sorted(run.data.rglob("*.parquet"))
    yield from ((_BIT, str(k), partial(flip_any, data)) for k in range(parquet))
    used = partial(flip_used, run.journal)
    yield from (("a bit in the used bytes of the journal", str(k), used) for k in range(journal))
    yield from of_files(run, data)
    for name, tree in edited(json.loads(run.manifest_file.read_bytes())):
        text = msgspec.json.format(msgspec.json.encode(tree))
        yield "a value of the manifest", name, partial(write, run.manifest_file, text)
    for name, tree in edited(yaml.safe_load(run.config_file.read_text("utf-8"))):
        if not is_execution(name) or name.startswith("export."):
            text = yaml.safe_dump(tree).encode()
            yield "a key of the configuration", name, partial(write, run.config_file, text)
    for kind, sql in statements():
        yield kind, sql, partial(execute, run.journal, sql)


def of_files(run: RunDir, data: Sequence[Path]) -> Iterator[tuple[str, str, Damage]]:
    """Yield what happens to whole files, and to bits of those that are not the data set."""
    made = [run.card, run.report, *sorted((run.path / "plots").iterdir())]
    basis = [run.manifest_file, run.published, *sorted(run.inputs.iterdir())]
    for path in (*made, *basis):
        bits = (f"{path.name} {k}" for k in range(BITS))
        yield from (("a bit of any other file", what, partial(flip, path)) for what in bits)
    for path in (*made, *data):
        whole = path.read_bytes()
        yield "a file replaced", path.name, partial(write, path, run.config_file.read_bytes())
        yield "a file cut in half", path.name, partial(write, path, whole[: len(whole) // 2])
    for path in (*made, *data, *basis):
        yield "a file removed", path.name, partial(remove, path)
    more = data[0].read_bytes()
    for name in ("train-00001-of-00002.parquet", "test-00000-of-00001.parquet", "notes.txt"):
        for folder in (run.data, *sorted(run.data.iterdir())):
            yield "an extra file below `data/`", name, partial(write, folder / name, more)


def statements() -> Iterator[tuple[str, str]]:
    """Yield the kinds of damage to the journal, and the SQL that does it."""
    for column in _SUMS:
        yield "sums x 1000", f"UPDATE usage SET {column} = {column} * 1000 + 1"
    for table, (rows, *columns) in _TABLES.items():
        for k in range(rows):
            where = f"WHERE rowid IN (SELECT rowid FROM {table} LIMIT 1 OFFSET {k})"
            for column in columns:
                number = column in ("at", "number", "pairs")
                value = f"{column} + 1000" if number else f"CAST({column} || ' ' AS BLOB)"
                yield (
                    f"a row of `{table}` changed",
                    f"UPDATE {table} SET {column} = {value} {where}",
                )
            yield f"a row of `{table}` removed", f"DELETE FROM {table} {where}"
    for sql in _SCHEMA:
        yield "a trigger, view, table or index", sql


# -- counting ------------------------------------------------------------------------------


def is_found(run: RunDir) -> bool:
    """Return whether `verify` finds a defect, or ends with a message. Raises for a traceback."""
    try:
        return bool(verify(run).defects)
    except SdsdError:
        return True


def differs(run: RunDir) -> bool:
    """Return whether a published file is not as it was published."""
    with Journal(run.journal, readonly=True) as journal:
        return any(publication.differences(run, journal))


def measured(folder: Path, parquet: int, journal: int, seed: int = 0) -> dict[str, Count]:
    """Return by kind of damage what was found."""
    run, chance, counts = RunDir(demo(folder).path), random.Random(seed), dict[str, Count]()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert not is_found(run)
    for number, (kind, what, damage) in enumerate(list(damages(run, parquet, journal))):
        damage(chance)
        count = counts.setdefault(kind, Count())
        count.done += 1
        try:
            found = is_found(run) if kind != _BIT or number % 100 == 0 else differs(run)
        except Exception as error:
            count.missed.append(f"{what}: {type(error).__name__}: {error}")
        else:
            count.found += found
            count.missed += [] if found else [what]
        restore(run, before)
    assert not is_found(run)
    return counts


def restore(run: RunDir, before: dict[Path, bytes]) -> None:
    """Write what was damaged again, and remove what was added."""
    for path in run.path.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()
    for path, data in before.items():
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parquet", type=int, default=3600, help="bits of the Parquet files")
    parser.add_argument("--journal", type=int, default=260, help="bits of the journal")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = measured(Path(folder) / "run", given.parquet, given.journal)
    print("| damage | done | found | missed |\n| --- | --- | --- | --- |")
    for kind, count in counts.items():
        print(f"| {kind} | {count.done:,} | {count.found:,} | {len(count.missed)} |")
    missed = [f"{kind}: {what}" for kind, count in counts.items() for what in count.missed]
    print(*missed, sep="\n")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
