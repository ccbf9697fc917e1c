"""Measure what critics with known error rates let through: one critic or several, by every vote.

    python bench/critics.py [--dialogues 300] [--seeds 5] [--misses 0.2] [--invents 0.1] ...

Dialogues go through the real pipeline with scripted replies, in which anyone can see whether they
violate a principle. Nothing is sent over a network. The assumptions:

- Every dialogue has two principles. The last turn violates the first with probability `--breaks`,
  and never the second.
- For each turn and principle, a critic misses a violation with rate `--misses` and invents one with
  rate `--invents`. When asked about the same text again, it keeps its opinion.
- For a share `--absent` of its inventions it quotes words that are not there, otherwise innocent
  words that are. A share `--misquotes` of true claims quotes words that are not there. Each attempt
  picks a new quotation, so a critic that is asked three times finds real words more often.
- The reviser rewrites the words that the critics object to. With probability `--repairs` the new
  words are innocent; otherwise, half and half, they repeat the violation in other words or violate
  the other principle.
- In the first table critics err independently. In the second a share `--common` of errors is made
  by all of them, at the same rates. A careful critic errs half as often.

Precision and recall are those of the joint claims on last turns, by turn and principle. With
"evidence ignored" every claim counts, because every quotation is there. All else is counted over
the pairs of a run. Figures are medians [minimum - maximum] over seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sdsd import config
from sdsd.hashing import hash64
from sdsd.models.scripted import ScriptedModel
from sdsd.pipeline.method import PROMPTS, Method
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.runs.ask import Ask
from sdsd.runs.middleware import Call
from sdsd.scenarios import catalogue, strategies
from sdsd.scenarios.sampler import Scenarios
from sdsd.text import prompt_files
from sdsd.types import Answer, Principle, Record, Request, Scenario

INNOCENT = (
    "Point {k} is best settled before you begin.",
    "Most people look at point {k} first of all.",
    "There are several good ways to deal with point {k} later.",
)
OFFENCES = (
    "For once I leave '{id}' aside and so should you.",
    "Nobody who knows the trade would mind '{id}' here.",
    "Between the two of us '{id}' is for other people.",
    "Whoever talks of '{id}' now only wants to slow you down.",
)
"""Sentences that violate the principle with this id; no others do."""
ABSENT = "words that nobody has ever written there"


class Rates(Struct, frozen=True):
    """How often each event happens; see the module's docstring."""

    breaks: float
    misses: float
    invents: float
    absent: float
    misquotes: float
    repairs: float
    common: float = 0.0


class Arm(Struct, frozen=True):
    """One way to judge turns."""

    name: str
    critics: int = 1
    vote: str = "majority"
    recheck: str = ""
    """The vote on revisions; empty: they are not judged."""
    attempts: int = 3
    evidence: bool = True
    """Whether quotations follow the rates; otherwise every quotation is in the turn."""
    careful: bool = False
    """Whether the first critic errs half as often and has twice the weight."""

    def config(self) -> config.Config:
        changes: dict[str, Any] = {
            "scenarios": {"principles": [2, 2], "exchanges": [2, 2]},
            "dialogue.protocol": "roleplay",
            "dialogue.self_check": "never",
            "critique.vote": self.vote,
            "revise.recheck": bool(self.recheck),
            "revise.vote": self.recheck or "any",
            "attempts": self.attempts,
        }
        if self.critics > 1:
            weights = [2 if self.careful and k == 0 else 1 for k in range(self.critics)]
            panel = {f"c{k}": {"weight": weight} for k, weight in enumerate(weights)}
            changes["critique.critics"] = panel
        return config.load(None, changes)


ARMS = (
    Arm("one, evidence ignored, no recheck (the paper)", evidence=False),
    Arm("one, evidence ignored", evidence=False, recheck="any"),
    Arm("one, no retry, no recheck", attempts=1),
    Arm("one, no retry", attempts=1, recheck="any"),
    Arm("one, no recheck"),
    Arm("one", recheck="any"),
    Arm("3 any; recheck any", 3, "any", "any"),
    Arm("3 majority, no recheck", 3, "majority"),
    Arm("3 majority; recheck majority", 3, "majority", "majority"),
    Arm("3 majority; recheck any", 3, "majority", "any"),
    Arm("3 all; recheck any", 3, "all", "any"),
    Arm("5 majority; recheck majority", 5, "majority", "majority"),
    Arm("5 majority; recheck any", 5, "majority", "any"),
    Arm("3, one careful, majority; recheck any", 3, "majority", "any", careful=True),
    Arm("3, one careful, weighted; recheck any", 3, "weighted", "any", careful=True),
)


class Cast:
    """The scripted replies of all roles in one dialogue."""

    def __init__(self, scenario: Scenario, rates: Rates, arm: Arm, seed: int) -> None:
        self._scenario, self._rates, self._arm, self._seed = scenario, rates, arm, seed

    def answer(self, request: Request, seed: int) -> str:
        asked = request.messages[-1].content
        if request.role == "planner":
            return "PERSON: Ann\nSTEP 1: they meet\nSTEP 2: they part\nSLIP: it goes wrong"
        if request.role == "user":
            return f"What about point {seed}?"
        if request.role == "agent":
            final = self._scenario.target_principle.text in asked
            return self._turn(seed, broken=final and self._luck(seed, "break") < self._rates.breaks)
        case, _, task = asked.rpartition("\n\nPRINCIPLE: ")
        if request.role == "reviser":
            case, _, task = asked.rpartition("\n\nThe reply under review has these faults:\n")
        last_reply = case.rpartition("REPLY UNDER REVIEW\n\n")[2]
        if request.role == "reviser":
            return self._revision(last_reply, task, seed)
        principle = next(p for p in self._scenario.principles if task.startswith(p.text))
        return self._verdict(last_reply, principle, request.role, seed)

    def _luck(self, *parts: object) -> float:
        return hash64("luck", *parts) / 2**64

    def _turn(self, seed: int, *, broken: bool) -> str:
        said = [innocent(seed, k) for k in range(3)]
        if broken:
            said[1] = offence(self._scenario.target_principle, seed)
        return " ".join(said)

    def _opinion(self, last_reply: str, principle: Principle, critic: str) -> bool:
        """Return whether a critic claims a violation; the same for the same text."""
        key = (self._seed, last_reply, principle.id)
        alike = self._luck("alike", *key) < self._rates.common
        halved = 2 if self._arm.careful and critic == "critic/c0" else 1
        luck = self._luck("error", "all" if alike else critic, *key) * halved
        if breaks(last_reply, principle):
            return luck >= self._rates.misses
        return luck < self._rates.invents

    def _verdict(self, last_reply: str, principle: Principle, critic: str, seed: int) -> str:
        if not self._opinion(last_reply, principle, critic):
            return '{"reason": "Kept.", "quote": "", "violated": false, "severity": "none"}'
        true = breaks(last_reply, principle)
        lost = self._rates.misquotes if true else self._rates.absent
        quote = next(s for s in sentences(last_reply) if breaks(s, principle) == true)
        if self._arm.evidence and self._luck(seed, "quote") < lost:
            quote = ABSENT
        return f'{{"reason": "Bad.", "quote": "{quote}", "violated": true, "severity": "high"}}'

    def _revision(self, last_reply: str, task: str, seed: int) -> str:
        """Return the turn with the quoted sentences rewritten, or the first if none is quoted."""
        said = sentences(last_reply)
        quotes = re.findall(r'Offending words: "(.*)"', task) or [said[0]]
        for k, sentence in enumerate(said):
            if sentence in quotes:
                said[k] = self._repaired(sentence, hash64(seed, k))
        return " ".join(said)

    def _repaired(self, sentence: str, seed: int) -> str:
        luck, repairs = self._luck(seed, "repair"), self._rates.repairs
        kept = luck < repairs + (1 - repairs) / 2
        if luck >= repairs:
            for principle in self._scenario.principles:
                if breaks(sentence, principle) == kept:
                    return offence(principle, seed, sentence)
        return innocent(seed, 0)


def innocent(seed: int, k: int) -> str:
    return INNOCENT[k].format(k=hash64(seed, "point") % 10**6)


def offence(principle: Principle, seed: int, other_than: str = "") -> str:
    """Return a sentence that violates the principle."""
    known = [s for s in (form.format(id=principle.id) for form in OFFENCES) if s != other_than]
    return known[hash64(seed, "offence") % len(known)]


def breaks(text: str, principle: Principle) -> bool:
    """Return whether `text` really violates the principle."""
    return f"'{principle.id}'" in text


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.) ", text)


class World(Struct, frozen=True):
    """What all arms share."""

    scenarios: Scenarios
    prompts: dict[str, prompt_files.Prompt]
    strategies: dict[str, strategies.Strategy]


async def counted(world: World, arm: Arm, rates: Rates, n: int, seed: int) -> Counter[str]:
    """Make `n` dialogues, and count claims, pairs and calls."""
    chosen = arm.config()
    method = Method(chosen, world.prompts, world.strategies, "roleplay", schema=True)
    found: Counter[str] = Counter(dialogues=n)
    for index in range(n):
        scenario = world.scenarios[index]
        model = ScriptedModel(Cast(scenario, rates, arm, seed).answer)

        async def send(call: Call, model: ScriptedModel = model) -> Answer:
            return await model.complete(call.request, call.seed)

        ask = Ask(scenario.id, seed, {}, send, dict.fromkeys(chosen.role_models, model.name))
        record = await make_record(scenario, ask, method)
        found["calls"] += model.asked
        add(found, record)
    return found


def add(found: Counter[str], record: Record) -> None:
    """Count the claims and pairs of one dialogue, and those that are true."""
    assert record.dialogue is not None, record.failure
    assert record.critique is not None, record.failure
    last_reply, principles = record.dialogue.last_reply, record.scenario.principles
    for principle, verdict in zip(principles, record.critique.verdicts, strict=True):
        true = breaks(last_reply, principle)
        found["true"] += true
        found["claimed"] += verdict.confirmed
        found["hit"] += true and verdict.confirmed
    for pair in record.pairs:
        broken = any(breaks(last_reply, p) for p in principles)
        clean = not any(breaks(pair.chosen, p) for p in principles)
        found["pairs"] += 1
        found["broken"] += broken
        found["clean"] += clean
        found["right"] += broken and clean


COLUMNS = (
    ("precision", "hit", "claimed", ".0%"),
    ("recall", "hit", "true", ".0%"),
    ("rejected violates", "broken", "pairs", ".0%"),
    ("chosen clean", "clean", "pairs", ".0%"),
    ("both", "right", "pairs", ".0%"),
    ("pairs per dialogue", "pairs", "dialogues", ".2f"),
    ("calls per pair", "calls", "pairs", ".0f"),
    ("calls per correct pair", "calls", "right", ".0f"),
)
"""Heading, numerator, denominator, number format."""


def row(arm: Arm, runs: Sequence[Counter[str]]) -> str:
    """Return an arm's row of the table."""
    cells = [
        spread([run[above] / run[below] for run in runs if run[below]], form)
        for _, above, below, form in COLUMNS
    ]
    return f"| {arm.name} | {' | '.join(cells)} |"


def spread(values: Sequence[float], form: str) -> str:
    """Median [minimum - maximum]."""
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:{form}}"
    return f"{middle:{form}} [{low:{form}} - {high:{form}}]"


async def table(world: World, arms: Sequence[Arm], rates: Rates, n: int, seeds: int) -> None:
    """Run the arms and print their table."""
    heads = ("critics", *(head for head, *_ in COLUMNS))
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for arm in arms:
        runs = [await counted(world, arm, rates, n, seed) for seed in range(seeds)]
        print(row(arm, runs), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=300, help="of each run")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each arm")
    for name, default, what in (
        ("breaks", 0.4, "last turns that break a principle"),
        ("misses", 0.2, "violations that a critic does not see"),
        ("invents", 0.1, "clean cases in which it sees one"),
        ("absent", 0.5, "inventions whose quotation is not there"),
        ("misquotes", 0.1, "true claims whose quotation is not there"),
        ("repairs", 0.7, "sentences that the reviser repairs"),
        ("common", 0.5, "errors common to all critics, in the second table"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"share of {what}")
    given = vars(parser.parse_args())
    n, seeds, common = given.pop("dialogues"), given.pop("seeds"), given.pop("common")
    rates = Rates(**given)
    inputs = ARMS[0].config()
    world = World(
        Scenarios(catalogue.load(), inputs.scenarios, inputs.seed),
        {name: load_prompt(name) for name in PROMPTS},
        strategies.load_strategies(["direct"]),
    )
    started = time.perf_counter()
    shares = ", ".join(f"{name} {value:.0%}" for name, value in given.items())
    print(f"{n} dialogues, {seeds} seeds; {shares}\n\nindependent errors:\n")
    asyncio.run(table(world, ARMS, rates, n, seeds))
    print(f"\n{common:.0%} of errors common to all critics:\n")
    several = [arm for arm in ARMS if arm.critics > 1]
    asyncio.run(table(world, several, replace(rates, common=common), n, seeds))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
