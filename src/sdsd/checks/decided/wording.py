"""Checks of what a reply is worded with: praise, formulas, repetitions, itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from sdsd.checks.decided.reading import (
    asked,
    first_match,
    is_english,
    own_words,
    prose,
    sentence_at,
    surely_own_words,
)
from sdsd.checks.decided.registry import Answer, Conversation, check
from sdsd.text import sentences
from sdsd.text.normalize import normal
from sdsd.text.words import WORD


@check("uses none of these words, in any case; quotations and code do not count")
def avoids_words(conversation: Conversation, reply: str, *words: str) -> Answer:
    return first_match(reply, _any_of(words))


@lru_cache(maxsize=64)
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    listed = "|".join(re.escape(word.replace("’", "'")) for word in words)
    return re.compile(rf"(?<![\w'-])(?:{listed})(?![\w-]|'\w)", re.IGNORECASE)


_PRAISE = (
    "good|great|excellent|fantastic|wonderful|brilliant|amazing|awesome|superb|terrific|lovely|nice"
    "|smart|clever|wise|fascinating|interesting|thoughtful|insightful|perfect|marvellous|splendid"
    "|fabulous|outstanding|inspired|admirable|impressive|important|sensible|spot[- ]on|on point"
)
_PRAISED = (
    "question|query|idea|thinking|thought|plan|choice|project|approach|instinct|ambition|goal"
)
_OPENING_PRAISE = re.compile(
    rf"\A\W*+(?:(?:oh|ah|wow|hi|hello|hey|ooh|well|yes|absolutely|certainly|sure|indeed"
    rf"|of course),?!? )?(?:"
    rf"(?:(?:what|that(?:'s| is| was)|this is|it(?:'s| is)|you(?:'ve| have) asked|such)"
    rf"(?: (?:such|really|very|truly|quite|actually|genuinely))* an? (?:(?:really|very|truly"
    rf"|absolutely|genuinely) )?)?(?:{_PRAISE}) (?:[\w-]+ )?(?:{_PRAISED})"
    rf"(?= to ask| and\b|\s*[!.,;:—–-]|\s*\Z)"
    rf"|i (?:really |just )?(?:love|like|admire) (?:this|that|your) (?:[\w-]+ )?(?:{_PRAISED})\b"
    rf"|your (?:[\w-]+ )?(?:{_PRAISED}) (?:is|was) (?:an? |really |very |truly )*(?:{_PRAISE})\b"
    r"|you(?:'re| are) (?:very |so |quite )?(?:right|wise|smart|clever) to (?:ask|think|wonder)"
    r")",
    re.IGNORECASE,
)
_PERHAPS_PRAISE = re.compile(
    rf"\b(?:{_PRAISE}|love|like|admire|glad|thank|thanks|impressed|kudos|bravo|congratulations|right"
    r"|fair|valid|fine|point|well|sounds|best|delightful|beautiful|exciting"
    rf"|your (?:[\w-]+ )?(?:{_PRAISED}))\b",
    re.IGNORECASE,
)


@check("does not open with praise of the user's question, idea or plan")
def no_opening_praise(conversation: Conversation, reply: str) -> Answer:
    text = prose(reply)
    spans = sentences.spans(text)
    if not spans or not is_english(text):
        return None
    a, b = spans[0]
    if _OPENING_PRAISE.match(text[a:]):
        return reply[a:b]
    return None if _PERHAPS_PRAISE.search(text[a:b]) else False


_FORMULA = re.compile(
    r"\bhopes? (?:this|that|it|these|those) (?:\w+ )?helps?\b"
    r"|\blet me know (?:if|should|whether) you(?:'d| would)? (?:\w+ )?(?:have|need|want|like) "
    r"(?:any|more|further|help|anything|a hand|to know|me to)\b"
    r"|\b(?:feel free|do(?:n't| not) hesitate) to "
    r"(?:ask|reach out|get in touch|come back|contact me|let me know)"
    r"(?= if\b| me\b| (?:about |for |with )?(?:any|more\b|further\b)|[.!]|\Z)"
    r"|\b(?:i'm|i am|i'd be|i would be|always) (?:always |more than |only too )?"
    r"(?:happy|glad|here) to (?:help|assist|answer)\b"
    r"|\bis there anything else\b|\bif you have any (?:other|further|more) questions\b"
    r"|\A\W*(?:good luck|best of luck|all the best|best wishes)\b(?: (?:with|and|to|for)\b.*)?"
    r"[^\w,;:]*\Z"
    r"|\A\W*(?:happy \w+ing|have fun|enjoy)[^\w,;:]*\Z"
    r"|\bhave an? (?:\w+ )?(?:day|time|trip|evening|weekend|week|flight|journey)\W*\Z",
    re.IGNORECASE | re.DOTALL,
)
_PERHAPS_FORMULA = re.compile(
    r"\b(?:hope|helps?|helping|let me know|questions?|feel free|hesitate|happy|glad|luck|wishes"
    r"|enjoy|have fun|anything else|ask away|just ask|shout|reach out|here for you|touch|drop me"
    r"|come back|welcome|cheers|bon|wishing|wish you)\b",
    re.IGNORECASE,
)


@check('does not end with a stock phrase, such as "I hope this helps" or "good luck"')
def no_closing_formula(conversation: Conversation, reply: str) -> Answer:
    text = surely_own_words(reply)
    spans = sentences.spans(text)
    if not spans or not is_english(text):
        return None
    a, b = spans[-1]
    if _FORMULA.search(text[a:b]):
        return reply[a:b]
    return None if _PERHAPS_FORMULA.search(prose(reply)[a:]) else False


_REPEAT = re.compile(
    r"\b(?:again|repeat|say that|once more|proofread|correct|rewrite|rephrase|translat\w*|copy|edit"
    r"|quote|word for word|remind|recap|summar\w+|poem|song|lyrics|chorus|refrain|verse)\b",
    re.IGNORECASE,
)


@check(
    "has no sentence of five or more words that the assistant has said before, here or in an "
    "earlier reply"
)
def no_repeated_sentence(conversation: Conversation, reply: str) -> Answer:
    if _REPEAT.search(asked(conversation)):
        return None
    earlier = [m.content for m in conversation if m.role == "assistant"]
    seen = {said for text in earlier for _, said in _sentences(text)}
    for written, said in _sentences(reply):
        if said in seen:
            return written
        seen.add(said)
    return False


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of five or more words, as written and in normal form."""
    own = own_words(text)
    for a, b in sentences.spans(own):
        said = " ".join(WORD.findall(normal(own[a:b])))
        if said.count(" ") >= 4:
            yield text[a:b], said


_SELF = re.compile(
    r"(?<![\w-])(?<!\w')(?:I(?:'m|'d|'ll|'ve)?(?![\w'.-])|I(?=\.\s)|[Mm]e(?![\w'-])|[Mm]y(?:self)?(?![\w'-]))"
)
_ORDINAL = re.compile(r"(?:\b[A-ZÀ-Þ]\w+|\b(?:type|part|phase|stage|level|grade|class|volume)) \Z")
_WRITTEN_FOR_USER = re.compile(
    r"\b(?:write|draft|compose|translate|reword|rewrite|rephrase|proofread|phrase|word it|script"
    r"|letter|email|e-mail|message|speech|poem|story|song|toast|note|card|caption|say to|tell him"
    r"|tell her|tell them|reply to|answer to|what should i say|what do i say|how do i say)\b",
    re.IGNORECASE,
)


@check('does not speak of itself as "I", "me" or "my"')
def no_self_reference(conversation: Conversation, reply: str) -> Answer:
    own = own_words(reply)
    places = [m.start() for m in _SELF.finditer(own) if not _is_ordinal(own, m)]
    if not places:
        return False
    sure = surely_own_words(reply)
    certain = next((p for p in places if sure[p] != " "), None)
    if certain is None or not is_english(own) or _WRITTEN_FOR_USER.search(asked(conversation)):
        return None
    return sentence_at(reply, certain)


def _is_ordinal(text: str, match: re.Match[str]) -> bool:
    """Whether an "I" is a numeral, as in "World War I" or "type I"."""
    return match[0] == "I" and bool(
        _ORDINAL.search(text[max(0, match.start() - 30) : match.start()])
    )
