"""Find short texts that say nearly the same thing, such as two subareas of a catalogue."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_STOP_WORDS = """
a about after an and are as at be been before but by can for from had has have how if in into is it
its no of off on or out over own should so than that the their them then there they this to too
under until up was were what when where whether which while who whose why will with without
"""
_STOP = frozenset(_STOP_WORDS.split())


def content_words(text: str) -> list[str]:
    """Return the words of `text` in order, case-folded, without stop words and possessive `'s`."""
    bare = re.sub(r"['’]s\b", "", text.casefold())
    return [word for word in re.findall(r"\w+", bare) if word not in _STOP]


def near_duplicates(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Return all pairs (i, j, score), i < j, whose content words have a Jaccard index of at least
    `threshold`.

    Exact. Texts without content words match nothing. Raises `ValueError` unless
    0 < threshold <= 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must be above 0 and at most 1, not {threshold}")
    bags = [frozenset(content_words(text)) for text in texts]
    count = Counter(word for bag in bags for word in bag)
    index: defaultdict[str, list[int]] = defaultdict(list)
    found = []
    for i, bag in enumerate(bags):
        # Two similar sets, each sorted by rarity, share a word among their first few (prefix
        # filtering; Chaudhuri et al. 2006). Only those are indexed, so a common word never makes
        # every text a candidate.
        least_shared = math.ceil(threshold * len(bag) - 1e-9)
        rarest = sorted(bag, key=lambda word: (count[word], word))[: len(bag) - least_shared + 1]
        for j in {j for word in rarest for j in index[word]}:
            shared = len(bag & bags[j])
            score = shared / (len(bag) + len(bags[j]) - shared)
            if score >= threshold:
                found.append((j, i, score))
        for word in rarest:
            index[word].append(i)
    return sorted(found)
