"""The outgoing side of TLS: records out of content, and what the socket has not accepted of them.

It only sends without waiting. The transport waits until the socket is writable.
"""

from __future__ import annotations

import enum
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ._tls_input import RECORD

if TYPE_CHECKING:
    import socket
    import ssl


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


# Saves the attribute lookup of the enum for each send.
_TORN, _ENDING = _State.TORN, _State.ENDING


class TlsOutput:
    """The outgoing side of one TLS connection.

    A record that the kernel refused, or accepted in part, is already encrypted and can be neither withdrawn nor
    replaced: the numbers of the records are part of the encryption (RFC 8446, section 5.3). So its ciphertext is
    kept, with a reference to its content, and the next ``send`` must begin with the same bytes. To encrypt less
    than a whole record was rejected: the kernel does not tell in advance how much it accepts.

    Every method that sends may raise ``OSError``, from the socket or from OpenSSL.

    Args:
        sock: the connected socket, non-blocking.

    Attributes:
        outgoing: the ciphertext of OpenSSL that was not passed to the kernel yet, from ``begin`` on.
    """

    __slots__ = ("_refused", "_socket", "_state", "_tls", "_unsent", "outgoing")

    _tls: ssl.SSLObject  # exists from ``begin`` on
    outgoing: ssl.MemoryBIO

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._state = _State.HANDSHAKE
        self._unsent = b""
        self._refused: bytes | memoryview | None = None  # the content of the last record in _unsent

    def begin(self, tls: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
        """Set the connection of OpenSSL and its ciphertext for the peer. The handshake can be sent."""
        self._tls, self.outgoing = tls, outgoing

    def open(self) -> None:
        """Note that the handshake is complete, so content may be sent."""
        self._state = _State.OPEN

    @property
    def is_open(self) -> bool:
        """Whether content may be sent."""
        return self._state is _State.OPEN

    @property
    def torn(self) -> bool:
        """See ``Transport.torn``."""
        return self._state is _TORN

    @property
    def is_ending(self) -> bool:
        """Whether close_notify is encrypted, but not sent yet."""
        return self._state is _ENDING

    @property
    def unsent(self) -> int:
        """The number of bytes that the kernel has not accepted."""
        return len(self._unsent)

    def send(self, data: bytes | memoryview) -> int:
        """Send content without waiting; see ``Transport.send_now``.

        Raises:
            trio.ClosedResourceError: ``data`` does not begin with the content of the refused record.
        """
        size = len(data)
        if self._refused is not None or size > RECORD:
            return self._send_records(memoryview(data))
        self._tls.write(data)
        if self.transmit():
            return size
        # It counts as not sent, although the kernel may have a part of the record: the caller passes it again.
        self._refused = data
        return 0

    def _send_records(self, data: memoryview) -> int:
        sent = 0
        if self._refused is not None:
            sent = self._send_refused(self._refused, data)
            if not sent:
                return 0
        while sent < len(data):
            record = data[sent : sent + RECORD]
            self._tls.write(record)
            if not self.transmit():
                self._refused = record
                break
            sent += len(record)
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
            self._state = _TORN
            raise trio.ClosedResourceError(
                "a record is already encrypted, and other bytes were passed in its place"
            )
        if not self.transmit():
            return 0
        self._refused = None
        return size

    def transmit(self) -> bool:
        """Send pending ciphertext without waiting. Returns whether all of it was sent."""
        ciphertext = self.outgoing.read()
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

    def end(self) -> bool:
        """Send close_notify without waiting, unless a record was sent in part. Never raises.

        Does not wait for the close_notify of the peer (RFC 8446, section 6.1).

        Returns:
            Whether there is nothing left to send.
        """
        if self.is_open and self._refused is None:
            self._state = _ENDING
            # OpenSSL encrypts close_notify, and then raises an error because that of the peer is missing.
            with suppress(OSError):
                self._tls.unwrap()
        if self.is_ending:
            try:
                if not self.transmit():
                    return False
            except OSError:
                pass  # the peer has disconnected
            self._state = _State.ENDED
        return True
