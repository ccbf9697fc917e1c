"""What a server refuses changes the data: the run, its card, its report and its files say so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

import sdsd
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Event, Noted
from tests.stand_ins.model_server import StandIn, serving

SAID = "these cannot both be specified for this model"


def refusing(*fields: str) -> web.Application:
    """A stand-in that refuses requests with all of these fields."""

    @web.middleware
    async def picky(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = await request.json() if request.can_read_body else {}
        if all(field in asked for field in fields):
            return web.json_response({"error": {"message": SAID}}, status=400)
        return await handler(request)

    app = StandIn().app()
    app.middlewares.append(picky)
    return app


async def run(out: Path, app: web.Application, n: int = 1) -> list[str]:
    """Make a run, or continue it, and return its notes."""
    notes: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    async with serving(app) as url:
        config: dict[str, Any] = {
            "n": n,
            "models": {"default": {"model": "odd", "base_url": url}},
            "critique": {"exam": 0},
        }
        await asyncio.to_thread(sdsd.run, config, out=out, on_event=on_event)
    return notes


@pytest.mark.parametrize(
    ("fields", "lacks"),
    [(("temperature", "top_p"), "top_p"), (("seed",), "seed"), (("stop",), "stop")],
)
async def test_what_a_server_refuses_is_said_everywhere(
    tmp_path: Path, fields: tuple[str, ...], lacks: str
) -> None:
    notes = await run(tmp_path, refusing(*fields))
    (note,) = [note for note in notes if "refuses" in note]
    assert f"no {lacks}" in note
    assert SAID in note
    manifest = RunDir(tmp_path).manifest()
    assert manifest is not None
    assert manifest.left_out == {"odd": (f"no {lacks}",)}
    shown = lacks.replace("_", r"\_")
    assert f"Its requests have no {shown}." in (tmp_path / "README.md").read_text()
    assert (
        f"<tr><th>requests to odd</th><td>no {lacks}</td></tr>"
        in (tmp_path / "report.html").read_text()
    )
    file = next((tmp_path / "data").rglob("*.parquet"))
    assert (
        f'"left_out":{{"odd":["no {lacks}"]}}'.encode() in pq.read_metadata(file).metadata[b"sdsd"]
    )


async def test_a_server_that_takes_everything_leaves_no_trace(tmp_path: Path) -> None:
    notes = await run(tmp_path, StandIn().app())
    manifest = RunDir(tmp_path).manifest()
    assert manifest is not None
    assert manifest.left_out == {}
    assert not any("refuses" in note for note in notes)
    assert "refuses" not in (tmp_path / "README.md").read_text()


async def test_what_another_server_refuses_later_is_added(tmp_path: Path) -> None:
    await run(tmp_path, StandIn().app())
    await run(tmp_path, refusing("seed"), n=2)
    manifest = RunDir(tmp_path).manifest()
    assert manifest is not None
    assert manifest.left_out == {"odd": ("no seed",)}
