"""Descriptors of files that are served: each is closed once, whatever is cancelled, dropped or changed."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from humphrey_trio._http._file_body import FileBody, OpenFile
from humphrey_trio._http._ranges import ByteRange
from humphrey_trio._server._file_reader import READ_SIZE, FileTruncatedError, send_file_body
from humphrey_trio._thread_limiters import MAX_FILE_THREADS
from humphrey_trio.handlers import file_response, serve_dir
from humphrey_trio.http import Headers, Request, Response
from tests.support.descriptors import all_closed, descriptors_in, until

if not os.path.isdir("/proc/self/fd"):
    pytest.skip("the open descriptors are counted in /proc", allow_module_level=True)

PATIENCE = 60
CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "sub" / "file.bin").write_bytes(CONTENT)
    (site / "sub" / "file.bin.gz").write_bytes(CONTENT)
    (site / "small.txt").write_bytes(b"small")
    return site


def body_of(response: Response) -> FileBody:
    body: FileBody | None = getattr(response, "body", None)
    assert body is not None
    return body


async def get_large(site: Path) -> Response:
    request = Request(path="/sub/file.bin", headers=Headers({"Accept-Encoding": "gzip"}))
    return await serve_dir(site)(request, None, "/*")


async def open_body(path: Path) -> FileBody:
    return body_of(await file_response(Request(), path))


def let_reads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system have nothing of any file in memory, so that every read needs a thread."""

    def nothing(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", nothing)


async def ignore(piece: bytes) -> None:
    await trio.lowlevel.checkpoint()


class Gate:
    """Holds worker threads at a function until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()
        function = getattr(os, name)

        def waiting(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                self.reached.set()
                assert self._opened.wait(PATIENCE)
            return function(*args, **kwargs)

        monkeypatch.setattr(os, name, waiting)

    def open(self) -> None:
        self._opened.set()

    async def wait(self) -> None:
        """Wait until a thread is held."""
        assert await trio.to_thread.run_sync(self.reached.wait, PATIENCE)


# ------------------------------------------------------------------------------------------- open files


@contextmanager
def pipe() -> Iterator[tuple[OpenFile, Callable[[], bool]]]:
    """An open file, and whether its descriptor is open."""
    reader, writer = os.pipe()
    file = OpenFile()
    file.adopt(reader)

    def is_open() -> bool:
        try:
            os.write(writer, b"x")
        except BrokenPipeError:
            return False
        return True

    try:
        yield file, is_open
    finally:
        file.close()
        os.close(writer)


def test_close() -> None:
    """A file is closed once; after that it cannot be used."""
    with pipe() as (file, is_open):
        with file.borrow() as descriptor:
            assert os.fstat(descriptor)
        assert is_open()
        assert not file.is_closed
        file.close()
        assert not is_open()
        assert file.is_closed
        file.close()
        with pytest.raises(ValueError, match="closed"), file.borrow():
            pass


def test_close_while_it_is_used() -> None:
    """The descriptor stays open for its users, and is closed by the last of them."""
    with pipe() as (file, is_open):
        with file.borrow():
            with file.borrow():
                file.close()
                with pytest.raises(ValueError, match="closed"), file.borrow():
                    pass
                assert is_open()
            assert is_open()
        assert not is_open()


def test_close_before_it_is_opened() -> None:
    """A file that was closed before it got its descriptor closes that at once."""
    reader, writer = os.pipe()
    file = OpenFile()
    with pytest.raises(ValueError, match="closed"), file.borrow():
        pass
    file.close()
    file.adopt(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)


def test_a_file_that_is_freed() -> None:
    """A file that nothing refers to closes its descriptor."""
    reader, writer = os.pipe()
    file = OpenFile()
    file.adopt(reader)
    del file
    gc.collect()
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)


def test_length() -> None:
    """The length of a body is that of its segments."""
    assert FileBody(OpenFile(), [b"abc", ByteRange(5, 9), b""]).length == 8
    assert repr(FileBody(OpenFile(), [])) == "<FileBody of 0 bytes>"


# --------------------------------------------------------------------------------------------- sending


async def test_a_body_is_sent_once(site: Path) -> None:
    """A body that was sent is closed, and cannot be sent again."""
    body = body_of(await get_large(site))
    assert descriptors_in(site) == [f"{site}/sub/file.bin.gz"]
    await send_file_body(body, ignore)
    assert descriptors_in(site) == []
    with pytest.raises(ValueError, match="can be sent once"):
        await send_file_body(body, ignore)


async def test_pieces(site: Path) -> None:
    """A file is sent in pieces of 256 KiB, between which backpressure is felt."""
    sizes: list[int] = []

    async def write(piece: bytes) -> None:
        sizes.append(len(piece))

    await send_file_body(await open_body(site / "sub" / "file.bin"), write)
    assert sizes == [READ_SIZE] * 4


async def test_short_reads(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that returns less than was requested is continued where it ended."""
    let_reads_wait(monkeypatch)
    pread = os.pread
    monkeypatch.setattr(
        os, "pread", lambda descriptor, size, position: pread(descriptor, min(size, 7777), position)
    )
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    body = await open_body(site / "sub" / "file.bin")
    await send_file_body(body, write)
    assert b"".join(pieces) == CONTENT
    assert (await file_response(Request(), site / "small.txt")).content == b"small"


async def test_what_is_in_memory_needs_no_thread(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the system does not have in memory is read in a thread."""
    preadv, calls = os.preadv, itertools.count()
    threads: list[int] = []
    pread = os.pread

    def every_other(descriptor: int, buffers: Sequence[memoryview], position: int, flags: int) -> int:
        if next(calls) % 2:
            raise BlockingIOError
        return preadv(descriptor, [buffers[0][:100_000]], position, flags)

    def in_thread(descriptor: int, size: int, position: int) -> bytes:
        threads.append(size)
        return pread(descriptor, size, position)

    monkeypatch.setattr(os, "preadv", every_other)
    monkeypatch.setattr(os, "pread", in_thread)
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    await send_file_body(await open_body(site / "sub" / "file.bin"), write)
    assert b"".join(pieces) == CONTENT
    assert [len(piece) for piece in pieces[:2]] == [100_000, READ_SIZE]
    assert threads == [len(piece) for piece in pieces[1::2]]


async def test_a_file_that_grows(site: Path) -> None:
    """What is added to a file while it is sent is not sent."""
    path = site / "sub" / "file.bin"
    body = await open_body(path)
    with path.open("ab") as file:
        file.write(b"more")
    sent = bytearray()

    async def write(piece: bytes) -> None:
        sent.extend(piece)

    await send_file_body(body, write)
    assert sent == CONTENT


async def test_file_that_shrinks(site: Path) -> None:
    """A file that becomes shorter raises an exception after the bytes that could be sent, and is closed."""
    path = site / "sub" / "file.bin"
    body = await open_body(path)
    sent = bytearray()

    async def write(piece: bytes) -> None:
        sent.extend(piece)
        os.truncate(path, READ_SIZE + 100)

    with pytest.raises(FileTruncatedError, match=f"before position {READ_SIZE + 100}"):
        await send_file_body(body, write)
    assert sent == CONTENT[: READ_SIZE + 100]
    assert descriptors_in(site) == []


async def test_a_small_file_that_shrinks(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that becomes shorter before it is read at once raises the same exception."""
    path = site / "small.txt"
    fstat = os.fstat

    def shrinking(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        os.truncate(path, 2)
        return status

    monkeypatch.setattr(os, "fstat", shrinking)
    with pytest.raises(FileTruncatedError):
        await file_response(Request(), path)
    assert descriptors_in(site) == []


@pytest.mark.parametrize(
    "replace", [lambda path: path.unlink(), lambda path: os.replace(path.with_name("new"), path)]
)
async def test_a_file_that_is_replaced(site: Path, replace: Callable[[Path], object]) -> None:
    """A file that is removed or replaced while it is sent is sent to its end."""
    path = site / "sub" / "file.bin"
    path.with_name("new").write_bytes(b"new")
    sent = bytearray()
    body = await open_body(path)

    async def write(piece: bytes) -> None:
        if not sent:
            replace(path)
        sent.extend(piece)

    await send_file_body(body, write)
    assert sent == CONTENT


async def test_a_write_that_fails(site: Path) -> None:
    """If the client is gone, the file is closed."""

    async def write(piece: bytes) -> None:
        raise trio.BrokenResourceError

    body = await open_body(site / "sub" / "file.bin")
    with pytest.raises(trio.BrokenResourceError):
        await send_file_body(body, write)
    assert descriptors_in(site) == []


async def test_a_response_that_is_dropped(site: Path) -> None:
    """A response that is closed, or only dropped, leaves no descriptor."""
    response = await get_large(site)
    body_of(response).close()
    assert descriptors_in(site) == []
    response = await get_large(site)
    del response
    await all_closed(site)  # the thread that made it may not have let go of it yet


# -------------------------------------------------------------------------------------------- cancellation


class StepCounter(trio.abc.Instrument):
    """Cancels a scope when its task has taken a number of steps."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, steps: int) -> None:
        self._task = task
        self._scope = scope
        self._left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


@asynccontextmanager
async def cancelled_after(steps: int) -> AsyncIterator[trio.CancelScope]:
    """Cancel the block after some steps of its task."""
    with trio.CancelScope() as scope:
        counter = StepCounter(trio.lowlevel.current_task(), scope, steps)
        trio.lowlevel.add_instrument(counter)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(counter)


async def serve(site: Path) -> None:
    await send_file_body(body_of(await get_large(site)), ignore)


async def serve_small(site: Path) -> None:
    await serve_dir(site)(Request(path="/small.txt"), None, "/*")


@pytest.mark.parametrize("serving", [serve, serve_small])
async def test_cancellation_at_every_step(site: Path, serving: Callable[[Path], Awaitable[None]]) -> None:
    """Wherever a request is cancelled, from its first step to its last, no descriptor is left."""
    steps, cancelled = 1, True
    while cancelled:
        async with cancelled_after(steps) as scope:
            await serving(site)
        cancelled = scope.cancelled_caught
        await all_closed(site)
        steps += 1
    assert steps > 3


@pytest.mark.parametrize("call", ["open", "stat", "fstat", "pread"])
@pytest.mark.parametrize("serving", [serve, serve_small])
async def test_a_file_system_that_does_not_respond(
    site: Path, monkeypatch: pytest.MonkeyPatch, call: str, serving: Callable[[Path], Awaitable[None]]
) -> None:
    """A cancelled request does not wait for the file system. The thread closes what it opens."""
    let_reads_wait(monkeypatch)
    gate = Gate(monkeypatch, call)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving, site)
            await gate.wait()
            nursery.cancel_scope.cancel()
        gate.open()
        await all_closed(site)


async def test_closing_does_not_wait_for_a_read(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor stays open while a thread reads from it, so its number does not become that of another file."""
    let_reads_wait(monkeypatch)
    body = await open_body(site / "sub" / "file.bin")
    gate = Gate(monkeypatch, "pread")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_file_body, body, ignore)
        await gate.wait()
        nursery.cancel_scope.cancel()
    assert body.file.is_closed
    assert descriptors_in(site) == [f"{site}/sub/file.bin"]
    gate.open()
    await all_closed(site)


async def test_threads_are_limited(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not respond takes a bounded number of threads, none of them from other uses."""
    gate = Gate(monkeypatch, "open")
    entered = 0
    lock = threading.Lock()
    waiting = os.open

    def counting(*args: Any, **kwargs: Any) -> int:
        nonlocal entered
        with lock:
            entered += 1
        return waiting(*args, **kwargs)

    monkeypatch.setattr(os, "open", counting)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(2 * MAX_FILE_THREADS):
                nursery.start_soon(serve_small, site)
            await until(lambda: entered == MAX_FILE_THREADS)
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert await trio.to_thread.run_sync(lambda: "free") == "free"
            assert entered == MAX_FILE_THREADS
            gate.open()
    assert descriptors_in(site) == []
