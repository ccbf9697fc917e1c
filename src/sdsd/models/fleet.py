"""Start or reach the models of a run, probe them, and assign them to roles."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd import plugins
from sdsd.config import Config, ModelConfig
from sdsd.config.environment import Filled, fill
from sdsd.errors import ConfigError, PluginError, ServerGone
from sdsd.files import write_atomic
from sdsd.models import chat_templates, llamacpp, probing, vllm, weights
from sdsd.models.addresses import parse
from sdsd.models.base import Capabilities, Model, Served
from sdsd.models.batch import BatchModel
from sdsd.models.batch_api import Limits
from sdsd.models.concurrency import Gauges
from sdsd.models.downloads import Progress
from sdsd.models.http_client import Client
from sdsd.models.http_connection import Timeouts
from sdsd.models.openai_server import HttpModel
from sdsd.models.pool import Pool
from sdsd.models.provider_keys import key_for
from sdsd.models.rate_limits import RateLimit, RateLimits
from sdsd.models.thinking import Thinking
from sdsd.models.vllm import LaunchedModel
from sdsd.text.normalize import valid_unicode
from sdsd.types import ProtocolName, Role

OPENAI = "https://api.openai.com/v1"
Note = Callable[[str], None]


class Fleet(Struct, frozen=True):
    """The models of a run and the roles they play."""

    pools: dict[str, Served]
    """By name under `models`."""
    roles: dict[Role, str]
    """By role, the name under `models` of the model that plays it."""
    changed: asyncio.Event
    """Set when `capacity` changes; the waiter clears it."""
    weights: dict[str, str] = {}
    """By model name, the SHA-256 of its file, where known."""

    @property
    def models(self) -> dict[Role, Served]:
        return {role: self.pools[name] for role, name in self.roles.items()}

    @property
    def capacity(self) -> int:
        """Requests that all servers together accept: the useful number of open dialogues."""
        return sum(pool.capacity for pool in self.pools.values())

    @property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """By model name, what its requests lack or have changed because its server refuses it."""
        found = {pool.name: probing.left_out(pool.capabilities) for pool in self.pools.values()}
        return {name: fields for name, fields in found.items() if fields}

    def closed(self, dialogue: int) -> None:
        """Release what the models hold for a finished dialogue."""
        for pool in self.pools.values():
            pool.closed(dialogue)

    def protocol(self, config: Config) -> ProtocolName:
        """Return the best protocol that is configured and that the agent's server supports.

        Raises `ConfigError` if the configuration demands one that the server does not support.
        """
        wanted, agent = protocols(config), self.models["agent"]
        for name in wanted:
            if supports(agent.capabilities, name):
                return name
        raise ConfigError(
            f"`dialogue.protocol: {wanted[0]}` needs "
            + ("raw completions and a chat template" if wanted[0] == "continuation" else "chat")
            + f", which the server of `{agent.name}` does not offer; "
            "choose another protocol, or `auto`"
        )


def supports(can: Capabilities, protocol: ProtocolName) -> bool:
    """Return whether a server with these capabilities can generate dialogues by `protocol`."""
    if protocol == "continuation":
        return can.completions and can.template is not None
    return can.chat


def assign_roles(
    models: Mapping[str, Model | Sequence[Model]],
    config: Config,
    *,
    limits: Mapping[str, int] = {},
    served: Mapping[str, Served] = {},
    stopping: asyncio.Event | None = None,
    note: Note = lambda text: None,
) -> Fleet:
    """Pool the servers of each model and assign the roles of `config` to the pools.

    limits   by name, requests in flight per server, where the configuration leaves them open
    served   models that need no pool and are used as they are

    Raises `ConfigError` if a role names a model that is not given.
    """
    roles = config.role_models
    for role, name in roles.items():
        if name not in models and name not in served:
            raise ConfigError(
                f"`roles.{role}` names the model `{name}`, which is not among those given "
                f"({', '.join(models)}); pass it as well, or name another"
            )
    changed = asyncio.Event()
    pools = dict(served)
    for name in sorted(set(roles.values()) - served.keys()):
        given = models[name]
        servers = given if isinstance(given, list | tuple) else [given]
        chosen = config.models.get(name) or ModelConfig()
        pools[name] = Pool(
            [_model(server, f"the model `{name}` is") for server in servers],
            limit=chosen.parallel or limits.get(name, 0),
            rates=RateLimits(_rate(chosen.requests_per_minute), _rate(chosen.tokens_per_minute)),
            stopping=stopping,
            changed=changed.set,
            note=note,
        )
    return Fleet(pools, roles, changed)


def _model(found: object, where: str) -> Model:
    """Return a model that has what the contract asks for. Raises `PluginError`."""
    if not isinstance(found, Model):
        raise PluginError(
            f"{where} a value of type `{type(found).__name__}`, which is not a model: it needs "
            "`name`, `capabilities` and `async complete(request, seed, dialogue)`"
        )
    if not (isinstance(found.name, str) and found.name == valid_unicode(found.name) != ""):
        raise PluginError(f"{where} a model called {found.name!r:.80}; its `name` must be a text")
    return found


def _rate(per_minute: float) -> RateLimit | None:
    return RateLimit(per_minute) if per_minute else None


def fetch(config: Config, progress: Progress | None = None) -> dict[str, Path]:
    """Return the embedded engines' model files, by name under `models`; download missing ones.

    Blocks: call it before an event loop runs, so that Ctrl-C works during a long download.
    """
    used = {name: config.models[name] for name in _used(config)}
    embedded = {
        name: chosen.model
        for name, chosen in used.items()
        if not (chosen.backend or chosen.launch or addresses(chosen))
    }
    for name, chosen in used.items():
        fill(chosen, name)  # a missing variable is found before anything is downloaded
    if embedded:
        llamacpp.require()
    return {name: weights.locate(model, progress) for name, model in embedded.items()}


def addresses(chosen: ModelConfig, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the servers of a model; none for the embedded engine.

    A model name that is not a file belongs to the server named by the environment, as in other
    programs: `OPENAI_BASE_URL`, or OpenAI itself if only `OPENAI_API_KEY` is set.
    """
    if chosen.urls or weights.is_file(chosen.model):
        return chosen.urls
    if named := env.get("OPENAI_BASE_URL"):
        parse(named, "OPENAI_BASE_URL")
        return (named,)
    return (OPENAI,) if env.get("OPENAI_API_KEY") else ()


def _used(config: Config) -> list[str]:
    return sorted(set(config.role_models.values()))


# -- starting ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def start(
    config: Config,
    files: Mapping[str, Path],
    note: Note,
    folder: Path,
    stopping: asyncio.Event | None = None,
) -> AsyncIterator[Fleet]:
    """Start or reach every model that has a role, and stop on exit what was started.

    files    from `fetch`
    note     called with one line per event
    folder   where models keep their state between runs
    """
    async with contextlib.AsyncExitStack() as stack:
        starting = _Starting(stack, config, files, note, folder, stopping)
        for name in _used(config):
            await starting.add(name)
        fleet = assign_roles(
            starting.models,
            config,
            limits=starting.limits,
            served=starting.served,
            stopping=stopping,
            note=note,
        )
        await monitor(stack, fleet)
        yield replace(fleet, weights=starting.hashes)


async def monitor(stack: contextlib.AsyncExitStack, fleet: Fleet) -> None:
    """Adapt the concurrency of every pool until the stack is closed."""
    for pool in fleet.pools.values():
        if isinstance(pool, Pool):
            await stack.enter_async_context(pool.monitored(_gauges))


async def _gauges(model: Model) -> Gauges | None:
    if isinstance(model, LaunchedModel):
        await model.server.up()
        model = model.model
    return await model.gauges() if isinstance(model, HttpModel) else None


class _Starting:
    """The models of a fleet while it starts; the `stack` stops what was started."""

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        config: Config,
        files: Mapping[str, Path],
        note: Note,
        folder: Path,
        stopping: asyncio.Event | None,
    ) -> None:
        self._stack, self._config, self._files = stack, config, files
        self._note, self._folder, self._stopping = note, folder, stopping
        self.models: dict[str, Sequence[Model]] = {}
        self.served: dict[str, Served] = {}
        self.limits: dict[str, int] = {}
        self.hashes: dict[str, str] = {}

    async def add(self, name: str) -> None:
        filled = fill(self._config.models[name], name)
        if filled.model.backend:
            self.models[name] = [await self._plugged(filled.model)]
        elif filled.model.launch:
            self.models[name] = [await self._launched(filled, self._folder / name)]
        else:
            await self._reached(name, filled)

    async def _plugged(self, chosen: ModelConfig) -> Model:
        """Create the user's own backend; enter it if it is an async context manager."""
        part = f"backend `{chosen.backend}`"
        with plugins.blamed(part, "its configuration"):
            model = plugins.resolve(chosen.backend, "backends")(chosen)
            if isinstance(model, contextlib.AbstractAsyncContextManager):
                leave = model.__aexit__
                model = await model.__aenter__()

                async def leave_blamed(*error: Any) -> bool:
                    with plugins.blamed(part, "shutdown"):
                        return bool(await leave(*error))

                self._stack.push_async_exit(leave_blamed)
        return _model(model, f"`{chosen.backend}` returned")

    async def _launched(self, filled: Filled, folder: Path) -> Model:
        log, chosen = folder / "vllm.log", filled.model
        self._note(f"starting vLLM for {chosen.model}; its output is in {log}")
        launch = vllm.Launch(
            chosen.model, log, chosen.arguments, chosen.context, chosen.parallel,
            start_timeout=chosen.start_timeout,
        )  # fmt: skip
        server = await self._stack.enter_async_context(vllm.serve(launch, note=self._note))
        model = await self._client(filled, server.base_url, os.environ.get(vllm.KEY, ""))
        await _probe([model], chosen, self._note, self._stopping)
        return LaunchedModel(model, server)

    async def _reached(self, name: str, filled: Filled) -> None:
        chosen = filled.model
        urls, key = addresses(chosen), key_for(chosen)
        if not urls:
            self.limits[name] = slots = chosen.parallel or llamacpp.default_slots()
            self.hashes |= {r.name: r.sha256 for r in weights.KNOWN if r.name == chosen.model}
            path, threads = self._files[name], chosen.threads or llamacpp.free_threads()
            self._note(
                f"loading {path.name}: {slots} slots of {chosen.context} tokens, {threads} threads"
            )
            engine = llamacpp.serve(path, slots=slots, context=chosen.context, threads=threads)
            urls, key = (self._stack.enter_context(engine),), ""
        servers = [await self._client(filled, url, key) for url in urls]
        await _probe(servers, chosen, self._note, self._stopping)
        self.limits.setdefault(name, servers[0].capabilities.slots)
        self.models[name] = servers
        if chosen.transport == "batch":
            batches = self._batches(servers[0], filled, urls[0], self._folder / name)
            self.served[name] = await self._stack.enter_async_context(batches)

    async def _client(self, filled: Filled, url: str, key: str) -> HttpModel:
        chosen = filled.model
        model = HttpModel(
            chosen.model,
            url,
            key=key,
            headers=chosen.headers,
            extra_body=chosen.extra_body,
            timeouts=Timeouts(chosen.timeout),
            secrets=filled.secrets,
        )
        model.thinking = Thinking(chosen.thinking, chosen.thinking_tokens)
        return await self._stack.enter_async_context(model)

    @contextlib.asynccontextmanager
    async def _batches(
        self, online: HttpModel, filled: Filled, url: str, folder: Path
    ) -> AsyncIterator[BatchModel]:
        """Return the batch API of the server at `url`, to which `online` speaks."""
        chosen = filled.model
        online.capabilities = _remembered(online.capabilities, folder / "capabilities.json")
        client = Client(
            url, chosen.headers, Timeouts(total=3600.0), 2**30,
            key=key_for(chosen), secrets=filled.secrets,
        )  # fmt: skip
        batch = chosen.batch
        model = BatchModel(
            online,
            client,
            state=folder,
            run=configuration.digest(self._config)[:16],
            note=self._note,
            limits=Limits(max_requests=batch.max_requests, window=batch.window),
        )

        async def close() -> None:
            """Stop waiting for batches when the run stops: the next start collects them."""
            if self._stopping is not None:
                await self._stopping.wait()
                await model.close()

        async with client, model:
            # Not a task group, which would wrap every error of the run in a group of its own.
            closing = asyncio.create_task(close())
            try:
                yield model
            finally:
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)


def _remembered(found: Capabilities, path: Path) -> Capabilities:
    """Return the capabilities found at the first start of the run.

    A batch names its requests by their bodies, which must not change with a later probe.
    """
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Capabilities)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(found))
    return found


async def _probe(
    servers: Sequence[HttpModel], chosen: ModelConfig, note: Note, stopping: asyncio.Event | None
) -> None:
    """Probe the first server that answers, and assume that the others are like it."""
    # One that is loading is waited for only if no other is ready.
    patience = (chosen.outage,) if len(servers) == 1 else (0.0, chosen.outage)
    for outage, server in itertools.product(patience, servers):
        try:
            can = await probing.probe(server, outage=outage, note=note, stopping=stopping)
            break
        except ServerGone as gone:
            fault = gone
            if not outage:
                note(str(gone))
    else:
        raise fault
    if chosen.chat_template:
        template, system = chat_templates.learn(
            Path(chosen.chat_template), thinks=chosen.thinking == "on"
        )
        can = replace(can, template=template, system=system)
    for other in servers:
        other.capabilities = can
    if changes := probing.left_out(can):
        note(
            f"requests to `{chosen.model}` are sent with {', '.join(changes)}, which changes what "
            f"it writes: its server refuses them ({probing.quoted(can)})"
        )
    if can.chat and chosen.thinking == ("off" if can.thinks else "on"):
        note(
            f"`{chosen.model}`: its server has no known switch for thinking, so `thinking: "
            f"{chosen.thinking}` has no effect; see docs/reasoning-models.md"
        )
    elif can.thinks:
        note(
            f"`{chosen.model}` thinks before it speaks: each request leaves "
            f"{chosen.thinking_tokens:,} tokens for that"
        )


def protocols(config: Config) -> tuple[ProtocolName, ...]:
    """Return the protocols that a configuration allows, best first."""
    wanted = config.dialogue.protocol
    if wanted != "auto":
        return (wanted,)
    if config.roles.user != config.roles.agent or not config.dialogue.agent_sees_plan:
        return ("roleplay",)  # the others have one model write both sides, from one brief
    return ("continuation", "chat")
