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
_EXPIRED, _NAME, _NUMBER = 10, 62, 64
"""OpenSSL's codes: the certificate has expired, or is for another name or number."""


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
    if getattr(error, "errno", None) in _NO_FILES:
        return Busy(
            "this process has no file descriptors left for connections: raise the limit "
            "(`ulimit -n 65536`), or lower `parallel`"
        )
    way = f" through the proxy of `{proxy}`" if proxy else ""
    return Unreachable(f"cannot connect{way}: {reason(error)}")


def reason(error: Exception) -> str:
    """Say what went wrong without the address, which the loop's own messages contain."""
    if isinstance(error, socket.gaierror | ssl.SSLError):
        return str(error.strerror or error)
    if number := getattr(error, "errno", None):
        return os.strerror(number)
    return "no address of its name answers" if type(error) is OSError else str(error)


def _remedy(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "renew it, or correct this machine's clock"
    if error.verify_code in (_NAME, _NUMBER):
        return "use a name in `base_url` that the certificate is for"
    named = os.environ.get("SSL_CERT_FILE", "")
    if named and not Path(named).is_file():
        return f"SSL_CERT_FILE names {named}, which is not a file"
    return (
        "if a private authority issued it, set SSL_CERT_FILE to that authority's certificate "
        "(a PEM file)"
    )
