"""A model whose skill as a judge is chosen: it knows the packaged exam's labels to a degree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from sdsd.hashing import hash64
from sdsd.models.base import Capabilities
from sdsd.models.scripted import CHATML
from sdsd.scenarios import exam_items
from sdsd.scenarios.exam_items import Item
from sdsd.types import Answer, Completion, Refusal, Request

ABLE = Capabilities(
    completions=True, template=CHATML, logprobs=True, scoring="prompt_logprobs", noise=0.25
)


packaged = cache(exam_items.load)


class Examinee:
    """Answers verdicts, comparisons and scores; `skill` is how far labels are apart, in nats."""

    name = "examinee"

    def __init__(
        self,
        skill: float = 3.0,
        capabilities: Capabilities = ABLE,
        items: Sequence[Item] | None = None,
    ) -> None:
        self.capabilities = capabilities
        self.skill = skill
        self.asked: list[Request] = []
        self.refuses = ""
        """Requests with this text in them get no answer."""
        pairs = [item.pair for item in (packaged() if items is None else items)]
        self._violating = [pair.violates for pair in pairs]
        self._satisfying = [pair.satisfies for pair in pairs]

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        self.asked.append(request)
        last = request.messages[-1].content
        if self.refuses and self.refuses in last + request.given:
            return Refusal("HTTP 400", "no")
        if request.given:
            breaks = request.messages[0].content.count("always breaks")
            logprob = -50.0 + (self.evidence(request.given) if breaks else 0.0)
            return self._said("", logprob=logprob)
        if "REPLY B" in last:
            return self._compared(last)
        reply = last.partition("REPLY UNDER REVIEW\n\n")[2].partition("\n\nPRINCIPLE")[0]
        p = 1 / (1 + math.exp(-self.evidence(reply)))
        yes = p > 0.5
        text = (
            f"REASON: So it is.\nQUOTE: {reply if yes else 'none'}\n"
            f"VIOLATED: {'yes' if yes else 'no'}\nSEVERITY: {'low' if yes else 'none'}"
        )
        return self._said(text, probs={"yes": p, "no": 1 - p})

    def _compared(self, asked: str) -> Completion:
        first, second = asked.partition("REPLY B\n\n")[::2]
        replies = (
            first.rpartition("REPLY A\n\n")[2].strip(),
            second.partition("\n\nPRINCIPLE")[0].strip(),
        )
        a, b = (self.evidence(reply) for reply in replies)
        p = 1 / (1 + math.exp(a - b))
        return self._said("B" if p > 0.5 else "A", probs={"a": 1 - p, "b": p})

    def evidence(self, reply: str) -> float:
        """Return the evidence that it has for a violation in a reply."""
        luck = sum(hash64(reply, k) / 2**64 - 0.5 for k in range(12))  # nearly normal
        known = (reply in self._violating) - (reply in self._satisfying)
        return 2 * luck + self.skill * known / 2

    def _said(
        self, text: str, probs: dict[str, float] | None = None, logprob: float | None = None
    ) -> Completion:
        return Completion(
            text,
            model=self.name,
            prompt_tokens=100,
            completion_tokens=4,
            seconds=0.5,
            choice_probs=probs or {},
            logprob=logprob,
        )
