"""Any body with a 2xx status becomes a completion, or an error that says what is wrong with it."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.models.odd_errors import ErrorReply
from sdsd.models.replies import Reading, read
from sdsd.models.wire import MOST_TOKENS, Unreadable
from sdsd.types import Completion, Message, Request

ASKED = Request("agent", 100, (Message("user", "Hello?"),))
JUDGED = Request("critic", 100, (Message("user", "Is it?"),), choices=("yes", "no"))


def body(content: Any = "Hi.", finish: Any = "stop", *, usage: Any = None, **message: Any) -> bytes:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    counts = {"prompt_tokens": 9, "completion_tokens": 4} if usage is None else usage
    return json.dumps({"model": "m", "choices": [choice], "usage": counts}).encode()


def got(data: bytes, request: Request = ASKED, reading: Reading = Reading()) -> Completion:
    return read(data, request, reading)


# -- contents ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text", "thinking"),
    [
        ([{"type": "text", "text": "Hi."}], "Hi.", ""),
        ([{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}], "Hi!", ""),
        (["Hi", "!"], "Hi!", ""),
        ({"type": "text", "text": "Hi."}, "Hi.", ""),
        ([{"type": "output_text", "text": {"value": "Hi."}}], "Hi.", ""),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "Hi."},
            ],
            "Hi.",
            "hm",
        ),
        ([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "Hi."}], "Hi.", "hm"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi."}], "Hi.", "hm"),
        ([{"text": "hm", "thought": True}, {"text": "Hi."}], "Hi.", "hm"),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Hi."}], "Hi.", ""),
        ([{"type": "reasoning_content", "reasoning_content": "hm"}, {"text": "Hi."}], "Hi.", "hm"),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
             {"type": "output_text", "text": "Hi."}],
            "Hi.",
            "hm",
        ),
        ([{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "Hi."}], "Hi.", "hm"),
        ([{"type": "analysis", "text": "hm"}, {"type": "text", "text": "Hi."}], "Hi.", "hm"),
        ([{"type": "text", "text": "hm", "channel": "analysis"}, {"text": "Hi."}], "Hi.", "hm"),
        ([{"kind": "thinking", "text": "hm"}, {"kind": "text", "text": "Hi."}], "Hi.", "hm"),
        ([{"type": "THINKING", "text": "hm"}, {"type": "TEXT", "text": "Hi."}], "Hi.", "hm"),
        ([{"text": "hm", "thought": "true"}, {"text": "Hi."}], "Hi.", "hm"),
        ([{"text": "hm", "is_thinking": True}, {"text": "Hi."}], "Hi.", "hm"),
        ([{"role": "thinking", "content": "hm"}, {"role": "assistant", "content": "Hi."}],
         "Hi.", "hm"),
        # Parts that a gateway has written out as one text.
        ('[{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi."}]', "Hi.", "hm"),
        ("[{'type': 'thinking', 'thinking': 'hm'}, {'type': 'text', 'text': 'Hi.'}]", "Hi.", "hm"),
        ('[{"type": "bird", "name": "wren"}]', '[{"type": "bird", "name": "wren"}]', ""),
        ('[{"type": "text", "text": "Hi."', '[{"type": "text", "text": "Hi."', ""),
        ({"violated": True}, '{"violated": true}', ""),
        ("<think>hm</think>\n\nHi.", "Hi.", "<think>hm</think>"),
        ("hm</think>\n\nHi.", "Hi.", "hm</think>"),
        ("Hi.<|im_end|>", "Hi.", ""),
        ([{"type": "text", "text": "<think>hm</think>Hi."}], "Hi.", "<think>hm</think>"),
    ],
)  # fmt: skip
def test_contents(content: Any, text: str, thinking: str) -> None:
    found = got(body(content))
    assert (found.text, found.thinking, found.finish) == (text, thinking, "stop")


@pytest.mark.parametrize(
    "beside",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning": "hm", "reasoning_content": "hm"},
        {"reasoning": {"text": "hm"}},
        {"thinking": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}], "refusal": []},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}], "refusal": []},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
        {"reasoning_text": "hm"},
        {"thoughts": [{"text": "hm"}]},
        {"reasoning": [{"type": "text", "text": "hm"}]},
        {"provider_specific_fields": {"reasoning_content": "hm"}, "refusal": []},
    ],
)
def test_thinking_next_to_the_content(beside: dict[str, Any]) -> None:
    found = got(body("Hi.", **beside))
    assert (found.text, found.thinking) == ("Hi.", "hm")


def test_thinking_that_is_repeated_in_the_content_is_no_text() -> None:
    thought = "They want a greeting, and a short one."
    assert got(body(f"{thought}\n\nHi.", reasoning_content=thought)).text == "Hi."
    assert got(body(f"<think>{thought}</think>Hi.", reasoning_content=thought)).text == "Hi."
    # By chance, or all that there is.
    assert got(body("Hi. All well?", reasoning_content="Hi.")).text == "Hi. All well?"
    assert got(body(thought, reasoning_content=thought)).text == thought


def test_text_that_a_server_has_taken_for_thinking() -> None:
    found = got(body(None, reasoning_content="They greet me.</think>\n\nHi."))
    assert (found.text, found.thinking, found.finish) == ("Hi.", "They greet me.</think>", "stop")
    assert got(body("", reasoning_content="They greet me.</think>\n")).finish == "empty"


def test_no_text_after_thinking_is_a_cut_or_an_empty_reply() -> None:
    cut = got(body(None, "length", reasoning_content="First I consider"))
    assert (cut.text, cut.finish, cut.thinking) == ("", "length", "First I consider")
    assert got(body(None, "stop", reasoning_content="All of it.")).finish == "empty"
    assert got(body("<think>First I", "stop")).finish == "length"
    assert got(body("", "stop")).finish == "empty"
    assert got(body(" \n", "stop")).finish == "empty"


@pytest.mark.parametrize(
    "nothing",
    ["\u00a0\u3000", "\u200b", "\ufeff\n", "\u2060\u200d\xad", "\u3164", "\u2800 ", "\u200e", "\0",
     "<|im_end|>", "<|im_end|><|endoftext|>", "</s>", "<pad><pad>", "<think>\n\n</think>\n\n",
     "</think>", []],
)  # fmt: skip
def test_a_reply_in_which_there_is_nothing_to_see_is_empty(nothing: object) -> None:
    assert got(body(nothing, "stop")).finish == "empty"
    found = got(body(nothing, "stop", reasoning_content="All of it."))
    assert (found.finish, found.thinking) == ("empty", "All of it.")


def test_a_model_whose_thinking_begins_in_the_prompt() -> None:
    opened = Reading(room=50, opened=True)
    cut = got(body("First I consider", "length"), reading=opened)
    assert (cut.text, cut.thinking, cut.finish) == ("", "First I consider", "length")
    assert got(body("hm</think>Hi."), reading=opened).text == "Hi."
    # A server that takes the thinking out has seen its end.
    assert got(body("Hi.", reasoning_content="hm"), reading=opened).text == "Hi."
    raw = Request("agent", 100, prompt="<|assistant|><think>\n")
    data = json.dumps({"choices": [{"text": "hm</think>\nHi.", "finish_reason": "stop"}]}).encode()
    assert got(data, raw).text == "Hi."


def test_a_mark_that_ends_the_text_makes_it_whole() -> None:
    found = got(body("Hi.<|im_end|>\n<|im_start|>user\nWhat now", "length"))
    assert (found.text, found.finish) == ("Hi.", "stop")


# -- endings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "kind", "noted"),
    [
        ("stop", "stop", False), (None, "stop", False), ("eos", "stop", False),
        ("end_turn", "stop", False), ("STOP", "stop", False), ("stop_sequence", "stop", False),
        ("length", "length", False), ("max_tokens", "length", False),
        ("MAX_TOKENS", "length", False), ("model_length", "length", False),
        ("FinishReason.MAX_TOKENS", "length", False), ("max-tokens", "length", False),
        ("FINISH_REASON_MAX_TOKENS", "length", False), ("max_output_tokens", "length", False),
        ("model_context_window_exceeded", "length", False), ("incomplete", "length", False),
        ("content_filter", "refused", False), ("SAFETY", "refused", False),
        ("refusal", "refused", False), ("RECITATION", "refused", False),
        ("guardrail_intervened", "refused", False), ("PROHIBITED_CONTENT", "refused", False),
        ("error", "error", False), ("abort", "error", False), ("network_error", "error", False),
        ("<|eot_id|>", "stop", False), ("stop_str", "stop", False), ("COMPLETE", "stop", False),
        ("FINISH_REASON_UNSPECIFIED", "stop", True), ("None", "stop", False),
        ("maxTokens", "length", False), ("FINISH_LENGTH", "length", False),
        ("stop_limit", "length", False), ("max_time", "length", False),
        ("contentFilter", "refused", False), ("ERROR_TOXIC", "refused", False),
        ("jailbreak", "refused", False), ("inference-error", "error", False),
        ("ERROR_LIMIT", "error", False), ("MALFORMED_FUNCTION_CALL", "error", False),
        ("banana", "stop", True), ("tool_calls", "stop", True), (7, "stop", True),
        ({"type": "stop"}, "stop", False), ({"type": "length", "length": 9}, "length", False),
        (["stop"], "stop", False), ({"type": "banana"}, "stop", True), ({"a": 1}, "stop", True),
    ],
)  # fmt: skip
def test_endings(finish: Any, kind: str, noted: bool) -> None:
    found = got(body("It is so that", finish))
    assert (found.finish, bool(found.ending)) == (kind, noted)


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ({"finish_reason": "stop", "native_finish_reason": "MAX_TOKENS"}, "length"),
        ({"finish_reason": "stop", "native_finish_reason": "SAFETY"}, "refused"),
        ({"finish_reason": "stop", "native_finish_reason": "completed"}, "stop"),
        ({"finish_reason": "length", "native_finish_reason": "STOP"}, "length"),
        ({"finish_reason": None, "stop_reason": "max_tokens"}, "length"),
        ({"finish_reason": "stop", "stop_reason": "\nUser: length"}, "stop"),
        ({"finish_reason": "stop", "stop_reason": 151645}, "stop"),
        ({"finish_reason": "stop",
          "content_filter_results": {"hate": {"filtered": True}}}, "refused"),
        ({"finish_reason": "stop",
          "content_filter_results": {"hate": {"filtered": False}}}, "stop"),
    ],
)  # fmt: skip
def test_endings_that_are_told_elsewhere(choice: dict[str, Any], kind: str) -> None:
    for message in ({"content": "It is so."}, {"content": ["It is so."]}):
        data = json.dumps({"choices": [{"message": message, **choice}]}).encode()
        assert got(data).finish == kind


def test_a_choice_without_a_message_says_how_it_ended() -> None:
    for finish, kind in (("length", "length"), ("content_filter", "refused"), ("stop", "empty")):
        data = json.dumps({"choices": [{"index": 0, "finish_reason": finish}]}).encode()
        assert (got(data).text, got(data).finish) == ("", kind)


def test_a_reply_as_long_as_it_may_be_is_cut_unless_its_ending_is_known() -> None:
    full = {"prompt_tokens": 9, "completion_tokens": 100}
    assert got(body("It is", None, usage=full)).finish == "length"
    assert got(body("It is", "banana", usage=full)).finish == "length"
    assert got(body("It is", "stop", usage=full)).finish == "stop"


def test_refusals() -> None:
    found = got(body(None, "stop", refusal="I cannot help with that."))
    assert (found.text, found.finish) == ("I cannot help with that.", "refused")
    assert got(body([{"type": "refusal", "refusal": "No."}])).finish == "refused"
    blocked = {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}
    assert got(json.dumps(blocked).encode()).finish == "refused"
    hate = {"content_filter_results": {"hate": {"filtered": True}}}
    filtered = {"choices": None, "prompt_filter_results": [hate]}
    assert got(json.dumps(filtered).encode()).finish == "refused"


# -- counts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 9, "completion_tokens": None}, (9, 0)),
        ({"prompt_tokens": 120.5, "completion_tokens": 4.0}, (120, 4)),
        ({"prompt_tokens": "120", "completion_tokens": "4"}, (120, 4)),
        ({"prompt_tokens": "many", "completion_tokens": [4]}, (0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": -(2**70)}, (0, 0)),
        ({"prompt_tokens": 2**63, "completion_tokens": 10**400}, (MOST_TOKENS, MOST_TOKENS)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (0, MOST_TOKENS)),
        ({"input_tokens": 9, "output_tokens": 4, "prompt_tokens": None}, (0, 4)),
        ({"tokens": {"input_tokens": 9, "output_tokens": 4}, "prompt_tokens_details": []}, (9, 4)),
        ({"promptTokens": 9, "completionTokens": 4, "prompt_tokens": "x"}, (0, 4)),
        ({"prompt_tokens": True, "completion_tokens": False}, (0, 0)),
        ([], (0, 0)),
        ("9", (0, 0)),
    ],
)
def test_odd_counts(usage: Any, tokens: tuple[int, int]) -> None:
    found = got(body(usage=usage))
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("Hi.", *tokens)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                    max_leaves=8))  # fmt: skip
def test_counts_are_counts_whatever_is_sent(value: Any) -> None:
    details = {"cached_tokens": value, "reasoning_tokens": value}
    usage = {"prompt_tokens": value, "completion_tokens": value, "total_tokens": value,
             "prompt_tokens_details": details, "completion_tokens_details": details}  # fmt: skip
    for counts in (usage, value):
        found = got(body(usage=counts))
        assert found.text == "Hi."
        assert 0 <= found.cached_tokens <= found.prompt_tokens <= MOST_TOKENS
        assert 0 <= found.reasoning_tokens <= found.completion_tokens <= 2 * MOST_TOKENS


@pytest.mark.parametrize(
    "told",
    [
        {"prompt_tokens_details": {"cached_tokens": 7}},
        {"cached_tokens": 7},
        {"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 2},
        {"cache_read_input_tokens": 7},
    ],
)
def test_tokens_from_the_cache(told: dict[str, Any]) -> None:
    for prompt in (9, "9"):
        assert got(body(usage={"prompt_tokens": prompt, **told})).cached_tokens == 7


def test_tokens_of_thinking() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 30}}
    told = {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49, **details}
    assert got(body(usage=told)).reasoning_tokens == 30
    assert got(body(usage={"completion_tokens": 40, "reasoning_tokens": 30})).reasoning_tokens == 30
    # Some count it apart: then it is added.
    apart = {"prompt_tokens": 9, "completion_tokens": 10, "total_tokens": 49, **details}
    found = got(body(usage=apart))
    assert (found.completion_tokens, found.reasoning_tokens) == (40, 30)
    # Untold, it has the share of its characters.
    counts = {"prompt_tokens": 9, "completion_tokens": 40}
    assert got(body("a" * 10, reasoning_content="b" * 30, usage=counts)).reasoning_tokens == 30


# -- lengths -------------------------------------------------------------------------------


def test_a_reply_far_longer_than_asked_for_is_cut() -> None:
    found = got(body("word " * 4_000_000))
    assert found.finish == "length"
    assert len(found.text) < 10_000
    found = got(body("Hi.", reasoning_content="word " * 4_000_000))
    assert len(found.thinking) < 10_000
    assert (found.text, found.finish) == ("Hi.", "stop")


def test_the_room_for_thinking_is_no_room_for_text() -> None:
    counts = {"prompt_tokens": 9, "completion_tokens": 400}
    details = {"completion_tokens_details": {"reasoning_tokens": 200}}
    found = got(body("word " * 200, usage=counts | details), reading=Reading(room=300))
    assert found.finish == "length"
    assert len(found.text) == 500  # 100 of 200 tokens
    alone = got(body("word " * 200, usage=counts | details))
    assert (len(alone.text), alone.finish) == (1000, "stop")


# -- wrappings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(body(), mtime=0),
        zlib.compress(body()),
        b"\xef\xbb\xbf" + body(),
        b"\n\n  " + body() + b"\n",
        json.dumps(body().decode()).encode(),
        b"[" + body() + b"]",
        b": PROCESSING\n\n: PROCESSING\n\n" + body(),
        body().replace(b'"Hi."', b'"Hi.", "extra": NaN, "logit": Infinity'),
        body().replace(b'"choices": [', b'"choices": ').replace(b'}], "usage"', b'}, "usage"'),
        body().replace(b'"message"', b'"delta"'),
        body().replace(b'{"content": "Hi."}', b'"Hi."'),
        body().replace(b'"m"', b"7"),
        gzip.compress(gzip.compress(body(), mtime=0), mtime=0),
        gzip.compress(body()[:30], mtime=0) + gzip.compress(body()[30:], mtime=0),
        body().decode().encode("utf-16"),
        b'{"success": true, "errors": [], "result": ' + body() + b"}",
        b'{"code": 0, "message": "ok", "data": ' + body() + b"}",
        body().replace(b'{"content": "Hi."}', b'[{"role": "assistant", "content": "Hi."}]'),
    ],
)
def test_wrappings(data: bytes) -> None:
    assert got(data).text == "Hi."


def events(*deltas: dict[str, Any], finish: str | None = "stop", done: bool = True) -> bytes:
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join(lines + ["data: [DONE]\n\n"] * done).encode()


def test_a_stream_that_nobody_asked_for_is_joined() -> None:
    found = got(events({"role": "assistant", "content": ""}, {"content": "Hi"}, {"content": "!"}))
    assert (found.text, found.finish, found.completion_tokens) == ("Hi!", "stop", 4)
    thought = events({"reasoning_content": "h"}, {"reasoning_content": "m"}, {"content": "Hi."})
    assert (got(thought).text, got(thought).thinking) == ("Hi.", "hm")
    inline = events({"content": "<thi"}, {"content": "nk>hm</think>"}, {"content": "Hi."})
    assert got(inline).text == "Hi."
    assert got(events({"content": "Hi"}, finish="length")).finish == "length"
    assert got(events({"content": "Hi."}).replace(b"data: {", b"event: x\r\ndata:{")).text == "Hi."
    lines = b"\n".join(json.dumps(c).encode() for c in (
        {"choices": [{"delta": {"content": "Hi"}}]},
        {"choices": [{"delta": {"content": "!"}, "finish_reason": "stop"}]},
    ))  # fmt: skip
    assert got(lines).text == "Hi!"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: data.replace(b"data: ", b"data:"),
        lambda data: data.replace(b"\n\n", b"\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: b": keep-alive\n\n" + data.replace(b"\n\n", b"\nid: 1\n\n"),
        lambda data: data.replace(b'{"choices"', b'{\ndata: "choices"'),
        gzip.compress,
    ],
)
def test_streams_of_any_form(change: Callable[[bytes], bytes]) -> None:
    # A line separator of Unicode is text; only line breaks end a line of the stream.
    stream = events({"content": "Hi\u2028"}, {"content": "you."}).replace(
        b"\\u2028", b"\xe2\x80\xa8"
    )
    assert got(change(stream)).text == "Hi\u2028you."


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (b'event: error\ndata: {"message": "overloaded", "type": "overloaded_error"}', 503),
        (b"event: error\ndata: it is overloaded", 503),
        (b'data: {"error": "boom"}', 500),
        (b'data: {"detail": "boom"}', 500),
        (b'data: {"object": "error", "message": "too long", "code": 400}', 400),
        (b'data: {"type": "error", "error": {"type": "rate_limit_error"}}', 429),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n\ndata: [DONE]\n\n"])
def test_a_stream_with_an_error_in_it_is_that_error(event: bytes, status: int, end: bytes) -> None:
    begun = b'data: {"choices": [{"delta": {"content": "It is so th"}}]}\n\n'
    with pytest.raises(ErrorReply) as raised:
        got(begun + event + end)
    assert raised.value.status == status


def test_a_stream_that_breaks_off() -> None:
    with pytest.raises(Unreadable, match="breaks off"):
        got(events({"content": "Hi"}, finish=None, done=False))
    with pytest.raises(ErrorReply, match="overloaded"):
        got(b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\n'
            b'data: {"error": {"message": "overloaded", "code": 503}}\n\n')  # fmt: skip
    with pytest.raises(Unreadable, match=r"not JSON.*'\[ERROR\] boom'"):
        got(events({"content": "Hi"}, done=False) + b"data: [ERROR] boom\n\n")
    with pytest.raises(Unreadable, match="without any data"):
        got(b": ping\n\n: ping\n\n")


# -- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"error": {"message": "Insufficient credits", "code": 402}}, 402),
        ({"error": {"message": "slow down", "code": "429"}}, 429),
        ({"error": {"message": "slow down", "type": "rate_limit_exceeded"}}, 429),
        ({"error": {"message": "x", "type": "insufficient_quota", "code": 429}}, 429),
        ({"error": {"message": "You exceeded your current quota"}}, 402),
        ({"error": {"message": "overloaded"}}, 503),
        ({"error": "Incorrect API key provided"}, 401),
        ({"error": {"message": "flagged by moderation", "code": None}}, 400),
        ({"error": {"message": "This model's maximum context length is 4096 tokens"}}, 400),
        ({"object": "error", "message": "oh", "code": 400}, 400),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "o"}}, 503),
        ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], 429),
        ({"errors": [{"code": 7003, "message": "No route"}], "success": False}, 500),
        ({"detail": "Internal Server Error"}, 500),
        ({"error": {"message": "hm"}, "choices": None}, 500),
        ({"choices": [{"error": {"code": 502, "message": "Bad gateway"}}]}, 502),
        ({"message": "Too Many Requests"}, 429),
        ({"Message": "User is not authorized to perform: bedrock:InvokeModel"}, 403),
        ({"__type": "ThrottlingException", "message": "Rate exceeded"}, 429),
        ({"Output": {"__type": "UnknownOperationException"}, "Version": "1.0"}, 500),
        ({"fault": {"faultstring": "Invalid ApiKey"}}, 401),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, 402),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": []}, 429),
        ({"error": True, "message": "rate limit exceeded"}, 429),
        ({"httpStatus": 503, "errorMessage": "x"}, 503),
        ({"status": "error", "reason": "the model is loading"}, 503),
        ({"title": "Forbidden", "status": 403, "detail": "not allowed"}, 403),
        ({"success": False, "result": {}}, 500),
        ({"detail": [{"loc": ["body"], "msg": "field required", "type": "value_error"}]}, 400),
        ({"choices": [{"message": {"content": "Hi"}}], "error": {"code": 502}}, 502),
    ],
)
def test_errors_with_a_good_status(error: Any, status: int) -> None:
    with pytest.raises(ErrorReply) as raised:
        got(json.dumps(error).encode())
    assert raised.value.status == status
    assert raised.value.text


def test_an_error_that_is_none() -> None:
    for value in (None, "", False, "null"):
        data = json.loads(body()) | {"error": value}
        assert got(json.dumps(data).encode()).text == "Hi."


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"<html>Bad gateway</html>", '^it is a web page: "Bad gateway"$'),
        (
            b"<!DOCTYPE html><head><title>a.b | 502:\n Bad gateway</title><style>p {}</style>",
            '^it is a web page: "a.b | 502: Bad gateway"$',
        ),
        (b"\n<!-- x --><html><script>y</script><h1>Sign&nbsp;in</h1></html>", 'page: "Sign in"'),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", 'page: "AccessDenied"'),
        (b"Internal Server Error", "not JSON: Expecting value"),
        (
            b'{"model": "m", "message": {"role": "assistant", "content": "Hi."}, "done": true}',
            "no `choices`, only `model`, `message`, `done`, as another API would",
        ),
        (b'{"candidates": [{"content": {"parts": [{"text": "Hi."}]}}]}', "only `candidates`, as"),
        (b'{"type": "message", "content": [{"type": "text", "text": "Hi."}]}', "as another API"),
        (b"null", "a JSON null where an object was expected"),
        (b"{}", "no `choices`, only nothing"),
        (b'{"id": 1, "data": []}', "no `choices`, only `id`, `data`"),
        (b'{"choices": []}', r"`choices` are \[\]"),
        (b'{"choices": null}', "`choices` are null"),
        (b'{"choices": [{}]}', "its choice has no text"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"choices": ' + b"[" * 100_000, "nested too deeply"),
        (gzip.compress(body(), mtime=0)[:40], "compressed, and breaks off"),
        (b"\x1f\x8b\xff\x00garbage!", "compressed, and damaged"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 20, r"compressed \(zstd\)"),
    ],
)
def test_what_is_not_understood_is_said(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        got(data)


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(Unreadable, match="larger than"):
        got(gzip.compress(b" " * (65 * 2**20)))


@given(st.binary(max_size=200))
def test_nothing_else_is_ever_raised(data: bytes) -> None:
    with contextlib.suppress(Unreadable, ErrorReply):
        got(data)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["choices", "message", "content", "text", "type", "error",
                                         "delta", "usage", "logprobs", "thinking", "refusal"]),
                        inner, max_size=4),
                    max_leaves=20))  # fmt: skip
def test_nor_for_any_json(value: Any) -> None:
    for data in (
        value,
        {"choices": value},
        {"choices": [value]},
        {"choices": [{"message": value}]},
    ):
        with contextlib.suppress(Unreadable, ErrorReply):
            assert isinstance(got(json.dumps(data).encode()).text, str)


# -- probabilities -------------------------------------------------------------------------


def test_probabilities_that_are_no_numbers() -> None:
    tokens = [{"token": "yes", "logprob": -0.1,
               "top_logprobs": [{"token": "yes", "logprob": -0.1},
                                {"token": "no", "logprob": float("-inf")},
                                {"token": None, "logprob": 0}]}]  # fmt: skip
    data = json.loads(body("yes"))
    data["choices"][0]["logprobs"] = {"content": tokens}
    found = got(json.dumps(data).encode(), JUDGED)
    assert found.choice_probs == {"yes": 1.0, "no": 0.0}
    tokens[0]["logprob"] = float("nan")
    assert got(json.dumps(data).encode(), JUDGED).choice_probs == {}


@pytest.mark.parametrize(
    "line", [b"data: [1,", b"data: {", b"data: {}", b'data: "a"', b": ", b"id:"]
)
def test_a_hostile_stream_is_read_in_linear_time(line: bytes) -> None:
    # Quadratic time would be many minutes.
    with pytest.raises((Unreadable, ErrorReply)):
        got((line + b"\n") * 100_000)
