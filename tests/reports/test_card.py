"""The card: a head that hubs and `datasets` trust, words for people, and plots that stand alone."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.dataset.export import Counts, SplitCount, export
from sdsd.dataset.views import VIEWS
from sdsd.reports.card import card
from sdsd.reports.card_charts import plots
from sdsd.reports.html import comparison, report
from sdsd.reports.metrics.comparison import compare
from sdsd.reports.metrics.figures import Figures
from sdsd.types import ROLES, Calibration, Candidate, Record
from tests.factories.records import (
    BROKEN,
    MODELS,
    accepted,
    figures,
    manifest,
    scenario,
    uncritiqued,
    unplanned,
    unrepaired,
    unviolated,
)
from tests.helpers.reading import load, third_party

FEW = [accepted(0), unviolated(), unplanned(), uncritiqued(), unrepaired(), *map(accepted, (5, 6))]
OPEN = dict.fromkeys(ROLES, "qwen2.5-coder-1.5b")


def counts(**changes: Any) -> Counts:
    values: dict[str, Any] = {
        "rows": dict.fromkeys(VIEWS, 1200),
        "files": dict.fromkeys(VIEWS, 1),
        "bytes": dict.fromkeys(VIEWS, 9000),
        "digests": dict.fromkeys(VIEWS, "d" * 64),
        "splits": {view: {"train": SplitCount(1200, 1)} for view in VIEWS},
    }
    return Counts(**{**values, **changes})


def made(
    config: Config = Config(),
    found: Counts | None = None,
    seen: Figures | None = None,
    **changes: Any,
) -> tuple[dict[str, Any], str]:
    """A card's head and body."""
    seen = seen or figures(FEW, config)
    text = card(manifest(**changes), config, found or counts(), seen)
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def many(n: int = 30) -> list[Record]:
    """Enough to be drawn, by two strategies."""
    records = [accepted(i) for i in range(n)]
    return [*records, *(by_strategy(n + i, "haste") for i in range(10))]


def by_strategy(index: int, strategy: str) -> Record:
    named = msgspec.structs.replace(scenario(index), strategy=strategy)
    return msgspec.structs.replace(accepted(index), scenario=named)


# --- the head -------------------------------------------------------------------------------------


def test_the_head_says_what_a_hub_asks_for() -> None:
    head, _ = made()
    assert head["pretty_name"] == "Dialogues and revisions by agent-7b"
    assert head["language"] == ["en"]
    assert head["size_categories"] == ["1K<n<10K"]
    assert [c["config_name"] for c in head["configs"]] == list(VIEWS)
    assert head["configs"][0]["default"] is True
    assert [info["config_name"] for info in head["dataset_info"]] == list(VIEWS)
    assert head["dataset_info"][0]["download_size"] == 9000


def test_every_split_is_named_with_its_files() -> None:
    splits = {"train": SplitCount(1000, 3), "test": SplitCount(200, 1)}
    head, body = made(found=counts(splits=counts().splits | {"preference": splits}))
    assert head["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/preference/train-*-of-00003.parquet"},
        {"split": "test", "path": "data/preference/test-*-of-00001.parquet"},
    ]
    assert "| view | rows | train | test | content |" in body
    assert "| preference | 1,200 | 1,000 | 200 | One row" in body
    assert "| dialogues | 1,200 | 1,200 |  | One row" in body
    assert "no topic occurs in two splits" in body
    assert "no topic occurs in two splits" not in made()[1]


@third_party
def test_the_columns_are_those_that_datasets_reads_from_the_files(tmp_path: Path) -> None:
    """What the head says is believed unseen, so it must be what the files say themselves."""
    import datasets

    head, _ = made()
    for info in head["dataset_info"]:
        said = datasets.Features._from_yaml_list(info["features"])
        assert said == datasets.Features.from_arrow_schema(VIEWS[info["config_name"]].schema())


@third_party
def test_datasets_loads_every_split(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = configuration.load({"export": {"splits": {"by": "subarea", "test": 0.4}}})
    records = [_about(i) for i in range(30)]
    found = export(records, manifest(), config, run / "data")
    text = card(manifest(), config, found, figures(records, config))
    (run / "README.md").write_text(text, "utf-8")
    sizes = {name: each.rows for name, each in found.splits["preference"].items()}
    assert set(sizes) == {"train", "test"}
    assert load(run, tmp_path, "preference").num_rows == sizes["train"]
    import datasets

    loaded = datasets.load_dataset(str(run), "preference", cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == sizes


def _about(i: int) -> Record:
    return msgspec.structs.replace(
        accepted(i, last=f"{BROKEN} {i}"),
        scenario=msgspec.structs.replace(scenario(i), subarea=f"loaf {i}"),
    )


def test_the_card_of_a_run_without_records(tmp_path: Path) -> None:
    found = export([], manifest(), Config(), tmp_path)
    head, body = made(found=found, seen=figures([]))
    assert head["configs"] == head["dataset_info"] == []
    assert "| dialogues with a confirmed violation, of those judged | no data |" in body
    assert "No reply was judged." in body


# --- the body -------------------------------------------------------------------------------------


def test_the_body_counts_and_warns() -> None:
    _, body = made()
    assert "violate principles on purpose" in body
    assert "| preference | 1,200 |" in body
    assert "| Accepted | 3 | 42.9% |" in body
    assert "| filtered | no\\_violation | 1 |" in body
    assert (
        "| dialogues with a confirmed violation, of those judged | 80.0% (4 of 5; 95% interval"
        in body
    )
    assert "`rejected`" in body
    assert "DPOTrainer" in body
    assert "| The assistant should not lie. | no-lies | 5 | 4 |" in body
    assert "Left out" not in body


def test_what_was_taken_out_is_counted_by_rule() -> None:
    _, body = made(found=counts(removed={"duplicate_near": 12, "too_similar": 3}))
    assert "| duplicate\\_near | 12 |\n| too\\_similar | 3 |" in body


@pytest.mark.parametrize(
    ("source", "models", "licence"),
    [
        ({}, OPEN, "apache-2.0"),
        ({}, MODELS, "other"),
        ({}, OPEN | {"critic": "gpt"}, "other"),
        ({"models": {"default": {"base_url": "http://x/v1"}}}, OPEN, "other"),
        ({"source": {"path": "hf:org/name"}}, OPEN, "other"),
    ],
)
def test_the_licence_is_claimed_only_where_it_is_known(
    source: dict[str, Any], models: dict[str, str], licence: str
) -> None:
    head, body = made(configuration.load(source), models=models)
    assert head["license"] == licence
    assert ("license_name" in head) == (licence == "other")
    section = body.partition("## Licence")[2].partition("\n## ")[0]
    assert all(name.replace("_", "\\_") in section for name in models.values())
    assert ("terms of those who provide" in section) == (licence == "other")
    assert ("terms of the models" in body) == (licence == "other")
    assert ("based on other data" in section) == ("source" in source)


def test_the_card_shows_settings_but_no_secrets() -> None:
    config = configuration.load(
        {
            "seed": 3,
            "catalogue": {"goals": "mine_*.yaml"},
            "scenarios": {"strategies": ["own/haste.md"]},
            "targets": {"pairs": 2},
            "models": {
                "default": {
                    "base_url": "http://internal:8000/v1",
                    "headers": {"x-key": "s3cret"},
                    "extra_body": {"token": "s3cret"},
                    "context": 8192,
                },
                "v15": {"model": "other", "headers": {"x-key": "s3cret"}},
            },
            "revise": {"recheck": False},
        }
    )
    head, body = made(config)
    assert "language" not in head
    assert "| models.v15.model | other |" in body
    assert "| models.v15.context" not in body
    assert "| seed | 3 |" in body
    assert "| catalogue.goals | mine\\_\\*.yaml |" in body
    assert "| models.default.context | 8192 |" in body
    assert "s3cret" not in body
    assert "internal" not in body
    assert "Rechecking was switched off" in body
    assert (
        "lacks `models.default.extra_body.token`, `catalogue.goals`, strategies of its own, "
        "`targets`, the addresses of servers: add them first."
    ) in body
    assert "add them first" not in made()[1]


def test_a_balanced_set_is_not_called_unbalanced() -> None:
    assert "Rebalance" in made()[1]
    config = configuration.load({"export": {"balance": {"by": "principle"}}})
    assert "Rebalance" not in made(config)[1]


def test_text_of_others_cannot_become_markup() -> None:
    nasty = "a|b\n# <script>alert(1)</script> [x](http://e.vil) `c` \ud800"
    head, body = made(models=dict.fromkeys(ROLES, nasty))
    assert "<script>" not in body
    assert "\n# &lt;" not in body
    assert "\\[x\\](http\\://e.vil)" in body
    assert head["pretty_name"].startswith("Dialogues")
    assert body.encode()
    assert "it judges what it wrote itself" in body


# --- pairs ---------------------------------------------------------------------------------------


def test_every_page_counts_verified_pairs_and_accepted_dialogues_alike() -> None:
    """A dialogue with several candidates may have several pairs."""
    clean = accepted(0).revisions[-1].recheck
    assert clean is not None
    several = tuple(Candidate(f"Bread rises {k}.", clean) for k in range(3))
    records = [msgspec.structs.replace(accepted(0), candidates=several), *FEW[1:]]
    pairs = sum(len(record.pairs) for record in records)
    dialogues = sum(bool(record.pairs) for record in records)
    assert (pairs, dialogues) == (6, 3)
    found = figures(records)
    assert (found.pairs, found.accepted.k) == (pairs, dialogues)
    assert sum(found.kinds.values()) == pairs
    _, body = made(seen=found)
    assert "| verified pairs | 6 |" in body
    assert "| accepted dialogues, of finished scenarios | 42.9% (3 of 7;" in body
    page = report.render(found, manifest(), Config(), [])
    assert "<h1>6 dialogues, 6 verified pairs</h1>" in page
    assert "in 3 accepted dialogues" in page
    compared = compare({"one": found, "other": found})
    assert [each.pairs for each in compared.runs.values()] == [pairs, pairs]
    assert compared.measure("share", "yield").proportions[0].k == dialogues
    row = "<td>one</td><td>7</td><td>43% <small>3/7</small></td><td>6</td>"
    assert row in comparison.render(compared)


def test_nothing_is_loaded_from_a_view_without_rows() -> None:
    rows = dict.fromkeys(VIEWS, 0)
    _, body = made(found=counts(rows=rows, splits={view: {} for view in VIEWS}))
    assert "load_dataset" not in body
    assert "nothing to load yet" in body
    found: dict[str, dict[str, SplitCount]] = {view: {} for view in VIEWS}
    found |= {"dialogues": {"test": SplitCount(3, 1)}}
    _, body = made(found=counts(rows=rows | {"dialogues": 3}, splits=found))
    assert 'load_dataset("HERE", "dialogues", split="test")' in body
    assert "DPOTrainer" not in body


# --- plots ----------------------------------------------------------------------------------------


def test_a_plot_stands_alone() -> None:
    drawn = plots(figures(many()))
    assert list(drawn) == ["funnel.svg", "principles.svg", "exchanges.svg", "strategies.svg"]
    for title, text in drawn.values():
        root = ElementTree.fromstring(text)
        assert root.get("aria-label") == title
        assert {element.tag.partition("}")[2] for element in root.iter()} <= {
            "svg", "style", "rect", "text", "g", "title", "path", "circle", "line",
        }  # fmt: skip
        assert "var(" not in text
        assert "@" not in text
        assert "url(" not in text
        assert "href" not in text
        background = root.find("{*}rect")
        assert background is not None
        assert background.get("fill") == "#ffffff"


def test_the_card_shows_the_plots_that_there_are() -> None:
    _, body = made(seen=figures(many()))
    for name, (title, _) in plots(figures(many())).items():
        assert f"![{title}](plots/{name})" in body
    assert "plots/" not in made()[1]  # too few to be drawn
    assert not plots(figures([]))


def test_without_violations_or_strategies_there_is_less_to_draw() -> None:
    assert list(plots(figures([unviolated(i) for i in range(12)]))) == [
        "funnel.svg",
        "exchanges.svg",
    ]


def test_labels_of_others_cannot_become_markup() -> None:
    evil = '"/><script>alert(1)</script>\u202e'
    records = [*many(), *(by_strategy(40 + i, evil) for i in range(10))]
    _, text = plots(figures(records))["strategies.svg"]
    assert "&lt;script" in text
    assert "<script" not in text
    assert "\u202e" not in text
    ElementTree.fromstring(text)


def test_the_card_denies_an_exam_only_if_there_was_none() -> None:
    _, body = made()
    assert "is not known: the critic took no exam" in body
    _, body = made(calibrations={"": Calibration(1.0, 0.0, 0.9, 0.1, trusted=False)})
    assert "no exam" not in body
    assert "is not known: no verified pair rests on the evidence of a single critic" in body
