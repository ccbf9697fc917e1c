"""Rules on the course of a dialogue: the order of its turns, and its subject."""

from __future__ import annotations

from sdsd.checks.dialogue_text import DialogueText, content_stems
from sdsd.checks.rules.registry import rule
from sdsd.text import languages


@rule("user and agent do not alternate, from a first user turn to a last agent turn")
def _order(whole: DialogueText) -> list[int]:
    roles = [turn.role for turn in whole.turns]
    return [] if roles and roles == ["user", "assistant"] * (len(roles) // 2) else [-1]


_ENOUGH = 20
"""Different content words from which a conversation counts as being about something."""


@rule("not a single content word of the domain, the subarea or the plan")
def _off_topic(whole: DialogueText) -> list[int]:
    """Only English conversations with a plan are judged, of two exchanges or more."""
    said = [turn for turn in whole.turns if turn.role != "system"]
    if len(said) < 4 or len(subject := whole.subject) < 3:
        return []
    stems = content_stems(word for turn in said for word in turn.between)
    if len(stems) < _ENOUGH or not subject.isdisjoint(stems):
        return []
    words = tuple(word for turn in said for word in turn.words)
    return [-1] if languages.of(" ".join(words), words) == "en" else []
