"""Standard output and error as they are out there: any encoding, a full disk, a closed pipe."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import traceback

_LOST = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_PRINTING = ("sdsd.cli", "click", "typer", "rich")
"""Packages that write to standard output and to no other file."""
_REMEDIES = {
    errno.EMFILE: "allow more open files, e.g. `ulimit -n 4096`",
    errno.ENFILE: "close other programs",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EACCES: "give a path that you may write to",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
}


def show_anything() -> None:
    """Print characters that the terminal cannot show as escapes, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # replaced by a program, or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush() -> None:
    """Write out what was printed, while an error can still be told. Raises `OSError`."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def explained(error: OSError) -> str:
    """Return what to say of an error of the system that nothing caught earlier.

    It is empty if whoever read standard output has left, as `head` does.
    """
    why = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check it")
    if error.filename is not None:
        return f"{error.filename}: {why}; {remedy}"
    if error.errno not in _LOST or not _is_of_printing(error):
        return f"{why}; {remedy}"
    _connect_to_nothing()
    if error.errno == errno.EPIPE:
        return ""
    return f"standard output: {why}; {remedy}. What the command made is on disk all the same"


def _is_of_printing(error: OSError) -> bool:
    """Return whether an error that names no file was raised by printing; otherwise the file is one
    that was being written."""
    places = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = places[-1].f_globals.get("__name__", "") if places else ""
    return any(module == name or module.startswith(f"{name}.") for name in _PRINTING)


def print_json(text: str) -> None:
    """Print JSON; it stays JSON where the output has another encoding than UTF-8."""
    if "utf" not in (sys.stdout.encoding or "").lower():
        text = re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
    sys.stdout.write(text.rstrip("\n") + "\n")


def _connect_to_nothing() -> None:
    """Let the interpreter flush standard output at its end without another error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
