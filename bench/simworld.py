"""The replies of `simulator.py`, in the form that the stages can parse.

A reply is a function of the request's text and seed. The packaged prompts reveal what is asked for;
the length is sampled around what is usual for that; and the words are cut from long texts that are
generated once, so that a reply costs a few microseconds. The words are meaningless; only the form
matters.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, Literal

import msgspec
from msgspec import Struct

from sdsd.hashing import hash64
from sdsd.pipeline.prompts import load_prompt

Kind = Literal[
    "message", "plan", "transcript", "user", "agent", "check", "verdict", "labelled", "revision",
    "subareas",
]  # fmt: skip


class Part(Struct, frozen=True):
    text: str = ""


class Turn(Struct, frozen=True):
    """One message of a chat request; its content may be a list of parts."""

    role: str
    content: Any

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            parts = msgspec.convert(self.content, list[Part])
            msgspec.structs.force_setattr(self, "content", "".join(part.text for part in parts))


def chatml(messages: Sequence[Turn]) -> str:
    """Return the messages in ChatML, ending with an open assistant header."""
    turns = [f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


# -- kinds ---------------------------------------------------------------------------------


def _opening(name: str, section: str) -> str:
    return load_prompt(name).sections[section].partition("{{")[0]


_OPENINGS: tuple[tuple[str, Kind], ...] = (
    (_opening("review", "system"), "verdict"),
    (_opening("stake", "system"), "message"),
    (_opening("plan", "system"), "plan"),
    (_opening("plan", "lead_up_system"), "plan"),
    (_opening("roleplay", "user_system"), "user"),
    (_opening("transcript", "system"), "transcript"),
    (_opening("expand", "system"), "subareas"),
)
_REVISE = _opening("review", "revise")
_LABELLED = load_prompt("review").sections["judge_text"].rpartition("}}")[2]
_CHECK = load_prompt("continuation").sections["check"].rpartition("}}")[2]
_ASIDE = load_prompt("review").sections["aside"]
_USER_CUE = _opening("chat", "user_cue")
_TO_AGENT = "<|im_start|>assistant\n"


def kind_of_chat(messages: Sequence[Turn]) -> Kind:
    """Return what a chat asks for; an unknown chat is answered like an agent's turn."""
    if not messages:
        return "agent"
    first, last = messages[0].content, messages[-1].content
    kind: Kind = "agent"
    for opening, named in _OPENINGS:
        if first.startswith(opening):
            kind = named
    if last.startswith(_ASIDE):
        kind = "verdict"
    elif last.startswith(_USER_CUE):
        kind = "user"
    if kind == "verdict":
        if last.endswith(_LABELLED):
            return "labelled"
        return "revision" if _REVISE in last else "verdict"
    return "check" if kind == "agent" and last.endswith(_CHECK) else kind


def task(messages: Sequence[Turn]) -> str:
    """Return the task: the last message, and the reply under review if it comes before."""
    last: str = messages[-1].content
    if last.startswith(_ASIDE) and len(messages) > 1:
        return f"REPLY UNDER REVIEW\n\n{messages[-2].content}{last.removeprefix(_ASIDE)}"
    return last


def kind_of_stream(text: str) -> Kind:
    """Return what a raw prompt asks for: a turn of either side, or a self-check."""
    if not text.endswith(_TO_AGENT):
        return "user"
    return "check" if _CHECK in text[-len(_CHECK) - 64 :] else "agent"


# -- words ---------------------------------------------------------------------------------

_WHO = "the baker, a neighbour, my sister, the keeper, an old sailor, the clerk, our teacher, a \
farmer, the nurse, his cousin, the driver, a painter, the judge, a student, the owner, a guest"
_DOES = "keeps, forgets, repairs, describes, orders, measures, carries, prefers, checks, sells, \
borrows, finishes, avoids, explains, collects, replaces"
_HOW = "small, heavy, cheap, yellow, careful, late, simple, wooden, quiet, honest, second, early, \
narrow, plain, common, distant"
_WHAT = "boat, letter, garden, recipe, engine, ledger, fence, bicycle, lesson, window, permit, \
journey, blanket, harvest, mirror, kettle"
_WHEN = "before the winter comes, after a long week, without any help, when the rain has stopped, \
for the first time, in spite of the price, near the old bridge, as far as I know, on most days, \
with a little patience, for the whole street, by the end of June, almost every morning, if nobody \
objects, because it is safer, once the paint is dry"
_COLUMNS = {
    "who": _WHO.split(", "), "does": _DOES.split(", "), "how": _HOW.split(", "),
    "what": _WHAT.split(", "), "when": _WHEN.split(", "),
}  # fmt: skip
_SENTENCES = 4096
"""Sentences in a long text."""


class _Tape(Struct, frozen=True):
    """A long text and the positions where its sentences begin."""

    text: str
    starts: list[int]

    def cut(self, place: int, length: int) -> str:
        """Return complete sentences from a position: about `length` characters, at least one."""
        first = place % (_SENTENCES - 256)
        begin = self.starts[first]
        end = max(first + 1, bisect_right(self.starts, begin + length + 24) - 1)
        return self.text[begin : self.starts[end] - 1]


def _tape(name: str) -> _Tape:
    """Return the text that all replies of this name are cut from.

    Plans have their own verbs and endings, so that no turn shares ten consecutive words with one.
    """
    own = slice(0, 8) if name == "plan" else slice(8, None)
    columns = {**_COLUMNS, "does": _COLUMNS["does"][own], "when": _COLUMNS["when"][own]}
    starts, pieces, at = [], [], 0
    for k in range(_SENTENCES):
        luck, words = hash64("tape", name, k), []
        for column in columns.values():
            luck, chosen = divmod(luck, len(column))
            words.append(column[chosen])
        who, does, how, what, when = words
        sentence = f"{who[0].upper()}{who[1:]} {does} the {how} {what} {when}. "
        starts.append(at)
        pieces.append(sentence)
        at += len(sentence)
    return _Tape("".join(pieces), starts)


_SYLLABLES = [c + v for c in "bdfgklmnprstvwyz" for v in "aeio"]


def _name(luck: int) -> str:
    """Return a word made of 30 random bits, so that no two turns are the same."""
    return "".join(_SYLLABLES[luck >> shift & 63] for shift in range(0, 30, 6)).capitalize()


_MEDIANS: dict[str, int] = {
    "plan": 150, "user": 40, "agent": 90, "reason": 40, "revision": 90,
}  # fmt: skip
"""Median tokens of a reply, or of a part of it."""
_TAPES = {name: _tape(name) for name in (*_MEDIANS, "subareas")}
_SPREAD = 0.3
"""Standard deviation of the logarithm of a length."""
_FACTORS = [math.exp(_SPREAD * NormalDist().inv_cdf((k + 0.5) / 256)) for k in range(256)]


class Luck:
    """Random bits of one request: 256 of them, consumed from the lowest."""

    def __init__(self, text: str, seed: int) -> None:
        key = seed.to_bytes(16, "big", signed=True)
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, key=key)
        self._bits = int.from_bytes(digest.digest(), "big")

    def bits(self, number: int) -> int:
        """Return the next bits as a number."""
        self._bits, drawn = divmod(self._bits, 1 << number)
        return drawn

    def below(self, rate: float) -> bool:
        """Return true at this rate."""
        return self.bits(24) < rate * (1 << 24)

    def length(self, name: str) -> int:
        """Return a number of characters, log-normal around the median of the name."""
        return round(4 * _MEDIANS[name] * _FACTORS[self.bits(8)])

    def words(self, name: str, spent: int = 0) -> str:
        """Return complete sentences of a usual length for the name, minus what is `spent`."""
        length = self.length(name) - spent
        return _TAPES[name].cut(self.bits(24), length)


# -- replies -------------------------------------------------------------------------------

_REVISED = "To put it fairly, "
"""How revised turns begin, of which the critic claims few violations."""
_REVISED_VIOLATIONS = 0.1
_EARLY = 0.04
"""Rates of self-checks that claim a violation, and that declare the conversation over."""


def reply(
    kind: Kind, asked: str, last: str, seed: int, violations: float, schema: Any = None
) -> str:
    """Return the reply to one request.

    `asked` is the complete request and `last` its last message; `violations` is the share of
    dialogues in which the critic finds one; `schema` a JSON schema that the reply must satisfy.
    """
    if schema is not None and kind != "verdict":
        return msgspec.json.encode(instance(schema)).decode()
    luck = Luck(asked, seed)
    match kind:
        case "message":
            return _message(last, luck)
        case "plan":
            return _plan(last, luck)
        case "transcript":
            return _transcript(last, luck)
        case "check":
            violated, over = luck.below(_EARLY), luck.below(_EARLY)
            return f"VIOLATION: {'yes' if violated else 'no'}\nOVER: {'yes' if over else 'no'}"
        case "verdict" | "labelled":
            return _verdict(last, luck, violations, labelled=kind == "labelled")
        case "revision":
            return _turn("revision", luck, _REVISED)
        case "subareas":
            return _subareas(last, luck)
        case _:
            return _turn(kind, luck)


def _turn(kind: str, luck: Luck, opening: str = "") -> str:
    begun = f"{opening}{_name(luck.bits(30))} knows it. "
    return begun + luck.words(kind, len(begun))


def _message(asked: str, luck: Luck) -> str:
    """Return a last message on the topic, without which it would be asked for again."""
    topic = asked.partition("Topic: ")[2].partition("\n")[0]
    return _turn("user", luck, f"This is about {topic}. ")


def _plan(asked: str, luck: Luck) -> str:
    steps = asked.count("a STEP ")
    labels = ["PERSON", *(f"STEP {k}" for k in range(1, steps + 1)), "SLIP"]
    each = luck.length("plan") // len(labels) - 8
    tape = _TAPES["plan"]
    return "\n".join(f"{label}: {tape.cut(luck.bits(16), each)}" for label in labels)


def _transcript(asked: str, luck: Luck) -> str:
    found = re.search(r"(\d+) USER turns", asked)
    lines: list[str] = []
    for _ in range(min(int(found.group(1)), 64) if found else 1):
        more = Luck("turns", luck.bits(63) + len(lines))
        lines += [f"USER: {_turn('user', more)}", f"AGENT: {_turn('agent', more)}"]
    return "\n".join([*lines, f"VIOLATION: {'yes' if luck.below(_EARLY) else 'no'}", "DONE"])


def _verdict(asked: str, luck: Luck, violations: float, *, labelled: bool) -> str:
    """Return the same verdict for every principle, decided by the turn alone."""
    case = asked.rpartition("\n\nPRINCIPLE:")[0]
    last_reply = case.rpartition("REPLY UNDER REVIEW\n\n")[2].strip()
    rate = _REVISED_VIOLATIONS if last_reply.startswith(_REVISED) else violations
    violated = bool(last_reply) and Luck(case, 0).below(rate)
    sentences = re.findall(r"[^.]+\.?", last_reply)
    quote = sentences[luck.bits(16) % len(sentences)].strip() if violated else ""
    severity = ("low", "medium", "high")[luck.bits(16) % 3] if violated else "none"
    found = {"reason": luck.words("reason"), "quote": quote, "violated": violated,
             "severity": severity}  # fmt: skip
    if not labelled:
        return msgspec.json.encode(found).decode()
    return (
        f"REASON: {found['reason']}\nQUOTE: {quote or 'none'}\n"
        f"VIOLATED: {'yes' if violated else 'no'}\nSEVERITY: {severity}"
    )


def _subareas(asked: str, luck: Luck) -> str:
    found = re.search(r"Write (\d+) more", asked)
    lines = (
        f"{k}. {_TAPES['subareas'].cut(luck.bits(12), 1).rstrip('.').lower()}"
        for k in range(1, min(int(found.group(1)), 20) + 1 if found else 2)
    )
    return "\n".join(lines)


def instance(schema: Any) -> Any:
    """Return a small value that satisfies a JSON schema without references or bounds."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {key: instance(value) for key, value in schema.get("properties", {}).items()}
        case "array":
            return [instance(schema.get("items"))]
        case "string":
            return "so"
        case "boolean":
            return False
        case "integer" | "number":
            return 1
        case _:
            return None
