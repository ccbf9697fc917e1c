"""`sdsd doctor`: what this machine and a model can do, before anything is spent."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.errors import SdsdError, TransientError
from sdsd.models import fleet, llamacpp, weights
from sdsd.models.openai_server import HttpModel
from sdsd.models.pool import Pool
from sdsd.types import Completion, Message, Request

_TRIAL_TOKENS = 24
_MANY = 32
"""Requests at once in the second trial of speed, at most."""
_SHOWN = 5
_SHORT, _LONG = 80, 400
"""Repetitions in the prompts that are asked twice; some providers cache from 1,024 tokens on."""
_PATIENCE = 5.0
"""Seconds after which the long one is not tried."""


class Finding(Struct, frozen=True):
    """One line of the examination. `ok` is None where there is nothing to judge."""

    name: str
    text: str
    ok: bool | None = None


def examine(
    path: Path | None = None,
    model: str = "",
    url: str = "",
    progress: weights.Progress | None = None,
) -> list[Finding]:
    """Look at the machine; with a configuration, a model or a URL, start or reach it and try it."""
    findings = [*_machine()]
    if path is None and not model and not url:
        return findings
    overrides: dict[str, Any] = {"model": model} if model else {}
    if url:
        overrides["models.default.base_url"] = url
    try:
        config = configuration.load(path, overrides)
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
        yield Finding(status.weights.name, f"{status.state}; {status.weights.size / 1e6:,.0f} MB")
    yield Finding("sqlite", sqlite3.sqlite_version, ok=sqlite3.sqlite_version_info >= (3, 35))


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


async def _try(config: Config, files: Mapping[str, Path]) -> list[Finding]:
    """Every model of a configuration, one after the other."""
    findings: list[Finding] = []
    note = lambda text: findings.append(Finding("engine", text))  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        async with fleet.start(config, files, note, Path(folder)) as started:
            for name, pool in started.pools.items():
                if len(started.pools) > 1:
                    roles = ", ".join(r for r, player in started.roles.items() if player == name)
                    findings.append(Finding("model", f"`{name}`, for {roles}"))
                if isinstance(pool, Pool):
                    findings += await _examined(pool)
            findings.append(Finding("auto", f"chooses `{started.protocol(config)}`", ok=True))
    return findings


async def _examined(pool: Pool) -> list[Finding]:
    """What one model's servers can do, and how fast the first one is."""
    findings = []
    for server in pool.servers:
        assert isinstance(server.model, HttpModel)
        known = await _models(server.model)
        findings.append(Finding("reachable", server.model.base_url, ok=True))
        if known:
            findings.append(Finding("serves", ", ".join(known)))
    model = pool.servers[0].model
    assert isinstance(model, HttpModel)
    can = model.capabilities
    others = [name for name, has in (("temperature", can.sampling), ("seed", can.seed)) if not has]
    wording = f"{can.length_key}" + (f", without {' and '.join(others)}" if others else "")
    return [
        *findings,
        Finding("chat", _yes(can.chat), ok=can.chat),
        Finding("completions", _yes(can.completions)),
        Finding("template", _yes(can.template is not None)),
        Finding("system turn", _yes(can.system)),
        Finding("JSON schema", _yes(can.schema)),
        Finding("logprobs", _yes(can.logprobs)),
        Finding("n", _yes(await _several(model))),
        Finding("seed", await _seeded(model)),
        Finding("limits", f"{wording}; {can.slots or 'an unknown number of'} requests at once"),
        Finding("metrics", _yes(await model.gauges() is not None)),
        Finding("prefix cache", await _cached(model)),
        *await _speed(model, min(pool.capacity, _MANY)),
    ]


async def _models(model: HttpModel) -> list[str]:
    """Names that the server lists, the first few."""
    try:
        reply = await model.client.request("GET", "/models")
        found = msgspec.json.decode(reply.body, type=_Listing).data
    except (TransientError, msgspec.DecodeError, UnicodeDecodeError):
        return []
    names = [entry.id for entry in found]
    return names if len(names) <= _SHOWN else [*names[:_SHOWN], f"and {len(names) - _SHOWN} more"]


class _Listed(Struct):
    id: str


class _Listing(Struct):
    data: list[_Listed] = []


class _Choices(Struct):
    choices: list[Any] = []


async def _several(model: HttpModel) -> bool:
    """Whether one request can bring several replies."""
    path, body = model.encode(_request("Say yes.", 1), 0)
    two = msgspec.json.encode({**msgspec.json.decode(body), "n": 2})
    try:
        reply = await model.client.request("POST", path, two)
        return len(msgspec.json.decode(reply.body, type=_Choices).choices) == 2
    except (TransientError, msgspec.DecodeError, UnicodeDecodeError):
        return False


async def _seeded(model: HttpModel) -> str:
    """What a seed does: the same text twice, and another with another seed?"""
    if not model.capabilities.seed:
        return "not taken"
    request = _request("Invent a name for a boat.", 12)
    one, again, other = [await model.complete(request, seed) for seed in (1, 1, 2)]
    if one != again and getattr(one, "text", "") != getattr(again, "text", ""):
        return "taken, but the same seed gives other text"
    same = getattr(one, "text", "") == getattr(other, "text", "")
    return "taken; other seeds gave the same text" if same else "gives the same text again"


async def _cached(model: HttpModel) -> str:
    """Whether usage reports what a prefix cache saved."""
    began = time.perf_counter()
    for words in (_SHORT, _LONG):
        text = " ".join(f"{k} stones" for k in range(words)) + ". How many lines?"
        found = 0
        for _ in range(2):
            answer = await model.complete(_request(text, 1), 0)
            found = answer.cached_tokens if isinstance(answer, Completion) else 0
        if found:
            return f"reported ({found} tokens of a prompt asked again)"
        if time.perf_counter() - began > _PATIENCE:
            break
    return "not seen in its usage"


async def _speed(model: HttpModel, parallel: int) -> list[Finding]:
    """Tokens per second of one request, and of as many as the server takes at once."""
    findings = []
    for many in sorted({1, parallel}):
        requests = [_request(f"Count upwards from {k}.", _TRIAL_TOKENS) for k in range(many)]
        begun = time.perf_counter()
        replies = await asyncio.gather(*(model.complete(r, 0) for r in requests))
        tokens = sum(r.completion_tokens for r in replies if isinstance(r, Completion))
        rate = tokens / (time.perf_counter() - begun)
        findings.append(Finding("speed", f"{rate:,.1f} tokens/s with {many} at once"))
    return findings


def _request(text: str, tokens: int) -> Request:
    return Request("agent", tokens, (Message("user", text),))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
