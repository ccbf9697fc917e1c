"""The log of a run: JSON lines, for `jq`, `tail -f` and log shippers.

Every line has `time` (UTC) and `event`: `began`, `record`, `note` or `summary`. Lines are ASCII, so
that no text of a model can move the cursor or end a line.
"""

from __future__ import annotations

import itertools
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sdsd.runs.events import Began, Called, Event, Noted, Recorded
from sdsd.runs.telemetry.listener import CallSums, Listener, plain
from sdsd.types import Record

SUMMARY = 60.0
"""Seconds between two summaries."""


class RunLog(Listener):
    """Appends to the log at `path`, with each tick; raises `OSError`.

    A file that would grow over `limit` bytes becomes `<path>.1`, and so on, up to `keep` old files.
    """

    def __init__(
        self,
        path: Path,
        version: str = "",
        *,
        limit: int = 64 * 2**20,
        keep: int = 3,
    ) -> None:
        self._path = path
        self._version = version
        self._limit = limit
        self._keep = keep
        self._lines: list[str] = []
        self._now = self._since = 0.0
        self._sums = CallSums()
        self._open: set[int] = set()
        self._done = self._wanted = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._size = _appended(path)

    def on_event(self, at: int, event: Event) -> None:
        if isinstance(event, Called):
            self._open.add(event.call.dialogue)
            self._sums.add(event.answer)
        elif isinstance(event, Recorded):
            self._done += 1
            self._open.discard(event.record.scenario.index)
            self._line(at, "record", **_record(event.record))
        elif isinstance(event, Noted):
            self._line(at, "note", text=plain(event.text))
        elif isinstance(event, Began):
            self._done, self._wanted = event.done, event.n
            self._line(
                at, "began", sdsd=self._version, path=plain(str(event.path)), n=event.n,
                done=event.done, concurrency=event.concurrency, protocol=event.protocol,
            )  # fmt: skip

    def tick(self, now: float) -> None:
        """Write the new lines, and once a minute a summary of that minute."""
        if not self._since:
            self._since = now
        self._now = now
        if now - self._since >= SUMMARY:
            self._summary()
        self._flush()

    def close(self) -> None:
        try:
            self._summary()
            self._flush()
        finally:
            self._file.close()

    def _summary(self) -> None:
        """Log the sums since the last summary; `open` counts dialogues in progress."""
        seconds = self._now - self._since
        sums, self._sums, self._since = self._sums, CallSums(), self._now
        self._line(
            time.time_ns(),
            "summary",
            seconds=round(seconds, 3),
            calls=sums.calls,
            prompt_tokens=sums.prompt_tokens,
            cached_tokens=sums.cached_tokens,
            completion_tokens=sums.completion_tokens,
            tokens_per_second=round(sums.completion_tokens / seconds, 1) if seconds else 0.0,
            open=len(self._open),
            done=self._done,
            wanted=self._wanted,
        )

    def _line(self, at: int, event: str, **fields: Any) -> None:
        when = datetime.fromtimestamp(at / 1e9, UTC).isoformat(timespec="milliseconds")
        line = {"time": when.replace("+00:00", "Z"), "event": event, **fields}
        self._lines.append(json.dumps(line, separators=(",", ":")) + "\n")

    def _flush(self) -> None:
        if not self._lines:
            return
        data = "".join(self._lines).encode("ascii")
        self._lines.clear()
        if self._size and self._size + len(data) > self._limit:
            self._rotate()
        self._file.write(data)
        self._file.flush()
        self._size += len(data)

    def _rotate(self) -> None:
        self._file.close()
        path = self._path
        names = [path, *(path.with_name(f"{path.name}.{k}") for k in range(1, self._keep + 1))]
        for newer, older in reversed(list(itertools.pairwise(names))):
            if newer.exists():
                newer.replace(older)
        self._path.unlink(missing_ok=True)  # still there if no old file is kept
        self._file, self._size = _appended(self._path)


def _record(record: Record) -> dict[str, Any]:
    """Return the result and the cost of a finished dialogue, and nothing of its text."""
    failure = record.failure
    return {
        "index": record.scenario.index,
        "id": record.scenario.id,
        "outcome": record.outcome,
        "rule": record.rule,
        "pairs": len(record.pairs),
        "failure": failure and {"step": failure.step, "cause": plain(failure.cause)},
        "seconds": round(sum(use.seconds for use in record.usage.values()), 4),
        "stages": msgspec.to_builtins(record.usage),
    }


def _appended(path: Path) -> tuple[BinaryIO, int]:
    """Open a file for append; return it and its size. Ends a line that a crash cut short."""
    file = path.open("ab")
    size = path.stat().st_size
    if size:
        with path.open("rb") as reader:
            reader.seek(-1, 2)
            torn = reader.read(1) != b"\n"
        if torn:
            size += file.write(b"\n")
    return file, size
