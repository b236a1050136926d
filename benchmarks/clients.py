"""The connections of the load generator, without and with TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable

from benchmarks.wire import Replies, ReplyError

# socket(7). The socket module does not define it. The kernel adds a struct timespec of its real-time clock.
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@qq")


class Client:
    """One connection, with the received part of a reply and the unsent part of a request.

    Attributes:
        recv: as ``socket.recv``. Returns None if there is no content yet, which happens over TLS.
        send: as ``socket.send``.
    """

    __slots__ = (
        "_socket",
        "expects",
        "fd",
        "need",
        "partial",
        "pending",
        "recv",
        "send",
        "since",
        "step",
        "unsent",
    )

    recv: Callable[[int], bytes | None]
    send: Callable[[bytes | memoryview], int]

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self.fd = self._socket.fileno()
        self.recv = self._socket.recv
        self.send = self._socket.send
        self.pending = bytearray()
        self.need = 0
        self.expects = 1  # the number of missing replies
        self.partial = False  # whether a part of them has been received
        self.unsent = memoryview(b"")
        self.since = 0.0  # when the operation began, or should have begun
        self.step = 0

    def collect(self, data: bytes | None, replies: Replies, depth: int = 1) -> bool:
        """Add received data, and check it.

        Returns:
            True if the replies to `depth` requests are complete.

        Raises:
            ReplyError: a reply is wrong, or the connection has ended.
        """
        if data is None:
            return False
        if not data:
            raise ReplyError("the server closed the connection")
        self.partial = True
        self.pending += data
        if len(self.pending) < self.need:
            return False
        count, self.need = replies.take(self.pending)
        self.expects -= count
        if self.expects > 0:
            return False
        if self.expects < 0 or self.pending:
            raise ReplyError("the server sent more replies than requested")
        self.expects = depth
        self.partial = False
        return True

    def stamp(self) -> None:
        """Let the kernel timestamp incoming bytes, for `recv_stamped`."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def recv_stamped(self, size: int) -> tuple[bytes, float]:
        """Receive data and the time of its arrival. This is now for the first bytes, which have no timestamp."""
        data, notes, _, _ = self._socket.recvmsg(size, socket.CMSG_SPACE(TIMESPEC.size))
        if not notes:
            return data, time.time()
        seconds, nanoseconds = TIMESPEC.unpack(notes[0][2])
        return data, seconds + nanoseconds / 1e9

    def close(self) -> None:
        self._socket.close()


class TlsClient(Client):
    """A connection over TLS. The first ``send`` starts the handshake; its data is sent after the handshake.

    Args:
        port: the port of the server.
        context: the TLS context.
        session: a session to resume; None for a full handshake. If it is not resumed, a ReplyError is raised.
    """

    __slots__ = ("_first", "_session", "_tls")

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        super().__init__(port)
        self._session = session
        self._socket = self._tls = context.wrap_socket(
            self._socket, do_handshake_on_connect=False, session=session
        )
        self._first = b""
        self.recv = self._recv_handshake
        self.send = self._send_first

    @property
    def session(self) -> ssl.SSLSession | None:
        """A session that another connection can resume. Valid after the first reply."""
        return self._tls.session

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._tls.unwrap()  # sends close_notify without waiting for that of the server
        super().close()

    def _send_first(self, data: bytes | memoryview) -> int:
        self._first += data
        self._continue_handshake()
        return len(data)

    def _recv_handshake(self, size: int) -> None:
        if self._continue_handshake():
            if self._session is not None and not self._tls.session_reused:
                raise ReplyError("the session was not resumed")
            self.recv, self.send = self._recv_content, self._tls.send
            self.send(self._first)

    def _continue_handshake(self) -> bool:
        """Continue the handshake. Returns True when it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _recv_content(self, size: int) -> bytes | None:
        try:
            return self._tls.recv(size)
        except ssl.SSLWantReadError:  # only a session ticket, or a part of a record
            return None


def client_context() -> ssl.SSLContext:
    """Create a context that accepts any certificate. A check would only take time of the load generator."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
