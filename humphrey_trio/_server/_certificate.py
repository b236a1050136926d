"""Certificates from files: create SSL contexts, and reload them while the server runs."""

from __future__ import annotations

import logging
import os
import ssl
import stat
import threading
import time
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from .._quoting import printable
from ._ssl_errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger("humphrey_trio.http")

#: Seconds between two checks of the files. Changed files are loaded when they have not changed again for as long.
RELOAD_INTERVAL = 1.0

#: What to write if the key is missing or in the wrong place. The command line replaces it.
PASS_BOTH = "write with_cert(cert, key)"

# Bytes of a file that are searched for what is wrong with it.
_MAX_PEM = 1024 * 1024

# Differs if a file was written or replaced: mtime, ctime, size, device, inode.
_Version = tuple[int, int, int, int, int]


def server_context(cert: str | Path, key: str | Path | None = None) -> ssl.SSLContext:
    """Create a context for servers: TLS 1.2 and 1.3, ALPN ``http/1.1``, one session ticket, no renegotiation.

    Args:
        cert: a PEM file with the certificate and its chain.
        key: a PEM file with the private key; None if ``cert`` contains it.

    Raises:
        ValueError: a file cannot be read or is not PEM, the key is encrypted, or it does not belong to the
            certificate. Or the environment variable SSLKEYLOGFILE names a file that cannot be opened.
    """
    for file in (cert, key):
        if file is not None:
            _check_file(file)
    context = _default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session gets a new one as well, so one is enough for the next connection (TLS 1.3).
    context.num_tickets = 1

    def refuse_password() -> NoReturn:
        # Without this callback OpenSSL would ask for the password on the terminal, and block the server.
        raise ValueError(
            f"the private key in {str(cert if key is None else key)!r} is encrypted: use a key without a password,"
            " or an SSLContext that has loaded it"
        )

    try:
        context.load_cert_chain(cert, key, refuse_password)
    except OSError as exc:
        # Other reasons, such as EACCES and EMFILE, say nothing about the content of the files.
        hint = f"; {_hint(cert, key)}" if isinstance(exc, ssl.SSLError) else ""
        raise ValueError(
            f"the certificate {str(cert)!r} cannot be used{f' with the key {str(key)!r}' if key else ''}:"
            f" {reason_of(exc)}{hint}"
        ) from exc
    return context


def _hint(cert: str | Path, key: str | Path | None) -> str:
    """Return what is wrong with files that OpenSSL has not accepted."""
    has_certificate, has_key = _contains(cert, b"-BEGIN CERTIFICATE-"), _contains(key or cert, b"PRIVATE KEY-")
    if not has_certificate and key is not None and _contains(key, b"-BEGIN CERTIFICATE-"):
        return f"the arguments are swapped: {PASS_BOTH}"
    if not has_certificate:
        return f"{str(cert)!r} contains no certificate in PEM"
    if not has_key and key is None:
        return f"{str(cert)!r} contains no private key: {PASS_BOTH}"
    if not has_key:
        return f"{str(key)!r} contains no private key in PEM"
    return "both must be PEM, and the key must belong to the certificate"


def _contains(file: str | Path, mark: bytes) -> bool:
    try:
        with open(file, "rb") as opened:
            return mark in opened.read(_MAX_PEM)
    except OSError:
        return False


def _default_context() -> ssl.SSLContext:
    try:
        return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    except OSError as exc:
        # Python opens the file of SSLKEYLOGFILE for each default context.
        log = os.environ.get("SSLKEYLOGFILE")
        hint = f"; SSLKEYLOGFILE must name a file that can be written, not {log!r}" if log else ""
        raise ValueError(f"no SSL context can be created: {reason_of(exc)}{hint}") from exc


def _check_file(file: str | Path) -> None:
    try:
        is_file = stat.S_ISREG(os.stat(file).st_mode)
    except FileNotFoundError:
        is_file = False
    except OSError as exc:
        raise ValueError(f"the certificate file {str(file)!r} cannot be read: {exc.strerror}") from exc
    if not is_file:
        raise ValueError(f"there is no certificate file {str(file)!r}")


class GivenContext:
    """A context of the application. It is used as it is.

    Attributes:
        context: the context for new connections.
        reloads: False, because there are no files to reload.
    """

    reloads = False

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def reload_if_changed(self) -> bool:
        """Do nothing, and return False."""
        return False


class CertificateFiles:
    """A certificate in files that may be replaced while the server runs.

    New files get a new context, which replaces the old one as a whole. Loading them into the context in use could
    leave it without a key if a file changed again at the same time. Open connections keep their context. A TLS
    session of the old context is not resumed: its client does a full handshake.

    Args:
        cert, key: as for ``server_context``.
        reloads: whether the server should call ``reload_if_changed``.
        clock: returns the current time in seconds, and never goes back.

    Attributes:
        context: the context for new connections.
        reloads: as above.

    Raises:
        ValueError: as for ``server_context``.
    """

    def __init__(
        self,
        cert: str | Path,
        key: str | Path | None = None,
        *,
        reloads: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reloads = reloads
        self._cert = cert
        self._key = key
        self._clock = clock
        self._checking = threading.Lock()
        self._logged: set[str] = set()  # the errors of the versions in _seen that were logged
        # Before the files are read, so that a change while they are read is detected by the next check.
        self._seen = self._loaded = self._versions()
        self._seen_at = clock()  # when the versions in _seen were found first
        self.context = server_context(cert, key)

    def reload_if_changed(self) -> bool:
        """Check the files, and create a new context if they have changed.

        Call it periodically. It reads files, so a server should call it in a worker thread. Does nothing if
        another thread is in this method.

        Changed files are loaded when a call at least ``RELOAD_INTERVAL`` later finds them unchanged. Otherwise a
        file that is being written, or a certificate whose key has not been replaced yet, would fail to load. The
        number of calls does not count, because several servers may check the same files.

        If the files cannot be loaded, the old context is kept, and each call tries again: the reason may pass
        without another change, such as a process that has no file descriptor left. Each reason is logged at level
        ERROR, once for each version of the files.

        Returns:
            Whether there is a new context.
        """
        if not self._checking.acquire(blocking=False):
            return False
        try:
            versions, now = self._versions(), self._clock()
            if versions != self._seen:
                self._seen, self._seen_at = versions, now
                self._logged.clear()
            is_stable = now - self._seen_at >= RELOAD_INTERVAL
            return is_stable and versions != self._loaded and self._reload()
        finally:
            self._checking.release()

    def _reload(self) -> bool:
        try:
            self.context = server_context(self._cert, self._key)
        except (OSError, ValueError) as exc:
            self._log_failure(printable(str(exc)))
            return False
        self._loaded = self._seen
        self._logged.clear()
        logger.info("the certificate %r was reloaded", str(self._cert))
        return True

    def _log_failure(self, why: str) -> None:
        if why not in self._logged:
            self._logged.add(why)
            logger.error(
                "the certificate files have changed and cannot be used; the old certificate is kept: %s", why
            )

    def _versions(self) -> tuple[_Version | None, _Version | None]:
        return _version(self._cert), None if self._key is None else _version(self._key)


#: The certificate of an ``HttpServer``.
Certificate: TypeAlias = GivenContext | CertificateFiles


def _version(file: str | Path) -> _Version | None:
    """Return the version of a file, following symbolic links; None if it cannot be read."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino
