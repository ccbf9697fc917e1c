"""`${VAR}` in the keys that may hold secrets: read from the environment when a run starts.

The configuration keeps the text `${VAR}`, so no secret is ever written with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config.hub import hub_secrets
from sdsd.config.model_schema import ModelConfig
from sdsd.errors import ConfigError
from sdsd.text.secrets import is_secret_name

_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)\}?")
_OTHER_FORM = re.compile(
    r"(?:\w+ )?(?P<form>[$%](?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)%?)", re.ASCII
)
"""How other programs write a variable: `$KEY`, `%KEY%`, `Bearer $KEY`."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Filled(Struct, frozen=True):
    """A model's section as it is used: with what the environment holds."""

    model: ModelConfig
    secrets: tuple[str, ...]
    """Values that no text may repeat: those in it, and the hub's, which a server may know."""


def fill(model: ModelConfig, name: str, env: Mapping[str, str] = os.environ) -> Filled:
    """Replace `${VAR}` in `base_url`, `headers` and `extra_body`; `$${` stands for `${` itself.

    `name` is the model's under `models`. Raises `ConfigError` for a variable that is not set.
    """
    filling = _Filling(f"models.{name}", env)
    found = replace(
        model,
        base_url=tuple(filling.address(url) for url in model.urls),
        headers={k: filling.header(v, f"headers.{k}") for k, v in model.headers.items()},
        extra_body=filling.tree(model.extra_body, "extra_body"),
    )
    own = (*filling.values, *_secret_fields(found.extra_body))
    return Filled(found, (*own, *hub_secrets(env)))


class _Filling:
    """Fills in one section, and keeps the values that it used."""

    def __init__(self, section: str, env: Mapping[str, str]) -> None:
        self.values: list[str] = []
        self._section, self._env = section, env

    def tree(self, value: Any, key: str) -> Any:
        """Fill in every text of nested mappings and lists."""
        if isinstance(value, str):
            return self.text(value, key)
        if isinstance(value, dict):
            return {k: self.tree(item, f"{key}.{k}") for k, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item, key) for item in value]
        return value

    def text(self, text: str, key: str) -> str:
        def value(found: re.Match[str]) -> str:
            if found[1]:
                return found[0][1:]
            self.values.append(self._value(found, key))
            return self.values[-1]

        return _VARIABLE.sub(value, text)

    def header(self, text: str, key: str) -> str:
        """Fill in a header, and refuse a variable as other programs write it."""
        if other := _OTHER_FORM.fullmatch(text):
            raise ConfigError(
                f"`{self._section}.{key}`: `{other['form']}` is sent as it is; write "
                f"${{{other['name']}}} for the environment variable"
            )
        return self.text(text, key)

    def address(self, url: str) -> str:
        """Fill in an address. In user info and query, a value may hold any character."""

        def value(found: re.Match[str]) -> str:
            if found[1]:
                return found[0][1:]
            given = self._value(found, "base_url")
            at = found.start()
            if at > url.rfind("?") > 0 or url.find("//") < at < url.rfind("@"):
                self.values.append(given)
                return quote(given, safe="")
            return given

        return _VARIABLE.sub(value, url)

    def _value(self, found: re.Match[str], key: str) -> str:
        name, where = found[2], f"`{self._section}.{key}`"
        if not (_NAME.fullmatch(name) and found[0].endswith("}")):
            raise ConfigError(
                f"{where}: `{found[0]}` does not name a variable; write ${{NAME}}, or $${{ for "
                "these two characters themselves"
            )
        if not self._env.get(name):
            raise ConfigError(
                f"{where} needs the environment variable `{name}`, which is not set; export it in "
                "the shell that starts the run"
            )
        return self._env[name]


def _secret_fields(tree: Any, name: str = "") -> Iterator[str]:
    """Yield the texts whose names say that they are secret."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _secret_fields(value, key)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _secret_fields(value, name)
    elif isinstance(tree, str) and is_secret_name(name):
        yield tree
