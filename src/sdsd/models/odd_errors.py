"""Errors that servers and gateways send with a good status, and the status that they stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_STATUS_WORDS = (
    (402, ("quota", "credit", "balance", "billing", "payment", "arrear")),
    (429, ("rate_limit", "rate limit", "too_many", "too many", "resource_exhausted", "throttl",
           "rate exceeded")),
    (503, ("overload", "unavailable", "busy", "capacity", "insufficient_system_resource",
           "is loading", "warming up")),
    (401, ("api_key", "api key", "api-key", "apikey", "unauthorized", "unauthenticated",
           "authentication")),
    (403, ("permission", "forbidden", "access denied", "accessdenied", "not authorized")),
    (400, ("context_length", "context length", "maximum context", "invalid_request", "invalid_arg",
           "bad_request", "badrequest", "content_filter", "moderation", "flagged", "validation",
           "sensitive", "unsafe", "max length", "too long", "value_error", "field required",
           "not supported", "unsupported")),
    (404, ("not_found", "not found", "does not exist")),
    (408, ("timeout", "timed out", "deadline")),
)  # fmt: skip
"""Statuses that errors stand for, by words in their type, code or message; the first that fits."""
_WORDS = (
    "errors", "detail", "message", "error_msg", "msg", "error_message", "errormessage", "err",
    "fault", "reason", "title", "status_msg", "__type",
)  # fmt: skip
_CODES = (
    "code", "status", "status_code", "statuscode", "http_code", "httpstatus", "error_code",
    "errorcode", "http_status",
)  # fmt: skip


class ErrorReply(Exception):
    """A body with a 2xx status reports an error: `status` is the one that it stands for.

    `text` is the server's: hide secrets in it before it is cut or shown.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status, self.text = status, text


def raise_error(value: Mapping[str, Any], choice: Any) -> None:
    """Raise `ErrorReply` if a reply reports an error instead of a completion.

    choice  the first of its choices, if it has any
    """
    own = choice.get("error") if isinstance(choice, dict) else None
    error = value.get("error") or own
    if isinstance(choice, dict) and not own:
        if not error or _is_false(error):
            return
    elif not error or _is_false(error):
        error = _described(value)
    if error:
        text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
        raise ErrorReply(_status(error, value, text), text)


def reports_error(value: Mapping[str, Any]) -> bool:
    """Whether a part of a stream, which has no choices, reports an error."""
    return bool(value.get("error") or _described(value))


def _is_false(error: Any) -> bool:
    """Whether an `error` only says whether there is one."""
    return error in ("null", "none", "None", "") or isinstance(error, bool)


def _described(value: Mapping[str, Any]) -> Any:
    """Return what a reply without choices says of an error; None if it says nothing."""
    if value.get("object") == "error" or value.get("type") == "error":
        return value
    fields = {key.casefold(): said for key, said in value.items()}
    for key in ("base_resp", "output", "response", "body"):  # MiniMax; what AWS wraps errors in
        inner = fields.get(key)
        if isinstance(inner, dict) and (inner.get("status_code") or inner.get("__type")):
            return inner
    found = next((said for key in _WORDS if (said := fields.get(key))), None)
    if isinstance(found, dict) and {"content", "role", "parts"} & found.keys():
        return None  # a message, in the form of another API
    if isinstance(found, str | list | dict):
        return found
    if fields.get("success") is False or fields.get("ok") is False:
        return dict(value)
    return None


def _status(error: Any, value: Mapping[str, Any], text: str) -> int:
    """Return the HTTP status that an error stands for; 500 if it does not tell."""
    described = error[0] if isinstance(error, list) and error else error
    said = described if isinstance(described, dict) else {}
    for source in (said, value):
        fields = {key.casefold(): number for key, number in source.items()}
        for key in _CODES:
            number = _number(fields.get(key))
            if 400 <= number <= 599:
                return number
    named = " ".join(str(said.get(key, "")) for key in ("type", "code", "status"))
    also = str(value.get("__type", ""))
    for words in (f"{named} {also}".casefold(), text.casefold()):
        for status, known in _STATUS_WORDS:
            if any(word in words for word in known):
                return status
    return 500


def _number(value: Any) -> int:
    """Return a whole number from a number or a text; 0 if it is none."""
    try:
        return int(value) if isinstance(value, int | str) else 0
    except ValueError:
        return 0
