"""`sdsd catalogue affinities`: let a model draft what goes with what, as a file to edit.

It is asked once for each principle: for the fields, goals (by kind, where there are several) and
strategies that suit it. Answers go through the same journal as a run's, so stopping and starting
again loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path

from msgspec import Struct

from sdsd.config import TOP_P, Config
from sdsd.errors import CatalogueError, SdsdError, StageFailed, Stopped, Unparseable
from sdsd.files import write_atomic
from sdsd.models.base import Model
from sdsd.models.fleet import fetch
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.runs.ask import Ask
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Fetching, Noted, OnEvent
from sdsd.runs.journal import Journal
from sdsd.runs.session import Needs, Stop, in_loop, interruptible, open_session
from sdsd.scenarios import strategies
from sdsd.scenarios.affinities import Axis
from sdsd.scenarios.catalogue import Catalogue
from sdsd.text.parsing import readable
from sdsd.types import AskFn, Completion, Message, Principle, Request

Levels = dict[Axis, dict[int, list[str]]]
"""By axis and affinity, the names that have it."""
_AXES: tuple[Axis, ...] = ("fields", "goals", "strategies")
_OF_LABEL: dict[str, Axis] = {"F": "fields", "G": "goals", "W": "strategies", "S": "strategies"}
_LABEL = re.compile(
    r"^[ \t>*_#\d.)-]*(FIELDS?|GOALS?|WAYS?|STRATEGY|STRATEGIES)[ \t*_(]*([0-3])\b",
    re.IGNORECASE | re.MULTILINE,
)
_MAX_TOKENS = 480
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


class Offered(Struct, frozen=True):
    """What the model chooses among: names by axis, each with what it means."""

    fields: dict[str, str]
    goals: dict[str, str]
    strategies: dict[str, str]

    @classmethod
    def of(cls, loaded: Catalogue) -> Offered:
        kinds: dict[str, list[str]] = {}
        for goal in loaded.goals:
            kinds.setdefault(goal.kind, []).append(goal.text)
        goals = {kind: f"for example: {texts[0][:_GOAL_CHARS]}" for kind, texts in kinds.items()}
        if len(kinds) == 1:
            goals = {goal.id: goal.text[:_GOAL_CHARS] for goal in loaded.goals}
        ways = {name: s.meaning for name, s in strategies.load_strategies([strategies.ALL]).items()}
        return cls(dict.fromkeys(loaded.fields, ""), goals, ways)


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
    rundir = RunDir(out.with_name(f".{out.stem}"))
    with rundir.lock(), Journal(rundir.journal) as journal:
        files = fetch(config, lambda *now: on_event(Fetching(*now))) if models is None else {}
        needs = Needs(config, journal, rundir.models, on_event, Stop(), files, models)
        found = in_loop(_judge_all(loaded, needs))
    if not any(found.values()):
        raise SdsdError("the model's replies have no usable line; try a larger model")
    _write(out, found, config.model_for("planner").model)
    return Drafted(len(loaded.principles), sum(bool(levels) for levels in found.values()))


async def _judge_all(loaded: Catalogue, needs: Needs) -> dict[str, Levels]:
    """Return by principle what the model says; nothing for those it says nothing usable about."""
    config, offered, total = needs.config, Offered.of(loaded), len(loaded.principles)
    found: dict[str, Levels] = {}
    with interruptible(needs.stop, needs.on_event):
        async with open_session(needs) as session:
            for number, principle in enumerate(loaded.principles):
                key = f"affinities/{principle.id}"
                recorded = needs.journal.load(key)
                ask = Ask(key, config.seed, recorded, session.send, session.names, number)
                try:
                    found[principle.id] = await judge(principle, offered, ask, config)
                except Stopped:
                    raise Stopped(
                        f"stopped after {number} of {total} principles; the same command continues"
                    ) from None
                said = "" if found[principle.id] else ": nothing usable, so it stays neutral"
                needs.on_event(Noted(f"[{number + 1}/{total}] {principle.id}{said}"))
    return found


async def judge(principle: Principle, offered: Offered, ask: AskFn, config: Config) -> Levels:
    """Return what a model says goes with a principle; empty if no reply can be parsed."""
    prompt = load_prompt("affinities")
    request = Request(
        role="planner",
        messages=(
            Message("system", prompt.fill("system")),
            Message(
                "user",
                prompt.fill(
                    "user",
                    principle=principle.text,
                    fields="; ".join(offered.fields),
                    goals=_lines(offered.goals),
                    strategies=_lines(offered.strategies),
                ),
            ),
        ),
        max_tokens=_MAX_TOKENS,
        temperature=config.plan.temperature,
        top_p=TOP_P,
        purpose="catalogue",
    )

    def read(completion: Completion) -> Levels:
        return levels(completion.text, offered)

    try:
        return await ask_until_parsed(ask, "affinities", request, read, config.attempts)
    except StageFailed:
        return {}


def levels(text: str, offered: Offered) -> Levels:
    """Parse lines such as `FIELDS 3: music; history`: every known name up to the next label counts.

    A name keeps the first affinity that it is given. Raises `Unparseable` if no line has a name.
    """
    text = readable(text)
    labels = list(_LABEL.finditer(text))
    found: Levels = {}
    for label, following in zip_longest(labels, labels[1:]):
        axis = _OF_LABEL[label[1][0].upper()]
        by_level = found.setdefault(axis, {})
        there = {name for names in by_level.values() for name in names}
        body = text[label.end() : following.start() if following else None]
        named = _named(body, getattr(offered, axis))
        by_level.setdefault(int(label[2]), []).extend(n for n in named if n not in there)
    found = {axis: {k: v for k, v in found[axis].items() if v} for axis in _AXES if axis in found}
    if not any(found.values()):
        raise Unparseable("no line such as `FIELDS 3: ...` with a name of the lists")
    return {axis: by_level for axis, by_level in found.items() if by_level}


def _named(text: str, names: Iterable[str]) -> list[str]:
    """Return the names that occur in a text, in the order of `names`; the longer of two that
    overlap."""
    found = set()
    for name in sorted(names, key=len, reverse=True):
        text, count = re.subn(rf"(?<!\w){re.escape(name)}(?!\w)", "\n", text, flags=re.IGNORECASE)
        if count:
            found.add(name)
    return [name for name in names if name in found]


def _lines(names: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {meaning}" for name, meaning in names.items())


def _write(out: Path, found: Mapping[str, Levels], model: str) -> None:
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
