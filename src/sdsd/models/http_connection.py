"""One HTTP/1.1 connection of the client: an exchange at a time, with its time-outs."""

from __future__ import annotations

import asyncio
from functools import partial

import httptools
from msgspec import Struct
from msgspec.structs import replace

from sdsd.errors import Malformed, TransientError, Unreachable
from sdsd.models.compression import unpacked
from sdsd.models.connection_faults import reason

_SIZING = (b"content-length", b"transfer-encoding")
_TURN = 0.001
"""Seconds; a timer as short as that expires after one turn of the loop, which reads all sockets."""
_TLS_ALERT = b"\x15\x03"


class Reply(Struct, frozen=True):
    """One HTTP response."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]
    """As received; see `header`."""

    def header(self, name: str) -> str | None:
        """Return the header of that lower-case name; None if it is missing."""
        found = (value for key, value in self.headers if key.lower() == name.encode())
        value = next(found, None)
        return None if value is None else value.decode("latin-1")


class Timeouts(Struct, frozen=True):
    """Time-outs in seconds."""

    total: float = 600.0
    """From sending a request to the last byte of its reply."""
    connect: float = 15.0
    """For opening a connection, TLS included."""
    idle: float = 120.0
    """Between two chunks of a reply that has begun."""


class NoReply(Exception):
    """The connection ended before the first byte of a reply."""


class Connection(asyncio.Protocol):
    """One connection; at most one exchange at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._tunnel = False
        self._reset()
        self.reusable = False
        """It is open, and its last exchange left nothing behind."""

    def _reset(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._bodied = False
        self._last_data = 0.0

    async def exchange(self, data: bytes, timeouts: Timeouts, *, tunnel: bool = False) -> Reply:
        """Send one request and read its reply. Raises `TransientError` or `NoReply`."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self.reusable = False
            raise NoReply("closed")
        self.reusable = False
        self._reset()
        self._parser = httptools.HttpResponseParser(self)
        self._tunnel = tunnel
        waiting: asyncio.Future[Reply] = loop.create_future()
        self._waiting = waiting
        self._transport.write(data)
        deadline = loop.time() + timeouts.total
        first_check = min(timeouts.idle, timeouts.total)
        self._alarm = loop.call_later(first_check, self._check, deadline, timeouts)
        try:
            return await waiting
        except BaseException:
            self.close()
            raise
        finally:
            self._alarm.cancel()
            self._waiting = None

    def _check(self, deadline: float, timeouts: Timeouts, *, last: bool = False) -> None:
        """Fail a reply that is late, or schedule the next check.

        On a busy machine it may have arrived long ago: what is there is read first.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        quiet = self._last_data + timeouts.idle if self._last_data else deadline
        if now >= min(deadline, quiet) and not last:
            check = partial(self._check, deadline, timeouts, last=True)
            self._alarm = loop.call_later(_TURN, check)
        elif now >= deadline:
            self._fail(TransientError(f"no complete reply in {timeouts.total:g} s"))
        elif now >= quiet:
            self._fail(TransientError(f"silent for {timeouts.idle:g} s in a reply"))
        else:
            again = min(deadline, quiet, now + timeouts.idle)
            self._alarm = loop.call_at(again, self._check, deadline, timeouts)

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    # -- called by the loop ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.close()  # unsolicited data
            return
        self._last_data = asyncio.get_running_loop().time()
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.on_message_complete()  # the tunnel is open
        except httptools.HttpParserError as error:
            tls = data.startswith(_TLS_ALERT)
            hint = "; it speaks TLS: begin the address with https://" if tls else ""
            self._fail(Unreachable(f"not HTTP: {error}{hint}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._waiting is None or self._waiting.done():
            return
        if not self._last_data:
            fault = NoReply(f"the server closed the connection{_because(error)}")
            fault.__cause__ = error
            self._fail(fault)
        elif self._bodied and not self._sized():
            self.on_message_complete()  # such a reply ends with the connection
        else:
            self._fail(TransientError(f"the reply broke off{_because(error)}"))

    # -- called by the parser --------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        self._grown(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._bodied = True
        if self._tunnel:
            self.on_message_complete()

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._grown(len(piece))

    def _grown(self, size: int) -> None:
        self._size += size
        if self._size > self._max_bytes:
            most = f"{self._max_bytes:,}"
            self._fail(TransientError(f"a reply of more than {most} bytes"))
            self.close()

    def on_message_complete(self) -> None:
        parser, waiting = self._parser, self._waiting
        assert parser is not None
        if waiting is None or waiting.done():
            self.close()  # more replies than requests: nothing that follows can be trusted
            return
        status = parser.get_status_code()
        if status < 200:  # informational responses precede the reply
            self._reset()
            return
        self.reusable = parser.should_keep_alive() and not self._tunnel
        reply = Reply(status, b"".join(self._pieces), self._headers)
        self._reset()  # further data belongs to no request
        try:
            waiting.set_result(_plain(reply))
        except ValueError as error:
            self._fail(Malformed(f"the reply cannot be read: {error}"))

    def _sized(self) -> bool:
        """Whether the headers say where the body ends."""
        return any(key.lower() in _SIZING for key, _ in self._headers)


def _plain(reply: Reply) -> Reply:
    """Return a reply decompressed. An error that cannot be read is still one of its status.

    Raises `ValueError`.
    """
    if reply.body.startswith(b"{"):  # nearly all replies are JSON
        return reply
    try:
        body = unpacked(reply.body, reply.header("content-encoding") or "")
    except ValueError as error:
        if reply.status < 300:
            raise
        body = f"its body cannot be read: {error}".encode()
    return reply if body is reply.body else replace(reply, body=body)


def _because(error: Exception | None) -> str:
    return f" ({reason(error)})" if error else ""
