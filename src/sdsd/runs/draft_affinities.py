"""`sdsd catalogue affinities`: let a model draft what goes with what, as a file to edit.

It rates for each principle the fields, the goals (by kind, where there are several) and the
strategies: three short lists, which a small model can do as well. Answers go through the same
journal as a run's, so stopping and starting again loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from msgspec import Struct

from sdsd.config import TOP_P, Config
from sdsd.errors import CatalogueError, SdsdError, StageFailed, Stopped, Unparseable
from sdsd.files import write_atomic
from sdsd.models.base import Model
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.runs.drafting import asking, journaled
from sdsd.runs.events import Noted, OnEvent
from sdsd.runs.session import Needs
from sdsd.scenarios import strategies
from sdsd.scenarios.affinities import Axis
from sdsd.scenarios.catalogue import Catalogue
from sdsd.text.parsing import readable
from sdsd.types import AskFn, Completion, Message, Principle, Request

Levels = dict[int, list[str]]
"""By affinity, the names that have it; those that are not listed are neutral."""
Judged = dict[Axis, Levels]
_CALLED: dict[Axis, str] = {
    "fields": "subjects",
    "goals": "goals of the conversation",
    "strategies": "ways in which the conversation leads there",
}
_RATING = re.compile(r"(?<![\w./])(?<!out of )[0-3](?![\w.]*\w)")
_TOKENS_PER_NAME = 16
_GOAL_CHARS = 160
_HEAD = """\
# What goes with what, drafted by {model}. Edit it: 3, the principle comes up there by itself;
# 2, it fits well; 0, it is absurd; whatever is not listed has 1.
"""


class Drafted(Struct, frozen=True):
    """Numbers of principles."""

    principles: int
    judged: int
    """Those about which the model said something."""


Offered = dict[Axis, dict[str, str]]
"""What the model rates: names by axis, each with what it means, or with nothing."""


def offered_of(loaded: Catalogue) -> Offered:
    """Return what goes with a catalogue's principles, or does not."""
    kinds: dict[str, list[str]] = {}
    for goal in loaded.goals:
        kinds.setdefault(goal.kind, []).append(goal.text[:_GOAL_CHARS])
    goals = {kind: f"for example: {texts[0]}" for kind, texts in kinds.items()}
    if len(kinds) == 1:
        goals = {goal.id: goal.text[:_GOAL_CHARS] for goal in loaded.goals}
    ways = strategies.load_strategies([strategies.ALL])
    return {
        "fields": dict.fromkeys(loaded.fields, ""),
        "goals": goals,
        "strategies": {name: way.meaning for name, way in ways.items()},
    }


def draft(
    out: Path,
    loaded: Catalogue,
    config: Config,
    *,
    on_event: OnEvent = lambda event: None,
    models: Mapping[str, Model] | None = None,
) -> Drafted:
    """Write the affinities of a catalogue, as a model judges them, to the new file `out`.

    Raises `CatalogueError` if the file is there already, and `Stopped` if the user stops it before
    the end; then the file is not written, and the next call continues.
    """
    if out.exists():
        raise CatalogueError(f"{out}: is there already; name another file, or remove it")
    folder = out.with_name(f".{out.stem}")
    found = journaled(folder, config, on_event, models, partial(_judge_all, loaded))
    if not any(found.values()):
        raise SdsdError("the model's replies have no usable line; try a larger model")
    _write(out, found, config.model_for("planner").model)
    return Drafted(len(loaded.principles), sum(map(bool, found.values())))


async def _judge_all(loaded: Catalogue, needs: Needs) -> dict[str, Judged]:
    """Return by principle what the model says; nothing for those it says nothing usable about."""
    config, offered, total = needs.config, offered_of(loaded), len(loaded.principles)
    found: dict[str, Judged] = {}
    async with asking(needs) as ask_of:
        for number, principle in enumerate(loaded.principles):
            ask = ask_of(f"affinities/{principle.id}", number)
            try:
                found[principle.id] = await judge(principle, offered, ask, config)
            except Stopped:
                raise Stopped(
                    f"stopped after {number} of {total} principles; the same command continues",
                    needs.stop.reason,
                ) from None
            said = "" if found[principle.id] else ": nothing usable, so it stays neutral"
            needs.on_event(Noted(f"[{number + 1}/{total}] {principle.id}{said}"))
    return found


async def judge(principle: Principle, offered: Offered, ask: AskFn, config: Config) -> Judged:
    """Return what a model says goes with a principle; empty if no reply can be parsed."""
    found = {
        axis: await _rate(axis, principle, names, ask, config) for axis, names in offered.items()
    }
    return {axis: levels for axis, levels in found.items() if levels}


async def _rate(
    axis: Axis, principle: Principle, names: Mapping[str, str], ask: AskFn, config: Config
) -> Levels:
    prompt = load_prompt("affinities")
    asked = prompt.fill(
        "user",
        principle=principle.text,
        what=_CALLED[axis],
        names="\n".join(f"- {k}: {said}" if said else f"- {k}" for k, said in names.items()),
        count=str(len(names)),
        example=next(iter(names)),
    )
    request = Request(
        role="planner",
        messages=(Message("system", prompt.fill("system")), Message("user", asked)),
        max_tokens=_TOKENS_PER_NAME * (len(names) + 4),
        temperature=config.plan.temperature,
        top_p=TOP_P,
        purpose="catalogue",
    )

    def read(completion: Completion, least: int = (len(names) + 1) // 2) -> Levels:
        found = ratings(completion.text, names)
        if len(found) < least:
            raise Unparseable(f"rates {len(found)} of {len(names)}")
        return {k: of for k in (3, 2, 0) if (of := [n for n in names if found.get(n) == k])}

    def read_any(completion: Completion) -> Levels:
        return read(completion, 1)

    try:
        return await ask_until_parsed(ask, axis, request, read, config.attempts, read_any)
    except StageFailed:
        return {}


def ratings(text: str, names: Iterable[str]) -> dict[str, int]:
    """Return the last number from 0 to 3 on each line that begins with a name.

    Lines may be separated by semicolons, numbered and decorated. A name keeps its first rating.
    """
    longest_first = sorted(names, key=len, reverse=True)
    found: dict[str, int] = {}
    for line in re.split(r"[\n;]", readable(text)):
        bare = re.sub(r"^[\s>*_#`\"'-]*(?:\d+[.)])?[\s*_`\"'-]*", "", line).casefold()
        name = next((n for n in longest_first if _begins(bare, n.casefold())), None)
        numbers = _RATING.findall(bare[len(name) :]) if name is not None else ()
        if name is not None and numbers:
            found.setdefault(name, int(numbers[-1]))
    return found


def _begins(line: str, name: str) -> bool:
    return line.startswith(name) and not line[len(name) : len(name) + 1].isalnum()


def _write(out: Path, found: Mapping[str, Judged], model: str) -> None:
    """Write an entry for each principle that something was said about."""
    import yaml

    entries = [{"principles": [principle], **said} for principle, said in found.items() if said]
    tree = {"affinities": entries}
    text = yaml.safe_dump(
        tree, sort_keys=False, allow_unicode=True, width=98, default_flow_style=None
    )
    try:
        write_atomic(out, (_HEAD.format(model=model) + text).encode())
    except OSError as error:
        raise SdsdError(f"{out}: cannot be written: {error}") from None
