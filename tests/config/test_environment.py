"""`${VAR}` in a model's section."""

from __future__ import annotations

from typing import Any

import pytest

from sdsd import config as configuration
from sdsd.config import ModelConfig
from sdsd.config.environment import fill
from sdsd.errors import ConfigError

ENV = {
    "KEY": "k-1", "PASSWORD": "p@ss/w:rd#1", "HOST": "gpu-1:8000", "URL": "http://gpu-1/v1",
    "HF_TOKEN_PATH": "/none",
}  # fmt: skip


def section(**keys: Any) -> ModelConfig:
    return configuration.load({"models": {"default": {"model": "m", **keys}}}).models["default"]


def test_headers_and_nested_fields_are_filled_in() -> None:
    filled = fill(
        section(
            headers={"api-key": "${KEY}", "X-Two": "a ${KEY} b ${HOST}", "X-Title": "sdsd"},
            extra_body={"auth": [{"deep": "${KEY}"}], "n": 1, "secret": "literal"},
        ),
        "default",
        ENV,
    )
    assert filled.model.headers == {
        "api-key": "k-1", "X-Two": "a k-1 b gpu-1:8000", "X-Title": "sdsd"
    }  # fmt: skip
    assert filled.model.extra_body == {
        "auth": [{"deep": "k-1"}], "n": 1, "secret": "literal"
    }  # fmt: skip
    assert set(filled.secrets) == {"k-1", "gpu-1:8000", "literal"}


@pytest.mark.parametrize(
    ("url", "found", "secrets"),
    [
        ("${URL}", "http://gpu-1/v1", ()),
        ("http://${HOST}/v1", "http://gpu-1:8000/v1", ()),
        ("http://me:${PASSWORD}@h/v1", "http://me:p%40ss%2Fw%3Ard%231@h/v1", ("p@ss/w:rd#1",)),
        ("http://h/v1?code=${PASSWORD}", "http://h/v1?code=p%40ss%2Fw%3Ard%231", ("p@ss/w:rd#1",)),
    ],
)
def test_addresses_are_filled_in(url: str, found: str, secrets: tuple[str, ...]) -> None:
    filled = fill(section(base_url=url), "default", ENV)
    assert (filled.model.urls, filled.secrets) == ((found,), secrets)


@pytest.mark.parametrize("text", ["$$", "5 $KEY a", "{KEY}", "$${KEY}", "a $ {b}"])
def test_other_dollars_stay(text: str) -> None:
    filled = fill(section(headers={"X-A": text}), "default", ENV)
    assert filled.model.headers["X-A"] == text.replace("$${", "${")
    assert not filled.secrets


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("${NONE}", r"`models\.big\.headers\.X-A` needs .*`NONE`, which is not set; export it"),
        ("${EMPTY}", "`EMPTY`, which is not set"),
        ("${KEY:-x}", r"does not name a variable; write \$\{NAME\}"),
        ("${KEY", "does not name a variable"),
        ("${}", "does not name a variable"),
        ("$KEY", r"`models\.big\.headers\.X-A`: `\$KEY` is sent as it is; write \$\{KEY\} for"),
        ("Bearer $KEY", r"write \$\{KEY\}"),
        ("%KEY%", r"write \$\{KEY\}"),
    ],
)
def test_what_cannot_be_filled_in(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        fill(section(headers={"X-A": text}), "big", {**ENV, "EMPTY": ""})


def test_the_configuration_keeps_the_variable() -> None:
    chosen = configuration.load({"model": "m", "models": {"default": {
        "headers": {"api-key": "${KEY}"}, "extra_body": {"key": "${KEY}"}
    }}})  # fmt: skip
    fill(chosen.models["default"], "default", ENV)
    assert "${KEY}" in configuration.dump(chosen)
    assert "k-1" not in configuration.dump(chosen)


def test_a_secret_that_changed_is_not_shown() -> None:
    before, after = (
        configuration.load({"model": "m", "models": {"default": {
            "extra_body": {"api_key": key, "top_k": len(key)}
        }}})
        for key in ("old", "newer")
    )  # fmt: skip
    assert configuration.differences(after, before) == [
        "models.default.extra_body.api_key: *** -> ***",
        "models.default.extra_body.top_k: 3 -> 5",
    ]
