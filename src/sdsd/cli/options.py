"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

MODELS = "Model"
"""The group of options that say which model is asked."""
WHICH = "Which dialogues"
"""The group of options that choose among the dialogues of a run."""
DISPLAY = "Output"
"""The group of options that say how a result is printed."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=DISPLAY)]
Lines = Annotated[
    bool,
    typer.Option(
        "--lines", help="Print a line for each finished dialogue.", rich_help_panel=DISPLAY
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A named model, a GGUF file, or a model on a server.",
        rich_help_panel=MODELS,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="An OpenAI-compatible server, e.g. http://localhost:8000/v1.",
        rich_help_panel=MODELS,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Set any key, e.g. dialogue.protocol=roleplay. Repeatable.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Determines every scenario and every sampling seed."),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Existing dialogues or plans to start from: a file, or hf:org/name.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only estimate calls, tokens, time and cost.")
]
RunPath = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="The run directory. Default: the latest under runs/."),
]


def overrides(
    model: str | None,
    url: str | None,
    changes: list[str] | None = None,
    keys: dict[str, Any] = {},
    *,
    named: bool = False,
) -> dict[str, Any]:
    """Return what the options say of the configuration, by dotted key; `--set` wins.

    A server needs the model's name, unless a configuration may have it (`named`). Some servers
    ignore it; the data set would then name the default model. Raises `ConfigError`.
    """
    from sdsd.config import assignment
    from sdsd.errors import ConfigError

    said = {"model": model, "models.default.base_url": url, **keys}
    changed = {k: v for k, v in said.items() if v is not None} | dict(
        map(assignment, changes or [])
    )
    if url and not named and not changed.keys() & {"model", "models.default.model"}:
        raise ConfigError(
            "--url: also give `--model`, the name under which the server serves the model; "
            f"`sdsd doctor --url {url}` lists the names"
        )
    return changed


def exit_if_stopped(reason: str) -> None:
    """Exit with the code of a stop for this reason; do nothing without one."""
    from sdsd.errors import Stopped

    if reason:
        raise typer.Exit(Stopped(reason, reason).exit_code)
