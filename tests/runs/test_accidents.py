"""Accidents on disk: every change is found, nothing is bought twice, and a command helps.

A small run is made once; each test damages a copy of it.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import yaml

import sdsd
from sdsd import config as configuration
from sdsd.errors import JournalError, RunDirError, SdsdError
from sdsd.files import write_atomic
from sdsd.interrupts import like_ctrl_c
from sdsd.models.scripted import ScriptedModel, small_world
from sdsd.runs import journal_file, publication
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Event, Recorded
from sdsd.runs.journal import Journal
from sdsd.runs.run import Run
from sdsd.runs.verify import verify

pytestmark = pytest.mark.e2e
N = 4


def make(out: Path, n: int = N, hear: Callable[[Event], None] | None = None) -> int:
    """Start or continue a run; return how many calls were made."""
    model = ScriptedModel(small_world)
    sdsd.run({"n": n, "max_open_dialogues": 2}, out=out, models={"default": model}, on_event=hear)
    return model.asked


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    make(out)
    return out


@pytest.fixture
def run(tmp_path: Path, whole: Path) -> RunDir:
    """A finished run that may be damaged."""
    shutil.copytree(whole, tmp_path / "run")
    return RunDir(tmp_path / "run")


def altered(rundir: RunDir, sql: str) -> None:
    with closing(sqlite3.connect(rundir.journal)) as connection:
        connection.execute(sql)
        connection.commit()


def defects(rundir: RunDir) -> tuple[str, ...]:
    """What `verify` says, whether it lists it or cannot go on."""
    try:
        return verify(rundir).defects
    except SdsdError as error:
        return (str(error),)


# -- verify finds every change -------------------------------------------------------------


def compared(rundir: RunDir) -> list[Path]:
    """All files of a run but its journal, logs and locks, and its configuration, in which much may
    change between two starts."""
    logs = {rundir.path / "logs", rundir.path / "models"}
    names = {"lock", "metrics.prom", "config.yaml", rundir.journal.name}
    return [
        path
        for path in sorted(rundir.path.rglob("*"))
        if path.is_file() and path.name not in names and not logs & set(path.parents)
    ]


def flip(path: Path, chance: random.Random) -> bytes:
    """Turn over one bit of a file; return what it was."""
    data = path.read_bytes()
    at = chance.randrange(len(data))
    path.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
    return data


@pytest.mark.parametrize("flips", [1, pytest.param(80, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_every_file_is_found(run: RunDir, flips: int) -> None:
    """By its digest; the journal is checked below. With `--all`, about 3,600 flips."""
    chance = random.Random(flips)
    with Journal(run.journal, readonly=True) as journal:
        for path in compared(run):
            for _ in range(flips):
                before = flip(path, chance)
                assert not publication.current(run, journal), path
                path.write_bytes(before)
        assert publication.current(run, journal)


CONTENT = ("SELECT * FROM answer", "SELECT * FROM record", "SELECT * FROM usage",
           "SELECT * FROM round", "SELECT * FROM kept", "SELECT * FROM sqlite_schema")  # fmt: skip


def content(path: Path) -> object:
    """Everything that a journal holds, or the error that reading it ends with."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
            return [connection.execute(sql).fetchall() for sql in CONTENT]
    except sqlite3.Error as error:
        return str(error)


@pytest.mark.parametrize("flips", [6, pytest.param(600, marks=pytest.mark.slow)])
def test_every_flipped_bit_that_changes_what_a_journal_holds_is_found(
    run: RunDir, flips: int
) -> None:
    chance, before = random.Random(flips), content(run.journal)
    missed = []
    for _ in range(flips):
        data = flip(run.journal, chance)
        if content(run.journal) != before and not defects(run):
            missed.append(run.journal.read_bytes())
        run.journal.write_bytes(data)
    assert missed == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE usage SET completion_tokens = completion_tokens * 1000", "the sums of "),
        ("UPDATE usage SET seconds = seconds + 1e-9", "sums are not those that were published"),
        ("UPDATE answer SET at = at + 1 WHERE step = 'plan'", "the answer to plan of"),
        ("UPDATE record SET pairs = pairs + 1 WHERE number = 2", "dialogue 2: its record is dam"),
        ("DELETE FROM kept WHERE name = 'config.yaml'", "its copy of config.yaml is gone"),
        ("DELETE FROM kept", "its copy of manifest.json is gone"),
        ("CREATE TRIGGER t AFTER INSERT ON answer BEGIN DELETE FROM record; END", "a trigger t"),
        ("CREATE VIEW v AS SELECT * FROM answer", "a view v"),
        ("DROP INDEX record_outcome", "index record_outcome is not as"),
        ("ALTER TABLE answer ADD COLUMN more TEXT", "table answer is not as"),
    ],
)
def test_every_change_to_a_journal_is_found(run: RunDir, sql: str, said: str) -> None:
    altered(run, sql)
    assert any(said in defect for defect in defects(run)), defects(run)


@pytest.mark.parametrize(
    "name", ["data/preference/train-00001-of-00002.parquet", "data/sft/x.parquet", "data/notes.txt"]
)
def test_a_file_that_is_not_of_the_data_set_is_named(run: RunDir, name: str) -> None:
    (run.path / name).write_bytes(b"PAR1")
    assert defects(run) == (
        f"{run.path / name}: is not of this data set, but may be read with it; remove it",
    )


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("manifest.json", '"seed": 0', '"seed": 7', "is not what the run began with"),
        ("config.yaml", "attempts: 3", "attempts: 4", "`attempts` is not what the run began with"),
        ("config.yaml", "test: 0.0", "test: 0.2", "or accept it with `sdsd export`"),
        ("README.md", "---", "- --", "README.md: is not what was published"),
        ("report.html", "<html", "<HTML", "report.html: is not what was published"),
    ],
)
def test_an_edited_file_is_named(run: RunDir, name: str, old: str, new: str, said: str) -> None:
    text = (run.path / name).read_text("utf-8")
    assert old in text
    (run.path / name).write_text(text.replace(old, new, 1), "utf-8")
    assert any(said in defect for defect in defects(run)), defects(run)


@pytest.mark.parametrize("field", ["left_out", "calibrations"])
def test_a_manifest_without_a_field_of_today_is_what_an_old_run_began_with(
    run: RunDir, field: str
) -> None:
    """The file is as an older program wrote it, its copy in the journal has every field."""
    old = json.loads(run.manifest_file.read_bytes())
    del old[field]
    run.manifest_file.write_text(json.dumps(old, indent=2))
    assert make(run.path) == 0
    assert defects(run) == ()


def test_keys_that_the_program_has_learned_since_are_no_change(run: RunDir) -> None:
    """Configuration and marker are as a program without one key of identity and two of the export
    wrote them."""
    old = yaml.safe_load(run.config_file.read_text())
    del old["attempts"], old["export"]["truncate"], old["export"]["duplicates"]["near"]
    run.config_file.write_text(yaml.safe_dump(old, sort_keys=False))
    made_of = [configuration.digest(old).encode(), msgspec.json.encode(old["export"])]
    marker = json.loads(run.published.read_bytes())
    marker["basis"]["config.yaml"] = hashlib.sha256(b"\n".join(made_of)).hexdigest()
    run.published.write_bytes(msgspec.json.format(msgspec.json.encode(marker)) + b"\n")
    assert defects(run) == ()
    old["export"]["truncate"] = True
    run.config_file.write_text(yaml.safe_dump(old, sort_keys=False))
    assert any("or accept it with `sdsd export`" in defect for defect in defects(run))


def test_dialogues_that_are_not_finished_are_replayed(run: RunDir) -> None:
    """As far as they go: what is missing is no defect, what was altered is one."""
    altered(run, "DELETE FROM record WHERE number = 3")
    altered(run, "DELETE FROM answer WHERE scenario LIKE '000003-%' AND step LIKE 'critique/%'")
    assert not any("dialogue 3" in defect for defect in defects(run))
    altered(run, "UPDATE answer SET request = '{}', digest = NULL WHERE scenario LIKE '000003-%'")
    assert any("dialogue 3: 000003-" in defect for defect in defects(run))


def test_whatever_a_damaged_row_raises_is_a_defect_of_its_dialogue(run: RunDir) -> None:
    for body in ("[]", '"text"', "1e999", '{"scenario": {}}'):
        altered(run, f"UPDATE record SET body = '{body}', digest = NULL WHERE number = 1")
        assert any(defect.startswith("dialogue 1: ") for defect in defects(run))


# -- publishing ----------------------------------------------------------------------------


@pytest.mark.parametrize("until", ["data/sft", "report.html", "README.md", "published.json"])
def test_publishing_that_was_killed_is_known_and_finished_by_the_next_start(
    run: RunDir, until: str
) -> None:
    """The files up to one of them are new, the others and the marker are not."""
    new = Run.open(run.path)
    old = {name: (run.path / name).read_bytes() for name in ("report.html", "README.md")}
    make(run.path, N + 1)
    for name, data in old.items():
        if name >= until or until == "data/sft":
            (run.path / name).write_bytes(data)
    run.published.unlink()
    assert new.status().unpublished == N + 1
    assert "`sdsd export` writes data set" in defects(run)[0]
    assert make(run.path, N + 1) == 0
    assert new.status().unpublished == 0
    assert defects(run) == ()


def test_a_publication_of_fewer_dialogues_is_completed(run: RunDir) -> None:
    marker = run.published.read_bytes()
    make(run.path, N + 1)
    run.published.write_bytes(marker)
    assert any(f"has {N} of {N + 1} dialogues" in defect for defect in defects(run))
    assert make(run.path, N + 1) == 0
    assert defects(run) == ()


def test_two_that_publish_wait_for_each_other(run: RunDir) -> None:
    command = [sys.executable, "-m", "sdsd", "export", str(run.path)]
    with run.publishing():
        others = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
        leftover = run.data / "sft" / ".train-00000.1.tmp"
        leftover.touch()
        assert all(other.poll() is None for other in others)
        assert leftover.exists()
    assert [other.wait() for other in others] == [0, 0]
    assert not leftover.exists()
    assert defects(run) == ()


# -- what is gone --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "emptied", "of another run", "without its log"])
@pytest.mark.parametrize("n", [N, N + 2])
def test_answers_that_are_gone_are_not_bought_again(
    run: RunDir, tmp_path: Path, how: str, n: int
) -> None:
    if how == "deleted":
        run.journal.unlink()
    elif how == "emptied":
        run.journal.write_bytes(b"")
    elif how == "of another run":
        run.journal.unlink()
        Journal(run.journal).close()
    else:
        with Journal(run.journal):
            shutil.copy(run.journal, tmp_path / "copy")
        shutil.move(tmp_path / "copy", run.journal)
    with pytest.raises((RunDirError, JournalError), match=r"copy.*start another run directory"):
        make(run.path, n)


def test_a_missing_manifest_is_written_again(run: RunDir) -> None:
    before = run.manifest_file.read_bytes()
    run.manifest_file.unlink()
    assert any("manifest.json: missing; `sdsd run" in defect for defect in defects(run))
    assert make(run.path) == 0
    assert run.manifest_file.read_bytes() == before
    assert defects(run) == ()


def test_a_missing_configuration_is_written_again_from_the_same_one_only(run: RunDir) -> None:
    run.config_file.unlink()
    with pytest.raises(RunDirError, match=r"missing; `sdsd run CONFIG --out .*writes it again"):
        Run.open(run.path)
    with pytest.raises(RunDirError, match="seed had another value"):
        sdsd.run({"seed": 5, "n": N}, out=run.path, models={"default": ScriptedModel(small_world)})
    assert make(run.path) == 0
    assert defects(run) == ()


def test_a_dialogue_whose_answers_are_damaged_is_made_again(run: RunDir) -> None:
    spent = Run.open(run.path).status().usage
    altered(run, "UPDATE answer SET body = x'00' WHERE step = 'plan' AND scenario LIKE '000001-%'")
    altered(run, "DELETE FROM record WHERE number = 1")
    with pytest.raises(JournalError, match=r"the answer to plan .* `sdsd verify --drop`"):
        make(run.path)
    dropped = Run.open(run.path).drop(1)
    after = Run.open(run.path).status().usage
    assert sum(u.calls for u in after) == sum(u.calls for u in spent)  # what was spent stays so
    assert make(run.path) == dropped > 0
    assert defects(run) == ()


def test_a_damaged_record_costs_nothing(run: RunDir) -> None:
    altered(run, "UPDATE record SET body = x'00' WHERE number = 1")
    assert Run.open(run.path).drop(1) == 0
    assert make(run.path) == 0
    assert defects(run) == ()


def test_what_was_never_recorded_cannot_be_dropped(run: RunDir) -> None:
    with pytest.raises(JournalError, match="nothing is recorded of dialogue 99"):
        Run.open(run.path).drop(99)


def test_nothing_can_be_dropped_from_a_journal_that_is_gone_or_is_none(run: RunDir) -> None:
    run.journal.write_bytes(b"not a database, however long it may be" * 99)
    with pytest.raises(JournalError, match="restore a copy"):
        Run.open(run.path).drop(0)
    run.journal.unlink()
    with pytest.raises(JournalError, match="is missing; restore a copy"):
        Run.open(run.path).drop(0)
    assert not run.journal.exists()


@pytest.mark.parametrize("how", ["renamed", "deleted", "replaced"])
def test_a_directory_that_is_moved_in_mid_run_ends_it(tmp_path: Path, how: str) -> None:
    out = tmp_path / "run"

    def hear(event: Event) -> None:
        if isinstance(event, Recorded) and out.exists():
            if how == "deleted":
                shutil.rmtree(out)
            elif how == "renamed":
                out.rename(tmp_path / "moved")
            else:
                write_atomic(RunDir(out).journal, b"")

    with pytest.raises(BaseException) as caught:  # noqa: PT011  (in a group, or alone)
        make(out, hear=hear)
    assert "no longer the file that this run writes to" in str(
        caught.value.exceptions[0] if isinstance(caught.value, BaseExceptionGroup) else caught.value
    )
    assert not (out / "data").exists()


def test_a_finished_run_is_one_file_that_needs_no_other(run: RunDir) -> None:
    assert [path.name for path in run.path.glob("journal*")] == ["journal.sqlite"]
    assert run.journal.read_bytes()[18:20] == b"\1\1"  # no write-ahead log
    assert len(Run.open(run.path)) == N
    assert [path.name for path in run.path.glob("journal*")] == ["journal.sqlite"]


async def test_a_journal_of_the_version_before_is_read_and_extended(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{journal_file._TABLES} PRAGMA user_version = 4;")
        connection.execute("INSERT INTO answer VALUES ('s', 'plan', '{}', '[]', 0)")
        connection.commit()
    with Journal(path, readonly=True) as journal:
        assert (journal.answers(), journal.kept("x")) == (1, None)
    with Journal(path) as journal:
        await journal.keep("x", b"y")
        assert (journal.answers(), journal.kept("x")) == (1, b"y")
    with closing(sqlite3.connect(path)) as connection:
        assert journal_file.schema(connection) == journal_file.expected_schema(digests=True)


# -- signals -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_request_to_end_is_like_ctrl_c(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # a shell may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt), like_ctrl_c():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("limit", "code"), [(20, 2), (31, 2), (64, 0)])
def test_a_low_limit_of_open_files_is_told(limit: int, code: int) -> None:
    script = (
        "import resource\n"
        "from sdsd.errors import SdsdError\n"
        "from sdsd.files import allow_many_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "try: allow_many_files()\n"
        "except SdsdError as error: print(error); raise SystemExit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert ("`ulimit -n 4096`" in done.stdout) == bool(code)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with like_ctrl_c():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
