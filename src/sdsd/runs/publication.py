"""`published.json`: what was published, file by file; it is written last.

While a data set is being replaced there is none. So a run knows after any crash whether data set,
card and report belong together and to its journal, and `verify` finds every change to a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sdsd import config as configuration
from sdsd.errors import JournalError, RunDirError
from sdsd.files import file_digest, sync_folder, write_atomic
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.journal_file import row_digest

_BASIS = ("manifest.json", "exam.json", "source.sqlite")
"""What a data set is made from, next to the configuration, the journal and `inputs/`."""


class Publication(Struct, frozen=True, forbid_unknown_fields=True):
    """What was published, and from what."""

    records: int
    """Dialogues in the data set."""
    answers: int
    """Answers in the journal at that time."""
    usage: str
    """Digest of the journal's sums at that time."""
    basis: dict[str, str]
    """By path, the SHA-256 of the files that the data set was made from; of `config.yaml`, that of
    the keys that decide what is in it."""
    files: dict[str, str]
    """By path, the SHA-256 of what people receive."""


def withdraw(rundir: RunDir) -> None:
    """Remove the marker: from now on, files of two publications may be mixed."""
    rundir.published.unlink(missing_ok=True)
    sync_folder(rundir.path)


def write(rundir: RunDir, journal: Journal, files: list[Path]) -> None:
    """Mark these files as published."""
    found = Publication(
        records=journal.finished(),
        answers=journal.answers(),
        usage=_sums(journal),
        basis=_basis(rundir),
        files=_digests(rundir, files),
    )
    write_atomic(rundir.published, _encoded(found))


def read(rundir: RunDir) -> Publication | None:
    """Return what was published; None if nothing was, or publishing did not end.

    Raises `RunDirError` for a damaged file.
    """
    try:
        data = rundir.published.read_bytes()
        found = msgspec.json.decode(data, type=Publication)
        if _encoded(found) != data:
            raise ValueError("it is not as it was written")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunDirError(
            f"{rundir.published}: cannot be read: {error}; `sdsd export` writes it again"
        ) from None
    return found


def differences(rundir: RunDir, journal: Journal) -> Iterator[str]:
    """Yield a line for everything that is not as it was published; none if all is well."""
    found = read(rundir)
    if found is None:
        yield (
            f"{rundir.path}: its data set is not published, or not to the end; `sdsd export` "
            "writes data set, card and report"
        )
        return
    if (done := journal.finished()) != found.records:
        yield (
            f"{rundir.data}: has {found.records} of {done} dialogues; `sdsd export` writes it again"
        )
    if journal.answers() == found.answers and _sums(journal) != found.usage:
        yield f"{rundir.journal}: its sums are not those that were published; restore a copy"
    if not rundir.data.exists():
        yield f"{rundir.data}: missing; `sdsd export` writes it"
        return
    for name, digest in found.files.items():
        if _digest(rundir.path / name) != digest:
            yield f"{rundir.path / name}: is not what was published; `sdsd export` rewrites it"
    now = _basis(rundir)
    for name in {**found.basis, **now}:
        if now.get(name) != found.basis.get(name):
            # What is exported may change between two starts; the rest may not.
            accept = ", or accept it with `sdsd export`" if name == rundir.config_file.name else ""
            yield (
                f"{rundir.path / name}: has changed since the data set was published; restore it"
                f"{accept}"
            )


def current(rundir: RunDir, journal: Journal) -> bool:
    """Return whether everything is as it was published, and nothing was recorded since."""
    try:
        return not any(differences(rundir, journal))
    except RunDirError:
        return False


def unknown_files(rundir: RunDir) -> Iterator[str]:
    """Yield a line for each file below `data/` that was not published."""
    if (found := read(rundir)) is None:
        return
    for path in sorted(rundir.data.rglob("*")):
        if not path.is_dir() and path.relative_to(rundir.path).as_posix() not in found.files:
            yield f"{path}: is not of this data set, but may be read with it; remove it"


def lacking(rundir: RunDir, done: int) -> int:
    """Return how many of `done` dialogues are not published; all if it is not known."""
    found = _readable(rundir)
    return done if found is None else max(done - found.records, 0)


def require_answers(rundir: RunDir) -> None:
    """Raise `RunDirError` if answers were recorded here and are gone: they cost something."""
    if not rundir.manifest_file.exists():
        return
    try:
        with Journal(rundir.journal, readonly=True) as journal:
            answers, found = journal.answers(), _readable(rundir)
        lost = found is not None and answers < found.answers
        why = "lacks answers of the published data set" if lost else ""
    except JournalError:
        if rundir.journal.exists() and rundir.journal.stat().st_size:
            raise
        why = "is empty" if rundir.journal.exists() else "is missing"
    if why:
        raise RunDirError(
            f"{rundir.journal}: {why}, and a start would ask and pay for answers again; restore it "
            "from a copy (with its `-wal` file, if it has one), or start another run directory "
            "(`--out`)"
        )


def _readable(rundir: RunDir) -> Publication | None:
    """Return what was published; None if it is not known."""
    try:
        return read(rundir)
    except RunDirError:
        return None


def _encoded(found: Publication) -> bytes:
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def _basis(rundir: RunDir) -> dict[str, str]:
    small = [rundir.path / name for name in _BASIS]
    files = [path for path in (*small, *sorted(rundir.inputs.glob("[!.]*"))) if path.exists()]
    config = _written(configuration.tree(rundir.config()), configuration.read(rundir.config_file))
    made_of = [configuration.digest(config).encode(), msgspec.json.encode(config.get("export"))]
    return {
        rundir.config_file.name: hashlib.sha256(b"\n".join(made_of)).hexdigest(),
        **_digests(rundir, files),
    }


def _written(config: Any, file: Any) -> Any:
    """Return a configuration without the keys that its file lacks: the program has learned them
    since the file was written, and they change nothing."""
    if not (isinstance(config, dict) and isinstance(file, dict)):
        return config
    return {key: _written(value, file[key]) for key, value in config.items() if key in file}


def _digests(rundir: RunDir, files: list[Path]) -> dict[str, str]:
    return {path.relative_to(rundir.path).as_posix(): file_digest(path) for path in files}


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return ""


def _sums(journal: Journal) -> str:
    rows = [msgspec.structs.astuple(usage) for usage in journal.usage()]
    return row_digest(rows).hex()
