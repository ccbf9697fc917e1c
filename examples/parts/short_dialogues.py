"""A filter of your own: leave dialogues out of the data set, under a rule with a name.

export:
  filters: ["short_dialogues:long_enough"]
"""

from sdsd.types import Record


def long_enough(record: Record) -> str | None:
    """Return the rule that leaves the dialogue out, or None to keep it."""
    if record.dialogue and record.dialogue.exchanges < 3:
        return "too_short"
    return None
