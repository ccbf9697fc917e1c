"""Combine the verdicts of several critics on one principle."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from sdsd.config import Vote
from sdsd.types import Verdict


def combine(votes: Sequence[Verdict], weights: Sequence[float], rule: Vote) -> Verdict:
    """Return the joint verdict.

    Only a claim whose quotation occurs in the reply is a vote for a violation. If the rule passes
    only with claims that lack it, the joint verdict is an ungrounded claim, as a single critic's
    would be. Reason, quotation and severity are those of the critic with the most weight who agrees
    with the joint verdict (the first of several); the probability is the weighted mean of those
    known.
    """
    if passes(rule, [v.confirmed for v in votes], weights):
        agrees = [v.confirmed for v in votes]
    elif passes(rule, [v.violated for v in votes], weights):
        agrees = [v.violated and not v.grounded for v in votes]
    else:
        agrees = [not v.violated for v in votes]
    agreeing = [(v, w) for v, w, yes in zip(votes, weights, agrees, strict=True) if yes]
    speaker = max(agreeing, key=lambda pair: pair[1])[0]
    known = [
        (v.probability, w) for v, w in zip(votes, weights, strict=True) if v.probability is not None
    ]
    mean = sum(p * w for p, w in known) / sum(w for _, w in known) if known else None
    return replace(speaker, probability=mean, critic="")


def passes(rule: Vote, ayes: Sequence[bool], weights: Sequence[float]) -> bool:
    """Whether the votes in favour suffice under `rule`."""
    if rule == "any":
        return any(ayes)
    if rule == "all":
        return all(ayes)
    if rule == "majority":
        return 2 * sum(ayes) > len(ayes)
    weight = sum(w for w, aye in zip(weights, ayes, strict=True) if aye)
    return 2 * weight > sum(weights)
