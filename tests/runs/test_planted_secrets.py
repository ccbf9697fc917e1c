"""A server that repeats every secret of a run, and where none of them may be found afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sdsd
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Event
from sdsd.runs.telemetry import CONTENT
from tests.stand_ins import hub, repeating_server
from tests.stand_ins.collector import collector
from tests.stand_ins.model_server import serving

PLANTED = {
    "PLANTED_KEY": "sk-plntd/0123456789+abcdef==",
    "PLANTED_HEADER": "plntd-header-7w7c1z",
    "PLANTED_FIELD": 'plntd "field" 5w5a9z',
    "PLANTED_QUERY": "plntd&query=3w1f0z",
    "PLANTED_PASSWORD": "plntd:p@ss/word#8w2d1z",
    "HF_TOKEN": "hf_plntdAbCdEfGhIjKlMnOpQrStUvWx6w1d3z",
}
HOST = "127.0.0.1:"


def traces() -> list[str]:
    """What would betray a secret, however it is quoted; no digest has it by chance."""
    basic = base64.b64encode(f"alice:{PLANTED['PLANTED_PASSWORD']}".encode()).decode()
    found = [*PLANTED.values(), *map(quote, PLANTED.values()), basic]
    marked = ["7w7c1z", "5w5a9z", "3w1f0z", "8w2d1z", "6w1d3z"]
    return [*found, "plntd", "0123456789", *marked]


def content(name: str, data: bytes) -> bytes:
    """All that a file says; Parquet is unpacked."""
    if name.endswith(".parquet"):
        table = pq.read_table(pa.BufferReader(data))
        return json.dumps([table.to_pylist(), str(table.schema.metadata)], default=str).encode()
    return data


def pushed(run: Path, cache: Path) -> dict[str, bytes]:
    """What a push puts on a hub, and what it says, first to one that repeats what it was sent.

    In a process of its own: the hub's client reads its environment once.
    """
    pytest.importorskip("huggingface_hub")
    with hub.serving(hub.HubStandIn({PLANTED["HF_TOKEN"]: "me"})) as site:
        env = {k: v for k, v in os.environ.items() if k[:3] != "HF_" or k == "HF_TOKEN"}
        env |= {"HF_ENDPOINT": site.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
        push = [sys.executable, "-m", "sdsd", "push", str(run), "me/set"]
        said = b""
        for site.repeats in (True, False):
            done = subprocess.run(push, check=False, env=env, capture_output=True)
            said += done.stdout + done.stderr
        assert b"Bearer ***" in b" ".join(said.split())
        repo = site.repos["me/set"]
    assert "data/preference/train-00000-of-00001.parquet" in repo.files
    found = {f"hub {name}": content(name, data) for name, data in repo.files.items()}
    return found | {"hub messages": repr(repo.messages).encode(), "push": said}


@pytest.mark.e2e
@pytest.mark.parametrize("user", ["", "alice:${PLANTED_PASSWORD}@"])
async def test_no_secret_is_found_anywhere(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv(CONTENT, "true")
    events: list[Event] = []
    with collector() as (collecting, posts):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collecting)
        async with serving(repeating_server.app(PLANTED["HF_TOKEN"])) as url:
            keys: dict[str, Any] = {
                "model": "m",
                "n": 12,
                "critique": {"exam": 0},
                "models": {"default": {
                    "base_url": url.replace("//", f"//{user}") + "?code=${PLANTED_QUERY}",
                    "api_key_env": "PLANTED_KEY",
                    "headers": {"X-Own": "${PLANTED_HEADER}"},
                    "extra_body": {"own": {"deep": ["${PLANTED_FIELD}"]}},
                    "retries": 0,
                }},
            }  # fmt: skip
            run = await sdsd.arun(keys, out=tmp_path / "run", on_event=events.append)
            await sdsd.arun(tmp_path / "run", n=14, on_event=events.append)
    texts = await asyncio.to_thread(pushed, run.path, tmp_path / "cache")
    files = [path for path in run.path.rglob("*") if path.is_file()]
    texts |= {str(path): content(path.name, path.read_bytes()) for path in files}
    texts |= {f"post {n}": post[2] for n, post in enumerate(posts)}
    texts["events"] = repr(events).encode()
    texts["terminal"] = "".join(capfd.readouterr()).encode()
    found = {
        (name, trace)
        for name, text in texts.items()
        for trace in traces()
        if trace.encode() in text
    }
    assert not found
    assert b"***" in texts[str(RunDir(run.path).journal)]
    data = [name for name in texts if "/data/" in name or name.endswith(".html")]
    assert data
    assert not [name for name in data if HOST.encode() in texts[name]]


async def test_files_that_may_hold_secrets_are_private(tmp_path: Path) -> None:
    run = await sdsd.arun({"n": 1}, out=tmp_path / "run", models={"default": ScriptedModel()})
    rundir = RunDir(run.path)
    private = [rundir.config_file, rundir.manifest_file, rundir.journal, *rundir.inputs.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert stat.S_IMODE(rundir.inputs.stat().st_mode) == 0o700
