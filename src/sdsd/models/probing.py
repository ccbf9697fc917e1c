"""Find out what a server supports, by asking it for real text.

A server that takes every field is asked for a reply once. If it refuses, fields are tried one by
one; those that it does not take are left out of all requests and kept with its own words, since
that changes what it writes (`Capabilities.refused`).

Only an answer counts. A server that is loading, busy or broken is waited for as in a run: a fault
that passes never decides what a server supports. A request that fails again and again while the
server answers another one in between is not supported.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from sdsd.config import TOP_P
from sdsd.errors import Busy, Denied, ModelError, TransientError
from sdsd.models import chat_templates, metrics, replies, scoring
from sdsd.models.addresses import parse
from sdsd.models.base import Capabilities, Scoring
from sdsd.models.model_list import listing
from sdsd.models.openai_server import HttpModel
from sdsd.models.thinking import find_thinking, switch
from sdsd.models.waiting import PatientServer
from sdsd.text.chat_format import Template, cut, marked, switched
from sdsd.text.thinking import opens_thinking
from sdsd.types import Answer, Completion, Message, Refusal, Request

_TOKENS, _MANY_TOKENS = 16, 256
"""Lengths of the replies that are asked for; some servers refuse the first."""
QUESTION = (Message("user", "Name three colours of the rainbow, and one thing of each colour."),)
BEGINNING = "One, two,"
_BRIEFED = (Message("system", "Answer in one line."), *QUESTION)
ECHO = (Message("user", "Repeat these words, and nothing else: red lamp, green boat, blue chair"),)
_GIVEN = ("red lamp, green boat, blue chair", "a cold soup of nine old wheels",
          "red lamp, green boat, blue chair")  # fmt: skip
"""The reply that was asked for, another one, and the first again."""
_SHAPE = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
_SHAPED = re.compile(r"""\{\s*+(?:"a"|"?\Z)""")
"""It, or as much of it as there was room for; any other object was not held to it."""
_STOPS = ("\nUser:", "\nPerson:", "\nAssistant:")
_FIELDS = ("temperature", "seed", "stop", "top_p")
"""In the order of their worth: of two that exclude each other, the later one is left out."""
_STREAM = re.compile(r"\bstream", re.IGNORECASE)
_NO_SUCH = ("HTTP 404", "HTTP 405")
"""There is no such route or no such model, whatever the wording."""
_MAX_SLOTS = 4096
"""A reported number of slots above this is ignored."""


async def probe(
    model: HttpModel,
    *,
    outage: float = 600.0,
    note: Callable[[str], None] = lambda text: None,
    stopping: asyncio.Event | None = None,
    first_wait: float = 0.5,
) -> Capabilities:
    """Find out what the server of `model` supports; also set `model.capabilities`.

    outage      seconds without any answer after which it is given up
    note        called with one line when it has to be waited for
    stopping    once set, waiting raises `Stopped`
    first_wait  seconds; doubles with every failure

    Raises `ServerGone` if it does not answer, and `ModelError` with its own words if it refuses
    every request.
    """
    server = PatientServer(model, outage, note, stopping or asyncio.Event(), first_wait)
    return await _Probe(model, server).everything()


def left_out(can: Capabilities) -> tuple[str, ...]:
    """Return what requests to a server lack or have changed because of what it refuses."""
    changed = [f"no {field}" for field in sorted(can.refused)]
    if can.coldest:
        changed.append(f"temperature {can.coldest:g} instead of 0")
    return tuple(changed)


def quoted(can: Capabilities) -> str:
    """Return what a server said to the fields that it refuses; empty if it takes all."""
    by_words: dict[str, list[str]] = {}
    for field, words in sorted(can.refused.items()):
        by_words.setdefault(words, []).append(f"`{field}`")
    return "; ".join(f"to {' and '.join(fields)}: {said}" for said, fields in by_words.items())


class _Probe:
    """The questions put to one server. `model.capabilities` holds what is known so far."""

    def __init__(self, model: HttpModel, server: PatientServer) -> None:
        self._model, self._server = model, server

    async def everything(self) -> Capabilities:
        chat = await self._dialect()
        completions = not chat or await self._can(Request("agent", _TOKENS, prompt=BEGINNING))
        self._know(completions=completions)
        template, system = await self._seams({})
        opens = template is not None and opens_thinking(template.opening)
        if template is not None:
            template = await self._switched(template)
        elif chat:
            self._know(system=True)
            system = await self._can(Request("agent", _TOKENS, _BRIEFED))
        self._know(template=template, system=system)
        if chat:
            await self._values()
            await self._thinking(opened=opens)
            self._know(schema=await self._schema())
            await self._logprobs()
            way, noise = await self._scoring()
            self._know(scoring=way, noise=noise)
        self._know(slots=await self._slots(), metrics=await self._metrics())
        return self._model.capabilities

    def _know(self, **found: Any) -> None:
        self._model.capabilities = replace(self._model.capabilities, **found)

    @contextlib.contextmanager
    def _assuming(self, **assumed: Any) -> Iterator[None]:
        before = self._model.capabilities
        self._know(**assumed)
        try:
            yield
        finally:
            self._model.capabilities = before

    async def _ask(self, request: Request, **assumed: Any) -> Answer:
        """Return the answer to a request, written for a server with the `assumed` capabilities."""

        async def send() -> Answer:
            with self._assuming(**assumed):
                return await self._model.complete(request, 0)

        return await self._server.attempt(send)

    async def _can(self, request: Request, **assumed: Any) -> bool:
        return isinstance(await self._ask(request, **assumed), Completion)

    # -- fields ----------------------------------------------------------------------------

    async def _dialect(self) -> bool:
        """Find the request fields that the server accepts; return whether it can chat."""
        request = Request("agent", _TOKENS, QUESTION, top_p=TOP_P, stop=_STOPS)
        denied: ModelError | None = None

        async def first() -> Answer:
            nonlocal denied
            try:
                return await self._model.complete(request, 0)
            except Denied as error:
                denied = error
                return Refusal(error.cause, error.raw)
            except ModelError as error:
                denied = error
                return Refusal(str(error))
            except Busy:
                raise
            except TransientError as error:  # of one of the fields?
                with self._assuming(refused=dict.fromkeys(_FIELDS, str(error))):
                    await self._model.complete(request, 0)
                return Refusal(str(error))

        answer = await self._server.answer(first)
        if isinstance(answer, Completion):
            return True
        wording = denied is None or isinstance(denied, Denied)
        if wording and answer.cause not in _NO_SUCH and await self._reworded(request, answer):
            return True
        self._know(chat=False)
        if await self._can(Request("agent", _TOKENS, prompt=BEGINNING)):
            return False
        hints = f"{_hint(self._model.base_url, answer)}{await listing(self._model)}"
        if denied is not None:
            raise ModelError(f"{denied}{hints}")
        raise ModelError(
            f"{self._model.base_url}: refuses every request for `{self._model.name}`, however it "
            f"is worded: {_words(answer)}{hints}"
        )

    async def _reworded(self, request: Request, answer: Refusal) -> bool:
        """Find a wording for a request that was refused; return whether there is one."""
        refused = dict.fromkeys(_FIELDS, _words(answer))
        for tokens in (_TOKENS, _MANY_TOKENS):
            for key in ("max_tokens", "max_completion_tokens"):
                least = tokens if tokens > _TOKENS else 0
                found = {"length_key": key, "least_tokens": least}
                if await self._can(request, refused=refused, **found):
                    self._know(refused=refused, **found)
                    await self._fields(request)
                    return True
        return False

    async def _fields(self, request: Request) -> None:
        """Try again, one by one, the fields that were left out."""
        for field in _FIELDS:
            refused = dict(self._model.capabilities.refused)
            del refused[field]
            answer = await self._ask(request, refused=refused)
            if isinstance(answer, Refusal):
                refused[field] = _words(answer)
            self._know(refused=refused)

    async def _values(self) -> None:
        """Test the temperature 0 of critics, which some servers refuse, as they do `top_p` 1."""
        request = Request("critic", _TOKENS, QUESTION, temperature=0.0)
        answer = await self._ask(request)
        if isinstance(answer, Completion):
            return
        refused = self._model.capabilities.refused
        without = refused | {"top_p": _words(answer)}
        attempts: tuple[dict[str, Any], ...] = (
            {"coldest": 0.01},
            {"refused": without},
            {"coldest": 0.01, "refused": without},
            {"refused": without | {"temperature": _words(answer)}},
        )
        for changed in attempts:
            if await self._can(request, **changed):
                self._know(**changed)
                return

    async def _thinking(self, *, opened: bool) -> None:
        """Find out how the model thinks, and switch it as configured.

        opened  whether the chat template is known to begin the thinking
        """

        async def ask(request: Request, fields: dict[str, Any]) -> Answer:
            return await self._ask(request, thinking_fields=fields)

        found = await find_thinking(ask, self._model.thinking.mode, opened=opened)
        self._know(thinks=found.thinks, thinking_opened=found.opened, thinking_fields=found.fields)

    # -- abilities -------------------------------------------------------------------------

    async def _switched(self, plain: Template) -> Template:
        """Return the seams for an agent that thinks, or does not, as configured."""
        on = self._model.thinking.mode == "on"
        other, _ = await self._seams(switch(on=on))
        template = switched(plain, other)
        return template if on else template.closed()

    async def _seams(self, variables: Mapping[str, object]) -> tuple[Template | None, bool]:
        """Return the seams of the server's chat template, and whether it has a system turn."""
        chosen = {"chat_template_kwargs": variables} if variables else {}
        for system in (True, False):
            said = await self._post(
                "/apply-template", {"messages": marked(system=system), **chosen}
            )
            template = cut(str(said["prompt"])) if said and "prompt" in said else None
            if template is not None:
                return template, system
        if self._model.capabilities.completions:
            found = await chat_templates.from_server(self._post, self._model.name, variables)
            if found is not None:
                return found
        return None, False

    async def _post(self, path: str, asked: Mapping[str, object]) -> dict[str, object] | None:
        found = await self._server.attempt(lambda: self._model.post(path, asked))
        return None if isinstance(found, Refusal) else found

    async def _schema(self) -> bool:
        """Whether replies are held to a schema: this question is not answered by an object."""
        request = Request("critic", _TOKENS, QUESTION, temperature=0.0, schema=_SHAPE)
        answer = await self._ask(request, schema=True)
        return isinstance(answer, Completion) and bool(_SHAPED.match(answer.text.lstrip()))

    async def _logprobs(self) -> None:
        """Find out whether replies have the probabilities of enough tokens to tell a yes from a no,
        whatever the token that was sampled."""
        request = Request("critic", _TOKENS, QUESTION, temperature=0.0, choices=("yes", "no"))

        async def alternatives_of(alternatives: int) -> int | Refusal:
            with self._assuming(logprobs=True, alternatives=alternatives):
                path, body = self._model.encode(request, 0)
            reply = await self._model.client.request("POST", path, body)
            answer = self._model.decode(request, reply.status, reply.body)
            return answer if isinstance(answer, Refusal) else replies.alternatives(reply.body)

        most = self._model.capabilities.alternatives
        for alternatives in (most, 2):
            found = await self._server.attempt(partial(alternatives_of, alternatives))
            if isinstance(found, int):
                self._know(logprobs=found > 1, alternatives=alternatives if found > 1 else most)
                return

    async def _scoring(self) -> tuple[Scoring, float]:
        """Find the way to score given text, with a pair of replies whose order is known; return it
        with the difference between two tries."""
        for way in scoring.WAYS:
            found: list[float] = []
            for text in _GIVEN:
                answer = await self._ask(Request("agent", 1, ECHO, given=text), scoring=way)
                if not isinstance(answer, Completion) or answer.logprob is None:
                    break
                found.append(answer.logprob)
            else:
                asked, other, again = found
                if asked > other:
                    return way, round(abs(asked - again), 4)
        return "", 0.0

    async def _slots(self) -> int:
        """Return the server's number of slots (`/props`); 0 if it does not report it."""
        body = await self._server.attempt(lambda: self._model.get("/props", root=True))
        try:
            slots = msgspec.json.decode(body)["total_slots"] if isinstance(body, bytes) else 0
        except (ValueError, KeyError, TypeError):
            return 0
        return slots if isinstance(slots, int) and 0 < slots < _MAX_SLOTS else 0

    async def _metrics(self) -> bool:
        body = await self._server.attempt(lambda: self._model.get("/metrics", root=True))
        return isinstance(body, bytes) and metrics.gauges(body) is not None


def _hint(base_url: str, refusal: Refusal) -> str:
    """Return what may help where everything is refused."""
    address = urlsplit(base_url)
    if refusal.cause == "HTTP 404" and not address.path.strip("/"):
        right = f": {parse(base_url).shown.rstrip('/')}/v1" if not address.query else ""
        return f"; with most servers, `base_url` ends in /v1{right}"
    if _STREAM.search(refusal.raw):
        return "; if it wants to stream, set `extra_body: {stream: true}`: streams are read, too"
    return ""


def _words(refusal: Answer) -> str:
    """Return a refusal in the server's own words."""
    assert isinstance(refusal, Refusal)
    return (
        " ".join(f"{refusal.cause}: {refusal.raw}".split())[:300] if refusal.raw else refusal.cause
    )
