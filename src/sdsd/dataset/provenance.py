"""How a data set was made, for its Parquet files and its card."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from sdsd import config as configuration
from sdsd.config import Config, ModelConfig
from sdsd.config.manifest import Manifest
from sdsd.dataset.canary import canary
from sdsd.dataset.extensions import versions
from sdsd.dataset.tokens import tokenizer
from sdsd.text.normalize import encodable

_PRIVATE = re.compile(r"\.(base_url|headers|extra_body)\b")


def settings(config: Config) -> dict[str, str]:
    """Return the keys that decide what a run makes and differ from the defaults, as text.

    Keys that may hold an address or a secret are named but never shown, and files lose their
    directories: a published data set need not describe its maker's disk.
    """
    default = dict(configuration.flat(Config()))
    for name in config.models:
        default |= dict(configuration.flat(ModelConfig(), f"models.{name}."))

    def shown(key: str, value: object) -> str:
        if _PRIVATE.search(key):
            return "(set)"
        return Path(str(value)).name if key.startswith(("catalogue.", "prompts.")) else str(value)

    return {
        key: shown(key, value)
        for key, value in configuration.flat(config)
        if value != default.get(key) and not configuration.is_execution(key)
    }


def provenance(manifest: Manifest, config: Config) -> dict[bytes, bytes]:
    """Return what each Parquet file says about how it was made, so that it explains itself."""
    story = {
        "version": manifest.sdsd,
        "created": manifest.created,
        "seed": manifest.seed,
        "config": manifest.config,
        "catalogue": manifest.catalogue,
        "prompts": manifest.prompts,
        "models": manifest.models,
        "weights": manifest.weights,
        "protocol": manifest.protocol,
        **({"left_out": manifest.left_out} if manifest.left_out else {}),
        "settings": settings(config),
        "extensions": versions(config.export),
        **({"canary": text} if (text := canary(config.export, manifest)) else {}),
        **({"tokenizer": tokenizer(name).sha256} if (name := config.export.tokenizer) else {}),
    }
    return {b"sdsd": msgspec.json.encode(encodable(story), order="deterministic")}
