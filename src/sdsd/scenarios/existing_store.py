"""A source's rows as a run keeps them, and as the words of the system.

`keep` copies what is usable into the run's directory once; from then on resuming, verifying and
exporting need that copy alone. `Kept` reads it: any row at once, in memory that does not grow.
Beside `source.jsonl` lies `source.index`: a line of JSON, then where each row begins.

`scenario_of`, `plan_of` and `dialogue_of` say what a row means to the pipeline.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from sdsd.errors import SourceError, Unparseable
from sdsd.files import write_atomic
from sdsd.hashing import hash64
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.existing import Given, Skipped
from sdsd.scenarios.sampler import Scenarios
from sdsd.text import parsing
from sdsd.types import Dialogue, Goal, Plan, Principle, Scenario, StopReason

_VERSION = 1
_PLACE = struct.Struct("<2Q")
"""Where a row begins, and where the next one does: bytes from the start of the file."""


# --- the store ----------------------------------------------------------------------------------


class _Header(Struct, frozen=True):
    """The first line of an index."""

    version: int
    count: Annotated[int, Meta(ge=1)]
    digest: str
    skipped: dict[str, int]


class Kept:
    """The rows that a run keeps: `Kept(path)[index]`. Holds no file open.

    Raises `SourceError` if they are missing, were not written to their end, or are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = path.with_suffix(".index")
        try:
            with self._index.open("rb") as file:
                line = file.readline()
            header = msgspec.json.decode(line, type=_Header)
            sizes = self._index.stat().st_size, path.stat().st_size
            end = _piece(self._index, sizes[0] - 8, 8)
        except FileNotFoundError as error:
            raise SourceError(f"{error.filename}: missing; {_REMEDY}") from None
        except (OSError, msgspec.DecodeError) as error:
            raise SourceError(f"{self._index}: cannot be read: {error}; {_REMEDY}") from None
        self._start = len(line)
        self._count = header.count
        self.digest = header.digest
        """Hex SHA-256 of what the rows are, whatever files and formats they came from."""
        self.skipped = header.skipped
        """Rows of the source that were left out, by reason."""
        whole = (self._start + 8 * (self._count + 1), int.from_bytes(end, "little"))
        if header.version != _VERSION or sizes != whole:
            raise SourceError(f"{path}: does not fit its index {self._index.name}; {_REMEDY}")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Given:
        if not 0 <= index < self._count:
            raise IndexError(index)
        try:
            place = _piece(self._index, self._start + 8 * index, _PLACE.size)
            start, end = _PLACE.unpack(place)
            return msgspec.json.decode(_piece(self.path, start, end - start), type=Given)
        except (OSError, struct.error, msgspec.DecodeError) as error:
            raise SourceError(f"{self.path}:{index + 1}: {error}; {_REMEDY}") from None


_REMEDY = "restore it from a copy, or start another run from the source"


def keep(rows: Iterable[Given | Skipped], path: Path) -> Kept:
    """Write the usable rows to `path` and its index, whole or not at all, and open them.

    Rows that were skipped are counted. Raises `SourceError` if no row is usable or the disk
    refuses; an earlier copy is untouched until all new rows are on disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    index = path.with_suffix(".index")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        header, places = _write(rows, temporary)
        path.unlink(missing_ok=True)  # a crash from here on leaves no rows, never half a copy
        write_atomic(index, msgspec.json.encode(header) + b"\n" + places.tobytes())
        temporary.replace(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be written: {error}; make room or mend it") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Kept(path)


def _write(rows: Iterable[Given | Skipped], path: Path) -> tuple[_Header, array[int]]:
    """The usable rows, one on a line; returns what the index says of them."""
    digest = hashlib.sha256()
    places = array("Q", [0])
    skipped: Counter[str] = Counter()
    first: Skipped | None = None
    with path.open("wb") as file:
        for row in rows:
            if isinstance(row, Skipped):
                skipped[row.reason] += 1
                first = first or row
                continue
            digest.update(_content(row) + b"\n")
            file.write(msgspec.json.encode(row) + b"\n")
            places.append(file.tell())
        file.flush()
        os.fsync(file.fileno())
    if len(places) == 1:
        why = f"all were skipped, the first, {first.origin}: {first.reason}" if first else "none"
        raise SourceError(f"the source has no usable row ({why}); see docs/start-anywhere.md")
    if sys.byteorder == "big":
        places.byteswap()
    return _Header(_VERSION, len(places) - 1, digest.hexdigest(), dict(skipped)), places


def _content(row: Given) -> bytes:
    """What a row is, wherever it stood."""
    return msgspec.json.encode(replace(row, origin=""))


def _piece(path: Path, at: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        return file.read(size)


# --- what a row means -----------------------------------------------------------------------------

UNNAMED = "a topic of its own"
"""Domain and subarea of a row that does not say what it is about; reads well in prompts."""
_FAMILY = "source"
_ANY = sys.maxsize
_STEP_CHARS = 200


class Known(Struct, frozen=True):
    """What a catalogue says of texts that a source may use as well, by `parse.normal`."""

    principles: dict[str, Principle]
    goals: dict[str, Goal]
    fields: dict[str, str]
    """By domain."""


def known(catalogue: Catalogue) -> Known:
    """The catalogue, looked up by text: case, space, quotation marks, a last full stop are one."""
    return Known(
        principles={_key(p.text): p for p in catalogue.principles},
        goals={_key(g.text): g for g in catalogue.goals},
        fields={_key(d.name): d.field for d in catalogue.domains},
    )


def scenario_of(given: Given, index: int, base: Scenario, known: Known) -> Scenario:
    """The row's inputs, laid over those that `base`, the run's scenario at `index`, would have.

    Principles are the row's, or those of `base`. Topic and goal are the row's or none: what is
    given was not made for those of `base`. As many exchanges as the plan or the talk has.
    """
    domain = given.domain or given.subarea or UNNAMED
    subarea = given.subarea or domain
    field = given.field or known.fields.get(_key(domain), _FAMILY)
    principles = tuple(_principle(text, known) for text in given.principles) or base.principles
    plan = _planned(given)
    exchanges = (len(plan.steps) if plan else 0) or len(given.messages) // 2 or base.exchanges
    texts = (field, domain, subarea, given.goal, *(p.text for p in principles), exchanges)
    content = hash64(index, *texts, _content(given).decode())
    return replace(
        base,
        id=f"{index:06d}-{content >> 32:08x}",
        index=index,
        field=field,
        domain=domain,
        subarea=subarea,
        goal=_goal(given.goal, known),
        principles=principles,
        exchanges=exchanges,
        strategy="given" if given.messages else base.strategy,
    )


class Sourced:
    """The scenarios of a run that starts from a source."""

    def __init__(self, kept: Kept, base: Scenarios, catalogue: Catalogue) -> None:
        self.kept = kept
        self._base, self._known = base, known(catalogue)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Scenario:
        return scenario_of(self.kept[index], index, self._base[index], self._known)


def plan_of(given: Given, scenario: Scenario) -> Plan | None:
    """The row's plan; None if it has none.

    Read as a planner's form or a numbered list. Any other text has a step for each exchange: of a
    dialogue what the user says there, else the next few of the plan's own sentences.
    """
    if not given.plan:
        return None
    if plan := _planned(given):
        return plan
    if given.messages:
        asked = given.messages[::2]
        steps = tuple(" ".join(turn.content.split())[:_STEP_CHARS] for turn in asked)
        return Plan(given.plan, steps, planned_violation="")
    steps = _shared_out(given.plan, scenario.exchanges)
    return Plan(given.plan, steps, planned_violation=steps[-1])


def dialogue_of(given: Given) -> Dialogue | None:
    """The row's dialogue as if it had been held; None if only a plan is given.

    What a source says of flags is carried on, so that an export says the same.
    """
    if not given.messages:
        return None
    early: StopReason = "violation_end" if given.is_violation else "early_end"
    stop = early if given.is_truncated else "completed"
    return Dialogue(given.messages, "given", stop, self_flagged=bool(given.is_violation))


def _planned(given: Given) -> Plan | None:
    """The row's plan, if its text can be read as one. The text stays whole, as it was given."""
    try:
        return replace(parsing.plan(given.plan, _ANY), text=parsing.readable(given.plan))
    except Unparseable:
        return None


_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")


def _shared_out(text: str, steps: int) -> tuple[str, ...]:
    """The sentences of `text` in order, shared out evenly among at most so many steps."""
    sentences = [piece.strip() for piece in _SENTENCE.split(text) if piece.strip()]
    steps = min(steps, len(sentences))
    cuts = [len(sentences) * k // steps for k in range(steps + 1)]
    return tuple(" ".join(sentences[start:end]) for start, end in pairwise(cuts))


def _principle(text: str, known: Known) -> Principle:
    found = known.principles.get(_key(text))
    return found or Principle(_made_id(text), text, family=_FAMILY, category=_FAMILY)


def _goal(text: str, known: Known) -> Goal:
    if not text:
        return Goal("none", kind=_FAMILY, text="")
    return known.goals.get(_key(text)) or Goal(_made_id(text), kind=_FAMILY, text=text)


def _made_id(text: str) -> str:
    return f"user-{hash64(_key(text)):016x}"


def _key(text: str) -> str:
    return parsing.normal(text).rstrip(" .")
