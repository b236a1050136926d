"""TLS for the connections of a server: their handshakes, the certificate, and the answer to plain HTTP.

It makes a transport, or one over which to end the connection. The server closes both, and counts the connections.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._http._events import EventType
from .._http._response import Response
from .._quoting import printable
from ._certificate import RELOAD_INTERVAL
from ._http_phase import NEW_CONNECTION_GRACE
from ._tls import TlsTransport
from ._tls_handshake import PlainHttpError

if TYPE_CHECKING:
    import socket

    from .._http._address import Address
    from ._certificate import Certificate
    from ._control import ConnectionControl
    from ._interface import ServerSettings
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")

# TLS handshakes that compute in one scheduler pass. Each takes 100 us, and with an RSA certificate 1 ms.
_HANDSHAKES_AT_ONCE = 16

_PLAIN_HTTP = Response(400, "This port accepts only HTTPS: use https:// instead of http://.\n")


class ServerTls:
    """The TLS of one server.

    Args:
        certificate: the certificate. Its context at the moment is used for each new connection.
        settings: the objects that the connections of the server share.
    """

    __slots__ = ("_certificate", "_settings", "_turns")

    def __init__(self, certificate: Certificate, settings: ServerSettings) -> None:
        self._certificate = certificate
        self._settings = settings
        self._turns = trio.Semaphore(_HANDSHAKES_AT_ONCE)

    @property
    def reloads(self) -> bool:
        """Whether the server should run ``reload``."""
        return self._certificate.reloads

    def new_transport(self, sock: socket.socket, peer: Address) -> TlsTransport:
        """Create the transport of an accepted connection, for ``handshake``."""
        return TlsTransport(sock, peer, self._certificate.context)

    async def wait_for_turn(self) -> None:
        """Wait until no handshake waits for a turn. A connection in the backlog costs no memory."""
        if not self._turns.value:
            async with self._turns:
                pass

    async def handshake(self, transport: TlsTransport, control: ConnectionControl) -> Transport | None:
        """Execute the handshake, within ``Timeouts.handshake``.

        Returns:
            None if it succeeded. Else the transport over which to end the connection; what the peer must receive
            before the end was sent.
        """
        self._limit(transport, control)
        try:
            await transport.handshake(self._turns)
            return None
        except PlainHttpError as exc:
            logger.info("plain HTTP from %s on a TLS port: %s", transport.peer, printable(str(exc)))
            self._report(transport, "plain HTTP on a port for HTTPS")
            return self._refuse_plain_http(transport)
        except trio.ClosedResourceError:
            logger.debug("the TLS handshake with %s took too long", transport.peer)
            self._report(transport, "the TLS handshake took too long")
        except trio.BrokenResourceError as exc:
            logger.debug("the TLS handshake with %s failed: %s", transport.peer, printable(str(exc)))
            self._report(transport, f"the TLS handshake failed: {printable(str(exc))}")
        return transport

    def _report(self, transport: TlsTransport, info: str) -> None:
        self._settings.observers.report(EventType.CONNECTION_ERROR, transport.peer, info)

    def _limit(self, transport: TlsTransport, control: ConnectionControl) -> None:
        clock, seconds = self._settings.clock, self._settings.timeouts.handshake

        def shorten() -> None:
            control.expire_at(min(control.at, clock.now() + NEW_CONNECTION_GRACE))

        control.hand_to(transport.interrupt, shorten)
        control.expire_at(clock.now() + seconds)
        if control.draining:
            shorten()

    def _refuse_plain_http(self, transport: TlsTransport) -> Transport:
        plain = transport.without_tls()
        with suppress(trio.BrokenResourceError):
            plain.send_now(self._settings.writer.encode(_PLAIN_HTTP, head_only=False, close=True))
        return plain

    @trio.lowlevel.enable_ki_protection
    async def reload(self) -> None:
        """Reload the certificate files whenever they change. In a thread, because file access may block."""
        failed = False
        while True:
            await trio.sleep(RELOAD_INTERVAL)
            try:
                await trio.to_thread.run_sync(self._certificate.reload_if_changed, abandon_on_cancel=True)
                failed = False
            except (OSError, RuntimeError) as exc:  # no thread can be started, because of a limit of the system
                if not failed:
                    logger.warning("the certificate files cannot be checked: %s", printable(str(exc)))
                failed = True
