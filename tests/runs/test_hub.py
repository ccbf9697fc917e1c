"""The hub: what goes up and what does not, pushes that are cut off, and pulls from strangers.

The stand-in answers the routes that the hub's own client calls; that client runs in processes of
its own here, because it reads its environment once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import sdsd
from sdsd import config as configuration
from sdsd.config import Config
from sdsd.config import manifest as manifests
from sdsd.dataset.export import read
from sdsd.errors import RunDirError, SdsdError
from sdsd.models.scripted import ScriptedModel
from sdsd.runs import hub
from sdsd.runs.directory import RunDir
from sdsd.runs.hub import _fault, _read_records, _write_records, shared
from sdsd.runs.journal import Journal
from sdsd.runs.run import Run
from sdsd.types import Record, StageUsage
from tests.factories.records import accepted, everything, manifest, talk
from tests.helpers.reading import load, third_party
from tests.stand_ins.hub import HubStandIn, Repo, serving

pytestmark = pytest.mark.e2e

SECRETS = ("s3cret", "internal.example", "own-goals")
"""What the configuration of the run has, and nobody else may see."""
WORKER = """
import contextlib, io, json, os, sys
from sdsd.cli.app import main
for line in sys.stdin:
    os.environ["HF_TOKEN"], words = json.loads(line)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Commands from its input, one after another: starting a process for each would take minutes."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run whose configuration is full of what concerns its maker alone."""
    folder = tmp_path_factory.mktemp("made")
    goals = folder / "own-goals.yaml"
    goals.write_text(yaml.safe_dump({"goals": [{"text": f"The user wants {x}."} for x in "abc"]}))
    config = {
        "catalogue": {"goals": str(goals)},
        "models": {
            "default": {
                "base_url": "http://internal.example/v1",
                "api_key_env": "sk-s3cret",
                "headers": {"x-key": "s3cret"},
                "extra_body": {"user": "s3cret"},
                "price": {"prompt": 3.0},
            }
        },
        "export": {"contamination": {"sets": []}},
        "telemetry": {"port": 0},
    }
    sdsd.run(config, n=12, out=folder / "run", models={"default": ScriptedModel()})
    return RunDir(folder / "run")


@pytest.fixture
def run(made: RunDir, tmp_path: Path) -> RunDir:
    """A copy of it to push."""
    return RunDir(Path(shutil.copytree(made.path, tmp_path / "run")))


@pytest.fixture(scope="module")
def hub_site() -> Iterator[HubStandIn]:
    with serving(HubStandIn({"mine": "me", "yours": "you"})) as site:
        yield site


@pytest.fixture
def site(hub_site: HubStandIn) -> HubStandIn:
    """An empty hub where `me` and `you` are known by their tokens."""
    hub_site.forget()
    return hub_site


class Sdsd:
    """The command line, in a process that believes the stand-in is the hub."""

    def __init__(self, site: HubStandIn, home: Path) -> None:
        quiet = {k: v for k, v in os.environ.items() if k[:3] != "HF_" and "PROXY" not in k.upper()}
        self.env = quiet | {
            "HF_ENDPOINT": site.url,
            "HF_HOME": str(home / "hf"),
            "HF_TOKEN": "mine",
            "HF_HUB_DISABLE_XET": "1",
        }
        pipe = subprocess.PIPE
        self._worker = subprocess.Popen(
            [sys.executable, "-c", WORKER], env=self.env, stdin=pipe, stdout=pipe, text=True
        )

    def close(self) -> None:
        self._worker.communicate()

    def start(self, *words: object) -> subprocess.Popen[str]:
        """The command in a process of its own, to be killed."""
        command = [sys.executable, "-c", "from sdsd.cli.app import main; main()", *map(str, words)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=self.env, stdout=quiet, stderr=quiet, text=True)

    def alone(self, *words: object, **env: str) -> str:
        """What the command complains of in a process with another environment."""
        command = [sys.executable, "-c", "from sdsd.cli.app import main; main()", *map(str, words)]
        env = self.env | env
        done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
        assert done.returncode == 2
        return " ".join(done.stderr.split())

    def __call__(self, *words: object, code: int = 0, token: str = "mine") -> str:
        """What the command said: its output, or its complaint."""
        assert self._worker.stdin
        assert self._worker.stdout
        self._worker.stdin.write(json.dumps([token, [*map(str, words)]]) + "\n")
        self._worker.stdin.flush()
        ended, out, err = json.loads(self._worker.stdout.readline())
        assert ended == code, out + err
        return " ".join((err if code else out).split())


@pytest.fixture(scope="module")
def cli(hub_site: HubStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdsd]:
    started = Sdsd(hub_site, tmp_path_factory.mktemp("home"))
    yield started
    started.close()


# --- what goes up ---------------------------------------------------------------------------------


def test_a_push_sends_the_data_set_and_nothing_else(
    run: RunDir, site: HubStandIn, cli: Sdsd
) -> None:
    (run.data / "preference" / "mine.parquet").write_bytes(b"not ours")
    assert cli("push", run.path, "me/set") == f"{site.url}/datasets/me/set"
    repo = site.repos["me/set"]
    assert repo.private
    data = {p.relative_to(run.path).as_posix() for p in run.data.rglob("t*.parquet")}
    made = {"config.yaml", "manifest.json", "records/00000.parquet"}
    drawn = {f"plots/{path.name}" for path in (run.path / "plots").iterdir()}
    kept = {"README.md", "report.html", *drawn, *data}
    assert repo.files.keys() == {".gitattributes", *made, *kept}
    assert all(repo.files[name] == (run.path / name).read_bytes() for name in kept)
    assert repo.messages == ["initial commit", "12 dialogues, made by sdsd 0.1.0"]
    assert not (run.path / ".push").exists()


def test_nothing_that_is_sent_tells_a_secret(run: RunDir, site: HubStandIn, cli: Sdsd) -> None:
    cli("push", run.path, "me/set")
    for name, data in site.repos["me/set"].files.items():
        text = data.decode("utf-8", "replace")
        if name.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            text = f"{table.to_pylist()} {table.schema.metadata}"
        # the card and the metadata name files without their directories
        found = [s for s in SECRETS if s in text.replace("own-goals.yaml", "")]
        assert not found, name
        assert str(run.path.parent) not in text


def test_the_same_push_again_sends_and_changes_nothing(
    run: RunDir, site: HubStandIn, cli: Sdsd
) -> None:
    cli("push", run.path, "me/set")
    sent = list(site.uploads)
    cli("push", run.path, "me/set", "--message", "again")
    assert site.uploads == sent
    assert len(site.repos["me/set"].commits) == 2


def test_a_push_replaces_the_one_before_and_nothing_of_others(
    run: RunDir, site: HubStandIn, cli: Sdsd
) -> None:
    cli("push", run.path, "me/set")
    repo = site.repos["me/set"]
    stale = {"data/sft/test-00000-of-00001.parquet": b"", "records/00001.parquet": b""}
    foreign = {"LICENSE": b"mine", "data/sft/notes.txt": b"mine"}
    repo.add("by hand", repo.files | stale | foreign)
    cli("push", run.path, "me/set", "--message", "anew")
    assert repo.messages[-1] == "anew"
    assert not repo.files.keys() & stale.keys()
    assert repo.files.keys() >= foreign.keys()


def test_a_push_that_was_killed_goes_on_where_it_was(
    run: RunDir, site: HubStandIn, cli: Sdsd
) -> None:
    site.stall_after = 4
    with cli.start("push", run.path, "me/set") as process:
        assert site.stalled.wait(60)
        process.kill()
    repo = site.repos["me/set"]
    assert len(repo.commits) == 1  # readers see nothing of it
    assert (run.path / ".push").exists()
    site.stall_after = None
    cli("push", run.path, "me/set")
    assert len(repo.commits) == 2
    assert len(site.uploads) == len(set(site.uploads))  # no file was sent twice
    large = [d for n, d in repo.files.items() if n.endswith((".parquet", ".html"))]
    assert len(site.uploads) == len(set(large))


def test_public_is_what_is_said_to_be_public(run: RunDir, site: HubStandIn, cli: Sdsd) -> None:
    site.repos["me/open"] = Repo(private=False)
    said = cli("push", run.path, "me/open", code=2)
    assert "me/open: is public, so everybody would see the run" in said
    assert "--public" in said
    assert not site.uploads
    cli("push", run.path, "me/open", "--public")
    cli("push", run.path, "me/new", "--public")
    assert not site.repos["me/new"].private
    cli("push", run.path, "me/shut")
    assert "is private, and a push does not change that" in cli(
        "push", run.path, "me/shut", "--public", code=2
    )


def test_what_stands_in_the_way_of_a_push_is_named(
    run: RunDir, site: HubStandIn, cli: Sdsd
) -> None:
    push = ("push", run.path)
    assert "HF_TOKEN" in cli(*push, "me/set", code=2, token="")
    assert "hf auth login" in cli(*push, "me/set", code=2, token="wrong")
    assert "the right to write" in cli(*push, "you/set", code=2)
    assert "names no data set" in cli(*push, "set", code=2)
    assert "offline" in cli.alone(*push, "me/set", HF_HUB_OFFLINE="1")
    nobody = cli.alone(*push, "me/set", HF_ENDPOINT="http://127.0.0.1:9")
    assert "check the connection and HF_ENDPOINT" in nobody
    site.repos["me/set"] = Repo(private=True)
    site.repos["me/set"].add("by hand", {"data.csv": b"1"})
    assert "holds what no `sdsd push` put there (data.csv)" in cli(*push, "me/set", code=2)
    site.meddle = True
    assert "somebody else wrote there meanwhile" in cli(*push, "me/raced", code=2)
    run.report.unlink()
    assert "`sdsd export` first" in cli(*push, "me/raced", code=2)


def test_without_its_extra_the_hub_says_which() -> None:
    hide = "import sys; sys.modules['huggingface_hub'] = None; "
    ask = "from sdsd.runs.hub import pull; from pathlib import Path; pull('me/set', Path('never'))"
    done = subprocess.run(
        [sys.executable, "-c", hide + ask], check=False, capture_output=True, text=True
    )
    assert "pip install 'sdsd[hub]'" in done.stderr
    assert not Path("never").exists()


# --- what comes down ------------------------------------------------------------------------------


@third_party
def test_a_pulled_run_is_read_like_any_other(
    run: RunDir, site: HubStandIn, cli: Sdsd, tmp_path: Path
) -> None:
    cli("push", run.path, "me/set")
    there = tmp_path / "new" / "got"
    assert cli("pull", "me/set", there) == str(there)
    got = RunDir(there)
    names = {p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file()}
    data = {name for name in names if name.startswith("data/")}
    rest = {"README.md", "config.yaml", "manifest.json", "journal.sqlite", "lock"}
    assert names == data | rest
    assert data == {p.relative_to(run.path).as_posix() for p in run.data.rglob("*.parquet")}
    assert all(
        (there / n).read_bytes() == (run.path / n).read_bytes() for n in {*data, "README.md"}
    )
    with Journal(run.journal, readonly=True) as ours, Journal(got.journal, readonly=True) as theirs:
        assert list(theirs.records()) == list(ours.records())
        assert theirs.answers() == 0
    pairs = list(read(run.data, "preference"))
    loaded = load(there, tmp_path, "preference")
    assert list(loaded) == pairs

    assert Run.open(there)[3] == Run(run.path)[3]
    assert Run(got.path).status().outcomes == Run(run.path).status().outcomes
    verdict = cli("verify", there, code=2)
    assert "made with other files" in verdict or "calls" in verdict  # it never says: verified
    cli("report", there)
    cli("export", there)
    assert list(read(got.data, "preference")) == pairs
    assert got.report.exists()
    assert cli("push", there, "me/copy")  # and so it can be handed on


def test_a_pull_that_was_killed_goes_on_where_it_was(
    run: RunDir, site: HubStandIn, cli: Sdsd, tmp_path: Path
) -> None:
    cli("push", run.path, "me/set")
    site.stall_after = 5
    with cli.start("pull", "me/set", tmp_path / "got") as process:
        assert site.stalled.wait(60)
        process.kill()
    assert not (tmp_path / "got").exists()
    site.stall_after = None
    cli("pull", "me/set", tmp_path / "got")
    assert len(site.downloads) == len(set(site.downloads))
    assert [p.name for p in tmp_path.glob(".got*")] == []


def test_what_stands_in_the_way_of_a_pull_is_named(
    run: RunDir, site: HubStandIn, cli: Sdsd, tmp_path: Path
) -> None:
    there = tmp_path / "got"
    assert "check the name and the revision" in cli("pull", "me/none", there, code=2)
    site.repos["me/other"] = Repo(private=False)
    assert "no `sdsd push` made this" in cli("pull", "me/other", there, code=2)
    cli("push", run.path, "me/set")
    assert "HF_TOKEN" in cli("pull", "me/set", there, code=2, token="")
    assert "revision" in cli("pull", "me/set", there, "--revision", "v9", code=2)
    assert not there.exists()
    there.mkdir()
    first = site.repos["me/set"].commits[1][0]
    cli("pull", "me/set", there, "--revision", first)
    assert "is there already" in cli("pull", "me/set", there, code=2)


def test_only_files_of_known_names_are_fetched(
    run: RunDir, site: HubStandIn, cli: Sdsd, tmp_path: Path
) -> None:
    cli("push", run.path, "me/set")
    repo = site.repos["me/set"]
    evil = ("../../evil", "data/../../evil.parquet", "logs/x", "journal.sqlite", "data/sft/x.py",
            "source.sqlite", "data/other/train-00000-of-00001.parquet")  # fmt: skip
    repo.add("evil", repo.files | dict.fromkeys(evil, b"evil"))
    cli("pull", "me/set", tmp_path / "a" / "b" / "got")
    assert not set(site.downloads) & {*evil, "report.html", "plots/funnel.svg"}
    assert not list(tmp_path.rglob("*evil*"))


# --- strangers ------------------------------------------------------------------------------------


@pytest.fixture
def fetched(made: RunDir, tmp_path: Path) -> RunDir:
    """What a pull has fetched, before anything is made of it."""
    manifest = made.manifest()
    assert manifest
    (tmp_path / "scratch").mkdir()
    with Journal(made.journal, readonly=True) as journal:
        config = shared(made.config(), 12)
        files = hub._files(made, config, manifests.shown(manifest), journal, tmp_path / "scratch")
    for name, path in files.items():
        there = tmp_path / "fetched" / name
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    return RunDir(tmp_path / "fetched")


def test_a_config_of_a_stranger_starts_nothing_and_reads_nothing(fetched: RunDir) -> None:
    tree = yaml.safe_load(fetched.config_file.read_text())
    tree["models"]["default"] |= {
        "launch": "vllm", "arguments": ["--evil"], "chat_template": "/etc/passwd",
        "api_key_env": "AWS_SECRET", "extra_body": {"x": 1}, "headers": {"x": "y"},
    }  # fmt: skip
    tree["catalogue"]["topics"] = tree["prompts"]["plan"] = "/etc/passwd"
    tree["source"]["path"] = "/etc"
    tree["scenarios"]["strategies"] = ["/etc/evil.md", "haste"]
    tree["export"]["contamination"]["sets"] = ["/etc"]
    tree["export"]["duplicates"]["against"] = ["/etc"]
    tree["telemetry"]["port"] = 0
    fetched.config_file.write_text(yaml.safe_dump(tree))
    hub._settle(fetched, "me/set")
    config = fetched.config()
    assert config.models["default"] == configuration.load({}).models["default"]
    assert config.scenarios.strategies == ("haste",)
    written = fetched.config_file.read_text()
    assert "/etc" not in written
    assert "evil" not in written
    assert "AWS" not in written
    assert config.telemetry.port is None
    assert Run(fetched.path)[0].scenario.index == 0


BOMB = "a: &a [1, 2]\nb: [*a, *a]\n"
HEAD = "---\nconfigs:\n- config_name: preference\n  data_files: [{{split: train, path: {}}}]\n---\n"


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("config.yaml", BOMB, "aliases"),
        ("config.yaml", "a: [", "cannot be read as YAML"),
        ("config.yaml", "evil: 1", "unknown key `evil`"),
        ("config.yaml", "# " + "x" * (1 << 22), "4,194,306 bytes"),
        ("manifest.json", "{}", "missing required field"),
        ("README.md", f"---\n{BOMB}---\n", "aliases"),
        ("README.md", HEAD.format("/etc/x.parquet"), "names '/etc/x.parquet' as data"),
        ("README.md", HEAD.format("data/../../x-00000-of-00001.parquet"), "as data"),
        ("README.md", HEAD.format("https://evil/x.parquet").replace("\n", "\r\n"), "as data"),
        ("README.md", HEAD.format("x").replace("\n---", "\n---x: 1\n---"), "as data"),
        ("README.md", "---\nconfigs:\n- config_name: a\n  data_dir: /etc\n---\n", "not a card's"),
        ("README.md", "---\nconfigs: x\n---\n", "not a card's"),
    ],
)
def test_texts_of_a_stranger_are_checked(fetched: RunDir, name: str, text: str, fault: str) -> None:
    (fetched.path / name).write_bytes(text.encode())
    with pytest.raises(SdsdError, match=fault):
        hub._settle(fetched, "me/set")


def test_a_card_without_a_head_is_just_text(fetched: RunDir) -> None:
    fetched.card.write_text("Hello.")
    hub._settle(fetched, "me/set")
    assert fetched.card.read_text() == "Hello."


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, hub._schema()), path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows.reverse(), "an index out of order"),
        (lambda rows: rows.append(rows[-1]), "an index out of order"),
        (lambda rows: rows[0].update(id="x"), "another id or index"),
        (lambda rows: rows[0].update(record=None), "truncated"),
        (lambda rows: rows[0].update(record='{"scenario": 1}'), "Expected `object`"),
        (lambda rows: rows[1].update(record='"\\ud800"'), "cannot be read"),
    ],
)
def test_records_of_a_stranger_are_checked(
    fetched: RunDir, change: Callable[[list[dict[str, Any]]], object], fault: str
) -> None:
    rewrite(fetched.path / "records" / "00000.parquet", change)
    with pytest.raises(SdsdError, match=fault):
        hub._settle(fetched, "me/set")


def test_two_records_of_one_id_make_no_journal(fetched: RunDir) -> None:
    def twins(rows: list[dict[str, Any]]) -> None:
        record = msgspec.json.decode(rows[1]["record"])
        record["scenario"]["id"] = rows[1]["id"] = rows[0]["id"]
        rows[1]["record"] = msgspec.json.encode(record).decode()

    rewrite(fetched.path / "records" / "00000.parquet", twins)
    with pytest.raises(SdsdError, match="records/ make no journal"):
        hub._settle(fetched, "me/set")


def test_files_of_records_are_checked(fetched: RunDir) -> None:
    records = fetched.path / "records"
    shutil.copy(records / "00000.parquet", records / "00002.parquet")
    with pytest.raises(SdsdError, match="a file of records/ is missing"):
        hub._settle(fetched, "me/set")
    (records / "00002.parquet").unlink()
    pq.write_table(pa.table({"id": ["x"]}), records / "00000.parquet")
    with pytest.raises(SdsdError, match="has other columns"):
        hub._settle(fetched, "me/set")
    (records / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(SdsdError, match="cannot be read"):
        hub._settle(fetched, "me/set")


def test_a_row_group_that_would_fill_the_memory_is_not_read(fetched: RunDir) -> None:
    path = fetched.path / "records" / "00000.parquet"
    row = {"id": "x", "index": 0, "record": "x" * 1_000_000}
    with pq.ParquetWriter(path, hub._schema(), use_dictionary=False, compression="zstd") as file:
        file.write_table(pa.Table.from_pylist([row] * 300, hub._schema()))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(SdsdError, match="a row group too large"):
        hub._settle(fetched, "me/set")


GOOD = accepted(3)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (GOOD, ""),
        (replace(GOOD, scenario=replace(GOOD.scenario, principles=())), "no principle"),
        (replace(GOOD, dialogue=replace(talk("a", "b"), messages=())), "turns that do not"),
        (replace(GOOD, dialogue=talk("a", "b", "c")), "turns that do not"),
        (replace(GOOD, scenario=replace(GOOD.scenario, principles=GOOD.scenario.principles[:1])),
         "a verdict on a principle"),
        (replace(GOOD, critique=None), "a pair of nothing"),
        (replace(GOOD, usage={"plan": StageUsage(calls=2**60)}), "impossible numbers"),
        (replace(GOOD, scenario=replace(GOOD.scenario, exchanges=2**40)), "impossible numbers"),
        (replace(GOOD, scenario=replace(GOOD.scenario, index=2**60)), "an index out of order"),
    ],
)  # fmt: skip
def test_a_record_holds_what_the_program_relies_on(record: Record, fault: str) -> None:
    row = {"id": record.scenario.id, "index": record.scenario.index}
    assert _fault(record, row, last=-1).startswith(fault)
    assert bool(_fault(record, row, last=-1)) == bool(fault)


# --- what is shared -------------------------------------------------------------------------------


def test_what_is_shared_is_what_decides_what_is_made() -> None:
    config = configuration.load(
        {
            "seed": 5,
            "n": 9,
            "models": {
                "default": {"model": "/home/me/s3cret/big.gguf", "context": 8192},
                "judge": {"model": "org/judge", "base_url": "http://s3cret/v1", "timeout": 9.0},
            },
            "roles": {"critic": "judge"},
            "revise": {"rounds": 1},
            "budget": {"money": 3.0},
            "scenarios": {"strategies": ["haste", "/s3cret/own.md"]},
            "export": {"truncate": True, "duplicates": {"against": ["/s3cret"]}},
        }
    )
    out = shared(config, 4)
    assert (out.n, out.seed, out.revise.rounds, out.roles.critic) == (9, 5, 1, "judge")
    assert [m.model for m in out.models.values()] == ["big.gguf", "org/judge"]
    assert out.models["default"].context == 8192
    assert out.scenarios.strategies == ("haste",)
    assert out.export.truncate
    assert "s3cret" not in configuration.dump(out)
    assert out.budget == Config().budget
    assert shared(out, 4) == out


@pytest.mark.parametrize("source", [{"targets": {"pairs": 1}}, {"source": {"path": "hf:org/name"}}])
def test_a_run_without_a_number_gets_one(source: dict[str, Any]) -> None:
    out = shared(configuration.load(source), 7)
    assert out.n == 7
    assert configuration.load(configuration.tree(out)) == out


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("qwen2.5-coder-1.5b", "qwen2.5-coder-1.5b"),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("hf:org/repo/file.gguf", "hf:org/repo/file.gguf"),
        ("/home/me/big.gguf", "big.gguf"),
        ("weights/big.gguf", "big.gguf"),
        ("~/big", "big"),
        ("./here/big", "big"),
        ("C:\\Users\\me\\big.gguf", "big.gguf"),
        ("/", "model"),
    ],
)
def test_a_model_is_named_without_its_directory(model: str, shown: str) -> None:
    assert manifests.nameable(model) == shown
    weights = {model: "0" * 64}
    made = manifests.shown(manifest(models={"agent": model}, weights=weights))
    assert (made.models, made.weights) == ({"agent": shown}, {shown: "0" * 64})


# --- records --------------------------------------------------------------------------------------


def test_records_come_back_as_they_were_in_the_same_bytes(tmp_path: Path) -> None:
    records = [r for r in everything() if r.scenario.index != 5]  # its text is not UTF-8
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _write_records(iter(records), tmp_path / name)
    assert list(_read_records(tmp_path / "a", "me/set")) == records
    first, second = ((tmp_path / name / "00000.parquet").read_bytes() for name in "ab")
    assert first == second


def test_a_run_that_grew_keeps_its_full_files(tmp_path: Path) -> None:
    record = accepted()
    sizes = {"a": hub._PART + 1, "b": hub._PART + 2500, "c": 0}
    for name, size in sizes.items():
        (tmp_path / name).mkdir()
        scenarios = (replace(record.scenario, id=str(i), index=i) for i in range(size))
        _write_records((replace(record, scenario=s) for s in scenarios), tmp_path / name)
    a, b, c = (sorted((tmp_path / name).iterdir()) for name in sizes)
    assert [len(a), len(b), len(c)] == [2, 2, 0]
    assert a[0].read_bytes() == b[0].read_bytes()
    assert pq.read_metadata(b[1]).num_rows == 2500
    assert pq.read_metadata(b[1]).num_row_groups == 3


@given(st.lists(st.integers(1, 40), max_size=30))
def test_groups_are_all_rows_and_none_is_too_large(sizes: list[int]) -> None:
    rows = [{"record": range(size << 21)} for size in sizes]
    groups = list(hub._groups(rows))
    assert [row for group in groups for row in group] == rows
    assert all(sum(len(r["record"]) for r in group[:-1]) < hub._GROUP_TEXT for group in groups)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with (
        pytest.raises(SdsdError, match=r"\.push: cannot be written"),
        hub._scratch(tmp_path / "run" / ".push"),
    ):
        pass
    with pytest.raises(RunDirError, match="is there already"):
        hub.pull("me/set", tmp_path / "run")
