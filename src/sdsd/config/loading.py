"""Read a configuration from YAML or a mapping, apply overrides, and check it key by key.

Every error names the file, the key and the remedy.
"""

from __future__ import annotations

import difflib
import math
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd.config.checking import check
from sdsd.config.keys import Key, choices, keys, walk
from sdsd.config.model_schema import ModelConfig
from sdsd.config.schema import Config
from sdsd.errors import ConfigError
from sdsd.text import encodings, yaml_files
from sdsd.text.encodings import NotText
from sdsd.text.normalize import valid_unicode
from sdsd.text.prompt_files import is_path
from sdsd.text.yaml_files import YamlError

T = TypeVar("T")

_TRUTHS = {
    **dict.fromkeys(("yes", "on", "true"), True),
    **dict.fromkeys(("no", "off", "false"), False),
}


def load(source: Path | Mapping[str, Any] | None, overrides: Mapping[str, Any] = {}) -> Config:
    """Return the configuration in a YAML file or mapping (None: all defaults).

    `overrides` are values by dotted key; they win. Raises `ConfigError` that names the file, the
    key and the remedy.
    """
    where = str(source) if isinstance(source, Path) else "configuration"
    tree = read(source) if isinstance(source, Path) else dict(source or {})
    tree = anchored(tree, source.parent if isinstance(source, Path) else Path(), where)
    _check_named_once(tree, where)
    tree = _truths(anchored(_overridden(tree, overrides), Path(), where))
    _check_values(tree, "", where)
    if isinstance(tree.get("models"), dict):
        tree["models"] = {"default": {}, **tree["models"]}
        for name, model in tree["models"].items():  # one by one, so that an error names its key
            _typed(model, ModelConfig, f"models.{name}", where)
    config = _typed(tree, Config, "", where)
    if "n" not in tree and (config.targets.on or config.source.path):
        config = replace(config, n=0)  # as many as they need
    check(config, where)
    return config


def _overridden(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `tree` with `overrides`, and `model: x` written out as `models.default.model`."""
    model = overrides.get("model", tree.get("model"))
    changes = {k: v for k, v in overrides.items() if k != "model"}
    if model is not None:
        changes = {"models.default.model": model, **changes}
    tree = {k: v for k, v in tree.items() if k != "model"}
    for key, value in changes.items():
        tree = _set(tree, key.split("."), value)
    return tree


def assignment(text: str) -> tuple[str, Any]:
    """Split `key=value` of the command line; the value is read as YAML. Raises `ConfigError`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: must be key=value, e.g. dialogue.protocol=roleplay")
    try:
        return key.strip(), yaml_files.parse(value)
    except YamlError as error:
        raise ConfigError(f"--set {text}: the value is not YAML: {error.problem}") from None


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises `ConfigError` that names file and line."""
    try:
        tree = yaml_files.parse(encodings.decode(path.read_bytes()))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `sdsd init` writes one to start from") from None
    except NotText as error:
        raise ConfigError(error.at(path)) from None
    except YamlError as error:
        wrong = f"{path}:{error.line}: {error.problem}"
        raise ConfigError(f"{wrong}; correct the YAML there") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; check the path") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: must be a mapping of keys, with a space after each colon; "
            "see docs/configuration.md"
        )
    return tree


def anchored(tree: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """Return `tree` with its file names made absolute, so that a run continues from any directory.

    `tree` need not be valid: anything but a name or a list of names is left unchanged.
    """

    def at(value: Any, key: Key, dotted: str) -> Any:
        if key.file and isinstance(value, list | tuple):
            return [at(item, key, dotted) for item in value]
        if not (isinstance(value, str) and _is_local(value, key)):
            return value
        try:
            return _absolute(value, base)
        except RuntimeError as error:  # `~name` of an unknown user
            raise ConfigError(f"{where}: `{dotted}`: {error}; write the path out") from None

    return _mapped(tree, at)


def _truths(tree: dict[str, Any]) -> dict[str, Any]:
    """Return `tree` with yes, no, on and off as what a key takes: true and false, or on and off."""

    def at(value: Any, key: Key, dotted: str) -> Any:
        if not isinstance(value, str | bool):
            return value
        meant = _TRUTHS.get(str(value).casefold())
        if meant is not None and {"on", "off"} <= {*choices(key.type)}:
            return "on" if meant else "off"
        return meant if meant is not None and bool in typing.get_args(key.type)[:1] else value

    return _mapped(tree, at)


def _mapped(tree: dict[str, Any], change: Callable[[Any, Key, str], Any]) -> dict[str, Any]:
    """Return `tree` with each value that is no section as `change(value, key, dotted key)` says.

    `tree` need not be valid: values of unknown keys are left unchanged.
    """

    def below(value: Any, section: type[Struct], prefix: str) -> Any:
        if not isinstance(value, dict):
            return value
        known = keys(section)
        return {k: at(v, known[k], f"{prefix}{k}") if k in known else v for k, v in value.items()}

    def at(value: Any, key: Key, dotted: str) -> Any:
        if key.section and key.named and isinstance(value, dict):
            return {k: below(v, key.section, f"{dotted}.{k}.") for k, v in value.items()}
        if key.section:
            return below(value, key.section, f"{dotted}.")
        return change(value, key, dotted)

    mapped: dict[str, Any] = below(tree, Config, "")
    return mapped


def _is_local(name: str, key: Key) -> bool:
    return bool(
        key.file and name and not name.startswith("hf:") and (key.file == "always" or is_path(name))
    )


def _absolute(name: str, base: Path) -> str:
    # `~` alone is a home directory: `./~x` is a file of this name.
    return str((base / (Path(name).expanduser() if name[0] == "~" else Path(name))).absolute())


def _set(tree: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return `tree` with `value` at `path`; the caller's mappings are not changed."""
    head, *rest = path
    below = tree.get(head)
    inner = _set(below if isinstance(below, dict) else {}, rest, value) if rest else value
    return {**tree, head: inner}


def _check_named_once(tree: Mapping[str, Any], where: str) -> None:
    """Refuse two names for the default model, of which one would win in silence."""
    models = tree.get("models")
    default = models.get("default") if isinstance(models, Mapping) else None
    if "model" in tree and isinstance(default, Mapping) and "model" in default:
        raise ConfigError(
            f"{where}: both `model` and `models.default.model` name the model; remove one of them"
        )


def _check_values(tree: Any, key: str, where: str) -> None:
    """Refuse what Python has and a run's own files cannot hold."""
    if isinstance(tree, float) and not math.isfinite(tree):
        raise ConfigError(f"{where}: `{key}` must be a finite number, not {tree}")
    if isinstance(tree, str) and tree != valid_unicode(tree):
        raise ConfigError(f"{where}: `{key}` is not UTF-8: {tree}; rename the file, or correct it")
    items = tree.items() if isinstance(tree, Mapping) else ()
    for name, _ in items:
        if isinstance(name, str) and name != valid_unicode(name):
            section = f" in `{key}`" if key else ""
            raise ConfigError(f"{where}: the key {name!a}{section} is not UTF-8; rename it")
    for name, value in (*items, *enumerate(tree if isinstance(tree, list | tuple) else ())):
        _check_values(value, f"{key}.{name}" if key else str(name), where)


def _typed(tree: Any, kind: type[T], prefix: str, where: str) -> T:
    """Convert `tree` to a `kind`; `prefix` is the dotted key of `tree`."""
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), prefix)}") from None


def _explain(message: str, prefix: str) -> str:
    """Rewrite msgspec's message with the dotted key and, for an unknown one, a suggestion."""
    at = re.search(r" - at `(?:key in )?\$\.?(.*?)`$", message)
    below = at.group(1).removesuffix("[...]") if at else ""
    path = ".".join(filter(None, (prefix, below)))
    unknown = re.search(r"unknown field `(.*?)`", message)
    if enum := re.match(r"Invalid enum value '(.*)'", message):
        return _explain_choice(path, enum.group(1))
    if not unknown:
        said = message.split(" - at ", maxsplit=1)[0]
        quoted = re.match("Expected `str`, got `(int|float|bool)`", said)
        remedy = "put it in quotation marks" if quoted else "see docs/configuration.md"
        return f"`{path}`: {said}; {remedy}"
    key = unknown.group(1)
    known = _known_at(path)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    dotted = f"{path}.{key}" if path else key
    return f"unknown key `{dotted}`; {hint}"


def _explain_choice(path: str, value: str) -> str:
    """Say which values a key may have, and which is closest to the one that it has."""
    dotted = path.replace("[...]", ".NAME")  # msgspec's word for any key of a mapping
    key = next((key for key in reversed([*walk(re.sub(r"\[\d+\]", "", dotted))])), None)
    allowed = choices(key.type) if key else []
    near = difflib.get_close_matches(value, allowed, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"`{path}`: unknown value `{value}`; {hint}allowed: {', '.join(allowed)}"


def _known_at(path: str) -> list[str]:
    """Return the keys of the section at a dotted `path`."""
    section = next((key.section for key in reversed([*walk(path)])), Config)
    known = list(keys(section)) if section else []
    return [*known, "model"] if section is Config else known
