"""Conversation and reply as the checks read them.

Texts keep their length when something is blanked out of them, so a place in one is the same place
in the reply, which is quoted.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sdsd.checks.decided.registry import Answer, Conversation
from sdsd.checks.dialogue_text import CODE, QUOTED
from sdsd.text import languages, sentences
from sdsd.text.normalize import normal
from sdsd.text.words import WORD

_SINGLE_QUOTED = re.compile(r"(?<!\w)['‘](?=\S)[^\n]{1,300}?(?<=\S)['’](?!\w)")


def blank(match: re.Match[str]) -> str:
    """Return white space in the place of a match, with its line ends."""
    return re.sub(r"[^\n]", " ", match[0])


@lru_cache(maxsize=8)
def prose(text: str) -> str:
    """Return a text with code and addresses blanked out, in the same places."""
    return CODE.sub(blank, text).replace("’", "'")


@lru_cache(maxsize=8)
def own_words(text: str) -> str:
    """Return a text with quoted speech blanked out as well."""
    return QUOTED.sub(blank, prose(text))


@lru_cache(maxsize=8)
def surely_own_words(text: str) -> str:
    """Return a text without what may be quoted speech in single quotation marks, either.

    An apostrophe at the end of a word looks like one, so a check that finds something only in
    `own_words` is undecided.
    """
    return _SINGLE_QUOTED.sub(blank, own_words(text))


def asked(conversation: Conversation) -> str:
    """Return the user's last message."""
    return next((m.content for m in reversed(conversation) if m.role == "user"), "")


def said_by_user(conversation: Conversation) -> str:
    """Return all of the user's messages."""
    return "\n".join(m.content for m in conversation if m.role == "user")


def sentence_at(reply: str, place: int) -> str:
    """Return the sentence of a reply around a place."""
    spans = sentences.spans(prose(reply))
    return next((reply[a:b] for a, b in spans if a <= place < b), reply[place:].strip())


def first_match(reply: str, pattern: re.Pattern[str]) -> Answer:
    """Return the sentence with the first match in the assistant's own words; False if none.

    None if all matches may be quoted.
    """
    if match := pattern.search(surely_own_words(reply)):
        return sentence_at(reply, match.start())
    return None if pattern.search(own_words(reply)) else False


def is_english(text: str) -> bool:
    """Whether a text is in English, or in no language that could be recognised."""
    return languages.of(text, tuple(WORD.findall(normal(text)))) in ("en", "")
