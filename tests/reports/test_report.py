"""Figures on hand-made records, and a page that stays whole whatever a model wrote."""

from __future__ import annotations

import tracemalloc
import unicodedata
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import Config, DialogueConfig, ReviseConfig, load
from sdsd.reports.html import charts, samples, text
from sdsd.reports.html.report import render
from sdsd.reports.html.samples import changes, find, merged
from sdsd.reports.metrics.figures import Figures, balance, collect
from sdsd.reports.metrics.paper import PAPER
from sdsd.reports.metrics.timeline import Timeline
from sdsd.reports.stats import kappa, proportion, wilson
from sdsd.types import (
    Critique,
    Record,
    Revision,
    StageUsage,
    Usage,
)
from tests.factories.numbered import (
    CONFIG,
    DOMAINS,
    MANIFEST,
    PRINCIPLES,
    failed,
    figures,
    mixed,
    record,
)
from tests.helpers.counting import is_linear
from tests.helpers.html import ANYTHING, Page

# -- formulae ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (1, 10, 0.017876, 0.404150),
        (8, 10, 0.490162, 0.943318),
        (10, 10, 0.722467, 1.0),
        (50, 100, 0.403832, 0.596168),
    ],
)
def test_wilson_known_values(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=2e-6)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(pair: tuple[int, int]) -> None:
    r = proportion(*pair)
    assert 0 <= r.low <= r.share <= r.high <= 1
    for bound in (r.low, r.high):  # both solve Wilson's equation, (share - p)^2 = z^2 p (1 - p) / n
        z2 = 1.959963984540054**2
        assert (r.share - bound) ** 2 == pytest.approx(z2 * bound * (1 - bound) / r.n, abs=1e-9)


def test_nothing_observed_means_nothing_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_kappa() -> None:
    cells = ((True, True), (True, False), (False, True), (False, False))
    assert kappa(dict(zip(cells, (20, 5, 10, 15), strict=True))) == pytest.approx(0.4)
    assert kappa({}) is None
    assert kappa({(True, True): 5}) is None  # both always say yes: chance explains it all


def test_balance() -> None:
    even = balance({"a": 5, "b": 5}, {"a": 1, "b": 1})
    lopsided = balance({"a": 10}, {"a": 1, "b": 3})
    assert even.entropy == pytest.approx(1)
    assert (even.used, even.largest) == (2, 0.5)
    assert (lopsided.entropy, lopsided.used, lopsided.largest) == (0, 1, 1)
    assert [(s.name, s.n, s.expected) for s in lopsided.topics] == [("a", 10, 0.25), ("b", 0, 0.75)]
    assert balance({}, {}).largest == 0


# -- counting ------------------------------------------------------------------------------


def test_funnel_and_outcomes() -> None:
    f = figures(mixed())
    assert {s.name: s.n for s in f.funnel} == {
        "started": 6,
        "planned": 5,
        "generated": 5,
        "judged": 5,
        "claimed": 4,
        "confirmed": 3,
        "revised": 3,
        "accepted": 2,
    }
    assert {(o.outcome, o.rule): o.n for o in f.outcomes} == {
        ("accepted", ""): 2,
        ("filtered", "no_violation"): 1,
        ("filtered", "unsupported_violation"): 1,
        ("filtered", "not_repaired"): 1,
        ("failed", ""): 1,
    }
    assert (f.pairs, f.accepted.k, f.accepted.n) == (2, 2, 6)
    assert (f.violating.k, f.violating.n) == (3, 5)
    assert f.stops == {"completed": 4, "early_end": 1}
    assert (f.exchanges, f.messages_mean, f.rounds) == ({2: 5}, 5.0, {1: 1, 2: 1})


def test_violations_per_principle() -> None:
    f = figures(mixed())
    by_id = {p.id: p for p in f.principles}
    assert len(by_id) == 30
    assert f.violations == 4
    assert (by_id["rule-2"].confirmed.k, by_id["rule-2"].confirmed.n) == (1, 1)
    assert (by_id["rule-9"].claimed, by_id["rule-9"].confirmed.k) == (1, 0)
    assert by_id["rule-29"].confirmed.n == 0
    assert sum(p.share for p in f.principles) == pytest.approx(1)
    assert sum(c.confirmed.k for c in f.categories) == 4


def test_what_was_intended_said_and_found() -> None:
    f = figures(mixed())
    assert sum(s.n for s in f.signals) == 5
    assert {s.found for s in f.signals if not s.reached} == {"claimed"}
    assert (f.agreement.same.k, f.agreement.same.n) == (1, 5)
    never = Config(dialogue=DialogueConfig(self_check="never"))
    assert figures(mixed(), never).agreement.same.n == 0


def test_what_is_undecided_is_no_claim() -> None:
    made = record()
    assert made.critique is not None
    verdicts = tuple(
        replace(v, violated=False, grounded=False, undecided=True) for v in made.critique.verdicts
    )
    open_ = replace(made, critique=Critique(verdicts), revisions=(), outcome="filtered")
    f = figures([open_])
    assert [s.found for s in f.signals] == ["undecided"]
    assert {step.name: step.n for step in f.funnel}["claimed"] == 0
    page = Page(render(f, MANIFEST, CONFIG, []))
    assert "Planned last reply reached11 100%0 0%0 0%" in page.text


def test_cost_lengths_and_topics() -> None:
    f = figures(mixed())
    assert list(f.stages) == ["plan", "turn"]
    assert f.stages["plan"] == StageUsage(7, 700, 200, 160, 10.5)
    assert f.stages["turn"].cached_tokens == 5 * 380
    assert (f.lengths.rejected, f.lengths.chosen) == (len("the last"), len("the better last"))
    assert (f.fields.used, f.domains.used, len(f.domains.topics)) == (3, 6, 10)


def test_failures_are_kept_by_kind_without_the_models_words() -> None:
    unclear = "`violated` is neither yes nor no: "
    records = [failed(i, f"{unclear}'word {i}'", "x" * 999) for i in range(9)]
    records += [failed(i, f"cause {chr(945 + i % 20)}{chr(945 + i // 20)}") for i in range(400)]
    f = figures(records)
    assert (f.failures[-1].stage, sum(x.n for x in f.failures)) == ("plan", 409)
    assert len(f.failures) == 101
    kind = next(x for x in f.failures if "neither" in x.cause)
    assert (kind.cause, kind.n) == ("`violated` is neither yes nor no: …", 9)
    assert len(f.examples) == 20
    assert f.examples[0].raw == "x" * 600
    assert sum("neither" in e.cause for e in f.examples) == 3


def test_figures_go_to_json_and_back() -> None:
    f = figures(mixed())
    assert msgspec.json.decode(msgspec.json.encode(f), type=Figures) == f


def test_a_principle_outside_the_catalogue_is_counted_too() -> None:
    f = collect([record()], [], CONFIG, ((), ()))
    assert [p.id for p in f.principles] == ["rule-0", "rule-1"]
    assert f.fields.topics[0].expected == 0


def test_the_papers_figures_are_shares_of_one() -> None:
    for reference in PAPER.values():
        assert reference.meaning
        assert reference.unit == "number" or all(0 <= v <= 1 for v in reference.values.values())


# -- time ----------------------------------------------------------------------------------


def test_pauses_are_not_work() -> None:
    line = Timeline(pause=600)
    for at in [*range(0, 100, 10), *range(50_000, 50_100, 10)]:
        line.add(at, "turn", 5)
    clock = line.clock(mean_call=2.0)
    assert clock.paused == 50_000 - 90
    assert clock.wall == 90 + 90 + 2 * 2.0
    assert clock.tokens_per_second == pytest.approx(100 / 184)


@given(
    st.lists(st.tuples(st.floats(0, 500), st.sampled_from(["plan", "turn"]), st.integers(0, 99))),
    st.floats(0.01, 400),
)
def test_no_token_is_lost_in_the_bins(steps: list[tuple[float, str, int]], pause: float) -> None:
    line, at = Timeline(pause), 1e9
    for gap, stage, tokens in steps:
        at += gap
        line.add(at, stage, tokens)
    clock = line.clock(1.0)
    assert clock.completion_tokens == sum(tokens for *_, tokens in steps)
    if clock.bins:
        assert sum(map(sum, clock.bins.values())) == clock.completion_tokens
        assert len({len(values) for values in clock.bins.values()}) == 1


def test_a_long_run_keeps_few_bins() -> None:
    line = Timeline(pause=600)
    for i in range(50_000):
        line.add(i * 7.0, "turn", 1)
    assert len(line._tokens) <= 2048
    assert len(line.clock(1.0).bins["turn"]) == 60


def test_no_answers() -> None:
    clock = Timeline(pause=600).clock(0.0)
    assert (clock.wall, clock.tokens_per_second, clock.bins) == (0, 0, {})


# -- quotations and changes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("quote", "passage", "marked"),
    [
        ("the last", "This is THE  last one", ["THE  last"]),
        ('say "yes"', "They say “yes” now", ["say “yes"]),
        ("one ... three", "one two three", ["one", "three"]),
        ("not there", "one two three", []),
        ("...", "one two three", []),
        ("ﬁne", "a fine day", ["fine"]),
    ],
)
def test_find(quote: str, passage: str, marked: list[str]) -> None:
    assert [passage[a:b] for a, b in find(quote, passage)] == marked


WORDS = st.text(st.sampled_from("aB \n.,\"'“”…–é"), max_size=60)


@given(WORDS, WORDS)
def test_spans_are_in_the_text_and_in_order(quote: str, passage: str) -> None:
    spans = merged(find(quote, passage))
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= edge <= len(passage) for edge in edges)


@given(WORDS, WORDS)
def test_what_did_not_change_is_the_same_on_both_sides(old: str, new: str) -> None:
    def kept(passage: str, spans: list[samples.Span]) -> str:
        drop = {i for a, b in spans for i in range(a, b)}
        return "".join(c for i, c in enumerate(passage) if i not in drop and not c.isspace())

    removed, added = changes(old, new)
    if removed or added:
        assert kept(old, removed) == kept(new, added)


def test_changes() -> None:
    removed, added = changes("you must buy it now", "you could buy it later")
    assert [(a, b) for a, b in removed] == [(4, 8), (16, 19)]
    assert [(a, b) for a, b in added] == [(4, 9), (17, 22)]
    assert changes("one two", "three four") == ([], [])
    assert changes("a " * 5000, "a " * 4999) == ([], [])


# -- text ----------------------------------------------------------------------------------


def test_hidden_characters_are_spelt_out() -> None:
    assert text.visible("a\u202eb\x00\ud800\n\t") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩\n\t"
    assert text.visible("می\u200cخواهم 👩\u200d🚀") == "می\u200cخواهم 👩\u200d🚀"
    assert text.esc("<a href='x'>&\"") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;"


def test_clip() -> None:
    assert text.clip("short", 200) == "short"
    assert text.clip("x" * 500, 200).endswith("…")
    assert len(text.clip("漢" * 100, 200)) < len(text.clip("i" * 100, 200)) < 40


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.percent(0), "0%"),
        (text.percent(0.0001), "<0.1%"),
        (text.percent(0.024), "2.4%"),
        (text.percent(0.35), "35%"),
        (text.percent(0.996), "99.6%"),
        (text.percent(1), "100%"),
        (text.short(9_999), "9,999"),
        (text.short(12_345), "12.3k"),
        (text.short(999_950), "1,000k"),
        (text.short(4_560_000), "4.56M"),
        (text.short(1.25), "1.2"),
        (text.duration(0), "0 s"),
        (text.duration(0.84), "0.8 s"),
        (text.duration(125), "2 min 5 s"),
        (text.duration(11_520), "3 h 12 min"),
        (text.duration(200_000), "2 d 7 h"),
        (text.interval(0.017, 0.4), "1.7–40.0%"),
        (text.interval(0.34, 0.38), "34–38%"),
        (text.interval(0.9989, 1.0), "99.9–100%"),
        (text.plural(1, "dialogue"), "1 dialogue"),
        (text.plural(2_000, "dialogue"), "2,000 dialogues"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


@given(st.floats(1e-6, 1e12))
def test_an_axis_ends_on_a_round_number_above(value: float) -> None:
    assert value <= charts.nice(value) * (1 + 1e-9) <= 2.1 * value


# -- the page ------------------------------------------------------------------------------


def page(records: list[Record], config: Config = CONFIG) -> Page:
    html = render(figures(records, config), MANIFEST, config, records[:3])
    html.encode("utf-8")
    return Page(html)


@given(ANYTHING, st.booleans())
@pytest.mark.e2e
def test_whatever_is_written_stays_text(written: str, long: bool) -> None:
    def say(_: str) -> str:
        return written * (1 + 100 * long)

    records = [record(0, "vu", say=say, revisions=2), failed(1, say=say), record(2, "cc", say=say)]
    read = page(records)
    calm = page([record(0, "vu", revisions=2), failed(1), record(2, "cc")])
    extra = {"details", "summary"} | {"div", "mark", "del", "ins", "p", "q"}
    assert set(read.tags) - set(calm.tags) <= extra
    hidden = {c for c in read.text if unicodedata.category(c) in text._HIDDEN}
    assert hidden <= set("\n\t\u200c\u200d")
    assert text.visible(say("")[: samples.FOLD]) in read.text


def test_hostile_names_everywhere_else() -> None:
    bad = "<script>\u202e\"'"
    manifest = replace(MANIFEST, models={"agent": bad}, machine=bad, weights={bad: bad})
    found = figures([record(i, say=lambda _: bad) for i in range(40)])
    html = render(found, manifest, CONFIG, [])
    assert "<script" not in html
    assert "\u202e" not in html
    Page(html)


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    html = render(figures(mixed()), MANIFEST, CONFIG, mixed())
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
    outside = ("<script", "src=", "href=", "url(", "@import", "http:")
    assert not any(word in html for word in outside)


def test_an_empty_run() -> None:
    html = render(figures([]), None, CONFIG, [])
    assert "No dialogue finished yet" in Page(html).text


def test_one_record() -> None:
    read = page([record()])
    assert "1 dialogue, 1 verified pair" in read.text
    assert "too few for an interval" in read.text
    assert "the better last" in read.text
    assert "circle" not in read.tags  # no whiskers for a single observation
    assert [t for t in read.tags if t == "mark"] == ["mark"]


def test_a_run_of_failures() -> None:
    read = page([failed(i) for i in range(30)])
    assert "30 dialogues could not be completed (100%)" in read.text
    assert "No dialogue was generated." in read.text


def test_a_run_that_only_critiques_or_does_not_recheck() -> None:
    only = Config(revise=ReviseConfig(rounds=0))
    assert (
        "no revisions in this run" in page([record(0, "vc", "filtered", "not_revised")], only).text
    )
    unchecked = Config(revise=ReviseConfig(recheck=False))
    bare = replace(record(), revisions=(Revision("better"),))
    assert "1 dialogue, 1 pair" in page([bare], unchecked).text


def test_a_longer_run_has_every_plot() -> None:
    read = page([record(i, "vc" if i % 2 else "cc") for i in range(300)])
    for heading in (
        "From scenario to pair",
        "Compared with the paper",
        "Dialogue length",
        "Planned, reported, confirmed",
        "How often each principle is violated",
        "Share of all violations",
        "By category",
        "Topics",
        "Tokens by stage",
        "Time by stage",
        "Throughput",
        "How it was made",
    ):
        assert heading in read.text
    # principles violated at least once, the other principles, categories
    assert read.tags.count("circle") == 15 + 15 + 3


def test_labels_are_clipped_but_whole_in_the_tooltip() -> None:
    label = "a very long label " * 9
    drawn = charts.bars([charts.Bar(label, 1, "1", label)], name="a plot")
    assert "…</text>" in drawn
    assert f"<title>{label}</title>" in drawn


@given(st.lists(st.just(0.0) | st.floats(1e-6, 1e9), max_size=30), st.booleans())
def test_plots_take_any_numbers(values: list[float], shares: bool) -> None:
    bars = [charts.Bar("bar", v, "1", "a bar") for v in values]
    dots = [bar._replace(interval=(0.1, 0.9)) for bar in bars]
    column = [charts.Column("1", v, "column", v / 2) for v in values]
    kinds = {"one": "t-a", "two": "t-b"}
    drawn = (
        charts.bars(bars, name="bars")
        + charts.bars(dots, name="dots", low=-1.0, high=1.0, ends=True)
        + charts.layers({f"bar {k}": (v, v) for k, v in enumerate(values)}, kinds, name="layers")
        + charts.funnel([("step", int(v)) for v in values], name="funnel")
        + charts.stacked([("part", v, "t-a") for v in values], name="stacked")
        + charts.columns(column, name="columns", shares=shares, band=(0.1, 0.2, "band"))
        + charts.area({"a": values, "b": values}, ["t-a", "t-b"], name="area", seconds=9)
    )  # fmt: skip
    Page(drawn)
    assert "nan" not in drawn
    assert "inf" not in drawn


# -- scale ---------------------------------------------------------------------------------


def many(n: int) -> Iterator[Record]:
    kinds = [record(i, "vc" if i % 3 else "cc") for i in range(60)] + [failed(61)]
    return (kinds[i % len(kinds)] for i in range(n))


def answers(n: int) -> Iterator[tuple[float, str, int]]:
    return ((1e9 + i / 7, "turn", 20) for i in range(n))


def test_the_work_grows_with_the_run_and_the_page_does_not() -> None:
    def read(n: int) -> Figures:
        return collect(many(n), answers(10 * n), Config(n=n), (PRINCIPLES, DOMAINS))

    assert is_linear(read, 150)
    assert len(render(read(1_000), MANIFEST, Config(n=1_000), [])) < 300_000


@pytest.mark.e2e
def test_memory_does_not_grow_with_the_run() -> None:
    def peak(n: int) -> int:
        tracemalloc.start()
        collect(many(n), answers(10 * n), CONFIG, (PRINCIPLES, DOMAINS))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(200)  # what is imported and cached once
    assert peak(1_000) < peak(200) + 400_000  # 800 records are 4 MB


# -- what it cost --------------------------------------------------------------------------

SPENT = (
    Usage("critique", "critic", "judge<b>", 2, 3_000_000, 1_000_000, 100, 1.0),
    Usage("plan", "planner", "writer", 4, 1_000_000, 0, 500_000, 8.0),
    Usage("recheck", "critic", "judge<b>", 1, 1_000_000, 1_000_000, 100, 2.0),
)


@pytest.mark.parametrize("priced", [False, True])
def test_what_each_role_was_asked_and_what_it_cost(priced: bool) -> None:
    price = {"price": {"prompt": 2.0, "cached": 1.0, "completion": 10.0}} if priced else {}
    config = load({"models": {"default": price}})
    found = collect([record(0), record(1)], [], config, (PRINCIPLES, DOMAINS), SPENT)
    assert found.money == pytest.approx((2 * 2 + 1 + 2 + 5 + 1 + 0.002) if priced else 0.0)
    page = render(found, None, config, [])
    assert "judge&lt;b&gt;" in page
    assert "judge<b>" not in page
    assert "50%" in page.partition("Models by role")[2]  # of 4 million read by the critic
    assert ("13.00" in page) == ("6.5010 per verified pair" in page) == priced
