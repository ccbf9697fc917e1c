"""What the probe finds out about servers of every kind, compared with what is true of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from sdsd.errors import Busy, ModelError, ServerGone, Stopped
from sdsd.models.base import Capabilities
from sdsd.models.openai_server import HttpModel
from sdsd.models.probing import left_out, probe, quoted
from sdsd.models.scripted import CHATML
from sdsd.types import Completion, Message, Request
from tests.stand_ins.model_server import chatml, serving
from tests.stand_ins.odd_server import Fault, OddServer, Ways

CHAT = Request("agent", 8, (Message("system", "Be brief."), Message("user", "Hi?")), stop=("\n",))
COLD = Request("critic", 8, CHAT.messages, temperature=0.0)


# -- what a well-behaved server supports ---------------------------------------------------


def server(
    *,
    raw: bool = True,
    renders: Callable[[list[Message]], str] | None = chatml,
    system: bool = True,
    schema: bool = True,
) -> tuple[web.Application, list[dict[str, Any]]]:
    """A server with some of the routes and abilities there are, and the chats it received."""
    chats: list[dict[str, Any]] = []

    async def chat(http: web.Request) -> web.Response:
        body = await http.json()
        chats.append(body)
        if "response_format" in body and not schema:
            return web.Response(status=400, text="response_format is not supported")
        if body["messages"][0]["role"] == "system" and not system:
            return web.Response(status=400, text="System role not supported")
        text = '{"a": true}' if "response_format" in body else "Red."
        return web.json_response({"choices": [{"message": {"content": text}}]})

    async def complete(http: web.Request) -> web.Response:
        return web.json_response({"choices": [{"text": "x", "finish_reason": "length"}]})

    async def apply(http: web.Request) -> web.Response:
        assert renders is not None
        messages = [Message(**m) for m in (await http.json())["messages"]]
        if messages[0].role == "system" and not system:
            return web.Response(status=500, text="System role not supported")
        return web.json_response({"prompt": renders(messages)})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    if raw:
        app.router.add_post("/v1/completions", complete)
    if renders:
        app.router.add_post("/apply-template", apply)
    return app, chats


async def probed(app: web.Application) -> Capabilities:
    async with serving(app) as url, HttpModel("tiny", url) as model:
        found = await probe(model)
        assert model.capabilities == found
        return found


async def test_a_server_that_can_do_everything() -> None:
    can = await probed(server()[0])
    assert can == Capabilities(completions=True, template=CHATML, schema=True, metrics=False)


async def test_a_server_that_only_chats() -> None:
    can = await probed(server(raw=False, renders=None, schema=False)[0])
    assert can == Capabilities(metrics=False)


async def test_a_server_that_shows_no_template_is_asked_whether_it_takes_a_system_turn() -> None:
    for system in (True, False):
        can = await probed(server(renders=None, system=system)[0])
        assert can == Capabilities(completions=True, system=system, schema=True, metrics=False)


async def test_a_server_whose_template_refuses_a_system_turn() -> None:
    app, chats = server(system=False)
    async with serving(app) as url, HttpModel("gemma", url) as model:
        can = await probe(model)
        assert (can.chat, can.completions, can.system) == (True, True, False)
        assert can.template is not None  # learnt from the form without one
        chats.clear()
        assert isinstance(await model.complete(CHAT, 5), Completion)
    assert [m["role"] for m in chats[0]["messages"]] == ["user"]


async def test_a_template_that_drops_the_system_turn_counts_as_one_that_refuses_it() -> None:
    app, _ = server(renders=lambda messages: chatml(m for m in messages if m.role != "system"))
    can = await probed(app)
    assert not can.system
    assert can.template is not None


async def test_a_template_that_cannot_be_cut_is_none() -> None:
    can = await probed(server(renders=lambda messages: messages[-1].content)[0])
    assert can.template is None
    can = await probed(server(renders=lambda messages: "")[0])
    assert can.template is None


# -- what odd servers support --------------------------------------------------------------


async def found(ways: Ways, name: str = "odd", **options: Any) -> tuple[Capabilities, OddServer]:
    """What is found out about a server, which then answers requests of every kind."""
    server = OddServer(ways)
    async with serving(server.app()) as url, HttpModel(name, url) as model:
        can = await probe(model, first_wait=0.01, **options)
        asked = len(server.bodies)
        for request in (CHAT, COLD):
            assert isinstance(await model.complete(request, 7), Completion)
        server.bodies = server.bodies[asked:]
    return can, server


async def test_a_server_that_takes_everything_is_asked_little_and_sent_everything() -> None:
    server = OddServer(Ways())
    async with serving(server.app()) as url, HttpModel("odd", url) as model:
        can = await probe(model)
        assert (can.refused, can.coldest, can.least_tokens, can.length_key) == (
            {}, 0.0, 0, "max_tokens",
        )  # fmt: skip
        assert (can.chat, can.completions, can.system, can.schema) == (True,) * 4
        assert (can.logprobs, can.alternatives) == (True, 5)
        assert len(server.bodies) == 7
        await model.complete(CHAT, 7)
    assert server.bodies[-1] == {
        "model": "odd", "max_tokens": 8, "temperature": 0.7, "top_p": 1.0, "seed": 7,
        "stop": ["\n"], "messages": [{"role": m.role, "content": m.content} for m in CHAT.messages],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ways", "lacks"),
    [
        (Ways(refuses={"stop": 400}), ["stop"]),
        (Ways(refuses={"stop": 422}), ["stop"]),
        (Ways(refuses={"stop": 500}), ["stop"]),
        (Ways(refuses={"seed": 400}), ["seed"]),
        (Ways(refuses={"seed": 403}), ["seed"]),
        (Ways(refuses={"temperature": 400, "top_p": 400}), ["temperature", "top_p"]),
        (Ways(refuses={"top_p": 400}), ["top_p"]),
        (Ways(exclusive=("temperature", "top_p")), ["top_p"]),
        (Ways(exclusive=("seed", "top_p")), ["top_p"]),
        (Ways(exclusive=("temperature", "seed")), ["seed"]),
        (Ways(invalid=(("temperature", 0.7), ("temperature", 0.0))), ["temperature"]),
        (Ways(invalid=(("top_p", 1.0),)), ["top_p"]),
        (
            Ways(refuses=dict.fromkeys(("max_tokens", "temperature", "top_p", "stop"), 400)),
            ["stop", "temperature", "top_p"],
        ),
    ],
)
async def test_a_field_is_left_out_if_the_server_refuses_it_and_no_other(
    ways: Ways, lacks: list[str]
) -> None:
    can, server = await found(ways)
    assert sorted(can.refused) == lacks
    for field in ("temperature", "top_p", "seed"):
        assert all((field in body) == (field not in lacks) for body in server.bodies)
    assert ("stop" in server.bodies[0]) == ("stop" not in lacks)
    assert left_out(can) == tuple(f"no {field}" for field in lacks)
    assert ways.said in quoted(can)


async def test_a_temperature_of_0_that_is_refused_becomes_the_lowest_that_is_not() -> None:
    can, server = await found(Ways(invalid=(("temperature", 0.0),)))
    assert (can.refused, can.coldest) == ({}, 0.01)
    assert [body["temperature"] for body in server.bodies] == [0.7, 0.01]
    assert left_out(can) == ("temperature 0.01 instead of 0",)


@pytest.mark.parametrize(("least", "sent"), [(2, 8), (16, 8), (17, 256), (100, 256)])
async def test_a_server_that_refuses_short_replies(least: int, sent: int) -> None:
    server = OddServer(Ways(least_tokens=least))
    async with serving(server.app()) as url, HttpModel("odd", url) as model:
        can = await probe(model)
        await model.complete(CHAT, 1)
    assert can.chat
    assert server.bodies[-1]["max_tokens"] == sent


@pytest.mark.parametrize(
    ("ways", "schema"),
    [
        (Ways(schema="held"), True),
        (Ways(schema="spaced"), True),
        (Ways(schema="cut"), True),
        (Ways(schema="any object"), False),
        (Ways(schema="fenced"), False),
        (Ways(schema="ignored"), False),
        (Ways(schema="refused"), False),
        (Ways(refuses={"response_format": 500}), False),
    ],
)
async def test_a_schema_counts_only_if_replies_are_held_to_it(ways: Ways, schema: bool) -> None:
    can, _ = await found(ways)
    assert can.schema == schema
    assert can.refused == {}


@pytest.mark.parametrize(
    ("ways", "logprobs", "alternatives"),
    [
        (Ways(token="yes"), True, 5),
        (Ways(token="Violet"), True, 5),
        (Ways(token="<think>"), True, 5),
        (Ways(alternatives=2), True, 5),
        (Ways(alternatives=1), False, 5),
        (Ways(alternatives=0), False, 5),
        (Ways(most_alternatives=4), True, 2),
        (Ways(places="mapping"), False, 5),  # whatever is not read is of no use
        (Ways(places="texts"), False, 5),
        (Ways(places="none"), False, 5),
        (Ways(places="null"), False, 5),
        (Ways(refuses={"logprobs": 400}), False, 5),
        (Ways(refuses={"top_logprobs": 501}), False, 5),
    ],
)
async def test_probabilities_need_alternatives_whatever_the_token(
    ways: Ways, logprobs: bool, alternatives: int
) -> None:
    can, _ = await found(ways)
    assert (can.logprobs, can.alternatives) == (logprobs, alternatives)


@pytest.mark.parametrize(
    ("ways", "system", "raw"),
    [
        (Ways(), True, True),
        (Ways(system=False), False, True),
        (Ways(raw=False), True, False),
        (Ways(always={"/v1/completions": 501}), True, False),
        (Ways(always={"/v1/completions": "reset"}), True, False),
    ],
)
async def test_routes_and_system_turns(ways: Ways, system: bool, raw: bool) -> None:
    can, _ = await found(ways)
    assert (can.system, can.completions) == (system, raw)


async def test_a_server_without_chat_is_still_of_use() -> None:
    async with (
        serving(OddServer(Ways(chats=False)).app()) as url,
        HttpModel("odd", url) as model,
    ):
        can = await probe(model)
    assert (can.chat, can.completions) == (False, True)


async def test_metrics_are_polled_only_where_there_are_any() -> None:
    for there in (True, False):
        server = OddServer(Ways(metrics=there))
        async with serving(server.app()) as url, HttpModel("odd", url) as model:
            assert (await probe(model)).metrics == there
            asked = server.paths.count("/metrics")
            assert (await model.gauges() is not None) == there
        assert server.paths.count("/metrics") - asked == there


# -- a server that does not answer at once -------------------------------------------------


@pytest.mark.parametrize("fault", [503, 429, 529, 500, 502, 504, "reset"], ids=str)
async def test_the_first_request_waits_for_the_server_and_says_so(fault: Fault) -> None:
    notes: list[str] = []
    can, server = await found(
        Ways(starts_with=[fault] * 3, said="Loading model"), note=notes.append
    )
    assert can == (await found(Ways()))[0]
    assert len(notes) == 1
    assert "waiting for it, for up to 600 s" in notes[0]
    assert fault == "reset" or f"HTTP {fault}: " in notes[0]
    assert server.bodies


PARTS = (
    '"system"', "response_format", "top_logprobs", '"prompt"', '"temperature":0.0', "/tokenize",
    "/apply-template", "/metrics",
)  # fmt: skip


@pytest.mark.parametrize(
    "fault", [429, 503, 500, 408, 425, 409, "reset", "empty", "page", "busy in 200"], ids=str
)
async def test_a_fault_that_passes_decides_nothing(fault: Fault) -> None:
    """Whichever question meets it, what is found out is the same."""
    # Many servers have something to say, with a good status, to every path that they do not know.
    parts = PARTS[:-2] if fault in ("empty", "page") else PARTS
    quiet = (await found(Ways(metrics=True)))[0]
    for part in parts:
        assert (await found(Ways(metrics=True, once={part: fault})))[0] == quiet, part
    assert (await found(Ways(metrics=True, once=dict.fromkeys(parts, fault))))[0] == quiet


async def test_a_request_that_alone_fails_is_not_waited_for_without_end() -> None:
    can, _ = await found(Ways(always={"response_format": 503, "top_logprobs": 429}))
    assert (can.chat, can.schema, can.logprobs) == (True, False, False)


@pytest.mark.parametrize(
    ("status", "said", "path", "hint"),
    [
        (400, "This model only support stream mode", "/v1", "set `extra_body: {stream: true}`"),
        (404, "page not found", "", "with most servers, `base_url` ends in /v1: http://127.0.0.1:"),
    ],
)
async def test_where_everything_is_refused_a_remedy_is_named(
    status: int, said: str, path: str, hint: str
) -> None:
    server = OddServer(Ways(everything=status, said=said))
    async with (
        serving(server.app()) as url,
        HttpModel("odd", url.removesuffix("/v1") + path) as model,
    ):
        with pytest.raises(ModelError) as fault:
            await probe(model)
    assert said in str(fault.value)
    assert hint in str(fault.value)


async def test_after_an_outage_it_is_given_up_with_the_cause() -> None:
    server = OddServer(Ways(everything=503, said="Loading model"))
    async with serving(server.app()) as url, HttpModel("odd", url) as model:
        with pytest.raises(ServerGone, match=r"HTTP 503: .*Loading model.*`outage` is 0\.2"):
            await probe(model, outage=0.2, first_wait=0.05)


async def test_a_wait_longer_than_an_outage_is_not_begun() -> None:
    async def tomorrow(http: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "86400"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", tomorrow)
    async with serving(app) as url, HttpModel("odd", url) as model:
        with pytest.raises(ServerGone, match=r"it asks to wait for 86,400 s, until 2\d{3}-.*:"):
            await probe(model)


async def test_stopping_ends_the_wait() -> None:
    stopping = asyncio.Event()
    server = OddServer(Ways(everything=503))
    async with serving(server.app()) as url, HttpModel("odd", url) as model:
        with pytest.raises(Stopped):
            await probe(model, stopping=stopping, note=lambda text: stopping.set())


async def test_a_server_that_is_not_there_is_not_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    async with HttpModel("tiny", url) as model:
        with pytest.raises(ServerGone, match="is the server running, and is `base_url` right"):
            await probe(model)


async def test_what_is_no_model_server_is_not_waited_for_long() -> None:
    async def page(http: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome</html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    async with serving(app) as url, HttpModel("odd", url) as model:
        with pytest.raises(ServerGone, match=r"not a completion.*Welcome.*is `base_url` right"):
            await probe(model, first_wait=0.01)


@pytest.mark.parametrize("path", ["/apply-template", "/metrics"])
async def test_a_server_that_is_busy_with_a_good_status_has_not_said_no(path: str) -> None:
    said = '{"error": "Unexpected endpoint"}'

    async def serve(http: web.Request) -> web.Response:
        return web.Response(text=said)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    async with serving(app) as url, HttpModel("odd", url) as model:
        assert await model.get(path, root=True) == said.encode()
        assert await model.post(path, {}) == {"error": "Unexpected endpoint"}
        said = '{"error": {"message": "rate limit exceeded"}}'
        for ask in (model.get(path, root=True), model.post(path, {})):
            with pytest.raises(Busy, match=r"HTTP 429: .*rate limit exceeded"):
                await ask


# -- a server that refuses -----------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 422, 451])
async def test_a_server_that_refuses_everything_is_quoted(status: int) -> None:
    said = "your key is not valid for this gateway"
    server = OddServer(Ways(everything=status, said=said))
    async with serving(server.app()) as url, HttpModel("odd", url) as model:
        with pytest.raises(ModelError, match=rf"HTTP {status}.*{said}") as error:
            await probe(model)
    assert "continuation" not in str(error.value)


@pytest.mark.parametrize("status", [400, 404, 422, 503])
async def test_a_model_that_the_server_does_not_list_is_named(status: int) -> None:
    server = OddServer(
        Ways(always={"completions": status}, said="Invalid model", models=("a", "b"))
    )
    async with serving(server.app()) as url, HttpModel("odd", url) as model:
        with pytest.raises(ModelError, match=r"Invalid model") as error:
            await probe(model, outage=0.1, first_wait=0.05)
    assert "`odd` is not among the models that it lists: a, b" in str(error.value)


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (200, '{"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}', "HTTP 401"),
        (200, '{"error": {"message": "model odd not found"}}', "HTTP 404 .*model odd not found"),
        (400, '{"error": "AuthenticationError: invalid x-api-key"}', "invalid x-api-key"),
        (403, "<html><title>Attention Required!</title></html>", 'page: "Attention Required!"'),
        (429, '{"error": {"code": "insufficient_quota"}}', "HTTP 429 .*insufficient_quota"),
        (404, '{"message": "no Route matched"}', "HTTP 404 .*no Route matched.*; check `base_url`"),
        (401, "", "HTTP 401 for model `odd`; check `base_url`, `model` and the key"),
    ],
)
async def test_a_gateway_that_words_it_its_own_way_is_quoted_at_once(
    status: int, body: str, complaint: str
) -> None:
    """With the names that are most like the wrong one, of however many there are."""
    names = [*(f"model-{k}" for k in range(300)), "maker/Odd-7b"]

    async def serve(http: web.Request) -> web.Response:
        if http.path.endswith("/models"):
            return web.json_response({"data": [{"id": name} for name in names]})
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    async with serving(app) as url, HttpModel("odd", url) as model:
        with pytest.raises(ModelError, match=complaint) as error:
            await probe(model)
    assert "lists: maker/Odd-7b, model-0, model-1" in str(error.value)
