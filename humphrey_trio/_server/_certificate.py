"""Certificates in files: contexts made of them, and files that are replaced while the server runs."""

from __future__ import annotations

import logging
import os
import ssl
import stat
import threading
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from .._quoting import printable
from ._ssl_errors import reason_of

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("humphrey_trio.http")

# What changes when a file is written, or replaced by another: modified, changed, size, device, inode.
_Version = tuple[int, int, int, int, int]


def server_context(cert: str | Path, key: str | Path | None = None) -> ssl.SSLContext:
    """A context for servers: TLS 1.2 and 1.3, ALPN ``http/1.1``, one session ticket, no renegotiation.

    Args:
        cert: a file with the certificate and its chain, in PEM.
        key: a file with the private key, in PEM; None if it is in the first.

    Raises:
        ValueError: a file cannot be read, is no PEM, or the key is encrypted or another certificate's.
    """
    for file in (cert, key):
        if file is not None:
            _check_file(file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session gets a new one as well, so one is enough for the next connection (TLS 1.3).
    context.num_tickets = 1

    def refuse_password() -> NoReturn:
        # Without it OpenSSL would ask at the terminal, and a server that runs would wait there.
        raise ValueError(
            f"the private key in {str(cert if key is None else key)!r} is encrypted: give one without a password,"
            " or an SSLContext that has loaded it"
        )

    try:
        context.load_cert_chain(cert, key, refuse_password)
    except OSError as exc:
        raise ValueError(
            f"the certificate {str(cert)!r} cannot be used{f' with the key {str(key)!r}' if key else ''}:"
            f" {reason_of(exc)}; both must be PEM, and the key must be the certificate's"
        ) from exc
    return context


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
    """A context that the application has made, which is served as it is.

    Attributes:
        context: what new connections are to use.
        reloads: False: there are no files to look at.
    """

    reloads = False

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def reload_if_changed(self) -> bool:
        """Do nothing."""
        return False


class CertificateFiles:
    """A certificate in files that may be replaced while the server runs.

    A new pair gets a context of its own, which takes the place of the one before as a whole. To load it into the
    context that is in use could leave that without a key, if a file changed again while it is loaded.
    Connections that are open keep their context. Sessions are not resumed in another one: such clients shake
    hands anew.

    Args:
        cert, key: as for ``server_context``.
        reloads: whether the server is to call ``reload_if_changed``.

    Attributes:
        context: what new connections are to use.
        reloads: as above.

    Raises:
        ValueError: as ``server_context``.
    """

    def __init__(self, cert: str | Path, key: str | Path | None = None, *, reloads: bool = True) -> None:
        self.reloads = reloads
        self._cert = cert
        self._key = key
        self._looking = threading.Lock()
        # Looked up before the files are read, so that a change during that shows at the next look.
        self._seen = self._tried = self._versions()
        self.context = server_context(cert, key)

    def reload_if_changed(self) -> bool:
        """Look at the files, and make a new context if they have changed.

        To be called now and then. It reads files: a server may call it in a worker thread, so that a slow disk
        does not hold up its connections. While one thread looks, another does nothing.

        A change is acted on when the files are the same at the next look. So a file that is being written, and a
        pair of which one file was replaced so far, are not taken for a pair that does not fit. One that does not
        fit is logged as an ERROR, once, and the context stays; another change is another attempt.

        Returns:
            Whether there is a new context.
        """
        if not self._looking.acquire(blocking=False):
            return False
        try:
            before, self._seen = self._seen, self._versions()
            return self._seen != self._tried and self._seen == before and self._reload()
        finally:
            self._looking.release()

    def _reload(self) -> bool:
        self._tried = self._seen
        try:
            self.context = server_context(self._cert, self._key)
        except ValueError as exc:
            why = printable(str(exc))
            logger.error("the certificate in use stays, since its files have changed and cannot be used: %s", why)
            return False
        logger.info("the certificate %r was loaded anew", str(self._cert))
        return True

    def _versions(self) -> tuple[_Version | None, _Version | None]:
        return _version(self._cert), None if self._key is None else _version(self._key)


#: What ``HttpServer`` serves TLS with.
Certificate: TypeAlias = GivenContext | CertificateFiles


def _version(file: str | Path) -> _Version | None:
    """Which version of a file, or of what a link leads to, this is; None if there is none that can be read."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino
