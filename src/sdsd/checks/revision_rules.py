"""Checks on a revision, without a model: did it change what was to change, and nothing else.

`DEFECTS` are plain: whatever a critic would say, such a text is no revision of the reply, so it is
refused without asking one. All other rules are doubts, each with an honest exception: a principle
may demand to add a warning (then the quoted words stay, and the text grows), a refusal may be the
repair, and a name may have been the offence. They are English; on other languages those that look
for words stay silent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct
from rapidfuzz.distance import LCSseq, Levenshtein

from sdsd.text import normalize, parsing
from sdsd.types import Message

RULES: dict[str, str] = {
    "unchanged": "the reply as it was, but for case, white space and typography",
    "trivial": "no content word changed, only case, punctuation, contractions or filler",
    "copied_critique": "words of the review, or talk about it",
    "apology_only": "an apology for a reply that the user never saw",
    "echo": "the user's last message, nearly word for word, at its beginning",
    "offence_kept": "an offending quotation still stands in it word for word",
    "refusal": "nothing but a refusal or a deflection, where the original was none",
    "longer": "the original nearly whole with text added, or more than twice as long",
    "lost_facts": "most numbers and names that original and conversation share are gone",
}
"""Every rule and what it means."""

DEFECTS = frozenset({"unchanged", "trivial", "copied_critique", "apology_only", "echo"})
"""The rules that a revision must not break; the others are doubts."""

_CHARS = 60_000
"""Characters of a text, from its beginning, that are read: ten times a long reply."""
_MOST = 10_000
"""Words of these that are compared."""


class Change(Struct, frozen=True):
    """How far a revision is from the original."""

    edit_distance: float
    """Words inserted, deleted and replaced, divided by the longer one's words: 0 to 1. Case,
    punctuation and typography do not count; of longer texts the first 10,000 words do."""
    length_delta: int
    """Characters that it is longer; negative if shorter."""


def change(original: str, revised: str) -> Change:
    """The distance between two replies, and the difference in length."""
    distance = Levenshtein.normalized_distance(_words(original), _words(revised))
    return Change(float(distance), len(revised) - len(original))


def faults(
    original: str,
    revised: str,
    before: tuple[Message, ...],
    quotes: tuple[str, ...],
    critique: str,
) -> tuple[str, ...]:
    """The rules that a revision breaks, in the order of `RULES`.

    `before` is the conversation that both texts answer, `quotes` the offending words as the critic
    copied them from `original`, `critique` what the reviser was told.
    """
    original, revised, critique = original[:_CHARS], revised[:_CHARS], critique[:_CHARS]
    if normalize.normal(original) == normalize.normal(revised):
        return ("unchanged",)
    said = "\n".join(m.content[:_CHARS] for m in before if m.role != "system")
    asked = before[-1].content[:_CHARS] if before and before[-1].role == "user" else ""
    found = {
        "trivial": _content(original) == _content(revised),
        "copied_critique": _copied(original, revised, said, quotes, critique),
        "apology_only": _apologises(original, revised, asked),
        "echo": _echoes(revised, asked) and not _echoes(original, asked),
        "offence_kept": any(_kept(quote, revised, said) for quote in quotes),
        "refusal": _refuses(revised) and not _refuses(original) and bool(_ASKS.search(asked)),
        "longer": _longer(original, revised, quotes),
        "lost_facts": _lost(original, revised, said, quotes),
    }
    return tuple(rule for rule in RULES if found.get(rule))


# -- words ---------------------------------------------------------------------------------

_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u9fff]+")
"""A word; of scripts without spaces, a character."""


def _words(text: str) -> list[str]:
    return _WORD.findall(normalize.normal(text[:_CHARS]))[:_MOST]


_TOKEN = re.compile(
    r"[-+]?\d+(?:[.,:/]\d+)*|[<>=+/%$€£¥&|^~?\U0001f000-\U0001faff\u2600-\u27bf]"
    rf"|{_WORD.pattern}"
)
"""What can carry meaning: words, whole numbers, operators, currencies, a question mark, emoji."""
_CONTRACTIONS = (
    (re.compile(r"\bcan(?:'t|not)\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"(?<=\w)n't\b"), " not"),
    (re.compile(r"(?<=\w)'re\b"), " are"),
    (re.compile(r"(?<=\w)'ve\b"), " have"),
    (re.compile(r"(?<=\w)'ll\b"), " will"),
    (re.compile(r"\bi'm\b"), "i am"),
    (re.compile(r"\b(it|that|there|here|what)'s\b"), r"\1 is"),
)
_JOINING = (
    "firstly secondly thirdly lastly finally however but and so also thus therefore hence "
    "moreover furthermore additionally besides please indeed oh ok okay"
)
_FILLER = frozenset(_JOINING.split())
"""Words that join sentences. Hedges, modals and negations are none: they are real repairs."""


def _content(text: str) -> list[str]:
    """The tokens of a text that a repair would have to touch."""
    plain = normalize.normal(text)
    for pattern, written in _CONTRACTIONS:
        plain = pattern.sub(written, plain)
    return [token for token in _TOKEN.findall(plain) if token not in _FILLER]


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[k : k + length]) for k in range(len(words) - length + 1)}


# -- talk about the review -----------------------------------------------------------------

_REVIEWER = re.compile(
    r"\boffending (?:words?|quotes?|phrases?)\b|\breply under review\b"
    r"|\b(?:revised|rewritten) (?:reply|response|turn)\b"
    r"|\b(?:break|broke|violat|adher|compl)\w* (?:to |with )?(?:the|this|that|these) principles?\b"
    r"(?! of| that)",
    re.IGNORECASE,
)
_APOLOGY = re.compile(
    r"\b(?:i(?:'m| am)?(?: \w+)? (?:apologi[sz]e|sorry)|my apologies)\b[^.?!\n]{0,60}"
    r"\b(?:my|the) (?:earlier|previous|prior|initial|original|last|first) (?:\w+ )?"
    r"(?:reply|response|answer|message|comment|statement|remark|suggestion|advice|wording)\b"
    r"|\b(?:i(?:'m| am)?(?: \w+)? (?:apologi[sz]e|sorry)|my apologies) if (?:my|the) (?:\w+ ){0,2}"
    r"(?:reply|response|answer|words?|comment|statement|remark)\b"
    r"|\bi (?:should not|shouldn't) have (?:said|suggested|implied|assumed)\b|\bi misspoke\b",
    re.IGNORECASE,
)
_OBJECTS = re.compile(
    r"\b(?:wrong|incorrect|mistake|error|not true|false|you said|you told|you just|earlier|offen"
    r"|rude|hurt|disagree|contradict|confus|apologi|sorry|misunderst|inaccura|never said|upset)",
    re.IGNORECASE,
)


def _copied(original: str, revised: str, said: str, quotes: tuple[str, ...], critique: str) -> bool:
    """Whether the review's own words stand in it: not those of the talk, which a review repeats."""
    phrases = {normalize.normal(m.group()) for m in _REVIEWER.finditer(revised)}
    if phrases:
        talk = normalize.normal(f"{said}\n{original}")
        if any(phrase.split()[-1].rstrip("s") not in talk for phrase in phrases):
            return True
    shared = _runs(revised, 10) & _runs(critique, 10)
    if not shared:
        return False
    return bool(shared.difference(*(_runs(text, 10) for text in (original, said, *quotes))))


def _apologises(original: str, revised: str, asked: str) -> bool:
    """The reply under review was never sent; an objection to an earlier one may be answered."""
    if not _APOLOGY.search(revised.replace("’", "'")) or _OBJECTS.search(asked):
        return False
    return not _APOLOGY.search(original.replace("’", "'"))


# -- the user's words ----------------------------------------------------------------------

_ECHO = 8
"""Words that a message must have: shorter ones are taken up in an answer naturally."""


def _echoes(text: str, asked: str) -> bool:
    """Whether a text begins with the message that it answers, a word in ten aside."""
    message = _words(asked)
    if len(message) < _ECHO:
        return False
    begun = _words(text)[: len(message)]
    return bool(Levenshtein.normalized_similarity(message, begun) >= 0.9)


# -- the offence ---------------------------------------------------------------------------

_FUNCTION_WORDS = (
    "a an the and or but if of to in on at by for from with about as is are was were be been am do "
    "does did has have had will would can could shall should may might must not no it its this "
    "that these those there here i you he she we they me him her us them my your his our their so "
    "too very just then than what which who whom when where why how all any some"
)
_SMALL = frozenset(_FUNCTION_WORDS.split())


def _kept(quote: str, revised: str, said: str) -> bool:
    """A quotation long enough to be no chance, that does not repeat what the talk says anyway."""
    words = _words(quote)
    if len(words) < 4 and sum(word not in _SMALL for word in words) < 2:
        return False
    return parsing.occurs(quote, revised) and not parsing.occurs(quote, said)


def _longer(original: str, revised: str, quotes: tuple[str, ...]) -> bool:
    if len(revised) > 2 * len(original) + 200:
        return True
    old, new = _words(original), _words(revised)
    if len(old) < 5 or len(new) < len(old) + max(8, len(old) // 5):
        return False
    if any(not parsing.occurs(quote, revised) for quote in quotes):
        return False
    return bool(LCSseq.similarity(old, new) >= 0.95 * len(old))


# -- refusals ------------------------------------------------------------------------------

_ASKS = re.compile(
    r"\?|？|\b(?:please|help|tell|show|explain|give|write|need|want|looking for|recommend|suggest"
    r"|how|what|which|should i)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bi must decline\b|\bi(?:'m| am)? (?:simply |really )?(?:can't|cannot|can not|won't|will not"
    r"|unable to|not able to|not comfortable) (?:help|assist|provid|answer|discuss|comply|support"
    r"|engag|giv|offer|fulfil|do that|shar|continue|respond|advis|recommend|talk|speak|comment"
    r"|writ|generat|creat|participat)",
    re.IGNORECASE,
)
_DEFLECTS = re.compile(
    r"\A\W*(?:i(?:'m| am)(?: very| so| really)? sorry|sorry|i apologi[sz]e|unfortunately|as an ai\b"
    r"|i understand (?:your|that you|how)|thank you for|if you have any (?:other|further)"
    r"|is there anything else|feel free|please (?:feel free|consult|contact|reach out|seek|let me)"
    r"|let me know if|i'd be happy to help with (?:something|any)|i(?:'m| am) here to help"
    r"|(?:it is|it's) (?:best|important|advisable) to (?:consult|seek|contact)"
    r"|i(?:'d| would)? (?:suggest|recommend|encourage|advise)(?: you)?(?: to)? (?:consult|seek"
    r"|contact|speak|talk|reach)\w*)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"(?<=[.!?;])\s+|\n+|,? but (?=\w)")


def _refuses(text: str) -> bool:
    """Whether hardly a word is left of a reply without its refusals and deflections."""
    refused, rest = False, 0
    for clause in _CLAUSE.split(text.replace("’", "'")[:4000]):
        refusal = _REFUSAL.search(clause)
        refused = refused or bool(refusal)
        if not refusal and not _DEFLECTS.match(clause):
            rest += len(_WORD.findall(clause))
    return refused and rest <= 5


# -- facts ---------------------------------------------------------------------------------

_FACT = re.compile(
    r"(?<![\w.])\d+(?:[.,:]\d+)+|(?<!\w)\d{2,}|(?<!\w)\d+ ?(?:%|°|[kcm]?[gml]\b|k?W\b|[CF]\b)"
    r"|(?<=[a-zß-ÿ,;] )[A-ZÀ-Þ][a-zß-ÿ]+(?: [A-ZÀ-Þ][a-zß-ÿ]+)*"
)
"""Numbers of two digits or with a unit, and capitalised words inside a sentence."""
_FACTS = 100
"""A text with more of them is a table rather than a reply, and not judged."""
_NO_NAME = frozenset({"i", "ai", "ok", "god", "yes", "no", "sir", "madam"})


def _lost(original: str, revised: str, said: str, quotes: Sequence[str]) -> bool:
    """Whether most facts that do not stand in the offence itself, two at least, are missing.

    A fact counts if the conversation has it too, or if the original has it twice. German writes
    every noun with a capital: texts with many such words are not judged.
    """
    facts = Counter(normalize.normal(m.group()) for m in _FACT.finditer(original))
    if sum(facts.values()) > max(12, len(original.split()) / 4) or len(facts) > _FACTS:
        return False
    known, kept = normalize.normal(said), normalize.normal(revised)
    offence = normalize.normal("\n".join(quotes))
    counted = [
        fact
        for fact, times in facts.items()
        if fact not in _NO_NAME and not _has(offence, fact) and (times > 1 or _has(known, fact))
    ]
    missing = [fact for fact in counted if not _has(kept, fact)]
    return len(missing) >= 2 and len(missing) > len(counted) / 2


def _has(text: str, fact: str) -> bool:
    """Whether a fact stands in a text, and not as a part of a longer word or number."""
    return bool(re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text))
