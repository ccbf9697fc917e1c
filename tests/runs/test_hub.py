"""The hub: what is published and what is not, and pushes that are interrupted.

The stand-in answers the routes that the hub's own client calls; that client runs in processes of
its own here, because it reads its environment once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import sdsd
from sdsd import config as configuration
from sdsd.config import Config
from sdsd.config import manifest as manifests
from sdsd.dataset.export import read
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.directory import RunDir
from sdsd.runs.hub import publishable
from sdsd.scenarios import existing
from tests.factories.records import manifest
from tests.helpers.reading import load, third_party
from tests.stand_ins.hub import HubStandIn, Repo, serving

pytestmark = pytest.mark.e2e

SECRETS = ("s3cret", "internal.example", "own-goals")
"""What the configuration of the run has, and nobody else may see."""
TOKEN = "hf_plntdAbCdEfGhIjKlMnOpQrStUvWxYz01"
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
                "api_key_env": "KEY_OF_s3cret",
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
    made = {"config.yaml", "manifest.json"}
    drawn = {f"plots/{path.name}" for path in (run.path / "plots").iterdir()}
    kept = {"README.md", "report.html", *drawn, *data}
    assert repo.files.keys() == {".gitattributes", *made, *kept}
    assert all(repo.files[name] == (run.path / name).read_bytes() for name in kept)
    assert repo.messages == ["initial commit", f"12 dialogues, made by sdsd {sdsd.__version__}"]


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


@pytest.mark.parametrize(
    "words", [("push", "RUN", "me/set"), ("run", "--from", "hf:you/set", "-o", "OUT")]
)
def test_a_token_that_the_hub_repeats_is_hidden(
    words: tuple[str, ...], run: RunDir, tmp_path: Path, site: HubStandIn, cli: Sdsd
) -> None:
    site.repeats = True
    places = {"RUN": run.path, "OUT": tmp_path / "out"}
    said = cli(*(places.get(word, word) for word in words), code=2, token=TOKEN)
    assert "Bearer ***" in said
    assert TOKEN[:12] not in said


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
    stale = {"data/sft/test-00000-of-00001.parquet": b"", "plots/old.svg": b""}
    foreign = {"LICENSE": b"mine", "data/sft/notes.txt": b"mine"}
    repo.add("by hand", repo.files | stale | foreign)
    cli("push", run.path, "me/set", "--message", "anew")
    assert repo.messages[-1] == "anew"
    assert not repo.files.keys() & stale.keys()
    assert repo.files.keys() >= foreign.keys()


def test_a_push_that_was_killed_goes_on_where_it_was(
    run: RunDir, site: HubStandIn, cli: Sdsd
) -> None:
    site.stall_after = 3
    with cli.start("push", run.path, "me/set") as process:
        assert site.stalled.wait(60)
        process.kill()
    repo = site.repos["me/set"]
    assert len(repo.commits) == 1  # readers see nothing of it
    site.stall_after = None
    cli("push", run.path, "me/set")
    assert len(repo.commits) == 2
    assert len(site.uploads) == len(set(site.uploads))  # no file was sent twice
    large = [d for n, d in repo.files.items() if n.endswith((".parquet", ".html"))]
    assert len(site.uploads) == len(set(large))


def test_public_is_what_is_said_to_be_public(run: RunDir, site: HubStandIn, cli: Sdsd) -> None:
    site.repos["me/open"] = Repo(private=False)
    said = cli("push", run.path, "me/open", code=2)
    assert "me/open: is public, so everyone would see the run" in said
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
    assert "has no write access" in cli(*push, "you/set", code=2)
    assert "is not the name of a data set" in cli(*push, "set", code=2)
    assert "offline" in cli.alone(*push, "me/set", HF_HUB_OFFLINE="1")
    nobody = cli.alone(*push, "me/set", HF_ENDPOINT="http://127.0.0.1:9")
    assert "check the connection and HF_ENDPOINT" in nobody
    site.repos["me/set"] = Repo(private=True)
    site.repos["me/set"].add("by hand", {"data.csv": b"1"})
    assert "holds a file that no `sdsd push` uploaded (data.csv)" in cli(*push, "me/set", code=2)
    site.meddle = True
    assert "somebody else has written there meanwhile" in cli(*push, "me/raced", code=2)
    run.report.unlink()
    assert "`sdsd export` rewrites it" in cli(*push, "me/raced", code=2)


def test_without_its_extra_the_hub_says_which(run: RunDir) -> None:
    hide = "import sys; sys.modules['huggingface_hub'] = None; "
    ask = "from sdsd.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hide + ask, "push", run.path, "me/set"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert "pip install 'sdsd[hub]'" in " ".join(done.stderr.split())
    assert done.returncode == 2


@third_party
def test_what_was_pushed_is_read_by_datasets_and_as_a_source(
    run: RunDir, site: HubStandIn, cli: Sdsd, tmp_path: Path
) -> None:
    cli("push", run.path, "me/set")
    for name, data in site.repos["me/set"].files.items():
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    pairs = list(read(run.data, "preference"))
    assert list(load(tmp_path / "there", tmp_path, "preference")) == pairs
    given = list(
        existing.read(str(tmp_path / "there" / "data" / "dialogues"), kind="auto", split="")
    )
    assert len(given) == len(list(read(run.data, "dialogues")))


# --- what is public ------------------------------------------------------------------------------


def test_what_is_public_is_what_decides_what_is_made() -> None:
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
    out = publishable(config, 4)
    assert (out.n, out.seed, out.revise.rounds, out.roles.critic) == (9, 5, 1, "judge")
    assert [m.model for m in out.models.values()] == ["big.gguf", "org/judge"]
    assert out.models["default"].context == 8192
    assert out.scenarios.strategies == ("haste",)
    assert out.export.truncate
    assert "s3cret" not in configuration.dump(out)
    assert out.budget == Config().budget
    assert publishable(out, 4) == out


@pytest.mark.parametrize("source", [{"targets": {"pairs": 1}}, {"source": {"path": "hf:org/name"}}])
def test_a_run_without_a_number_gets_one(source: dict[str, Any]) -> None:
    out = publishable(configuration.load(source), 7)
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
