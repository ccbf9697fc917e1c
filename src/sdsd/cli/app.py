"""The command line: every command calls what the Python API offers.

Heavy imports stay inside the commands, so that `sdsd --help` answers at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from sdsd.cli import catalogue, models, streams
from sdsd.cli.help import SETTINGS, Command, Root
from sdsd.cli.options import (
    DISPLAY,
    WHICH,
    Changes,
    DryRun,
    Json,
    Lines,
    Model,
    RunPath,
    Seed,
    Source,
    Url,
    exit_if_stopped,
    overrides,
)

if TYPE_CHECKING:
    from sdsd.runs.run import Run
    from sdsd.types import Outcome

F = TypeVar("F", bound=Callable[..., None])

app = typer.Typer(
    name="sdsd",
    cls=Root,
    help="Self-directed synthetic dialogues and revisions: multi-turn dialogues and verified "
    "preference pairs from any language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)


def _group(title: str) -> Callable[..., Callable[[F], F]]:
    """Return what declares a command of a group in the help."""
    return partial(app.command, cls=Command, rich_help_panel=title)


making, reading = _group("Make dialogues"), _group("Look at a run")
publishing, preparing = _group("Publish"), _group("Prepare")


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
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None: ...


@making()
def run(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            help="A configuration (see `sdsd init`), or a run directory to continue. Default: the "
            "built-in defaults.",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            metavar="N",
            help="Number of dialogues. A larger number than before grows the run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The run directory. Default: runs/<model>-<digest>.",
        ),
    ] = None,
    seed: Seed = None,
    source: Source = None,
    changes: Changes = None,
    dry_run: DryRun = False,
    model: Model = None,
    url: Url = None,
    lines: Lines = False,
    json: Json = False,
) -> None:
    """Make a data set, or continue one.

    The same command continues where it stopped. `sdsd run RUN -n 600` grows a run.
    """
    from sdsd.cli import display
    from sdsd.runs import runner
    from sdsd.runs.progress import terminal

    keys = {"n": n, "seed": seed, "source.path": source}
    changed = overrides(model, url, changes, keys, named=config is not None)
    chosen, path = runner.resolve(config, out, changed)
    if dry_run:
        from sdsd.runs.estimate import estimate

        display.estimate(estimate(chosen, path), json=json)
        return
    with terminal(quiet=json, lines=lines) as screen:
        made = runner.run(chosen, out=path, on_event=screen.on_event)
    status = made.status()
    display.finished(made, status, json=json)
    exit_if_stopped(made.stopped)
    made.require_some()


@making()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The run directory.")
    ] = Path("runs/demo"),
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
    exit_if_stopped(made.stopped)
    if not json:
        display.demonstrated(made.path)


@making()
def experiment(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The experiment file; `sdsd init --experiment` writes one."
        ),
    ],
    n: Annotated[
        int | None, typer.Option("-n", metavar="N", help="Number of dialogues per arm.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Its directory. Default: experiments/<file name>."
        ),
    ] = None,
    changes: Changes = None,
    model: Model = None,
    url: Url = None,
    lines: Lines = False,
    json: Json = False,
) -> None:
    """Compare configurations on the same scenarios.

    The same command continues where it stopped.
    """
    from sdsd.cli import display
    from sdsd.runs.experiment import carry_out, load
    from sdsd.runs.progress import terminal

    chosen = load(file, overrides(model, url, changes, {"n": n}, named=True))
    path = out or Path("experiments") / file.stem
    with terminal(quiet=json, lines=lines) as screen:
        outcome = carry_out(chosen, path, on_event=screen.on_event)
    display.compared(outcome, json=json)
    exit_if_stopped(outcome.stopped)


@reading(name="list")
def list_(
    run: RunPath = None,
    accepted: Annotated[
        bool, typer.Option("--accepted", help="Those with pairs.", rich_help_panel=WHICH)
    ] = False,
    filtered: Annotated[
        bool, typer.Option("--filtered", help="Those that a rule left out.", rich_help_panel=WHICH)
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Those that failed.", rich_help_panel=WHICH)
    ] = False,
    principle: Annotated[
        str, typer.Option(metavar="ID", help="Of this target principle.", rich_help_panel=WHICH)
    ] = "",
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Of this strategy.", rich_help_panel=WHICH)
    ] = "",
    random: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="N of them at random.", rich_help_panel=WHICH),
    ] = None,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs", help="List their pairs: rejected, chosen.", rich_help_panel=DISPLAY
        ),
    ] = False,
    json: Json = False,
) -> None:
    """List dialogues, a line each: outcome, pairs, principle, topic.

    Several outcomes mean any of them; without one, all are listed.
    """
    from sdsd.cli import listing

    outcomes: dict[Outcome, bool] = {"accepted": accepted, "filtered": filtered, "failed": failed}
    wanted = listing.Wanted([k for k, on in outcomes.items() if on], principle, strategy, random)
    (listing.pairs if pairs else listing.dialogues)(_run(run), wanted, json=json)


@reading()
def show(
    run: RunPath = None,
    index: Annotated[
        str | None, typer.Argument(metavar="INDEX", help="Which dialogue, from 0. Default: 0.")
    ] = None,
    json: Json = False,
) -> None:
    """Print one dialogue: plan, turns, verdicts, revisions, pairs.

    `sdsd show 3` prints dialogue 3 of the latest run; `sdsd list` lists the dialogues.
    """
    from sdsd.cli import display
    from sdsd.errors import RunDirError

    path, number = run, index or "0"
    if path is not None and str(path).isdecimal():  # the index alone, or first, as it once was
        path, number = None if index is None else Path(index), str(path)
    if not number.isdecimal():
        raise RunDirError(
            f"`{number}` is not the index of a dialogue; give a number from 0: `sdsd show RUN 0`"
        )
    opened = _run(path)
    try:
        record = opened[int(number)]
    except IndexError as error:
        raise RunDirError(str(error)) from None
    display.dialogue(record, json=json)


@reading()
def status(path: RunPath = None, json: Json = False) -> None:
    """Show a run's progress and the outcomes of its dialogues."""
    from sdsd.cli import display

    display.status(_run(path).status(), json=json)


@reading()
def report(
    path: RunPath = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="RUN", help="Another run: compare the two."),
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


@reading()
def verify(
    path: RunPath = None,
    drop: Annotated[
        list[int] | None,
        typer.Option(
            "--drop",
            metavar="INDEX",
            help="First forget a dialogue whose recorded answers are damaged; the next "
            "`sdsd run RUN` makes it again. Repeatable.",
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
        raise typer.Exit(1)


@publishing()
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
            metavar="NAME",
            help="Also write this trainer format (docs/trainers.md), or package.module:name.",
        ),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Directory for the format. Default: formats/<name> in the run.",
        ),
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


@publishing()
def push(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    repo: Annotated[
        str,
        typer.Argument(metavar="REPO", help="The data set on the Hugging Face hub: org/name."),
    ],
    public: Annotated[bool, typer.Option("--public", help="Make it visible to everyone.")] = False,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="The commit message.")
    ] = "",
    json: Json = False,
) -> None:
    """Upload a run's data set to the Hugging Face hub.

    It is private unless you say otherwise.
    """
    from sdsd.cli import display
    from sdsd.runs.progress import terminal

    run = _run(path)
    with terminal(quiet=json) as screen:
        address = run.push(repo, public=public, message=message, progress=screen.download)
    display.result(address, {"address": address}, json=json)


@preparing()
def init(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="The file to write. Default: sdsd.yaml, or experiment.yaml."
        ),
    ] = None,
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Only the five keys that most people need.")
    ] = False,
    experiment: Annotated[
        bool,
        typer.Option("--experiment", help="An experiment file: arms to compare, on a base."),
    ] = False,
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

    if experiment and (minimal or schema):
        raise ConfigError("--experiment: leave out --minimal and --schema; they are of other files")
    path = path or Path("experiment.yaml" if experiment else "sdsd.yaml")
    if path.exists():
        raise ConfigError(f"{path}: already exists; name another file or remove it")
    text, schema_file = configuration.explained(minimal=minimal), path.with_suffix(".schema.json")
    if experiment:
        text = configuration.EXPERIMENT
    try:
        if schema:
            write_atomic(schema_file, configuration.json_schema_text())
            text = f"# yaml-language-server: $schema={schema_file.name}\n{text}"
        write_atomic(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; name another") from None
    command = "experiment" if experiment else "run"
    typer.echo(f"wrote {path}; now: sdsd {command} {path}")


@preparing()
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A configuration whose models to test."),
    ] = None,
    model: Model = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Check this machine and your models.

    Prints what they can do, how fast they are, and what `auto` will choose.
    """
    from sdsd.cli import display
    from sdsd.models import doctor as checks
    from sdsd.runs.progress import terminal

    with terminal(quiet=json) as screen:
        found = checks.examine(config, overrides(model, url, named=True), screen.download)
    display.diagnoses(found, json=json)
    if any(diagnosis.ok is False for diagnosis in found):
        raise typer.Exit(1)


@preparing()
def exam(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A configuration whose critics to test."),
    ] = None,
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            metavar="JUDGE",
            help="verdict, contrast or pairwise, with :N example pairs (verdict:0) or another "
            "wording (verdict/defend); program, for principles with a check; a critic of the "
            "configuration; or all. Repeatable. Default: "
            "the configuration's critics, else verdict, and contrast where the server can score.",
        ),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your labelled pairs; see docs/exam.md. Default: the packaged ones.",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", metavar="N", help="Number of items. Default: 48, or all of yours."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Its directory. Default: exams/<model>-<digest>."
        ),
    ] = None,
    changes: Changes = None,
    model: Model = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Test how well critics tell violations.

    Judges see pairs of replies whose labels are known. The same command continues where it stopped.
    """
    from sdsd import config as configuration
    from sdsd.cli import display
    from sdsd.runs.progress import terminal
    from sdsd.runs.take_exam import take

    chosen = configuration.load(config, overrides(model, url, changes, named=config is not None))
    configuration.check_parts(chosen)
    with terminal(quiet=json) as screen:
        taken = take(
            chosen, items=items, n=n, judges=judges or (), out=out, on_event=screen.on_event
        )
    display.examined(taken, json=json)


app.add_typer(catalogue.app, name="catalogue", rich_help_panel="Prepare")
app.add_typer(models.app, name="models", rich_help_panel="Prepare")
