"""The only randomness in the system: hashing what a thing is.

Orders and seeds come from digests, not from a library's generator, so they are the same on every
version of every interpreter, on any host, in any order of execution.
"""

from __future__ import annotations

from hashlib import blake2b


def draw(*parts: object) -> int:
    """64 bits that depend on the parts alone."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def call_seed(seed: int, scenario: str, step: str) -> int:
    """The sampling seed of one model call; 31 bits, which every server takes."""
    return draw(seed, scenario, step) >> 33
