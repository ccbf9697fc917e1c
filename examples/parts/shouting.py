"""A quality check of your own: its name becomes a rule, its findings are warnings.

export:
  checks: ["shouting:shouting"]
  exclude: [default, shouting]
"""

from collections.abc import Iterable

from sdsd.types import Dialogue, Plan


def shouting(dialogue: Dialogue, plan: Plan | None) -> Iterable[int]:
    """A turn in capitals."""
    return [k for k, m in enumerate(dialogue.messages) if m.content.isupper()]
