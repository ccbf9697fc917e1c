"""Diversity, biases, critics, cost and the heat map: on planted records, and at their edges."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import Config, load
from sdsd.reports.html import charts
from sdsd.reports.html.report import render
from sdsd.reports.metrics import bias
from sdsd.reports.metrics.bias import STEP, BiasTally, third_of_change, third_of_quote
from sdsd.reports.metrics.costs import CostTally
from sdsd.reports.metrics.diversity import BLOCK, SAMPLE, Distinct, Diversity, DiversityTally
from sdsd.reports.metrics.figures import Figures, collect
from sdsd.reports.metrics.principles import by_category
from sdsd.reports.metrics.votes import Votes
from sdsd.reports.stats import Ratio, difference, proportion
from sdsd.types import Candidate, Critique, Dialogue, Message, Record, StageUsage, Verdict
from tests.factories.numbered import CONFIG, DOMAINS, MANIFEST, PRINCIPLES, failed, record
from tests.helpers.html import HOSTILE, Page

WORDS = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("ak", "el", "in", "or", "uf", "ast", "ent")]


def talk(*turns: str) -> Dialogue:
    """A dialogue of these turns, the user's first."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[k % 2], said) for k, said in enumerate(turns))  # type: ignore[arg-type]
    return Dialogue(messages, "continuation", "completed", False)


def chatter(luck: random.Random, words: int = 40, of: int = len(WORDS)) -> str:
    return " ".join(luck.choice(WORDS[:of]) for _ in range(words))


def diverse(dialogues: list[Dialogue], threshold: float = 0.7) -> Diversity:
    tally = DiversityTally(threshold)
    for k, dialogue in enumerate(dialogues):
        tally.add(str(k), dialogue)
    return tally.result()


# -- words ---------------------------------------------------------------------------------


def test_distinct_words_of_one_block_by_hand() -> None:
    turn = " ".join(f"w{k % 500}" for k in range(BLOCK))
    found = diverse([talk(turn, "one two")]).user.distinct
    assert (found.words, found.blocks, found.errors) == (BLOCK, 1, ())
    runs = (BLOCK, BLOCK - 1, BLOCK - 2)
    assert found.means == pytest.approx([500 / n for n in runs])


def test_distinct_words_do_not_depend_on_the_size_of_the_run() -> None:
    luck = random.Random(1)
    dialogues = [talk(chatter(luck), chatter(luck)) for _ in range(4_000)]
    small, large = diverse(dialogues[:1_000]), diverse(dialogues)
    for few, many in zip(small.agent.distinct.means, large.agent.distinct.means, strict=True):
        assert few == pytest.approx(many, abs=0.01)
    assert small.agent.distinct.errors[1] > large.agent.distinct.errors[1] > 0
    poor = diverse([talk(chatter(luck, of=20), chatter(luck, of=20)) for _ in range(1_000)])
    assert poor.agent.distinct.means[1] < small.agent.distinct.means[1] / 2


def test_no_run_goes_over_the_end_of_a_turn() -> None:
    found = diverse([talk("one two", "x") for _ in range(BLOCK // 2)]).user.distinct
    assert found.blocks == 1
    assert found.means == pytest.approx([2 / BLOCK, 1 / (BLOCK // 2), 0.0])


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40) | HOSTILE, max_size=8))
def test_any_text_can_be_counted(turns: list[str]) -> None:
    found = diverse([talk(*turns)])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Diversity) == found


def test_too_few_words_are_not_a_figure() -> None:
    assert diverse([]).user.distinct == Distinct(0, 0, (), ())
    assert diverse([]).largest == 0.0
    found = diverse([talk("hello there", "yes")])
    assert found.agent.distinct == Distinct(1, 0, (), ())


def test_openings_are_counted_by_side() -> None:
    luck = random.Random(2)
    dialogues = [talk(f"Could you, please, {chatter(luck)}", chatter(luck)) for _ in range(30)]
    found = diverse([*dialogues, talk("Hello", "As an assistant I")])
    first = found.user.openings[0]
    assert (first.words, first.turns.k, first.turns.n) == ("could you please", 30, 31)
    assert all(opening.words != "as an assistant" for opening in found.agent.openings)


# -- repetition ----------------------------------------------------------------------------


def test_planted_repetitions_are_found_and_grouped() -> None:
    luck = random.Random(3)
    texts = [chatter(luck, 120) for _ in range(40)]
    dialogues = [talk(text, "so it is") for text in texts]
    copies = [talk(texts[0] + " indeed", "so it is")] * 3 + [talk(texts[1], "so it is")]
    found = diverse([*dialogues, *copies])
    assert (found.repeats.k, found.repeats.n) == (4, 44)
    assert found.clusters == {1: 38, 2: 1, 4: 1}
    assert found.largest == pytest.approx(4 / 44)


def test_only_the_first_dialogues_are_read() -> None:
    tally = DiversityTally(0.7)
    for k in range(SAMPLE + 5):
        tally.add(str(k), talk(f"number {k}", "yes"))
    found = tally.result()
    assert found.dialogues == SAMPLE == found.repeats.n


# -- meaning -------------------------------------------------------------------------------


class Vector(tuple[float, ...]):
    """As much of a numpy vector as is needed."""

    def __matmul__(self, other: Vector) -> float:
        return math.fsum(x * y for x, y in zip(self, other, strict=True))

    def __truediv__(self, by: float) -> Vector:
        return Vector(x / by for x in self)

    def __add__(self, other: Vector) -> Vector:  # type: ignore[override]
        return Vector(x + y for x, y in zip(self, other, strict=True))

    def __radd__(self, zero: float) -> Vector:
        assert zero == 0
        return self


def spread(vectors: list[tuple[float, ...]]) -> float | None:
    given = iter(vectors)
    tally = DiversityTally(0.7, lambda text: Vector(next(given)))
    for k in range(len(vectors)):
        tally.add(str(k), talk("a\ud800", "b"))
    return tally.result().spread


DIRECTIONS = st.tuples(*[st.integers(-9, 9).map(float)] * 3).filter(any)


@given(st.lists(DIRECTIONS, min_size=2, max_size=12))
def test_spread_is_one_less_the_mean_cosine_of_all_pairs(vectors: list[tuple[float, ...]]) -> None:
    unit = [Vector(v) / math.sqrt(Vector(v) @ Vector(v)) for v in vectors]
    cosines = [unit[i] @ unit[j] for i in range(len(unit)) for j in range(i)]
    assert spread(vectors) == pytest.approx(1 - math.fsum(cosines) / len(cosines))


def test_spread_of_nothing() -> None:
    assert spread([(1.0, 0.0)]) is None
    assert spread([(0.0, 0.0), (1.0, 0.0), (1.0, 0.0)]) == pytest.approx(0)  # nothing said: no part
    assert diverse([talk("a", "b")]).spread is None


# -- length and place ----------------------------------------------------------------------


def with_turns(rejected: str, chosen: str, quote: str = "") -> Record:
    base = record()
    assert base.dialogue is not None
    assert base.critique is not None
    messages = (*base.dialogue.messages[:-1], Message("assistant", rejected))
    broken = replace(base.critique.verdicts[0], quote=quote or rejected)
    return replace(
        base,
        dialogue=replace(base.dialogue, messages=messages),
        critique=Critique((broken, *base.critique.verdicts[1:])),
        revisions=(replace(base.revisions[0], text=chosen),),
    )


def biased(records: list[Record]) -> bias.Biases:
    tally = BiasTally()
    for each in records:
        tally.add(each)
    return tally.result()


def test_length_alone_as_a_rule() -> None:
    longer = [with_turns("x" * 100, "x" * 150)] * 6
    shorter = [with_turns("x" * 100, "x" * 50)] * 2
    found = biased([*longer, *shorter, with_turns("abc", "abd")])
    assert list(found.lengths) == ["all", "revision"]
    all_ = found.lengths["all"]
    assert (all_.longer.k, all_.longer.n, all_.equal) == (6, 8, 1)
    assert all_.delta == pytest.approx((6 * 50 - 2 * 50) / 9)
    assert all_.ratio == pytest.approx((1.5**6 * 0.5**2) ** (1 / 9))
    assert all_.deltas == {-50: 2, 0: 1, 50: 6}
    assert found.lengths["revision"] == all_


@given(st.lists(st.tuples(st.integers(1, 9_000), st.integers(1, 9_000)), max_size=20))
def test_every_pair_is_in_one_class_of_length(sizes: list[tuple[int, int]]) -> None:
    found = biased([with_turns("x" * a, "y" * b) for a, b in sizes]).lengths["all"]
    assert sum(found.deltas.values()) == found.longer.n + found.equal == len(sizes)
    assert all(low % STEP == 0 and abs(low) <= 100 * STEP for low in found.deltas)
    assert len(sizes) != 1 or min(found.deltas) <= max(sizes[0][1] - sizes[0][0], -2500)


def test_another_sample_is_a_kind_of_its_own_and_has_no_change() -> None:
    clean = Critique(tuple(replace(v, violated=False) for v in record().critique.verdicts))  # type: ignore[union-attr]
    both = replace(record(), candidates=(Candidate("quite another turn", clean),))
    found = biased([both])
    assert {kind: x.longer.n for kind, x in found.lengths.items()} == {
        "all": 2,
        "revision": 1,
        "on_policy": 1,
    }
    assert sum(found.changes) == 1


@pytest.mark.parametrize(
    ("quote", "third"),
    [
        ("aa bb", 0),
        ("dd ee", 1),
        ("“HH” ii", 2),
        ('aa bb cc dd ee ff gg "hh" ii', 1),
        ("aa ... ee ff gg", 1),  # the longest piece
        ("zz", None),
        ("...", None),
    ],
)
def test_where_a_quotation_stands(quote: str, third: int | None) -> None:
    assert third_of_quote(quote, 'aa bb cc dd ee ff gg "hh" ii') == third


def test_where_a_revision_begins_to_differ() -> None:
    old = "one two three four five six"
    assert third_of_change(old, "another one") == 0
    assert third_of_change(old, "ONE  two three, for once") == 1
    assert third_of_change(old, f"{old} and more") == 2
    assert third_of_change("", "x") == 0


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_place_is_a_third(old: str, new: str) -> None:
    assert third_of_change(old, new) in (0, 1, 2)
    assert third_of_quote(new, old) in (0, 1, 2, None)


def test_violations_by_exchange_count_the_earlier_turns_too() -> None:
    base = record()
    assert base.critique is not None
    clean = Critique(tuple(replace(v, violated=False) for v in base.critique.verdicts))
    found = biased([replace(base, earlier_critiques=(clean,)), base, replace(base, dialogue=None)])
    assert {k: (r.k, r.n) for k, r in found.exchanges.items()} == {1: (0, 1), 2: (2, 2)}


def test_how_much_of_its_turn_a_quotation_is() -> None:
    base = record(0, "cc")
    assert base.dialogue is not None
    assert base.critique is not None
    assert biased([]).quoted is None

    def quoting(quote: str) -> Record:
        (first, *_) = base.critique.verdicts  # type: ignore[union-attr]
        verdict = replace(first, violated=True, grounded=True, quote=quote)
        return replace(base, critique=Critique((verdict,)))

    whole = base.dialogue.last_reply
    half = whole[: len(whole) // 2].rstrip()
    assert biased([quoting(whole)]).quoted == 1
    both = biased([quoting(whole), quoting(half)])
    assert both.quoted == pytest.approx((1 + len(half) / len(whole)) / 2, abs=0.02)
    assert sum(both.quotes) == 2


# -- critics -------------------------------------------------------------------------------


def votes(*claims: bool | None) -> list[Verdict]:
    """One vote of each critic on one principle; None: it gave none."""
    return [
        Verdict("p", claim, "Because.", critic=f"critic-{k}")
        for k, claim in enumerate(claims)
        if claim is not None
    ]


def test_agreement_of_three_critics() -> None:
    tally = Votes()
    for claims in ((True, True, False), (False, False, False), (True, True, None)):
        tally.add(votes(*claims))
    found = tally.result()
    assert found is not None
    assert {name: (r.k, r.n) for name, r in found.claims.items()} == {
        "critic-0": (2, 3),
        "critic-1": (2, 3),
        "critic-2": (0, 2),
    }
    first = found.pairs[0]
    assert (first.first, first.second, first.same.k, first.same.n) == ("critic-0", "critic-1", 3, 3)
    assert first.kappa == 1
    assert (found.pairs[1].same.k, found.pairs[1].same.n) == (1, 2)
    # units of 3, 3 and 2 ratings: 1 - (n - 1) x disagreement / expected, Krippendorff 2011
    assert found.alpha == pytest.approx(1 - 7 * (4 / 2) / (8 * 8 - 4 * 4 - 4 * 4))
    assert found.judged == 3


def test_one_critic_agrees_with_nobody() -> None:
    tally = Votes()
    assert tally.result() is None
    tally.add(votes(True))
    assert tally.result() is None


# -- cost ----------------------------------------------------------------------------------


def test_cost_of_a_pair() -> None:
    tally = CostTally()
    use = {"plan": StageUsage(1, 100, 40, 20, 1.5), "turn": StageUsage(4, 400, 380, 80, 3.0)}
    tally.add(replace(record(), usage=use))
    tally.add(replace(record(1, "cc", "filtered", "no_violation", revisions=0), usage=use))
    found = tally.result(3.0)
    assert found.calls is not None
    assert found.tokens is not None
    assert found.written is not None
    assert found.seconds is not None
    assert (found.calls.value, found.tokens.value, found.written.value) == (10, 1200, 200)
    assert (found.seconds.value, found.money) == (9.0, 3.0)
    assert CostTally().result(5.0).tokens is None
    assert CostTally().result(5.0).money is None


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 3)), min_size=2, max_size=30))
def test_a_ratio_lies_in_its_interval(units: list[tuple[int, int]]) -> None:
    ratio = Ratio()
    for above, below in units:
        ratio.add(above, below)
    found, successes = ratio.estimate(), sum(b for _, b in units)
    assert (found is None) == (successes == 0)
    if found:
        assert found.value == pytest.approx(sum(a for a, _ in units) / successes)
        assert 0 < found.low <= found.value <= (found.high or math.inf)


def test_the_interval_of_a_ratio_covers_the_truth() -> None:
    luck, covered = random.Random(4), 0
    for _ in range(400):
        ratio = Ratio()
        for _ in range(150):
            ratio.add(luck.uniform(50, 150), luck.random() < 0.3)
        found = ratio.estimate()
        assert found is not None
        assert found.high is not None
        covered += found.low <= 100 / 0.3 <= found.high
    assert 0.91 < covered / 400 < 0.98


# -- differences of shares -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombes_examples(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    found = difference(proportion(*b), proportion(*a))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


SHARE = st.integers(0, 60).flatmap(lambda n: st.integers(0, n).map(lambda k: proportion(k, n)))


@given(SHARE, SHARE)
def test_a_difference_turns_with_its_sides(a: object, b: object) -> None:
    there, back = difference(a, b), difference(b, a)  # type: ignore[arg-type]
    assert (there is None) == (back is None)
    if there and back:
        assert there.high is not None
        assert -1 - 1e-9 <= there.low <= there.value <= there.high <= 1 + 1e-9
        assert (back.value, back.low) == pytest.approx((-there.value, -there.high))


# -- in a run ------------------------------------------------------------------------------


def run(records: list[Record], config: Config = CONFIG, **more: object) -> Figures:
    return collect(iter(records), [], config, (PRINCIPLES, DOMAINS), **more)  # type: ignore[arg-type]


def test_cells_add_up_to_the_principles_and_the_categories() -> None:
    found = run([record(i, "vc" if i % 2 else "cv") for i in range(200)])
    for principle in found.principles:
        mine = [cell for cell in found.cells if cell.principle == principle.id]
        assert sum(cell.judged for cell in mine) == principle.confirmed.n
        assert sum(cell.confirmed for cell in mine) == principle.confirmed.k
    grouped = by_category(found.cells, found.principles)
    assert sum(cell.judged for cell in grouped.values()) == 400
    assert sum(cell.pairs for cell in grouped.values()) == 200


def test_flags_that_are_counted_already_are_not_counted_again() -> None:
    given_ = {"echo": 3}
    assert run([record()], warnings=given_).warnings == given_
    assert run([record()], warnings={}).warnings == {}
    assert run([with_turns("AGENT: the last", "the last")]).warnings != {}


def test_an_embedding_model_is_asked_for_every_dialogue() -> None:
    found = run([record(i) for i in range(3)], embed=lambda text: Vector((1.0, float(len(text)))))
    assert found.diversity.spread == pytest.approx(0)


# -- the sections --------------------------------------------------------------------------


def page(records: list[Record], removed: dict[str, int] | None = None) -> Page:
    found = run(records)
    html = render(found, MANIFEST, CONFIG, records[:1], removed or {})
    return Page(html)


def many(n: int) -> Iterator[Record]:
    luck = random.Random(5)
    for i in range(n):
        base = record(i, "vc" if luck.random() < 0.5 else "cc")
        rejected = f"Well now, {chatter(luck, 20)}."
        yield replace(base, dialogue=talk("Could you tell me " + chatter(luck), rejected))


def test_a_run_of_some_size_has_every_section() -> None:
    records = [
        replace(r, critique=replace(r.critique, votes=(*votes(True, False),)))
        for r in many(400)
        if r.critique
    ]
    read = page(records, {"duplicate_near": 3, "echo": 2, "doubt_lost_facts": 1})
    for said in (
        "Where violations occur",
        "All 30 principles",
        "cells with 10 judgements or more",
        "Length bias",
        "turn finds the chosen one in",
        "Position of the violation",
        "Agreement between critics",
        "Diversity",
        "could you tell",
        "Removed by cleaning",
        "doubt lost facts: 1",
        "tokens per verified pair",
        "pip install 'sdsd[semantic]'",
    ):
        assert said in read.text, said


def test_a_small_run_says_what_it_cannot_say() -> None:
    read = page([record(0), record(2)])
    assert "too few to tell cells apart" in read.text
    assert "Too few pairs to tell whether length alone reveals" in read.text
    assert "too few words" in read.text
    assert "Removed by cleaning" not in read.text
    assert "Agreement between critics" not in read.text


def test_strategies_and_exchanges_are_drawn_where_there_are_several() -> None:
    records = []
    for i in range(60):
        base = with_turns(f"{'x' * 120} {i}", "x" * 40)
        assert base.dialogue is not None
        scenario = replace(record(i).scenario, strategy=("direct", "subtle")[i % 2])
        dialogue = replace(base.dialogue, messages=base.dialogue.messages[2 * (i % 2) :])
        records.append(replace(base, scenario=scenario, dialogue=dialogue))
    unjudged = replace(failed(60), scenario=replace(failed(60).scenario, strategy="persona"))
    read = page([*records, unjudged])
    assert "Picking the shorter turn finds the chosen one in 100% of 60 pairs" in read.text
    assert "Confirmed violations in exchange 2: 30 of 30" in read.text
    assert "Accepted dialogues with strategy subtle: 30 of 30" in read.text
    assert "with strategy persona: nothing observed" in read.text


def test_a_run_without_pairs_or_violations() -> None:
    records = [record(i, "cc", "filtered", "no_violation", revisions=0) for i in range(3)]
    read = page(records)
    assert "Where violations occur" not in read.text
    assert "Length bias" not in read.text
    broken = [record(i, "vc", "filtered", "not_repaired") for i in range(3)]
    assert "No verified pair yet." in page(broken).text


def test_the_price_of_a_pair_stands_in_the_headline() -> None:
    found = run([record(0), record(1)])
    text = Page(render(found, MANIFEST, CONFIG, [])).text
    assert "600tokens per verified pair5 calls, 4.5 s of model time" in text
    paid = replace(found, pair_cost=replace(found.pair_cost, money=0.25))
    text = Page(render(paid, MANIFEST, CONFIG, [])).text
    assert "0.2500cost per verified pair600 tokens, 5 calls, 4.5 s of model time" in text
    assert "per verified pair" not in Page(render(run([]), MANIFEST, CONFIG, [])).text


def test_repetitions_and_meaning_in_words() -> None:
    said = [chatter(random.Random(6), 60), "yes it is"]
    same = [replace(record(i), dialogue=talk(*said)) for i in range(30)]
    found = run(same, load({"export": {"duplicates": {"near": 0.8}}}), embed=lambda _: Vector((1,)))
    text = Page(render(found, MANIFEST, CONFIG, [])).text
    assert "29 of 30 (97%" in text
    assert "80% or more" in text
    assert "the largest group has 100%" in text
    assert "distance in meaning between two dialogues is 0.00" in text


@settings(max_examples=40)
@given(st.lists(st.text(max_size=30) | HOSTILE, min_size=1, max_size=3).map("".join))
@pytest.mark.e2e
def test_hostile_names_stay_text_in_every_section(bad: str) -> None:
    records = [record(i, "vc", say=lambda _: bad) for i in range(60)]
    named = [
        replace(r, critique=replace(r.critique, votes=(replace(votes(True)[0], critic=bad),
                                                       replace(votes(True)[0], critic=bad + "2"))))
        for r in records if r.critique
    ]  # fmt: skip
    html = render(run(named), MANIFEST, CONFIG, [], {bad: 3})
    assert "<script" not in html
    Page(html).text.encode()


# -- the heat map --------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0.001, 1))
def test_shades_grow_with_the_share(share: float, top: float) -> None:
    shade = charts.level(share, top)
    assert 0 <= shade <= charts.LEVELS
    assert (shade == 0) == (share == 0)
    assert charts.level(min(2 * share, 1.0), top) >= shade


def test_tiles_are_drawn_by_certainty_and_named() -> None:
    tiles = [charts.Tile(0.5, "half"), charts.Tile(0.0, "none", sure=False), None]
    drawn = charts.heat([("a line", "all of it", tiles)], ["x", "y", "z"], name="a map", top=1.0)
    Page(drawn)
    assert drawn.count("<path") == 2
    assert "<title>half</title>" in drawn
    assert 'class="h3"' in drawn
    assert 'class="h0"' in drawn
    bare = charts.heat([("l", "t", tiles)], ["x", "y", "z"], name="m", top=1.0, titled=False)
    assert "<title>half</title>" not in bare
    assert len(bare) < len(drawn)
    Page(charts.heat([], [], name="nothing", top=1.0))
