"""Two runs held against each other: what differs, how surely, and a page that stays whole."""

from __future__ import annotations

import random
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import Config, load
from sdsd.reports.html.comparison_page import render, to_json
from sdsd.reports.metrics.comparison import Contrast, Gap, RunComparison, compare_runs
from sdsd.reports.metrics.figures import Figures, collect
from sdsd.reports.rates import rate
from sdsd.types import Record
from tests.factories.numbered import CONFIG, DOMAINS, PRINCIPLES, failed, mixed, record
from tests.helpers.html import HOSTILE, Page


def run(records: list[Record], config: Config = CONFIG) -> Figures:
    return collect(iter(records), [(1.0, "turn", 9)], config, PRINCIPLES, DOMAINS)


def accepted(n: int, of: int, strategy: str = "direct") -> list[Record]:
    """`n` verified pairs, the other dialogues clean."""
    made = [
        record(i) if i < n else record(i, "cc", "filtered", "no_violation", revisions=0)
        for i in range(of)
    ]
    return [replace(r, scenario=replace(r.scenario, strategy=strategy)) for r in made]


def share(comparison: RunComparison, name: str) -> Contrast:
    return next(contrast for contrast in comparison.shares if contrast.name == name)


def test_a_run_does_not_differ_from_itself() -> None:
    found = compare_runs(run(mixed()), run(mixed()), (CONFIG, CONFIG))
    for contrast in (*found.shares, *found.strategies, *found.categories, *found.flags):
        assert contrast.a == contrast.b
        if contrast.difference:
            assert contrast.difference.value == 0
            assert contrast.difference.low <= 0 <= (contrast.difference.high or 0)
    assert all(gap.change is None or gap.change.value in (0, 1) for gap in found.costs)
    assert all(gap.a == gap.b for gap in found.means)
    assert found.changes == {}


def test_a_large_difference_is_told_from_none() -> None:
    found = compare_runs(run(accepted(20, 100)), run(accepted(80, 100)))
    yields = share(found, "yield").difference
    assert yields is not None
    assert yields.value == pytest.approx(0.6)
    assert 0.4 < yields.low < 0.6 < (yields.high or 0) < 0.8
    failures = share(found, "failed").difference
    assert failures is not None
    assert failures.value == 0
    tokens = next(gap for gap in found.costs if gap.name == "tokens")
    assert tokens.change is not None
    assert tokens.change.value == pytest.approx(0.25)
    assert tokens.change.low < 0.25 < (tokens.change.high or 0) < 1


def test_the_sides_swap() -> None:
    a, b = run(accepted(9, 40)), run([*accepted(20, 50), failed(60)])
    there, back = compare_runs(a, b), compare_runs(b, a)
    for x, y in zip(there.shares, back.shares, strict=True):
        assert (x.difference is None) == (y.difference is None)
        if x.difference and y.difference:
            assert x.difference.value == pytest.approx(-y.difference.value)
            assert x.difference.low == pytest.approx(-(y.difference.high or 0))
    for p, q in zip(there.costs, back.costs, strict=True):
        if p.change and q.change:
            assert p.change.low == pytest.approx(1 / (q.change.high or 1))


def test_only_what_both_have_is_held_against_each_other() -> None:
    a = run([*accepted(3, 6), *accepted(2, 4, "subtle")])
    b = run([*accepted(3, 6), *accepted(2, 4, "persona")])
    assert [c.name for c in compare_runs(a, b).strategies] == ["direct"]
    none = compare_runs(run([]), run(mixed()))
    assert share(none, "yield").difference is None
    assert none.strategies == ()
    assert next(gap for gap in none.costs if gap.name == "tokens").a is None


def test_words_are_compared_with_their_errors() -> None:
    luck = random.Random(1)

    def wordy(of: int) -> Figures:
        base = record()
        assert base.dialogue is not None
        first = base.dialogue.messages[0]
        made = []
        for i in range(700):
            said = " ".join(f"w{luck.randrange(of)}" for _ in range(40))
            messages = (replace(first, content=said), *base.dialogue.messages[1:])
            made.append(
                replace(
                    base,
                    scenario=record(i).scenario,
                    dialogue=replace(base.dialogue, messages=messages),
                )
            )
        return run(made)

    found = compare_runs(wordy(3_000), wordy(300))
    gap = next(gap for gap in found.distinct if gap.name == "user/1")
    assert gap.change is not None
    assert gap.change.high is not None
    assert gap.change.low < gap.change.value < gap.change.high < 0
    assert all(gap.change is None for gap in found.distinct if gap.name.startswith("agent"))
    assert "Agent, 2" in Page(render(found, "a", "b")).text


def test_what_was_set_is_named_without_how_it_was_run() -> None:
    one = load({"n": 5, "scenarios": {"strategies": ["direct"]}, "models": {"default": {}}})
    other = load(
        {"n": 9, "scenarios": {"strategies": ["subtle"]}, "models": {"default": {"parallel": 3}}}
    )
    found = compare_runs(run(mixed()), run(mixed()), (one, other))
    assert found.changes == {"scenarios.strategies": (("direct",), ("subtle",))}
    assert "scenarios.strategies" in Page(render(found, "a", "b")).text


def test_figures_go_to_json() -> None:
    found = compare_runs(run(mixed()), run(accepted(3, 9)), (CONFIG, CONFIG))
    again = msgspec.json.decode(to_json(found), type=RunComparison)
    assert again == found


# -- the page ------------------------------------------------------------------------------

RUNS: tuple[list[Record], ...] = ([], mixed(), accepted(9, 40), [failed(1)], accepted(0, 30))


@pytest.mark.parametrize(("a", "b"), list(product(range(len(RUNS)), repeat=2)))
def test_every_two_runs_make_a_page(a: int, b: int) -> None:
    read = Page(render(compare_runs(run(RUNS[a]), run(RUNS[b])), "before", "after"))
    assert "after against before" in read.text
    assert "nan" not in read.text.split()


def test_a_clear_difference_is_coloured_and_a_doubtful_one_grey() -> None:
    clear = render(compare_runs(run(accepted(20, 100)), run(accepted(80, 100))), "a", "b")
    assert 'class="whisker t-a"' in clear
    assert "+60.0" in Page(clear).text
    doubtful = render(compare_runs(run(accepted(10, 30)), run(accepted(11, 30))), "a", "b")
    assert 'class="whisker t-a"' not in doubtful
    assert "may be chance" in Page(doubtful).text
    few = render(compare_runs(run(accepted(1, 3)), run(accepted(3, 3))), "a", "b")
    assert "too few to tell" in Page(few).text


def test_two_runs_of_one_name_are_told_apart() -> None:
    text = Page(render(compare_runs(run(mixed()), run(mixed())), "run", "run")).text
    assert "run (second) against run (first)" in text


def test_prices_and_flags_are_compared() -> None:
    base = compare_runs(run(accepted(20, 40)), run(accepted(20, 40)))
    money = tuple(Gap("money", 0.5, 0.25) if g.name == "money" else g for g in base.costs)
    flags = (Contrast("echo", rate(1, 40), rate(20, 40), None),)
    text = Page(render(replace(base, costs=money, flags=flags), "a", "b")).text
    assert "× 0.50" in text
    assert "echo" in text


@settings(max_examples=40)
@given(st.text(max_size=20) | HOSTILE, st.text(max_size=20) | HOSTILE)
def test_hostile_names_stay_text(bad: str, worse: str) -> None:
    records = [record(i, "vc", say=lambda _: bad) for i in range(20)]
    figures = run([replace(r, scenario=replace(r.scenario, strategy=bad)) for r in records])
    changed = replace(compare_runs(figures, figures), changes={bad: (worse, None)})
    html = render(changed, bad, worse)
    assert "<script" not in html
    html.encode()
    Page(html)


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    html = render(compare_runs(run(mixed()), run(accepted(9, 40))), "a", "b")
    outside = ("<script", "src=", "href=", "url(", "@import", "http:")
    assert not any(word in html for word in outside)
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
