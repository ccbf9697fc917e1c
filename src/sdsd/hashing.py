"""Deterministic seeds and orders: 64-bit BLAKE2 hashes of their inputs.

A library's random generator may change with its version; a hash does not. So the same seed gives
the same run on every interpreter, on every host and in any order of execution.
"""

from __future__ import annotations

from hashlib import blake2b


def hash64(*parts: object) -> int:
    """Return a uniform 64-bit integer that depends on the `str` of each part alone."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def call_seed(seed: int, scenario: str, step: str) -> int:
    """Return the sampling seed of one model call: 31 bits, the range that every server accepts."""
    return hash64(seed, scenario, step) >> 33
