"""A dialogue as the rules of `dialogue_rules` read it: turns split into words, and the plan's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from sdsd.text import normalize
from sdsd.text.words import WORD, grams
from sdsd.types import Message, Plan, Principle

_COPY = 10
"""Consecutive words that cannot be a coincidence."""
_HALF = 20_000
"""Characters read at either end of a turn; the middle of a longer one is skipped."""
_REMEMBERED = 8_000
"""Characters of a turn and of what it answers up to which it is remembered: the memory is bounded
by size, not only by number, however long the turns of a run are."""


class Search:
    """A pattern that is tried only on texts with one of the words that every match contains.

    Most turns have none of them, and finding that out costs a hundredth of a search.
    """

    def __init__(self, pattern: str, needed: str, flags: int = re.IGNORECASE) -> None:
        self.pattern = re.compile(pattern, flags)
        self._folded = bool(flags & re.IGNORECASE)
        self._needed = needed.split("|")

    def search(self, text: str) -> bool:
        plain = text.lower() if self._folded else text
        return any(map(plain.__contains__, self._needed)) and bool(self.pattern.search(text))


def stems(beginnings: str) -> Search:
    """Return a search for words that begin with one of these, separated by `|`."""
    return Search(rf"\b(?:{beginnings})", beginnings)


class TurnText(Struct, frozen=True):
    """One message, split into words."""

    index: int
    role: str
    text: str
    plain: str
    """`text` without code, addresses and quoted speech, with straight apostrophes."""
    words: tuple[str, ...]
    """Words of `plain` for comparison; in scripts without spaces, every character."""
    between: tuple[str, ...]
    """The same, but such scripts are split at spaces and marks only."""
    asked: str
    """The user's words that an agent turn answers; empty for the user's turns."""


class DialogueText(Struct, frozen=True):
    """All turns of a dialogue, and what its plan says about them."""

    turns: tuple[TurnText, ...]
    name: str
    """The user's own name, from the plan; empty if it gives none."""
    script: frozenset[tuple[str, ...]]
    """Runs of ten words of the plan and the principles, which no turn should repeat."""
    lines: frozenset[tuple[str, ...]] = frozenset()
    """Those of them that a user turn may repeat: what a step says that the user says."""
    plan: Plan | None = None
    about: tuple[str, ...] = ()

    @property
    def subject(self) -> frozenset[str]:
        """Stems of what the conversation should be about; empty if that is unknown."""
        if self.plan is None:
            return frozenset()
        p = self.plan
        written = (*p.steps, p.planned_violation, p.persona, p.last_message)
        named = normalize.normal(" ".join((*self.about, *written)))
        return content_stems(_SPACED.findall(named))

    def first_request(self, pattern: Search) -> int:
        """Return the first turn in which the user's words match; past the end if none does."""
        hits = (t.index for t in self.turns if t.role == "user" and pattern.search(t.text))
        return next(hits, len(self.turns))

    def is_quoted_by(self, turn: TurnText) -> bool:
        """Return whether a turn repeats a run of words of the plan or a principle."""
        if not self.script:
            return False
        runs = self.script.intersection(grams(turn.between, _COPY))
        return bool(runs - self.lines if turn.role == "user" else runs)


CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`|https?://\S+", re.DOTALL)
QUOTED = re.compile(r'"[^"\n]{1,400}"|“[^“”\n]{1,400}”|„[^„“\n]{1,400}“|«[^«»\n]{1,400}»')
_SPACED = re.compile(r"\w+")
_NAME = re.compile(
    r"\A(?:(?:Mr|Mrs|Ms|Dr|Prof)\.? )?([^\W\d_]{2,20})"
    r"(?=,|\(| \(| is\b| who\b| has\b| wants\b| [A-Z]|\Z)"
)
_DICTATED = re.compile(
    rf"{QUOTED.pattern}|\b(?:say|tell|claim|explain|suggest|state|advise|repl(?:y|ie)|insist|answer)"
    r"s?(?: [\w']+){0,2} that\b[^.!?\n]*"
)
"""What a plan puts in a speaker's mouth, word for word: saying it leaks nothing."""


def read_dialogue(
    messages: tuple[Message, ...],
    plan: Plan | None,
    principles: tuple[Principle, ...],
    about: tuple[str, ...] = (),
) -> DialogueText:
    """Split messages into words, and collect what no turn should repeat.

    about  the scenario's domain and subarea
    """
    turns = []
    for k, message in enumerate(messages):
        answers = message.role == "assistant" and k > 0 and messages[k - 1].role == "user"
        asked = messages[k - 1].content if answers else ""
        turns.append(_turn(k, message.role, message.content, asked))
    persona = _NAME.match(plan.persona) if plan else None
    name = persona.group(1) if persona and persona.group(1)[0].isupper() else ""
    return DialogueText(tuple(turns), name, *_script(plan, principles), plan, about)


_Runs = frozenset[tuple[str, ...]]


@lru_cache(maxsize=256)  # the turns of the dialogues under way are read one after the other
def _script(plan: Plan | None, principles: tuple[Principle, ...]) -> tuple[_Runs, _Runs]:
    """Return `DialogueText.script` and `DialogueText.lines`."""
    steps = [_runs(step) for step in plan.descriptions] if plan else []
    other = (plan.planned_violation, plan.persona) if plan else ()
    texts = (*other, *(p.text for p in principles))
    secret = frozenset(run for text in texts for run in _runs(text))
    lines = frozenset(run for runs in steps for run in runs[1:])  # all but "Ann asks how"
    return secret.union(*steps), lines - secret


def _runs(text: str) -> list[tuple[str, ...]]:
    """Return the runs of ten words that saying `text` would repeat, in order."""
    words = _SPACED.findall(normalize.normal(_DICTATED.sub(" ", text)))
    return grams(words, _COPY)


def _turn(index: int, role: str, content: str, asked: str) -> TurnText:
    read = _split if len(content) + len(asked) <= _REMEMBERED else _split.__wrapped__
    return read(index, role, content, asked)


@lru_cache(maxsize=1024)  # a conversation is read again with each of its user turns
def _split(index: int, role: str, content: str, asked: str) -> TurnText:
    text = _ends(content)
    plain = QUOTED.sub(" ", CODE.sub(" ", text)).replace("’", "'").strip()
    normal = normalize.normal(plain)
    between = tuple(_SPACED.findall(normal))
    words = between if normal.isascii() else tuple(WORD.findall(normal))
    return TurnText(index, role, text, plain, words, between, _ends(asked))


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _HALF else f"{text[:_HALF]}\n{text[-_HALF:]}"


_SAID_ANYWHERE = (
    "a about after again all also always am an and any are as ask asks at away back be because "
    "been before begin being best better bit both but by call came can cannot come comes could "
    "day days did different do does doesn doing don done down each easy else end enough even ever "
    "every everything few find first for found from full gave get gets getting give given gives "
    "go goes going good got great had happy hard has have having he hear help helpful helps her "
    "here hers hi him his hope how i idea if important in into is it its just keep kind know "
    "known last later least less let like likes little long look looking lot made make makes "
    "making many may maybe me mean might mine more most much must my need needs never new next "
    "nice no not nothing now of off often ok okay old on once one only or other our out over own "
    "part people perhaps person place please point possible put quite rather really right said "
    "same say saying says see seem seems she should show since so some someone something soon "
    "still sure take taken takes tell tells than thank thanks that the their them then there "
    "these they thing things think this those though thought through time times to today together "
    "told too took tried true try trying two until up us use used using usually very want wanted "
    "wants was way ways we well went were what when where which while who whole why will with "
    "without wonder won work worried would yes yet you your yours yourself admits advice advise "
    "agent agrees answer answers asked asking assistant believes breaks chat claims concern "
    "concerned conversation describes discuss expresses explain explained explains explaining "
    "information insists mention mentions principle question questions recommend recommends "
    "replies reply request responds response shares speaks start starts states step suggest "
    "suggests talk talks telling user violates writes ve ll re didn isn wasn aren couldn wouldn "
    "shouldn haven hasn zero three four five six seven eight nine ten hundred half second third "
)
_COMMON = frozenset(_SAID_ANYWHERE.split())
"""Words that say nothing about a subject, and those of plans in general."""
_STEM = 5


def content_stems(words: Iterable[str]) -> frozenset[str]:
    """Return the beginnings of those words, in lower case, that say what a text is about.

    Short enough for inflections and most derivations to meet: `glacier`, `glaciers`, `glacial`.
    """
    return frozenset(word[:_STEM] for word in set(words) - _COMMON if len(word) > 1)
