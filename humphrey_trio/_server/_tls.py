"""TLS over a socket. OpenSSL encrypts and decrypts in memory, and this module sends and receives the ciphertext.

A non-blocking ``ssl.SSLSocket`` was rejected. It is not faster, and its ``recv`` reads records until one has
content, so a peer that sends only KeyUpdates (RFC 8446, section 4.6.3) keeps it from returning: 5 MB of them
blocked the process for 2.7 seconds. It also sends the replies while it reads, so a task that receives may have to
wait until the socket is writable while another task waits for the same. With memory BIOs, OpenSSL gets a bounded
amount of input and never waits.

A handshake message may span records (RFC 8446, section 5.1). After a part of a KeyUpdate, OpenSSL is in a
handshake again until the rest arrives. It does not report the version and the certificate of the peer then, so
they are read when the first handshake ends. It cannot send content then, so sending meanwhile ends the connection.
A KeyUpdate has 5 bytes, so a client has no reason to split it.
"""

from __future__ import annotations

import enum
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from .._http._tls_info import TlsInfo
from ._client_hello import is_plain_http, server_name_of
from ._ssl_errors import reason_of
from ._transport import Incoming, SocketTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from .._http._address import Address

# The maximum content of a record (RFC 8446, section 5.1). Reads request no less, so OpenSSL never keeps a part of
# a decrypted record, for which the socket would not become readable.
_RECORD = 16 * 1024
# The maximum ciphertext of one receive. Together with a partial record that OpenSSL has kept, it decrypts to less
# than CHUNK bytes. A KeyUpdate is 27 bytes and takes 14 us, so this size blocks the process for 17 ms at most. A
# peer that sends KeyUpdates and little content gets the smaller size: 2 ms.
_CIPHERTEXT = 32 * 1024
_SMALL_CIPHERTEXT = 4 * 1024
# The ratio of ciphertext to content above which the smaller size is used. The shortest records have 23.
_MAX_OVERHEAD = 30
# The maximum ciphertext without content: four of the longest records. Real clients update keys after gigabytes.
_MAX_WITHOUT_CONTENT = 64 * 1024
# The maximum size of messages of OpenSSL itself that wait for the next record.
_MAX_DELAYED = 4 * 1024
# The maximum ciphertext that waits to be sent: a record, and replies to KeyUpdates of a peer that does not read.
_MAX_UNSENT = 64 * 1024
# Seconds between two attempts to send close_notify while the socket buffer is full.
_RETRY_SECONDS = 0.1

# The maximum number of bytes from a peer that are quoted in an error message.
_MAX_QUOTED = 60


class TlsHandshakeError(trio.BrokenResourceError):
    """The handshake failed. The message is a short reason, in which text from the peer is escaped."""


class PlainHttpError(TlsHandshakeError):
    """The peer has sent an HTTP request without TLS.

    Attributes:
        received: the received bytes.
    """

    def __init__(self, received: bytes) -> None:
        line = received[: _MAX_QUOTED + 1].split(b"\r\n", 1)[0]
        more = "..." if len(line) > _MAX_QUOTED else ""
        super().__init__(f"not TLS: begins with {line[:_MAX_QUOTED].decode('latin-1')!a}{more}")
        self.received = received


class _State(enum.Enum):
    """The state of the outgoing side.

    Attributes:
        HANDSHAKE: the handshake is not complete, so no content may be sent.
        OPEN: content may be sent.
        TORN: other bytes were passed in the place of a record that was already encrypted. Nothing more may be
            sent.
        ENDING: close_notify is encrypted, but not sent yet.
        ENDED: close_notify was sent.
    """

    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    TORN = enum.auto()
    ENDING = enum.auto()
    ENDED = enum.auto()


class TlsTransport(SocketTransport):
    """The server side of TLS over a connected socket, which it owns.

    Content counts as sent when the kernel has accepted the whole record that contains it. A record that the kernel
    refused, or accepted in part, is already encrypted and can be neither withdrawn nor replaced. So the bytes that
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

    __slots__ = (
        "_context",
        "_decrypted_end",
        "_incoming",
        "_info",
        "_outgoing",
        "_receive_size",
        "_refused",
        "_server_name",
        "_state",
        "_tls",
        "_unsent",
        "_without_content",
    )

    _tls: ssl.SSLObject  # these three exist from the first bytes of the handshake on
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

    def __init__(self, sock: socket.socket, peer: Address, context: ssl.SSLContext) -> None:
        super().__init__(sock, peer)
        self._context = context
        self._state = _State.HANDSHAKE
        self._unsent = b""  # ciphertext that the kernel has not accepted
        self._refused: bytes | memoryview | None = None  # the content of its last record, if it has any
        self._receive_size = _CIPHERTEXT
        self._without_content = 0  # bytes of ciphertext received since the last content
        self._decrypted_end: Exception | None = None  # the end or error that comes after the last content
        self._server_name: str | None = None
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
        await trio.lowlevel.checkpoint_if_cancelled()
        received = await self._receive_handshake()
        if is_plain_http(received):
            raise PlainHttpError(received)
        self._start()
        hello: list[bytes] | None = [received]
        while not await self._take_turn(turns, received):
            if self._outgoing.pending:
                if hello is not None:  # OpenSSL has replied, so it has read the whole ClientHello
                    self._server_name, hello = server_name_of(b"".join(hello)), None
                await self._send_handshake()
            received = await self._receive_handshake()
            if hello is not None:
                hello.append(received)
        if not self._has_only_tickets():
            await self._send_handshake()
        self._info = self._read_info()
        self._state = _State.OPEN
        self._is_new = True

    def _has_only_tickets(self) -> bool:
        """Whether only session tickets are left to send, and they can be sent with the first response.

        They can only wait if the first request has already arrived. A client with Nagle's algorithm delays its
        request until its part of the handshake is acknowledged.
        """
        return self._incoming.pending > 0 and self._tls.version() == "TLSv1.3"

    def _start(self) -> None:
        # After the first bytes, so that a connection that sends none uses no memory of OpenSSL.
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        except ssl.SSLError as exc:
            raise TlsHandshakeError(reason_of(exc)) from exc

    async def _take_turn(self, turns: trio.Semaphore | None, received: bytes) -> bool:
        """Wait for a turn and advance the handshake. The turn ends with this scheduler pass."""
        if turns is None:
            return self._advance_handshake(received)
        try:
            turns.acquire_nowait()
        except trio.WouldBlock:
            await turns.acquire()
        try:
            self._check_open()
            complete = self._advance_handshake(received)
            await trio.lowlevel.checkpoint()
            return complete
        finally:
            turns.release()

    def _advance_handshake(self, received: bytes) -> bool:
        """Pass received bytes to OpenSSL. Returns whether the handshake is complete."""
        self._incoming.write(received)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except Exception as exc:  # do_handshake runs callbacks of the context, which may raise anything
            with suppress(OSError):
                self._transmit()  # the alert
            raise TlsHandshakeError(reason_of(exc)) from exc
        return True

    async def _receive_handshake(self) -> bytes:
        while True:
            self._check_open()
            if self._is_new:  # the first bytes have usually arrived
                self._is_new = False
            else:
                await trio.lowlevel.wait_readable(self._fileno)
            try:
                received = self._socket.recv(_CIPHERTEXT)
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
            while not self._transmit():
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

    def _read_info(self) -> TlsInfo:
        tls = self._tls
        cipher = tls.cipher()
        certificate = tls.getpeercert(True)
        fields = {} if certificate is None else tls.getpeercert()

        def get_certificate(binary_form: bool) -> bytes | Mapping[str, Any] | None:
            return certificate if binary_form else fields

        return TlsInfo(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            server_name=self._server_name,
            alpn_protocol=tls.selected_alpn_protocol(),
            certificate_getter=get_certificate,
        )

    # Receiving...

    async def receive_some(self) -> bytes:
        while True:
            self._check_open()
            if self._is_new:  # the first request usually arrives with the end of the handshake
                self._is_new = False
                data = self._decrypt(0) if self._incoming.pending else self._receive_now()
            elif self._decrypted_end is not None:
                await trio.lowlevel.checkpoint()
                return self._end_input(self._decrypted_end)
            else:
                await trio.lowlevel.wait_readable(self._fileno)
                data = self._receive_now()
            if data is not None:
                return data

    def _receive_now(self) -> bytes | None:
        """Receive without waiting.

        Returns:
            Content; empty at the end of file, None if there is no content yet.
        """
        try:
            ciphertext = self._socket.recv(self._receive_size)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._failure() from exc
        if not ciphertext:
            # A missing close_notify is accepted: HTTP and WebSocket have their own framing, so a truncated message
            # is detected (RFC 9112, section 9.8).
            self.incoming = Incoming.ENDED
            return b""
        self._incoming.write(ciphertext)
        return self._decrypt(len(ciphertext))

    def _decrypt(self, size: int) -> bytes | None:
        """Decrypt everything that was received.

        Args:
            size: bytes of new ciphertext.

        Returns:
            Content; empty at the end of file, None if there is no content yet.
        """
        data = self._decrypt_record()
        # A record may arrive in parts, so the content is compared with all ciphertext since the last content.
        size += self._without_content
        if (
            data
            and not self._incoming.pending
            and not self._outgoing.pending
            and size <= _MAX_OVERHEAD * len(data)
        ):
            self._without_content = 0
            self._receive_size = _CIPHERTEXT
            return data
        return self._decrypt_rest(data, size)

    def _decrypt_rest(self, data: bytes, size: int) -> bytes | None:
        """As ``_decrypt``, after the first record.

        Args:
            data: the content of the first record.
            size: bytes of ciphertext since the last content.
        """
        if data:
            self._without_content = 0
            pieces = [data]
            while self._incoming.pending and (data := self._decrypt_record()):
                pieces.append(data)
            data = b"".join(pieces)
        elif self._decrypted_end is None:
            self._count_without_content(size)
        self._receive_size = _CIPHERTEXT if size <= _MAX_OVERHEAD * len(data) else _SMALL_CIPHERTEXT
        if self._outgoing.pending and not (data and self._outgoing.pending <= _MAX_DELAYED):
            self._send_control()
        if data:
            return data
        return None if self._decrypted_end is None else self._end_input(self._decrypted_end)

    def _decrypt_record(self) -> bytes:
        """Decrypt the next record. Returns empty bytes if there is none; at the end, sets ``_decrypted_end``."""
        try:
            data = self._tls.read(_RECORD)
        except ssl.SSLWantReadError:
            return b""
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            data = b""
        except OSError as exc:
            self._decrypted_end = exc
            return b""
        if not data:
            self._decrypted_end = EOFError("close_notify")
        return data

    def _end_input(self, end: Exception) -> bytes:
        if not isinstance(end, EOFError):
            raise self._failure() from end
        self.incoming = Incoming.ENDED
        return b""

    def _count_without_content(self, size: int) -> None:
        """Limit the TLS messages without content that a peer may send. OpenSSL has no limit."""
        self._without_content = size
        if self._without_content > _MAX_WITHOUT_CONTENT:
            self._decrypted_end = OSError("the peer sends too many TLS messages without content")

    def _send_control(self) -> None:
        """Send messages of OpenSSL itself without waiting. The rest is sent before the next record."""
        with suppress(OSError):  # the next send or receive raises the error
            self._transmit()
        if len(self._unsent) > _MAX_UNSENT:
            self._decrypted_end = OSError("the peer does not read the replies to its TLS messages")

    # Sending...

    def send_now(self, data: bytes | memoryview) -> int:
        size = len(data)
        if self._refused is not None or size > _RECORD:
            return self._send_records(memoryview(data))
        try:
            self._tls.write(data)
            if self._transmit():
                return size
        except OSError as exc:
            raise self._send_failure() from exc
        self._refused = data
        return 0

    def _send_records(self, data: memoryview) -> int:
        sent = 0
        try:
            if self._refused is not None:
                sent = self._send_refused(self._refused, data)
                if not sent:
                    return 0
            while sent < len(data):
                record = data[sent : sent + _RECORD]
                self._tls.write(record)
                if not self._transmit():
                    self._refused = record
                    break
                sent += len(record)
        except OSError as exc:
            raise self._send_failure() from exc
        return sent

    def _send_refused(self, refused: bytes | memoryview, data: memoryview) -> int:
        """Continue to send the record that was refused.

        Args:
            refused: the content of that record.
            data: the bytes to send, which must begin with this content.

        Returns:
            The size of the content if the whole record was sent, else 0.

        Raises:
            trio.ClosedResourceError: ``data`` begins with other bytes.
        """
        size = len(refused)
        if self.torn or bytes(data[:size]) != bytes(refused):
            self._state = _State.TORN
            raise trio.ClosedResourceError(
                "a record is already encrypted, and other bytes were passed in its place"
            )
        if not self._transmit():
            return 0
        self._refused = None
        return size

    def _transmit(self) -> bool:
        """Send pending ciphertext without waiting. Returns whether all of it was sent."""
        ciphertext = self._outgoing.read()
        if self._unsent:
            ciphertext = self._unsent + ciphertext
        elif not ciphertext:
            return True
        try:
            sent = self._socket.send(ciphertext)
        except BlockingIOError:
            sent = 0
        self._unsent = ciphertext[sent:]
        return not self._unsent

    def _send_failure(self) -> Exception:
        if self._state is not _State.OPEN:
            return trio.ClosedResourceError("the outgoing side was closed")
        return self._failure()

    # Ending...

    @property
    def torn(self) -> bool:
        return self._state is _State.TORN

    async def send_eof(self) -> None:
        self._check_open()
        if self._end_output():
            await super().send_eof()

    async def discard_some(self) -> bool:
        # The socket buffer may have been full when close_notify was to be sent. To wait until the socket is
        # writable and readable at the same time would take two tasks, so try again after a while, and before each
        # receive: a peer that sends without a pause leaves no wait.
        while self._state is _State.ENDING:
            if self._end_output():
                await super().send_eof()
                break
            with trio.move_on_after(_RETRY_SECONDS):
                return await super().discard_some()
        return await super().discard_some()

    async def close(self) -> None:
        if self._fileno >= 0:
            self._end_output()
        self.abort()

    def _end_output(self) -> bool:
        """Send close_notify without waiting, unless a record was sent in part.

        Does not wait for the close_notify of the peer (RFC 8446, section 6.1).

        Returns:
            Whether there is nothing left to send.
        """
        if self._state is _State.OPEN and self._refused is None:
            self._state = _State.ENDING
            # OpenSSL encrypts close_notify, and then raises an error because that of the peer is missing.
            with suppress(OSError):
                self._tls.unwrap()
        if self._state is _State.ENDING:
            try:
                if not self._transmit():
                    return False
            except OSError:
                pass  # the peer has disconnected
            self._state = _State.ENDED
        return True
