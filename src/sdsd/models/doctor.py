"""`sdsd doctor`: find out what this machine and a model support, before anything is spent."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.errors import ModelError, SdsdError, TransientError
from sdsd.models import fleet, llamacpp, probing, weights
from sdsd.models.base import Capabilities, Model
from sdsd.models.downloads import Progress
from sdsd.models.model_list import served, some
from sdsd.models.openai_server import HttpModel
from sdsd.models.pool import Pool, check_answer
from sdsd.models.thinking import thinks
from sdsd.models.vllm import LaunchedModel
from sdsd.plugins import blamed
from sdsd.text.normalize import is_blank
from sdsd.types import Answer, Completion, Message, Refusal, Request

_TRIAL_TOKENS = 24
_MAX_PARALLEL = 32
"""Most requests at once in the second speed trial."""
_REPLY_TOKENS = 48
_OUTAGE = 20.0
"""Seconds for which a server that does not answer is waited for."""
_WAITS, _LONGEST_WAIT = (0.5, 1.0, 2.0), 10.0
"""Seconds before a request is repeated."""
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

    Whatever goes wrong is a diagnosis that is not `ok`, and does not lose the others.
    """
    found = [*_machine()]
    if path is None and not overrides:
        return found
    try:
        config = _impatient(configuration.load(path, overrides))
        asyncio.run(_models(config, fleet.fetch(config, progress), found))
    except Exception as error:  # a doctor must not die of what it is to find
        found.append(Diagnosis("model", _reason(error), ok=False))
    return found


def _impatient(config: Config) -> Config:
    """Return the configuration with models that are not waited for as long as in a run."""
    models = {
        name: replace(model, outage=min(model.outage, _OUTAGE))
        for name, model in config.models.items()
    }
    return replace(config, models=models)


def _reason(error: BaseException) -> str:
    """Return what the first cause of an error says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TransientError):
        return error.with_server
    return str(error) if isinstance(error, SdsdError) else f"{type(error).__name__}: {error}"


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


async def _models(config: Config, files: Mapping[str, Path], found: list[Diagnosis]) -> None:
    """Examine every model of a configuration, one after the other."""
    names = sorted(set(config.role_models.values()))
    try:
        await _started(config, files, found)
    except Exception:
        if len(names) == 1:
            raise
        for name in names:  # of which one is to blame, and the others can be examined
            try:
                await _started(_only(config, name), files, found, f"`{name}`")
            except Exception as error:
                found.append(Diagnosis("model", f"`{name}`: {_reason(error)}", ok=False))


def _only(config: Config, name: str) -> Config:
    """Return the configuration with one model in all roles."""
    roles = replace(config.roles, **dict.fromkeys(config.roles.__struct_fields__, name))
    return replace(config, roles=roles, critique=replace(config.critique, critics={}))


async def _started(
    config: Config, files: Mapping[str, Path], found: list[Diagnosis], alone: str = ""
) -> None:
    """Start the models and examine them; `alone` names one that is examined without the others."""
    note = lambda text: found.append(Diagnosis("engine", text))  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        async with fleet.start(config, files, note, Path(folder)) as started:
            for name, pool in started.pools.items():
                if len(started.pools) > 1:
                    roles = [role for role, model in started.roles.items() if model == name]
                    found.append(Diagnosis("model", f"`{name}`, for {', '.join(roles)}"))
                if alone:
                    found.append(Diagnosis("model", alone))
                if isinstance(pool, Pool):
                    await _examine(pool, found)
            if not alone:
                found.append(Diagnosis("auto", f"chooses `{started.protocol(config)}`", ok=True))


async def _examine(pool: Pool, found: list[Diagnosis]) -> None:
    """Find out what one model's servers support, and how fast the first that answers is."""
    models = [server.model for server in pool.servers]
    models = [model.model if isinstance(model, LaunchedModel) else model for model in models]
    there = {model: await _reachable(model) for model in models if isinstance(model, HttpModel)}
    models = [model for model in models if model not in there or there[model].ok] or models
    first, can = models[0], pool.capabilities
    slots = can.slots or "an unknown number of"
    for model, answers in there.items():
        found.append(answers)
        if answers.ok and (names := await served(model)):
            found.append(Diagnosis("serves", some(names)))
    found += [
        await _tried("chat", _chat(first)) if can.chat else Diagnosis("chat", "no", ok=False),
        Diagnosis("completions", _yes(can.completions)),
        Diagnosis("template", _yes(can.template is not None)),
        Diagnosis("system turn", _yes(can.system)),
        Diagnosis("thinks first", _thinking(can)),
        Diagnosis("JSON schema", _yes(can.schema)),
        Diagnosis("logprobs", _yes(can.logprobs)),
        Diagnosis("scores given text", _scoring(can)),
        *([Diagnosis("refuses", _refused(can))] if probing.left_out(can) else []),
        await _tried("sampling", _sampling(first)),
        Diagnosis("limits", f"{can.length_key}; {slots} requests at once"),
    ]
    if isinstance(first, HttpModel):
        found.append(await _tried("n", _several(first)))
        found.append(Diagnosis("metrics", _yes(can.metrics)))
    found.append(await _tried("prefix cache", _prefix_cache(first)))
    for many in sorted({1, min(pool.capacity, _MAX_PARALLEL)}):
        found.append(await _tried("speed", _speed(first, many)))


async def _reachable(model: HttpModel) -> Diagnosis:
    """Whether a server answers, whatever it says."""
    try:
        await model.client.request("GET", "/models")
    except (ModelError, TransientError) as error:
        return Diagnosis("reachable", _reason(error), ok=False)
    return Diagnosis("reachable", model.base_url, ok=True)


async def _tried(name: str, check: Awaitable[Diagnosis | str]) -> Diagnosis:
    """Return the finding of a check, or what it failed of."""
    try:
        finding = await check
    except (SdsdError, TransientError) as error:
        return Diagnosis(name, _reason(error), ok=False)
    return Diagnosis(name, finding) if isinstance(finding, str) else finding


async def _chat(model: Model) -> Diagnosis:
    """Look at the text of a reply, not only at its status."""
    answer = await _reply(model, Request("agent", _REPLY_TOKENS, probing.QUESTION))
    if is_blank(answer.text):
        return Diagnosis("chat", _silence(answer), ok=False)
    return Diagnosis("chat", f"yes: {answer.text.strip()[:60]!r}", ok=True)


def _silence(answer: Completion) -> str:
    """Say what a reply without text was spent on, and what helps."""
    if thinks(answer):
        return (
            f"spends all its {answer.completion_tokens} tokens on thinking, and says nothing; "
            "raise `thinking_tokens`, or set `thinking: off`"
        )
    return f"answers without any text ({answer.finish}, {answer.completion_tokens} tokens)"


def _thinking(can: Capabilities) -> str:
    switched = f", switched by {can.thinking_fields}" if can.thinking_fields else ""
    return f"{_yes(can.thinks)}{switched}"


def _refused(can: Capabilities) -> str:
    """Say what requests do without, in the server's own words."""
    return f"requests have {', '.join(probing.left_out(can))} ({probing.quoted(can)})"


def _scoring(can: Capabilities) -> str:
    """Say whether likelihood contrasts can be measured, and how exactly."""
    if not can.scoring:
        return "no; critics can be asked, but the likelihood contrast cannot be measured"
    return f"by {can.scoring}; the same text twice differs by {can.noise:g} nats"


async def _sampling(model: Model) -> str:
    """Test seed and temperature: the same text twice, and another text with another seed?"""
    request = replace(_request("Invent a name for a boat.", 24), temperature=1.0)
    texts = [(await _reply(model, request, seed)).text for seed in (1, 1, 2, 3)]
    if any(map(is_blank, texts)):
        return "unknown: replies without text"
    if len(set(texts)) == 1:
        return "without effect: every seed gives the same text, even at temperature 1"
    if "seed" in model.capabilities.refused:
        return "replies differ, and no seed is accepted"
    if texts[0] != texts[1]:
        return "replies differ, also with the same seed"
    return "the same seed gives the same text, another seed another"


async def _several(model: HttpModel) -> str:
    """Whether a request can ask for several replies (`n`), which nothing here needs."""
    request = _request("Invent a name for a boat.", 24)
    path, body = model.encode(request, 1)
    asked = msgspec.json.decode(body, type=dict[str, object]) | {"n": 2}
    reply = await model.client.request("POST", path, msgspec.json.encode(asked))
    if isinstance(model.decode(request, reply.status, reply.body), Refusal):
        return "no"
    try:
        return _yes(len(msgspec.json.decode(reply.body)["choices"]) == 2)
    except (ValueError, KeyError, TypeError):
        return "no"


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


async def _speed(model: Model, many: int) -> str:
    """Tokens per second of `many` requests at once, and how many of them are refused."""
    requests = [_request(f"Count upwards from {k}.", _TRIAL_TOKENS) for k in range(many)]
    begun = time.perf_counter()
    replies = await asyncio.gather(*(_once(model, r) for r in requests), return_exceptions=True)
    seconds = time.perf_counter() - begun
    failed = [reply for reply in replies if isinstance(reply, BaseException)]
    for error in failed:
        if not isinstance(error, TransientError):
            raise error
    tokens = sum(r.completion_tokens for r in replies if isinstance(r, Completion))
    speed = f"{tokens / seconds:,.1f} tokens/s with {many} at once"
    if not failed:
        return speed
    return f"{speed}, of which it answers {many - len(failed)}; the others: {failed[0]}"


async def _reply(model: Model, request: Request, seed: int = 0) -> Completion:
    answer = await _answer(model, request, seed)
    if isinstance(answer, Refusal):
        raise ModelError(f"refused: {answer.cause}: {answer.raw}")
    return answer


async def _answer(model: Model, request: Request, seed: int = 0) -> Answer:
    """Ask a few times: the server may be busy."""
    for wait in _WAITS:
        try:
            return await _once(model, request, seed)
        except TransientError as error:
            await asyncio.sleep(min(error.retry_after or wait, _LONGEST_WAIT))
    return await _once(model, request, seed)


async def _once(model: Model, request: Request, seed: int = 0) -> Answer:
    with blamed(f"model `{model.name}`", "a test request", TransientError):
        answer = await model.complete(request, seed)
    check_answer(answer, model)
    return answer


def _request(text: str, tokens: int) -> Request:
    return Request("agent", tokens, (Message("user", text),))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
