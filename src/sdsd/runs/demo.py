"""`sdsd demo`: a run to look at, whose replies were written by hand.

An ordinary run in everything else: the packaged pipeline asks for every reply, under its real
prompts, and the model that answers is `sdsd.models.hand_written`. It needs no server, no download
and no extra.
"""

from __future__ import annotations

from pathlib import Path

from sdsd.models.hand_written import FOLDER, is_hand_written
from sdsd.runs.directory import RunDir
from sdsd.runs.events import OnEvent
from sdsd.runs.run import Run
from sdsd.runs.runner import run


def demo(path: Path | str, *, on_event: OnEvent | None = None) -> Run:
    """Make the demonstration in a directory, or continue it.

    Raises `RunDirError` if the directory holds something else.
    """
    rundir = RunDir(Path(path))
    if rundir.exists() and is_hand_written(rundir.config()):
        # By its own configuration: the package may have moved since, and with it the catalogue.
        return run(rundir.path, on_event=on_event)
    return run(FOLDER / "config.yaml", out=rundir.path, on_event=on_event)
