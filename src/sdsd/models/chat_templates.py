"""Learn a model's chat template from its files, or from a server that renders it only as tokens.

`sdsd.text.chat_format` cuts the seams out of a rendering. llama.cpp renders for us; other servers
do not, so the template is rendered here from the model's own files (`learn`), as transformers does
it, or reconstructed from vLLM's `/tokenize` and `/detokenize` (`from_server`).

A template is a program that came with a model. It runs in Jinja's sandbox, which keeps it from this
process's objects, and `range` is bounded over the whole rendering. Neither stops a template that
wastes time or memory by other means: use only files of models that you would trust to load.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sdsd.errors import WeightsError
from sdsd.models.thinking import switch
from sdsd.text.chat_format import Template, cut, marked, opened, switched
from sdsd.types import Message

if TYPE_CHECKING:
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

Post = Callable[[str, Mapping[str, object]], Awaitable[dict[str, object] | None]]
"""Posts JSON to a path below the server's root; returns the JSON reply, or None."""

_MAX_STEPS = 100_000
"""Numbers that all calls of `range` in one rendering may produce together."""
_MAX_BYTES = 64 << 20
"""A larger file is not a template or tokenizer configuration."""
_TODAY = datetime(2024, 7, 26)
"""The date that templates always see, so that a run continues with the seams it began with.
Llama 3's own template falls back to it."""
_DATED = {"date_string": _TODAY.strftime("%d %b %Y")}
_ADD_BOS = ("Llama", "CodeLlama", "Gemma")
"""Tokenizer classes of transformers that add the BOS token by default."""
_USES_TOKENS = re.compile(r"\b(bos_token|eos_token)\b")


class Source(Struct, frozen=True):
    """A chat template as found in a model's files."""

    text: str
    special: dict[str, str]
    """Special tokens by the names that templates use: `bos_token`, `eos_token`."""
    adds_bos: bool | None = None
    """Whether the tokenizer adds the BOS token to every prompt; None: the files do not say."""


def render(
    source: str,
    messages: Sequence[Message],
    *,
    special: Mapping[str, str] = {},
    prompt: bool = False,
    variables: Mapping[str, object] = {},
) -> str:
    """Render messages by a Jinja chat template; with `prompt`, open the model's turn.

    Raises `WeightsError` with the template's own message if it rejects the messages, fails or
    violates the sandbox.
    """
    environment = _environment()
    chat = [{"role": m.role, "content": m.content} for m in messages]
    given = {**special, **_DATED, **variables, "messages": chat, "tools": None, "documents": None}
    try:
        code, known = _compiled(source), environment.make_globals(None)
        template = environment.template_class.from_code(environment, code, known)
        return template.render({**given, "add_generation_prompt": prompt})
    except Exception as error:  # a template may raise anything
        said = "".join(c if c.isprintable() else " " for c in str(error))[:300]
        raise WeightsError(f"the chat template: {said or type(error).__name__}") from None


@lru_cache(maxsize=8)
def _compiled(source: str) -> CodeType:
    return _environment().compile(source)


def source(path: Path) -> Source:
    """Read a chat template from a `.jinja` file, a `tokenizer_config.json`, or their directory.

    In a directory the `.jinja` file has precedence. Raises `WeightsError` if there is no template,
    or it cannot be read. A GGUF file is not read: llama.cpp, which loads it, renders its template.
    """
    if path.is_dir():
        return source(_inside(path))
    if path.suffix == ".gguf":
        raise WeightsError(
            f"{path}: chat templates are not read from GGUF files; name the chat_template.jinja or "
            "tokenizer_config.json of the original model (a llama.cpp server needs neither)"
        )
    config_file = path.with_name("tokenizer_config.json")
    if path.suffix != ".jinja":
        config = _configuration(path)
        return Source(_named_default(config, path), _special(config), _adds_bos(config))
    text = _read(path).decode("utf-8", "replace")
    if config_file.is_file():
        config = _configuration(config_file)
        return Source(text, _special(config), _adds_bos(config))
    if needed := _USES_TOKENS.search(text):
        raise WeightsError(
            f"{path}: uses `{needed.group()}`, which no tokenizer_config.json next to it defines; "
            "put the model's own file there"
        )
    return Source(text, {})


def learn(path: Path, *, thinks: bool = False) -> tuple[Template, bool]:
    """Return the seams of the chat template at `path`, and whether it has a system turn.

    thinks  whether the agent is to think before it speaks, if the template has a switch for that

    A leading BOS token is dropped if servers add it themselves. The tokenizer's files say so
    (`add_bos_token`, or a class that does by default); if they do not, it is dropped if it occurs
    at the front only, because a repeated one marks turns. Raises `WeightsError` if no seams are
    found.
    """
    found = source(path)
    why = "it loses or moves a turn"
    for system in (True, False):
        try:
            plain = _seams(found, system, {})
        except WeightsError as error:
            why = str(error)
            continue
        if plain is not None:
            with contextlib.suppress(WeightsError):
                plain = switched(plain, _seams(found, system, switch(on=thinks)))
            return plain if thinks else plain.closed(), system
    raise WeightsError(
        f"{path}: its chat template cannot be used to write both sides of a conversation ({why}); "
        "`dialogue.protocol: chat` needs no template"
    )


def _seams(found: Source, system: bool, variables: Mapping[str, object]) -> Template | None:
    """Return the seams of a rendering with these variables. Raises `WeightsError`."""
    chat = marked(system=system)
    rendered, ready = (
        render(found.text, chat, special=found.special, prompt=prompt, variables=variables)
        for prompt in (False, True)
    )
    template = cut(_without_bos(rendered, found))
    return template and opened(template, ready)


def _without_bos(rendered: str, found: Source) -> str:
    """Return a rendering as a prompt, without the BOS token that the server will add."""
    bos = found.special.get("bos_token", "")
    adds = rendered.count(bos) == 1 if found.adds_bos is None else found.adds_bos
    return rendered.removeprefix(bos) if adds else rendered


async def from_server(
    post: Post, model: str, variables: Mapping[str, object] = {}
) -> tuple[Template, bool] | None:
    """Return the seams of a vLLM server's chat template, and whether it has a system turn.

    variables  of the template, such as its switch for thinking

    The server renders to tokens. Seams are accepted only if their text, sent as a prompt, gives the
    same tokens; that also shows whether the server adds the BOS token. Returns None if the server
    lacks the routes, or if text and tokens of this model do not match.
    """
    for system in (True, False):
        chat = [{"role": m.role, "content": m.content} for m in marked(system=system)]
        asked = {
            "messages": chat,
            "add_generation_prompt": False,
            "chat_template_kwargs": {**_DATED, **variables},
        }
        tokens = await _tokens(post, {"model": model, **asked})
        text = await _text(post, model, tokens)
        if cut(text) is None:
            continue
        first = await _text(post, model, tokens[:1])
        for prompt in (text, text.removeprefix(first)):
            template = cut(prompt)
            again = await _tokens(post, {"model": model, "prompt": prompt})
            if template is not None and again == tokens:
                ready = await _tokens(
                    post, {"model": model, **asked, "add_generation_prompt": True}
                )
                return opened(template, await _text(post, model, ready)), system
    return None


async def _tokens(post: Post, asked: Mapping[str, object]) -> list[int]:
    """Tokenize a prompt or messages; empty if the server does not."""
    reply = await post("/tokenize", asked) or {}
    tokens = reply.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        return []
    return tokens


async def _text(post: Post, model: str, tokens: list[int]) -> str:
    """Detokenize, special tokens included; empty if the server does not."""
    if not tokens:
        return ""
    reply = await post("/detokenize", {"model": model, "tokens": tokens}) or {}
    text = reply.get("prompt")
    return text if isinstance(text, str) else ""


def _environment() -> SandboxedEnvironment:
    """Return Jinja as transformers configures it for chat templates, with a bounded `range`."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks what to train on: renders its content unchanged."""

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
        if steps > _MAX_STEPS:
            raise TemplateError(f"loops over more than {_MAX_STEPS} numbers")
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
    """Dump JSON without the HTML escaping that Jinja's own filter adds."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _inside(directory: Path) -> Path:
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (directory / name).is_file():
            return directory / name
    raise WeightsError(
        f"{directory}: holds neither chat_template.jinja nor tokenizer_config.json; "
        "name the directory of a model as downloaded from its hub"
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; name a readable file") from None
    if len(data) > _MAX_BYTES:
        raise WeightsError(f"{path}: too large to contain a chat template")
    return data


def _configuration(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(_read(path), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not a tokenizer configuration: {error}") from None


def _named_default(config: Mapping[str, Any], path: Path) -> str:
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        raise WeightsError(
            f"{path}: has no chat template; does it belong to a chat model? "
            "A chat_template.jinja next to it has precedence"
        )
    return template


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens; each is a text, or an object with the text as its `content`."""
    special = {}
    for name, token in config.items():
        text = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(text, str):
            special[name] = text
    return special


def _adds_bos(config: Mapping[str, Any]) -> bool | None:
    adds = config.get("add_bos_token")
    if isinstance(adds, bool):
        return adds
    return True if str(config.get("tokenizer_class")).startswith(_ADD_BOS) else None
