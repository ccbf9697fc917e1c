"""The models of a run, started, probed, and given their roles."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import Config, ModelConfig, protocols
from sdsd.errors import ConfigError, ServerGone
from sdsd.files import write_atomic
from sdsd.models import chat_templates, llamacpp, vllm, weights
from sdsd.models.base import Capabilities, Model, Served
from sdsd.models.batch import BatchModel, Terms
from sdsd.models.concurrency import Gauges
from sdsd.models.http_client import Client, Timeouts
from sdsd.models.openai_server import HttpModel
from sdsd.models.pool import Pool
from sdsd.models.rate_limits import RateLimit
from sdsd.models.vllm import Patient
from sdsd.types import ProtocolName, Role

OPENAI = "https://api.openai.com/v1"


class Fleet(Struct, frozen=True):
    """Who plays which role."""

    pools: dict[str, Served]
    """By name under `models`."""
    roles: dict[Role, str]
    """Names of the models that play them."""
    changed: asyncio.Event
    """Set when `capacity` has changed; whoever waits for it clears it."""
    weights: dict[str, str] = {}
    """By model name, the SHA-256 of its file, where it is known."""

    @property
    def models(self) -> dict[Role, Served]:
        """By role, the model that plays it."""
        return {role: self.pools[name] for role, name in self.roles.items()}

    @property
    def capacity(self) -> int:
        """Requests that the servers take at once, and so the dialogues worth having under way."""
        return sum(pool.capacity for pool in self.pools.values())

    def closed(self, dialogue: int) -> None:
        """A dialogue is over."""
        for pool in self.pools.values():
            pool.closed(dialogue)

    def protocol(self, config: Config) -> ProtocolName:
        """The best protocol that is wanted and that the agent's server supports.

        Raises `ConfigError` if a protocol is demanded that the server cannot hold.
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
    """Whether a server with these capabilities can hold dialogues that way."""
    if protocol == "continuation":
        return can.completions and can.template is not None
    return can.chat


def cast(
    models: Mapping[str, Model | Sequence[Model]],
    config: Config,
    *,
    limits: Mapping[str, int] | None = None,
    served: Mapping[str, Served] | None = None,
    stopping: asyncio.Event | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Fleet:
    """Give the roles of `config` to models, each on one or more servers.

    `limits` are requests at once by name, where the configuration leaves them open; what is
    `served` already is taken as it is.
    """
    served = served or {}
    roles = config.cast
    for role, name in roles.items():
        if name not in models and name not in served:
            raise ConfigError(
                f"`roles.{role}` names the model `{name}`, which is not among those given "
                f"({', '.join(models)}); give it too, or name another"
            )
    changed = asyncio.Event()
    pools = dict(served)
    for name in sorted(set(roles.values()) - served.keys()):
        servers = models[name]
        chosen = config.models.get(name) or ModelConfig()
        pools[name] = Pool(
            servers if isinstance(servers, Sequence) else [servers],
            limit=chosen.parallel or (limits or {}).get(name, 0),
            requests=_rate(chosen.requests_per_minute),
            tokens=_rate(chosen.tokens_per_minute),
            stopping=stopping,
            changed=changed.set,
            note=note,
        )
    return Fleet(pools, roles, changed)


def _rate(per_minute: float) -> RateLimit | None:
    return RateLimit(per_minute) if per_minute else None


def fetch(config: Config, progress: weights.Progress | None = None) -> dict[str, Path]:
    """By name under `models`, the files that embedded engines need, fetched if they are missing.

    Blocks, so that Ctrl-C during a long download works as everywhere; call it before a loop runs.
    """
    used = {name: config.models[name] for name in _used(config)}
    embedded = {k: v.model for k, v in used.items() if not v.launch and not addresses(v)}
    if embedded:
        llamacpp.require()
    return {name: weights.locate(model, progress) for name, model in embedded.items()}


def addresses(chosen: ModelConfig, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Where a model is served; nothing for the embedded engine.

    A name that is no model file belongs to the server that the environment names, as it does for
    other programs: `OPENAI_BASE_URL`, or OpenAI itself if there is only `OPENAI_API_KEY`.
    """
    if chosen.urls or weights.is_file(chosen.model):
        return chosen.urls
    named = env.get("OPENAI_BASE_URL") or (OPENAI if env.get("OPENAI_API_KEY") else "")
    return (named,) if named else ()


def key_for(chosen: ModelConfig, env: Mapping[str, str] = os.environ) -> str:
    """The key for a model's servers; that of the hub for the hub's, unless another is named."""
    hub = all(urlsplit(url).hostname == "router.huggingface.co" for url in chosen.urls)
    if chosen.urls and hub and chosen.api_key_env == ModelConfig().api_key_env:
        return env.get("HF_TOKEN", "")
    return env.get(chosen.api_key_env, "")


def _used(config: Config) -> list[str]:
    return sorted(set(config.cast.values()))


@contextlib.asynccontextmanager
async def start(
    config: Config,
    files: Mapping[str, Path],
    note: Callable[[str], None],
    folder: Path,
    stopping: asyncio.Event | None = None,
) -> AsyncIterator[Fleet]:
    """Start or reach every model that has a role; stop what was started when done.

    `files` comes from `fetch`; `note` hears what is happening; in `folder` is kept what models
    need to remember.
    """
    async with contextlib.AsyncExitStack() as stack:
        models: dict[str, Sequence[Model]] = {}
        served: dict[str, Served] = {}
        limits: dict[str, int] = {}
        hashes: dict[str, str] = {}
        for name in _used(config):
            chosen, own = config.models[name], folder / name
            if chosen.launch:
                models[name] = [await _launched(stack, chosen, own, note)]
                continue
            urls, key = addresses(chosen), key_for(chosen)
            if not urls:
                limits[name] = chosen.parallel or llamacpp.default_slots()
                hashes.update(_known_hash(chosen.model))
                engine = _engine(files[name], chosen, limits[name], note)
                urls, key = (stack.enter_context(engine),), ""
            servers = [await _reached(stack, chosen, url, key) for url in urls]
            await _probe(servers, chosen, note)
            limits.setdefault(name, servers[0].capabilities.slots)
            models[name] = servers
            if chosen.transport == "batch":
                batches = _batches(servers[0], chosen, config, own, note, stopping)
                served[name] = await stack.enter_async_context(batches)
        fleet = cast(models, config, limits=limits, served=served, stopping=stopping, note=note)
        await watch(stack, fleet)
        yield Fleet(fleet.pools, fleet.roles, fleet.changed, hashes)


async def _reached(
    stack: contextlib.AsyncExitStack, chosen: ModelConfig, url: str, key: str
) -> HttpModel:
    return await stack.enter_async_context(_server(chosen, url, key))


async def _launched(
    stack: contextlib.AsyncExitStack,
    chosen: ModelConfig,
    folder: Path,
    note: Callable[[str], None],
) -> Patient:
    """A vLLM server of our own, and the way to it."""
    note(f"starting vLLM for {chosen.model}; its output is in {folder / 'vllm.log'}")
    server = await stack.enter_async_context(
        vllm.serve(
            chosen.model,
            log=folder / "vllm.log",
            arguments=chosen.arguments,
            context=chosen.context,
            parallel=chosen.parallel,
            start_timeout=chosen.start_timeout,
            restarts=chosen.restarts,
            note=note,
            gave_up=note,
        )
    )
    model = await _reached(stack, chosen, server.base_url, "")
    await _probe([model], chosen, note)
    return Patient(model, server)


async def watch(stack: contextlib.AsyncExitStack, fleet: Fleet) -> None:
    """Have the pace of every pool kept until the stack ends."""
    for pool in fleet.pools.values():
        if isinstance(pool, Pool):
            await stack.enter_async_context(pool.watched(_gauges))


def _server(chosen: ModelConfig, url: str, key: str) -> HttpModel:
    return HttpModel(
        chosen.model,
        url,
        key=key,
        headers=chosen.headers,
        extra_body=chosen.extra_body,
        timeouts=Timeouts(chosen.timeout, chosen.connect_timeout, chosen.idle_timeout),
    )


@contextlib.asynccontextmanager
async def _batches(
    online: HttpModel,
    chosen: ModelConfig,
    config: Config,
    folder: Path,
    note: Callable[[str], None],
    stopping: asyncio.Event | None,
) -> AsyncIterator[BatchModel]:
    """The batch interface of the server that `online` speaks to."""
    online.capabilities = _remembered(online.capabilities, folder / "capabilities.json")
    headers = dict(chosen.headers)
    if key := key_for(chosen):
        headers["Authorization"] = f"Bearer {key}"
    client = Client(online.base_url, headers, Timeouts(total=3600.0), most_bytes=2**30)
    terms = chosen.batch
    async with (
        client,
        BatchModel(
            chosen.model,
            _Plain(client),
            online.encode,
            online.decode,
            state=folder,
            run=configuration.digest(config)[:16],
            capabilities=online.capabilities,
            note=note,
            terms=Terms(
                gather=terms.gather, most=terms.max_requests, window=terms.window, poll=terms.poll
            ),
        ) as model,
        asyncio.TaskGroup() as group,
    ):

        async def close() -> None:
            """Do not make who stops the run wait for a batch: the next start collects it."""
            if stopping is not None:
                await stopping.wait()
                await model.close()

        closing = group.create_task(close())
        yield model
        closing.cancel()


def _remembered(found: Capabilities, path: Path) -> Capabilities:
    """What was found at the first start.

    The bodies of requests are their names in a batch: they must not change with a probe.
    """
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Capabilities)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(found))
    return found


class _Plain:
    """A client as the batch interface wants it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes]:
        reply = await self._client.request(method, path, body, headers)
        return reply.status, reply.body


async def _probe(
    servers: Sequence[HttpModel], chosen: ModelConfig, note: Callable[[str], None]
) -> None:
    """Ask the first server that answers what it can do; the others are taken to be like it."""
    for server in servers:
        try:
            can = await server.probe()
            break
        except ServerGone as gone:
            fault = gone
            if len(servers) > 1:
                note(str(gone))
    else:
        raise fault
    found = None
    if chosen.chat_template:
        found = chat_templates.learn(Path(chosen.chat_template))
    elif can.completions and can.template is None:
        found = await chat_templates.from_server(server.post, chosen.model)
    if found is not None:
        can = replace(can, template=found[0], system=found[1])
    for other in servers:
        other.capabilities = can


async def _gauges(model: Model) -> Gauges | None:
    if isinstance(model, Patient):
        await model.server.up()
        model = model.model
    return await model.gauges() if isinstance(model, HttpModel) else None


def _engine(
    path: Path, chosen: ModelConfig, slots: int, note: Callable[[str], None]
) -> contextlib.AbstractContextManager[str]:
    threads = chosen.threads or llamacpp.free_threads()
    note(f"loading {path.name}: {slots} slots of {chosen.context} tokens, {threads} threads")
    return llamacpp.serve(path, slots=slots, context=chosen.context, threads=threads)


def _known_hash(name: str) -> dict[str, str]:
    return {row.name: row.sha256 for row in weights.ROWS if row.name == name}
