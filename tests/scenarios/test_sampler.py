"""Scenarios: a pure function of seed, catalogue and index, balanced over every prefix of a run.

On each axis (domains, a domain's subareas, goals, target principles, further principles, number of
principles, exchanges, strategies) the counts of any two values differ by at most one, whichever
prefix is taken; those of targets and further principles together, by at most two. A field's count
keeps within 1 + F * (its share) of its due, F being the number of fields. Affinities change none of
this.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import ScenariosConfig
from sdsd.errors import CatalogueError
from sdsd.hashing import call_seed, hash64
from sdsd.scenarios import affinities, catalogue
from sdsd.scenarios.affinities import Affinity
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.sampler import Axis, Scenarios
from sdsd.scenarios.strategies import packaged as packaged_strategies
from sdsd.types import Domain, Goal, Principle, Scenario


def small(fields: list[int], principles: int = 5, goals: int = 3, subareas: int = 2) -> Catalogue:
    """A catalogue with that many domains in each field, and that many of the rest."""
    return Catalogue(
        domains=tuple(
            Domain(f"field {f}", f"domain {f}.{d}", tuple(f"area {s}" for s in range(subareas)))
            for f, size in enumerate(fields)
            for d in range(size)
        ),
        principles=tuple(
            Principle(f"p{i}", f"Principle {i}.", "family", "category") for i in range(principles)
        ),
        goals=tuple(Goal(f"g{i}", "kind", f"Goal {i}.") for i in range(goals)),
    )


STRATEGIES = ("direct", "subtle", "haste", "persona", "flattery")


def with_affinities(cat: Catalogue, seed: int) -> Catalogue:
    """The catalogue with affinities drawn by seed; every third principle has none."""

    def drawn(*parts: object) -> int:
        return hash64("affinity", seed, *parts) % 4

    def of(p: str) -> Affinity:
        return Affinity(
            fields={field: drawn(p, field) for field in cat.fields},
            domains={d.name: drawn(p, d.name) for d in cat.domains if drawn(p, d.name, 0) == 0},
            goals={goal.id: drawn(p, goal.id) for goal in cat.goals},
            strategies={name: drawn(p, name) for name in STRATEGIES},
        )

    known = {p.id: of(p.id) for k, p in enumerate(cat.principles) if k % 3}
    return replace(cat, affinities=known)


class Balance:
    """Counts of the values of an axis, whose spread is looked at after every step."""

    def __init__(self, values: Iterable[Hashable]) -> None:
        self.counts = Counter(dict.fromkeys(values, 0))
        self._levels = Counter(self.counts.values())
        self.worst = 0

    def add(self, value: Hashable) -> None:
        level = self.counts[value]
        self.counts[value] += 1
        self._levels[level] -= 1
        self._levels[level + 1] += 1
        if not self._levels[level]:
            del self._levels[level]
        self.worst = max(self.worst, max(self._levels) - min(self._levels))


CATALOGUES = {
    "one of each": small([1], principles=3, goals=1, subareas=1),
    "tiny": small([1, 2], principles=4, goals=2, subareas=3),
    "uneven": small([1, 9, 2, 4], principles=9, goals=7, subareas=5),
    "wider": small([5, 6, 5, 7], principles=31, goals=12, subareas=4),
}


@pytest.mark.parametrize("principles", [(1, 1), (1, 3), (2, 2), (3, 3)])
@pytest.mark.parametrize("name", CATALOGUES)
@pytest.mark.parametrize("seed", [0, 20240728])
@pytest.mark.parametrize("neutral", [True, False])
def test_every_prefix_is_balanced_on_every_axis(
    name: str, principles: tuple[int, int], seed: int, neutral: bool
) -> None:
    cat = CATALOGUES[name] if neutral else with_affinities(CATALOGUES[name], seed)
    config = ScenariosConfig(principles=principles, exchanges=(2, 4))
    scenarios = Scenarios(cat, config, seed, STRATEGIES)
    least, most = principles
    axes = {
        "domain": Balance(d.name for d in cat.domains),
        "goal": Balance(cat.goals),
        "focus": Balance(cat.principles),
        "further principles": Balance(cat.principles),
        "number of principles": Balance(range(least, most + 1)),
        "exchanges": Balance(range(2, 5)),
        "strategy": Balance(STRATEGIES),
        **{d.name: Balance(d.subareas) for d in cat.domains},
    }
    share = {f: len(domains) / len(cat.domains) for f, domains in cat.fields.items()}
    fields = Counter(dict.fromkeys(share, 0))
    for i in range(2000):
        scenario = scenarios[i]
        assert scenario.index == i
        axes["domain"].add(scenario.domain)
        axes["goal"].add(scenario.goal)
        axes["exchanges"].add(scenario.exchanges)
        axes["strategy"].add(scenario.strategy)
        axes["number of principles"].add(len(scenario.principles))
        axes[scenario.domain].add(scenario.subarea)
        axes["focus"].add(scenario.target_principle)
        for principle in scenario.principles[1:] if len(cat.principles) >= 2 * most else ():
            axes["further principles"].add(principle)
        assert len(set(scenario.principles)) == len(scenario.principles)
        fields[scenario.field] += 1
        for field, part in share.items():
            assert abs(fields[field] - (i + 1) * part) < 1 + len(share) * part
    assert {axis: balance.worst for axis, balance in axes.items() if balance.worst > 1} == {}


@pytest.mark.parametrize("n", range(1, 30))
@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("neutral", [True, False])
def test_principles_are_balanced_and_never_twice_in_a_dialogue(
    n: int, most: int, neutral: bool
) -> None:
    if most > n:
        return
    cat = small([1, 2], principles=n)
    cat = cat if neutral else with_affinities(cat, n)
    for least in {1, most}:
        scenarios = Scenarios(cat, ScenariosConfig(principles=(least, most)), seed=n)
        target_principle, further = Balance(cat.principles), Balance(cat.principles)
        together = Balance(cat.principles)
        for i in range(8 * n):
            drawn = scenarios[i].principles
            assert least <= len(set(drawn)) == len(drawn) <= most
            target_principle.add(drawn[0])
            for principle in drawn[1:]:
                further.add(principle)
            for principle in drawn:
                together.add(principle)
        assert target_principle.worst <= 1
        assert (further.worst <= 1 and together.worst <= 2) or n < 2 * most


def test_more_principles_in_a_dialogue_than_there_are_is_refused() -> None:
    with pytest.raises(CatalogueError, match=r"up to 3 .* has 2"):
        Scenarios(small([1], principles=2), ScenariosConfig(principles=(1, 3)), 0)


sizes = st.integers(1, 6)


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(3, 12), sizes, st.randoms(), st.data())
def test_a_scenario_does_not_depend_on_those_asked_before(
    fields: list[int], principles: int, goals: int, order: random.Random, data: st.DataObject
) -> None:
    cat, config = small(fields, principles, goals), ScenariosConfig()
    seed = data.draw(st.integers())
    walked = [Scenarios(cat, config, seed)[i] for i in range(40)]
    indices = [*range(40), *range(10**9, 10**9 + 3)]
    order.shuffle(indices)
    picked = Scenarios(cat, config, seed)
    found = {i: picked[i] for i in indices}
    assert [found[i] for i in range(40)] == walked


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(3, 40), sizes, st.integers(), st.data())
def test_affinities_permute_within_blocks_and_gain_by_it(
    fields: list[int], principles: int, goals: int, seed: int, data: st.DataObject
) -> None:
    """Also random access, in any order."""
    plain = small(fields, principles, goals)
    cat, config = with_affinities(plain, seed), ScenariosConfig()
    before = Scenarios(plain, config, seed, STRATEGIES)
    after = Scenarios(cat, config, seed, STRATEGIES)
    block = data.draw(st.integers(0, 10**6))
    span = range(block * principles, (block + 1) * principles)
    order = data.draw(st.permutations(span))
    found = {i: after[i] for i in order}
    assert [found[i] for i in span] == [after[i] for i in span]
    assert sorted(found[i].target_principle.id for i in span) == sorted(
        p.id for p in cat.principles
    )
    for i in span:
        assert (found[i].domain, found[i].subarea) == (before[i].domain, before[i].subarea)
        assert found[i].exchanges == before[i].exchanges
        assert len(found[i].principles) == len(before[i].principles)
    ids, place = [p.id for p in cat.principles], {d.name: k for k, d in enumerate(cat.domains)}
    suits = dict(zip(ids, affinities.topic_table(cat.affinities, ids, cat.domains), strict=True))

    def absurd(scenarios: Scenarios) -> int:
        drawn = (scenarios[i] for i in span)
        return sum(suits[s.target_principle.id][place[s.domain]] == 0 for s in drawn)

    assert absurd(after) <= absurd(before)


@given(st.integers(1, 12), st.integers(), st.integers(0, 10**6))
def test_names_that_a_catalogue_does_not_have_change_nothing(
    goals: int, seed: int, index: int
) -> None:
    plain = small([2, 3], principles=9, goals=goals)
    other = replace(plain, affinities={"unknown": Affinity(fields={"field 0": 3})})
    config = ScenariosConfig()
    one, two = (Scenarios(cat, config, seed, STRATEGIES) for cat in (plain, other))
    assert one[index] == two[index]
    for axis in AXES:
        cell = one.cells(axis)[index % len(one.cells(axis))]
        way = STRATEGIES[index % 5]
        assert one.for_cell(index, axis, cell, way) == two.for_cell(index, axis, cell, way)


AXES: tuple[Axis, ...] = ("principle", "category", "domain", "field", "strategy")


def test_blocks_longer_than_one_assignment_are_divided() -> None:
    cat = with_affinities(small([3, 4], principles=600, goals=300), 1)
    scenarios = Scenarios(cat, ScenariosConfig(), 0)
    targets = [scenarios[i].target_principle.id for i in range(600)]
    assert len(set(targets)) == 600
    neutral = Scenarios(replace(cat, affinities={}), ScenariosConfig(), 0)
    usual = [neutral[i].target_principle.id for i in range(600)]
    assert targets != usual
    assert set(targets[:256]) == set(usual[:256])


def test_there_is_no_scenario_before_the_first() -> None:
    with pytest.raises(IndexError):
        Scenarios(small([1]), ScenariosConfig(), 0)[-1]


def test_seeds_make_different_scenarios_with_different_ids() -> None:
    cat = CATALOGUES["wider"]
    runs = [Scenarios(cat, ScenariosConfig(), seed) for seed in range(5)]
    assert len({run[i].id for run in runs for i in range(200)}) == 5 * 200
    assert len({tuple(run[i].domain for i in range(20)) for run in runs}) == 5
    assert len({tuple(run[i].goal for i in range(20)) for run in runs}) == 5


def test_an_id_says_the_index_and_changes_with_the_content() -> None:
    config = ScenariosConfig(principles=(1, 1), exchanges=(2, 2))
    cat = small([1], principles=1, goals=1, subareas=1)
    reworded = (Principle("p0", "Another.", "family", "category"),)
    other = Catalogue(cat.domains, reworded, cat.goals)
    one, two = Scenarios(cat, config, 0)[7].id, Scenarios(other, config, 0)[7].id
    assert one[:7] == two[:7] == "000007-"
    assert one != two


def test_identity_does_not_drift() -> None:
    """What a seed stands for is for good: every run that was ever made depends on it."""
    scenarios = Scenarios(CATALOGUES["tiny"], ScenariosConfig(), 42)
    first, later = scenarios[0], scenarios[12345]
    assert (first.id, first.domain, first.subarea) == ("000000-5d15d142", "domain 1.0", "area 2")
    assert (first.goal.id, [p.id for p in first.principles]) == ("g1", ["p1", "p3"])
    assert (later.id, later.domain, later.subarea) == ("012345-a75864a2", "domain 0.0", "area 2")
    assert (later.goal.id, [p.id for p in later.principles]) == ("g1", ["p2"])
    assert hash64("a", 1) == 9331952569449725121
    assert call_seed(42, first.id, "turn/1/user") == 652325408


@given(st.integers(), st.text(), st.text())
def test_a_call_seed_fits_31_bits_and_depends_on_the_step(
    seed: int, scenario: str, step: str
) -> None:
    drawn = call_seed(seed, scenario, step)
    assert 0 <= drawn < 2**31
    assert drawn == call_seed(seed, scenario, step)
    assert drawn != call_seed(seed, scenario, f"{step}/retry/1")


@pytest.mark.parametrize("n", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_of_the_packaged_catalogue(n: int) -> None:
    cat = catalogue.load()
    scenarios = Scenarios(cat, ScenariosConfig(), 0)
    made = [scenarios[i] for i in range(n)]
    assert len({s.id for s in made}) == len(made)
    fields = Counter(s.field for s in made)
    largest = max(len(domains) for domains in cat.fields.values()) / len(cat.domains)
    assert max(fields.values()) / n < largest + 10 / n
    for counts in (Counter(s.domain for s in made), Counter(s.goal.id for s in made)):
        assert max(counts.values()) - min(counts.values()) <= 1


# --- the packaged affinities --------------------------------------------------------------------


@pytest.fixture(scope="module")
def packaged() -> Catalogue:
    return catalogue.load()


class Suits:
    """The affinities of a scenario: target principle with topic, goal and strategy."""

    def __init__(self, cat: Catalogue) -> None:
        ids = [p.id for p in cat.principles]
        self._known = cat.affinities
        self._place = {d.name: k for k, d in enumerate(cat.domains)}
        rows = affinities.topic_table(cat.affinities, ids, cat.domains)
        self._topics = dict(zip(ids, rows, strict=True))

    def __call__(self, scenario: Scenario) -> tuple[int, int, int]:
        target = scenario.target_principle.id
        known = self._known.get(target, Affinity())
        return (
            self._topics[target][self._place[scenario.domain]],
            known.goals.get(scenario.goal.id, 1),
            known.strategies.get(scenario.strategy, 1),
        )


@pytest.mark.parametrize("seed", [0, 5])
def test_what_belongs_together_meets(packaged: Catalogue, seed: int) -> None:
    scenarios = Scenarios(packaged, ScenariosConfig(), seed, packaged_strategies())
    suits = Suits(packaged)
    judged = [suits(scenarios[i]) for i in range(660) if scenarios[i].target_principle.id in KNOWN]
    for axis, share in zip(zip(*judged, strict=True), (0.99, 0.99, 0.95), strict=True):
        assert sum(level >= 2 for level in axis) >= share * len(judged)
        assert 0 not in axis


KNOWN = set(catalogue.load().affinities)


def test_a_principle_is_met_on_many_topics_and_with_many_goals(packaged: Catalogue) -> None:
    scenarios = Scenarios(packaged, ScenariosConfig(), 0, packaged_strategies())
    n = len(packaged.principles)
    fields, goals = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for scenario in (scenarios[i] for i in range(20 * n)):
        fields[scenario.target_principle.id].add(scenario.field)
        goals[scenario.target_principle.id].add(scenario.goal.id)
    assert min(map(len, fields.values())) >= 5
    assert min(map(len, goals.values())) >= 5


@pytest.mark.parametrize("axis", AXES)
def test_a_scenario_for_a_cell_fits_its_principle(packaged: Catalogue, axis: Axis) -> None:
    scenarios = Scenarios(packaged, ScenariosConfig(), 1, packaged_strategies())
    suits, cells = Suits(packaged), scenarios.cells(axis)
    for i in range(400):
        cell = cells[hash64(i) % len(cells)]
        absurd = scenarios.absurd_strategies(axis, cell)
        ways = (
            [cell] if axis == "strategy" else [s for s in packaged_strategies() if s not in absurd]
        )
        made = scenarios.for_cell(i, axis, cell, ways[i % len(ways)])
        assert made == scenarios.for_cell(i, axis, cell, ways[i % len(ways)])
        assert (made.index, made.strategy) == (i, ways[i % len(ways)])
        if made.target_principle.id in KNOWN:
            assert 0 not in suits(made)


def test_cells_are_met_on_many_topics(packaged: Catalogue) -> None:
    scenarios = Scenarios(packaged, ScenariosConfig(), 1)
    n = len(packaged.principles)
    for cell in ("no-weapon-recipes", "honour-stated-constraints"):
        made = [scenarios.for_cell(k * n, "principle", cell, "direct") for k in range(60)]
        assert {s.target_principle.id for s in made} == {cell}
        assert len({s.field for s in made}) >= 6
        assert len({(s.domain, s.subarea) for s in made}) >= 40
        assert len({s.goal.id for s in made}) >= 12


def test_a_strategy_that_contradicts_a_cell_is_named(packaged: Catalogue) -> None:
    scenarios = Scenarios(packaged, ScenariosConfig(), 0, packaged_strategies())
    assert set(scenarios.absurd_strategies("principle", "no-condescension")) == {
        "flattery",
        "sympathy",
    }
    assert scenarios.absurd_strategies("category", "respect") == ()
    assert scenarios.absurd_strategies("strategy", "haste") == ()


def test_principles_that_fit_nothing_well_come_at_any_time() -> None:
    """They are spread over a block, although others have the first claim on what fits them."""
    whole = catalogue.load()
    principles = whole.principles
    known = {p.id: whole.affinities[p.id] for p in principles if not p.check}
    packaged = replace(whole, affinities=known)
    half, early, all_ = len(principles) // 2, 0, 0
    for seed in range(8):
        scenarios = Scenarios(packaged, ScenariosConfig(), seed)
        targets = [scenarios[i].target_principle.id for i in range(len(principles))]
        early += sum(target not in known for target in targets[:half])
        all_ += sum(target not in known for target in targets)
    assert 0.35 < early / all_ < 0.65
