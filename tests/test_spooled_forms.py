"""``request.read_form()``: what is in memory and what on disk, files as values, errors, and who closes."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, HttpError, Limits, Response, WhenLeft
from humphrey_trio.http import Form, FormSettings, Headers, Request, UploadedFile, Write
from humphrey_trio.testing import http_client, memory_connection
from tests.support import PATIENCE
from tests.support.cancellation import living_tasks, no_resource_warning
from tests.support.descriptors import all_closed, descriptors_in, until
from tests.support.logs import errors
from tests.support.steps import at_step, cancelled_at
from tests.support.streamed import StreamClient, streaming

if not os.path.isdir("/proc/self/fd"):
    pytest.skip("open files are counted in /proc", allow_module_level=True)

MIB = 2**20
TYPE = "multipart/form-data; boundary=b"
URLENCODED = "application/x-www-form-urlencoded"
END = b"--b--\r\n"
LARGE = bytes(itertools.islice(itertools.cycle(range(251)), 700_000))

Handler = Callable[[Request], Awaitable[Response]]


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    parameters = "" if filename is None else f'; filename="{filename}"'
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{parameters}\r\n\r\n'
    return head.encode() + content + b"\r\n"


#: With ``spool=1000``, the large file is on disk, and the small ones are in memory.
BODY = part("t", b"text") + part("s", b"small", "s.txt") + part("f", LARGE, "f.bin") + part("e", b"", "e") + END


def app_of(handler: Handler, *, stream: bool = True, **settings: Any) -> App:
    return App(**settings).with_stateless_route("/", handler, stream=stream, max_body=100 * MIB)


async def post(handler: Handler, body: bytes = BODY, kind: str = TYPE, **settings: Any) -> Response:
    """The response of a handler to a form."""
    async with http_client(app_of(handler, **settings)) as client:
        return await client.post("/", content=body, headers={"Content-Type": kind})


async def form_of(body: bytes = BODY, kind: str = TYPE, **arguments: Any) -> Form:
    """A form that was read on a route with ``stream=True``, whose request is over."""
    forms: list[Form] = []

    async def handler(request: Request) -> Response:
        forms.append(await request.read_form(**arguments))
        return Response(200)

    assert (await post(handler, body, kind)).status == 200
    return forms[0]


def is_spooled(file: UploadedFile) -> bool:
    try:
        _ = file.content
    except RuntimeError:
        return True
    return False


# ------------------------------------------------------------------------------------------------ forms


@pytest.mark.parametrize("stream", [True, False])
async def test_one_handler_serves_both_kinds_of_routes(stream: bool, tmp_path: Path) -> None:
    """The same handler gets the same form on a route with ``stream=True`` and on an ordinary one."""
    spooled: list[bool] = []

    async def handler(request: Request) -> Response:
        form = await request.read_form(spool=1000, directory=tmp_path)
        assert list(form) == [("t", "text")]
        files = {name: (file.filename, file.content_type, file.size) for name, file in form.files}
        assert files == {
            "s": ("s.txt", "text/plain", 5),
            "f": ("f.bin", "text/plain", len(LARGE)),
            "e": ("e", "text/plain", 0),
        }
        spooled.append(is_spooled(form.files["f"]))
        return Response(200, await form.files["s"].read() + await form.files["f"].read())

    response = await post(handler, stream=stream)
    assert response.content == b"small" + LARGE
    assert spooled == [stream]


async def test_urlencoded_forms() -> None:
    """A urlencoded form is read on both kinds of routes."""

    async def handler(request: Request) -> Response:
        form = await request.read_form()
        return Response(200, repr((list(form), list(form.files))))

    expected = repr(([("a", "1"), ("b", "\u00e9")], [])).encode()
    for stream in (True, False):
        response = await post(handler, b"a=1&b=%C3%A9", URLENCODED, stream=stream)
        assert (response.status, response.content) == (200, expected)


async def test_app_handle() -> None:
    """Without a connection, all files are in memory."""

    async def handler(request: Request) -> Response:
        form = await request.read_form(spool=0)
        assert await request.read_form() is form
        return Response(200, form.files["f"].content)

    response = await app_of(handler).handle(Request("POST", headers={"Content-Type": TYPE}, content=BODY))
    assert response.content == LARGE


@pytest.mark.parametrize(
    ("sizes", "spooled"),
    [
        ([1000], [False]),
        ([1001], [True]),
        ([600, 400, 1], [False, False, True]),
        ([600, 401, 400], [False, True, False]),
        ([0, 2000, 0, 1000], [False, True, False, False]),
    ],
)
async def test_the_bound_is_for_all_files_together(sizes: list[int], spooled: list[bool]) -> None:
    """A file is spooled if it is larger than what the files before it have left of ``spool``."""
    body = b"".join(part("f", bytes(size), "f") for size in sizes) + END
    form = await form_of(body, spool=1000)
    assert [file.size for _, file in form.files] == sizes
    assert [is_spooled(file) for _, file in form.files] == spooled


async def test_the_result_does_not_depend_on_reads() -> None:
    """A body that arrives in pieces of any size gives the same form."""
    content = bytes(range(256)) * 8
    body = part("a", content, "a") + part("b", content[:100], "b") + part("c", content[::-1], "c") + END
    seen: list[list[bytes]] = []

    async def handler(request: Request) -> Response:
        form = await request.read_form(spool=1000)
        seen.append([await file.read() for _, file in form.files])
        return Response(200)

    async with streaming(app_of(handler), memory_connection) as connect:
        for size in (1, 7, 1000):
            client = connect()
            await client.send(head_of(len(body)))
            for at in range(0, len(body), size):
                await client.send(body[at : at + size])
                await trio.testing.wait_all_tasks_blocked()
            assert (await client.head()).status == 200
    assert seen == [[content, content[:100], content[::-1]]] * 3


def head_of(size: int, *lines: str) -> bytes:
    """The head of a request with a form."""
    fields = ["POST / HTTP/1.1", "Host: a", f"Content-Type: {TYPE}", f"Content-Length: {size}", *lines, "", ""]
    return "\r\n".join(fields).encode()


# ------------------------------------------------------------------------------------------------ files


async def with_spooled_file(use: Callable[[UploadedFile], Awaitable[None]], content: bytes = LARGE) -> None:
    """Use a spooled file in a handler. Another one is before it in the temporary file."""

    async def handler(request: Request) -> Response:
        form = await request.read_form(spool=10)
        await use(form.files["f"])
        return Response(200)

    body = part("first", b"x" * 100, "x") + part("f", content, "f") + part("last", b"y" * 100, "y") + END
    assert (await post(handler, body)).status == 200


async def test_content_of_a_spooled_file() -> None:
    """``content`` of a spooled file says what to use instead."""

    async def use(file: UploadedFile) -> None:
        with pytest.raises(RuntimeError, match=r"of 700000 bytes was spooled to disk: use `await file\.read\(\)`"):
            _ = file.content
        assert file.size == len(LARGE)

    await with_spooled_file(use)


async def test_a_spooled_file_is_read() -> None:
    """``read`` and iteration return the content, as often as asked."""

    async def use(file: UploadedFile) -> None:
        for _ in range(2):
            assert await file.read() == LARGE
            pieces = [piece async for piece in file]
            assert b"".join(pieces) == LARGE
            assert max(map(len, pieces)) == 256 * 1024

    await with_spooled_file(use)


async def test_a_file_in_memory_is_read() -> None:
    """The same methods work for a file in memory."""
    content = bytes(600_000)
    file = UploadedFile("f", "f", "text/plain", Headers(), content)
    assert await file.read() == content
    assert [len(piece) async for piece in file] == [256 * 1024, 256 * 1024, 600_000 - 512 * 1024]


async def test_file_objects_are_independent() -> None:
    """Each file object has a position of its own, and stays within its file."""

    async def use(file: UploadedFile) -> None:
        with file.open() as first, file.open() as second:
            assert first.read(10) == LARGE[:10]
            assert second.read() == LARGE
            assert first.read(10) == LARGE[10:20]
            assert first.seek(-3, os.SEEK_END) == len(LARGE) - 3
            assert first.read(100) == LARGE[-3:]
            assert first.seek(5) == 5
            assert first.seek(5, os.SEEK_CUR) == first.tell() == 10
            assert first.read(1) == LARGE[10:11]
            first.seek(len(LARGE) + 50)
            assert first.read() == b""
            assert first.seekable()
            assert not first.writable()
            with pytest.raises(ValueError, match="before the start"):
                first.seek(-1)

    await with_spooled_file(use)


async def test_a_file_object_works_in_a_thread() -> None:
    """Functions that want a file object get one in a worker thread."""

    def digest(file: UploadedFile) -> bytes:
        with file.open() as opened:
            return hashlib.file_digest(opened, "sha256").digest()  # type: ignore[arg-type]

    async def use(file: UploadedFile) -> None:
        assert await trio.to_thread.run_sync(digest, file) == hashlib.sha256(LARGE).digest()

    await with_spooled_file(use)


@pytest.mark.parametrize("size", [0, 5, 11, 256 * 1024, MIB])
async def test_a_file_is_saved(size: int, tmp_path: Path) -> None:
    """``save`` writes a new file, in memory before or on disk. One that exists is an error, and stays."""
    content = os.urandom(size)

    async def use(file: UploadedFile) -> None:
        assert await file.save(tmp_path / "new") == size
        with pytest.raises(FileExistsError):
            await file.save(tmp_path / "new")
        (tmp_path / "old").write_text("old")
        assert await file.save(tmp_path / "old", replace=True) == size

    await with_spooled_file(use, content)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes() == content


async def test_a_save_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """A ``save`` that is cancelled at any checkpoint leaves no file, or the whole one."""
    path = tmp_path / "new"

    async def use(file: UploadedFile) -> None:
        for step in itertools.count(1):
            reached = await cancelled_at(step, lambda: file.save(path))
            assert not path.exists() or path.stat().st_size == len(LARGE)
            if not reached:
                break
            path.unlink(missing_ok=True)
            await all_closed(tmp_path)
        assert step > 6
        assert await file.read() == LARGE

    await with_spooled_file(use)


async def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """If the request is over, ``save`` raises, and removes its file."""
    file = (await form_of(spool=0)).files["f"]
    with pytest.raises(ValueError, match="can be read until the response was sent"):
        await file.save(tmp_path / "new")
    assert os.listdir(tmp_path) == []
    assert descriptors_in(tmp_path) == []


async def test_a_file_is_closed_with_its_request() -> None:
    """After the response, a spooled file says so, and one in memory can still be used."""
    form = await form_of(spool=10)
    with pytest.raises(ValueError, match="an uploaded file can be read until the response was sent"):
        await form.files["f"].read()
    with form.files["f"].open() as opened, pytest.raises(ValueError, match="until the response was sent"):
        opened.read()
    assert await form.files["s"].read() == b"small"


# --------------------------------------------------------------------------------------------- refusals


async def read_any(request: Request) -> Response:
    await request.read_form(spool=10, max_text=1000)
    return Response(200)


REFUSED: dict[str, tuple[bytes, str, int]] = {
    "another type": (b"{}", "application/json", 415),
    "no type": (b"", "", 415),
    "no boundary": (BODY, "multipart/form-data", 400),
    "malformed": (b"--b\r\nnothing", TYPE, 400),
    "incomplete": (part("f", LARGE, "f"), TYPE, 400),
    "text that is not UTF-8": (part("t", b"\xff") + END, TYPE, 400),
    "too many parts": (part("t", b"") * 4 + END, TYPE, 413),
    "too many files": (part("f", b"x" * 20, "f") * 4 + END, TYPE, 413),
    "too many fields": (b"a&" * 4, URLENCODED, 413),
    "a long text": (part("t", b"x" * 1001) + END, TYPE, 413),
    "long texts": (part("t", b"x" * 400) * 3 + END, TYPE, 413),
    "long heads": (part("t" * 400, b"") * 3 + END, TYPE, 413),
    "a long urlencoded text": (b"a=" + b"x" * 1000, URLENCODED, 413),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", REFUSED)
async def test_refusals(case: str, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What is refused has the same status on both kinds of routes, and is not logged as an error."""
    body, kind, status = REFUSED[case]
    response = await post(read_any, body, kind, stream=stream, limits=Limits(fields=3))
    assert response.status == status
    assert errors(caplog) == []


async def test_text_up_to_the_limit() -> None:
    """Text as long as ``max_text`` is accepted, and files do not count for it."""
    size = 1000 - len('Content-Dispositionform-data; name="t"')
    body = part("t", b"x" * size) + END
    assert len((await form_of(body, max_text=1000))["t"]) == size
    assert len((await form_of(b"a=" + b"x" * 998, URLENCODED, max_text=1000))["a"]) == 998
    assert (await form_of(BODY, max_text=1000)).files["f"].size == len(LARGE)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_limit_of_each_file(stream: bool) -> None:
    """A file that is larger than ``max_file`` is a 413, in memory and on disk."""
    for spool in (0, 10 * MIB):

        async def read(request: Request, spool: int = spool) -> Response:
            form = await request.read_form(spool=spool, max_file=len(LARGE) - int(request.query))
            return Response(200, str(form.files["f"].size))

        async with http_client(app_of(read, stream=stream)) as client:
            response = await client.post("/?0", content=BODY, headers={"Content-Type": TYPE})
            assert response.text == str(len(LARGE))
            response = await client.post("/?1", content=BODY, headers={"Content-Type": TYPE})
        assert response.status == 413
        assert f"the file 'f' is larger than {len(LARGE) - 1} bytes" in response.text


@pytest.mark.parametrize("arguments", [{"spool": -1}, {"max_text": -1}, {"max_file": -1}])
@pytest.mark.parametrize("stream", [True, False])
async def test_negative_arguments(arguments: dict[str, Any], stream: bool) -> None:
    """A negative bound is an error on both kinds of routes."""

    async def handler(request: Request) -> Response:
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} must not be negative"):
            await request.read_form(**arguments)
        return Response(200)

    assert (await post(handler, stream=stream)).status == 200
    with pytest.raises(ValueError, match="max_fields must not be negative"):
        FormSettings(max_fields=-1)


async def test_a_form_is_read_once() -> None:
    """A second call returns the same form, also from a copy of the request. The body cannot be read otherwise."""

    async def handler(request: Request) -> Response:
        form = await request.read_form(spool=0)
        assert await request.read_form() is form
        assert await request.replace(path="/other").read_form() is form
        assert await form.files["f"].read() == LARGE
        return Response(200)

    assert (await post(handler)).status == 200


async def test_a_form_that_was_not_read_to_its_end() -> None:
    """After a call that was cancelled, while another task reads, and after other reads, a call is an error."""

    async def handler(request: Request) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.read_form)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="another task is reading it, or"):
                await request.read_form()
            nursery.cancel_scope.cancel()
        with pytest.raises(RuntimeError, match=r"request\.read_form\(\) has failed or was cancelled before"):
            await request.read_form()
        return Response(200)

    async with streaming(app_of(handler), memory_connection) as connect:
        client = connect()
        await client.send(head_of(len(BODY)) + BODY[:-1])
        assert (await client.head()).status == 200

    async def read_twice(request: Request) -> Response:
        await request.read(limit=10 * MIB)
        with pytest.raises(RuntimeError, match="was read already"):
            await request.read_form()
        return Response(200)

    assert (await post(read_twice)).status == 200


# --------------------------------------------------------------------------------------------- the disk


async def test_the_temporary_file_has_no_name(tmp_path: Path) -> None:
    """It is in the directory that the handler has named, without a name, and one for all files of a form."""
    seen: list[tuple[list[str], list[str]]] = []

    async def handler(request: Request) -> Response:
        form = await request.read_form(spool=0, directory=tmp_path)
        seen.append((os.listdir(tmp_path), descriptors_in(tmp_path)))
        assert [await file.read() for _, file in form.files] == [b"%d" % n for n in range(300)]
        return Response(200)

    body = b"".join(part("f", b"%d" % n, "f") for n in range(300)) + END
    assert (await post(handler, body)).status == 200
    ((names, descriptors),) = seen
    assert names == []
    assert len(descriptors) == 1
    assert descriptors_in(tmp_path) == []


async def test_small_forms_open_nothing(tmp_path: Path) -> None:
    """A form that fits into memory does not touch the disk."""
    form = await form_of(spool=MIB, directory=tmp_path / "missing")
    assert form.files["f"].content == LARGE


async def test_a_directory_that_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that does not exist is a 500 with a log record."""

    async def handler(request: Request) -> Response:
        await request.read_form(spool=0, directory=tmp_path / "missing")
        raise AssertionError

    assert (await post(handler)).status == 500
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], FileNotFoundError)


@pytest.mark.parametrize("written", [0, 300_000])
async def test_a_full_disk(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full is a 500 with a log record, and leaves nothing open."""
    real = os.pwrite

    def pwrite(descriptor: int, data: Any, position: int) -> int:
        if position >= written:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: written - position], position)

    async def handler(request: Request) -> Response:
        await request.read_form(spool=0, directory=tmp_path)
        raise AssertionError

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert (await post(handler)).status == 500
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)
    assert descriptors_in(tmp_path) == []
    assert os.listdir(tmp_path) == []


async def test_writes_that_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write of which the kernel accepts a part is continued."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: real(fd, data[:50_000], position))

    async def use(file: UploadedFile) -> None:
        assert await file.read() == LARGE

    await with_spooled_file(use)


async def test_a_disk_that_does_not_respond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled ``read_form`` does not wait for the disk. The file is closed when the write has returned."""
    real, reached, released = os.pwrite, threading.Event(), threading.Event()

    def pwrite(descriptor: int, data: Any, position: int) -> int:
        reached.set()
        assert released.wait(PATIENCE)
        return real(descriptor, data, position)

    async def handler(request: Request) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Spooling(tmp_path).read, request)
            assert await trio.to_thread.run_sync(reached.wait, PATIENCE)
            nursery.cancel_scope.cancel()
        return Response(200)

    monkeypatch.setattr(os, "pwrite", pwrite)
    try:
        assert (await post(handler)).status == 200
        assert len(descriptors_in(tmp_path)) == 1
    finally:
        released.set()
    await all_closed(tmp_path)


# ------------------------------------------------------------------------------------------ who closes


class Spooling:
    """Handlers that spool a form into a directory. It keeps the requests, so that only a close closes a file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spooled = 0  # forms that were read
        self.requests: list[Request] = []

    async def read(self, request: Request) -> UploadedFile:
        self.requests.append(request)
        form = await request.read_form(spool=0, directory=self.directory)
        assert len(descriptors_in(self.directory)) == 1
        self.spooled += 1
        return form.files["f"]

    async def answer(self, request: Request) -> Response:
        return Response(200, str((await self.read(request)).size))

    async def produce(self, request: Request) -> Response:
        file = await self.read(request)

        async def produce(write: Write) -> None:
            async for piece in file:
                await write(piece)

        return Response.stream(produce)

    async def iterate(self, request: Request) -> Response:
        file = await self.read(request)
        return Response.stream(file, length=file.size)

    async def fail(self, request: Request) -> Response:
        await self.read(request)
        raise LookupError

    async def refuse(self, request: Request) -> Response:
        await self.read(request)
        raise HttpError(403)

    async def wait(self, request: Request) -> Response:
        await self.read(request)
        await trio.sleep_forever()
        raise AssertionError

    async def produce_failure(self, request: Request) -> Response:
        file = await self.read(request)

        async def produce(write: Write) -> None:
            async for piece in file:
                await write(piece)
                raise LookupError

        return Response.stream(produce)


@pytest.mark.parametrize(("name", "status"), [("answer", 200), ("fail", 500), ("refuse", 403)])
async def test_closed_after_the_response(name: str, status: int, tmp_path: Path) -> None:
    """When the client has the response, the temporary file is closed, whatever the handler did."""
    spooling = Spooling(tmp_path)
    async with http_client(app_of(getattr(spooling, name))) as client:
        for _ in range(2):  # on one connection
            assert (await client.post("/", content=BODY, headers={"Content-Type": TYPE})).status == status
            assert descriptors_in(tmp_path) == []
    assert spooling.spooled == 2


@pytest.mark.parametrize("name", ["produce", "iterate"])
async def test_streamed_responses_read_the_file(name: str, tmp_path: Path) -> None:
    """A streamed response may be made of the file, which is closed after it."""
    spooling = Spooling(tmp_path)
    async with http_client(app_of(getattr(spooling, name))) as client:
        for _ in range(2):
            response = await client.post("/", content=BODY, headers={"Content-Type": TYPE})
            assert response.content == LARGE
            await until(lambda: descriptors_in(tmp_path) == [])


#: A handler that waits for ever is left out of those that a leaving client does not cancel.
LEFT = [
    *itertools.product(["produce", "iterate", "produce_failure"], WhenLeft),
    ("wait", WhenLeft.CANCEL),
]


@pytest.mark.parametrize(("name", "when_left"), LEFT)
async def test_closed_when_the_client_leaves(name: str, when_left: WhenLeft, tmp_path: Path) -> None:
    """A client that leaves, during the handler or the streamed response, leaves no open file."""
    spooling = Spooling(tmp_path)
    async with streaming(app_of(getattr(spooling, name), when_left=when_left), memory_connection) as connect:
        client = connect()
        await client.send(head_of(len(BODY)) + BODY)
        await until(lambda: bool(spooling.spooled))
        await client.stream.aclose()
        await all_closed(tmp_path)


@pytest.mark.parametrize("name", ["answer", "fail", "iterate"])
async def test_closed_when_the_body_is_interrupted(name: str, tmp_path: Path) -> None:
    """A client that leaves in the middle of the body leaves no open file."""
    spooling = Spooling(tmp_path)
    async with streaming(app_of(getattr(spooling, name)), memory_connection) as connect:
        client = connect()
        await client.send(head_of(len(BODY)) + BODY[:-1])
        await until(lambda: bool(descriptors_in(tmp_path)))
        await client.stream.aclose()
        await all_closed(tmp_path)
    assert not spooling.spooled


async def test_closed_when_another_task_reads_on(tmp_path: Path) -> None:
    """If a task that outlives the handler still reads the form, it gets an error, and nothing is open."""
    spooling = Spooling(tmp_path)

    async def read_on(request: Request) -> None:
        with pytest.raises(RuntimeError, match="the request is over"):
            await spooling.read(request)

    async with trio.open_nursery() as nursery:

        async def handler(request: Request) -> Response:
            nursery.start_soon(read_on, request)
            await until(lambda: bool(descriptors_in(tmp_path)))
            return Response(200)

        async with streaming(app_of(handler), memory_connection) as connect:
            client = connect()
            await client.send(head_of(len(BODY)) + BODY[:-1])
            assert (await client.head()).status == 200
            await all_closed(tmp_path)
    assert not spooling.spooled


async def test_closed_when_the_body_is_malformed(tmp_path: Path) -> None:
    """A body that is refused behind a spooled file leaves nothing open, even if the handler goes on."""
    opened: list[list[str]] = []
    spooling = Spooling(tmp_path)

    async def handler(request: Request) -> Response:
        with suppress(HttpError):
            await spooling.read(request)
        opened.append(descriptors_in(tmp_path))
        return Response(200)

    assert (await post(handler, part("f", LARGE, "f") + part("t", b"\xff") + END)).status == 200
    assert opened == [[]]


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_read_form_that_is_cancelled_at_any_step(resumed: bool, tmp_path: Path) -> None:
    """If a scope in the handler cancels ``read_form``, the temporary file is closed before the handler returns."""
    spooling = Spooling(tmp_path)
    reached = True

    async def handler(request: Request) -> Response:
        nonlocal reached
        before = spooling.spooled
        reached = await cancelled_at(step, lambda: spooling.read(request), resumed=resumed)
        if spooling.spooled == before:
            await all_closed(tmp_path)
        return Response(200)

    async with http_client(app_of(handler)) as client:
        for step in itertools.count(1):  # noqa: B007 (the handler uses it)
            assert (await client.post("/", content=BODY, headers={"Content-Type": TYPE})).status == 200
            await all_closed(tmp_path)  # that of a form that was read is closed behind the response
            if not reached:
                break
    assert step > 5
    assert spooling.spooled


@pytest.mark.parametrize("name", ["answer", "produce", "iterate", "fail", "wait"])
async def test_a_server_that_is_cancelled_at_any_step(name: str, tmp_path: Path) -> None:
    """A server that is cancelled at any step of any task leaves no open file and no task."""
    tasks = living_tasks()
    with no_resource_warning():
        for step in itertools.count(1):
            spooling = Spooling(tmp_path)
            if not await run_until(step, app_of(getattr(spooling, name))):
                break
            await all_closed(tmp_path)
            assert living_tasks() == tasks
    assert step > 30
    assert spooling.spooled == 1


async def run_until(step: int, app: App) -> bool:
    """Serve an upload, and cancel the server at a step. Returns whether it was reached before the end."""
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        async with streaming(app, memory_connection) as connect:
            with at_step(step, scope.cancel) as cancel:
                await upload_and_leave(connect())
            scope.cancel()
    return cancel.fired


async def upload_and_leave(client: StreamClient) -> None:
    async with client.stream:
        await client.send(head_of(len(BODY), "Connection: close") + BODY)
        with trio.move_on_after(0.1), suppress(trio.BrokenResourceError):
            await client.rest()


# ----------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("content_length", [True, False])
async def test_memory_is_flat(content_length: bool, tmp_path: Path) -> None:
    """An upload of 60 MiB takes less than 4 MiB of memory, with a Content-Length and chunked."""
    piece = bytes(64 * 1024)
    count = 60 * MIB // len(piece)
    begin, end = part("f", b"", "f")[:-2], b"\r\n" + END

    async def handler(request: Request) -> Response:
        form = await request.read_form(directory=tmp_path)
        return Response(200, str(form.files["f"].size))

    async with streaming(app_of(handler), memory_connection) as connect:
        client = connect()
        tracemalloc.start()
        try:
            if content_length:
                await client.send(head_of(len(begin) + 60 * MIB + len(end)) + begin)
            else:
                head = head_of(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
                await client.send(head + chunk(begin))
            for data in itertools.repeat(piece if content_length else chunk(piece), count):
                await client.send(data)
            await client.send(end if content_length else chunk(end) + b"0\r\n\r\n")
            assert await client.reply() == (200, str(60 * MIB).encode())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * MIB


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
