"""TLS over a socket: OpenSSL encrypts and decrypts in memory, and this module moves the ciphertext.

A non-blocking ``ssl.SSLSocket`` costs as much and was rejected. Its ``recv`` reads records until it finds content,
so a peer that sends nothing but KeyUpdates (RFC 8446, section 4.6.3) keeps it from returning: 5 MB of them held up
the whole process for 2.7 seconds. It also answers them while it reads, so that a task that receives may have to
wait for room, for which another waits already. In memory, OpenSSL gets a bounded piece of input and never waits.
"""

from __future__ import annotations

import enum
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._http._tls_info import TlsInfo
from ._client_hello import is_plain_http, server_name_of
from ._ssl_errors import reason_of
from ._transport import Incoming, SocketTransport

if TYPE_CHECKING:
    import socket

    from .._http._address import Address

# The most content of one record (RFC 8446, section 5.1). Reads ask OpenSSL for no less, so it never keeps a part
# of a record that it has decrypted, of which the socket would not tell.
_RECORD = 16 * 1024
# Ciphertext received at once. With the start of a record that OpenSSL has kept it makes less than a chunk of
# content. A KeyUpdate is 27 bytes and takes 14 microseconds, so a peer that mixes them with a little content gets
# the smaller size, which holds up the process for 2 ms, not for 17.
_CIPHERTEXT = 32 * 1024
_POOR_CIPHERTEXT = 4 * 1024
# Ciphertext is poor if it has more bytes than this for one of content; the shortest records have 23.
_POOR = 30
# The most ciphertext without any content: four of the longest records. Clients update keys after gigabytes.
_MOST_WITHOUT_CONTENT = 64 * 1024
# The most of OpenSSL's own messages that waits for the next record.
_MOST_KEPT_BACK = 4 * 1024
# The most ciphertext that may wait for room: a record, and replies to KeyUpdates of a peer that does not read.
_MOST_UNSENT = 64 * 1024
# Seconds between two attempts to send close_notify when the kernel has no room for it.
_RETRY_SECONDS = 0.1

# The most bytes of a peer that an error quotes.
_MOST_QUOTED = 60


class TlsHandshakeError(trio.BrokenResourceError):
    """The handshake failed; the text is a short reason, in which everything from the peer is quoted."""


class PlainHttpError(TlsHandshakeError):
    """The peer has sent an HTTP request without TLS.

    Attributes:
        received: what was received of it.
    """

    def __init__(self, received: bytes) -> None:
        line = received[: _MOST_QUOTED + 1].split(b"\r\n", 1)[0]
        more = "..." if len(line) > _MOST_QUOTED else ""
        super().__init__(f"not TLS: begins with {line[:_MOST_QUOTED].decode('latin-1')!a}{more}")
        self.received = received


class _State(enum.Enum):
    """How far the outgoing side has come.

    Attributes:
        HANDSHAKE: nothing may be sent yet.
        OPEN: content may be sent.
        TORN: a record was begun and another was offered in its place; nothing may be sent any more.
        ENDING: the kernel has not taken close_notify yet.
        ENDED: it has.
    """

    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    TORN = enum.auto()
    ENDING = enum.auto()
    ENDED = enum.auto()


class TlsTransport(SocketTransport):
    """The server's side of TLS over a connected socket, which it owns.

    Content counts as sent when the kernel has taken the whole record that carries it. A record that it refused,
    or took in part, is encrypted already and can neither be withdrawn nor replaced. So the bytes that ``send_now``
    did not take must be offered again, with or without more behind them. If other bytes are offered, that raises
    ``trio.ClosedResourceError``, the transport is ``torn``, and nothing can be sent any more.

    What OpenSSL says by itself (session tickets, replies to KeyUpdates, alerts) is sent with the next record, or
    after a receive that gave no content, as far as the kernel has room. A reply to a KeyUpdate may wait for the
    next record (RFC 8446, section 4.6.3).

    Args:
        sock: the connection.
        peer: its address.
        context: of a server. It is not changed.
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

    _tls: ssl.SSLObject  # from the first bytes of the handshake on
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

    def __init__(self, sock: socket.socket, peer: Address, context: ssl.SSLContext) -> None:
        super().__init__(sock, peer)
        self._context = context
        self._state = _State.HANDSHAKE
        self._unsent = b""  # ciphertext that the kernel has not taken
        self._refused: bytes | memoryview | None = None  # the content in it, if there is any
        self._receive_size = _CIPHERTEXT
        self._without_content = 0  # bytes of ciphertext since the last content
        self._decrypted_end: Exception | None = None  # what stands behind the content received last
        self._server_name: str | None = None
        self._info: TlsInfo | None = None

    # The handshake...

    async def handshake(self, turns: trio.Semaphore | None = None) -> None:
        """Shake hands; to be called once, before anything else but ``interrupt``, ``abort`` and ``close``.

        It has no deadline of its own.

        Args:
            turns: how many handshakes may compute in one pass of the scheduler; None for no bound. A ClientHello
                costs its sender nothing and the server 150 microseconds, so a burst of them would hold up the
                connections that are open. An interrupt does not end the wait for a turn, but the next wait.

        Raises:
            PlainHttpError: the peer has sent an HTTP request; see ``without_tls``.
            TlsHandshakeError: the handshake failed, or the peer is gone. An alert was sent where there is one.
            trio.ClosedResourceError: it was interrupted.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        received = await self._receive_handshake()
        if is_plain_http(received):
            raise PlainHttpError(received)
        self._start()
        hello: list[bytes] | None = [received]
        while not await self._take_turn(turns, received):
            if self._outgoing.pending:
                if hello is not None:  # a reply: OpenSSL has read the ClientHello
                    self._server_name, hello = server_name_of(b"".join(hello)), None
                await self._send_handshake()
            received = await self._receive_handshake()
            if hello is not None:
                hello.append(received)
        if not self._has_only_tickets():
            await self._send_handshake()
        self._state = _State.OPEN
        self._is_new = True

    def _has_only_tickets(self) -> bool:
        """Whether what is left to send are session tickets that can go out with the first response.

        They may only wait if a request has come. A client with Nagle's algorithm holds its request back until
        something acknowledges its part of the handshake.
        """
        return self._incoming.pending > 0 and self._tls.version() == "TLSv1.3"

    def _start(self) -> None:
        # Not before the first bytes: a connection that sends none costs no memory of OpenSSL.
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        except ssl.SSLError as exc:
            raise TlsHandshakeError(reason_of(exc)) from exc

    async def _take_turn(self, turns: trio.Semaphore | None, received: bytes) -> bool:
        """Advance the handshake when it is our turn, which ends with this pass of the scheduler."""
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
        """Whether the handshake is complete."""
        self._incoming.write(received)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except Exception as exc:  # callbacks of the context run in there, and may raise anything
            with suppress(OSError):
                self._transmit()  # the alert
            raise TlsHandshakeError(reason_of(exc)) from exc
        return True

    async def _receive_handshake(self) -> bytes:
        while True:
            self._check_open()
            if self._is_new:  # its first bytes are mostly there
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
        """The same socket without TLS, to answer a peer that does not speak it; this transport is closed."""
        self._check_open()
        self._fileno = -1
        return SocketTransport(self._socket, self.peer)

    def tls_info(self) -> TlsInfo:
        """What was negotiated; the handshake has to be complete. It is looked up when it is first asked for."""
        if self._info is None:
            tls = self._tls
            cipher = tls.cipher()
            self._info = TlsInfo(
                version=tls.version() or "",
                cipher=cipher[0] if cipher else "",
                server_name=self._server_name,
                alpn_protocol=tls.selected_alpn_protocol(),
                certificate_getter=tls.getpeercert,
            )
        return self._info

    # Receiving...

    async def receive_some(self) -> bytes:
        while True:
            self._check_open()
            if self._is_new:  # the first request mostly comes with the end of the handshake
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
        """Content; empty at the end of file, None if there is none yet."""
        try:
            ciphertext = self._socket.recv(self._receive_size)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._failure() from exc
        if not ciphertext:
            # Without close_notify, too: HTTP and WebSocket tell by themselves whether a message is complete.
            self.incoming = Incoming.ENDED
            return b""
        self._incoming.write(ciphertext)
        return self._decrypt(len(ciphertext))

    def _decrypt(self, size: int) -> bytes | None:
        """The content of so many bytes of new ciphertext; empty at the end of file, None if there is none."""
        data = self._decrypt_record()
        if data and not self._incoming.pending and not self._outgoing.pending:
            self._without_content = 0
            return data
        return self._decrypt_rest(data, size)

    def _decrypt_rest(self, data: bytes, size: int) -> bytes | None:
        if data:
            self._without_content = 0
            pieces = [data]
            while self._incoming.pending and (data := self._decrypt_record()):
                pieces.append(data)
            data = b"".join(pieces)
        elif self._decrypted_end is None:
            self._count_without_content(size)
        self._receive_size = _CIPHERTEXT if size <= _POOR * len(data) else _POOR_CIPHERTEXT
        if self._outgoing.pending and not (data and self._outgoing.pending <= _MOST_KEPT_BACK):
            self._send_control()
        if data:
            return data
        return None if self._decrypted_end is None else self._end_input(self._decrypted_end)

    def _decrypt_record(self) -> bytes:
        """The content of the next record; empty if there is none, then ``_decrypted_end`` may say why."""
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
        """Bound what a peer may make us do with TLS alone; OpenSSL does not."""
        self._without_content += size
        if self._without_content > _MOST_WITHOUT_CONTENT:
            self._decrypted_end = OSError("the peer sends nothing but messages of TLS")

    def _send_control(self) -> None:
        """Send what OpenSSL says by itself, as far as the kernel has room; the rest waits for the next send."""
        with suppress(OSError):  # the next call notices
            self._transmit()
        if len(self._unsent) > _MOST_UNSENT:
            self._decrypted_end = OSError("the peer does not read the replies to its messages of TLS")

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
        """Go on with what is encrypted, and comes first in what is offered; its size if the kernel has all."""
        size = len(refused)
        if self.torn or bytes(data[:size]) != bytes(refused):
            self._state = _State.TORN
            raise trio.ClosedResourceError("a record was begun, and other bytes were offered in its place")
        if not self._transmit():
            return 0
        self._refused = None
        return size

    def _transmit(self) -> bool:
        """Give the kernel the ciphertext that there is; whether it has taken all."""
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
            return trio.ClosedResourceError("the outgoing side was ended")
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
        # The kernel may have had no room for close_notify. To wait for room and for input at the same time would
        # take two tasks.
        while self._state is _State.ENDING:
            with trio.move_on_after(_RETRY_SECONDS):
                return await super().discard_some()
            if self._end_output():
                await super().send_eof()
        return await super().discard_some()

    async def close(self) -> None:
        if self._fileno >= 0:
            self._end_output()
        self.abort()

    def _end_output(self) -> bool:
        """Send close_notify, unless a record is not complete; whether the kernel has all that it can get.

        The peer's close_notify is not waited for (RFC 8446, section 6.1).
        """
        if self._state is _State.OPEN and self._refused is None:
            self._state = _State.ENDING
            # It goes out although OpenSSL complains that the peer's is missing.
            with suppress(OSError):
                self._tls.unwrap()
        if self._state is _State.ENDING:
            try:
                if not self._transmit():
                    return False
            except OSError:
                pass  # the peer is gone
            self._state = _State.ENDED
        return True
