"""Secrets of the Hugging Face hub, which no text may repeat, wherever it comes from.

The hub's client reads its token itself, from the environment or from the file of `hf auth login`,
and so does a launched vLLM. Both may quote it, as may a server that they talk to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sdsd.text.secrets import Secrets

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def hub_secrets(env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the tokens that the hub's client may use here, and user info in `HF_ENDPOINT`."""
    return tuple(secret for secret in _secrets(env) if secret)


def _secrets(env: Mapping[str, str]) -> Iterator[str]:
    yield from (env.get(name, "") for name in _VARIABLES)
    cache = env.get("XDG_CACHE_HOME") or "~/.cache"
    home = env.get("HF_HOME") or f"{cache}/huggingface"
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # no file, no text, no home
        yield Path(env.get("HF_TOKEN_PATH") or f"{home}/token").expanduser().read_text("utf-8")
    with contextlib.suppress(ValueError):
        address = urlsplit(env.get("HF_ENDPOINT", ""))
        yield from (address.username or "", address.password or "")


def hub_words(said: object, env: Mapping[str, str] = os.environ) -> str:
    """Return what the hub or its client said, as one short line without any of these secrets."""
    return Secrets(hub_secrets(env)).hide(" ".join(str(said).split()))[:300]
