"""A model's chat template, from its files or from a server that renders it only as tokens.

`sdsd.text.chat_format` cuts the seams out of a rendering. llama.cpp renders for us; other servers do not,
so here the template is rendered from the model's own files (`learn`), as transformers does it, or
put together from vLLM's `/tokenize` and `/detokenize` (`from_server`).

A template is a program that came with a model. It runs in Jinja's sandbox, which keeps it from
this process's objects, and `range` is bounded over the whole rendering. Neither stops one that is
made to burn time or memory by other means: give the files of a model that you trust to load.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sdsd.errors import WeightsError
from sdsd.text.chat_format import Template, cut, marked
from sdsd.types import Message

if TYPE_CHECKING:
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

Post = Callable[[str, Mapping[str, object]], Awaitable[dict[str, object] | None]]
"""Posts JSON to a path under the server's root; the reply, or None if there is no good one."""

_MOST_STEPS = 100_000
"""Numbers that all calls of `range` in one rendering hand out together."""
_MOST_BYTES = 64 << 20
"""No template or tokenizer's configuration is larger."""
_TODAY = datetime(2024, 7, 26)
"""What templates that ask for the date are told, on any day: a run goes on with the seams that it
began with. It is the day that Llama 3's own template falls back to."""
_DATED = {"date_string": _TODAY.strftime("%d %b %Y")}
_ADD_BOS = ("Llama", "CodeLlama", "Gemma")
"""Tokenizer classes of transformers that write the BOS token unless told otherwise."""
_USES_TOKENS = re.compile(r"\b(bos_token|eos_token)\b")


class Source(Struct, frozen=True):
    """A chat template as its model's files hold it."""

    text: str
    special: dict[str, str]
    """Special tokens by the names that templates use: `bos_token`, `eos_token`."""
    adds_bos: bool | None = None
    """The tokenizer writes the BOS token before every prompt. None: the files do not say."""


def render(source: str, messages: Sequence[Message], *, special: Mapping[str, str] = {}) -> str:
    """The messages in a Jinja chat template's format, without an opened agent turn.

    Raises `WeightsError` with what the template said if it refuses the messages, breaks off or
    reaches for what it must not, and if jinja2 is not installed.
    """
    environment = _environment()
    chat = [{"role": m.role, "content": m.content} for m in messages]
    given = {**special, **_DATED, "messages": chat, "tools": None, "documents": None}
    try:
        return environment.from_string(source).render({**given, "add_generation_prompt": False})
    except Exception as error:  # a template may raise anything
        said = "".join(c if c.isprintable() else " " for c in str(error))[:300]
        raise WeightsError(f"the chat template: {said or type(error).__name__}") from None


def source(path: Path) -> Source:
    """The chat template that belongs to a path.

    That is a `.jinja` file, a `tokenizer_config.json`, a directory that holds either (the former
    goes first), or a GGUF file. Raises `WeightsError` if there is none, or it cannot be read.
    """
    if path.is_dir():
        return source(_inside(path))
    if path.suffix == ".gguf":
        return _from_gguf(path)
    beside = path.with_name("tokenizer_config.json")
    if path.suffix != ".jinja":
        config = _configuration(path)
        return Source(_named_default(config, path), _special(config), _adds_bos(config))
    text = _read(path).decode("utf-8", "replace")
    if beside.is_file():
        config = _configuration(beside)
        return Source(text, _special(config), _adds_bos(config))
    if needed := _USES_TOKENS.search(text):
        raise WeightsError(
            f"{path}: uses `{needed.group()}`, and no tokenizer_config.json beside it says what "
            "that is; put the model's own there"
        )
    return Source(text, {})


def learn(path: Path) -> tuple[Template, bool]:
    """The seams of the chat template at `path` (see `source`), and whether it keeps a system turn.

    A BOS token at the very front is dropped where servers write it themselves. The tokenizer's
    files say so (`add_bos_token`, or a kind that does by default); if they do not, it is dropped
    when it is seen at the front only, because one that comes again is a mark of turns. Raises
    `WeightsError` if no seams are found.
    """
    found = source(path)
    why = "it loses or moves a turn"
    for system in (True, False):
        try:
            rendered = render(found.text, marked(system=system), special=found.special)
        except WeightsError as error:
            why = str(error)
            continue
        template = cut(_without_bos(rendered, found))
        if template is not None:
            return template, system
    raise WeightsError(
        f"{path}: no seams can be cut out of its chat template ({why}); "
        "`dialogue.protocol: chat` needs none"
    )


def _without_bos(rendered: str, found: Source) -> str:
    """The rendering as a prompt: without the BOS token that the server is going to write."""
    bos = found.special.get("bos_token", "")
    adds = rendered.count(bos) == 1 if found.adds_bos is None else found.adds_bos
    return rendered.removeprefix(bos) if adds else rendered


async def from_server(post: Post, model: str) -> tuple[Template, bool] | None:
    """The seams of the template that a vLLM server renders, and whether it keeps a system turn.

    The rendering comes as tokens. Seams are taken only if their text, sent as a prompt, becomes
    the same tokens again; that also shows whether the server writes the BOS token itself. None if
    the server lacks the routes, or text and tokens of this model do not match.
    """
    for system in (True, False):
        chat = [{"role": m.role, "content": m.content} for m in marked(system=system)]
        asked = {"messages": chat, "add_generation_prompt": False, "chat_template_kwargs": _DATED}
        tokens = await _tokens(post, {"model": model, **asked})
        text = await _text(post, model, tokens)
        if cut(text) is None:
            continue
        first = await _text(post, model, tokens[:1])
        for prompt in (text, text.removeprefix(first)):
            template = cut(prompt)
            again = await _tokens(post, {"model": model, "prompt": prompt})
            if template is not None and again == tokens:
                return template, system
    return None


async def _tokens(post: Post, asked: Mapping[str, object]) -> list[int]:
    """What `/tokenize` makes of a prompt or of messages; empty if nothing of use."""
    reply = await post("/tokenize", asked) or {}
    tokens = reply.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        return []
    return tokens


async def _text(post: Post, model: str, tokens: list[int]) -> str:
    """The text of tokens, special ones included; empty if the server does not say."""
    if not tokens:
        return ""
    reply = await post("/detokenize", {"model": model, "tokens": tokens}) or {}
    text = reply.get("prompt")
    return text if isinstance(text, str) else ""


def _environment() -> SandboxedEnvironment:
    """Jinja as transformers sets it up for chat templates, with one `range` for all loops."""
    try:
        from jinja2 import TemplateError
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise WeightsError(
            "reading a chat template needs an extra: pip install 'sdsd[template]'"
        ) from None

    class Generation(Extension):
        """`{% generation %}`, which marks what to train on: the text inside, as it is."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    steps = 0

    def bounded(*bounds: int) -> range:
        nonlocal steps
        numbers = range(*bounds)
        steps += len(numbers)
        if steps > _MOST_STEPS:
            raise TemplateError(f"loops over more than {_MOST_STEPS} numbers")
        return numbers

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "range": bounded,
        "raise_exception": refuse,
        "strftime_now": _TODAY.strftime,
    }
    return environment


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON without the escaping for HTML that Jinja's own filter adds."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _inside(directory: Path) -> Path:
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (directory / name).is_file():
            return directory / name
    raise WeightsError(
        f"{directory}: holds neither chat_template.jinja nor tokenizer_config.json; "
        "name the directory of a model as downloaded from its hub, or a .gguf file"
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; name a file that can be read") from None
    if len(data) > _MOST_BYTES:
        raise WeightsError(f"{path}: too large to be a chat template or to hold one")
    return data


def _configuration(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(_read(path), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not a tokenizer's configuration: {error}") from None


def _named_default(config: Mapping[str, Any], path: Path) -> str:
    """The template: the only one, or the one named `default`."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        raise WeightsError(
            f"{path}: has no chat template; is it that of a model tuned to chat? "
            "A chat_template.jinja beside it is used first"
        )
    return template


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens: each is a text, or an object with the text as its `content`."""
    special = {}
    for name, token in config.items():
        text = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(text, str):
            special[name] = text
    return special


def _adds_bos(config: Mapping[str, Any]) -> bool | None:
    said = config.get("add_bos_token")
    if isinstance(said, bool):
        return said
    return True if str(config.get("tokenizer_class")).startswith(_ADD_BOS) else None


# GGUF: what stands before the tensors is a list of keys and values, little-endian throughout.

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""
_MAGIC = int.from_bytes(b"GGUF", "little")
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_MOST_KEYS = 1 << 16
_MOST_TOKENS = 1 << 22


class _Header:
    """Reads the keys and values of a GGUF file in place, and only where the file really goes on."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self.at = 0

    def number(self, form: str) -> int:
        """The next number; `form` is that of `struct`."""
        begin = self.skip(struct.calcsize(form))
        return int(struct.unpack_from(form, self._data, begin)[0])

    def skip(self, size: int) -> int:
        """Go over `size` bytes; returns where they begin."""
        begin = self.at
        if size > len(self._data) - begin:
            raise self.broken("cut short, or a length in it is wrong")
        self.at += size
        return begin

    def text(self) -> str:
        """The next string."""
        size = self.number("<Q")
        if size > _MOST_BYTES:
            raise self.broken(f"has a string of {size} bytes")
        begin = self.skip(size)
        return self._data[begin : self.at].decode("utf-8", "replace")

    def pass_over(self, kind: int) -> None:
        """Go over a value of that type."""
        if kind == _STRING:
            self.skip(self.number("<Q"))
        elif kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if inner == _STRING:
                self.pass_strings(count)
            else:
                self.skip(count * self._size(inner))
        else:
            self.skip(self._size(kind))

    def pass_strings(self, count: int) -> None:
        """Go over that many strings."""
        if count > _MOST_TOKENS:
            raise self.broken(f"has an array of {count} strings")
        for _ in range(count):
            self.skip(self.number("<Q"))

    def _size(self, kind: int) -> int:
        if kind not in _SIZES:
            raise self.broken(f"has a value of the unknown type {kind}")
        return _SIZES[kind]

    def broken(self, why: str) -> WeightsError:
        """The error that says what is wrong with the file."""
        return WeightsError(f"{self._path}: not a whole GGUF file: {why}; fetch it again")


class _Found(Struct):
    """What the header says of the template and of tokens."""

    at: int = 0
    """Where the texts of the tokens begin, `count` of them."""
    count: int = 0
    bos: int = -1
    """The token's number; negative: not named."""
    eos: int = -1
    adds_bos: bool | None = None
    sentencepiece: bool = False
    """The kind of tokenizer that writes the BOS token unless told otherwise."""
    template: str | None = None


def _from_gguf(path: Path) -> Source:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data, path)
            found = _header(header)
            special = {
                name: _token(header, found, number)
                for name, number in (("bos_token", found.bos), ("eos_token", found.eos))
                if number >= 0
            }
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; name a file that can be read") from None
    except ValueError:  # an empty file cannot be mapped
        raise WeightsError(f"{path}: is empty; fetch it again") from None
    if found.template is None:
        raise WeightsError(f"{path}: has no chat template; is it a model tuned to chat?")
    adds_bos = True if found.adds_bos is None and found.sentencepiece else found.adds_bos
    return Source(found.template, special, adds_bos)


def _header(header: _Header) -> _Found:
    """Everything of interest, in one pass over keys and values."""
    if header.number("<I") != _MAGIC:
        raise header.broken("it does not begin as one")
    version = header.number("<I")
    if version not in (2, 3):
        raise header.broken(f"version {version}, known are 2 and 3")
    header.skip(8)  # the number of tensors
    count = header.number("<Q")
    if count > _MOST_KEYS:
        raise header.broken(f"has {count} keys")
    found = _Found()
    for _ in range(count):
        _note(header, found, header.text(), header.number("<I"))
    return found


def _note(header: _Header, found: _Found, key: str, kind: int) -> None:
    """Keep the value of a key that matters, go over any other."""
    if (key, kind) == ("tokenizer.chat_template", _STRING):
        found.template = header.text()
    elif (key, kind) == ("tokenizer.ggml.bos_token_id", _UINT32):
        found.bos = header.number("<I")
    elif (key, kind) == ("tokenizer.ggml.eos_token_id", _UINT32):
        found.eos = header.number("<I")
    elif (key, kind) == ("tokenizer.ggml.add_bos_token", _BOOL):
        found.adds_bos = header.number("<B") != 0
    elif (key, kind) == ("tokenizer.ggml.model", _STRING):
        found.sentencepiece = header.text() == "llama"
    elif (key, kind) == ("tokenizer.ggml.tokens", _ARRAY):
        inner, found.count = header.number("<I"), header.number("<Q")
        if inner != _STRING:
            raise header.broken(f"its tokens are of type {inner}, not texts")
        found.at = header.at
        header.pass_strings(found.count)
    else:
        header.pass_over(kind)


def _token(header: _Header, found: _Found, number: int) -> str:
    """The text of a token."""
    if number >= found.count:
        raise header.broken(f"names token {number} of {found.count}")
    header.at = found.at
    header.pass_strings(number)
    return header.text()
