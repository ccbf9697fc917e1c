"""The page of an exam: how far each judge can be trusted, and where it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

from sdsd.reports.metrics.exam import ExamResult
from sdsd.scenarios.exam_items import Item


def render(result: ExamResult, items: Sequence[Item]) -> str:
    """Return the page; `items` have the texts of the exam."""
    return ""
