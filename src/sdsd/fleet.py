"""The models of a run, started, probed, and given their roles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from msgspec import Struct

from sdsd import weights
from sdsd.config import Config, ModelConfig, protocols
from sdsd.errors import ConfigError
from sdsd.models import Capabilities, Model, llamacpp
from sdsd.models.http import HttpModel
from sdsd.types import ROLES, ProtocolName, Role

SERVER_PARALLEL = 64
"""Requests in flight at a server whose slots we do not know."""


class Fleet(Struct, frozen=True):
    """Who plays which role, and how many requests each takes at once."""

    models: dict[Role, Model]
    parallel: dict[Role, int]
    weights: dict[str, str] = {}
    """By model name, the SHA-256 of its file, where it is known."""

    def protocol(self, config: Config) -> ProtocolName:
        """The best protocol that is wanted and that the agent's server supports.

        Raises `ConfigError` if a protocol is demanded that the server cannot hold.
        """
        wanted = protocols(config)
        can = self.models["agent"].capabilities
        for name in wanted:
            if supports(can, name):
                return name
        raise ConfigError(
            f"`dialogue.protocol: {wanted[0]}` needs "
            + ("raw completions and a chat template" if wanted[0] == "continuation" else "chat")
            + f", which the server of `{self.models['agent'].name}` does not offer; "
            "choose another protocol, or `auto`"
        )

    @property
    def slots(self) -> int:
        """Dialogues worth having under way at once."""
        return min(self.parallel.values())


def supports(can: Capabilities, protocol: ProtocolName) -> bool:
    """Whether a server with these capabilities can hold dialogues that way."""
    if protocol == "continuation":
        return can.completions and can.template is not None
    return can.chat


def cast(models: Mapping[str, Model], config: Config, parallel: Mapping[str, int]) -> Fleet:
    """Roles to models, as `config.roles` says."""
    names: dict[Role, str] = {role: getattr(config.roles, role) for role in ROLES}
    for role, name in names.items():
        if name not in models:
            raise ConfigError(
                f"`roles.{role}` names the model `{name}`, which is not among those given "
                f"({', '.join(models)}); give it too, or name another"
            )
    return Fleet(
        {role: models[name] for role, name in names.items()},
        {role: parallel[name] for role, name in names.items()},
    )


def fetch(config: Config, progress: weights.Progress | None = None) -> dict[str, Path]:
    """By name under `models`, the files that embedded engines need, fetched if they are missing.

    Blocks, so that Ctrl-C during a long download works as everywhere; call it before a loop runs.
    """
    needed = {name: config.models[name] for name in _used(config)}
    return {
        name: weights.locate(chosen.model, progress)
        for name, chosen in needed.items()
        if not chosen.base_url
    }


def _used(config: Config) -> list[str]:
    return sorted({getattr(config.roles, role) for role in ROLES})


@contextlib.asynccontextmanager
async def start(
    config: Config, files: Mapping[str, Path], note: Callable[[str], None]
) -> AsyncIterator[Fleet]:
    """Start or reach every model that has a role; stop what was started when done.

    `files` comes from `fetch`; `note` hears what is happening.
    """
    async with contextlib.AsyncExitStack() as stack:
        models: dict[str, Model] = {}
        parallel: dict[str, int] = {}
        hashes: dict[str, str] = {}
        for name in _used(config):
            chosen = config.models[name]
            url = chosen.base_url
            if url:
                parallel[name] = chosen.parallel or SERVER_PARALLEL
            else:
                parallel[name] = chosen.parallel or llamacpp.default_slots()
                hashes.update(_known_hash(chosen.model))
                url = stack.enter_context(_engine(files[name], chosen, parallel[name], note))
            models[name] = await stack.enter_async_context(
                HttpModel(
                    chosen.model,
                    url,
                    key=os.environ.get(chosen.api_key_env, "") if chosen.base_url else "",
                    headers=chosen.headers,
                    extra_body=chosen.extra_body,
                    timeout=chosen.timeout,
                    limit=parallel[name] + 4,
                )
            )
            await models[name].probe()  # type: ignore[attr-defined]
        fleet = cast(models, config, parallel)
        yield Fleet(fleet.models, fleet.parallel, hashes)


def _engine(
    path: Path, chosen: ModelConfig, slots: int, note: Callable[[str], None]
) -> contextlib.AbstractContextManager[str]:
    threads = chosen.threads or llamacpp.free_threads()
    note(f"loading {path.name}: {slots} slots of {chosen.context} tokens, {threads} threads")
    return llamacpp.serve(path, slots=slots, context=chosen.context, threads=threads)


def _known_hash(name: str) -> dict[str, str]:
    return {row.name: row.sha256 for row in weights.ROWS if row.name == name}
