"""How well-known data sets write a conversation, brought to lists of turns.

columns                                  as in
prompt or question, and a reply          OpenOrca, Alpaca, Dolly, HelpSteer, MetaMath, GSM8K
the same, with chosen and rejected       UltraFeedback, Orca DPO pairs, Tulu 3 preferences, TRL
chosen and rejected alone                HH-RLHF (transcripts), TRL (lists of turns)
two replies, and which is better         Chatbot Arena, PKU-SafeRLHF, HelpSteer 3
a list of texts, or of {input, output}   UltraChat, Capybara
one transcript                           Guanaco, HelpSteer 2, the texts of chat templates
one message per row, or a tree of them   OpenAssistant

A turn is {role, content} or {from, value}, and is checked where it is read (`existing`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

Row = Mapping[str, Any]
Where = TypeVar("Where")

SYSTEMS = ("system", "system_prompt")
CHATS = ("messages", "conversation", "dialogue", "dialog", "turns", "chat", "contents")
PROMPTS = ("prompt", "question", "instruction", "query", "input")
_CONTEXTS = (*PROMPTS, "conversations", *CHATS, "context")
"""What a reply may follow."""
REJECTED = ("rejected", "rejected_response")
CHOSEN = ("chosen", "chosen_response")
REPLIES = (*REJECTED, "completion", "response", "output", "answer", *CHOSEN)
_ADDED = ("input", "context")
"""What an instruction or question is about, as text."""
_COMPARED = (
    ("conversation_a", "conversation_b", "winner"),
    ("response_0", "response_1", "better_response_id"),
    ("response1", "response2", "overall_preference"),
)
"""Two replies, and the column that says which is better."""
PREFERENCES = (*REJECTED, *CHOSEN, *(first for first, _, _ in _COMPARED))
_TREE = ("message_id", "parent_id", "text", "role")
COLUMNS = {
    *SYSTEMS, "history", "data", "text", *_CONTEXTS, *REPLIES, *itertools.chain(*_COMPARED),
    *_TREE, "message_tree_id", "rank",
}  # fmt: skip

SPEAKERS = {
    "user": "user human person prompter instruction",
    "assistant": "assistant gpt chatgpt model ai agent bot bing bard response",
    "system": "system developer",
    "tool": "tool function function_call function_response observation ipython",
}
"""By role, the names that data sets give it."""
_ROLE_OF = {name: role for role, names in SPEAKERS.items() for name in names.split()}
NAMES, TEXTS = ("role", "from", "speaker", "author"), ("content", "value", "text", "parts")
"""The fields of a turn: who speaks, and what is said."""
_EXCHANGES = (
    ("input", "output"), ("human", "assistant"), ("user", "assistant"), ("question", "answer"),
    ("prompt", "response"),
)  # fmt: skip
"""The fields of an exchange that is written as one item."""
_START = r"(?:\A\s*+|\n\n)"
_TRANSCRIPTS = (
    re.compile(rf"{_START}(Human|Assistant): ?"),
    re.compile(r"(?:\A\s*+|\n?)### ?(Human|User|Assistant|System|Instruction|Response): ?"),
    re.compile(r"(?:\A\s*+|<\|im_end\|>\s*+)<\|im_start\|>(\w+)\n"),
    re.compile(
        r"(?:\A\s*+(?:<\|begin_of_text\|>)?|<\|eot_id\|>\s*+)"
        r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*+"
    ),
    re.compile(r"(?:\A\s*+(?:<bos>)?|<end_of_turn>\s*+)<start_of_turn>(\w+)\n"),
    re.compile(r"(?:\A\s*+(?:<s>)?|(?:</s>|<\|end\|>)\s*+|\n)<\|(user|assistant|system)\|>\s*+"),
    re.compile(r"(?:\A\s*+|\s)(USER|ASSISTANT): "),
)
"""The marks of speakers in a transcript, which begins with one."""
_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "</s>")
"""What ends the last turn of a transcript, or each."""
_INSIDE = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
"""A mark between the turns of a transcript that begins without one."""


def is_preference(row: Row) -> bool:
    """Return whether a row compares two replies."""
    return any(key in row for key in (*REJECTED, *CHOSEN)) or _compared(row) is not None


def is_instruction(row: Row) -> bool:
    """Return whether a row has a prompt and a reply."""
    return any(key in row for key in PROMPTS) and any(key in row for key in REPLIES)


def exchange(row: Row) -> list[Any]:
    """Return the turns up to a prompt's reply; of two compared replies, up to the worse one.

    A reply that begins with the user is a whole conversation, and the prompt is part of it.
    """
    asked = next((key for key in _CONTEXTS if key in row), "")
    before = [*_system(row), *_history(row), *turns(_prompt(row, asked), "user")]
    reply = turns(_reply(row), "assistant")
    spoken = [turn for turn in reply if role(turn) != "system"]
    if spoken and role(spoken[0]) == "user" and (not before or role(before[-1]) != "assistant"):
        return [*_system(row), *reply]
    while spoken and before and role(before[-1]) == "assistant":
        before.pop()  # the conversation has a reply of its own, for example the better one
    return before + reply


def chat(row: Row, value: Any) -> list[Any]:
    """Return the turns of a row whose conversation is `value`."""
    return [*_system(row), *turns(value, "user")]


def alternating(value: Any) -> list[Any]:
    """Return the turns of a list of texts, the user's first; empty for anything else."""
    if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        return []
    speakers = itertools.cycle(("user", "assistant"))
    return [turn(speaker, text) for speaker, text in zip(speakers, value, strict=False)]


def turns(value: Any, speaker: str) -> list[Any]:
    """Return the turns that a value stands for; a text is a transcript, or what `speaker` says."""
    if isinstance(value, str):
        return _transcript(value, speaker)
    if isinstance(value, list):
        return [said for item in value for said in _pair(item)]
    return [] if value is None else [value]


def turn(speaker: Any, text: Any) -> dict[str, Any]:
    return {"role": speaker, "content": text}


def speaker(turn: Any) -> Any:
    """Return whatever a turn has as the name of its speaker; None if it has none."""
    if not isinstance(turn, Mapping):
        return None
    return first(turn, NAMES)


def role(turn: Any) -> str:
    """Return the role of who speaks, one of `SPEAKERS`; a name that is unknown, as it is."""
    name = speaker(turn)
    name = name.strip().casefold() if isinstance(name, str) else ""
    return _ROLE_OF.get(name, name)


def first(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the first of these fields that is there and not null."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def transposed(value: Any) -> Any:
    """Return the list of turns that an object of lists stands for; any other value as it is."""
    if not (isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values())):
        return value
    return [
        dict(zip(value, fields, strict=True)) for fields in itertools.zip_longest(*value.values())
    ]


def _pair(item: Any) -> list[Any]:
    """Return the two turns of an exchange that is written as one item; others as they are."""
    if isinstance(item, dict) and not role(item):
        pair = next((keys for keys in _EXCHANGES if item.keys() >= {*keys}), None)
        item = [item[key] for key in pair] if pair else item
    if isinstance(item, list) and len(item) == 2:
        return [turn("user", item[0]), turn("assistant", item[1])]
    return [item]


def _transcript(text: str, speaker: str) -> list[Any]:
    mark = next((mark for mark in _TRANSCRIPTS if mark.match(text)), _INSIDE)
    first, *rest = mark.split(text)
    said = [(speaker, first), *zip(rest[::2], rest[1::2], strict=True)]
    return [turn(name, _without_end(text.rstrip())) for name, text in said]


def _without_end(text: str) -> str:
    return next((text.removesuffix(end) for end in _ENDS if text.endswith(end)), text)


def is_transcript(text: Any) -> bool:
    """Return whether a text begins as a transcript does."""
    return isinstance(text, str) and any(mark.match(text) for mark in _TRANSCRIPTS)


def _system(row: Row) -> list[Any]:
    return [turn("system", row[key]) for key in SYSTEMS if row.get(key) is not None][:1]


def _history(row: Row) -> list[Any]:
    history = row.get("history")
    return turns(history, "user") if isinstance(history, list) else []


def _prompt(row: Row, key: str) -> Any:
    """Return what is asked; an instruction or question with the text that it is about."""
    asked = row.get(key)
    if key in ("instruction", "question") and isinstance(asked, str):
        added = [row[name] for name in _ADDED if isinstance(row.get(name), str) and row[name]]
        return "\n\n".join([asked, *added])
    return asked


def _reply(row: Row) -> Any:
    if (worse := _compared(row)) is not None:
        return row[worse]
    return next((row[key] for key in REPLIES if key in row), None)


def _compared(row: Row) -> str | None:
    """Return the column of the worse of two replies; None if a row does not compare two.

    Which is better is said by name (`model_a`), by number (0 or 1), or by sign (negative: the
    first). Of equal replies it is the second.
    """
    for first, second, better in _COMPARED:
        if first in row and second in row and better in row:
            said = row[better]
            number = said if isinstance(said, int | float) else 0
            return first if said == "model_b" or number > 0 else second
    return None


# -- OpenAssistant -------------------------------------------------------------------------------


def threads(rows: Iterable[tuple[Where, Any]]) -> Iterator[tuple[Where, Any]]:
    """Yield rows as they are; of a tree of messages one row, its thread of first-ranked replies.

    The messages of a tree follow each other. Memory is that of one tree.
    """
    for tree, group in itertools.groupby(rows, key=lambda placed: _tree(placed[1])):
        if tree is None:
            yield from ((where, _unfolded(row)) for where, row in group)
            continue
        placed = list(group)
        replies: dict[Any, list[Any]] = {}
        for _, row in placed:
            replies.setdefault(row["parent_id"], []).append(row)
        thread, last = [], None
        while found := replies.pop(last, None):
            best = min(found, key=_rank)
            thread.append(turn(best["role"], best["text"]))
            last = best["message_id"]
        yield placed[0][0], {"messages": thread}


def _tree(row: Any) -> Any:
    """Return which tree a row is a message of; None if it is no message."""
    if not (isinstance(row, dict) and row.keys() >= set(_TREE)):
        return None
    if any(isinstance(row[key], list | dict) for key in ("message_id", "parent_id")):
        return None  # ids of another data set
    root = row["message_id"] if row["parent_id"] is None else row["parent_id"]
    return str(row.get("message_tree_id") or root)


def _rank(message: Any) -> float:
    rank = message.get("rank")
    return rank if isinstance(rank, int | float) else float("inf")


def _unfolded(row: Any) -> Any:
    """Return a tree that is one row as the thread of its first-ranked replies."""
    if not (isinstance(row, dict) and isinstance(row.get("prompt"), dict)):
        return row
    thread, message = [], row["prompt"]
    while isinstance(message, dict):
        thread.append(turn(message.get("role"), message.get("text")))
        replies = message.get("replies")
        listed = replies if isinstance(replies, list) else []
        known = (reply for reply in listed if isinstance(reply, dict))
        message = min(known, key=_rank, default=None)
    return {**row, "messages": thread, "prompt": None}
