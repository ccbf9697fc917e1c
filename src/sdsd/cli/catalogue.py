"""`sdsd catalogue`: topics, principles and goals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdsd.cli.help import Command, Group
from sdsd.cli.options import Changes, Json, Model, Url, exit_if_stopped, overrides

app = typer.Typer(
    cls=Group, help="Check, preview and extend topics, principles and goals.", no_args_is_help=True
)
_OWN = "Your catalogue"

Topics = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Your topics.", rich_help_panel=_OWN)
]
Principles = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Your principles.", rich_help_panel=_OWN)
]
Goals = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Your goals.", rich_help_panel=_OWN)
]
Affinities = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Your affinities.", rich_help_panel=_OWN)
]


@app.command("check", cls=Command)
def catalogue_check(
    topics: Topics = None,
    principles: Principles = None,
    goals: Goals = None,
    affinities: Affinities = None,
    json: Json = False,
) -> None:
    """Check the catalogue and count what is in it."""
    from sdsd.cli import display
    from sdsd.scenarios import catalogue

    display.catalogue(catalogue.load(topics, principles, goals, affinities), json=json)


@app.command("expand", cls=Command)
def catalogue_expand(
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory to write the larger topics to.")
    ],
    topics: Topics = None,
    per_domain: Annotated[int, typer.Option(metavar="N", help="Subareas per domain.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="FIELD", help="Only these fields. Repeatable."),
    ] = None,
    model: Model = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Let a model write more subareas per domain.

    The same command continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.expand_catalogue import expand
    from sdsd.runs.progress import terminal

    chosen = configuration.load(None, overrides(model, url))
    with terminal(quiet=json) as screen:
        grown = expand(
            out, topics, chosen, per_domain=per_domain, only=only or [], on_event=screen.on_event
        )
    text = f"{grown.before} subareas before, {grown.after} now, in {out}"
    display.written(out, grown, text, json=json)
    exit_if_stopped(grown.stopped)


@app.command("affinities", cls=Command)
def catalogue_affinities(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    topics: Topics = None,
    principles: Principles = None,
    goals: Goals = None,
    model: Model = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Let a model draft which fields, goals and strategies go with your principles.

    The result is a file to edit. The same command continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.draft_affinities import draft
    from sdsd.runs.progress import terminal
    from sdsd.scenarios import catalogue

    chosen = configuration.load(None, overrides(model, url))
    with terminal(quiet=json) as screen:
        loaded = catalogue.load(topics, principles, goals)
        drafted = draft(out, loaded, chosen, on_event=screen.on_event)
    text = f"{drafted.judged} of {drafted.principles} principles judged, in {out}"
    display.written(out, drafted, text, json=json)


@app.command("examples", cls=Command)
def catalogue_examples(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")],
    principles: Annotated[
        Path, typer.Option(metavar="PATH", help="Your principles. They stay as they are.")
    ],
    model: Model = None,
    url: Url = None,
    changes: Changes = None,
    json: Json = False,
) -> None:
    """Let a model draft the cards of your principles: what is at stake, why, and example pairs.

    Only what a card lacks is drafted. The result is a file to edit: read every pair before use.
    The same command continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.draft_examples import draft
    from sdsd.runs.progress import terminal

    chosen = configuration.load(None, overrides(model, url, changes))
    with terminal(quiet=json) as screen:
        drafted = draft(out, principles, chosen, on_event=screen.on_event)
    text = f"{drafted.whole} of {drafted.principles} principles have a whole card, in {out}"
    lacking = (f"\nleft out: {name}: {', '.join(k)}" for name, k in drafted.left_out.items())
    display.written(out, drafted, text + "".join(lacking), json=json)


@app.command("preview", cls=Command)
def catalogue_preview(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A configuration.")
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", help="Number of scenarios.")] = 10,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="The run's seed. Default: that of the configuration."),
    ] = None,
    json: Json = False,
) -> None:
    """Print the first scenarios of a run, before anything is spent."""
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.inputs import read_inputs

    chosen = configuration.load(config, {} if seed is None else {"seed": seed})
    scenarios = read_inputs(chosen).scenarios
    display.scenarios([scenarios[i] for i in range(n)], json=json)
