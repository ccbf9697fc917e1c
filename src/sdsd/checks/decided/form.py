"""Checks of the form of a reply: its length, its questions, its marks."""

from __future__ import annotations

import re
import unicodedata

from sdsd.checks.decided.reading import (
    asked,
    blank,
    own_words,
    prose,
    said_by_user,
    sentence_at,
    surely_own_words,
)
from sdsd.checks.decided.registry import Answer, Conversation, check
from sdsd.checks.dialogue_text import CODE
from sdsd.text import sentences


@check("has at most N words")
def max_words(conversation: Conversation, reply: str, most: int) -> Answer:
    bounds = sentences.word_bounds(reply)
    return None if bounds is None else exceeds(bounds, most)


@check("has no sentence of more than N words")
def max_sentence_words(conversation: Conversation, reply: str, most: int) -> Answer:
    text = CODE.sub(blank, reply)
    for a, b in sentences.short_spans(text):
        bounds = sentences.word_bounds(text[a:b])
        if bounds is None:
            return None
        if bounds[0] > most:
            return reply[a:b]
    longest = [sentences.word_bounds(text[a:b]) or (0, 0) for a, b in sentences.spans(text)]
    return False if all(high <= most for _, high in longest) else None


def exceeds(bounds: tuple[int, int], most: int) -> bool | None:
    fewest, highest = bounds
    if fewest > most:
        return True
    return False if highest <= most else None


_MARKS = "?？؟\u037e՞⸮‽"
_WITHOUT_MARK = re.compile(
    r"\A\W*+(?:and |so |but |or )?(?:what|which|who|when|where|why|how"
    r"|(?:do|does|did|can|could|would|will|shall|should|may) (?:you|i|we|it|that)"
    r"|(?:is|are|was) (?:you|it|that|there|this)|have you"
    r"|(?:want|need) (?:me|a|some|help|any)|ready|any)\b",
    re.IGNORECASE,
)
"""How a question begins that may have lost its mark."""
_FOR_QUESTIONS = re.compile(r"\b(?:questions?|quiz|interview|survey|riddles?|ask)\b", re.IGNORECASE)
"""The user wants questions to ask, so those in the reply may not be meant for the user."""


@check("does not end with a question")
def ends_without_question(conversation: Conversation, reply: str) -> Answer:
    text = reply.rstrip()
    if text.endswith("```"):
        return False
    end = len(text)
    while end and (text[end - 1] in "*_~!." or unicodedata.category(text[end - 1])[0] in "SMCZ"):
        end -= 1
    last = text[end - 1 : end]
    if last and last in _MARKS:
        spans = sentences.spans(text)
        if _FOR_QUESTIONS.search(asked(conversation)):
            return None
        return text[slice(*spans[-1])] if spans else True
    inside = text[:end].rstrip("\"'”’»›」』)]}*_ ")
    if len(inside) < end and inside[-1:] in tuple(_MARKS):
        return None
    spans = sentences.spans(text)
    return None if spans and _WITHOUT_MARK.match(text[slice(*spans[-1])]) else False


QUESTIONS = re.compile(r"[?？؟⸮‽]+")


@check("asks at most N questions, by their marks")
def max_questions(conversation: Conversation, reply: str, most: int) -> Answer:
    sure = list(QUESTIONS.finditer(surely_own_words(reply)))
    if len(sure) > most and not _FOR_QUESTIONS.search(asked(conversation)):
        return sentence_at(reply, sure[most].start())
    return False if len(QUESTIONS.findall(reply)) <= most else None


_MARKDOWN = re.compile(
    r"^ {0,3}#{1,6}[ \t]++\S.*|^[ \t]*+[-*+][ \t]++\S.*|^ {0,3}>[ \t]++\S.*|^[ \t]*+```.*"
    r"|^[ \t]*+\|?(?:[ \t]*+:?-{3,}+:?[ \t]*+\|)+.*|\*\*[^\s*](?:[^*\n]{0,300}[^\s*])?\*\*"
    r"|(?<![\w*])\*[^\s*](?:[^*\n]{0,300}[^\s*])?\*(?![\w*])|`[^`\n]{1,300}`"
    r"|\[[^\[\]\n]{1,300}\]\([^()\s]{1,300}\)",
    re.MULTILINE,
)
_PERHAPS_MARKDOWN = re.compile(
    r"(?<!\w)_[^\s_][^_\n]*_(?!\w)|__|^[ \t]*\d{1,3}[.)][ \t]|^[ \t]*[•–—][ \t]|^-{3,}[ \t]*$|\*"
    r"|^[ \t]*#|[`|]",
    re.MULTILINE,
)


@check("has no Markdown: headings, lists with `-` or `*`, emphasis, code, tables, links")
def no_markdown(conversation: Conversation, reply: str) -> Answer:
    if match := _MARKDOWN.search(reply):
        return match[0].strip()
    return None if _PERHAPS_MARKDOWN.search(reply) else False


_EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u231a\u231b\u23e9-\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f"
    "\u2693\u26a1\u26bd\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705"
    "\u270a\u270b\u2728\u274c\u274e\u2753-\u2755\u2757\u2795-\u2797\u2b50\u2b55]"
    "|[\u2190-\u2bff\u3030\u303d]\ufe0f"
)
_PERHAPS_EMOJI = re.compile("[\u2600-\u27bf\ufe0f]|[:;]-?[)(DPp]|<3")


@check("has no emoji, unless the user has used one")
def no_emoji(conversation: Conversation, reply: str) -> Answer:
    if _EMOJI.search(said_by_user(conversation)):
        return None
    if match := _EMOJI.search(prose(reply)):
        return match[0] if len(match[0]) > 2 else sentence_at(reply, match.start())
    return None if _PERHAPS_EMOJI.search(reply) else False


_EXCLAIMED = re.compile(r"(?<=[^\W\d_])[!！]+(?=\s*\Z|\s+[\"'“‘(]?[^\Wa-z_]|\s*\n|[^\w\s=\[\"'”’])")


@check("has no exclamation marks outside quotations and code")
def no_exclamation(conversation: Conversation, reply: str) -> Answer:
    own = surely_own_words(reply)
    if match := _EXCLAIMED.search(own):
        return sentence_at(reply, match.start())
    return None if re.search("[!！]", own_words(reply)) else False
