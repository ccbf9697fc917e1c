"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A named model, a GGUF file, or a model on a server."),
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="An OpenAI-compatible server, e.g. http://localhost:8000/v1."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any key, e.g. dialogue.protocol=roleplay. Repeatable.",
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Determines every scenario and every sampling seed.")
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from", help="Existing dialogues or plans to start from: a file, or hf:org/name."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only estimate calls, tokens, time and cost.")
]
RunPath = Annotated[
    Path | None,
    typer.Argument(help="The run directory. Default: the latest under runs/."),
]


def overrides(
    model: str | None,
    url: str | None,
    changes: list[str] | None = None,
    keys: dict[str, Any] = {},
) -> dict[str, Any]:
    """Return what the options say of the configuration, by dotted key; `--set` wins."""
    from sdsd.config import assignment

    said = {"model": model, "models.default.base_url": url, **keys}
    return {k: v for k, v in said.items() if v is not None} | dict(map(assignment, changes or []))
