"""Rules on a finished dialogue that need no model: signs that make a reader distrust the data.

Each rule is precise rather than complete: a miss is left to human review, a false alarm costs a
good dialogue. The phrases that rules look for are English; on other languages those rules stay
silent. Text in quotation marks, code or addresses is not the speaker's own and is not searched.

`@_rule` and `@_turn_rule` add a rule. The function's name is the rule's name in `export.exclude`
and in the column `warnings`; the argument is what the documentation and the report say of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from msgspec import Struct

from sdsd.checks.dialogue_text import (
    DialogueText,
    Search,
    TurnText,
    content_stems,
    read_dialogue,
    stems,
)
from sdsd.text import languages, normalize
from sdsd.text.words import WORD, grams
from sdsd.types import Dialogue, Message, Plan, Principle

RULES: dict[str, str] = {}
"""Every packaged rule by name, and what it finds."""

QualityCheck = Callable[[Dialogue, Plan | None], Iterable[int]]
"""A user-defined rule: yields the index of each message that breaks it, or -1 for the dialogue."""


class Finding(Struct, frozen=True):
    """A turn, or a whole dialogue, that breaks a rule."""

    rule: str
    turn: int
    """Index into the dialogue's messages; -1 for the dialogue as a whole."""


def find(
    dialogue: Dialogue,
    plan: Plan | None,
    principles: tuple[Principle, ...],
    checks: Mapping[str, QualityCheck] = {},
    about: tuple[str, ...] = (),
) -> tuple[Finding, ...]:
    """Return every rule that a dialogue breaks, by turn and then in the order of `RULES`.

    checks  user-defined rules by name; they come after the packaged ones
    about   the scenario's domain and subarea
    """
    text = read_dialogue(dialogue.messages, plan, principles, about)
    found = [Finding(rule, k) for rule, check in _CHECKS.items() for k in check(text)]
    for rule, user_check in checks.items():
        found += [Finding(rule, k) for k in sorted(set(user_check(dialogue, plan)))]
    return tuple(sorted(found, key=lambda finding: finding.turn))


NOT_A_USER = frozenset({
    "role_flip", "third_person", "speaker_label", "placeholder", "marker", "garbled", "plan_leak",
    "self_thanks", "user_refusal",
})  # fmt: skip
"""Rules that show that a turn is not one that a user writes."""


def not_a_user(conversation: tuple[Message, ...], text: str, plan: Plan | None) -> str:
    """Return what shows that no user says `text` next; empty if a user might."""
    whole = read_dialogue((*conversation, Message("user", text)), plan, ())
    return next((RULES[rule] for rule in sorted(NOT_A_USER) if _breaks_last(rule, whole)), "")


def not_an_agent(conversation: tuple[Message, ...], text: str, plan: Plan | None) -> str:
    """Return what shows that no assistant says `text` next; empty if one might."""
    answered = (*conversation[-1:], Message("assistant", text))
    whole = read_dialogue(answered, plan, ())
    return RULES["third_person"] if _breaks_last("third_person", whole) else ""


def _breaks_last(rule: str, whole: DialogueText) -> bool:
    """Whether the last turn breaks a rule."""
    last = whole.turns[-1]
    if breaks := _PREDICATES.get(rule):
        return breaks(last, whole)
    return last.index in _CHECKS[rule](whole)


def clean_exchanges(dialogue: Dialogue, findings: Sequence[Finding]) -> int:
    """Return how many exchanges precede the first finding: where a dialogue may be cut."""
    first = min((finding.turn for finding in findings), default=len(dialogue.messages))
    return max(first, 0) // 2


_Check = Callable[[DialogueText], Iterable[int]]
_CHECKS: dict[str, _Check] = {}


def _rule(meaning: str) -> Callable[[_Check], _Check]:
    """Register a rule that yields the indices of the turns that break it."""

    def register(check: _Check) -> _Check:
        name = check.__name__.strip("_")
        RULES[name], _CHECKS[name] = meaning, check
        return check

    return register


_Predicate = Callable[[TurnText, DialogueText], bool]
_PREDICATES: dict[str, _Predicate] = {}
"""Those of the rules that decide on one turn at a time."""


def _turn_rule(meaning: str) -> Callable[[_Predicate], _Predicate]:
    """Register a rule that decides on one turn at a time."""

    def register(breaks: _Predicate) -> _Predicate:
        def check(whole: DialogueText) -> list[int]:
            return [
                turn.index for turn in whole.turns if turn.role != "system" and breaks(turn, whole)
            ]

        check.__name__ = breaks.__name__
        _rule(meaning)(check)
        _PREDICATES[breaks.__name__.strip("_")] = breaks
        return breaks

    return register


@_rule("user and agent do not alternate, from a first user turn to a last agent turn")
def _order(whole: DialogueText) -> list[int]:
    roles = [turn.role for turn in whole.turns]
    return [] if roles and roles == ["user", "assistant"] * (len(roles) // 2) else [-1]


_ENOUGH = 20
"""Different content words from which a conversation counts as being about something."""


@_rule("not a single content word of the domain, the subarea or the plan")
def _off_topic(whole: DialogueText) -> list[int]:
    """Only English conversations with a plan are judged, of two exchanges or more."""
    said = [turn for turn in whole.turns if turn.role != "system"]
    if len(said) < 4 or len(subject := whole.subject) < 3:
        return []
    stems = content_stems(word for turn in said for word in turn.between)
    if len(stems) < _ENOUGH or not subject.isdisjoint(stems):
        return []
    words = tuple(word for turn in said for word in turn.words)
    return [-1] if languages.of(" ".join(words), words) == "en" else []


# -- who speaks ----------------------------------------------------------------------------

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
    r"(?:can|could|should|would|will|may|might|must|had|did"
    r"|(?:[a-z]+ly )?(?!(?:this|thus|as|its|yes|us|perhaps|always|sometimes|unless|plus|towards"
    r"|besides|across|his|hers|ours|yours|less)\b)[a-z]+s)\b"
)
"""A verb in the third person, after the name of somebody who is spoken of."""
_NARRATOR = re.compile(
    r"The person |The user [^.?!]*\bthe (?:assistant|agent|AI)\b"
    r"|The assistant (?:says|replies|responds|answers|explains)[,:]"
)
"""Beginnings of a turn that narrates in its only sentence."""
_NARRATES = re.compile(rf"(?:\A|[.!?]\s)The (?:user|person|assistant) {_SPEECH}")
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


@_rule("the agent speaks as the user, or the user speaks as an assistant")
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


@_turn_rule("the user thanks the user, or acknowledges an answer or thanks that nobody has given")
def _self_thanks(turn: TurnText, whole: DialogueText) -> bool:
    if turn.role != "user":
        return False
    if whole.name and _naming(whole.name).thanked.search(turn.plain):
        return True
    if turn.index == 0:
        return bool(_THANKS_FOR_ANSWER.search(turn.plain))
    before = whole.turns[turn.index - 1]
    return bool(_WELCOME.search(turn.plain)) and not _THANKED.search(before.text)


@_turn_rule("the user declines a request as an assistant would")
def _user_refusal(turn: TurnText, whole: DialogueText) -> bool:
    return turn.role == "user" and bool(_REFUSES.search(turn.plain))


@_turn_rule("a user turn addresses the user by name, or a turn narrates in the third person")
def _third_person(turn: TurnText, whole: DialogueText) -> bool:
    sentences = len(_NARRATES.findall(turn.plain))
    narrated = sentences > 1 or (sentences == 1 and bool(_NARRATOR.match(turn.plain)))
    if narrated and not _ABOUT_USERS.search(turn.asked):
        return True
    if not whole.name or whole.name not in turn.plain:
        return False
    naming = _naming(whole.name)
    if naming.spoken_of.search(turn.plain):
        return not naming.namesake.search(f"{turn.asked} {turn.plain}")
    return turn.role == "user" and bool(naming.addressed.match(turn.plain))


@_turn_rule("a turn begins with the name or role of its speaker and a colon")
def _speaker_label(turn: TurnText, whole: DialogueText) -> bool:
    return not _SCRIPT.search(turn.asked) and bool(
        _LABEL.search(turn.plain) or (whole.name and _naming(whole.name).label.search(turn.plain))
    )


# -- repetition ---------------------------------------------------------------------------

_EDITS = stems(
    "proofread|correct|edit|fix|translat|rewrit|rewrote|rephras|format|improv|shorten|convert"
    "|repeat|again|copy|chang|replac|make|add|remov|updat|instead|version|tweak|adjust|revis|swap"
    "|shorter|longer|polish|clean|spell|confirm|say that|read back"
)
"""Requests whose honest answer repeats most of what was said."""
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


@_rule("a turn repeats an earlier one, or the one it answers, nearly word for word")
def _echo(whole: DialogueText) -> Iterable[int]:
    """Four fifths of the turn's three-word runs occur in one earlier turn."""
    seen: dict[tuple[str, ...], tuple[int, ...]] = {}
    for k, turn in enumerate(whole.turns):
        runs = set(grams(turn.words, 3))
        known = runs & seen.keys()
        if turn.role != "system" and len(turn.words) >= 7 and len(known) >= 0.8 * len(runs):
            shared = Counter(earlier for run in known for earlier in seen[run])
            edited = turn.role == "assistant" and k > 0 and _EDITS.search(whole.turns[k - 1].text)
            if max(shared.values(), default=0) >= 0.8 * len(runs) and not edited:
                yield k
        for run in known:
            if len(seen[run]) < 8:  # bounds the work where everything is the same
                seen[run] = (*seen[run], k)
        seen.update(dict.fromkeys(runs - known, (k,)))


_SENTENCES = re.compile(r"[.!?。！？\n]+")


@_turn_rule("a turn says the same thing over and over")
def _loop(turn: TurnText, whole: DialogueText) -> bool:
    runs = grams(turn.words, 4)
    if len(runs) >= 24:
        counts = Counter(runs)
        most = max(counts.values())
        if len(counts) <= 0.7 * len(runs) or (most >= 5 and most >= 0.037 * len(runs)):
            return True
    sentences = list(filter(None, map(normalize.normal, _SENTENCES.split(turn.plain))))
    if len(sentences) - len(set(sentences)) >= 2:  # else they cannot be half of four
        sentences = [s for s in sentences if len(WORD.findall(s)) >= 3]
        if len(sentences) >= 4 and len(set(sentences)) <= len(sentences) / 2:
            return True
    return any(w.isalpha() and len(set(w)) <= 3 for w in turn.words if len(w) > 40)


def _pleasant(turn: TurnText) -> bool:
    """Whether a turn consists of thanks, goodbyes and good wishes alone."""
    said = turn.plain.casefold()
    if _SUBSTANCE.search(said) or ("?" in said and "anything else" not in said):
        return False
    pieces = [piece.strip(" ,*_-") for piece in re.split(r"[.!?…\n]+", said)]
    pieces = [piece for piece in pieces if WORD.search(piece) and "anything else" not in piece]
    return 0 < len(pieces) <= 8 and all(
        len(piece.split()) <= 18 and _PLEASANT.match(piece) for piece in pieces
    )


@_rule("an exchange of nothing but thanks and goodbyes follows another one")
def _thanks_spiral(whole: DialogueText) -> list[int]:
    empty = [_pleasant(turn) for turn in whole.turns]
    pairs = ((k, k - k % 2) for k in range(2, len(empty)) if whole.turns[k].role != "system")
    return [k for k, first in pairs if all(empty[first - 2 : first + 2])]


# -- text that is not conversation --------------------------------------------------------

_DIRECTED = Search(
    r"^[^\w\n]*+(?:SLIP|STAKE|PERSON|OPENING) ?:"
    r"|\[(?:direction|pause\.|now write|the scene|end of|scene)\b"
    r"|\bdirector's (?:note|direction|cue)\b|\b(?:conversation|dialogue) plan\b"
    r"|\bas (?:the|an?) (?:user|agent|assistant) in this (?:scene|scenario|dialogue|role-?play)\b"
    r"|\b(?:violat|break|broke)\w* (?:the|this|that) principle\b(?! of| that)"
    r"|\b(?:step \d+|next step) (?:of|in) the (?:plan|conversation)\b(?! to| for)",
    "slip:|slip :|stake:|stake :|person:|person :|opening:|opening :|[|director's"
    "|conversation plan|dialogue plan"
    "|in this scen|in this dialogue|in this role|the principle|this principle|that principle|step ",
    re.IGNORECASE | re.MULTILINE,
)
_INSTRUCTED = Search(
    r"\bdo not mention this direction\b|\bdirection for (?:this one|the assistant's|the person's)\b"
    r"|\bnot for the (?:person|assistant) to see\b|\ba first try was not plain enough\b"
    r"|\bwrite (?:only )?(?:what the person says|the person's next message)\b"
    r"|\bone message and one reply each\b|\bsentences of plain prose\b"
    r"|\b(?:keeps|breaks) this principle, whatever happens\b"
    r"|\banswer the person in two to four sentences\b",
    "this direction|direction for|not for the|a first try|the person|one message|of plain prose"
    "|this principle",
)
"""What the prompts tell the speakers."""
_STEP = re.compile(r"^[^\w\n]*+STEP \d+ ?:", re.MULTILINE)
_STAGE = re.compile(
    r"[*(\[]_?(?:(?:he|she|they|softly|gently|slightly|nervously|slowly) )?"
    r"(?:(?:smil|laugh|sigh|nod|chuckl|grin|giggl|shrug|wink|frown|gasp|paus|blush|smirk|whisper"
    r"|lean|wav)(?:e?s|ing)|clear(?:s|ing) (?:his |her |their )?throat)"
    r"(?: [^*()\[\]\n]{1,60})?_?[*)\]](?!\()",
    re.IGNORECASE,
)
_FICTION = stems(
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
_FORM = stems(
    "email|e-mail|letter|template|draft|form|message|resume|cv|script|invitation|note|contract"
    "|post|speech|writ|text|word|reply|respon|say|caption|advert|listing|bio|statement|poster|label"
    "|placeholder|jinja|mustache|handlebars|vue|angular|helm|ansible"
)
_FILLER = Search(
    r"\{\{ ?[a-z_]+ ?\}\}|(?<![A-Za-z])X{4,}(?![A-Za-z])|\b[Ll]orem ipsum\b",
    "{{|XXXX|orem ipsum",
    re.NOFLAG,
)
_SLOT = Search(
    r"\bthe few words of the reply\b|\bcopied exactly, or (?:empty|none)\b"
    r"|\bone sentence on what the reply says\b|\bnone, low, medium or high\b",
    "few words of the reply|copied exactly|one sentence on what|none, low, medium",
)
"""What the prompts say should be filled in there."""
_MARKER = Search(
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


@_turn_rule("a turn quotes or mentions the plan, a principle or a direction")
def _plan_leak(turn: TurnText, whole: DialogueText) -> bool:
    directed = _DIRECTED.search(turn.plain) or _INSTRUCTED.search(turn.plain)
    if directed or (turn.role == "user" and _STEP.search(turn.plain)):
        return True
    return whole.is_quoted_by(turn)


@_turn_rule("a stage direction such as `*smiles*` or `(pauses)`")
def _stage_direction(turn: TurnText, whole: DialogueText) -> bool:
    return bool(_STAGE.search(turn.plain)) and not _FICTION.search(turn.asked)


@_rule(
    "a blank that was never filled in, such as `[Your Name]`, `XXXX` or a prompt's own words for it"
)
def _placeholder(whole: DialogueText) -> list[int]:
    asked = whole.first_request(_FORM)
    return [
        turn.index
        for turn in whole.turns
        if turn.role != "system"
        and (
            _SLOT.search(turn.text)
            or (turn.index < asked and (_BLANK.search(turn.plain) or _FILLER.search(turn.plain)))
        )
    ]


@_turn_rule("a label, an end marker or residue of a chat template")
def _marker(turn: TurnText, whole: DialogueText) -> bool:
    return _MARKER.search(turn.plain)


# -- language and length -------------------------------------------------------------------

_LANGUAGE = stems(
    "language|translat|pronounc|english|french|german|spanish|italian|portuguese|dutch|russian"
    "|greek|chinese|mandarin|cantonese|japanese|korean|arabic|hebrew|hindi|thai|latin|ukrainian"
    "|tradu|übersetz|vertaal|deutsch|français|español|italiano|português|nederlands|перев"
)
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
_LISTED = re.compile(r"\A[ \t]*+(?:[-*•+#|>]|\d{1,3}[.)]|[a-z]\))")
_ENDED = re.compile(r"[.!?…:;]")


@_rule("clearly in another language than the first turn, although the user never mentioned one")
def _wrong_language(whole: DialogueText) -> list[int]:
    rest = (
        turn for turn in whole.turns[1 : whole.first_request(_LANGUAGE)] if turn.role != "system"
    )
    return [
        turn.index
        for turn in rest
        if languages.differ(whole.turns[0].plain, whole.turns[0].words, turn.plain, turn.words)
    ]


@_turn_rule("a turn without words, or of one or two words where an explanation was requested")
def _too_short(turn: TurnText, whole: DialogueText) -> bool:
    words = list(islice(WORD.finditer(turn.text), 3))
    return not words or (len(words) <= 2 and bool(_EXPLAIN.search(turn.asked)))


@_turn_rule("a turn that stops in the middle of a sentence, quotation, bracket or code block")
def _cut(turn: TurnText, whole: DialogueText) -> bool:
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
    """Whether a line opens a quotation or a bracket that it does not close."""
    bracket = line.rfind("(")
    if bracket > line.rfind(")") and line[bracket - 1 : bracket] not in (":", ";", "=", "8"):
        return line[bracket + 1 : bracket + 2].isalnum()
    marks = line.count('"')
    if marks % 2:
        at = line.rfind('"')
        return line[at + 1 : at + 2].isalpha() and not line[at - 1 : at].isalnum()
    return "„" not in line and line.rfind("“") > line.rfind("”")


@_turn_rule("characters that were lost or decoded wrongly")
def _garbled(turn: TurnText, whole: DialogueText) -> bool:
    return bool(_LOST.search(turn.text))
