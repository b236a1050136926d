"""Streamed responses, streamed requests and events, cut off at every step: by the server, or by the client.

No task and no file is left, what was begun ends, and a client never gets a part of a body that looks whole.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from humphrey_trio import App, Response
from humphrey_trio._http._file_body import FileBody, OpenFile
from humphrey_trio._http._ranges import ByteRange
from humphrey_trio.http import EventSender, Request, Write, open_body
from humphrey_trio.testing import memory_connection
from tests.support import ANY_PORT
from tests.support.apps import StreamPair
from tests.support.cancellation import (
    all_closed,
    all_ended,
    living_tasks,
    no_resource_warning,
    open_files,
    talk_until,
    within,
)
from tests.support.clients import ReceivingClient
from tests.support.links import Link
from tests.support.steps import cancelled_at

PIECES = [b"a" * 50_000, b"b" * 70_000, b"c", b"d" * 50_000]
WHOLE = b"".join(PIECES)


class Bodies:
    """Handlers of every kind, and how often each was begun and ended."""

    def __init__(self, file: Path) -> None:
        self.begun = 0
        self.ended = 0
        self.files: list[OpenFile] = []
        self._path = file

    async def produce(self, write: Write) -> None:
        self.begun += 1
        try:
            for piece in PIECES:
                await write(piece)
                await trio.lowlevel.checkpoint()
        finally:
            self.ended += 1

    async def generate(self) -> AsyncGenerator[bytes]:
        self.begun += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                for piece in PIECES:
                    with trio.move_on_after(1000):
                        yield piece
                nursery.cancel_scope.cancel()
        finally:
            self.ended += 1

    async def send_events(self, events: EventSender) -> None:
        self.begun += 1
        try:
            for piece in PIECES:
                await events.send(piece.decode())
        finally:
            self.ended += 1

    def open_file(self) -> Response:
        file = OpenFile()
        file.adopt(os.open(self._path, os.O_RDONLY))
        self.files.append(file)
        return Response(200).with_body(FileBody(file, [ByteRange(0, len(WHOLE) - 1)]))

    async def receive(self, request: Request) -> Response:
        self.begun += 1
        try:
            return Response(200, await request.read(limit=len(WHOLE)))
        finally:
            self.ended += 1

    def echo(self, request: Request) -> Response:
        async def produce(write: Write) -> None:
            self.begun += 1
            try:
                async for piece in request.body:
                    await write(piece)
            finally:
                self.ended += 1

        return Response.stream(produce)

    def app(self) -> App:
        return (
            App()
            .with_stateless_route("/produce", lambda _: Response.stream(self.produce))
            .with_stateless_route("/sized", lambda _: Response.stream(self.produce, length=len(WHOLE)))
            .with_stateless_route("/generate", lambda _: Response.stream(self.generate()))
            .with_stateless_route("/events", lambda _: Response.events(self.send_events))
            .with_stateless_route("/file", lambda _: self.open_file())
            .with_stateless_route("/receive", self.receive, stream=True)
            .with_stateless_route("/echo", self.echo, stream=True)
        )


def request_for(path: str, version: str) -> list[bytes]:
    """What the client of a route sends, in several pieces."""
    fields = [f"GET {path} HTTP/{version}", "Host: a", "Connection: close"]
    if path not in ("/receive", "/echo"):
        return ["\r\n".join([*fields, "", ""]).encode()]
    head = "\r\n".join([*fields, "Transfer-Encoding: chunked", "", ""]).encode()
    return [head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in PIECES), b"0\r\n\r\n"]


def dechunked(data: bytes) -> bytes | None:
    """The body of a chunked message; None if it is incomplete."""
    pieces: list[bytes] = []
    while b"\r\n" in data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if len(data) < length + 2:
            return None
        if not length:
            return b"".join(pieces)
        pieces.append(data[:length])
        data = data[length + 2 :]
    return None


def whole_body(received: bytes) -> bytes | None:
    """The body of a response before the end of the connection; None if a client sees that it is incomplete."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    if b"Transfer-Encoding: chunked" in head:
        return dechunked(body)
    if b"Content-Length: " in head:
        size = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
        return body if len(body) == size else None
    return body


async def exchange(
    bodies: Bodies, pair: StreamPair | None, data: list[bytes], who: str, step: int
) -> tuple[ReceivingClient, bool]:
    """Serve one request, and cut it off at a step.

    Args:
        bodies: the handlers.
        pair: makes a connection in memory; None for sockets.
        data: what the client sends.
        who: ``"server"`` if the server is cancelled, ``"client"`` if the client closes its end.
        step: 0 for before the first step.

    Returns:
        The client, and whether the exchange was not over before that step.
    """
    files, tasks = open_files(), living_tasks()
    client, scope, app = ReceivingClient(), trio.CancelScope(), bodies.app()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(within, scope, app.run, ANY_PORT)
        running = living_tasks()
        if pair is None:
            stream: trio.abc.Stream = await Link.PLAIN.connect(address)
        else:
            stream, theirs = pair()
            nursery.start_soon(app.serve_stream, theirs)
        is_cut = await talk_until(step, who, scope, client, stream, data)
        if who == "client":
            await all_ended(running)
            assert bodies.begun == bodies.ended
        scope.cancel()
        await all_ended(tasks)
    await all_closed(files)
    return client, is_cut


CASES = [
    (path, version, pair)
    for path in ("/produce", "/sized", "/generate", "/events", "/file", "/receive", "/echo")
    for version in ("1.1", "1.0")
    for pair in (memory_connection, trio.testing.memory_stream_pair, None)
    # HTTP/1.0 has no chunked requests. Over a trio stream, no reset can be sent.
    if version == "1.1" or (pair is not trio.testing.memory_stream_pair and path not in ("/receive", "/echo"))
]


def name(value: object) -> str | None:
    names: dict[object, str] = {
        memory_connection: "direct",
        trio.testing.memory_stream_pair: "foreign",
        None: "sockets",
    }
    return names.get(value) if value is None or callable(value) else None


@pytest.mark.parametrize(("path", "version", "pair"), CASES, ids=name)
async def test_a_cancelled_server(path: str, version: str, pair: StreamPair | None, tmp_path: Path) -> None:
    """A server that is cancelled at any step leaves nothing, and no part of a body that looks whole."""
    (tmp_path / "file").write_bytes(WHOLE)
    expected: bytes | None = None
    with no_resource_warning():
        for step in itertools.count():
            bodies = Bodies(tmp_path / "file")
            client, fired = await exchange(bodies, pair, request_for(path, version), "server", step)
            assert bodies.begun == bodies.ended
            assert all(file.is_closed for file in bodies.files)
            if not fired:
                expected = whole_body(client.received)
                break
            body = None if client.reset else whole_body(client.received)
            if body is not None:
                complete = b"".join(b"data: %b\n\n" % piece for piece in PIECES) if path == "/events" else WHOLE
                assert body == complete
    assert step > 5
    assert expected is not None
    assert len(expected) >= len(WHOLE)


@pytest.mark.parametrize("path", ["/produce", "/generate", "/events", "/file", "/receive", "/echo"])
async def test_a_client_that_closes(path: str, tmp_path: Path) -> None:
    """A client that closes at any step leaves no task, no file and no handler in a server that goes on."""
    (tmp_path / "file").write_bytes(WHOLE)
    with no_resource_warning():
        for step in itertools.count():
            bodies = Bodies(tmp_path / "file")
            _, fired = await exchange(bodies, memory_connection, request_for(path, "1.1"), "client", step)
            assert all(file.is_closed for file in bodies.files)
            if not fired:
                break
    assert step > 10


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("path", ["/produce", "/generate", "/events", "/file"])
async def test_open_body_cancelled(path: str, resumed: bool, tmp_path: Path) -> None:
    """``open_body`` that is cancelled at any step ends its producer, and closes its file."""
    (tmp_path / "file").write_bytes(WHOLE)
    tasks = living_tasks()

    async def read(bodies: Bodies) -> None:
        async with open_body(await bodies.app().handle(Request(path=path))) as pieces:
            async for _ in pieces:
                await trio.lowlevel.checkpoint()

    reached = True
    step = 0
    while reached:
        step += 1
        bodies = Bodies(tmp_path / "file")
        reached = await cancelled_at(step, partial(read, bodies), resumed=resumed)
        assert bodies.begun == bodies.ended
        assert all(file.is_closed for file in bodies.files)
        assert living_tasks() == tasks
    assert step > 3
