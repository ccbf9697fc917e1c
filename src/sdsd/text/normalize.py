"""Normal forms of text: for comparing, and for storing."""

from __future__ import annotations

import unicodedata
from typing import Any

_MARKS = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "’": "'", "‘": "'",
                        "‚": "'", "–": "-", "—": "-", "−": "-", "‑": "-"})  # fmt: skip


def normal(text: str) -> str:
    """Return `text` for comparing: NFKC, case-folded, one kind of quote and dash, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_MARKS)
    return " ".join(text.casefold().split())


_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that are drawn as blanks."""


def is_blank(text: str) -> bool:
    """Return whether there is nothing to see in `text`: blanks, controls, marks of no width."""
    return all(unicodedata.category(c)[0] in "CZ" or c in _FILLERS for c in text)


def valid_unicode(text: str) -> str:
    """Return `text` as UTF-8 can hold it.

    Text that was cut inside a character has half of a surrogate pair there. Two halves that belong
    together are joined; a lone one becomes U+FFFD.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def encodable(value: Any) -> Any:
    """Return a text, or lists and mappings of texts, with `valid_unicode` applied to each text."""
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encodable(item) for item in value]
    return value
