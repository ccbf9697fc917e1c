"""The address of a server, taken apart: what is connected to, what is sent, and what is shown.

User info (`http://alice:secret@host`) is sent as Basic authorization and never as part of the
address; a query string (`?api-version=2024-10-21`) is appended to the path of every request.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import SplitResult, quote, unquote, unquote_plus, urljoin, urlsplit

from msgspec import Struct

from sdsd.errors import ModelSetup
from sdsd.text.secrets import HIDDEN, is_secret_name, may_be_a_word

_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
_SAFE = "/%:@!$&'()*+,;=~-._?[]"
"""What a path or query may hold as it is; `%` because it may be quoted already."""
_LONG = 20
"""A part of a path or query of at least this many characters is taken for a key."""
_END = "/v1"
"""What the usual `base_url` ends with, and the addresses that are not OpenAI's do not."""
_HOST = re.compile(r"[\w.~%:-]+", re.ASCII)
_ROUTE = re.compile(r"(?:/chat)?/completions$|/(?:models|responses|embeddings)$")
"""What people copy into `base_url` with the rest of an address, and every request appends."""
_EXAMPLE = "write it like http://localhost:8000/v1"


class Address(Struct, frozen=True):
    """An address without secrets, except in `authorization`, `query` and `secrets`."""

    scheme: str
    host: str
    """Name or number, without brackets: what is connected to."""
    port: int
    authority: str
    """Host and port as they were written: the header `Host`."""
    path: str
    query: str = ""
    user: str = ""
    password: str = ""
    shown: str = ""
    """The address for messages: secrets are shown as `***`."""

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme == "https"

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two addresses of the same server have in common."""
        return self.scheme, self.host, self.port

    @property
    def basic(self) -> str:
        """The user info as a value of `Authorization`; empty without any."""
        if not (self.user or self.password):
            return ""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"

    @property
    def secrets(self) -> list[str]:
        """What no text may repeat."""
        found = [self.password or self.user, self.basic.removeprefix("Basic ")]
        return found + [unquote_plus(v) for k, v in _parameters(self.query) if _is_secret(k, v)]

    @property
    def private(self) -> list[str]:
        """What is not secret, but must not be published either."""
        segments = [part for part in self.path.split("/") if len(part) >= _LONG]
        found = [self.authority, self.host, *segments, self.user]
        return [part for part in found if "." in part or not may_be_a_word(part)]

    def target(self, path: str, *, root: bool = False) -> str:
        """Return the target of a request to `path` below it; with `root`, below its part before
        `/v1`."""
        base = _ROUTE.sub("", self.path.rstrip("/"))
        if root:
            base = base.removesuffix(_END)
        if not self.query:
            return f"{base}{path}"
        return f"{base}{path}{'&' if '?' in path else '?'}{self.query}"

    @property
    def end(self) -> str:
        """What the root of the server lacks of this address: `/v1` or nothing."""
        return _END if self.path.rstrip("/").endswith(_END) else ""

    def shown_below(self, path: str, end: str = "") -> str:
        """Return, for messages, the `base_url` below which this is `path`; empty if none is.

        `end` is that of the address below whose root it was asked for.
        """
        base, _, query = self.shown.partition("?")
        asked = path.partition("?")[0]
        if not base.endswith(asked):
            return ""
        return base.removesuffix(asked) + end + (f"?{query}" if query else "")

    def joined(self, target: str, location: str) -> Address:
        """Return the address that `Location` means in a reply to a request for `target`.

        Raises `ModelSetup` if it is none.
        """
        return parse(urljoin(f"{self.scheme}://{self.authority}{target}", location))


def parse(
    url: str, name: str = "", schemes: tuple[str, ...] = ("http", "https"), like: str = _EXAMPLE
) -> Address:
    """Take an address apart. `name` is the variable it comes from.

    Raises `ModelSetup` that says what is wrong, without repeating a password.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = _host(parts.hostname or ""), parts.port
    except (ValueError, UnicodeError) as error:
        raise _no_address(url, name, str(error), like) from None
    if parts.scheme not in schemes or not _HOST.fullmatch(host) or not url.isprintable():
        raise _no_address(url, name, "", like)
    authority = bracketed(host)
    if port is not None:
        authority += f":{port}"
    path, query = quote(parts.path, _SAFE), quote(parts.query, _SAFE)
    return Address(
        parts.scheme,
        host,
        port or _PORTS[parts.scheme],
        authority,
        path,
        query,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        f"{parts.scheme}://{_shown_user(parts)}{authority}{path}{_shown_query(query)}",
    )


def bracketed(host: str) -> str:
    """Return a host as addresses write it: a number of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _host(name: str) -> str:
    return name if name.isascii() else name.encode("idna").decode()


def _no_address(url: str, name: str, why: str, like: str) -> ModelSetup:
    """Return the error for what is not an address."""
    shown = re.sub(r"//.*@", f"//{HIDDEN}@", url)
    if shown != url:  # the reason could quote a part of the password
        why = "write special characters of user name and password as %XX"
    source = f"`{name}`: " if name else ""
    return ModelSetup(f"{source}{shown}: not an address{f' ({why})' if why else ''}; {like}")


def _parameters(query: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in query.split("&"))
    return [(key, value) for key, _, value in pairs]


def _is_secret(name: str, value: str) -> bool:
    return bool(value) and (is_secret_name(name) or len(value) >= _LONG)


def _shown_user(parts: SplitResult) -> str:
    return f"{HIDDEN}@" if parts.username or parts.password else ""


def _shown_query(query: str) -> str:
    if not query:
        return ""
    shown = (f"{k}={HIDDEN}" if _is_secret(k, v) else f"{k}={v}" for k, v in _parameters(query))
    return f"?{'&'.join(shown)}"
