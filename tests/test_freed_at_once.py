"""What a handler or a body holds is freed when it ends, without the garbage collector.

It may be an open file, or the only copy of something large. A reference cycle would keep it for an unknown time.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress

import pytest
import trio
import trio.testing

from humphrey_trio import App, HttpError, Response
from humphrey_trio.http import EventSender, Request, Write
from humphrey_trio.layers import CallNext
from humphrey_trio.testing import memory_connection
from tests.support.streamed import streaming

Clock = trio.testing.MockClock


class Held:
    """Something that a handler holds."""


held: list[weakref.ref[Held]] = []


def hold() -> Held:
    thing = Held()
    held.append(weakref.ref(thing))
    return thing


@pytest.fixture(autouse=True)
def without_collector() -> Generator[None]:
    """Nothing collects reference cycles."""
    held.clear()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def waits(request: Request) -> Response:
    _ = hold()
    await trio.sleep(1000)
    return Response(200)


async def fails(request: Request) -> Response:
    _ = hold()
    raise ZeroDivisionError


async def refuses(request: Request) -> Response:
    _ = hold()
    raise HttpError(403)


async def reads(request: Request) -> Response:
    _ = hold()
    return Response(200, await request.read(limit=100))


async def reads_and_continues(request: Request) -> Response:
    _ = hold()
    with suppress(trio.BrokenResourceError):
        await request.read(limit=100)
    return Response(200)


async def produces(request: Request) -> Response:
    async def produce(write: Write) -> None:
        _ = hold()
        await write("a")
        await trio.sleep(1000)

    return Response.stream(produce)


async def fails_to_produce(request: Request) -> Response:
    async def produce(write: Write) -> None:
        _ = hold()
        await write("a")
        raise ZeroDivisionError

    return Response.stream(produce)


async def generates(request: Request) -> Response:
    async def generate() -> AsyncGenerator[str]:
        _ = hold()
        yield "a"
        await trio.sleep(1000)

    return Response.stream(generate())


async def fails_to_generate(request: Request) -> Response:
    async def generate() -> AsyncGenerator[str]:
        _ = hold()
        yield "a"
        raise ZeroDivisionError

    return Response.stream(generate())


async def sends_events(request: Request) -> Response:
    async def produce(events: EventSender) -> None:
        _ = hold()
        await events.send("a")
        await trio.sleep(1000)

    return Response.events(produce)


async def layer(request: Request, state: None, call_next: CallNext) -> Response:
    _ = hold()
    return await call_next(request)


HANDLERS = {
    handler.__name__: handler
    for handler in (
        *(waits, fails, refuses, reads, reads_and_continues, produces),
        *(fails_to_produce, generates, fails_to_generate, sends_events),
    )
}


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("name", HANDLERS)
async def test_it_is_freed(
    name: str, layers: int, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler has failed, or the client has left: nothing holds the variables of the handler any more."""
    caplog.set_level(logging.CRITICAL, "humphrey_trio.http")  # or pytest would keep the exceptions
    app = App().with_stateless_route("/", HANDLERS[name], stream=name.startswith("reads"))
    for _ in range(layers):
        app.with_layer(layer)
    async with streaming(app, memory_connection) as connect:
        client = connect()
        await client.get("/", *(["Content-Length: 5"] if name.startswith("reads") else []))
        await trio.sleep(10)
        await client.stream.aclose()
        await trio.sleep(100)
        assert len(held) == 1 + layers
        assert [thing() for thing in held] == [None] * len(held)
