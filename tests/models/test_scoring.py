"""Given text is scored exactly as the server's probabilities say, or refused with the reason."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from sdsd.errors import Busy
from sdsd.models.base import Capabilities, Scoring
from sdsd.models.openai_server import HttpModel
from sdsd.models.probing import probe
from sdsd.types import Completion, Message, Refusal, Request
from tests.stand_ins.model_server import StandIn, chatml, serving
from tests.stand_ins.scoring import LIKELY, UNLIKELY, Language, LlamaCpp, Vllm, expected

CHAT = (Message("system", "Be brief."), Message("user", "Name a fruit and a tree"))
ASKED = Request("critic", 1, CHAT, given="a fruit, a tree, a stone", purpose="score")
PROMPT = chatml(CHAT)


@contextlib.asynccontextmanager
async def model_at(app: web.Application, way: Scoring) -> AsyncIterator[HttpModel]:
    can = Capabilities(scoring=way)
    async with serving(app) as url, HttpModel("tiny", url, capabilities=can) as model:
        yield model


SERVERS: list[tuple[Any, Scoring]] = [
    (LlamaCpp(), "token_grammar"),
    (Vllm(), "prompt_logprobs"),
    (Vllm(old=True), "echo"),
]


@pytest.mark.parametrize(("server", "way"), SERVERS, ids=[way for _, way in SERVERS])
async def test_a_reply_is_scored_by_the_sum_over_its_own_tokens(server: Any, way: Scoring) -> None:
    async with model_at(server.app(), way) as model:
        answer = await model.complete(ASKED, 0)
        other = await model.complete(replace(ASKED, given="quite something else"), 0)
    assert isinstance(answer, Completion)
    assert answer.logprob == pytest.approx(expected(ASKED.given, PROMPT))
    assert answer.text == ""
    assert answer.prompt_tokens > 0
    assert isinstance(other, Completion)
    assert (other.logprob or 0.0) < (answer.logprob or 0.0)


@pytest.mark.parametrize(
    ("given", "likely", "unlikely"),
    [
        ("a fruit ☕", 2, 1),
        ("☕", 0, 1),
        ("☕☕ a fruit ☕, a tree", 5, 3),
        ("👩‍🍳", 0, 3),  # three characters in one
        ("naïve", 1, 2),
    ],
)
async def test_a_character_of_several_tokens_counts_by_its_last(
    given: str, likely: int, unlikely: int
) -> None:
    async with model_at(LlamaCpp().app(), "token_grammar") as model:
        answer = await model.complete(replace(ASKED, given=given), 0)
    assert isinstance(answer, Completion)
    assert answer.completion_tokens == likely + unlikely
    assert answer.logprob == pytest.approx(likely * LIKELY + unlikely * UNLIKELY)


@pytest.mark.parametrize(("server", "way"), SERVERS, ids=[way for _, way in SERVERS])
async def test_the_probe_finds_the_way(server: Any, way: Scoring) -> None:
    async with serving(server.app()) as url, HttpModel("tiny", url) as model:
        can = await probe(model)
    assert (can.scoring, can.noise) == (way, 0.0)


async def test_a_server_that_only_chats_cannot_score() -> None:
    async with serving(StandIn().app()) as url, HttpModel("tiny", url) as model:
        can = await probe(model)
        answer = await model.complete(ASKED, 0)
    assert can.scoring == ""
    assert isinstance(answer, Refusal)
    assert "cannot score" in answer.cause


@pytest.mark.parametrize("changed", [{"logprob": None}, {"logprob": -math.inf}, {"id": 7_777}])
async def test_probabilities_that_mean_nothing_are_refused(changed: dict[str, Any]) -> None:
    server = LlamaCpp()
    server.changed = changed
    async with model_at(server.app(), "token_grammar") as model:
        answer = await model.complete(ASKED, 0)
    assert isinstance(answer, Refusal)
    assert "scoring by token_grammar" in answer.cause


async def test_a_token_without_probability_is_noticed() -> None:
    server = LlamaCpp()
    server.lost = 1
    async with model_at(server.app(), "token_grammar") as model:
        answer = await model.complete(ASKED, 0)
    assert isinstance(answer, Refusal)
    assert "of a text" in answer.cause


async def test_a_server_that_ranks_the_wrong_way_round_is_not_trusted() -> None:
    class Reversed(Language):
        def logprob(self, token: int, prompt: str) -> float:
            return LIKELY + UNLIKELY - super().logprob(token, prompt)

    server = LlamaCpp()
    server.language = Reversed()
    async with serving(server.app()) as url, HttpModel("tiny", url) as model:
        assert (await probe(model)).scoring == ""


async def test_a_busy_server_is_asked_again_later() -> None:
    async def busy(http: web.Request) -> web.Response:
        return web.Response(status=429, text="later")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", busy)
    async with model_at(app, "token_grammar") as model:
        with pytest.raises(Busy):
            await model.complete(ASKED, 0)
