"""A model whose replies were written by hand: the demonstration, `sdsd demo`, is made with it.

Its replies are in `sdsd/demo/replies`, a YAML file per dialogue:

    scenario: 000000-0f3a9c1e
    outcome: accepted                   what is meant to come out of it: the outcome,
    rule: ""                            the rule, if it is filtered,
    pairs: [contrast, revision]         and the pairs
    replies:                            by the name of the step
      plan: |-
        PERSON: ...

A request is answered by its scenario and step, never by its wording, so a prompt may change and the
replies still fit. A model is not told which step asks; but the sampling seed that it gets is a hash
of scenario and step, so the seeds of the steps in a file say which of them a request is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sdsd.config import Config, ModelConfig
from sdsd.errors import ConfigError
from sdsd.hashing import call_seed
from sdsd.models.base import Capabilities
from sdsd.text import yaml_files
from sdsd.types import Answer, Completion, Outcome, PairKind, Request

FOLDER = Path(__file__).parents[1] / "demo"
"""What the demonstration is made from: configuration, catalogue and replies."""
BACKEND = "sdsd.models.hand_written:HandWritten"
"""As a configuration names it (`models.<name>.backend`)."""


class Replies(Struct, frozen=True, forbid_unknown_fields=True):
    """The replies of one dialogue."""

    scenario: str
    """Id of the scenario that they answer."""
    outcome: Outcome
    """The outcome that was intended."""
    replies: dict[str, str]
    """By step."""
    rule: str = ""
    pairs: tuple[PairKind, ...] = ()
    name: str = ""
    """For readers of the file."""


class HandWritten:
    """Answers with replies that were written by hand. Takes its section of the configuration."""

    def __init__(self, config: ModelConfig, folder: Path = FOLDER) -> None:
        self.name = config.model
        self.capabilities = Capabilities()
        self._folder = folder / "replies"
        seed = _yaml(folder / "config.yaml")["seed"]
        self._by_seed = {
            index: {call_seed(seed, of.scenario, step): text for step, text in of.replies.items()}
            for index, of in read(folder).items()
        }
        """By dialogue and sampling seed."""

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """Return the reply to a step. It has no tokens and took no time: nobody has counted them.

        Raises `LookupError` if there is none; the caller knows the step, and names it.
        """
        if dialogue not in self._by_seed:
            raise LookupError(f"there are replies for {len(self._by_seed)} dialogues only")
        reply = self._by_seed[dialogue].get(seed)
        if reply is None:
            raise LookupError(f"no reply to this step in {self._folder / file_name(dialogue)}")
        return Completion(reply, model=self.name)


def is_hand_written(config: Config) -> bool:
    """Return whether all that the models of a run say was written by hand."""
    return all(config.model_for(role).backend == BACKEND for role in config.role_models)


def file_name(index: int) -> str:
    """Return the name of the file with the replies of a dialogue."""
    return f"{index:02d}.yaml"


def read(folder: Path = FOLDER) -> dict[int, Replies]:
    """Return the replies by the index of the dialogue. Raises `ConfigError`."""
    return {int(path.stem): _replies(path) for path in sorted((folder / "replies").glob("*.yaml"))}


def _replies(path: Path) -> Replies:
    try:
        return msgspec.convert(_yaml(path), Replies)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}; see docs/demo.md") from None


def _yaml(path: Path) -> Any:
    return yaml_files.parse(path.read_text("utf-8"))
