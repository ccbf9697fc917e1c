"""Bytes of files to text: UTF-8, or what a byte order mark at the beginning says.

Anything else is an error that names the byte. Guessing would put wrong letters into prompts and
data, and a text in another encoding would never match anything.
"""

from __future__ import annotations

import codecs
import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from gzip import GzipFile
from io import BufferedReader
from typing import IO, cast

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark begins it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_CHUNK = 1 << 20
_REMEDY = "save the file as UTF-8"


class NotText(ValueError):
    """Bytes that are not UTF-8. `line` counts from 1; the message names the byte and its place."""

    def __init__(self, data: bytes, at: int, line: int) -> None:
        start = data.rfind(b"\n", 0, at) + 1
        self.line = line + data.count(b"\n", 0, at)
        place = f"byte {at - start + 1} of its line"
        super().__init__(f"the byte 0x{data[at]:02x} is not UTF-8 ({place})")

    def at(self, path: object) -> str:
        """Return the message with the place and the remedy."""
        return f"{path}:{self.line}: {self}; {_REMEDY}"


def decode(data: bytes, line: int = 1) -> str:
    """Return `data`, which begins on a line of its file, as text. Raises `NotText`.

    A zero byte is refused, too: it is what UTF-16 without its mark looks like.
    """
    name = _encoding(data) if line == 1 else "utf-8"
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        raise NotText(data, error.start, line) from None
    if "\0" in text:
        raise NotText(data, data.index(0), line)
    return text


def lines(file: IO[bytes]) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, with their ends. Raises `NotText`."""
    for number, line in enumerate(file, 1):
        yield decode(line, number)


@contextlib.contextmanager
def as_utf8(file: BufferedReader | GzipFile) -> Iterator[IO[bytes]]:
    """Yield the file from its beginning as UTF-8: itself, or a copy if its mark says UTF-16 or 32.

    Raises `UnicodeDecodeError` if it is not what its mark says.
    """
    name = _encoding(file.peek(4))
    if name.startswith("utf-8"):
        yield cast(IO[bytes], file)
        return
    with tempfile.TemporaryFile() as copy:
        for text in codecs.iterdecode(iter(partial(file.read, _CHUNK), b""), name):
            copy.write(text.encode())
        copy.seek(0)
        yield copy


def _encoding(beginning: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if beginning.startswith(mark)), "utf-8")
