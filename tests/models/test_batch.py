"""The batch transport against a provider on loopback: batches, results, and nothing paid twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

import sdsd
from sdsd.errors import Denied, JournalError, ModelError, Stopped, TransientError
from sdsd.models import statuses
from sdsd.models.base import Capabilities
from sdsd.models.batch import BatchModel
from sdsd.models.batch_api import (
    BatchState,
    Limits,
    Sleep,
    Transport,
    custom_id,
    multipart,
)
from sdsd.models.batch_lines import parse_line
from sdsd.models.http_connection import Reply
from sdsd.models.openai_server import HttpModel
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.events import Called, Event
from sdsd.types import Answer, Completion, Message, Record, Refusal, Request
from tests.stand_ins.batch_provider import Batch, BatchStandIn
from tests.stand_ins.model_server import serving

CAN = Capabilities(schema=True)
CHAT = Request("agent", 32, (Message("system", "Be brief."), Message("user", "Hello?")))
RAW = Request("agent", 32, prompt="Once upon")


# -- the pieces that HttpModel offers ------------------------------------------------------


class Wire:
    """A transport over aiohttp's client; a session for each request, so any loop may use it."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> Reply:
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self._base_url + path, data=body or None, headers=headers
            ) as reply,
        ):
            return Reply(reply.status, await reply.read(), [])


class Online:
    """The model that the batches are of."""

    def __init__(self, name: str = "tiny") -> None:
        self.name, self.capabilities = name, CAN

    def encode(self, request: Request, seed: int) -> tuple[str, bytes]:
        return encode(request, seed)

    def decode(self, request: Request, status: int, body: bytes) -> Answer:
        return decode(request, status, body)


def encode(request: Request, seed: int) -> tuple[str, bytes]:
    body: dict[str, Any] = {"model": "tiny", "max_tokens": request.max_tokens, "seed": seed}
    if request.messages:
        return "/chat/completions", msgspec.json.encode(body | {"messages": request.messages})
    return "/completions", msgspec.json.encode(body | {"prompt": request.prompt})


def decode(request: Request, status: int, body: bytes) -> Answer:
    if status == 400:
        return Refusal(f"HTTP {status}", body.decode())
    if status != 200:
        return statuses.refused(status, body, where="http://a", model="tiny")
    try:
        reply = json.loads(body)
        choice, usage = reply["choices"][0], reply["usage"]
    except (ValueError, LookupError, TypeError) as error:
        raise TransientError(f"not a completion: {error!r}") from None
    return Completion(
        text=choice["message"]["content"] if request.messages else choice["text"],
        model=reply["model"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )


def named(seed: int, request: Request = CHAT, dialogue: int = 0) -> str:
    """The `custom_id` that a request goes by."""
    return custom_id(dialogue, seed, encode(request, seed)[1])


# -- time, places and lives ----------------------------------------------------------------


class Time:
    """A clock that only sleeping moves, and sleep that takes no time."""

    def __init__(self) -> None:
        self.now = 1e9
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        await asyncio.sleep(0.001)

    def clock(self) -> float:
        return self.now


class Place:
    """A provider, and a directory of state that lives come and go over."""

    def __init__(self, provider: BatchStandIn, url: str, state: Path) -> None:
        self.provider = provider
        self.url = url
        self.state = state
        self.notes: list[str] = []
        self.time = Time()
        self.models: list[BatchModel] = []

    def model(
        self, *, wire: Transport | None = None, sleep: Sleep | None = None, **limits: Any
    ) -> BatchModel:
        """A new life over the state that is there."""
        model = BatchModel(
            Online(),
            wire or Wire(self.url),
            state=self.state,
            run="run-1",
            note=self.notes.append,
            limits=Limits(**limits),
            sleep=sleep or self.time.sleep,
            clock=self.time.clock,
        )
        self.models.append(model)
        return model

    @property
    def batches_sent(self) -> list[list[str]]:
        """By batch, the ids of its requests."""
        return [[line.custom_id for line in b.asked] for b in self.provider.batches.values()]

    @property
    def noted(self) -> list[BatchState]:
        """The files of state."""
        files = sorted(self.state.glob("batch-*.json"))
        return [msgspec.json.decode(file.read_bytes(), type=BatchState) for file in files]

    def only(self) -> Batch:
        """The one batch there is."""
        (batch,) = self.provider.batches.values()
        return batch


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    provider = BatchStandIn()
    async with serving(provider.app()) as url:
        place = Place(provider, url, tmp_path / "state")
        yield place
        for model in place.models:
            await model.close()


async def asked(model: BatchModel, *seeds: int, request: Request = CHAT) -> list[Answer]:
    """Answers to one request with each seed, asked at once; dialogue k asks with the k-th."""
    calls = (model.complete(request, seed, k) for k, seed in enumerate(seeds))
    return list(await asyncio.gather(*calls))


async def truth(seed: int, request: Request = CHAT) -> str:
    answer = await ScriptedModel().complete(request, seed)
    assert isinstance(answer, Completion)
    return answer.text


async def insist(model: BatchModel, seed: int, dialogue: int, tries: int = 5) -> Answer:
    """As the retry skin asks."""
    for _ in range(tries):
        with contextlib.suppress(TransientError):
            return await model.complete(CHAT, seed, dialogue)
    raise AssertionError("no answer")


async def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    for _ in range(2500):
        if true():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come true in 5 s")


# -- batches -------------------------------------------------------------------------------


async def test_requests_at_once_are_one_batch_and_each_gets_its_own_answer(place: Place) -> None:
    answers = await asked(place.model(), *range(20))
    for seed, answer in enumerate(answers):
        assert isinstance(answer, Completion)
        assert answer.text == await truth(seed)
        assert answer.completion_tokens == len(answer.text) // 4 + 1
        assert answer.prompt_tokens > 0
        assert answer.model == "stand-in"
    assert sorted(map(sorted, place.batches_sent)) == [
        sorted(named(s, dialogue=s) for s in range(20))
    ]
    batch = place.only()
    assert batch.endpoint == "/v1/chat/completions"
    assert batch.metadata["sdsd_run"] == "run-1"
    assert batch.asked[0].body["messages"][0] == {"role": "system", "content": "Be brief."}


async def test_chats_and_raw_prompts_go_into_batches_of_their_own(place: Place) -> None:
    model = place.model()
    chat, raw = await asyncio.gather(model.complete(CHAT, 1), model.complete(RAW, 1))
    assert isinstance(chat, Completion)
    assert isinstance(raw, Completion)
    assert raw.text == await truth(1, RAW)
    endpoints = {batch.endpoint for batch in place.provider.batches.values()}
    assert endpoints == {"/v1/chat/completions", "/v1/completions"}


async def test_a_request_that_comes_in_time_joins_the_batch_and_a_late_one_does_not(
    place: Place,
) -> None:
    opened = [asyncio.Event() for _ in range(3)]
    gaps = iter(opened)

    async def sleep(seconds: float) -> None:
        await (next(gaps).wait() if seconds == 2 else asyncio.sleep(0))

    model = place.model(gather=2, sleep=sleep)
    first = asyncio.create_task(model.complete(CHAT, 1))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(model.complete(CHAT, 2))
    await asyncio.sleep(0.01)
    opened[0].set()  # something new has come: the batch stays open
    await asyncio.sleep(0.01)
    assert not place.provider.files
    opened[1].set()  # nothing new: it is sent
    await asyncio.gather(first, second)
    opened[2].set()
    await model.complete(CHAT, 3)
    assert [sorted(names) for names in place.batches_sent] == [
        sorted([named(1), named(2)]),
        [named(3)],
    ]


async def test_a_batch_holds_so_many_requests(place: Place) -> None:
    await asked(place.model(max_requests=4), *range(10))
    assert sorted(map(len, place.batches_sent)) == [2, 4, 4]


async def test_a_batch_holds_so_many_bytes_and_a_longer_request_goes_alone(place: Place) -> None:
    model = place.model(max_bytes=700)
    long = Request("agent", 32, (Message("user", "x" * 900),))
    calls = [model.complete(CHAT, seed) for seed in range(6)]
    await asyncio.gather(*calls, model.complete(long, 9))
    uploads = [place.provider.files[b.input_file_id] for b in place.provider.batches.values()]
    assert all(len(data) <= 700 or data.count(b"\n") == 1 for data in uploads)
    assert sorted(data.count(b"\n") for data in uploads) == [1, 3, 3]


async def test_several_batches_are_under_way_at_once(place: Place) -> None:
    place.provider.polls = 0
    model = place.model()
    early = asyncio.create_task(model.complete(CHAT, 1))
    await until(lambda: len(place.provider.batches) == 1)
    late = asyncio.create_task(model.complete(CHAT, 2))
    await until(lambda: len(place.provider.batches) == 2)
    first, second = place.provider.batches.values()
    await place.provider.end(second)
    await late
    assert not early.done()
    await place.provider.end(first)
    await early


async def test_the_same_request_asked_twice_at_once_is_sent_once(place: Place) -> None:
    model = place.model()
    one, two = await asyncio.gather(model.complete(CHAT, 1), model.complete(CHAT, 1))
    assert one == two
    assert place.batches_sent == [[named(1)]]


def test_an_id_is_that_of_the_step_and_fits_the_provider() -> None:
    assert named(5) == named(5)
    assert len({named(5), named(6), named(5, RAW), named(5, dialogue=1)}) == 4
    assert len(custom_id(10**9, 2**31 - 1, b"{}")) <= 64


def test_the_boundary_of_an_upload_does_not_occur_in_it() -> None:
    _, plain = multipart([b"{}\n"])
    boundary = plain.splitlines()[0].removeprefix(b"--")
    kind, body = multipart([b"--" + boundary + b"\n", b"{}\n"])
    assert not kind.endswith(boundary.decode())
    assert body.count(kind.partition("=")[2].encode()) == 3


# -- what a line says ----------------------------------------------------------------------


async def test_a_line_with_a_judgement_is_a_refusal(place: Place) -> None:
    bad = named(1, dialogue=1)
    place.provider.fault = lambda name: (400, {"error": "too long"}) if name == bad else None
    fine, refused = await asked(place.model(), 0, 1)
    assert isinstance(fine, Completion)
    assert refused == Refusal("HTTP 400", '{"error":"too long"}')


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_line_that_failed_is_asked_again_in_a_later_batch(
    place: Place, status: int
) -> None:
    bad = {named(1, dialogue=1)}
    place.provider.fault = lambda name: (status, {}) if name in bad else None
    model = place.model()
    fine, faulty = await asyncio.gather(
        *(model.complete(CHAT, k, k) for k in range(2)), return_exceptions=True
    )
    assert isinstance(fine, Completion)
    assert isinstance(faulty, TransientError)
    bad.clear()
    assert isinstance(await model.complete(CHAT, 1, 1), Completion)
    assert place.batches_sent[1:] == [[named(1, dialogue=1)]]


async def test_a_line_that_concerns_every_request_is_a_model_error(place: Place) -> None:
    place.provider.fault = lambda name: (401, {})
    with pytest.raises(ModelError, match="401"):
        await place.model().complete(CHAT, 1)


async def test_what_an_expired_batch_did_not_do_is_asked_again(place: Place) -> None:
    place.provider.expires_after = 3
    model = place.model()
    answers = await asyncio.gather(*(insist(model, k, k) for k in range(8)))
    assert [a.text for a in answers if isinstance(a, Completion)] == [
        await truth(k) for k in range(8)
    ]
    assert [len(names) for names in place.batches_sent] == [8, 5]
    assert not place.provider.twice
    assert len(place.provider.processed) == 8


async def test_a_cancelled_batch_is_a_fault_that_may_pass(place: Place) -> None:
    place.provider.polls = 0
    model = place.model()
    call = asyncio.create_task(model.complete(CHAT, 1))
    await until(lambda: bool(place.provider.batches))
    await Wire(place.url).request("POST", f"/batches/{place.only().id}/cancel")
    with pytest.raises(TransientError, match="batch 1, cancelled: batch_cancelled"):
        await call


async def test_a_request_without_a_line_is_a_fault_that_may_pass(place: Place) -> None:
    place.provider.polls = 0
    model = place.model()
    calls = asyncio.gather(model.complete(CHAT, 1), model.complete(CHAT, 2), return_exceptions=True)
    await until(lambda: bool(place.provider.batches))
    batch = place.only()
    batch.asked = [line for line in batch.asked if line.custom_id == named(1)]
    await place.provider.end(batch)
    there, missing = await calls
    assert isinstance(there, Completion)
    assert isinstance(missing, TransientError)
    assert "no line" in str(missing)


# -- a line that never has an answer -------------------------------------------------------


def spoiling(place: Place, name: str, body: object, status: int = 200) -> None:
    """Let the line `name` come back like this, always."""
    place.provider.fault = lambda asked: (status, body) if asked == name else None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"choices": []}), (200, "never JSON"), (200, None), (500, {"error": "x"}), (404, {}),
        (200, {}), (200, 5), (200, ""), (200, "<html><title>Bad gateway</title></html>"), (204, {}),
    ],
)  # fmt: skip
async def test_a_line_is_bought_three_times_at_most_and_then_denied_with_its_cause(
    place: Place, status: int, body: object
) -> None:
    spoiling(place, bad := named(1, dialogue=1), body, status)
    model = place.model()
    fine, _ = await asyncio.gather(*(model.complete(CHAT, k, k) for k in range(2)),
                                   return_exceptions=True)  # fmt: skip
    assert isinstance(fine, Completion)
    with pytest.raises(TransientError):
        await model.complete(CHAT, 1, 1)
    with pytest.raises(Denied, match="no answer in 3 batches, last: ") as caught:
        await model.complete(CHAT, 1, 1)
    assert caught.value.kind == "unanswered"
    assert caught.value.raw
    assert sum(bad in names for names in place.batches_sent) == 3


async def test_no_start_buys_it_again(place: Place) -> None:
    """Each life dies after one failure; the files remember the earlier ones, and the last one."""
    spoiling(place, bad := named(1), {"choices": []})
    for _ in range(2):
        with pytest.raises(TransientError):
            await place.model().complete(CHAT, 1)
        life = place.model()  # reads the same failure again, for nothing
        with pytest.raises(TransientError):
            await life.complete(CHAT, 1)
        with pytest.raises((TransientError, Denied)):
            await life.complete(CHAT, 1)
    for _ in range(3):
        with pytest.raises(Denied):
            await place.model().complete(CHAT, 1)
    assert place.batches_sent == [[bad]] * 3


class Dying(Wire):
    """A transport whose process dies before the first request to a route."""

    def __init__(self, base_url: str, route: str) -> None:
        super().__init__(base_url)
        self._route = route

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> Reply:
        if (method, path) == ("POST", self._route):
            raise ConnectionAbortedError
        return await super().request(method, path, body, headers)


async def lived(model: BatchModel, calls: int = 3) -> bool:
    """Ask for dialogue 1 as often as a life does; return whether it was given up."""
    async with model:
        for _ in range(calls):
            try:
                await model.complete(CHAT, 1, 1)
            except Denied:
                return True
            except TransientError:
                continue
            except (ModelError, ConnectionAbortedError):
                break
    return False


@pytest.mark.parametrize(
    "accident",
    ["killed before the upload", "killed before the batch", "refused", "invalid", "expired"],
)
@pytest.mark.parametrize("others", [0, 2])
async def test_no_accident_between_two_lives_makes_it_bought_more_often(
    place: Place, accident: str, others: int
) -> None:
    """A batch that never was, or that the provider did not take, takes no count with it."""
    bad = named(1, dialogue=1)
    spoiling(place, bad, {"choices": []})
    async with place.model() as first:
        seeds = (0, 1, 2) if others else (1,)
        calls = (first.complete(CHAT, seed, seed) for seed in seeds)
        await asyncio.gather(*calls, return_exceptions=True)
        for seed in (0, 2):
            first.recorded(CHAT, seed, seed)
    given_up = False
    for _ in range(6):
        limits: dict[str, Any] = {}
        if accident == "refused":
            limits = {"window": "1h"}
        elif accident.startswith("killed"):
            route = "/files" if accident.endswith("upload") else "/batches"
            limits = {"wire": Dying(place.url, route), "settle": 1}
        elif accident == "invalid":
            place.provider.refusal = [{"code": "quota", "message": "too many tokens"}]
        else:
            place.provider.expires_after = 0
        assert not await lived(place.model(**limits), calls=2)
        place.provider.refusal, place.provider.expires_after = [], None
        if given_up := await lived(place.model(), calls=2):
            break
    assert given_up
    bought = [b for b in place.provider.batches.values() if b.status == "completed"]
    assert sum(line.custom_id == bad for b in bought for line in b.asked) == 3


async def test_what_an_expired_batch_did_counts_as_bought(place: Place) -> None:
    """Its line came in time, and cannot be read."""
    spoiling(place, named(1, dialogue=1), {"choices": []})
    model = place.model()
    for _ in range(2):
        place.provider.expires_after = 1
        with pytest.raises(TransientError):
            await model.complete(CHAT, 1, 1)
    place.provider.expires_after = 1
    with pytest.raises(Denied, match="no answer in 3 batches"):
        await model.complete(CHAT, 1, 1)


async def test_once_its_failure_is_recorded_its_batch_is_forgotten(place: Place) -> None:
    spoiling(place, named(1), {"choices": []})
    model = place.model()
    for _ in range(2):
        with pytest.raises(TransientError):
            await model.complete(CHAT, 1)
    with pytest.raises(Denied):
        await model.complete(CHAT, 1)
    assert len(list(place.state.iterdir())) == 2  # the batch, and how often it has failed
    model.recorded(CHAT, 1)
    assert not any(place.state.iterdir())


async def test_a_provider_that_answers_nothing_stops_the_run(place: Place) -> None:
    """Three batches of several requests: nothing is held against the requests themselves."""
    place.provider.fault = lambda name: (500, {"error": "out of order"})
    model = place.model()
    for _ in range(2):
        calls = (model.complete(CHAT, k, k) for k in range(2))
        faults = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(fault) for fault in faults} == {TransientError}
    calls = (model.complete(CHAT, k, k) for k in range(2))
    for fault in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(fault, ModelError)
        assert "3 batches in a row ended without any answer" in str(fault)
        assert "out of order" in str(fault)


BODY = {"choices": [{"message": {"content": "Hi."}}], "model": "m",
        "usage": {"prompt_tokens": 1, "completion_tokens": 1}}  # fmt: skip


async def test_a_body_in_a_string_is_read(place: Place) -> None:
    spoiling(place, named(1), json.dumps(BODY))
    answer = await place.model().complete(CHAT, 1)
    assert isinstance(answer, Completion)
    assert answer.text == "Hi."


@pytest.mark.parametrize("body", [[BODY], json.dumps(BODY), json.dumps(json.dumps(BODY))])
async def test_a_body_is_read_as_the_body_of_a_reply_is(body: object) -> None:
    line = parse_line(msgspec.json.encode({"custom_id": "a", "response": {"body": body}}))
    async with HttpModel("m", "http://h/v1") as model:
        assert line.response is not None
        answer = model.decode(CHAT, line.response.status_code, line.response.content)
    assert isinstance(answer, Completion)
    assert answer.text == "Hi."


SAID = json.dumps(BODY).encode()


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (b'{"status_code": "200", "body": %b}', 200),
        (b'{"status_code": "201 Created", "body": %b}', 201),
        (b'{"status_code": null, "body": %b}', 200),
        (b'{"body": %b}', 200),
        (b"%b", 200),  # the reply itself
        (b'{"status_code": 200, "body": \0%b}', 200),
        (b'{"status_code": 503, "body": %b}', 503),
    ],
)
def test_responses_of_other_providers_are_read(response: bytes, status: int) -> None:
    for text in (response % SAID, json.dumps((response % SAID).decode()).encode()):
        found = parse_line(b'{"custom_id": "a", "response": %b}' % text)
        assert found.response is not None
        assert found.response.status_code == status
        assert json.loads(found.response.content) == BODY


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"custom_id": "a", "error": "no such model"}', "no such model"),
        (b'{"custom_id": "a", "error": {"code": 7, "message": "no"}}', "7: no"),
        (b'{"custom_id": "a", "error": {"code": [7]}}', '{"code": [7]}'),
        (b'{"custom_id": "a", "error": ["no"]}', '["no"]'),
        (b'{"custom_id": "a", "response": {"body": null}, "error": {"message": "no"}}', "None: no"),
        (b'{"custom_id": "a", "response": {"status_code": 2', "its line cannot be read: "),
    ],
)
def test_faults_of_other_providers_are_read(line: bytes, fault: str) -> None:
    found = parse_line(line)
    assert not found.answered
    assert found.fault.startswith(fault)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\n \n"),
        lambda data: b"[" + data.strip().replace(b"\n", b",\n") + b"]",
        lambda data: data.replace(b"{", b"\0\0{", 1),
        lambda data: data.replace(b'"stand-in"', b'"a\0b\x01"'),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "list", "zero bytes", "control characters"],
)
async def test_a_result_file_is_read_as_it_comes(
    place: Place, rewrite: Callable[[bytes], bytes]
) -> None:
    place.provider.rewrite = rewrite
    for seed, answer in enumerate(await asked(place.model(), 0, 1, 2)):
        assert isinstance(answer, Completion)
        assert answer.text == await truth(seed)
    assert len(place.provider.batches) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"<html><title>Log in</title></html>",
        b'{"error": {"message": "file not ready"}}',
        b'{"id": "1", "response": {"body": {}}}\n',
        b"\x1f\x8b\x08cut",
    ],
)
async def test_what_is_no_result_file_has_nothing_bought_again(
    place: Place, content: bytes
) -> None:
    place.provider.rewrite = lambda data: content
    with pytest.raises(ModelError, match=r"unexpected reply: .*run the same command again"):
        await place.model(retries=2).complete(CHAT, 1)
    place.provider.rewrite = lambda data: data
    assert isinstance(await place.model().complete(CHAT, 1), Completion)
    assert len(place.provider.batches) == 1


async def test_a_line_that_breaks_off_is_quoted_when_it_is_given_up(place: Place) -> None:
    place.provider.rewrite = lambda data: data[: len(data) // 3]
    model = place.model()
    for _ in range(2):
        with pytest.raises(TransientError, match="its line cannot be read: "):
            await model.complete(CHAT, 1)
    with pytest.raises(Denied, match=rf"in 3 batches, .*cannot be read: .*{named(1)}"):
        await model.complete(CHAT, 1)
    assert place.batches_sent == [[named(1)]] * 3


async def test_lines_that_nobody_asked_for_are_left_out_with_a_note(place: Place) -> None:
    reply = {"status_code": 200, "body": {"choices": [{"message": {"content": "forged"}}]}}
    place.provider.extra = [
        msgspec.json.encode({"custom_id": "0-99-abc", "response": reply}),
        b"not JSON",
        b"[" * 100_000,
        b'{"custom_id": 7}',
        b"\xff\xfe",
    ]
    answer = await place.model().complete(CHAT, 1)
    assert isinstance(answer, Completion)
    assert answer.text == await truth(1)
    assert any("5 lines of the result ignored" in note for note in place.notes)


async def test_of_two_lines_for_one_request_the_first_counts(place: Place) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    body = {"model": "x", "choices": [{"message": {"content": "first"}}], "usage": usage}
    line = {"custom_id": named(1), "response": {"status_code": 200, "body": body}}
    place.provider.extra = [msgspec.json.encode(line)]
    answer = await place.model().complete(CHAT, 1)
    assert isinstance(answer, Completion)
    assert answer.text == "first"
    assert any("1 lines of the result ignored" in note for note in place.notes)


@pytest.mark.parametrize("rest", [{"error": {"code": "x"}}, {"response": {"status_code": 500}}])
async def test_of_two_lines_the_one_with_an_answer_counts(
    place: Place, rest: dict[str, Any]
) -> None:
    place.provider.extra = [msgspec.json.encode({"custom_id": named(1), **rest})]
    answer = await place.model().complete(CHAT, 1)
    assert isinstance(answer, Completion)
    assert answer.text == await truth(1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (rb'"cut \ud83d"', "cut \ufffd"),
        (rb'"\udc4b alone"', "\ufffd alone"),
        (rb'"pair \ud83d\udc4b"', "pair 👋"),
    ],
)
async def test_text_that_was_cut_inside_a_character_is_read(
    place: Place, content: bytes, text: str
) -> None:
    usage = b'"usage": {"prompt_tokens": 1, "completion_tokens": 1}'
    body = b'{"model": "x", "choices": [{"message": {"content": %b}}], %b}' % (content, usage)
    line = b'{"custom_id": "%b", "response": {"status_code": 200, "body": %b}}'
    place.provider.extra = [line % (named(1).encode(), body)]
    answer = await place.model().complete(CHAT, 1)
    assert isinstance(answer, Completion)
    assert answer.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") == text


async def test_a_batch_that_fails_validation_names_the_errors(place: Place) -> None:
    place.provider.refusal = [
        {"code": "token_limit_exceeded", "message": f"too much {k}", "line": k} for k in range(1, 6)
    ]
    model = place.model()
    failures = await asyncio.gather(
        *(model.complete(CHAT, k, k) for k in range(3)), return_exceptions=True
    )
    for failure in failures:
        assert isinstance(failure, ModelError)
        assert "token_limit_exceeded: too much 1 (line 1)" in str(failure)
        assert "and 2 more" in str(failure)
    assert not place.noted  # nothing was made: the next start begins anew
    assert isinstance(await place.model().complete(CHAT, 1), Completion)


@pytest.mark.parametrize(
    "worded",
    [
        lambda shown: shown | {"status": shown["status"].upper()},
        lambda shown: shown | {"status": shown["status"].replace("completed", "succeeded")},
        lambda shown: shown | {"request_counts": {"total": None, "completed": "3"}},
        lambda shown: shown | {"errors": []},
    ],
)
async def test_batches_are_worded_in_other_ways(
    place: Place, worded: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    place.provider.worded = worded
    assert isinstance(await place.model().complete(CHAT, 1), Completion)


async def test_errors_of_a_whole_batch_may_be_a_plain_list(place: Place) -> None:
    place.provider.refusal = [{"code": "quota", "message": "too many tokens"}]
    place.provider.worded = lambda shown: shown | {"errors": shown["errors"]["data"]}
    with pytest.raises(ModelError, match="refused it: quota: too many tokens"):
        await place.model().complete(CHAT, 1)


async def test_answers_whose_file_is_not_named_are_waited_for_and_not_bought_again(
    place: Place,
) -> None:
    """The list of files may lag behind the status; one that never comes ends the run."""

    def late(shown: dict[str, Any]) -> dict[str, Any]:
        return shown | ({"output_file_id": None} if place.only().looks < most else {})

    most, place.provider.worded = 5, late
    assert isinstance(await place.model().complete(CHAT, 1), Completion)
    most = 1_000
    with pytest.raises(ModelError, match=r"1 requests are answered, but .* names no file"):
        await place.model().complete(CHAT, 1)
    most = 0
    assert isinstance(await place.model().complete(CHAT, 1), Completion)
    assert len(place.provider.batches) == 1


# -- the provider's faults -----------------------------------------------------------------


async def test_faults_of_the_provider_are_waited_out(place: Place) -> None:
    place.provider.statuses = [503, 429, 500]
    assert isinstance(await place.model().complete(CHAT, 1), Completion)
    assert place.time.slept[1:4] == [1, 2, 4]  # after the batch was gathered
    assert len(place.provider.batches) == 1


async def test_a_provider_that_does_not_come_back_ends_the_run_and_keeps_the_state(
    place: Place,
) -> None:
    place.provider.polls = 0
    model = place.model(retries=2)
    call = asyncio.create_task(model.complete(CHAT, 1))
    await until(lambda: bool(place.noted and place.noted[0].batch_id))
    place.provider.statuses = [500] * 1000
    with pytest.raises(ModelError, match=r"3 tries.*HTTP 500.*run the same command again"):
        await call
    place.provider.statuses.clear()
    place.provider.polls = 1
    assert isinstance(await place.model().complete(CHAT, 1), Completion)
    assert not place.provider.twice


async def test_a_key_that_is_refused_is_named_with_the_remedy(place: Place) -> None:
    place.provider.statuses = [401]
    with pytest.raises(ModelError, match=r"POST /files: HTTP 401.*check `base_url` and the key"):
        await place.model().complete(CHAT, 1)


async def test_a_batch_whose_creation_was_answered_with_a_fault_is_not_made_again(
    place: Place,
) -> None:
    place.provider.lose_created = 1
    place.provider.hidden = 3  # and the list lags behind
    assert isinstance(await place.model().complete(CHAT, 1), Completion)
    assert len(place.provider.batches) == 1


async def test_a_batch_that_does_not_show_up_is_made_again(place: Place) -> None:
    class Deaf(Wire):
        """The first creation never arrives."""

        lost = False

        async def request(
            self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
        ) -> Reply:
            if (method, path) == ("POST", "/batches") and not self.lost:
                self.lost = True
                raise TransientError("reset")
            return await super().request(method, path, body, headers)

    model = place.model(wire=Deaf(place.url), settle=60)
    assert isinstance(await model.complete(CHAT, 1), Completion)
    assert sum(s for s in place.time.slept if s == 5) == 60
    assert len(place.provider.batches) == 1


async def test_a_creation_that_is_refused_leaves_nothing_behind(place: Place) -> None:
    model = place.model(window="1h")  # the provider takes 24h only
    with pytest.raises(ModelError, match="POST /batches: HTTP 400"):
        await model.complete(CHAT, 1)
    assert not place.noted


async def test_progress_is_told_at_each_change(place: Place) -> None:
    place.provider.polls = 0
    model = place.model()
    calls = asyncio.create_task(asked(model, *range(5)))
    await until(lambda: bool(place.provider.batches))
    batch = place.only()
    await until(lambda: batch.looks > 3)
    batch.counts = {"total": 5, "completed": 2, "failed": 1}
    place.time.now += 420
    await until(lambda: len(place.notes) == 2)
    await place.provider.end(batch)
    await calls
    assert place.notes[0].startswith("batch 1: 0 of 5 answered, ")
    assert place.notes[1].startswith("batch 1: 2 of 5 answered, 1 failed, ")
    assert place.notes[2].startswith("batch 1: 5 of 5 answered, completed, ")
    assert int(place.notes[1].split()[-2]) >= 7
    assert len(place.notes) == 3


async def test_a_batch_is_looked_at_less_and_less_often(place: Place) -> None:
    place.provider.polls = 9
    await place.model(poll=10, max_poll=40).complete(CHAT, 1)
    assert place.time.slept[-8:] == [10, 15, 22.5, 33.75, 40, 40, 40, 40]


# -- lives ---------------------------------------------------------------------------------


class Mortal:
    """A transport whose process dies before or after its k-th request.

    What is on disk at that moment is copied aside; nothing is sent any more, and nothing returns.
    """

    def __init__(self, wire: Transport, moment: int, state: Path, grave: Path) -> None:
        self._wire = wire
        self._left = moment
        self._state = state
        self._grave = grave
        self.died = asyncio.Event()

    async def _live(self) -> None:
        self._left -= 1
        if self._left == 0:
            if self._state.exists():
                shutil.copytree(self._state, self._grave)
            self.died.set()
        if self.died.is_set():
            await asyncio.Event().wait()

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> Reply:
        await self._live()
        reply = await self._wire.request(method, path, body, headers)
        await self._live()
        return reply


class Lives:
    """Processes that die and come again, over what the one before left on disk."""

    def __init__(self, place: Place, seeds: int) -> None:
        self.place = place
        self.journal: dict[int, Answer] = {}
        """By seed, what a dialogue has recorded."""
        self._seeds = range(seeds)

    async def one(self, moment: int) -> bool:
        """Ask for whatever is not recorded and die at the `moment`; False if all ended before."""
        place = self.place
        grave = place.state.with_name(f"{place.state.name}x")
        mortal = Mortal(Wire(place.url), moment, place.state, grave)
        model = place.model(wire=mortal)
        asking = asyncio.gather(
            *(self._ask(model, s) for s in self._seeds if s not in self.journal)
        )
        dying = asyncio.ensure_future(mortal.died.wait())
        both: set[asyncio.Future[Any]] = {asking, dying}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        died = mortal.died.is_set()
        if not died:
            await asking  # it has ended; if by an error, that shows
        asking.cancel()
        dying.cancel()
        await asyncio.gather(asking, dying, return_exceptions=True)
        if died:
            place.state = grave
        return died

    async def _ask(self, model: BatchModel, seed: int) -> None:
        answer = await insist(model, seed, seed)
        self.journal[seed] = answer
        model.recorded(CHAT, seed, seed)


@pytest.mark.parametrize("first", range(1, 13))
async def test_whenever_the_process_is_killed_no_request_is_paid_twice(
    place: Place, first: int
) -> None:
    lives = Lives(place, 5)
    died = await lives.one(first)
    assert died == (first <= 10)  # five requests to the provider make a life
    await lives.one(10**9)
    assert not place.provider.twice
    assert lives.journal == {s: await place_answer(s) for s in range(5)}
    assert len(place.provider.batches) == 1
    assert not place.noted


async def place_answer(seed: int) -> Answer:
    text = await truth(seed)
    asked = sum(len(m.content) for m in CHAT.messages)
    return Completion(
        text, model="stand-in", prompt_tokens=asked // 4 + 1, completion_tokens=len(text) // 4 + 1
    )


@pytest.mark.e2e
async def test_killed_again_and_again_with_lines_that_expire(place: Place) -> None:
    """Every life dies a little later than the one before, until one is long enough."""
    for step in (1, 2, 3):
        provider, place.state = place.provider, place.state.with_name(f"state-{step}")
        provider.processed.clear()
        provider.expires_after = 2
        lives = Lives(place, 6)
        lived = step
        while await lives.one(lived):
            lived += step
        assert not provider.twice
        assert len(lives.journal) == len(provider.processed) == 6
        assert not place.noted


async def test_an_upload_that_never_became_a_batch_is_forgotten_without_a_look(
    place: Place,
) -> None:
    lives = Lives(place, 2)
    await lives.one(2)
    assert [state.file_id for state in place.noted] == [""]
    await lives.one(10**9)
    assert any("batch 1: never created" in note for note in place.notes)
    assert 10 not in place.time.slept  # the default `settle` is looked through in steps of 10 s
    assert sorted(map(len, place.batches_sent)) == [2]


async def test_a_batch_made_just_before_the_end_is_found_on_a_later_page(place: Place) -> None:
    for seed in range(100, 105):  # others of the same account, newer ones among them
        await place.model().complete(CHAT, seed)
    lives = Lives(place, 3)
    await lives.one(4)
    (state,) = [s for s in place.noted if not s.batch_id]
    assert state.file_id
    mine = list(place.provider.batches)[-1]
    for seed in range(200, 203):
        other = Place(place.provider, place.url, place.state.with_name("other"))
        async with other.model() as model:
            await model.complete(CHAT, seed)
    before = len(place.provider.batches)
    place.provider.hidden = 2
    await lives.one(10**9)
    assert len(place.provider.batches) == before
    assert place.provider.batches[mine].looks
    assert not place.provider.twice


async def test_answers_handed_out_and_not_recorded_are_read_again(place: Place) -> None:
    await asked(place.model(), *range(6))
    reborn = place.model()
    again = await asyncio.gather(*(reborn.complete(CHAT, k, k) for k in (1, 4)))
    assert [a.text for a in again if isinstance(a, Completion)] == [await truth(1), await truth(4)]
    assert len(place.provider.batches) == 1


async def test_a_batch_is_kept_until_its_last_answer_is_recorded(place: Place) -> None:
    model = place.model()
    await asked(model, 0, 1, 2)
    for k in (0, 2):
        model.recorded(CHAT, k, k)
        assert len(place.noted) == 1
    model.recorded(CHAT, 9, 9)  # not one of ours
    model.recorded(CHAT, 1, 1)
    assert not place.noted


async def test_a_request_in_two_files_is_waited_for_in_the_later_batch(place: Place) -> None:
    place.provider.expires_after = 1
    model = place.model()
    first = await asyncio.gather(
        *(model.complete(CHAT, k, k) for k in range(3)), return_exceptions=True
    )
    place.provider.polls = 0
    left = [k for k, answer in enumerate(first) if isinstance(answer, TransientError)]
    assert len(left) == 2
    waiting = [asyncio.create_task(model.complete(CHAT, k, k)) for k in left]
    await until(lambda: len(place.noted) == 2 and bool(place.noted[1].batch_id))
    reborn = place.model()
    place.provider.polls = 1
    answers = await asyncio.gather(*(reborn.complete(CHAT, k, k) for k in range(3)))
    assert all(isinstance(answer, Completion) for answer in answers)
    assert [len(names) for names in place.batches_sent] == [3, 2]
    assert not place.provider.twice
    await asyncio.gather(*waiting)


async def test_closing_tells_those_who_wait_and_leaves_the_batch_to_the_next_start(
    place: Place,
) -> None:
    place.provider.polls = 0
    model = place.model()
    call = asyncio.create_task(model.complete(CHAT, 1))
    await until(lambda: bool(place.noted and place.noted[0].batch_id))
    await model.close()
    with pytest.raises(Stopped, match="run the same command again to collect"):
        await call
    with pytest.raises(Stopped):
        await model.complete(CHAT, 2)
    place.provider.polls = 1
    assert isinstance(await place.model().complete(CHAT, 1), Completion)
    assert place.batches_sent == [[named(1)]]


async def test_a_caller_that_gives_up_does_not_disturb_the_others(place: Place) -> None:
    place.provider.polls = 0
    model = place.model()
    calls = [asyncio.create_task(model.complete(CHAT, k, k)) for k in range(2)]
    await until(lambda: bool(place.provider.batches))
    calls[0].cancel()
    await asyncio.gather(calls[0], return_exceptions=True)
    await place.provider.end(place.only())
    assert isinstance(await calls[1], Completion)
    assert isinstance(await model.complete(CHAT, 0, 0), Completion)
    assert len(place.provider.batches) == 1


async def test_a_batch_that_the_account_does_not_know_is_not_made_anew(place: Place) -> None:
    await place.model().complete(CHAT, 1)
    place.provider.batches.clear()
    with pytest.raises(ModelError, match=r"HTTP 404.*visible only to the account.*listed in"):
        await place.model().complete(CHAT, 1)
    assert not place.provider.batches


@pytest.mark.parametrize("name", ["batch-000001.json", "failures.json"])
async def test_a_damaged_file_of_state_is_named(place: Place, name: str) -> None:
    place.state.mkdir()
    (place.state / name).write_bytes(b'{"id"')
    with pytest.raises(JournalError, match=rf"{name}: cannot be read.*restore the file"):
        await place.model().complete(CHAT, 1)
    assert not place.provider.batches


async def test_nothing_is_sent_when_the_state_cannot_be_written(place: Place) -> None:
    place.state.write_text("a file in the place of the directory")
    with pytest.raises(JournalError, match="cannot be written"):
        await place.model().complete(CHAT, 1)
    assert not place.provider.files


async def test_ids_that_the_provider_names_cannot_leave_their_place_in_the_path(
    place: Place,
) -> None:
    seen: list[str] = []

    class Hostile:
        """Names a batch by what would be another path."""

        async def request(
            self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
        ) -> Reply:
            seen.append(path)
            if method == "POST":
                return Reply(200, b'{"id": "../x?a=b\\r\\nHost: y"}', [])
            if path.endswith("/content"):
                return Reply(200, b"", [])
            return Reply(200, b'{"status": "completed", "output_file_id": "../../y"}', [])

    with pytest.raises(TransientError):
        await place.model(wire=Hostile()).complete(CHAT, 1)
    assert "/batches/..%2Fx%3Fa%3Db%0D%0AHost%3A%20y" in seen
    assert "/files/..%2F..%2Fy/content" in seen


# -- a whole run ---------------------------------------------------------------------------


class Crash(BaseException):
    """The end of the process, as far as the run can tell."""


def model_for(url: str, state: Path) -> BatchModel:
    """A batch model that waits in real time, briefly."""
    limits = Limits(gather=0.01, poll=0.01, max_poll=0.02)
    return BatchModel(Online("m"), Wire(url), state=state, run="r", limits=limits)


def records(out: Path, model: BatchModel | ScriptedModel, hear: Any = None) -> list[Record]:
    keys: dict[str, Any] = {"n": 4, "max_open_dialogues": 4, "dialogue.protocol": "roleplay"}
    result = sdsd.run(out=out, models={"default": model}, on_event=hear, **keys)
    return list(result.records())


@pytest.mark.e2e
async def test_a_run_over_batches_makes_what_a_run_without_makes(tmp_path: Path) -> None:
    provider = BatchStandIn(polls=1)
    async with serving(provider.app()) as url:
        direct = ScriptedModel(name="m", capabilities=CAN)
        expected = await asyncio.to_thread(records, tmp_path / "direct", direct)
        model = model_for(url, tmp_path / "state")
        made = await asyncio.to_thread(records, tmp_path / "batch", model)
    assert made == expected
    assert not provider.twice
    assert len(provider.processed) == direct.asked
    assert len(provider.batches) < direct.asked


@pytest.mark.parametrize("k", [1, 7, 20])
@pytest.mark.e2e
async def test_a_run_that_crashes_goes_on_without_paying_twice(tmp_path: Path, k: int) -> None:
    provider = BatchStandIn(polls=1)
    called = 0

    def hear(event: Event) -> None:
        nonlocal called
        called += isinstance(event, Called)
        if called == k and isinstance(event, Called):
            raise Crash

    async with serving(provider.app()) as url:
        direct = ScriptedModel(name="m", capabilities=CAN)
        expected = await asyncio.to_thread(records, tmp_path / "direct", direct)
        with pytest.raises(BaseExceptionGroup) as caught:
            await asyncio.to_thread(
                records, tmp_path / "batch", model_for(url, tmp_path / "state"), hear
            )
        assert caught.group_contains(Crash)
        again = model_for(url, tmp_path / "state")
        made = await asyncio.to_thread(records, tmp_path / "batch", again)
    assert made == expected
    assert not provider.twice
    assert len(provider.processed) == direct.asked
