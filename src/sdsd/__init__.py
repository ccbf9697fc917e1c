"""Self-directed synthetic dialogues and revisions.

    from sdsd import Run, run

    r = run("my.yaml", n=1000)        # or: await arun(...)
    for pair in r.pairs():
        print(pair.prompt, pair.chosen, pair.rejected)
    Run.open("runs/x").status()

`__all__` is the public API; everything else is internal. Names are imported when they are first
used, so that `import sdsd` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdsd.config import Config
    from sdsd.dataset.trainer_formats import Format
    from sdsd.dataset.view import View
    from sdsd.errors import (
        Busy,
        CatalogueError,
        ConfigError,
        Denied,
        Divergence,
        JournalError,
        Malformed,
        ModelError,
        ModelSetup,
        NoAnswer,
        PluginError,
        PromptError,
        ReplayMiss,
        RunDirError,
        SdsdError,
        ServerGone,
        SourceError,
        StageFailed,
        Stopped,
        TransientError,
        Unparseable,
        Unreachable,
        WeightsError,
    )
    from sdsd.models.base import Capabilities, Model
    from sdsd.models.scripted import ScriptedModel
    from sdsd.pipeline.dialogue import DialogueTask
    from sdsd.pipeline.local_critic import Critic
    from sdsd.pipeline.method import Ask, Method, Pipeline, Start
    from sdsd.pipeline.protocols import DialogueProtocol
    from sdsd.runs.events import Began, Called, Event, Examined, Fetching, Noted, Recorded
    from sdsd.runs.run import PreferencePair, Run, RunStatus
    from sdsd.runs.runner import arun, run
    from sdsd.runs.verify import Verification
    from sdsd.types import (
        Completion,
        Critique,
        Dialogue,
        Message,
        Plan,
        Principle,
        Record,
        Refusal,
        Request,
        Revision,
        Scenario,
        Turn,
        Verdict,
    )

__version__ = "0.2.0.dev0"

_NAMES = {
    "sdsd.config": "Config",
    "sdsd.dataset.trainer_formats": "Format",
    "sdsd.dataset.view": "View",
    "sdsd.errors": (
        "Busy CatalogueError ConfigError Denied Divergence JournalError Malformed ModelError "
        "ModelSetup NoAnswer PluginError PromptError ReplayMiss RunDirError SdsdError ServerGone "
        "SourceError StageFailed Stopped TransientError Unparseable Unreachable WeightsError"
    ),
    "sdsd.models.base": "Capabilities Model",
    "sdsd.models.scripted": "ScriptedModel",
    "sdsd.pipeline.dialogue": "DialogueTask",
    "sdsd.pipeline.local_critic": "Critic",
    "sdsd.pipeline.method": "Ask Method Pipeline Start",
    "sdsd.pipeline.protocols": "DialogueProtocol",
    "sdsd.runs.events": "Began Called Event Examined Fetching Noted Recorded",
    "sdsd.runs.run": "PreferencePair Run RunStatus",
    "sdsd.runs.runner": "arun run",
    "sdsd.runs.verify": "Verification",
    "sdsd.types": (
        "Completion Critique Dialogue Message Plan Principle Record Refusal Request Revision "
        "Scenario Turn Verdict"
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Ask",
    "Began",
    "Busy",
    "Called",
    "Capabilities",
    "CatalogueError",
    "Completion",
    "Config",
    "ConfigError",
    "Critic",
    "Critique",
    "Denied",
    "Dialogue",
    "DialogueProtocol",
    "DialogueTask",
    "Divergence",
    "Event",
    "Examined",
    "Fetching",
    "Format",
    "JournalError",
    "Malformed",
    "Message",
    "Method",
    "Model",
    "ModelError",
    "ModelSetup",
    "NoAnswer",
    "Noted",
    "Pipeline",
    "Plan",
    "PluginError",
    "PreferencePair",
    "Principle",
    "PromptError",
    "Record",
    "Recorded",
    "Refusal",
    "ReplayMiss",
    "Request",
    "Revision",
    "Run",
    "RunDirError",
    "RunStatus",
    "Scenario",
    "ScriptedModel",
    "SdsdError",
    "ServerGone",
    "SourceError",
    "StageFailed",
    "Start",
    "Stopped",
    "TransientError",
    "Turn",
    "Unparseable",
    "Unreachable",
    "Verdict",
    "Verification",
    "View",
    "WeightsError",
    "__version__",
    "arun",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sdsd' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
