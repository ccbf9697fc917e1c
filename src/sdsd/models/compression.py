"""Decompress replies: some gateways compress them although no request has asked for that."""

from __future__ import annotations

import zlib

_MOST_BYTES = 64 * 2**20
"""A body that unpacks to more is not read."""
_UNKNOWN = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2"}

_UNREAD = {"br", "zstd", "compress", "dcb", "dcz"}


def unpacked(body: bytes) -> bytes:
    """Return a body decompressed, if it is gzip or zlib, even twice; else as it is.

    Raises `ValueError` if it is damaged, too large, or compressed in another way.
    """
    for _ in range(2):  # once by the server, and once by the gateway before it
        for magic, name in _UNKNOWN.items():
            if body.startswith(magic):
                raise ValueError(f"it is compressed ({name}) although nobody asked for that")
        gzipped = body.startswith(b"\x1f\x8b")
        if not gzipped and body[:2] not in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"):
            break
        body = _inflated(body, 31 if gzipped else 15)
    return body


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


def plain(body: bytes, encoding: str = "") -> bytes:
    """Return a body decompressed, if that is possible, and else as it is.

    encoding  what its header says of it, which need not be true
    """
    try:
        found = unpacked(body)
        raw = found is body and encoding.strip().casefold() == "deflate"
        return _inflated(body, -15) if raw else found
    except ValueError:
        return body


def is_unknown(body: bytes, encoding: str) -> bool:
    """Whether a body is compressed as its header says, in a way that is not read here."""
    named = encoding.strip().casefold()
    return named in _UNREAD and not body.lstrip().startswith((b"{", b"[", b"data:", b"<"))
