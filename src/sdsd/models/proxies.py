"""The proxy on the way to a server, as the environment names it.

`HTTP_PROXY` and `HTTPS_PROXY` go by the scheme of the server's address, `ALL_PROXY` is for both,
and `NO_PROXY` lists exceptions: names, numbers, networks (`10.0.0.0/8`), patterns (`*.intra`).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.request
from collections.abc import Sequence
from fnmatch import fnmatch

from msgspec import Struct

from sdsd.errors import ModelError, ModelSetup, TransientError
from sdsd.models.addresses import Address, bracketed, parse

_HTTP = ("http",)
_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")
_FORBIDDEN = {401, 403, 405, 407}
_RESOLVING = ("socks4a", "socks5h")
"""SOCKS proxies that look up the server's name themselves."""
_LIKE = "write it like http://proxy:3128 or socks5h://proxy:1080"


class Proxy(Struct, frozen=True):
    """A proxy, and the variable that names it."""

    address: Address
    variable: str

    @property
    def socks(self) -> bool:
        return self.address.scheme in _SOCKS

    @property
    def authorization(self) -> dict[str, str]:
        """The header with the user info; empty without any."""
        basic = self.address.basic
        return {"Proxy-Authorization": basic} if basic else {}

    def tunnel(self, server: Address) -> bytes:
        """Return the request that opens a tunnel to a server."""
        way = f"{bracketed(server.host)}:{server.port}"
        lines = "".join(f"{k}: {v}\r\n" for k, v in self.authorization.items())
        return f"CONNECT {way} HTTP/1.1\r\nHost: {way}\r\n{lines}\r\n".encode()

    def refusal(self, status: int) -> ModelError | TransientError:
        """Return the fault to raise where the proxy answers a request for a tunnel by `status`."""
        if status in _FORBIDDEN:
            return ModelError(
                f"the proxy answered {status}; correct user name and password in "
                f"`{self.variable}`, or exempt the server with NO_PROXY"
            )
        return TransientError(f"the proxy answered {status}")

    async def connect(self, server: Address) -> socket.socket:
        """Connect to a server through a SOCKS proxy. Raises `OSError`."""
        from python_socks import ProxyError, ProxyType
        from python_socks.async_.asyncio import Proxy as Socks

        here = self.address
        socks = Socks(
            ProxyType.SOCKS5 if here.scheme.startswith("socks5") else ProxyType.SOCKS4,
            here.host,
            here.port,
            here.user or None,
            here.password or None,
            here.scheme in _RESOLVING,
        )
        try:
            connected: socket.socket = await socks.connect(server.host, server.port)
        except ProxyError as error:
            raise ConnectionError(str(error)) from None
        return connected


def proxy_for(server: Address) -> Proxy | None:
    """Return the proxy to a server; None for this machine, and where the environment names none.

    Raises `ModelSetup` that names the variable if the proxy cannot be used.
    """
    named = urllib.request.getproxies()
    key = next((key for key in (server.scheme, "all") if named.get(key)), "")
    if not key or _is_exempt(server, named.get("no", "")):
        return None
    spellings = (f"{key}_proxy", f"{key.upper()}_PROXY")
    variable = next((name for name in spellings if os.environ.get(name)), "the system's proxy")
    url = named[key]
    address = parse(
        url if "//" in url else f"http://{url}", variable, (*_HTTP, "https", *_SOCKS), _LIKE
    )
    if address.scheme == "https":
        raise ModelSetup(
            f"`{variable}`: {address.shown}: proxies that are themselves spoken to by TLS are not "
            "supported; most are meant by http://, which tunnels https:// servers as well"
        )
    if address.scheme in _SOCKS:
        _require_socks(variable)
    return Proxy(address, variable)


def _is_exempt(server: Address, exceptions: str) -> bool:
    """Return whether a server is reached directly."""
    name, entries = server.host.rstrip("."), exceptions.replace(",", " ").split()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if urllib.request.proxy_bypass(server.authority):
        return True
    if urllib.request.proxy_bypass(f"{server.host}:{server.port}"):
        return True
    if any(fnmatch(name, entry.casefold()) for entry in entries):
        return True
    try:
        number = ipaddress.ip_address(server.host)
    except ValueError:
        return False
    here = number.is_loopback or number.is_unspecified
    return here or any(number in net for net in _networks(entries))


def _networks(exceptions: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return the numbers and networks among the exceptions."""
    found = []
    for entry in exceptions:
        try:
            found.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            continue
    return found


def _require_socks(variable: str) -> None:
    try:
        import python_socks.async_.asyncio  # noqa: F401
    except ImportError:
        raise ModelSetup(
            f"`{variable}` names a SOCKS proxy, which needs an extra: pip install 'sdsd[socks]'; "
            "or name an HTTP proxy, or exempt the server with NO_PROXY"
        ) from None
