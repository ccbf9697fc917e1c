"""From what several critics say to one verdict."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from sdsd.config import Vote
from sdsd.types import Verdict


def combine(votes: Sequence[Verdict], weights: Sequence[float], rule: Vote) -> Verdict:
    """The joint verdict on one principle.

    Only a claim whose quotation is there is a vote for a violation. If the rule would be met with
    those whose quotation is not, the joint verdict is a claim without evidence, as a single
    critic's would be. Reason, quotation and severity are those of the weightiest critic (the first
    of them) who says what all together say; the probability is the weighted mean of those known.
    """
    if met(rule, [v.confirmed for v in votes], weights):
        pick = [v.confirmed for v in votes]
    elif met(rule, [v.violated for v in votes], weights):
        pick = [v.violated and not v.grounded for v in votes]
    else:
        pick = [not v.violated for v in votes]
    agreeing = [(v, w) for v, w, chosen in zip(votes, weights, pick, strict=True) if chosen]
    spokesman = max(agreeing, key=lambda pair: pair[1])[0]
    told = [(v.probability, w) for v, w in zip(votes, weights, strict=True)]
    known = [(p, w) for p, w in told if p is not None]
    mean = sum(p * w for p, w in known) / sum(w for _, w in known) if known else None
    return replace(spokesman, probability=mean, critic="")


def met(rule: Vote, ayes: Sequence[bool], weights: Sequence[float]) -> bool:
    """Whether so many are enough."""
    if rule == "any":
        return any(ayes)
    if rule == "all":
        return all(ayes)
    if rule == "majority":
        return 2 * sum(ayes) > len(ayes)
    weight = sum(w for w, aye in zip(weights, ayes, strict=True) if aye)
    return 2 * weight > sum(weights)
