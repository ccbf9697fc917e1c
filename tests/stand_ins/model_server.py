"""A stand-in for a model server: OpenAI's routes over a real socket, answered by a script.

    python -m tests.stand_ins.model_server --port 0 --log FILE [--latency SECONDS]

Every reply is a function of the request's text and its seed alone, so two runs that ask the same
get the same, whoever asks first. Prints its base URL when it listens. What happens is appended to
the log, one JSON line for each request `asked` and each reply `sent`, so that counts survive the
death of either side; a request's `X-Life` header is noted, which says who asked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from sdsd.models import thinking
from sdsd.models.base import Capabilities
from sdsd.models.probing import BEGINNING, ECHO, QUESTION
from sdsd.models.scripted import ScriptedModel
from sdsd.pipeline.prompts import load_prompt
from sdsd.runs.retries import harmless
from sdsd.types import Completion, Message, Purpose, Request, Role


class Line(Struct, frozen=True):
    """One line of the log."""

    event: Literal["asked", "sent"]
    number: int
    seed: int
    life: str
    probe: bool
    """A request that only asks what the server can do."""


def read_log(path: Path) -> list[Line]:
    """Every whole line so far."""
    data = path.read_bytes() if path.exists() else b""
    return [msgspec.json.decode(line, type=Line) for line in data.split(b"\n")[:-1]]


def asked_for(messages: tuple[Message, ...], prompt: str) -> tuple[Role, Purpose]:
    """Who is being asked for what, recognised by the packaged prompts; the wire does not say."""
    first, last = (messages[0].content, messages[-1].content) if messages else (prompt, prompt)
    review = load_prompt("review").sections
    plan = load_prompt("plan").sections
    if first.startswith((plan["system"], plan["lead_up_system"])):
        return "planner", "plan"
    if first.startswith(load_prompt("stake").sections["system"].partition("{{")[0]):
        return "planner", "last_message"
    if first.startswith(review["system"]) or (messages and last.startswith(review["aside"])):
        if review["revise"].partition("{{")[0] in last:
            return "reviser", "revision"
        return "critic", "adherence" if "its number, a colon, yes" in last[-80:] else "verdict"
    if "\nOVER: yes or no]" in last[-400:]:
        return "agent", "self_check"
    return "agent", "transcript" if "USER turns and" in last else "agent_turn"


def is_probe(messages: tuple[Message, ...], prompt: str) -> bool:
    """Whether a request only asks what the server can do, by its text."""
    questions = (*QUESTION, *ECHO, *thinking.QUESTION, *harmless(Capabilities()).messages)
    return prompt == BEGINNING or messages[-1:] in [(question,) for question in questions]


def chatml(messages: Iterable[Message]) -> str:
    """The messages in the ChatML format, opened for the assistant."""
    turns = (f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    return "".join(turns) + "<|im_start|>assistant\n"


class _Chat(Struct):
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    max_tokens: int = 16
    seed: int = 0
    response_format: dict[str, Any] | None = None


class StandIn:
    """The server's routes, and what it has been asked."""

    def __init__(self, log: Path | None = None, latency: float = 0.0) -> None:
        self.requests: list[dict[str, Any]] = []
        """Bodies of all requests for completions, when there is no log."""
        self._latency = latency
        self._model = ScriptedModel()
        self._numbers = itertools.count()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._log = os.open(log, flags, 0o644) if log else None

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/apply-template", self._template)
        app.router.add_get("/v1/models", self._models)
        return app

    def _note(
        self, event: Literal["asked", "sent"], number: int, life: str, seed: int, *, probe: bool
    ) -> None:
        if self._log is not None:
            line = Line(event, number, seed, life, probe)
            os.write(self._log, msgspec.json.encode(line) + b"\n")

    async def _complete(self, http: web.Request) -> web.Response:
        body = await http.read()
        chat = msgspec.json.decode(body, type=_Chat)
        number, life = next(self._numbers), http.headers.get("X-Life", "")
        probe = is_probe(chat.messages, chat.prompt)
        self._note("asked", number, life, chat.seed, probe=probe)
        if self._log is None:
            self.requests.append(msgspec.json.decode(body))
        if self._latency and not probe:  # from half of it to one and a half, by seed
            await asyncio.sleep(self._latency * (0.5 + chat.seed % 101 / 100))
        role, purpose = asked_for(chat.messages, chat.prompt)
        request = Request(
            role, chat.max_tokens, messages=chat.messages, prompt=chat.prompt, purpose=purpose
        )
        done = await self._model.complete(request, chat.seed)
        assert isinstance(done, Completion)
        text = done.text
        if chat.response_format and probe:
            text = '{"a": true}'
        words: dict[str, Any] = {"finish_reason": "stop", "index": 0}
        if chat.messages:
            words["message"] = {"role": "assistant", "content": text}
        else:
            words["text"] = text
        usage = {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": done.prompt_tokens // 2},
        }
        reply = {"id": str(number), "model": "stand-in", "choices": [words], "usage": usage}
        reply = self._worded(reply, body)
        response = web.Response(body=msgspec.json.encode(reply), content_type="application/json")
        with contextlib.suppress(ConnectionError):  # whoever asked is dead
            await response.prepare(http)
            await response.write_eof()
            self._note("sent", number, life, chat.seed, probe=probe)
        return response

    def _worded(self, reply: dict[str, Any], asked: bytes) -> dict[str, Any]:
        """The reply as this server words it."""
        return reply

    async def _template(self, http: web.Request) -> web.Response:
        chat = msgspec.json.decode(await http.read(), type=_Chat)
        return web.json_response({"prompt": chatml(chat.messages)})

    async def _models(self, http: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stand-in", "object": "model"}]})


@contextlib.asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serve on loopback; yields the base URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        host, bound = runner.addresses[0][:2]
        yield f"http://{host}:{bound}/v1"
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def spawned(log: Path | None = None, latency: float = 0.0) -> Iterator[str]:
    """This file in a process of its own; yields the base URL."""
    command = [sys.executable, __file__, "--latency", str(latency)]
    command += [] if log is None else ["--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def _main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server without a model.")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--log", type=Path, help="one line for each request and each reply")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds, about, per reply")
    given = parser.parse_args()
    async with serving(StandIn(given.log, given.latency).app(), given.port) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
