"""Publish a run's data set on the Hugging Face hub.

What goes up is a fixed list: the data set with its card, plots and report, and configuration and
manifest without what concerns only this machine. Everything else stays here. `sdsd run --from
hf:org/name` reads a published data set.

A push is one commit. Large files are sent first, and the hub keeps them by content: a push that was
interrupted continues, and readers see all of it or nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.checks.rules import RULES
from sdsd.config import Config, ModelConfig, ScenariosConfig
from sdsd.config.hub import hub_words
from sdsd.config.manifest import Manifest, nameable, shown
from sdsd.dataset.extensions import excluded_rules
from sdsd.dataset.splits import SPLITS
from sdsd.errors import RunDirError, SdsdError
from sdsd.models.downloads import Progress
from sdsd.runs import publication
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.publication import Publication
from sdsd.text.prompt_files import is_path

_OURS = re.compile(
    r"README\.md|config\.yaml|manifest\.json|report\.html|plots/\w+\.svg"
    rf"|data/\w+/({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet",
    re.ASCII,
)
"""What a push uploads, and therefore what the next one may replace or delete."""
_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def publishable(config: Config, done: int) -> Config:
    """Return the part of a configuration that is published: what decides the content of a run.

    Addresses, keys, programs, files, prices and everything else that only says how this machine
    executes the run are reset to their defaults. This is a list of what stays, so that a future key
    is private until it is added here. A run that names no number of dialogues (it has a source or
    targets) gets `done`.
    """
    named = tuple(name for name in config.scenarios.strategies if not is_path(name))
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
            views=(),  # the user's own code
            filters=(),
            checks=(),
            exclude=tuple(rule for rule in excluded_rules(export) if rule in RULES),
            duplicates=replace(export.duplicates, against=()),
            contamination=replace(export.contamination, sets=()),
        ),
        attempts=config.attempts,
    )


def push(
    rundir: RunDir,
    repo: str,
    *,
    public: bool = False,
    message: str = "",
    progress: Progress | None = None,
) -> str:
    """Upload a finished run as the data set `repo` (`org/name`), and return its address.

    Creates the data set if necessary; replaces what an earlier push uploaded, in one commit.
    Uses the token of `hf auth login` or `HF_TOKEN`. Call it again after any fault: it continues.
    Raises `SdsdError` before anything is sent if the data set is public although `public` is not
    set (or vice versa), if it holds files that no push made, or if the run's own export is out of
    date.
    """
    config, manifest = rundir.config(), rundir.manifest()
    hub = _client(repo)
    with (
        rundir.lock(),
        rundir.publishing(),
        Journal(rundir.journal, readonly=True) as journal,
    ):
        wrong = next(publication.differences(rundir, journal), None)
        published = publication.read(rundir)
        if manifest is None or published is None or wrong is not None:
            raise RunDirError(wrong or f"{rundir.path}: nothing was made yet")
        done = sum(journal.outcomes().values())
        with _faults(repo):
            address = hub.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
            found = hub.repo_info(repo, repo_type="dataset")
            there = hub.list_repo_files(repo, repo_type="dataset", revision=found.sha)
        _check_target(repo, there, is_public=not found.private, public=public)
        files = _files(rundir, published, publishable(config, done), shown(manifest))
        stale = [path for path in there if _OURS.fullmatch(path) and path not in files]
        words = message or f"{done:,} dialogues, made by sdsd {manifest.sdsd}"
        with _faults(repo):
            _commit(hub, repo, files, stale, found.sha, words, progress)
    return str(address)


def _check_target(repo: str, there: Sequence[str], *, is_public: bool, public: bool) -> None:
    if is_public and not public:
        raise SdsdError(
            f"{repo}: is public, so everyone would see the run; push it with --public if that is "
            "intended, make the data set private in its settings, or name another"
        )
    if public and not is_public:
        raise SdsdError(
            f"{repo}: is private, and a push does not change that; push without --public, then "
            "make it public in its settings"
        )
    others = [p for p in there if not p.startswith((".git", "README", "LICENSE"))]
    if others and "manifest.json" not in there:
        raise SdsdError(
            f"{repo}: holds a file that no `sdsd push` uploaded ({others[0]}); name another"
        )


def _files(
    rundir: RunDir, published: Publication, config: Config, manifest: Manifest
) -> dict[str, Path | bytes]:
    """Return what a push uploads, by name on the hub."""
    files: dict[str, Path | bytes] = {name: rundir.path / name for name in published.files}
    files["config.yaml"] = configuration.dump(config).encode()
    files["manifest.json"] = msgspec.json.format(msgspec.json.encode(manifest))
    return {name: file for name, file in sorted(files.items()) if _OURS.fullmatch(name)}


def _commit(
    hub: Any,
    repo: str,
    files: dict[str, Path | bytes],
    stale: Sequence[str],
    parent: str,
    message: str,
    progress: Progress | None,
) -> None:
    """Upload the files that the hub does not have, then commit all of them on top of `parent`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    additions = [CommitOperationAdd(name, file) for name, file in files.items()]
    sent, total = 0, sum(addition.upload_info.size for addition in additions)
    for addition in additions:
        if progress:
            progress(addition.path_in_repo, sent, total)
        hub.preupload_lfs_files(repo, [addition], repo_type="dataset", free_memory=False)
        sent += addition.upload_info.size
    if progress:
        progress(repo, sent, total)
    hub.create_commit(
        repo,
        [*additions, *map(CommitOperationDelete, stale)],
        repo_type="dataset",
        commit_message=message,
        parent_commit=parent,
    )


def _client(repo: str) -> Any:
    """Return the hub's own client. Raises if it is not installed or `repo` is not a valid name."""
    if not _REPO.fullmatch(repo):
        raise SdsdError(f"{repo!r} is not the name of a data set on the hub; write org/name")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise SdsdError("the hub needs an extra: pip install 'sdsd[hub]'") from None
    disable_progress_bars()  # the caller reports progress
    return HfApi()


_STATUS = {
    401: "`hf auth login`, or set HF_TOKEN to a token with write access there",
    403: "the token has no write access: create one that has, or name a data set of yours",
    409: "somebody else is writing there; run the same command again",
    412: "somebody else has written there meanwhile; run the same command again",
    429: "too many requests; wait a few minutes, then run the same command again",
}
_ELSE = "check the connection and HF_ENDPOINT; the same command again continues this push"


@contextlib.contextmanager
def _faults(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one error with its remedy.

    Its errors share no base class across versions; those of an upload are wrapped in others.
    """
    try:
        yield
    except Exception as error:
        replies = (getattr(e, "response", None) for e in (error, error.__cause__))
        status = next((reply.status_code for reply in replies if reply is not None), 0)
        said = hub_words(getattr(error, "server_message", "") or error)
        raise SdsdError(
            f"{repo}: {said or type(error).__name__}; {_STATUS.get(status, _ELSE)}"
        ) from error
