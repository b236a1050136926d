"""The connections of the load generator, plain ones and those over TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable

from benchmarks.wire import Replies, ReplyError

# socket(7); Python does not know the name. The kernel adds a struct timespec, of its real-time clock.
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@qq")


class Client:
    """One connection, with the part of a reply that has come and the part of a request that has not gone.

    Attributes:
        recv: as of a socket; None if there is no content yet, which happens over TLS.
        send: as of a socket.
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
        self.expects = 1  # replies still to come
        self.partial = False  # some of them, or a part of one, are there
        self.unsent = memoryview(b"")
        self.since = 0.0  # when the operation began, or should have begun
        self.step = 0

    def collect(self, data: bytes | None, replies: Replies, depth: int = 1) -> bool:
        """Add data; tell whether that completes the right replies to `depth` requests."""
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
            raise ReplyError("more came back than was asked for")
        self.expects = depth
        self.partial = False
        return True

    def stamp(self) -> None:
        """Let the kernel note when bytes arrive, for `recv_stamped`."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def recv_stamped(self, size: int) -> tuple[bytes, float]:
        """What has come, and when; if the kernel does not tell (it does not at once), it is now."""
        data, notes, _, _ = self._socket.recvmsg(size, socket.CMSG_SPACE(TIMESPEC.size))
        if not notes:
            return data, time.time()
        seconds, nanoseconds = TIMESPEC.unpack(notes[0][2])
        return data, seconds + nanoseconds / 1e9

    def close(self) -> None:
        self._socket.close()


class TlsClient(Client):
    """A connection over TLS. It begins the handshake with its first request, which it sends behind the handshake.

    Args:
        port: of the server.
        context: of a client.
        session: to resume; a server that does not resume it is a wrong reply.
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
        """What another connection can resume, once there was a reply."""
        return self._tls.session

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._tls.unwrap()  # sends close_notify, and does not wait for that of the server
        super().close()

    def _send_first(self, data: bytes | memoryview) -> int:
        self._first += data
        self._shake_hands()
        return len(data)

    def _recv_handshake(self, size: int) -> None:
        if self._shake_hands():
            if self._session is not None and not self._tls.session_reused:
                raise ReplyError("the session was not resumed")
            self.recv, self.send = self._recv_content, self._tls.send
            self.send(self._first)

    def _shake_hands(self) -> bool:
        """Go on with the handshake; whether it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _recv_content(self, size: int) -> bytes | None:
        try:
            return self._tls.recv(size)
        except ssl.SSLWantReadError:  # a session ticket, or half a record
            return None


def client_context() -> ssl.SSLContext:
    """It believes any certificate: a check would show nothing and take the load generator's time."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
