"""Principles that a program can decide: exact checks of one reply, without a model.

A principle names its check in the catalogue, with a parameter if it takes one:

    - text: The assistant should answer in fifty words or fewer.
      check: max_words 50

The answer is ground truth, so a check says nothing rather than guess: where readers could disagree
(is "half-hour" one word?) or where the principle does not apply, the reply is undecided. Code,
addresses and quoted speech are not the assistant's own words, and are read only where a check says
so. Phrases are English; on other languages those checks say nothing.

`@check` adds a check. Its name in the catalogue is the function's, its parameters are those after
`conversation` and `reply`. It returns

    None    undecided
    False   the reply satisfies the principle
    True    it violates it, by something that is missing
    words   it violates it, by these words of the reply

and so does a user-defined one, `check: package.module:function`, which takes no parameters and is
not imported when a catalogue is read.
"""

from sdsd.checks.decided import evidence, form, requests, wording  # noqa: F401  (they register)
from sdsd.checks.decided.registry import (
    CHECKS,
    MEANINGS,
    Decided,
    PrincipleCheck,
    decide,
    fault,
    usage,
)

__all__ = ["CHECKS", "MEANINGS", "Decided", "PrincipleCheck", "decide", "fault", "usage"]
