"""The command line: every command calls what the Python API offers.

Heavy imports stay inside the commands, so that `sdsd --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sdsd.runs.run import Run

app = typer.Typer(
    name="sdsd",
    help="Self-directed synthetic dialogues and revisions: multi-turn dialogues and verified "
    "preference pairs from any language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="Manage model files for the embedded engine.", no_args_is_help=True)
catalogue_app = typer.Typer(
    help="Check, preview and extend topics, principles and goals.", no_args_is_help=True
)
app.add_typer(models_app, name="models")
app.add_typer(catalogue_app, name="catalogue")

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes one message and an exit code, never a traceback."""
    from sdsd.errors import SdsdError

    try:
        app(arguments, prog_name="sdsd")
    except SdsdError as error:
        from sdsd.cli.display import error_line

        error_line(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        from sdsd import __version__

        typer.echo(f"sdsd {__version__}")
        raise typer.Exit


def _overrides(
    model: str | None, url: str | None, changes: list[str] | None, keys: dict[str, Any]
) -> dict[str, Any]:
    """Return what the options say of the configuration, by dotted key; `--set` wins."""
    from sdsd.config import assignment

    said = {"model": model, "models.default.base_url": url, **keys}
    return {k: v for k, v in said.items() if v is not None} | dict(map(assignment, changes or []))


def _run(path: Path | None) -> Run:
    """Open the run at `path`, or the latest one."""
    from sdsd.runs.run import Run

    return Run.latest() if path is None else Run.open(path)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def run(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="A configuration (see `sdsd init`), or a run directory to continue. Default: the "
            "default configuration."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", help="How many dialogues. More than before: the run grows.")
    ] = None,
    model: Model = None,
    url: Url = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run directory. Default: runs/<model>-<digest>."),
    ] = None,
    seed: Seed = None,
    source: Source = None,
    changes: Changes = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a data set, or continue one.

    Running the same command again continues where it stopped. `sdsd run RUN_DIR -n 600` grows a
    run.
    """
    from sdsd.cli import display
    from sdsd.runs import runner
    from sdsd.runs.progress import terminal

    keys = {"n": n, "seed": seed, "source.path": source}
    chosen, path = runner.resolve(config, out, _overrides(model, url, changes, keys))
    if dry_run:
        from sdsd.runs.estimate import estimate

        display.estimate(estimate(chosen, path), json=json)
        return
    with terminal(quiet=json) as screen:
        made = runner.run(chosen, out=path, on_event=screen.on_event)
    status = made.status()
    display.finished(made, status, json=json)
    if made.stopped:
        raise typer.Exit(130)
    made.require_some()


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(help="What to compare; see docs/experiments.md.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The directory. Default: experiments/<name of the file>."),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many dialogues per arm.")] = None,
    model: Model = None,
    url: Url = None,
    changes: Changes = None,
    json: Json = False,
) -> None:
    """Compare configurations on the same scenarios.

    Running the same command again continues where it stopped.
    """
    from sdsd.cli import display
    from sdsd.runs.experiment import carry_out, load
    from sdsd.runs.progress import terminal

    chosen = load(file, _overrides(model, url, changes, {"n": n}))
    path = out or Path("experiments") / file.stem
    with terminal(quiet=json) as screen:
        outcome = carry_out(chosen, path, on_event=screen.on_event)
    display.compared(outcome, json=json)
    if outcome.comparison is None:
        raise typer.Exit(130)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("sdsd.yaml"),
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Also write a JSON schema next to it, with which editors complete and check keys.",
        ),
    ] = False,
) -> None:
    """Write a configuration file with every key explained."""
    from sdsd import config as configuration
    from sdsd.errors import ConfigError

    if path.exists():
        raise ConfigError(f"{path}: already exists; name another file or remove it")
    text, schema_file = configuration.explained(), path.with_suffix(".schema.json")
    try:
        if schema:
            schema_file.write_text(configuration.json_schema_text(), "utf-8")
            text = f"# yaml-language-server: $schema={schema_file.name}\n{text}"
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; name another") from None
    typer.echo(f"wrote {path}; now: sdsd run {path}")


@app.command()
def status(path: RunPath = None, json: Json = False) -> None:
    """Show how far a run is, and what came of its dialogues."""
    from sdsd.cli import display

    display.status(_run(path).status(), json=json)


@app.command()
def verify(path: RunPath = None, json: Json = False) -> None:
    """Replay a run from its recorded answers.

    No model is called. Every record, and the data set, must come out the same.
    """
    from sdsd.cli import display

    found = _run(path).verify()
    display.verified(found, json=json)
    if found.defects:
        raise typer.Exit(2)


@app.command()
def export(
    path: RunPath = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Change what is exported, e.g. splits.test=0.1; the run keeps it. Repeatable.",
        ),
    ] = None,
    trainer: Annotated[
        str,
        typer.Option(
            "--format",
            help="Also write it for a trainer: a name of docs/trainers.md, or package.module:name.",
        ),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Directory for the format. Default: formats/<name> in the run."),
    ] = None,
    json: Json = False,
) -> None:
    """Write data set, card and report again.

    They are made from the journal; no model is called.
    """
    from sdsd.cli import display
    from sdsd.config import assignment

    run = _run(path)
    counts = run.export(dict(map(assignment, changes or [])))
    files = run.export_for(trainer, to) if trainer else {}
    display.exported(run.path, counts, files, json=json)


@app.command()
def report(
    path: RunPath = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another run: compare the two.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the report again and print its path.

    With --against, compare two runs. With --json, print the figures.
    """
    from sdsd.cli import display

    run, other = _run(path), None if against is None else _run(against)
    if json:
        display.figures(run, other)
    else:
        typer.echo(str(run.report(other)))


@app.command()
def push(
    path: Annotated[Path, typer.Argument(help="A run directory.")],
    repo: Annotated[str, typer.Argument(help="The data set on the Hugging Face hub: org/name.")],
    public: Annotated[bool, typer.Option("--public", help="Make it visible to everyone.")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="The commit message.")] = "",
) -> None:
    """Upload a run's data set to the Hugging Face hub.

    It is private unless you say otherwise.
    """
    from sdsd.runs.progress import terminal

    run = _run(path)
    with terminal() as screen:
        address = run.push(repo, public=public, message=message, progress=screen.download)
    typer.echo(address)


@app.command()
def show(
    index: Annotated[int, typer.Argument(help="Which dialogue, from 0.")] = 0,
    path: RunPath = None,
    json: Json = False,
) -> None:
    """Print one dialogue: plan, turns, verdicts, revisions, pairs."""
    from sdsd.cli import display
    from sdsd.errors import RunDirError

    try:
        record = _run(path)[index]
    except IndexError as error:
        raise RunDirError(str(error)) from None
    display.dialogue(record, json=json)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="A configuration whose models to test.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The model to test.")] = "",
    url: Annotated[str, typer.Option("--url", help="The server to test.")] = "",
    json: Json = False,
) -> None:
    """Check this machine and your models.

    Prints what they can do, how fast they are, and what `auto` will choose.
    """
    from sdsd.cli import display
    from sdsd.models import doctor as checks
    from sdsd.runs.progress import terminal

    with terminal(quiet=json) as screen:
        findings = checks.examine(config, model, url, screen.download)
    display.findings(findings, json=json)
    if any(f.ok is False for f in findings):
        raise typer.Exit(2)


@models_app.command("list")
def models_list(json: Json = False) -> None:
    """List the named models and which are here."""
    from sdsd.cli import display
    from sdsd.models import weights

    display.models(weights.listed(), json=json)


@models_app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Download a model; an interrupted download continues."""
    from sdsd.models import weights
    from sdsd.runs.progress import terminal

    with terminal() as screen:
        path = weights.pull(name, screen.download)
    typer.echo(str(path))


@models_app.command("verify")
def models_verify(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Compare a model file with its pinned SHA-256."""
    from sdsd.models import weights
    from sdsd.runs.progress import terminal

    with terminal() as screen:
        path = weights.verify(name, screen.download)
    typer.echo(f"{path}: matches its pinned SHA-256")


@models_app.command("remove")
def models_remove(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Delete a model file and what is left of its download."""
    from sdsd.models import weights

    typer.echo(f"{weights.remove(name) / 1e6:,.0f} MB freed")


@catalogue_app.command("check")
def catalogue_check(
    topics: Annotated[Path | None, typer.Option(help="Your topics.")] = None,
    principles: Annotated[Path | None, typer.Option(help="Your principles.")] = None,
    goals: Annotated[Path | None, typer.Option(help="Your goals.")] = None,
    json: Json = False,
) -> None:
    """Check the catalogue and count what is in it."""
    from sdsd.cli import display
    from sdsd.scenarios import catalogue

    display.catalogue(catalogue.load(topics, principles, goals), json=json)


@catalogue_app.command("expand")
def catalogue_expand(
    out: Annotated[Path, typer.Argument(help="The directory to write the larger topics to.")],
    topics: Annotated[Path | None, typer.Option(help="Your topics.")] = None,
    per_domain: Annotated[int, typer.Option(help="Subareas per domain.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Only these fields. Repeatable."),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The model that writes them.")] = "",
    url: Annotated[str, typer.Option("--url", help="The base URL of its server.")] = "",
) -> None:
    """Let a model write more subareas per domain.

    Running the same command again continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.runs.expand_catalogue import expand
    from sdsd.runs.progress import terminal

    overrides: dict[str, Any] = {"models.default.base_url": url} if url else {}
    if model:
        overrides["model"] = model
    chosen = configuration.load(None, overrides)
    with terminal() as screen:
        grown = expand(
            out,
            topics,
            chosen,
            per_domain=per_domain,
            only=only or [],
            on_event=screen.on_event,
        )
    typer.echo(f"{grown.before} subareas before, {grown.after} now, in {out}")


@catalogue_app.command("preview")
def catalogue_preview(
    n: Annotated[int, typer.Option("-n", help="How many scenarios.")] = 10,
    seed: Annotated[int, typer.Option(help="The run's seed.")] = 0,
    config: Annotated[Path | None, typer.Argument(help="A configuration.")] = None,
) -> None:
    """Print the first scenarios of a run, before anything is spent."""
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.inputs import read_inputs

    chosen = configuration.load(config, {"seed": seed} if seed else {})
    scenarios = read_inputs(chosen).scenarios
    display.scenarios([scenarios[i] for i in range(n)])
