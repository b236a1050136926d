"""The incoming side of TLS in memory: content out of ciphertext, with limits. It does no I/O.

OpenSSL processes any number of messages without content before it returns, and has no limit for them. So it gets
bounded pieces of input here, smaller ones if a peer sends such messages, and at last none.
"""

from __future__ import annotations

import ssl

#: The maximum content of a record (RFC 8446, section 5.1). Reads request no less, so OpenSSL never keeps a part of
#: a decrypted record, for which the socket would not become readable.
RECORD = 16 * 1024
#: The maximum ciphertext of one receive. Together with a partial record that OpenSSL has kept, it decrypts to less
#: than CHUNK bytes. A KeyUpdate is 27 bytes and takes 14 us, so this size blocks the process for 17 ms at most. A
#: peer that sends KeyUpdates and little content gets the smaller size: 2 ms.
CIPHERTEXT = 32 * 1024
_SMALL_CIPHERTEXT = 4 * 1024
# The ratio of ciphertext to content above which the smaller size is used. The shortest records have 23.
_MAX_OVERHEAD = 30
# The maximum ciphertext without content: four of the longest records. Real clients update keys after gigabytes.
_MAX_WITHOUT_CONTENT = 64 * 1024


class TlsInput:
    """The incoming side of one TLS connection.

    Args:
        tls: the connection of OpenSSL, after the handshake.
        incoming: its ciphertext from the peer.

    Attributes:
        receive_size: how many bytes of ciphertext to receive at once.
        end: the end or the error that comes after the last content; None before. An ``EOFError`` is the end: the
            peer has sent close_notify.
    """

    __slots__ = ("_incoming", "_tls", "_without_content", "end", "receive_size")

    def __init__(self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO) -> None:
        self._tls = tls
        self._incoming = incoming
        self._without_content = 0  # bytes of ciphertext received since the last content
        self.receive_size = CIPHERTEXT
        self.end: Exception | None = None

    @property
    def pending(self) -> bool:
        """Whether there is ciphertext that was not decrypted: bytes that arrived with the end of the handshake."""
        return self._incoming.pending > 0

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt everything that was received.

        Args:
            ciphertext: new bytes. Empty to decrypt what is ``pending``.

        Returns:
            Content; empty if there is none. Then see ``end``.
        """
        self._incoming.write(ciphertext)
        data = self._read_record()
        # A record may arrive in parts, so the content is compared with all ciphertext since the last content.
        size = self._without_content + len(ciphertext)
        if data:
            self._without_content = 0
            if self._incoming.pending:
                data = self._read_rest(data)
        elif self.end is None:
            self._count_without_content(size)
        self.receive_size = CIPHERTEXT if size <= _MAX_OVERHEAD * len(data) else _SMALL_CIPHERTEXT
        return data

    def refuse_more(self, reason: str) -> None:
        """End the input, because the peer violates a limit."""
        self.end = OSError(reason)

    def _read_rest(self, data: bytes) -> bytes:
        """Decrypt the records after the first one."""
        pieces = [data]
        while self._incoming.pending and (data := self._read_record()):
            pieces.append(data)
        return b"".join(pieces)

    def _read_record(self) -> bytes:
        """Decrypt the next record. Returns empty bytes if there is none; at the end, sets ``end``."""
        try:
            data = self._tls.read(RECORD)
        except ssl.SSLWantReadError:
            return b""
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            data = b""
        except OSError as exc:
            self.end = exc
            return b""
        if not data:
            self.end = EOFError("close_notify")
        return data

    def _count_without_content(self, size: int) -> None:
        """Limit the messages without content that a peer may send."""
        self._without_content = size
        if size > _MAX_WITHOUT_CONTENT:
            self.refuse_more("the peer sends too many TLS messages without content")
