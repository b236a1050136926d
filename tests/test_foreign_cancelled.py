"""A ``trio.Cancelled`` of a scope that is not around the handler is a failure of the handler.

It comes from a future or a cache that several tasks share: one task was cancelled, and its exception is raised
again in the others."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._failures import failure_of
from humphrey_trio.websocket import Upgrade
from tests.support.apps import Stage, staged
from tests.support.clients import RawClient, Reply
from tests.support.wire import TEXT, client_frame, close_frame, request_bytes

ANYWHERE = [("Host", "testserver")]


async def foreign_cancelled() -> trio.Cancelled:
    """A ``Cancelled`` of a scope that has ended."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            return exc
    raise AssertionError


def cancelled_alone(cancelled: trio.Cancelled) -> BaseException:
    return cancelled


def beside_a_failure(cancelled: trio.Cancelled) -> BaseException:
    return BaseExceptionGroup("both", [cancelled, ValueError("on purpose")])


def in_nested_groups(cancelled: trio.Cancelled) -> BaseException:
    inner = BaseExceptionGroup("inner", [BaseExceptionGroup("cancelled", [cancelled]), ValueError("on purpose")])
    return BaseExceptionGroup("outer", [inner, ExceptionGroup("failed", [KeyError("on purpose")])])


ERRORS = [cancelled_alone, beside_a_failure, in_nested_groups]


class Handlers:
    """An app of each kind with handlers of every kind, one of which raises.

    Args:
        place: the handler that raises.
        error: the exception that it raises, or None. A test may change it.
    """

    def __init__(self, place: str, error: BaseException | None) -> None:
        self._place = place
        self.error = error
        hook_app: AsyncWebsocketApp[None, None] = AsyncWebsocketApp.new_unlinked(
            stream_state=lambda _: self._raise_at("stream state"),
            concurrency=2 if place == "one of two message handlers" else 1,
        )
        self.websocket_app = (
            hook_app.with_connect_handler(self.on_connect)
            .with_message_handler(self.on_message)
            .with_disconnect_handler(self.on_disconnect)
        )
        self.app = (
            App()
            .with_error_handler(self.plain_error_handler)
            .with_stateless_route("/plain", self.plain)
            .with_stateless_route("/async", self.asynchronous)
            .with_websocket_route("/route", self.route)
            .with_websocket_route("/own", websocket_handler(self.own, accept=self.accept))
            .with_websocket_route("/hook", async_websocket_handler(hook_app.connect_hook(), accept=self.accept))
        )
        if place == "async error handler":
            self.app.with_error_handler(self.error_handler)

    def _raise_at(self, *places: str) -> None:
        if self.error is not None and self._place in places:
            raise self.error

    def plain(self, request: Request) -> Response:
        self._raise_at("plain HTTP handler")
        return Response(200)

    async def asynchronous(self, request: Request) -> Response:
        self._raise_at("HTTP handler")
        return Response(200)

    def plain_error_handler(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        self._raise_at("error handler")
        return Response(status)

    async def error_handler(self, status: int, request: Request | None, exception: Exception | None) -> Response:
        self._raise_at("async error handler")
        return Response(status)

    async def route(self, upgrade: Upgrade, state: None) -> Response | None:
        self._raise_at("websocket route")
        stream = await upgrade.accept()
        self._raise_at("websocket route that has accepted")
        await stream.send("ready")
        return None

    async def accept(self, request: Request, state: None) -> None:
        self._raise_at("accept function", "accept function of a hook")

    async def own(self, stream: WebsocketStream, state: None) -> None:
        await stream.receive()
        self._raise_at("coroutine of its own")
        await stream.send("ready")

    async def on_connect(self, stream: AsyncStream[None], state: None) -> None:
        self._raise_at("connect handler")
        if self._place == "task":
            stream.start_soon(self.task)

    async def on_message(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        self._raise_at("message handler", "one of two message handlers")
        await stream.send("ready")

    async def on_disconnect(self, stream: AsyncStream[None], state: None) -> None:
        self._raise_at("disconnect handler")

    async def task(self) -> None:
        self._raise_at("task")


@dataclass(frozen=True)
class Kind:
    """A kind of handler: its path, and what its client gets if it fails."""

    path: str
    status: int
    code: int | None = None


KINDS = {
    "plain HTTP handler": Kind("/plain", 500),
    "HTTP handler": Kind("/async", 500),
    "error handler": Kind("/missing", 404),
    "async error handler": Kind("/missing", 404),
    "websocket route": Kind("/route", 500),
    "accept function": Kind("/own", 500),
    "accept function of a hook": Kind("/hook", 500),
    "websocket route that has accepted": Kind("/route", 101, 1011),
    "coroutine of its own": Kind("/own", 101, 1011),
    "stream state": Kind("/hook", 101, 1011),
    "connect handler": Kind("/hook", 101, 1011),
    "message handler": Kind("/hook", 101, 1011),
    "one of two message handlers": Kind("/hook", 101, 1011),
    "task": Kind("/hook", 101, 1011),
    "disconnect handler": Kind("/hook", 101, 4000),
}


async def ask(stage: Stage, path: str) -> tuple[Reply, RawClient]:
    """Request a path, with a handshake for WebSockets. Returns the reply and the client."""
    client = RawClient(stage.connect())
    is_websocket = path in ("/route", "/own", "/hook")
    await client.send(request_bytes(f"GET {path} HTTP/1.1", *(() if is_websocket else (ANYWHERE,))))
    return await client.reply(), client


async def talk(stage: Stage, place: str) -> tuple[int, int | None]:
    """Run a client of the failing handler. Returns the status, and the close code if a WebSocket was opened."""
    reply, client = await ask(stage, KINDS[place].path)
    if reply.status != 101:
        return reply.status, None
    if place == "disconnect handler":
        await client.send(close_frame(4000))
    elif place == "coroutine of its own" or "message" in place:
        await client.send(client_frame(TEXT, b"go"))
    code = await client.close_code()
    if place != "disconnect handler":
        await client.send(close_frame(code))
    assert await client.at_end()
    return 101, code


@asynccontextmanager
async def served(handlers: Handlers) -> AsyncGenerator[Stage]:
    async with staged(handlers.websocket_app, handlers.app) as stage:
        yield stage
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("make_error", ERRORS)
@pytest.mark.parametrize("place", KINDS)
async def test_foreign_cancelled_is_a_failure(
    place: str,
    make_error: Callable[[trio.Cancelled], BaseException],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A foreign ``Cancelled`` is logged with its traceback, the client gets an error, and both apps go on."""
    handlers = Handlers(place, make_error(await foreign_cancelled()))
    async with served(handlers) as stage:
        assert await talk(stage, place) == (KINDS[place].status, KINDS[place].code)
        await trio.sleep(1)
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == 1
        assert "in foreign_cancelled" in caplog.text
        assert ("on purpose" in caplog.text) == (make_error is not cancelled_alone)

        handlers.error = None
        assert (await ask(stage, "/async"))[0].status == 200
        for path in ("/route", "/own", "/hook"):
            reply, client = await ask(stage, path)
            assert reply.status == 101
            await client.send(client_frame(TEXT, b"go"))
            assert await client.frame() == (TEXT, b"ready")


@pytest.mark.parametrize(
    "place", [place for place in KINDS if place != "stream state"]
)  # a task that is protected from KeyboardInterrupt runs it
async def test_keyboard_interrupt_with_a_foreign_cancelled(
    place: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A KeyboardInterrupt ends the app, whatever else is in its group, which is not raised."""
    both = BaseExceptionGroup("both", [await foreign_cancelled(), KeyboardInterrupt()])
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012  (the whole app is what raises)
        async with served(Handlers(place, both)) as stage:
            with suppress(EOFError, trio.BrokenResourceError):
                await talk(stage, place)
            await trio.sleep(1)
    interrupts, rest = caught.value.split(KeyboardInterrupt)
    assert interrupts is not None
    assert rest is None


# ------------------------------------------------------------------------------------------ the function itself


async def raised_by(function: Callable[[], Any]) -> BaseException:
    """The exception of an async function, as the except clause of its task gets it."""
    try:
        await function()
    except BaseException as exc:
        return exc
    raise AssertionError


async def test_cancellation_passes() -> None:
    """In a cancelled task, a ``Cancelled`` passes unchanged, whichever scope around it is cancelled."""
    with trio.CancelScope() as outer, trio.CancelScope():
        outer.cancel()
        cancelled = await raised_by(trio.lowlevel.checkpoint)
        with pytest.raises(trio.Cancelled) as caught:
            failure_of(cancelled, pytest.fail)
        assert caught.value is cancelled


async def test_failure_with_a_cancellation_is_reported() -> None:
    """Of a group in a cancelled task, the failures are reported, and only the rest passes."""
    reported: list[Exception] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        cancelled = await raised_by(trio.lowlevel.checkpoint)
        with pytest.raises(BaseExceptionGroup) as caught:
            failure_of(BaseExceptionGroup("", [cancelled, ValueError("on purpose")]), reported.append)
    assert caught.value.exceptions == (cancelled,)
    assert [str(error) for group in reported for error in group.exceptions] == ["on purpose"]  # type: ignore[attr-defined]


async def test_shield_hides_outer_cancellations() -> None:
    """Inside a shield that is not cancelled, every ``Cancelled`` is foreign."""
    with trio.CancelScope() as outer:
        outer.cancel()
        with trio.CancelScope(shield=True):
            failure = failure_of(await foreign_cancelled(), pytest.fail)
    assert isinstance(failure, RuntimeError)
    assert isinstance(failure.__cause__, trio.Cancelled)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_exceptions_that_end_the_program_pass(error: BaseException) -> None:
    """KeyboardInterrupt and the like pass, also where trio does not run."""
    with pytest.raises(type(error)) as caught:
        failure_of(error, pytest.fail)
    assert caught.value is error


def test_exception_is_a_failure() -> None:
    """An ``Exception`` is returned unchanged, and so is a group of them."""
    for failure in (ValueError(), ExceptionGroup("", [ValueError()])):
        assert failure_of(failure, pytest.fail) is failure
