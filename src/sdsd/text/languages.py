"""Guess the language of a text, and whether two differ: by script, then by frequent words.

Made to be precise rather than complete: short or mixed texts have no language, and of languages in
the Latin script only the seven below are told apart.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SCRIPTS = {
    "latin": re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]"),
    "greek": re.compile(r"[\u0370-\u03ff]"),
    "cyrillic": re.compile(r"[\u0400-\u052f]"),
    "hebrew": re.compile(r"[\u0590-\u05ff]"),
    "arabic": re.compile(r"[\u0600-\u06ff\u0750-\u077f]"),
    "indic": re.compile(r"[\u0900-\u0dff]"),
    "thai": re.compile(r"[\u0e00-\u0eff]"),
    "hangul": re.compile(r"[\u1100-\u11ff\uac00-\ud7af]"),
    "han": re.compile(r"[\u3040-\u30ff\u3400-\u9fff]"),
}
_FUNCTION_WORDS = {
    "en": "the and of to a in is i that it you for with are this have was what my can be at not do "
    "on an as or if but so we they your from by there would should how about will one me he she",
    "de": "der die das und ist nicht ich ein eine zu mit auf für sie wir es den dem wie auch",
    "fr": "le la les et est des une un vous je dans que pas du au il elle ce sur avec sont ne",
    "es": "el la los las y es que una un por para con del se en lo como mi más pero",
    "it": "il la che di è una un per non sono gli della con del le si da anche nel",
    "pt": "o os que não uma um para com em da dos das é você e na mais mas seu",
    "nl": "de het een en van ik niet dat voor met zijn je te die ook er maar naar",
}
"""The most frequent words of each language, without those that are frequent in English too."""
_LANGUAGES = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_SPANISH = re.compile("[¿¡]")
_ASCII = re.compile(r"[\x00-\x7f]+")
_LETTERS = re.compile(r"[A-Za-z]+")
_TEN_LETTERS = re.compile(r"(?:[A-Za-z][^A-Za-z]*+){10}")


def differ(
    first: str, first_words: tuple[str, ...], second: str, second_words: tuple[str, ...]
) -> bool:
    """Whether the second text is clearly in another language than the first.

    `*_words` are the words of each text in lower case.
    """
    here, there = _script(first), _script(second)
    if here != there or here != "latin":
        return bool(here and there) and here != there
    if len(first_words) < 6:
        return False
    share, language = _likeliest(first_words)
    left = _share(language, second_words)
    if share < 0.2 or left > 0.25:  # no share is four times this
        return False
    if _SPANISH.search(second) and not left and language != "es":
        return len(second_words) > 3  # fewer may be a name or a greeting
    if len(second_words) < 14:
        return False
    now, _ = _likeliest(second_words)
    return now >= 0.25 and left <= now / 4


def of(text: str, words: tuple[str, ...]) -> str:
    """Return the language of a text, e.g. `de`, or its script, e.g. `greek`; empty if unclear.

    `words` are the words of the text in lower case.
    """
    script = _script(text)
    if script != "latin":
        return script
    if len(words) < 6:
        return ""
    shares = sorted(((_share(name, words), name) for name in _LANGUAGES), reverse=True)
    (share, language), (second, _) = shares[:2]
    return language if share >= 0.2 and second <= share * 2 / 3 else ""


@lru_cache(maxsize=64)
def _script(text: str) -> str:
    """Return the script of nearly all letters; empty for few letters or mixed scripts."""
    if text.isascii():
        return "latin" if _TEN_LETTERS.search(text) else ""
    rest = _ASCII.sub("", text)  # often a single dash
    counts = {name: len(pattern.findall(rest)) for name, pattern in _SCRIPTS.items()}
    counts["latin"] += len(text) - len(_LETTERS.sub("", text))
    name = max(counts, key=lambda script: counts[script])
    return name if counts[name] >= max(10, 0.7 * sum(counts.values())) else ""


def _share(language: str, words: tuple[str, ...]) -> float:
    return sum(map(_LANGUAGES[language].__contains__, words)) / len(words)


@lru_cache(maxsize=64)
def _likeliest(words: tuple[str, ...]) -> tuple[float, str]:
    """Return the largest share of function words, and its language."""
    return max(((_share(name, words), name) for name in _LANGUAGES), key=lambda found: found[0])
