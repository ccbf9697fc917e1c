"""Everything that can go wrong, as one small tree.

Three kinds matter to a caller:

* `SdsdError`: the user or the machine must act. The message names the thing and the remedy; the
  command line prints it and exits with `exit_code`.
* `TransientError`: a fault of transport. Retried below the journal, leaves no trace.
* `StageFailed`: one dialogue could not be made. Recorded as data; the run goes on.
"""

from __future__ import annotations


class SdsdError(Exception):
    """The run cannot go on until somebody acts. The message says on what, and how."""

    exit_code = 2


class ConfigError(SdsdError):
    """A key of the configuration is unknown, or its value is out of bounds."""


class CatalogueError(SdsdError):
    """A catalogue file is malformed, empty or contradicts itself. Names file and line."""


class PromptError(SdsdError):
    """A prompt file misses a section, or names a placeholder that nobody fills."""


class SourceError(SdsdError):
    """A source cannot be read, or is not what it was said to be. Names file, row and remedy."""


class PluginError(SdsdError):
    """A part of a user's own cannot be found or imported, or is not what it should be."""


class WeightsError(SdsdError):
    """A model file is missing, has the wrong hash, or cannot be read."""


class ModelError(SdsdError):
    """A model server cannot serve this run: gone for good, wrong name, wrong key."""


class ServerGone(ModelError):
    """A server could not be reached when it was first asked."""


class RunDirError(SdsdError):
    """A run directory belongs to another configuration, or another process holds it."""


class JournalError(SdsdError):
    """The journal cannot be read or written. Nothing is handed out that is not on disk."""


class Divergence(JournalError):
    """A recorded step is asked again with another request: the recording is not this run's."""


class ReplayMiss(JournalError):
    """The door is locked and a step is not in the journal (see `sdsd verify`)."""


class Stopped(SdsdError):
    """The run was asked to stop; what is in flight is kept, nothing new is asked."""

    exit_code = 130


class TransientError(Exception):
    """A fault that may pass: overload, a reset connection, a time-out.

    `retry_after` is what the server asked for, in seconds, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(TransientError):
    """The server has too much to do: a rate limit, or overload. Fewer requests at once help."""


class Unparseable(ValueError):
    """A reply does not have the shape that was asked for. Says what was missing."""


class StageFailed(Exception):
    """A stage gave up on this dialogue for good: `step` says where, `cause` why, `raw` shows it."""

    def __init__(self, step: str, cause: str, raw: str = "", kind: str = "") -> None:
        super().__init__(f"{step}: {cause}")
        self.step = step
        self.cause = cause
        self.raw = raw
        self.kind = kind
        """A `RefusalKind` if the server refused the request; empty otherwise."""
