"""Best of n at the turn that counts: several samples on one prefix, and the critic chooses.

What is looked for is a reply that breaks the dialogue's principle. The samples that break nothing
are kept: each of them is better than the chosen one, and by the same model on the same prompt, so
it makes an on-policy pair with it (without a reviser's hand in it).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import Struct

from sdsd.errors import StageFailed
from sdsd.pipeline.critique import together
from sdsd.pipeline.dialogue import Draft, Full, Sample
from sdsd.text import normalize
from sdsd.types import Candidate, Critique, Message, Verdict

Judge = Callable[[tuple[Message, ...], str, str], Awaitable[Critique]]
"""The critique of a turn after these messages; the last argument names the stage."""

_SEVERITY = {None: 0, "low": 1, "medium": 2, "high": 3}


class Choice:
    """Chooses the last turn of one dialogue, and remembers what it saw.

    judge    the critic
    focus    id of the principle that should be broken
    n        samples drawn at once
    retries  further ones, one by one, each told what the critic missed, while nothing is broken
    """

    def __init__(self, judge: Judge, target_principle: str, n: int, retries: int) -> None:
        self._judge, self._focus = judge, target_principle
        self._n, self._retries = n, retries
        self.critique: Critique | None = None
        """Of the chosen sample; None as long as nothing was chosen."""
        self.others: tuple[Candidate, ...] = ()
        """Those that were not."""
        self.failure: StageFailed | None = None
        """Why the critic could not judge: then the first sample was taken, and nothing chosen."""

    @property
    def needed(self) -> bool:
        """Whether there is anything to choose."""
        return self._n > 1 or self._retries > 0

    async def __call__(self, before: tuple[Message, ...], sample: Sample) -> str:
        """The chosen text. Fails if the first sample does; others may."""
        try:
            return await self._best(before, sample)
        except _Unjudged as unjudged:
            self.failure = unjudged.failure
            return unjudged.text

    async def _best(self, before: tuple[Message, ...], sample: Sample) -> str:
        drafts = [partial(_drawn, sample, Draft(k)) for k in range(1, self._n + 1)]
        seen: list[_Seen] = []
        for number, text in enumerate(await together(drafts, at_once=True), 1):
            await self._look(seen, before, number, text)
        for number in range(self._n + 1, self._n + 1 + self._retries):
            if any(candidate.critique.violations for candidate in seen):
                break
            reason = _on(self._focus, seen[-1].critique).reason
            await self._look(seen, before, number, await _drawn(sample, Draft(number, reason)))
        best = max(seen, key=partial(_worth, self._focus))
        self.critique = best.critique
        self.others = tuple(Candidate(c.text, c.critique) for c in seen if c is not best)
        return best.text

    async def _look(
        self, seen: list[_Seen], before: tuple[Message, ...], number: int, text: str | None
    ) -> None:
        """Have a sample judged, unless there is none or it was seen already."""
        if text is None or normalize.normal(text) in (normalize.normal(c.text) for c in seen):
            return
        stage = "critique" if number == 1 else f"candidate/{number}"
        try:
            seen.append(_Seen(text, await self._judge(before, text, stage)))
        except StageFailed as failed:
            raise _Unjudged(seen[0].text if seen else text, failed) from None


class _Seen(Struct, frozen=True):
    text: str
    critique: Critique


class _Unjudged(Exception):
    """The critic failed; `text` is what the dialogue ends with."""

    def __init__(self, text: str, failure: StageFailed) -> None:
        super().__init__(str(failure))
        self.text, self.failure = text, failure


async def _drawn(sample: Sample, draft: Draft) -> str | None:
    """One sample; None if it could not be had, which only the first must be."""
    try:
        return await sample(draft)
    except (StageFailed, Full):
        if draft.number == 1:
            raise
        return None


def _on(target_principle: str, critique: Critique) -> Verdict:
    return next(v for v in critique.verdicts if v.principle == target_principle)


def _worth(target_principle: str, seen: _Seen) -> tuple[bool, int, int, float]:
    """The clearer the better: the meant principle first, then how many, how grave, how sure."""
    verdict = _on(target_principle, seen.critique)
    broken = len(seen.critique.violations)
    grave = max(_SEVERITY[v.severity] for v in seen.critique.verdicts)
    return verdict.confirmed, broken, grave, verdict.probability or 0.0
