"""The key that a server gets: the configured one, or the provider's own, and nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdsd import config as configuration
from sdsd.config import ModelConfig
from sdsd.models.provider_keys import PROVIDERS, key_for, key_variable

HUB = "https://router.huggingface.co/v1"
ROUTER = "https://openrouter.ai/api/v1"
ENV = {"OPENAI_API_KEY": "openai", "HF_TOKEN": "hub", "MINE": "mine"}


def server(**keys: Any) -> ModelConfig:
    return configuration.load({"models": {"default": {"model": "m", **keys}}}).models["default"]


@pytest.mark.parametrize(
    ("chosen", "key"),
    [
        (server(), "openai"),
        (server(base_url="http://a/v1"), "openai"),
        (server(base_url="https://api.openai.com/v1"), "openai"),
        (server(base_url="http://a/v1", api_key_env="MINE"), "mine"),
        (server(base_url="http://a/v1", api_key_env="NONE"), ""),
        (server(base_url=HUB), "hub"),
        (server(base_url=HUB, api_key_env="MINE"), "mine"),
        (server(base_url=HUB, api_key_env="OPENAI_API_KEY"), "openai"),
        (server(base_url=[HUB, "http://a/v1"]), "openai"),
        (server(base_url=[HUB, f"{HUB}/"]), "hub"),
        (server(base_url=ROUTER), ""),  # not OpenAI's
    ],
)
def test_which_key_is_sent(chosen: ModelConfig, key: str) -> None:
    assert key_for(chosen, ENV) == key


@pytest.mark.parametrize(
    ("host", "variable"),
    [
        ("openrouter.ai", "OPENROUTER_API_KEY"),
        ("OpenRouter.ai:443", "OPENROUTER_API_KEY"),
        ("mine.openai.azure.com", "AZURE_OPENAI_API_KEY"),
        ("notopenrouter.ai", "OPENAI_API_KEY"),
        ("openrouter.ai.evil.example", "OPENAI_API_KEY"),
    ],
)
def test_a_provider_is_known_by_its_host(host: str, variable: str) -> None:
    assert key_variable(server(base_url=f"https://{host}/v1")) == variable


def test_the_documentation_lists_every_provider() -> None:
    page = (Path(__file__).parents[2] / "docs" / "servers.md").read_text("utf-8")
    for host, variable in PROVIDERS.items():
        assert f"| `{host}` | `{variable}` |\n" in page
