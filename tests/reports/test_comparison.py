"""Two independent runs compared: what differs, how surely, and a page that stays complete."""

from __future__ import annotations

import random
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.config import Config, load
from sdsd.errors import SdsdError
from sdsd.reports.html.comparison import render
from sdsd.reports.metrics.comparison import Change, Comparison, Group, Measure, compare, to_json
from sdsd.reports.metrics.figures import Figures, collect
from sdsd.types import Record
from tests.factories.numbered import CONFIG, DOMAINS, PRINCIPLES, failed, mixed, record
from tests.helpers.html import HOSTILE, Page


def run(records: list[Record], config: Config = CONFIG) -> Figures:
    return collect(iter(records), [(1.0, "turn", 9)], config, (PRINCIPLES, DOMAINS))


def accepted(n: int, of: int, strategy: str = "direct") -> list[Record]:
    """`n` verified pairs, the other dialogues clean."""
    made = [
        record(i) if i < n else record(i, "cc", "filtered", "no_violation", revisions=0)
        for i in range(of)
    ]
    return [replace(r, scenario=replace(r.scenario, strategy=strategy)) for r in made]


def compare_runs(a: Figures, b: Figures) -> Comparison:
    return compare({"before": a, "after": b})


def change(comparison: Comparison, group: Group, name: str) -> Change | None:
    (found,) = comparison.measure(group, name).changes
    return found


def grouped(comparison: Comparison, group: Group) -> list[Measure]:
    return [m for m in comparison.measures if m.group == group]


def test_a_run_does_not_differ_from_itself() -> None:
    runs = {"a": run(mixed()), "b": run(mixed())}
    found = compare(runs, {"a": CONFIG, "b": CONFIG})
    assert not found.paired
    for measure in found.measures:
        assert measure.values[0] == measure.values[1]
        (same,) = measure.changes
        none = 1 if measure.group == "cost" else 0
        if same:
            assert (same.value, same.clear) == (none, False)
            if same.interval:
                assert same.interval.low <= none <= same.interval.high
    assert found.settings == {}


def test_a_large_difference_is_told_from_none() -> None:
    found = compare_runs(run(accepted(20, 100)), run(accepted(80, 100)))
    yields = change(found, "share", "yield")
    assert yields is not None
    assert yields.interval is not None
    assert yields.value == pytest.approx(0.6)
    assert 0.4 < yields.interval.low < 0.6 < yields.interval.high < 0.8
    assert (yields.clear, yields.n, yields.paired) == (True, 100, False)
    failures = change(found, "share", "failed")
    assert failures is not None
    assert failures.value == 0
    tokens = change(found, "cost", "tokens")
    assert tokens is not None
    assert tokens.interval is not None
    assert tokens.value == pytest.approx(0.25)
    assert tokens.interval.low < 0.25 < tokens.interval.high < 1
    assert tokens.clear


def test_the_sides_swap() -> None:
    a, b = run(accepted(9, 40)), run([*accepted(20, 50), failed(60)])
    there, back = compare_runs(a, b), compare_runs(b, a)
    for measure in there.measures:
        x = change(there, measure.group, measure.name)
        y = change(back, measure.group, measure.name)
        assert (x is None) == (y is None)
        if not (x and y and x.interval and y.interval):
            continue
        if measure.group == "cost":
            assert x.interval.low == pytest.approx(1 / y.interval.high)
        else:
            assert x.value == pytest.approx(-y.value)
            assert x.interval.low == pytest.approx(-y.interval.high)


def test_only_what_both_have_is_compared() -> None:
    a = run([*accepted(3, 6), *accepted(2, 4, "subtle")])
    b = run([*accepted(3, 6), *accepted(2, 4, "persona")])
    strategies = grouped(compare_runs(a, b), "strategy")
    assert [m.name for m in strategies if m.changes[0]] == ["direct"]
    assert {m.name for m in strategies} == {"direct", "subtle", "persona"}
    none = compare_runs(run([]), run(mixed()))
    assert change(none, "share", "yield") is None
    assert not any(m.changes[0] for m in grouped(none, "strategy"))
    assert none.measure("cost", "tokens").values[0] is None


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
    gap = change(found, "distinct", "user/1")
    assert gap is not None
    assert gap.interval is not None
    assert gap.interval.low < gap.value < gap.interval.high < 0
    agent = [m.changes[0] for m in grouped(found, "distinct") if m.name.startswith("agent")]
    assert all(x is None or x.interval is None for x in agent)
    assert "Agent turns, 2 words" in Page(render(found)).text


def test_what_was_set_is_named_without_how_it_was_run() -> None:
    one = load({"n": 5, "scenarios": {"strategies": ["direct"]}, "models": {"default": {}}})
    other = load(
        {"n": 9, "scenarios": {"strategies": ["subtle"]}, "models": {"default": {"parallel": 3}}}
    )
    found = compare({"a": run(mixed()), "b": run(mixed())}, {"a": one, "b": other})
    assert found.settings == {"scenarios.strategies": (["direct"], ["subtle"])}
    assert "scenarios.strategies" in Page(render(found)).text


def test_figures_go_to_json() -> None:
    found = compare_runs(run(mixed()), run(accepted(3, 9)))
    again = msgspec.json.decode(to_json(found), type=Comparison)
    assert again == found


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(SdsdError, match="at least one"):
        compare({})


# -- the page ------------------------------------------------------------------------------

RUNS: tuple[list[Record], ...] = ([], mixed(), accepted(9, 40), [failed(1)], accepted(0, 30))


@pytest.mark.parametrize(("a", "b"), list(product(range(len(RUNS)), repeat=2)))
def test_every_two_runs_make_a_page(a: int, b: int) -> None:
    read = Page(render(compare_runs(run(RUNS[a]), run(RUNS[b]))))
    assert "after compared with before" in read.text
    assert "nan" not in read.text.split()


def test_a_clear_difference_is_coloured_and_a_doubtful_one_grey() -> None:
    clear = render(compare_runs(run(accepted(20, 100)), run(accepted(80, 100))))
    assert 'class="whisker t-a"' in clear
    assert "+60.0" in Page(clear).text
    doubtful = render(compare_runs(run(accepted(10, 30)), run(accepted(11, 30))))
    assert 'class="whisker t-a"' not in doubtful
    assert "may be chance" in Page(doubtful).text
    few = render(compare_runs(run(accepted(1, 3)), run(accepted(3, 3))))
    assert "too few to tell" in Page(few).text


def test_prices_and_warnings_are_compared() -> None:
    def priced(each: float) -> Figures:
        figures = run([*accepted(20, 40), echo(41)])
        return replace(figures, pair_cost=replace(figures.pair_cost, money=each))

    text = Page(render(compare_runs(priced(0.5), priced(0.25)))).text
    assert "× 0.50" in text
    assert "echo" in text


def echo(i: int) -> Record:
    """A dialogue whose agent repeats itself."""
    base = record(i)
    assert base.dialogue is not None
    said = "It is a long way from here to the old harbour, and the last bus has left already."
    turns = tuple(replace(m, content=said) for m in base.dialogue.messages)
    return replace(base, dialogue=replace(base.dialogue, messages=turns))


@settings(max_examples=40)
@given(st.text(max_size=20) | HOSTILE, st.text(max_size=20) | HOSTILE)
def test_hostile_names_stay_text(bad: str, worse: str) -> None:
    records = [record(i, "vc", say=lambda _: bad) for i in range(20)]
    figures = run([replace(r, scenario=replace(r.scenario, strategy=bad)) for r in records])
    found = compare({bad: figures, f"{worse} ": figures, "third": figures})
    html = render(replace(found, settings={bad: (worse, None, bad)}))
    assert "<script" not in html
    html.encode()
    Page(html)


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    html = render(compare_runs(run(mixed()), run(accepted(9, 40))))
    outside = ("<script", "src=", "href=", "url(", "@import", "http:")
    assert not any(word in html for word in outside)
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
