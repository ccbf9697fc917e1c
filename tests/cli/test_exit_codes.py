"""What scripts can tell from the exit code of a command, in a process of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdsd.cli.help import EXIT_CODES
from tests.stand_ins.model_server import read_log, spawned

pytestmark = pytest.mark.e2e

SDSD = Path(sys.executable).with_name("sdsd")
NOWHERE = "http://127.0.0.1:9/v1"


def ended(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and what it said."""
    words = [str(each) for each in arguments]
    done = subprocess.run([SDSD, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_code_is_in_the_help() -> None:
    code, said = ended("-h")
    assert code == 0
    for number, meaning in EXIT_CODES.items():
        assert f"\n  {number:<3}  {meaning}\n" in said


def test_1_is_a_problem_that_was_found(copied: Path) -> None:
    shutil.rmtree(copied / "data")
    assert ended("verify", copied)[0] == 1
    code, said = ended("doctor", "-m", "m", "--url", NOWHERE)
    assert (code, "cannot connect" in said) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--no-such-option"], "No such option"),
        (["run", "--set", "no.such.key=1"], "unknown key"),
        (["run", "--url", NOWHERE], "also give `--model`"),
        (["exam", "--url", NOWHERE], "also give `--model`"),
    ],
)
def test_2_is_for_the_user_to_act(arguments: list[str], said: str) -> None:
    code, printed = ended(*arguments)
    assert (code, said in printed) == (2, True)


def test_3_is_a_stop_that_the_same_command_continues(tmp_path: Path) -> None:
    with spawned(tmp_path / "log") as url:
        server = [
            "-m",
            "m",
            "--url",
            url,
            "--set",
            "critique.exam=0",
            "--set",
            "budget.tokens=3000",
        ]
        code, said = ended("run", "-n", 20, "-o", tmp_path / "run", *server)
        assert (code, "the budget of 3,000 tokens is used up" in said) == (3, True)
        # So do other commands that ask a model.
        code, said = ended("exam", "-n", 48, "-o", tmp_path / "exam", *server)
        assert (code, "the budget of 3,000 tokens is used up" in said) == (3, True)


def test_4_is_a_server_that_failed(tmp_path: Path) -> None:
    code, said = ended("run", "-m", "m", "--url", NOWHERE, "-o", tmp_path / "run")
    assert (code, "is the server running" in said) == (4, True)


def test_130_is_an_interruption(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with spawned(log, 0.05) as url:
        out = str(tmp_path / "run")
        command = [str(SDSD), "run", "-m", "m", "--url", url, "-n", "200", "-o", out]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and len(read_log(log)) < 100:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            process.communicate()
    assert process.returncode == 130
