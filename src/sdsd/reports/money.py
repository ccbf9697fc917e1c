"""Price tokens, where models have a price."""

from __future__ import annotations

from collections.abc import Iterable

from sdsd.config import Config, PriceConfig
from sdsd.types import Role, Usage


def cost(price: PriceConfig, prompt: int, cached: int, completion: int) -> float:
    """Return the price of these tokens; `cached` of the `prompt` tokens came from a prefix cache.

    The unit is the currency of the configured prices, which are per million tokens.
    """
    again = price.prompt if price.cached is None else price.cached
    fresh = max(prompt - cached, 0)
    return (fresh * price.prompt + cached * again + completion * price.completion) / 1e6


def money(usage: Iterable[Usage], config: Config) -> float:
    """Return the price of all of `usage`; roles that the configuration lacks cost nothing."""
    by_role = prices(config)
    return sum(
        (
            cost(by_role[u.role], u.prompt_tokens, u.cached_tokens, u.completion_tokens)
            for u in usage
            if u.role in by_role
        ),
        0.0,
    )


def prices(config: Config) -> dict[Role, PriceConfig]:
    return {role: config.model_for(role).price for role in config.role_models}
