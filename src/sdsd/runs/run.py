"""`Run`: one run directory, and everything that can be read from it or made of it.

    r = Run.open("runs/x")
    r.status().pairs; r[17].plan
    for pair in r.pairs(): ...

No model is called here: `sdsd.run` makes dialogues, a `Run` reads them.
"""

from __future__ import annotations

import html
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.errors import ModelError, RunDirError, SdsdError
from sdsd.files import write_atomic
from sdsd.reports.advice import Advice, advice
from sdsd.reports.money import money
from sdsd.runs import journal_audit, publication
from sdsd.runs.directory import CONFIG_NAME, RunDir
from sdsd.runs.inputs import Inputs, check_files, inputs_of
from sdsd.runs.journal import Journal
from sdsd.runs.rounds import Rounds
from sdsd.scenarios.existing_store import StoredRows
from sdsd.scenarios.quotas import CellProgress, summary
from sdsd.types import Message, PairKind, Record, Role, Scenario, Usage

if TYPE_CHECKING:
    import datasets
    import pandas

    from sdsd.dataset.export import Counts
    from sdsd.reports.metrics.comparison import Comparison
    from sdsd.reports.metrics.figures import Figures
    from sdsd.runs.verify import Verification


class RunStatus(Struct, frozen=True):
    """The progress of a run."""

    path: Path
    n: int
    """Dialogues that it should have. 0: as many as the targets need."""
    done: int
    """Dialogues that have a record."""
    accepted: int
    """Dialogues with at least one verified pair."""
    pairs: int
    """Verified pairs: more than `accepted` where several candidates of a dialogue are clean."""
    outcomes: dict[str, int]
    """Dialogues by `accepted`, `filtered/<rule>` and `failed`."""
    answers: int
    """Model calls recorded."""
    usage: list[Usage]
    """Calls and tokens by stage, role and model."""
    money: float
    """Cost so far; 0 where no model has a price."""
    running: bool
    """Whether a process is writing to the run right now."""
    unpublished: int = 0
    """Finished dialogues that the data set lacks; all of them where publishing did not end."""
    protocol: str = ""
    models: dict[Role, str] = {}
    """Names of models by role; empty before the first call."""
    targets: tuple[CellProgress, ...] = ()
    """The progress of each target cell; empty without targets."""
    advice: tuple[Advice, ...] = ()
    """Why there are no verified pairs, and what would help; empty if there are some."""
    failures: dict[str, list[int]] = {}
    """By cause, the dialogues that failed."""


def _by_cause(failed: Iterable[Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in failed:
        cause = record.failure.cause if record.failure else "unknown"
        found.setdefault(cause, []).append(record.scenario.index)
    return found


class PreferencePair(Struct, frozen=True):
    """A verified pair: after `prompt`, `chosen` is a better reply than `rejected`."""

    prompt: tuple[Message, ...]
    """The conversation before the last reply; ends on a user turn."""
    chosen: str
    rejected: str
    kind: PairKind
    """Whether `chosen` is a revision of `rejected`, or another sample of the same model."""
    principles: tuple[str, ...]
    """Texts of the principles that `rejected` violates."""
    scenario: Scenario


class Run:
    """A run: a sequence of finished dialogues (`Record`), and what can be made of them."""

    def __init__(self, path: Path | str, *, stopped: str = "", seconds: float = 0.0) -> None:
        self.path = Path(path)
        self.stopped = stopped
        """Why `sdsd.run` returned before everything was made; empty if it made everything."""
        self.seconds = seconds
        """How long `sdsd.run` took."""
        self._dir = RunDir(self.path)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open a run by its directory, or by the `config.yaml` in it.

        Raises `RunDirError` if it is not a run, or its format is one that this program cannot read.
        """
        path = Path(path)
        found = cls(path.parent if path.name == CONFIG_NAME and path.is_file() else path)
        found._dir.config()
        return found

    @classmethod
    def latest(cls, folder: Path | str = "runs") -> Run:
        """Open the run in `folder` that was written to last."""
        journals = sorted(
            Path(folder).glob("*/journal.sqlite"),
            key=lambda p: max(f.stat().st_mtime for f in p.parent.glob("journal.sqlite*")),
            reverse=True,
        )
        for rundir in (RunDir(path.parent) for path in journals):
            if rundir.manifest_file.exists() and rundir.recorded():  # not a start that failed
                return cls.open(rundir.path)
        raise RunDirError(
            f"no run under ./{folder}; name a run directory, or start one with `sdsd run`"
        )

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self._dir.config()

    # -- dialogues -------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Count the finished dialogues."""
        with self._journal() as journal:
            return journal.finished()

    def __getitem__(self, index: int) -> Record:
        """Return the dialogue with this index. Raises `IndexError` if it is not finished."""
        if not isinstance(index, int):
            raise TypeError(f"a run is indexed by one number, not by {index!r}; see `records()`")
        with self._journal() as journal:
            number = operator.index(index)
            found = journal.record(number) if 0 <= number < 2**63 else None
            if found is None:
                why = "is not finished or does not exist" if number < 2**63 else "is too large"
                raise IndexError(
                    f"{self.path}: dialogue {index} {why}; "
                    f"{journal.finished()} are finished, counted from 0"
                )
            return found

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def records(self) -> Iterator[Record]:
        """Yield every finished dialogue in order, read as they are needed."""
        with self._journal() as journal:
            yield from journal.records()

    def pairs(self) -> Iterator[PreferencePair]:
        """Yield every verified pair.

        All of them: the views of the data set leave out duplicates and whatever else
        `config.export` excludes.
        """
        for record in self.records():
            if record.pairs and record.dialogue and record.critique:
                texts = {p.id: p.text for p in record.scenario.principles}
                prompt = record.dialogue.messages[:-1]
                violated = tuple(texts[key] for key in record.critique.violations if key in texts)
                for pair in record.pairs:
                    yield PreferencePair(
                        prompt,
                        pair.chosen,
                        record.dialogue.last_reply,
                        pair.kind,
                        violated,
                        record.scenario,
                    )

    def status(self) -> RunStatus:
        """Count what the journal holds, during the run or afterwards."""
        config, manifest = self.config, self._dir.manifest()
        with self._journal() as journal:
            usage, outcomes = journal.usage(), journal.outcomes()
            inputs = inputs_of(self._dir, config) if config.targets.on else None
            return RunStatus(
                path=self.path,
                n=_planned(config, self._dir),
                done=sum(outcomes.values()),
                accepted=outcomes.get("accepted", 0),
                pairs=journal.pairs(),
                outcomes=outcomes,
                answers=journal.answers(),
                usage=usage,
                money=money(usage, config),
                running=self._dir.locked(),
                unpublished=publication.lacking(self._dir, sum(outcomes.values())),
                protocol=manifest.protocol if manifest else "",
                models=manifest.models if manifest else {},
                targets=standings_of(inputs, journal) if inputs else (),
                advice=advice(outcomes, journal.pairs(), manifest.calibrations if manifest else {}),
                failures=_by_cause(journal.failures()),
            )

    def require_some(self) -> None:
        """Raise `ModelError` if every dialogue failed: that is the model's doing, not chance."""
        with self._journal() as journal:
            outcomes = journal.outcomes()
            first = next(journal.records(), None)
        if first is not None and outcomes.keys() == {"failed"}:
            failure = first.failure
            cause = f"{failure.step}: {failure.cause}" if failure else "unknown"
            remedy = (
                f"`sdsd show {self.path} {first.scenario.index}` prints the raw reply; use a more "
                "capable model, another protocol, or simpler prompts"
                if failure and failure.raw
                else f"`sdsd doctor {self.path / 'config.yaml'}` shows what the model answers"
            )
            raise ModelError(
                f"all {outcomes['failed']} dialogues failed, the first at {cause}. {remedy}"
            )

    # -- exports and reports -----------------------------------------------------------------------

    def to_pandas(self, view: str = "preference") -> pandas.DataFrame:
        """Return a view of the data set as a `pandas.DataFrame`, with its split as a column."""
        require_package("pandas")
        import pandas as pd

        tables = self._tables(view)
        return pd.concat(
            [table.to_pandas().assign(split=split) for split, table in tables.items()],
            ignore_index=True,
        )

    def to_datasets(self, view: str = "preference") -> datasets.DatasetDict:
        """Return a view of the data set as a `datasets.DatasetDict`, by split."""
        require_package("datasets")
        from datasets import Dataset, DatasetDict

        return DatasetDict({split: Dataset(table) for split, table in self._tables(view).items()})

    def export(self, changes: Mapping[str, Any] = {}) -> Counts | None:
        """Write the data set, its card and the report again.

        `changes` are keys of the configuration's `export` with their new values, e.g.
        `{"splits.test": 0.1}`; the run keeps them. Returns what the data set holds; None before the
        first model call.
        """
        from sdsd.runs.publish import publish

        config = self.config
        if changes:
            keys = {f"export.{key.removeprefix('export.')}": v for key, v in changes.items()}
            config = configuration.load(configuration.tree(config), keys)
        inputs = inputs_of(self._dir, config)
        if changes:
            check_files(config)
            with self._dir.lock():
                self._dir.prepare(config)
        # Not locked against a run in progress, only against others that publish.
        with self._journal() as journal:
            return publish(self._dir, journal, inputs.catalogue)

    def export_for(self, trainer: str, to: Path | str | None = None) -> dict[Path, int]:
        """Write the exported data set in a trainer's format; return the rows of each file.

        `trainer` is a packaged format, or your own as `package.module:name`. `to` is a directory;
        None: `formats/<trainer>` in the run.
        """
        from sdsd.dataset import trainer_formats

        out = Path(to) if to else self.path / "formats" / trainer.rpartition(":")[2]
        rows = trainer_formats.write(self._dir.data, trainer, out)
        return {out / name: number for name, number in rows.items()}

    def report(self, against: Run | Path | str | None = None) -> Path:
        """Write the report, or the comparison with another run, and return its path."""
        if against is None:
            self.export()
            return self._dir.report
        from sdsd.reports.html import comparison

        other = _opened(against)
        path = self.path / f"against-{other.path.resolve().name}.html"
        page = comparison.render(self.compare(other))
        write_atomic(path, page)
        return path

    def figures(self) -> Figures:
        """Compute the figures that the report shows."""
        from sdsd.runs.publish import collect

        inputs = inputs_of(self._dir, self.config)
        with self._journal() as journal:
            return collect(self._dir, journal, inputs.config, inputs.catalogue)

    def compare(self, other: Run | Path | str) -> Comparison:
        """Compute what differs between `other` and this run."""
        from sdsd.reports.metrics.comparison import compare

        other = _opened(other)
        before, after = other.path.resolve().name, self.path.resolve().name
        if before == after:
            before, after = f"{before} (first)", f"{after} (second)"
        runs = {before: other, after: self}
        figures = {name: run.figures() for name, run in runs.items()}
        return compare(figures, {name: run.config for name, run in runs.items()})

    def verify(self) -> Verification:
        """Replay every dialogue from its recorded answers and compare everything."""
        from sdsd.runs.verify import verify

        return verify(self._dir)

    def drop(self, index: int) -> int:
        """Forget what was recorded of a dialogue, so that the next start makes it again.

        For answers that a disk has damaged. Returns how many answers were removed; none if only the
        dialogue's record was damaged.
        """
        with self._dir.lock():
            answers = journal_audit.drop(self._dir.journal, index)
            publication.withdraw(self._dir)  # its data set is that of other answers
        return answers

    def push(
        self,
        repo: str,
        *,
        public: bool = False,
        message: str = "",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> str:
        """Upload the data set to the Hugging Face hub as `repo`; return its address.

        `progress` is called with a file's name, the bytes done and all of its bytes.
        """
        from sdsd.runs import hub

        return hub.push(self._dir, repo, public=public, message=message, progress=progress)

    # -- details -----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        status = self.status()
        rows = {
            "dialogues": f"{status.done:,} of {status.n:,}" if status.n else f"{status.done:,}",
            "accepted": f"{status.accepted:,}",
            "verified pairs": f"{status.pairs:,}",
            **{name: f"{k:,}" for name, k in status.outcomes.items() if name != "accepted"},
            "models": ", ".join(sorted(set(status.models.values()))),
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:right'>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table><caption>{html.escape(str(self.path))}</caption>{cells}</table>"

    def _journal(self) -> Journal:
        return Journal(self._dir.journal, readonly=True)

    def _tables(self, view: str) -> dict[str, Any]:
        """Return the Arrow tables of a view by split, exported first if they are out of date."""
        from pyarrow import parquet

        from sdsd.dataset.extensions import views_of
        from sdsd.dataset.splits import SPLITS

        with self._journal() as journal:
            current = publication.current(self._dir, journal)
        if not current:
            self.export()
        files = {each: sorted((self._dir.data / view).glob(f"{each}-*.parquet")) for each in SPLITS}
        tables: dict[str, Any] = {
            each: parquet.read_table(found) for each, found in files.items() if found
        }
        if not tables:
            names = ", ".join(views_of(self.config.export))
            raise SdsdError(f"{self.path}: has no view `{view}`; it has {names}")
        return tables


def _opened(run: Run | Path | str) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _planned(config: Config, rundir: RunDir) -> int:
    """Return how many dialogues a run should have; 0 if only its targets decide."""
    if not (config.source.path and rundir.source.exists()):
        return config.n
    rows = len(StoredRows(rundir.source))
    return min(config.n or rows, rows)


def standings_of(inputs: Inputs, journal: Journal) -> tuple[CellProgress, ...]:
    """Return the progress of the targets; empty without targets."""
    config = inputs.config
    if not config.targets.on:
        return ()
    rounds = Rounds(inputs.scenarios, config.targets, config.seed, journal)
    return summary(rounds.state(), rounds.quota)


def require_package(package: str) -> None:
    """Raise `SdsdError` if an optional package is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise SdsdError(f"{package} is not installed; run `pip install {package}`")
