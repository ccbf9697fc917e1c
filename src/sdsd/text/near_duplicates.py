"""Texts that nearly repeat one another, found while they stream by.

A text is the set of its shingles, all runs of a few words. The share of shingles that two texts
have in common (the Jaccard coefficient) is estimated from sketches of a fixed size (MinHash,
Broder 1997), and a text is compared only with those that agree with it on one band of the sketch
(locality-sensitive hashing; Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, chapter
3). The library `rensa` does both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rensa import RMinHash, RMinHashDeduplicator

from sdsd.text.normalize import normal, valid_unicode
from sdsd.types import Message

Embed = Callable[[str], Any]
"""From a text to its embedding: a one-dimensional numpy array of float32, of any length but zero
unless there are no words in it. `numpy` comes with the extra `semantic` only."""

SOLID = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Characters of scripts that are written without spaces, as the inside of a character class."""
_BETWEEN = r"\s!-/:-@\[-`{-~\x00-\x1f\x7f-\xbf\u2000-\u206f\u2e00-\u2e7f\u3000-\u303f\ufffd،؛؟۔।॥"
"""White space and punctuation: what stands between words. Not `\\W`, for to that belong the vowel
signs and points of many scripts."""
_WORD = re.compile(rf"[{SOLID}]|[^{_BETWEEN}{SOLID}]+")

_MOST = 65_536
"""Characters at either end of a text that are sketched; what lies between is not."""
_SLOTS = 120
"""Numbers in a sketch: an estimate's standard error is at most 0.046. It has many divisors."""
_SEED = 1
_RECALL = 0.95
"""The least chance that two texts exactly at the threshold are compared at all."""


def words(text: str) -> list[str]:
    """The words of `text` as they are compared: without case, punctuation, and kinds of quotes.

    Scripts that are written without spaces count by the character. Every word is valid UTF-8.
    """
    if not text.isascii():
        text = valid_unicode(text)
    return _WORD.findall(normal(text).replace("'", ""))


def runs(words: Sequence[str], length: int) -> Iterator[str]:
    """Every `length` words in a row, with single spaces."""
    return map(" ".join, zip(*(words[k:] for k in range(length)), strict=False))


def spoken(messages: Iterable[Message]) -> str:
    """What was said in a dialogue, as one text: every turn but those of the system."""
    return "\n\n".join(m.content for m in messages if m.role != "system")


class Near:
    """Texts one after another, each held against all earlier ones that were no repetition.

    `threshold` is the Jaccard coefficient of runs of `words` words from which on a text repeats
    another. It is estimated, so a pair near to the threshold may fall to either side; the same
    texts in the same order always give the same. Each text that is kept takes three to four kB of
    memory.
    """

    def __init__(self, threshold: float, words: int = 5) -> None:
        self._words = words
        self._index = RMinHashDeduplicator(threshold, _SLOTS, True, _bands(threshold), _SEED)
        self._keys: list[str] = []

    def add(self, key: str, text: str) -> str | None:
        """The key of the earliest text that `text` repeats; None if there is none, and it is kept.

        A text of fewer words than a shingle repeats only what is the same.
        """
        sketch = self.sketch(text)
        first = self.find(sketch)
        if first is None:
            self.keep(key, sketch)
        return first

    def sketch(self, text: str) -> RMinHash:
        """What is compared in the place of `text`."""
        sketch = RMinHash(_SLOTS, _SEED)
        sketch.update(self._shingles(text))
        return sketch

    def find(self, sketch: RMinHash) -> str | None:
        """The key of the earliest text kept that this one repeats, or None."""
        found = self._index.get_duplicates(sketch)
        return self._keys[min(map(int, found))] if found else None

    def keep(self, key: str, sketch: RMinHash) -> None:
        """Count a text that repeats none among the earlier ones."""
        self._index.add(str(len(self._keys)), sketch)
        self._keys.append(key)

    def _shingles(self, text: str) -> list[str] | list[bytes]:
        if len(text) > 2 * _MOST:
            text = f"{text[:_MOST]} {text[-_MOST:]}"
        found = words(text)
        if len(found) < self._words:
            return [normal(text).encode("utf-8", "surrogatepass")]
        return list(runs(found, self._words))


def _bands(threshold: float) -> int:
    """The fewest bands, and so the longest, that find enough of the pairs at the threshold.

    A band of r slots agrees with probability threshold^r, and one band that agrees is enough.
    """
    even = (bands for bands in range(1, _SLOTS) if _SLOTS % bands == 0)
    missed = ((bands, (1 - math.pow(threshold, _SLOTS // bands)) ** bands) for bands in even)
    return next((bands for bands, share in missed if share <= 1 - _RECALL), _SLOTS)
