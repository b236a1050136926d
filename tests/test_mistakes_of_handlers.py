"""Mistakes that show when a handler runs: the log names the function, and says what to write instead."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from humphrey_trio import App, AsyncWebsocketApp, HttpError, Message, Request, Response, WebsocketStream
from humphrey_trio import websocket_handler as websocket
from humphrey_trio.http import read_body
from humphrey_trio.testing import http_client, websocket_client
from humphrey_trio.websocket import ConnectionClosed, HandshakeError
from tests.support.draining import Clock
from tests.support.logs import errors


def told(caplog: pytest.LogCaptureFixture) -> str:
    """The only line of level ERROR, and its traceback with the hint, without the addresses of objects."""
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    return f"{record.getMessage()}\n{''.join(traceback.format_exception(record.exc_info[1]))}"


# ------------------------------------------------------------------------------------------------ HTTP handlers


async def response(request: Request) -> Response:
    return Response(200)


async def forgets_await(request: Any) -> Any:
    return response(request)


async def awaits_json(request: Any) -> Any:
    return Response.json(await request.json())


def assigns_header(request: Any) -> Any:
    answer: Any = Response(200)
    answer.headers["Age"] = "5"
    return answer


def assigns_status(request: Any) -> Any:
    answer: Any = Response(200)
    answer.status = 404
    return answer


def assigns_user(request: Any) -> Any:
    request.user = "ann"


async def sleeps_in_asyncio(request: Any) -> Any:
    await asyncio.sleep(1)


async def waits_in_asyncio(request: Any) -> Any:
    await asyncio.to_thread(repr, 1)


def raises(error: Exception) -> Callable[[Any], Any]:
    def handler(request: Any) -> Any:
        raise error

    return handler


ANSWERS: list[tuple[Any, str]] = [
    (lambda request: "hi", "a handler must return a Response, not str: write return Response(200, text)"),
    (lambda request: b"hi", "not bytes: write return Response(200, text)"),
    (lambda request: {"a": 1}, "not dict: write return Response.json(value)"),
    (lambda request: [1], "not list: write return Response.json(value)"),
    (lambda request: None, "not None: add a return, such as 'return Response.empty(204)'"),
    (lambda request: ("no", 404), "not tuple: write return Response(status, text, headers)"),
    (lambda request: (n for n in "abc"), "not generator: write return Response.stream(body)"),
    (forgets_await, "the handler tests.test_mistakes_of_handlers.forgets_await failed for POST /"),
    (forgets_await, "not coroutine: await it"),
    (awaits_json, "hint: remove 'await' before a call of a plain method"),
    (lambda request: Response(200, request.args["a"]), "hint: write request.query_param('page', int)"),
    (lambda request: Response.json(request.get_json()), "hint: write request.json()"),
    (lambda request: Response(200, request.data), "hint: write request.content for the bytes of the body"),
    (lambda request: Response(200, request.files["a"]), "hint: write request.form().files"),
    (
        lambda request: Response(200, request.state.user),
        "hint: the state of the app is an argument of the handler",
    ),
    (assigns_header, "hint: headers and responses are immutable: return response.with_header(name, value)"),
    (assigns_status, "hint: headers and responses are immutable"),
    (assigns_user, "hint: a request is immutable: a layer passes on a copy, request.with_value(KEY, value)"),
    (raises(HandshakeError("no", 403)), "hint: in a handler or a layer, raise HttpError(status, detail)"),
    (lambda request: HttpError(404), "not HttpError: raise it, write 'raise' instead of 'return'"),
    (sleeps_in_asyncio, "hint: this program runs on trio, where asyncio does not work: write trio.sleep"),
    (waits_in_asyncio, "hint: this program runs on trio"),
    (raises(HTTPException(404)), "hint: in a handler or a layer, raise HttpError(status, detail)"),
    (lambda request: Response(200, request.url), "hint: write request.path and request.query"),
    (lambda request: Response(200, request.params["a"]), "hint: write request.query_param('page', int), or"),
    (lambda request: Response(200, request.stream()), "hint: add the route with stream=True"),
    (lambda request: Response(200).status_code, "hint: write response.status"),  # type: ignore[attr-defined]
    (lambda request: Response(200).data, "hint: write response.content"),  # type: ignore[attr-defined]
    (lambda request: Response(200, request.session), "hint: there are no sessions: write request.cookies"),
    (lambda request: HttpError("no"), "Write HttpError(400, 'detail')"),  # type: ignore[arg-type]
    (lambda request: Response(200, request.body), "use request.content, or add the route with stream=True"),
]


@pytest.mark.parametrize(("handler", "message"), ANSWERS)
async def test_http_handlers(handler: Any, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a 500 without details, and the log says what the handler must do."""
    async with http_client(App().with_stateless_route("/", handler)) as client:
        answer = await client.post("/", content=b'{"a": 1}')
    assert (answer.status, answer.text) == (500, "500 Internal Server Error\n")
    assert message in told(caplog)


async def test_content_of_a_streamed_request(caplog: pytest.LogCaptureFixture) -> None:
    """A route with ``stream=True`` has no content, and the error says what to use."""
    app = App().with_stateless_route("/", lambda request: Response(200, request.content), stream=True)
    async with http_client(app) as client:
        assert (await client.post("/", content=b"x")).status == 500
    assert "use `async for piece in request.body` or `await request.read(limit=...)`" in told(caplog)


async def test_a_hint_is_given_once(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that is raised again and again gets its hint once."""
    app = App().with_stateless_route("/", raises(HandshakeError("no")))
    async with http_client(app) as client:
        for _ in range(3):
            await client.get("/")
    assert len(errors(caplog)) == 3
    last = errors(caplog)[-1].exc_info
    assert last is not None
    assert last[1] is not None
    assert len(last[1].__notes__) == 1


class WithoutText(ValueError):
    """An exception whose ``str`` fails."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_exception_without_text(caplog: pytest.LogCaptureFixture) -> None:
    """An exception whose ``str`` fails is logged, and gets no hint."""
    async with http_client(App().with_stateless_route("/", raises(WithoutText()))) as client:
        assert (await client.get("/")).status == 500
    assert "the handler tests.test_mistakes_of_handlers.raises.<locals>.handler failed for GET /" in told(caplog)


async def test_hint_in_a_nursery(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that leaves a nursery of the handler gets its hint in the group."""

    async def handler(request: Any) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(awaits_json, request)

    async with http_client(App().with_stateless_route("/", handler)) as client:
        assert (await client.post("/", content=b"{}")).status == 500
    assert "hint: remove 'await'" in told(caplog)


@pytest.mark.parametrize(
    ("methods", "detail"),
    [
        (("POST",), "use POST"),
        (("POST", "PUT"), "use POST or PUT"),
        (("PATCH", "POST", "PUT"), "use PATCH, POST or PUT"),
    ],
)
async def test_method_not_allowed(methods: tuple[str, ...], detail: str) -> None:
    """The detail of a 405 names the methods that are allowed."""
    async with http_client(App().with_stateless_route("/", response, methods=methods)) as client:
        assert (await client.get("/")).text == f"405 Method Not Allowed: 'GET' is not allowed here: {detail}\n"


ALONE = "must call call_next with the request alone: write await call_next(request)"


@pytest.mark.parametrize(
    ("call", "message"), [((), ALONE), ((Request(), None), ALONE), ((1,), "called call_next with int: pass the")]
)
async def test_arguments_of_call_next(call: Any, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """A layer that calls ``call_next`` with other arguments learns what to write."""

    async def layer(request: Any, state: Any, call_next: Any) -> Any:
        return await call_next(*call)

    app = App().with_stateless_route("/", raises(ValueError())).with_layer(layer)
    async with http_client(app) as client:
        assert (await client.get("/")).status == 500
    assert message in told(caplog)


async def test_asyncio_in_a_mounted_app(caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint of FastAPI that uses asyncio fails with the hint, also behind its own error response."""
    api = FastAPI()
    api.add_api_route("/sleep", partial(sleeps_in_asyncio, None))
    async with http_client(App().with_asgi("/", api)) as client:
        assert (await client.get("/sleep")).status == 500
    assert "hint: this program runs on trio" in told(caplog)


async def test_bodies_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """The log line about a body that fails names the function that produces it."""

    async def produce(write: Any) -> None:
        raise ValueError("no")

    async def iterate() -> Any:
        yield b"x"
        raise ValueError("no")

    app = App().with_stateless_route("/", lambda request: Response.stream(produce))
    app.with_stateless_route("/iterate", lambda request: Response.stream(iterate()))
    async with http_client(app) as client:
        assert (await client.get("/")).status == 500
        with pytest.raises(Exception, match="before the end of the body"):
            await client.get("/iterate")
    here = "test_bodies_are_named.<locals>"
    assert [record.getMessage().replace(f"{__name__}.", "") for record in errors(caplog)] == [
        f"the body of the response from {here}.produce failed for GET /",
        f"the body of the response from {here}.iterate failed for GET /iterate",
    ]
    assert await read_body(Response(200, "x")) == b"x"


# ------------------------------------------------------------------------------------------- WebSocket handlers


def plain(*_: Any) -> None:
    """A plain function that cannot be told from a wrapper, because it is called in a lambda."""


class PlainHandler:
    """An object that is called like a plain function."""

    def __repr__(self) -> str:
        return "PlainHandler()"

    def __call__(self, *arguments: Any) -> None:
        pass


async def fails(*_: Any) -> None:
    raise ValueError("no")


async def awaits_subscribe(stream: Any, message: Any, state: Any) -> None:
    await stream.subscribe("news")


async def awaits_start_soon(stream: Any, message: Any, state: Any) -> None:
    await stream.start_soon(trio.sleep, 0)


async def sends_dict(stream: Any, message: Any, state: Any) -> None:
    await stream.send({"a": 1})


async def uses_message_as_str(stream: Any, message: Any, state: Any) -> None:
    message.startswith("/")


async def adds_message(stream: Any, message: Any, state: Any) -> None:
    await stream.send("you said " + message)


async def uses_stream(stream: Any, state: Any) -> None:
    async for message in stream:
        await stream.send(message)


async def receives(stream: Any, message: Any, state: Any) -> None:
    await stream.receive()


async def iterates(stream: Any, *_: Any) -> None:
    for message in stream:
        await stream.send(message)


async def iterates_async(stream: Any, *_: Any) -> None:
    async for message in stream:
        await stream.send(message)


async def sleeps_with_stream(stream: Any, *_: Any) -> None:
    await asyncio.sleep(1)


async def sends_to_upgrade(stream: Any, state: Any) -> None:
    await stream.send("hi")


def messages(handler: Any) -> App:
    return App().with_websocket_app("/", AsyncWebsocketApp.new_unlinked().with_message_handler(handler))


def connects(handler: Any) -> App:
    return App().with_websocket_app("/", AsyncWebsocketApp.new_unlinked().with_connect_handler(handler))


def disconnects(handler: Any) -> App:
    return App().with_websocket_app("/", AsyncWebsocketApp.new_unlinked().with_disconnect_handler(handler))


def together(handler: Any) -> App:
    websocket_app = AsyncWebsocketApp.new_unlinked(concurrency=2).with_message_handler(handler)
    return App().with_websocket_app("/", websocket_app)


def stream_state(function: Any) -> App:
    return App().with_websocket_app("/", AsyncWebsocketApp.new_unlinked(stream_state=function))


def coroutine(handler: Any, **options: Any) -> App:
    return App().with_websocket_route("/", websocket(handler, **options))


def route(handler: Any) -> App:
    return App().with_websocket_route("/", handler)


def hook_accept(accept: Any) -> App:
    return App().with_websocket_app("/", AsyncWebsocketApp.new_unlinked(), accept=accept)


def task(function: Any) -> App:
    async def starts(stream: Any, message: Any, state: Any) -> None:
        stream.start_soon(function)

    return messages(starts)


def calls(call: Callable[[Any], Any]) -> App:
    async def handler(stream: Any, message: Any, state: Any) -> None:
        await call(stream)

    return messages(handler)


def sender(take: Callable[[Any], Any]) -> App:
    websocket_app = AsyncWebsocketApp.new_unlinked()

    async def sends(stream: Any, message: Any, state: Any) -> None:
        await websocket_app.sender().send(take(stream), "hi")

    return App().with_websocket_app("/", websocket_app.with_message_handler(sends))


def closes(take: Callable[[Any], Any]) -> App:
    websocket_app = AsyncWebsocketApp.new_unlinked()

    async def handler(stream: Any, message: Any, state: Any) -> None:
        await websocket_app.sender().close(take(stream))

    return App().with_websocket_app("/", websocket_app.with_message_handler(handler))


HERE = "tests.test_mistakes_of_handlers"
MUST = "must be an async function: write async def with"
STREAMS: list[tuple[App, str]] = [
    (messages(lambda *a: plain(*a)), f"<lambda>, {MUST} (stream, message, state)"),
    (messages(PlainHandler()), f"the message handler, PlainHandler(), {MUST} (stream, message, state)"),
    (connects(PlainHandler()), f"the connect handler, PlainHandler(), {MUST} (stream, state)"),
    (disconnects(PlainHandler()), f"the disconnect handler, PlainHandler(), {MUST} (stream, state)"),
    (coroutine(PlainHandler()), f"PlainHandler(), {MUST} (stream, state)"),
    (coroutine(fails, accept=PlainHandler()), f"the accept function, PlainHandler(), {MUST} (request, state)"),
    (hook_accept(PlainHandler()), f"the accept function, PlainHandler(), {MUST} (request, state)"),
    (route(PlainHandler()), f"PlainHandler(), {MUST} (upgrade, state)"),
    (closes(lambda stream: stream), "a sender takes the id of a stream, stream.id, not <AsyncStream of"),
    # What has failed is named.
    (messages(fails), f"the message handler {HERE}.fails failed for <AsyncStream of"),
    (together(fails), f"the message handler {HERE}.fails failed for <AsyncStream of"),
    (connects(fails), f"the connect handler {HERE}.fails failed for <AsyncStream of"),
    (disconnects(fails), f"the disconnect handler {HERE}.fails failed for <AsyncStream of"),
    (
        stream_state(lambda stream: 1 // 0),
        f"the stream_state function {HERE}.<lambda> failed for <WebsocketStream",
    ),
    (task(fails), f"the task {HERE}.fails failed for <AsyncStream of"),
    (coroutine(fails), f"the handler {HERE}.fails failed for <WebsocketStream"),
    (coroutine(uses_stream, accept=fails), f"the accept function {HERE}.fails failed for GET /"),
    (hook_accept(fails), f"the accept function {HERE}.fails failed for GET /"),
    (route(fails), f"the websocket route {HERE}.fails failed for GET /"),
    # What to write instead.
    (messages(awaits_subscribe), "hint: remove 'await' before a call of a plain method. subscribe, unsubscribe"),
    (messages(awaits_start_soon), "hint: remove 'await' before a call of a plain method"),
    (messages(sends_dict), "a message must be str or bytes, not dict: write json.dumps(value)"),
    (task(PlainHandler()), "start_soon takes an async function: PlainHandler() returned None"),
    (
        calls(lambda stream: stream.set_deadline("5")),
        "the deadline must be a number of seconds above zero, not",
    ),
    (
        calls(lambda stream: stream.close("bye")),
        "a close has an int code, then a str: close(1000, 'reason'), not",
    ),
    (calls(lambda stream: stream.close(1000, b"bye")), "a close has an int code, then a str"),
    (calls(lambda stream: stream.ping("hi")), "the payload of a ping is bytes, not str"),
    (
        calls(lambda stream: stream.start_soon(fails())),
        "pass the async function and its arguments, start_soon(",
    ),
    (messages(uses_message_as_str), "hint: write message.text for the str"),
    (messages(adds_message), "hint: write message.text for the str"),
    (messages(receives), "hint: the message handler is called with each message"),
    (messages(iterates), "hint: the message handler is called with each message"),
    (messages(iterates_async), "hint: the message handler is called with each message"),
    (coroutine(iterates), "hint: write 'async for message in stream'"),
    (coroutine(lambda stream, state: stream.receive_text()), "hint: write 'async for message in stream'"),
    (coroutine(lambda stream, state: stream.iter_text()), "hint: write 'async for message in stream'"),
    (coroutine(lambda stream, state: stream.accept()), "hint: the stream is open already: pass accept="),
    (coroutine(lambda stream, state: stream.send_json(1)), "hint: write await stream.send(text)"),
    (coroutine(lambda stream, state: stream.send_text("")), "hint: write await stream.send(text)"),
    (coroutine(lambda stream, state: stream.broadcast("")), "hint: broadcast, publish and subscribe are"),
    (coroutine(sleeps_with_stream), "hint: this program runs on trio"),
    (messages(sleeps_with_stream), "hint: this program runs on trio"),
    (route(uses_stream), "hint: a websocket route gets an Upgrade: write with_websocket_route(pattern, websocket"),
    (route(sends_to_upgrade), "hint: a websocket route gets an Upgrade"),
    (sender(lambda stream: stream), "a sender takes the id of a stream, stream.id, not <AsyncStream of"),
    (sender(lambda stream: None), "a sender takes the id of a stream, stream.id, not None"),
]


@pytest.mark.parametrize(("app", "message"), STREAMS)
async def test_websocket_handlers(
    app: App, message: str, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """The log names the function that has failed, and says what to write."""
    try:
        async with websocket_client(app, "/") as client:
            await client.send("hi")
            with trio.move_on_after(1):
                await client.receive()
    except (ConnectionClosed, HandshakeError):
        pass
    await trio.sleep(1)
    assert message in told(caplog)


async def test_wrong_answer_of_accept(caplog: pytest.LogCaptureFixture) -> None:
    """A bool neither accepts nor refuses a client."""

    async def accept(request: Request, state: None) -> Any:
        return True

    with pytest.raises(HandshakeError):
        async with websocket_client(coroutine(fails, accept=accept), "/"):
            pass
    assert "not bool: return Accept(value=...) to accept, and Response(403) to refuse" in told(caplog)


async def test_lambdas_and_objects_that_return_coroutines(autojump_clock: Clock) -> None:
    """A lambda, and an object, that return the coroutine of another function are handlers."""

    async def echo(stream: WebsocketStream, state: None) -> None:
        await stream.send(await stream.receive())

    async def reply(stream: Any, message: Message, state: None) -> None:
        await stream.send(message)

    async def admit() -> None:
        await trio.lowlevel.checkpoint()

    for app in (
        coroutine(lambda stream, state: echo(stream, state), accept=lambda request, state: admit()),
        messages(lambda stream, message, state: reply(stream, message, state)),
    ):
        async with websocket_client(app, "/") as client:
            await client.send("hi")
            assert await client.receive() == "hi"
