"""A lean HTTP/1.1 client for one address: keep-alive connections, time-outs, and nothing else.

A model call is the hot path, and a general-purpose client would be most of its cost:
`bench/http_clients.py` compares this one with others. llhttp (`httptools`) parses; this module does
only what a POST of JSON needs. No cookies; a redirect is followed within the same server.

Nothing that a server sends leaves this module before the secrets of the request are hidden in it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Self, TypeVar

import msgspec
from msgspec.structs import replace

from sdsd.errors import ModelError, TransientError, Unreachable
from sdsd.models.addresses import Address, parse
from sdsd.models.connection_faults import explained, refused_tls
from sdsd.models.http_connection import Connection, NoReply, Reply, Timeouts
from sdsd.models.proxies import Proxy, proxy_for
from sdsd.text.normalize import encodable
from sdsd.text.secrets import Secrets, is_secret_name

T = TypeVar("T")

MAX_BYTES = 64 * 2**20
"""A longer reply is not a completion; it is refused before it fills the memory."""
_MOVED = {301, 302, 303, 307, 308}
_SAME_METHOD = {307, 308}
"""Redirects that keep the method and the body."""
_MOST_REDIRECTS = 5


def decode_json(body: bytes, decode: Callable[[bytes | str], T]) -> T:
    """Decode JSON from a server. An incomplete character (half a surrogate pair) becomes U+FFFD.

    Raises `ValueError` or `RecursionError` if it is not JSON or does not have the expected shape.
    """
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = json.dumps(json.loads(body.decode("utf-8", "replace")), ensure_ascii=False)
        return decode(encodable(text))


class Client:
    """Sends requests to one `base_url`. An async context manager: it owns its connections.

    key       the API key, sent as a bearer token; user info in `base_url` is sent instead of it,
              and a header `Authorization` instead of both
    secrets   what else no text may repeat: values that came from the environment

    It opens one connection per concurrent request; the caller limits their number. Every fault of
    transport raises `TransientError`; a certificate that is refused raises `ModelError`.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] = {},
        timeouts: Timeouts = Timeouts(),
        max_bytes: int = MAX_BYTES,
        *,
        key: str = "",
        secrets: Iterable[str] = (),
    ) -> None:
        self._address = parse(base_url)
        self._proxy = proxy_for(self._address)
        self._timeouts = timeouts
        self._heads: dict[tuple[str, str], bytes] = {}
        self.secrets = self._known_secrets(headers, [key, *secrets])
        self.base_url = self.secrets.hide(self._address.shown)
        """As messages show it."""
        self._lines = self._constant_lines(headers, key)
        self._max_bytes = max_bytes
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
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
            head = self._head(method, self._address.target(path, root=root), headers)
            if not (headers or root):
                self._heads[method, path] = head
        data = _message(head, body)
        try:
            reply = self._without_secrets(await self._exchange(data))
            if reply.status in _MOVED:
                reply = await self._followed(reply, method, path, body, headers, root=root)
        except TransientError as error:
            error.server = self.base_url
            raise
        return reply

    def _without_secrets(self, reply: Reply) -> Reply:
        if reply.status < 300:
            body = self.secrets.hide_in_reply(reply.body)
        else:
            body = self.secrets.hide_in_error(reply.body)
        return reply if body is reply.body else replace(reply, body=body)

    async def _exchange(self, data: bytes) -> Reply:
        """Send a request on an idle connection that is still open, or on a new one."""
        while self._idle:
            connection = self._idle.pop()
            try:
                return await connection.exchange(data, self._timeouts)
            except NoReply:
                # The server closed it while it was idle, which shows only now.
                continue
            finally:
                self._keep(connection)
        connection = await self._connect()
        try:
            return await connection.exchange(data, self._timeouts)
        except NoReply as error:
            fault = refused_tls(error.__cause__, self._address)
            raise fault or TransientError(str(error)) from None
        finally:
            self._keep(connection)

    async def _followed(
        self,
        reply: Reply,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        root: bool,
    ) -> Reply:
        """Follow redirects within the same server; of any other, say where it leads."""
        here = self._address
        target = here.target(path, root=root)
        for _ in range(_MOST_REDIRECTS):
            if reply.status not in _MOVED:
                return reply
            try:
                there = here.joined(target, reply.header("location") or "")
            except ModelError as error:
                return self._moved(reply, f"moved to {error}")
            if there.origin != here.origin or not (reply.status in _SAME_METHOD or method == "GET"):
                base = there.shown_below(path, here.end if root else "")
                return self._moved(reply, _new_home(there, base))
            target = f"{there.path}?{there.query}" if there.query else there.path
            data = _message(self._head(method, target, headers), body)
            reply = self._without_secrets(await self._exchange(data))
        return self._moved(reply, "redirects that do not end")

    def _moved(self, reply: Reply, text: str) -> Reply:
        """Return a redirect with what the user should know as its body."""
        return replace(reply, body=self.secrets.hide(text).encode())

    def _keep(self, connection: Connection) -> None:
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()  # do not wait for the server to do it
            self._open.discard(connection)

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._timeouts.connect):
                connection = await self._opened()
        except TimeoutError:
            seconds = self._timeouts.connect
            raise Unreachable(f"no connection in {seconds:g} s") from None
        except (OSError, NoReply, UnicodeError) as error:
            proxy = self._proxy.variable if self._proxy is not None else ""
            raise explained(error, self._address, proxy) from None
        self._open.add(connection)
        return connection

    async def _opened(self) -> Connection:
        loop, server, proxy = asyncio.get_running_loop(), self._address, self._proxy
        if server.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        name = server.host if server.secure else None
        make = lambda: Connection(self._max_bytes)  # noqa: E731
        if proxy is None:
            _, connection = await loop.create_connection(
                make, server.host, server.port, ssl=self._tls
            )
            return connection
        if proxy.socks:
            way = await proxy.connect(server)
            _, connection = await loop.create_connection(
                make, sock=way, ssl=self._tls, server_hostname=name
            )
            return connection
        there = proxy.address
        transport, connection = await loop.create_connection(make, there.host, there.port)
        if server.secure:
            asked = proxy.tunnel(server)
            said = await connection.exchange(asked, self._timeouts, tunnel=True)
            if said.status != 200:
                connection.close()
                raise proxy.refusal(said.status)
            secured = await loop.start_tls(transport, connection, self._tls, server_hostname=name)  # type: ignore[arg-type]
            connection.connection_made(secured)  # type: ignore[arg-type]
        return connection

    def _known_secrets(self, headers: Mapping[str, str], others: Iterable[str]) -> Secrets:
        """Collect what is sent and must not come back."""
        own = [value for name, value in headers.items() if is_secret_name(name)]
        own += [value.rpartition(" ")[2] for value in own]  # of `Bearer <key>`
        way = self._proxy.address.secrets if self._proxy is not None else []
        return Secrets([*self._address.secrets, *way, *own, *others], self._address.private)

    @property
    def _relay(self) -> Proxy | None:
        """The proxy that is sent whole addresses; None without one, and where it is a tunnel."""
        way = self._proxy
        return None if way is None or way.socks or self._address.secure else way

    def _constant_lines(self, headers: Mapping[str, str], key: str) -> dict[str, str]:
        """Return the headers of every request. The user's own come last, and win."""
        lines = {"Host": self._address.authority, "Accept": "application/json"}
        lines |= {"Accept-Encoding": "identity", "User-Agent": "sdsd"}
        if authorization := self._address.basic or (f"Bearer {key}" if key else ""):
            lines["Authorization"] = authorization
        if (way := self._relay) is not None:
            lines |= way.authorization
        given = {name.lower() for name in headers}
        lines = {name: v for name, v in lines.items() if name.lower() not in given} | {**headers}
        for name, value in lines.items():
            if not f"{name}{value}".isprintable() or not value.isascii():
                raise ModelError(
                    f"{self.base_url}: the header `{name}` holds a character that headers must not"
                )
        return lines

    def _head(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        """Return the request head up to the length of the body."""
        if self._relay is not None:
            target = f"http://{self._address.authority}{target}"
        lines = {**self._lines, **headers}.items()
        shown = "".join(f"{name}: {value}\r\n" for name, value in lines)
        return f"{method} {target} HTTP/1.1\r\n{shown}Content-Length: ".encode()


def _message(head: bytes, body: bytes) -> bytes:
    """Return a request; its head ends with the name of the length."""
    return b"%b%d\r\n\r\n%b" % (head, len(body), body)


def _new_home(there: Address, base: str) -> str:
    """Say where a server has moved: to `base` as the value of `base_url`, if that is known."""
    if base:
        return f"moved to another address: set `base_url` to {base}"
    return f"moved to {there.shown}: if that is not a login page, set `base_url` accordingly"
