"""What a failed request says about the others: this request, this server, the account, everybody.

    concerns      HTTP status                          what follows
    ------------  -----------------------------------  ------------------------------------------
    the request   400, 413, 414, 422, 451              a `Refusal`, which is recorded
    the server    429, 503, 529                        `Busy`: fewer requests at once, and again
                  408, 409, 425, any other 5xx         `TransientError`: again
    the account   401, 402, 407; a code of `_ACCOUNT`  `ModelError`: the run stops
    unclear       403, 404, 204, 499, whatever else    `Denied`: the request, if the model answers
                                                       others, and everybody otherwise

`sdsd.runs.retries` finds out which of the two an unclear one is, and how long to go on trying.
"""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sdsd.errors import Busy, Denied, ModelError, TransientError
from sdsd.models.http_connection import Reply
from sdsd.models.web_pages import legible
from sdsd.types import Refusal

_REQUEST = {400, 413, 414, 422, 451}
_BUSY = {429, 503, 529}
_FAULT = {408, 409, 425}
_ACCOUNT_STATUSES = {401, 402, 407}
_ACCOUNT = (
    b"insufficient_quota", b"billing_hard_limit_reached", b"billing_not_active",
    b"account_deactivated", b"invalid_api_key", b"API_KEY_INVALID",
    b"credit balance is too low",
)  # fmt: skip
"""Codes that providers send with whatever status: no credit, or a key that is not valid."""
_TOO_LONG = {400, 413, 422}
_SINCE_1970 = 1.5e9
"""Seconds; some servers send the time at which to come again, and not how long to wait."""
_UNITS = re.compile(r"(?:(\d+)h)?\s?(?:(\d+)m)?\s?(?:(\d+(?:\.\d+)?)s)?\s?(?:(\d+(?:\.\d+)?)ms)?")
_SECONDS = (3600.0, 60.0, 1.0, 0.001)
"""Waits as `1m30s` or `250ms`."""
_CONTEXT_FULL = ("context", "max_new_tokens", "too long")
"""How servers say that a prompt exceeds the context; no status code is reserved for that."""


def refused(
    status: int, body: bytes, *, where: str, model: str, retry_after: float | None = None
) -> Refusal:
    """Return the refusal that a status means for its request, or raise what it means for others.

    where, model   name the server and the model in messages
    retry_after    seconds that the server asks to wait
    """
    said = legible(body)
    words = f": {said}" if said else ""
    remedy = (
        f"{where}: HTTP {status} for model `{model}`{words}; check `base_url`, `model` and the "
        "key (`sdsd doctor` shows what the server has)"
    )
    if status in _ACCOUNT_STATUSES or any(code in body for code in _ACCOUNT):
        raise ModelError(remedy)
    if status in _BUSY:
        raise Busy(f"HTTP {status}{words}", retry_after, server=where)
    if status in _FAULT or status >= 500:
        raise TransientError(f"HTTP {status}{words}", retry_after, server=where)
    if status in _REQUEST:
        full = status in _TOO_LONG and any(word in said.casefold() for word in _CONTEXT_FULL)
        return Refusal(f"HTTP {status}", said, "context_full" if full else "rejected")
    raise Denied(remedy, f"HTTP {status}", said)


def retry_after(reply: Reply, now: float | None = None) -> float | None:
    """Return the seconds that a reply asks to wait, by a number or a date; None if it does not say.

    now   unix time, from which a date is counted
    """
    if (milliseconds := _number(reply.header("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = (reply.header("retry-after") or "").strip()
    now = time.time() if now is None else now
    if (seconds := _number(value)) is not None:
        return max(0.0, seconds - now) if _SINCE_1970 < seconds < 2 * _SINCE_1970 else seconds
    if value and (units := _UNITS.fullmatch(value)):
        return sum(float(n or 0) * s for n, s in zip(units.groups(), _SECONDS, strict=True))
    try:
        date = parsedate_to_datetime(value) if "," in value else datetime.fromisoformat(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return None if math.isnan(number) else max(0.0, number)
