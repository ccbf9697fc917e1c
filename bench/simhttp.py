"""HTTP/1.1 for `simulator.py`: connections that parse requests, and ways to answer them badly."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.client import responses
from typing import cast

import httptools

PAUSE = 0.05
"""Seconds between the pieces of a response sent in pieces."""
_JSON = "application/json"
_LINGER = struct.pack("ii", 1, 0)


def head(
    status: int, length: int, kind: str = _JSON, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return the head of a response with a body of `length` bytes.

    A status without a registered phrase, such as the 499 of some proxies, gets an empty one.
    """
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    phrase = responses.get(status, "")
    return (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


class Exchange:
    """One request, and the connection to its client.

    It ends with `send`, with `reset`, when `dribble` has finished, or when `lost` is called.
    """

    def __init__(
        self, connection: Connection, method: str, path: str, key: str, body: bytes, keep: bool
    ) -> None:
        self.method = method
        self.path = path
        self.key = key
        """The value of `Authorization`."""
        self.body = body
        self.keep = keep
        """Whether the client keeps the connection open."""
        self.lost: Callable[[], None] = _nothing
        """Called if the client disconnects before the response is complete."""
        self._connection = connection

    def send(self, response: bytes) -> None:
        """Send the complete response."""
        self._connection.write(response)
        self._connection.over()

    def dribble(self, pieces: Sequence[bytes], through: Callable[[], None]) -> None:
        """Send the response piece by piece, `PAUSE` seconds apart, then call `through`."""
        if self._connection.closed.done():
            return
        self._connection.write(pieces[0])
        if len(pieces) > 1:
            loop = asyncio.get_running_loop()
            loop.call_later(PAUSE, self.dribble, pieces[1:], through)
        else:
            self._connection.over()
            through()

    def reset(self, begun: bytes = b"") -> None:
        """Write what is `begun`, then reset the connection."""
        self.lost = _nothing
        self._connection.write(begun)
        # The bytes must be on the wire before the reset is sent.
        asyncio.get_running_loop().call_later(PAUSE if begun else 0, self._connection.reset)


class Connection(asyncio.Protocol):
    """A client's connection. Requests are answered one after the other."""

    def __init__(self, answer: Callable[[Exchange], None], open_ones: set[Connection]) -> None:
        self._answer = answer
        self._open = open_ones
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._answering = False
        self._url = b""
        self._key = ""
        self._body: list[bytes] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is closed."""

    # -- what asyncio calls ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.write(head(400, 0))
            self._close()
            return
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._waiting.clear()
        self.closed.set_result(None)
        if self._current is not None:
            self._current.lost()

    # -- what the parser calls -------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._key, self._body = b"", "", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._key = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("latin-1")
        path = self._url.partition(b"?")[0].decode("latin-1")
        keep = self._parser.should_keep_alive()
        body = b"".join(self._body)
        self._waiting.append(Exchange(self, method, path, self._key, body, keep))

    # -- what an exchange calls ------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes if the client is still connected."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def over(self) -> None:
        """End the current exchange and begin the next."""
        current, self._current = self._current, None
        if current is not None and not current.keep:
            self._close()
        else:
            self._next()

    def reset(self) -> None:
        """Abort the connection, so that the client sees a reset and not an end of file."""
        if self._transport is None or self.closed.done():
            return
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _LINGER
        )
        self._transport.abort()

    def _close(self) -> None:
        self._waiting.clear()
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        if self._answering:  # an answer given at once comes back here: no recursion
            return
        self._answering = True
        try:
            while self._current is None and self._waiting:
                self._current = self._waiting.popleft()
                self._answer(self._current)
        finally:
            self._answering = False


def _nothing() -> None:
    pass
