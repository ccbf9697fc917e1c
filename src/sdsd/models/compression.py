"""Decompress replies: some gateways compress them although no request has asked for that."""

from __future__ import annotations

import zlib

_MOST_BYTES = 64 * 2**20
"""A body that unpacks to more is not read."""
_UNKNOWN = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2"}


def unpacked(body: bytes) -> bytes:
    """Return a body decompressed, if it is gzip or zlib; else as it is.

    Raises `ValueError` if it is damaged, too large, or compressed in another way.
    """
    for magic, name in _UNKNOWN.items():
        if body.startswith(magic):
            raise ValueError(f"it is compressed ({name}) although nobody asked for that")
    gzipped = body.startswith(b"\x1f\x8b")
    if not gzipped and body[:2] not in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"):
        return body
    unpack = zlib.decompressobj(31 if gzipped else 15)
    try:
        plain = unpack.decompress(body, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"it is compressed, and damaged: {error}") from None
    if unpack.unconsumed_tail:
        raise ValueError(f"it is compressed, and larger than {_MOST_BYTES:,} bytes")
    if not unpack.eof:
        raise ValueError("it is compressed, and breaks off")
    return plain


def plain(body: bytes) -> bytes:
    """Return a body decompressed, if that is possible, and else as it is."""
    try:
        return unpacked(body)
    except ValueError:
        return body
