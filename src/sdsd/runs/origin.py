"""What a run began with, kept in its journal as well: its manifest and the identity of its keys.

Files are edited and get lost. With these copies a missing manifest is written again, an edited one
is noticed, and a configuration can be checked against the one that the run was made with. Of the
configuration only digests are kept: its values may be secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.config.manifest import Manifest
from sdsd.runs.journal import Journal

_MANIFEST, _CONFIG = "manifest.json", "config.yaml"
_digests = msgspec.json.Decoder(dict[str, str])


async def keep(journal: Journal, manifest: Manifest, config: Config) -> None:
    """Keep what a run begins with, unless the journal has it already."""
    if journal.kept(_MANIFEST) is None:
        await keep_manifest(journal, manifest)
        await journal.keep(_CONFIG, msgspec.json.encode(_identity(config)))


async def keep_manifest(journal: Journal, manifest: Manifest) -> None:
    """Keep a manifest in place of the one before it."""
    await journal.keep(_MANIFEST, encoded(manifest))


def encoded(manifest: Manifest) -> bytes:
    """Return the content of `manifest.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2)


def manifest_of(journal: Journal) -> bytes | None:
    """Return the manifest that the run began with; None if it is not known."""
    return journal.kept(_MANIFEST)


def lost(journal: Journal) -> list[str]:
    """Return the names of the copies that the journal had and has no more.

    A run whose first answer has no digest is older than these copies, and never had any.
    """
    first = journal.rows("answer", "rowid = (SELECT min(rowid) FROM answer)")
    if not first or first[0][-1] is None:
        return []
    return [name for name in (_MANIFEST, _CONFIG) if journal.kept(name) is None]


def changed_keys(journal: Journal, config: Config) -> list[str] | None:
    """Return the keys of identity whose values are not those that the run began with.

    A key that the program has learned since is none of them. None if an old program began the run
    and kept nothing.
    """
    kept = journal.kept(_CONFIG)
    return None if kept is None else _changed(_digests.decode(kept), _identity(config))


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    differing = [key for key in then if key in now and now[key] != then[key]]
    # A mapping of names is one key while it is empty, and several below it otherwise.
    gone = [key for key in then if key not in now and any(_related(key, each) for each in now)]
    return differing + gone


def _related(key: str, other: str) -> bool:
    return key.startswith(f"{other}.") or other.startswith(f"{key}.")


def _identity(config: Config) -> dict[str, str]:
    return {
        key: blake2b(msgspec.json.encode(value, order="sorted"), digest_size=6).hexdigest()
        for key, value in configuration.flat(config)
        if not configuration.is_execution(key)
    }
