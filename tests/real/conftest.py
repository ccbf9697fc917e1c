"""The real servers, and a real model that is small: SmolLM2 with 135 million parameters.

`scripts/real-servers` installs the servers, and `scripts/test --all` calls it.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdsd.models import weights
from tests.helpers.real_servers import PROGRAMS, Served, free_port, running, vllm


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the real servers."""
    if not (PROGRAMS / "vllm").exists():
        pytest.skip("no real servers here; `bash scripts/real-servers` installs them")
    return PROGRAMS


@pytest.fixture
def on_path(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vllm` is on the path, as `launch: vllm` wants it."""
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.fixture(scope="session")
def small() -> Path:
    """The small model in transformers' format, as the examples for training unpack it."""
    for name in ("torch", "trl"):
        pytest.importorskip(name, reason=f"{name} is not installed; docs/training.md says how")
    training = importlib.import_module("training")
    folder = training.unpacked(weights.locate(training.SMALL))
    assert isinstance(folder, Path)
    return folder


@pytest.fixture(scope="session")
def server(
    programs: Path, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A vLLM server of the small model, which also renders chat templates that it is sent."""
    log = tmp_path_factory.mktemp("vllm") / "log"
    with vllm(small, log, "--trust-request-chat-template") as served:
        yield served


@pytest.fixture(scope="session")
def transformers_server(
    programs: Path, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """`transformers serve`, which has the same API and little of vLLM's."""
    port = free_port()
    line = [str(programs / "transformers"), "serve", str(small)]
    line += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with running(line, port, tmp_path_factory.mktemp("transformers") / "log") as served:
        yield served


@pytest.fixture(scope="session")
def nginx() -> str:
    """The program."""
    found = shutil.which("nginx", path=f"{PROGRAMS}:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("no nginx here; `bash scripts/real-servers` unpacks Debian's")
    return found


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plans to start from: the small model cannot plan."""
    path = tmp_path_factory.mktemp("plans") / "plans.jsonl"
    steps = ("asks how to season a pan", "asks which oil to take")
    rows: list[dict[str, Any]] = [
        {
            "persona": f"{name}, who cooks at home",
            "steps": steps,
            "planned_violation": "the agent is sure of what it cannot know",
            "principle": "The assistant should say what it is unsure of.",
            "domain": "Cookware",
            "subarea": f"seasoning a pan, as {name} would",
        }
        for name in ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gail", "Hal")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
