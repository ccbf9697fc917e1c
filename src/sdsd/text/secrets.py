"""Keep secrets out of whatever is written or shown.

A server may repeat what it was sent: the refused request with its headers, the address with its
query. `Secrets` finds a known secret in such a text, plain or escaped by JSON, a URL or HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

HIDDEN = "***"
_NAME = re.compile(
    r"(?:key|token|secret|pass|passw(?:or)?d|pwd|auth|authorization|credentials?|cookie|sig|"
    r"signature|code|session|jwt|bearer)$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_PLAIN = re.compile(r"[A-Za-z0-9]+")
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{20,}", re.ASCII)
"""A secret of this form is recognised by its first characters, even if the rest was cut off."""
_HEAD = 16
_LONGEST_FORM = 12
"""Bytes that a character takes in the longest of its usual forms, quoted twice."""
_MOST = 2**16
"""Bytes of the body of an error that are looked at."""
_SHORT = 8
"""A secret of fewer characters is found only where no letter or digit adjoins it."""


def is_secret_name(name: str) -> bool:
    """Return whether a header, parameter or field of this name holds a secret.

    >>> [is_secret_name(name) for name in ("X-Api-Key", "apikey", "max_tokens", "tokenizer")]
    [True, True, False, False]
    """
    return any(_NAME.search(word) for word in _WORD.findall(name))


class Secrets:
    """The secrets that one server is sent, and the private details of its address."""

    def __init__(self, secrets: Iterable[str], private: Iterable[str] = ()) -> None:
        """`private` is hidden in error messages only, as are secrets that could be words."""
        private = [detail for detail in private if detail]
        known = sorted({s.strip() for s in secrets} - {""}, key=len, reverse=True)
        certain = [secret for secret in known if not may_be_a_word(secret)]
        self._secrets = _pattern(known)
        self._in_errors = _pattern([*known, *private])
        self._in_replies = _pattern(certain)
        self._traces = tuple(_trace(secret) for secret in certain)
        self._longest = _LONGEST_FORM * max(map(len, [*known, *private]), default=0)

    def hide(self, text: str) -> str:
        """Return a text for the user without any secret."""
        if self._secrets is None:
            return text
        data = self._secrets.sub(HIDDEN.encode(), text.encode("utf-8", "surrogatepass"))
        return data.decode("utf-8", "surrogatepass")

    def hide_in_error(self, body: bytes) -> bytes:
        """Return the beginning of the body of an error without any secret or private detail.

        Whoever quotes less of it must cut what this returns: half a secret is not found. So where
        this cuts, what could be half of one goes as well.
        """
        beginning = body[:_MOST]
        if self._in_errors is None:
            return beginning
        hidden = self._in_errors.sub(HIDDEN.encode(), beginning)
        return hidden if len(body) <= _MOST else hidden[: max(len(hidden) - self._longest, 0)]

    def hide_in_reply(self, body: bytes) -> bytes:
        """Return the body of a successful reply without secrets, unless they could be words.

        A password such as `model` must not change what a model wrote, or the JSON around it. This
        is called for every reply, so the pattern is only tried where a trace of a secret is found.
        """
        for trace in self._traces:
            if trace in body:
                assert self._in_replies is not None
                return self._in_replies.sub(HIDDEN.encode(), body)
        return body


def may_be_a_word(secret: str) -> bool:
    """Return whether a text could contain this secret by chance.

    >>> [may_be_a_word(text) for text in ("EMPTY", "not-needed", "s3cret", "sk-1f3b77aa09")]
    [True, True, False, False]
    """
    return len(secret) < 6 or (len(secret) < 20 and not any(map(str.isdigit, secret)))


def _head(secret: str) -> str:
    """Return the part by which a secret is recognised."""
    return secret[:_HEAD] if _TOKEN.fullmatch(secret) else secret


def _trace(secret: str) -> bytes:
    """Return the longest part that no encoding escapes."""
    return max(_PLAIN.findall(_head(secret)), key=len, default="").encode()


def _pattern(secrets: Iterable[str]) -> re.Pattern[bytes] | None:
    """Return a pattern that finds each of the secrets in any of its forms; None if there are none.

    The longest must come first.
    """
    found = b"|".join(map(_forms, secrets))
    return re.compile(found) if found else None


def _forms(secret: str) -> bytes:
    head = _head(secret)
    # Runs of backslashes are one: how many there are depends on how often a text was quoted.
    found = b"".join(map(_escaped, re.sub(r"\\+", r"\\", head)))
    if not _PLAIN.match(head):
        found = rb"(?<!\\)" + found  # such a run is tried once, not from each of its characters
    if head != secret:
        return found + rb"(?:[A-Za-z0-9_.~+/=%-]|\\+[/u]|&#\d+;)*+"
    if len(secret) < _SHORT:
        return rb"(?<![A-Za-z0-9])" + found + rb"(?![A-Za-z0-9])"
    return found


def _escaped(char: str) -> bytes:
    """Return a pattern for a character as JSON, URLs and HTML escape it, and as it is."""
    if _PLAIN.fullmatch(char):
        return char.encode()
    if char == "\\":
        return rb"(?:\\(?:u005[cC])?|%5[cC]|&#0*92;)++"
    plain = char.encode("utf-8", "surrogatepass")
    units = char.encode("utf-16-be", "surrogatepass")
    hexes = [units[i : i + 2].hex().encode() for i in range(0, len(units), 2)]
    ways = [
        rb"(?i:u" + rb"\\++u".join(hexes) + rb")",
        rb"(?i:" + b"".join(b"%%%02x" % byte for byte in plain) + rb")",
        rb"&#0*" + str(ord(char)).encode() + b";",
        re.escape(html.escape(char).encode()),
        re.escape(plain),
    ]
    if char == " ":
        ways.append(rb"\+")
    return rb"\\*+(?:" + b"|".join(ways) + rb")"
