"""Rules on a revision that need no model: does it change what had to change, and nothing else?

`DEFECTS` are certain: whatever a critic would say, such a text is not a revision of the reply, so
it is refused without asking one. The others are warnings, because each has honest exceptions: a
principle may demand an added caution (so the quoted words stay and the text grows), a refusal may
be the right fix, a name may have been the violation. Rules that look for phrases know English only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import LCSseq, Levenshtein

from sdsd.text import normalize, parsing
from sdsd.text.words import WORD, grams
from sdsd.types import Message

RULES: dict[str, str] = {
    # Defects. The reviser is told these words, so changing them changes what a run makes.
    "unchanged": "the reply as it was, but for case, white space and typography",
    "trivial": "no content word changed, only case, punctuation, contractions or filler",
    "copied_critique": "words of the review, or talk about it",
    "apology_only": "an apology for a reply that the user never saw",
    "echo": "the user's last message, nearly word for word, at its beginning",
    # Warnings.
    "offence_kept": "a quoted violation is still in it, word for word",
    "refusal": "it only refuses or deflects, which the original did not",
    "longer": "nearly all of the original with text added, or more than twice as long",
    "lost_facts": "most numbers and names that the original and the conversation share are gone",
}
"""Every rule and what it finds."""

DEFECTS = frozenset({"unchanged", "trivial", "copied_critique", "apology_only", "echo"})
"""The rules that refuse a revision."""
WARNINGS = tuple(rule for rule in RULES if rule not in DEFECTS)
"""The rules that only mark it."""

_CHARS = 60_000
"""Characters read from the start of a text: ten times a long reply."""
_MOST = 10_000
"""Words of these that are compared."""


def broken_rules(
    original: str,
    revised: str,
    before: tuple[Message, ...],
    quotes: tuple[str, ...],
    critique: str,
) -> tuple[str, ...]:
    """Return the rules that a revision breaks, in the order of `RULES`.

    before    the conversation that both texts answer
    quotes    the violations as the critic quoted them from `original`
    critique  what the reviser was told
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


def words(text: str) -> list[str]:
    """Return the first 10,000 words of a text as they are compared: no case or typography."""
    return WORD.findall(normalize.normal(text[:_CHARS]))[:_MOST]


_TOKEN = re.compile(
    r"[-+]?\d+(?:[.,:/]\d+)*|[<>=+/%$€£¥&|^~?\U0001f000-\U0001faff\u2600-\u27bf]"
    rf"|{WORD.pattern}"
)
"""What can carry meaning: words, complete numbers, operators, currencies, `?`, emoji."""
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
"""Words that join sentences. Hedges, modals and negations are not filler but real fixes."""


def _content(text: str) -> list[str]:
    """Return the tokens of which a real revision changes at least one."""
    plain = normalize.normal(text)
    for pattern, written in _CONTRACTIONS:
        plain = pattern.sub(written, plain)
    return [token for token in _TOKEN.findall(plain) if token not in _FILLER]


def _runs(text: str) -> set[tuple[str, ...]]:
    return set(grams(words(text), 10))


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
    """Whether the revision has the critique's own words, not those it took from elsewhere."""
    phrases = {normalize.normal(m.group()) for m in _REVIEWER.finditer(revised)}
    if phrases:
        known = normalize.normal(f"{said}\n{original}")
        if any(phrase.split()[-1].rstrip("s") not in known for phrase in phrases):
            return True
    shared = _runs(revised) & _runs(critique)
    if not shared:
        return False
    return bool(shared.difference(*(_runs(text) for text in (original, said, *quotes))))


def _apologises(original: str, revised: str, asked: str) -> bool:
    """Find an apology for the reply under review, which was never sent; others are fine."""
    if not _APOLOGY.search(revised.replace("’", "'")) or _OBJECTS.search(asked):
        return False
    return not _APOLOGY.search(original.replace("’", "'"))


_ECHO = 8
"""Least words of a message: a good answer may well repeat a shorter one."""


def _echoes(text: str, asked: str) -> bool:
    """Whether a text begins with the message it answers, with at most a tenth of it changed."""
    message = words(asked)
    if len(message) < _ECHO:
        return False
    begun = words(text)[: len(message)]
    return bool(Levenshtein.normalized_similarity(message, begun) >= 0.9)


_FUNCTION_WORDS = (
    "a an the and or but if of to in on at by for from with about as is are was were be been am do "
    "does did has have had will would can could shall should may might must not no it its this "
    "that these those there here i you he she we they me him her us them my your his our their so "
    "too very just then than what which who whom when where why how all any some"
)
_SMALL = frozenset(_FUNCTION_WORDS.split())
"""Function words: a quotation of these alone proves nothing."""


def _kept(quote: str, revised: str, said: str) -> bool:
    """Whether a distinctive quotation remains that is not in the conversation anyway."""
    quoted = words(quote)
    if len(quoted) < 4 and sum(word not in _SMALL for word in quoted) < 2:
        return False
    return parsing.occurs(quote, revised) and not parsing.occurs(quote, said)


def _longer(original: str, revised: str, quotes: tuple[str, ...]) -> bool:
    if len(revised) > 2 * len(original) + 200:
        return True
    old, new = words(original), words(revised)
    if len(old) < 5 or len(new) < len(old) + max(8, len(old) // 5):
        return False
    if any(not parsing.occurs(quote, revised) for quote in quotes):
        return False
    return bool(LCSseq.similarity(old, new) >= 0.95 * len(old))


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
    """Whether a reply has hardly a word besides refusals and deflections."""
    refused, rest = False, 0
    for clause in _CLAUSE.split(text.replace("’", "'")[:4000]):
        refusal = _REFUSAL.search(clause)
        refused = refused or bool(refusal)
        if not refusal and not _DEFLECTS.match(clause):
            rest += len(WORD.findall(clause))
    return refused and rest <= 5


_FACT = re.compile(
    r"(?<![\w.])\d+(?:[.,:]\d+)+|(?<!\w)\d{2,}|(?<!\w)\d+ ?(?:%|°|[kcm]?[gml]\b|k?W\b|[CF]\b)"
    r"|(?<=[a-zß-ÿ,;] )[A-ZÀ-Þ][a-zß-ÿ]+(?: [A-ZÀ-Þ][a-zß-ÿ]+)*"
)
"""Numbers of two digits or with a unit, and capitalised words inside a sentence."""
_FACTS = 100
"""A text with more of them is a table rather than a reply, and is not judged."""
_NO_NAME = frozenset({"i", "ai", "ok", "god", "yes", "no", "sir", "madam"})


def _lost(original: str, revised: str, said: str, quotes: Sequence[str]) -> bool:
    """Whether most facts outside the violation, and at least two, are missing.

    A fact counts if the conversation has it too, or the original has it twice. Texts with very many
    capitalised words, such as German ones, are not judged.
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
    """Whether a text has a fact, and not only inside a longer word or number."""
    return bool(re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text))
