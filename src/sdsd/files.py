"""Atomic writes of small files, digests, advisory locks, and time stamps."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from sdsd.errors import SdsdError

PRIVATE = 0o600
"""The mode of a file that may hold secrets: only its owner reads it."""


_LEAST_FILES = 32
"""Journal, logs, data set and a few connections."""


def write_atomic(path: Path, data: bytes | str, *, private: bool = False) -> None:
    """Replace a file atomically: readers, and a crash, see the old content or the new.

    Text is written as UTF-8; a lone surrogate becomes `?`. A `private` file is its owner's only.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if private:
                temporary.chmod(PRIVATE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Let names that were created, replaced or removed in a directory survive a power cut."""
    with contextlib.suppress(OSError):  # not every system opens directories
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a directory and its parents, and let them survive a power cut."""
    missing = missing_folders(path)
    path.mkdir(mode, parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def missing_folders(path: Path) -> list[Path]:
    """Return a directory and its parents, the deepest first, as far as they do not exist."""
    return [each for each in (path, *path.parents) if not each.exists()]


def file_digest(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allow_many_files() -> None:
    """Raise the number of files that may be open as far as the system lets us.

    A connection is a file, too. Raises `SdsdError` if the limit is so low that nothing would work.
    """
    try:
        import resource
    except ImportError:  # pragma: no cover  (not a POSIX system)
        return
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    if 0 <= limit < _LEAST_FILES:
        raise SdsdError(
            f"this process may open {limit} files, and a run needs {_LEAST_FILES} and one for each "
            "request in flight; allow more, e.g. `ulimit -n 4096`"
        )


def try_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Take an advisory lock that ends with the process; return whether it was free.

    With `wait`, return when it is free. On systems without such locks, return True.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover  (not a POSIX system)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
