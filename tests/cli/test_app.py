"""The command line: what it prints, what it refuses and in which words, and its exit codes."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

import sdsd
from sdsd.cli.app import main
from sdsd.cli.streams import explained
from sdsd.config import MINIMAL, Config, flat, load, tree
from sdsd.runs.directory import RunDir
from sdsd.runs.expand_catalogue import Grown
from sdsd.runs.experiment import load as load_experiment
from sdsd.runs.journal import Journal
from sdsd.runs.progress import safe, terminal
from sdsd.types import Critique, Dialogue, Failure, Message, Plan, Record, Revision, Verdict
from tests.stand_ins.model_server import read_log, spawned

pytestmark = pytest.mark.e2e

SDSD = Path(sys.executable).with_name("sdsd")


class Printed:
    """What a command left: its exit code, standard output and standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


Command = Callable[..., Printed]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("status", path)` is `sdsd status PATH`, in this process."""

    def call(*arguments: object) -> Printed:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        return Printed(code if isinstance(code, int) else int(bool(code)), out, err)

    return call


# -- the demonstration -----------------------------------------------------------------------


def test_the_demonstration_ends_with_what_to_look_at(command: Command, tmp_path: Path) -> None:
    printed = command("demo", "--out", tmp_path / "demo")
    assert printed.code == 0
    assert "written by hand" in printed.out
    for line in re.findall(r"^  sdsd (.*)$", printed.out, re.MULTILINE):
        assert command(*line.split()).code == 0, line
    again = json.loads(command("demo", "--out", tmp_path / "demo", "--json").out)
    assert again["done"] == again["n"]


# -- help ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "run", "demo", "exam", "init", "status", "show", "verify", "export", "report",
             "push", "doctor", "models pull", "catalogue check", "catalogue expand",
             "catalogue affinities", "catalogue examples", "catalogue preview"],
)  # fmt: skip
def test_every_command_explains_itself(command: Command, path: str) -> None:
    printed = command(*path.split(), "--help")
    assert printed.code == 0
    assert printed.out.startswith(f"Usage: sdsd {path}".strip())
    assert len(printed.out.splitlines()) > 5


def test_help_and_version_need_nothing_heavy() -> None:
    """`sdsd --help` answers before any of the large libraries is loaded."""
    script = (
        "import sys\nfrom sdsd.cli.app import main\ntry:\n    main(['--help'])\n"
        "finally:\n    print([m for m in ('pyarrow', 'aiohttp', 'xllamacpp') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version(command: Command) -> None:
    assert command("--version").out == f"sdsd {sdsd.__version__}\n"


def test_without_a_command_the_help_is_shown(command: Command) -> None:
    printed = command()
    assert printed.code == 2
    assert "Usage: sdsd" in printed.out + printed.err


# -- what is refused -----------------------------------------------------------------------


def refused(printed: Printed, *said: str, code: int = 2) -> None:
    """The exit code, one message on standard error, nothing on standard output, no traceback."""
    assert printed.code == code, printed
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.count("error: ") == 1
    for words in said:
        assert words in printed.err


def test_an_unknown_key_is_named_with_what_was_likely_meant(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("n: 3\ncritque:\n  max_tokens: 10\n")
    refused(command("run", file), f"{file}: unknown key `critque`; did you mean `critique`?")
    refused(
        command("run", "--set", "dialogue.protocl=roleplay"),
        "unknown key `dialogue.protocl`; did you mean `protocol`?",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "n"], "--set n: must be key=value"),
        (["-n", "0"], "`n`"),
        (["--set", "critique.temperature=9"], "`critique.temperature`"),
        (["--set", "dialogue.protocol=opera"], "`dialogue.protocol`"),
        (["--set", "roles.critic=judge"], "`roles.critic` names `judge`"),
        (["nowhere.yaml"], "nowhere.yaml: no such file; `sdsd init` writes one"),
    ],
)
def test_a_value_out_of_bounds_is_named(command: Command, arguments: list[str], said: str) -> None:
    refused(command("run", *arguments), said)


def test_an_empty_catalogue(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "goals.yaml"
    file.write_text("[]\n")
    refused(command("run", "--set", f"catalogue.goals={file}"), str(file), "empty")
    refused(command("catalogue", "check", "--goals", file), str(file), "empty")


def test_an_unknown_model(command: Command, tmp_path: Path) -> None:
    printed = command("run", "-m", "smollm2-135", "-o", tmp_path / "out")
    refused(printed, "unknown model 'smollm2-135'", "Did you mean smollm2-135m?")


def test_a_server_that_is_not_there(command: Command, tmp_path: Path) -> None:
    printed = command("run", "--url", "http://127.0.0.1:9/v1", "-m", "m", "-o", tmp_path / "out")
    refused(printed, "http://127.0.0.1:9/v1", "is the server running", code=4)


def test_another_configuration_s_directory(command: Command, finished: Path) -> None:
    printed = command("run", "-o", finished, "--seed", 5, "-n", 8)
    refused(printed, str(finished), "seed: 0 -> 5", "--out")


def test_a_directory_that_another_process_holds(command: Command, finished: Path) -> None:
    with RunDir(finished).lock():
        refused(command("run", "-o", finished, "-n", 8), str(finished), "another process (pid ")
        assert "running" in command("status", finished).out
        assert command("report", finished).code == 0  # looking is allowed at any time


@pytest.mark.parametrize("name", ["status", "verify", "export", "report"])
def test_what_is_no_run(command: Command, tmp_path: Path, name: str) -> None:
    refused(command(name, tmp_path), f"{tmp_path}: not a run directory; `sdsd run` makes one")


def test_a_dialogue_that_is_not_there(command: Command, finished: Path) -> None:
    refused(command("show", finished, 8), "dialogue 8 is not finished", "8 are finished")
    refused(command("show", 10**30, finished), "too large")


def test_a_fault_is_told_with_json_too(command: Command, finished: Path) -> None:
    refused(command("run", "-o", finished, "--seed", 5, "-n", 8, "--json"), "seed: 0 -> 5")


def test_without_the_embedded_engine_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['xllamacpp'] = None\n"
        "from sdsd.cli.app import main; main(sys.argv[1:])"
    )
    words = ["run", "-m", "absent.gguf", "-o", str(tmp_path / "out")]
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "pip install 'sdsd[local]'" in done.stderr
    assert "--url" in done.stderr
    assert "absent.gguf" not in done.stderr  # the engine comes first: nothing was downloaded


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"This is a letter, not a model.\n", "is not a GGUF file"),
        (b"GGUF\x03\0\0\0" + bytes(range(256)) * 40, "the engine cannot load this file"),
        (b"GGUF", "the engine cannot load this file"),
    ],
)
def test_a_model_file_that_cannot_be_read(tmp_path: Path, content: bytes, said: str) -> None:
    """The real engine, in a process of its own: it must say so, and not take the process along."""
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    out = tmp_path / "out"
    done = subprocess.run(
        [SDSD, "run", "-m", file, "-o", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done
    message = done.stderr.splitlines()[-1]
    assert message.startswith("error: ")
    assert str(file) in message
    assert said in message


# -- init ----------------------------------------------------------------------------------


def test_init_writes_a_configuration_and_never_over_one(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "sdsd.yaml"
    printed = command("init", file)
    assert (printed.code, printed.out) == (0, f"wrote {file}; now: sdsd run {file}\n")
    text = file.read_text()
    assert yaml.safe_load(text)["n"] == 3
    file.write_text("mine")
    refused(command("init", file), f"{file}: already exists; name another file or remove it")
    assert file.read_text() == "mine"
    refused(command("init", tmp_path / "no" / "such"), "cannot be written: No such file")


def test_init_writes_a_schema_for_editors(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    command("init", file, "--schema")
    first = file.read_text("utf-8").partition("\n")[0]
    assert first == "# yaml-language-server: $schema=mine.schema.json"
    schema = json.loads((tmp_path / "mine.schema.json").read_text("utf-8"))
    assert "dialogue" in schema["properties"]
    assert load(file) == Config()


def test_init_explains_the_values_that_a_key_may_have(command: Command, tmp_path: Path) -> None:
    command("init", tmp_path / "all.yaml")
    text = " ".join((tmp_path / "all.yaml").read_text("utf-8").replace("#", "").split())
    assert "Values: any, majority, all, weighted. vote:" in text
    assert "Values: domain, field, subarea. by:" in text


def test_init_writes_the_keys_that_most_people_need(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "minimal.yaml"
    command("init", file, "--minimal")
    assert tuple(key for key, _ in flat(yaml.safe_load(file.read_text("utf-8")))) == tuple(
        key for key, _ in flat(tree(Config())) if key in MINIMAL
    )
    assert load(file) == Config()


def test_init_writes_an_experiment(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    printed = command("init", file, "--experiment")
    assert printed.out == f"wrote {file}; now: sdsd experiment {file}\n"
    assert len(load_experiment(file).arms) == 3
    refused(command("init", tmp_path / "b.yaml", "--experiment", "--minimal"), "leave out")


# -- a run from end to end -----------------------------------------------------------------


def test_a_run_against_a_server(command: Command, tmp_path: Path) -> None:
    """What a person does first: examine a server, run, look, run again, read, publish."""
    out = tmp_path / "out"
    with spawned(tmp_path / "log") as url:
        doctor = command("doctor", "-m", "stand-in", "--url", url)
        assert doctor.code == 0, doctor
        assert re.search(r"ok +auto +chooses `continuation`", doctor.out)

        first = command("run", "-m", "stand-in", "--url", url, "-o", out, "-n", 4, "--lines")
        assert first.code == 0, first
        assert "done: 4 of 4 dialogues, " in first.out
        assert f"report  {out / 'report.html'}\n" in first.out
        # How many at once is adapted from the first request on, and the exam comes first.
        begins = rf"^{out}: 0/4 dialogues, 0 pairs, continuation, up to \d+ in flight$"
        assert re.search(begins, first.err, re.MULTILINE)
        assert "exam: verdict: AUC " in first.err
        assert len(re.findall(r"^\[\d/4\] dialogue \d: ", first.err, re.MULTILINE)) == 4

        before = len(read_log(tmp_path / "log"))
        again = command("run", "-m", "stand-in", "--url", url, "-o", out, "-n", 4)
        assert again.code == 0
        assert len(read_log(tmp_path / "log")) == before
    for printed in (doctor, first, again):
        plain(printed)
    assert "verified: 4 records" in command("verify", out).out


def plain(printed: Printed) -> None:
    """On a pipe: no escape sequence, no carriage return, nothing drawn over."""
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed.out + printed.err) is None


def test_status(command: Command, finished: Path) -> None:
    printed = command("status", finished)
    plain(printed)
    first, *rest = printed.out.splitlines()
    counts = sdsd.Run.open(finished).status()
    said = f"8 of 8 dialogues, {counts.accepted} accepted, {counts.pairs} verified pairs, complete"
    assert first == f"{finished}: {said}"
    assert any(re.fullmatch(r" +\d+  accepted", line) for line in rest)
    assert "made with scripted by continuation" in rest
    told = json.loads(command("status", finished, "--json").out)
    assert (told["n"], told["done"], told["running"]) == (8, 8, False)
    assert sum(told["outcomes"].values()) == 8


def test_show(command: Command, finished: Path) -> None:
    printed = command("show", finished, 1)
    plain(printed)
    told = json.loads(command("show", finished, 1, "--json").out)
    assert told["scenario"]["index"] == 1
    last = told["dialogue"]["messages"][-1]["content"]
    assert last in printed.out
    assert told["outcome"] in printed.out


def test_a_server_without_a_model_is_refused(command: Command, tmp_path: Path) -> None:
    """A server that ignores the name would be recorded as the default model."""
    printed = command("run", "--url", "http://127.0.0.1:9/v1", "-o", tmp_path / "out")
    refused(printed, "also give `--model`", "`sdsd doctor --url http://127.0.0.1:9/v1` lists")
    assert not (tmp_path / "out").exists()


def test_show_takes_the_run_first_and_still_understands_it_last(
    command: Command, finished: Path
) -> None:
    assert command("show", finished).out == command("show", finished, 0).out
    assert command("show", finished, 1).out == command("show", 1, finished).out
    assert command("show", finished, 1).out != command("show", finished, 0).out


def test_show_says_what_is_neither_a_run_nor_an_index(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    refused(command("show", tmp_path / "none"), "none: not a run directory")
    refused(command("show", finished, "last"), "`last` is not the index of a dialogue")


def test_show_prints_what_happened_in_order(command: Command, finished: Path) -> None:
    """The critique, the revision that answers it, its recheck, and the pair."""
    accepted = next(r for r in sdsd.Run.open(finished) if r.outcome == "accepted")
    lines = command("show", accepted.scenario.index, finished).out.splitlines()
    heads = [re.split(r"[,:]", line)[0] for line in lines]
    order = [heads.index(head) for head in ("critique", "revision 1", "recheck 1", "pair 1")]
    assert order == sorted(order)


def test_report_and_export_write_everything_anew(command: Command, copied: Path) -> None:
    run = RunDir(copied)
    for name in ("report", "export"):
        before = {path.name: path.read_bytes() for path in run.data.rglob("*.parquet")}
        shutil.rmtree(run.data)
        run.report.unlink()
        run.card.unlink()
        printed = command(name, copied)
        assert printed.code == 0
        assert str(run.report) in printed.out
        assert run.report.exists()
        assert run.card.exists()
        assert {path.name: path.read_bytes() for path in run.data.rglob("*.parquet")} == before
    assert json.loads(command("report", copied, "--json").out)
    assert command("verify", copied).code == 0


def test_an_export_is_changed_and_stays_so(command: Command, copied: Path) -> None:
    change = ("--set", "splits.test=0.5", "-s", "export.duplicates.method=near")
    printed = command("export", copied, *change)
    assert printed.code == 0
    assert re.search(r"^ +8  scenarios  \(train \d  test \d\)$", printed.out, re.MULTILINE)
    assert (copied / "data" / "scenarios" / "test-00000-of-00001.parquet").exists()
    export = RunDir(copied).config().export
    assert (export.splits.test, export.duplicates.method) == (0.5, "near")
    again = json.loads(command("export", copied, "--json").out)
    assert again["counts"]["splits"]["scenarios"].keys() == {"train", "test"}
    assert command("verify", copied).code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("n=3", "unknown key `export.n`"),
        ("exclude=[ecco]", "`export.exclude` names `ecco`; the rules are "),
        (
            "pairs.exclude_warnings=[echo]",
            "`export.pairs.exclude_warnings` names `echo`; the rules are offence_kept",
        ),
        ("contamination.sets=[/nowhere]", "/nowhere"),
        ("balance.by=field", ""),
    ],
)
def test_a_wrong_change_of_an_export(
    command: Command, copied: Path, change: str, said: str
) -> None:
    before = RunDir(copied).config_file.read_bytes()
    printed = command("export", copied, "--set", change)
    assert printed.code == (2 if said else 0)
    assert said in printed.err
    assert (RunDir(copied).config_file.read_bytes() == before) is bool(said)


def test_an_export_for_a_trainer(command: Command, copied: Path, tmp_path: Path) -> None:
    printed = command("export", copied, "--format", "axolotl-dpo", "--to", tmp_path / "out")
    assert printed.code == 0
    file = tmp_path / "out" / "axolotl-dpo-train.jsonl"
    lines = file.read_text("utf-8").splitlines()
    assert f"{file}  ({len(lines)} lines)" in printed.out
    assert {"messages", "chosen", "rejected"} == json.loads(lines[0]).keys()
    assert command("export", copied, "--format", "openai").code == 0
    assert (copied / "formats" / "openai" / "openai-train.jsonl").exists()
    printed = command("export", copied, "--format", "nemo")
    assert printed.code == 2
    assert "`nemo` is not one of the formats: sharegpt, " in printed.err


def test_a_run_against_another(command: Command, copied: Path, finished: Path) -> None:
    printed = command("report", copied, "--against", finished)
    assert printed.out.strip() == str(copied / f"against-{finished.name}.html")
    assert "<script" not in Path(printed.out.strip()).read_text("utf-8")
    told = json.loads(command("report", copied, "--against", finished, "--json").out)
    assert told


def test_push_says_what_it_needs(command: Command, copied: Path, tmp_path: Path) -> None:
    printed = command("push", tmp_path, "org/name")
    assert (printed.code, "not a run directory" in printed.err) == (2, True)
    printed = command("push", copied, "name")
    assert (printed.code, "name" in printed.err) == (2, True)


def test_run_with_json_prints_json_alone(command: Command, copied: Path) -> None:
    printed = command("run", "-o", copied, "-n", 8, "--json")
    told = json.loads(printed.out)
    assert (printed.code, printed.err) == (0, "")
    assert (told["n"], told["stopped"]) == (8, "")


def test_verify(command: Command, copied: Path) -> None:
    printed = command("verify", copied)
    assert (printed.code, printed.err) == (0, "")
    assert printed.out.startswith("verified: 8 records from ")
    assert printed.out.endswith(f"replay to the data set in {copied}\n")
    shutil.rmtree(copied / "data" / "preference")
    printed = command("verify", copied)
    assert (printed.code, printed.out) == (1, "")
    assert printed.err.startswith(f"defect: {copied / 'data' / 'preference'}/train-")
    printed = command("verify", copied, "--json")
    assert printed.code == 1
    assert len(json.loads(printed.out)["defects"]) == 1


def test_the_latest_run_is_the_default(command: Command, tmp_path: Path) -> None:
    """`sdsd status` without a path looks under runs/ in the working directory."""
    done = subprocess.run(
        [SDSD, "status"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "no run under ./runs; name a run directory, or start one with `sdsd run`" in done.stderr


def test_the_catalogue_s_commands(command: Command) -> None:
    checked = command("catalogue", "check")
    assert checked.code == 0
    assert re.search(r"^domains +\d+$", checked.out, re.MULTILINE)
    assert json.loads(command("catalogue", "check", "--json").out)["fields"] > 0
    some = command("catalogue", "preview", "-n", 3, "--seed", 4)
    assert len(re.findall(r"^00000[012]-[0-9a-f]{8}  ", some.out, re.MULTILINE)) == 3
    assert command("catalogue", "preview", "-n", 3, "--seed", 4).out == some.out


def test_a_preview_is_data_too(command: Command) -> None:
    told = json.loads(command("catalogue", "preview", "-n", 3, "--json").out)
    shown = command("catalogue", "preview", "-n", 3).out
    assert [scenario["index"] for scenario in told] == [0, 1, 2]
    assert all(scenario["subarea"] in shown for scenario in told)


def test_what_a_command_wrote_is_data_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from sdsd.cli import display

    grown = Grown(before=4, after=27)
    display.written(tmp_path, grown, "23 more", json=True)
    told = {"path": str(tmp_path), "before": 4, "after": 27, "stopped": ""}
    assert json.loads(capsys.readouterr().out) == told
    display.written(tmp_path, grown, "23 more", json=False)
    assert capsys.readouterr().out == "23 more\n"


def test_a_preview_has_the_seed_of_the_configuration_unless_another_is_given(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "my.yaml").write_text("seed: 4\n")
    preview = ("catalogue", "preview", "-n", 2)
    assert command(*preview, tmp_path / "my.yaml").out == command(*preview, "--seed", 4).out
    assert command(*preview, tmp_path / "my.yaml", "--seed", 0).out == command(*preview).out


def test_a_missing_experiment_says_how_to_write_one(command: Command, tmp_path: Path) -> None:
    refused(command("experiment", tmp_path / "none.yaml"), "none.yaml: no such file; docs/experi")


def test_the_command_that_reads_a_run_can_be_pasted(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "my run"))
    last = command("run", "-o", out, "-n", 8).out.splitlines()[-1]
    assert last == f"read    sdsd show '{out}' 0"


def test_the_models_that_are_known(command: Command) -> None:
    told = json.loads(command("models", "list", "--json").out)
    shown = command("models", "list").out
    assert told
    assert all(entry["weights"]["name"] in shown for entry in told)


# -- standard output as it is out there ------------------------------------------------------


def printed_to(
    arguments: list[str], stdout: Any, environment: dict[str, str] = {}
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [SDSD, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16", "utf-8"])
def test_a_terminal_of_any_encoding_shows_a_dialogue(finished: Path, encoding: str) -> None:
    left = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    shown = printed_to(["show", "0", str(finished)], subprocess.PIPE, left)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert "dialogue 0" in shown.stdout.decode(encoding)
    read = printed_to(["show", "0", str(finished), "--json"], subprocess.PIPE, left)
    assert json.loads(read.stdout.decode(encoding))["scenario"]["index"] == 0


def test_json_stays_json_in_any_encoding() -> None:
    from sdsd.cli.streams import print_json

    for encoding in ("ascii", "cp1252", "utf-8"):
        screen = io.TextIOWrapper(io.BytesIO(), encoding)
        with contextlib.redirect_stdout(screen):
            print_json('{"a": "\u2615 é \U0001f600"}')
        screen.seek(0)
        assert json.loads(screen.read()) == {"a": "\u2615 é \U0001f600"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["show"], ["status"], ["show", "0", "--json"]])
def test_a_full_disk_under_standard_output_is_one_line(
    finished: Path, arguments: list[str]
) -> None:
    command = arguments if "--help" in arguments else [*arguments, str(finished)]
    with Path("/dev/full").open("wb") as full:
        left = printed_to(command, full)
    assert left.returncode == 2
    (line,) = left.stderr.decode().splitlines()
    assert line.startswith("error: standard output: No space left on device; free some space")


FILES_ARE_FULL = """
import resource, sys
from sdsd.cli.app import main
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
main(sys.argv[1:])
"""


@pytest.mark.parametrize("arguments", [["init", "new"], ["demo", "--out", "new"]])
def test_a_full_disk_under_another_file_is_not_blamed_on_standard_output(
    arguments: list[str], tmp_path: Path
) -> None:
    left = subprocess.run(
        [sys.executable, "-c", FILES_ARE_FULL, *arguments],
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    (line,) = left.stderr.decode().splitlines()
    assert left.returncode == 2
    assert line.startswith("error: new: cannot be written: ")
    assert "File too large" in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE])
def test_what_was_not_raised_by_printing_is_not_about_standard_output(number: int) -> None:
    error = OSError(number, "what the system says")
    try:
        raise error
    except OSError:
        assert explained(error).startswith("what the system says; ")


@pytest.mark.parametrize("arguments", [["show", "0"], ["show", "0", "--json"], ["models", "list"]])
def test_a_reader_that_leaves_is_no_error(finished: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    where = [str(finished)] if arguments[0] == "show" else []
    left = printed_to([*arguments, *where], writing)
    os.close(writing)
    assert left.stderr == b""


# -- paths that cannot be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "-o", "x" * 300], "File name too long; give a shorter path"),
        (["status", "x" * 5_000], "File name too long; give a shorter path"),
        (["status", "caf\udce9"], "the name is not UTF-8; rename it, or give another"),
        (["run", "-o", "caf\udce9"], "the name is not UTF-8; rename it, or give another"),
        (["run", "--from", "caf\udce9.jsonl"], "`source.path` is not UTF-8: "),
        (["run", "--from", "~nobody-x/a.jsonl"], "Could not determine home directory"),
        (["run", "--model", "~nobody-x/a.gguf"], "Could not determine home directory"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    printed = command(*arguments)
    assert printed.code == 2
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("where", ["~nobody-x", "~nobody-x/cache"])
def test_a_cache_in_a_home_that_nobody_has(
    command: Command, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("SDSD_CACHE", where)
    printed = command("models", "list")
    assert printed.code == 2
    assert f"SDSD_CACHE: {where}: Could not determine home directory. Write the" in printed.err


# -- files that are needed only later ----------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name", "content", "said"),
    [
        ("export.contamination.sets=[{}]", "eval.docx", b"PK", "cannot read files of type '.docx'"),
        ("export.contamination.sets=[{}]", "eval.txt", b"caf\xe9", "the byte 0xe9 is not UTF-8"),
        ("export.contamination.sets=[{}]", "eval.jsonl", b"{", "eval.jsonl:1: bad JSON"),
        ("export.contamination.sets=[{}]", "eval.csv", b"a\nb c\n", "has no text of 5 words"),
        ("export.duplicates.against=[{}]", "old.jsonl", b'{"x": 1}', "old.jsonl:1: no `plan`"),
        ("models.default.chat_template={}", "a.jinja", b"{{ bos_token }}", "`bos_token`, which no"),
        ("prompts.plan={}", "plan.md", b"caf\xe9", "plan.md:1: the byte 0xe9 is not UTF-8"),
        ("catalogue.goals={}", "goals.yaml", b"- text: a\n  text: b", "occurs twice, first on l"),
    ],
)
def test_a_file_is_checked_before_the_first_call(
    command: Command, tmp_path: Path, key: str, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "run"
    # The server is not there: whoever called it would say so.
    server = ["--url", "http://127.0.0.1:9/v1", "--model", "x", "-n", "1"]
    setting = key.format(tmp_path / name)
    printed = command("run", *server, "-o", out, "--set", setting)
    assert printed.code == 2
    assert said in printed.err
    assert not out.exists()


# -- hostile text --------------------------------------------------------------------------

EVIL = (
    "\x1b[2J\x1b]0;owned\x07\x1b[31mred \u202egnp.exe\u202c \u2066x\u2069 \u200b\ufeff\r\b\x9b2J "
    "[bold]loud[/bold] [/] \x7f\ud800"
)
UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def hostile(record: Record) -> Record:
    """A record with the worst that a model can write wherever a model writes."""
    verdicts = tuple(Verdict(EVIL, True, EVIL, EVIL, "high", True) for _ in range(2))
    return replace(
        record,
        scenario=replace(record.scenario, subarea=EVIL, domain=EVIL),
        rule="",
        outcome="failed",
        plan=Plan(EVIL, (EVIL,), EVIL, EVIL),
        dialogue=Dialogue(
            (Message("user", EVIL), Message("assistant", EVIL)), "roleplay", "completed", True
        ),
        critique=Critique(verdicts),
        revisions=(Revision(EVIL, Critique(verdicts)), Revision(EVIL, defect="unchanged")),
        failure=Failure(EVIL, EVIL, EVIL),
    )


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict("p", False, "", undecided=True), "critique: p: undecided\n"),
        (Verdict("p", False, "", undecided=True, calibrated=0.52),
         "p: undecided (violated with probability 0.52)"),
        (Verdict("p", False, "", undecided=True, probability=0.4),
         "p: undecided (violated with probability 0.40)"),
        (Verdict("p", False, "", probability=0.1), "p: satisfied (violated with probability 0.10)"),
        (Verdict("p", True, "", "q", grounded=True), "p: violated\n"),
        (Verdict("p", True, ""), "p: violated, without evidence\n"),
    ],
)  # fmt: skip
def test_a_verdict_is_shown_as_it_is(
    finished: Path, capsys: pytest.CaptureFixture[str], verdict: Verdict, said: str
) -> None:
    from sdsd.cli import display

    with Journal(RunDir(finished).journal, readonly=True) as journal:
        record = journal.record(0)
    assert record is not None
    display.dialogue(replace(record, critique=Critique((verdict,)), revisions=()), json=False)
    assert said in capsys.readouterr().out


def test_a_hostile_record_is_shown_and_does_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sdsd.cli import display
    from sdsd.runs import events

    with Journal(RunDir(finished).journal, readonly=True) as journal:
        record = journal.record(0)
    assert record is not None
    display.dialogue(hostile(record), json=False)
    display.scenarios([hostile(record).scenario])
    with terminal() as screen:
        screen.on_event(events.Recorded(hostile(record)))
        screen.on_event(events.Noted(EVIL))
    display.error_line(EVIL)
    out, err = capsys.readouterr()
    assert "owned" in out
    assert "owned" in err
    assert "[bold]loud[/bold]" in out
    assert UNSEEN.search(out + err) is None


def test_what_is_made_safe_can_still_be_read() -> None:
    assert safe("Grüße, 漢字, 👋\nnext line") == "Grüße, 漢字, 👋\nnext line"
    assert safe("\x1b[31m") == "\\u001b[31m"
    assert safe("a\tb") == "a    b"
    assert UNSEEN.search(safe(EVIL)) is None


def test_a_hostile_path_is_printed_as_it_is(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    """Square brackets are markup to the library that draws; to us they are part of a name."""
    out: Any = shutil.copytree(finished, tmp_path / "a[bold]b[/]")
    assert command("status", out).out.startswith(f"{out}: 8 of 8")
    assert f"report  {out}/report.html" in command("run", "-o", out, "-n", 8).out
