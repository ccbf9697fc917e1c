"""What a status concerns: the request, the server, the account, or what is yet to be found out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.errors import Busy, Denied, ModelError, TransientError
from sdsd.models.http_connection import Reply
from sdsd.models.statuses import refused, retry_after
from sdsd.types import Refusal

NOW = 1_445_412_480.0
"""Wed, 21 Oct 2015 07:28:00 GMT."""


def judge(status: int, body: bytes = b"no") -> Refusal:
    return refused(status, body, where="http://a/v1", model="m")


def reply(**headers: str) -> Reply:
    named = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
    return Reply(429, b"", list(named.items()))


@pytest.mark.parametrize("status", [400, 413, 414, 422, 451])
def test_the_request(status: int) -> None:
    assert judge(status) == Refusal(f"HTTP {status}", "no", "rejected")


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_busy_server(status: int) -> None:
    with pytest.raises(Busy, match=f"^HTTP {status}: no$") as caught:
        judge(status)
    assert caught.value.with_server == f"http://a/v1: HTTP {status}: no"


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 504, 524, 599])
def test_a_faulty_server(status: int) -> None:
    with pytest.raises(TransientError, match=f"^HTTP {status}: no$") as caught:
        judge(status)
    assert not isinstance(caught.value, Busy)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, b"who are you?"),
        (402, b"insufficient credits"),
        (407, b"the proxy wants a password"),
        (429, b'{"error": {"code": "insufficient_quota"}}'),
        (403, b'{"error": {"code": "account_deactivated"}}'),
        (400, b'{"error": {"message": "Your credit balance is too low to access the API."}}'),
        (400, b'{"error": {"details": [{"reason": "API_KEY_INVALID"}]}}'),
    ],
)
def test_the_account(status: int, body: bytes) -> None:
    with pytest.raises(ModelError, match=f"HTTP {status} for model `m`.*check `base_url`") as found:
        judge(status, body)
    assert not isinstance(found.value, Denied)


@pytest.mark.parametrize("status", [204, 301, 403, 404, 405, 418, 499])
def test_what_may_be_the_request_or_everybody(status: int) -> None:
    with pytest.raises(Denied, match=f"HTTP {status} for model `m`.*check `base_url`") as found:
        judge(status)
    assert (found.value.cause, found.value.raw) == (f"HTTP {status}", "no")


def test_a_page_is_quoted_by_its_title() -> None:
    page = b"<html>\n<head><title>503 Service\n Unavailable</title></head><body>x</body></html>"
    with pytest.raises(Busy, match=r'^HTTP 503: a web page: "503 Service Unavailable"$'):
        judge(503, page)
    assert judge(400, b"line\n  line").raw == "line line"


@given(st.integers(100, 599), st.binary(max_size=60))
def test_every_status_means_something(status: int, body: bytes) -> None:
    try:
        meant: Refusal | Exception = judge(status, body)
    except (ModelError, TransientError) as error:
        meant = error
    assert f"HTTP {status}" in str(meant)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"Retry_After": "0.5"}, 0.5),
        ({"retry_after": "-3"}, 0.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "1e999"}, math.inf),
        ({"retry_after": "Thu, 22 Oct 2015 07:28:00 GMT"}, 86400.0),
        ({"retry_after": "Wed, 21 Oct 2015 07:00:00 GMT"}, 0.0),
        ({"retry_after": "Wed, 99 Oct 2015 07:00:00 GMT"}, None),
        ({"retry_after_ms": "1500", "retry_after": "2"}, 1.5),
        ({"retry_after": "90s"}, 90.0),
        ({"retry_after": "1m30s"}, 90.0),
        ({"retry_after": "250ms"}, 0.25),
        ({"retry_after": "1h"}, 3600.0),
        ({"retry_after": "2015-10-22T07:28:00Z"}, 86400.0),
        ({"retry_after": "Thu, 22 Oct 2015 07:28:00"}, 86400.0),
        ({"retry_after": f"{1_600_000_000}"}, 1_600_000_000 - NOW),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(reply(**headers), NOW) == seconds


@given(st.text(max_size=40))
def test_no_header_is_too_odd(value: str) -> None:
    found = retry_after(Reply(429, b"", [(b"retry-after", value.encode())]), NOW)
    assert found is None or found >= 0
