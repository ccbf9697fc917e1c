"""Results of exams that were taken before, so that a run need not wait for its critic's.

A result is found by `sdsd.reports.metrics.exam.JudgeResult.key`, a digest of everything that it
follows from. Those of the embedded default model come with the package; others are kept in the
user's cache directory, next to the model files.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from sdsd.files import write_atomic
from sdsd.models.weights import cache_dir
from sdsd.reports.metrics.exam import ExamResult, JudgeResult
from sdsd.scenarios.catalogue import PACKAGED


class ExamCache(Struct, frozen=True):
    """Results by key. Unreadable ones count as missing; nothing is lost but time."""

    folder: Path = msgspec.field(default_factory=lambda: cache_dir() / "exams")
    packaged: Path = PACKAGED / "exam_results"

    def find(self, key: str, n: int) -> JudgeResult | None:
        """Return a judge's result on at least `n` items; None if there is none."""
        if not key:
            return None
        for file in sorted(self.packaged.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.DecodeError, RecursionError):
                exam = msgspec.json.decode(file.read_bytes(), type=ExamResult)
                for result in exam.judges.values():
                    if result.key == key and _size(result) >= n:
                        return result
        with contextlib.suppress(OSError, msgspec.DecodeError, RecursionError):
            found = msgspec.json.decode(self._file(key).read_bytes(), type=JudgeResult)
            if found.key == key and _size(found) >= n:
                return found
        return None

    def keep(self, result: JudgeResult) -> None:
        """Keep a result that has a key and an answer, unless a larger one is there."""
        if not result.answers or self.find(result.key, _size(result) + 1) or not result.key:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file(result.key), msgspec.json.encode(result))

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _size(result: JudgeResult) -> int:
    return len(result.answers) + len(result.failures)
