"""What a run spends, and where it stops spending."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sdsd
from sdsd import config as configuration
from sdsd.config import PriceConfig
from sdsd.models.base import Capabilities
from sdsd.models.scripted import CHATML, ScriptedModel
from sdsd.reports.money import cost, money
from sdsd.runs.budget import Account
from sdsd.runs.estimate import estimate
from sdsd.runs.events import Event, Noted
from sdsd.types import Completion, Usage

pytestmark = pytest.mark.e2e

PRICES: dict[str, Any] = {
    "models": {"default": {"price": {"prompt": 2.0, "cached": 0.5, "completion": 10.0}}}
}


def test_what_tokens_cost() -> None:
    price = PriceConfig(prompt=2.0, cached=0.5, completion=10.0)
    assert cost(price, 1_000_000, 400_000, 100_000) == pytest.approx(1.2 + 0.2 + 1.0)
    assert cost(PriceConfig(prompt=2.0), 1_000_000, 400_000, 9) == pytest.approx(2.0)
    assert cost(price, 10, 20, 0) == pytest.approx(20 * 0.5 / 1e6)  # a server that miscounts


def test_an_account_goes_on_from_what_was_spent_before() -> None:
    config = configuration.load({**PRICES, "budget": {"tokens": 1000, "money": 0.01}})
    before = [Usage("plan", "planner", "m", 1, 500, 0, 100, 1.0)]
    account = Account(config, before)
    assert account.tokens == 600
    assert account.money == pytest.approx(money(before, config)) == pytest.approx(0.002)
    assert account.exhausted == ""
    account.add("agent", Completion("", prompt_tokens=100, completion_tokens=299))
    assert account.exhausted == ""
    account.add("agent", Completion("", prompt_tokens=1))
    assert "the budget of 1,000 tokens is used up (1,000)" in account.exhausted
    assert "raise `budget.tokens`" in account.exhausted


def run(
    tmp_path: Path, n: int, model: ScriptedModel | None = None, **keys: Any
) -> tuple[sdsd.Run, ScriptedModel, list[str]]:
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    model = model or ScriptedModel()
    overrides = {key.replace("__", "."): value for key, value in keys.items()}
    chosen = configuration.load({**PRICES, "n": n, "max_open_dialogues": 4}, overrides)
    result = sdsd.run(chosen, out=tmp_path / "run", models={"default": model}, on_event=hear)
    return result, model, notes


@pytest.mark.parametrize("budget", [{"budget__tokens": 20_000}, {"budget__money": 0.05}])
def test_a_budget_stops_a_run_cleanly_and_a_larger_one_continues_it(
    tmp_path: Path, budget: dict[str, Any]
) -> None:
    first, model, notes = run(tmp_path, 20, **budget)
    assert first.stopped
    assert 0 < len(first) < 20
    assert "is used up" in first.stopped
    assert any("is used up" in note for note in notes)
    asked = model.asked

    again, model, notes = run(tmp_path, 20, **budget)
    assert "is used up" in again.stopped
    assert (len(again), model.asked) == (len(first), 0)
    assert any("is used up" in note for note in notes)

    whole, model, _ = run(tmp_path, 20)
    assert (whole.stopped, len(whole)) == ("", 20)
    other, fresh, _ = run(tmp_path / "other", 20)
    assert whole.status().outcomes == other.status().outcomes
    assert asked + model.asked == fresh.asked


def test_an_estimate_of_a_new_run_is_near_what_it_takes(tmp_path: Path) -> None:
    critique = {"method": "verdict", "exam": 0}
    config = configuration.load({**PRICES, "n": 60, "critique": critique})
    found = estimate(config, tmp_path / "run")
    assert found.left == 60
    assert found.basis == "a rehearsal of 30 dialogues by `continuation`"
    assert {"stake", "plan", "revise"} <= {u.stage for u in found.usage}
    result, model, _ = run(tmp_path, 60)
    assert len(result) == 60
    assert found.calls == pytest.approx(model.asked, rel=0.1)
    assert found.money > 0


def test_an_engine_that_scores_text_is_estimated_to_make_contrast_pairs(tmp_path: Path) -> None:
    found = estimate(configuration.load({**PRICES, "n": 60}), tmp_path / "run")
    assert "by `continuation` with `contrast` pairs" in found.basis
    assert found.basis.endswith(
        "without the critic's exam of 24 items, whose result may be at hand"
    )
    scoring = Capabilities(completions=True, template=CHATML, scoring="token_grammar")
    result, model, _ = run(tmp_path, 60, ScriptedModel(capabilities=scoring))
    assert found.calls == pytest.approx(model.asked, rel=0.1)
    assert {u.stage for u in found.usage} == {u.stage for u in result.status().usage}
    assert {pair.kind for record in result.records() for pair in record.pairs} >= {"contrast"}
    served = {"models": {"default": {"model": "m", "base_url": "http://127.0.0.1:1/v1"}}}
    assert "contrast" not in estimate(configuration.load(served), tmp_path / "other").basis


def test_an_estimate_of_a_run_under_way_goes_by_what_it_took(tmp_path: Path) -> None:
    run(tmp_path, 10)
    config = configuration.load({**PRICES, "n": 30, "max_open_dialogues": 4})
    found = estimate(config, tmp_path / "run")
    assert (found.left, found.basis) == (20, "the 10 dialogues that this run has made")
    _, model, _ = run(tmp_path, 30)
    assert found.calls == pytest.approx(model.asked, rel=0.2)
    done = estimate(config, tmp_path / "run")
    assert (done.left, done.calls, done.money) == (0, 0, 0.0)


def test_an_estimate_of_a_run_from_a_source_reads_it_and_keeps_nothing(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"How do I mend roof {k}?"},
                {"role": "assistant", "content": "Just trust me, nobody needs to check this."},
            ]
        }
        for k in range(40)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    verdicts = {"critique": {"method": "verdict", "exam": 0}}
    config = configuration.load({"source": {"path": str(path)}, **verdicts})
    found = estimate(config, tmp_path / "run")
    assert (found.left, found.basis) == (
        40,
        "a rehearsal of 30 dialogues from the source by `continuation`",
    )
    assert {u.stage for u in found.usage} <= {"critique", "revise", "recheck"}
    assert not (tmp_path / "run").exists()
    first = {"source": {"path": str(path)}, **verdicts, "n": 3}
    few = estimate(configuration.load(first), tmp_path / "run")
    assert (few.left, "a rehearsal of 3 " in few.basis) == (3, True)
    asked = ScriptedModel()
    sdsd.run(config, out=tmp_path / "run", models={"default": asked})
    assert found.calls == pytest.approx(asked.asked, rel=0.3)
    assert estimate(config, tmp_path / "run").left == 0
