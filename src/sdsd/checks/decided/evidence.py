"""Checks of what a reply owes its reader: sources, expansions, exact quotations, a language."""

from __future__ import annotations

import re

from sdsd.checks.decided.reading import asked, own_words, said_by_user, sentence_at
from sdsd.checks.decided.registry import Answer, Conversation, check
from sdsd.text import languages, parsing, sentences
from sdsd.text.normalize import normal
from sdsd.text.words import WORD

_SCHOLARS = (
    r"(?:researchers|scientists|experts|psychologists|doctors|economists|nutritionists|specialists)"
)
_RESEARCH = r"(?:studies|research|surveys|trials|experiments|polls|statistics|science)"
_CLAIMS = (
    r"(?:shows?|showed|shown|suggests?|suggested|finds?|found|says?|said|agrees?|indicates?|confirms?"
    r"|proves?|proved|proven|reports?|reported|recommends?|reveals?|revealed|demonstrates?|warns?)"
)
_KNOWN_BEFORE = "".join(
    rf"(?<!\b{word} )"
    for word in (
        "the",
        "these",
        "those",
        "this",
        "that",
        "my",
        "your",
        "his",
        "her",
        "our",
        "their",
    )
)
"""Not after a word that refers to studies mentioned before, or to somebody's own."""
_UNNAMED = re.compile(
    rf"\b{_KNOWN_BEFORE}(?:{_RESEARCH}|{_SCHOLARS}|(?<=\ba )study|(?<=\bone )study) "
    rf"(?:\w+ ){{0,3}}?(?:(?:has|have|had) )?"
    rf"(?:(?:long|clearly|now|also|consistently|repeatedly|often|recently) )?{_CLAIMS}\b"
    rf"|\baccording to (?:(?:a|an|one|some|several|many|most|recent|new|large|the latest) )*"
    rf"(?:{_RESEARCH}|{_SCHOLARS}|study)\b",
    re.IGNORECASE,
)
_STUDIES = re.compile(rf"\b(?:study|survey|trial|{_RESEARCH}|{_SCHOLARS})\b", re.IGNORECASE)
_EVIDENCE = re.compile(
    rf"\b(?:{_STUDIES.pattern}|{_CLAIMS}|experiment|measured|tested|compared|counted|review|paper"
    r"|report|book|wrote|published|followed|tracked)\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?<![\d.,])(?:1[5-9]|20)\d\d(?![\d.,]*\d)")
_PROPER = re.compile(
    r"(?<=[\w,;:)] )(?!I\b)[A-ZÀ-Þ][\w'-]+|\A[A-ZÀ-Þ][\w-]+(?='s\b| and [A-ZÀ-Þ]| \()"
)


@check("says whose the studies are that it cites, and from which year, in the same sentence")
def names_studies(conversation: Conversation, reply: str) -> Answer:
    own = own_words(reply)
    sourced = False
    for a, b in sentences.spans(own):
        sentence = own[a:b]
        named, dated = _PROPER.search(sentence), _YEAR.search(sentence)
        if named and dated and _EVIDENCE.search(sentence):
            sourced = True
        elif _UNNAMED.search(sentence):
            return None if named or dated or sourced else reply[a:b]
    return False if sourced or not _STUDIES.search(own) else None


_CAPITALS = re.compile(r"(?<![\w&/.-])[A-Z]{2,6}(?=s?(?![\w&/-]))(?!\.\w)")
_NEEDS_NONE = """
AD AI AIDS AM ATM BA BBC BC BST CCTV CD CEO CIA CO CV DC AC DIY DJ DNA DVD EU FAQ FBI GCSE GMT
GPS HIV HR ID IQ IT LED LP MA MOT MP NASA NATO NB NHS OK PC PDF PE PIN PM PS QR RSVP SMS SOS TV
UFO UK UN UNESCO US USA USB UV VAT VIP WC WHO WWW XL XS XXL YMCA
II III IV VI VII VIII IX XI XII XIII XIV XV XVI XX XXI
"""
_KNOWN = frozenset(_NEEDS_NONE.split())
"""Abbreviations that need no explanation, and Roman numerals."""
_DISPUTED = """
ABC AMD API BMW BPM CA CBS CNN CPU CSS CSV DHL EST EUR FIFA GBP GPU HBO HP HSBC HTML HTTP IBM JSON
KFC KLM KO LA LG MG MTV NBA NBC NFL NY RAM RSS SAP SIM SMS SQL SSD TX UEFA UPS URL USD UTC VW XML
"""
"""Brands, places and terms of computing that many people know, and many do not."""
_IN_CAPITALS = """
ALL ALT AND ANY ARE AS AT BE BUT BY CAN CTRL DEL DO END ESC FOR GO HOT HOW IF IN IS IT LEFT ME MY
NEW NO NOT NOW OF OFF ON ONE OR OUT SO TAB THE TO TOO TWO UP US WE WHY YES YOU
DO RE MI FA LA TI
"""
_UNSURE = frozenset(f"{_IN_CAPITALS} {_DISPUTED}".split())
"""Short words in capitals for emphasis, keys and notes. Longer ones: see `_may_be_a_word`."""
_EXPLAINED = re.compile(
    r"\A\s*+(?:[,(–—-]\s*)?(?:\(|short for\b|stands? for\b|which (?:means|stands)\b|meaning\b"
    r"|that is\b|i\.e\.|or [a-z])",
    re.IGNORECASE,
)


@check(
    "spells out each abbreviation in capitals at its first use, unless the user has used it or "
    "everybody knows it"
)
def explains_abbreviations(conversation: Conversation, reply: str) -> Answer:
    own = own_words(reply)
    shouted = len(re.findall(r"\b[A-Z]{2,}\b[ ,.!]+[A-Z]{2,}\b", own)) > 0
    known = set(re.findall(r"[A-Z]{2,6}", " ".join(m.content for m in conversation)))
    first: set[str] = set()
    for match in _CAPITALS.finditer(own):
        token = match[0]
        if token in known or token in _KNOWN or token in first:
            continue
        first.add(token)
        if token in _UNSURE or shouted or _may_be_a_word(token):
            return None
        explained = _is_explained(own, match)
        if explained is False:
            return sentence_at(reply, match.start())
        if explained is None:
            return None
    return False


def _may_be_a_word(token: str) -> bool:
    """Whether capitals may be a word that is emphasised or stands on a sign."""
    return len(token) > 3 and bool(re.search("[AEIOUY]", token))


def _is_explained(text: str, match: re.Match[str]) -> bool | None:
    """Whether the words around an abbreviation spell it out: their initials are its letters.

    None if there is another explanation, which only a reader can judge.
    """
    before, after = text[max(0, match.start() - 160) : match.start()], text[match.end() :][:160]
    wanted = match[0].lower()
    if any(_spells(wanted, _initials(side)) for side in (before, after)):
        return True
    brackets = before.rstrip().endswith("(") or _EXPLAINED.match(after)
    return None if brackets else False


def _initials(text: str) -> str:
    """Return the first letters of the words, and of the parts of words with hyphens."""
    return "".join(word[0] for word in re.findall(r"[^\W\d_]+", text.lower()))


_SMALL_WORDS = frozenset("oftaniw")
"""First letters of of, the, and, in, with ..., which an abbreviation may leave out."""


def _spells(wanted: str, initials: str) -> bool:
    """Whether `wanted` occurs in the initials, with up to two small words left out."""
    for start, letter in enumerate(initials):
        if letter != wanted[0]:
            continue
        at, skipped = 1, 0
        for other in initials[start + 1 :]:
            if at == len(wanted):
                break
            if other == wanted[at]:
                at += 1
            elif other in _SMALL_WORDS and skipped < 2:
                skipped += 1
            else:
                break
        if at == len(wanted):
            return True
    return False


_ATTRIBUTED = re.compile(
    r"\b(?:you(?:'ve| have| had)? (?:just |also |even |first |once |only )?(?:said|wrote|written"
    r"|mentioned|called|asked|described|told me|put it|stated|worried)"
    r"|as you (?:put|say) it|your (?:own |exact )*(?:words|phrase|question|message|line))\b"
    r"(?:(?! (?:so|try|likes?|liked|enjoy\w*|read|watch\w*|such|but|and|then|for)\b)"
    r"[^\"“'‘.!?,;:\n]){0,60}[,:]? ?"
    r"(?:\"(?P<a>[^\"\n]{3,300})\"|“(?P<b>[^“”\n]{3,300})”"
    r"|(?<!\w)['‘](?P<c>(?=\S)[^\n\"]{3,200}?)(?<=\S)['’](?!\w))",
    re.IGNORECASE,
)


@check(
    "puts only words that the user has written into quotation marks, where it says that the user "
    "wrote them"
)
def quotes_user_exactly(conversation: Conversation, reply: str) -> Answer:
    said = said_by_user(conversation)
    found = [m["a"] or m["b"] or m["c"] for m in _ATTRIBUTED.finditer(reply)]
    wrong = [quote for quote in found if not parsing.occurs(quote, said)]
    if wrong:
        return None if "[" in wrong[0] else wrong[0]  # brackets: altered, and marked as such
    return False if found or not re.search(r"[\"“”«»„]|(?<!\w)['‘]", reply) else None


_OTHER_LANGUAGE = re.compile(
    r"\b(?:languages?|translat\w*|pronounc\w*|english|french|german|spanish|italian|portuguese|dutch"
    r"|russian|greek|chinese|mandarin|japanese|korean|arabic|hebrew|hindi|thai|latin|idioma|sprache"
    r"|langue|lingua|taal|língua|tradu\w*|übersetz\w*|vertaal\w*|auf deutsch|auf englisch|anglais"
    r"|français|inglés|español|inglese|italiano|inglês|engels|nederlands|englisch\w*|deutsch)\b",
    re.IGNORECASE,
)


@check("is in the language of the user's last message")
def answers_in_users_language(conversation: Conversation, reply: str) -> Answer:
    message, text = own_words(asked(conversation)), own_words(reply)
    if _OTHER_LANGUAGE.search(message):
        return None
    first = tuple(WORD.findall(normal(message)))
    second = tuple(WORD.findall(normal(text)))
    if languages.differ(message, first, text, second):
        spans = sentences.spans(text)
        return reply[slice(*spans[0])] if spans else True
    language = languages.of(message, first)
    return False if language and language == languages.of(text, second) else None
