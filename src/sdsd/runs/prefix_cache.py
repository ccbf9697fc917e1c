"""How near a run comes to computing no token of a prompt twice.

The least possible is what a prefix cache without end would compute: of each prompt, what was in no
earlier prompt or reply of its dialogue, nor in the fixed beginning of its kind of prompt. Finding
that takes some microseconds, so it is done for every sixteenth dialogue only.
"""

from __future__ import annotations

from sdsd.runs.ask import Call
from sdsd.runs.journal import stage_of
from sdsd.types import Completion, Request

EVERY = 16
_KEPT = 6
"""Earlier prompts of a dialogue that are compared: more than branch off at any moment."""


class Economy:
    """Adds up, over the sampled dialogues, the tokens that were read, found cached, and new."""

    def __init__(self) -> None:
        self.prompt = self.cached = 0
        self.least = 0.0
        self._sent: dict[int, list[str]] = {}
        self._kinds: dict[tuple[str, str], str] = {}

    def answered(self, call: Call, answer: Completion) -> None:
        """One more answer."""
        if call.dialogue % EVERY:
            return
        model = call.asked.get("model", "")
        text, kind = rendered(call.request, model), (model, stage_of(call.step))
        sent = self._sent.setdefault(call.dialogue, [])
        known = max(common(text, other) for other in (*sent, self._kinds.get(kind, "")))
        self._kinds[kind] = text
        sent.append(text + answer.text)
        del sent[:-_KEPT]
        self.prompt += answer.prompt_tokens
        self.cached += min(answer.cached_tokens, answer.prompt_tokens)
        self.least += answer.prompt_tokens * (1 - known / max(len(text), 1))

    def closed(self, dialogue: int) -> None:
        """A dialogue is over."""
        self._sent.pop(dialogue, None)

    def sums(self) -> dict[str, float]:
        """The sums so far, by the names that the journal keeps them under; they begin anew."""
        found = {
            "sampled_prompt": float(self.prompt),
            "sampled_cached": float(self.cached),
            "sampled_least": self.least,
        }
        self.prompt = self.cached = 0
        self.least = 0.0
        return found


def rendered(request: Request, model: str) -> str:
    """A prompt as one text: two begin alike where a server's cache would say so."""
    if request.prompt:
        return f"{model}\x1d{request.prompt}"
    chat = "".join(f"\x1e{m.role}\x1f{m.content}" for m in request.messages)
    return f"{model}\x1d{chat}\x1eassistant\x1f"


def common(a: str, b: str) -> int:
    """The length of what two texts begin with alike."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
