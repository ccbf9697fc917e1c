"""Recognise a web page where an answer of a model server was expected: a login, an error, a help
page of a proxy."""

from __future__ import annotations

import html
import re

_BEGINS = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")
_TITLE = re.compile(r"<(title|h1|h2|message|code)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_LOOKED_AT = 20_000
_SHOWN = 150


def page(body: bytes) -> str:
    """Return what to call a body that is a web page, in its own words; empty if it is none.

    Hide secrets before it is cut.
    """
    if not body[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_BEGINS):
        return ""
    text = body[:_LOOKED_AT].decode("utf-8", "replace")
    titles = [words for _, inner in _TITLE.findall(text) if (words := _words(inner))]
    said = titles[0] if titles else _words(text)
    return f'a web page: "{said}"' if said else "a web page"


def legible(body: bytes, most: int = 500) -> str:
    """Return the body of an error as one line for people, at most so many bytes of it."""
    return page(body)[:_SHOWN] or " ".join(body[:most].decode("utf-8", "replace").split())


def _words(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())
