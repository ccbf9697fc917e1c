"""The checks by name, and from a principle's `check` to what it decides."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any, TypeVar

from msgspec import Struct

from sdsd import plugins
from sdsd.errors import PluginError
from sdsd.types import Message

Conversation = Sequence[Message]
"""All turns before the reply; the last is the user's."""
Answer = bool | str | None
PrincipleCheck = Callable[[Conversation, str], Answer]
"""A check with its parameters, or a user-defined one."""

CHECKS: dict[str, Callable[..., Answer]] = {}
"""Every packaged check by name."""
MEANINGS: dict[str, str] = {}
"""What a reply does that satisfies it: "ends without a question"."""

_F = TypeVar("_F", bound=Callable[..., Answer])


class Decided(Struct, frozen=True):
    """What a check has decided about a reply."""

    violated: bool
    quote: str = ""
    """Words of the reply that show the violation; empty if there are none to show, because
    something is missing or there is too much of everything."""


def check(meaning: str) -> Callable[[_F], _F]:
    """Register a check. `meaning` completes "A reply satisfies it if it ..."."""

    def register(function: _F) -> _F:
        CHECKS[function.__name__], MEANINGS[function.__name__] = function, meaning
        return function

    return register


def decide(principle_check: str, conversation: Conversation, reply: str) -> Decided | None:
    """Return whether a reply violates the principle that has this `check`; None if undecided.

    Raises `ValueError` for a check with a `fault`, and `PluginError` if a user-defined one cannot
    be imported, fails, or returns something else than an `Answer`.
    """
    answer = _bound(principle_check)(conversation, reply)
    if answer is None:
        return None
    return Decided(bool(answer), answer if isinstance(answer, str) else "")


def fault(principle_check: str) -> tuple[str, str] | None:
    """Return what is wrong with the `check` of a principle, and what to do; None if nothing.

    Imports nothing: whether a user-defined check exists is seen when it is used.
    """
    name, *words = principle_check.split() or [""]
    if plugins.is_spec(name):
        return ("a user-defined check takes no parameters", f"write `{name}`") if words else None
    if name not in CHECKS:
        close = get_close_matches(name, CHECKS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = f"the checks are {', '.join(CHECKS)}, or your own as `package.module:function`"
        return f"the check {name[:60]!r} is unknown", hint + known
    wanted = _parameters(name)
    if _takes_words(wanted):
        sound = bool(words)
    else:
        sound = len(words) == len(wanted) and all(map(_COUNT.fullmatch, words))
    return None if sound else (f"the check {name!r} has wrong parameters", f"write `{usage(name)}`")


def usage(name: str) -> str:
    """Return how a packaged check is written in a catalogue, e.g. `max_words N`."""
    wanted = _parameters(name)
    return " ".join([name, *(["WORD ..."] if _takes_words(wanted) else ["N"] * len(wanted))])


_COUNT = re.compile(r"[1-9][0-9]{0,5}")


def _parameters(name: str) -> list[inspect.Parameter]:
    """Return the parameters after the conversation and the reply."""
    return list(inspect.signature(CHECKS[name]).parameters.values())[2:]


def _takes_words(wanted: Sequence[inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in wanted)


@lru_cache(maxsize=256)
def _bound(principle_check: str) -> PrincipleCheck:
    if wrong := fault(principle_check):
        raise ValueError("; ".join(wrong))
    name, *words = principle_check.split()
    if plugins.is_spec(name):
        return partial(_user_defined, plugins.function(name, "checks"), name)
    given: Sequence[Any] = words if _takes_words(_parameters(name)) else [int(w) for w in words]
    function = CHECKS[name]
    return lambda conversation, reply: function(conversation, reply, *given)


def _user_defined(
    function: PrincipleCheck, name: str, conversation: Conversation, reply: str
) -> Answer:
    with plugins.blamed(f"check `{name}`", "this reply"):
        answer = function(conversation, reply)
    words_of_reply = isinstance(answer, str) and answer and answer in reply
    if words_of_reply or answer is None or isinstance(answer, bool):
        return answer
    raise PluginError(
        f"check `{name}` returned {answer!r:.80}; return True or words of the reply for a "
        "violation, False for none, and None if it cannot be decided"
    )
