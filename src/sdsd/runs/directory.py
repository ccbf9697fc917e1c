"""A run is a directory that explains itself.

config.yaml      the configuration as resolved, every key
manifest.json    what the run was made with: digests, models, protocol, versions
journal.sqlite   every answer of every model (see `sdsd.runs.journal`)
data/            the data set, Parquet by view
report.html      what happened, as pictures
logs/            what happened, line by line
models/          what models need to remember: batches under way, say
metrics.prom     how it is going, for Prometheus
README.md        the data set's card
plots/           the card's pictures
forms/           JSON lines for trainers that want them
lock             held by the process that writes here
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.config.manifest import Manifest
from sdsd.errors import RunDirError
from sdsd.files import try_lock, write_atomic


class RunDir:
    """Paths and small files of one run directory. Making one touches nothing on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.manifest_file = path / "manifest.json"
        self.journal = path / "journal.sqlite"
        self.data = path / "data"
        self.report = path / "report.html"
        self.card = path / "README.md"
        self.models = path / "models"
        self.source = path / "source.sqlite"
        self._lock = path / "lock"

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.config_file.exists()

    def config(self) -> Config:
        """The run's configuration. Raises `RunDirError` if there is none."""
        if not self.exists():
            raise RunDirError(f"{self.path}: not a run directory; `sdsd run` makes one")
        return configuration.load(self.config_file)

    def manifest(self) -> Manifest | None:
        """What the run was made with; None before its first model call."""
        try:
            return msgspec.json.decode(self.manifest_file.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise RunDirError(
                f"{self.manifest_file}: cannot be read: {error}; restore it from a copy"
            ) from None

    def prepare(self, config: Config) -> None:
        """Make the directory for `config`, or check that it was made for the same data set.

        Keys that `sdsd.config.schema` marks as `execution` may differ. Raises `RunDirError` that
        names the keys that may not; nothing is written then.
        """
        self.check(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.config_file, configuration.dump(config).encode())
        except OSError as error:
            raise RunDirError(f"{self.path}: cannot be written: {error}") from None

    def check(self, config: Config) -> None:
        """Raise `RunDirError` if the directory is another run's, or holds other things."""
        if self.exists():
            changed = configuration.differences(config, self.config())
            if changed:
                lines = "\n  ".join(changed)
                raise RunDirError(
                    f"{self.path}: made with another configuration. What differs:\n  {lines}\n"
                    "Put these back to continue that run, or give another directory (`--out`)"
                )
        elif self.path.exists() and any(map(_foreign, self.path.iterdir())):
            raise RunDirError(
                f"{self.path}: holds files but no run; give a new or empty directory (`--out`)"
            )

    def remember(self, manifest: Manifest) -> None:
        """Write the manifest, once."""
        write_atomic(
            self.manifest_file, msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory against a second process. The system lets go of it after a crash."""
        if self.path.exists() and not self.path.is_dir():
            raise RunDirError(f"{self.path}: is a file; give a directory (`--out`)")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
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
            handle.truncate(0)
            handle.write(f"pid {os.getpid()} on {platform.node()}")
            handle.flush()
            yield

    def held(self) -> bool:
        """Whether a process is running here at this moment."""
        try:
            with self._lock.open("a+") as handle:
                return not try_lock(handle.fileno())
        except OSError:
            return False


def _foreign(path: Path) -> bool:
    """Not what a run leaves behind that was killed before its configuration was written."""
    return path.name != "lock" and not path.name.startswith(".config.yaml.")


def default_path(config: Config, root: Path) -> Path:
    """`runs/<model>-<digest>`: the same configuration finds its run again, another gets its own."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.models["default"].model).name).strip("-.")
    return root / "runs" / f"{name[:40] or 'run'}-{configuration.digest(config)[:6]}"
