"""Help: short and long, in groups, uncut at 80 columns; completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sdsd.cli.app import app, main

SDSD = Path(sys.executable).with_name("sdsd")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every command as the words that call it, groups too."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = list(commands(typer.main.get_command(app)))
GROUPS = [(), ("catalogue",), ("models",)]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_help_fits_80_columns_and_nothing_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short = printed(capsys, *words, "-h")
    assert short == printed(capsys, *words, "--help")
    assert max(map(len, short.splitlines())) <= 80
    assert "..." not in short.replace("[ARGS]...", "")


@pytest.mark.parametrize("words", [w for w in ALL if w not in (*GROUPS, ("init",))], ids=" ".join)
def test_every_command_prints_json_if_asked(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert "--json" in printed(capsys, *words, "-h")


def test_options_are_listed_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "run", "-h").splitlines()
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["Arguments:", "Options:", "Model:", "Output:"]
    root = printed(capsys, "-h")
    order = [
        root.index(f"\n{head}:\n")
        for head in (
            "Make dialogues",
            "Look at a run",
            "Publish",
            "Prepare",
            "Options",
            "Exit codes",
        )
    ]
    assert order == sorted(order)  # fmt: skip


def test_the_version_has_a_short_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "-V") == printed(capsys, "--version")


@pytest.mark.parametrize(("typed", "offered"), [("ver", "verify"), ("catalogue exp", "expand")])
def test_the_shell_completes_commands(typed: str, offered: str) -> None:
    """As the script does that `--install-completion` installs for bash."""
    words = f"sdsd {typed}"
    asked = {"_SDSD_COMPLETE": "complete_bash", "COMP_WORDS": words}
    done = subprocess.run(
        [SDSD],
        env={**os.environ, **asked, "COMP_CWORD": str(len(words.split()) - 1)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [offered]
