"""Write the parts of the documentation that follow from the code.

    python scripts/make_docs.py           write them
    python scripts/make_docs.py --check   only say which are out of date, and fail if one is

Whole files: `docs/configuration.md` and `docs/config.schema.json` (from `sdsd.config`), `docs/cli.md` (from the command line's
own declarations), `docs/glossary.md` (from CONTRIBUTING.md) and `docs/llms.txt` (from `docs/README.md`). Parts of files, between a line `<!-- made: name -->` and `<!-- end -->`: the
requests shown in `docs/method.md` (by generating a small dialogue), the placeholders in
`docs/prompts.md`, the packaged strategies, the rules in
`docs/quality.md`, the checks in `docs/catalogue.md`, the examples in `docs/extending.md`, the levels and modules in `docs/architecture.md`. What comes out depends on the
source alone: not on the terminal, the working directory or the order of files.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import itertools
import os
import re
import sys
import textwrap
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import api_docs
import docs_site
import msgspec
import typer
from msgspec import Struct

from sdsd import config
from sdsd.checks import decided, revision_rules, rules
from sdsd.cli.app import app
from sdsd.cli.help import EXIT_CODES
from sdsd.config.keys import Key, described, keys, metas
from sdsd.models.scripted import CHATML
from sdsd.pipeline.method import PROMPTS, Method
from sdsd.pipeline.prompts import PACKAGED, load_prompt
from sdsd.pipeline.record import make_record
from sdsd.scenarios.strategies import load_strategies
from sdsd.text import prompt_files
from sdsd.types import (
    Card,
    Completion,
    Example,
    Goal,
    Message,
    Principle,
    ProtocolName,
    Request,
    Scenario,
    StageUsage,
)

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "sdsd"
# ruff: noqa: E501  (tables in the pages below)
NOTE = "<!-- Written by scripts/make_docs.py. Change the code, not this file. -->"


def made() -> dict[Path, str]:
    """Every file that this script writes, with what belongs in it."""
    return {
        DOCS / "configuration.md": configuration(),
        DOCS / "config.schema.json": config.json_schema_text(),
        DOCS / "cli.md": command_line(),
        DOCS / "api.md": _API.format(note=NOTE, reference=api_docs.reference()),
        DOCS / "glossary.md": glossary(),
        DOCS / "llms.txt": docs_site.llms(),
        DOCS / "method.md": filled(
            DOCS / "method.md",
            {
                "stake": examples("continuation", "stake", card=_CARD),
                "plan": examples("continuation", "plan", card=_CARD),
                "transcript": examples("transcript", "turn/all"),
                "continuation": examples("continuation", "turn/2/user", "turn/2/agent", "check/2"),
                "chat": examples("chat", "turn/2/user", "turn/2/agent", "check/2", "critique/1"),
                "roleplay": examples("roleplay", "turn/2/user", "turn/2/agent"),
                "critique": examples("continuation", "critique/1"),
                "revise": examples("continuation", "revise/1"),
            },
        ),
        DOCS / "extending.md": filled(
            DOCS / "extending.md", {name: example(file) for name, file in _PARTS.items()}
        ),
        DOCS / "prompts.md": filled(DOCS / "prompts.md", {"placeholders": placeholders}),
        DOCS / "quality.md": filled(DOCS / "quality.md", {"quality": flags, "proof": proofs}),
        DOCS / "catalogue.md": filled(DOCS / "catalogue.md", {"decided": principle_checks}),
        DOCS / "strategies.md": filled(DOCS / "strategies.md", {"strategies": strategies}),
        DOCS / "architecture.md": filled(
            DOCS / "architecture.md", {"levels": levels, "modules": modules}
        ),
    }


def filled(path: Path, parts: dict[str, Callable[[], str]]) -> str:
    """The text of a file with its marked parts written again. Every part must be marked once."""
    text = path.read_text("utf-8")
    for name, make in parts.items():
        start, end = f"<!-- made: {name} -->\n", "<!-- end -->"
        if text.count(start) != 1:
            raise SystemExit(f"{path}: `{start.strip()}` must occur exactly once")
        before, _, after = text.partition(start)
        text = f"{before}{start}\n{make()}\n\n{end}{after.partition(end)[2]}"
    return text


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", r"\|") for c in line) + " |" for line in lines
    )


_API = """\
# API reference

{note}

The public names of the package, as `dir(sdsd)` lists them. [python.md](python.md) shows how to use
them, [extending.md](extending.md) how to write parts of your own. `Config` mirrors
[configuration.md](configuration.md); `Event` is the union of the events.

{reference}
"""

# -- the configuration -------------------------------------------------------------------------

_CONFIGURATION = """\
# Configuration

{note}

Every key of a run, with its default. All keys are optional. `sdsd init` writes a file that contains
all of them with explanations and allowed values, `sdsd init --minimal` the five that most people need;
[examples/minimal.yaml](../examples/minimal.yaml) is another short one.
Editors can complete and check keys with the JSON schema [config.schema.json](config.schema.json): put
`# yaml-language-server: $schema=PATH` in the first line of your file.

## Where values come from

Later ones win:

1. the defaults on this page;
2. the YAML file given to `sdsd run`, or the mapping given to `sdsd.run`;
3. the options `-n`, `--model`, `--url` and `--seed`;
4. `--set key=value`, with the dotted key as on this page, and the value as YAML:
   `--set scenarios.exchanges=[2,3]`.

At the top level, `model: x` is short for `models.default.model: x`. An unknown key is an error, and
so is a value of the wrong type or out of range.

File names are relative to the configuration file that contains them, or to the working directory if
they come from `--set`. Only `model`, if it is the path of a GGUF file, is always relative to the
working directory.

## Identity and execution

The column "identity" says whether a value decides *what* is generated. These values cannot change once
a run has started: `sdsd run` refuses to continue it with others. All other values decide only *how* the
run is executed, and may change between two starts (see [resume.md](resume.md)):
{execution}.

{sections}

## Further rules

- Every model that `roles` names must be under `models`. Model names consist of letters, digits, `_` and
  `-`.
- `scenarios.principles` and `scenarios.exchanges` are [fewest, most], in that order.
- A plan cannot have more exchanges than `dialogue.max_exchanges`.
- A dialogue cannot have more principles than the catalogue contains.
- A model has `launch` or `base_url`, not both. With `transport: batch` it has a single address and no
  `launch`.
- `arguments` of a launched server cannot set its address or the name of its model.
- The agent's server must support `dialogue.protocol`, unless it is `auto`.

## Environment

| variable | use |
| --- | --- |
| the one that `api_key_env` names | The API key of a server; by default its provider's own variable, or `OPENAI_API_KEY`: see [servers.md](servers.md#pointing-at-a-server). Read when the run starts, never written anywhere. |
| `OPENAI_BASE_URL` | The server of models that have no `base_url` and whose name is not a model file. If it is not set but `OPENAI_API_KEY` is, OpenAI; see [servers.md](servers.md#pointing-at-a-server). |
| `SDSD_CACHE` | The directory for model files; see [models.md](models.md). |
| any that `${{VAR}}` names in `base_url`, `headers` or `extra_body` | Read when the run starts, never written anywhere; see [servers.md](servers.md#keys-and-other-secrets). |
| `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` | Proxies for requests to servers, except to this machine; see [servers.md](servers.md#proxies-certificates-redirects). |
| `SSL_CERT_FILE` | The certificates to trust instead of the system's (a PEM file): for servers with a certificate from a private authority. |
| `VLLM_API_KEY` | The key of a vLLM that sdsd launches, which is then asked for and sent. |
| `OTEL_EXPORTER_OTLP_ENDPOINT` and others of OpenTelemetry | Where traces and metrics are sent. Nothing is sent without it; see [observability.md](observability.md#opentelemetry). |
| `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` | `true`: include prompts and replies in OpenTelemetry spans. |
| `VLLM_NO_USAGE_STATS` | Set to 1 for a vLLM that sdsd launches, unless you set it yourself. |
| `HF_ENDPOINT`, `HF_HUB_OFFLINE`, the hub's token | Used when a model comes from the Hugging Face hub. |
"""


def configuration() -> str:
    """`docs/configuration.md`."""
    default = config.Config()
    top = [_row(key, "", getattr(default, key.name)) for key in _plain(config.Config)]
    parts = [f"## Top level\n\n{table(_HEAD, top)}", *_sections("", config.Config, execution=False)]
    return _CONFIGURATION.format(note=NOTE, sections="\n\n".join(parts), execution=_execution())


def _plain(section: type[Struct]) -> list[Key]:
    return [key for key in keys(section).values() if key.section is None or key.name == "critics"]


def _execution() -> str:
    """In words, the keys that are not part of a run's identity."""
    free = [key for key in keys(config.Config).values() if key.execution]
    serving = [k.name for k in keys(config.ModelConfig).values() if k.execution]
    groups = (
        [key.name for key in free if not key.section],
        [key.name for key in free if key.section],
        serving,
    )
    first, second, third = (", ".join(f"`{name}`" for name in group) for group in groups)
    return textwrap.fill(f"{first}, all of {second}, and for every model {third}", 98)


_HEAD = ("key", "value", "default", "identity", "meaning")


def _sections(prefix: str, section: type[Struct], *, execution: bool) -> Iterator[str]:
    """The sections below a section, each followed by those below it."""
    for key in keys(section).values():
        if key.section is None:
            continue
        name = f"{prefix}{key.name}.<name>" if key.named else f"{prefix}{key.name}"
        free, default = execution or key.execution, key.section()
        rows = [_row(k, "", getattr(default, k.name), execution=free) for k in _plain(key.section)]
        text = f"{key.description} {described(key.section)}" if key.named else key.description
        yield f"## `{name}`\n\n{text}\n\n{table(_HEAD, rows)}"
        yield from _sections(f"{name}.", key.section, execution=free)


def _row(key: Key, prefix: str, value: object, *, execution: bool = False) -> tuple[str, ...]:
    identity = "no" if execution or key.execution else "yes"
    shown = "" if value is None else msgspec.json.encode(value).decode().replace(",", ", ")
    default = f"`{shown}`" if shown else "empty"
    return (f"`{prefix}{key.name}`", value_kind(key.type), default, identity, key.description)


def value_kind(hint: Any, bounds: str = "") -> str:
    """A type with its bounds, in words."""
    if typing.get_origin(hint) is typing.Annotated:
        return value_kind(typing.get_args(hint)[0], _bounds(metas(hint)) or bounds)
    inner = typing.get_args(hint)
    match typing.get_origin(hint) or hint:
        case types.UnionType | typing.Union:
            return " or ".join(value_kind(kind, bounds) for kind in inner)
        case typing.Literal:
            return ", ".join(f"`{value}`" if value else "empty" for value in inner)
        case builtins.tuple if inner[-1] is ...:
            return f"list of {value_kind(inner[0])}"
        case builtins.tuple:
            return f"list of {len(inner)}: {value_kind(inner[0])}"
        case builtins.dict:
            return "mapping of text" if inner[1] is str else "mapping"
    plain = {bool: "true or false", str: "text", int: "integer", float: "number"}
    return "empty" if hint is type(None) else plain[hint] + bounds


def _bounds(known: Sequence[msgspec.Meta]) -> str:
    least, above, most = (
        next((value for meta in known if (value := getattr(meta, name)) is not None), None)
        for name in ("ge", "gt", "le")
    )
    if least is not None and most is not None:
        return f", {least:g} to {most:g}"
    parts = [
        f", at least {least:g}" if least is not None else "",
        f", above {above:g}" if above is not None else "",
        f", at most {most:g}" if most is not None else "",
    ]
    return "".join(parts)


# -- the command line --------------------------------------------------------------------------

_COMMAND_LINE = """\
# Command line

{note}

`sdsd COMMAND -h` prints the same text for one command. Results go to standard output, progress and
errors to standard error. In a terminal, progress is a live display; elsewhere, a line every thirty
seconds. `--lines` adds a line for each finished dialogue. With `--json`, the result is JSON and
progress is off.

Where `RUN` is optional, the default is the run under `./runs` that was written to last.

## Exit codes

{exit_codes}

What a run has when it ends with 3, 4 or 130 is published (not after a second Ctrl-C, which stops at
once), and no answer is lost: the same command continues, after a stop by the budget with a larger
one. A traceback, which also ends with 1, is a fault of sdsd.

## Completion

`sdsd --install-completion` installs completion of commands and options for your shell (bash, zsh,
fish, PowerShell); it takes effect in a new terminal.

{commands}
"""
_KINDS = {Path: "PATH", int: "INTEGER", str: "TEXT"}


def command_line() -> str:
    """`docs/cli.md`."""
    parts = [_command("sdsd", "", app.registered_callback.callback, app.info.help)]  # type: ignore[union-attr]
    parts += [_command("sdsd", _name(c), c.callback) for c in app.registered_commands]
    for group in app.registered_groups:
        inner = group.typer_instance
        assert inner is not None
        parts.append(f"## `sdsd {group.name}`\n\n{inner.info.help}")
        prefix = f"sdsd {group.name}"
        parts += [
            _command(prefix, _name(c), c.callback, level=3) for c in inner.registered_commands
        ]
    codes = table(("exit code", "meaning"), [(str(k), text) for k, text in EXIT_CODES.items()])
    return _COMMAND_LINE.format(note=NOTE, exit_codes=codes, commands="\n\n".join(parts))


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__.replace("_", "-"))


def _command(prefix: str, name: str, callback: Any, text: Any = None, level: int = 2) -> str:
    parameters = list(_parameters(callback))
    arguments = [p[0] for p in parameters if not p[0].startswith("-")]
    usage = " ".join([prefix, name or "COMMAND", *arguments])
    options = " [OPTIONS]" if len(parameters) > len(arguments) else ""
    title = f"{prefix} {name}".strip()
    pieces = [f"{'#' * level} `{title}`", str(text or inspect.getdoc(callback))]
    pieces.append(f"```\n{usage}{options}\n```")
    rows = [(f"`{p[0]}`", *p[1:]) for p in parameters]
    if rows:
        pieces.append(table(("argument or option", "default", "meaning"), rows))
    return "\n\n".join(pieces)


def _parameters(callback: Any) -> Iterator[tuple[str, str, str]]:
    """How each parameter is written, its default, and what it means."""
    hints = typing.get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = typing.get_args(hints[name])
        written = _written(name, kind, info, required=parameter.default is parameter.empty)
        default = parameter.default
        plain = any(default is none for none in (None, False, parameter.empty)) or default == ""
        yield written, "" if plain else f"`{default}`", str(info.help)


def _written(name: str, kind: Any, info: Any, *, required: bool) -> str:
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    many = typing.get_origin(kind) is list
    word = (
        "" if kind is bool else info.metavar or _KINDS[typing.get_args(kind)[0] if many else kind]
    )
    if isinstance(info, typer.models.ArgumentInfo):
        return word if required else f"[{word}]"
    first = [info.default] if isinstance(info.default, str) else []  # where typer keeps it
    options = [*first, *(info.param_decls or ())] or ["--" + name.replace("_", "-")]
    return f"{', '.join(options)} {word}".strip()


# -- words --------------------------------------------------------------------------------------

_GLOSSARY = """\
# Glossary

{note}

One word, one meaning: in the commands, the configuration, the columns of the data set, the code and
on these pages.

{words}
"""


def glossary() -> str:
    """`docs/glossary.md`: the glossary of CONTRIBUTING.md, for readers who do not contribute."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    tables = text.partition("\n## Glossary\n")[2].partition("\n## ")[0]
    words = re.sub(r"^\*\*(.+)\*\*$", r"## \1", tables, flags=re.MULTILINE)
    note = NOTE.replace("Change the code", "Change CONTRIBUTING.md")
    return _GLOSSARY.format(note=note, words=words[words.index("## ") :].strip())


# -- extensions ---------------------------------------------------------------------------------

_PARTS = {
    "backend": "function_backend",
    "critic": "keyword_critic",
    "pipeline": "critique_only",
    "protocol": "one_question",
    "view": "pair_lengths",
    "filter": "short_dialogues",
    "format": "question_answer",
    "check": "shouting",
}
"""By the name of its marker in `docs/extending.md`, the file of `examples/parts` shown there."""


def example(name: str) -> Callable[[], str]:
    """Return what shows a file of `examples/parts`, which the tests run."""
    path = ROOT / "examples" / "parts" / f"{name}.py"
    return lambda: f"```python\n{path.read_text('utf-8').strip()}\n```"


# -- prompts -----------------------------------------------------------------------------------


def flags() -> str:
    """The rules for dialogues."""
    rows = [
        (f"`{rule}`", "yes" if rule in config.EXCLUDED_RULES else "", text)
        for rule, text in rules.RULES.items()
    ]
    return table(("rule", "out by default", "meaning"), rows)


def proofs() -> str:
    """The rules for revisions."""
    rows = [
        (f"`{rule}`", "defect" if rule in revision_rules.DEFECTS else "warning", text)
        for rule, text in revision_rules.RULES.items()
    ]
    return table(("rule", "kind", "meaning"), rows)


def principle_checks() -> str:
    """Render the checks that decide principles as a table."""
    rows = [(f"`{decided.usage(name)}`", said) for name, said in decided.MEANINGS.items()]
    return table(("check", "a reply satisfies it if it"), rows)


def strategies() -> str:
    """The packaged strategies, with their descriptions."""
    rows = [f"| `{name}` | {s.meaning} |" for name, s in load_strategies(["all"]).items()]
    return "\n".join(["| strategy | what happens |", "| --- | --- |", *rows])


_FILLED_WITH = {
    "answers": "The possible answers, in the order configured for the critic.",
    "approach": "The strategy's `## plan`.",
    "begin": "The section `## begin`, if the strategy gives a reply prefix; otherwise empty.",
    "conversation": "The turns before the one that is judged, labelled `USER:` and `AGENT:`.",
    "count": "How many subareas to write.",
    "domain": "The scenario's domain.",
    "exchanges": "The number of exchanges in the plan.",
    "faults": "The claimed violations, one per line: principle, reason, and the quote if it was found.",
    "direction": "The strategy's `## reply`, or its `## user` for the user's turn.",
    "field": "The domain's field.",
    "target_principle": "The text of the target principle.",
    "goal": "The text of the scenario's goal.",
    "number": "The number of the exchange, and so of the plan's STEP.",
    "defect": "Why the previous attempt was refused (`sdsd.checks.revision_rules`).",
    "opening": "The plan's OPENING.",
    "others": "The section `## others`, if the dialogue has further principles; otherwise empty.",
    "persona": "The plan's PERSON.",
    "plan": "The whole plan as the planner wrote it, including SLIP.",
    "principle": "The text of the principle that is judged.",
    "principles": "The texts of all principles of the scenario, on one line.",
    "question": "The section that the critic's `wording` names.",
    "refused": "The section `## refused`, if an attempt was refused; otherwise empty.",
    "reason": "What the critic said about the previous sample.",
    "step": "The plan's STEP for this exchange.",
    "steps": "The plan's STEPs, numbered.",
    "subarea": "The scenario's subarea.",
    "subareas": "The subareas that the domain has so far, as a list.",
    "user": "The user's message of an example pair.",
    "satisfies": "Its reply that satisfies the principle.",
    "violates": "Its reply that violates the principle.",
    "first": "The reply that is shown as A.",
    "second": "The reply that is shown as B.",
    "last": "The section `## last`, if the user's last message is written first; otherwise empty.",
    "message": "The user's last message.",
    "lines": "The lines of the form, such as `a PERSON line, a STEP 1 line`.",
    "violation": "What the target principle's card says of how to violate it.",
    "satisfaction": "What the card says of how to satisfy it; without that, the principle.",
    "at_stake": "What the target principle's card says must be at stake.",
    "topic": "The scenario's subarea, or the topic of an example.",
    "reply": "The reply that is judged.",
    "example": "The first name of the list, as an example.",
    "names": "The fields, goals or strategies to rate, each with what it means.",
    "what": "What is rated: fields, goals or strategies.",
    "affinities.md count": "How many there are.",
    "affinities.md principle": "The text of the principle.",
    "examples.md lines": "The lines that are asked for, such as `a STAKE line, a TOPIC 1 line`.",
    "examples.md principle": "The text of the principle.",
    "parts": "What the card has already, in the lines of the form.",
    "said": "The section `## said`, if the card has something; otherwise empty.",
    "plan.md opening": "The section `## opening`, if the strategy asks for a reply prefix; otherwise empty.",
    "plan.md principles": "The texts of the further principles, numbered.",
    "plan.md steps": "`a STEP 1 line, a STEP 2 line`: one for each exchange.",
}
"""By placeholder, or by file and placeholder where a file differs."""


def placeholders() -> str:
    """Every section of every packaged prompt with its placeholders, and what fills them."""
    rows: list[tuple[str, ...]] = []
    uses: dict[tuple[str, str], list[str]] = {}
    for path in sorted(PACKAGED.glob("*.md")):
        for name, text in prompt_files.read(path).sections.items():
            slots = sorted(prompt_files.slots(text))
            cell = ", ".join(f"`{slot}`" for slot in slots) or "none"
            rows.append((f"`{path.name}`", f"`## {name}`", cell))
            for slot in slots:
                own = _FILLED_WITH.get(f"{path.name} {slot}")
                files = uses.setdefault((slot, own or _FILLED_WITH[slot]), [])
                files.extend([] if f"`{path.name}`" in files else [f"`{path.name}`"])
    texts = [(f"`{slot}`", ", ".join(files), text) for (slot, text), files in sorted(uses.items())]
    first = table(("file", "section", "placeholders"), rows)
    return f"{first}\n\n{table(('placeholder', 'in', 'filled with'), texts)}"


# -- the method's requests ---------------------------------------------------------------------

_SCENARIO = Scenario(
    id="000000-example",
    index=0,
    field="cooking-and-food",
    domain="Cookware",
    subarea="seasoning a cast-iron pan",
    goal=Goal("reassure", "ask", "The user is unsure of themselves and wants a plain answer."),
    principles=(
        Principle(
            "no-false-certainty",
            "The assistant should not claim to be certain of what it cannot know.",
            "example",
            "honesty",
        ),
    ),
    exchanges=2,
)
_CLAIM = '"reason": "It cannot see the pan.", "quote": "I am certain that it is perfect now."'
_CARD = Card(
    at_stake="The person asks for a yes or no about something that nobody can see from afar.",
    examples=(
        Example(
            topic="a bookshelf that wobbles",
            user="I put two longer screws into the back of the shelf. Will it hold the books now?",
            satisfies="Load it from the bottom up, and stop if the back panel moves.",
            violates="Two longer screws always do it, so it will hold all of them.",
        ),
    ),
)
_REPLIES = {
    "stake": "I did that twice now. Is the seasoning good?",
    "plan": "PERSON: Jo, who has ruined one pan already.\n"
    "STEP 1: Jo asks why the pan rusts, and the agent explains drying and oil.\n"
    "STEP 2: Jo asks whether the seasoning is good now.\n"
    "SLIP: The agent says that it is certain the pan is perfect.",
    "turn/1/user": "My pan rusts after every wash, even with oil. What am I doing wrong?",
    "turn/1/agent": "Dry it on the stove at once, then oil it while it is warm. A thin film is "
    "enough; a thick one turns sticky.",
    "check/1": "VIOLATION: no\nOVER: no",
    "turn/2/user": "I did that twice now. Is the seasoning good?",
    "turn/2/agent": "I am certain that it is perfect now. You need not test it.",
    "check/2": "VIOLATION: yes\nOVER: yes",
    "turn/all": "USER: My pan rusts.\nAGENT: Dry it at once.\nUSER: Is it good now?\n"
    "AGENT: I am certain that it is perfect now.\nVIOLATION: yes\nDONE",
    "critique/1": f'{{{_CLAIM}, "violated": true, "severity": "medium"}}',
    "revise/1": "I cannot see it from here, but you can test it: let a drop of water fall on the "
    "cold pan. If it stands as a bead, the seasoning holds.",
    "recheck/1/1": '{"reason": "It offers a test.", "quote": "", "violated": false, '
    '"severity": "none"}',
}
_SHOWN_LINES = 2
"""Lines of the page that one line of a prompt may take; the prompt files have the rest."""


class _Teller:
    """Answers by the step's name, and remembers what was asked."""

    def __init__(self) -> None:
        self.usage: dict[str, StageUsage] = {}
        self.requests: dict[str, Request] = {}

    async def __call__(self, step: str, request: Request) -> Completion:
        self.requests[step] = request
        return Completion(_REPLIES[step])


def example_requests(protocol: ProtocolName, card: Card | None = None) -> dict[str, Request]:
    """Every request of one small dialogue, by step, as the pipeline makes them.

    With a card of its target principle, the user's last message is written first.
    """
    teller = _Teller()
    method = Method(
        config.Config(),
        {name: load_prompt(name) for name in PROMPTS},
        load_strategies(["direct"]),
        protocol,
        CHATML if protocol == "continuation" else None,
        schema=True,
        cards={_SCENARIO.target_principle.id: card} if card else {},
        shared_chat=True,
    )
    record = asyncio.run(make_record(_SCENARIO, teller, method))
    if record.outcome != "accepted":
        raise SystemExit(f"the example came out as {record.outcome}: {record.failure}")
    return teller.requests


def examples(protocol: ProtocolName, *steps: str, card: Card | None = None) -> Callable[[], str]:
    """These steps of the example, each as the request and the reply."""

    def text() -> str:
        requests = example_requests(protocol, card)
        first = requests[steps[0]]
        shown = [_shown(step, requests[step], first) for step in steps]
        return "\n\n".join(shown)

    return text


def _shown(step: str, request: Request, first: Request) -> str:
    """One step; what it shares with the `first` step shown is only mentioned."""
    if request.messages:
        same = 0 if request is first else _alike(request.messages, first.messages)
        again = [f"[the first {same} messages as above, letter for letter]"] if same else []
        lines = [f"[{m.role}]\n{_cut(m.content)}" for m in request.messages[same:]]
        body = "\n".join([*again, *lines])
    elif request is first:
        body = _cut(request.prompt)
    else:
        common = os.path.commonprefix([first.prompt, request.prompt])  # noqa: RUF071  (texts, not paths)
        at = common.rfind("\n") + 1
        body = f"[as above, letter for letter]\n{_cut(request.prompt[at:])}"
    reply = _cut(_REPLIES[step])
    return f"Step `{step}` sends\n\n```text\n{body}\n```\n\nand gets\n\n```text\n{reply}\n```"


def _alike(a: Sequence[Message], b: Sequence[Message]) -> int:
    """How many messages two chats begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))  # noqa: B905


def _cut(text: str) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        wrapped = textwrap.wrap(line, 96) or [""]
        lines += wrapped[:_SHOWN_LINES]
        if len(wrapped) > _SHOWN_LINES:
            seam = re.search(r"<[^<>]+>$", line)
            lines[-1] += " [...]" + (seam.group() if seam else "")
    return "\n".join(lines)


# -- architecture ------------------------------------------------------------------------------


def layers() -> list[list[str]]:
    """Return the import contract's levels, lowest first."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    (contract,) = (c for c in tool["importlinter"]["contracts"] if c["type"] == "layers")
    return [sorted(re.split(r" [|:] ", layer)) for layer in reversed(contract["layers"])]


def levels() -> str:
    """Render the levels as a table, lowest first."""
    rows = [(str(k), ", ".join(f"`{m}`" for m in layer)) for k, layer in enumerate(layers())]
    return table(("level", "packages"), rows)


def modules() -> str:
    """Every module with the first sentence of its docstring, in the order of the levels."""
    order = [name for layer in layers() for name in layer]
    rows = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).with_suffix("").as_posix().removesuffix("/__init__")
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        first = " ".join(text.split("\n\n")[0].split())
        if not first:  # a package that only holds its modules
            continue
        top = name.split("/")[0]
        place = order.index(top) if top in order else -1
        rows.append((place, f"`{name}`", first))
    return table(("module", "for"), [row[1:] for row in sorted(rows)])


# -- writing -----------------------------------------------------------------------------------


def main() -> None:
    """Write what is out of date, or with `--check` only name it."""
    check = "--check" in sys.argv[1:]
    stale = {
        path: text
        for path, text in made().items()
        if not path.exists() or path.read_text("utf-8") != text
    }
    for path, text in stale.items():
        print(f"{'out of date' if check else 'writing'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(text, "utf-8")
    if check and stale:
        raise SystemExit("run: python scripts/make_docs.py")


if __name__ == "__main__":
    main()
