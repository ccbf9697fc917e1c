"""What a run was made with: written once, before the first dialogue, and read by every replay."""

from __future__ import annotations

from pathlib import PureWindowsPath

from msgspec import Struct
from msgspec.structs import replace

from sdsd.text.chat_format import Template
from sdsd.types import ProtocolName


class Manifest(Struct, frozen=True, kw_only=True):
    """What a run was made with. Written once, before the first dialogue; read by every replay."""

    sdsd: str
    """Version of this program."""
    created: str
    """UTC, ISO 8601."""
    python: str
    machine: str
    seed: int
    config: str
    """Digest of the configuration's identity (`sdsd.config.digest`)."""
    catalogue: str
    """Digest of the catalogue's content."""
    prompts: dict[str, str]
    """Digest of every prompt file."""
    models: dict[str, str]
    """By role, the name of the model that plays it."""
    weights: dict[str, str]
    """By model name, the SHA-256 of its file, where it is known."""
    protocol: ProtocolName
    """As resolved from what the server can do; a replay keeps it."""
    template: Template | None = None
    """The chat template's seams that `continuation` was held with."""
    schema: bool = False
    """Whether the critic's server was asked to hold replies to a JSON schema."""
    shared: bool = False
    """Whether critic and reviser are the agent's own model."""


def shown(manifest: Manifest) -> Manifest:
    """A manifest without the directories of its maker's disk: for what is handed on."""
    return replace(
        manifest,
        models={role: nameable(name) for role, name in manifest.models.items()},
        weights={nameable(name): digest for name, digest in manifest.weights.items()},
    )


def nameable(model: str) -> str:
    """A model's name; of one that is a file or directory here, the last part of its path."""
    path = PureWindowsPath(model)  # knows both kinds of slash
    here = model.startswith(("/", "~", ".")) or path.drive or path.root
    if not here and (model.startswith("hf:") or not model.endswith(".gguf")):
        return model
    return path.name or "model"
