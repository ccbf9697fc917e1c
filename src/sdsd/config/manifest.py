"""The manifest of a run: what it was made with, read by every resume and every replay."""

from __future__ import annotations

from pathlib import PureWindowsPath

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config.schema import JudgeMethod
from sdsd.text.chat_format import Template
from sdsd.types import Calibration, PairKind, ProtocolName

FORMAT = 2
"""Version of the layout of a run directory. Raise it when a change keeps
the program from reading or continuing earlier runs."""


class Manifest(Struct, frozen=True, kw_only=True):
    """What a run was made with. Written once, before the first answer."""

    sdsd: str
    """Version of the program that began the run."""
    created: str
    """UTC, ISO 8601."""
    python: str
    machine: str
    seed: int
    config: str
    """Digest of the configuration's identity (`sdsd.config.digest`)."""
    catalogue: str
    """SHA-256 of the catalogue; the run's copy is `inputs/<digest>.json`."""
    prompts: dict[str, str]
    """By name, the SHA-256 of each prompt and strategy; the run's copies are `inputs/<digest>.md`.
    A strategy's name begins with `strategy/`."""
    models: dict[str, str]
    """By role, the name of its model."""
    weights: dict[str, str]
    """By model name, the SHA-256 of its file, where it is known."""
    protocol: ProtocolName
    """The protocol chosen when the run began; it does not change afterwards."""
    template: Template | None = None
    """The parts of the chat template that `continuation` writes between turns."""
    left_out: dict[str, tuple[str, ...]] = {}
    """By model name, what its requests lack or have changed because its server refuses it."""
    schema: bool = False
    """Whether the critic's server constrains replies to a JSON schema."""
    shared: bool = False
    """Whether critic and reviser are the agent's own model."""
    method: JudgeMethod = "verdict"
    """How the single critic judges."""
    pairs: tuple[PairKind, ...] = ("revision", "on_policy")
    """The kinds of pairs that the run makes."""
    calibrations: dict[str, Calibration] = {}
    """By critic, how to read its answers, from its exam; a single critic has an empty name."""
    versions: dict[str, int] = {}
    """`sdsd.pipeline.versions.VERSIONS` when the run began."""
    parts: dict[str, str] = {}
    """By name, the version of each user-defined part (`sdsd.plugins.version`)."""
    format: int = FORMAT


class Written(Struct, frozen=True):
    """The fields that every version of the manifest has."""

    sdsd: str
    created: str
    format: int = 1


def shown(manifest: Manifest) -> Manifest:
    """Return the manifest without directories of the machine it was written on, for publishing."""
    return replace(
        manifest,
        models={role: nameable(name) for role, name in manifest.models.items()},
        weights={nameable(name): digest for name, digest in manifest.weights.items()},
        left_out={nameable(name): fields for name, fields in manifest.left_out.items()},
    )


def nameable(model: str) -> str:
    """Return a model's name; for a local file or directory, only the last part of its path."""
    path = PureWindowsPath(model)  # splits at both kinds of slash
    local = model.startswith(("/", "~", ".")) or path.drive or path.root
    if not local and (model.startswith("hf:") or not model.endswith(".gguf")):
        return model
    return path.name or "model"
