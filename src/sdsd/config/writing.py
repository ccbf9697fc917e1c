"""A configuration as text: YAML, digest and differences; every key explained; a JSON schema."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from sdsd.config.keys import Key, choices, is_execution, keys
from sdsd.config.schema import Config
from sdsd.text import yaml_files
from sdsd.text.secrets import HIDDEN, is_secret_name


def tree(config: Config) -> dict[str, Any]:
    """Return the configuration as plain mappings, with every key written out."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def dump(config: Config) -> str:
    """Return the configuration as YAML, with every key written out."""
    return yaml_files.dump(tree(config))


def digest(config: Config | Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of every key that decides what the run makes."""
    identity = {k: v for k, v in flat(config) if not is_execution(k)}
    return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()


def differences(ours: Config, theirs: Config) -> list[str]:
    """Return a line `key: theirs -> ours` for every key of identity that differs."""
    a, b = dict(flat(theirs)), dict(flat(ours))
    changed = [k for k in {**a, **b} if a.get(k) != b.get(k) and not is_execution(k)]
    return [
        f"{k}: {HIDDEN} -> {HIDDEN}"
        if is_secret_name(k.rpartition(".")[2])
        else f"{k}: {a.get(k)!r} -> {b.get(k)!r}"
        for k in changed
    ]


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a configuration with its dotted key."""
    for key, item in msgspec.to_builtins(value).items():
        if isinstance(item, dict) and item:
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(item) if isinstance(item, tuple) else item


MINIMAL = (
    "n",
    "models.default.model",
    "models.default.base_url",
    "catalogue.principles",
    "budget.tokens",
)
"""The keys that most people need."""
EXPERIMENT = """\
# An experiment of sdsd: the same scenarios under several configurations, compared at the end.

# What all arms share: keys of a configuration, as `sdsd init` explains them.
base:
  n: 20

# By name, what each arm changes; the first is the baseline of the comparison.
arms:
  direct: {scenarios: {strategies: [direct]}}
  false-premise: {scenarios: {strategies: [false-premise]}}
  haste: {scenarios: {strategies: [haste]}}
"""
"""An experiment file to start from."""


def explained(*, minimal: bool = False) -> str:
    """Return the default configuration as YAML with every key explained: for `sdsd init`.

    With `minimal`, only the keys of `MINIMAL`.
    """
    head = ["# A configuration of sdsd. Every key is optional; these are the defaults.", ""]
    if minimal:
        head.insert(1, "# There are more: `sdsd init` without --minimal explains them all.")
    wanted = MINIMAL if minimal else ()
    return "\n".join([*head, *_explained(Config(), "", "", wanted)])


def _explained(section: Struct, indent: str, prefix: str, wanted: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a section; of the `wanted` keys alone, if there are some."""
    for key in keys(type(section)).values():
        dotted = f"{prefix}{key.name}"
        if wanted and not any(f"{each}.".startswith(f"{dotted}.") for each in wanted):
            continue
        width = 96 - len(indent)
        text = " ".join((key.description.replace("`", ""), *_allowed(key)))
        yield from (f"{indent}# {line}" for line in textwrap.wrap(text, width))
        yield from _value(key, getattr(section, key.name), indent, dotted, wanted)
        if not indent:
            yield ""


def _allowed(key: Key) -> Iterator[str]:
    """Yield the sentence that lists the values of a key, if its type does and its text does not."""
    values = [] if key.section else [value or '""' for value in choices(key.type)]
    if not all(value in key.description for value in values):
        yield f"Values: {', '.join(values)}."


def _value(key: Key, value: Any, indent: str, dotted: str, wanted: Sequence[str]) -> Iterator[str]:
    if isinstance(value, Struct):
        yield f"{indent}{key.name}:"
        yield from _explained(value, f"{indent}  ", f"{dotted}.", wanted)
    elif key.named and value:
        yield f"{indent}{key.name}:"
        for name, section in value.items():
            yield f"{indent}  {name}:"
            yield from _explained(section, f"{indent}    ", f"{dotted}.{name}.", wanted)
    else:
        yield f"{indent}{key.name}: {msgspec.json.encode(value).decode()}"  # JSON is YAML


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, with descriptions: for editors."""
    _, sections = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    config = sections.pop("Config")
    short = {"type": "string", "description": "Short for `models.default.model`."}
    properties = {"model": short, **config.pop("properties")}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sdsd"}
    schema = {**head, **config, "properties": properties, "$defs": sections}
    whole: dict[str, Any] = _whole_numbers(schema)
    return whole


def _whole_numbers(node: Any) -> Any:
    """Write 0.0 as 0 throughout: `typing` keeps whichever of two equal bounds it met first."""
    if isinstance(node, dict):
        return {key: _whole_numbers(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_whole_numbers(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node


def json_schema_text() -> str:
    """Return the JSON schema as the text of a file."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"
