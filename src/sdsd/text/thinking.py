"""Separate what a model thought from what it said, and end the text where its turn ends.

Reasoning models think in the reply itself where the server does not remove it: between marks that
differ from family to family, with the opening mark missing where the chat template has written it,
or in channels. Servers that do not strip special tokens leave the template's marks in the text.
"""

from __future__ import annotations

import re

from msgspec import Struct

from sdsd.text.template_marks import AFTER_FIRST, MARK

_ANYWHERE = ("think", "thinking", "thought", "seed:think", "antthinking", "longcat_think")
"""Tags that are thinking wherever they stand."""
_AT_FIRST = ("thoughts", "reasoning", "reflection", "analysis", "scratchpad", "inner_monologue")
"""Tags that are thinking where the reply begins with them; elsewhere they may be meant."""
_SPECIAL = {
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|think|>": "<|/think|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|channel>thought": "<channel|>",
    "<unused94>": "<unused95>",
}
_PAIRS = {f"<{tag}>": f"</{tag}>" for tag in (*_ANYWHERE, *_AT_FIRST)} | _SPECIAL
"""By opening mark, the closing one."""
_CLOSED_BY = {opening.casefold(): closing.casefold() for opening, closing in _PAIRS.items()}
_LONE = frozenset(f"</{tag}>" for tag in _ANYWHERE) | {c.casefold() for c in _SPECIAL.values()}
"""Closing marks that end thinking which the chat template has begun."""
_FIRST = frozenset(f"<{tag}>" for tag in _AT_FIRST)
_OPENINGS = tuple(_CLOSED_BY)
_LONGEST = max(map(len, _OPENINGS))
_CLOSING = frozenset(_CLOSED_BY.values())


def _unquoted(marks: str) -> re.Pattern[str]:
    """Compile a pattern for marks that are used: in quotation marks or code they are spoken of."""
    return re.compile(f"(?<![`\"'“])(?:{marks})|(?:{marks})(?![`\"'”])", re.IGNORECASE)


_THINKING = "|".join(map(re.escape, (*_CLOSED_BY, *_CLOSED_BY.values())))
_THOUGHT = _unquoted(_THINKING)
_CHANNEL = re.compile(
    r"(?:<\|start\|>[^<]{0,40})?(?:<\|channel\|>|\A)\s*(analysis|commentary|final)\b[^<]{0,80}"
    r"(?:<\|constrain\|>[^<]{0,40})?<\|message\|>"
)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_STRIPPED = re.compile(r"\A\s*analysis(?=[A-Z\"'])")
"""Channels of which a server has stripped the special tokens: `analysisWe ...assistantfinalHi`."""
_NAMED = re.compile(r"\A\s*Here(?:'s| is) my thought process:")
_ANSWER = re.compile(r"Here(?:'s| is) my response:")
_TURN = re.compile(
    r"\A\s*+(?:(?:<\|(?:im_start|start|start_header_id|end_header_id|header_start|header_end|"
    r"start_of_role|end_of_role|start_of_turn_token|chatbot_token|start_response|start_text|"
    r"begin_of_\w+|message|assistant\w*|im_middle|channel)\|>|<start_of_turn>|<s>|<bos>|"
    r"<｜assistant｜>|<｜begin▁of▁sentence｜>|\[\|assistant\|\]|\[/inst\]|<answer>)"
    r"(?!\s*(?:user|system|human)\b)(?:\s*(?:assistant|model|bot|final)\b)?\s*)+",
    re.IGNORECASE,
)
"""What opens the model's own turn."""
_END = _unquoted(f"{MARK}|</answer>")
_ANY = re.compile(
    rf"[<\[◁](?i:{AFTER_FIRST}|/?answer>|"
    + "|".join(re.escape(mark[1:]) for mark in (*_CLOSED_BY, *_CLOSED_BY.values()))
    + ")"
)
"""Quick, because the search looks for the few characters that marks begin with."""


class Spoken(Struct, frozen=True):
    """A reply, taken apart."""

    text: str
    thinking: str = ""
    """Verbatim, with its marks."""
    closed: bool = True
    """False if the reply breaks off while the model thinks."""
    ended: bool = False
    """Whether a mark of the chat template ended the text."""


def spoken(reply: str, *, opened: bool = False) -> Spoken:
    """Return the text of a reply, apart from the thinking in it.

    opened  whether the prompt has already begun the thinking

    A reply without marks is returned as it is.
    """
    if not opened and not _suspicious(reply):
        return Spoken(reply)
    if "<|message|>" in reply:
        text, thinking, closed = _by_channels(reply)
    elif (begun := _STRIPPED.match(reply)) and not opened:
        thought, found, text = reply.partition("assistantfinal")
        thinking, closed = thought[begun.start() :] + found, bool(found)
    elif _NAMED.match(reply):
        found_answer = _ANSWER.search(reply)
        cut = found_answer.end() if found_answer else len(reply)
        thinking, text, closed = reply[:cut], reply[cut:], found_answer is not None
    else:
        text, thinking, closed = _by_marks(reply, opened=opened)
    if thinking:
        text = text.strip()
    text, ended = _one_turn(text)
    if not _THOUGHT.sub("", thinking).strip():  # marks around nothing: it has not thought
        thinking = ""
    return Spoken(text, thinking.strip(), closed, ended)


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends with a mark that begins the model's thinking."""
    # Only its end is folded: it may hold a whole dialogue.
    return prompt.rstrip()[-_LONGEST:].casefold().endswith(_OPENINGS)


def only_marks(text: str) -> bool:
    """Whether a text is marks of thinking with nothing between them: begun, ended, or both."""
    return bool(_THOUGHT.search(text)) and not _THOUGHT.sub("", text).strip()


def without_thinking(opening: str) -> str:
    """Return what begins a turn, with the thinking that it opens closed again: as models learn to
    leave it out (Qwen3's chat template; arXiv 2504.09858)."""
    mark = opening.strip()
    closing = _PAIRS.get(mark)
    return f"{mark}\n\n{closing}\n\n" if closing else opening


def without_closed(stream: str) -> str:
    """Return a stream without the thinking that it ends with, if nothing was thought."""
    rest = stream.rstrip()
    for opening, closing in _PAIRS.items():
        if rest.endswith(closing):
            before = rest[: -len(closing)].rstrip()
            if before.endswith(opening):
                return before[: -len(opening)]
    return stream


def lacks_opening(thinking: str) -> bool:
    """Whether thinking has a closing mark and no opening one: the prompt has begun it."""
    mark = _THOUGHT.search(thinking)
    return mark is not None and mark.group().casefold() in _CLOSING


def _suspicious(reply: str) -> bool:
    """Whether a reply may hold marks, as few do."""
    if ("<" in reply or "[" in reply or "◁" in reply) and _ANY.search(reply):
        return True
    return reply.lstrip()[:8] in ("analysis", "Here is ", "Here's m")


def _by_marks(reply: str, *, opened: bool) -> tuple[str, str, bool]:
    """Return text and thinking of a reply with marks, and whether the last thinking is closed."""
    said: list[str] = []
    thought: list[str] = []
    begun, end = 0, len(reply.rstrip())
    closing = _CLOSING if opened else frozenset[str]()
    for mark in _THOUGHT.finditer(reply):
        name = mark.group().casefold()
        if closing:
            if name in closing:
                thought.append(reply[begun : mark.end()])
                begun, closing = mark.end(), frozenset()
            continue
        before = reply[begun : mark.start()]
        if name in _CLOSED_BY:
            if name in _FIRST and (said or before.strip()):
                continue
            said += filter(str.strip, (before,))
            begun, closing = mark.start(), frozenset((_CLOSED_BY[name],))
        elif name in _LONE:
            said.append(before)
            if not thought or mark.end() < end:  # else it is left over after the answer
                thought += (*said, mark.group())
                said = []
            begun = mark.end()
    (thought if closing else said).append(reply[begun:])
    return "".join(said), "".join(thought), not closing


def _by_channels(reply: str) -> tuple[str, str, bool]:
    """Return text and thinking of a reply in channels (OpenAI's harmony format)."""
    said: list[str] = []
    thought: list[str] = []
    last = ""
    begun = 0
    for channel in _CHANNEL.finditer(reply):
        if channel.start() < begun:
            continue
        end = _CHANNEL_END.search(reply, channel.end())
        stop = end.start() if end else len(reply)
        last = channel[1]
        if last == "final":
            said.append(reply[channel.end() : stop])
        else:
            thought.append(reply[channel.start() : stop])
        begun = stop
    if not last:
        return reply, "", True
    return "".join(said), "\n".join(thought), last == "final" or not thought


def _one_turn(text: str) -> tuple[str, bool]:
    """Return the text of the first turn in `text`, and whether a mark ended it."""
    if opening := _TURN.match(text):
        text = text[opening.end() :]
    end = _END.search(text)
    return (text[: end.start()].rstrip(), True) if end else (text, False)
