"""Decompress replies: some gateways compress them although no request has asked for that."""

from __future__ import annotations

import zlib

_MOST_BYTES = 64 * 2**20
"""A body that unpacks to more is not read."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""What `zlib` calls the formats that it reads."""
_MAGIC = {
    b"\x1f\x8b": "gzip", b"x\x01": "deflate", b"x\x5e": "deflate", b"x\x9c": "deflate",
    b"x\xda": "deflate", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2",
}  # fmt: skip
"""How compressed bodies begin. Brotli has no such mark."""
_TEXT = (b"{", b"[", b'"', b"<", b":", b"data:")
"""How bodies begin that are not compressed, whatever their header says."""
_PLAIN = ("", "identity", "gzip")
"""Encodings that say nothing of a body without a mark: gzip has one."""


def unpacked(body: bytes, encoding: str = "") -> bytes:
    """Return a body decompressed, even twice, or as it is if it is not compressed.

    encoding  its `Content-Encoding`, which counts less than how it begins: some gateways decompress
              a body and leave the header as it was

    Raises `ValueError` if it is damaged, too large, or compressed in a way that is not read.
    """
    named = [name.strip().removeprefix("x-") for name in encoding.casefold().split(",")]
    for name in [*reversed(named), ""]:  # the last one was applied last; a gateway may name none
        body = _unpacked(body, name)
    return body


def _unpacked(body: bytes, named: str) -> bytes:
    found = next((name for magic, name in _MAGIC.items() if body.startswith(magic)), "")
    if not found and (named in _PLAIN or not body or _is_text(body)):
        return body
    name = found or named
    if name in ("gzip", "deflate"):
        return _inflated(body, _GZIP if name == "gzip" else _ZLIB if found else _RAW)
    raise ValueError(
        f"it is compressed ({name[:40]}), which is not read and was not asked for; switch "
        "compression off at the server, or at the gateway before it"
    )


def _is_text(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_TEXT)


def _inflated(body: bytes, form: int) -> bytes:
    """Return what a body holds that is compressed in a form of zlib's, in one piece or several."""
    pieces: list[bytes] = []
    room = _MOST_BYTES
    while body:
        unpack = zlib.decompressobj(form)
        try:
            pieces.append(unpack.decompress(body, max(room, 1)))
        except zlib.error as error:
            raise ValueError(f"it is compressed, and damaged: {error}") from None
        room -= len(pieces[-1])
        if unpack.unconsumed_tail or room < 0:
            raise ValueError(f"it is compressed, and larger than {_MOST_BYTES:,} bytes")
        if not unpack.eof:
            raise ValueError("it is compressed, and breaks off")
        body = unpack.unused_data if unpack.unused_data.startswith(b"\x1f\x8b") else b""
    return b"".join(pieces)
