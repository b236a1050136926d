"""The clients: each sends or receives a large body on one connection, as fast as the server allows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.wire import CONTENT_LENGTH, ReplyError

SPARSE_FILE = "sparse.bin"
SPARSE_BYTES = 4 * 2**30
MIB = 2**20
RECEIVE = 2**20  # bytes of one receive
TIMEOUT = 60.0  # seconds for a send or a receive
RANGES = 1000  # requests for a size of SPARSE_BYTES
BOUNDARY = b"boundary"
PART = (
    b"--%s\r\n" % BOUNDARY
    + b'Content-Disposition: form-data; name="file"; filename="large.bin"\r\n'
    + b"Content-Type: application/octet-stream\r\n\r\n"
)
END = b"\r\n--%s--\r\n" % BOUNDARY


class Client:
    """One connection. Bodies are received into one buffer and discarded, except for short ones."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._buffer = memoryview(bytearray(RECEIVE))

    def close(self) -> None:
        self._socket.close()

    def get(self, path: str, fields: bytes = b"", status: int = 200) -> int:
        """Send a GET, and discard the body. Returns its size."""
        self._send_head(b"GET", path, fields)
        size, rest = self._read_head(status)
        self._discard(size - len(rest))
        return size

    def post(self, path: str, fields: bytes, start: bytes, size: int, end: bytes) -> int:
        """Send a POST, whose body is `size` zero bytes between two others. Returns the number in the response."""
        length = len(start) + size + len(end)
        self._send_head(b"POST", path, b"Content-Length: %d\r\n%s" % (length, fields))
        self._socket.sendall(start)
        zeros = memoryview(bytes(MIB))
        for at in range(0, size, MIB):
            self._socket.sendall(zeros[: size - at])
        self._socket.sendall(end)
        length, body = self._read_head(200)
        while len(body) < length:
            body += self._socket.recv(length - len(body))
        return int(body)

    def _send_head(self, method: bytes, path: str, fields: bytes) -> None:
        self._socket.sendall(b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n" % (method, path.encode(), fields))

    def _read_head(self, status: int) -> tuple[int, bytes]:
        """Read a head. Returns its Content-Length, and the part of the body that came with it."""
        data = b""
        while b"\r\n\r\n" not in data:
            received = self._socket.recv(4096)
            if not received:
                raise ReplyError("the server closed the connection")
            data += received
        head, _, rest = data.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head + b"\r\n")
        if not head.startswith(b"HTTP/1.1 %d " % status) or length is None:
            raise ReplyError(f"unexpected reply {head[:200]!r}")
        return int(length[1]), rest

    def _discard(self, left: int) -> None:
        while left > 0:
            size = self._socket.recv_into(self._buffer[:left])
            if not size:
                raise ReplyError(f"{left} bytes of the body are missing")
            left -= size


def stream(client: Client, size: int) -> int:
    """Receive a streamed response."""
    return client.get(f"/stream?size={size}")


def file(client: Client, size: int) -> int:
    """Receive the file, or the first bytes of it."""
    if size == SPARSE_BYTES:
        return client.get(f"/files/{SPARSE_FILE}")
    return client.get(f"/files/{SPARSE_FILE}", b"Range: bytes=0-%d\r\n" % (size - 1), 206)


def ranges(client: Client, size: int) -> int:
    """Receive three ranges with each request, until so much of the file is received."""
    requests = max(RANGES * size // SPARSE_BYTES, 1)
    one = size // requests // 3
    received = 0
    for number in range(requests):
        first = number * (SPARSE_BYTES // requests)
        wanted = b",".join(b"%d-%d" % (at, at + one - 1) for at in (first, first + 2 * one))
        received += client.get(f"/files/{SPARSE_FILE}", b"Range: bytes=%s,-%d\r\n" % (wanted, one), 206)
    return received


def slow_upload(client: Client, size: int) -> int:
    """Send a body to a handler that reads it slowly."""
    return client.post("/slow", b"Content-Type: application/octet-stream\r\n", b"", size, b"")


def form(client: Client, size: int) -> int:
    """Send a form with a file to a handler that calls ``read_form``."""
    content_type = b"Content-Type: multipart/form-data; boundary=%s\r\n" % BOUNDARY
    return client.post("/form", content_type, PART, size, END)


@dataclass(frozen=True)
class Body:
    """A large body.

    Attributes:
        transfer: sends or receives so many bytes, and returns how many the receiver has got.
        title: its title in the table.
        size: in bytes.
    """

    transfer: Callable[[Client, int], int]
    title: str
    size: int

    @property
    def name(self) -> str:
        return self.transfer.__name__.replace("_", "-")

    def run(self, port: int, size: int) -> None:
        """Transfer `size` bytes on a new connection.

        Raises:
            ReplyError: fewer have arrived, or the response is wrong.
        """
        client = Client(port)
        try:
            arrived = self.transfer(client, size)
        finally:
            client.close()
        if arrived < size * 99 // 100:  # ranges have a rounded size
            raise ReplyError(f"{arrived} of {size} bytes have arrived")


BODIES = (
    Body(stream, "streamed response of 10 GB", 10**10),
    Body(file, "sparse file of 4 GiB with `serve_dir`, whole", SPARSE_BYTES),
    Body(ranges, "the same file in 1,000 requests for three ranges each", SPARSE_BYTES),
    Body(slow_upload, "upload of 60 MiB, read slowly from `request.body`", 60 * MIB),
    Body(form, "upload of 60 MiB in a form, `read_form`", 60 * MIB),
)
BY_NAME = {body.name: body for body in BODIES}
