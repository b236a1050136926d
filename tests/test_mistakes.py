"""Mistakes that are found when an app is built: each gets an error that says what to write instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import trio
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    HttpError,
    Message,
    Request,
    Response,
    SubApp,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.handlers import serve_dir
from humphrey_trio.http import Address, TrustedProxies
from humphrey_trio.layers import Cors, compression, cors
from humphrey_trio.websocket import HandshakeError
from tests.support.certificates import authority

# Any, because type checkers find most of these mistakes as well.
app: Any = App()
unlinked: Any = AsyncWebsocketApp.new_unlinked()
hook: Any = unlinked.connect_hook()
websocket: Any = websocket_handler
response: Any = Response


def plain(stream: Any, state: Any) -> None:
    pass


def plain_message(stream: Any, message: Any, state: Any) -> None:
    pass


async def handle(stream: Any, state: Any) -> None:
    pass


async def chat(stream: WebsocketStream, state: None) -> None:
    pass


async def on_connect(stream: AsyncStream, state: None) -> None:
    pass


async def pieces(stream: Any, state: Any) -> Any:
    yield b""


def ok(request: Request, state: Any = None) -> Response:
    return Response(200)


def plain_layer(request: Any, state: Any, call_next: Any) -> Any:
    pass


def in_path(request: Any, item: Any) -> Any:
    return Response(200, item)


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    pass


def plain_asgi_app(scope: Any, receive: Any, send: Any) -> None:
    pass


def wsgi_app(environ: Any, start_response: Any) -> Any:
    return []


# ------------------------------------------------------------------------------------------------- the table

HANDLERS: dict[str, tuple[Callable[[], object], str]] = {
    "a plain def for websocket_handler": (
        lambda: websocket(plain),
        "plain, must be an async function: write async def with (stream, state)",
    ),
    "a plain def in a partial": (
        lambda: websocket(partial(plain)),
        "plain, must be an async function",
    ),
    "a plain def for a connect handler": (
        lambda: unlinked.with_connect_handler(plain),
        "the connect handler, tests.test_mistakes.plain, must be an async function",
    ),
    "a plain def for a message handler": (
        lambda: unlinked.with_message_handler(plain_message),
        "plain_message, must be an async function: write async def with (stream, message, state)",
    ),
    "a plain def for a disconnect handler": (
        lambda: unlinked.with_disconnect_handler(plain),
        "the disconnect handler, tests.test_mistakes.plain, must be an async function",
    ),
    "a plain def for accept": (
        lambda: websocket(handle, accept=plain),
        "the accept function, tests.test_mistakes.plain, must be an async function: write async def with (request",
    ),
    "a plain def for accept of a hook": (
        lambda: async_websocket_handler(hook, accept=plain),  # type: ignore[arg-type]
        "the accept function, tests.test_mistakes.plain, must be an async function",
    ),
    "a plain def for accept of an app": (
        lambda: AsyncWebsocketApp(accept=plain),  # type: ignore[arg-type]
        "the accept function, tests.test_mistakes.plain, must be an async function",
    ),
    "a plain def for a websocket route": (
        lambda: app.with_websocket_route("/ws", plain),
        "the handler of the websocket route '/ws', tests.test_mistakes.plain, must be an async function",
    ),
    "a plain def for a layer": (
        lambda: app.with_layer(plain_layer),
        "the layer, tests.test_mistakes.plain_layer, must be an async function",
    ),
    "yield in a handler": (lambda: websocket(pieces), "pieces, is an async generator: remove 'yield'"),
    "None for a message handler": (
        lambda: unlinked.with_message_handler(None),
        "the message handler must be a function, called with (stream, message, state), not NoneType",
    ),
    "a number for a message handler": (lambda: unlinked.with_message_handler(5), "must be a function"),
    "a connect handler for messages": (
        lambda: unlinked.with_message_handler(handle),
        "handle, is called with (stream, message, state): too many positional arguments",
    ),
    "a message handler for connects": (
        lambda: unlinked.with_connect_handler(plain_message),
        "is called with (stream, state): missing a required argument: 'state'",
    ),
    "a handler without state": (
        lambda: websocket(lambda stream: None),
        "is called with (stream, state): too many positional arguments",
    ),
    "accept without state": (
        lambda: websocket(handle, accept=lambda request: None),
        "is called with (request, st",
    ),
    "an error handler for Flask": (
        lambda: app.with_error_handler(lambda error: None),
        "is called with (status, request, exception): too many positional arguments",
    ),
    "None for an error handler": (lambda: app.with_error_handler(None), "the error handler must be a function"),
    "a condition without state": (
        lambda: app.with_connection_condition(lambda address: True),
        "is called with (address, state): too many",
    ),
    "a stream_state that takes nothing": (
        lambda: AsyncWebsocketApp.new_unlinked(stream_state=lambda: None),  # type: ignore[arg-type,misc]
        "is called with (stream): too many",
    ),
    "a value for stream_state": (
        lambda: AsyncWebsocketApp.new_unlinked(stream_state={}),  # type: ignore[arg-type]
        "stream_state must be a function, called with (stream), not dict",
    ),
    "a handler that is called": (
        lambda: app.with_route("/", handle(None, None)),
        "not the coroutine handle(...): pass the function itself, without calling it",
    ),
    "a websocket_handler for with_route": (
        lambda: app.with_route("/ws", websocket(handle)),
        "the handler of '/ws' is a websocket route: write with_websocket_route(pattern, route)",
    ),
    "a hook route for with_route": (
        lambda: app.with_route("/ws", async_websocket_handler(hook)),
        "the handler of '/ws' is a websocket route",
    ),
    "a function of a stream for with_websocket_route": (
        lambda: app.with_websocket_route("/ws", chat),
        "not the WebsocketStream of this function: write with_websocket_route(pattern, websocket_handler(",
    ),
    "a connect handler for with_websocket_route": (
        lambda: app.with_websocket_route("/ws", on_connect),
        "not the AsyncStream of this function: write AsyncWebsocketApp.new_unlinked().with_message_h",
    ),
    "a hook for with_websocket_route": (
        lambda: app.with_websocket_route("/ws", hook),
        "is a hook: write with_websocket_route(pattern, async_websocket_handler(websocket_app.connect_hook()))",
    ),
    "a hook for with_route": (lambda: app.with_route("/ws", hook), "the handler of '/ws' is a hook"),
    "a WebSocket app for with_route": (
        lambda: app.with_route("/ws", unlinked),
        "is an AsyncWebsocketApp: write with_websocket_app(pattern, websocket_app)",
    ),
    "a WebSocket app for with_websocket_route": (
        lambda: app.with_websocket_route("/ws", unlinked),
        "is an AsyncWebsocketApp: write with_websocket_app(pattern, websocket_app)",
    ),
    "a WebSocket app for async_websocket_handler": (
        lambda: async_websocket_handler(unlinked),
        "async_websocket_handler takes a hook, app.connect_hook(), not AsyncWebsocketApp",
    ),
    "a Response for a handler": (
        lambda: app.with_route("/", Response(200)),
        "the handler of '/' is a Response: write a function that returns it",
    ),
    "Cors for a layer": (
        lambda: app.with_layer(Cors(origins="*")),
        "the layer is a Cors: write with_cors(Cors(...)), or with_layer(cors(Cors(...)), path='/api/*')",
    ),
    "a layer for with_cors": (lambda: app.with_cors(cors(Cors())), "with_cors takes a Cors, not CorsLayer: write"),
    "an origin for with_cors": (lambda: app.with_cors("*"), "write with_cors(Cors(origins=...))"),
    "compression without a call": (
        lambda: app.with_layer(compression),
        "compression makes a layer: write with_layer(compression(...))",
    ),
    "an App for with_host": (lambda: app.with_host("a.example", App()), "with_host takes a SubApp, not App"),
    "a pattern and a handler swapped": (
        lambda: app.with_route(ok, "/"),
        "the first argument of a route is its pattern, such as '/items/{id}', not <function ok",
    ),
    "a handler without state for with_route": (
        lambda: app.with_route("/", lambda request: Response(200)),
        "Add it by with_stateless_route, which calls it with (request)",
    ),
    "a directory for with_route": (
        lambda: app.with_route("/*", serve_dir(".")),
        "Add it by with_path_aware_route, which calls it with (request, state, pattern)",
    ),
    "a number for a certificate": (
        lambda: app.with_cert(5, 5),
        "with_cert takes the path of a PEM file, or an ssl.SSLContext, not 5",
    ),
    "an option of the WebSocket app for its route": (
        lambda: app.with_websocket_app("/", AsyncWebsocketApp.new_unlinked(), max_message_size=5),
        "with_websocket_app has no option max_message_size: there are accept, deflate, origins, ",
    ),
    "the methods of Flask": (lambda: app.with_route("/", ok, methods="GET"), "write methods=('GET',)"),
    "a parameter of the pattern": (
        lambda: app.with_stateless_route("/{item}", in_path),
        "Write request.path_param('item') in the handler, which is called with (request)",
    ),
    "the rest of the path": (
        lambda: app.with_route("/{item*}", lambda request, state, item: Response(200)),
        "Write request.path_param('item') in the handler, which is called with (request, state)",
    ),
    "an ASGI app for with_route": (
        lambda: app.with_route("/api", FastAPI()),
        "the handler of '/api' is an ASGI app: write with_asgi('/path', app)",
    ),
    "an ASGI app for with_stateless_route": (
        lambda: app.with_stateless_route("/api", asgi_app),
        "is an ASGI app: write with_asgi('/path', app)",
    ),
    "an ASGI app for with_path_aware_route": (
        lambda: app.with_path_aware_route("/api", FastAPI()),
        "is an ASGI app: write with_asgi('/path', app)",
    ),
    "an ASGI app for with_websocket_route": (
        lambda: app.with_websocket_route("/api", FastAPI()),
        "is an ASGI app: write with_asgi('/path', app)",
    ),
    "an ASGI app for a layer": (lambda: app.with_layer(FastAPI()), "the layer is an ASGI app: write with_asgi("),
    "a WSGI app": (
        lambda: app.with_asgi("/api", wsgi_app),
        "the ASGI app is a WSGI app: only ASGI apps are run, with_asgi('/path', app). Run it in a WSGI server",
    ),
    "a plain ASGI app": (
        lambda: app.with_asgi("/api", plain_asgi_app),
        "plain_asgi_app, must be an async function: write async def with (scope, receive, send)",
    ),
    "a middleware of Starlette": (
        lambda: app.with_layer(CORSMiddleware),
        "the layer is CORSMiddleware, a middleware of ASGI apps: write with_asgi('/path', CORSMiddleware(app))",
    ),
    "a class for a layer": (lambda: app.with_layer(dict), "the layer is the class dict: write an async function"),
    "a number of methods": (lambda: app.with_route("/", ok, methods=5), "methods is a collection of names"),
}

PATTERNS: dict[str, tuple[Callable[[], object], str]] = {
    "no slash": (lambda: app.with_route("items", ok), "a pattern begins with '/' or '*', as in '/items'"),
    "a brace is missing": (
        lambda: app.with_route("/a/{id", ok),
        "the braces in '/a/{id' are unbalanced: write {name}",
    ),
    "Flask": (lambda: app.with_route("/a/<id>", ok), "'<id>' in '/a/<id>' is not a parameter here: write {id}."),
    "Flask with a type": (lambda: app.with_route("/a/<int:id>/b", ok), "is not a parameter here: write {id}."),
    "Express": (lambda: app.with_route("/a/:id", ok), "':id' in '/a/:id' is not a parameter here: write {id}."),
    "FastAPI with a type": (
        lambda: app.with_route("/a/{id:int}", ok),
        "write {id} and request.path_param('id', int)",
    ),
    "Flask for a layer": (
        lambda: app.with_layer(compression(), path="/a/<id>"),
        "'<id>' in '/a/<id>' is not a parameter here: write {id}.",
    ),
    "a URL as a host": (
        lambda: app.with_host("https://a.example", SubApp()),
        "write a host name without scheme and path",
    ),
    "lower case": (lambda: app.with_route("/", ok, methods=["get"]), "write 'GET' instead of 'get'"),
    "lower case in Cors": (lambda: Cors(methods=["delete"]), "write 'DELETE' instead of 'delete'"),
    "an address as the state of an App": (
        lambda: App("127.0.0.1:8080"),
        "the first argument of App is the state of the app, and '127.0.0.1:8080' is an address: pass it to run",
    ),
    "an address as the state of a WebSocket app": (
        lambda: AsyncWebsocketApp("127.0.0.1:8080"),
        "the first argument of AsyncWebsocketApp is the state of the app, and '127.0.0.1:8080' is an address: pass"
        " it to with_address",
    ),
}

VALUES: dict[str, tuple[Callable[[], object], str]] = {
    "a text alone": (lambda: response("text"), "For a text, write Response(200, text)"),
    "a dict alone": (lambda: response({"a": 1}), "For JSON, write Response.json(value)"),
    "a content type": (lambda: response(200, b"x", "text/html"), "write headers={'Content-Type': 'text/html'}"),
    "a number in a header": (lambda: response(200, "", {"Age": 5}), "('Age', 5). Convert them, as with str()"),
    "a number for a header": (lambda: response(200, headers=[5]), "a header is a pair of name and value, such as"),
    "a line for a header": (lambda: response(200, headers=["Age: 5"]), "is a pair of name and value, such as"),
    "a list for TrustedProxies": (lambda: TrustedProxies(["::1"]), "write TrustedProxies('10.0.0.0/8', 'unix')"),  # type: ignore[arg-type]
    "an error without a status": (lambda: HttpError("x"), "Write HttpError(400, 'detail')"),  # type: ignore[arg-type]
    "a HandshakeError like an HttpError": (
        lambda: HandshakeError(403, "no"),  # type: ignore[arg-type]
        "a HandshakeError takes a str, then an int status: not HandshakeError(int, str)",
    ),
    "a dict as a message": (lambda: Message({"a": 1}), "write json.dumps(value)"),  # type: ignore[arg-type]
    "json of a text without a call": (lambda: response(200, Request().json), "Call the method: write json()"),
    "a coroutine": (lambda: response(200, handle(1, 2)), "Await it: write await handle(...)"),
    "json without a call": (lambda: Response.json(Request().json), "Call the method: write request.json()"),
}


@pytest.mark.parametrize(("make", "message"), HANDLERS.values(), ids=HANDLERS)
def test_handlers(make: Callable[[], object], message: str) -> None:
    """What is passed in place of a handler is a TypeError that names it, and says what to write."""
    with pytest.raises(TypeError) as refused:
        make()
    assert message in str(refused.value)


@pytest.mark.parametrize(("make", "message"), PATTERNS.values(), ids=PATTERNS)
def test_patterns(make: Callable[[], object], message: str) -> None:
    """A text that would never match, or that belongs elsewhere, is a ValueError that says what to write."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        make()
    assert message in str(refused.value)


@pytest.mark.parametrize(("make", "message"), VALUES.values(), ids=VALUES)
def test_values(make: Callable[[], object], message: str) -> None:
    """Wrong arguments of responses, errors and messages are a TypeError that says what to write."""
    with pytest.raises(TypeError) as refused:
        make()
    assert message in str(refused.value)


# ------------------------------------------------------------------------------------- what is not a mistake


class Handler:
    """An object that is called like an async function."""

    async def __call__(self, stream: Any, state: Any) -> None:
        pass

    async def method(self, stream: Any, state: Any) -> None:
        pass

    @staticmethod
    async def static(stream: Any, state: Any) -> None:
        pass


def logged(function: Any) -> Any:
    """A decorator with a plain wrapper."""

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def anonymous(function: Any) -> Any:
    """A decorator that does not use ``functools.wraps``."""

    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


@logged
async def decorated(stream: Any, state: Any) -> None:
    pass


def made_async(function: Any) -> Any:
    """A decorator that makes a plain function async."""

    @wraps(function)
    async def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


@pytest.mark.parametrize(
    "function",
    [
        *(
            handle,
            Handler(),
            Handler().method,
            Handler.static,
            partial(handle),
            lambda stream, state: handle(1, 2),
        ),
        *(decorated, anonymous(handle), made_async(plain), partial(Handler().method)),
    ],
    ids=repr,
)
def test_async_functions_are_accepted(function: Any) -> None:
    """Everything that can be awaited with these arguments is accepted, also in wrappers and partials."""
    websocket(function, accept=function)
    AsyncWebsocketApp.new_unlinked().with_connect_handler(function).with_disconnect_handler(function)
    App().with_websocket_route("/", function)


@pytest.mark.parametrize("state", ["text", "127.0.0.1", "a:b", "", 5, ("127.0.0.1", 80)])
def test_states_are_accepted(state: Any) -> None:
    """Only the text of an address is refused as a state."""
    assert App(state).state == state
    assert AsyncWebsocketApp(state).state == state


@pytest.mark.parametrize("pattern", ["/a:b", "/a/v1:undelete", "/:", "/a/:/b", "/%3Cid%3E", "/a<b", "*"])
def test_other_patterns_are_accepted(pattern: str) -> None:
    """A colon or an angle bracket that begins no parameter is literal."""
    App().with_route(pattern, ok)


# ---------------------------------------------------------------------------------------------- messages


def test_message_equals_its_data() -> None:
    """A message is equal to a message with the same data, and to the data. So are the hashes."""
    assert Message("hi") == "hi"
    assert "hi" == Message("hi") != "ho"
    assert Message(b"hi") == b"hi"
    assert Message("hi") != b"hi"
    assert Message(b"hi") != "hi"
    assert Message("hi") != Message(b"hi")
    assert Message("hi") == Message("hi")
    assert {Message("hi"): 1}["hi"] == 1  # type: ignore[index]
    assert Message("5") != 5


def test_message_in_an_f_string() -> None:
    """The text of a text message, and the repr of a binary message, which has no text."""
    assert f"you said {Message('hi')}" == "you said hi"
    assert f"{Message(b'hi')}" == "Message(b'hi')"
    assert repr(Message("hi")) == "Message('hi')"


# -------------------------------------------------------------------------------------------- certificates


def test_certificates(tmp_path: Path) -> None:
    """Files that are swapped, or that lack the key or the certificate, are a ValueError that says so."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = authority().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    foreign = tmp_path / "foreign.pem"
    authority().issue_cert("localhost").private_key_pem.write_to_path(foreign)
    wrong: list[tuple[tuple[Path, ...], str]] = [
        ((key, cert), "the arguments are swapped: write with_cert(cert, key)"),
        ((cert,), "contains no private key: write with_cert(cert, key)"),
        ((key,), "contains no certificate in PEM"),
        ((cert, cert), "contains no private key in PEM"),
        ((cert, foreign), "the key must belong to the certificate"),
    ]
    for files, message in wrong:
        with pytest.raises(ValueError, match="cannot be used") as refused:
            app.with_cert(*files)
        assert message in str(refused.value)
    App().with_cert(cert, key)


# ----------------------------------------------------------------------------------------------- addresses

ADDRESSES: list[tuple[object, str]] = [
    ("8080", "write '127.0.0.1:8080', or '0.0.0.0:8080' for all IPv4 addresses of this machine"),
    (":8080", "write '0.0.0.0:8080' for all IPv4 addresses of this machine, or '[::]:8080' for IPv6"),
    ("localhost", "add the port, as in 'localhost:8080'"),
    ("http://localhost:8080", "leave out the scheme"),
    ("127.0.0.1:99999", "a port is at most 65535"),
    ("::1:8080", "write an IPv6 address in brackets, as in '[::1]:8080'"),
    ("fd:3", "pass the open socket itself, such as socket.socket(fileno=3)"),
    ("/run/app.sock", "write 'unix:/run/app.sock' for a Unix socket"),
    ("", "write '127.0.0.1:80', '[::1]:80' or 'unix:/path'"),
]


@pytest.mark.parametrize(("text", "message"), ADDRESSES)
def test_addresses(text: Any, message: str) -> None:
    """A text that is not an address is a ValueError that says what to write, before anything is opened."""
    for use in (Address.parse, AsyncWebsocketApp().with_address, partial(trio.run, App().run)):
        with pytest.raises(ValueError, match="is not an address") as refused:
            use(text)  # type: ignore[operator]
        assert message in str(refused.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [(8080, "write '127.0.0.1:8080'"), (("::", 8080), "8080"), (["127.0.0.1:80"], "an argument of its own")],
)
def test_other_types_of_addresses(address: Any, message: str) -> None:
    """An object of another type is a TypeError."""
    with pytest.raises(TypeError) as refused:
        AsyncWebsocketApp().with_address(address)
    assert message in str(refused.value)
    with pytest.raises(TypeError):
        trio.run(App().run, address)


def test_message_is_no_json() -> None:
    """The text of a message is what ``json`` takes."""
    assert json.loads(str(Message('{"a": 1}'))) == {"a": 1}
