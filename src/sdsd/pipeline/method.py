"""How the dialogues of a run are made: what `make_record` gets, and the contract of a pipeline."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Protocol

from msgspec import Struct

from sdsd.config import Config
from sdsd.pipeline.critique import Panel
from sdsd.pipeline.directed import Directions
from sdsd.scenarios.strategies import Strategy
from sdsd.text.chat_format import Template
from sdsd.text.prompt_files import Prompt
from sdsd.types import (
    Calibration,
    Card,
    Completion,
    Dialogue,
    Direction,
    PairKind,
    Plan,
    Principle,
    Record,
    Request,
    Scenario,
    StageUsage,
)

PROMPTS = (
    "plan", "stake", "transcript", "continuation", "chat", "roleplay",
    "review", "directed", "siblings",
)  # fmt: skip


class Ask(Protocol):
    """Access to the models: returns recorded answers, and sends and records new requests."""

    @property
    def usage(self) -> dict[str, StageUsage]:
        """What the dialogue has cost so far, by stage."""
        ...

    async def __call__(self, step: str, request: Request) -> Completion:
        """Return the answer to one request.

        step  a name used once in a dialogue: `plan`, `turn/2/agent`, `critique/1`

        Raises `StageFailed` if the server refused the request for good.
        """
        ...


class Method(Struct, frozen=True):
    """How every dialogue of a run is made; fixed when the run begins."""

    config: Config
    prompts: dict[str, Prompt]
    """By name, the files of `PROMPTS`."""
    strategies: dict[str, Strategy]
    """By name, those that scenarios use."""
    protocol: str
    """A packaged protocol or `package.module:name`; never `auto`."""
    template: Template | None = None
    """The model's chat format, for `continuation`."""
    schema: bool = False
    """Whether the critic's server can hold a reply to a JSON schema."""
    concurrent_verdicts: bool = False
    """Whether the critic's server shares a prefix between concurrent requests. Decides when a
    request is sent, never what is asked."""
    pairs: tuple[PairKind, ...] = ("revision", "on_policy")
    """The kinds of pairs to make."""
    cards: Mapping[str, Card] = {}
    """By id, the cards of principles that have one."""
    calibrations: Mapping[str, Calibration] = {}
    """By critic, how to read its answers."""
    shared_chat: bool = False
    """Whether critic and reviser are the agent's own model, so that they can continue its chat."""

    def directions(self, principle: Principle) -> Directions:
        """Return the directions under which siblings are sampled.

        They show other example pairs than the critic sees, as far as there are any: a reply that
        was sampled in the very chats that it is judged by would look likelier than it is. And they
        tell what to do rather than what to break, and tell it again right before the reply: small
        models follow that more often.
        """
        card = self.cards.get(principle.id, Card())
        shown = card.examples[self.config.critique.examples :] or card.examples
        prompts, system = self.prompts["siblings"], ""
        reminders: dict[Direction, str] = {
            "satisfy": prompts.fill("satisfy_now", satisfaction=card.satisfaction or principle.text)
        }
        if card.violation:
            system = prompts.fill("violate", violation=card.violation)
            reminders["violate"] = prompts.fill("violate_now", violation=card.violation)
        return Directions(principle, shown, self.prompts["directed"], system, reminders)

    @property
    def panel(self) -> Panel:
        """The critics, and how they are asked."""
        config, review = self.config, self.prompts["review"]
        return Panel(
            config.critique,
            review,
            config.attempts,
            self.schema,
            self.concurrent_verdicts,
            self.prompts["directed"],
            self.cards,
            self.calibrations,
        )


class Start(Struct, frozen=True):
    """What a dialogue starts from: nothing, an existing plan, or an existing dialogue."""

    plan: Plan | None = None
    dialogue: Dialogue | None = None


class Pipeline(Protocol):
    """Make the record of one scenario, in place of the packaged pipeline.

    Named in the configuration as `pipeline: package.module:name`. Models are reached by `ask`
    alone; whatever else belongs to the record goes into `Record.extra`, as JSON values.
    """

    def __call__(
        self, scenario: Scenario, ask: Ask, method: Method, start: Start
    ) -> Awaitable[Record]:
        """Return the finished record."""
        ...
