"""The command line. Thin: every command calls what the Python API offers.

Heavy imports stay inside the commands, so that `sdsd --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="sdsd",
    help="Self-directed synthetic dialogues and revisions: multi-turn dialogues and verified "
    "preference pairs from any language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="The embedded engine's model files.", no_args_is_help=True)
catalogue_app = typer.Typer(help="Topics, principles and goals.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(catalogue_app, name="catalogue")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A named model, a GGUF file, or a server's model."),
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="An OpenAI-compatible server, e.g. http://localhost:8000/v1."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key: --set dialogue.protocol=roleplay. Repeatable."),
]
RunPath = Annotated[
    Path | None,
    typer.Argument(help="The run directory. Default: the one last written under runs/."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: faults become one message and an exit code, never a traceback."""
    from sdsd.errors import SdsdError

    try:
        app(arguments, prog_name="sdsd")
    except SdsdError as error:
        from sdsd.cli.display import fault

        fault(str(error))
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
    """What the command line says of the configuration, by dotted key; `--set` says it last."""
    from sdsd.config import assignment

    said = {"model": model, "models.default.base_url": url, **keys}
    return {k: v for k, v in said.items() if v is not None} | dict(map(assignment, changes or []))


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
        typer.Argument(help="A configuration (see `sdsd init`). None: the defaults."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", help="How many dialogues; more than before continues the run."),
    ] = None,
    model: Model = None,
    url: Url = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run directory. Default: runs/<model>-<digest>."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Decides every scenario and every sample."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Dialogues or plans to start from: a file, or hf:org/name."),
    ] = None,
    changes: Changes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate calls, tokens, time and money.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a data set, or continue one: run the same command again."""
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.runner import require_some
    from sdsd.runs.runner import run as make

    keys = {"n": n, "seed": seed, "source.path": source}
    chosen = configuration.load(config, _overrides(model, url, changes, keys))
    if dry_run:
        from sdsd.runs.directory import default_path
        from sdsd.runs.estimate import estimate

        display.estimate(estimate(chosen, out or default_path(chosen, Path.cwd())), json=json)
        return
    with display.progress(json=json) as screen:
        result = make(chosen, out=out, on_event=screen.hear, progress=screen.download)
    display.finished(result, json=json)
    if result.stopped:
        raise typer.Exit(130)
    require_some(result)


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(help="What to compare; see docs/experiments.md.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The directory. Default: experiments/<name of the file>."),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many dialogues in each arm.")] = None,
    model: Model = None,
    url: Url = None,
    changes: Changes = None,
    json: Json = False,
) -> None:
    """Make the same scenarios in several ways, and compare; or go on with that."""
    from sdsd.cli import display
    from sdsd.runs.experiment import carry_out, load

    chosen = load(file, _overrides(model, url, changes, {"n": n}))
    path = out or Path("experiments") / file.stem
    with display.progress(json=json) as screen:
        outcome = carry_out(chosen, path, on_event=screen.hear, progress=screen.download)
    display.compared(outcome, json=json)
    if outcome.comparison is None:
        raise typer.Exit(130)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("sdsd.yaml"),
) -> None:
    """Write a configuration with every key explained, to start from."""
    from sdsd import config as configuration
    from sdsd.errors import ConfigError

    if path.exists():
        raise ConfigError(f"{path}: is there already; name another file or remove it")
    try:
        path.write_text(configuration.explained(), "utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; name another") from None
    typer.echo(f"wrote {path}; now: sdsd run {path}")


@app.command()
def status(path: RunPath = None, json: Json = False) -> None:
    """How far a run is, and what came of its dialogues."""
    from sdsd.cli import display
    from sdsd.runs.status import find, state

    display.status(state(find(path)), json=json)


@app.command()
def verify(path: RunPath = None, json: Json = False) -> None:
    """Replay a run from its journal, without a model, and compare everything."""
    from sdsd.cli import display
    from sdsd.runs.status import find
    from sdsd.runs.verify import verify as check

    verdict = check(find(path))
    display.verified(verdict, json=json)
    if verdict.faults:
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
    trainer_format: Annotated[
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
    """Write data set, card and report again from the journal, without calling a model."""
    from sdsd.cli import display
    from sdsd.runs.status import find, republish, write_format

    rundir = find(path)
    counts = republish(rundir, changes or [])
    files = write_format(rundir, trainer_format, to) if trainer_format else {}
    display.exported(rundir, counts, files, json=json)


@app.command()
def report(
    path: RunPath = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another run: compare the two.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the report anew and say where it is; with --json, its figures."""
    from sdsd.runs.status import compared, figures, find, republish

    rundir = find(path)
    if against is not None:
        typer.echo(compared(rundir, find(against), json=json))
    elif json:
        typer.echo(figures(rundir))
    else:
        republish(rundir)
        typer.echo(str(rundir.report))


@app.command()
def push(
    path: Annotated[Path, typer.Argument(help="A run directory.")],
    repo: Annotated[str, typer.Argument(help="The data set on the Hugging Face hub: org/name.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see.")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="What this push is.")] = "",
) -> None:
    """Put a run's data set on the Hugging Face hub; private unless you say otherwise."""
    from sdsd.cli import display
    from sdsd.runs import hub
    from sdsd.runs.status import find

    rundir = find(path)
    with display.progress() as screen:
        address = hub.push(
            rundir, repo, private=not public, message=message, progress=screen.download
        )
    typer.echo(address)


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="A data set that `sdsd push` made: org/name.")],
    path: Annotated[
        Path | None, typer.Argument(help="The directory. Default: runs/<name>.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch, tag or commit.")
    ] = None,
) -> None:
    """Fetch a run that somebody pushed, to read and export it, without its model calls."""
    from sdsd.cli import display
    from sdsd.runs import hub

    where = path or Path("runs") / repo.rpartition("/")[2]
    with display.progress() as screen:
        rundir = hub.pull(repo, where, revision=revision, progress=screen.download)
    typer.echo(str(rundir.path))


@app.command()
def show(
    index: Annotated[int, typer.Argument(help="Which dialogue, from 0.")] = 0,
    path: RunPath = None,
    json: Json = False,
) -> None:
    """Read one dialogue: plan, turns, verdicts, revision."""
    from sdsd.cli import display
    from sdsd.runs.status import find, record

    display.dialogue(record(find(path), index), json=json)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="A configuration, whose models to try.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The model to try.")] = "",
    url: Annotated[str, typer.Option("--url", help="A server to try.")] = "",
    json: Json = False,
) -> None:
    """Check the machine and models: what it can do, how fast, and what `auto` will choose."""
    from sdsd.cli import display
    from sdsd.models import doctor as checks

    with display.progress(json=json) as screen:
        findings = checks.examine(config, model, url, screen.download)
    display.findings(findings, json=json)
    if any(f.ok is False for f in findings):
        raise typer.Exit(2)


@models_app.command("list")
def models_list(json: Json = False) -> None:
    """The named models, and which are on this machine."""
    from sdsd.cli import display
    from sdsd.models import weights

    display.models(weights.listed(), json=json)


@models_app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Fetch a model; what was fetched before is kept."""
    from sdsd.cli import display
    from sdsd.models import weights

    with display.progress() as screen:
        path = weights.pull(name, screen.download)
    typer.echo(str(path))


@models_app.command("verify")
def models_verify(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Compare a model file with its pinned SHA-256."""
    from sdsd.cli import display
    from sdsd.models import weights

    with display.progress() as screen:
        path = weights.verify(name, screen.download)
    typer.echo(f"{path}: as pinned")


@models_app.command("remove")
def models_remove(name: Annotated[str, typer.Argument(help="A named model.")]) -> None:
    """Delete a model file and whatever is left of fetching it."""
    from sdsd.models import weights

    typer.echo(f"{weights.remove(name) / 1e6:,.0f} MB freed")


@catalogue_app.command("check")
def catalogue_check(
    topics: Annotated[Path | None, typer.Option(help="Your topics.")] = None,
    principles: Annotated[Path | None, typer.Option(help="Your principles.")] = None,
    goals: Annotated[Path | None, typer.Option(help="Your goals.")] = None,
    json: Json = False,
) -> None:
    """Read the catalogue, yours or the packaged one, and count what is in it."""
    from sdsd.cli import display
    from sdsd.scenarios import catalogue

    display.catalogue(catalogue.load(topics, principles, goals), json=json)


@catalogue_app.command("expand")
def catalogue_expand(
    out: Annotated[Path, typer.Argument(help="Directory to write the larger topics into.")],
    topics: Annotated[Path | None, typer.Option(help="Your topics.")] = None,
    per_domain: Annotated[int, typer.Option(help="Subareas each domain should have.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Only these fields. Repeatable."),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Who writes.")] = "",
    url: Annotated[str, typer.Option("--url", help="A server's base URL.")] = "",
) -> None:
    """Let a model write more subareas per domain; run it again to go on."""
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.expand_catalogue import expand

    overrides: dict[str, Any] = {"models.default.base_url": url} if url else {}
    if model:
        overrides["model"] = model
    chosen = configuration.load(None, overrides)
    with display.progress() as screen:
        grown = expand(
            out, topics, chosen, per_domain=per_domain, only=only or [],
            on_event=screen.hear, progress=screen.download,
        )  # fmt: skip
    typer.echo(f"{grown.before} subareas before, {grown.after} now, in {out}")


@catalogue_app.command("preview")
def catalogue_preview(
    n: Annotated[int, typer.Option("-n", help="How many scenarios.")] = 10,
    seed: Annotated[int, typer.Option(help="The run's seed.")] = 0,
    config: Annotated[Path | None, typer.Argument(help="A configuration.")] = None,
) -> None:
    """The first scenarios of a run, before anything is spent."""
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.runner import read_inputs

    chosen = configuration.load(config, {"seed": seed} if seed else {})
    scenarios = read_inputs(chosen).scenarios
    display.scenarios([scenarios[i] for i in range(n)])
