"""Count what a pair costs, by how it is made: calls, prompt tokens, tokens written.

    python bench/pair_cost.py [--dialogues 200] [--blocks N]

The same scenarios go through the real pipeline in several ways, with the packaged prompts and
example pairs, in the `chat` protocol. Replies are made up (`simworld.py`) in the usual lengths, and
agent's replies show plainly whether they violate a principle, as in `critics.py`. A prefix cache
(`simengine.py`) that holds `--blocks` blocks, one dialogue after the other, says which prompt
tokens an engine would find in it. So the figures are counts, and do not depend on the machine.

revision, no examples   the method before: plan, planned violation, verdict, revision, recheck
revision                the same at present: the last message comes first, and the critic is shown
                        an example pair
contrast, verdict       two siblings of the last reply, confirmed by verdicts
contrast, scored        the same, settled by the likelihood contrast; `prompt`: the server reads the
                        whole prompt again to score a reply, as vLLM does; `cached`: it takes the
                        chat from its cache, and writes the reply's tokens, as llama.cpp does
all kinds               siblings confirmed by verdicts, and a revision as well

`late`: the siblings' direction and examples come after the conversation, which then continues the
dialogue's own chat, and not before it. Only the tokens are counted; replies are the same.

Verdicts count as they are, without an exam; a likelihood contrast is read by one of 48 simulated
items. The exams' own cost is not included. Two models, of which the first is about as good as the
embedded one: `TALENTS`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter

from msgspec import Struct

from critics import (
    Column,
    Contrast,
    Rates,
    Told,
    breaks,
    direction,
    shares,
    without_checks,
)
from sdsd import config
from sdsd.pipeline.method import PROMPTS, Method
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.record import make_record
from sdsd.runs.ask import Ask
from sdsd.runs.middleware import Call
from sdsd.scenarios import catalogue, strategies
from sdsd.scenarios.sampler import Scenarios
from sdsd.types import Answer, Calibration, Completion, Message, PairKind, Record, Request, Scenario
from simengine import PrefixCache, chained, count, lengthened
from simworld import Luck, Turn, chatml, reply, task

EXAM = 48


class Talent(Struct, frozen=True):
    """A model that plays all roles."""

    name: str
    follows: float
    """Rate at which a reply that is told to violate does so, in a plan or in a sibling's chat."""
    rates: Rates
    contrast: Contrast


TALENTS = (
    Talent(
        "small: violates in 20% when told to, repairs 10%",
        0.2,
        Rates(0.2, misses=0.5, invents=0.3, absent=0.5, misquotes=0.1, repairs=0.1),
        Contrast(0.69, 0.79),
    ),
    Talent(
        "capable: violates in 90% when told to, repairs 70%",
        0.9,
        Rates(0.9, misses=0.2, invents=0.1, absent=0.5, misquotes=0.1, repairs=0.7),
        Contrast(0.85, 0.93),
    ),
)


class Way(Struct, frozen=True):
    """One way to make pairs."""

    name: str
    pairs: tuple[PairKind, ...]
    examples: int = 1
    scored: str = ""
    """How replies are scored; empty: the critic gives verdicts."""
    before: bool = False
    """Whether principles have no cards: nothing is at stake, and no example is shown."""
    late: bool = False


WAYS = (
    Way("revision, no examples", ("revision",), 0, before=True),
    Way("revision", ("revision",)),
    Way("contrast, verdict", ("contrast",)),
    Way("contrast, verdict; late", ("contrast",), late=True),
    Way("contrast, scored, prompt", ("contrast",), scored="prompt"),
    Way("contrast, scored, cached", ("contrast",), scored="cached"),
    Way("contrast, scored, cached; late", ("contrast",), scored="cached", late=True),
    Way("all kinds, verdict", ("contrast", "revision", "on_policy")),
)


class Engine:
    """The prefix cache of an engine, and what it has counted."""

    def __init__(self, blocks: int) -> None:
        self._cache = PrefixCache(blocks)
        self.counts: Counter[str] = Counter()

    def read(self, prompt: str, written: str) -> None:
        """Count a request that continues `prompt` by `written`."""
        chain, tokens = chained(prompt), count(prompt)
        cached, _ = self._cache.match(chain, tokens)
        self._cache.insert(lengthened(chain, prompt, written))
        self._add(tokens, cached, count(written))

    def score(self, prompt: str, given: str) -> None:
        """Count a request that reads all of a prompt again to score its end."""
        self._cache.insert(chained(prompt + given))
        self._add(count(prompt + given), 0, 1)

    def _add(self, prompt: int, cached: int, written: int) -> None:
        self.counts.update(calls=1, prompt=prompt, cached=cached, written=written)
        self.counts["computed"] += prompt - cached


class Cast(Told):
    """The replies of all roles in one dialogue, in usual lengths."""

    def __init__(
        self, scenario: Scenario, seed: int, talent: Talent, way: Way, engine: Engine
    ) -> None:
        super().__init__(scenario, seed, talent.contrast, talent.follows, own=0.0)
        self._rates = talent.rates
        self._way, self._engine = way, engine
        self._brief: tuple[Message, ...] = ()
        self._opening = ""

    async def send(self, call: Call) -> Answer:
        answer = await super().send(call)
        assert isinstance(answer, Completion)
        request = call.request
        prompt = self._read(request)
        if request.given and self._way.scored == "prompt":
            self._engine.score(prompt, request.given)
        else:
            self._engine.read(prompt, request.given or answer.text)
        return answer

    def answer(self, request: Request, seed: int) -> str:
        turns = [Turn(m.role, m.content) for m in request.messages]
        asked = chatml(turns)
        match request.purpose:
            case "last_message":
                return reply("message", asked, turns[-1].content, seed, 0)
            case "plan":
                return reply("plan", asked, turns[-1].content, seed, 0)
            case "user_turn":
                return reply("user", asked, turns[-1].content, seed, 0)
            case "self_check":
                return "VIOLATION: no\nOVER: no"
            case "verdict":
                case, _, question = task(turns).rpartition("\n\nPRINCIPLE: ")
                last = case.rpartition("REPLY UNDER REVIEW\n\n")[2]
                principle = next(
                    p for p in self._scenario.principles if question.startswith(p.text)
                )
                said = self._verdict(last, principle, request.role, seed)
                return said.replace('"reason": "', f'"reason": "{Luck(asked, 0).words("reason")} ')
            case "revision":
                case = task(turns).rpartition("REPLY UNDER REVIEW\n\n")[2]
                last, _, faults = case.partition("\n\nThe reply under review has these faults:\n")
                return self._revision(last, faults, seed)
        return super().answer(request, seed)

    def _turn(self, seed: int, *, broken: bool) -> str:
        said = super()._turn(seed, broken=broken)
        return f"{said} {Luck(said, 0).words('agent', len(said))}"

    def _read(self, request: Request) -> str:
        """Return the prompt that the engine reads."""
        messages = request.messages
        if request.role == "agent" and not direction(request):
            self._brief, self._opening = messages[:1], messages[1].content
        if self._way.late and direction(request) and self._brief:
            start = next(k for k, m in enumerate(messages) if m.content.startswith(self._opening))
            directed, conversation = messages[:start], messages[start:]
            messages = (*self._brief, *conversation[:-1], *directed, conversation[-1])
        return chatml([Turn(m.role, m.content) for m in messages])


class World(Struct, frozen=True):
    """What all ways share."""

    inputs: catalogue.Catalogue
    scenarios: Scenarios
    strategies: dict[str, strategies.Strategy]


async def made(world: World, way: Way, talent: Talent, n: int, blocks: int) -> Counter[str]:
    """Make `n` dialogues in one way, and count what they cost."""
    chosen = config.load(
        None,
        {
            "dialogue.self_check": "last",
            "critique.method": "contrast" if way.scored else "verdict",
            "critique.examples": way.examples,
        },
    )
    calibrations: dict[str, Calibration] = {}
    if way.scored and (known := talent.contrast.exam(EXAM, 0).calibration):
        calibrations[""] = known
    method = Method(
        chosen,
        {name: load_prompt(name) for name in PROMPTS},
        world.strategies,
        "chat",
        schema=True,
        pairs=way.pairs,
        cards={} if way.before else world.inputs.cards,
        calibrations=calibrations,
        shared_chat=True,
    )
    engine = Engine(blocks)
    for index in range(n):
        scenario = world.scenarios[index]
        cast = Cast(scenario, 0, talent, way, engine)
        ask = Ask(scenario.id, 0, {}, cast.send, dict.fromkeys(chosen.role_models, "cast"))
        add(engine.counts, await make_record(scenario, ask, method))
    return engine.counts


def add(found: Counter[str], record: Record) -> None:
    """Count a dialogue and its pairs, and those that are true of the target principle."""
    target = record.scenario.target_principle
    found["dialogues"] += 1
    found["failed"] += record.failure is not None
    for pair in record.verified:
        assert record.dialogue is not None
        violates = breaks(record.dialogue.last_reply, target)
        found["pairs"] += 1
        found["true"] += violates and not breaks(pair.chosen, target)


COLUMNS: tuple[Column, ...] = (
    ("pairs per dialogue", "pairs", "dialogues", ".2f"),
    ("true", "true", "pairs", ".0%"),
    ("calls per dialogue", "calls", "dialogues", ".1f"),
    ("prompt tokens", "prompt", "dialogues", ",.0f"),
    ("from cache", "cached", "prompt", ".0%"),
    ("computed", "computed", "dialogues", ",.0f"),
    ("written", "written", "dialogues", ",.0f"),
    ("calls per true pair", "calls", "true", ".0f"),
    ("computed per true pair", "computed", "true", ",.0f"),
    ("written per true pair", "written", "true", ",.0f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=200, help="of each way")
    parser.add_argument("--blocks", type=int, default=2**20, help="of 16 tokens, in the cache")
    given = parser.parse_args()
    inputs, defaults = without_checks(), config.Config()
    world = World(
        inputs,
        Scenarios(inputs, defaults.scenarios, defaults.seed),
        strategies.load_strategies(["direct"]),
    )
    for talent in TALENTS:
        print(f"\n{talent.name}; {given.dialogues} dialogues\n")
        print(f"| way | {' | '.join(head for head, *_ in COLUMNS)} |")
        print("| --- " * (len(COLUMNS) + 1) + "|")
        for way in WAYS:
            found = asyncio.run(made(world, way, talent, given.dialogues, given.blocks))
            print(f"| {way.name} | {' | '.join(shares(found, COLUMNS))} |", flush=True)
            if found["failed"]:
                print(f"  ({found['failed']} dialogues failed)")


if __name__ == "__main__":
    main()
