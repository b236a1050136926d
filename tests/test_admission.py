"""Admission: ``accept`` decides an upgrade before the 101, and selects a subprotocol that the client offers."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.lowlevel import currently_ki_protected

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Deflate,
    Message,
    Request,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import websocket_client
from humphrey_trio.websocket import Accept, HandshakeError, Upgrade
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient, Reply
from tests.support.wire import HANDSHAKE_FIELDS, TEXT, client_frame, request_bytes

Fields = Iterable[tuple[str, str]]
AcceptFunction = Callable[[Request, Any], Awaitable[Any]]
Connect = Callable[[], Awaitable[RawClient]]

STATE = "the state"
NO_FIELDS: Fields = ()

#: A coroutine for each connection, a hook's route, and an app that is linked internally.
KINDS = ("coroutine", "hook", "internal")
every_kind = pytest.mark.parametrize("kind", KINDS)
#: The kinds with HTTP routes and a WebSocket.
ROUTES = KINDS[:2]
every_route = pytest.mark.parametrize("kind", ROUTES)


async def report(stream: WebsocketStream | AsyncStream[Any], state: str) -> None:
    """Send the result of the handshake."""
    await stream.send(f"{stream.subprotocol} {stream.value!r}")


async def report_and_wait(stream: WebsocketStream, state: str) -> None:
    await report(stream, state)
    async for _ in stream:
        pass


@asynccontextmanager
async def serving(kind: str, **options: Any) -> AsyncGenerator[Connect]:
    """Serve a WebSocket at every path except ``/hello``. Yields a function that connects a client."""
    with trio.fail_after(PATIENCE):
        async with AsyncExitStack() as sockets, trio.open_nursery() as nursery:
            if kind == "internal":
                own = AsyncWebsocketApp(STATE, **options).with_address(ANY_PORT).with_connect_handler(report)
                (address,) = await nursery.start(own.run)

                async def connect() -> RawClient:
                    stream = await trio.open_tcp_stream(address.host, address.port)
                    return RawClient(await sockets.enter_async_context(stream))

                yield connect
            else:
                websocket_app = AsyncWebsocketApp.new_unlinked(STATE).with_connect_handler(report)
                await nursery.start(websocket_app.run)
                app = App(STATE).with_stateless_route("/hello", lambda _: Response(200, "hello"))
                app.with_websocket_route("/*", route_of(kind, websocket_app.connect_hook(), **options))
                async with served_in_memory(app) as connect_stream:

                    async def connect() -> RawClient:
                        return RawClient(connect_stream())

                    yield connect
            nursery.cancel_scope.cancel()


def route_of(
    kind: str,
    hook: trio.MemorySendChannel[WebsocketStream],
    coroutine: Callable[[WebsocketStream, Any], Awaitable[None]] = report_and_wait,
    **options: Any,
) -> Any:
    """A route of a kind: to a coroutine, or to a hook."""
    if kind == "coroutine":
        return websocket_handler(coroutine, **options)
    return async_websocket_handler(hook, **options)


async def ask(client: RawClient, fields: Fields = NO_FIELDS) -> Reply:
    """The response to a handshake with further fields."""
    await client.send(request_bytes("GET /ws HTTP/1.1", [*HANDSHAKE_FIELDS, *fields]))
    return await client.reply()


async def assert_still_http(client: RawClient) -> None:
    await client.send(request_bytes("GET /hello HTTP/1.1", [("Host", "testserver")]))
    assert (await client.reply()).content == b"hello"


async def agreed(client: RawClient, fields: Fields = NO_FIELDS) -> str:
    """The values of the stream of an accepted handshake."""
    assert (await ask(client, fields)).status == 101
    opcode, payload = await client.frame()
    assert opcode == TEXT
    return payload.decode()


def returning(answer: object) -> AcceptFunction:
    async def accept(request: Request, state: str) -> object:
        await trio.lowlevel.checkpoint()
        return answer

    return accept


def raising(error: Exception) -> AcceptFunction:
    async def accept(request: Request, state: str) -> object:
        await trio.lowlevel.checkpoint()
        raise error

    return accept


# -------------------------------------------------------------------------------------------------- accepting


@every_kind
async def test_accept_gets_the_request_and_the_state(kind: str) -> None:
    """``accept`` is called with the handshake's request and the app's state."""
    asked: list[tuple[str, str | None, object]] = []

    async def accept(request: Request, state: object) -> None:
        asked.append((request.path, request.headers.get("Authorization"), state))

    async with serving(kind, accept=accept) as connect:
        assert await agreed(await connect(), [("Authorization", "Bearer secret")]) == "None None"
    assert asked == [("/ws", "Bearer secret", STATE)]


@every_kind
async def test_accept_sets_subprotocol_fields_and_value(kind: str) -> None:
    """An ``Accept`` sets the subprotocol and further fields of the 101, and the value of the stream."""
    accept = returning(Accept(subprotocol="b", headers=[("Set-Cookie", "seen=1")], value={"user": 7}))
    async with serving(kind, accept=accept) as connect:
        client = await connect()
        reply = await ask(client, [("Sec-WebSocket-Protocol", "a, b")])
        assert reply.status == 101
        assert reply.headers.get_all("Sec-WebSocket-Protocol") == ("b",)
        assert reply.headers.get_all("Set-Cookie") == ("seen=1",)
        assert await client.frame() == (TEXT, b"b {'user': 7}")


@every_kind
async def test_accept_without_a_subprotocol(kind: str) -> None:
    """If ``accept`` names no subprotocol, the route's ``subprotocols`` decide."""
    async with serving(kind, accept=returning(Accept(value=1)), subprotocols=["a"]) as connect:
        assert await agreed(await connect(), [("Sec-WebSocket-Protocol", "b, a")]) == "a 1"


async def test_accept_overrides_the_subprotocols_of_the_route() -> None:
    """The subprotocol of an ``Accept`` is used, whatever the route would select."""
    async with serving("coroutine", accept=returning(Accept(subprotocol="b")), subprotocols=["a"]) as connect:
        assert await agreed(await connect(), [("Sec-WebSocket-Protocol", "a, b")]) == "b None"


async def test_stream_state_gets_the_accepted_value(nursery: trio.Nursery) -> None:
    """``stream_state`` is called with a stream that has its value and subprotocol."""

    async def tell_state(stream: AsyncStream[str], state: None) -> None:
        await stream.send(stream.state)

    websocket_app = AsyncWebsocketApp.new_unlinked(
        stream_state=lambda stream: f"{stream.value} {stream.subprotocol}"
    ).with_connect_handler(tell_state)
    await nursery.start(websocket_app.run)
    accept = returning(Accept(value="ann"))
    route = async_websocket_handler(websocket_app.connect_hook(), accept=accept, subprotocols="chat")
    async with served_in_memory(App().with_websocket_route("/*", route)) as connect:
        assert await agreed(RawClient(connect()), [("Sec-WebSocket-Protocol", "chat")]) == "ann chat"
    nursery.cancel_scope.cancel()


# -------------------------------------------------------------------------------------------- refusing


@every_route
@pytest.mark.parametrize("status", [401, 403, 429])
async def test_accept_refuses(kind: str, status: int) -> None:
    """The client gets the ``Response`` of ``accept`` unchanged, and its connection continues with HTTP."""
    refusal = Response(status, "no", [("Retry-After", "7")])
    async with serving(kind, accept=returning(refusal)) as connect:
        client = await connect()
        for _ in range(2):
            reply = await ask(client)
            assert (reply.status, reply.content) == (status, b"no")
            assert reply.headers["Retry-After"] == "7"
        await assert_still_http(client)


async def test_accept_of_an_internally_linked_app_refuses() -> None:
    """An internally linked app refuses as routes do, and the client may try again."""
    answers = iter([Response(401, "not authorized"), None])

    async def accept(request: Request, state: str) -> Response | None:
        return next(answers)

    async with serving("internal", accept=accept) as connect:
        client = await connect()
        assert (await ask(client)).content == b"not authorized"
        assert await agreed(client) == "None None"


@every_route
async def test_handshake_error_of_accept_goes_to_the_error_handler(kind: str) -> None:
    """A ``HandshakeError`` of ``accept`` becomes the error handler's response, with its status and fields."""
    asked: list[int] = []

    def page(status: int, request: Request | None, exception: Exception | None) -> Response:
        asked.append(status)
        return Response(status, f"sorry: {exception}")

    error = HandshakeError("too many of you", 429, headers=[("Retry-After", "7")])
    hook, _ = trio.open_memory_channel[WebsocketStream](1)
    route: Any = (
        websocket_handler(report_and_wait, accept=raising(error))
        if kind == "coroutine"
        else async_websocket_handler(hook, accept=raising(error))
    )
    async with served_in_memory(App().with_error_handler(page).with_websocket_route("/*", route)) as connect:
        reply = await ask(RawClient(connect()))
    assert (reply.status, reply.content, reply.headers["Retry-After"]) == (429, b"sorry: too many of you", "7")
    assert asked == [429]


@every_route
@pytest.mark.parametrize(
    ("accept", "logged"),
    [
        pytest.param(raising(KeyError("sessions")), "sessions", id="raises"),
        pytest.param(returning(Accept(subprotocol="b")), "does not offer the subprotocol 'b'", id="not-offered"),
        *(
            pytest.param(returning(Accept(headers=[(name, "a")])), "the server itself sets", id=name)
            for name in ("Sec-WebSocket-Protocol", "sec-websocket-extensions", "Connection")
        ),
        pytest.param(returning(Accept(subprotocol="")), "does not offer the subprotocol ''", id="empty"),
        *(
            pytest.param(returning(answer), f"not {type(answer).__name__}", id=repr(answer))
            for answer in (False, True, 0, "", "b", {})
        ),
    ],
)
async def test_accept_that_fails(
    kind: str, accept: AcceptFunction, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception or an invalid result of ``accept`` is logged, and the client gets a 500."""
    async with serving(kind, accept=accept) as connect:
        client = await connect()
        reply = await ask(client, [("Sec-WebSocket-Protocol", "a,")])
        assert reply.status == 500
        assert b"sessions" not in reply.content
        await assert_still_http(client)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert logged in caplog.text


@every_route
async def test_origin_is_checked_before_accept(kind: str) -> None:
    """``accept`` is not called for a page that may not connect."""
    asked: list[str] = []

    async def accept(request: Request, state: str) -> None:
        asked.append(request.headers["Origin"])

    async with serving(kind, accept=accept, origins={"https://friend.example"}) as connect:
        client = await connect()
        assert (await ask(client, [("Origin", "https://foe.example")])).status == 403
        assert asked == []
        assert (await ask(client, [("Origin", "https://friend.example")])).status == 101
    assert asked == ["https://friend.example"]


# ---------------------------------------------------------------------------------------- subprotocols


@every_kind
@pytest.mark.parametrize(
    ("ours", "offered", "chosen"),
    [
        pytest.param(["a", "b"], ["b, a"], "a", id="the-server-prefers"),
        pytest.param(["a", "b"], ["c,b"], "b", id="the-second"),
        pytest.param(["a", "b"], ["c", "b,a"], "a", id="several-lines"),
        pytest.param("chat", ["c, chat"], "chat", id="one-str"),
        pytest.param(["a"], [], None, id="none-offered"),
        pytest.param(["a"], ["A, aa"], None, id="none-matches"),
        pytest.param([], ["a"], None, id="none-spoken"),
    ],
)
async def test_subprotocols(kind: str, ours: str | list[str], offered: list[str], chosen: str | None) -> None:
    """The server selects the first of its subprotocols that is offered, or sends no such field."""
    async with serving(kind, subprotocols=ours) as connect:
        client = await connect()
        reply = await ask(client, [("Sec-WebSocket-Protocol", line) for line in offered])
        assert reply.status == 101
        assert reply.headers.get_all("Sec-WebSocket-Protocol") == (() if chosen is None else (chosen,))
        assert await client.frame() == (TEXT, f"{chosen} None".encode())


async def test_subprotocols_of_an_own_route() -> None:
    """``Upgrade.accept`` takes ``subprotocols``, too."""

    async def route(upgrade: Upgrade, state: None) -> None:
        stream = await upgrade.accept(subprotocols=["a", "b"])
        await stream.send(str(stream.subprotocol))

    async with served_in_memory(App().with_websocket_route("/*", route)) as connect:
        assert await agreed(RawClient(connect()), [("Sec-WebSocket-Protocol", "b")]) == "b"


@pytest.mark.parametrize("bad", ["", "a b", "a,b", "ä", "a\r\n", "a/b"])
def test_invalid_subprotocols(bad: str) -> None:
    """An invalid subprotocol is a ValueError when the route or the app is made."""
    hook, _ = trio.open_memory_channel[WebsocketStream](1)
    for make in (
        lambda: websocket_handler(report, subprotocols=[bad]),
        lambda: async_websocket_handler(hook, subprotocols=[bad]),
        lambda: AsyncWebsocketApp(subprotocols=["fine", bad]),
    ):
        with pytest.raises(ValueError, match="is not a subprotocol"):
            make()


# --------------------------------------------------------------------------------------- while accept runs


async def test_no_stream_before_accept_returns() -> None:
    """Nothing is in the hook, and nothing goes to the client, until ``accept`` returns."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    asked, agree = trio.Event(), trio.Event()

    async def accept(request: Request, state: None) -> None:
        asked.set()
        await agree.wait()

    app = App().with_websocket_route("/*", async_websocket_handler(hook, accept=accept))
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app) as connect:
            client = RawClient(connect())
            await client.send(request_bytes("GET / HTTP/1.1") + client_frame(TEXT, b"early"))
            await asked.wait()
            with pytest.raises(trio.WouldBlock):
                streams.receive_nowait()
            agree.set()
            assert (await client.reply()).status == 101
            stream = streams.receive_nowait()
            assert await stream.receive() == Message("early")


@every_route
async def test_disconnect_while_accept_runs(
    kind: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that disconnects while ``accept`` runs leaves no task, no stream and no log entry."""
    asked, agree = trio.Event(), trio.Event()
    streams: list[WebsocketStream] = []

    async def accept(request: Request, state: None) -> None:
        asked.set()
        await agree.wait()

    async def handler(stream: WebsocketStream, state: None) -> None:
        streams.append(stream)
        async for _ in stream:
            pass

    hook, incoming = trio.open_memory_channel[WebsocketStream](1)
    route = route_of(kind, hook, handler, accept=accept)
    with trio.fail_after(PATIENCE):
        async with served_in_memory(App().with_websocket_route("/*", route)) as connect:
            await trio.testing.wait_all_tasks_blocked()
            before = trio.lowlevel.current_statistics().tasks_living
            client = connect()
            await client.send_all(request_bytes("GET / HTTP/1.1"))
            await asked.wait()
            await trio.aclose_forcefully(client)
            agree.set()
            await trio.sleep(PATIENCE / 2)
            if kind == "hook":
                streams.append(incoming.receive_nowait())
            assert [stream.close_code for stream in streams] == [1006]
            assert trio.lowlevel.current_statistics().tasks_living == before
    assert caplog.records == []


@every_route
async def test_cancelled_server_while_accept_runs(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling the server cancels ``accept``; there is no stream, and nothing is logged."""
    asked, cancelled = trio.Event(), trio.Event()

    async def accept(request: Request, state: None) -> None:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    hook, incoming = trio.open_memory_channel[WebsocketStream](1)
    route = route_of(kind, hook, accept=accept)
    with trio.fail_after(PATIENCE):
        async with served_in_memory(App().with_websocket_route("/*", route)) as connect:
            client = connect()
            await client.send_all(request_bytes("GET / HTTP/1.1"))
            await asked.wait()
    assert cancelled.is_set()
    assert await client.receive_some() == b""
    with pytest.raises(trio.WouldBlock):
        incoming.receive_nowait()
    assert caplog.records == []


@every_route
async def test_accept_that_fails_while_it_is_cancelled(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What ``accept`` raises while it is cancelled is logged, and cancelling the server is no failure."""
    asked = trio.Event()

    async def clean_up() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up failed")

    async def accept(request: Request, state: None) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up)
            asked.set()
            await trio.sleep_forever()

    hook, _ = trio.open_memory_channel[WebsocketStream](1)
    route = route_of(kind, hook, accept=accept)
    with trio.fail_after(PATIENCE):
        async with served_in_memory(App().with_websocket_route("/*", route)) as connect:
            await connect().send_all(request_bytes("GET / HTTP/1.1"))
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked()
    assert len(caplog.records) == 1
    assert "cleaning up failed" in caplog.text


@every_kind
async def test_accept_can_be_interrupted(kind: str) -> None:
    """Ctrl-C is raised in ``accept``, as in handlers."""
    protected: list[bool] = []

    async def accept(request: Request, state: str) -> None:
        await trio.lowlevel.checkpoint()
        protected.append(currently_ki_protected())

    async with serving(kind, accept=accept) as connect:
        await agreed(await connect())
    assert protected == [False]


async def test_malformed_extensions_are_refused_before_accept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Malformed extensions are a 400 before ``accept`` runs."""
    asked: list[Request] = []

    async def accept(request: Request, state: None) -> None:
        asked.append(request)

    async def handler(stream: WebsocketStream, state: None) -> None:
        await stream.close()

    route = websocket_handler(handler, accept=accept, deflate=Deflate())
    with pytest.raises(HandshakeError) as refusal:
        async with websocket_client(
            App().with_websocket_route("/", route), headers={"Sec-WebSocket-Extensions": "a;;b"}
        ):
            pass

    assert refusal.value.status == 400
    assert asked == []
