"""`sdsd models`: the embedded engine's model files."""

from __future__ import annotations

from typing import Annotated

import typer

from sdsd.cli.options import Json

app = typer.Typer(help="Manage model files for the embedded engine.", no_args_is_help=True)


@app.command("list")
def models_list(json: Json = False) -> None:
    """List the named models and which are downloaded."""
    from sdsd.cli import display
    from sdsd.models import weights

    display.models(weights.listed(), json=json)


@app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Download a model; an interrupted download continues."""
    from sdsd.models import weights
    from sdsd.runs.progress import terminal

    with terminal() as screen:
        path = weights.pull(name, screen.download)
    typer.echo(str(path))


@app.command("verify")
def models_verify(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Compare a model file with its pinned SHA-256."""
    from sdsd.models import weights
    from sdsd.runs.progress import terminal

    with terminal() as screen:
        path = weights.verify(name, screen.download)
    typer.echo(f"{path}: matches its pinned SHA-256")


@app.command("remove")
def models_remove(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Delete a model file and any partial download."""
    from sdsd.models import weights

    typer.echo(f"{weights.remove(name) / 1e6:,.0f} MB freed")
