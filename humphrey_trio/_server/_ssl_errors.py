"""Why TLS failed, in a few words for a log line."""

from __future__ import annotations

import ssl


def reason_of(exc: BaseException) -> str:
    """The words of OpenSSL or of the system, without the place in their source.

    A peer chooses which of these words it causes, but not what they are: nothing here has to be quoted.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason.lower().replace("_", " ")
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.partition("] ")[2].rpartition(" (")[0] or exc.strerror
    return f"{type(exc).__name__}: {exc}"
