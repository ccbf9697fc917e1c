"""Separate what a model thought from what it said, and end the text where its turn ends.

Reasoning models think in the reply itself where the server does not remove it: between marks that
differ from family to family, with the opening mark missing where the chat template has written it,
or in channels. Servers that do not strip special tokens leave the template's marks in the text.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from sdsd.text.template_marks import AFTER_FIRST, MARK
from sdsd.text.thinking_marks import AFTER_FIRST as THINKING_AFTER_FIRST
from sdsd.text.thinking_marks import FIRST, LAST, Code, Mark, closing_of, marks, quoted

_LONGEST = 64
"""Characters of the longest mark that opens the thinking in a prompt."""
_CHANNEL = re.compile(
    r"(?:<\|start\|>[^<]{0,40})?(?:<\|channel\|>|\A)\s*([a-z]{1,20})\b[^<]{0,80}"
    r"(?:<\|constrain\|>[^<]{0,40})?<\|message\|>",
    re.IGNORECASE,
)
_UNSEPARATED = re.compile(
    r"(?:<\|start\|>[^<]{0,40})?<\|channel\|>\s*(analysis|commentary|final)", re.IGNORECASE
)
"""The same, of servers that strip `<|message|>`."""
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_STRIPPED = re.compile(r"\A\s*(?:assistant)?(?:analysis|commentary)(?=[^\W\d_]|[\"'“])")
"""Channels of which a server has stripped the special tokens: `analysisWe ...assistantfinalHi`."""
_STRIPPED_WORD = re.compile(r"\A\s*(?:assistant)?(?:analysis|commentary)\b")
_STRIPPED_FINAL = re.compile(
    r"\bassistantfinal\b|(?<=[^\s`\"'])assistantfinal|assistantfinal(?=[A-Z])"
)
_NAMED = re.compile(r"\A\s*Here(?:'s| is) my thought process:")
_ANSWER = re.compile(r"Here(?:'s| is) my response:")
_TURN = re.compile(
    r"\A\s*+(?:(?:<\|(?:im_start|start|start_header_id|end_header_id|header_start|header_end|"
    r"start_of_role|end_of_role|start_of_turn_token|chatbot_token|start_response|start_text|"
    r"begin_of_\w+|message|assistant\w*|im_middle|channel)\|>|<start_of_turn>|<s>|<bos>|"
    r"<｜assistant｜>|<｜begin▁of▁sentence｜>|\[\|assistant\|\]|\[/inst\])"
    r"(?!\s*(?:user|system|human)\b)(?:\s*(?:assistant|model|bot|final)\b)?\s*)+",
    re.IGNORECASE,
)
"""What opens the model's own turn."""
_WRAPPED = re.compile(
    r"\A\s*<(?P<tag>answer|response|output|solution|final|final_answer|reply)>"
    r"(?P<text>.*?)(?:</(?P=tag)>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
"""What models that think put around the rest."""
_LONE_ANSWER = re.compile(r"(?<!\s)\s*+</answer>\s*\Z", re.IGNORECASE)
_END = re.compile(MARK, re.IGNORECASE)
_ANY = re.compile(rf"{FIRST}(?i:{AFTER_FIRST}|/?answer>|{THINKING_AFTER_FIRST})")
_SOMETHING = re.compile("[^ \t\r\n\\\\>\u200b\ufeff]")
"""Text; a quotation's `>` before the first mark is none."""


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
        text, thinking, closed = _by_channels(reply, _CHANNEL)
    elif _UNSEPARATED.search(reply):
        text, thinking, closed = _by_channels(reply, _UNSEPARATED)
    elif not opened and (cut := _stripped_channels(reply)):
        thinking, text, closed = reply[:cut], reply[cut:], cut < len(reply)
    elif _NAMED.match(reply):
        found_answer = _ANSWER.search(reply)
        cut = found_answer.end() if found_answer else len(reply)
        thinking, text, closed = reply[:cut], reply[cut:], found_answer is not None
    else:
        text, thinking, closed = _Reader(reply, opened=opened).read()
    if thinking:
        text = text.strip()
    text, ended = _one_turn(text, wrapped=bool(thinking))
    if only_marks(thinking):  # around nothing: it has not thought
        thinking = ""
    return Spoken(text, thinking.strip(), closed, ended)


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends with a mark that begins the model's thinking."""
    last = _last_mark(prompt.rstrip())
    return last is not None and not last.closing


def only_marks(text: str) -> bool:
    """Whether a text is marks of thinking with nothing between them: begun, ended, or both."""
    end = 0
    for mark in marks(text):
        if text[end : mark.start].strip():
            return False
        end = mark.end
    return end > 0 and not text[end:].strip()


def without_thinking(opening: str) -> str:
    """Return what begins a turn, with the thinking that it opens closed again: as models learn to
    leave it out (Qwen3's chat template; arXiv 2504.09858)."""
    begun = opening.strip()
    last = _last_mark(begun)
    if last is None or last.closing:
        return opening
    return f"{begun}\n\n{closing_of(begun[last.start :])}\n\n"


def without_closed(stream: str) -> str:
    """Return a stream without the thinking that it ends with, if nothing was thought."""
    rest = stream.rstrip()
    if (closing := _last_mark(rest)) is None or not closing.closing:
        return stream
    before = rest[: closing.start].rstrip()
    if (opening := _last_mark(before)) is None or opening.closing:
        return stream
    return before[: opening.start] if opening.name == closing.name else stream


def _last_mark(text: str) -> Mark | None:
    """Return the mark that a text ends with, if it ends with one."""
    if not text[-7:].casefold().endswith(LAST):  # asked of every prompt: most end with a role
        return None
    # Only the end is looked at: it may be a whole dialogue.
    skipped = max(0, len(text) - _LONGEST)
    found = next((mark for mark in marks(text[skipped:]) if skipped + mark.end == len(text)), None)
    if found is None:
        return None
    return replace(found, start=found.start + skipped, end=found.end + skipped)


def lacks_opening(thinking: str) -> bool:
    """Whether thinking has a closing mark and no opening one: the prompt has begun it."""
    first = next(marks(thinking), None)
    return first is not None and first.closing


def _suspicious(reply: str) -> bool:
    """Whether a reply may hold marks, as few do."""
    if ("<" in reply or "[" in reply or "◁" in reply or "&lt;" in reply) and _ANY.search(reply):
        return True
    if reply.lstrip()[:8] in ("analysis", "commenta", "assistan", "Here is ", "Here's m"):
        return True
    return "assistantfinal" in reply


def _stripped_channels(reply: str) -> int:
    """Return where the text begins in a reply whose channels have lost their marks; 0 if it has
    no channels."""
    if _STRIPPED.match(reply):
        thought, final_mark, _ = reply.partition("assistantfinal")
        return len(thought) + len(final_mark)
    final = _STRIPPED_FINAL.search(reply)
    if final and (_STRIPPED_WORD.match(reply) or reply[: final.start()].strip()[-1:] in ".!?)"):
        return final.end()
    return 0


class _Reader:
    """Takes a reply with marks apart, from mark to mark."""

    def __init__(self, reply: str, *, opened: bool) -> None:
        self._reply, self._code = reply, Code(reply)
        self._marks = list(marks(reply))
        self._last = {mark.name: mark.start for mark in self._marks if mark.closing}
        """By name, where its last closing mark is."""
        self._begun, self._end = 0, len(reply.rstrip())
        self._inside: str | None = "" if opened else None
        """The name of the thinking that is read; empty if any mark closes it, None in text."""
        self._said: list[str] = []
        self._thought: list[str] = []
        self._text: dict[int, int] = {}
        """Where text begins after the last `_begun` that was looked at."""
        self._meant: dict[str, int] = {}
        """By name, opening marks that are text and whose closing ones are, too."""

    def read(self) -> tuple[str, str, bool]:
        """Return text, thinking, and whether the last thinking is closed."""
        for mark in self._marks:
            if self._inside is not None:
                if mark.closing and self._closes(mark):
                    self._thought.append(self._reply[self._begun : mark.end])
                    self._begun, self._inside = mark.end, None
            elif mark.closing:
                self._lone(mark)
            else:
                self._open(mark)
        closed = self._inside is None
        (self._said if closed else self._thought).append(self._reply[self._begun :])
        return "".join(self._said), "".join(self._thought), closed

    def _closes(self, mark: Mark) -> bool:
        return mark.name == self._inside or (not self._inside and mark.name != "details")

    def _open(self, mark: Mark) -> None:
        first = not self._said and mark.start <= self._text_at()
        is_closed = self._last.get(mark.name, -1) > mark.start
        counts = mark.sure or first or (mark.compound and is_closed)
        if not counts or (not first and self._code.holds(mark.start, self._begun)):
            self._meant[mark.name] = self._meant.get(mark.name, 0) + 1
            return
        if mark.start > self._text_at():
            self._said.append(self._reply[self._begun : mark.start].rstrip("\\"))
        self._begun, self._inside = mark.start, mark.name if is_closed else ""

    def _text_at(self) -> int:
        """Return where text begins in what has been read since `_begun`."""
        if self._begun not in self._text:
            found = _SOMETHING.search(self._reply, self._begun)
            self._text = {self._begun: found.start() if found else len(self._reply)}
        return self._text[self._begun]

    def _lone(self, mark: Mark) -> None:
        """Take a closing mark: of thinking that the chat template has begun, or left over."""
        if self._meant.get(mark.name):
            self._meant[mark.name] -= 1
            return
        if mark.name == "details" or not (mark.sure or self._apart(mark)):
            return
        before = self._reply[self._begun : mark.start].rstrip("\\")
        self._said.append(before)
        if not self._thought or mark.end < self._end:  # else it is left over after the answer
            self._thought += (*self._said, self._reply[mark.start : mark.end])
            self._said = []
        self._begun = mark.end

    def _apart(self, mark: Mark) -> bool:
        """Whether a mark is not a word of a sentence."""
        before = self._reply[mark.start - 1 : mark.start] if mark.start else "\n"
        return before not in " (" or self._reply[mark.end : mark.end + 1] in ("", "\n")


def _by_channels(reply: str, pattern: re.Pattern[str]) -> tuple[str, str, bool]:
    """Return text and thinking of a reply in channels (OpenAI's harmony format)."""
    said: list[str] = []
    thought: list[str] = []
    last = ""
    begun = 0
    for channel in pattern.finditer(reply):
        if channel.start() < begun:
            continue
        end = _CHANNEL_END.search(reply, channel.end())
        stop = end.start() if end else len(reply)
        last = channel[1].casefold()
        if last == "final":
            said.append(reply[channel.end() : stop])
        else:
            thought.append(reply[channel.start() : stop])
        begun = stop
    if not last:
        return reply, "", True
    return "".join(said), "\n".join(thought), last == "final" or not thought


def _one_turn(text: str, *, wrapped: bool) -> tuple[str, bool]:
    """Return the text of the first turn in `text`, and whether a mark ended it.

    wrapped  whether it follows on thinking, and may be in marks of its own
    """
    if opening := _TURN.match(text):
        text = text[opening.end() :]
    around = _WRAPPED.match(text)
    if around and (wrapped or around["tag"].casefold() == "answer"):
        text = around["text"].strip()
    text = _LONE_ANSWER.sub("", text)
    code = Code(text)
    for mark in _END.finditer(text):
        if not (quoted(text, *mark.span()) or code.holds(mark.start())):
            return text[: mark.start()].rstrip(), True
    return text, False
