"""What a run has spent: tokens, and money where models have a price."""

from __future__ import annotations

from collections.abc import Iterable

from sdsd.config import BudgetConfig, Config
from sdsd.reports.money import cost, money, prices
from sdsd.types import Completion, Role, Usage


class Account:
    """Running totals of a run, compared with its budget."""

    def __init__(self, config: Config, before: Iterable[Usage]) -> None:
        before = list(before)
        self.tokens = sum(u.prompt_tokens + u.completion_tokens for u in before)
        self.money = money(before, config)
        self._prices = prices(config)
        self._budget: BudgetConfig = config.budget

    def add(self, role: Role, answer: Completion) -> None:
        self.tokens += answer.prompt_tokens + answer.completion_tokens
        price = self._prices.get(role)  # a critic that is a function has none
        if price and (price.prompt or price.completion):
            used = (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens)
            self.money += cost(price, *used)

    @property
    def exhausted(self) -> str:
        """Which part of the budget is used up, and what to do; empty while some is left."""
        budget = self._budget
        if budget.tokens and self.tokens >= budget.tokens:
            return (
                f"the budget of {budget.tokens:,} tokens is used up ({self.tokens:,}); "
                "raise `budget.tokens` and run the same command again to continue"
            )
        if budget.money and self.money >= budget.money:
            return (
                f"the budget of {budget.money:,.2f} is used up ({self.money:,.2f}); "
                "raise `budget.money` and run the same command again to continue"
            )
        return ""
