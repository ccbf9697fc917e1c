"""The rules that types cannot express: names that must exist, keys that exclude each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from sdsd.config.model_schema import ModelConfig
from sdsd.config.schema import MODEL_NAME, PROTOCOLS, Config
from sdsd.errors import ConfigError, PluginError
from sdsd.plugins import function, resolve
from sdsd.types import ROLES

_CANARY = 20
"""Characters of a canary, at least."""
_VARIABLE = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*)?", re.ASCII)


def check(config: Config, where: str) -> None:
    """Raise `ConfigError` for the first contradiction; `where` names the file."""
    models = (_model(name, model) for name, model in config.models.items())
    for problem in chain(_size(config), _names(config), _ranges(config), *models):
        raise ConfigError(f"{where}: {problem}")


def _size(config: Config) -> Iterator[str]:
    if not (config.n or config.targets.on or config.source.path):
        yield "`n` must be at least 1 (0 only with `targets` or `source`)"
    if config.targets.on and config.source.path:
        yield (
            "`targets` decide which dialogues are made, but a `source` has its dialogues already; "
            "leave out one of them"
        )


def check_parts(config: Config) -> None:
    """Import the user-defined parts: a run must not begin without them.

    Not part of `check`: a finished run can be read where its parts are not installed. Raises
    `ConfigError`.
    """
    if (protocol := config.dialogue.protocol) not in PROTOCOLS:
        _check_part("dialogue.protocol", protocol, "protocols", PROTOCOLS)
    if config.pipeline:
        _check_part("pipeline", config.pipeline, "pipelines")
    for name, critic in config.critique.critics.items():
        if critic.use:
            _check_part(f"critique.critics.{name}.use", critic.use, "critics")


def _check_part(key: str, name: str, group: str, known: tuple[str, ...] = ()) -> None:
    try:
        find = function if group in ("protocols", "pipelines") else resolve
        find(name, group, known)
    except PluginError as error:
        raise ConfigError(f"configuration: `{key}`: {error}") from None


def _names(config: Config) -> Iterator[str]:
    for name, critic in config.critique.critics.items():
        if critic.use and critic.model:
            yield f"`critique.critics.{name}` has both `use` and `model`; remove one of them"
        if not MODEL_NAME.fullmatch(name):
            yield f"`critique.critics.{name}`: use letters, digits, `_` and `-` in the name"
    for role, name in config.role_models.items():
        if name not in config.models:
            key = f"roles.{role}"
            if role not in ROLES:
                key = f"critique.critics.{role.partition('/')[2]}.model"
            yield (
                f"`{key}` names `{name}`, which is not under `models` "
                f"({', '.join(config.models)}); add it there or name another"
            )


def _ranges(config: Config) -> Iterator[str]:
    for key in ("principles", "exchanges"):
        least, most = getattr(config.scenarios, key)
        if least > most:
            yield f"`scenarios.{key}`: [{least}, {most}] must be [fewest, most]"
    most, limit = config.scenarios.exchanges[1], config.dialogue.max_exchanges
    if most > limit:
        yield (
            f"`scenarios.exchanges` asks for up to {most}, but `dialogue.max_exchanges` is "
            f"{limit}; raise that limit or ask for fewer exchanges"
        )
    canary = config.export.canary
    if isinstance(canary, str) and 0 < len(canary) < _CANARY:
        yield (
            f"`export.canary`: `{canary}` occurs elsewhere by chance; write `true`, or a text of "
            f"at least {_CANARY} characters"
        )
    splits = config.export.splits
    if splits.validation + splits.test >= 1:
        yield "`export.splits`: `validation` and `test` leave nothing to train on; lower one"


def _model(name: str, model: ModelConfig) -> Iterator[str]:
    key = f"`models.{name}`"
    if not MODEL_NAME.fullmatch(name):
        yield f"`models` has the name `{name}`; use letters, digits, `_` and `-`"
    if not model.model.strip():
        yield f"`models.{name}.model` is empty; name a model"
    if not _VARIABLE.fullmatch(model.api_key_env):
        yield (
            f"`models.{name}.api_key_env` must be the name of the environment variable that holds "
            "the key, such as OPENAI_API_KEY: not the key itself, and not `${...}`"
        )
    if model.launch and model.base_url:
        yield f"{key} has both `launch` and `base_url`; remove one of them"
    if model.backend and (model.launch or model.transport == "batch"):
        other = "launch" if model.launch else "transport: batch"
        yield f"{key} has both `backend` and `{other}`; remove one of them"
    if model.transport == "batch" and len(model.urls) > 1:
        yield (
            f"{key} has `transport: batch` and several addresses, but a batch runs at one server; "
            "leave one address in `base_url`"
        )
    if model.transport == "batch" and model.launch:
        yield (
            f"{key} has `transport: batch` and `launch`, but launched servers have no batch API; "
            "remove one of them"
        )
