"""Hashes of runs of words, and large sets of them in little memory.

A run is hashed to 61 bits by a polynomial in the hashes of its words (Karp and Rabin 1987), so that
any run of a text is hashed in one step. Compared with a million of them, a run is found by mistake
with a probability of 4e-13.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from sdsd.hashing import hash64
from sdsd.text.words import SOLID, words

WORD = 3
"""The size of a word. A character of a script without spaces has size 1: a word there has two to
five of them."""
_PRIME = (1 << 61) - 1
_BASE = hash64("run of words") % _PRIME
_SLOTS = 8
"""Bytes of the filter for each hash, at least."""

_hash = lru_cache(1 << 16)(hash64)
_power = lru_cache(1 << 10)(lambda length: pow(_BASE, length, _PRIME))
_solid = re.compile(f"[{SOLID}]").match


class HashedText:
    """The words of a text, of which any run is hashed in one step."""

    def __init__(self, text: str) -> None:
        self._words = words(text)
        self._prefixes = list(accumulate(map(_hash, self._words), _longer, initial=0))
        sizes = (1 if word >= "\u0e00" and _solid(word) else WORD for word in self._words)
        self._reach = list(accumulate(sizes, initial=0))

    def __len__(self) -> int:
        return len(self._words)

    def words(self, start: int, end: int) -> str:
        """Return the words of a run, with single spaces."""
        return " ".join(self._words[start:end])

    def hash(self, start: int, end: int) -> int:
        return (self._prefixes[end] - self._prefixes[start] * _power(end - start)) % _PRIME

    def runs(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield start, end and hash of the shortest run of at least `size` from every word on."""
        prefixes, reach, end = self._prefixes, self._reach, 0
        for start, before in enumerate(reach):
            while reach[end] < before + size:
                end += 1
                if end == len(reach):
                    return
            yield start, end, (prefixes[end] - prefixes[start] * _power(end - start)) % _PRIME


def _longer(run: int, word: int) -> int:
    return (run * _BASE + word) % _PRIME


def ordered(hashes: array[int]) -> array[int]:
    """Return hashes sorted, without repetitions, in 8 bytes each: a tenth of a `set`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = pa.Array.from_buffers(pa.uint64(), len(hashes), [None, pa.py_buffer(hashes)])
    return array("Q", pc.unique(numbers).sort().buffers()[1].to_pybytes())


def contains(hashes: array[int], value: int) -> bool:
    """Return whether `ordered` hashes have a value."""
    k = bisect_left(hashes, value)
    return k < len(hashes) and hashes[k] == value


def bitmap(sets: Sequence[array[int]]) -> bytearray:
    """Return a filter that is not 0 at the last bits of every hash; its length is a power of 2."""
    marks = bytearray(1 << (_SLOTS * sum(map(len, sets))).bit_length())
    for hashes in sets:
        for value in hashes:
            marks[value & (len(marks) - 1)] = 1
    return marks
