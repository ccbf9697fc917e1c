"""Assign dialogues to splits by group, so that nothing leaks from one split to another."""

from __future__ import annotations

from typing import Literal, get_args

from sdsd.config import SplitsConfig
from sdsd.hashing import hash64
from sdsd.types import Scenario

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def split(scenario: Scenario, config: SplitsConfig, seed: int) -> Split:
    """Return the split of a scenario's rows, the same in every view.

    It depends only on the run's seed and the scenario's group, so a growing run moves nothing, and
    changing the share of `validation` leaves `test` alone. Subareas are taken with their domains
    and domains with their fields, because names may repeat across them.
    """
    names = (scenario.field, scenario.domain, scenario.subarea)
    depth = ("field", "domain", "subarea").index(config.by) + 1
    position = hash64(seed, "split", *names[:depth]) / 2**64
    if position < config.test:
        return "test"
    if position < config.test + config.validation:
        return "validation"
    return "train"
