"""Options of `simulator.py`, for Python and the command line."""

from __future__ import annotations

import argparse
from typing import Annotated, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

FaultKind = Literal[
    "429", "429-bare", "503", "500", "html", "hang", "reset-early", "reset", "drip",
    "slow-headers", "truncated", "empty-choices", "null-content", "duplicate",
    "403", "404", "499", "204", "400", "error-200", "thinking-only",
]  # fmt: skip
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(ge=0, le=1)]
_Milliseconds = Annotated[float, Meta(ge=0)]


class Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is simulated. The command line uses the same names."""

    port: Annotated[int, Meta(ge=0, le=65535, description="0: any free one")] = 0
    slots: Annotated[Positive, Meta(description="sequences that run at once")] = 256
    a: Annotated[float, Meta(gt=0, description="ms of every step")] = 6.0
    b: Annotated[_Milliseconds, Meta(description="ms of a step per running sequence")] = 0.05
    c: Annotated[_Milliseconds, Meta(description="ms of a step per fresh prompt token")] = 0.02
    batch_tokens: Annotated[Positive, Meta(description="fresh prompt tokens per step")] = 8192
    blocks: Annotated[Natural, Meta(description="blocks of the prefix cache; 0: none")] = 32768
    time_scale: Annotated[float, Meta(gt=0, description="real time per modelled time")] = 1.0
    instant: Annotated[bool, Meta(description="no engine: answer at once")] = False
    violations: Annotated[Rate, Meta(description="dialogues with a violation")] = 0.35
    cap: Annotated[Natural, Meta(description="requests in flight before 429; 0: any")] = 0
    retry_after: Annotated[float, Meta(ge=0, description="seconds that a 429 asks for")] = 1.0
    max_context: Annotated[Natural, Meta(description="tokens of a context; 0: any")] = 0
    models: Annotated[tuple[str, ...], Meta(description="the models' names; none: any")] = ()
    key: Annotated[str, Meta(description="the key that clients need; empty: none")] = ""
    key_expires_after: Annotated[Natural, Meta(description="completions; 0: never")] = 0
    faults: Annotated[dict[FaultKind, Rate], Meta(description="KIND=RATE ...")] = {}
    fault_seed: Annotated[int, Meta(description="decides which requests fail")] = 0
    apply_template: Annotated[bool, Meta(description="offer /apply-template")] = True
    metrics: Annotated[bool, Meta(description="offer /metrics")] = True
    log: Annotated[str, Meta(description="file to append a line for each request to")] = ""


def checked(options: Options) -> Options:
    """Return the options with their bounds checked. Raises `ValueError` naming the field."""
    options = msgspec.convert(msgspec.to_builtins(options), Options)
    if sum(options.faults.values()) > 1:
        raise ValueError("`faults`: the rates add up to more than 1; lower them")
    return options


def arguments(options: Options) -> list[str]:
    """Return the command line equivalent to these options."""
    words: list[str] = []
    for name, value in msgspec.structs.asdict(options).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{name.replace('_', '-')}")
        elif isinstance(value, dict):
            words += [flag, *(f"{kind}={rate}" for kind, rate in value.items())]
        elif isinstance(value, tuple):
            words += [flag, *value]
        else:
            words.append(f"{flag}={value}")
    return words


def parsed(words: list[str] | None = None) -> Options:
    """Parse a command line; exit with a message if an option is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = get_type_hints(Options, include_extras=True)
    for field in msgspec.structs.fields(Options):
        flag = f"--{field.name.replace('_', '-')}"
        said = next(m.description for m in kinds[field.name].__metadata__ if m.description)
        many = isinstance(field.default, tuple) or field.name == "faults"
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=said)
        else:
            note = said if many or field.default == "" else f"{said} (default: {field.default})"
            parser.add_argument(flag, nargs="*" if many else None, help=note)
    given = {
        name: value for name, value in vars(parser.parse_args(words)).items() if value is not None
    }
    if "faults" in given:
        given["faults"] = dict(pair.partition("=")[::2] for pair in given["faults"])
    try:
        return checked(msgspec.convert(given, Options, strict=False))
    except ValueError as error:
        parser.error(f"{error}; the kinds of faults are {', '.join(get_args(FaultKind))}")
