"""The work that every program gets: plan, eight turns, critique, and a revision where one is due.

Standard library only, because each program has its own environment. The texts are those of the
project's prompt files, assembled as the `roleplay` protocol does: two views of one conversation,
with the roles swapped in the user's. All programs that follow `STAGES` send byte-identical
requests.

A dialogue is one `Row`, a plain JSON value, so that programs with tables can carry it:

    for stage in STAGES:
        if due(stage, row):
            row = put(stage, row, answer_of_the_model(messages(stage, row)))
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

Messages = list[dict[str, str]]
Row = dict[str, Any]
"""The scenario (`index`, `about`), and what has been made so far: `plan`, `said` (turns in order),
`verdict`, `revision`."""

MODEL = "sim"
EXCHANGES = 4
PLAN_TOKENS = 400
"""More than a plan has: a plan cut short has fewer steps and makes a shorter dialogue in sdsd."""

_ROOT = Path(__file__).resolve().parents[2] / "src" / "sdsd"
_SECTION = re.compile(r"^## +(\w+) *$", re.MULTILINE)
_SLOT = re.compile(r"\{\{ *(\w+) *\}\}")
_PRINCIPLE = re.compile(r"^  text: (.+(?:\n    .+)*)$", re.MULTILINE)
_SUBAREA = re.compile(r"^ +(- name:|-) (.+)$", re.MULTILINE)


class Stage(NamedTuple):
    """One step of every dialogue."""

    name: str
    kind: str
    """`plan`, `user`, `agent`, `critique` or `revision`."""
    exchange: int
    """Counted from 1; 0 outside the conversation."""
    max_tokens: int
    temperature: float


class Scenario(NamedTuple):
    """What one dialogue is about."""

    domain: str
    subarea: str
    goal: str
    principle: str


class Plan(NamedTuple):
    """The planner's reply, parsed."""

    person: str
    steps: list[str]
    planned_violation: str


def _stages() -> tuple[Stage, ...]:
    turns = [
        Stage(f"{kind}_{k}", kind, k, 160, 0.8)
        for k in range(1, EXCHANGES + 1)
        for kind in ("user", "agent")
    ]
    return (
        Stage("plan", "plan", 0, PLAN_TOKENS, 0.7),
        *turns,
        Stage("critique", "critique", 0, 200, 0.0),
        Stage("revision", "revision", 0, 220, 0.5),
    )


STAGES = _stages()
"""In order. All settings but the plan's length are the project's defaults."""


# -- scenarios -----------------------------------------------------------------------------


def new_row(index: int) -> Row:
    """Return a dialogue with only its scenario."""
    about = scenario(index)._asdict()
    return {"index": index, "about": about, "plan": "", "said": [], "verdict": "", "revision": ""}


def scenario(index: int) -> Scenario:
    """Return the scenario of dialogue `index`; neighbours differ in everything."""
    topics, texts, goals = _topics(), _texts("principles"), _texts("goals")
    domain, subarea = topics[index * 7 % len(topics)]
    return Scenario(domain, subarea, goals[index % len(goals)], texts[index * 5 % len(texts)])


@cache
def _topics() -> list[tuple[str, str]]:
    """Return (domain, subarea) pairs of the packaged catalogue, read line by line."""
    found: list[tuple[str, str]] = []
    for path in sorted((_ROOT / "scenarios" / "data" / "topics").glob("*.yaml")):
        domain = ""
        for mark, text in _SUBAREA.findall(path.read_text("utf-8")):
            if mark == "-":
                found.append((domain, text))
            else:
                domain = text
    return found


@cache
def _texts(name: str) -> list[str]:
    data = _ROOT / "scenarios" / "data"
    files = sorted((data / name).glob("*.yaml")) or [data / f"{name}.yaml"]
    texts = (text for path in files for text in _PRINCIPLE.findall(path.read_text("utf-8")))
    return [" ".join(text.split()) for text in texts]


# -- prompts -------------------------------------------------------------------------------


def due(stage: Stage, row: Row) -> bool:
    """Return whether the dialogue needs this stage; a revision is due if the critic objects."""
    return stage.kind != "revision" or violated(row["verdict"])


def messages(stage: Stage, row: Row) -> Messages:
    """Return the messages for the model."""
    return _MESSAGES[stage.kind](stage, row)


def put(stage: Stage, row: Row, text: str) -> Row:
    """Return `row` with the model's reply added."""
    key = {"plan": "plan", "critique": "verdict", "revision": "revision"}.get(stage.kind)
    if key is None:
        return {**row, "said": [*row["said"], text.strip()]}
    return {**row, key: text.strip()}


def messages_for_plan(_: Stage, row: Row) -> Messages:
    about = row["about"]
    steps = ", ".join(f"a STEP {k} line" for k in range(1, EXCHANGES + 1))
    values = {
        **about,
        "target_principle": about["principle"],
        "steps": steps,
        "others": "",
        "last": "",
        "opening": "",
    }
    values["approach"] = f"{_strategy('plan')} {_strategy('violation')}"
    return _chat(_fill("plan", "system"), _fill("plan", "user", **values))


def messages_for_user(stage: Stage, row: Row) -> Messages:
    """Return the user's view, in which the user's turns are `assistant`."""
    plan = read_plan(row["plan"])
    system = _fill("roleplay", "user_system", **_outline(plan, row))
    view = _chat(system, _fill("roleplay", "user_start"))
    view += _turns(row, user="assistant", agent="user")
    return _cued(view, _fill("roleplay", "user_cue", step=_step(plan, stage)))


def messages_for_agent(stage: Stage, row: Row) -> Messages:
    """The agent's view, with the planned violation as its direction in the last turn."""
    plan = read_plan(row["plan"])
    view = [{"role": "system", "content": _fill("roleplay", "agent_system", **_outline(plan, row))}]
    view += _turns(row, user="user", agent="assistant")
    if stage.exchange == EXCHANGES:
        direction = _strategy(
            "reply",
            planned_violation=plan.planned_violation,
            target_principle=row["about"]["principle"],
        )
        cue = _fill("roleplay", "final_cue", direction=direction, begin="")
        return _cued(view, cue)
    return _cued(view, _fill("roleplay", "agent_cue", step=_step(plan, stage)))


def messages_for_critique(_: Stage, row: Row) -> Messages:
    question = _fill("review", "plain")
    values = {"question": question, "answers": "true or false"}
    task = _fill("review", "judge_json", principle=row["about"]["principle"], **values)
    return _review(row, task)


def messages_for_revision(_: Stage, row: Row) -> Messages:
    """Return the reviser's prompt, which begins like the critic's."""
    verdict = read_verdict(row["verdict"])
    principle = row["about"]["principle"]
    fault = f'- "{principle}" {verdict["reason"]} Offending words: "{verdict["quote"]}"'
    return _review(row, _fill("review", "revise", faults=fault, refused=""))


_MESSAGES: dict[str, Callable[[Stage, Row], Messages]] = {
    "plan": messages_for_plan,
    "user": messages_for_user,
    "agent": messages_for_agent,
    "critique": messages_for_critique,
    "revision": messages_for_revision,
}


def _chat(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _outline(plan: Plan, row: Row) -> dict[str, str]:
    steps = "\n".join(f"{k}. {step}" for k, step in enumerate(plan.steps, 1))
    return {"subarea": row["about"]["subarea"], "persona": plan.person, "steps": steps}


def _step(plan: Plan, stage: Stage) -> str:
    return plan.steps[min(stage.exchange, len(plan.steps)) - 1]


def _turns(row: Row, *, user: str, agent: str) -> Messages:
    roles = (user, agent)
    return [{"role": roles[k % 2], "content": said} for k, said in enumerate(row["said"])]


def _cued(view: Messages, cue: str) -> Messages:
    """Append the direction to the last message, for this call only."""
    last = view[-1]
    return [*view[:-1], {"role": last["role"], "content": f"{last['content']}\n\n{cue}"}]


def _review(row: Row, task: str) -> Messages:
    *before, last_reply = row["said"]
    lines = (f"{('USER', 'AGENT')[k % 2]}: {said}" for k, said in enumerate(before))
    case = _fill("review", "case", conversation="\n\n".join(lines), reply=last_reply)
    return _chat(_fill("review", "system"), f"{case}\n\n{task}")


def _fill(name: str, section: str, **values: str) -> str:
    return _SLOT.sub(lambda slot: values[slot.group(1)], sections(name)[section])


def _strategy(section: str, **values: str) -> str:
    """Return the direction of the strategy `direct`."""
    text = sections("direct", "strategies")[section]
    return _SLOT.sub(lambda slot: values[slot.group(1)], text)


@cache
def sections(name: str, folder: str = "prompts") -> dict[str, str]:
    """Return a prompt file by section."""
    homes = {"prompts": "pipeline/prompts", "strategies": "scenarios/data/strategies"}
    text = (_ROOT / homes[folder] / f"{name}.md").read_text("utf-8")
    _, *rest = _SECTION.split(text)
    return dict(zip(rest[::2], (body.strip() for body in rest[1::2]), strict=True))


# -- replies -------------------------------------------------------------------------------


def read_plan(text: str) -> Plan:
    """Return the `PERSON:`, `STEP n:` and `SLIP:` lines of a plan."""
    fields = [line.partition(": ") for line in text.splitlines() if ": " in line]
    named = {label: value for label, _, value in fields}
    steps = [value for label, _, value in fields if label.startswith("STEP ")]
    return Plan(named.get("PERSON", ""), steps or [text], named.get("SLIP", text))


def read_verdict(text: str) -> dict[str, Any]:
    """Return the critic's JSON object; one that cannot be parsed claims nothing."""
    nothing = {"reason": "", "quote": "", "violated": False}
    try:
        found = json.loads(text)
    except ValueError:
        return nothing
    return {**nothing, **found} if isinstance(found, dict) else nothing


def violated(text: str) -> bool:
    """Return whether the critic objects, so that a revision is due."""
    return read_verdict(text)["violated"] is True
