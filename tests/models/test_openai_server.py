"""The client against real servers on loopback: what it sends, what it reads, how it takes a no."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sdsd.errors import ModelError, TransientError
from sdsd.models.base import Capabilities
from sdsd.models.http_connection import Timeouts
from sdsd.models.openai_server import HttpModel, folded
from sdsd.types import Answer, Completion, Message, Refusal, Request
from tests.stand_ins.model_server import StandIn, serving

CHAT = Request("agent", 32, (Message("system", "Be brief."), Message("user", "Hello?")))
RAW = Request("agent", 32, prompt="Once upon", stop=("\n",))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def answered_by(handler: Handler, **options: Any) -> AsyncIterator[HttpModel]:
    """A model behind a server that answers everything with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with serving(app) as url, HttpModel("tiny", url, **options) as model:
        yield model


def saying(status: int, body: str | bytes = b"", **headers: str) -> Handler:
    async def handler(http: web.Request) -> web.Response:
        data = body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=data, headers=headers)

    return handler


def reply(**changes: Any) -> str:
    """A chat completion, as servers write it."""
    whole = {
        "id": "x",
        "object": "chat.completion",
        "model": "tiny-v2",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Hi."},
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }
    return json.dumps(whole | changes)


async def asked(handler: Handler, request: Request = CHAT, **options: Any) -> Answer:
    async with answered_by(handler, **options) as model:
        return await model.complete(request, 5)


# -- a completion --------------------------------------------------------------------------


async def test_the_fields_of_a_completion() -> None:
    answer = await asked(saying(200, reply()))
    assert isinstance(answer, Completion)
    assert (answer.text, answer.finish, answer.model) == ("Hi.", "stop", "tiny-v2")
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (11, 0, 3)
    assert answer.seconds > 0


async def test_a_raw_completion_has_its_text_in_the_choice() -> None:
    choices = [{"text": " a time", "finish_reason": "length"}]
    answer = await asked(saying(200, reply(choices=choices)), RAW)
    assert isinstance(answer, Completion)
    assert (answer.text, answer.finish) == (" a time", "length")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 7},
            },
            (9, 7, 2),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": None},
            },
            (9, 0, 2),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}, (9, 0, 2)),
        (None, (0, 0, 0)),
    ],
)
async def test_usage_as_servers_give_it(usage: Any, tokens: tuple[int, int, int]) -> None:
    answer = await asked(saying(200, reply(usage=usage)))
    assert isinstance(answer, Completion)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == tokens


async def test_an_empty_message_is_an_empty_text() -> None:
    choices = [{"finish_reason": "stop", "message": {"role": "assistant", "content": None}}]
    answer = await asked(saying(200, reply(choices=choices, model=None)))
    assert isinstance(answer, Completion)
    assert (answer.text, answer.model) == ("", "")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (rb'"NUL \u0000, pair \ud83d\udc4b"', "NUL \0, pair 👋"),
        (rb'"cut \ud83d"', "cut \ufffd"),
        (rb'"cut \ud83d in the middle"', "cut \ufffd in the middle"),
        (rb'"\udc4b alone"', "\ufffd alone"),
        (b'"half a character \xf0\x9f"', "half a character \ufffd"),
    ],
)
async def test_text_that_was_cut_inside_a_character_is_read(content: bytes, text: str) -> None:
    body = b'{"choices": [{"finish_reason": "length", "message": {"content": ' + content + b"}}]}"
    answer = await asked(saying(200, body))
    assert isinstance(answer, Completion)
    assert answer.text == text
    text.encode()  # so the journal can hold it


# -- the request ---------------------------------------------------------------------------


async def sent(request: Request, **options: Any) -> tuple[str, dict[str, Any], Any]:
    """Path, body and headers of what a server receives."""
    got: list[tuple[str, dict[str, Any], Any]] = []

    async def handler(http: web.Request) -> web.Response:
        got.append((http.path, await http.json(), http.headers))
        return web.Response(text=reply())

    await asked(handler, request, **options)
    return got[0]


async def test_what_is_sent_for_a_chat() -> None:
    path, body, headers = await sent(CHAT)
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello?"},
        ],
        "max_tokens": 32,
        "temperature": 0.7,
        "top_p": 1.0,
        "seed": 5,
    }
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers


async def test_what_is_sent_for_a_raw_completion() -> None:
    path, body, _ = await sent(RAW)
    assert path == "/v1/completions"
    assert (body["prompt"], body["stop"]) == ("Once upon", ["\n"])
    assert "messages" not in body


async def test_a_schema_is_sent_only_to_a_server_that_can_hold_to_it() -> None:
    shaped = Request("critic", 32, CHAT.messages, schema={"type": "object"})
    for can, expected in ((True, "json_schema"), (False, None)):
        _, body, _ = await sent(shaped, capabilities=Capabilities(schema=can))
        assert body.get("response_format", {}).get("type") == expected
    _, body, _ = await sent(CHAT, capabilities=Capabilities(schema=True))
    assert "response_format" not in body


async def test_key_headers_and_extra_body_are_sent() -> None:
    _, body, headers = await sent(
        CHAT, key="sk-1", headers={"X-Team": "blue"}, extra_body={"top_k": 20, "top_p": 0.5}
    )
    assert (headers["Authorization"], headers["X-Team"]) == ("Bearer sk-1", "blue")
    assert (body["top_k"], body["top_p"]) == (20, 0.5)


async def test_a_system_turn_is_folded_for_servers_without_one() -> None:
    _, body, _ = await sent(CHAT, capabilities=Capabilities(system=False))
    assert body["messages"] == [{"role": "user", "content": "Be brief.\n\nHello?"}]


def test_folding_leaves_the_rest_alone() -> None:
    system, user = CHAT.messages
    more = (user, Message("assistant", "Hi."), Message("user", "Bye."))
    assert folded((system, *more)) == (Message("user", "Be brief.\n\nHello?"), *more[1:])
    assert folded(more) == more
    assert folded((system,)) == (system,)


# -- a no ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 524, 529])
async def test_overload_may_pass(status: int) -> None:
    with pytest.raises(TransientError, match=f"^HTTP {status}: busy") as caught:
        await asked(saying(status, "busy"))
    assert caught.value.retry_after is None
    assert caught.value.with_server.startswith("http://127")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.25", 0.25), ("-3", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
async def test_what_a_busy_server_asks_to_wait_is_read(header: str, seconds: float | None) -> None:
    with pytest.raises(TransientError) as caught:
        await asked(saying(429, "slow down", **{"Retry-After": header}))
    assert caught.value.retry_after == seconds


async def test_no_credit_is_no_overload() -> None:
    body = '{"error": {"code": "insufficient_quota", "message": "You exceeded your quota."}}'
    with pytest.raises(ModelError, match=r"HTTP 429 .*insufficient_quota"):
        await asked(saying(429, body))


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
async def test_what_concerns_every_request_stops_the_run(status: int) -> None:
    with pytest.raises(ModelError) as caught:
        await asked(saying(status, "who are you?"))
    message = str(caught.value)
    assert f"HTTP {status} for model `tiny`: who are you?" in message
    assert "check `base_url`, `model` and the key" in message


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_concerns_one_request_is_a_refusal(status: int) -> None:
    answer = await asked(saying(status, "the context is full"))
    assert answer == Refusal(f"HTTP {status}", "the context is full", "context_full")
    answer = await asked(saying(status, "the content was filtered"))
    assert answer == Refusal(f"HTTP {status}", "the content was filtered", "rejected")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "the request exceeds the available context size"),  # as llama.cpp says it
        (400, "This model's maximum context length is 4096 tokens."),  # vLLM, OpenAI
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096."),  # TGI
    ],
)
async def test_a_full_context_is_recognised_in_the_words_of_every_server(
    status: int, said: str
) -> None:
    assert await asked(saying(status, said)) == Refusal(f"HTTP {status}", said, "context_full")


async def test_only_a_status_that_can_mean_it_says_that_the_context_is_full() -> None:
    answer = await asked(saying(451, "not in this context"))
    assert answer == Refusal("HTTP 451", "not in this context", "rejected")


@pytest.mark.parametrize(
    "body",
    [
        "<html>Bad gateway</html>",
        "",
        "null",
        "{}",
        '{"choices": []}',
        '{"choices": {}}',
        '{"choices": [{"text": "cut of',
        b"\xff\xfe\x00",
        "[" * 100_000,
    ],
)
async def test_a_body_that_is_no_completion_may_pass(body: str | bytes) -> None:
    with pytest.raises(TransientError, match="not a completion"):
        await asked(saying(200, body))


@pytest.mark.parametrize(
    "quoting",
    [
        lambda said: json.dumps({"error": {"message": said}}),
        lambda said: json.dumps({"error": said}),
        lambda said: json.dumps({"choices": said}),
        lambda said: json.dumps({said: 1}),
        str,
    ],
)
@pytest.mark.parametrize("status", [200, 400])
async def test_a_secret_is_hidden_before_what_is_quoted_is_cut(
    quoting: Callable[[str], str], status: int
) -> None:
    """A password that could be a word, which is hidden in errors only."""
    secret, bodies = "ZQXWV-KZQXWV", [""]

    async def handler(http: web.Request) -> web.Response:
        return web.Response(status=status, text=bodies[0])

    async with answered_by(handler, key=secret) as model:
        for before in (*range(40, 90), *range(160, 210), *range(270, 300), *range(440, 510)):
            bodies[0] = quoting("." * before + secret + "." * 600)
            try:
                found = str(await model.complete(CHAT, 1))
            except (ModelError, TransientError) as error:
                found = str(error)
            assert "..." in found
            assert not set(secret[:5]) & set(found), found


@contextlib.asynccontextmanager
async def bare(said: bytes | None) -> AsyncIterator[str]:
    """A server that reads a request, says some bytes, and hangs up; None: it says nothing."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if said is None:
            await over.wait()
        writer.write(said or b"")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}/v1"
        over.set()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_a_connection_that_breaks_may_pass(said: bytes) -> None:
    async with bare(said) as url, HttpModel("tiny", url) as model:
        with pytest.raises(TransientError) as caught:
            await model.complete(CHAT, 5)
        assert caught.value.server == url
        assert "127" not in str(caught.value)


async def test_a_server_that_is_too_slow_may_pass() -> None:
    async with bare(None) as url, HttpModel("tiny", url, timeouts=Timeouts(total=0.05)) as model:
        with pytest.raises(TransientError, match=r"no complete reply in 0\.05 s"):
            await model.complete(CHAT, 5)


@pytest.mark.parametrize("address", ["http://", "no address at all", "http://[::1", "ftp://x/v1"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ModelError, match="not an address"):
        HttpModel("tiny", address)


# -- in a run ------------------------------------------------------------------------------


@pytest.mark.e2e
async def test_the_key_comes_from_the_environment_and_is_written_nowhere(tmp_path: Path) -> None:
    """As a header it reaches the server; in the run's directory there is not a trace of it."""
    key = "sk-very-secret-4711"
    seen: set[str] = set()
    stand_in = StandIn().app()

    @web.middleware
    async def watched(request: web.Request, handler: Handler) -> web.StreamResponse:
        seen.add(request.headers.get("Authorization", ""))
        return await handler(request)

    stand_in.middlewares.append(watched)
    out = tmp_path / "out"
    async with serving(stand_in) as url:
        sdsd = Path(sys.executable).with_name("sdsd")
        options = ("-m", "tiny", "--url", url, "--set", "models.default.api_key_env=STAND_IN_KEY")
        process = await asyncio.create_subprocess_exec(
            sdsd, "run", "-n2", "-o", out, *options, env={**os.environ, "STAND_IN_KEY": key}
        )
        assert await process.wait() == 0
    assert seen == {f"Bearer {key}"}
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if key.encode() in path.read_bytes()] == []


# -- how sure a model was ------------------------------------------------------------------


def said(*tokens: tuple[str, float, dict[str, float]]) -> dict[str, Any]:
    """A choice's logprobs, as servers write them."""
    return {
        "content": [
            {
                "token": token,
                "logprob": logprob,
                "top_logprobs": [{"token": t, "logprob": p} for t, p in others.items()],
            }
            for token, logprob, others in tokens
        ]
    }


JUDGE = Request("critic", 32, (Message("user", "Broken?"),), choices=("yes", "no"))


@pytest.mark.parametrize(
    ("logprobs", "weights"),
    [
        (
            said(
                ("VIOLATED", -0.1, {}),
                (" no", math.log(0.2), {" yes": math.log(0.6), " no": math.log(0.2)}),
                ("\n", -0.1, {"yes": -0.1}),
            ),
            {"yes": 0.75, "no": 0.25},
        ),
        # The last choice counts, whatever a reason says before it.
        (
            said(("no", -0.1, {}), ("Yes", -0.5, {"Yes": -0.5, "YES": -0.5, "x": -9})),
            {"yes": 1.0, "no": 0.0},
        ),
        (said(("no", -2.0, {"yes": -2.0})), {"yes": 0.5, "no": 0.5}),
        (said(("maybe", -0.1, {"yes": -0.1})), {}),
        (said(("no", -9999.0, {})), {}),
        ({"content": None}, {}),
        (None, {}),
    ],
)
async def test_how_likely_each_of_some_words_was(
    logprobs: dict[str, Any] | None, weights: dict[str, float]
) -> None:
    choice = {"finish_reason": "stop", "message": {"content": "x"}, "logprobs": logprobs}
    async with answered_by(saying(200, reply(choices=[choice]))) as model:
        model.capabilities = Capabilities(logprobs=True)
        answer = await model.complete(JUDGE, 5)
    assert isinstance(answer, Completion)
    assert answer.choice_probs == pytest.approx(weights)


def test_logprobs_are_asked_for_where_they_are_known_and_wanted() -> None:
    model = HttpModel("tiny", "http://localhost/v1")
    for can, request, asked in ((True, JUDGE, True), (False, JUDGE, False), (True, CHAT, False)):
        model.capabilities = Capabilities(logprobs=can)
        assert ("logprobs" in json.loads(model.encode(request, 1)[1])) == asked
