"""The public API: what `sdsd` exports, how it is called, and what it shows while it works."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sdsd
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.events import Began, Event, Noted
from sdsd.runs.progress import Notebook, Screen, shown_progress
from sdsd.types import Answer, Request


def test_every_public_name_is_there_and_explains_itself() -> None:
    assert dir(sdsd) == sorted(sdsd.__all__) == sorted(set(sdsd.__all__))
    for name in sdsd.__all__:
        value = getattr(sdsd, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert (inspect.getdoc(value) or "").endswith((".", "`", ")")), name
    with pytest.raises(AttributeError, match="module 'sdsd' has no attribute 'Result'"):
        sdsd.Result  # noqa: B018


def test_the_tree_of_errors_is_public() -> None:
    from sdsd import errors

    tree = {n for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, Exception)}
    assert tree <= set(sdsd.__all__)


def test_importing_it_imports_nothing_else() -> None:
    script = "import sys, sdsd; print([m for m in sys.modules if m.startswith('sdsd.')])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_python_m_sdsd_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdsd", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"sdsd {sdsd.__version__}\n"


# -- arun ------------------------------------------------------------------------------------------


def content(run: sdsd.Run) -> list[tuple[Any, ...]]:
    return [(r.scenario, r.outcome, r.dialogue, r.critique, r.revisions) for r in run]


async def test_arun_makes_what_run_makes_in_the_caller_s_loop(tmp_path: Path) -> None:
    loops = set()

    class Here(ScriptedModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            loops.add(asyncio.get_running_loop())
            return await super().complete(request, seed, dialogue)

    made = await sdsd.arun({"n": 4}, out=tmp_path / "a", models={"default": Here()})
    assert loops == {asyncio.get_running_loop()}
    # `run` works in a running loop, too: in a notebook, say.
    plain = sdsd.run({"n": 4}, out=tmp_path / "b", models={"default": ScriptedModel()})
    assert content(made) == content(plain)
    assert made.verify().defects == ()
    again = await sdsd.arun(made.path, n=6, models={"default": ScriptedModel()})
    assert (again.path, len(again), again.stopped) == (made.path, 6, "")


async def test_cancelling_arun_keeps_what_was_answered(tmp_path: Path) -> None:
    seen = asyncio.Event()

    class Slow(ScriptedModel):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            if self.asked == 5:
                seen.set()
                await asyncio.Event().wait()
            return await super().complete(request, seed, dialogue)

    keys = {"n": 2, "max_open_dialogues": 1}
    work = asyncio.ensure_future(sdsd.arun(keys, out=tmp_path / "a", models={"default": Slow()}))
    await seen.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert sdsd.Run.open(tmp_path / "a").status().answers == 5
    whole = await sdsd.arun(keys, out=tmp_path / "a", models={"default": ScriptedModel()})
    assert len(whole) == 2


# -- progress --------------------------------------------------------------------------------------


def test_nothing_is_shown_where_nobody_looks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sdsd.run(n=2, out=tmp_path / "run", models={"default": ScriptedModel()})
    assert capfd.readouterr() == ("", "")


def test_a_caller_s_function_gets_every_event_and_nothing_else_is_shown() -> None:
    events: list[Event] = []
    with shown_progress(events.append, progress=True) as emit:
        emit(Noted("hello"))
    assert events == [Noted("hello")]


def test_a_notebook_shows_counts_and_notes_safely(tmp_path: Path) -> None:
    pages: list[str] = []
    notebook = Notebook(pages.append)

    def hear(event: Event) -> None:
        notebook.on_event(event)
        if isinstance(event, Began):
            notebook.on_event(Noted("<script>\x1b[2J"))

    run = sdsd.run(n=3, out=tmp_path / "run", models={"default": ScriptedModel()}, on_event=hear)
    notebook.draw()
    status = run.status()
    assert f"3/3 dialogues, {status.pairs} pairs" in pages[-1]
    assert "value='1.000'" in pages[-1]
    assert not any("<script>" in page or "\x1b" in page for page in pages)
    assert any("&lt;script&gt;\\u001b[2J" in page for page in pages)
    assert len(pages) < 20  # not a picture for every call


def test_a_note_stays_when_the_live_panel_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    """The panel is drawn over; what it says in passing must be a line of its own."""
    screen = Screen(live=True)
    screen.on_event(Noted("the budget is used up"))
    assert capsys.readouterr().err == "the budget is used up\n"
