"""Measure what critics with known error rates let through: one critic or several, by every vote.

    python bench/critics.py [--dialogues 300] [--seeds 5] [--misses 0.2] [--invents 0.1] ...
    python bench/critics.py --evidence [--dialogues 100] [--seeds 20]

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

With `--evidence`, critics give evidence in place of a claim, as the likelihood contrast does, and
make `contrast` pairs. Does the precision that their exam states hold for pairs it has not seen?

- Evidence is normal: what the reply adds, with a standard deviation of 1, more if it violates, and
  what the message adds to all replies to it. Both follow from the AUC of single replies and of the
  two replies to one message, and are the same in the exam and in the run.
- The exam, its calibration and the margin that settles a pair are the real ones; items are
  simulated, and each seed has its own.
- A reply that is told to violate the principle does so at the rate of the generator; one that is
  told to satisfy it violates it at the rate `SLIPS`.
- In the last table the critic is the model that wrote the replies: having been told to violate adds
  `OWN` to the evidence, whether the reply does or not.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sdsd import config
from sdsd.hashing import hash64
from sdsd.models.scripted import ScriptedModel
from sdsd.pipeline.method import PROMPTS, Method
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.reports.metrics.calibration_fit import Answer as Answered
from sdsd.reports.metrics.exam import (
    Judge,
    JudgeResult,
    evidence_in_pairs,
    expected_precision,
    summarise,
)
from sdsd.runs.ask import Ask
from sdsd.runs.middleware import Call
from sdsd.scenarios import catalogue, strategies
from sdsd.scenarios.sampler import Scenarios
from sdsd.text import prompt_files
from sdsd.types import Answer, Completion, Principle, Record, Request, Scenario

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


def without_checks() -> catalogue.Catalogue:
    """Return the packaged catalogue without principles that a program decides: what the scripts say
    is nothing to it."""
    known = catalogue.load()
    judged = tuple(p for p in known.principles if not p.check)
    return replace(known, principles=judged)


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
    for pair in record.verified:
        broken = any(breaks(last_reply, p) for p in principles)
        clean = not any(breaks(pair.chosen, p) for p in principles)
        found["pairs"] += 1
        found["broken"] += broken
        found["clean"] += clean
        found["right"] += broken and clean
        found["mixed"] += broken == clean


Column = tuple[str, str, str, str]
"""Heading, numerator, denominator, number format."""
COLUMNS: tuple[Column, ...] = (
    ("precision", "hit", "claimed", ".0%"),
    ("recall", "hit", "true", ".0%"),
    ("rejected violates", "broken", "pairs", ".0%"),
    ("chosen clean", "clean", "pairs", ".0%"),
    ("both", "right", "pairs", ".0%"),
    ("pairs per dialogue", "pairs", "dialogues", ".2f"),
    ("calls per pair", "calls", "pairs", ".0f"),
    ("calls per correct pair", "calls", "right", ".0f"),
)


def row(arm: Arm, runs: Sequence[Counter[str]]) -> str:
    """Return an arm's row of the table."""
    cells = [
        spread([run[above] / run[below] for run in runs if run[below]], form)
        for _, above, below, form in COLUMNS
    ]
    return f"| {arm.name} | {' | '.join(cells)} |"


def shares(found: Counter[str], columns: Sequence[Column]) -> list[str]:
    """Return the cells of a row, from the counts of all its runs together."""
    return [
        f"{found[above] / found[below]:{form}}" if found[below] else "-"
        for _, above, below, form in columns
    ]


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


# -- critics that give evidence ------------------------------------------------------------

PRECISION = 0.9
"""Wanted of the pairs: the default of `critique.precision`."""
SLIPS = 0.1
"""Rate of violations among replies that are told to satisfy the principle."""
OWN = 1.0
"""Evidence that having been told to violate adds, if the critic wrote the reply."""
EXAMS = (24, 48, 96)
SIBLINGS = config.load(
    None,
    {
        "scenarios": {"principles": [1, 1], "exchanges": [2, 2]},
        "dialogue": {"protocol": "roleplay", "self_check": "never"},
        "critique": {"method": "contrast"},
    },
)
GENERATORS = (0.2, 0.5, 0.9)
"""Rates at which replies that are told to violate the principle do so."""


class Contrast(Struct, frozen=True):
    """A critic that gives evidence, by how well it tells violations from other replies."""

    alone: float
    """AUC of single replies, each to another message."""
    within: float
    """The same for the two replies to one message."""

    def evidence(self, message: object, reply: object, *, violated: bool) -> float:
        """Return the evidence for a violation; the same for the same message and reply."""
        apart = NormalDist().inv_cdf(self.within)
        shared = math.sqrt((apart / NormalDist().inv_cdf(self.alone)) ** 2 - 1)
        return math.sqrt(2) * apart * violated + shared * normal(message) + normal(message, reply)

    def exam(self, n: int, seed: int) -> JudgeResult:
        """Return the result of an exam of `n` items, each on a principle of its own."""
        items = [f"exam {seed}, item {k}" for k in range(n)]
        answers = [
            Answered(
                item,
                item,
                "",
                "",
                satisfies=self.evidence(item, "satisfies", violated=False),
                violates=self.evidence(item, "violates", violated=True),
            )
            for item in items
        ]
        return summarise(Judge(), "simulated", answers, {}, precision=PRECISION)


CONTRASTS = (Contrast(0.69, 0.79), Contrast(0.85, 0.93), Contrast(0.95, 0.98))
"""The first as measured on the embedded model."""


def normal(*parts: object) -> float:
    """Return a standard normal variate; the same for the same parts."""
    return NormalDist().inv_cdf((hash64("normal", *parts) // 2**11 + 0.5) / 2**53)


class Told(Cast):
    """The scripted replies of a dialogue that ends in siblings, and their scores."""

    def __init__(
        self, scenario: Scenario, seed: int, critic: Contrast, follows: float, own: float
    ) -> None:
        super().__init__(scenario, Rates(0, 0, 0, 0, 0, 0), ARMS[0], seed)
        self._critic, self._own = critic, own
        self._rates_of = {"satisfy": SLIPS, "violate": follows}
        self._drawn: dict[str, str] = {}
        """By reply, the direction under which it was sampled."""

    async def send(self, call: Call) -> Answer:
        request = call.request
        if request.given:
            evidence = self.evidence(request.given) if direction(request) == "violate" else 0.0
            return Completion("", logprob=evidence - 100)
        return Completion(self.answer(request, call.seed))

    def answer(self, request: Request, seed: int) -> str:
        told = direction(request)
        if not told:
            return super().answer(request, seed)
        text = self._turn(seed, broken=self._luck(seed, "break") < self._rates_of[told])
        self._drawn[text] = told
        return text

    def evidence(self, reply: str) -> float:
        violated = breaks(reply, self._scenario.target_principle)
        found = self._critic.evidence((self._seed, self._scenario.id), reply, violated=violated)
        return found + self._own * (self._drawn.get(reply) == "violate")


_HABIT = load_prompt("siblings").fill("violate", violation="\0").partition("\0")[0]
"""How the system message begins that tells a sibling what its principle's card says."""


def direction(request: Request) -> str:
    """Return the direction of a directed chat; empty for other requests."""
    system = request.messages[0].content
    if system.startswith(_HABIT):
        return "violate"
    told = system.partition(" this principle")[0]
    return {"keeps": "satisfy", "breaks": "violate"}.get(told.rpartition(" ")[2], "")


class Stated(Struct, frozen=True):
    """What an exam states of the pairs of one run, and what is true of them."""

    settles: bool
    """Whether its margins can settle pairs at all."""
    stated: float | None
    covers: bool
    """Whether the interval of what is stated includes the true share."""
    counts: Counter[str]


async def settled(
    world: World, critic: Contrast, exam: JudgeResult, n: int, seed: int, follows: float, own: float
) -> Stated:
    """Make `n` dialogues with siblings, judged as the exam says."""
    assert exam.calibration is not None
    method = Method(
        SIBLINGS,
        world.prompts,
        world.strategies,
        "roleplay",
        pairs=("contrast",),
        calibrations={"": exam.calibration},
    )
    found, pairs = Counter(dialogues=n), []
    for index in range(n):
        scenario = world.scenarios[index]
        cast = Told(scenario, seed, critic, follows, own)
        ask = Ask(scenario.id, seed, {}, cast.send, dict.fromkeys(SIBLINGS.role_models, "cast"))
        record = await make_record(scenario, ask, method)
        found["calls"] += sum(use.calls for use in record.usage.values())
        if record.verified:
            add(found, record)
            pairs += evidence_in_pairs(record)
    stated = expected_precision(pairs, exam)
    true = found["right"] / found["pairs"] if found["pairs"] else 0.0
    return Stated(
        exam.calibration.pair_from <= 1,
        stated.value if stated else None,
        bool(stated and stated.low <= true <= stated.high),
        found,
    )


STATED_COLUMNS = (
    ("one violates", "mixed", "pairs", ".0%"),
    ("of these, right", "right", "mixed", ".0%"),
    *COLUMNS[-3:],
)
"""Of all exams together, like `COLUMNS`."""


def stated_row(name: str, runs: Sequence[Stated]) -> str:
    """Return a row of the table: a critic, its exam and a generator, over all exams."""
    made = [run for run in runs if run.stated is not None]
    total = sum((run.counts for run in runs), Counter[str]())
    cells = [
        f"{sum(run.settles for run in runs)} of {len(runs)}",
        spread([run.stated for run in made if run.stated is not None], ".0%"),
        spread([run.counts["right"] / run.counts["pairs"] for run in made], ".0%"),
        f"{sum(run.covers for run in made)} of {len(made)}",
        *shares(total, STATED_COLUMNS),
    ]
    return f"| {name} | {' | '.join(cells)} |"


async def stated_table(world: World, sizes: Sequence[int], n: int, seeds: int, own: float) -> None:
    """Print what exams of several sizes state of the pairs of several generators."""
    heads = ("alone / in pair", "exam", "violate when told to", "can settle", "stated", "true",
             "in interval", *(head for head, *_ in STATED_COLUMNS))  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for critic in CONTRASTS:
        for size in sizes:
            exams = [critic.exam(size, seed) for seed in range(seeds)]
            for follows in GENERATORS:
                runs = [
                    await settled(world, critic, exam, n, seed, follows, own)
                    for seed, exam in enumerate(exams)
                ]
                name = f"{critic.alone} / {critic.within} | {size} | {follows:.0%}"
                print(stated_row(name, runs), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--evidence", action="store_true", help="critics that give evidence")
    parser.add_argument("--dialogues", type=int, help="of each run: 300, or 100 with --evidence")
    parser.add_argument("--seeds", type=int, help="runs of each arm: 5, or 20 with --evidence")
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
    evidence, common = given.pop("evidence"), given.pop("common")
    n = given.pop("dialogues") or (100 if evidence else 300)
    seeds = given.pop("seeds") or (20 if evidence else 5)
    rates = Rates(**given)
    inputs = SIBLINGS if evidence else ARMS[0].config()
    world = World(
        Scenarios(without_checks(), inputs.scenarios, inputs.seed),
        {name: load_prompt(name) for name in PROMPTS},
        strategies.load_strategies(["direct"]),
    )
    started = time.perf_counter()
    if evidence:
        print(f"{n} dialogues, {seeds} exams; wanted precision {PRECISION:.0%}\n")
        asyncio.run(stated_table(world, EXAMS, n, seeds, own=0.0))
        print(f"\nthe critic wrote the replies: {OWN:g} more for those told to violate\n")
        asyncio.run(stated_table(world, EXAMS[1:2], n, seeds, own=OWN))
        print(f"\n{time.perf_counter() - started:.0f} s")
        return
    shares = ", ".join(f"{name} {value:.0%}" for name, value in given.items())
    print(f"{n} dialogues, {seeds} seeds; {shares}\n\nindependent errors:\n")
    asyncio.run(table(world, ARMS, rates, n, seeds))
    print(f"\n{common:.0%} of errors common to all critics:\n")
    several = [arm for arm in ARMS if arm.critics > 1]
    asyncio.run(table(world, several, replace(rates, common=common), n, seeds))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
