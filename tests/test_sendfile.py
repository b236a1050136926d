"""Files that are sent by ``os.sendfile``: content, slow clients, and threads that outlive their connection."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import resource
import socket
import stat
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Timeouts
from humphrey_trio._app._app import servers_of
from humphrey_trio._http._file_body import OpenFile
from humphrey_trio._http._ranges import ByteRange
from humphrey_trio._server._control import ConnectionControl
from humphrey_trio._server._outgoing import Outgoing
from humphrey_trio._server._sendfile import STEP_SIZE, LentSocket, send_step
from humphrey_trio._server._socket import SocketTransport
from humphrey_trio.handlers import serve_dir
from humphrey_trio.http import Address
from humphrey_trio.layers import compression
from humphrey_trio.testing import memory_connection
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import StreamPair
from tests.support.cancellation import open_files
from tests.support.links import Link, limit_send_buffers, listening, reset
from tests.support.logs import errors
from tests.support.steps import at_step
from tests.support.streamed import Incomplete, StreamClient, streaming

CONTENT = random.Random(1).randbytes(3 * STEP_SIZE + 12_345)
#: The errors of a client whose server is cancelled.
CUT = (Incomplete, trio.BrokenResourceError)

Sendfile = Callable[[int, int, int, int], int]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    (tmp_path / "text.txt").write_bytes(b"text " * 100_000)
    return tmp_path


class Calls:
    """Takes the place of ``os.sendfile``, and records what it returns.

    Attributes:
        sent: the bytes that each call has sent; 0 for none.
        before: called before each call, with its arguments. May raise an ``OSError``.
        limit: the most bytes of one call.
        inside: the number of threads in a call.
    """

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.before: Callable[..., object] | None = None
        self.limit = 2**31
        self.inside = 0
        self._sendfile: Sendfile = os.sendfile

    def __call__(self, target: int, source: int, position: int, size: int) -> int:
        sent = 0
        self.inside += 1
        try:
            if self.before is not None:
                self.before(target, source, position, size)
            sent = self._sendfile(target, source, position, min(size, self.limit))
        finally:
            self.inside -= 1
            self.sent.append(sent)
        return sent


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(os, "sendfile", calls)
    return calls


@pytest.fixture
def gate(calls: Calls) -> Iterator[Gate]:
    gate = Gate()
    calls.before = gate.hold
    yield gate
    gate.opened.set()


class Gate:
    """Holds a worker thread in ``os.sendfile``, as a disk that does not respond.

    Attributes:
        opened: lets the thread continue.
        target: the descriptor of the socket to which it sends.
    """

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.target = -1
        self._reached = threading.Event()

    def hold(self, target: int, *_: int) -> None:
        self.target = target
        self._reached.set()
        assert self.opened.wait(PATIENCE)

    async def wait(self) -> None:
        """Wait until a thread is held."""
        assert await trio.to_thread.run_sync(self._reached.wait, PATIENCE)


def app_of(site: Path, **settings: Any) -> App:
    return App(**settings).with_path_aware_route("/*", serve_dir(site, cache=""))


class Clients:
    """The clients of a server, which are closed at its end.

    Attributes:
        address: the address of the server.
    """

    def __init__(self, address: Address, link: Link = Link.PLAIN) -> None:
        self.address = address
        self._link = link
        self._opened: list[StreamClient] = []

    async def connect(self) -> StreamClient:
        """Connect another client."""
        client = StreamClient(await self._link.connect(self.address, buffer=64 * 1024))
        self._opened.append(client)
        return client

    async def close(self) -> None:
        """Close all clients."""
        for client in self._opened:
            await trio.aclose_forcefully(client.stream)


@asynccontextmanager
async def serving(app: App, link: Link = Link.PLAIN) -> AsyncGenerator[Clients]:
    """Run an app until the end of the block."""
    async with listening(app, link) as address:
        clients = Clients(address, link)
        try:
            yield clients
        finally:
            with trio.CancelScope(shield=True):
                await clients.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that worker threads and the kernel do."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 (they set no trio.Event)
            await trio.sleep(0.001)


async def all_sent(calls: Calls, size: int) -> None:
    """Wait until the calls have sent so many bytes. The client may get the last ones before the call returns."""
    await until(lambda: sum(calls.sent) >= size)
    assert sum(calls.sent) == size


def open_of(site: Path) -> list[str]:
    """The open files of a directory."""
    links = (f"/dev/fd/{name}" for name in os.listdir("/dev/fd"))
    return [
        path for link in links if os.path.lexists(link) and (path := os.path.realpath(link)).startswith(str(site))
    ]


def is_socket(descriptor: int) -> bool:
    """Whether a number is the descriptor of a socket."""
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def writers() -> int:
    """The number of tasks that wait until a socket is writable."""
    statistics = trio.lowlevel.current_statistics().io_statistics
    assert statistics.backend == "epoll"
    return statistics.tasks_waiting_write


# --------------------------------------------------------------------------------------------- content


async def test_a_whole_file(site: Path, calls: Calls) -> None:
    """A file arrives as it is, in steps of at most 1 MiB, and the connection is kept alive."""
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        for _ in range(2):
            await client.get("/file.bin")
            assert await client.reply() == (200, CONTENT)
    await all_sent(calls, 2 * len(CONTENT))
    assert max(calls.sent) <= STEP_SIZE
    assert open_of(site) == []


async def test_many_clients(site: Path, calls: Calls) -> None:
    """Clients that download at the same time get the same content."""
    async with serving(app_of(site)) as clients, trio.open_nursery() as nursery:

        async def download() -> None:
            client = await clients.connect()
            await client.get("/file.bin")
            assert await client.reply() == (200, CONTENT)

        for _ in range(20):
            nursery.start_soon(download)
    await all_sent(calls, 20 * len(CONTENT))


async def test_pipelined_requests(site: Path, calls: Calls) -> None:
    """Responses before and behind a file stay in order."""
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        for path in ("/none", "/file.bin", "/none", "/file.bin"):
            await client.get(path)
        for status in (404, 200, 404, 200):
            found, content = await client.reply()
            assert found == status
            assert status == 404 or content == CONTENT


async def test_a_range(site: Path, calls: Calls) -> None:
    """A range arrives as it is. One of up to 256 KiB is read."""
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin", "Range: bytes=1000-2000000")
        assert await client.reply() == (206, CONTENT[1000:2_000_001])
        await all_sent(calls, 1_999_001)
        await client.get("/file.bin", "Range: bytes=-262144")
        assert await client.reply() == (206, CONTENT[-262_144:])
        await all_sent(calls, 1_999_001)


async def test_several_ranges(site: Path, calls: Calls) -> None:
    """The ranges of a multipart response arrive between the heads of their parts."""
    wanted = [(2_000_000, 2_400_000), (0, 9), (500_000, 999_999), (3_000_000, 3_000_000)]
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin", f"Range: bytes={','.join(f'{a}-{b}' for a, b in wanted)}")
        head = await client.head()
        body = await client.body(head)
        boundary = (head.headers.get("Content-Type") or "").partition("boundary=")[2].encode()
    first, *parts, end = body.split(b"\r\n--" + boundary)
    assert (head.status, first, end) == (206, b"", b"--\r\n")
    for (begin, last), part in zip(wanted, parts, strict=True):
        fields, _, content = part.partition(b"\r\n\r\n")
        assert f"bytes {begin}-{last}/{len(CONTENT)}".encode() in fields
        assert content == CONTENT[begin : last + 1]
    await all_sent(calls, 400_001 + 500_000)


async def test_old_clients_and_head(site: Path, calls: Calls) -> None:
    """HTTP/1.0 gets the file and an end of file; HEAD gets no content."""
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin", method="HEAD")
        assert (await client.head()).headers.get("Content-Length") == str(len(CONTENT))
        assert calls.sent == []
        await client.get("/file.bin", version="1.0")
        await client.head()
        assert await client.rest() == CONTENT


async def test_over_tls(site: Path, calls: Calls) -> None:
    """Over TLS the file is read, because it is encrypted in this process."""
    async with serving(app_of(site), Link.TLS) as clients:
        client = await clients.connect()
        await client.get("/file.bin")
        assert await client.reply() == (200, CONTENT)
    assert calls.sent == []


@pytest.mark.parametrize("pair", [memory_connection, trio.testing.memory_stream_pair])
async def test_without_a_socket(site: Path, calls: Calls, pair: StreamPair) -> None:
    """Over other streams the file is read."""
    async with streaming(app_of(site), pair) as start:
        client = start()
        await client.get("/file.bin")
        assert await client.reply() == (200, CONTENT)
    assert calls.sent == []


async def test_a_layer_that_transforms(site: Path, calls: Calls) -> None:
    """A file that a layer compresses is read."""
    async with serving(app_of(site).with_layer(compression())) as clients:
        client = await clients.connect()
        await client.get("/text.txt", "Accept-Encoding: gzip")
        head = await client.head()
        assert head.headers.get("Content-Encoding") == "gzip"
        assert len(await client.body(head)) < 10_000
    assert calls.sent == []


# ------------------------------------------------------------------------------------------ the kernel


async def test_short_steps(site: Path, calls: Calls) -> None:
    """A step that sends less than it was asked for is continued where it ended."""
    calls.limit = 77_777
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin")
        assert await client.reply() == (200, CONTENT)
    await all_sent(calls, len(CONTENT))


async def test_a_socket_that_is_full(site: Path, calls: Calls) -> None:
    """A step that the kernel refuses for now is repeated."""
    turns = itertools.count()

    def refuse(*_: int) -> None:
        if next(turns) % 2 == 0:
            raise BlockingIOError

    calls.before = refuse
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin")
        assert await client.reply() == (200, CONTENT)
    await all_sent(calls, len(CONTENT))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EIO])
@pytest.mark.parametrize("step", [1, 3])
async def test_what_cannot_be_sent_is_read(site: Path, calls: Calls, code: int, step: int) -> None:
    """If a step is not supported, or fails, the rest of the file is read."""
    turns = itertools.count(1)

    def fail(*_: int) -> None:
        if next(turns) >= step:
            raise OSError(code, os.strerror(code))

    calls.before, calls.limit = fail, 100_000
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        for _ in range(2):
            await client.get("/file.bin")
            assert await client.reply() == (200, CONTENT)


async def test_a_file_that_shrinks(site: Path, calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    """If the file becomes shorter, the client gets what is left of it, and then an end of file."""
    calls.limit = 100_000
    calls.before = lambda *_: os.truncate(site / "file.bin", 150_000)
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin")
        assert (await client.head()).headers.get("Content-Length") == str(len(CONTENT))
        assert await client.rest() == CONTENT[:150_000]
        await until(lambda: not open_of(site))
        await clients.connect()
    assert "it has become shorter" in caplog.text


async def test_a_file_that_grows(site: Path, calls: Calls) -> None:
    """What is added to the file is not sent, and the next response follows."""

    def grow(*_: int) -> None:
        with (site / "file.bin").open("ab") as file:
            file.write(b"more")

    calls.before = grow
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin")
        assert await client.reply() == (200, CONTENT)
        await client.get("/none")
        assert (await client.reply())[0] == 404


async def test_memory_is_flat(tmp_path: Path) -> None:
    """The memory of the process does not grow with the size of a file, whose positions may be above 4 GiB."""
    size = 256 * 1024 * 1024
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(4 * 1024**3 + size)

    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def download(address: Address) -> int:
        """Download the file, and return by how much the memory of the process has grown."""
        buffer, left = bytearray(STEP_SIZE), size
        before, most = memory(), 0
        with socket.create_connection(address[:2], PATIENCE) as sock:
            sock.sendall(f"GET /sparse HTTP/1.1\r\nHost: a\r\nRange: bytes=-{size}\r\n\r\n".encode())
            left += len(b"".join(iter(lambda: sock.recv(1), b"\n")))  # the status line
            while left > 0 and (received := sock.recv_into(buffer)):
                left -= received
                most = max(most, memory())
        assert left <= 0
        return most - before

    async with serving(app_of(tmp_path)) as clients:
        grown = await trio.to_thread.run_sync(download, clients.address)
    assert grown < 16 * 1024 * 1024


# ------------------------------------------------------------------------------------------- slow clients


async def test_a_client_that_does_not_read_uses_no_thread(site: Path, calls: Calls) -> None:
    """A task waits for a slow client. No thread does, and none is started before the client reads."""
    async with serving(app_of(site)) as clients:
        limit_send_buffers(clients.address, 64 * 1024)
        client = await clients.connect()
        await client.get("/file.bin")
        await client.head()
        await until(lambda: writers() == 1)
        await trio.sleep(0.6)  # the sweep of the server, and everything else that is due
        assert (calls.inside, writers()) == (0, 1)
        # One for each time that the client's kernel has taken something.
        assert len(calls.sent) < 10
        assert await client.exactly(len(CONTENT)) == CONTENT


async def test_the_write_timeout(site: Path, calls: Calls) -> None:
    """A client that accepts nothing for ``Timeouts.write`` is cut off."""
    async with serving(app_of(site, timeouts=Timeouts(write=0.3))) as clients:
        limit_send_buffers(clients.address, 64 * 1024)
        client = await clients.connect()
        await client.get("/file.bin")
        await until(lambda: writers() == 1)
        await until(lambda: writers() == 0)
        await until(lambda: not open_of(site))
        with pytest.raises(CUT):
            await client.reply()


async def test_the_write_timeout_restarts(site: Path, calls: Calls) -> None:
    """A client that is slower than ``Timeouts.write`` in total, but never stops, gets the whole file."""
    async with serving(app_of(site, timeouts=Timeouts(write=1))) as clients:
        limit_send_buffers(clients.address, 64 * 1024)
        client = await clients.connect()
        await client.get("/file.bin")
        await client.head()
        received = b""
        for _ in range(8):
            received += await client.exactly(300_000)
            await trio.sleep(0.3)
        assert received + await client.exactly(len(CONTENT) - len(received)) == CONTENT


async def test_a_client_that_leaves(site: Path, calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    """If the client resets the connection, the file is closed and nothing is logged."""
    async with serving(app_of(site)) as clients:
        limit_send_buffers(clients.address, 64 * 1024)
        client = await clients.connect()
        await client.get("/file.bin")
        await client.exactly(300_000)
        reset(client.stream)
        await until(lambda: not open_of(site))
        assert writers() == 0
    assert errors(caplog) == []


# -------------------------------------------------------------------------------------------- cancellation


async def test_cancellation_at_every_step(site: Path, calls: Calls) -> None:
    """Wherever the server is cancelled, the client gets a begin of the response, and no descriptor is left."""
    calls.limit = 700_000
    files = open_files()
    for step in itertools.count(1):
        received = b""
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(app_of(site).run, ANY_PORT)
                client = await Clients(address).connect()
                await client.get("/file.bin", "Connection: close")
                with at_step(step, nursery.cancel_scope.cancel) as cancel, trio.CancelScope(shield=True):
                    received = await received_by(client)
                nursery.cancel_scope.cancel()
        head, _, content = received.partition(b"\r\n\r\n")
        assert CONTENT.startswith(content)
        assert not content or re.search(rb"\r\nContent-Length: %d\r\n" % len(CONTENT), head)
        await until(lambda: not open_of(site))
        await until(lambda: open_files() == files)
        if not cancel.fired:
            assert content == CONTENT
            assert step > 20
            break


async def received_by(client: StreamClient) -> bytes:
    """Receive everything up to the end of the connection, and close it."""
    received = bytearray()
    async with client.stream:
        try:
            while data := await client.stream.receive_some():
                received += data
        except trio.BrokenResourceError:
            pass
    return bytes(received)


async def test_a_cancelled_server_does_not_wait_for_a_thread(site: Path, gate: Gate) -> None:
    """A thread that a disk holds keeps its descriptors, and closes them. It sends nothing more."""
    files = open_files()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app_of(site).run, ANY_PORT)
        client = await Clients(address).connect()
        await client.get("/file.bin")
        await client.head()
        await gate.wait()
        nursery.cancel_scope.cancel()
    # The server has ended. No other connection gets the number of this one.
    assert is_socket(gate.target)
    assert open_of(site) == [str(site / "file.bin")]
    pairs = [socket.socketpair() for _ in range(3)]
    assert gate.target not in {end.fileno() for pair in pairs for end in pair}
    gate.opened.set()
    assert await client.rest() == b""
    await client.stream.aclose()
    for end in itertools.chain(*pairs):
        end.close()
    await until(lambda: open_files() == files)


async def test_a_client_that_leaves_while_a_thread_sends(site: Path, gate: Gate) -> None:
    """If the client leaves, nothing waits for the thread that a disk holds. The server continues."""
    async with serving(app_of(site)) as clients:
        client = await clients.connect()
        await client.get("/file.bin")
        await client.head()
        await gate.wait()
        tasks = trio.lowlevel.current_statistics().tasks_living
        reset(client.stream)
        await until(lambda: trio.lowlevel.current_statistics().tasks_living < tasks)
        assert is_socket(gate.target)
        other = await clients.connect()
        await other.get("/none")
        assert (await other.reply())[0] == 404
        gate.opened.set()
        await until(lambda: not is_socket(gate.target))
        assert open_of(site) == []


# ------------------------------------------------------------------------------------------- lent sockets


@pytest.fixture
def pair() -> Iterator[tuple[LentSocket, socket.socket, socket.socket]]:
    """A lent socket, the same as a socket, and its peer."""
    own, peer = socket.socketpair()
    own.setblocking(False)
    peer.settimeout(PATIENCE)
    with own, peer:
        yield LentSocket(own), own, peer


Pair = tuple[LentSocket, socket.socket, socket.socket]


def test_closed_while_it_is_free(pair: Pair) -> None:
    """A socket that no thread uses is closed at once, and is not lent again."""
    lent, own, peer = pair
    with lent.borrow() as descriptor:
        assert descriptor == own.fileno()
    lent.close()
    assert own.fileno() == -1
    assert peer.recv(1) == b""
    lent.close()
    with pytest.raises(trio.ClosedResourceError), lent.borrow():
        pass


def test_closed_while_it_is_lent(pair: Pair) -> None:
    """A socket that a thread uses is shut down, and closed by the thread."""
    lent, own, peer = pair
    with lent.borrow() as descriptor:
        lent.close()
        assert own.fileno() == descriptor
        assert peer.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            os.write(descriptor, b"x")
        lent.close()
        with pytest.raises(trio.ClosedResourceError), lent.borrow():
            pass
        assert own.fileno() == descriptor
    assert own.fileno() == -1


async def test_waiting_for_a_closed_socket(pair: Pair) -> None:
    """A task does not wait for a socket that is closed."""
    lent, _, _ = pair
    await lent.wait_writable()
    lent.close()
    with pytest.raises(trio.ClosedResourceError):
        await lent.wait_writable()


async def test_aborted_while_a_thread_sends(site: Path, pair: Pair, gate: Gate) -> None:
    """A step whose socket is closed meanwhile sends nothing more, and the next one raises an exception."""
    lent, own, peer = pair
    file = OpenFile()
    file.adopt(os.open(site / "file.bin", os.O_RDONLY))
    sent: list[int | None] = []

    async def send() -> None:
        sent.append(await send_step(lent, file, 0, 1000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await gate.wait()
        lent.close()
        gate.opened.set()
    assert sent == [0]
    assert own.fileno() == -1
    assert peer.recv(1) == b""
    with pytest.raises(trio.ClosedResourceError):
        await send_step(lent, file, 0, 1000)
    assert file.is_closed


async def test_a_step_that_is_cancelled_ends_the_connection(site: Path, gate: Gate) -> None:
    """Nothing can be sent after a step that was cancelled, because an unknown part of the file was sent."""
    own, peer = socket.socketpair()
    transport = SocketTransport(own, Address("unix:"))
    control = ConnectionControl(draining=False)
    outgoing = Outgoing(transport, control, servers_of(App()).new_server().settings, None)
    file = OpenFile()
    file.adopt(os.open(site / "file.bin", os.O_RDONLY))
    with peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outgoing.send_range, lambda: [b"head"], file, ByteRange(0, 999))
            await gate.wait()
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.ClosedResourceError):
            transport.send_now(b"more")
        assert own.fileno() == gate.target
        gate.opened.set()
        await until(lambda: own.fileno() == -1)
        assert peer.recv(100) == b"head"
        assert peer.recv(100) == b""
    assert file.is_closed
