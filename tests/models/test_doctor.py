"""The doctor's claims, compared with what is true of servers of every kind."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from aiohttp import web

from sdsd.models.doctor import Diagnosis, examine
from tests.stand_ins.model_server import serving
from tests.stand_ins.odd_server import OddServer, Ways


async def seen(app: web.Application | OddServer, model: str = "odd") -> dict[str, Diagnosis]:
    """The diagnoses of a server by name; the last one of each."""
    async with serving(app.app() if isinstance(app, OddServer) else app) as url:
        keys = {"models": {"default": {"model": model, "base_url": url}}}
        found = await asyncio.to_thread(examine, None, keys)
    return {diagnosis.name: diagnosis for diagnosis in found}


@pytest.mark.parametrize(
    ("ways", "claims"),
    [
        (
            Ways(),
            {
                "chat": "yes: 'Red as", "completions": "yes", "system turn": "yes",
                "JSON schema": "yes", "logprobs": "yes", "metrics": "no", "n": "yes",
                "sampling": "the same seed gives the same text", "limits": "max_tokens",
            },
        ),
        (Ways(schema="ignored"), {"JSON schema": "no"}),
        (Ways(schema="refused"), {"JSON schema": "no", "chat": "yes"}),
        (Ways(token="Violet"), {"logprobs": "yes"}),
        (Ways(alternatives=1), {"logprobs": "no"}),
        (Ways(system=False), {"system turn": "no"}),
        (Ways(raw=False), {"completions": "no"}),
        (Ways(metrics=True), {"metrics": "yes"}),
        (Ways(greedy=True), {"sampling": "without effect: every seed gives the same text"}),
        (Ways(seeded=False), {"sampling": "replies differ, also with the same seed"}),
        (
            Ways(refuses={"seed": 400}),
            {"refuses": "requests have no seed (to `seed`: HTTP 400:", "sampling": "replies"},
        ),
        (Ways(refuses={"stop": 422}), {"refuses": "requests have no stop (to `stop`: HTTP 422:"}),
        (
            Ways(exclusive=("temperature", "top_p")),
            {"refuses": "requests have no top_p (to `top_p`: HTTP 400:", "chat": "yes"},
        ),
        (Ways(refuses={"max_tokens": 400}), {"limits": "max_completion_tokens"}),
        (Ways(refuses={"n": 400}), {"n": "no", "chat": "yes"}),
        (Ways(least_tokens=100), {"chat": "yes"}),
        (Ways(models=(*"abcdef", "odd")), {"serves": "a, b, c, d, e and 2 more"}),
    ],
)  # fmt: skip
async def test_what_is_said_is_true(ways: Ways, claims: dict[str, str]) -> None:
    found = await seen(OddServer(ways))
    for name, text in claims.items():
        assert found[name].text.startswith(text), found[name]
    assert found["chat"].ok
    assert "refuses" in found or not ways.refuses.keys() & {"seed", "stop", "top_p"}


async def test_a_server_that_says_nothing_is_not_well() -> None:
    """Every status is good, and there is no text: the model spends its tokens on thinking."""
    chat = (await seen(OddServer(Ways(silent=True))))["chat"]
    assert chat.ok is False
    assert "thinking" in chat.text
    assert "`thinking: off`" in chat.text


@pytest.mark.parametrize("most", [1, 4])
async def test_a_server_that_takes_few_requests_at_once_is_still_examined(most: int) -> None:
    found = await seen(OddServer(Ways(most_at_once=most, seconds=0.3)))
    assert found["chat"].ok
    assert f"with 16 at once, of which it answers {most}; the others: HTTP 429" in (
        found["speed"].text
    )
    assert found["auto"].ok  # nothing after it is lost


def nobody() -> str:
    """An address at which no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@pytest.mark.parametrize("first", [True, False])
async def test_of_several_servers_the_one_that_is_there_is_examined(first: bool) -> None:
    gone = nobody()
    async with serving(OddServer(Ways()).app()) as url:
        urls = [gone, url] if first else [url, gone]
        keys = {"models": {"default": {"model": "odd", "base_url": urls}}}
        found = await asyncio.to_thread(examine, None, keys)
    reached = {d.text.partition(": cannot")[0]: d.ok for d in found if d.name == "reachable"}
    assert reached == {url: True, gone: False}
    by_name = {d.name: d for d in found}
    assert by_name["chat"].ok
    assert "the same seed" in by_name["sampling"].text


async def test_a_model_that_is_gone_loses_no_finding_about_another() -> None:
    async with serving(OddServer(Ways()).app()) as url:
        models = {"default": {"model": "odd", "base_url": url},
                  "judge": {"model": "odd", "base_url": nobody()}}  # fmt: skip
        keys = {"models": models, "roles": {"critic": "judge"}}
        found = await asyncio.to_thread(examine, None, keys)
    assert {d.name: d for d in found}["chat"].ok
    assert found[-1].ok is False
    assert found[-1].text.startswith("`judge`: http://")


@pytest.mark.parametrize("status", [401, 402, 404, 429, 500])
async def test_what_a_fault_leaves_open_is_not_called_no(status: int) -> None:
    found = (await seen(OddServer(Ways(refuses={"n": status}))))["n"]
    assert found.ok is False
    assert f"HTTP {status}" in found.text


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_server_that_refuses_everything_is_quoted(status: int) -> None:
    said = "your key is not valid for this gateway"
    found = await seen(OddServer(Ways(everything=status, said=said)))
    assert found["model"].ok is False
    assert said in found["model"].text
    assert "continuation" not in found["model"].text


async def test_a_wrong_model_is_named_with_those_that_there_are() -> None:
    ways = Ways(always={"completions": 404}, said="no such model", models=("a", "b"))
    found = await seen(OddServer(ways))
    assert "`odd` is not among the models that it lists: a, b" in found["model"].text


async def test_a_fault_in_the_middle_loses_no_finding() -> None:
    """From the doctor's own questions on, the server is broken."""
    found = await seen(OddServer(Ways(always={"stones": 500, "boat": "reset"})))
    assert found["chat"].ok
    for name in ("sampling", "prefix cache"):
        assert found[name].ok is False
    assert "tokens/s" in found["speed"].text
    assert found["auto"].ok


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b"<html>", b'{"choices": []}', b"\xff\xfe", b'{"error": 1}']
)
async def test_what_is_no_model_server_is_a_finding_not_a_traceback(body: bytes) -> None:
    async def answer(http: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    found = await seen(app)
    assert found["model"].ok is False
    assert "Error" not in found["model"].text.partition(":")[0]


def test_a_configuration_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    found = examine(tmp_path / "none.yaml")
    assert found[-1].ok is False
