"""A lean HTTP/1.1 client for one address: keep-alive connections, time-outs, and nothing else.

A model call is the hot path, and a general-purpose client would be most of its cost:
`bench/driver_cost.py` compares this one with aiohttp. llhttp (`httptools`) parses; this module does
only what a POST of JSON needs. No redirects, cookies or compression.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from typing import Self, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import httptools
import msgspec
from msgspec import Struct

from sdsd.errors import ModelError, TransientError
from sdsd.text.normalize import encodable

T = TypeVar("T")

MAX_BYTES = 64 * 2**20
"""A longer reply is not a completion; it is refused before it fills the memory."""
_SIZING = (b"content-length", b"transfer-encoding")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


def decode_json(body: bytes, decode: Callable[[bytes | str], T]) -> T:
    """Decode JSON from a server. An incomplete character (half a surrogate pair) becomes U+FFFD.

    Raises `ValueError` or `RecursionError` if it is not JSON or does not have the expected shape.
    """
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = json.dumps(json.loads(body.decode("utf-8", "replace")), ensure_ascii=False)
        return decode(encodable(text))


class Timeouts(Struct, frozen=True):
    """Time-outs in seconds."""

    total: float = 600.0
    """From sending a request to the last byte of its reply."""
    connect: float = 15.0
    """For opening a connection, TLS included."""
    idle: float = 120.0
    """Between two chunks of a reply that has begun."""


class Client:
    """Sends requests to one `base_url`. An async context manager: it owns its connections.

    It opens one connection per concurrent request; the caller limits their number. Every fault of
    transport raises `TransientError`.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] = {},
        timeouts: Timeouts = Timeouts(),
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._address = _split(self.base_url)
        self._timeouts = timeouts
        self._proxy = _proxy(self._address)
        self._heads: dict[tuple[str, str], bytes] = {}
        self._lines = self._constant_lines(headers)
        self._max_bytes = max_bytes
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)  # lets the transports close

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = {},
        *,
        root: bool = False,
    ) -> Reply:
        """Send one request to `path` below `base_url`; with `root`, below its part before `/v1`."""
        head = self._heads.get((method, path)) if not (headers or root) else None
        if head is None:
            head = self._head(method, path, headers, root=root)
            if not (headers or root):
                self._heads[method, path] = head
        data = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        try:
            return await self._exchange(data)
        except TransientError as error:
            error.server = self.base_url
            raise

    async def _exchange(self, data: bytes) -> Reply:
        """Send a request on an idle connection that is still open, or on a new one."""
        while self._idle:
            connection = self._idle.pop()
            try:
                return await connection.exchange(data, self._timeouts)
            except _NoReply:
                # The server closed it while it was idle, which shows only now.
                continue
            finally:
                self._keep(connection)
        connection = await self._connect()
        try:
            return await connection.exchange(data, self._timeouts)
        except _NoReply as error:
            raise TransientError(str(error)) from None
        finally:
            self._keep(connection)

    def _keep(self, connection: _Connection) -> None:
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()  # do not wait for the server to do it
            self._open.discard(connection)

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._timeouts.connect):
                connection = await self._opened()
        except TimeoutError:
            seconds = self._timeouts.connect
            raise TransientError(f"no connection in {seconds:g} s") from None
        except (OSError, _NoReply, UnicodeError) as error:
            raise TransientError(f"cannot connect: {_reason(error)}") from None
        self._open.add(connection)
        return connection

    async def _opened(self) -> _Connection:
        loop, address = asyncio.get_running_loop(), self._address
        host, port, secure = _host(address), _port(address), address.scheme == "https"
        if secure and self._tls is None:
            self._tls = ssl.create_default_context()
        via = self._proxy
        make = lambda: _Connection(self._max_bytes)  # noqa: E731
        if via is None:
            _, connection = await loop.create_connection(make, host, port, ssl=self._tls)
            return connection
        transport, connection = await loop.create_connection(make, _host(via), _port(via))
        if secure:
            way = await connection.exchange(_tunnel(host, port, via), self._timeouts, tunnel=True)
            if way.status != 200:
                connection.close()
                raise TransientError(f"the proxy answered {way.status}")
            secured = await loop.start_tls(transport, connection, self._tls, server_hostname=host)  # type: ignore[arg-type]
            connection.connection_made(secured)  # type: ignore[arg-type]
        return connection

    def _constant_lines(self, headers: Mapping[str, str]) -> dict[str, str]:
        host = self._address.netloc.rpartition("@")[2]
        lines = {"Host": host, "Accept": "application/json", "User-Agent": "sdsd", **headers}
        if self._proxy is not None and self._address.scheme == "http":
            lines |= _proxy_authorization(self._proxy)
        for name, value in lines.items():
            if not f"{name}{value}".isprintable() or not value.isascii():
                raise ModelError(
                    f"{self.base_url}: the header `{name}` holds a character that headers must not"
                )
        return lines

    def _head(self, method: str, path: str, headers: Mapping[str, str], *, root: bool) -> bytes:
        """Return the request head up to the length of the body."""
        address = self._address
        base = address.path.removesuffix("/v1") if root else address.path
        target = f"{base}{path}"
        if self._proxy is not None and address.scheme == "http":
            target = f"http://{address.netloc.rpartition('@')[2]}{target}"
        lines = {**self._lines, **headers}.items()
        shown = "".join(f"{name}: {value}\r\n" for name, value in lines)
        return f"{method} {target} HTTP/1.1\r\n{shown}Content-Length: ".encode()


class _NoReply(Exception):
    """The connection ended before the first byte of a reply."""


class _Connection(asyncio.Protocol):
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
        """Send one request and read its reply. Raises `TransientError` or `_NoReply`."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self.reusable = False
            raise _NoReply("closed")
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

    def _check(self, deadline: float, timeouts: Timeouts) -> None:
        """Fail a reply that is late, or schedule the next check."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        quiet = self._last_data + timeouts.idle if self._last_data else deadline
        if now >= deadline:
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
            self._fail(TransientError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._waiting is None or self._waiting.done():
            return
        if not self._last_data:
            self._fail(_NoReply(f"the server closed the connection{_because(error)}"))
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
        waiting.set_result(Reply(status, b"".join(self._pieces), self._headers))
        self._reset()  # further data belongs to no request

    def _sized(self) -> bool:
        """Whether the headers say where the body ends."""
        return any(key.lower() in _SIZING for key, _ in self._headers)


def _because(error: Exception | None) -> str:
    return f" ({_reason(error)})" if error else ""


def _reason(error: Exception) -> str:
    """Say what went wrong without the address, which the loop's own messages contain."""
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror | ssl.SSLError):
        return str(error.strerror or error)
    if number:
        return os.strerror(number)
    return "no address of its name answers" if type(error) is OSError else str(error)


def _split(url: str) -> SplitResult:
    """Split an address into its parts. Raises `ModelError` if it is invalid."""
    try:
        address = urlsplit(url)
        address.port  # noqa: B018  (reading it validates it)
    except ValueError as error:
        raise ModelError(
            f"{url}: not an address ({error}); write it like http://localhost:8000/v1"
        ) from None
    if address.scheme not in ("http", "https") or not address.hostname or not url.isprintable():
        raise ModelError(f"{url}: not an address; write it like http://localhost:8000/v1")
    return address


def _host(address: SplitResult) -> str:
    return address.hostname or ""


def _port(address: SplitResult) -> int:
    return address.port or (443 if address.scheme == "https" else 80)


def _tunnel(host: str, port: int, proxy: SplitResult) -> bytes:
    """Return the request that opens a tunnel through a proxy."""
    lines = "".join(f"{k}: {v}\r\n" for k, v in _proxy_authorization(proxy).items())
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{lines}\r\n".encode()


def _proxy_authorization(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(words).decode()}"}


def _proxy(address: SplitResult) -> SplitResult | None:
    """Return the environment's proxy for this address; None for loopback addresses."""
    host = _host(address)
    if host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    named = urllib.request.getproxies().get(address.scheme)
    return _split(named if "//" in named else f"http://{named}") if named else None
