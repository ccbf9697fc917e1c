"""Checks of whether a reply does what the user asks for: an answer, a number, a length, a list."""

from __future__ import annotations

import re

from sdsd.checks.decided.form import QUESTIONS, exceeds, max_words
from sdsd.checks.decided.reading import asked, is_english, own_words, prose
from sdsd.checks.decided.registry import Answer, Conversation, check
from sdsd.checks.dialogue_text import QUOTED
from sdsd.text import sentences

_YES_NO = re.compile(
    r"(?:so |and |but |ok |okay |hi |hello |also |then )?,? ?"
    r"(?:is|are|am|was|were|does|do|did|has|have|will|should|must)\b"
    r"(?! (?:you (?:know|have|think|got|able)|there)\b)(?<!\bwill(?= you))"
    r"(?! (?:we|i) (?:what|which))[^?]*\?",
    re.IGNORECASE,
)
_YES_NO_REPLY = re.compile(
    r"\A\W*+(?:yes|no|it (?:all )?depends)\b(?! (?:one|matter|doubt)\b)",
    re.IGNORECASE,
)


@check("begins with `yes`, `no` or `it depends`, if the user's only question can be answered so")
def begins_with_yes_or_no(conversation: Conversation, reply: str) -> Answer:
    message = prose(asked(conversation))
    questions = [message[a:b] for a, b in sentences.spans(message) if "?" in message[a:b]]
    if len(questions) != 1 or not _YES_NO.fullmatch(questions[0]):
        return None
    if re.search(r"\b(?:or|why|how|which|what)\b", questions[0], re.IGNORECASE):
        return None
    if _YES_NO_REPLY.match(reply):
        return False
    spans = sentences.spans(reply)
    return reply[slice(*spans[0])] if spans else None


_HOW_MUCH = re.compile(
    r"\b(?:how (?:many|much|long|far|hot|cold|warm|often|old|tall|high|deep|wide|heavy|big|thick"
    r"|fast|late|early|soon)|what (?:temperature|percentage|proportion|size|speed|age))\b"
    r"[^.!?\n]*\?",
    re.IGNORECASE,
)
_NUMBER_WORDS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    "|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred"
    "|thousand|million"
)
_FIGURE = re.compile(
    rf"\d+(?:[.,]\d+)*|\b(?:{_NUMBER_WORDS}|dozen|half|quarter|twice)\b", re.IGNORECASE
)
_PERHAPS_FIGURE = re.compile(
    r"\b(?:one|once|none|zero|nothing|no|never|couple|pair|fortnight|third|double|daily|nightly"
    r"|weekly|monthly|yearly|annually|hourly|noon|midnight"
    r"|(?:an?|every|each|per) (?:\w+ )?(?:second|minute|hour|day|night|week|month|year|decade"
    r"|century|cup|spoonful|teaspoon|tablespoon|pinch|handful|inch|foot|yard|mile|metre|meter|litre"
    r"|liter|pint|gallon|ounce|pound|kilo|gram|tonne|ton|degree|percent|score))\b",
    re.IGNORECASE,
)


@check("has a number that is not the user's, if the user asks how many, how much or how long")
def gives_figure(conversation: Conversation, reply: str) -> Answer:
    message = own_words(asked(conversation))
    if not _HOW_MUCH.search(message):
        return None
    known = set(map(str.casefold, _FIGURE.findall(message)))
    figures = set(map(str.casefold, _FIGURE.findall(prose(reply))))
    if figures - known:
        return False
    unsure = figures or _PERHAPS_FIGURE.search(reply) or QUESTIONS.search(reply)
    return None if unsure or not is_english(reply) else True


_UP_TO_TWENTY = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
"""
_SMALL = {word: number for number, word in enumerate(_UP_TO_TWENTY.split())}
_ROUND = {"single": 1, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
          "eighty": 80, "ninety": 90, "hundred": 100, "a hundred": 100, "one hundred": 100,
          "a dozen": 12, "dozen": 12}  # fmt: skip
_NUMBERS = _SMALL | _ROUND
_N = "(?P<n>" + "|".join([r"\d{1,4}", *sorted(_NUMBERS, key=len, reverse=True)]) + ")"
_LIMIT = re.compile(
    rf"(?P<strict>\b(?:under|below|fewer than|less than) )?"
    rf"(?P<limit>\b(?:at most|no more than|not more than|up to|max(?:imum)?(?: of)?|limit of"
    rf"|limited to|keep (?:it|this|that) to|in|within)(?: a)? )?"
    rf"\b{_N}[ -](?P<unit>words?|sentences?)\b"
    rf"(?P<after>,? (?:or (?:fewer|less)|max(?:imum)?|tops|at (?:the )?most|only|please)\b)?",
    re.IGNORECASE,
)
_NO_LIMIT = re.compile(
    r"\b(?:at least|more than|about|around|roughly|approximately|some|or so|or more|minimum|my|our"
    r"|his|her|their|essay|abstract|application|thesis|assignment|has to|have to|need to|needs to"
    r"|must be|wrote|written|said|was|were)\b",
    re.IGNORECASE,
)
"""Words that make it somebody else's limit, or none."""
_TELL = re.compile(
    r"(?:please |can you |could you |now |so |and |ok |okay )*(?:explain|summari[sz]e|describe|tell"
    r"|say|answer|reply|define|give|sum up|put|write|what|how|why)\b",
    re.IGNORECASE,
)


@check("keeps within the number of words or sentences that the user's last message allows")
def keeps_stated_length(conversation: Conversation, reply: str) -> Answer:
    message = own_words(asked(conversation))
    found = [
        (m, message[a:b])
        for a, b in sentences.spans(message)
        for m in _LIMIT.finditer(message[a:b])
    ]
    if len(found) != 1:
        return None
    (match, sentence) = found[0]
    if not _is_limit(match, sentence):
        return None
    most = _number(match["n"]) - bool(match["strict"])
    if most < 1 or _has_other_part(reply):
        return None
    if match["unit"].lower().startswith("word"):
        return max_words(conversation, reply, most)
    return exceeds((len(sentences.spans(reply)), len(sentences.short_spans(reply))), most)


def _is_limit(match: re.Match[str], sentence: str) -> bool:
    """Whether a sentence with a number of words or sentences surely limits the reply."""
    bare = re.sub(r"\b(?:no|not) more than\b", "", sentence, flags=re.IGNORECASE)
    if _NO_LIMIT.search(bare):
        return False
    if match["strict"] or match["after"]:
        return True
    limit = (match["limit"] or "").lower()
    if not limit.startswith(("in", "within")):
        return bool(limit)
    return not match.start() or bool(_TELL.match(bare))


def _has_other_part(reply: str) -> bool:
    """Whether a limit may be meant for a part of the reply, such as a text that it introduces."""
    return bool(re.search(r":\s*\n|```", reply)) or any(
        len(m[0].split()) >= 5 for m in QUOTED.finditer(reply)
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else _NUMBERS[text.lower()]


_BULLET = re.compile(r"^[ \t]*[-*+•‣◦–][ \t]+\S", re.MULTILINE)
_NUMBER_MARK = re.compile(
    r"(?:(?<=\s)|(?<=\()|\A|(?<=\*\*))(?:step )?(\d{1,2})(?:[.):]|\*\*[.):]?)(?=[\s*])", re.I
)
_THINGS = (
    "tips|ideas|ways|reasons|examples|suggestions|names|titles|questions|exercises|recipes|books"
    "|films|movies|songs|games|words|things|options|steps|points|facts|places|plants|dishes|gifts"
    "|methods|arguments|signs|mistakes|habits|tricks|activities|topics|slogans|phrases|lines"
    "|rules|hobbies|benefits|drawbacks|risks|causes|advantages|disadvantages|synonyms|snacks"
)
_ASKED_NUMBER = re.compile(
    rf"(?<!\bi )\b(?:give|list|name|tell|suggest|recommend|offer|write|think of|share|what are"
    rf"|come up with)(?: (?:me|us|just|exactly|only))* {_N}(?: [\w'-]+){{0,3}}? (?:{_THINGS})\b",
    re.IGNORECASE,
)


def _numbered(reply: str) -> list[re.Match[str]]:
    """Return the marks of the longest numbering 1, 2, 3 ... that begins at the first 1."""
    marks: list[re.Match[str]] = []
    for match in _NUMBER_MARK.finditer(prose(reply)):
        if int(match[1]) == len(marks) + 1:
            marks.append(match)
    return marks


@check("lists exactly as many tips, names, reasons or the like as the user asks for")
def as_many_as_asked(conversation: Conversation, reply: str) -> Answer:
    wanted = [_number(m["n"]) for m in _ASKED_NUMBER.finditer(own_words(asked(conversation)))]
    if len(wanted) != 1 or wanted[0] < 2:
        return None
    numbered = _numbered(reply)
    bullets = list(_BULLET.finditer(reply))
    if bool(numbered) == bool(bullets):  # no list, or a list in a list
        return None
    items = numbered or bullets
    if len(items) == wanted[0]:
        return False
    return reply[items[-1].start() :].strip() if len(items) > wanted[0] else True


_STEPS = re.compile(
    r"\bstep[- ]by[- ]step\b|\b(?:what|which)(?: are the| exact)? steps\b|\bsteps please\b"
    r"|(?:\A|[.!?]\s+)(?:(?:the|simple|clear|exact) )*steps (?:to|for)\b"
    r"|\b(?:give|list|tell|send) me (?:(?:the|some|clear|exact) )*steps\b"
    r"|\bwalk me through (?:how|the steps|\w+ing\b)",
    re.IGNORECASE,
)


@check("numbers the steps with figures, if the user asks for steps")
def numbers_steps(conversation: Conversation, reply: str) -> Answer:
    if not _STEPS.search(own_words(asked(conversation))):
        return None
    if len(_numbered(reply)) >= 2:
        return False
    few = len(sentences.spans(reply)) < 2
    return None if few or QUESTIONS.search(reply) or re.search(r"\d[.)]", reply) else True
