"""Short descriptions of TLS errors for log lines."""

from __future__ import annotations

import ssl


def reason_of(exc: BaseException) -> str:
    """Return the message of OpenSSL or of the system, without the source location.

    The messages are constants of OpenSSL and of the system. They contain no text of the peer, so they need no
    quoting.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason.lower().replace("_", " ")
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.partition("] ")[2].rpartition(" (")[0] or exc.strerror
    return f"{type(exc).__name__}: {exc}"
