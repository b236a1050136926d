"""Downloads of a large file: a mode of the load generator. Every byte is checked."""

from __future__ import annotations

import re
import select
import statistics
import time

from benchmarks.clients import Client
from benchmarks.measure import Job, Result, Window
from benchmarks.payload import FILE_NAME, PERIOD, UNIT
from benchmarks.wire import CONTENT_LENGTH, ReplyError

MB = 1_000_000
READ = 2**18  # bytes of one receive
LONGEST_HEAD = 2**14
PATTERN = UNIT * (READ // PERIOD + 2)  # the file from any offset of its period, for one receive
REQUEST = b"GET /files/%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % FILE_NAME.encode()
OK = re.compile(rb"HTTP/1\.1 200 [^\r]*\r\n")

clock = time.perf_counter


class Download:
    """One connection that downloads the file again and again.

    Attributes:
        first_bytes: the seconds from each request to the first byte of its response.
        received: the bytes of content.
    """

    def __init__(self, port: int, size: int) -> None:
        self.client = Client(port)
        self.first_bytes: list[float] = []
        self.received = 0
        self._size = size
        self._request()

    def receive(self) -> None:
        """Receive and check what has arrived.

        Raises:
            ReplyError: the response is wrong.
        """
        data = self.client.recv(READ)
        if not data:
            raise ReplyError(f"the server closed the connection after {max(self._position, 0)} bytes of the file")
        if self._position < 0 and not self._head:
            self.first_bytes.append(clock() - self._since)
        if self._position < 0:
            data = self._after_head(data)
        self._check(data)

    def _request(self) -> None:
        self._head = b""
        self._position = -1  # in the file; -1 before the end of the head
        self._since = clock()
        self.client.send(REQUEST)

    def _after_head(self, data: bytes) -> bytes:
        """Add bytes to the head. Return those after its end."""
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(head) > LONGEST_HEAD:
                raise ReplyError(f"a head of more than {LONGEST_HEAD} bytes")
            return b""
        length = CONTENT_LENGTH.search(head + b"\r\n")
        if not OK.match(head) or length is None or int(length[1]) != self._size:
            raise ReplyError(f"unexpected reply {head[:200]!r}")
        self._position = 0
        return rest

    def _check(self, data: bytes) -> None:
        """Compare bytes with those of the file at the current position."""
        if not PATTERN.startswith(data, self._position % PERIOD):
            raise ReplyError(f"wrong content at or after byte {self._position} of the file")
        self.received += len(data)
        self._position += len(data)
        if self._position > self._size:
            raise ReplyError("the server sent more than the file")
        if self._position == self._size:
            self._request()


class Downloads:
    """Downloads on several connections at once."""

    def __init__(self, port: int, count: int, size: int) -> None:
        self._epoll = select.epoll()
        created = [Download(port, size) for _ in range(count)]
        self._by_fd = {download.client.fd: download for download in created}
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, seconds: float) -> int:
        """Download for some time. Returns the number of bytes of content that arrived in it."""
        poll, by_fd = self._epoll.poll, self._by_fd
        before = self._received()
        end = clock() + seconds
        while clock() < end:
            for fd, _ in poll(0):
                by_fd[fd].receive()
        return self._received() - before

    def first_bytes(self) -> list[float]:
        return [seconds for download in self._by_fd.values() for seconds in download.first_bytes]

    def _received(self) -> int:
        return sum(download.received for download in self._by_fd.values())


def downloads(job: Job) -> Result:
    """The figure is the rate in MB/s. The CPU time is that of 1 MB. The first byte of each download is timed."""
    load = Downloads(job.port, job.work.connections, job.work.size)
    load.run(job.warmup)
    window = Window(job.pids)
    received = load.run(job.seconds)
    window.close()
    if not received:
        raise ReplyError(f"no content within {job.seconds} s")
    megabytes = received / MB
    return Result(
        value=megabytes / window.elapsed,
        cpu_us=window.cpu / megabytes * 1e6,
        busy=window.busy,
        disturbed=window.disturbed,
        extra={"first byte, ms": statistics.median(load.first_bytes()) * 1e3},
    )
