"""ASGI apps cut off at every step: by the server, or by the client. No task is left, and no body looks whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import trio
import trio.testing

from humphrey_trio import App
from humphrey_trio._asgi._answer import Answer
from humphrey_trio.http import Headers
from humphrey_trio.testing import memory_connection
from tests.support import ANY_PORT
from tests.support.asgi import BODY, LAST, PART, START, Message, Receive, Send
from tests.support.cancellation import (
    PATIENCE,
    all_closed,
    all_ended,
    living_tasks,
    no_resource_warning,
    open_files,
    talk_until,
    within,
)
from tests.support.clients import ReceivingClient

GET = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
BODIES = [b"4\r\nabcd\r\n", b"2\r\nef\r\n", b"0\r\n\r\n"]
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TEXT = b"\x81\x82\0\0\0\0hi"
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"


class Counter:
    """An ASGI app with a lifespan, which counts how many of its calls have begun and ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.begun += 1
        try:
            await getattr(self, scope["path"][1:] if "path" in scope else "live")(receive, send)
        except OSError:
            pass
        finally:
            self.ended += 1

    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        await trio.lowlevel.checkpoint()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def whole(self, receive: Receive, send: Send) -> None:
        await receive()
        await trio.lowlevel.checkpoint()
        await send(START)
        await send(BODY)
        await trio.lowlevel.checkpoint()

    async def parts(self, receive: Receive, send: Send) -> None:
        await send(START)
        await trio.lowlevel.checkpoint()
        await send(PART)
        await send(PART)
        await send(LAST)
        await receive()

    async def echo(self, receive: Receive, send: Send) -> None:
        await send(START)
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({**PART, "body": message.get("body", b""), "more_body": more})

    async def file(self, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.pathsend", "path": __file__})

    async def talk(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    async def deny(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        await send({"type": "websocket.http.response.body"})


async def exchange(counter: Counter, data: list[bytes], who: str, step: int) -> tuple[bytes, bool]:
    """Serve one request, and cut it off at a step, by the server or the client.

    Returns:
        What the client has received, and whether the exchange was not over before that step.
    """
    files, tasks = open_files(), living_tasks()
    client, scope, app = ReceivingClient(), trio.CancelScope(), App().with_asgi("*", counter)
    async with trio.open_nursery() as nursery:
        await nursery.start(within, scope, app.run, ANY_PORT)
        running = living_tasks()
        stream, theirs = memory_connection()
        nursery.start_soon(app.serve_stream, theirs)
        is_cut = await talk_until(step, who, scope, client, stream, data)
        if who == "client":
            await all_ended(running)
            assert counter.begun == counter.ended + 1  # the lifespan runs
        scope.cancel()
        await all_ended(tasks)
    await all_closed(files)
    return client.received, is_cut


CASES = {
    "whole": ([GET % b"/whole"], b"\r\n\r\nhello"),
    "parts": ([GET % b"/parts"], b"4\r\npart\r\n4\r\npart\r\n0\r\n\r\n"),
    "echo": ([POST % b"/echo", *BODIES], b"\r\n0\r\n\r\n"),
    "file": ([GET % b"/file"], Path(__file__).read_bytes()),
    "talk": ([UPGRADE % b"/talk", TEXT, CLOSE], b"\x88\x02\x03\xe8"),
    "deny": ([UPGRADE % b"/deny"], b"2\r\nno\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("who", ["server", "client"])
@pytest.mark.parametrize("name", CASES)
async def test_cut_off(name: str, who: str, caplog: pytest.LogCaptureFixture) -> None:
    """If the server or the client cuts an exchange off at any step, each call ends, and nothing is left."""
    data, end = CASES[name]
    step, received = 0, b""
    with no_resource_warning():
        for step in itertools.count():
            counter = Counter()
            received, fired = await exchange(counter, data, who, step)
            assert counter.begun == counter.ended
            if not fired:
                break
    assert step > 10
    assert received.endswith(end)
    assert "Traceback" not in caplog.text


async def test_a_handler_that_is_cancelled_before_it_takes_the_response() -> None:
    """An app that sends its response while its handler is being cancelled continues."""
    answer = Answer("the app", head_only=False)
    handler = trio.CancelScope()

    async def handle() -> None:
        with handler:
            await answer.response()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle)
            await trio.testing.wait_all_tasks_blocked()
            handler.cancel()  # the handler learns it when this task waits
            answer.start(200, Headers(), None)
            await answer.put(b"hello", is_last=True)
    assert handler.cancelled_caught
