"""Best of n at the last reply: draw several samples on one prefix and let the critics choose.

The aim is a reply that violates the target principle. Samples that violate nothing are kept: each
is better than the chosen one and comes from the same model on the same prompt, so it makes an
on-policy pair with it, and no reviser is involved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import Struct

from sdsd.errors import StageFailed
from sdsd.pipeline.dialogue import ContextFull, Sample
from sdsd.pipeline.retry import gather
from sdsd.text import normalize
from sdsd.types import Candidate, Critique, Verdict

_SEVERITY = {None: 0, "low": 1, "medium": 2, "high": 3}


class Chosen(Struct, frozen=True):
    """The sample that ends the dialogue."""

    text: str
    critique: Critique | None = None
    """None if nothing had to be judged: there was one sample only, or the critic failed."""
    others: tuple[Candidate, ...] = ()
    """The other samples, in the order drawn."""
    failure: StageFailed | None = None
    """Why the critic could not judge; the first sample was taken then."""


async def best_of_n(
    draw: Callable[[Sample], Awaitable[str]],
    judge: Callable[[str, str], Awaitable[Critique]],
    target: str,
    n: int,
    retries: int,
) -> Chosen:
    """Return the sample that violates the principle `target` most clearly.

    draw     draws one sample
    judge    judges a text; the second argument is the stage that its steps are named after
    n        samples drawn concurrently
    retries  further samples, one at a time, each told why the critic found no violation in the one
             before; drawn only while nothing is violated

    A sample that fails is left out, but for the first: its `StageFailed` or `ContextFull` is
    raised. Equal samples are judged once.
    """
    if n == 1 and retries == 0:
        return Chosen(await draw(Sample()))
    drawn = [partial(_draw, draw, Sample(k)) for k in range(1, n + 1)]
    texts = await gather(drawn, concurrently=True)
    judged: list[Candidate] = []
    try:
        for number, text in enumerate(texts, 1):
            await _judge(judged, judge, number, text)
        for number in range(n + 1, n + 1 + retries):
            if any(candidate.critique.violations for candidate in judged):
                break
            reason = _verdict(judged[-1].critique, target).reason
            text = await _draw(draw, Sample(number, reason))
            await _judge(judged, judge, number, text)
    except StageFailed as failed:  # by the critic: samples that fail are left out
        assert texts[0] is not None
        return Chosen(judged[0].text if judged else texts[0], failure=failed)
    best = max(judged, key=partial(_clarity, target))
    return Chosen(best.text, best.critique, tuple(c for c in judged if c is not best))


async def _draw(draw: Callable[[Sample], Awaitable[str]], sample: Sample) -> str | None:
    """Draw a sample; None if that fails, unless it is the first one."""
    try:
        return await draw(sample)
    except (StageFailed, ContextFull):
        if sample.number == 1:
            raise
        return None


async def _judge(
    judged: list[Candidate],
    judge: Callable[[str, str], Awaitable[Critique]],
    number: int,
    text: str | None,
) -> None:
    """Add a sample with its critique to `judged`, unless its text is there already."""
    if text is None or normalize.normal(text) in (normalize.normal(c.text) for c in judged):
        return
    stage = "critique" if number == 1 else f"candidate/{number}"
    judged.append(Candidate(text, await judge(text, stage)))


def _verdict(critique: Critique, principle: str) -> Verdict:
    return next(v for v in critique.verdicts if v.principle == principle)


def _clarity(target: str, candidate: Candidate) -> tuple[bool, int, int, float]:
    """Order by: target violated, number of violations, severity, probability."""
    critique = candidate.critique
    verdict = _verdict(critique, target)
    severity = max(_SEVERITY[v.severity] for v in critique.verdicts)
    return verdict.confirmed, len(critique.violations), severity, verdict.probability or 0.0
