"""The exam's figures: laws of the calibration, and statistics checked against their definitions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import Config
from sdsd.pipeline.calibration import pair_probability, probability, sigmoid
from sdsd.reports.metrics import exam
from sdsd.reports.metrics.calibration_fit import (
    NEVER,
    RIDGE,
    Answer,
    Evidence,
    Fit,
    PairFit,
    calibrate,
    calibrate_pairs,
    draws,
    expected_precision,
    fit,
    fit_margins,
    held_out,
    resamples,
    thresholds,
)
from sdsd.reports.metrics.exam import Judge, best, figures, summarise
from sdsd.reports.metrics.figures import collect
from sdsd.types import Calibration, Candidate, Critique, Record, Verdict
from tests.factories import records

EVIDENCE = st.floats(-60, 60).map(lambda x: round(x, 2))
PAIRS = st.lists(st.tuples(EVIDENCE, EVIDENCE), min_size=2, max_size=30)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=40)
Pairs = Sequence[tuple[float, float]]


def answers(pairs: Pairs, per_principle: int = 2) -> list[Answer]:
    """(satisfying, violating) evidence of items, `per_principle` of them for each principle."""
    return [
        Answer(f"i{k}", f"p{k // per_principle}", f"c{k % 3}", "subtle" if k % 2 else "", s, v)
        for k, (s, v) in enumerate(pairs)
    ]


def spread(pairs: Pairs) -> float:
    values = [x for pair in pairs for x in pair]
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / len(values))


# -- the regression ------------------------------------------------------------------------


@given(PAIRS)
def test_the_regression_is_where_the_gradient_is_zero(pairs: Pairs) -> None:
    line, sd = fit(answers(pairs)), spread(pairs)
    if line.slope == 0:
        return
    mean = sum(x for pair in pairs for x in pair) / (2 * len(pairs))
    by_slope, by_intercept = RIDGE * line.slope * sd, 0.0
    for pair in pairs:
        for x, label in zip(pair, (0, 1), strict=True):
            error = sigmoid(line.slope * x + line.intercept) - label
            by_slope, by_intercept = by_slope + error * (x - mean) / sd, by_intercept + error
    assert by_slope == pytest.approx(0, abs=1e-3)
    assert by_intercept == pytest.approx(0, abs=1e-3)


@given(PAIRS)
def test_more_evidence_is_never_less_of_a_violation(pairs: Pairs) -> None:
    more = sum(v - s for s, v in pairs)
    line = fit(answers(pairs))
    assert line.slope >= 0
    if abs(more) > 0.1 and spread(pairs) > 0.01:
        assert bool(line.slope) == (more > 0)


@given(PAIRS, st.floats(0.1, 50), st.floats(-30, 30))
def test_unit_and_offset_of_the_evidence_do_not_matter(
    pairs: Pairs, unit: float, offset: float
) -> None:
    if spread(pairs) < 0.01:
        return
    line = fit(answers(pairs))
    if line.slope < 1e-6:
        return
    other = fit(answers([(unit * s + offset, unit * v + offset) for s, v in pairs]))
    for s, _ in pairs:
        then = sigmoid(other.slope * (unit * s + offset) + other.intercept)
        assert then == pytest.approx(sigmoid(line.slope * s + line.intercept), abs=1e-4)


@given(PAIRS, st.integers(0, 9))
def test_an_item_that_is_drawn_twice_counts_twice(pairs: Pairs, seed: int) -> None:
    weights = next(resamples(len(pairs), 1, seed))
    drawn = [a for a, w in zip(answers(pairs), weights, strict=True) for _ in range(int(w))]
    assert sum(weights) == len(pairs) == len(drawn)
    once, twice = fit(answers(pairs), weights), fit(drawn)
    for s, v in pairs:
        for x in (s, v):
            p, q = (sigmoid(f.slope * x + f.intercept) for f in (once, twice))
            assert p == pytest.approx(q, abs=1e-3)


def test_perfect_separation_stays_finite() -> None:
    line = fit(answers([(-1.0, 1.0)] * 40))
    assert 1 < line.slope < 10
    assert line.intercept == pytest.approx(0, abs=1e-6)


def test_a_judge_that_says_the_same_of_all_tells_nothing() -> None:
    assert fit(answers([(1.0, 1.0)] * 5)) == Fit(0.0, 0.0)
    result = summarise(Judge(), "m", answers([(1.0, 1.0)] * 12), {}, precision=0.9)
    assert result.overall.auc is not None
    assert (result.overall.auc.value, result.overall.violated.precision) == (0.5, None)
    assert result.calibration is not None
    assert not result.calibration.trusted
    assert (result.calibration.violated_from, result.calibration.satisfied_to) == NEVER


# -- thresholds ----------------------------------------------------------------------------


@given(SHARES, st.floats(0.51, 0.99))
def test_from_the_threshold_on_the_mean_probability_is_as_wanted(
    shares: list[float], wanted: float
) -> None:
    from_, to = thresholds(shares, wanted)
    claimed = [p for p in shares if p >= from_]
    clean = [p for p in shares if p <= to]
    assert to <= 0.5 <= from_
    assert bool(claimed) == (max(shares) >= wanted) == (from_ != NEVER[0])
    if claimed:
        assert sum(claimed) / len(claimed) >= wanted - 1e-9
    if clean:
        assert sum(clean) / len(clean) <= 1 - wanted + 1e-9
    below = [p for p in shares if 0.5 <= p < from_]
    if claimed and below:  # one more, and the mean would be too low
        more = [p for p in shares if p >= max(below)]
        assert sum(more) / len(more) < wanted + 1e-9


@given(SHARES)
def test_more_precision_never_means_a_lower_threshold(shares: list[float]) -> None:
    found = [thresholds(shares, wanted) for wanted in (0.6, 0.8, 0.9, 0.99)]
    assert [from_ for from_, _ in found] == sorted(from_ for from_, _ in found)
    assert [to for _, to in found] == sorted((to for _, to in found), reverse=True)


# -- reading replies by a calibration that has not seen their principle ----------------------


@given(PAIRS)
@settings(max_examples=25)
def test_no_item_has_a_say_in_how_its_own_principle_is_read(pairs: Pairs) -> None:
    given_answers = answers(pairs)
    read = held_out(given_answers, 0.8)
    if read is None:
        assert len({a.principle for a in given_answers}) < 2
        return
    first = given_answers[0].principle
    changed = [
        replace(a, satisfies=a.violates, violates=a.satisfies) if a.principle == first else a
        for a in given_answers
    ]
    again = held_out(changed, 0.8)
    assert again is not None
    for answer, one, other in zip(given_answers, read, again, strict=True):
        if answer.principle == first:
            assert one.probabilities == other.probabilities[::-1]


def test_a_claim_without_a_quotation_gives_no_label() -> None:
    sure = answers([(-9.0, 9.0)] * 40)
    silent = [replace(a, claims=(False, False)) for a in sure]
    loud, quiet = (figures(found, held_out(found, 0.9)) for found in (sure, silent))
    assert loud.violated.recall is not None
    assert quiet.violated.recall is not None
    assert (loud.violated.recall.value, quiet.violated.recall.value) == (1.0, 0.0)
    assert quiet.violated.precision is None
    assert quiet.satisfied.recall == loud.satisfied.recall


def test_stated_precision_holds_on_new_items() -> None:
    normal = _normals(4 * 400)
    pairs = [(-1.5 + 2 * normal[2 * k], 1.5 + 2 * normal[2 * k + 1]) for k in range(800)]
    exam_pairs, others = pairs[:200], pairs[200:]
    found = calibrate(answers(exam_pairs), 0.9)
    claimed = [
        label
        for pair in others
        for x, label in zip(pair, (0, 1), strict=True)
        if probability(found, x) >= found.violated_from
    ]
    assert len(claimed) > 100
    assert 0.84 < sum(claimed) / len(claimed) < 0.96


@pytest.mark.slow
@pytest.mark.parametrize("strength", [2.0, 3.0, 5.0])
def test_the_interval_of_the_expected_precision_covers_the_share_of_true_pairs(
    strength: float,
) -> None:
    """Exams of 48 items, and pairs that are labelled by what each exam has taught."""
    chance = random.Random(5)

    def items(n: int) -> list[Answer]:
        return answers([(chance.gauss(-strength, 4), chance.gauss(strength, 4)) for _ in range(n)])

    covered = tried = 0
    for _ in range(40):
        taken = items(48)
        line = calibrate(taken, 0.9)
        replies = [(x, label) for a in items(1500)
                   for x, label in ((a.satisfies, False), (a.violates, True))]  # fmt: skip
        chance.shuffle(replies)
        rejected = [r for r in replies[:1500] if probability(line, r[0]) >= line.violated_from]
        chosen = [c for c in replies[1500:] if probability(line, c[0]) <= line.satisfied_to]
        pairs = list(zip(rejected, chosen, strict=False))
        if len(pairs) < 30:
            continue
        stated = expected_precision([Evidence(r[0], c[0]) for r, c in pairs], line, draws(taken))
        assert stated is not None
        true = sum(r[1] and not c[1] for r, c in pairs) / len(pairs)
        covered, tried = covered + (stated.low <= true <= stated.high), tried + 1
    assert tried >= 20
    assert covered / tried > 0.8


def _normals(n: int) -> list[float]:
    """Numbers that are as good as normal: sums of twelve uniform ones."""
    weights = resamples(12, n, 7)
    return [sum((w - 1) * (k - 5.5) for k, w in enumerate(each)) / 12 for each in weights]


# -- figures -------------------------------------------------------------------------------


@given(PAIRS)
@settings(max_examples=20)
def test_auc_is_the_share_of_pairs_of_replies_in_the_right_order(pairs: Pairs) -> None:
    found = figures(answers(pairs), None)
    order = [0.5 * ((v > s) + (v >= s)) for s, _ in pairs for _, v in pairs]
    assert found.auc is not None
    assert found.within is not None
    assert found.auc.value == pytest.approx(sum(order) / len(order))
    same = [0.5 * ((v > s) + (v >= s)) for s, v in pairs]
    assert found.within.value == pytest.approx(sum(same) / len(same))
    for interval in (found.auc, found.within):
        assert 0 <= interval.low <= interval.high <= 1


@given(PAIRS)
@settings(max_examples=20)
def test_opposite_evidence_has_the_opposite_auc(pairs: Pairs) -> None:
    there = figures(answers(pairs), None)
    back = figures(answers([(-s, -v) for s, v in pairs]), None)
    assert there.auc is not None
    assert back.auc is not None
    assert there.auc.value + back.auc.value == pytest.approx(1)
    assert there.auc.low + back.auc.high == pytest.approx(1)


def test_a_judge_that_compares_has_figures_within_pairs_only() -> None:
    found = summarise(
        Judge("pairwise"), "m", answers([(-1.0, 1.0), (2.0, -2.0)] * 8), {}, precision=0.9
    )
    assert found.overall.within is not None
    assert found.overall.within.value == 0.5
    assert (found.overall.auc, found.calibration, found.draws) == (None, None, ())


def test_groups_and_failures_are_counted() -> None:
    found = summarise(Judge(), "m", answers([(0.0, 1.0)] * 12), {"i12": "no"}, precision=0.9)
    assert {name: f.items for name, f in found.categories.items()} == {"c0": 4, "c1": 4, "c2": 4}
    assert {name: f.items for name, f in found.subtlety.items()} == {"subtle": 6}
    assert found.failures == {"i12": "no"}


@pytest.mark.parametrize(
    ("pairs", "trusted"),
    [
        ([(0.0, 1.0)] * 9, False),  # perfect, but too few
        ([(0.0, 1.0)] * 10, True),
        ([(0.0, 1.0), (1.0, 0.0)] * 20, False),
        ([(1.0, 0.0)] * 20, False),
    ],
)
def test_only_a_judge_better_than_chance_is_trusted(pairs: Pairs, trusted: bool) -> None:
    found = summarise(Judge(), "m", answers(pairs), {}, precision=0.9)
    assert found.calibration is not None
    assert found.calibration.trusted == trusted


def test_nobody_answered() -> None:
    found = summarise(Judge(), "m", [], {"i0": "no"}, precision=0.9)
    assert (found.overall.items, found.overall.auc, found.calibration) == (0, None, None)
    assert best({"a": found}) is None


def test_a_result_can_be_read_at_another_precision() -> None:
    normal = _normals(400)
    pairs = [(-1 + 2 * normal[2 * k], 1 + 2 * normal[2 * k + 1]) for k in range(100)]
    strict = summarise(Judge(), "m", answers(pairs), {}, precision=0.95, noise=0.25)
    lenient = exam.at_precision(strict, 0.7)
    assert lenient == summarise(Judge(), "m", answers(pairs), {}, precision=0.7, noise=0.25)
    assert strict.calibration is not None
    assert lenient.calibration is not None
    assert lenient.calibration.violated_from < strict.calibration.violated_from


@given(PAIRS)
@settings(max_examples=20)
def test_curves_run_from_corner_to_corner(pairs: Pairs) -> None:
    found = summarise(Judge(), "m", answers(pairs), {}, precision=0.9).curves
    assert (found.roc[0], found.roc[-1]) == ((0, 0), (1, 1))
    assert list(found.roc) == sorted(found.roc)
    if found.thresholds:
        recalls = [t.recall for t in found.thresholds]
        assert recalls[0] == 1.0
        assert recalls == sorted(recalls, reverse=True)
        assert sum(b.replies for b in found.reliability) == 2 * len(pairs)


# -- what a run states ---------------------------------------------------------------------


@given(PAIRS, PAIRS)
@settings(max_examples=20)
def test_expected_precision_is_a_share_and_inside_its_interval(exam: Pairs, made: Pairs) -> None:
    given_answers = answers(exam)
    drawn = draws(given_answers)
    pairs = [Evidence(rejected, chosen) for rejected, chosen in made]
    found = expected_precision(pairs, calibrate(given_answers, 0.9), drawn)
    assert found is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_expected_precision_of_sure_and_of_unsure_pairs() -> None:
    line = Calibration(1.0, 0.0, 0.9, 0.1, True)
    sure = expected_precision([Evidence(9.0, -9.0)] * 3, line, ())
    even = expected_precision([Evidence(0.0, 0.0)], line, ())
    assert sure is not None
    assert even is not None
    assert sure.value > 0.999
    assert even.value == 0.25  # even odds that the rejected violates, and that the chosen does not
    assert expected_precision([], line, ()) is None


def test_evidence_beyond_what_the_exam_has_seen_adds_nothing() -> None:
    line = Calibration(1.0, 0.0, 0.9, 0.1, True, seen=(-2.0, 2.0))
    assert expected_precision([Evidence(2.0, -2.0)], line, ()) == expected_precision(
        [Evidence(50.0, -50.0)], line, ()
    )


def test_the_pairs_of_a_record_have_the_evidence_of_its_target() -> None:
    def critique(*nats: float) -> Critique:
        return Critique(tuple(
            Verdict(p.id, x < 0, "r", grounded=x < 0, signal="contrast", contrast=x)
            for p, x in zip(records.PRINCIPLES, nats, strict=True)
        ))  # fmt: skip

    made = replace(
        records.accepted(),
        critique=critique(-3.0, 9.0),
        revisions=(),
        candidates=(Candidate("Better.", critique(4.0, 9.0)),),
    )
    result = summarise(Judge(), "m", answers([(-5.0, 5.0)] * 12), {}, precision=0.9)
    assert exam.evidence_in_pairs(made) == [Evidence(3.0, -4.0)]
    assert exam.evidence_in_pairs(made, "other") == []
    stated = exam.expected_precision(exam.evidence_in_pairs(made), result)
    assert stated is not None
    assert 0.5 < stated.value < 1
    compared = summarise(Judge("pairwise"), "m", [], {}, precision=0.9)
    assert exam.expected_precision([Evidence(3.0, -4.0)], compared) is None


def test_pairs_that_a_program_decides_say_nothing_of_the_critic() -> None:
    def decided(*, violated: bool) -> Critique:
        return Critique(tuple(
            Verdict(p.id, violated, "r", grounded=violated, signal="program")
            for p in records.PRINCIPLES
        ))  # fmt: skip

    made = replace(
        records.accepted(),
        critique=decided(violated=True),
        revisions=(),
        candidates=(Candidate("Better.", decided(violated=False)),),
    )
    assert len(made.pairs) == 1
    assert exam.evidence_in_pairs(made) == []


def test_pairs_that_nothing_verifies_do_not_count() -> None:
    def critique(nats: float, *, trusted: bool) -> Critique:
        return Critique(tuple(
            Verdict(p.id, nats < 0, "r", grounded=nats < 0, signal="contrast", contrast=nats,
                    trusted=trusted)
            for p in records.PRINCIPLES
        ))  # fmt: skip

    def made(*, trusted: bool) -> Record:
        better = Candidate("Better.", critique(4.0, trusted=trusted))
        found = critique(-3.0, trusted=trusted)
        return replace(records.accepted(), critique=found, revisions=(), candidates=(better,))

    result = summarise(Judge(), "m", answers([(-5.0, 5.0)] * 12), {}, precision=0.9)
    both = [made(trusted=True), made(trusted=False)]
    assert [len(record.pairs) for record in both] == [1, 1]
    found = collect(both, (), Config(), ((), ()), exam=result)
    assert (found.pairs, found.verified) == (2, 1)
    assert found.precision == exam.expected_precision([Evidence(3.0, -4.0)], result)
    assert collect(both[1:], (), Config(), ((), ()), exam=result).precision is None


# -- pairs by their margin -----------------------------------------------------------------


def test_margins_tell_pairs_apart_where_offsets_hide_the_replies() -> None:
    """Each item adds its own offset to both replies: alone they tell little, together much."""
    halves = (1.0, 3.0, 9.0) * 7  # of the margins
    offsets = range(-40, 41, 4)
    given_answers = answers([(o - h, o + h) for o, h in zip(offsets, halves, strict=True)])
    alone = calibrate(given_answers, 0.9)
    both = calibrate_pairs(given_answers, alone, 0.9, trusted=True)
    assert alone.violated_from > 1
    assert both.pair_from == 0.9
    assert both.pair_slope > 5 * alone.slope
    assert both.pair_mean == pytest.approx(26 / 3)
    assert both.pair_most == 18.0


@given(PAIRS, st.floats(0.51, 0.99))
@settings(max_examples=30)
def test_margins_settle_pairs_only_if_one_in_the_exam_reaches_the_wanted_precision(
    pairs: Pairs, precision: float
) -> None:
    given_answers = answers(pairs)
    found = calibrate_pairs(given_answers, calibrate(given_answers, 0.9), precision, trusted=True)
    reached = max(pair_probability(found, a.margin) for a in given_answers)
    assert found.pair_from == (precision if reached >= precision else 2.0)


def test_a_margin_that_one_reply_has_half_of_the_time_settles_nothing() -> None:
    """Nine of ten items are in order, but by no margin that those in the wrong order lack."""
    given_answers = answers([(-1.0, 1.0)] * 27 + [(1.0, -1.0)] * 3)
    found = calibrate_pairs(given_answers, calibrate(given_answers, 0.8), 0.8, trusted=True)
    assert sigmoid(found.pair_slope * 2.0) > 0.85
    assert pair_probability(found, 2.0) < 0.6
    assert found.pair_from > 1


def test_without_trust_no_margin_settles_anything() -> None:
    given_answers = answers([(-3.0, 3.0)] * 12)
    assert calibrate_pairs(given_answers, calibrate(given_answers, 0.9), 0.9, False).pair_from > 1


@given(PAIRS)
@settings(max_examples=30)
def test_margins_are_never_read_backwards(pairs: Pairs) -> None:
    found = fit_margins(answers(pairs))
    swapped = fit_margins(answers([(violates, satisfies) for satisfies, violates in pairs]))
    assert min(found.slope, swapped.slope) == 0
    assert max(found.slope, swapped.slope) >= 0
    assert found.mean == pytest.approx(-swapped.mean)


def test_a_pair_settled_by_its_margin_is_as_probable_as_its_margin_makes_it() -> None:
    line = Calibration(
        0.0, 0.0, 2.0, -1.0, True, pair_slope=2.0, pair_mean=2.0, pair_most=9.0, pair_from=0.9
    )
    pair = Evidence(5.0, 1.0, by_margin=True)
    found = expected_precision([pair], line, [Fit(0.0, 0.0)] * 2, [PairFit(1.0, 2.0)] * 2)
    assert found is not None
    assert found.value == found.high == pair_probability(line, 4.0)
    assert found.low < found.value
    alone = expected_precision([Evidence(5.0, 1.0)], line, ())
    assert alone is not None
    assert alone.value == 0.25
