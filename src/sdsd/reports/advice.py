"""Say why a run has no pairs, what would help, and the command for it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from sdsd.pipeline.calibration import can_verify
from sdsd.types import Calibration


class Advice(Struct, frozen=True):
    """One reason, and what to do about it."""

    reason: str
    remedy: str
    options: str = ""
    """Options of `sdsd run` that apply the remedy; empty if there are none."""


_BY_RULE = {
    "no_violation": (
        "in {n} of {of} dialogues nothing was violated: the critic found the last reply clean",
        "draw more samples of the last reply, try other strategies, or use another model as agent",
        "--set dialogue.siblings=6 --set 'scenarios.strategies=[all]'",
    ),
    "undecided": (
        "in {n} of {of} dialogues the critic could not decide at the wanted precision",
        "name a stronger critic, or accept a lower precision",
        "--set critique.precision=0.8",
    ),
    "unsupported_violation": (
        "in {n} of {of} dialogues the critic claimed a violation but could not quote it",
        "name a stronger critic (`roles.critic`), or one that measures the likelihood contrast",
        "--set critique.method=contrast",
    ),
    "no_satisfying_reply": (
        "in {n} of {of} dialogues a reply violated the principle, but none was found to satisfy it",
        "draw more samples of it, or have the violation revised",
        "--set dialogue.siblings=6 --set 'pairs=[contrast,revision]'",
    ),
    "not_repaired": (
        "in {n} of {of} dialogues the violation was confirmed, but no revision passed the recheck",
        "name a stronger reviser (`roles.reviser`), or make pairs without revision",
        "--set 'pairs=[contrast]'",
    ),
    "not_revised": (
        "in {n} of {of} dialogues the violation was confirmed, but nothing may be revised",
        "allow revisions, or make pairs without them",
        "--set revise.rounds=2",
    ),
    "failed": (
        "{n} of {of} dialogues could not be completed",
        "read why: `sdsd show RUN INDEX` has the step, the cause and the raw reply",
        "",
    ),
}
_MOST = 2


def advice(
    outcomes: Mapping[str, int], verified: int, calibrations: Mapping[str, Calibration] = {}
) -> tuple[Advice, ...]:
    """Return the main reasons why a run has no verified pairs; none if it has some, or no dialogue.

    outcomes      dialogues by `accepted`, `filtered/<rule>` or `failed`, as `RunStatus` has them
    calibrations  by critic, from the run's manifest
    """
    of = sum(outcomes.values())
    if verified or not of:
        return ()
    able = can_verify(calibrations)
    found = [] if able else [_unable(calibrations)]
    counted = {name.removeprefix("filtered/"): n for name, n in outcomes.items()}
    for rule, n in sorted(counted.items(), key=lambda item: -item[1]):
        if rule in _BY_RULE and (able or rule != "undecided"):  # else said already
            reason, remedy, options = _BY_RULE[rule]
            found.append(Advice(reason.format(n=n, of=of), remedy, options))
    return tuple(found[:_MOST])


def _unable(calibrations: Mapping[str, Calibration]) -> Advice:
    who = "every critic" if len(calibrations) > 1 else "the critic"
    if any(c.trusted for c in calibrations.values()):
        return Advice(
            f"by its exam {who} cannot reach the wanted precision, so nothing but what a program "
            "decides can be verified; unverified pairs have their probability as a column",
            "name a stronger critic (`roles.critic`), or accept a lower precision",
            "--set critique.precision=0.7",
        )
    return Advice(
        f"{who} did no better than chance in its exam, so nothing can be verified",
        "name a stronger critic (`roles.critic`); `sdsd exam` shows how far one can be trusted",
    )
