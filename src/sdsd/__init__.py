"""Self-directed synthetic dialogues and revisions.

    from sdsd import run
    result = run(n=3)
    for record in result.records(): ...

The names below are imported when they are first used, so that `import sdsd` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdsd.config import Config
    from sdsd.errors import SdsdError
    from sdsd.models.scripted import ScriptedModel
    from sdsd.runs.runner import Result, run
    from sdsd.types import Record

__version__ = "0.1.0"
__all__ = ["Config", "Record", "Result", "ScriptedModel", "SdsdError", "__version__", "run"]

_HOMES = {
    "Config": "sdsd.config",
    "Record": "sdsd.types",
    "Result": "sdsd.runs.runner",
    "ScriptedModel": "sdsd.models.scripted",
    "SdsdError": "sdsd.errors",
    "run": "sdsd.runs.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sdsd' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
