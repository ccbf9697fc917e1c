"""The HTTP client against servers that say exactly these bytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import importlib.util
import selectors
import socket
import ssl
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd.errors import Malformed, ModelError, TransientError
from sdsd.models import http_client as module
from sdsd.models.addresses import parse
from sdsd.models.http_client import Client
from sdsd.models.http_connection import Timeouts
from sdsd.models.proxies import proxy_for

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name: a\r\n\r\nhi"


@contextlib.asynccontextmanager
async def serving(speak: Speak, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server whose every connection is `speak`; yields the port."""
    inside: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        inside.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await speak(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            inside.discard(task)

    async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
        for task in inside:
            task.cancel()
        await asyncio.gather(*inside, return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports learn of it


async def heard(reader: asyncio.StreamReader) -> bytes:
    """One request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    return head + await reader.readexactly(length)


class Saying:
    """Answers every request on a connection with the next of `replies`, in the given pieces."""

    def __init__(self, *replies: bytes | list[bytes], close: bool = False) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._replies = list(replies)
        self._close = close

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while self._replies:
            self.requests.append(await heard(reader))
            reply = self._replies.pop(0)
            for piece in reply if isinstance(reply, list) else [reply]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if self._close:
                return
        await reader.read()


async def ask(port: int, *, times: int = 1, timeouts: Timeouts = Timeouts()) -> list[bytes]:
    async with Client(f"http://127.0.0.1:{port}/v1", timeouts=timeouts) as client:
        return [(await client.request("POST", "/x", b"{}")).body for _ in range(times)]


async def test_what_is_sent() -> None:
    server = Saying(OK)
    key = {"Authorization": "Bearer k"}
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}/v1/", key) as client:
        reply = await client.request("POST", "/chat/completions", b'{"a": 1}', {"X-One": "1"})
    assert (reply.status, reply.body, reply.header("x-name")) == (200, b"hi", "a")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert dict(line.split(": ") for line in lines) == {
        "Host": f"127.0.0.1:{port}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "sdsd",
        "Authorization": "Bearer k",
        "X-One": "1",
        "Content-Length": "8",
    }
    assert body == b'{"a": 1}'


async def test_the_root_is_what_stands_before_v1() -> None:
    server = Saying(OK, OK)
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}/api/v1") as client:
        await client.request("GET", "/metrics", root=True)
        await client.request("GET", "/models")
    firsts = [request.partition(b" HTTP")[0] for request in server.requests]
    assert firsts == [b"GET /api/metrics", b"GET /api/v1/models"]


async def test_a_connection_is_used_again() -> None:
    server = Saying(OK, OK, OK)
    async with serving(server) as port:
        assert await ask(port, times=3) == [b"hi"] * 3
    assert server.connections == 1


async def test_trailers_and_early_hints_are_no_text() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    chunks = b"1;ext=1\r\nh\r\n1\r\ni\r\n0\r\nX-Sum: 7\r\nX-More: 8\r\n\r\n"
    async with serving(Saying(hints + chunked + chunks, OK)) as port:
        assert await ask(port, times=2) == [b"hi", b"hi"]


@pytest.mark.parametrize("close", ["Connection: close\r\n", ""])
async def test_a_connection_that_the_server_closes_is_replaced(close: str) -> None:
    said = OK.replace(b"\r\n", f"\r\n{close}".encode(), 1)
    server = Saying(said, said, said, close=True)
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}/v1") as client:
        for _ in range(3):
            assert (await client.request("POST", "/x", b"{}")).body == b"hi"
            await asyncio.sleep(0.01)
    assert server.connections == 3


async def test_a_connection_that_the_server_only_says_it_closes_is_closed() -> None:
    said = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    ended = asyncio.Event()

    async def keeps_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the client lets go
        ended.set()

    async with serving(keeps_open) as port, Client(f"http://127.0.0.1:{port}/v1") as client:
        assert (await client.request("POST", "/x", b"{}")).body == b"hi"
        await asyncio.wait_for(ended.wait(), 5)


async def test_as_many_connections_as_requests_at_once() -> None:
    server = Saying(*[OK] * 8)
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}/v1") as client:
        await asyncio.gather(*(client.request("POST", "/x") for _ in range(4)))
        await asyncio.gather(*(client.request("POST", "/x") for _ in range(4)))
    assert (server.connections, len(server.requests)) == (4, 8)


@settings(max_examples=40)
@given(st.data())
def test_a_reply_may_come_in_any_pieces(data: st.DataObject) -> None:
    body = data.draw(st.binary(max_size=60).map(lambda b: b and b"{%b" % b))  # not compressed
    if data.draw(st.booleans()):
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    else:
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def go() -> None:
        async with serving(Saying(pieces, pieces)) as port:
            assert await ask(port, times=2) == [body] * 2

    asyncio.run(go())


async def test_a_reply_without_a_length_ends_with_the_connection() -> None:
    async with serving(Saying(b"HTTP/1.1 200 OK\r\n\r\nall of it", close=True)) as port:
        assert await ask(port) == [b"all of it"]


async def test_what_comes_before_the_reply_is_not_the_reply() -> None:
    async with serving(Saying(b"HTTP/1.1 103 Early Hints\r\nX-Name: b\r\n\r\n" + OK)) as port:
        assert await ask(port) == [b"hi"]


async def test_a_second_reply_is_never_taken_for_the_next_ones() -> None:
    other = OK.replace(b"hi", b"no")
    server = Saying(OK + other, other)
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}/v1") as client:
        first = await client.request("POST", "/x")
        await asyncio.sleep(0.01)
        assert (first.body, first.header("content-length")) == (b"hi", "2")
        assert (await client.request("POST", "/x")).body == b"no"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"", "the server closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
    ],
)
async def test_what_is_no_reply_may_pass(said: bytes, complaint: str) -> None:
    async with serving(Saying(said, close=True)) as port:
        with pytest.raises(TransientError, match=complaint) as caught:
            await ask(port)
    assert caught.value.with_server == f"http://127.0.0.1:{port}/v1: {caught.value}"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await heard(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.02)


async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await heard(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n...")
    await reader.read()


@pytest.mark.parametrize(
    ("speak", "timeouts", "complaint"),
    [
        (silent, Timeouts(total=0.1, idle=0.03), "no complete reply in 0.1 s"),
        (dripping, Timeouts(total=0.2, idle=0.1), "no complete reply in 0.2 s"),
        (stalling, Timeouts(total=5.0, idle=0.1), "silent for 0.1 s"),
    ],
)
async def test_time_outs(speak: Speak, timeouts: Timeouts, complaint: str) -> None:
    async with serving(speak) as port:
        with pytest.raises(TransientError, match=complaint):
            await ask(port, timeouts=timeouts)


class Starved(selectors.DefaultSelector):
    """Acts late on what it has seen, once a request was heard: the system runs other programs."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.begun = threading.Event(), threading.Event()

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(timeout)
        if not found and self.heard.is_set() and not self.begun.is_set():
            self.begun.set()
            time.sleep(0.7)
        return found


def test_a_reply_that_arrived_while_the_process_was_not_run_is_not_late() -> None:
    starved = Starved()

    def speak(server: socket.socket) -> None:
        with server.accept()[0] as connection, contextlib.suppress(ConnectionError):
            connection.recv(9999)
            starved.heard.set()
            starved.begun.wait()
            connection.sendall(OK)
            connection.recv(9999)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=speak, args=(server,))
        thread.start()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(starved)) as runner:
            asking = ask(server.getsockname()[1], timeouts=Timeouts(total=0.5))
            assert runner.run(asking) == [b"hi"]
        thread.join()


async def test_a_slow_reply_that_keeps_coming_is_waited_for() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        for byte in OK:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.002)

    async with serving(slowly) as port:
        assert await ask(port, timeouts=Timeouts(total=5.0, idle=0.06)) == [b"hi"]


async def test_a_reply_without_end_is_refused() -> None:
    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + bytes(0x100000) + b"\r\n"
        while True:
            writer.write(piece)
            await writer.drain()

    async with serving(flooding) as port:
        with pytest.raises(TransientError, match=f"more than {module.MAX_BYTES:,} bytes"):
            await ask(port)


async def test_a_request_that_is_given_up_takes_its_connection_with_it() -> None:
    server = Saying(OK)
    async with serving(silent) as port, Client(f"http://127.0.0.1:{port}/v1") as client:
        task = asyncio.create_task(client.request("POST", "/x"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client._open
    assert not server.requests


async def test_nobody_listens() -> None:
    async with serving(silent) as port:
        pass
    with pytest.raises(TransientError, match="cannot connect"):
        await ask(port)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "naïve", "\x00"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    with pytest.raises(ModelError, match="the header `X-Own`"):
        Client("http://localhost/v1", {"X-Own": value})


# -- proxies and TLS -----------------------------------------------------------------------


async def test_a_proxy_is_asked_for_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Saying(OK)
    async with serving(server) as port:
        monkeypatch.setenv("http_proxy", f"http://me:s%40cret@127.0.0.1:{port}")
        async with Client("http://models.invalid:8000/v1") as client:
            assert (await client.request("POST", "/x")).body == b"hi"
    head = server.requests[0].decode()
    assert head.startswith("POST http://models.invalid:8000/v1/x HTTP/1.1\r\n")
    assert "Host: models.invalid:8000\r\n" in head
    word = base64.b64encode(b"me:s@cret").decode()
    assert f"Proxy-Authorization: Basic {word}\r\n" in head


async def test_no_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://nowhere.invalid:1")
    async with serving(Saying(OK)) as port:
        assert await ask(port) == [b"hi"]


async def test_tls_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONNECT opens the way, then the server behind it is spoken to, and its name checked."""
    certificate = Path(__file__).parents[1] / "data" / "models.invalid.pem"
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)
    asked: list[bytes] = []

    async with serving(Saying(OK), theirs) as port:

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            there, back = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as group:
                group.create_task(pumped(reader, back))
                group.create_task(pumped(there, writer))

        async with serving(proxy) as way:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{way}")
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            async with Client("https://models.invalid/v1") as client:
                assert (await client.request("POST", "/x")).body == b"hi"
            async with Client("https://other.invalid/v1") as client:
                with pytest.raises(ModelError, match=r"ostname mismatch.*a name in `base_url`"):
                    await client.request("POST", "/x")
    assert asked[0] == b"CONNECT models.invalid:443 HTTP/1.1\r\nHost: models.invalid:443\r\n\r\n"


async def pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end."""
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


async def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Saying(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as way:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{way}")
        async with Client("https://models.invalid/v1") as client:
            with pytest.raises(ModelError, match=r"the proxy answered 407; .*`https_proxy`"):
                await client.request("POST", "/x")


# -- addresses, redirects, and what comes back ------------------------------------------------


async def requested(base: str, *replies: bytes, method: str = "POST", **keys: Any) -> Any:
    """The reply to one request at an address below a server that gives `replies`; what it saw."""
    server = Saying(*replies)
    async with (
        serving(server) as port,
        Client(base.replace("HOST", f"127.0.0.1:{port}"), **keys) as client,
    ):
        reply = await client.request(method, "/x", b"{}")
    return reply, server.requests, port


def moved(status: int, to: str) -> bytes:
    return f"HTTP/1.1 {status} M\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("base", "keys", "authorization"),
    [
        ("http://HOST/v1", {"key": "k"}, "Bearer k"),
        ("http://alice:s3cret@HOST/v1", {}, "Basic YWxpY2U6czNjcmV0"),
        ("http://alice:s3cret@HOST/v1", {"key": "k"}, "Basic YWxpY2U6czNjcmV0"),
        ("http://a:b@HOST/v1", {"key": "k", "headers": {"authorization": "Own x"}}, "Own x"),
    ],
)
async def test_one_authorization_is_sent(
    base: str, keys: dict[str, Any], authorization: str
) -> None:
    _, requests, _ = await requested(base, OK, **keys)
    head = requests[0].decode().lower()
    assert head.count("authorization:") == 1
    assert f"authorization: {authorization.lower()}\r\n" in head
    assert "@" not in head


@pytest.mark.parametrize(
    ("status", "to", "method", "target"),
    [
        (307, "/v2/x", "POST", "/v2/x"),
        (308, "/v1/x/", "POST", "/v1/x/"),
        (308, "http://HOST/v1/x?a=b", "POST", "/v1/x?a=b"),
        (301, "/v2/x", "GET", "/v2/x"),
    ],
)
async def test_a_redirect_within_the_server_is_followed(
    status: int, to: str, method: str, target: str
) -> None:
    server = Saying()
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}/v1") as client:
        server._replies += [moved(status, to.replace("HOST", f"127.0.0.1:{port}")), OK]
        reply = await client.request(method, "/x", b"{}")
    assert (reply.status, reply.body) == (200, b"hi")
    assert server.requests[1].startswith(f"{method} {target} HTTP/1.1".encode())
    assert server.requests[1].endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(
    ("status", "to", "complaint"),
    [
        (308, "https://HOST/v1/x", "set `base_url` to https://HOST/v1"),
        (301, "/new/v1/x", "set `base_url` to http://HOST/new/v1"),
        (307, "http://other.example/v1/x?api=1", "to http://other.example/v1?api=1"),
        (
            302,
            "https://sso.example/login?token=abc",
            "moved to https://sso.example/login?token=***:",
        ),
        (302, "ftp://HOST/x", "not an address"),
    ],
)
async def test_any_other_redirect_is_explained(status: int, to: str, complaint: str) -> None:
    server = Saying()
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}/v1") as client:
        server._replies.append(moved(status, to.replace("HOST", f"127.0.0.1:{port}")))
        reply = await client.request("POST", "/x", b"{}")
    assert reply.status == status
    assert complaint.replace("HOST", f"127.0.0.1:{port}") in reply.body.decode()


@pytest.mark.parametrize(
    ("base", "root", "to", "home"),
    [
        ("/v1?api-version=1", False, "/v1/x?api-version=1", "/v1?api-version=1"),
        ("/v1?api-version=1", False, "/v1/x", "/v1"),
        ("/v1/?api-version=1", False, "/new/v1/x?api-version=1", "/new/v1?api-version=1"),
        ("/v1", True, "/x", "/v1"),
        ("/v1?api-version=1", True, "/new/x?api-version=1", "/new/v1?api-version=1"),
        ("/api", True, "/api/x", "/api"),
        ("", True, "/x", ""),
    ],
)
async def test_where_a_server_has_moved_is_said_as_a_whole_base_url(
    base: str, root: bool, to: str, home: str
) -> None:
    """Whatever follows the path, and whichever part of the address the request was sent below."""
    server = Saying(moved(308, f"https://new.example{to}"))
    async with serving(server) as port, Client(f"http://127.0.0.1:{port}{base}") as client:
        reply = await client.request("POST", "/x", b"{}", root=root)
    assert reply.body.decode().endswith(f": set `base_url` to https://new.example{home}")


async def test_redirects_end() -> None:
    reply, requests, _ = await requested("http://HOST/v1", *[moved(307, "/v1/x")] * 9)
    assert (reply.body, len(requests)) == (b"redirects that do not end", 6)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"[1]", mtime=0)),
        ("", gzip.compress(b"[1]", mtime=0)),  # sniffed
        ("deflate", zlib.compress(b"[1]")),
        ("deflate", zlib.compress(b"[1]", wbits=-15)),  # what some servers take deflate for
        ("deflate, gzip", gzip.compress(zlib.compress(b"[1]"), mtime=0)),
        ("Deflate ", zlib.compress(b"[1]")),
        ("gzip", gzip.compress(gzip.compress(b"[1]", mtime=0), mtime=0)),  # by server and gateway
        ("gzip", gzip.compress(b"[", mtime=0) + gzip.compress(b"1]", mtime=0)),
        ("gzip", b"[1]"),  # decompressed on the way
        ("br", b"[1]"),
        ("identity", b"[1]"),
    ],
)
async def test_a_compressed_reply_is_read(encoding: str, body: bytes) -> None:
    reply, _, _ = await requested("http://HOST/v1", encoded(200, encoding, body))
    assert reply.body == b"[1]"


@pytest.mark.parametrize("encoding", ["br", "zstd", "BR", "br, gzip"])
async def test_a_compression_that_is_not_read_is_named(encoding: str) -> None:
    """For any bytes that are no text: nothing reads them."""
    body = bytes.fromhex("0b07807b2263686f69636573223a205b5d7d03")
    if encoding == "br, gzip":
        body = gzip.compress(body, mtime=0)
    name = encoding.casefold().partition(",")[0]
    with pytest.raises(
        Malformed, match=rf"compressed \({name}\).*switch compression off"
    ) as caught:
        await requested("http://HOST/v1", encoded(200, encoding, body))
    assert "\n" not in str(caught.value)
    reply, _, _ = await requested("http://HOST/v1", encoded(401, encoding, body))
    assert reply.status == 401  # what it means does not depend on its words
    assert f"compressed ({name})".encode() in reply.body


def encoded(status: int, encoding: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} S\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Encoding: {encoding}\r\n\r\n".encode() + body


async def test_what_the_server_repeats_is_hidden() -> None:
    echo = b"k=q1w2e3r4 and alice:s3cret"
    for status in (200, 400, 500):
        said = b"HTTP/1.1 %d S\r\nContent-Length: %d\r\n\r\n%b" % (status, len(echo), echo)
        base = "http://alice:s3cret@HOST/v1?key=q1w2e3r4"
        reply, _, _ = await requested(base, said)
        assert reply.body == b"k=*** and alice:***"


@pytest.mark.parametrize(
    ("variables", "url", "through"),
    [
        ({"all_proxy": "http://p:1"}, "http://h/v1", "all_proxy"),
        ({"ALL_PROXY": "p:1"}, "https://h/v1", "ALL_PROXY"),
        ({"all_proxy": "http://p:1", "http_proxy": "http://q:2"}, "http://h/v1", "http_proxy"),
        ({"https_proxy": "http://p:1"}, "http://h/v1", None),
        ({"all_proxy": "http://p:1", "no_proxy": "h"}, "http://h/v1", None),
        ({"all_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, "http://10.1.2.3/v1", None),
        ({"all_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, "http://11.1.2.3/v1", "all_proxy"),
        ({"all_proxy": "http://p:1", "no_proxy": "fd00::/8, x"}, "http://[fd00::1]/v1", None),
        ({"all_proxy": "http://p:1", "no_proxy": "*"}, "http://h/v1", None),
        ({"all_proxy": "http://p:1"}, "http://127.0.0.9/v1", None),
        ({"all_proxy": "http://p:1"}, "http://[::1]/v1", None),
        ({"all_proxy": "http://p:1"}, "http://0.0.0.0:8000/v1", None),
        ({"all_proxy": "http://p:1"}, "http://api.localhost/v1", None),
        ({"all_proxy": "http://p:1"}, "http://localhost.:8000/v1", None),
        ({"all_proxy": "http://p:1", "no_proxy": "*.intra"}, "http://h.intra/v1", None),
        ({"all_proxy": "http://p:1", "no_proxy": "*.intra"}, "http://intra.h/v1", "all_proxy"),
        ({"all_proxy": "http://p:1", "no_proxy": "a h.intra"}, "http://h.intra/v1", None),
        ({"all_proxy": "http://p:1", "no_proxy": "10.*"}, "http://10.1.2.3/v1", None),
        ({}, "http://h/v1", None),
    ],
)
def test_the_proxy_that_the_environment_names(
    variables: dict[str, str], url: str, through: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(parse(url))
    assert (found and found.variable) == through


@pytest.mark.parametrize(
    ("proxy", "complaint"),
    [
        ("http://[::1", r"`ALL_PROXY`: http://\[::1: not an address"),
        ("gopher://p:1", "`ALL_PROXY`: .*write it like http://proxy:3128 or socks5h://proxy:1080"),
        ("https://p:1", "`ALL_PROXY`: .*by TLS are not supported"),
        ("http://me:s3cr#t@p:1", r"`ALL_PROXY`: http://\*\*\*@p:1: not an address"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    proxy: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ModelError, match=complaint) as error:
        Client("http://models.invalid/v1")
    assert "s3cr" not in str(error.value)


async def test_a_socks_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 1928: greeting, password, request with the server's name, then the connection."""
    monkeypatch.setenv("ALL_PROXY", "socks5h://me:s3cret@127.0.0.1:1")
    if importlib.util.find_spec("python_socks") is None:
        with pytest.raises(ModelError, match=r"`ALL_PROXY` names a SOCKS .*'sdsd\[socks\]'"):
            Client("http://models.invalid/v1")
        return
    heard_of: list[bytes] = []

    async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly((await reader.readexactly(2))[1])
        writer.write(b"\x05\x02")
        heard_of.append(await reader.readexactly(2 + 2 + 1 + 6))
        writer.write(b"\x01\x00")
        heard_of.append(await reader.readexactly(5 + len("models.invalid") + 2))
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        heard_of.append(await heard(reader))
        writer.write(OK)
        await reader.read()

    async with serving(socks) as port:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://me:s3cret@127.0.0.1:{port}")
        async with Client("http://models.invalid:8000/v1") as client:
            assert (await client.request("POST", "/x")).body == b"hi"
    assert heard_of[0] == b"\x01\x02me\x06s3cret"
    assert heard_of[1] == b"\x05\x01\x00\x03\x0emodels.invalid" + (8000).to_bytes(2, "big")
    assert heard_of[2].startswith(b"POST /v1/x HTTP/1.1\r\n")


async def test_a_server_without_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with serving(plain) as port, Client(f"https://127.0.0.1:{port}/v1") as client:
        with pytest.raises(ModelError, match=r"does not speak TLS.*http://"):
            await client.request("POST", "/x")


async def test_a_server_with_tls_at_an_address_without() -> None:
    async with serving(Saying(b"\x15\x03\x01\x00\x02\x02\x50", close=True)) as port:
        with pytest.raises(TransientError, match=r"not HTTP.*begin the address with https://"):
            await ask(port)


DATA = Path(__file__).parents[1] / "data"
OWN, SIGNED = DATA / "models.invalid.pem", DATA / "tls"
"""A certificate that signs itself, and those of an authority."""


def certified(certificate: Path, **ways: Any) -> ssl.SSLContext:
    """What a server with this certificate does."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)
    for name, value in ways.items():
        setattr(theirs, name, value)
    return theirs


@pytest.mark.parametrize(
    ("certificate", "variables", "complaint"),
    [
        (OWN, {}, "self.signed certificate; if you trust it, set SSL_CERT_FILE to it"),
        (OWN, {"FILE": SIGNED / "authority.pem"}, "which does not have this certificate: add it"),
        (SIGNED / "good.pem", {}, "if a private authority issued it, set SSL_CERT_FILE to"),
        (SIGNED / "good.pem", {"FILE": "missing.pem"}, "'missing.pem', which is not a file"),
        (SIGNED / "good.pem", {"FILE": ""}, "SSL_CERT_FILE names '', which is not a file"),
        (SIGNED / "good.pem", {"FILE": DATA}, "which is not a file"),
        (SIGNED / "good.pem", {"FILE": __file__}, "no certificate can be read .a PEM file is"),
        (SIGNED / "good.pem", {"FILE": OWN}, "does not have the certificate of the authority that"),
        (
            SIGNED / "leaf.pem",
            {"FILE": SIGNED / "authority.pem"},
            "not send one in between.: add",
        ),
        (SIGNED / "good.pem", {"DIR": SIGNED}, "run `openssl rehash` on the directory"),
        (SIGNED / "good.pem", {"DIR": "missing"}, "'missing' that SSL_CERT_DIR names, the cert"),
        (SIGNED / "expired.pem", {"FILE": SIGNED / "authority.pem"}, "has expired; renew it, or c"),
        (SIGNED / "future.pem", {"FILE": SIGNED / "authority.pem"}, "not yet valid; renew it, or"),
        (SIGNED / "client.pem", {"FILE": SIGNED / "authority.pem"}, "purpose; it has to be issued"),
        (OWN, {"FILE": OWN}, "not valid for '127.0.0.1'; use a name in `base_url`"),
    ],
)
async def test_a_certificate_that_is_refused(
    certificate: Path,
    variables: dict[str, Path | str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is wrong with it, or with what is to vouch for it, the remedy is for that."""
    for name in ("FILE", "DIR"):
        monkeypatch.delenv(f"SSL_CERT_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"SSL_CERT_{name}", str(value))
    async with (
        serving(Saying(OK), certified(certificate)) as port,
        Client(f"https://127.0.0.1:{port}") as client,
    ):
        with pytest.raises(ModelError, match=f"its certificate is refused: .*{complaint}"):
            await client.request("POST", "/x")


@pytest.mark.parametrize("name", ["FILE", "DIR"])
async def test_a_certificate_of_an_authority_that_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "35195b66.0").symlink_to(SIGNED / "authority.pem")  # as `openssl rehash` does
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    value = {"FILE": SIGNED / "authority.pem", "DIR": tmp_path}[name]
    monkeypatch.setenv(f"SSL_CERT_{name}", str(value))
    async with (
        serving(Saying(OK), certified(SIGNED / "good.pem")) as port,
        Client(f"https://127.0.0.1:{port}") as client,
    ):
        assert (await client.request("POST", "/x")).body == b"hi"


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_demands_a_client_certificate(
    newest: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TLS 1.3 that comes out only in place of the first reply."""
    monkeypatch.setenv("SSL_CERT_FILE", str(SIGNED / "authority.pem"))
    theirs = certified(
        SIGNED / "good.pem", verify_mode=ssl.CERT_REQUIRED, maximum_version=newest
    )  # fmt: skip

    def speak(server: socket.socket) -> None:
        way = server.accept()[0]
        with theirs.wrap_socket(way, server_side=True, do_handshake_on_connect=False) as secured:
            with contextlib.suppress(ssl.SSLError):
                secured.do_handshake()
            socket.socket.shutdown(secured, socket.SHUT_WR)
            socket.socket.recv(secured, 9999)  # what is not read would reset the connection

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=speak, args=(server,))
        thread.start()
        async with Client(f"https://127.0.0.1:{server.getsockname()[1]}") as client:
            with pytest.raises(ModelError, match=r"no connection by TLS: .*client certificate"):
                await client.request("POST", "/x")
        thread.join()


@pytest.mark.parametrize(
    ("alert", "complaint"),
    [
        (40, "handshake failure; .*no TLS version or cipher in common"),
        (70, "protocol version; .*no TLS version or cipher in common"),
        (112, "unrecognized name; the server does not know the name in `base_url`"),
    ],
)
async def test_a_server_that_refuses_tls_as_it_is_spoken(alert: int, complaint: str) -> None:
    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x15\x03\x03\x00\x02\x02" + bytes([alert]))
        await reader.read()

    async with serving(refusing) as port, Client(f"https://127.0.0.1:{port}/v1") as client:
        with pytest.raises(ModelError, match=f"no connection by TLS: .*{complaint}"):
            await client.request("POST", "/x")


async def test_a_server_that_closes_while_tls_is_agreed_on_may_come_back() -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)

    async with serving(closing) as port, Client(f"https://127.0.0.1:{port}/v1") as client:
        with pytest.raises(TransientError, match="cannot connect: the server closed the connect"):
            await client.request("POST", "/x")
