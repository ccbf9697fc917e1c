"""Agreement and intervals against definitions written down independently, and at their edges."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd.reports.stats import alpha, detection, kappa, paired_bootstrap, proportion

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=30)
YESNO = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40)
UNITS = st.lists(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=5), max_size=12)

# Krippendorff's own example (2011): four observers, twelve units; "." is missing.
OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def cohen_kappa(a: Sequence[str], b: Sequence[str]) -> float | None:
    return kappa(Counter(zip(a, b, strict=True)))


def krippendorff_alpha(units: Sequence[Sequence[str | None]]) -> float | None:
    return alpha(Counter(map(tuple, units)))


def by_definition(a: Sequence[str], b: Sequence[str]) -> Fraction | None:
    """Kappa from the probabilities themselves, exactly."""
    n = len(a)
    if n == 0:
        return None
    seen = Fraction(sum(x == y for x, y in zip(a, b, strict=True)), n)
    chance = sum((Fraction(a.count(c) * b.count(c), n * n) for c in set(a)), Fraction(0))
    return None if chance == 1 else (seen - chance) / (1 - chance)


def alpha_by_pairs(units: Sequence[Sequence[str | None]]) -> Fraction | None:
    """Alpha as 1 - observed / expected disagreement, by listing every ordered pair of ratings."""
    known = [[r for r in unit if r is not None] for unit in units]
    known = [unit for unit in known if len(unit) > 1]
    pooled = [rating for unit in known for rating in unit]
    if len(set(pooled)) < 2:
        return None
    n = len(pooled)
    observed = sum(
        (Fraction(sum(x != y for x, y in permutations(u, 2)), len(u) - 1) for u in known),
        Fraction(0),
    )
    expected = Fraction(sum(x != y for x, y in permutations(pooled, 2)), n - 1)
    return 1 - observed / expected


# -- kappa ---------------------------------------------------------------------------------


@given(PAIRS)
def test_kappa_is_its_definition(pairs: list[tuple[str, str]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    wanted = by_definition(a, b)
    assert cohen_kappa(a, b) == (None if wanted is None else pytest.approx(float(wanted)))
    assert cohen_kappa(b, a) == (None if wanted is None else pytest.approx(float(wanted)))


def test_kappa_at_its_edges() -> None:
    assert cohen_kappa([], []) is None
    assert cohen_kappa("aaa", "aaa") is None
    assert cohen_kappa("a", "b") == 0
    assert cohen_kappa("abc", "abc") == 1
    assert cohen_kappa("ab", "ba") == -1


# -- alpha ---------------------------------------------------------------------------------


@given(UNITS)
def test_alpha_is_its_definition(units: list[list[str | None]]) -> None:
    wanted = alpha_by_pairs(units)
    found = krippendorff_alpha(units)
    assert found == (None if wanted is None else pytest.approx(float(wanted), abs=1e-12))


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=20), st.integers(2, 5))
def test_perfect_agreement_is_one(ratings: list[str], raters: int) -> None:
    expected = None if len(set(ratings)) == 1 else 1
    assert krippendorff_alpha([[r] * raters for r in ratings]) == expected


def test_alpha_of_two_raters_is_worked_out_by_hand() -> None:
    # ten units, "b" 14 of 20 ratings, four units differ: 1 - 19 * 8 / (400 - 196 - 36)
    units = [["a", "b"]] * 4 + [["b", "b"]] * 5 + [["a", "a"]]
    assert krippendorff_alpha(units) == pytest.approx(1 - 19 * 8 / 168)


def test_alpha_of_the_published_example() -> None:
    units = [[None if r == "." else r for r in unit] for unit in zip(*OBSERVERS, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_at_its_edges() -> None:
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["a"], ["b"], [None, "a"], []]) is None  # nothing rated twice
    assert krippendorff_alpha([["a", "a"], ["a", None]]) is None
    assert krippendorff_alpha([["a", "b"]]) == 0


# -- against the truth ---------------------------------------------------------------------


@given(YESNO)
def test_precision_and_recall_are_counts(pairs: list[tuple[bool, bool]]) -> None:
    found = detection(Counter(pairs))
    called = [y for x, y in pairs if x]
    there = [x for x, y in pairs if y]
    assert found.precision == proportion(sum(called), len(called))
    assert found.recall == proportion(sum(there), len(there))


# -- the bootstrap -------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), max_size=12))
def test_a_difference_lies_among_the_differences(pairs: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    each = [y - x for x, y in pairs]
    found = paired_bootstrap(a, b, resamples=200)
    if len(set(each)) < 2:
        assert found is None
        return
    assert found is not None
    assert found.high is not None
    assert found.value == pytest.approx(sum(each) / len(each))
    assert min(each) <= found.low <= found.high <= max(each)


def test_swapping_the_arms_swaps_the_ends() -> None:
    rng = random.Random(3)
    a = [rng.random() for _ in range(40)]
    b = [rng.random() for _ in range(40)]
    there, back = paired_bootstrap(a, b, seed=5), paired_bootstrap(b, a, seed=5)
    assert there is not None
    assert there.high is not None
    assert back is not None
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert paired_bootstrap(a, b, seed=5) == there
    assert paired_bootstrap(a, b, seed=6) != there


def test_the_interval_of_many_is_the_normal_ones() -> None:
    rng = random.Random(11)
    a = [rng.gauss(0, 5) for _ in range(500)]
    b = [x + rng.gauss(1, 2) for x in a]
    found = paired_bootstrap(a, b)
    assert found is not None
    assert found.high is not None
    half = 1.96 * 2 / 500**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.12)  # 5 does not come in


def test_most_intervals_hold_the_truth() -> None:
    rng = random.Random(13)
    held = 0
    for _ in range(100):
        a = [float(rng.random() < 0.3) for _ in range(60)]
        b = [float(rng.random() < 0.5) for _ in range(60)]
        found = paired_bootstrap(a, b, resamples=200)
        held += found is not None and found.low <= 0.2 <= (found.high or 0)
    assert 87 <= held <= 100


def test_one_pair_and_no_variation_tell_nothing() -> None:
    assert paired_bootstrap([], []) is None
    assert paired_bootstrap([1], [2]) is None
    assert paired_bootstrap([1, 2, 3], [2, 3, 4]) is None
    with pytest.raises(ValueError, match="zip"):
        paired_bootstrap([1, 2], [1])
