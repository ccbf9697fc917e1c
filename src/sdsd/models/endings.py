"""How a reply ended, from the server's word for it.

Servers have dozens of words: `stop`, `END_TURN`, `FinishReason.MAX_TOKENS`, `contentFilter`,
`<|eot_id|>`. Nearly all are made of a few, so they are read word by word.
"""

from __future__ import annotations

import re
from typing import Any

from sdsd.types import Finish

_REFUSED = {
    "filter", "filtered", "safety", "unsafe", "refusal", "refused", "recitation", "blocklist",
    "blocked", "prohibited", "spii", "sensitive", "toxic", "guardrail", "guardrails", "moderation",
    "moderated", "policy", "violation", "jailbreak", "harmful", "risk", "censored", "flagged",
    "language",
}  # fmt: skip
_BROKEN = {
    "error", "fail", "failed", "failure", "abort", "aborted", "cancel", "cancelled", "canceled",
    "timeout", "exception", "malformed", "interrupted", "preempted", "disconnected", "unavailable",
    "insufficient", "overloaded",
}  # fmt: skip
_CUT = {
    "length", "len", "max", "limit", "truncated", "incomplete", "exceeded", "capped", "repetition",
    "pause", "not",
}  # fmt: skip
_WHOLE = {
    "stop", "stopped", "eos", "eot", "end", "complete", "completed", "finish", "finished", "done",
    "success", "normal", "endoftext", "null", "none",
}  # fmt: skip
_MEANINGS: tuple[tuple[set[str], Finish], ...] = (
    (_REFUSED, "refused"),
    (_BROKEN, "error"),
    (_CUT, "length"),
    (_WHOLE, "stop"),
)
"""In the order in which they count: `error_toxic` is refused, and `end_limit` cut."""
_NEW_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[a-z]+")


def ending(word: str) -> Finish | None:
    """Return how a reply ended that a server says ended with `word`; None if that is unknown.

    >>> [ending(word) for word in ("end_turn", "FinishReason.MAX_TOKENS", "contentFilter", "odd")]
    ['stop', 'length', 'refused', None]
    """
    words = _WORD.findall(_NEW_WORD.sub("_", word[:80]).casefold())
    words = [w for w in words if w not in ("finish", "reason")] or words
    if not words:
        return None if word.strip() else "stop"
    return next((means for known, means in _MEANINGS if not known.isdisjoint(words)), None)


def word_of(value: Any) -> str | None:
    """Return the word in a field that says how a reply ended; None if it says nothing."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        named = (value.get(key) for key in ("type", "reason", "finish_reason", "name", "value"))
        value = next((word for word in named if isinstance(word, str)), value)
    return value if isinstance(value, str) else (str(value)[:80] if value else None)
