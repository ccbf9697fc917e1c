"""A run is a directory that explains itself.

config.yaml      the configuration as resolved, every key
manifest.json    what the run was made with: digests, models, protocol, versions
journal.sqlite   every answer of every model (see `sdsd.journal`)
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
import time
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.errors import RunDirError
from sdsd.template import Template
from sdsd.types import ProtocolName


class Manifest(Struct, frozen=True, kw_only=True):
    """What a run was made with. Written once, before the first dialogue; read by every replay."""

    sdsd: str
    """Version of this program."""
    created: str
    """UTC, ISO 8601."""
    python: str
    machine: str
    seed: int
    config: str
    """Digest of the configuration's identity (`sdsd.config.digest`)."""
    catalogue: str
    """Digest of the catalogue's content."""
    prompts: dict[str, str]
    """Digest of every prompt file."""
    models: dict[str, str]
    """By role, the name of the model that plays it."""
    weights: dict[str, str]
    """By model name, the SHA-256 of its file, where it is known."""
    protocol: ProtocolName
    """As resolved from what the server can do; a replay keeps it."""
    template: Template | None = None
    """The chat template's seams that `continuation` was held with."""
    schema: bool = False
    """Whether the critic's server was asked to hold replies to a JSON schema."""
    shared: bool = False
    """Whether critic and reviser are the agent's own model."""


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
        self.source = path / "source.jsonl"
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

        `n` and the keys of `sdsd.config.EXECUTION` may differ. Raises `RunDirError` that names
        the keys that may not; nothing is written then.
        """
        self.check(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write(self.config_file, configuration.dump(config).encode())
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
        write(self.manifest_file, msgspec.json.format(msgspec.json.encode(manifest), indent=2))

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
            if not _try_lock(handle.fileno()):
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
                return not _try_lock(handle.fileno())
        except OSError:
            return False


def shown(manifest: Manifest) -> Manifest:
    """A manifest without the directories of its maker's disk: for what is handed on."""
    return replace(
        manifest,
        models={role: nameable(name) for role, name in manifest.models.items()},
        weights={nameable(name): digest for name, digest in manifest.weights.items()},
    )


def nameable(model: str) -> str:
    """A model's name; of one that is a file or directory here, the last part of its path."""
    path = PureWindowsPath(model)  # knows both kinds of slash
    here = model.startswith(("/", "~", ".")) or path.drive or path.root
    if not here and (model.startswith("hf:") or not model.endswith(".gguf")):
        return model
    return path.name or "model"


def _foreign(path: Path) -> bool:
    """Not what a run leaves behind that was killed before its configuration was written."""
    return path.name != "lock" and not path.name.startswith(".config.yaml.")


def _try_lock(descriptor: int) -> bool:
    """An advisory lock that dies with the process; where there is none, we go without."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover  (not a POSIX system)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def default_path(config: Config, root: Path) -> Path:
    """`runs/<model>-<digest>`: the same configuration finds its run again, another gets its own."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.models["default"].model).name).strip("-.")
    return root / "runs" / f"{name[:40] or 'run'}-{configuration.digest(config)[:6]}"


def write(path: Path, data: bytes) -> None:
    """Replace a small file whole: a reader, or a crash, sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
