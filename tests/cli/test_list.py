"""`sdsd list`: which dialogues it lists, and that a line fits the terminal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import sdsd
from sdsd.cli import listing
from sdsd.cli.app import main
from sdsd.errors import ConfigError
from tests.helpers.terminals import in_terminal

SDSD = Path(sys.executable).with_name("sdsd")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration: dialogues of every outcome. Not to be changed."""
    out = tmp_path_factory.mktemp("list") / "demo"
    with pytest.raises(SystemExit):
        main(["demo", "--out", str(out), "--json"])
    return out


def listed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    """What `sdsd list --json` says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["list", *map(str, arguments), "--json"])
    assert ended.value.code == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_it_says_of_every_dialogue_what_the_record_says(
    capsys: pytest.CaptureFixture[str], demo: Path
) -> None:
    records = list(sdsd.Run.open(demo))
    lines = listed(capsys, demo)
    assert [line["index"] for line in lines] == [r.scenario.index for r in records]
    for line, record in zip(lines, records, strict=True):
        assert line["outcome"] == record.outcome
        assert line["pairs"] == len(record.pairs)
        assert line["topic"] == record.scenario.subarea
        assert line["principle"] == record.scenario.principles[0].id


def test_outcomes_add_up_and_other_choices_narrow(
    capsys: pytest.CaptureFixture[str], demo: Path
) -> None:
    every = listed(capsys, demo)
    for outcomes in (["accepted"], ["filtered"], ["failed"], ["filtered", "failed"]):
        options = [f"--{outcome}" for outcome in outcomes]
        expected = [line for line in every if line["outcome"] in outcomes]
        assert expected
        assert listed(capsys, demo, *options) == expected
    named = ["--principle", "no-closing-question", "--strategy", "haste", "--accepted"]
    assert [line["index"] for line in listed(capsys, demo, *named)] == [11, 19]


def test_a_random_choice_is_of_those_that_are_wanted(
    capsys: pytest.CaptureFixture[str], demo: Path
) -> None:
    accepted = listed(capsys, demo, "--accepted")
    seen = set()
    for _ in range(20):
        some = listed(capsys, demo, "--accepted", "--random", 3)
        assert len(some) == 3
        assert [line for line in accepted if line in some] == some  # in order, each once
        seen |= {line["index"] for line in some}
    assert len(seen) > 3
    assert listed(capsys, demo, "--accepted", "--random", 99) == accepted


def test_pairs_are_those_of_the_run(capsys: pytest.CaptureFixture[str], demo: Path) -> None:
    expected = [(p.scenario.index, p.rejected, p.chosen) for p in sdsd.Run.open(demo).pairs()]
    lines = listed(capsys, demo, "--pairs")
    assert [(p["index"], p["rejected"], p["chosen"]) for p in lines] == expected
    assert all(line["prompt"][-1]["role"] == "user" for line in lines)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (listing.Wanted(principle="no-closing-questions"), "did you mean `no-closing-question`?"),
        (listing.Wanted(strategy="zzz"), "--strategy zzz: no dialogue of .* there are direct, fal"),
    ],
)
def test_a_name_that_no_dialogue_has(demo: Path, wanted: listing.Wanted, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said) if "`" in said else said):
        listing.dialogues(sdsd.Run.open(demo), wanted, json=False)


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("options", [[], ["--pairs"]], ids=str)
def test_a_line_fits_the_terminal(demo: Path, columns: int, options: list[str]) -> None:
    seen = in_terminal([SDSD, "list", demo, *options], columns)
    count = len(listing_of(demo, options))
    _, *lines = seen.lines[: count + 1]
    assert seen.code == 0
    assert max(map(len, seen.lines[: count + 1])) <= columns
    assert [line.split()[0] for line in lines] == listing_of(demo, options)
    if columns >= 80:  # names can be copied
        assert "no-judging-absent-parties" in seen.written


def listing_of(run: Path, options: list[str]) -> list[str]:
    """The index in each line."""
    records = list(sdsd.Run.open(run))
    return [str(r.scenario.index) for r in records for _ in (r.pairs if options else (1,))]


def test_in_a_pipe_nothing_is_cut(capsys: pytest.CaptureFixture[str], demo: Path) -> None:
    with pytest.raises(SystemExit):
        main(["list", str(demo)])
    printed = capsys.readouterr().out
    assert all(record.scenario.subarea in printed for record in sdsd.Run.open(demo))


def test_replies_are_shown_from_where_they_differ() -> None:
    first, second = listing._from_difference("a b c d e x y", "a b c d e z")
    assert (first, second) == ("\u2026 e x y", "\u2026 e z")
    assert listing._from_difference("a b x", "a b y") == ("a b x", "a b y")
    assert listing._from_difference("a b c d", "a b c d e") == ("\u2026 d", "\u2026 d e")
