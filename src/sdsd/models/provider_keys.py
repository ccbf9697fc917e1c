"""Which environment variable holds a model's API key, where the configuration names none."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sdsd.config import ModelConfig
from sdsd.models.addresses import parse

DEFAULT = "OPENAI_API_KEY"
PROVIDERS = {
    "openai.azure.com": "AZURE_OPENAI_API_KEY",
    "api.anthropic.com": "ANTHROPIC_API_KEY",
    "api.cerebras.ai": "CEREBRAS_API_KEY",
    "api.deepinfra.com": "DEEPINFRA_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "api.fireworks.ai": "FIREWORKS_API_KEY",
    "generativelanguage.googleapis.com": "GEMINI_API_KEY",
    "api.groq.com": "GROQ_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "integrate.api.nvidia.com": "NVIDIA_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.x.ai": "XAI_API_KEY",
    "router.huggingface.co": "HF_TOKEN",
}
"""By host, the usual name of the provider's own key. Nobody else's key is sent there."""


def key_variable(chosen: ModelConfig) -> str:
    """Return the name of the variable: the configured one, or else the one of the provider."""
    if chosen.api_key_env:
        return chosen.api_key_env
    named = {_by_host(parse(url).host) for url in chosen.urls}
    return named.pop() if len(named) == 1 else DEFAULT


def key_for(chosen: ModelConfig, env: Mapping[str, str] = os.environ) -> str:
    """Return the API key for a model's servers; empty if there is none."""
    return env.get(key_variable(chosen), "")


def _by_host(host: str) -> str:
    found = (name for known, name in PROVIDERS.items() if f".{host}".endswith(f".{known}"))
    return next(found, DEFAULT)
