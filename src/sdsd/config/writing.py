"""A configuration told: as YAML, key by key, as its digest, with every key explained."""

from __future__ import annotations

import ast
import hashlib
import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sdsd.config import schema
from sdsd.config.schema import EXECUTION, Config


def tree(config: Config) -> dict[str, Any]:
    """The configuration as plain mappings, every key written out."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def dump(config: Config) -> str:
    """The configuration as YAML, every key written out."""
    import yaml

    text: str = yaml.safe_dump(tree(config), sort_keys=False)
    return text


def digest(config: Config) -> str:
    """Hex SHA-256 of what the run makes: every key but those of `EXECUTION`."""
    identity = {k: v for k, v in flat(config) if not EXECUTION.fullmatch(k)}
    return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()


def differences(ours: Config, theirs: Config) -> list[str]:
    """Lines `key: theirs -> ours` for every key of identity in which two configurations differ."""
    a, b = dict(flat(theirs)), dict(flat(ours))
    keys = [k for k in {**a, **b} if a.get(k) != b.get(k) and not EXECUTION.fullmatch(k)]
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in keys]


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a configuration with its dotted key."""
    tree = msgspec.to_builtins(value)
    for key, item in tree.items():
        if isinstance(item, dict) and item:
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def meanings() -> dict[str, dict[str, str]]:
    """By class, what each key means: the strings under the fields in the source of `sections`."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(schema.__file__).read_text("utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        keys = found.setdefault(node.name, {"": ast.get_docstring(node) or ""})
        for key, text in itertools.pairwise(node.body):
            if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr):
                keys[ast.unparse(key.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def explained() -> str:
    """The default configuration as YAML with every key explained: what `sdsd init` writes."""
    texts = meanings()
    lines = ["# A configuration of sdsd. Every key is optional; these are the defaults.", ""]

    def section(value: Any, indent: str) -> None:
        for key in value.__struct_fields__:
            item = getattr(value, key)
            lines.extend(_comment(texts[type(value).__name__].get(key, ""), indent))
            if isinstance(item, Struct):
                lines.extend(_comment(texts[type(item).__name__][""], indent))
                lines.append(f"{indent}{key}:")
                section(item, f"{indent}  ")
            elif key == "models":
                lines.extend([f"{indent}models:", f"{indent}  default:"])
                section(item["default"], f"{indent}    ")
            else:
                shown = msgspec.json.encode(item).decode()  # JSON is YAML
                lines.append(f"{indent}{key}: {shown}")
            if not indent:
                lines.append("")

    section(Config(), "")
    return "\n".join(lines)


def _comment(text: str, indent: str) -> list[str]:
    width = 96 - len(indent)
    return [f"{indent}# {line}" for line in textwrap.wrap(text.replace("`", ""), width)]
