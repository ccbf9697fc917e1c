"""What counts as a word. Scripts without spaces count by the character.

`WORD` is quick and splits at every combining mark, which is good enough to count and compare the
words of two replies. `words` keeps vowel signs and points with their letters and is safe to hash
and store: it is what data sets are compared by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sdsd.text.normalize import normal, valid_unicode

WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u9fff]+")

SOLID = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Characters of scripts that are written without spaces, as the inside of a character class."""
_BETWEEN = r"\s!-/:-@\[-`{-~\x00-\x1f\x7f-\xbf\u2000-\u206f\u2e00-\u2e7f\u3000-\u303f\ufffd،؛؟۔।॥"
"""White space and punctuation. Not `\\W`, which includes the vowel signs of many scripts."""
_WORDS = re.compile(rf"[{SOLID}]|[^{_BETWEEN}{SOLID}]+")


def words(text: str) -> list[str]:
    """Split a text into words for comparison: no case, no punctuation, one kind of quotes.

    Every word is valid UTF-8.
    """
    if not text.isascii():
        text = valid_unicode(text)
    return _WORDS.findall(normal(text).replace("'", ""))


def grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Return all runs of `length` consecutive words."""
    return list(zip(*(words[k:] for k in range(length)), strict=False))
