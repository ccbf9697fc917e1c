"""`sdsd doctor`: find out what this machine and a model support, before anything is spent."""

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
from sdsd.models.base import Capabilities, Model
from sdsd.models.downloads import Progress
from sdsd.models.openai_server import HttpModel
from sdsd.models.pool import Pool, check_answer
from sdsd.models.vllm import LaunchedModel
from sdsd.plugins import blamed
from sdsd.types import Answer, Completion, Message, Request

_TRIAL_TOKENS = 24
_MAX_PARALLEL = 32
"""Most requests at once in the second speed trial."""
_SHOWN = 5
_SHORT, _LONG = 80, 400
"""Repetitions in the prompts sent twice; some providers cache from 1,024 tokens on."""
_PATIENCE = 5.0
"""Seconds after which the long prompt is not tried."""
_ROOM = 3e9
"""Bytes of disk that the default model needs while it is downloaded."""


class Diagnosis(Struct, frozen=True):
    """One line of the examination. `ok` is None where there is nothing to judge."""

    name: str
    text: str
    ok: bool | None = None


def examine(
    path: Path | None = None,
    overrides: Mapping[str, Any] = {},
    progress: Progress | None = None,
) -> list[Diagnosis]:
    """Examine this machine; with a configuration or overrides also start or reach the models.

    Whatever goes wrong is a diagnosis that is not `ok`.
    """
    found = [*_machine()]
    if path is None and not overrides:
        return found
    try:
        config = configuration.load(path, overrides)
        found += asyncio.run(_models(config, fleet.fetch(config, progress)))
    except (SdsdError, TransientError) as error:
        found.append(Diagnosis("model", str(error), ok=False))
    return found


def _machine() -> Iterator[Diagnosis]:
    yield Diagnosis("python", f"{platform.python_version()} on {platform.platform()}", ok=True)
    cores, free = os.cpu_count() or 1, llamacpp.free_threads()
    yield Diagnosis("cores", f"{cores}, of which the embedded engine would use {free}", ok=True)
    cache = weights.cache_dir()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    room = shutil.disk_usage(existing).free
    yield Diagnosis("disk", f"{room / 1e9:,.0f} GB free for models in {cache}", ok=room > _ROOM)
    for status in weights.listed():
        yield Diagnosis(status.weights.name, f"{status.state}; {status.weights.size / 1e6:,.0f} MB")
    yield Diagnosis("sqlite", sqlite3.sqlite_version, ok=sqlite3.sqlite_version_info >= (3, 35))


async def _models(config: Config, files: Mapping[str, Path]) -> list[Diagnosis]:
    """Examine every model of a configuration, one after the other."""
    found: list[Diagnosis] = []
    note = lambda text: found.append(Diagnosis("engine", text))  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        async with fleet.start(config, files, note, Path(folder)) as started:
            for name, pool in started.pools.items():
                if len(started.pools) > 1:
                    roles = ", ".join(
                        role for role, model in started.roles.items() if model == name
                    )
                    found.append(Diagnosis("model", f"`{name}`, for {roles}"))
                if isinstance(pool, Pool):
                    found += await _examined(pool)
            found.append(Diagnosis("auto", f"chooses `{started.protocol(config)}`", ok=True))
    return found


async def _examined(pool: Pool) -> list[Diagnosis]:
    """Find out what one model's servers support, and how fast the first one is."""
    models = [server.model for server in pool.servers]
    models = [model.model if isinstance(model, LaunchedModel) else model for model in models]
    found, first, can = [], models[0], pool.capabilities
    for model in models:
        if isinstance(model, HttpModel):
            found.append(Diagnosis("reachable", model.base_url, ok=True))
            if names := await _names(model):
                found.append(Diagnosis("serves", ", ".join(names)))
    missing = [key for key, has in (("temperature", can.sampling), ("seed", can.seed)) if not has]
    fields = f"{can.length_key}" + (f", without {' and '.join(missing)}" if missing else "")
    found += [
        Diagnosis("chat", _yes(can.chat), ok=can.chat),
        Diagnosis("completions", _yes(can.completions)),
        Diagnosis("template", _yes(can.template is not None)),
        Diagnosis("system turn", _yes(can.system)),
        Diagnosis("JSON schema", _yes(can.schema)),
        Diagnosis("logprobs", _yes(can.logprobs)),
        Diagnosis("scores given text", _scoring(can)),
        Diagnosis("seed", await _seed(first)),
        Diagnosis("limits", f"{fields}; {can.slots or 'an unknown number of'} requests at once"),
    ]
    if isinstance(first, HttpModel):
        found.append(Diagnosis("metrics", _yes(await first.gauges() is not None)))
    found.append(Diagnosis("prefix cache", await _prefix_cache(first)))
    return found + await _speed(first, min(pool.capacity, _MAX_PARALLEL))


def _scoring(can: Capabilities) -> str:
    """Say whether likelihood contrasts can be measured, and how exactly."""
    if not can.scoring:
        return "no; critics can be asked, but the likelihood contrast cannot be measured"
    return f"by {can.scoring}; the same text twice differs by {can.noise:g} nats"


async def _names(model: HttpModel) -> list[str]:
    """Return the first few names of models that the server lists."""
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


async def _seed(model: Model) -> str:
    """Test the seed: the same text twice, and another text with another seed?"""
    if not model.capabilities.seed:
        return "not accepted"
    request = _request("Invent a name for a boat.", 12)
    one, again, other = [await _answer(model, request, seed) for seed in (1, 1, 2)]
    if one != again and getattr(one, "text", "") != getattr(again, "text", ""):
        return "accepted, but the same seed gives different texts"
    same = getattr(one, "text", "") == getattr(other, "text", "")
    return "accepted; other seeds gave the same text" if same else "gives the same text again"


async def _prefix_cache(model: Model) -> str:
    """Whether a prompt that is sent again is reported as cached."""
    began = time.perf_counter()
    for words in (_SHORT, _LONG):
        text = " ".join(f"{k} stones" for k in range(words)) + ". How many lines?"
        found = 0
        for _ in range(2):
            answer = await _answer(model, _request(text, 1))
            found = answer.cached_tokens if isinstance(answer, Completion) else 0
        if found:
            return f"reported ({found} tokens of a repeated prompt)"
        if time.perf_counter() - began > _PATIENCE:
            break
    return "not reported"


async def _speed(model: Model, parallel: int) -> list[Diagnosis]:
    """Tokens per second of one request, and of `parallel` at once."""
    found = []
    for many in sorted({1, parallel}):
        requests = [_request(f"Count upwards from {k}.", _TRIAL_TOKENS) for k in range(many)]
        begun = time.perf_counter()
        replies = await asyncio.gather(*(_answer(model, r) for r in requests))
        tokens = sum(r.completion_tokens for r in replies if isinstance(r, Completion))
        rate = tokens / (time.perf_counter() - begun)
        found.append(Diagnosis("speed", f"{rate:,.1f} tokens/s with {many} at once"))
    return found


async def _answer(model: Model, request: Request, seed: int = 0) -> Answer:
    with blamed(f"model `{model.name}`", "a test request", TransientError):
        answer = await model.complete(request, seed)
    check_answer(answer, model)
    return answer


def _request(text: str, tokens: int) -> Request:
    return Request("agent", tokens, (Message("user", text),))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
