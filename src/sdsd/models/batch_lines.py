"""Read the results of a batch, one line per request, whatever a provider makes of them.

A line that was answered is paid for. So whatever can be read of it is read, and one that cannot is
still known by its request, with the cause; a file that holds no results is not taken for one.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Raw, Struct

from sdsd.models.http_client import decode_json

_ID = re.compile(rb'"custom_id"\s*:\s*"([^"\\\0]{1,99})"')
_QUOTED = 200
"""Characters of a line that are shown."""


class Response(Struct):
    """The server's reply to one request of a batch."""

    status_code: int = 200
    body: Raw = Raw(b"null")

    @property
    def content(self) -> bytes:
        """The body as it would be online; some providers put it into a string."""
        body = bytes(self.body)
        if not body.startswith(b'"'):
            return body
        return msgspec.json.decode(body, type=str).encode("utf-8", "replace")


class ApiError(Struct):
    """What went wrong with one request, or with the whole batch."""

    code: str | int | None = None
    message: str | None = None
    line: int | None = None


class ResultLine(Struct):
    """One line of a batch's output file or error file."""

    custom_id: str
    response: Response | None = None
    error: ApiError | str | None = None

    @property
    def answered(self) -> bool:
        """Whether the request was answered, and so is paid for."""
        return self.response is not None and self.response.status_code == 200

    @property
    def fault(self) -> str:
        """What went wrong, in the provider's words."""
        if self.response is not None:
            said = self.response.content[:500].decode("utf-8", "replace")
            return f"HTTP {self.response.status_code}: {said}"
        error = self.error or ApiError()
        if isinstance(error, str):
            return error[:500]
        return f"{error.code}: {str(error.message)[:500]}"


_line = msgspec.json.Decoder(ResultLine, strict=False).decode


def result_file(content: bytes) -> bytes:
    """Return a file of results, if it is one. Raises `ValueError`.

    A web page or an error that was sent in its place would have everything bought again.
    """
    if content.strip() and b'"custom_id"' not in content:
        raise ValueError("no line has a `custom_id`")
    return content.removeprefix(codecs.BOM_UTF8)


def parse_line(line: bytes) -> ResultLine:
    """Decode one line of a result. An incomplete character becomes U+FFFD.

    Raises `ValueError` or `RecursionError` if it names no request.
    """
    try:
        found = decode_json(line, _line)
        if found.response is None or bytes(found.response.body) != b"null":
            return found
    except ValueError:
        pass
    try:
        text = line.replace(b"\0", b"").decode("utf-8", "replace")
        return _recovered(json.loads(text, strict=False))
    except ValueError as error:
        if (named := _ID.search(line)) is None:
            raise
        shown = line[:_QUOTED].decode("utf-8", "replace")
        return ResultLine(named[1].decode(), error=f"its line cannot be read: {error}: {shown}")


def _recovered(value: Any) -> ResultLine:
    """Return what is needed of an unusual line."""
    if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
        raise ValueError("it names no request")
    said, error = value.get("response"), value.get("error")
    if isinstance(said, str):
        said = json.loads(said.replace("\0", ""), strict=False)
    if error is not None and not isinstance(error, str):
        try:
            error = msgspec.convert(error, ApiError, strict=False)
        except msgspec.ValidationError:
            error = json.dumps(error)
    fields = said if isinstance(said, dict) else {}
    body = fields.get("body", fields if "choices" in fields else None)  # or the reply itself
    if body is None and (error or not fields):
        return ResultLine(value["custom_id"], error=error)
    status = re.match(r"\s*(\d{3})\b", str(fields.get("status_code")))
    response = Response(int(status[1]) if status else 200, Raw(msgspec.json.encode(body)))
    return ResultLine(value["custom_id"], response, error)


def add_lines(lines: dict[str, ResultLine], content: bytes, asked: Collection[str]) -> int:
    """Add the lines of a result file; return how many are unknown, unreadable or repeated.

    Of two lines for one request the first counts, unless only the second has an answer.
    """
    ignored = 0
    for text in _texts(content):
        try:
            line = parse_line(text)
        except (ValueError, RecursionError):
            ignored += 1
            continue
        known = lines.get(line.custom_id)
        ignored += line.custom_id not in asked or known is not None
        if line.custom_id in asked and (known is None or line.answered > known.answered):
            lines[line.custom_id] = line
    return ignored


def _texts(content: bytes) -> list[bytes]:
    """Return the lines of a file; its items if it is a list."""
    if content.lstrip().startswith(b"[{"):
        try:
            return [bytes(item) for item in msgspec.json.decode(content, type=list[Raw])]
        except msgspec.DecodeError:
            pass
    return [text for text in content.split(b"\n") if text.strip()]
