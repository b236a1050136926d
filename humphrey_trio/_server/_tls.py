"""TLS over a socket. OpenSSL encrypts and decrypts in memory, and this module sends and receives the ciphertext.

A non-blocking ``ssl.SSLSocket`` was rejected. It is not faster, and its ``recv`` reads records until one has
content, so a peer that sends only KeyUpdates (RFC 8446, section 4.6.3) keeps it from returning: 5 MB of them
blocked the process for 2.7 seconds. It also sends the replies while it reads, so a task that receives may have to
wait until the socket is writable while another task waits for the same. With memory BIOs, OpenSSL gets a bounded
amount of input and never waits.

The handshake, the incoming and the outgoing side are modules of their own. The transport connects them with the
socket: it waits, and turns their errors into those of a transport.

A handshake message may span records (RFC 8446, section 5.1). After a part of a KeyUpdate, OpenSSL is in a
handshake again until the rest arrives. It does not report the version and the certificate of the peer then, so
they are read when the first handshake ends. It cannot send content then, so sending meanwhile ends the connection.
A KeyUpdate has 5 bytes, so a client has no reason to split it.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ._socket import SocketTransport
from ._ssl_errors import reason_of
from ._tls_handshake import TlsHandshake, TlsHandshakeError
from ._tls_input import CIPHERTEXT, TlsInput
from ._tls_output import TlsOutput
from ._transport import RECEIVE_SIZE, Incoming

if TYPE_CHECKING:
    import socket

    from .._http._address import Address
    from .._http._tls_info import TlsInfo

# The maximum size of messages of OpenSSL itself that wait for the next record.
_MAX_DELAYED = 4 * 1024
# The maximum ciphertext that waits to be sent: a record, and replies to KeyUpdates of a peer that does not read.
_MAX_UNSENT = 64 * 1024
# Seconds between two attempts to send close_notify while the socket buffer is full.
_RETRY_SECONDS = 0.1


class TlsTransport(SocketTransport):
    """The server side of TLS over a connected socket, which it owns.

    Content counts as sent when the kernel has accepted the whole record that contains it. The bytes that
    ``send_now`` did not send must be passed to the next send, possibly followed by more. If other bytes are
    passed, the send raises ``trio.ClosedResourceError``, the transport is ``torn``, and nothing more can be sent.

    Messages of OpenSSL itself (session tickets, replies to KeyUpdates, alerts) are sent before the next record, or
    after a receive without content, as far as possible without waiting. A reply to a KeyUpdate may wait for the
    next record (RFC 8446, section 4.6.3).

    Args:
        sock: the connected socket.
        peer: the address of the peer.
        context: a context for servers. It is not modified.
    """

    __slots__ = ("_context", "_info", "_input", "_output")

    gathers = False

    _input: TlsInput  # exists from the end of the handshake on

    def __init__(self, sock: socket.socket, peer: Address, context: ssl.SSLContext) -> None:
        super().__init__(sock, peer)
        self._context = context
        self._output = TlsOutput(sock)
        self._info: TlsInfo | None = None

    # The handshake...

    async def handshake(self, turns: trio.Semaphore | None = None) -> None:
        """Execute the handshake, without a deadline.

        Call it once, before any other method except ``interrupt``, ``abort`` and ``close``.

        Args:
            turns: limits the number of handshakes that compute in one scheduler pass; None for no limit. A
                ClientHello costs its sender nothing and the server 150 us, so a burst of them would delay the open
                connections. ``interrupt`` does not end the wait for a turn, but the next wait.

        Raises:
            PlainHttpError: the peer has sent an HTTP request without TLS. See ``without_tls``.
            TlsHandshakeError: the handshake failed, or the peer has disconnected. If OpenSSL has an alert for the
                error, it was sent.
            trio.ClosedResourceError: ``interrupt`` or ``abort`` was called.
        """
        self._has_waited = True
        await trio.lowlevel.checkpoint_if_cancelled()
        received = await self._receive_handshake()
        handshake = TlsHandshake(self._context, received)
        self._output.begin(handshake.tls, handshake.outgoing)
        while not await self._take_turn(turns, handshake, received):
            if self._output.outgoing.pending:
                await self._send_handshake()
            received = await self._receive_handshake()
        if not handshake.can_delay:
            await self._send_handshake()
        # Now, because OpenSSL does not report it while a KeyUpdate is incomplete.
        self._info = handshake.info()
        self._input = TlsInput(handshake.tls, handshake.incoming)
        self._output.open()
        self._is_new = True

    async def _take_turn(self, turns: trio.Semaphore | None, handshake: TlsHandshake, received: bytes) -> bool:
        """Wait for a turn and advance the handshake. The turn ends with this scheduler pass."""
        if turns is None:
            return self._advance(handshake, received)
        try:
            turns.acquire_nowait()
        except trio.WouldBlock:
            await turns.acquire()
        try:
            self._check_open()
            complete = self._advance(handshake, received)
            # Keeps the turn until the next scheduler pass. If it were released at once, the limit would not hold
            # within a pass.
            await trio.lowlevel.checkpoint()
            return complete
        finally:
            turns.release()

    def _advance(self, handshake: TlsHandshake, received: bytes) -> bool:
        try:
            return handshake.advance(received)
        except TlsHandshakeError:
            with suppress(OSError):
                self._output.transmit()  # the alert
            raise

    async def _receive_handshake(self) -> bytes:
        while True:
            self._check_open()
            if self._is_new:  # the first bytes have usually arrived
                self._is_new = False
            else:
                await trio.lowlevel.wait_readable(self._fileno)
            try:
                received = self._socket.recv(CIPHERTEXT)
            except BlockingIOError:
                continue
            except OSError as exc:
                self.incoming = Incoming.BROKEN
                raise TlsHandshakeError(reason_of(exc)) from exc
            if not received:
                self.incoming = Incoming.ENDED
                raise TlsHandshakeError("the peer closed the connection")
            return received

    async def _send_handshake(self) -> None:
        try:
            while not self._output.transmit():
                await trio.lowlevel.wait_writable(self._fileno)
                self._check_open()
        except OSError as exc:
            self.incoming = Incoming.BROKEN
            raise TlsHandshakeError(reason_of(exc)) from exc

    def without_tls(self) -> SocketTransport:
        """Return a transport over the same socket without TLS, and close this one. To answer plain HTTP."""
        self._check_open()
        self._fileno = -1
        return SocketTransport(self._socket, self.peer)

    def tls_info(self) -> TlsInfo:
        """Return the TLS parameters.

        Raises:
            trio.ClosedResourceError: the handshake is not complete.
        """
        if self._info is None:
            raise trio.ClosedResourceError("the handshake is not complete")
        return self._info

    # Receiving...

    async def receive_some(self, size: int = RECEIVE_SIZE, /) -> bytes:
        while True:
            self._check_open()
            if self._is_new:  # the first request usually arrives with the end of the handshake
                self._is_new = False
                data = self._decrypt(b"") if self._input.pending else self._receive_now()
            elif self._input.end is not None:
                await trio.lowlevel.checkpoint()
                return self._end_input(self._input.end)
            else:
                self._is_receiving = True
                await trio.lowlevel.wait_readable(self._fileno)
                self._is_receiving = False
                data = self._receive_now()
            if data is not None:
                return data

    def _receive_now(self) -> bytes | None:
        """Receive without waiting.

        Returns:
            Content; empty at the end of file, None if there is no content yet.
        """
        try:
            ciphertext = self._socket.recv(self._input.receive_size)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._failure() from exc
        if not ciphertext:
            # A missing close_notify is accepted: HTTP and WebSocket have their own framing, so a truncated message
            # is detected (RFC 9112, section 9.8).
            self.incoming = Incoming.ENDED
            return b""
        return self._decrypt(ciphertext)

    def _decrypt(self, ciphertext: bytes) -> bytes | None:
        """Decrypt what was received, and send the replies of OpenSSL. Returns as ``_receive_now``."""
        data = self._input.decrypt(ciphertext)
        # A reply to a KeyUpdate waits for the next record if there is content, which an application usually
        # answers. Replies without content are sent now, because no record may follow for a long time.
        if (delayed := self._output.outgoing.pending) and not (data and delayed <= _MAX_DELAYED):
            self._send_control()
        if data:
            return data
        return None if self._input.end is None else self._end_input(self._input.end)

    def _end_input(self, end: Exception) -> bytes:
        if not isinstance(end, EOFError):
            raise self._failure() from end
        self.incoming = Incoming.ENDED
        return b""

    def _send_control(self) -> None:
        """Send messages of OpenSSL itself without waiting. The rest is sent before the next record."""
        with suppress(OSError):  # the next send or receive raises the error
            self._output.transmit()
        if self._output.unsent > _MAX_UNSENT:
            self._input.refuse_more("the peer does not read the replies to its TLS messages")

    # Sending...

    def send_parts_now(self, first: bytes, second: bytes) -> int:
        return self.send_now(first + second)

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            return self._output.send(data)
        except OSError as exc:
            raise self._send_failure() from exc

    def lend(self) -> None:
        return None  # a file has to be encrypted

    def _send_failure(self) -> Exception:
        if not self._output.is_open:
            return trio.ClosedResourceError("the outgoing side was closed")
        return self._failure()

    # Ending...

    @property
    def torn(self) -> bool:
        return self._output.torn

    async def send_eof(self) -> None:
        self._check_open()
        if self._output.end():
            await super().send_eof()

    async def discard_some(self) -> bool:
        # The socket buffer may have been full when close_notify was to be sent. To wait until the socket is
        # writable and readable at the same time would take two tasks, so try again after a while, and before each
        # receive: a peer that sends without a pause leaves no wait.
        while self._output.is_ending:
            if self._output.end():
                await super().send_eof()
                break
            with trio.move_on_after(_RETRY_SECONDS):
                return await super().discard_some()
        return await super().discard_some()

    async def close(self) -> None:
        # One attempt. Afterwards the peer can tell the end of the input from a truncation (RFC 8446, section 6.1).
        if self._fileno >= 0:
            self._output.end()
        self.abort()
