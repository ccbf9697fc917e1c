"""Secrets are found however a server repeats them, and nothing else is touched."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdsd.text.secrets import Secrets, is_secret_name, may_be_a_word

KEY = "sk-PLANTED/0123456789+abc=="
QUOTED: list[Callable[[str], str]] = [
    str,
    quote,
    quote_plus,
    html.escape,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    lambda text: "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in text),
    lambda text: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text),
    lambda text: "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in text),
]
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=30)


@pytest.mark.parametrize("way", range(len(QUOTED)))
@given(secret=printable)
@example(KEY)
@example("pass/word\"with<all>&'1")
@example("back\\slashes\\\\and/1")
def test_a_secret_is_found_in_every_form(way: int, secret: str) -> None:
    shown = QUOTED[way](secret)
    assert Secrets([secret]).hide_in_error(f"<{shown}>".encode()) == b"<***>"


@given(before=st.text(max_size=40), after=st.text(max_size=40))
def test_a_reply_is_hidden_like_an_error(before: str, after: str) -> None:
    body = json.dumps({"text": before + KEY + " " + after}).encode()
    found = Secrets([KEY]).hide_in_reply(body)
    assert json.loads(found) == {"text": before + "*** " + after}


@given(st.text(max_size=200))
def test_nothing_else_is_touched(text: str) -> None:
    body = text.encode("utf-8", "replace")
    secrets = Secrets([KEY, "s3cret-word"], ["gpu-1.example.com:8000"])
    assert secrets.hide_in_reply(body) is body
    assert secrets.hide_in_error(body) == body
    assert Secrets([]).hide(text) == text


def test_a_secret_that_was_cut_off_is_found() -> None:
    """Servers quote the beginning of what they refuse."""
    assert Secrets([KEY]).hide(f"got {KEY[:20]}") == "got ***"


@pytest.mark.parametrize("way", range(len(QUOTED)))
@pytest.mark.parametrize("secret", ["lm-studio", "Two words/and=more", KEY])
def test_no_part_of_a_secret_stays_where_a_long_error_is_cut(secret: str, way: int) -> None:
    shown, secrets = QUOTED[way](secret).encode(), Secrets([secret])
    for before in range(2**16 - len(shown) - 1, 2**16 + 1):
        found = secrets.hide_in_error(b"." * before + shown + b"." * 200_000)
        assert found.replace(b"***", b"").strip(b".") == b""
        assert len(found) > 2**15


def test_the_longest_secret_goes_first() -> None:
    basic = base64.b64encode(b"alice:s3cret").decode()
    assert Secrets(["s3cret", "s3cret-and-more"]).hide("s3cret-and-more") == "***"
    assert Secrets(["s3cret", basic]).hide(f"Basic {basic}, s3cret") == "Basic ***, ***"


def test_what_could_be_a_word_stays_in_what_a_model_wrote() -> None:
    secrets = Secrets(["EMPTY", "lm-studio", "model"], ["localhost:8000"])
    body = b'{"model": "lm-studio-7b", "text": "EMPTY, at localhost:8000"}'
    assert secrets.hide_in_reply(body) == body
    assert secrets.hide_in_error(b"wrong key EMPTY at localhost:8000") == b"wrong key *** at ***"


def test_a_short_secret_is_not_looked_for_inside_words() -> None:
    assert Secrets(["pw"]).hide_in_error(b"pwd pw! upward pw") == b"pwd ***! upward ***"


@pytest.mark.parametrize(
    "name", ["x-goog-api-key", "Authorization", "sig", "accessToken", "Cookie"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["max_tokens", "tokenizer", "api-version", "X-Title", "stop"])
def test_names_of_what_is_no_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_a_hostile_text_is_searched_in_linear_time() -> None:
    secrets = Secrets(["\\/" * 12 + "a1", "////////1"])
    began = time.process_time()
    for text in (b"\\" * 100_000, b"/" * 100_000):
        secrets.hide_in_error(text)
    assert time.process_time() - began < 20  # quadratic: hours


@given(st.text(max_size=30))
def test_short_texts_may_be_words(text: str) -> None:
    assert may_be_a_word(text[:5])
