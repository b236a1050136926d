"""TLS clients on non-blocking sockets that a test drives record by record."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from humphrey_trio._server._tls import TlsTransport
from humphrey_trio.http import Address

from . import PATIENCE
from .certificates import authority

HOST = "localhost"
PEER = Address("peer")
#: The most content of a record.
RECORD = 16 * 1024

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
_HANDSHAKE, _CONTENT, _ALERT = 22, 23, 21
_NEW_SESSION_TICKET, _KEY_UPDATE = 4, 24


def server_context() -> ssl.SSLContext:
    """A context as most users make it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert(HOST).configure_cert(context)
    return context


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A context that trusts the server, for one version of TLS or all."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class OpenSslRecords:
    """A client's side of TLS after the handshake, without I/O, with Python's ``ssl``.

    Attributes:
        ended: whether the server has sent close_notify.
    """

    def __init__(self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self.tls = tls
        self.ended = False
        self._incoming, self._outgoing = incoming, outgoing

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._outgoing.read()

    def end(self) -> bytes:
        """A close_notify."""
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        return self._outgoing.read()

    def decrypt(self, ciphertext: bytes) -> bytes:
        self._incoming.write(ciphertext)
        content = b""
        try:
            while data := self.tls.read(RECORD):
                content += data
            self.ended = True
        except ssl.SSLZeroReturnError:  # the client has ended before
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return content


class OwnRecords:
    """TLS 1.3 records that Python's ``ssl`` cannot send (RFC 8446, sections 5 and 7).

    Attributes:
        ended: whether the server has sent close_notify.
        key_updates: how many KeyUpdates the server has sent.
    """

    def __init__(self, secrets: dict[str, bytes], cipher: str) -> None:
        digest = "sha384" if cipher.endswith("SHA384") else "sha256"
        size = 32 if "256_GCM" in cipher else 16
        self._send = _Keys(secrets["CLIENT_TRAFFIC_SECRET_0"], digest, size)
        self._receive = _Keys(secrets["SERVER_TRAFFIC_SECRET_0"], digest, size)
        self._received = b""
        self.key_updates = 0
        self.ended = False

    def encrypt(self, data: bytes) -> bytes:
        starts = range(0, len(data), RECORD)
        return b"".join(self._send.seal(_CONTENT, data[start : start + RECORD]) for start in starts)

    def key_update(self, *, request: bool = False) -> bytes:
        """A KeyUpdate, which may request one of the server."""
        record = self._send.seal(_HANDSHAKE, bytes((_KEY_UPDATE, 0, 0, 1, request)))
        self._send.update()
        return record

    def half_key_update(self) -> bytes:
        """The first four bytes of a KeyUpdate, in their own record."""
        return self._send.seal(_HANDSHAKE, bytes((_KEY_UPDATE, 0, 0, 1)))

    def end(self) -> bytes:
        """A close_notify."""
        return self._send.seal(_ALERT, b"\x01\x00")

    def decrypt(self, ciphertext: bytes) -> bytes:
        self._received += ciphertext
        content: list[bytes] = []
        at = 0
        while len(self._received) >= at + 5:
            end = at + 5 + int.from_bytes(self._received[at + 3 : at + 5], "big")
            if len(self._received) < end:
                break
            kind, data = self._receive.open(self._received[at : at + 5], self._received[at + 5 : end])
            at = end
            if kind == _CONTENT:
                assert not self.ended
                content.append(data)
            elif kind == _ALERT:
                assert data == b"\x01\x00", f"alert {data!r}"
                self.ended = True
            elif data[0] == _KEY_UPDATE:
                assert data == bytes((_KEY_UPDATE, 0, 0, 1, 0))
                self.key_updates += 1
                self._receive.update()
            else:
                assert data[0] == _NEW_SESSION_TICKET
        self._received = self._received[at:]
        return b"".join(content)


class _Keys:
    """One direction of TLS 1.3 (RFC 8446, sections 5.2, 5.3 and 7.2)."""

    def __init__(self, secret: bytes, digest: str, size: int) -> None:
        self._digest, self._size = digest, size
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = AESGCM(self._expand(b"key", self._size))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")
        self._number = 0

    def update(self) -> None:
        self._use(self._expand(b"traffic upd", hashlib.new(self._digest).digest_size))

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\x00\x01"
        return hmac.digest(self._secret, info, self._digest)[:size]

    def _nonce(self) -> bytes:
        self._number += 1
        return (self._iv ^ self._number - 1).to_bytes(12, "big")

    def seal(self, kind: int, data: bytes) -> bytes:
        header = b"\x17\x03\x03" + (len(data) + 17).to_bytes(2, "big")
        return header + self._aead.encrypt(self._nonce(), data + bytes([kind]), header)

    def open(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        inner = self._aead.decrypt(self._nonce(), body, header).rstrip(b"\0")
        return inner[-1], inner[:-1]


class Client:
    """A client's end of a connection, on a non-blocking socket.

    Attributes:
        socket: the socket.
        records: its side of TLS; set by the handshake.
        received: the content received so far.
        to_send: ciphertext that has not left yet.
    """

    records: OpenSslRecords | OwnRecords

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.received = b""
        self.to_send = b""

    async def shake_hands(
        self,
        context: ssl.SSLContext,
        *,
        own_records: bool = False,
        server_name: str | None = HOST,
        then: bytes = b"",
        session: ssl.SSLSession | None = None,
    ) -> None:
        """Shake hands, and send the first content together with the end of that."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with tempfile.NamedTemporaryFile("r") as secrets:
            if own_records:
                context.keylog_filename = secrets.name
            tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name, session=session)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self.send_all(outgoing.read())
                except ssl.SSLError:
                    await self.send_all(outgoing.read())  # an alert
                    raise
                incoming.write(await self.receive())
            finished = outgoing.read()
            cipher = tls.cipher()
            assert cipher is not None
            if own_records:
                lines = [line.split() for line in secrets if not line.startswith("#")]
                self.records = OwnRecords({name: bytes.fromhex(secret) for name, _, secret in lines}, cipher[0])
            else:
                self.records = OpenSslRecords(tls, incoming, outgoing)
        await self.send_all(finished + (self.records.encrypt(then) if then else b""))

    @property
    def tls(self) -> ssl.SSLObject:
        assert isinstance(self.records, OpenSslRecords)
        return self.records.tls

    @property
    def own(self) -> OwnRecords:
        assert isinstance(self.records, OwnRecords)
        return self.records

    async def send(self, data: bytes) -> None:
        """Encrypt and send content."""
        await self.send_all(self.records.encrypt(data))

    async def send_all(self, ciphertext: bytes) -> None:
        """Send ciphertext."""
        self.to_send += ciphertext
        while self.to_send:
            await trio.lowlevel.wait_writable(self.socket)
            self.push(len(self.to_send))

    def push(self, size: int) -> None:
        """Send at most so many bytes of the queued ciphertext, without waiting."""
        if self.to_send and size:
            with suppress(BlockingIOError):
                self.to_send = self.to_send[self.socket.send(self.to_send[:size]) :]

    def pull(self, size: int) -> bool:
        """Receive at most so many bytes of ciphertext, without waiting. False at the end of file."""
        try:
            ciphertext = self.socket.recv(size)
        except BlockingIOError:
            return True
        self.received += self.records.decrypt(ciphertext)
        return bool(ciphertext)

    async def receive(self) -> bytes:
        """Receive ciphertext. EOFError at the end of file."""
        await trio.lowlevel.wait_readable(self.socket)
        if data := self.socket.recv(65536):
            return data
        raise EOFError

    async def read(self, size: int) -> bytes:
        """So much content, or all until the end of file."""
        while len(self.received) < size and not self.records.ended:
            await trio.lowlevel.wait_readable(self.socket)
            if not self.pull(65536):
                break
        content, self.received = self.received[:size], self.received[size:]
        return content

    async def read_to_end(self) -> bytes:
        """The content until the end of file, whether or not TLS has ended before."""
        await trio.lowlevel.wait_readable(self.socket)
        while self.pull(65536):
            await trio.lowlevel.wait_readable(self.socket)
        content, self.received = self.received, b""
        return content

    def close(self) -> None:
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()


SocketPair = Callable[[], tuple[socket.socket, socket.socket]]


def local_pair() -> tuple[socket.socket, socket.socket]:
    """Sockets with the smallest buffers that the kernel has."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return ours, theirs


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def reset(sock: socket.socket) -> None:
    """Close a socket of TCP with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    trio.lowlevel.notify_closing(sock)
    sock.close()


@asynccontextmanager
async def connection(
    context: ssl.SSLContext | None = None, pair: SocketPair = socket.socketpair
) -> AsyncGenerator[tuple[TlsTransport, Client]]:
    """Both ends of a connection before the handshake. They are closed at the end of the block."""
    ours, theirs = pair()
    transport, client = TlsTransport(ours, PEER, context or server_context()), Client(theirs)
    try:
        with trio.fail_after(PATIENCE):
            yield transport, client
    finally:
        client.close()
        transport.abort()


async def shake_hands(transport: TlsTransport, client: Client, context: ssl.SSLContext, **options: Any) -> None:
    """Shake hands on both sides; the options are the client's."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        await client.shake_hands(context, **options)


@asynccontextmanager
async def connected(
    version: ssl.TLSVersion | None = None,
    *,
    context: ssl.SSLContext | None = None,
    pair: SocketPair = socket.socketpair,
    own_records: bool = False,
    then: bytes = b"",
) -> AsyncGenerator[tuple[TlsTransport, Client]]:
    """Both ends of a connection after the handshake."""
    async with connection(context, pair) as (transport, client):
        await shake_hands(transport, client, client_context(version), own_records=own_records, then=then)
        yield transport, client
