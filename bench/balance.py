"""Count the dialogues until every principle has its verified pairs, by several methods; and measure
what affinities do to the scenarios of a run.

    python bench/balance.py [--pairs 20] [--seeds 5] [--cost 60] [--patience 1 2 3]
    python bench/balance.py --composition [--seeds 5] [--dialogues 5280]

**Composition.** The packaged catalogue, all packaged strategies, without affinities (neutral) and
with them; for a run without targets, and for one whose targets ask for the principles in turn. The
first table has, by axis, the mean affinity of the target principle with the topic, the goal and the
strategy, the share of dialogues where it is at least 2, and the share where it is 0. The second has
the largest difference between the counts of two values of an axis, over all prefixes of the run,
and what a scenario costs in CPU time: the first one, the next ones in order, and one at a random
index.

**Targets.** The world is simulated: packaged principles times strategies, where each combination
has a known probability that a dialogue ends in a verified pair. Its log-odds are the sum of an
effect of the principle, one of the strategy and one of the combination, drawn by seed;
probabilities are kept between 0.004 and 0.5. No model is called. The methods compared:

controller    `sdsd.scenarios.quotas`, in rounds, one round behind the results, as in a run
quota, best strategy
              the same with the single strategy that is best on average: the quotas alone
uniform, best strategy
              principles in turn, with the strategy that is best on average
uniform       principles in turn, strategies at random: what a run without targets does
bound         pairs divided by the best strategy's probability, summed over the principles: what an
              oracle that knows all probabilities needs on average

The best strategy on average is read from the world; before a real run nobody knows it. No principle
is abandoned in these rows. The rows `controller, patience K` bound the cost of a pair, and count
the principles abandoned, and those abandoned wrongly because their best strategy would have made
pairs for less. Abandoned principles cost nothing more, so compare the dialogues of these rows only
with each other. In the second table every method stops at the controller's number of dialogues.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config import ScenariosConfig
from sdsd.hashing import hash64
from sdsd.scenarios import affinities, catalogue
from sdsd.scenarios.affinities import Affinity
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.catalogue_files import read
from sdsd.scenarios.quotas import Assignment, Quota, Tally, Trial, allocate, summary
from sdsd.scenarios.sampler import Scenarios
from sdsd.scenarios.strategies import packaged
from sdsd.types import Scenario

LEAST, MOST = 0.004, 0.5
"""Bounds of every probability."""
CENTRE = -3.0
"""Log-odds of an average principle with an average strategy."""
DEVIATIONS = (1.0, 0.7, 0.6)
"""Standard deviations of the effects of principle, strategy and combination, in log-odds."""
FAR = 10_000_000
"""The number of dialogues at which every method stops."""


class World(Struct, frozen=True):
    """The probabilities of a verified pair: known here, unknown to the methods measured."""

    seed: int
    cells: tuple[str, ...]
    strategies: tuple[str, ...]
    chances: dict[str, dict[str, float]]

    def best(self) -> str:
        """The strategy that is best on average."""
        return max(self.strategies, key=lambda s: sum(self.chances[c][s] for c in self.cells))

    def bound(self, pairs: int) -> float:
        """Return the dialogues that an oracle with all probabilities needs on average."""
        return sum(pairs / max(self.chances[cell].values()) for cell in self.cells)


def world(seed: int, strategies: int) -> World:
    found = catalogue.load(None, None, None)
    cells = tuple(principle.id for principle in found.principles)
    names = tuple(f"strategy {k}" for k in range(strategies))

    def drawn(k: int, *parts: str) -> float:
        return Random(hash64("world", seed, *parts)).gauss(0, DEVIATIONS[k])

    def chance(cell: str, name: str) -> float:
        odds = math.exp(CENTRE + drawn(0, cell) + drawn(1, name) + drawn(2, cell, name))
        return min(max(odds / (1 + odds), LEAST), MOST)

    return World(seed, cells, names, {c: {s: chance(c, s) for s in names} for c in cells})


class Outcome(Struct, frozen=True):
    """The result of one method."""

    dialogues: int
    pairs: Counter[str]
    rounds: int = 0
    seconds: float = 0.0
    """Time of all allocations together."""
    given_up: int = 0
    in_error: int = 0
    """Of these, cells whose best strategy makes pairs for less than the bound on cost."""
    overshoot: int = 0
    """Pairs beyond the quotas."""


def controlled(known: World, quota: Quota) -> Outcome:
    """Run the controller, one round behind the results."""
    luck = Random(hash64("luck", known.seed))
    state, under_way = Tally(), list[tuple[Assignment, ...]]()
    number = total = 0
    took = 0.0
    while True:
        state.settle(quota)
        started = time.perf_counter()
        slots = allocate(state, under_way[-1] if under_way else (), quota, known.seed, number)
        took += time.perf_counter() - started
        if not slots:
            break
        number, total = number + 1, total + len(slots)
        under_way.append(slots)
        if len(under_way) == 2:
            _finish(state, under_way.pop(0), known, luck)
    for slots in under_way:
        _finish(state, slots, known, luck)
    standing = summary(state, quota)
    lost = [s.cell for s in standing if s.status == "given up"]
    return Outcome(
        total,
        Counter(state.pairs),
        number,
        took,
        len(lost),
        sum(max(known.chances[cell].values()) > 1 / quota.cost for cell in lost),
        sum(max(0, s.pairs - s.wanted) for s in standing),
    )


def _finish(state: Tally, slots: Sequence[Assignment], known: World, luck: Random) -> None:
    for slot in slots:
        hit = luck.random() < known.chances[slot.cell][slot.strategy]
        state.add(Trial(slot, hit, (slot.cell,) if hit else ()))


def in_turn(known: World, strategies: Sequence[str], wanted: int, stop: int = FAR) -> Outcome:
    """Take principles in turn and strategies at random, until all quotas or `stop` are reached."""
    luck, pairs = Random(hash64("turns", known.seed)), Counter[str]()
    lagging = len(known.cells)
    for n, cell in enumerate(_endless(known.cells)):
        if not lagging or n == stop:
            return Outcome(n, pairs)
        if luck.random() < known.chances[cell][luck.choice(strategies)]:
            pairs[cell] += 1
            lagging -= pairs[cell] == wanted
    raise AssertionError("the principles have no end")


def _endless(cells: Sequence[str]) -> Iterator[str]:
    while True:
        yield from cells


class Shares(Struct, frozen=True):
    """How evenly pairs are spread over the principles."""

    entropy: float
    """Entropy divided by that of an even spread: 1 is even."""
    least: float
    most: float
    """Shares of the rarest and the most common principle."""
    reached: float
    """Share of the principles that have reached their quota."""

    @classmethod
    def of(cls, pairs: Counter[str], known: World, wanted: int) -> Shares:
        counts = [pairs[cell] for cell in known.cells]
        shares = [count / sum(counts) for count in counts]
        entropy = -sum(share * math.log(share) for share in shares if share)
        reached = sum(count >= wanted for count in counts) / len(counts)
        return cls(entropy / math.log(len(counts)), min(shares), max(shares), reached)


def spread(values: Sequence[float], form: str) -> str:
    """Median [minimum - maximum]."""
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:{form}}"
    return f"{middle:{form}} [{low:{form}} - {high:{form}}]"


def measured(known: World, wanted: int, cost: float, patience: Sequence[int]) -> dict[str, Outcome]:
    """Return the result of every method, by name."""
    wishes, best = dict.fromkeys(known.cells, wanted), (known.best(),)
    return {
        "controller": controlled(known, Quota(wishes, known.strategies, cost=math.inf)),
        **{
            f"controller, patience {k}": controlled(
                known, Quota(wishes, known.strategies, cost=cost, patience=k)
            )
            for k in patience
        },
        "quota, best strategy": controlled(known, Quota(wishes, best, cost=math.inf)),
        "uniform, best strategy": in_turn(known, best, wanted),
        "uniform": in_turn(known, known.strategies, wanted),
    }


def first_table(worlds: Sequence[World], found: Sequence[dict[str, Outcome]], wanted: int) -> None:
    """Print the dialogues until all quotas are reached."""
    bounds = [known.bound(wanted) for known in worlds]
    heads = (
        "method",
        "dialogues",
        "/ bound",
        "surplus pairs",
        "abandoned",
        "wrongly",
        "rounds",
        "ms per slot",
    )
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    print(f"| bound | {spread(bounds, ',.0f')} | 1 | | | | | |")
    for name in found[0]:
        outcomes = [by_name[name] for by_name in found]
        ratios = [o.dialogues / bound for o, bound in zip(outcomes, bounds, strict=True)]
        cells = [spread([o.dialogues for o in outcomes], ",.0f"), spread(ratios, ".2f")]
        if outcomes[0].rounds:
            cells += [
                spread([o.overshoot for o in outcomes], ".0f"),
                spread([o.given_up for o in outcomes], ".0f"),
                spread([o.in_error for o in outcomes], ".0f"),
                spread([o.rounds for o in outcomes], ".0f"),
                spread([1000 * o.seconds / o.dialogues for o in outcomes], ".2f"),
            ]
        else:
            over = [o.pairs.total() - wanted * len(o.pairs) for o in outcomes]
            cells += [spread(over, ",.0f"), "", "", "", ""]
        print(f"| {name} | {' | '.join(cells)} |")


def second_table(worlds: Sequence[World], found: Sequence[dict[str, Outcome]], wanted: int) -> None:
    """Print the spread of pairs when every method stops at the controller's dialogues."""
    heads = ("method", "pairs", "entropy", "least share", "most share", "principles reached")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    rows: dict[str, list[tuple[Outcome, Shares]]] = {}
    for known, by_name in zip(worlds, found, strict=True):
        ours = by_name["controller"]
        stop = ours.dialogues
        stopped = {
            "controller": ours,
            "uniform, best strategy": in_turn(known, (known.best(),), wanted, stop),
            "uniform": in_turn(known, known.strategies, wanted, stop),
        }
        for name, outcome in stopped.items():
            shares = Shares.of(outcome.pairs, known, wanted)
            rows.setdefault(name, []).append((outcome, shares))
    for name, results in rows.items():
        cells = [
            spread([outcome.pairs.total() for outcome, _ in results], ",.0f"),
            spread([shares.entropy for _, shares in results], ".3f"),
            spread([shares.least for _, shares in results], ".2%"),
            spread([shares.most for _, shares in results], ".2%"),
            spread([shares.reached for _, shares in results], ".0%"),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


# -- composition ---------------------------------------------------------------------------


def walk(scenarios: Scenarios, dialogues: int, *, targets: bool) -> list[Scenario]:
    """Return the first scenarios of a run without targets, or of one for principles in turn."""
    if not targets:
        return [scenarios[i] for i in range(dialogues)]
    cells = scenarios.cells("principle")
    ways = [
        [s for s in scenarios.cells("strategy") if s not in absurd]
        for absurd in (scenarios.absurd_strategies("principle", cell) for cell in cells)
    ]
    n = len(cells)
    return [
        scenarios.for_cell(i, "principle", cells[i % n], ways[i % n][i // n % len(ways[i % n])])
        for i in range(dialogues)
    ]


def affinity_table(known: Catalogue, runs: dict[str, list[list[Scenario]]]) -> None:
    """Print how well target principles go with topics, goals and strategies."""
    ids, domains = [p.id for p in known.principles], known.domains
    rows = affinities.topic_table(known.affinities, ids, domains)
    topics = {p: dict(zip(domains, row, strict=True)) for p, row in zip(ids, rows, strict=True)}
    by_name = {domain.name: domain for domain in domains}

    def of(s: Scenario) -> tuple[int, int, int]:
        target, none = s.target_principle.id, Affinity()
        found = known.affinities.get(target, none)
        topic = topics[target][by_name[s.domain]]
        goal, strategy = found.goals.get(s.goal.id, 1), found.strategies.get(s.strategy, 1)
        return topic, goal, strategy

    heads = ("run", "axis", "mean affinity", "at least 2", "0")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, seeds in runs.items():
        columns = [list(zip(*map(of, made), strict=True)) for made in seeds]
        for k, axis in enumerate(("topic", "goal", "strategy")):
            levels = [column[k] for column in columns]
            cells = [
                spread([statistics.mean(found) for found in levels], ".2f"),
                spread([sum(a >= 2 for a in found) / len(found) for found in levels], ".1%"),
                spread([sum(a == 0 for a in found) / len(found) for found in levels], ".1%"),
            ]
            print(f"| {name} | {axis} | {' | '.join(cells)} |")


AXES = ("domains", "goals", "targets", "further principles", "all principles", "strategies")


def widest(made: Sequence[Scenario], known: Catalogue) -> list[int]:
    """Return for each of `AXES` the largest difference of two counts, over all prefixes."""
    principles = [p.id for p in known.principles]
    values = (
        [d.name for d in known.domains],
        [g.id for g in known.goals],
        *[principles] * 3,
        list(packaged()),
    )
    counts = [Counter(dict.fromkeys(names, 0)) for names in values]
    levels = [Counter(count.values()) for count in counts]
    most = [0] * len(AXES)
    for s in made:
        ids = [p.id for p in s.principles]
        drawn = ([s.domain], [s.goal.id], ids[:1], ids[1:], ids, [s.strategy])
        for k, names in enumerate(drawn):
            for name in names:
                before = counts[k][name]
                counts[k][name] += 1
                levels[k][before] -= 1
                levels[k][before + 1] += 1
                if not levels[k][before]:
                    del levels[k][before]
            most[k] = max(most[k], max(levels[k]) - min(levels[k]))
    return most


def timed(known: Catalogue, seed: int) -> tuple[float, float, float]:
    """Return the CPU milliseconds of the first scenario, of one in order, and of one at random."""
    started = time.process_time()
    scenarios = Scenarios(known, ScenariosConfig(), seed, packaged())
    scenarios[0]
    first = time.process_time()
    for i in range(1, 2001):
        scenarios[i]
    walked = time.process_time()
    for i in range(100):
        scenarios[hash64("anywhere", seed, i) % 10**7]
    ended = time.process_time()
    return 1000 * (first - started), (walked - first) / 2, 10 * (ended - walked)


def composition(seeds: int, dialogues: int) -> None:
    known = catalogue.load()
    kinds = {"neutral": replace(known, affinities={}), "affinities": known}
    runs: dict[str, list[list[Scenario]]] = {}
    for targets in (False, True):
        for kind, cat in kinds.items():
            name = f"{kind}, targets" if targets else kind
            sampled = (Scenarios(cat, ScenariosConfig(), k, packaged()) for k in range(seeds))
            runs[name] = [walk(one, dialogues, targets=targets) for one in sampled]
    print(f"{dialogues} dialogues, {seeds} seeds\n")
    affinity_table(known, runs)
    heads = ("run", *AXES, "ms, first", "ms, in order", "ms, anywhere")
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, found in runs.items():
        cells = [
            spread(most, ".0f") for most in zip(*(widest(m, known) for m in found), strict=True)
        ]
        if name in kinds:
            times = [timed(kinds[name], seed) for seed in range(seeds)]
            cells += [spread(column, ".2f") for column in zip(*times, strict=True)]
        else:
            cells += [""] * 3
        print(f"| {name} | {' | '.join(cells)} |")
    started = time.process_time()
    entries = list(read(affinities.PACKAGED, "affinities"))
    took = 1000 * (time.process_time() - started)
    print(f"\nreading the {len(entries)} entries of the packaged affinities: {took:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="quota of each principle")
    parser.add_argument("--seeds", type=int, default=5, help="worlds")
    parser.add_argument("--cost", type=float, default=60, help="maximum dialogues per pair")
    parser.add_argument("--patience", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--strategies", type=int, default=12)
    parser.add_argument("--composition", action="store_true", help="measure the scenarios instead")
    parser.add_argument("--dialogues", type=int, default=5280, help="scenarios of a run")
    given = parser.parse_args()
    if given.composition:
        composition(given.seeds, given.dialogues)
        return
    worlds = [world(seed, given.strategies) for seed in range(given.seeds)]
    found = [measured(known, given.pairs, given.cost, given.patience) for known in worlds]
    cells = len(worlds[0].cells)
    print(f"{cells} principles x {given.strategies} strategies, {given.pairs} pairs, ", end="")
    print(f"{given.seeds} worlds; abandons at {given.cost:g} dialogues per pair\n")
    first_table(worlds, found, given.pairs)
    print("\nat the controller's number of dialogues:\n")
    second_table(worlds, found, given.pairs)


if __name__ == "__main__":
    main()
