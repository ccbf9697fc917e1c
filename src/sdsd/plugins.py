"""User-defined parts, named in a configuration.

A part is named as `package.module:name`, or by the name of an entry point in one of `GROUPS`:

    [project.entry-points."sdsd.critics"]
    toxicity = "my_package.judges:toxicity"

`resolve` finds the object, and `blamed` names it in the errors that its code raises. `version`
identifies the code that a run was made with; it goes into the manifest, so that resuming and
verifying can detect a change.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sdsd.errors import PluginError, SdsdError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUPS = ("backends", "critics", "pipelines", "protocols", "views", "filters", "formats", "checks")
"""Entry points are looked up in `sdsd.<group>`."""


def is_spec(name: str) -> bool:
    """Whether a name is a `package.module:name`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), attribute))


def resolve(name: str, group: str, known: tuple[str, ...] = ()) -> Any:
    """Import the part called `name`.

    group   one of `GROUPS`
    known   the packaged names, for the message

    Raises `PluginError` that names the part, the group and the remedy.
    """
    if is_spec(name):
        module, _, attribute = name.partition(":")
        return _import(name, module, attribute)
    for point in _points(group):
        if point.name == name:
            module, _, attribute = point.value.partition(":")
            return _import(name, module, attribute)
    names = ", ".join([*known, *(point.name for point in _points(group))])
    if not names:
        raise PluginError(
            f"`{name}` is not one of the {group}, of which none are installed; name your own as "
            "`package.module:name`"
        )
    raise PluginError(
        f"`{name}` is not one of the {group}: {names}; name one of these, or your own as "
        "`package.module:name`"
    )


def version(part: Callable[..., Any] | object) -> str:
    """Return a digest of the source file that defines a part, or its qualified name without one."""
    kind = part if inspect.isroutine(part) or inspect.isclass(part) else type(part)
    try:
        source = Path(inspect.getsourcefile(kind) or "").read_bytes()
    except (TypeError, OSError):
        return f"{kind.__module__}.{kind.__qualname__}"
    return hashlib.sha256(source).hexdigest()


def function(name: str, group: str, known: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Import a part that is called as it is. Raises `PluginError` for a class or a value."""
    part: Callable[..., Any] = resolve(name, group, known)
    if not callable(part) or inspect.isclass(part):
        raise PluginError(
            f"`{name}` is of type `{type(part).__name__}` and cannot be called; {group} are "
            "functions, or objects with `__call__`"
        )
    return part


@contextmanager
def blamed(part: str, where: str, *data: type[Exception]) -> Iterator[None]:
    """Turn whatever a part's own code raises into a `PluginError` that names the part.

    data  exceptions that are part of the contract and pass unchanged
    """
    try:
        yield
    except data:
        raise
    except BaseException as error:
        blame(error, part, where)


def blame(error: BaseException, part: str, where: str) -> NoReturn:
    """Raise a `PluginError` that names the part, or the error itself if it `passes_through`."""
    if passes_through(error):
        raise error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raise PluginError(
        f"{part} failed on {where}: {type(error).__name__}: {error} "
        f"({Path(frame.filename).name}, line {frame.lineno})"
    ) from error


def passes_through(error: BaseException) -> bool:
    """Whether an error that a part's code let out is not the part's: it interrupts from outside, or
    has a message for the user already."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, SdsdError) or not isinstance(error, Exception | SystemExit)


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points

    return tuple(entry_points(group=f"sdsd.{group}"))


def _import(name: str, module: str, attribute: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:  # `my_critics.py` next to the configuration, as `python -m` would find it
        sys.path.insert(0, here)
    try:
        return getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"`{name}` cannot be imported: {type(error).__name__}: {error}; {_hint(module)}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)


def _hint(module: str) -> str:
    """Say which file was imported, if any: another module may have the name."""
    if module in sys.modules:
        origin = getattr(sys.modules[module], "__file__", None) or "the Python interpreter"
        return f"`{module}` was imported from {origin}: if that is another module, rename yours"
    return "is it installed, or in the folder that you run `sdsd` from?"
