"""A run as an object: opened, counted, read, grown, and refused where it cannot be read."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sdsd
from sdsd import Run
from sdsd.cli.app import main
from sdsd.config.manifest import FORMAT
from sdsd.errors import ConfigError, Divergence, ModelError, RunDirError, SdsdError
from sdsd.models.scripted import ScriptedModel
from sdsd.pipeline.versions import VERSIONS
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Began, Event, Noted, Recorded
from sdsd.runs.journal import Journal
from sdsd.types import Answer, Request
from tests.stand_ins.model_server import spawned

pytestmark = pytest.mark.e2e

CANDIDATES: dict[str, Any] = {"n": 8, "dialogue.candidates": 4}


def make(out: Path, on_event: Callable[[Event], None] | None = None, **keys: Any) -> Run:
    models = {"default": ScriptedModel()}
    return sdsd.run(out=out, models=models, on_event=on_event, progress=False, **keys)


def notes_of(out: Path | str, **keys: Any) -> list[str]:
    """What a run says while it continues."""
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    sdsd.run(out, models={"default": ScriptedModel()}, on_event=hear, **keys)
    return notes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run with several candidates for each last reply; not to be changed."""
    return make(tmp_path_factory.mktemp("run") / "run", **CANDIDATES)


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    """A complete run that may be changed."""
    return Run.open(shutil.copytree(finished.path, tmp_path / "run"))


# -- reading -------------------------------------------------------------------------------------


def test_a_run_is_a_sequence_of_records(finished: Run) -> None:
    run = Run.open(finished.path)
    assert len(run) == 8
    assert [record.scenario.index for record in run] == list(range(8))
    assert run[3] == list(run.records())[3]
    with pytest.raises(IndexError, match="dialogue 8 is not finished or does not exist; 8 are"):
        run[8]
    assert Run.open(finished.path / "config.yaml").path == finished.path


def test_a_pair_has_what_a_trainer_needs(finished: Run) -> None:
    records = {record.scenario.id: record for record in finished}
    pairs = list(finished.pairs())
    assert {pair.kind for pair in pairs} == {"revision", "on_policy"}
    for pair in pairs:
        record = records[pair.scenario.id]
        assert record.dialogue is not None
        assert [m.content for m in pair.prompt] + [pair.rejected] == [
            message.content for message in record.dialogue.messages
        ]
        assert pair.prompt[-1].role == "user"
        assert pair.chosen != pair.rejected
        assert pair.principles
        assert set(pair.principles) <= {p.text for p in record.scenario.principles}


def test_one_number_of_pairs_wherever_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dialogues with several pairs each: terminal, status, journal, metrics and `pairs()` agree."""
    out = tmp_path / "run"
    with spawned(tmp_path / "log") as url:
        with pytest.raises(SystemExit):
            main(["run", "--url", url, "-m", "m", "-n", "8", "-o", str(out), "--lines",
                  "--set", "dialogue.candidates=4", "--set", "critique.exam=0"])  # fmt: skip
        printed = capsys.readouterr()
    run = Run.open(out)
    pairs, accepted = len(list(run.pairs())), sum(bool(record.pairs) for record in run)
    assert pairs == sum(len(record.pairs) for record in run) > accepted > 0
    status = run.status()
    assert (status.pairs, status.accepted) == (pairs, accepted)
    assert status.outcomes["accepted"] == accepted
    with Journal(out / "journal.sqlite", readonly=True) as journal:
        assert journal.pairs() == pairs
    words = f"8 of 8 dialogues, {accepted} accepted, {pairs} verified pairs"
    assert f"done: {words}, in " in printed.out
    single = sum(len(record.pairs) == 1 for record in run)
    assert len(re.findall(r": \d pairs - ", printed.err)) == accepted - single
    metrics = (out / "metrics.prom").read_text()
    assert f'\nsdsd_verified_pairs_total{{run="run"}} {pairs:.1f}\n' in metrics
    logged = map(json.loads, (out / "logs" / "run.jsonl").read_text().splitlines())
    assert sum(line.get("pairs", 0) for line in logged if line["event"] == "record") == pairs
    with pytest.raises(SystemExit):
        main(["status", str(out)])
    assert f"{out}: {words}, complete\n" in capsys.readouterr().out


def test_an_event_tells_the_pairs_so_far(finished: Run, tmp_path: Path) -> None:
    events: list[Event] = []
    shutil.copytree(finished.path, tmp_path / "run")
    make(tmp_path / "run", events.append, **{**CANDIDATES, "n": 9})
    (began,) = (event for event in events if isinstance(event, Began))
    assert (began.done, began.pairs) == (8, finished.status().pairs)


def test_targets_count_every_pair(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"targets.by": "category", "targets.pairs": 2, "dialogue.candidates": 4}
    run = make(tmp_path / "run", **keys)
    counted: dict[str, int] = {}
    for record in run:
        violated = set(record.critique.violations) if record.critique else set()
        for cell in {p.category for p in record.scenario.principles if p.id in violated}:
            counted[cell] = counted.get(cell, 0) + len(record.pairs)
    targets = run.status().targets
    assert {s.cell: s.pairs for s in targets} == {s.cell: counted.get(s.cell, 0) for s in targets}
    assert {s.status for s in targets} == {"reached"}


def test_show_prints_the_pairs_that_were_made(
    finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = set()
    for record in finished:
        with pytest.raises(SystemExit):
            main(["show", str(record.scenario.index), str(finished.path)])
        printed = capsys.readouterr().out
        assert len(
            re.findall(r"^pair \d: rejected is the last reply", printed, re.MULTILINE)
        ) == len(record.pairs)
        for pair in record.pairs:
            assert pair.chosen in printed
            kinds.add(pair.kind)
    assert kinds == {"revision", "on_policy"}


def test_views_as_data_frames_and_data_sets(copied: Run) -> None:
    pytest.importorskip("datasets")
    frame = copied.to_pandas("preference")
    loaded = copied.to_datasets()
    assert len(frame) == loaded["train"].num_rows > 0
    assert set(frame["split"]) == {"train"}
    assert frame["chosen"][0][0]["role"] == "assistant"
    assert copied.to_datasets("scenarios")["train"].num_rows == 8
    with pytest.raises(SdsdError, match="has no view `nonsense`; it has preference, "):
        copied.to_pandas("nonsense")
    shutil.rmtree(copied.path / "data")
    assert len(copied.to_pandas("scenarios")) == 8  # written again where it is missing


def test_a_library_that_is_missing_is_named() -> None:
    from sdsd.runs.run import require_package

    with pytest.raises(SdsdError, match="nowhere_at_all is not installed; run `pip install"):
        require_package("nowhere_at_all")


def test_what_a_run_can_do_without_a_model(copied: Run, finished: Run) -> None:
    counts = copied.export({"splits.test": 0.5})
    assert counts is not None
    assert counts.splits["scenarios"].keys() == {"train", "test"}
    assert copied.config.export.splits.test == 0.5
    (file,) = [p for p in copied.export_for("openai") if "train" in p.name]
    assert file.parent == copied.path / "formats" / "openai"
    assert copied.report() == copied.path / "report.html"
    assert copied.report(against=finished).name == f"against-{finished.path.name}.html"
    assert copied.verify().defects == ()
    assert repr(copied) == f"Run('{copied.path}')"


def test_another_run_may_be_given_by_its_path(copied: Run, finished: Run) -> None:
    assert copied.report(str(finished.path)).name == f"against-{finished.path.name}.html"
    assert copied.compare(finished.path).runs.keys() == copied.compare(finished).runs.keys()


def test_what_is_no_index_is_said(finished: Run) -> None:
    with pytest.raises(TypeError, match=r"indexed by one number, not by slice\(0, 2"):
        finished[0:2]  # type: ignore[index]


def test_what_is_no_configuration_or_no_models_is_said(copied: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a `Run`; to continue a run, give its path"):
        sdsd.run(copied, n=20)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"by name, such as .*, not a `ScriptedModel`"):
        sdsd.run(n=2, out=tmp_path / "new", models=ScriptedModel())  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_notebook_shows_a_table(copied: Run) -> None:
    status = copied.status()
    out = copied.path.rename(copied.path.with_name("a<b"))
    page = Run.open(out)._repr_html_()
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert f">{status.pairs}</td>" in page
    assert page.startswith("<table>")


@pytest.mark.parametrize("index", [-1, 99, 2**70])
def test_an_index_that_is_no_dialogue(finished: Run, index: int) -> None:
    with pytest.raises(
        IndexError, match=f"dialogue {index} is (not finished or does not exist|too large);"
    ):
        finished[index]


@pytest.mark.parametrize("index", ["0", 0.5, slice(2)])
def test_what_is_no_index_is_a_type_error(finished: Run, index: Any) -> None:
    with pytest.raises(TypeError):
        finished[index]


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()])
def test_an_event_that_raises_ends_the_run_and_loses_nothing(
    tmp_path: Path, error: BaseException
) -> None:
    """The error itself arrives; a dialogue that is cancelled by it is not left out in silence."""

    def raising(event: Event) -> None:
        if isinstance(event, Recorded):
            raise error

    with pytest.raises((ValueError, RuntimeError), match=r"mine|dialogue \d was cancelled by its"):
        make(tmp_path, raising, n=4)
    assert 0 < Run.open(tmp_path).status().done < 4
    again = make(tmp_path, n=4)
    assert (len(again), again.verify().defects) == (4, ())


def test_an_answer_cache_may_be_named_by_a_string(finished: Run, tmp_path: Path) -> None:
    models = {"default": ScriptedModel()}
    made = sdsd.run(n=1, out=tmp_path / "y", models=models, answer_caches=[str(finished.path)])
    assert len(made) == 1


def test_a_journal_that_is_gone_is_not_begun_again(copied: Run) -> None:
    for path in copied.path.glob("journal.sqlite*"):
        path.unlink()
    with pytest.raises(
        RunDirError, match=r"journal\.sqlite: is missing, .* restore it from a copy"
    ):
        make(copied.path, **CANDIDATES)


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_what_is_no_run_is_said(tmp_path: Path, path: str) -> None:
    with pytest.raises(RunDirError, match="not a run directory; `sdsd run` makes one"):
        Run.open(tmp_path / path)


# -- growing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "config.yaml"])
def test_a_run_grows_without_its_options(copied: Run, tmp_path: Path, name: str) -> None:
    before = [record.scenario.id for record in copied]
    model = ScriptedModel()
    grown = sdsd.run(copied.path / name, n=10, models={"default": model})
    assert grown.path == copied.path
    assert [record.scenario.id for record in grown][:8] == before
    assert (len(grown), grown.status().n) == (10, 10)
    assert grown.config.dialogue.candidates == 4
    whole = make(tmp_path / "whole", **{**CANDIDATES, "n": 10})
    assert [r.outcome for r in grown] == [r.outcome for r in whole]
    assert sdsd.run(str(copied.path), models={"default": ScriptedModel()}).status().n == 10


def test_fewer_than_there_are_is_said_and_nothing_is_lost(copied: Run) -> None:
    said = f"{copied.path} has 8 dialogues, more than the 3 asked for: a run only grows"
    assert said in notes_of(copied.path, n=3)
    assert (copied.status().n, len(copied)) == (8, 8)
    assert notes_of(copied.path, n=8) == []
    text = copied.path.joinpath("config.yaml").read_text()
    copied.path.joinpath("config.yaml").write_text(text.replace("n: 8\n", "n: 9\n", 1))
    assert said in notes_of(copied.path, n=3)  # and what it was to have is not forgotten
    assert (copied.status().n, len(copied)) == (9, 8)


def test_another_key_of_a_run_is_refused_by_its_name(copied: Run) -> None:
    before = copied.path.joinpath("config.yaml").read_bytes()
    keys: dict[str, Any] = {"dialogue.candidates": 2}
    with pytest.raises(RunDirError, match=r"dialogue\.candidates: 4 -> 2"):
        sdsd.run(copied.path, models={"default": ScriptedModel()}, **keys)
    with pytest.raises(ConfigError, match="continues in its own directory; leave out `--out`"):
        sdsd.run(copied.path, out=copied.path.with_name("other"))
    assert copied.path.joinpath("config.yaml").read_bytes() == before
    assert not copied.path.with_name("other").exists()


def test_another_model_object_is_refused_by_its_name(copied: Run) -> None:
    """Model objects are not in the configuration; the manifest knows their names."""
    answers = copied.status().answers
    models = {"default": ScriptedModel(name="other")}
    with pytest.raises(Divergence, match=r"what changed: model `scripted` -> `other`\. Give"):
        sdsd.run(copied.path, n=12, models=models, progress=False)
    assert copied.status().answers == answers
    assert copied.verify().defects == ()


def test_a_configuration_beside_no_run_is_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("n: 2\n")
    out = tmp_path / "out"
    models = {"default": ScriptedModel()}
    assert sdsd.run(tmp_path / "config.yaml", out=out, models=models).path == out
    with pytest.raises(RunDirError, match="not a run directory"):
        sdsd.run(tmp_path / "out" / "data", models=models)


# -- starts that fail ----------------------------------------------------------------------------


class Refusing(ScriptedModel):
    """A server that refuses the key at the first real request."""

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        raise ModelError("HTTP 401: wrong key")


def test_a_start_that_failed_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "x"
    with pytest.raises(ModelError):
        sdsd.run(n=2, out=out, models={"default": Refusing()})
    assert list(tmp_path.iterdir()) == []
    wrong: list[dict[str, Any]] = [
        {"model": "no-such-model"},
        {"model": str(tmp_path / "missing.gguf")},
        {"models.default.base_url": "http://127.0.0.1:9/v1", "model": "m"},
        {"source.path": str(tmp_path / "missing.jsonl")},
    ]
    for keys in wrong:
        with pytest.raises(SdsdError):
            sdsd.run(n=2, out=out, **keys)
        assert list(tmp_path.iterdir()) == []
    out.mkdir(parents=True)  # a directory that was there stays, as it was
    with pytest.raises(ModelError):
        sdsd.run(n=2, out=out, models={"default": Refusing()})
    assert list(out.iterdir()) == []


def test_what_was_recorded_before_a_failure_stays(tmp_path: Path) -> None:
    class Dying(ScriptedModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            if self.asked == 3:
                raise ModelError("gone")
            return await super().complete(request, seed, dialogue)

    with pytest.raises(ModelError):
        sdsd.run(n=2, out=tmp_path / "run", models={"default": Dying()})
    assert Run.open(tmp_path / "run").status().answers == 3


def test_the_latest_run_is_one_that_recorded_something(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "runs" / "first")
    for name in ("killed before its manifest", "killed before its first answer"):
        killed = RunDir(tmp_path / "runs" / name)
        killed.prepare(finished.config)
        with Journal(killed.journal) as journal:
            assert journal.answers() == 0
        if name.endswith("answer"):
            shutil.copy(finished.path / "manifest.json", killed.manifest_file)
    assert Run.latest(tmp_path / "runs").path == tmp_path / "runs" / "first"
    with pytest.raises(RunDirError, match="no run under"):
        Run.latest(tmp_path)


# -- what has changed since ------------------------------------------------------------------------


def test_a_run_of_another_format_is_refused_in_one_sentence(copied: Run) -> None:
    """As the program before this format wrote it: no format, no versions, keys of other names."""
    manifest = json.loads((copied.path / "manifest.json").read_bytes())
    for key in ("format", "versions", "parts"):
        del manifest[key]
    (copied.path / "manifest.json").write_text(json.dumps(manifest))
    (copied.path / "config.yaml").write_text("n: 3\na_key_of_old: 1\n")
    said = rf"made by sdsd {re.escape(sdsd.__version__)} on \d{{4}}-\d\d-\d\d in run format 1; "
    said += f"this program reads format {FORMAT} only"
    attempts: list[Callable[[], object]] = [
        lambda: Run.open(copied.path),
        lambda: RunDir(copied.path).manifest(),
        lambda: sdsd.run(copied.path, models={"default": ScriptedModel()}),
        lambda: sdsd.run(out=copied.path, models={"default": ScriptedModel()}),
    ]
    for attempt in attempts:
        with pytest.raises(RunDirError, match=said):
            attempt()
    assert json.loads((copied.path / "manifest.json").read_bytes()) == manifest


def test_another_version_of_a_stage_is_named(copied: Run) -> None:
    manifest = json.loads((copied.path / "manifest.json").read_bytes())
    assert manifest["versions"] == VERSIONS
    manifest["versions"] = {**VERSIONS, "critique": 0, "retired": 3}
    (copied.path / "manifest.json").write_text(json.dumps(manifest))
    said = [
        "the stage `critique` has changed since this run began (version 0 then, 2 now)",
        "the stage `retired` has changed since this run began (version 3 then, none now)",
    ]
    for told in (notes_of(copied.path), list(copied.verify().warnings)):
        assert all(any(line.startswith(words) for line in told) for words in said)
        assert len([line for line in told if "has changed" in line]) == 2
    (defect,) = copied.verify().defects
    assert "manifest.json: is not what the run began with" in defect


UPGRADED = """
import sys
from sdsd import Run, ScriptedModel, run
out, mark = sys.argv[1:]
texts = []
class Listening(ScriptedModel):
    async def complete(self, request, seed, dialogue=0):
        texts.extend([request.prompt, *(m.content for m in request.messages)])
        return await super().complete(request, seed, dialogue)
run(out, n=10, models={"default": Listening()},
    on_event=lambda event: print("note:", getattr(event, "text", "")))
found = Run.open(out).verify()
print("defects:", found.defects, "asked:", len(texts), "mark:", any(mark in t for t in texts))
print(*("warning: " + warning for warning in found.warnings), sep="\\n")
"""


@pytest.fixture
def upgraded(tmp_path: Path) -> Path:
    """A copy of the package whose prompts, strategies and principles have changed."""
    package = tmp_path / "next" / "sdsd"
    shutil.copytree(Path(sdsd.__file__).parent, package)
    for file in ("pipeline/prompts/plan.md", "scenarios/data/strategies/direct.md"):
        text = (package / file).read_text()
        section = text.index("\n## ") + 1
        end = text.index("\n", section)
        (package / file).write_text(f"{text[:end]}\nOF THE NEXT VERSION{text[end:]}")
    principles = package / "scenarios" / "data" / "principles" / "sparrow.yaml"
    text = principles.read_text()
    principles.write_text(text.replace("text: ", "text: OF THE NEXT VERSION ", 1))
    return package.parent


def test_a_run_survives_an_upgrade_of_the_program(copied: Run, upgraded: Path) -> None:
    """It continues and verifies with what it began with, and names what has changed."""
    done = subprocess.run(
        [sys.executable, "-c", UPGRADED, copied.path, "OF THE NEXT VERSION"],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(upgraded)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^defects: \(\) asked: [1-9]\d* mark: False$", done.stdout, re.MULTILINE)
    for name in ("prompts.plan", "the strategy `direct`", "catalogue.principles"):
        said = f"{name} has changed since this run began; it continues with its own copy in inputs/"
        assert f"note: {said}\n" in done.stdout
        assert f"warning: {said}\n" in done.stdout
    assert "continuation has changed" not in done.stdout
    assert len(copied) == 10


# -- why a run stopped -----------------------------------------------------------------------------


def test_the_reason_for_stopping_is_printed_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with spawned(tmp_path / "log") as url, pytest.raises(SystemExit) as ended:
        main(["run", "--url", url, "-m", "m", "-n", "20", "-o", str(tmp_path / "run"),
              "--set", "budget.tokens=5000", "--set", "max_open_dialogues=1",
              "--set", "critique.exam=0"])  # fmt: skip
    printed = capsys.readouterr().out
    assert ended.value.code == 3
    assert re.search(r"^stopped because: the budget of 5,000 tokens is used up", printed, re.M)
    assert printed.endswith("the same command continues from here\n")
