"""What tokens cost, where models have a price."""

from __future__ import annotations

from collections.abc import Iterable

from sdsd.config import Config, PriceConfig
from sdsd.types import Role, Usage


def cost(price: PriceConfig, prompt: int, cached: int, completion: int) -> float:
    """Money for so many tokens; `cached` of the `prompt` tokens were found in a cache."""
    again = price.prompt if price.cached is None else price.cached
    fresh = max(prompt - cached, 0)
    return (fresh * price.prompt + cached * again + completion * price.completion) / 1e6


def money(usage: Iterable[Usage], config: Config) -> float:
    """What all of `usage` cost."""
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
    """By role, the price of the model that plays it."""
    return {role: config.model_for(role).price for role in config.role_models}
