"""Text that UTF-8 can hold."""

from __future__ import annotations

from typing import Any

from sdsd.text.normalize import valid_unicode


def encodable(value: Any) -> Any:
    """Return a text, or lists and mappings of texts, without lone surrogates.

    Models that are cut off inside a character leave half of a surrogate pair behind. Two halves
    that belong together are joined; a lone half becomes U+FFFD. Everything else stays as it is.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return valid_unicode(value)
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encodable(item) for item in value]
    return value
