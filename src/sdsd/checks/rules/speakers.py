"""Rules on who speaks: each side for itself, to the other, and under its own name."""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

from sdsd.checks.dialogue_text import DialogueText, Search, TurnText, stems
from sdsd.checks.rules.registry import rule, turn_rule

_AS_ASSISTANT = Search(
    r"\bas an ai(?: language model| model| assistant| chatbot)?,? i\b"
    r"|\bi(?:'m| am) (?:just )?an ai (?:language model|assistant)\b"
    r"|\bhow (?:can|may) i (?:help|assist) you\b"
    r"|\bi(?:'m| am) here to (?:help|assist)(?: you\b| with any|[.!]|\Z)"
    r"|\bi(?:'d| would) be (?:happy|glad|delighted) to (?:help|assist) you\b"
    r"|\A(?:certainly|sure|of course|absolutely)[!,.] ?(?:here(?:'s| is| are)\b|i can help you)"
    r"|\bis there anything else (?:i can|you(?:'d| would) like (?:me )?to)\b"
    r"|\bi(?:'m| am) (?:glad|happy) (?:that )?i (?:could|was able to) (?:help|assist)\b"
    r"|\bwould you like to (?:share|tell me) (?:more|about)\b"
    r"|\bwhat\b[^.?!\n]{0,40}\bdo you need (?:my )?help with\b",
    "i could|i was able to|would you like to|help with"
    "|an ai|i help|i assist|here to help|here to assist|to help you|to assist you|here's|here is"
    "|here are|i can help you|anything else",
)
_CLOSES = Search(
    r"\bif you have any (?:other|further|more) questions,? "
    r"(?:please|feel free|let me|just|don't)\b[^.!?\n]{0,60}\W*\Z",
    "if you have any",
)
_ANSWERS = re.compile(r"(?:certainly|sure|of course|absolutely)[!,.]", re.IGNORECASE)
"""How a reply begins that does what was asked."""
_PASTED = stems("dear|regards|sincerely|email|e-mail|letter|draft|message|writ|reply")
"""The user shows or mentions a text, so its words may not be the user's own."""
_AS_USER = re.compile(
    r"\A\W*(?:thanks|thank you)(?: so much| very much)?,? for (?:all )?(?:the|your) "
    r"(?:great |helpful |useful )?(?:help|advice|tips|guidance|assistance|recommendations)\b"
    r"|\A(?:[^.!?\n]{0,60}[.!] )?(?:(?:can|could) you (?:please )?(?:recommend|suggest (?:some|any)"
    r"|give me (?:some|any|a few) (?:tips|advice|ideas|suggestions))\b"
    r"|do you have any (?:tips|advice|suggestions|recommendations)\b)",
    re.IGNORECASE,
)
_PARTS = (
    r"(?:interviewer|customer|client|guest|boss|patient|doctor|waiter|teacher|student|seller|buyer"
    r"|examiner|opponent|receptionist|barista|agent|part|role)\b"
)
_PLAYED = Search(
    r"\brole-?play|\bpretend|\b(?:act|speak|answer) as\b|\bin character\b|\bmock (?:interview|exam)"
    rf"|\brehears|\bplay (?:the|a|an|my) (?:\w+ )?{_PARTS}"
    r"|\bpracti[cs]e (?:(?:the|a|my|this|for) )+(?:\w+ )?"
    r"(?:interview|conversation|talk|call|pitch)\b"
    r"|\b(?:imagine|say) (?:that )?you(?:'re| are)\b"
    r"|\b(?:you(?:'re| are|'ll be| will be|'d be)|you be|i'll be) "
    rf"(?:the|a|an|my) (?:\w+ )?{_PARTS}",
    "role|pretend|act as|speak as|answer as|play |in character|mock|practi|rehears|you're |you are "
    "|you're|you'll be|you will be|you'd be|you be|i'll be",
)
"""The user has given out roles, so either side may speak as anybody."""
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
_FINITE = (
    r"(?:can|could|should|would|will|may|might|must|had|did|said|told|thought|felt|wanted|knew|went"
    r"|(?:[a-z]+ly )?(?:[a-z]{2,}ed"
    r"|(?!(?:this|thus|as|its|yes|us|perhaps|always|sometimes|unless|plus|towards|besides|across"
    r"|his|hers|ours|yours|less)\b)[a-z]+s))\b"
)
"""A verb in the third person, after the name of somebody who is spoken of."""
_NARRATOR = re.compile(
    r"The person |The user [^.?!]*\bthe (?:assistant|agent|AI)\b"
    r"|The assistant (?:says|replies|responds|answers|explains)[,:]"
)
"""Beginnings of a turn that narrates in its only sentence."""
_TO_ASSISTANT = re.compile(
    r"(?:\b(?:asks|tells|thanks|thankful to|grateful to)"
    r"|\b(?:[Tt]hey|[Hh]e|[Ss]he|who)\b[^.!?\n]{1,80}\bask) the (?:AI )?assistant\b"
    r"(?! (?:at|behind|from|in|of|who)\b)"
)
"""What a user does, told by somebody else."""
_NARRATES = re.compile(rf"(?:\A|[.!?]\s)The (?:user|person|assistant) (?:{_SPEECH}|{_FINITE})")
_ABOUT_USERS = re.compile(r"\b(?:user|person|people|assistant|customer)s?\b", re.IGNORECASE)
_SCRIPT = stems(
    "script|dialogue|conversation|exchange|chat|role|scene|sketch|example|transcri|phone"
)
"""Requests for a text with labels."""
_LABEL = re.compile(
    r"\A\W*(?:the )?(?:user|person|human|speaker|agent|assistant|ai|customer|client)"
    r"(?: ?\(?(?:\d{1,3}|[a-b])\)?)?\W{0,3}:[*_]*\s",
    re.IGNORECASE,
)


class _Naming(Struct, frozen=True):
    """Patterns for turns in which the user's own name occurs."""

    addressed: re.Pattern[str]
    introduced: re.Pattern[str]
    label: re.Pattern[str]
    thanked: re.Pattern[str]
    spoken_of: re.Pattern[str]
    """The user, as somebody who is not there."""
    namesake: re.Pattern[str]
    """Somebody else with that name."""


@lru_cache(maxsize=256)
def _naming(name: str) -> _Naming:
    titled = rf"(?:(?:Mr|Mrs|Ms|Dr|Prof)\.? )?{name}"
    greeting = r"(?i:(?:hi|hello|hey|dear|ok|okay|well),? )"
    return _Naming(
        addressed=re.compile(
            rf"\A{greeting}?{name}[,!] (?!here\b)|\A{name} {_SPEECH}"
            rf"|\A[^.!?\n]{{1,30}}, {name}[.!?] \S"
            rf"|\A(?:[^\n]{{1,400}}[.!?] )?(?![^.!?\n]*\b(?i:thank|cheers|love|regards|yours|best))"
            rf"[^.!?\n]{{12,200}}, {name}[.!?]\Z"
        ),
        introduced=re.compile(rf"\b(?:I'm|I am|[Mm]y name is) {name}\b(?!'s)"),
        label=re.compile(rf"\A\W*{name}\W{{0,3}}:[*_]*\s"),
        thanked=re.compile(
            rf"\b[Tt]hank(?:s| you) (?:so much |very much )?for [^.!?,\n]{{1,60}}, {titled}"
            r"(?:[.!]|\Z)"
            rf"|\A\W*[Tt]hank(?:s| you)(?: so much| very much)?, {titled}[.!]"
        ),
        spoken_of=re.compile(
            rf"\b{name}(?: [A-Z][\w-]+)? {_FINITE}|\b{name}'s (?!here\b|the name\b|speaking\b)[a-z]"
            rf"|\b(?:[Ss]h|[Cc]|[Ww])ould {name}\b|\b[Cc]an {name}\b|\bfor {name} to\b"
        ),
        namesake=re.compile(rf"\b(?:[Mm]y (?:\w+ )?|named |called ){name}\b"),
    )


@rule("the agent speaks as the user, or the user speaks as an assistant")
def _role_flip(whole: DialogueText) -> list[int]:
    speaking = whole.turns[: whole.first_request(_PLAYED)]
    return [turn.index for turn in speaking if _is_flipped(turn, whole.name)]


def _is_flipped(turn: TurnText, name: str) -> bool:
    if turn.role == "user":
        closes = _CLOSES.search(turn.plain) and not _PASTED.search(turn.plain)
        answers = turn.index == 0 and bool(_ANSWERS.match(turn.plain))
        return answers or closes or _AS_ASSISTANT.search(turn.plain)
    introduced = name and _naming(name).introduced.search(turn.plain)
    return turn.role == "assistant" and bool(introduced or _AS_USER.search(turn.plain))


_THANKS_FOR_ANSWER = re.compile(
    r"\A\W*(?:(?:ok|okay|oh|wow|great|hi|hello),?!? )?(?:thanks|thank you)"
    r"(?: so much| very much| a lot)?,? for (?:all )?(?:the|your|that|this) "
    r"(?:(?:great|helpful|useful|detailed|quick|clear|kind) )?"
    r"(?:help|advice|tips|information|explanations?|answer|reply|response|suggestions?"
    r"|recommendations?|clarification|guidance)\b(?! in advance)",
    re.IGNORECASE,
)
_WELCOME = re.compile(r"\A\W*(?:you're|you are) (?:very |most )?welcome(?=[!.,]|\Z)", re.IGNORECASE)
_THANKED = Search(r"\b(?:thank|appreciate|grateful)", "thank|appreciate|grateful")


@turn_rule("the user thanks the user, or acknowledges an answer or thanks that nobody has given")
def _self_thanks(turn: TurnText, whole: DialogueText) -> bool:
    if turn.role != "user":
        return False
    if whole.name and _naming(whole.name).thanked.search(turn.plain):
        return True
    if turn.index == 0:
        return bool(_THANKS_FOR_ANSWER.search(turn.plain))
    before = whole.turns[turn.index - 1]
    return bool(_WELCOME.search(turn.plain)) and not _THANKED.search(before.text)


@turn_rule("the user declines a request as an assistant would")
def _user_refusal(turn: TurnText, whole: DialogueText) -> bool:
    return turn.role == "user" and bool(_REFUSES.search(turn.plain))


@turn_rule("a user turn addresses the user by name, or a turn narrates in the third person")
def _third_person(turn: TurnText, whole: DialogueText) -> bool:
    sentences = len(_NARRATES.findall(turn.plain))
    narrated = sentences > 1 or (sentences == 1 and bool(_NARRATOR.match(turn.plain)))
    if narrated and not _ABOUT_USERS.search(turn.asked):
        return True
    if turn.role == "user" and _TO_ASSISTANT.search(turn.plain):
        return True
    if not whole.name or whole.name not in turn.plain:
        return False
    naming = _naming(whole.name)
    if naming.spoken_of.search(turn.plain):
        return not naming.namesake.search(f"{turn.asked} {turn.plain}")
    return turn.role == "user" and bool(naming.addressed.match(turn.plain))


@turn_rule("a turn begins with the name or role of its speaker and a colon")
def _speaker_label(turn: TurnText, whole: DialogueText) -> bool:
    return not _SCRIPT.search(turn.asked) and bool(
        _LABEL.search(turn.plain) or (whole.name and _naming(whole.name).label.search(turn.plain))
    )
