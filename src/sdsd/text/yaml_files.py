"""YAML, read strictly: one way for everything that people write in it.

YAML lets a key occur twice (the last one wins), a value stand for another (`*alias`, by which
400 bytes can take gigabytes) and nesting have no end. Files that people write need none of it, so
all of it is an error with its line. What is something else to YAML 1.1 than to people is text
(`off` is false there, and 1:30 is 90) or an error (010 is 8). PyYAML is kept: it is well tested,
it gives the nodes with their lines, and the rules fit on this page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yaml import Node, SafeDumper

_DEEPEST = 32
_EXPONENT = re.compile(r"[-+]?[0-9]++(?:\.[0-9]*+)?[eE][-+]?[0-9]++")
"""Numbers such as 1e3, which are text to YAML 1.1 and numbers to JSON and to people."""
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


class YamlError(ValueError):
    """A text is not the YAML that is read here: `problem`, at `line` (from 1)."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line, self.problem = line, problem


def parse(text: str) -> Any:
    """Return the value of a YAML text, as JSON could hold it: dates and keys are text as written.

    Raises `YamlError`.
    """
    root = compose(text)
    return None if root is None else _value(root)


def compose(text: str) -> Node | None:
    """Return the root node of a YAML text, with lines; None if it is empty. Raises `YamlError`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_structure(text, loader)
        root: Node | None = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlError(line, str(error.problem)) from None
    except yaml.YAMLError as error:  # a control character: no line, but a position
        position = getattr(error, "position", 0)
        counts_bytes = loader is not yaml.SafeLoader  # libyaml does
        before = text.encode()[:position] if counts_bytes else text[:position].encode()
        raise YamlError(before.count(b"\n") + 1, " ".join(str(error).split())) from None
    except UnicodeEncodeError as error:  # half a character
        line = text.count("\n", 0, error.start) + 1
        raise YamlError(line, f"has {text[error.start]!a}, half a character") from None
    if root is not None:
        _check_keys(root)
    return root


def dump(value: Any) -> str:
    """Return plain values as YAML that `parse` reads back."""
    import yaml

    text: str = yaml.dump(value, Dumper=_dumper(), sort_keys=False)
    return text


def _check_structure(text: str, loader: Any) -> None:
    """Refuse what could crash `yaml.compose`, which recurses in C, or make values endless.

    Also refuses a second document, for which `compose` has no clear message.
    """
    import yaml

    depth = documents = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        line = event.start_mark.line + 1 if event.start_mark else 1
        if documents > 1:
            raise YamlError(line, "a second document in one file")
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(line, "aliases are not read; write the value out")
        if depth > _DEEPEST:
            raise YamlError(line, f"nested more than {_DEEPEST} deep")


def _check_keys(root: Node) -> None:
    """Refuse a key that is not a text or a number, or that its mapping has twice."""
    import yaml

    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError(line, "a key must be text")
            if key.value == "<<" and not key.style:
                raise YamlError(line, "`<<` is not read; write the keys out")
            if (earlier := first.get(key.value)) is not None:
                name = key.value[:60]
                raise YamlError(line, f"the key {name!r} occurs twice, first on line {earlier}")
            first[key.value] = line
            pending.append(value)


def _value(node: Node) -> Any:
    import yaml

    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return {key.value: _value(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(item) for item in node.value]
    if not isinstance(node, yaml.ScalarNode) or kind not in _SCALARS:
        raise YamlError(node.start_mark.line + 1, f"the tag {node.tag[:60]!r} is not read")
    if kind == "int" and _LEADING_ZERO.fullmatch(node.value):
        wrong = f"{node.value[:60]} is another number to YAML than to people"
        raise YamlError(
            node.start_mark.line + 1, f"{wrong}; leave the zero out, or put it in quotation marks"
        )
    if kind == "str" and not node.style and _EXPONENT.fullmatch(node.value):
        number = float(node.value)
        return int(number) if number.is_integer() else number
    try:
        return _SCALARS[kind](_constructor(), node)
    # For example a 13th month, or an explicit tag on what does not look like it.
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        wrong = f"{node.value[:60]!r} is not of the type {kind} ({error})"
        raise YamlError(node.start_mark.line + 1, wrong) from None


_SCALARS: dict[str, Callable[[Any, Any], Any]] = {
    "str": lambda _, node: node.value,
    "timestamp": lambda made, node: made.construct_yaml_timestamp(node) and node.value,
    "null": lambda _, node: None,
    "bool": lambda made, node: (
        made.construct_yaml_bool(node) if node.value.casefold() in ("true", "false") else node.value
    ),
    "int": lambda made, node: node.value if ":" in node.value else made.construct_yaml_int(node),
    "float": lambda made, node: (
        node.value if ":" in node.value else made.construct_yaml_float(node)
    ),
}
"""By tag, the value of a scalar."""


@cache
def _constructor() -> Any:
    import yaml

    return yaml.constructor.SafeConstructor()


@cache
def _dumper() -> type[SafeDumper]:
    """Return a dumper that puts quotes around a text that `parse` would take for a number."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    tag, first = "tag:yaml.org,2002:float", list("-+0123456789")
    Dumper.add_implicit_resolver(tag, re.compile(rf"(?:{_EXPONENT.pattern})\Z"), first)
    return Dumper
