"""Addresses taken apart; each of these was once sent, shown or refused in the wrong way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.errors import ModelError
from sdsd.models.addresses import parse


@pytest.mark.parametrize(
    ("url", "target", "shown"),
    [
        ("http://h:1/v1", "/v1/x", "http://h:1/v1"),
        ("http://h/v1/", "/v1/x", "http://h/v1/"),
        ("http://h", "/x", "http://h"),
        (" http://h/v1\n", "/v1/x", "http://h/v1"),
        ("http://h/d?api-version=2024-10-21", "/d/x?api-version=2024-10-21",
         "http://h/d?api-version=2024-10-21"),
        ("http://h/d?a=1&code=abc", "/d/x?a=1&code=abc", "http://h/d?a=1&code=***"),
        ("http://h/d/?t=0123456789abcdefghij", "/d/x?t=0123456789abcdefghij", "http://h/d/?t=***"),
        ("http://h/my path/é", "/my%20path/%C3%A9/x", "http://h/my%20path/%C3%A9"),
        ("http://h/a%2Fb", "/a%2Fb/x", "http://h/a%2Fb"),
        ("http://alice:s3cret@h/v1", "/v1/x", "http://***@h/v1"),
        ("http://t0ken@h/v1", "/v1/x", "http://***@h/v1"),
        ("http://[::1]:8000/v1", "/v1/x", "http://[::1]:8000/v1"),
        # With the route that every request appends; only its end is one.
        ("http://h/v1/chat/completions", "/v1/x", "http://h/v1/chat/completions"),
        ("http://h/v1/completions/", "/v1/x", "http://h/v1/completions/"),
        ("http://h/d/chat/completions?api-version=1", "/d/x?api-version=1",
         "http://h/d/chat/completions?api-version=1"),
        ("http://h/v1/models", "/v1/x", "http://h/v1/models"),
        ("http://h/models/v1", "/models/v1/x", "http://h/models/v1"),
        ("HTTP://h/v1#part", "/v1/x", "http://h/v1"),
    ],
)  # fmt: skip
def test_what_is_sent_and_what_is_shown(url: str, target: str, shown: str) -> None:
    address = parse(url)
    assert (address.target("/x"), address.shown) == (target, shown)


def test_a_path_with_a_query_gets_the_address_s_query_as_well() -> None:
    address = parse("http://h/api/v1?k=v")
    assert address.target("/batches?limit=100") == "/api/v1/batches?limit=100&k=v"
    assert address.target("/metrics", root=True) == "/api/metrics?k=v"


@pytest.mark.parametrize(
    ("url", "basic"),
    [
        ("http://h", ""),
        ("http://alice:s3cret@h", "Basic YWxpY2U6czNjcmV0"),
        ("http://alice@h", "Basic YWxpY2U6"),
        ("http://:s3cret@h", "Basic OnMzY3JldA=="),
        ("http://a%40b:s%2F%3A@h", "Basic YUBiOnMvOg=="),
    ],
)
def test_user_info_is_sent_as_basic(url: str, basic: str) -> None:
    assert parse(url).basic == basic


def test_names_beyond_ascii_are_encoded() -> None:
    assert parse("http://bücher.example/v1").authority == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "url",
    [
        "http://h /v1", "http://h\\v1", "http://${HOST}/v1", "http://<host>/v1",
        "http://[::1", "http://", "localhost:8000/v1", "ftp://h/v1", "http://h:port/v1",
        "http://h:99999", "http:///v1", "http://a\x00b/v1", "http://" + "ü" * 80 + "/v1",
        "", "//h/v1",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ModelError, match=r"not an address.*write it like http://localhost:8000/v1"):
        parse(url)


@pytest.mark.parametrize(
    "url", ["http://alice:pa#ss1@h/v1", "http://alice:pa/ss1@h/v1", "http://alice:pa?ss1@h:x/v1"]
)
def test_an_error_repeats_no_password(url: str) -> None:
    with pytest.raises(ModelError, match=r"special characters .* as %XX") as error:
        parse(url)
    assert "pa" not in str(error.value).partition("write")[0].replace("password", "")


def test_the_variable_of_a_bad_address_is_named() -> None:
    with pytest.raises(ModelError, match=r"^`OPENAI_BASE_URL`: here: not an address"):
        parse("here", "OPENAI_BASE_URL")


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    for url in (text, f"http://{text}", f"https://user:{text}@host/v1"):
        try:
            address = parse(url)
        except ModelError:
            continue
        assert address.target("/x").isascii()
        assert " " not in address.target("/x")
        assert not address.password or len(address.password) < 6 or "***" in address.shown
