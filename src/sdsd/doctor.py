"""`sdsd doctor`: what this machine and a model can do, before anything is spent."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from sdsd import config as configuration
from sdsd import fleet, weights
from sdsd.errors import SdsdError
from sdsd.models import llamacpp
from sdsd.models.http import HttpModel
from sdsd.types import Completion, Message, Request

_TRIAL_TOKENS = 24


class Finding(Struct, frozen=True):
    """One line of the examination. `ok` is None where there is nothing to judge."""

    name: str
    text: str
    ok: bool | None = None


def examine(
    model: str = "", url: str = "", progress: weights.Progress | None = None
) -> list[Finding]:
    """Look at the machine; with a model or a URL, start or reach it and try it."""
    findings = [*_machine()]
    if not model and not url:
        return findings
    overrides: dict[str, Any] = {"model": model} if model else {}
    if url:
        overrides["models.default.base_url"] = url
    try:
        config = configuration.load(None, overrides)
        findings += asyncio.run(_try(config, fleet.fetch(config, progress)))
    except SdsdError as error:
        findings.append(Finding("model", str(error), ok=False))
    return findings


def _machine() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}", ok=True)
    cores, free = os.cpu_count() or 1, llamacpp.free_threads()
    yield Finding("cores", f"{cores}; the embedded engine would compute with {free}", ok=True)
    cache = weights.cache_dir()
    room = shutil.disk_usage(_existing(cache)).free
    least = 3e9
    yield Finding("disk", f"{room / 1e9:,.0f} GB free for models in {cache}", ok=room > least)
    for status in weights.listed():
        yield Finding(status.row.name, f"{status.state}; {status.row.size / 1e6:,.0f} MB")
    yield Finding("sqlite", sqlite3.sqlite_version, ok=sqlite3.sqlite_version_info >= (3, 35))


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


async def _try(config: configuration.Config, files: Mapping[str, Path]) -> list[Finding]:
    findings: list[Finding] = []
    note = lambda text: findings.append(Finding("engine", text))  # noqa: E731
    async with fleet.start(config, files, note) as started:
        pool = started.models["agent"]
        model = pool.servers[0].model
        assert isinstance(model, HttpModel)
        can = model.capabilities
        findings.append(Finding("reachable", model.base_url, ok=True))
        findings += [
            Finding("chat", _yes(can.chat), ok=can.chat),
            Finding("completions", _yes(can.completions)),
            Finding("template", _yes(can.template is not None) + ", read from the server"),
            Finding("system turn", _yes(can.system)),
            Finding("JSON schema", _yes(can.schema)),
        ]
        findings += await _speed(model, pool.capacity)
        findings.append(Finding("auto", f"chooses `{started.protocol(config)}`", ok=True))
    return findings


async def _speed(model: HttpModel, parallel: int) -> list[Finding]:
    """Tokens per second of one request, and of as many as the server takes at once."""
    findings = []
    for many in sorted({1, parallel}):
        requests = [
            Request("agent", _TRIAL_TOKENS, (Message("user", f"Count upwards from {k}."),))
            for k in range(many)
        ]
        begun = time.perf_counter()
        replies = await asyncio.gather(*(model.complete(r, 0) for r in requests))
        tokens = sum(r.completion_tokens for r in replies if isinstance(r, Completion))
        rate = tokens / (time.perf_counter() - begun)
        findings.append(Finding("speed", f"{rate:,.1f} tokens/s with {many} at once"))
    cached = max((r.cached_tokens for r in replies if isinstance(r, Completion)), default=0)
    findings.append(Finding("prefix cache", "reported" if cached else "not seen in its usage"))
    return findings


def _yes(value: bool) -> str:
    return "yes" if value else "no"
