"""The watchdog logs what blocks the event loop, and nothing else.

A blocking takes real time. A test blocks the event loop until a line is logged, or until a bound, and not for a
fixed time.
"""

from __future__ import annotations

import logging
import pdb
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Request, Response
from humphrey_trio.monitor import watch_event_loop
from humphrey_trio.testing import http_client, websocket_client
from tests.support.apps import linked
from tests.support.programs import running

#: Seconds that a task may run, and the bound of every blocking.
ALLOWED, BOUND = 0.05, 20.0


class Lines(logging.Handler):
    """The lines of the watchdog. Its thread writes them while the event loop is blocked."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._logged = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._logged.set()

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def block(self) -> None:
        """Block the calling thread until something is logged."""
        assert self._logged.wait(BOUND), "nothing was logged"

    def block_again(self) -> None:
        """Block the calling thread until something more is logged."""
        self._logged.clear()
        self.block()


def block_for(seconds: float) -> None:
    """Block the calling thread for a time in which nothing is expected."""
    time.sleep(seconds)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("humphrey_trio.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@asynccontextmanager
async def watched(allowed: float = ALLOWED) -> AsyncGenerator[None]:
    """Watch the event loop of the test."""
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_event_loop, allowed)
        yield
        nursery.cancel_scope.cancel()


async def test_blocking_handler(lines: Lines) -> None:
    """The line has the handler with its file and line, the time, the remedy, and the stack that begins with it."""

    def handler(request: Request) -> Response:
        lines.block()
        return Response(200)

    app = App().with_stateless_route("/", handler)
    async with watched(), http_client(app) as client:
        assert (await client.get("/")).status == 200
    (record,) = lines.records
    assert record.levelno == logging.WARNING
    first, stack = record.getMessage().split("\n", 1)
    line = handler.__code__.co_firstlineno + 1
    assert first.startswith("the event loop has been blocked for 0.")
    assert f" s by {__name__}.{handler.__qualname__} ({__file__}:{line}), and no client is served" in first
    assert "trio.to_thread.run_sync" in first
    assert stack.startswith(f'  File "{__file__}", line {line}, in {handler.__qualname__}\n    lines.block()')


async def test_handler_behind_a_layer(lines: Lines) -> None:
    """The handler is named, and not the layer around it. The stack has both."""

    async def layer(request: Request, state: None, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    async def handler(request: Request) -> Response:
        lines.block()
        return Response(200)

    app = App().with_layer(layer).with_stateless_route("/", handler)
    async with watched(), http_client(app) as client:
        await client.get("/")
    (message,) = lines.messages
    assert f" s by {__name__}.{handler.__qualname__} (" in message
    assert message.index(f"in {layer.__qualname__}\n") < message.index(f"in {handler.__qualname__}\n")


async def test_websocket_handler(lines: Lines) -> None:
    """A message handler of a WebSocket is named, too."""

    async def on_message(stream: AsyncStream, message: object, state: None) -> None:
        lines.block()
        await stream.send("done")

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(on_message)
    async with watched(), linked(websocket_app) as app, websocket_client(app) as client:
        await client.send("begin")
        await client.receive()
    (message,) = lines.messages
    assert f" s by {__name__}.{on_message.__qualname__} (" in message


async def test_computing(lines: Lines) -> None:
    """A function that computes is logged like one that waits, also while it does not release the GIL."""
    async with watched():
        began = time.monotonic()
        while not lines.records and time.monotonic() < began + BOUND:
            sum(range(1_000_000))
    assert len(lines.records) == 1


async def test_each_place_once(lines: Lines) -> None:
    """A line that blocks again is not logged again. Another line of the same function is."""

    async def block_twice() -> None:
        for _ in range(2):
            block_for(4 * ALLOWED) if lines.records else lines.block()
            await trio.lowlevel.checkpoint()
        lines.block_again()

    async with watched(), trio.open_nursery() as nursery:
        nursery.start_soon(block_twice)
    first = block_twice.__code__.co_firstlineno
    assert [f":{first + line})" in message for message, line in zip(lines.messages, (2, 4), strict=True)]


async def test_waiting_and_many_short_steps(lines: Lines) -> None:
    """An idle event loop is not logged, and neither are steps that only together take longer than allowed."""

    async def one_step() -> None:
        block_for(ALLOWED / 2)

    async with watched(10 * ALLOWED):  # a step of a busy machine may take longer, but not as long
        await trio.sleep(15 * ALLOWED)
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(one_step)
    assert not lines.records


async def test_debugger(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function in which a debugger waits for its user is not logged, not even when it goes on."""

    def wait_for_the_user(prompt: str) -> str:
        time.sleep(4 * ALLOWED)
        return "continue"

    monkeypatch.setattr("builtins.input", wait_for_the_user)
    async with watched():
        debugger = pdb.Pdb(nosigint=True)
        debugger.use_rawinput = True
        debugger.set_trace()
        sys.settrace(None)
        await trio.lowlevel.checkpoint()
    assert not lines.records


SUSPENDED = f"""
import logging, sys, time, trio
from humphrey_trio.monitor import watch_event_loop

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_event_loop, {10 * ALLOWED})
        print("ready", flush=True)
        sys.stdin.readline()  # blocks the event loop while the process is stopped
        nursery.cancel_scope.cancel()

logging.basicConfig()
trio.run(main)
"""


def test_suspended_process() -> None:
    """Time in which the process was stopped does not count."""
    with running("-c", SUSPENDED) as program:
        assert program.read_line() == "ready\n"
        program.send_signal(signal.SIGSTOP)
        time.sleep(20 * ALLOWED)
        program.send_signal(signal.SIGCONT)
        program.write_line("go on")
        ending = program.finish()
    assert ending == (0, "", "")


async def test_its_thread_ends() -> None:
    """Its thread runs as soon as it has started, and has ended when it returns."""

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "humphrey_trio.watchdog"]

    async with watched():
        assert len(threads()) == 1
    assert not threads()


async def test_after_its_end(lines: Lines) -> None:
    """When it is cancelled, no blocking is logged any more."""
    async with watched():
        pass
    block_for(3 * ALLOWED)
    await trio.lowlevel.checkpoint()
    assert not lines.records


@pytest.mark.parametrize("longest", [0, -1.0, float("inf"), float("nan")])
async def test_invalid_times(longest: float) -> None:
    """A time that is not a positive number is an error that says so."""
    with pytest.raises(ValueError, match="longest is a positive number of seconds, not "):
        await watch_event_loop(longest)
