"""`sdsd catalogue`: topics, principles and goals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdsd.cli.options import Changes, Json, overrides

app = typer.Typer(
    help="Check, preview and extend topics, principles and goals.", no_args_is_help=True
)


@app.command("check")
def catalogue_check(
    topics: Annotated[Path | None, typer.Option(help="Your topics.")] = None,
    principles: Annotated[Path | None, typer.Option(help="Your principles.")] = None,
    goals: Annotated[Path | None, typer.Option(help="Your goals.")] = None,
    affinities: Annotated[Path | None, typer.Option(help="Your affinities.")] = None,
    json: Json = False,
) -> None:
    """Check the catalogue and count what is in it."""
    from sdsd.cli import display
    from sdsd.scenarios import catalogue

    display.catalogue(catalogue.load(topics, principles, goals, affinities), json=json)


@app.command("expand")
def catalogue_expand(
    out: Annotated[Path, typer.Argument(help="The directory to write the larger topics to.")],
    topics: Annotated[Path | None, typer.Option(help="Your topics.")] = None,
    per_domain: Annotated[int, typer.Option(help="Subareas per domain.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Only these fields. Repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model that writes them.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="The base URL of its server.")] = None,
) -> None:
    """Let a model write more subareas per domain.

    Running the same command again continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.runs.expand_catalogue import expand
    from sdsd.runs.progress import terminal

    chosen = configuration.load(None, overrides(model, url))
    with terminal() as screen:
        grown = expand(
            out, topics, chosen, per_domain=per_domain, only=only or [], on_event=screen.on_event
        )
    typer.echo(f"{grown.before} subareas before, {grown.after} now, in {out}")


@app.command("affinities")
def catalogue_affinities(
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    topics: Annotated[Path | None, typer.Option(help="Your topics.")] = None,
    principles: Annotated[Path | None, typer.Option(help="Your principles.")] = None,
    goals: Annotated[Path | None, typer.Option(help="Your goals.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model that judges.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="The base URL of its server.")] = None,
) -> None:
    """Let a model draft which fields, goals and strategies go with your principles.

    The result is a file to edit. Running the same command again continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.runs.draft_affinities import draft
    from sdsd.runs.progress import terminal
    from sdsd.scenarios import catalogue

    chosen = configuration.load(None, overrides(model, url))
    with terminal() as screen:
        loaded = catalogue.load(topics, principles, goals)
        drafted = draft(out, loaded, chosen, on_event=screen.on_event)
    typer.echo(f"{drafted.judged} of {drafted.principles} principles judged, in {out}")


@app.command("examples")
def catalogue_examples(
    out: Annotated[Path, typer.Argument(help="The YAML file to write.")],
    principles: Annotated[Path, typer.Option(help="Your principles. They stay as they are.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model that writes them.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="The base URL of its server.")] = None,
    changes: Changes = None,
) -> None:
    """Let a model draft the cards of your principles: what is at stake, why, and example pairs.

    Only what a card lacks is drafted. The result is a file to edit: read every pair before use.
    Running the same command again continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.runs.draft_examples import draft
    from sdsd.runs.progress import terminal

    chosen = configuration.load(None, overrides(model, url, changes))
    with terminal() as screen:
        drafted = draft(out, principles, chosen, on_event=screen.on_event)
    typer.echo(f"{drafted.whole} of {drafted.principles} principles have a whole card, in {out}")
    for name, parts in drafted.left_out.items():
        typer.echo(f"left out: {name}: {', '.join(parts)}")


@app.command("preview")
def catalogue_preview(
    n: Annotated[int, typer.Option("-n", help="Number of scenarios.")] = 10,
    seed: Annotated[
        int | None, typer.Option(help="The run's seed. Default: that of the configuration.")
    ] = None,
    config: Annotated[Path | None, typer.Argument(help="A configuration.")] = None,
) -> None:
    """Print the first scenarios of a run, before anything is spent."""
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.inputs import read_inputs

    chosen = configuration.load(config, {} if seed is None else {"seed": seed})
    scenarios = read_inputs(chosen).scenarios
    display.scenarios([scenarios[i] for i in range(n)])
