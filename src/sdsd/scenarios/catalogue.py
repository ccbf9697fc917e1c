"""The catalogue: what dialogues are about (topics), may break (principles) and are for (goals).

Every format is read into the same tree of values that know their file and line, and one validator
makes frozen values of that tree. So a fault is named the same way wherever it stands:
`path:line: what is wrong; what to do`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import msgspec
from msgspec import Struct

from sdsd.errors import CatalogueError
from sdsd.types import Domain, Goal, Principle, Severity

if TYPE_CHECKING:
    from yaml import Event, ScalarEvent

PACKAGED = Path(__file__).parent / "data"
EXTENSIONS = (".yaml", ".yml", ".toml", ".csv", ".jsonl")


class Catalogue(Struct, frozen=True):
    """The three lists that scenarios are drawn from. Order counts: it is part of the digest."""

    domains: tuple[Domain, ...]
    principles: tuple[Principle, ...]
    goals: tuple[Goal, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the content, whatever files, formats and comments it was written in."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    @property
    def fields(self) -> dict[str, tuple[Domain, ...]]:
        """Every field with its domains, both in the order of the files."""
        fields: dict[str, list[Domain]] = {}
        for domain in self.domains:
            fields.setdefault(domain.field, []).append(domain)
        return {field: tuple(domains) for field, domains in fields.items()}


def load(
    topics: Path | None = None, principles: Path | None = None, goals: Path | None = None
) -> Catalogue:
    """Read the three lists, each from a file or a directory of files; None: the packaged list.

    Raises `CatalogueError` at the first fault, as `path:line: what is wrong; what to do`.
    """
    return Catalogue(
        domains=_domains(_entries(topics or PACKAGED / "topics", "fields")),
        principles=_principles(_entries(principles or PACKAGED / "principles.yaml", "principles")),
        goals=_goals(_entries(goals or PACKAGED / "goals.yaml", "goals")),
    )


# --- similarity -------------------------------------------------------------------------------

_STOP_WORDS = """
a about after an and are as at be been before but by can for from had has have how if in into is it
its no of off on or out over own should so than that the their them then there they this to too
under until up was were what when where whether which while who whose why will with without
"""
_STOP = frozenset(_STOP_WORDS.split())


def content_words(text: str) -> list[str]:
    """The words of `text` in order, case-folded, without those that say little."""
    bare = re.sub(r"['’]s\b", "", text.casefold())
    return [word for word in re.findall(r"\w+", bare) if word not in _STOP]


def near_duplicates(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """All pairs (i, j, score), i < j, whose content words have a Jaccard index >= `threshold`.

    Texts without content words match nothing. Raises `ValueError` unless 0 < threshold <= 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must be above 0 and at most 1, not {threshold}")
    bags = [frozenset(content_words(text)) for text in texts]
    count = Counter(word for bag in bags for word in bag)
    index: defaultdict[str, list[int]] = defaultdict(list)
    found = []
    for i, bag in enumerate(bags):
        # Two similar sets, each sorted by rarity, share a word among their first few. Only those
        # are indexed, so a common word never makes everything a candidate.
        least_shared = math.ceil(threshold * len(bag) - 1e-9)
        rarest = sorted(bag, key=lambda word: (count[word], word))[: len(bag) - least_shared + 1]
        for j in {j for word in rarest for j in index[word]}:
            shared = len(bag & bags[j])
            score = shared / (len(bag) + len(bags[j]) - shared)
            if score >= threshold:
                found.append((j, i, score))
        for word in rarest:
            index[word].append(i)
    return sorted(found)


# --- values that know where they were written ---------------------------------------------------


class _Node(NamedTuple):
    """A value, its file, and its line: a number, `entry 3` where lines are unknown, or 0."""

    path: Path
    line: int | str
    value: object

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}" if self.line else str(self.path)

    def error(self, wrong: str, remedy: str) -> CatalogueError:
        return CatalogueError(f"{self.place}: {wrong}; {remedy}")


class _Shape(NamedTuple):
    """The keys that a mapping must have, and those that it may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_PRINCIPLE = _Shape(("text",), ("id", "family", "category", "severity"))
_GOAL = _Shape(("text",), ("id", "kind"))
_FIELD = _Shape(("field", "domains"), ("name",))
_DOMAIN = _Shape(("name", "subareas"))
_FLAT_DOMAIN = _Shape(("field", "domain", "subareas"))
_SUBAREA = _Shape(("field", "domain", "subarea"))
_CSV = {"fields": _SUBAREA, "principles": _PRINCIPLE, "goals": _GOAL}

# Tabs and line ends are space, which texts are freed of. The rest is never meant to be there;
# it garbles prompts and terminals (surrogates cannot even be written).
_CONTROL = re.compile(r"[\0-\b\v\f\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_DELETE_CONTROL = "delete it, or save the text anew as plain UTF-8"


def _kind(value: object) -> str:
    """What a value is, in a user's words."""
    names = {str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list"}
    names |= {dict: "a mapping", type(None): "nothing"}
    return names.get(type(value), "something else")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _keys(node: _Node, shape: _Shape) -> dict[str, _Node]:
    """The mapping at `node`, with no key too many and none too few."""
    known = shape.required + shape.optional
    if not isinstance(node.value, dict):
        raise node.error(
            f"expected a mapping, found {_kind(node.value)}", f"its keys are {', '.join(known)}"
        )
    values: dict[str, _Node] = node.value
    for key, value in values.items():
        if key not in known:
            close = get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            raise value.error(f"unknown key {_shown(key)}", hint)
    for key in shape.required:
        if key not in values:
            raise node.error(f"the key {key!r} is missing", "add it")
    return values


def _items(node: _Node, what: str) -> list[_Node]:
    """The list at `node`, which must hold something."""
    if not isinstance(node.value, list):
        raise node.error(f"{what} must be a list, not {_kind(node.value)}", "make it a list")
    if not node.value:
        raise node.error(f"the list of {what} is empty", "add at least one, or remove the entry")
    return list(node.value)


def _text(node: _Node, what: str) -> str:
    """The text at `node` with every run of white space made one space."""
    value = "" if node.value is None else node.value
    if not isinstance(value, str):
        raise node.error(
            f"{what} must be text, not {_kind(node.value)}",
            "put it in quotes if it only looks like a number, a date, yes/no or a mapping",
        )
    if control := _CONTROL.search(value):
        raise node.error(f"{what} holds the control character {control[0]!a}", _DELETE_CONTROL)
    text = " ".join(value.split())
    if not text:
        raise node.error(f"{what} is empty", "write a text")
    return text


def _once(seen: dict[str, _Node], node: _Node, text: str, what: str) -> None:
    """Note `text`, unless it was seen before: capitals make no difference."""
    if first := seen.get(text.casefold()):
        raise node.error(
            f"the {what} {_shown(text)} stands at {first.place} already", "change or remove one"
        )
    seen[text.casefold()] = node


# --- the validator ------------------------------------------------------------------------------


def _domains(entries: list[_Node]) -> tuple[Domain, ...]:
    names: dict[str, _Node] = {}
    domains = []
    for field, name, subareas in _domain_nodes(entries):
        title = _text(name, "the domain's name")
        _once(names, name, title, "domain")
        seen: dict[str, _Node] = {}
        texts = []
        for subarea in _items(subareas, f"subareas of {_shown(title)}"):
            texts.append(_text(subarea, f"a subarea of {_shown(title)}"))
            _once(seen, subarea, texts[-1], "subarea")
        domains.append(Domain(_text(field, "the field"), title, tuple(texts)))
    return tuple(domains)


def _domain_nodes(entries: list[_Node]) -> Iterator[tuple[_Node, _Node, _Node]]:
    """Field, name and subareas of every domain; an entry is a field of many, or one domain."""
    for entry in entries:
        keys = entry.value if isinstance(entry.value, dict) else {}
        if "subareas" in keys or ("domain" in keys and not isinstance(keys["domain"].value, list)):
            flat = _keys(entry, _FLAT_DOMAIN)
            yield flat["field"], flat["domain"], flat["subareas"]
            continue
        values = _keys(entry, _FIELD)
        if "name" in values:  # a title for readers of the file
            _text(values["name"], "the field's name")
        for item in _items(values["domains"], "domains"):
            domain = _keys(item, _DOMAIN)
            yield values["field"], domain["name"], domain["subareas"]


def _principles(entries: list[_Node]) -> tuple[Principle, ...]:
    defaults = {"family": "user", "category": "user", "severity": "medium"}
    rows = _sentences(entries, _PRINCIPLE, defaults, "principle")
    known = get_args(Severity)
    for entry, row in zip(entries, rows, strict=True):
        if row["severity"] not in known:
            node = _keys(entry, _PRINCIPLE)["severity"]
            raise node.error(
                f"the severity {_shown(row['severity'])} is unknown", f"use {', '.join(known)}"
            )
    return msgspec.convert(rows, tuple[Principle, ...])


def _goals(entries: list[_Node]) -> tuple[Goal, ...]:
    return msgspec.convert(_sentences(entries, _GOAL, {"kind": "user"}, "goal"), tuple[Goal, ...])


def _sentences(
    entries: list[_Node], shape: _Shape, defaults: Mapping[str, str], what: str
) -> list[dict[str, str]]:
    """The entries as rows of text; every text and every id stands once."""
    rows = []
    ids: dict[str, _Node] = {}
    texts: dict[str, _Node] = {}
    for entry in entries:
        values = _keys(entry, shape)
        row = dict(defaults) | {key: _text(node, f"{key!r}") for key, node in values.items()}
        _once(texts, values["text"], row["text"], what)
        if "id" in row:
            _once(ids, values["id"], row["id"], "id")
            if not re.fullmatch(r"\w[\w.-]*", row["id"]):
                raise values["id"].error(
                    f"the id {_shown(row['id'])} is not one word",
                    "use letters, digits, '-', '_' and '.'",
                )
        rows.append(row)
    for entry, row in zip(entries, rows, strict=True):
        if "id" not in row:  # only now: ids that were chosen come before ids that are made
            row["id"] = _made_id(row["text"], ids)
            ids[row["id"]] = entry
    return rows


def _made_id(text: str, taken: Mapping[str, object]) -> str:
    """A readable id from the text's first content words, numbered if it is taken."""
    slug = "-".join(content_words(text)[:6])[:48].strip("-") or "text"
    numbered = (f"{slug}-{n}" for n in itertools.count(2))
    return next(name for name in itertools.chain([slug], numbered) if name not in taken)


# --- the files ----------------------------------------------------------------------------------


def _entries(path: Path, key: str) -> list[_Node]:
    """The entries of all files at `path`; `key` names the list in files that hold several."""
    return [entry for file in _files(path) for entry in _file_entries(file, key)]


def _files(path: Path) -> list[Path]:
    """`path` itself, or the files in it, sorted by name, without hidden files and READMEs."""
    source = _Node(path, 0, None)
    try:
        if not path.is_dir():
            return [path]
        files = sorted(p for p in path.iterdir() if not p.name.startswith((".", "README")))
    except (OSError, ValueError) as error:
        raise source.error(f"cannot be read: {error}", "check the path") from error
    if not files:
        raise source.error("the directory is empty", f"add a file ({', '.join(EXTENSIONS)})")
    return files


def _file_entries(path: Path, key: str) -> list[_Node]:
    text = _file_text(path)
    match path.suffix.lower():
        case ".csv":
            document = _csv(path, text, key)
        case ".jsonl":
            document = _jsonl(path, text)
        case ".toml":
            document = _toml(path, text)
        case _:
            document = _yaml(path, text)
    return _listed(document, key)


def _listed(document: _Node, key: str) -> list[_Node]:
    """The entries of a document: a list, a mapping with the list under `key`, or one entry."""
    value = document.value
    if value is None or value in ([], {}, ""):
        raise document.error(f"there are no {key} in this file", "add some, or remove the file")
    if not isinstance(value, dict):
        return _items(document, key)
    if key in value:
        return _items(_keys(document, _Shape((key,), tuple(_CSV)))[key], key)
    for close in get_close_matches(
        key, [name for name, node in value.items() if isinstance(node.value, list)], 1
    ):
        raise value[close].error(f"unknown key {_shown(close)}", f"did you mean {key!r}?")
    return [document]


def _file_text(path: Path) -> str:
    source = _Node(path, 0, None)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise source.error("there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise source.error(f"cannot be read: {error}", "check the path") from error
    if path.suffix.lower() not in EXTENSIONS:
        raise source.error(
            f"cannot read files of type {path.suffix!r}", f"use one of {', '.join(EXTENSIONS)}"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        wrong = f"the byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise _Node(path, line, None).error(wrong, "save the file as UTF-8") from error
    if control := _CONTROL.search(text):
        line = text.count("\n", 0, control.start()) + 1
        wrong = f"the file holds the control character {control[0]!a}"
        raise _Node(path, line, None).error(wrong, _DELETE_CONTROL)
    return text


def _csv(path: Path, text: str, key: str) -> _Node:
    """A list of mappings, one per row; an empty cell is a key that was left out."""
    entries: list[_Node] = []
    names: list[str] = []
    for line, cells in _csv_rows(path, text):
        row = _Node(path, line, None)
        if not names:
            names = cells
            _keys(row._replace(value=dict.fromkeys(names, row)), _CSV[key])
            if len(set(names)) < len(names):
                raise row.error("two columns have the same name", "rename or remove one")
        elif len(cells) != len(names):
            wrong = f"{len(cells)} cells, but the header names {len(names)}"
            raise row.error(wrong, "put a text that holds a comma in double quotes")
        else:
            filled = {n: _Node(path, line, c) for n, c in zip(names, cells, strict=True) if c}
            entries.append(row._replace(value=filled))
    return _Node(path, 1, _joined(entries) if key == "fields" else entries)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line where it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        remedy = 'put texts in double quotes, and write a quote inside as ""'
        raise _Node(path, line, None).error(f"bad CSV: {error}", remedy) from error


def _joined(rows: list[_Node]) -> list[_Node]:
    """One entry per domain from one row per subarea."""
    domains: dict[tuple[object, object], list[dict[str, _Node]]] = {}
    for row in rows:
        values = _keys(row, _SUBAREA)
        name = (values["field"].value, values["domain"].value)
        domains.setdefault(name, []).append(values)
    entries = []
    for group in domains.values():
        field, domain = group[0]["field"], group[0]["domain"]
        subareas = field._replace(value=[values["subarea"] for values in group])
        entries.append(
            field._replace(value={"field": field, "domain": domain, "subareas": subareas})
        )
    return entries


def _jsonl(path: Path, text: str) -> _Node:
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_without_repeats)
            entries.append(_tree(path, value, number))
        except (ValueError, RecursionError) as error:
            wrong = f"bad JSON: {error}"
            raise _Node(path, number, None).error(wrong, "write one object per line") from error
    return _Node(path, 1, entries)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"the key {_shown(key)} stands {count} times")
    return dict(pairs)


def _toml(path: Path, text: str) -> _Node:
    try:
        document = tomllib.loads(text)
        values = {
            key: _Node(path, 1, _tables(path, text, key, value))
            if isinstance(value, list)
            else _tree(path, value, 1)
            for key, value in document.items()
        }
    except (ValueError, RecursionError) as error:
        wrong, _, place = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = int(found[1]) if found else text.count("\n") + 1
        raise _Node(path, line, None).error(f"bad TOML: {wrong}", "correct this line") from error
    return _Node(path, 1, values)


def _tables(path: Path, text: str, key: str, items: list[object]) -> list[_Node]:
    """The items of a top-level array, each at the line of its `[[header]]`.

    The parser keeps no lines, so headers are counted. If there is not one per item (the array is
    written inline), the number of the entry must do.
    """
    header = re.compile(rf"\s*\[\[\s*{re.escape(key)}\s*\]\]")
    lines = [n for n, line in enumerate(text.split("\n"), 1) if header.match(line)]
    counted = len(lines) == len(items)
    return [
        _tree(path, item, lines[n] if counted else f"entry {n + 1}") for n, item in enumerate(items)
    ]


def _tree(path: Path, value: object, line: int | str) -> _Node:
    """A parsed value as nodes that all stand at one line."""
    if isinstance(value, dict):
        value = {key: _tree(path, inner, line) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [_tree(path, item, line) for item in value]
    return _Node(path, line, value)


def _yaml(path: Path, text: str) -> _Node:
    import yaml

    try:
        return _YamlTree(path, text).document()
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        line, wrong = 1, " ".join(str(error).split())
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            line, wrong = error.problem_mark.line + 1, str(error.problem)
        remedy = "correct it here or just above; a text that holds ': ' or ' #' needs quotes"
        raise _Node(path, line, None).error(f"bad YAML: {wrong}", remedy) from error


class _YamlTree:
    """Builds the tree from the parser's events.

    Not from `yaml.compose`: it recurses in C, so a file of brackets alone would crash the
    process. It also follows aliases, which can make a tree endless; a catalogue needs none.
    """

    def __init__(self, path: Path, text: str) -> None:
        import yaml

        self._path = path
        self._events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._resolver: Any = yaml.resolver.Resolver()

    def document(self) -> _Node:
        import yaml

        root: _Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root:
                    raise self._at(event).error("a second YAML document", "keep one list per file")
                root = self._node(next(self._events), 0)
        return root or _Node(self._path, 1, None)

    def _at(self, event: Event, value: object = None) -> _Node:
        mark = event.start_mark
        return _Node(self._path, mark.line + 1 if mark else 1, value)

    def _node(self, event: Event, depth: int) -> _Node:
        import yaml

        if depth > 8:
            raise self._at(event).error("nested too deeply", "see the format of a catalogue file")
        match event:
            case yaml.ScalarEvent():
                return self._at(event, self._scalar(event))
            case yaml.SequenceStartEvent():
                items = []
                while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                    items.append(self._node(item, depth + 1))
                return self._at(event, items)
            case yaml.MappingStartEvent():
                return self._at(event, self._mapping(depth))
        raise self._at(event).error("YAML aliases are not read", "write the value out, or quote it")

    def _mapping(self, depth: int) -> dict[str, _Node]:
        import yaml

        values: dict[str, _Node] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise self._at(key).error("a key must be text", "write it as `key: value`")
            if key.value in values:
                raise self._at(key).error(f"the key {_shown(key.value)} stands twice", "remove one")
            value = self._node(next(self._events), depth + 1).value
            values[key.value] = self._at(key, value)  # the line a reader looks for is the key's
        return values

    def _scalar(self, event: ScalarEvent) -> object:
        """Text as it is; of other scalars only the type matters."""
        import yaml

        tag = event.tag or self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        others = {"null": None, "bool": True, "int": 0, "float": 0.0}
        kind = str(tag).removeprefix("tag:yaml.org,2002:")
        return event.value if kind == "str" else others.get(kind, event)
