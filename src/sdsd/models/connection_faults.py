"""Why a connection could not be opened, and what helps.

What is said of a fault that may pass holds no address, because it can become part of the data set.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path

from sdsd.errors import Busy, ModelError, TransientError, Unreachable
from sdsd.models.addresses import Address

_NO_FILES = {errno.EMFILE, errno.ENFILE}
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
_DATES, _NAMES, _UNKNOWN = {9, 10}, {62, 64}, {2, 18, 19, 20, 21}
"""OpenSSL's codes: the certificate is not valid at this time, or is for another name or number, or
is of an authority that is not known here."""
_SELF_SIGNED = 18
_CLIENT = "sdsd has no client certificates: reach the server through a gateway that has one"
_TOO_OLD = "the server and this Python have no TLS version or cipher in common: update one of them"
_TLS_REMEDIES = {
    "CERTIFICATE_REQUIRED": _CLIENT,
    "BAD_CERTIFICATE": _CLIENT,
    "HANDSHAKE_FAILURE": f"{_TOO_OLD}; or it wants a client certificate: {_CLIENT}",
    "PROTOCOL_VERSION": _TOO_OLD,
    "UNSUPPORTED_PROTOCOL": _TOO_OLD,
    "INSUFFICIENT_SECURITY": _TOO_OLD,
    "TOO_SMALL": _TOO_OLD,
    "TOO_WEAK": _TOO_OLD,
    "UNRECOGNIZED_NAME": "the server does not know the name in `base_url`: correct it",
}
"""By part of OpenSSL's reason, what helps where a connection by TLS will never come about."""


def explained(error: Exception, server: Address, proxy: str = "") -> TransientError | ModelError:
    """Return the fault to raise for an error while connecting to a server.

    `proxy` is the variable that names the proxy, if there is one.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        return ModelError(f"{server.shown}: its certificate is refused: {said}; {_remedy(error)}")
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return ModelError(
            f"{server.shown}: does not speak TLS; if the address is right, begin it with http://"
        )
    if refused := refused_tls(error, server):
        return refused
    if getattr(error, "errno", None) in _NO_FILES:
        return Busy(
            "this process has no file descriptors left for connections: raise the limit "
            "(`ulimit -n 65536`), or lower `parallel`"
        )
    way = f" through the proxy of `{proxy}`" if proxy else ""
    return Unreachable(f"cannot connect{way}: {reason(error)}")


def refused_tls(error: BaseException | None, server: Address) -> ModelError | None:
    """Return the fault to raise if an error says that the server refuses every connection by TLS.

    With TLS 1.3 it may come in place of the first reply.
    """
    if not isinstance(error, ssl.SSLError):
        return None
    remedy = next((r for part, r in _TLS_REMEDIES.items() if part in (error.reason or "")), "")
    if not remedy:
        return None
    return ModelError(f"{server.shown}: no connection by TLS: {reason(error)}; {remedy}")


def reason(error: Exception) -> str:
    """Say what went wrong without the address, which the loop's own messages contain."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, socket.gaierror | ssl.SSLError):
        return str(error.strerror or error)
    if number := getattr(error, "errno", None):
        return os.strerror(number)
    if isinstance(error, ConnectionError) and not error.args:  # while TLS was being agreed on
        return "the server closed the connection"
    return "no address of its name answers" if type(error) is OSError else str(error)


def _remedy(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _DATES:
        return "renew it, or correct this machine's clock"
    if error.verify_code in _NAMES:
        return "use a name in `base_url` that the certificate is for"
    if error.verify_code not in _UNKNOWN:
        return "it has to be issued again without this fault"
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    own = error.verify_code == _SELF_SIGNED
    if file is not None:
        return f"SSL_CERT_FILE names {file!r}, {_lacking(file, own=own)}"
    if folder:
        return (
            f"in the directory {folder!r} that SSL_CERT_DIR names, {_whose(own=own)} is not found: "
            "put it there and run `openssl rehash` on the directory, or set SSL_CERT_FILE to it"
        )
    if own:
        return "if you trust it, set SSL_CERT_FILE to it (a PEM file)"
    return (
        "if a private authority issued it, set SSL_CERT_FILE to that authority's certificate "
        "(a PEM file)"
    )


def _whose(*, own: bool) -> str:
    return "this certificate" if own else "the certificate of the authority that issued it"


def _lacking(file: str, *, own: bool) -> str:
    """Say why a file does not vouch for a certificate."""
    if not Path(file).is_file():
        return "which is not a file"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError:  # of which an error of TLS is one
        return "in which no certificate can be read (a PEM file is needed)"
    between = "" if own else " (or the server does not send one in between)"
    return f"which does not have {_whose(own=own)}{between}: add it there"
