"""`sdsd push` and `sdsd pull`: a run on the Hugging Face hub, and back.

What goes up is a list, and all else stays home: the data set with its card, plots and report,
the configuration and the manifest without what concerns only their maker's machine, and `records/`,
every finished dialogue whole. What comes down is a stranger's: only files of known names are
fetched, none that a browser runs, and each is checked before it becomes part of a run.

A push is one commit. Large files are sent before it, one by one, and the hub keeps them by their
content; so a push that was cut off goes on where it was, and readers see all of it or none.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.checks.dialogue_rules import RULES
from sdsd.config import Config, ModelConfig, ScenariosConfig, is_file
from sdsd.config.manifest import Manifest, nameable, shown
from sdsd.dataset.splits import SPLITS
from sdsd.dataset.views import VIEWS
from sdsd.errors import JournalError, RunDirError, SdsdError
from sdsd.files import write_atomic
from sdsd.models.weights import Progress
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.publish import published
from sdsd.runs.session import in_loop
from sdsd.types import Critique, Record

_SHARD = rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet"
_RECORDS = r"records/\d{5}\.parquet"
_COMMON = rf"README\.md|config\.yaml|manifest\.json|{_RECORDS}"
_TAKEN = re.compile(rf"{_COMMON}|data/({'|'.join(VIEWS)})/{_SHARD}", re.ASCII)
"""What a pull fetches: nothing that a browser would run."""
_SENT = re.compile(rf"{_COMMON}|data/\w+/{_SHARD}|report\.html|plots/\w+\.svg", re.ASCII)
"""What a push writes, and so what it may replace or remove."""
_LISTED = re.compile(r"data/\w+/\w+-(\*|\d{5})-of-\d{5}\.parquet", re.ASCII)
_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")

_PART = 20_000
"""Records in a file. Files are full but for the last, so those of a run that grew stay the same."""
_GROUP, _GROUP_TEXT = 1000, 1 << 26
"""Rows, and characters, that make a row group full."""
_LONGEST = 1 << 28
"""Bytes of a row group of records: more is not read."""
_SMALL = 1 << 22
"""Bytes of a small file (configuration, manifest, card) that is taken."""
_MOST_INDEX, _MOST_COUNT = 2**53, 2**31
"""Numbers that fit the columns of every view."""


# --- what strangers may see, and what of a stranger is kept ---------------------------------------


def shared(config: Config, done: int) -> Config:
    """A configuration as it is handed on, and as it is taken: what decides what is made.

    Addresses, keys, programs to start, files, prices and all that only says how this machine
    executes a run have their defaults. This is a list of what stays, so that a key of tomorrow
    stays home until somebody lets it go. Without its source or targets a run has a number of
    dialogues, `done` if it named none. `shared` changes nothing the second time.
    """
    named = tuple(name for name in config.scenarios.strategies if not is_file(name))
    export = config.export
    return Config(
        n=config.n or max(done, 1),
        seed=config.seed,
        models={
            name: ModelConfig(model=nameable(model.model), context=model.context)
            for name, model in config.models.items()
        },
        roles=config.roles,
        scenarios=replace(config.scenarios, strategies=named or ScenariosConfig().strategies),
        plan=config.plan,
        dialogue=config.dialogue,
        critique=config.critique,
        revise=config.revise,
        export=replace(
            export,
            views=(),  # code of its maker's, which nobody else should run unasked
            filters=(),
            checks=(),
            exclude=tuple(rule for rule in export.exclude if rule in RULES),
            duplicates=replace(export.duplicates, against=()),
            contamination=replace(export.contamination, sets=()),
        ),
        attempts=config.attempts,
    )


# --- push -----------------------------------------------------------------------------------------


def push(
    rundir: RunDir,
    repo: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "",
    progress: Progress | None = None,
) -> str:
    """Put a finished run on the hub as the data set `repo` (`org/name`), and return its address.

    The data set is made if there is none, and replaced in one commit if an earlier push made it.
    `token` is the hub's; None: the one of `hf auth login` or `HF_TOKEN`. The same call again after
    any fault goes on where it was. Raises `SdsdError` with the remedy, before anything is sent: if
    the data set is public and `private` was wanted (or the other way round), if it holds what is
    not a run's, or if the run's own export is not up to date.
    """
    config, manifest = rundir.config(), rundir.manifest()
    hub = _client(repo, token)
    with rundir.lock(), Journal(rundir.journal, readonly=True) as journal:
        if manifest is None or not published(rundir, journal):
            raise RunDirError(
                f"{rundir.path}: its data set is not that of its dialogues; `sdsd export` first"
            )
        done = sum(journal.outcomes().values())
        with _faults(repo):
            address = hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            found = hub.repo_info(repo, repo_type="dataset")
            there = [file.path for file in hub.list_repo_tree(
                repo, repo_type="dataset", revision=found.sha, recursive=True
            ) if hasattr(file, "size")]  # fmt: skip
        _may_replace(repo, there, public=not found.private, private=private)
        with _scratch(rundir.path / ".push") as scratch:
            files = _files(rundir, shared(config, done), shown(manifest), journal, scratch)
            stale = [path for path in there if _SENT.fullmatch(path) and path not in files]
            words = message or f"{done:,} dialogues, made by sdsd {manifest.sdsd}"
            _commit(hub, repo, files, stale, found.sha, words, progress)
    return str(address)


def _may_replace(repo: str, there: Sequence[str], *, public: bool, private: bool) -> None:
    if public and private:
        raise SdsdError(
            f"{repo}: is public, so everybody would see the run; push it with --public if that is "
            "wanted, make the data set private in its settings, or name another"
        )
    if not public and not private:
        raise SdsdError(
            f"{repo}: is private, and a push does not change that; push without --public, then "
            "make it public in its settings"
        )
    others = [p for p in there if not p.startswith((".git", "README", "LICENSE"))]
    if others and "manifest.json" not in there:
        raise SdsdError(f"{repo}: holds what no `sdsd push` put there ({others[0]}); name another")


def _files(
    rundir: RunDir, config: Config, manifest: Manifest, journal: Journal, scratch: Path
) -> dict[str, Path]:
    """By their names on the hub, the files that a push sends; what it must make is in `scratch`."""
    here = [rundir.card, rundir.report, *rundir.data.rglob("*.parquet")]
    here += (rundir.path / "plots").glob("*.svg")
    files = {path.relative_to(rundir.path).as_posix(): path for path in here}
    try:
        write_atomic(scratch / "config.yaml", configuration.dump(config).encode())
        write_atomic(scratch / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
        (scratch / "records").mkdir()
        _write_records(journal.records(), scratch / "records")
    except OSError as error:
        raise SdsdError(f"{scratch}: cannot be written: {error}; make room for a copy") from None
    made = (path for path in scratch.rglob("*") if path.is_file())
    files |= {path.relative_to(scratch).as_posix(): path for path in made}
    return {name: path for name, path in sorted(files.items()) if _SENT.fullmatch(name)}


def _commit(
    hub: Any,
    repo: str,
    files: dict[str, Path],
    stale: Iterable[str],
    parent: str,
    message: str,
    progress: Progress | None,
) -> None:
    """Send the files that are not there yet, then make all of it one commit upon `parent`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sizes = {name: path.stat().st_size for name, path in files.items()}
    sent, total = 0, sum(sizes.values())
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    with _faults(repo):
        for addition in additions:
            if progress:
                progress(addition.path_in_repo, sent, total)
            hub.preupload_lfs_files(repo, [addition], repo_type="dataset", free_memory=False)
            sent += sizes[addition.path_in_repo]
        if progress:
            progress(repo, sent, total)
        hub.create_commit(
            repo,
            [*additions, *map(CommitOperationDelete, stale)],
            repo_type="dataset",
            commit_message=message,
            parent_commit=parent,
        )


# --- pull -----------------------------------------------------------------------------------------


def pull(
    repo: str,
    path: Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> RunDir:
    """Fetch a run that somebody pushed, to be read, counted and exported again.

    `path` must not exist, or be an empty directory; it appears when all is there and checked. The
    model calls are not part of it: nothing can be replayed. What was fetched by a call that was
    cut off is not fetched twice. Raises `SdsdError` with the remedy.
    """
    path = path.resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunDirError(f"{path}: is there already; name another directory, or remove it")
    hub = _client(repo, token)
    with _faults(repo):
        commit = str(hub.repo_info(repo, repo_type="dataset", revision=revision).sha)
        tree = hub.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
        sizes = {file.path: file.size for file in tree if hasattr(file, "size")}
    wanted = {name: size for name, size in sizes.items() if _TAKEN.fullmatch(name)}
    if not _COMMIT.fullmatch(commit) or not wanted.keys() >= {
        "README.md", "config.yaml", "manifest.json", "records/00000.parquet",
    }:  # fmt: skip
        raise SdsdError(
            f"{repo}: no `sdsd push` made this; `load_dataset` may read it, and so may a `source`"
        )
    staging = RunDir(path.with_name(f".{path.name}.{commit[:12]}"))
    with staging.lock():
        _download(hub, repo, commit, wanted, staging.path, progress)
        _settle(staging, repo)
    try:
        shutil.rmtree(staging.path / ".cache", ignore_errors=True)
        if path.exists():  # empty
            path.rmdir()
        staging.path.rename(path)
    except OSError as error:
        raise RunDirError(f"{path}: cannot be written: {error}") from None
    return RunDir(path)


def _download(
    hub: Any,
    repo: str,
    commit: str,
    sizes: dict[str, int],
    folder: Path,
    progress: Progress | None,
) -> None:
    done, total = 0, sum(sizes.values())
    with _faults(repo):
        for name, size in sorted(sizes.items()):
            if progress:
                progress(name, done, total)
            hub.hf_hub_download(repo, name, repo_type="dataset", revision=commit, local_dir=folder)
            done += size
    if progress:
        progress(repo, done, total)


def _settle(staging: RunDir, repo: str) -> None:
    """Make a run directory of what was fetched. Nothing in it is believed."""
    for file in (staging.card, staging.config_file, staging.manifest_file):
        if file.stat().st_size > _SMALL:
            raise SdsdError(f"{repo}: {file.name} is {file.stat().st_size:,} bytes; {_REMEDY}")
    _check_card(staging.card.read_text("utf-8", "replace"), repo)
    _without_aliases(staging.config_file.read_text("utf-8", "replace"), repo)
    manifest = staging.manifest()
    assert manifest is not None  # it was just fetched
    folder = staging.path / "records"
    config = shared(staging.config(), _rows(folder, repo))
    write_atomic(staging.config_file, configuration.dump(config).encode())
    staging.remember(shown(manifest))
    for old in staging.path.glob("journal.sqlite*"):  # of a pull that was cut off
        old.unlink()
    try:
        with Journal(staging.journal) as journal:
            in_loop(_fill(journal, _read_records(folder, repo)))
    except JournalError as error:
        raise SdsdError(f"{repo}: records/ make no journal: {error}; {_REMEDY}") from None
    shutil.rmtree(folder)


class _Files(Struct, forbid_unknown_fields=True):
    split: str
    path: str


class _View(Struct, forbid_unknown_fields=True):
    config_name: str
    data_files: list[_Files]
    default: bool = False
    description: str = ""


class _Head(Struct):
    """The part of a card's head that says where data is; the rest only describes it."""

    configs: list[_View] = []


def _check_card(text: str, repo: str) -> None:
    """Raise unless the card sends readers of the data (`load_dataset`) to that data alone."""
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(text)
    head = block[2] if block else ""
    _without_aliases(head, repo)
    try:
        found = msgspec.convert(yaml.safe_load(head) or {}, _Head)
    except (yaml.YAMLError, msgspec.ValidationError, RecursionError) as error:
        raise SdsdError(f"{repo}: README.md: its head is not a card's: {error}") from None
    for file in (file for view in found.configs for file in view.data_files):
        if not _LISTED.fullmatch(file.path):
            raise SdsdError(f"{repo}: README.md names {file.path!r} as data; {_REMEDY}")


def _without_aliases(text: str, repo: str) -> None:
    """Raise if YAML refers to itself: a few lines could stand for more than any memory holds."""
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise SdsdError(f"{repo}: YAML with aliases, which no `sdsd push` writes; {_REMEDY}")
    except (yaml.YAMLError, RecursionError) as error:
        raise SdsdError(f"{repo}: cannot be read as YAML: {error}; {_REMEDY}") from None


_REMEDY = "do not use it, or ask whoever pushed it"


# --- records --------------------------------------------------------------------------------------


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("index", pa.int64()), ("record", pa.string())])


def _write_records(records: Iterator[Record], folder: Path) -> None:
    """Every record, as JSON beside its id and index, in files of the same bytes each time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    rows = (
        {"id": r.scenario.id, "index": r.scenario.index, "record": msgspec.json.encode(r).decode()}
        for r in records
    )
    for number in itertools.count():
        part = itertools.islice(rows, _PART)
        first = next(part, None)
        if first is None:
            return
        with pq.ParquetWriter(folder / f"{number:05d}.parquet", schema, compression="zstd") as file:
            for group in _groups(itertools.chain([first], part)):
                file.write_table(pa.Table.from_pylist(group, schema), row_group_size=len(group))


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["record"])
        if len(group) == _GROUP or size >= _GROUP_TEXT:
            yield group
            group, size = [], 0
    if group:
        yield group


def _read_records(folder: Path, repo: str) -> Iterator[Record]:
    """The records of a stranger, in order, each whole and of one piece."""
    decode, last = msgspec.json.Decoder(Record).decode, -1
    for path, where in _parts(folder, repo):
        with _opened(path, where) as file:
            for row in (row for batch in file.iter_batches(64) for row in batch.to_pylist()):
                record = decode(row["record"] or "")
                fault = _fault(record, row, last)
                if fault:
                    raise SdsdError(f"{where}: a record has {fault}; {_REMEDY}")
                last = record.scenario.index
                yield record


def _rows(folder: Path, repo: str) -> int:
    """How many records there are, as far as the files say."""
    rows = 0
    for path, where in _parts(folder, repo):
        with _opened(path, where) as file:
            rows += file.metadata.num_rows
    return rows


def _parts(folder: Path, repo: str) -> list[tuple[Path, str]]:
    """The files of records, each with its name for people."""
    files = sorted(folder.glob("*.parquet"))
    if [path.name for path in files] != [f"{i:05d}.parquet" for i in range(len(files))]:
        raise SdsdError(f"{repo}: a file of records/ is missing; {_REMEDY}")
    return [(path, f"{repo}: records/{path.name}") for path in files]


@contextlib.contextmanager
def _opened(path: Path, where: str) -> Iterator[Any]:
    """A file of records that has the shape of one; whatever its reading finds is its fault."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
            if not file.schema_arrow.equals(_schema()):
                raise SdsdError(f"{where}: has other columns than a push writes; {_REMEDY}")
            if any(group.total_byte_size > _LONGEST for group in groups):
                raise SdsdError(f"{where}: has a row group too large to be of a push; {_REMEDY}")
            yield file
    except (OSError, pa.ArrowException, msgspec.DecodeError) as error:
        raise SdsdError(f"{where}: cannot be read: {error}; {_REMEDY}") from None


def _fault(record: Record, row: dict[str, Any], last: int) -> str:
    """What of a record the program relies on and does not hold; empty if all does."""
    scenario, dialogue = record.scenario, record.dialogue
    known = {p.id for p in scenario.principles}
    roles = [m.role for m in dialogue.messages] if dialogue else ["user", "assistant"]
    judged = [record.critique, *record.earlier_critiques]
    judged += [c.critique for c in record.candidates] + [r.recheck for r in record.revisions]
    counts = [use.calls + use.prompt_tokens + use.cached_tokens + use.completion_tokens
              for use in record.usage.values()]  # fmt: skip
    faults = {
        "another id or index than its row": (scenario.id, scenario.index)
        != (row["id"], row["index"]),
        "an index out of order": not last < scenario.index < _MOST_INDEX,
        "no principle": not known,
        "turns that do not alternate": roles != ["user", "assistant"] * (len(roles) // 2)
        or not roles,
        "a verdict on a principle that is not its own": not _principles(judged) <= known,
        "a pair of nothing": record.outcome == "accepted" and not (dialogue and record.critique),
        "impossible numbers": not 0 <= scenario.exchanges < _MOST_COUNT
        or not all(0 <= n < _MOST_INDEX for n in counts),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _principles(judged: Iterable[Critique | None]) -> set[str]:
    """Ids of the principles that somebody judged."""
    return {v.principle for c in judged if c for v in (*c.verdicts, *c.votes)}


async def _fill(journal: Journal, records: Iterator[Record]) -> None:
    while batch := list(itertools.islice(records, 500)):
        await asyncio.gather(*map(journal.finish, batch))


# --- the hub --------------------------------------------------------------------------------------


def _client(repo: str, token: str | None) -> Any:
    """The hub's own client. Raises if the name cannot be one, or the client is not installed."""
    if not _REPO.fullmatch(repo):
        raise SdsdError(f"{repo!r} names no data set on the hub; write org/name")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise SdsdError("the hub needs an extra: pip install 'sdsd[hub]'") from None
    disable_progress_bars()  # `Progress` shows what there is to see
    return HfApi(token=token)


_STATUS = {
    401: "`hf auth login`, or set HF_TOKEN to a token of yours that may write there",
    403: "the token may not do this: make one with the right to write, or name a data set of yours",
    404: "check the name and the revision; a private data set needs a token that may read it",
    409: "somebody else is writing there; the same command again",
    412: "somebody else wrote there meanwhile; the same command again",
    429: "too many requests; wait a few minutes, then the same command again",
}
_ELSE = "check the connection and HF_ENDPOINT; the same command again goes on where this one was"


@contextlib.contextmanager
def _faults(repo: str) -> Iterator[None]:
    """What the hub's client raises, as one error with its remedy.

    Its errors have no base class that all its versions share; those of an upload come wrapped.
    """
    try:
        yield
    except Exception as error:
        replies = (getattr(e, "response", None) for e in (error, error.__cause__))
        status = next((reply.status_code for reply in replies if reply is not None), 0)
        said = " ".join((getattr(error, "server_message", "") or str(error)).split())[:300]
        raise SdsdError(
            f"{repo}: {said or type(error).__name__}; {_STATUS.get(status, _ELSE)}"
        ) from error


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty directory that is gone afterwards; what a killed process left in it goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
    except OSError as error:
        raise SdsdError(f"{folder}: cannot be written: {error}; make room for a copy") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
