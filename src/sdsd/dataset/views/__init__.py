"""The packaged views. The contract that they share is in `sdsd.dataset.view`."""

from sdsd.dataset.view import View
from sdsd.dataset.views.audit import removed, scenarios
from sdsd.dataset.views.dialogues import dialogues, revisions
from sdsd.dataset.views.pairs import implicit, preference
from sdsd.dataset.views.replies import kto, sft
from sdsd.dataset.views.verdicts import critique, verdicts

VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        preference, dialogues, revisions, sft, kto, implicit,
        critique, verdicts, scenarios, removed,
    )
}  # fmt: skip
"""By name, in the order of the data set."""
TRAINING = tuple(name for name in VIEWS if name not in ("verdicts", "scenarios", "removed"))
"""The views for training; the others are for auditing."""
