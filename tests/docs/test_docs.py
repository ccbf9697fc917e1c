"""The documentation holds: what is written from the code is current, and what it shows works."""

from __future__ import annotations

import ast
import html
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer
import yaml

import sdsd
from sdsd import config, errors
from sdsd import types as words
from sdsd.cli.app import app
from sdsd.models import hand_written
from sdsd.pipeline.prompts import PACKAGED
from sdsd.scenarios.catalogue import load
from sdsd.text import prompt_files
from tests.stand_ins.model_server import spawned

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "bench" / "README.md"])
SOURCE = ROOT / "src" / "sdsd"
NOT_RUN = "<!-- not run:"


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    return path.read_text("utf-8")


def blocks(path: Path, *kinds: str) -> list[str]:
    """The fenced blocks of these kinds, in order, without those marked as not run."""
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    found = []
    page = text(path)
    for match in fence.finditer(page):
        before = page[: match.start()].rstrip().splitlines()
        marked = bool(before) and before[-1].strip().startswith(NOT_RUN)
        if match.group(2) in kinds and not marked:
            found.append(match.group(3))
    return found


# -- what is written from the code ---------------------------------------------------------


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_from_the_code_is_current(make_docs: ModuleType) -> None:
    made: dict[Path, str] = make_docs.made()
    assert len(made) == 13
    stale = [short(path) for path, content in made.items() if text(path) != content]
    assert not stale, "run: python scripts/make_docs.py"


def test_every_key_of_the_configuration_is_documented() -> None:
    page = text(DOCS / "configuration.md")
    for key, _ in config.flat(config.Config()):
        *section, last = key.split(".")
        name = ".".join(section).replace("models.default", "models.<name>")
        part = page.partition(f"\n## `{name}`\n" if name else "\n## Top level\n")[2]
        assert f"\n| `{last}` | " in part.partition("\n## ")[0], key


def test_every_command_and_option_is_documented() -> None:
    page = text(DOCS / "cli.md")
    for path, command in commands():
        part = page.partition(f"# `sdsd {path}`\n")[2].partition("\n#")[0]
        assert part, path
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert all(re.search(rf"[`, ]{o}[`, ]", part) for o in parameter.opts), path


def test_every_placeholder_is_documented() -> None:
    page = text(DOCS / "prompts.md")
    for path in sorted(PACKAGED.glob("*.md")):
        for section, content in prompt_files.read(path).sections.items():
            row = re.search(rf"^\| `{path.name}` \| `## {section}` \| (.*) \|$", page, re.MULTILINE)
            assert row, (path.name, section)
            assert set(re.findall(r"`(\w+)`", row.group(1))) == prompt_files.slots(content)


def test_the_levels_are_those_that_are_checked() -> None:
    tool = tomllib.loads(text(ROOT / "pyproject.toml"))["tool"]
    (contract,) = (c for c in tool["importlinter"]["contracts"] if c["type"] == "layers")
    page = text(DOCS / "architecture.md")
    shown = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    levels = [sorted(re.findall(r"`(\w+)`", names)) for _, names in shown]
    assert levels == [sorted(re.split(r" [|:] ", layer)) for layer in reversed(contract["layers"])]


def test_every_module_is_named() -> None:
    page = text(DOCS / "architecture.md")
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).with_suffix("").as_posix().removesuffix("/__init__")
        assert f"`{name}`" in page, name


def test_every_key_that_may_change_is_named(make_docs: ModuleType) -> None:
    page = text(DOCS / "configuration.md")
    listed = page.partition("## Identity and execution\n")[2].partition("\n## ")[0]
    for key, _ in config.flat(config.Config()):
        first = key.removeprefix("models.default.").partition(".")[0]
        assert (f"`{first}`" in listed) == bool(config.is_execution(key)), key


def test_every_outcome_rule_and_stop_is_explained() -> None:
    page = text(DOCS / "method.md")
    rules = re.findall(r'return "filtered", "(\w+)"', text(SOURCE / "pipeline" / "record.py"))
    assert len(rules) >= 4
    stops, outcomes = get_args(words.StopReason), get_args(words.Outcome)
    for name in {*rules, *stops, *outcomes}:
        assert re.search(rf"^\|.*`{name}` \|", page, re.MULTILINE), name


def test_the_size_of_the_catalogue_is_as_stated() -> None:
    packaged = load()
    subareas = sum(len(domain.subareas) for domain in packaged.domains)
    counts = (f"{subareas:,} subareas", f"{len(packaged.principles)} principles")
    for count in (*counts, f"{len(packaged.goals)} goals"):
        assert count in text(ROOT / "CHANGELOG.md")
    assert f"{len(packaged.domains)} domains, {subareas:,} subareas" in text(DOCS / "method.md")


# -- messages ------------------------------------------------------------------------------


def sayings() -> list[str]:
    """Every text in the source, with `…` where a value is inserted."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.JoinedStr):
                pieces = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_family_of_errors_is_explained() -> None:
    page = text(DOCS / "troubleshooting.md")
    families = [
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.SdsdError)
    ]
    assert len(families) > 8
    for name in families:
        assert f"`{name}`" in page, name


def test_messages_are_quoted_as_they_are() -> None:
    said = sayings()
    rows = re.findall(
        r"^\| (`.*?) \| .* \| .* \|$", text(DOCS / "troubleshooting.md"), re.MULTILINE
    )
    assert len(rows) > 40
    for row in rows:
        for quoted in re.findall(r"`([^`]+)`", row):
            for piece in filter(None, (p.strip(" `") for p in quoted.split("…"))):
                known = piece.startswith("HTTP 4") or any(piece in s for s in said)
                assert known, f"no message says {piece!r}"


# -- links ---------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that a heading gets on the usual forges."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")


def anchors(path: Path) -> set[str]:
    bare = re.sub(r"^```.*?^```$", "", text(path), flags=re.MULTILINE | re.DOTALL)
    return {slug(h) for h in re.findall(r"^#+ (.+)$", bare, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_link_resolves(page: Path) -> None:
    bare = re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", bare):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = html.unescape(target).partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_every_test_that_is_named_is_there() -> None:
    named = [
        n for page in PAGES for n in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text(page))
    ]
    assert named
    for file, name in named:
        assert (
            re.search(rf"^(async )?def {name}\(", text(ROOT / file), re.MULTILINE)
            if name
            else (ROOT / file).exists()
        ), (file, name)


def test_every_bench_is_explained() -> None:
    readme, page = text(ROOT / "bench" / "README.md"), text(DOCS / "benchmarks.md")
    for path in sorted((ROOT / "bench").glob("*.py")):
        assert f"`{path.name}`" in readme, path.name
        assert path.name.startswith("sim") or f"`bench/{path.name}`" in page, path.name


# -- commands ------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its path, as the command line has it."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {k}", c) for k, c in inner.items())


def shown_commands(path: Path) -> list[str]:
    """Every `sdsd ...` line of the page's shell blocks, those that are not run included."""
    fence = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines = "\n".join(fence.findall(text(path))).replace("\\\n", " ").splitlines()
    parts = (p.strip() for line in lines for p in re.split(r"&&|;|(?<!\S)#.*", line))
    return [part for part in parts if re.match(r"sdsd( |$)", part)]


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_command_shown_parses(page: Path) -> None:
    known = dict(commands())
    for line in shown_commands(page):
        given = shlex.split(line)[1:]
        depth = 2 if given[0] in ("models", "catalogue") else 1
        name = " ".join(given[:depth])
        assert name in known, line
        known[name].make_context(name, given[depth:])  # raises for what it does not know


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_command_in_a_sentence_exists(page: Path) -> None:
    known = dict(commands())
    groups = {name.split()[0] for name in known if " " in name}
    bare = re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`sdsd ([a-z][^`]*)`", bare):
        given = line.split()
        if given[0] in groups and len(given) == 1:
            continue
        name = " ".join(given[: 2 if given[0] in groups else 1])
        assert name in known, line
        options = {o for p in known[name].params for o in p.opts}
        assert {g.partition("=")[0] for g in given if g.startswith("-")} <= options | {"--help"}


# -- examples ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_python_block_compiles(page: Path) -> None:
    for number, block in enumerate(blocks(page, "python"), 1):
        compile(block, f"{page.name}, block {number}", "exec")


@pytest.mark.parametrize("page", ["tutorial.md", "prompts.md", "servers.md"])
def test_every_configuration_shown_is_one(page: str) -> None:
    found = blocks(DOCS / page, "yaml")
    assert found
    for block in found:
        config.load(yaml.safe_load(block))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that looks like a clone, as far as the commands need it."""
    for name in ("examples", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDSD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("path", ["minimal.yaml", "own_catalogue/config.yaml"])
def test_the_configurations_among_the_examples_run(workplace: Path, path: str) -> None:
    chosen = config.load(Path("examples") / path)
    models = {"default": sdsd.ScriptedModel()}
    result = sdsd.run(chosen, out=workplace / "run", models=models)
    assert len(result) == chosen.n
    if "own" in path:
        assert {r.scenario.field for r in result.records()} == {"tools", "kitchen"}


def test_the_scripts_among_the_examples_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("scripted.py", "load_pairs.py"):
        monkeypatch.setattr(sys, "argv", [name, "runs/scripted"])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    said = capsys.readouterr().out
    assert "12 dialogues" in said
    pairs = re.search(r"(\d+) verified pairs", said)
    assert pairs is not None
    assert f"\n{pairs.group(1)} pairs\n" in said
    assert said.count("  rejected:") == 2 * int(pairs.group(1)) > 0


def python(code: str, cwd: Path) -> None:
    """Run code as a reader would, in a process of its own."""
    environment = {
        **os.environ, "HF_HOME": str(cwd / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.e2e
def test_the_python_page_works_from_top_to_bottom(workplace: Path) -> None:
    python("\n".join(blocks(DOCS / "python.md", "python")), workplace)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    """A server without a model, in a process of its own; yields its address."""
    with spawned() as url:
        yield url


def follow(line: str, url: str, cwd: Path) -> None:
    """Do what a line of the tutorial says; whatever needs a model asks the stand-in."""
    given = shlex.split(line)
    if given[0] == "cp":
        shutil.copy(given[1], given[2])
    elif given[0] == "python":
        python(f"import runpy, sys; sys.argv = {given[1:]}; runpy.run_path(sys.argv[0], "
               "run_name='__main__')", cwd)  # fmt: skip
    else:
        assert given[0] == "sdsd", line
        if "--url" in given:
            given[given.index("--url") + 1] = url
        elif given[1] == "run" or given[1:3] == ["catalogue", "expand"] or "--model" in given:
            given += ["--url", url]
            given += [] if {"--model", "-m"} & set(given) else ["--model", "stand-in"]
        if given[1] == "run":  # the stand-in would fail its exam, and so verify no pair
            given += ["--set", "critique.exam=0"]
        done = subprocess.run(
            [Path(sys.executable).with_name("sdsd"), *given[1:]], cwd=cwd, capture_output=True,
            text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_the_tutorial_works_from_top_to_bottom(workplace: Path, stand_in: str) -> None:
    for block in blocks(DOCS / "tutorial.md", "sh"):
        for line in filter(None, map(str.strip, block.splitlines())):
            follow(line, stand_in, workplace)
    done = {path.name for path in (workplace / "runs").iterdir()}
    assert {"first", "server", "roleplay", "shop", "my-prompt", "scripted"} <= done
    pytest.importorskip("datasets")
    code = [b for b in blocks(DOCS / "tutorial.md", "python") if "trl" not in b]
    assert code
    python("\n".join(code), workplace)


def test_the_pair_in_the_readme_is_one_of_the_demonstration() -> None:
    quoted = re.findall(r"^> ?(.*)$", text(ROOT / "README.md"), re.MULTILINE)
    shown = re.split(r"\*\*(?:User|Rejected|Chosen):\*\*", " ".join(quoted))[1:]
    written = [
        reply for replies in hand_written.read().values() for reply in replies.replies.values()
    ]
    assert len(shown) == 3
    for part in shown:
        words = part.replace("**", "").replace("[...]", "").strip()
        assert any(reply.startswith(words) for reply in written), words
