"""Find texts that nearly repeat one another, in one pass.

A text is the set of its shingles, all runs of a few words. The share of shingles that two texts
have in common (the Jaccard coefficient) is estimated from sketches of a fixed size (MinHash,
Broder 1997), and a text is compared only with those that agree with it on one band of the sketch
(locality-sensitive hashing; Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, chapter
3). The library `rensa` does both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rensa import RMinHash, RMinHashDeduplicator

from sdsd.text.normalize import normal
from sdsd.text.words import grams, words
from sdsd.types import Message

_SHINGLE = 5
"""Words in a shingle."""
_MOST = 65_536
"""Characters sketched at either end of a text; the middle of a longer one is skipped."""
_SLOTS = 120
"""Numbers in a sketch; gives a standard error of at most 0.046. Has many divisors."""
_SEED = 1
_RECALL = 0.95
"""The least probability that two texts exactly at the threshold are compared at all."""


def spoken(messages: Iterable[Message]) -> str:
    """Return what was said in a conversation as one text: every turn except system turns."""
    return "\n\n".join(m.content for m in messages if m.role != "system")


class Near:
    """Texts one after another, each compared with all earlier ones that were kept.

    `threshold` is the Jaccard coefficient of runs of five words from which on a text repeats
    another. It is estimated, so a pair close to the threshold may fall on either side, but the same
    texts in the same order always give the same result. Each text kept takes three to four kB.
    """

    def __init__(self, threshold: float) -> None:
        self._index = RMinHashDeduplicator(threshold, _SLOTS, True, _bands(threshold), _SEED)
        self._keys: list[str] = []

    def add(self, key: str, text: str) -> str | None:
        """Return the key of the earliest text that `text` repeats; keep `text` if it repeats none.

        A text shorter than a shingle repeats only an identical text.
        """
        sketch = self.sketch(text)
        first = self.find(sketch)
        if first is None:
            self.keep(key, sketch)
        return first

    def sketch(self, text: str) -> RMinHash:
        sketch = RMinHash(_SLOTS, _SEED)
        sketch.update(_shingles(text))
        return sketch

    def find(self, sketch: RMinHash) -> str | None:
        """Return the key of the earliest kept text that this one repeats, or None."""
        found = self._index.get_duplicates(sketch)
        return self._keys[min(map(int, found))] if found else None

    def keep(self, key: str, sketch: RMinHash) -> None:
        """Compare later texts with this one."""
        self._index.add(str(len(self._keys)), sketch)
        self._keys.append(key)


def _shingles(text: str) -> list[str] | list[bytes]:
    if len(text) > 2 * _MOST:
        text = f"{text[:_MOST]} {text[-_MOST:]}"
    shingles = grams(words(text), _SHINGLE)
    if not shingles:
        return [normal(text).encode("utf-8", "surrogatepass")]
    return list(map(" ".join, shingles))


def _bands(threshold: float) -> int:
    """Return the fewest, and so longest, bands that find enough of the pairs at the threshold.

    A band of r slots agrees with probability threshold^r, and one such band is enough.
    """
    even = (bands for bands in range(1, _SLOTS) if _SLOTS % bands == 0)
    missed = ((bands, (1 - math.pow(threshold, _SLOTS // bands)) ** bands) for bands in even)
    return next((bands for bands, share in missed if share <= 1 - _RECALL), _SLOTS)
