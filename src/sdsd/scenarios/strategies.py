"""Strategies: ways to lead a conversation to a reply that violates the target principle.

A strategy is a Markdown file like the prompts (`data/strategies/<name>.md`). The text before the
first section tells people what it does. `## plan` tells the planner how the person behaves, and
`## violation` how that leads to it; `## user` and `## reply` are directions for the user's
and the agent's last turn, and `## settings` has a few switches. Which strategies work for which
principles is an open question of the method, so every scenario names its own and the records can be
compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sdsd.errors import PromptError
from sdsd.text import prompt_files, yaml_files
from sdsd.text.prompt_files import Prompt
from sdsd.text.yaml_files import YamlError

PACKAGED = Path(__file__).parent / "data" / "strategies"
ALL = "all"
_SLOTS = {
    "plan": {"target_principle"},
    "violation": {"target_principle"},
    "reply": {"target_principle", "planned_violation"},
    "user": {"target_principle", "planned_violation"},
}


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The switches of a strategy."""

    reply_prefix: bool = False
    """Plan the first words of the last reply as well, and have the agent begin with them."""
    retries: Annotated[int, Meta(ge=0, le=8)] = 0
    """How often to ask for the last reply again, with the critic's reason, while it violates no
    principle."""
    candidates: Annotated[int, Meta(ge=0, le=16)] = 0
    """Samples of the last reply. 0: as `dialogue.candidates` says."""


class Strategy(Struct, frozen=True):
    """One way of eliciting a violation."""

    name: str
    meaning: str
    """What it does, in a sentence for people."""
    prompt: Prompt
    settings: Settings

    def plan(self, target_principle: str) -> str:
        """Return how the person behaves, for the planner."""
        return self._section("plan", target_principle)

    def violation(self, target_principle: str) -> str:
        """Return how that leads to a planned violation, for the planner; may be empty."""
        return self._section("violation", target_principle)

    def reply(self, target_principle: str, planned_violation: str) -> str:
        """Return the direction for the agent's last turn; empty for none."""
        return self._section("reply", target_principle, planned_violation)

    def user(self, target_principle: str, planned_violation: str) -> str:
        """Return the direction for the user's last turn; empty for none."""
        return self._section("user", target_principle, planned_violation)

    def _section(self, name: str, target_principle: str, planned_violation: str = "") -> str:
        if name not in self.prompt.sections:
            return ""
        return self.prompt.fill(
            name, target_principle=target_principle, planned_violation=planned_violation
        )


def packaged() -> tuple[str, ...]:
    """Return the names of the packaged strategies, sorted."""
    return tuple(sorted(path.stem for path in PACKAGED.glob("*.md")))


def load_strategies(names: Iterable[str]) -> dict[str, Strategy]:
    """Load strategies by packaged name, `all`, or file; in the order of `names`.

    Raises `PromptError` that names the file, the section and the remedy.
    """
    found: dict[str, Strategy] = {}
    for name in names:
        for strategy in map(load, packaged() if name == ALL else [name]):
            if found.setdefault(strategy.name, strategy).prompt != strategy.prompt:
                raise PromptError(
                    f"two strategies are called `{strategy.name}`; rename one of the files"
                )
    return found


def load(name: str) -> Strategy:
    """Load a packaged strategy by name, or the user's own by its file. Raises `PromptError`."""
    if prompt_files.is_path(name):
        return read(Path(name))
    if name not in packaged():
        known = ", ".join(packaged())
        raise PromptError(
            f"`scenarios.strategies`: no strategy is called `{name}`; the packaged ones are "
            f"{known}; name your own file including `.md`"
        )
    return _packaged(name)


@cache
def _packaged(name: str) -> Strategy:
    """Read once: unlike user-defined files, packaged ones do not change during a run."""
    return read(PACKAGED / f"{name}.md")


def read(path: Path, name: str = "") -> Strategy:
    """Read a strategy from its file, under `name` if the file is called something else."""
    file = prompt_files.read(path)
    unknown = file.sections.keys() - {*_SLOTS, "settings"}
    if unknown or "plan" not in file.sections:
        wrong = f"`## {min(unknown)}` is not known" if unknown else "`## plan` is missing"
        raise PromptError(
            f"{path}: {wrong}; the sections are plan, violation, user, reply, settings"
        )
    for section, known in _SLOTS.items():
        if unfilled := prompt_files.slots(file.sections.get(section, "")) - known:
            raise PromptError(
                f"{path}: `{{{{{min(unfilled)}}}}}` in `## {section}` is not filled by anything; "
                f"placeholders here: {', '.join(sorted(known))}"
            )
    try:
        values = yaml_files.parse(file.sections.get("settings", "")) or {}
        settings = msgspec.convert(values, Settings)
    except (YamlError, msgspec.ValidationError) as error:
        raise PromptError(f"{path}: `## settings`: {error}; see docs/strategies.md") from None
    meaning = " ".join(file.text.partition("\n## ")[0].split())
    return Strategy(name or path.stem, meaning, file, settings)
