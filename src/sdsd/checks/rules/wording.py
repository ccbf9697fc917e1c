"""Rules on what turns say: repetition, text that is no conversation, language and length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice

from sdsd.checks.dialogue_text import DialogueText, Search, TurnText, stems
from sdsd.checks.rules.registry import PREDICATES, rule, turn_rule
from sdsd.text import languages, normalize
from sdsd.text.words import WORD, grams

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


@rule("a turn repeats an earlier one, or the one it answers, nearly word for word")
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


def _echoes(turn: TurnText, whole: DialogueText) -> bool:
    """Decide on one turn what `_echo` finds in a whole dialogue, whose index is not worth it then.

    Asked of every turn that is written.
    """
    before = whole.turns[: turn.index]
    if turn.role == "system" or len(turn.words) < 7:
        return False
    runs = _runs(turn.words)
    if not any(len(runs & _runs(earlier.words)) >= 0.8 * len(runs) for earlier in before):
        return False
    return not (turn.role == "assistant" and before and _EDITS.search(before[-1].text))


PREDICATES["echo"] = _echoes


@lru_cache(maxsize=1024)  # the turns of the dialogues under way
def _runs(words: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    return frozenset(grams(words, 3))


_SENTENCES = re.compile(r"[.!?。！？\n]+")


@turn_rule("a turn says the same thing over and over")
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


@rule("an exchange of nothing but thanks and goodbyes follows another one")
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


@turn_rule("a turn quotes or mentions the plan, a principle or a direction")
def _plan_leak(turn: TurnText, whole: DialogueText) -> bool:
    directed = _DIRECTED.search(turn.plain) or _INSTRUCTED.search(turn.plain)
    if directed or (turn.role == "user" and _STEP.search(turn.plain)):
        return True
    return whole.is_quoted_by(turn)


@turn_rule("a stage direction such as `*smiles*` or `(pauses)`")
def _stage_direction(turn: TurnText, whole: DialogueText) -> bool:
    return bool(_STAGE.search(turn.plain)) and not _FICTION.search(turn.asked)


@rule(
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


@turn_rule("a label, an end marker or residue of a chat template")
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


@rule("clearly in another language than the first turn, although the user never mentioned one")
def _wrong_language(whole: DialogueText) -> list[int]:
    rest = (
        turn for turn in whole.turns[1 : whole.first_request(_LANGUAGE)] if turn.role != "system"
    )
    return [
        turn.index
        for turn in rest
        if languages.differ(whole.turns[0].plain, whole.turns[0].words, turn.plain, turn.words)
    ]


@turn_rule("a turn without words, or of one or two words where an explanation was requested")
def _too_short(turn: TurnText, whole: DialogueText) -> bool:
    words = list(islice(WORD.finditer(turn.text), 3))
    return not words or (len(words) <= 2 and bool(_EXPLAIN.search(turn.asked)))


@turn_rule("a turn that stops in the middle of a sentence, quotation, bracket or code block")
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


@turn_rule("characters that were lost or decoded wrongly")
def _garbled(turn: TurnText, whole: DialogueText) -> bool:
    return bool(_LOST.search(turn.text))
