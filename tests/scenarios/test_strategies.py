"""Strategies: the packaged ones, and files of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdsd.errors import PromptError
from sdsd.scenarios import strategies
from sdsd.scenarios.strategies import Settings, load, load_strategies, packaged


def test_packaged_ones_say_what_they_do_and_differ() -> None:
    found = load_strategies(["all"])
    assert len(found) >= 8
    assert list(found) == list(packaged())
    assert all(s.meaning.endswith(".") and s.plan for s in found.values())
    assert len({s.meaning for s in found.values()}) == len(found)
    directed = [s for s in found.values() if s.name != "natural"]
    for s in directed:
        assert "THE RULE" in s.reply("THE RULE", "THE SLIP")
        assert "THE SLIP" in s.reply("THE RULE", "THE SLIP")
    assert found["natural"].reply("THE RULE", "THE SLIP") == ""
    assert any(s.user("THE RULE", "THE SLIP") for s in directed)


def test_a_value_is_text_whatever_it_looks_like() -> None:
    assert "{{planned_violation}}" in load("direct").reply("{{planned_violation}}", "x")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "bet.md"
    path.write_text("A wager.\n\n## settings\nretries: 1\n\n## plan\nThey bet.\n", "utf-8")
    mine = load(str(path))
    assert (mine.name, mine.meaning, mine.plan("p")) == ("bet", "A wager.", "They bet.")
    assert mine.settings == Settings(retries=1)
    assert mine.reply("p", "s") == mine.user("p", "s") == ""
    assert list(load_strategies(["direct", str(path)])) == ["direct", "bet"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("## reply\nx\n", "`## plan` is missing"),
        ("## plan\nx\n## answer\ny\n", "`## answer` is not known"),
        ("## plan\n{{planned_violation}}\n", "`{{planned_violation}}` in `## plan` is not filled"),
        ("## plan\nx\n## settings\nopenings: true\n", "`openings`"),
        ("## plan\nx\n## settings\nretries: many\n", "retries"),
        ("## plan\nx\n## settings\n[1\n", "settings"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.md"
    path.write_text(text, "utf-8")
    with pytest.raises(PromptError) as fault:
        load(str(path))
    assert str(path) in str(fault.value)
    assert said in str(fault.value)


def test_unknown_names_and_namesakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no strategy is called `bribery`; the packaged ones are"):
        load("bribery")
    path = tmp_path / "direct.md"
    path.write_text("## plan\nx\n", "utf-8")
    with pytest.raises(PromptError, match="two strategies are called `direct`"):
        load_strategies(["direct", str(path)])


def test_all_and_a_name_among_them_is_once() -> None:
    assert load_strategies(["all", "direct"]) == load_strategies(["all"])
    assert strategies.ALL not in packaged()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text("## plan\none\n", "utf-8")
    assert load(str(path)).plan("p") == "one"
    path.write_text("## plan\ntwo\n", "utf-8")
    assert load(str(path)).plan("p") == "two"
