"""Targets: rounds follow from counts alone, keep to the quota, and come to an end in any world."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from sdsd.hashing import hash64
from sdsd.scenarios.quotas import (
    GROWTH,
    SHARE,
    Assignment,
    Quota,
    Rates,
    Tally,
    Trial,
    allocate,
    summary,
)

Chances = Callable[[Assignment], float]
CELLS = ("a", "b", "c", "d", "e")
WAYS = ("direct", "subtle", "persona", "haste")


class Run(Struct):
    """A finished run: the rounds as they were laid out, and what was known at each."""

    rounds: list[tuple[Assignment, ...]]
    states: list[bytes]
    state: Tally


def outcome(slot: Assignment, chances: Chances, seed: int, number: int, place: int) -> Trial:
    hit = hash64("hit", seed, number, place) / 2**64 < chances(slot)
    return Trial(slot, hit, (slot.cell,) if hit else ())


def simulate(quota: Quota, chances: Chances, seed: int, *, shuffled: bool = False) -> Run:
    """A whole run with its lag: round r is laid out when r - 2 is finished."""
    state, under_way = Tally(), list[tuple[int, tuple[Assignment, ...]]]()
    run = Run([], [], state)

    def finish() -> None:
        number, slots = under_way.pop(0)
        seen = [outcome(slot, chances, seed, number, k) for k, slot in enumerate(slots)]
        if shuffled:
            Random(number).shuffle(seen)
        for one in seen:
            state.add(one)
        state.settle(quota)

    for number in range(100_000):
        run.states.append(msgspec.json.encode(state))
        slots = allocate(state, under_way[-1][1] if under_way else (), quota, seed, number)
        if not slots:
            break
        run.rounds.append(slots)
        under_way.append((number, slots))
        if len(under_way) == 2:
            finish()
    else:
        pytest.fail("it does not end")
    while under_way:
        finish()
    return run


def counted(counts: Mapping[Assignment, tuple[int, int]]) -> Tally:
    """A state of (tries, hits) by slot."""
    state = Tally()
    for slot, (tries, hits) in counts.items():
        for k in range(tries):
            state.add(Trial(slot, k < hits, (slot.cell,) if k < hits else ()))
    return state


slots = st.builds(Assignment, st.sampled_from(CELLS), st.sampled_from(WAYS))
seen = st.builds(
    Trial,
    slots,
    st.booleans(),
    st.lists(st.sampled_from(CELLS), max_size=3).map(tuple),
    st.floats(0, 1e6),
)
quotas = st.builds(
    Quota,
    wanted=st.dictionaries(st.sampled_from(CELLS), st.integers(0, 12), min_size=1),
    strategies=st.integers(1, 4).map(lambda k: WAYS[:k]),
    by_strategy=st.just(False),
    cost=st.floats(1, 30),
    explore=st.floats(0, 1),
    patience=st.integers(1, 3),
    least=st.integers(1, 40),
    most=st.integers(40, 60),
)
seeds = st.integers(0, 2**32)


# -- counting ------------------------------------------------------------------------------


@given(st.lists(seen, max_size=40), st.randoms())
def test_the_order_of_adding_does_not_matter(found: list[Trial], chance: Random) -> None:
    one, other = Tally(), Tally()
    for result in found:
        one.add(result)
    chance.shuffle(found)
    for result in found:
        other.add(result)
    assert one == other
    encoded = [msgspec.json.encode(state, order="deterministic") for state in (one, other)]
    assert encoded[0] == encoded[1]


def test_what_a_dialogue_counts_for() -> None:
    state = Tally()
    state.add(Trial(Assignment("a", "direct"), False, ("b", "b"), 2.5))
    state.add(Trial(Assignment("a", "subtle"), True, ("a", "c"), 1.0))
    state.add(Trial(Assignment("a", "subtle"), False))
    assert state.tries == {"a": {"direct": 1, "subtle": 2}}
    assert state.hits == {"a": {"subtle": 1}}
    assert state.pairs == {"a": 1, "b": 1, "c": 1}
    assert state.spent == {"direct": 2500, "subtle": 2000}
    assert state.tried("a") == 3


def test_memory_does_not_grow_with_the_run() -> None:
    state = Tally()
    for k in range(5000):
        state.add(Trial(Assignment(CELLS[k % 5], WAYS[k % 4]), k % 3 == 0, (CELLS[k % 5],)))
    assert len(msgspec.json.encode(state)) < 1000


# -- a round -------------------------------------------------------------------------------


@given(st.lists(seen, max_size=60), st.lists(slots, max_size=30), quotas, seeds, seeds)
def test_a_round_is_a_pure_function_that_keeps_to_the_quota(
    found: list[Trial], in_flight: list[Assignment], quota: Quota, seed: int, number: int
) -> None:
    state = Tally()
    for result in found:
        state.add(result)
    in_flight = [slot for slot in in_flight if slot.strategy in quota.strategies]
    state.settle(quota)
    before = msgspec.json.encode(state)
    made = allocate(state, in_flight, quota, seed, number)
    assert msgspec.json.encode(state) == before
    restored = msgspec.json.decode(before, type=Tally)
    assert allocate(restored, list(in_flight), quota, seed, number) == made

    unfinished = {cell for cell in quota.wanted if state.is_open(cell, quota)}
    assert bool(made) == bool(unfinished)
    assert {slot.cell for slot in made} <= unfinished
    assert {slot.strategy for slot in made} <= set(quota.strategies)
    assert len(made) <= quota.most
    if len(made) == 1:
        return  # it may be the one dialogue where all that is needed is under way
    rates, under_way = Rates(state, quota), Counter(slot.cell for slot in in_flight)
    for cell, count in Counter(slot.cell for slot in made).items():
        lacking = quota.wanted[cell] - state.pairs.get(cell, 0)
        coming = sum(rates.mean(s.cell, s.strategy) for s in in_flight if s.cell == cell)
        assert count - 1 < (lacking - coming) / rates.expected(cell) + 1e-9
        assert count - 1 < state.room(cell, quota) - under_way[cell]


@pytest.mark.parametrize("number", [0, 1])
def test_what_nobody_knows_anything_of_is_tried_evenly(number: int) -> None:
    cells, ways = [f"cell {k}" for k in range(24)], tuple(f"way {k}" for k in range(6))
    quota = Quota(dict.fromkeys(cells, 10), ways)
    made = [slot for k in range(number + 1) for slot in allocate(Tally(), (), quota, 5, k)]
    by_cell, by_way = Counter(s.cell for s in made), Counter(s.strategy for s in made)
    assert max(by_cell.values()) - min(by_cell.values()) <= number + 1
    assert set(by_cell) == set(cells)
    assert max(by_way.values()) - min(by_way.values()) <= len(by_way)


def test_the_second_round_goes_on_where_the_first_was() -> None:
    quota = Quota(dict.fromkeys(CELLS, 10), WAYS, least=10)
    first = allocate(Tally(), (), quota, 1, 0)
    second = allocate(Tally(), first, quota, 1, 1)
    assert Counter(first + second) == Counter(
        Assignment(cell, way) for cell in CELLS for way in WAYS
    )


def test_a_seed_changes_the_order() -> None:
    quota = Quota(dict.fromkeys(CELLS, 10), WAYS)
    assert allocate(Tally(), (), quota, 1, 0) != allocate(Tally(), (), quota, 2, 0)


def test_cells_in_need_come_first_and_get_more() -> None:
    state = counted({Assignment("a", "direct"): (20, 10), Assignment("b", "direct"): (20, 2)})
    quota = Quota({"a": 20, "b": 20}, ("direct",), least=30)
    made = [slot.cell for slot in allocate(state, (), quota, 0, 2)]
    assert made[0] == "b"
    assert made.count("b") > 3 * made.count("a") > 0
    half = made[: len(made) // 2]
    assert abs(half.count("a") - made.count("a") / 2) <= 1


def test_what_is_under_way_is_counted_on() -> None:
    state = counted({Assignment("a", "direct"): (40, 20)})
    quota = Quota({"a": 24}, ("direct",), least=30)
    alone = allocate(state, (), quota, 0, 2)
    beside = allocate(state, alone[:4], quota, 0, 2)
    assert len(beside) == len(alone) - 4
    assert len(allocate(state, alone, quota, 0, 2)) == 1  # it may fail, so it is not over


def test_a_round_grows_with_what_is_known_and_needed() -> None:
    quota = Quota(dict.fromkeys(CELLS, 1000), ("direct",))
    assert len(allocate(Tally(), (), quota, 0, 0)) == quota.least
    known = counted({Assignment(cell, "direct"): (400, 100) for cell in CELLS})
    assert len(allocate(known, (), quota, 0, 9)) == 2000 / GROWTH
    few = Quota(dict.fromkeys(CELLS, 300), ("direct",))
    rate = Rates(known, few).expected("a")
    assert len(allocate(known, (), few, 0, 9)) == round(5 * 200 / rate / SHARE)


# -- strategies ----------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(0, 3), st.booleans())
def test_an_excluded_strategy_is_never_tried_in_its_cell(
    seed: int, number: int, known: bool
) -> None:
    quota = Quota(dict.fromkeys(CELLS, 30), WAYS, explore=0.5, excluded={"a": WAYS[:2], "b": WAYS})
    found = {Assignment(cell, way): (9, 3) for cell in CELLS for way in quota.ways(cell)}
    slots = allocate(counted(found) if known else Tally(), (), quota, seed, number)
    tried = {cell: {s.strategy for s in slots if s.cell == cell} for cell in CELLS}
    assert not tried["a"] & set(WAYS[:2])
    assert quota.ways("a") == WAYS[2:]
    assert quota.ways("b") == WAYS  # one must be left
    assert quota.ways("c") == WAYS


def chosen(state: Tally, quota: Quota, cell: str, seed: int = 3) -> Counter[str]:
    """Strategies of one large round."""
    return Counter(s.strategy for s in allocate(state, (), quota, seed, 7) if s.cell == cell)


def large(cells: Mapping[str, int], explore: float) -> Quota:
    return Quota(dict(cells), WAYS, cost=math.inf, explore=explore, least=2000)


def test_the_better_strategy_is_preferred() -> None:
    state = counted({Assignment("a", way): (100, 40 if way == "persona" else 5) for way in WAYS})
    found = chosen(state, large({"a": 10_000}, 0.0), "a")
    assert found == {"persona": 2000}


@pytest.mark.parametrize("explore", [0.1, 0.5, 1.0])
def test_the_share_of_exploration_is_kept(explore: float) -> None:
    state = counted({Assignment("a", way): (100, 40 if way == "persona" else 5) for way in WAYS})
    found = chosen(state, large({"a": 10_000}, explore), "a")
    for way in ("direct", "subtle", "haste"):
        due = 2000 * explore / len(WAYS)
        assert abs(found[way] - due) < 4.5 * math.sqrt(due)


def test_exploration_fades_where_little_is_needed() -> None:
    state = counted({Assignment("a", way): (100, 95 if way == "persona" else 5) for way in WAYS})
    quota = Quota({"a": 111}, WAYS, explore=0.4, least=1)  # 1.5 are needed: 0.15 of uniform choices
    found = Counter(allocate(state, (), quota, seed, 7)[0].strategy for seed in range(400))
    assert 0.8 < found["persona"] / 400 < 0.97  # 0.85 and a quarter of the rest, not 0.6


def test_a_cell_learns_from_others() -> None:
    """Where nothing was tried, the strategy that is best elsewhere is expected to be best."""
    state = counted(
        {Assignment(c, way): (50, 25 if way == "subtle" else 2) for c in "bcde" for way in WAYS}
    )
    quota = large(dict.fromkeys(CELLS, 1000), 0.0)
    rates = Rates(state, quota)
    assert max(WAYS, key=lambda way: rates.mean("a", way)) == "subtle"
    assert 0.3 < rates.mean("a", "subtle") < 0.6
    assert chosen(state, quota, "a").most_common(1)[0][0] == "subtle"


def test_a_strategy_is_expected_to_be_worse_in_a_hard_cell() -> None:
    counts = {Assignment(c, way): (50, 20) for c in "bcd" for way in WAYS}
    counts |= {Assignment("a", way): (50, 1) for way in WAYS[:3]}
    rates = Rates(counted(counts), large(dict.fromkeys(CELLS, 100), 0.0))
    assert rates.mean("a", "haste") < 0.1
    assert 0.3 < rates.mean("e", "haste") < 0.45  # of which nothing is known


def test_own_findings_outweigh_those_of_others() -> None:
    counts = {
        Assignment(c, way): (50, 25 if way == "subtle" else 5) for c in "bcde" for way in WAYS
    }
    counts |= {Assignment("a", "subtle"): (60, 0), Assignment("a", "haste"): (60, 30)}
    rates = Rates(counted(counts), large(dict.fromkeys(CELLS, 100), 0.0))
    assert rates.mean("a", "haste") > 5 * rates.mean("a", "subtle")


def test_what_costs_ten_times_must_bring_ten_times() -> None:
    state = Tally()
    for k in range(400):
        way = WAYS[k % 2]
        hit = k % 20 < 10
        state.add(
            Trial(Assignment("a", way), hit, ("a",) if hit else (), 5000.0 if k % 2 else 500.0)
        )
    quota = Quota({"a": 10_000}, WAYS[:2], cost=math.inf, explore=0.0, least=500)
    assert chosen(state, quota, "a") == {WAYS[0]: 500}


def test_cells_that_are_strategies_are_tried_by_themselves() -> None:
    quota = Quota(dict.fromkeys(WAYS, 5), WAYS, by_strategy=True)
    run = simulate(quota, lambda slot: 0.1 * len(slot.cell), 4)
    assert all(slot.cell == slot.strategy for made in run.rounds for slot in made)
    assert {s.status for s in summary(run.state, quota)} == {"reached"}


# -- the end -------------------------------------------------------------------------------


def test_a_cell_is_given_up_with_the_numbers() -> None:
    quota = Quota({"a": 5, "b": 5}, WAYS, cost=10)
    slot = Assignment("a", "direct")
    state = counted({slot: (19, 1)})
    assert state.settle(quota) == ()
    state.add(Trial(slot, False))
    assert state.settle(quota) == ("a",)
    assert state.settle(quota) == ()
    a, b = summary(state, quota)
    assert (a.status, a.tries, a.pairs, a.wanted) == ("given up", 20, 1, 5)
    assert "20 dialogues yielded 1 of 5 pairs" in a.reason
    assert (b.status, b.tries, b.pairs, b.reason) == ("lagging", 0, 0, "")
    state.add(Trial(slot, True, ("a",)))  # was under way
    state.settle(quota)
    assert summary(state, quota)[0].status == "given up"
    assert {made.cell for made in allocate(state, (), quota, 0, 3)} == {"b"}


def test_patience_allows_for_bad_luck() -> None:
    quota = Quota({"a": 5}, WAYS, cost=10, patience=3)
    state = counted({Assignment("a", "direct"): (39, 1)})
    assert state.settle(quota) == ()
    state.add(Trial(Assignment("a", "direct"), False))
    assert state.settle(quota) == ("a",)


def test_what_is_given_up_and_reached_all_the_same_is_reached() -> None:
    quota = Quota({"a": 1}, WAYS, cost=2)
    state = counted({Assignment("a", "direct"): (2, 0)})
    assert state.settle(quota) == ("a",)
    state.add(Trial(Assignment("b", "direct"), False, ("a",)))
    assert summary(state, quota)[0].status == "reached"


def test_pairs_by_accident_count() -> None:
    quota = Quota({"a": 2, "b": 2}, WAYS)
    state = Tally()
    for _ in range(2):
        state.add(Trial(Assignment("a", "direct"), False, ("b",)))
    assert {slot.cell for slot in allocate(state, (), quota, 0, 0)} == {"a"}
    assert [s.status for s in summary(state, quota)] == ["lagging", "reached"]


def test_nothing_wanted_is_nothing_done() -> None:
    quota = Quota({"a": 0, "b": 0}, WAYS)
    assert allocate(Tally(), (), quota, 0, 0) == ()
    assert [s.status for s in summary(Tally(), quota)] == ["reached", "reached"]


@settings(max_examples=40)
@given(quotas, seeds, st.sampled_from([0.0, 0.02, 0.3, 1.0, None]))
def test_every_run_ends_with_every_cell_reached_or_given_up(
    quota: Quota, seed: int, chance: float | None
) -> None:
    def chances(slot: Assignment) -> float:
        drawn = hash64("chance", seed, slot.cell, slot.strategy) / 2**64
        return drawn**3 if chance is None else chance

    run = simulate(quota, chances, seed)
    for standing in summary(run.state, quota):
        assert standing.status != "lagging"
        # The one dialogue where all else waits, and the rounding up.
        assert standing.tries <= quota.cost * (standing.pairs + quota.patience) + 2
        if chance == 1.0 and quota.wanted[standing.cell]:
            assert standing.status == "reached"
        if chance == 0.0 and quota.wanted[standing.cell]:
            assert standing.status == "given up"
        if not standing.wanted:
            assert standing.tries == 0


@settings(max_examples=20)
@given(quotas, seeds)
def test_a_run_goes_on_from_any_stored_state(quota: Quota, seed: int) -> None:
    """Neither the order of completion nor a restart changes a round."""

    def chances(slot: Assignment) -> float:
        return 0.1 + 0.6 * hash64(seed, slot.strategy) / 2**64

    run = simulate(quota, chances, seed)
    assert simulate(quota, chances, seed, shuffled=True).rounds == run.rounds
    for number, made in enumerate(run.rounds):
        state = msgspec.json.decode(run.states[number], type=Tally)
        in_flight = run.rounds[number - 1] if number else ()
        assert allocate(state, in_flight, quota, seed, number) == made


def test_quotas_are_met_with_little_more_than_the_best_strategy_needs() -> None:
    cells, ways = [f"cell {k}" for k in range(20)], tuple(f"way {k}" for k in range(6))

    def chances(slot: Assignment) -> float:
        hard = 0.4 if int(slot.cell[5:]) % 4 else 0.1
        return hard if slot.strategy == "way 2" else hard / 5

    quota = Quota(dict.fromkeys(cells, 30), ways)
    run = simulate(quota, chances, 8)
    made = sum(map(len, run.rounds))
    best = sum(30 / max(chances(Assignment(cell, way)) for way in ways) for cell in cells)
    uniform = sum(30 * 6 / sum(chances(Assignment(cell, way)) for way in ways) for cell in cells)
    assert made < 1.35 * best < 0.6 * uniform
    standing = summary(run.state, quota)
    assert {s.status for s in standing} == {"reached"}
    assert sum(s.pairs for s in standing) < 1.05 * 30 * len(cells)
