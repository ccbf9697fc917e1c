"""Whole runs on reasoning models, whatever their way to think: none of it becomes data."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sdsd
from sdsd.dataset.export import read
from sdsd.dataset.views import VIEWS
from sdsd.runs.events import Event, Noted
from sdsd.types import Answer, Completion
from tests.stand_ins.model_server import is_probe, serving
from tests.stand_ins.reasoning_server import CLOSED, MANNERS, WORD, Manner, ReasoningStandIn

ROOM = 100


async def run(out: Path, server: ReasoningStandIn, protocol: str = "chat", **model: Any) -> str:
    """Make a run of two dialogues; return its notes."""
    notes: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    async with serving(server.app()) as url:
        chosen = {"model": "deep", "base_url": url, "thinking_tokens": ROOM, **model}
        config: dict[str, Any] = {
            "n": 2,
            "models": {"default": chosen},
            "dialogue": {"protocol": protocol},
            "critique": {"exam": 0},
        }
        await asyncio.to_thread(sdsd.run, config, out=out, on_event=on_event)
    return "\n".join(notes)


def published(out: Path) -> str:
    """Everything that a run publishes, as text."""
    rows = [row for view in VIEWS for row in read(out / "data", view)]
    pages = [(out / name).read_text() for name in ("README.md", "report.html")]
    return "\n".join([str(rows), *pages])


def answers(out: Path) -> list[Completion]:
    with sqlite3.connect(out / "journal.sqlite") as journal:
        found = [
            msgspec.json.decode(b, type=Answer)
            for (b,) in journal.execute("SELECT body FROM answer")
        ]
    return [answer for answer in found if isinstance(answer, Completion)]


def asked(server: ReasoningStandIn) -> list[dict[str, Any]]:
    """The requests of the run itself."""

    def messages(body: dict[str, Any]) -> Any:
        return msgspec.convert(body.get("messages", []), tuple[sdsd.Message, ...])

    return [b for b in server.requests if not is_probe(messages(b), b.get("prompt", ""))]


@pytest.mark.parametrize("manner", MANNERS)
async def test_no_thinking_becomes_data(tmp_path: Path, manner: Manner) -> None:
    server = ReasoningStandIn(manner)
    notes = await run(tmp_path, server)
    assert "thinks before it speaks" in notes
    assert list(read(tmp_path / "data", "sft"))
    assert WORD not in published(tmp_path)
    # It is in the journal, and counted.
    found = answers(tmp_path)
    assert all(answer.thinking.count(WORD) == server.words for answer in found)
    assert all(0 < answer.reasoning_tokens < answer.completion_tokens for answer in found)
    costs = list(read(tmp_path / "data", "scenarios"))
    assert sum(row["reasoning_tokens"] for row in costs) == sum(a.reasoning_tokens for a in found)
    # Every request has left room for it, in addition to the length of the reply.
    limits = {body["max_tokens"] for body in asked(server)}
    assert min(limits) > ROOM
    assert 160 + ROOM in limits


@pytest.mark.parametrize("manner", MANNERS)
async def test_thinking_without_an_end_is_said_with_the_remedy(
    tmp_path: Path, manner: Manner
) -> None:
    await run(tmp_path, ReasoningStandIn(manner, words=3_000))
    scenarios = list(read(tmp_path / "data", "scenarios"))
    for row in scenarios:
        assert "tokens thinking; raise `thinking_tokens`" in row["failed_cause"]
        assert "`thinking: off`" in row["failed_cause"]
    assert WORD not in published(tmp_path)


@pytest.mark.parametrize("manner", MANNERS)
async def test_thinking_is_switched_off_where_there_is_a_switch(
    tmp_path: Path, manner: Manner
) -> None:
    server = ReasoningStandIn(manner, switch=True)
    notes = await run(tmp_path, server, thinking="off")
    assert "thinking" not in notes
    assert all(not body["chat_template_kwargs"]["enable_thinking"] for body in asked(server))
    assert 160 in {body["max_tokens"] for body in asked(server)}
    assert not any(answer.thinking for answer in answers(tmp_path))


async def test_where_there_is_no_switch_it_is_said(tmp_path: Path) -> None:
    notes = await run(tmp_path, ReasoningStandIn("beside"), thinking="off")
    assert "no known switch for thinking, so `thinking: off` has no effect" in notes
    assert WORD not in published(tmp_path)


async def test_a_stream_leaves_the_thinking_of_its_template_out(tmp_path: Path) -> None:
    server = ReasoningStandIn("opened")
    await run(tmp_path, server, "continuation")
    prompts = [body["prompt"] for body in asked(server) if "prompt" in body]
    assert any(prompt.endswith("<think>\n\n</think>\n\n") for prompt in prompts)
    # Of earlier turns nothing is left.
    assert all(prompt.count("<think>") <= 1 for prompt in prompts)
    assert WORD not in published(tmp_path)


async def test_a_model_that_thinks_by_itself_is_told_not_to_as_its_template_does(
    tmp_path: Path,
) -> None:
    server = ReasoningStandIn("inline", switch=True)
    await run(tmp_path, server, "continuation")
    opened = [b for b in asked(server) if b.get("prompt", "").endswith(CLOSED)]
    assert opened
    assert 160 in {body["max_tokens"] for body in opened}
    assert WORD not in published(tmp_path)


@pytest.mark.parametrize(
    ("manner", "end"), [("opened", "<think>\n"), ("inline", "<|im_start|>assistant\n")]
)
async def test_or_has_it_if_it_is_wanted(tmp_path: Path, manner: Manner, end: str) -> None:
    server = ReasoningStandIn(manner, switch=True)
    await run(tmp_path, server, "continuation", thinking="on")
    opened = [b for b in asked(server) if b.get("prompt", "").endswith(end)]
    assert opened
    assert 160 + ROOM in {body["max_tokens"] for body in opened}
    assert WORD not in published(tmp_path)
    assert any(WORD in answer.thinking for answer in answers(tmp_path))
