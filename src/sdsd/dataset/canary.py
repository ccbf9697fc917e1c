"""A canary: a text that nobody writes by chance, to find copies of a data set by.

Benchmarks have theirs inside the text, so that whoever trains on it gives it away. Training data is
trained on by intention, and a model must not learn to recite a GUID: so the canary is a column of
its own, which no trainer reads, in every row. It shows where rows were copied, unread, into another
corpus, and lets its filters find them.
"""

from __future__ import annotations

import json
import uuid

from msgspec.structs import replace

from sdsd.config import ExportConfig
from sdsd.config.manifest import Manifest
from sdsd.dataset.columns import TEXT, Column
from sdsd.dataset.view import View

_NOTICE = (
    "THIS DATA HOLDS REPLIES THAT VIOLATE PRINCIPLES ON PURPOSE. IT SHOULD NEVER APPEAR IN "
    "PRETRAINING OR EVALUATION CORPORA. canary GUID {}"
)


def canary(export: ExportConfig, manifest: Manifest) -> str:
    """Return the text of `export.canary`; empty if there is none.

    The GUID of the usual form belongs to the run: it stays when the run grows or is exported again.
    """
    if isinstance(export.canary, str):
        return export.canary
    run = [manifest.created, manifest.seed, manifest.config, manifest.catalogue]
    return _NOTICE.format(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(run))) if export.canary else ""


def marked(view: View, text: str) -> View:
    """Return the view with the canary as its last column."""
    meaning = "The text of `export.canary`, the same in every row; not to be trained on."
    column = Column("canary", TEXT, meaning, lambda _: text)
    return replace(view, columns=(*view.columns, column))
