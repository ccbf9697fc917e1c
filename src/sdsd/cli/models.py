"""`sdsd models`: the embedded engine's model files."""

from __future__ import annotations

from typing import Annotated

import typer

from sdsd.cli.help import Command, Group
from sdsd.cli.options import Json

app = typer.Typer(
    cls=Group, help="Manage model files for the embedded engine.", no_args_is_help=True
)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A named model; `sdsd models list` lists them.")
]


@app.command("list", cls=Command)
def models_list(json: Json = False) -> None:
    """List the named models and which are downloaded."""
    from sdsd.cli import display
    from sdsd.models import weights

    display.models(weights.listed(), json=json)


@app.command("pull", cls=Command)
def models_pull(name: Name, json: Json = False) -> None:
    """Download a model; an interrupted download continues."""
    from sdsd.cli import display
    from sdsd.models import weights
    from sdsd.runs.progress import terminal

    with terminal(quiet=json) as screen:
        path = weights.pull(name, screen.download)
    display.result(str(path), {"path": path}, json=json)


@app.command("verify", cls=Command)
def models_verify(name: Name, json: Json = False) -> None:
    """Compare a model file with its pinned SHA-256."""
    from sdsd.cli import display
    from sdsd.models import weights
    from sdsd.runs.progress import terminal

    with terminal(quiet=json) as screen:
        path = weights.verify(name, screen.download)
    display.result(f"{path}: matches its pinned SHA-256", {"path": path}, json=json)


@app.command("remove", cls=Command)
def models_remove(name: Name, json: Json = False) -> None:
    """Delete a model file and any partial download."""
    from sdsd.cli import display
    from sdsd.models import weights

    freed = weights.remove(name)
    display.result(f"{freed / 1e6:,.0f} MB freed", {"bytes": freed}, json=json)
