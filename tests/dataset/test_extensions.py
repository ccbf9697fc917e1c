"""User-defined views, filters, quality checks and trainer formats: the examples of the docs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

import sdsd
from sdsd import config as configuration
from sdsd.config import Config, ExportConfig
from sdsd.dataset import columns as c
from sdsd.dataset.columns import Column
from sdsd.dataset.export import Counts, differing, export, read
from sdsd.dataset.extensions import meanings_of, plugins_of, validate
from sdsd.dataset.selection import Selection
from sdsd.dataset.trainer_formats import File, Format, write
from sdsd.dataset.view import Row, Selected, View
from sdsd.errors import ConfigError, PluginError
from sdsd.models.scripted import ScriptedModel, small_world
from sdsd.plugins import version
from sdsd.reports.html import plots
from sdsd.runs.directory import RunDir
from sdsd.runs.hub import publishable
from sdsd.runs.verify import verify
from sdsd.types import Dialogue, Plan, Record
from tests.factories.records import FIXED, accepted, manifest, unplanned, unviolated, write_run

HERE = "tests.dataset.test_extensions"


def exported(data: Path, *records: Record, **keys: Any) -> tuple[Counts, Config]:
    config = configuration.load({"export": keys})
    return export(records or [accepted(0), unviolated(1)], manifest(), config, data), config


# -- a view --------------------------------------------------------------------------------


def rows(selected: Selected) -> Iterator[Row]:
    for pair in selected.pairs:
        yield {"words": len(pair.chosen.split())}


WORDS = Column("words", c.INT, "Words of the chosen reply.")
lengths = View("lengths", "One row per pair.", (c.ID, WORDS), rows)


def test_a_view_is_written_listed_compared_and_removed(tmp_path: Path) -> None:
    config = Config(export=ExportConfig(views=(f"{HERE}:lengths",)))
    counts = write_run(tmp_path, [accepted(0), unviolated(1)], config)
    assert list(read(tmp_path / "data", "lengths")) == [{"id": "000000-0abc", "words": 10}]
    assert counts.rows["lengths"] == 1
    assert "config_name: lengths" in (tmp_path / "README.md").read_text()
    others = (Selection(config.export, 7) for _ in range(2))
    same = differing([accepted(0)], manifest(), config, tmp_path / "data", next(others))
    assert not any("lengths" in problem for problem in same)
    more = differing(
        [accepted(0), accepted(2)], manifest(), config, tmp_path / "data", next(others)
    )
    assert any("lengths: differs from the journal" in problem for problem in more)

    (tmp_path / "data" / "mine").mkdir()
    (tmp_path / "data" / "mine" / "notes.txt").write_text("not ours")
    write_run(tmp_path, [accepted(0)])
    assert not (tmp_path / "data" / "lengths").exists()
    assert (tmp_path / "data" / "mine" / "notes.txt").exists()


# -- a filter ------------------------------------------------------------------------------


def keep(record: Record) -> str | None:
    return "foolish" if record.dialogue and "fool" in record.dialogue.last_reply else None


def test_a_filter_removes_under_its_own_rule(tmp_path: Path) -> None:
    counts, _ = exported(tmp_path, accepted(0), unplanned(2), filters=[f"{HERE}:keep"])
    assert counts.removed == {"foolish": 1}
    (row,) = read(tmp_path, "removed")
    assert (row["scope"], row["rule"], row["pair"]) == ("dialogue", "foolish", None)
    assert not list(read(tmp_path, "preference"))


def test_what_a_filter_removes_is_repeated_by_nothing(tmp_path: Path) -> None:
    twice = [accepted(0), accepted(0)]
    assert exported(tmp_path, *twice)[0].removed == {"duplicate_exact": 1}
    assert exported(tmp_path, *twice, filters=[f"{HERE}:keep"])[0].removed == {"foolish": 2}


# -- a check -------------------------------------------------------------------------------


def insult(dialogue: Dialogue, plan: Plan | None) -> Iterable[int]:
    """A turn that insults somebody.

    The rest of this is for readers of the code.
    """
    return [k for k, m in enumerate(dialogue.messages) if "fool" in m.content]


def test_a_check_marks_and_may_exclude(tmp_path: Path) -> None:
    check = f"{HERE}:insult"
    counts, config = exported(tmp_path, checks=[check])
    first, second = read(tmp_path, "dialogues")
    assert (first["warnings"], first["clean_exchanges"]) == (["insult"], 1)
    assert (second["warnings"], counts.warnings, counts.removed) == ([], {"insult": 1}, {})
    assert meanings_of(config.export)["insult"] == "A turn that insults somebody."
    drawn = plots.rules(counts.warnings, config.export, name="Warnings")
    assert "A turn that insults somebody.: 1" in drawn
    assert exported(tmp_path, checks=[check], exclude=["insult"])[0].removed == {"insult": 1}


# -- a trainer format ----------------------------------------------------------------------


def line(row: Row) -> dict[str, Any]:
    return {"question": row["prompt"][-1]["content"], "answer": row["chosen"][0]["content"]}


questions = Format("Questions and answers.", (File("questions", "preference", line),))


def test_a_format_is_written_as_lines(tmp_path: Path) -> None:
    exported(tmp_path / "data")
    assert write(tmp_path / "data", f"{HERE}:questions", tmp_path) == {"questions-train.jsonl": 1}
    said = json.loads((tmp_path / "questions-train.jsonl").read_text())
    assert said == {"question": "Surely it is?", "answer": FIXED}


# -- parts that are not what they should be ------------------------------------------------


def unknown(selected: Selected) -> Iterator[Row]:
    yield {"words": 1, "letters": 2}


def wrong_type(selected: Selected) -> Iterator[Row]:
    yield {"words": "nine"}


def failing(*_: object) -> Any:
    raise KeyError("oh")


misnamed = View("../up", "", (c.ID,), rows)
namesake = View("sft", "", (c.ID,), rows)
more_keys = View("more", "", (c.ID, WORDS), unknown)
fewer_keys = View("fewer", "", (c.ID, WORDS, Column("letters", c.INT, "")), rows)
mistyped = View("mistyped", "", (c.ID, WORDS), wrong_type)
broken = View("broken", "", (c.ID,), failing)
bad_format = Format("", (File("x", "preference", failing),))


def exiting(*_: object) -> Any:
    raise SystemExit(0)


def nothing(*_: object) -> Any:
    return None


def chatty(record: Record) -> str:
    return "Too long, | <b>"


def wrong_size(selected: Selected) -> Iterator[Row]:
    yield {"words": 10**30}


class Stateful:
    def __call__(self, record: Record) -> None: ...


untyped = View("untyped", "", [WORDS], rows)  # type: ignore[arg-type]
columnless = View("columnless", "", (), rows)
LETTERS = Column("letters", c.INT, "")
doubled = View("doubled", "", (LETTERS, LETTERS), rows)
overflowing = View("overflowing", "", (c.ID, WORDS), wrong_size)
exiting_format = Format("", (File("x", "preference", exiting),))
empty_format = Format("", (File("x", "preference", nothing),))
climbing_format = Format("", (File("../up", "preference", nothing),))


def number(record: Record) -> Any:
    return 3


def outside(dialogue: Dialogue, plan: Plan | None) -> list[int]:
    return [len(dialogue.messages)]


def echo(dialogue: Dialogue, plan: Plan | None) -> list[int]:
    return []


@pytest.mark.parametrize(
    ("group", "name", "said"),
    [
        ("views", "misnamed", r"cannot be called `\.\./up`; use lower-case letters"),
        ("views", "namesake", r"cannot be called `sft`.* none of preference"),
        ("views", "keep", r"is not a view; make it a `sdsd\.dataset\.view\.View`"),
        ("views", "more_keys", "missing or unknown: letters"),
        ("views", "fewer_keys", "missing or unknown: letters"),
        ("views", "mistyped", "view `mistyped`: a row does not have the columns' types"),
        (
            "views",
            "broken",
            "view `[^`]+:broken` failed on 000000-0abc: KeyError: 'oh'",
        ),
        ("filters", "number", "returned 3; return a rule's name, or None"),
        (
            "filters",
            "failing",
            "filter `[^`]+:failing` failed on 000000-0abc: KeyError",
        ),
        ("filters", "HERE", "cannot be called; filters are functions"),
        ("filters", "chatty", "a name has lower-case letters"),
        ("filters", "exiting", "failed on 000000-0abc: SystemExit: 0"),
        ("filters", "Stateful", "of type `type` and cannot be called; filters are functions"),
        (
            "views",
            "untyped",
            "has a `doc`, a tuple of `Column` values and a function `rows`",
        ),
        ("views", "columnless", "a view needs columns, each with its own name .* not none"),
        ("views", "doubled", "each with its own name .* not 'letters', 'letters'"),
        ("views", "overflowing", "view `overflowing`: a row does not have the columns' types"),
        ("checks", "outside", r"yielded \[4\]; yield indices into `dialogue.messages`"),
        (
            "checks",
            "failing",
            "check `[^`]+:failing` failed on this dialogue: KeyError",
        ),
        ("checks", "echo", "the rule `echo` exists already"),
    ],
)
def test_a_part_that_is_wrong_is_named_with_the_remedy(
    tmp_path: Path, group: str, name: str, said: str
) -> None:
    with pytest.raises(PluginError, match=said) as caught:
        exported(tmp_path, **{group: [f"{HERE}:{name}"]})
    assert caught.value.exit_code == 2
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_format_that_is_wrong_is_named_with_the_remedy(tmp_path: Path) -> None:
    exported(tmp_path / "data")
    with pytest.raises(PluginError, match=r"is not a format; make it a `sdsd.dataset.trainer_form"):
        write(tmp_path / "data", f"{HERE}:keep", tmp_path / "out")
    for name, said in {
        "bad_format": "bad_format` failed on 000000-0abc of `preference`: Key",
        "exiting_format": "exiting_format` failed on 000000-0abc of `preference`: SystemExit: 0",
        "empty_format": "empty_format` failed on .*: TypeError: return a dict, not None",
        "climbing_format": r"climbing_format`: a file cannot be called `\.\./up`",
    }.items():
        with pytest.raises(PluginError, match=said):
            write(tmp_path / "data", f"{HERE}:{name}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_are_checked_before_anything_is_spent() -> None:
    validate(ExportConfig(checks=(f"{HERE}:insult",), exclude=("insult", "echo")))
    with pytest.raises(
        ConfigError, match=r"`export\.exclude` names `insult`; the rules are order, "
    ):
        validate(ExportConfig(exclude=("insult",)))
    for group in ("views", "filters", "checks"):
        with pytest.raises(PluginError, match="no_such_module:x` cannot be imported"):
            validate(ExportConfig(**{group: ("no_such_module:x",)}))  # type: ignore[arg-type]


def undescribed(dialogue: Dialogue, plan: Plan | None) -> list[int]:
    """ """
    return []


def test_a_check_without_a_description_is_described_by_its_name() -> None:
    meanings = meanings_of(ExportConfig(checks=(f"{HERE}:undescribed",)))
    assert meanings["undescribed"] == "undescribed"


def test_every_file_names_the_parts_and_their_versions(tmp_path: Path) -> None:
    _, config = exported(tmp_path, filters=[f"{HERE}:keep"], views=[f"{HERE}:lengths"])
    assert plugins_of(config.export) == {f"{HERE}:lengths": "views", f"{HERE}:keep": "filters"}
    metadata = pq.read_schema(tmp_path / "lengths" / "train-00000-of-00001.parquet").metadata
    story = msgspec.json.decode(metadata[b"sdsd"])
    assert story["extensions"][f"{HERE}:keep"] == version(keep)


def test_a_configuration_that_is_handed_on_names_no_code() -> None:
    keys = {"views": ["a:b"], "filters": ["c:d"], "checks": ["e:f"], "exclude": ["f", "echo"]}
    export = publishable(configuration.load({"export": keys}), 1).export
    assert plugins_of(export) == {}
    assert export.exclude == ("echo",)


@pytest.mark.e2e
def test_a_run_is_exported_again_with_parts_and_verifies(tmp_path: Path) -> None:
    run = sdsd.run({"n": 12}, out=tmp_path, models={"default": ScriptedModel(small_world)})
    changes = ("views", "lengths"), ("filters", "keep"), ("checks", "insult")
    counts = run.export({key: [f"{HERE}:{name}"] for key, name in changes})
    assert counts
    assert run.to_datasets("lengths")["train"].num_rows == counts.rows["lengths"]
    assert counts.rows["lengths"] == counts.rows["preference"] > 0
    assert verify(RunDir(tmp_path)).defects == ()
