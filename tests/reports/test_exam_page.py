"""The page of an exam: every figure is on it, and no text in it can do more than be read."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd.reports.html.exam import MISTAKES, render
from sdsd.reports.metrics.calibration_fit import Answer
from sdsd.reports.metrics.exam import ExamResult, Judge, JudgeResult, summarise
from sdsd.scenarios.exam_items import Item
from sdsd.types import Example, Message, Principle, StageUsage
from tests.helpers.html import ANYTHING, Page


def item(k: int, text: str = "") -> Item:
    principle = Principle(f"p{k // 2}", f"It should {k // 2}. {text}", "f", f"category {k % 3}")
    pair = Example(
        f"user {k} {text}", f"satisfying {k} {text}", f"violating {k} {text}",
        (Message("user", f"before {text}"), Message("assistant", f"after {text}")),
    )  # fmt: skip
    return Item(
        f"p{k // 2}/{k % 2}", principle, pair, principle.category, ("plain", "subtle")[k % 2]
    )


def judged(items: list[Item], evidence: list[tuple[float, float]], judge: Judge = Judge(),
           failures: Mapping[str, str] = {}, model: str = "a-model") -> JudgeResult:  # fmt: skip
    rows = [
        Answer(i.id, i.principle.id, i.category, i.subtle, s, v, usage=StageUsage(2, 90, 0, 8, 1.5))
        for i, (s, v) in zip(items, evidence, strict=True)
    ]
    return summarise(judge, model, rows, failures, precision=0.8)


def result(judges: Mapping[str, JudgeResult], n: int, model: str = "a-model") -> ExamResult:
    return ExamResult(
        sdsd="0.1.0", made="2026-01-02T03:04:05Z", model=model, weights="", prompts="p", items="i",
        n=n, of=n, seed=0, precision=0.8, judges=dict(judges),
    )  # fmt: skip


GOOD = [(-3.0 + k % 5 + k / 100, 3.0 - (k + 1) % 5) for k in range(40)]


@pytest.fixture(scope="module")
def page() -> Page:
    items = [item(k) for k in range(40)]
    judges = {
        "contrast": judged(items, GOOD),
        "verdict": judged(items, [(1.0, -1.0)] * 40),
        "pairwise": judged(items, GOOD, Judge("pairwise"), {"p1/0": "HTTP 400"}),
    }
    return Page(render(result(judges, 40), items))


def test_every_judge_has_its_figures_and_its_cost(page: Page) -> None:
    for said in ("40 items, 3 judges", "best AUC", "1 of 3", "contrast", "pairwise", "98", "1.5"):
        assert said in page.text
    assert "not better than chance, cannot verify" in page.text


def test_curves_of_all_judges_and_the_calibration_of_each_are_drawn(page: Page) -> None:
    assert page.tags.count("path") >= 2 + 2 * 2
    assert page.text.count("In a run, ") == 2
    assert "because no threshold gives the wanted precision" in page.text


def test_the_worst_mistakes_are_printed_in_full(page: Page) -> None:
    assert "The worst mistakes of contrast" in page.text
    assert page.tags.count("article") == MISTAKES
    worst = max(range(40), key=lambda k: max(GOOD[k][0], -GOOD[k][1]))
    assert f"It should {worst // 2}." in page.text


def test_failures_are_counted_by_cause(page: Page) -> None:
    assert "HTTP 400" in page.text


def test_a_judge_without_mistakes_has_none_printed() -> None:
    items = [item(k) for k in range(12)]
    page = Page(render(result({"c": judged(items, [(-1.0, 1.0)] * 12)}, 12), items))
    assert "mistakes" not in page.text


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_items(n: int) -> None:
    items = [item(k) for k in range(n)]
    judges = {
        "c": judged(items, GOOD[:n], failures={"x": "why"}),
        "p": judged(items, GOOD[:n], Judge("pairwise")),
    }
    Page(render(result(judges, n), items))


@settings(max_examples=15)
@given(ANYTHING, st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=8))
def test_whatever_was_written_is_only_text(text: str, evidence: list[tuple[float, float]]) -> None:
    items = [item(k, text) for k in range(len(evidence))]
    judge = judged(items, evidence, failures={f"<i>{text}": text}, model=text)
    Page(render(result({f"j{text}": judge}, len(items), model=text), items))
