"""Which split a dialogue belongs to: by its group, so that nothing leaks from one to another."""

from __future__ import annotations

from sdsd.config import SplitsConfig
from sdsd.dataset.schema import Split
from sdsd.hashing import hash64
from sdsd.types import Scenario

_ALL = 2**64
"""`hash64` gives numbers below this."""


def split(scenario: Scenario, config: SplitsConfig, seed: int) -> Split:
    """The split of a scenario's rows, in every view.

    It depends on the run's seed and the scenario's group alone: a run that grows moves nothing,
    and while the share of `test` stays, whatever becomes of `validation`, so does what is in it.
    Subareas are taken with their domains, and domains with their fields, as names of the one may
    occur in several of the other.
    """
    names = (scenario.field, scenario.domain, scenario.subarea)
    depth = ("field", "domain", "subarea").index(config.by) + 1
    place = hash64(seed, "split", *names[:depth]) / _ALL
    if place < config.test:
        return "test"
    if place < config.test + config.validation:
        return "validation"
    return "train"
