"""The command line: every command calls what the Python API offers.

Heavy imports stay inside the commands, so that `sdsd --help` answers at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sdsd.cli import catalogue, models, streams
from sdsd.cli.options import Changes, DryRun, Json, Model, RunPath, Seed, Source, Url, overrides

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
app.add_typer(models.app, name="models")
app.add_typer(catalogue.app, name="catalogue")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes one message and an exit code, never a traceback."""
    from sdsd.errors import SdsdError
    from sdsd.interrupts import like_ctrl_c

    streams.show_anything()
    try:
        try:
            with like_ctrl_c():
                app(arguments, prog_name="sdsd")
        finally:
            streams.flush()
    except SdsdError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        message = streams.explained(error)
        _fail(message, 2) if message else sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str, code: int) -> NoReturn:
    from sdsd.cli.display import error_line

    with contextlib.suppress(OSError):  # nothing is left to tell it with
        error_line(message)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from sdsd import __version__

        typer.echo(f"sdsd {__version__}")
        raise typer.Exit


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
            "built-in defaults."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", help="Number of dialogues. A larger number than before grows the run."),
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
    from sdsd.errors import ConfigError
    from sdsd.runs import runner
    from sdsd.runs.progress import terminal

    keys = {"n": n, "seed": seed, "source.path": source}
    changed = overrides(model, url, changes, keys)
    if config is None and url and not changed.keys() & {"model", "models.default.model"}:
        # Some servers ignore the name; the data set would then name the default model.
        raise ConfigError(
            "--url: also give `--model`, the name under which the server serves the model; "
            f"`sdsd doctor --url {url}` lists the names"
        )
    chosen, path = runner.resolve(config, out, changed)
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
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run directory.")] = Path(
        "runs/demo"
    ),
    json: Json = False,
) -> None:
    """Make a small run to look at.

    Offline and in seconds: its replies were written by hand, in answer to the packaged prompts. The
    pipeline does the rest, as in any run.
    """
    from sdsd.cli import display
    from sdsd.runs.demo import demo as make
    from sdsd.runs.progress import terminal

    with terminal(quiet=json) as screen:
        made = make(out, on_event=screen.on_event)
    display.finished(made, made.status(), json=json)
    if made.stopped:
        raise typer.Exit(130)
    if not json:
        display.demonstrated(made.path)


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(help="The experiment file; see docs/experiments.md.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Its directory. Default: experiments/<file name>."),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Number of dialogues per arm.")] = None,
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

    chosen = load(file, overrides(model, url, changes, {"n": n}))
    path = out or Path("experiments") / file.stem
    with terminal(quiet=json) as screen:
        outcome = carry_out(chosen, path, on_event=screen.on_event)
    display.compared(outcome, json=json)
    if outcome.comparison is None:
        raise typer.Exit(130)


@app.command()
def exam(
    config: Annotated[
        Path | None, typer.Argument(help="A configuration whose critics to test.")
    ] = None,
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="verdict, contrast or pairwise, with :N example pairs (verdict:0) or another "
            "wording (verdict/defend); program, for principles with a check; a critic of the "
            "configuration; or all. Repeatable. Default: "
            "the configuration's critics, else verdict, and contrast where the server can score.",
        ),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(help="Your labelled pairs; see docs/exam.md. Default: the packaged ones."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", help="Number of items. Default: 48, or all of yours.")
    ] = None,
    model: Model = None,
    url: Url = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Its directory. Default: exams/<model>-<digest>."),
    ] = None,
    changes: Changes = None,
    json: Json = False,
) -> None:
    """Test how well critics tell violations.

    Judges see pairs of replies whose labels are known. Running the same command again continues
    where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.progress import terminal
    from sdsd.runs.take_exam import take

    chosen = configuration.load(config, overrides(model, url, changes))
    configuration.check_parts(chosen)
    with terminal(quiet=json) as screen:
        taken = take(
            chosen, items=items, n=n, judges=judges or (), out=out, on_event=screen.on_event
        )
    display.examined(taken, json=json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("sdsd.yaml"),
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Also write a JSON schema next to it, so that editors complete and check keys.",
        ),
    ] = False,
) -> None:
    """Write a configuration file with every key explained."""
    from sdsd import config as configuration
    from sdsd.errors import ConfigError
    from sdsd.files import write_atomic

    if path.exists():
        raise ConfigError(f"{path}: already exists; name another file or remove it")
    text, schema_file = configuration.explained(), path.with_suffix(".schema.json")
    try:
        if schema:
            write_atomic(schema_file, configuration.json_schema_text())
            text = f"# yaml-language-server: $schema={schema_file.name}\n{text}"
        write_atomic(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; name another") from None
    typer.echo(f"wrote {path}; now: sdsd run {path}")


@app.command()
def status(path: RunPath = None, json: Json = False) -> None:
    """Show a run's progress and the outcomes of its dialogues."""
    from sdsd.cli import display

    display.status(_run(path).status(), json=json)


@app.command()
def verify(
    path: RunPath = None,
    drop: Annotated[
        list[int] | None,
        typer.Option(
            "--drop",
            metavar="INDEX",
            help="First forget what is recorded of a dialogue whose answers are damaged; the next "
            "`sdsd run RUN_DIR` makes it again. Repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Replay a run from its recorded answers.

    No model is called. Every record, the data set and all files must come out the same.
    """
    from sdsd.cli import display

    run = _run(path)
    for index in drop or ():
        display.dropped(index, run.drop(index))
    found = run.verify()
    display.verified(run.path, found, json=json)
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
            help="Also write this trainer format (docs/trainers.md), or package.module:name.",
        ),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Directory for the format. Default: formats/<name> in the run."),
    ] = None,
    json: Json = False,
) -> None:
    """Rebuild the data set, card and report.

    Everything is made from the journal; no model is called.
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
    """Rebuild the report and print its path.

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
    index: Annotated[str, typer.Argument(help="Which dialogue, from 0.")] = "0",
    path: RunPath = None,
    json: Json = False,
) -> None:
    """Print one dialogue: plan, turns, verdicts, revisions, pairs.

    The run may come first: `sdsd show RUN_DIR` prints its dialogue 0, `sdsd show RUN_DIR 3` its
    dialogue 3.
    """
    from sdsd.cli import display
    from sdsd.errors import RunDirError

    number = index
    if not index.isdecimal():
        number, path = str(path or 0), Path(index)
    run = _run(path)
    if not number.isdecimal():
        raise RunDirError(f"`{number}` is not the index of a dialogue; give a number from 0")
    try:
        record = run[int(number)]
    except IndexError as error:
        raise RunDirError(str(error)) from None
    display.dialogue(record, json=json)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="A configuration whose models to test.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model to test.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="The server to test.")] = None,
    json: Json = False,
) -> None:
    """Check this machine and your models.

    Prints what they can do, how fast they are, and what `auto` will choose.
    """
    from sdsd.cli import display
    from sdsd.models import doctor as checks
    from sdsd.runs.progress import terminal

    with terminal(quiet=json) as screen:
        found = checks.examine(config, overrides(model, url), screen.download)
    display.diagnoses(found, json=json)
    if any(diagnosis.ok is False for diagnosis in found):
        raise typer.Exit(2)
