"""The examples of docs/extending.md that concern the data set and the models, in one run.

Critics, pipelines and protocols have theirs in `tests/test_parts.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sdsd import Run, run
from sdsd.dataset.export import read

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples" / "parts"

CONFIGURATION = """\
n: 12
scenarios: {exchanges: [2, 3]}
critique: {exam: 0}
models:
  default: {model: my-model, backend: "function_backend:FunctionBackend"}
export:
  views: ["pair_lengths:pair_lengths"]
  filters: ["short_dialogues:long_enough"]
  checks: ["shouting:shouting"]
  exclude: [default, shouting]
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that uses all of them, grown once and opened again."""
    for part in EXAMPLES.glob("*.py"):
        shutil.copy(part, tmp_path)
    (tmp_path / "my.yaml").write_text(CONFIGURATION)
    monkeypatch.chdir(tmp_path)
    run("my.yaml", n=4, out="run")
    return run("run", n=12)


def test_a_run_with_all_of_them_is_continued_and_verified(made: Run) -> None:
    assert len(made) == 12
    assert set(made.status().models.values()) == {"my-model"}
    assert made.verify().defects == ()


def test_the_view_has_a_row_for_every_pair_that_stays(made: Run) -> None:
    data = made.path / "data"
    lengths = [row["chosen_words"] for row in read(data, "pair_lengths")]
    chosen = [row["chosen"][0]["content"] for row in read(data, "preference")]
    assert lengths == [len(text.split()) for text in chosen]
    assert lengths


def test_the_filter_leaves_short_dialogues_out(made: Run) -> None:
    removed = {
        row["id"] for row in read(made.path / "data", "removed") if row["rule"] == "too_short"
    }
    short = {r.scenario.id for r in made if r.dialogue and r.dialogue.exchanges < 3}
    assert removed == short
    assert short


def test_the_check_names_a_rule(made: Run) -> None:
    rows = list(read(made.path / "data", "dialogues"))
    assert rows
    assert {warning for row in rows for warning in row["warnings"]} <= {"shouting", "echo"}


def test_the_format_is_written_as_lines(made: Run) -> None:
    (path,) = made.export_for("question_answer:question_answer", to="train")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines
    assert all(line.keys() == {"question", "answer"} for line in lines)
