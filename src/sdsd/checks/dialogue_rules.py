"""Checks on a finished dialogue, without a model: what a reader of bad data stumbles over.

The rules are made to be precise: a miss is left to people, a false alarm costs a good dialogue.
Words that they look for are English, and on other languages they stay silent. What stands in
quotation marks, code or addresses is somebody else's speech and is not searched.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice

from msgspec import Struct

from sdsd.text import normalize
from sdsd.types import Dialogue, Message, Plan, Principle

RULES: dict[str, str] = {
    "order": "user and agent do not take turns, or the user does not begin, or the agent not end",
    "role_flip": "the agent talks as the person who asks, or the user as an assistant",
    "refusal_talk": "the user turns a request down as assistants do",
    "third_person": "the user's turn calls the user by name or tells of them, or a turn narrates",
    "speaker_label": "a turn begins with the name or the role of its speaker and a colon",
    "echo": "a turn repeats an earlier one, or the one it answers, nearly word for word",
    "loop": "one turn says the same over and over",
    "thanks_spiral": "after an exchange of thanks and goodbyes alone, another one",
    "plan_leak": "words of the plan or of a principle, or talk about them",
    "stage_direction": "narration such as `*smiles*` or `(pauses)`",
    "placeholder": "a blank to be filled in, such as `[Your Name]` or `XXXX`",
    "marker": "a label, an end marker or remains of a chat template",
    "wrong_language": "clearly another language than the dialogue's first turn, and nobody asked",
    "too_short": "a turn without words, or one or two words where an explanation was asked for",
    "cut": "a turn that stops in the middle of a sentence, quotation, bracket or code block",
    "garbled": "characters that were lost or decoded wrongly",
}
"""Every rule and what it means."""

_COPY = 10
"""Words in a row that are no chance."""
_HALF = 20_000
"""Characters at either end of a turn that are read; what lies between is not."""


class Flag(Struct, frozen=True):
    """One rule that one turn breaks."""

    rule: str
    turn: int
    """Index into the dialogue's messages; -1 for all of it."""


def flags(
    dialogue: Dialogue, plan: Plan | None, principles: tuple[Principle, ...]
) -> tuple[Flag, ...]:
    """All that is wrong with a dialogue, by turn and then in the order of `RULES`."""
    talk = _talk(dialogue.messages, plan, principles)
    roles = [m.role for m in dialogue.messages]
    even = len(roles) % 2 == 0 and roles == ["user", "assistant"] * (len(roles) // 2)
    found = [] if roles and even else [Flag("order", -1)]
    for k, turn in enumerate(talk.turns):
        if turn.role != "system":
            found += [Flag(rule, k) for rule in RULES if rule in _CHECKS and _CHECKS[rule](talk, k)]
    return tuple(found)


def good(dialogue: Dialogue, flags: Sequence[Flag]) -> int:
    """How many exchanges from the beginning are free of flags: where a dialogue may be cut."""
    first = min((flag.turn for flag in flags), default=len(dialogue.messages))
    return max(first, 0) // 2


# -- what the rules read -------------------------------------------------------------------


class _Search:
    """A pattern that is tried only where a word stands without which it cannot match.

    Most turns have none of these words, and to look for a word costs a hundredth of a search.
    """

    def __init__(self, pattern: str, needed: str, flags: int = re.IGNORECASE) -> None:
        self.pattern = re.compile(pattern, flags)
        self._folded = bool(flags & re.IGNORECASE)
        self._needed = needed.split("|")

    def search(self, text: str) -> bool:
        plain = text.lower() if self._folded else text
        return any(map(plain.__contains__, self._needed)) and bool(self.pattern.search(text))


def _words(stems: str) -> _Search:
    """Finds words that begin with one of these."""
    return _Search(rf"\b(?:{stems})", stems)


class _Turn(Struct, frozen=True):
    role: str
    text: str
    plain: str
    """`text` without code, addresses and quoted speech, with plain apostrophes."""
    words: tuple[str, ...]
    """Of `plain`, for comparing; of scripts without spaces, every character."""
    between: tuple[str, ...]
    """The same, but of such scripts what stands between two spaces or marks."""


class _Talk(Struct, frozen=True):
    turns: tuple[_Turn, ...]
    name: str
    """The user's own, from the plan; empty if it gives none."""
    script: frozenset[tuple[str, ...]]
    """Runs of words that no turn may copy."""
    repeats: frozenset[int]
    spiral: frozenset[int]
    form: int
    """The first turn in which the user asks for a text with blanks; their number if none."""
    foreign: int
    """The first turn in which the user speaks of a language; their number if none."""

    def asked(self, k: int) -> str:
        """The user's words that turn `k` answers; empty for the user's own."""
        answers = k > 0 and self.turns[k].role == "assistant"
        return self.turns[k - 1].text if answers and self.turns[k - 1].role == "user" else ""


_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`|https?://\S+", re.DOTALL)
_QUOTED = re.compile(r'"[^"\n]{1,400}"|“[^“”\n]{1,400}”|„[^„“\n]{1,400}“|«[^«»\n]{1,400}»')
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u9fff]+")
_SPACED = re.compile(r"\w+")
_NAME = re.compile(r"\A([^\W\d_]{2,20})(?=,|\(| \(| is\b| who\b| has\b| wants\b| [A-Z]|\Z)")

_DICTATED = re.compile(
    rf"{_QUOTED.pattern}|\b(?:say|tell|claim|explain|suggest|state|advise|repl(?:y|ie)|insist|answer)"
    r"s?(?: [\w']+){0,2} that\b[^.!?\n]*"
)
"""What a plan has somebody say, word for word: saying it is no leak."""


def _talk(
    messages: tuple[Message, ...], plan: Plan | None, principles: tuple[Principle, ...]
) -> _Talk:
    turns = tuple(_turn(message) for message in messages)
    named = _NAME.match(plan.persona) if plan else None
    name = named.group(1) if named and named.group(1)[0].isupper() else ""
    written = (*plan.steps, plan.planned_violation, plan.persona) if plan else ()
    sources = (*(_DICTATED.sub(" ", text) for text in written), *(p.text for p in principles))
    form, foreign = _first(turns, _FORM), _first(turns, _ASKS_LANGUAGE)
    said = (_SPACED.findall(normalize.normal(text)) for text in sources)
    script = frozenset(run for words in said for run in _grams(words, _COPY))
    return _Talk(turns, name, script, _repeats(turns), _spiral(turns), form, foreign)


def _first(turns: tuple[_Turn, ...], pattern: _Search) -> int:
    hits = (k for k, t in enumerate(turns) if t.role == "user" and pattern.search(t.text))
    return next(hits, len(turns))


def _turn(message: Message) -> _Turn:
    text = message.content
    if len(text) > 2 * _HALF:
        text = f"{text[:_HALF]}\n{text[-_HALF:]}"
    plain = _QUOTED.sub(" ", _CODE.sub(" ", text)).replace("’", "'").strip()
    normal = normalize.normal(plain)
    between = tuple(_SPACED.findall(normal))
    words = between if normal.isascii() else tuple(_WORD.findall(normal))
    return _Turn(message.role, text, plain, words, between)


def _grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[k:] for k in range(length)), strict=False))


# -- who speaks ----------------------------------------------------------------------------

_AS_ASSISTANT = _Search(
    r"\bas an ai(?: language model| model| assistant| chatbot)?,? i\b"
    r"|\bi(?:'m| am) (?:just )?an ai (?:language model|assistant)\b"
    r"|\bhow (?:can|may) i (?:help|assist) you\b"
    r"|\bi(?:'m| am) here to (?:help|assist)(?: you\b| with any|[.!]|\Z)"
    r"|\bi(?:'d| would) be (?:happy|glad|delighted) to (?:help|assist) you\b"
    r"|\A(?:certainly|sure|of course|absolutely)[!,.] ?(?:here(?:'s| is| are)\b|i can help you)"
    r"|\bis there anything else (?:i can|you(?:'d| would) like me to)\b",
    "an ai|i help|i assist|here to help|here to assist|to help you|to assist you|here's|here is"
    "|here are|i can help you|anything else",
)
_AS_USER = re.compile(
    r"\A\W*(?:thanks|thank you)(?: so much| very much)?,? for (?:all )?(?:the|your) "
    r"(?:great |helpful |useful )?(?:help|advice|tips|guidance|assistance|recommendations)\b"
    r"|\A(?:[^.!?\n]{0,60}[.!] )?(?:(?:can|could) you (?:please )?(?:recommend|suggest (?:some|any)"
    r"|give me (?:some|any|a few) (?:tips|advice|ideas|suggestions))\b"
    r"|do you have any (?:tips|advice|suggestions|recommendations)\b)",
    re.IGNORECASE,
)
_REFUSES = re.compile(
    r"\A(?:i'm sorry|i am sorry|sorry|i apologi[sz]e|unfortunately)?,? ?(?:but )?"
    r"(?:as an ai[^.,\n]{0,30}, )?"
    r"i(?: can't| cannot| can not| won't|(?: am|'m) (?:unable|not able) to) "
    r"(?:assist|comply|help (?:you\b|with)|fulfil+ |engage in|generate"
    r"|provide (?:you|that|this|assistance|information|instructions))",
    re.IGNORECASE,
)
_SPEECH = (
    r"(?:says|asks|replies|responds|answers|explains|admits|continues|thanks|tells|agrees|wonders"
    r"|expresses|is (?:asking|happy|ready|talking|curious|worried))\b"
)
_NARRATES = re.compile(rf"(?:\A|[.!?]\s)The (?:user|person|assistant) {_SPEECH}")
_ABOUT_USERS = re.compile(r"\b(?:user|person|people|assistant|customer)s?\b", re.IGNORECASE)
_LABEL = re.compile(
    r"\A\W*(?:the )?(?:user|person|human|speaker|agent|assistant|ai|customer|client)"
    r"(?: ?\(?(?:\d{1,3}|[a-b])\)?)?\W{0,3}:[*_]*\s",
    re.IGNORECASE,
)


@lru_cache(maxsize=256)
def _own(name: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """How a turn calls the user by name, introduces itself by it, and is labelled with it."""
    greeting = r"(?i:(?:hi|hello|hey|dear|ok|okay|well),? )"
    return (
        re.compile(rf"\A{greeting}?{name}[,!] (?!here\b)|\A{name} {_SPEECH}"),
        re.compile(rf"\b(?:I'm|I am|[Mm]y name is) {name}\b(?!'s)"),
        re.compile(rf"\A\W*{name}\W{{0,3}}:[*_]*\s"),
    )


def _role_flip(talk: _Talk, k: int) -> bool:
    turn = talk.turns[k]
    if turn.role == "user":
        return _AS_ASSISTANT.search(turn.plain)
    introduced = talk.name and _own(talk.name)[1].search(turn.plain)
    return bool(introduced or _AS_USER.search(turn.plain))


def _refusal_talk(talk: _Talk, k: int) -> bool:
    return talk.turns[k].role == "user" and bool(_REFUSES.search(talk.turns[k].plain))


def _third_person(talk: _Talk, k: int) -> bool:
    turn = talk.turns[k]
    told = len(_NARRATES.findall(turn.plain))
    narrated = told > 1 or (told == 1 and turn.plain.startswith("The person "))
    if narrated and not _ABOUT_USERS.search(talk.asked(k)):
        return True
    return turn.role == "user" and bool(talk.name and _own(talk.name)[0].match(turn.plain))


def _speaker_label(talk: _Talk, k: int) -> bool:
    plain = talk.turns[k].plain
    return bool(_LABEL.search(plain) or (talk.name and _own(talk.name)[2].search(plain)))


# -- saying it again -----------------------------------------------------------------------

_EDITS = _words(
    "proofread|correct|edit|fix|translat|rewrit|rewrote|rephras|format|improv|shorten|convert"
    "|repeat|again|copy|chang|replac|make|add|remov|updat|instead|version|tweak|adjust|revis|swap"
    "|shorter|longer|polish|clean|spell|confirm|say that|read back"
)
"""Requests whose honest answer repeats most of what is there."""
_PLEASANT = re.compile(
    r"(?:ok(?:ay)?|oh|well|and|yes|hi|great|wow|sure)?,? ?"
    r"(?:(?:many )?thanks|thank you|you(?:'re| are) (?:very |most )?welcome|you too|(?:good)?bye\b"
    r"|good ?(?:luck|night)|best of luck|take care|have an? |my pleasure|no problem|anytime|enjoy"
    r"|(?:i'm )?(?:so |very )?(?:glad|happy) (?:to (?:help|hear|be of)|i could|you|that)|feel free"
    r"|(?:please )?(?:don't|do not) hesitate|if you (?:ever )?(?:have|need) any|let me know if"
    r"|i (?:really |truly )?appreciate|talk (?:to you )?soon|see you|cheers|same to you|likewise"
    r"|it was (?:a pleasure|great|nice)|i(?:'ll| will) (?:do that|be here)|until next time"
    r"|i(?:'ll| will) (?:keep (?:that|it|this) in mind|(?:give it a )?try)"
    r"|(?:great|perfect|awesome|excellent|wonderful|sounds good|that's (?:great|all|helpful))\W*\Z)"
)
_SUBSTANCE = re.compile(r"\d|\b(?:but|how|what|why|because|should|could)\b")


def _repeats(turns: tuple[_Turn, ...]) -> frozenset[int]:
    """Turns of which four fifths of the three-word runs stand in one earlier turn."""
    seen: dict[tuple[str, ...], tuple[int, ...]] = {}
    found = set()
    for k, turn in enumerate(turns):
        grams = set(_grams(turn.words, 3))
        known = grams & seen.keys()
        if len(turn.words) >= 7 and len(known) >= 0.8 * len(grams):
            shared = Counter(earlier for gram in known for earlier in seen[gram])
            edited = turn.role == "assistant" and k > 0 and _EDITS.search(turns[k - 1].text)
            if max(shared.values(), default=0) >= 0.8 * len(grams) and not edited:
                found.add(k)
        for gram in known:
            if len(seen[gram]) < 8:  # bounds the work where everything is the same
                seen[gram] = (*seen[gram], k)
        seen.update(dict.fromkeys(grams - known, (k,)))
    return frozenset(found)


_SENTENCES = re.compile(r"[.!?。！？\n]+")


def _loop(talk: _Talk, k: int) -> bool:
    turn = talk.turns[k]
    grams = _grams(turn.words, 4)
    if len(grams) >= 24:
        counts = Counter(grams)
        most = max(counts.values())
        if len(counts) <= 0.7 * len(grams) or (most >= 5 and most >= 0.037 * len(grams)):
            return True
    sentences = list(filter(None, map(normalize.normal, _SENTENCES.split(turn.plain))))
    if len(sentences) - len(set(sentences)) >= 2:  # else they cannot be half of four
        sentences = [s for s in sentences if len(_WORD.findall(s)) >= 3]
        if len(sentences) >= 4 and len(set(sentences)) <= len(sentences) / 2:
            return True
    return any(w.isalpha() and len(set(w)) <= 3 for w in turn.words if len(w) > 40)


def _pleasant(turn: _Turn) -> bool:
    """Whether a turn holds thanks, goodbyes and good wishes alone."""
    said = turn.plain.casefold()
    if _SUBSTANCE.search(said) or ("?" in said and "anything else" not in said):
        return False
    pieces = [piece.strip(" ,*_-") for piece in re.split(r"[.!?…\n]+", said)]
    pieces = [piece for piece in pieces if _WORD.search(piece) and "anything else" not in piece]
    return 0 < len(pieces) <= 8 and all(
        len(piece.split()) <= 18 and _PLEASANT.match(piece) for piece in pieces
    )


def _spiral(turns: tuple[_Turn, ...]) -> frozenset[int]:
    """Turns of an exchange of pleasantries that comes after another one."""
    empty = [_pleasant(turn) for turn in turns]
    return frozenset(k for k in range(2, len(turns)) if all(empty[k - k % 2 - 2 : k - k % 2 + 2]))


# -- what is no talk -----------------------------------------------------------------------

_DIRECTED = _Search(
    r"^\W*(?:SLIP|PERSON|OPENING) ?:|\[(?:direction|pause\.|now write|the scene|end of|scene)\b"
    r"|\bdirector's (?:note|direction|cue)\b|\b(?:conversation|dialogue) plan\b"
    r"|\bas (?:the|an?) (?:user|agent|assistant) in this (?:scene|scenario|dialogue|role-?play)\b"
    r"|\b(?:violat|break|broke)\w* (?:the|this|that) principle\b(?! of| that)"
    r"|\b(?:step \d+|next step) (?:of|in) the (?:plan|conversation)\b(?! to| for)",
    "slip:|slip :|person:|person :|opening:|opening :|[|director's|conversation plan|dialogue plan"
    "|in this scen|in this dialogue|in this role|the principle|this principle|that principle|step ",
    re.IGNORECASE | re.MULTILINE,
)
_STEP = re.compile(r"^\W*STEP \d+ ?:", re.MULTILINE)
_STAGE = re.compile(
    r"[*(\[]_?(?:(?:he|she|they|softly|gently|slightly|nervously|slowly) )?"
    r"(?:(?:smil|laugh|sigh|nod|chuckl|grin|giggl|shrug|wink|frown|gasp|paus|blush|smirk|whisper"
    r"|lean|wav)(?:e?s|ing)|clear(?:s|ing) (?:his |her |their )?throat)"
    r"(?: [^*()\[\]\n]{1,60})?_?[*)\]](?!\()",
    re.IGNORECASE,
)
_FICTION = _words(
    "script|scene|screenplay|play|theat|story|stories|dialogue|role-play|roleplay|transcript"
    "|comedy|sketch|actor|character|novel|emphas|transcrib|subtitle"
)
_BLANK = re.compile(
    r"\[(?:(?:insert|your|recipient|company|client|customer|sender)\b[^\[\]\n]{0,40}"
    r"|(?:full |first |last )?name|product|brand|topic|subject|date|address|phone number|city"
    r"|country|location)\](?!\()"
    r"|<(?:insert [^<>\n]{1,40}|your name)>",
    re.IGNORECASE,
)
_FORM = _words(
    "email|e-mail|letter|template|draft|form|message|resume|cv|script|invitation|note|contract"
    "|post|speech|placeholder|jinja|mustache|handlebars|vue|angular|helm|ansible"
)
_FILLER = _Search(
    r"\{\{ ?[a-z_]+ ?\}\}|(?<![A-Za-z])X{4,}(?![A-Za-z])|\b[Ll]orem ipsum\b",
    "{{|XXXX|orem ipsum",
    re.NOFLAG,
)
_MARKER = _Search(
    r"^[ \t>*_#]*+(?:(?:USER|AGENT|ASSISTANT|HUMAN|SYSTEM|VIOLATION|OVER)[*_ ]*:"
    r"|\[?DONE\]?[.!]?[ \t*]*$)|^(?:Human|Assistant):[ \t]"
    r"|\A\s*-{3,}[ \t]*$|^[ \t]*-{3,}+\s*\Z"
    r"|<\|[\w ]{2,40}\|>|<｜[^\n｜]{2,40}｜>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|</s>|<(?:bos|eos|pad|unk)>|</?think>"
    r"|^###[ \t]*(?:(?:Response|Human|Assistant):?[ \t]*$|(?:Instruction|Input|System|User):)",
    "USER|AGENT|ASSISTANT|HUMAN|SYSTEM|VIOLATION|OVER|DONE|Human:|Assistant:|---|<|INST]|###",
    re.MULTILINE,
)
_LOST = re.compile(r"\ufffd|â€[™œ\x9c\x9d“”¦˜]|Ã[©¨¼¶¤±³¡§]")


def _plan_leak(talk: _Talk, k: int) -> bool:
    turn = talk.turns[k]
    if _DIRECTED.search(turn.plain) or (turn.role == "user" and _STEP.search(turn.plain)):
        return True
    return bool(talk.script) and not talk.script.isdisjoint(_grams(turn.between, _COPY))


def _stage_direction(talk: _Talk, k: int) -> bool:
    return bool(_STAGE.search(talk.turns[k].plain)) and not _FICTION.search(talk.asked(k))


def _placeholder(talk: _Talk, k: int) -> bool:
    plain = talk.turns[k].plain
    return k < talk.form and bool(_BLANK.search(plain) or _FILLER.search(plain))


def _marker(talk: _Talk, k: int) -> bool:
    return _MARKER.search(talk.turns[k].plain)


def _garbled(talk: _Talk, k: int) -> bool:
    return bool(_LOST.search(talk.turns[k].text))


# -- language ------------------------------------------------------------------------------

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
"""The most frequent words of each language, less those that are frequent in English too."""
_LANGUAGES = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_ASKS_LANGUAGE = _words(
    "language|translat|pronounc|english|french|german|spanish|italian|portuguese|dutch|russian"
    "|greek|chinese|mandarin|cantonese|japanese|korean|arabic|hebrew|hindi|thai|latin|ukrainian"
    "|tradu|übersetz|vertaal|deutsch|français|español|italiano|português|nederlands|перев"
)
_ASCII = re.compile(r"[\x00-\x7f]+")
_LETTERS = re.compile(r"[A-Za-z]+")
_TEN_LETTERS = re.compile(r"(?:[A-Za-z][^A-Za-z]*+){10}")


@lru_cache(maxsize=64)
def _script(text: str) -> str:
    """The script of nearly all letters; empty where there are few, or several scripts."""
    if text.isascii():
        return "latin" if _TEN_LETTERS.search(text) else ""
    rest = _ASCII.sub("", text)  # often but a dash
    counts = {name: len(pattern.findall(rest)) for name, pattern in _SCRIPTS.items()}
    counts["latin"] += len(text) - len(_LETTERS.sub("", text))
    name = max(counts, key=lambda script: counts[script])
    return name if counts[name] >= max(10, 0.7 * sum(counts.values())) else ""


def _share(language: str, words: tuple[str, ...]) -> float:
    """The share of the language's function words."""
    return sum(map(_LANGUAGES[language].__contains__, words)) / len(words)


@lru_cache(maxsize=64)
def _likely(words: tuple[str, ...]) -> tuple[float, str]:
    """The largest such share, and whose it is."""
    return max(((_share(name, words), name) for name in _LANGUAGES), key=lambda found: found[0])


def _wrong_language(talk: _Talk, k: int) -> bool:
    first, turn = talk.turns[0], talk.turns[k]
    if k == 0 or k >= talk.foreign:
        return False
    here, there = _script(first.plain), _script(turn.plain)
    if here != there or here != "latin":
        return bool(here and there) and here != there
    if len(first.words) < 6 or len(turn.words) < 14:
        return False
    was, own = _likely(first.words)
    left = _share(own, turn.words)
    if was < 0.2 or left > 0.25:  # no share is four times this
        return False
    now, _ = _likely(turn.words)
    return now >= 0.25 and left <= now / 4


# -- length --------------------------------------------------------------------------------

_EXPLAIN = re.compile(
    r"\b(?:why|how (?:do|can|should|would|does|did|to)|explain|describe|tell me (?:about|how|why)"
    r"|compare|walk me through|in detail)\b",
    re.IGNORECASE,
)
_HANGING = re.compile(
    r"(?:[,;]|\b(?:the|an|and|or|but|because|my|their|our|whose|into|including|such as))\Z",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^[ \t>]*```", re.MULTILINE)
_LISTED = re.compile(r"[ \t]*(?:[-*•+#|>]|\d{1,3}[.)]|[a-z]\))")
_ENDED = re.compile(r"[.!?…:;]")


def _too_short(talk: _Talk, k: int) -> bool:
    words = list(islice(_WORD.finditer(talk.turns[k].text), 3))
    return not words or (len(words) <= 2 and bool(_EXPLAIN.search(talk.asked(k))))


def _cut(talk: _Talk, k: int) -> bool:
    turn = talk.turns[k]
    if "```" in turn.text and len(_FENCE.findall(turn.text)) % 2:
        return True
    lines = turn.text.rstrip().splitlines()
    last = lines[-1].rstrip(" *_") if lines else ""
    if _open(last) or (_HANGING.search(last[-20:]) and len(last.split()) > 3):
        return True
    return (
        turn.role == "assistant"
        and len(last.split()) >= 8
        and bool(re.match(r"[A-Za-z\u00c0-\u024f]", last[-1]))
        and not _LISTED.match(last)
        and len(_ENDED.findall(turn.text)) >= max(1, sum(bool(x.strip()) for x in lines) - 1)
    )


def _open(line: str) -> bool:
    """Whether a quotation or a bracket is opened in the line and never closed."""
    bracket = line.rfind("(")
    if bracket > line.rfind(")") and line[bracket - 1 : bracket] not in (":", ";", "=", "8"):
        return line[bracket + 1 : bracket + 2].isalnum()
    marks = line.count('"')
    if marks % 2:
        at = line.rfind('"')
        return line[at + 1 : at + 2].isalpha() and not line[at - 1 : at].isalnum()
    return "„" not in line and line.rfind("“") > line.rfind("”")


_CHECKS: dict[str, Callable[[_Talk, int], bool]] = {
    "role_flip": _role_flip,
    "refusal_talk": _refusal_talk,
    "third_person": _third_person,
    "speaker_label": _speaker_label,
    "echo": lambda talk, k: k in talk.repeats,
    "loop": _loop,
    "thanks_spiral": lambda talk, k: k in talk.spiral,
    "plan_leak": _plan_leak,
    "stage_direction": _stage_direction,
    "placeholder": _placeholder,
    "marker": _marker,
    "wrong_language": _wrong_language,
    "too_short": _too_short,
    "cut": _cut,
    "garbled": _garbled,
}
