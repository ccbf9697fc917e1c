"""Texts of random words, and copies of them with a share of the words replaced."""

from __future__ import annotations

import random

VOCABULARY = [f"word{number}" for number in range(3000)]


def essay(seed: int, length: int = 300) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=length)


def changed(text: list[str], share: float, seed: int = 0) -> str:
    """`text` with that share of its words replaced."""
    chance, out = random.Random(seed), list(text)
    for place in chance.sample(range(len(out)), round(share * len(out))):
        out[place] = f"other{chance.random()}"
    return " ".join(out)
