"""The layout of a run directory.

config.yaml      the configuration, every key written out; it and the next three are private
manifest.json    what the run was made with: models, protocol, digests, versions
inputs/          the prompts, strategies and catalogue of this run, named by their SHA-256
journal.sqlite   every answer of every model (see `sdsd.runs.journal`)
source.sqlite    the dialogues or plans that the run starts from, if it does
models/          state of model backends: batches in progress, server logs
data/            the data set, one folder of Parquet files per view
README.md        the data set's card
plots/           the card's figures
report.html      what happened, with charts
published.json   what was published, with digests (see `sdsd.runs.publication`)
formats/         trainer formats, where they were asked for
logs/            what happened, line by line
metrics.prom     counters for Prometheus
lock             locked by the process that is writing here
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.config.manifest import FORMAT, Manifest, Written
from sdsd.errors import JournalError, RunDirError
from sdsd.files import make_folder, missing_folders, try_lock, write_atomic
from sdsd.runs import origin
from sdsd.runs.journal import Journal
from sdsd.text.normalize import valid_unicode

T = TypeVar("T")

CONFIG_NAME = "config.yaml"


class RunDir:
    """Paths and small files of one run directory. Creating the object touches nothing on disk."""

    def __init__(self, path: Path) -> None:
        if (name := str(path)) != valid_unicode(name):
            raise RunDirError(f"{path}: the name is not UTF-8; rename it, or give another")
        self.path = path
        self.config_file = path / CONFIG_NAME
        self.manifest_file = path / "manifest.json"
        self.inputs = path / "inputs"
        self.journal = path / "journal.sqlite"
        self.data = path / "data"
        self.report = path / "report.html"
        self.exam = path / "exam.json"
        self.card = path / "README.md"
        self.models = path / "models"
        self.source = path / "source.sqlite"
        self.published = path / "published.json"
        self._lock = path / "lock"

    def exists(self) -> bool:
        """Return whether a run was ever started here."""
        return self.config_file.exists()

    def config(self) -> Config:
        """Load the run's configuration. Raises `RunDirError` if this is not a run directory."""
        if not self.exists():
            if self._begun():
                raise RunDirError(
                    f"{self.config_file}: missing; `sdsd run CONFIG --out {self.path}`, with the "
                    "configuration that this run was made with, writes it again"
                )
            raise RunDirError(f"{self.path}: not a run directory; `sdsd run` makes one")
        self._checked_manifest()
        return configuration.load(self.config_file)

    def manifest(self) -> Manifest | None:
        """Load the manifest, or else the journal's copy; None before the run's first model call."""
        data = self._checked_manifest()
        return None if data is None else self._decoded(data, Manifest)

    def _begun(self) -> bool:
        """Return whether a run has made anything here, whatever is missing by now."""
        return self.manifest_file.exists() or self._kept_manifest() is not None

    def _checked_manifest(self) -> bytes | None:
        """Return what `manifest` decodes. Refuse a run in another format, which could only be read
        in part."""
        try:
            known = self.manifest_file.exists()
            data = self.manifest_file.read_bytes() if known else self._kept_manifest()
        except OSError as error:
            raise self._unreadable(error) from None
        if data is None:
            return None
        written = self._decoded(data, Written)
        if written.format != FORMAT:
            raise RunDirError(
                f"{self.path}: made by sdsd {written.sdsd} on {written.created[:10]} in run format "
                f"{written.format}; this program reads format {FORMAT} only. Use the program that "
                "made it to continue or verify it. Its data set needs no sdsd: `data/` holds "
                "Parquet files that `datasets.load_dataset` reads"
            )
        return data

    def _decoded(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> RunDirError:
        return RunDirError(
            f"{self.manifest_file}: cannot be read: {error}; restore it from a copy, or delete "
            "it: `sdsd run` writes it again from the journal"
        )

    def _kept_manifest(self) -> bytes | None:
        with contextlib.suppress(JournalError), Journal(self.journal, readonly=True) as journal:
            return origin.manifest_of(journal)
        return None

    def restore_manifest(self) -> bool:
        """Write a missing manifest again from the journal's copy; return whether that was done."""
        if self.manifest_file.exists() or (kept := self._kept_manifest()) is None:
            return False
        write_atomic(self.manifest_file, kept, private=True)
        return True

    def prepare(self, config: Config) -> None:
        """Create the directory for `config`, or check that it was made for the same data set.

        Keys that only decide how a run is executed may differ. Raises `RunDirError` that names the
        keys that may not; nothing is written then.
        """
        self.check(config)
        try:
            make_folder(self.path)
            write_atomic(self.config_file, configuration.dump(config).encode(), private=True)
        except OSError as error:
            raise RunDirError(f"{self.path}: cannot be written: {error}") from None

    def check(self, config: Config) -> None:
        """Raise `RunDirError` if the directory is another run's, or holds unrelated files."""
        if self.exists():
            changed = configuration.differences(config, self.config())
            if changed:
                lines = "\n  ".join(changed)
                raise RunDirError(
                    f"{self.path}: made with another configuration. Differences:\n  {lines}\n"
                    "Restore these values to continue that run, or give another directory (`--out`)"
                )
        elif self._begun():
            self._check_identity(config)
        elif self.path.exists() and any(map(_foreign, self.path.iterdir())):
            raise RunDirError(
                f"{self.path}: holds files but no run; give a new or empty directory (`--out`)"
            )

    def _check_identity(self, config: Config) -> None:
        """Refuse to write a missing `config.yaml` again from another configuration."""
        manifest = self.manifest()
        with Journal(self.journal, readonly=True) as journal:
            changed = origin.changed_keys(journal, config)
        if changed is None:  # a journal that is older than its copies
            same = manifest is not None and manifest.config == configuration.digest(config)
            changed = [] if same else ["an unknown key"]
        if changed:
            raise RunDirError(
                f"{self.config_file}: missing, and this is not the configuration that the run was "
                f"made with: {', '.join(changed)} had another value. Give the one that began it"
            )

    def remember(self, manifest: Manifest) -> None:
        write_atomic(self.manifest_file, origin.encoded(manifest), private=True)

    def keep_exam(self, data: bytes) -> None:
        """Write the result of the critics' exam."""
        write_atomic(self.exam, data)

    # -- the run's own inputs ----------------------------------------------------------------

    def keep_input(self, data: bytes, suffix: str) -> None:
        """Copy an input into `inputs/`, under its SHA-256."""
        make_folder(self.inputs, 0o700)
        path = self.input_path(hashlib.sha256(data).hexdigest(), suffix)
        if not path.exists():
            write_atomic(path, data, private=True)

    def input_path(self, digest: str, suffix: str) -> Path:
        return self.inputs / f"{digest}{suffix}"

    def kept_input(self, digest: str, suffix: str) -> Path:
        """Return the path of an input's copy. Raises `RunDirError` if it is missing or altered."""
        path = self.input_path(digest, suffix)
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise RunDirError(f"{path}: cannot be read: {error}; restore it from a copy") from None
        if found != digest:
            raise RunDirError(
                f"{path}: its content does not match the SHA-256 in its name; restore it from "
                "a copy"
            )
        return path

    # -- one process at a time -----------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory against other processes. The system unlocks it after a crash."""
        if self.path.exists() and not self.path.is_dir():
            raise RunDirError(f"{self.path}: is a file; give a directory (`--out`)")
        try:
            make_folder(self.path)
            handle = self._lock.open("a+")
        except OSError as error:
            raise RunDirError(f"{self.path}: cannot be written: {error}") from None
        with handle:
            if not try_lock(handle.fileno()):
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise RunDirError(
                    f"{self.path}: another process ({holder}) is running here; "
                    "wait for it, stop it, or give another directory (`--out`)"
                )
            try:
                handle.truncate(0)
                os.write(handle.fileno(), f"pid {os.getpid()} on {platform.node()}".encode())
            except OSError as error:
                raise RunDirError(f"{self.path}: cannot be written: {error}") from None
            yield

    def locked(self) -> bool:
        """Return whether a process is writing here at this moment."""
        try:
            with self._lock.open("a+") as handle:
                return not try_lock(handle.fileno())
        except OSError:
            return False

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Lock what people receive; wait while another process publishes or pushes it.

        The lock is on the directory itself, so it needs no file and works where nothing can be
        written.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunDirError(f"{self.path}: cannot be read: {error}") from None
        try:
            try_lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Lock the directory, and remove what was created in it if the start fails.

        Only if nothing was recorded: no answer, no batch in progress, no server log to read.
        """
        missing = missing_folders(self.path)
        before = set(self.path.iterdir()) if self.path.is_dir() else set()
        if self.manifest_file not in before:  # an earlier start was killed before it recorded any
            before -= set(self.path.glob(f"{self.journal.name}*"))
        with self.lock():
            try:
                yield
            except BaseException:
                if not self.recorded() and not any(self.models.rglob("*.*")):
                    self._remove(before, missing)
                raise

    def recorded(self) -> bool:
        """Return whether the journal holds anything."""
        try:
            with Journal(self.journal, readonly=True) as journal:
                return bool(journal.answers() or journal.outcomes())
        except JournalError:
            return self.journal.exists()

    def _remove(self, before: set[Path], missing: list[Path]) -> None:
        with contextlib.suppress(OSError):  # the error that ended the start matters more
            for path in set(self.path.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in missing:
                path.rmdir()


def _foreign(path: Path) -> bool:
    """Return whether a file cannot come from a run killed before it wrote its configuration."""
    return path.name != "lock" and not path.name.startswith(f".{CONFIG_NAME}.")


def default_path(config: Config, root: Path) -> Path:
    """Return `runs/<model>-<digest>` under `root`: the same configuration finds its run again."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.models["default"].model).name).strip("-.")
    return root / "runs" / f"{name[:40] or 'run'}-{configuration.digest(config)[:6]}"
