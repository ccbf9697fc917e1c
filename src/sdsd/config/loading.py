"""A configuration read: from YAML or a mapping, with changes, checked key by key.

Every error names the file, the key and the remedy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import msgspec

from sdsd.config.schema import MODEL_NAME, PROTOCOLS, Config, ModelConfig, is_file
from sdsd.errors import ConfigError, PluginError
from sdsd.plugins import resolve
from sdsd.types import ROLES

T = TypeVar("T")


def load(source: Path | Mapping[str, Any] | None, overrides: Mapping[str, Any] = {}) -> Config:
    """The configuration in a YAML file or mapping (None: all defaults), with dotted `overrides`.

    Raises `ConfigError` that names the file, the key and the remedy.
    """
    where = str(source) if isinstance(source, Path) else "configuration"
    tree = read(source) if isinstance(source, Path) else dict(source or {})
    tree = anchored(tree, source.parent if isinstance(source, Path) else Path(), where)
    # `model: x` is all that most runs need to say; an override beats the file.
    model = overrides.get("model", tree.get("model"))
    changes = {k: v for k, v in overrides.items() if k != "model"}
    if model is not None:
        changes = {"models.default.model": model, **changes}
    tree = {k: v for k, v in tree.items() if k != "model"}
    for key, value in changes.items():
        tree = _set(tree, key.split("."), value)
    tree = anchored(tree, Path(), where)
    if isinstance(tree.get("models"), dict):
        tree["models"] = {"default": {}, **tree["models"]}
        for name, model in tree["models"].items():  # one by one, so that a fault has its name
            _typed(model, ModelConfig, f"models.{name}", where)
    targets = tree.get("targets")
    source = tree.get("source")
    counted = isinstance(targets, dict) and (targets.get("pairs") or targets.get("cells"))
    if counted or (isinstance(source, dict) and source.get("path")):
        tree = {"n": 0, **tree}
    config = _typed(tree, Config, "", where)
    _check(config, where)
    return config


def assignment(text: str) -> tuple[str, Any]:
    """`key=value` from the command line; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: must be key=value, e.g. dialogue.protocol=roleplay")
    try:
        return key.strip(), _yaml(value)
    except ValueError:
        raise ConfigError(f"--set {text}: the value is not YAML") from None


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ConfigError` that names file and line."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `sdsd init` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        tree = _yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}{error}; mend the YAML there") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of keys; see docs/configuration.md")
    return tree


def _yaml(text: str) -> Any:
    """A YAML text as JSON would hold it: dates and numbers as keys become text.

    Raises `ValueError` that reads `:line: problem`, whatever is wrong.
    """
    import yaml

    try:
        return msgspec.json.decode(msgspec.json.encode(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{line}: {getattr(error, 'problem', None) or 'not YAML'}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # A 13th month, a key that is a list, a value that holds itself.
        raise ValueError(f": {error}") from None


def anchored(tree: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """`tree` with its file names made absolute, so that a run can be continued from anywhere."""

    def full(names: Any, keys: Iterable[str], section: str) -> Any:
        if not isinstance(names, dict):
            return names
        found = {k: names[k] for k in keys if isinstance(names.get(k), str) and names[k]}
        return {
            **names,
            **{k: _absolute(v, base, f"{where}: `{section}`") for k, v in found.items()},
        }

    for section in ("catalogue", "prompts"):
        if section in tree:
            tree = {**tree, section: full(tree[section], tree[section] or (), section)}
    source = tree.get("source")
    if isinstance(source, dict) and _is_local(path := source.get("path")):
        tree = {**tree, "source": {**source, "path": _absolute(path, base, f"{where}: `source`")}}
    for section, key in (("duplicates", "against"), ("contamination", "sets")):
        tree = _anchored_list(tree, ("export", section, key), base, where)
    scenarios = tree.get("scenarios")
    if isinstance(scenarios, dict) and isinstance(named := scenarios.get("strategies"), list):
        files = [
            _absolute(n, base, f"{where}: `scenarios`") if isinstance(n, str) and is_file(n) else n
            for n in named
        ]
        tree = {**tree, "scenarios": {**scenarios, "strategies": files}}
    models = tree.get("models")
    if isinstance(models, dict):
        found = {k: full(m, ("chat_template",), f"models.{k}") for k, m in models.items()}
        tree = {**tree, "models": found}
    return tree


def _anchored_list(
    tree: dict[str, Any], keys: tuple[str, ...], base: Path, where: str
) -> dict[str, Any]:
    """`tree` with the file names of the list at `keys` made absolute, if it has one."""
    below: Any = tree
    for key in keys:
        below = below.get(key) if isinstance(below, dict) else None
    if not isinstance(below, list | tuple):
        return tree
    at = f"{where}: `{'.'.join(keys)}`"
    names = [_absolute(n, base, at) if _is_local(n) else n for n in below]
    return _set(tree, list(keys), names)


def _is_local(name: object) -> TypeGuard[str]:
    """Whether a name is that of a file here, and not of a data set on a hub."""
    return isinstance(name, str) and bool(name) and not name.startswith("hf:")


def _absolute(name: str, base: Path, where: str) -> str:
    """A file name of the configuration in the directory `base`."""
    try:  # not `./~x`: that is a file of this name
        path = Path(name).expanduser() if name[0] == "~" else Path(name)
    except RuntimeError as error:  # `~somebody`, who has no home here
        raise ConfigError(f"{where}: {error}; write the path out") from None
    return str((base / path).absolute())


def _set(tree: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """`tree` with the value at `path`, without touching the caller's mappings."""
    head, *rest = path
    below = tree.get(head)
    inner = _set(below if isinstance(below, dict) else {}, rest, value) if rest else value
    return {**tree, head: inner}


def _typed(tree: Any, kind: type[T], prefix: str, where: str) -> T:
    """`tree` as a `kind`; `prefix` is the dotted key that it stands under."""
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), prefix)}") from None


def _explain(message: str, prefix: str) -> str:
    """msgspec's message, with the dotted key and, for an unknown one, what was likely meant."""
    at = re.search(r" - at `(?:key in )?\$\.?(.*?)`$", message)
    below = at.group(1).removesuffix("[...]") if at else ""
    path = ".".join(filter(None, (prefix, below)))
    unknown = re.search(r"unknown field `(.*?)`", message)
    if not unknown:
        return f"`{path}`: {message.split(' - at ', maxsplit=1)[0]}; see docs/configuration.md"
    key = unknown.group(1)
    known = _keys_beside(path)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    dotted = f"{path}.{key}" if path else key
    return f"unknown key `{dotted}`; {hint}"


def _keys_beside(path: str) -> list[str]:
    """The keys of the section at a dotted `path`."""
    section: Any = Config()
    keys = [key for key in path.split(".") if key]
    if keys[:1] == ["models"]:
        section, keys = ModelConfig(), keys[2:]
    for key in keys:
        section = getattr(section, key, None)
    known = list(getattr(section, "__struct_fields__", ()))
    return [*known, "model"] if isinstance(section, Config) else known


def _check(config: Config, where: str) -> None:
    """What types alone cannot say."""
    _check_size(config, where)
    _check_parts(config, where)
    for name in config.critique.critics:
        if not MODEL_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: `critique.critics.{name}`: a name is letters, digits, `_` and `-`"
            )
    for role, name in config.cast.items():
        if name not in config.models:
            key = f"roles.{role}"
            if role not in ROLES:
                key = f"critique.critics.{role.partition('/')[2]}.model"
            raise ConfigError(
                f"{where}: `{key}` names `{name}`, which is not under `models` "
                f"({', '.join(config.models)}); add it there or name another"
            )
    for key in ("principles", "exchanges"):
        least, most = getattr(config.scenarios, key)
        if least > most:
            raise ConfigError(
                f"{where}: `scenarios.{key}`: [{least}, {most}] must be [least, most]"
            )
    most = config.scenarios.exchanges[1]
    if most > config.dialogue.max_exchanges:
        raise ConfigError(
            f"{where}: `scenarios.exchanges` asks for up to {most}, but `dialogue.max_exchanges` "
            f"is {config.dialogue.max_exchanges}; raise the one or lower the other"
        )
    splits = config.export.splits
    if splits.validation + splits.test >= 1:
        raise ConfigError(
            f"{where}: `export.splits`: `validation` and `test` leave nothing to train on; lower "
            "one of them"
        )
    _check_models(config, where)


def _check_parts(config: Config, where: str) -> None:
    """Import the parts that are the user's own: a run must not begin without them."""
    protocol = config.dialogue.protocol
    if protocol not in PROTOCOLS:
        _import_part(f"{where}: `dialogue.protocol`", protocol, "protocols", PROTOCOLS)
    if config.pipeline:
        _import_part(f"{where}: `pipeline`", config.pipeline, "pipelines")
    for name, critic in config.critique.critics.items():
        if critic.use and critic.model:
            raise ConfigError(
                f"{where}: `critique.critics.{name}` has both `use` and `model`; remove one of them"
            )
        if critic.use:
            _import_part(f"{where}: `critique.critics.{name}.use`", critic.use, "critics")


def _import_part(key: str, name: str, group: str, known: tuple[str, ...] = ()) -> None:
    try:
        resolve(name, group, known)
    except PluginError as error:
        raise ConfigError(f"{key}: {error}") from None


def _check_size(config: Config, where: str) -> None:
    if not (config.n or config.targets.on or config.source.path):
        raise ConfigError(
            f"{where}: `n` must be at least 1, but for a run with `targets` or a `source`"
        )
    if config.targets.on and config.source.path:
        raise ConfigError(
            f"{where}: `targets` steer what is made, and a `source` is made already; leave out one"
        )


def _check_models(config: Config, where: str) -> None:
    for name, model in config.models.items():
        if not MODEL_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: `models` has the name `{name}`; use letters, digits, `_` and `-`"
            )
        if model.launch and model.base_url:
            raise ConfigError(
                f"{where}: `models.{name}` has both `launch` and `base_url`; take one of them out"
            )
        if model.transport == "batch" and len(model.urls) > 1:
            raise ConfigError(
                f"{where}: `models.{name}` has `transport: batch` and several addresses; a batch "
                "is made at one: leave one in `base_url`"
            )
        if model.transport == "batch" and model.launch:
            raise ConfigError(
                f"{where}: `models.{name}` has `transport: batch` and `launch`, whose servers "
                "have no batches; take one of them out"
            )
        if not model.model.strip():
            raise ConfigError(f"{where}: `models.{name}.model` is empty; name a model")
