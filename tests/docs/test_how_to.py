"""The commands of the how-to pages work, in order, against a server without a model.

A block that cannot be run here says why in a comment above it: `<!-- not run: ... -->`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import docs_site
import pytest
import yaml
from typer.testing import CliRunner

from sdsd.cli.app import app
from tests.stand_ins.model_server import spawned

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ASKING = {"doctor", "exam", "experiment", "run"}
FEW = "2"
"""Dialogues, or items of an exam, that a command asks for here, instead of the page's number."""


def lines(page: str) -> list[str]:
    """The commands of the page's shell blocks, without those marked as not run."""
    blocks = re.findall(
        r"(<!-- not run: .+ -->)?\n```sh\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.M | re.S
    )
    shell = "".join(block for marked, block in blocks if not marked).replace("\\\n", " ")
    return [command for line in shell.splitlines() if (command := re.sub(r"\s#.*", "", line))]


PAGES = [
    page.file
    for name, pages in docs_site.groups((DOCS / "README.md").read_text("utf-8")).items()
    for page in pages
    if name in {"Start", "How-to"} and page.file != "tutorial.md" and lines(page.file)
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server without a model, in a process of its own."""
    with spawned() as url:
        yield url


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, server: str) -> Path:
    """What the pages take for granted: a configuration, a run, and a reader's own files."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "examples").symlink_to(ROOT / "examples")
    model = {"model": "stand-in", "base_url": server}
    # The stand-in would fail an exam, and so verify no pair.
    mine = {"n": 2, "models": {"default": model}, "critique": {"exam": 0}}
    (folder / "my.yaml").write_text(yaml.safe_dump(mine), "utf-8")
    chat = [{"role": "user", "content": "Is tea a fruit?"}, {"role": "assistant", "content": "No."}]
    (folder / "chats.jsonl").write_text(json.dumps({"messages": chat}) + "\n", "utf-8")
    item = {"principle": "Be brief.", "user": "Tea?", "satisfies": "No.", "violates": "No, no, no."}
    (folder / "pairs.jsonl").write_text(f"{json.dumps(item)}\n" * 10, "utf-8")
    run = ["run", str(folder / "my.yaml"), "--out", str(folder / "runs" / "first")]
    assert CliRunner().invoke(app, run).exit_code == 0
    return folder


@pytest.fixture
def workplace(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory that has all this, for one page."""
    shutil.copytree(given, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def follow(line: str, server: str) -> None:
    """Do what a line says; whatever needs a model asks the stand-in."""
    program, *given = shlex.split(line)
    assert program == "sdsd", f"{line}: mark its block as not run"
    given = [{"RUN": "runs/first", "MODEL": "stand-in"}.get(word, word) for word in given]
    given = [server if word == "http://localhost:8000/v1" else word for word in given]
    if "-n" in given or given[0] == "exam":
        given += ["-n", FEW]  # the last one counts
    if given[0] in ASKING and not any("my.yaml" in word or "runs/" in word for word in given):
        given += [] if "--url" in given else ["--url", server, "--model", "stand-in"]
        given += ["--set", "critique.exam=0"] if given[0] in {"run", "experiment"} else []
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.mark.e2e
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_in_order(page: str, server: str) -> None:
    for line in lines(page):
        follow(line, server)


def test_pages_have_commands_that_are_run() -> None:
    assert len(PAGES) >= 8
