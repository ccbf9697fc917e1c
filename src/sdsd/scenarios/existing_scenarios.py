"""What a row of a source means to the pipeline: its scenario, its plan and its dialogue."""

from __future__ import annotations

import re
import sys
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from sdsd.errors import Unparseable
from sdsd.hashing import hash64
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.existing import SourceRow
from sdsd.scenarios.existing_store import StoredRows, content
from sdsd.scenarios.sampler import Scenarios
from sdsd.text import normalize, parsing
from sdsd.types import Dialogue, Goal, Plan, Principle, Scenario, StopReason

UNNAMED = "a topic of its own"
"""Domain and subarea of a row that does not say what it is about; reads well in prompts."""
_FAMILY = "source"
_ANY = sys.maxsize
_STEP_CHARS = 200


class Known(Struct, frozen=True):
    """The entries of a catalogue by normalized text, to match a source's texts to them."""

    principles: dict[str, Principle]
    goals: dict[str, Goal]
    fields: dict[str, str]
    """By domain."""


def known(catalogue: Catalogue) -> Known:
    """Index a catalogue by text, without regard to case, white space and a final full stop."""
    return Known(
        principles={_key(p.text): p for p in catalogue.principles},
        goals={_key(g.text): g for g in catalogue.goals},
        fields={_key(d.name): d.field for d in catalogue.domains},
    )


class SourceScenarios:
    """The scenarios of a run that starts from a source."""

    def __init__(self, rows: StoredRows, base: Scenarios, catalogue: Catalogue) -> None:
        self.rows = rows
        self._base, self._known = base, known(catalogue)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Scenario:
        return scenario_of(self.rows[index], index, self._base[index], self._known)


def scenario_of(row: SourceRow, index: int, base: Scenario, known: Known) -> Scenario:
    """Return the row's inputs, laid over `base`, the run's ordinary scenario at `index`.

    Principles are the row's, or else those of `base`. Topic and goal are never those of `base`: the
    row was not made for them. There are as many exchanges as the plan or the conversation has.
    """
    domain = row.domain or row.subarea or UNNAMED
    subarea = row.subarea or domain
    field = row.field or known.fields.get(_key(domain), _FAMILY)
    principles = tuple(_principle(text, known) for text in row.principles) or base.principles
    plan = _as_plan(row.plan)
    exchanges = (len(plan.steps) if plan else 0) or len(row.messages) // 2 or base.exchanges
    texts = (field, domain, subarea, row.goal, *(p.text for p in principles), exchanges)
    digest = hash64(index, *texts, content(row).decode())
    return replace(
        base,
        id=f"{index:06d}-{digest >> 32:08x}",
        index=index,
        field=field,
        domain=domain,
        subarea=subarea,
        goal=_goal(row.goal, known),
        principles=principles,
        exchanges=exchanges,
        strategy="given" if row.messages else base.strategy,
    )


def plan_of(row: SourceRow, scenario: Scenario) -> Plan | None:
    """Return the row's plan; None if it has none.

    A text that is neither in the planner's form nor a numbered list gets a step for each exchange:
    what the user says there or, without a conversation, the plan's next few sentences.
    """
    if not row.plan:
        return None
    if plan := _as_plan(row.plan):
        return plan
    if row.messages:
        asked = row.messages[::2]
        steps = tuple(" ".join(turn.content.split())[:_STEP_CHARS] for turn in asked)
        return Plan(row.plan, steps, planned_violation="")
    steps = _sentences_in_steps(row.plan, scenario.exchanges)
    return Plan(row.plan, steps, planned_violation=steps[-1])


def dialogue_of(row: SourceRow) -> Dialogue | None:
    """Return the row's dialogue; None if it only has a plan. Its flags are those of the source.

    A system turn in a form that plans have is no system prompt: it gives the violation away.
    """
    if not row.messages:
        return None
    early: StopReason = "violation_end" if row.is_violation else "early_end"
    stop = early if row.is_truncated else "completed"
    system = "" if _as_plan(row.system) else row.system
    return Dialogue(row.messages, "given", stop, bool(row.is_violation), system)


def _as_plan(text: str) -> Plan | None:
    """Return the plan that a text is, with its text complete; None if it is in no known form."""
    try:
        return replace(parsing.plan(text, _ANY), text=parsing.readable(text))
    except Unparseable:
        return None


_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")


def _sentences_in_steps(text: str, steps: int) -> tuple[str, ...]:
    """Divide the sentences of `text` evenly among at most `steps` steps, in order."""
    sentences = [piece.strip() for piece in _SENTENCE.split(text) if piece.strip()]
    steps = min(steps, len(sentences))
    cuts = [len(sentences) * k // steps for k in range(steps + 1)]
    return tuple(" ".join(sentences[start:end]) for start, end in pairwise(cuts))


def _principle(text: str, known: Known) -> Principle:
    found = known.principles.get(_key(text))
    return found or Principle(_made_id(text), text, family=_FAMILY, category=_FAMILY)


def _goal(text: str, known: Known) -> Goal:
    if not text:
        return Goal("none", kind=_FAMILY, text="")
    return known.goals.get(_key(text)) or Goal(_made_id(text), kind=_FAMILY, text=text)


def _made_id(text: str) -> str:
    return f"user-{hash64(_key(text)):016x}"


def _key(text: str) -> str:
    return normalize.normal(text).rstrip(" .")
