"""The exceptions of the package.

SdsdError              the user must act: the message names the cause and the remedy
    ConfigError, CatalogueError, PromptError, SourceError, PluginError
    WeightsError, ModelError (ModelSetup, ServerGone, Denied), RunDirError
    JournalError (Divergence, ReplayMiss)
    Stopped            the run was asked to stop
TransientError         a failed request that is retried, and leaves no trace in the journal
    Busy, Unreachable, Malformed
StageFailed            one dialogue failed: recorded as data, and the run continues
Unparseable (NoAnswer) a reply without the requested shape: the step asks again
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdsd.types import RefusalKind


class SdsdError(Exception):
    """The run cannot continue until the user acts. The message names the cause and the remedy.

    The command line prints it and exits with `exit_code`.
    """

    exit_code = 2


class ConfigError(SdsdError):
    """A key of the configuration is unknown, or its value is invalid."""


class CatalogueError(SdsdError):
    """A catalogue file is malformed, empty or contradictory. Names file and line."""


class PromptError(SdsdError):
    """A prompt file lacks a section, or has a placeholder that nothing fills."""


class SourceError(SdsdError):
    """A source cannot be read, or does not have the stated layout. Names file and row."""


class PluginError(SdsdError):
    """A user-defined part cannot be found or imported, or breaks its contract."""


class WeightsError(SdsdError):
    """A model file is missing, has the wrong hash, or cannot be read."""


class ModelError(SdsdError):
    """A model server cannot serve this run: it is gone, or the model's name or the key is wrong."""

    exit_code = 4


class ModelSetup(ModelError):
    """A model cannot be asked at all: its address is malformed, or a package is missing."""

    exit_code = 2


class ServerGone(ModelError):
    """A server could not be reached when the run started."""


class Denied(ModelError):
    """A server denied a request in a way that may mean this one or every one, such as HTTP 403.

    If the model answers others, `cause` and `raw` are recorded as the request's `Refusal`, of
    `kind`; otherwise the message, with its remedy, ends the run.
    """

    def __init__(
        self, message: str, cause: str, raw: str = "", kind: RefusalKind = "rejected"
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.raw = raw
        self.kind: RefusalKind = kind


class RunDirError(SdsdError):
    """A run directory belongs to another configuration, or is in use by another process."""


class JournalError(SdsdError):
    """The journal cannot be read or written."""


class Divergence(JournalError):
    """A recorded step now has a different request: the records are another run's."""


class ReplayMiss(JournalError):
    """A replay (`sdsd verify`) asks for a step that is not in the journal."""


INTERRUPTED = "interrupted"
"""The reason of a stop by Ctrl-C or another signal; every other reason is the run's own."""


class Stopped(SdsdError):
    """The run was asked to stop: requests in flight are recorded, and no new ones are sent.

    `reason` says why: `INTERRUPTED`, or for example that the budget is used up.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.exit_code = 130 if reason == INTERRUPTED else 3


class TransientError(Exception):
    """A failure that may pass: overload, a reset connection, a time-out.

    `retry_after` is the delay that the server asked for, in seconds, or None. The message becomes
    part of the data set if the request is abandoned, so it must not name the `server`: that is for
    `with_server`, which is for the user's eyes only.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, server: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.server = server

    @property
    def with_server(self) -> str:
        """The message, with the address of the server if it is known."""
        return f"{self.server}: {self}" if self.server else str(self)


class Busy(TransientError):
    """The server is overloaded or a rate limit is reached: fewer requests at once help."""


class Unreachable(TransientError):
    """No connection could be opened, or what answers does not speak HTTP."""


class Malformed(TransientError):
    """A reply with a good status that cannot be read."""


class Unparseable(ValueError):
    """A reply does not have the requested shape. Says what was missing."""


class NoAnswer(Unparseable):
    """A reply is no answer: refused, broken off, or empty. Says which, and what helps."""


class StageFailed(Exception):
    """One dialogue failed for good: at `step`, because of `cause`, as the reply `raw` shows."""

    def __init__(self, step: str, cause: str, raw: str = "", kind: str = "") -> None:
        super().__init__(f"{step}: {cause}")
        self.step = step
        self.cause = cause
        self.raw = raw
        self.kind = kind
        """A `RefusalKind` if the server refused the request; empty otherwise."""
