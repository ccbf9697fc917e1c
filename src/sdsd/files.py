"""Atomic writes of small files, advisory locks, and time stamps."""

from __future__ import annotations

import os
import time
from pathlib import Path

PRIVATE = 0o600
"""The mode of a file that may hold secrets: only its owner reads it."""


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
    finally:
        temporary.unlink(missing_ok=True)


def try_lock(descriptor: int) -> bool:
    """Take an advisory lock that ends with the process; return whether it was free.

    On systems without such locks, return True.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover  (not a POSIX system)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
