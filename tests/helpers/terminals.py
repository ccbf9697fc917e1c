"""A terminal: a command runs in it, and what a person sees at the end is returned."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

_TOKEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\n|\r|[^\x1b\n\r]+")


class Seen(Struct, frozen=True):
    """What a command left on the screen, and what it wrote on the way."""

    code: int
    lines: list[str]
    """The screen at the end, without trailing spaces."""
    written: str
    """Everything that was written, without escape sequences."""


def in_terminal(command: Sequence[str | Path], columns: int, cwd: Path | None = None) -> Seen:
    """Run a command in a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**environment, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        data = b""
        while chunk := _read(ours):
            data += chunk
    os.close(ours)
    text = data.decode()
    return Seen(process.returncode, _screen(text), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the other end is closed
        return b""


def _screen(text: str) -> list[str]:
    """Carry out what rich uses: line feeds, carriage returns, cursor up, erase the line."""
    lines, row = [""], 0
    for token in _TOKEN.findall(text):
        if up := re.fullmatch(r"\x1b\[(\d*)A", token):
            row = max(0, row - int(up[1] or 1))
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif token[0] not in "\x1b\r":
            lines[row] += token
    return [line.rstrip() for line in lines]
