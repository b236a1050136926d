"""Routes: the order of patterns, parameters of requests, limits of bodies, and errors that handlers raise."""

from __future__ import annotations

import copy
import logging
import pickle
from decimal import Decimal
from enum import Enum
from itertools import permutations, product
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing

from humphrey_trio import WebsocketStream, websocket_handler
from humphrey_trio.http import App, Headers, HttpError, Limits, Request, Response, SubApp
from humphrey_trio.testing import http_client, websocket_client
from humphrey_trio.websocket import HandshakeError, Upgrade

# ------------------------------------------------------------------------------------------------- order

PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "*"]
# The paths of PATHS that each pattern matches.
PATTERNS = {
    "/a": {"/a"},
    "/a/b": {"/a/b"},
    "*": set(PATHS),
    "/*": set(PATHS) - {"*"},
    "/a*": {"/a", "/a/", "/a/b", "/a/b/c"},
    "/{x}": {"/a", "/b"},
    "/a/{x}": {"/a/b"},
    "/{x*}": set(PATHS) - {"*"},
}


@pytest.mark.parametrize("chosen", list(permutations(PATTERNS, 3)), ids=" ".join)
async def test_the_first_route_wins(chosen: tuple[str, ...]) -> None:
    """Of literal patterns, wildcards and parameters, the first that was added and matches is used."""
    app = App()
    for pattern in chosen:
        app.with_path_aware_route(pattern, lambda request, _, pattern: Response(200, pattern))
    for path in PATHS:
        first = next((pattern for pattern in chosen if path in PATTERNS[pattern]), None)
        response = await app.handle(Request(path=path))
        assert (response.text if response.status == 200 else None) == first, path


KINDS = ["/a", "/{x}", "/*"]
METHODS = [None, ("GET",), ("POST",)]


#: Without those whose second route could never be used, which is refused.
CHOSEN = [
    (pattern, methods, other, others)
    for pattern, methods, other, others in product(KINDS, METHODS, KINDS, METHODS)
    if pattern != other or (methods is not None and methods != others)
]


@pytest.mark.parametrize("chosen", CHOSEN)
async def test_the_first_route_that_takes_the_method_wins(chosen: tuple[Any, ...]) -> None:
    """A route that does not take the method is passed over, whatever the kinds of the patterns."""
    app = App()
    for name, (pattern, methods) in enumerate((chosen[:2], chosen[2:])):
        app.with_stateless_route(pattern, lambda _, name=name: Response(200, str(name)), methods=methods)
    for method in ("GET", "POST"):
        takers = [
            str(name) for name, methods in enumerate((chosen[1], chosen[3])) if not methods or method in methods
        ]
        response = await app.handle(Request(method, "/a"))
        assert (response.text if response.status == 200 else None) == (takers[0] if takers else None)


# -------------------------------------------------------------------------------------------- parameters


async def test_parameters_of_a_host() -> None:
    """Routes of a SubApp have parameters, too."""
    api = SubApp().with_stateless_route("/{name}", lambda r: Response(200, f"api {r.path_param('name')}"))
    app = App().with_host("api.example", api)
    app.with_stateless_route("/{other}", lambda r: Response(200, f"app {r.path_param('other')}"))
    on_host = await app.handle(Request(path="/x", headers=Headers([("Host", "api.example")])))
    assert [on_host.text, (await app.handle(Request(path="/x"))).text] == ["api x", "app x"]


async def test_parameters_cannot_be_changed() -> None:
    """``path_params`` is immutable, and empty for a route without parameters."""
    seen: list[Request] = []

    def keep(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    async with http_client(App().with_stateless_route("/{id}", keep).with_stateless_route("/", keep)) as client:
        await client.get("/1")
        await client.get("/")
    assert [dict(request.path_params) for request in seen] == [{"id": "1"}, {}]
    for request in (*seen, Request()):
        with pytest.raises(TypeError):
            request.path_params["id"] = "2"  # type: ignore[index]


def test_requests_with_parameters_are_values() -> None:
    """They are compared, hashed, copied and pickled with their parameters."""
    seen: list[Request] = []

    def keep(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    app = App().with_stateless_route("/{id}", keep)
    for path in ("/1", "/1", "/2"):
        trio.run(app.handle, Request(path=path))
    one, same, other = seen
    assert one == same != other
    assert one == Request(path="/1", path_params={"id": "1"})
    assert hash(one) == hash(same)
    assert hash(one.path_params) == hash(same.path_params)
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert repr(one.path_params) == "{'id': '1'}"


async def test_handle_sets_the_parameters_itself() -> None:
    """``App.handle`` passes the parameters of the route to the handler, and not those of the argument."""
    app = App().with_stateless_route("/{id}", lambda r: Response(200, repr(dict(r.path_params))))
    app.with_stateless_route("/", lambda r: Response(200, repr(dict(r.path_params))))
    for path, params in (("/1", "{'id': '1'}"), ("/", "{}")):
        assert (await app.handle(Request(path=path, path_params={"id": "9", "x": "y"}))).text == params


class Color(Enum):
    RED = "red"


CONVERTED: list[tuple[Any, str, object]] = [
    (str, "x", "x"),
    (int, "0", 0),
    (int, "007", 7),
    (int, "18446744073709551616", 2**64),
    (float, "1.5", 1.5),
    (Decimal, "1.50", Decimal("1.50")),
    (Color, "red", Color.RED),
    (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
    (lambda value: value.upper(), "x", "X"),
]


@pytest.mark.parametrize(("convert", "value", "expected"), CONVERTED)
def test_converted(convert: Any, value: str, expected: object) -> None:
    """``path_param`` returns what the converter makes of the value."""
    assert Request(path_params={"x": value}).path_param("x", convert) == expected


NOT_CONVERTED: list[tuple[Any, str]] = [
    *(
        (int, value)
        for value in ("", "x", "-1", "+1", " 1", "1 ", "1\n", "1_0", "1.0", "0x1", "\u0661", "\u00b2", "½")
    ),
    (int, "9" * 5_000),  # Python refuses to convert so many digits
    (float, "x"),
    (Decimal, "x"),
    (Color, "blue"),
    (UUID, "x"),
]


@pytest.mark.parametrize(("convert", "value"), NOT_CONVERTED)
async def test_not_converted(convert: Any, value: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the converter refuses is a 404. Only the digits 0 to 9 are an int."""
    with pytest.raises(HttpError, match="'x'") as error:
        Request(path_params={"x": value}).path_param("x", convert)
    assert error.value.status == 404
    if value:
        app = App().with_stateless_route(
            "/{x}", lambda request: Response(200, str(request.path_param("x", convert)))
        )
        assert (await app.handle(Request(path=f"/{value}"))).status == 404
        assert caplog.record_tuples == []


def test_a_long_value_is_cut_in_the_error() -> None:
    """The message quotes the beginning of the value."""
    with pytest.raises(HttpError) as error:
        Request(path_params={"x": "y" * 10_000}).path_param("x", int)
    assert len(str(error.value)) < 1_000


def test_a_wrong_name_is_an_error_of_the_handler() -> None:
    """A name that the pattern does not have is a KeyError that says which ones it has."""
    with pytest.raises(KeyError, match=r"'nam'.*'name', 'id'"):
        Request(path_params={"name": "x", "id": "1"}).path_param("nam")
    with pytest.raises(KeyError, match="no parameters"):
        Request().path_param("id", int)


# -------------------------------------------------------------------------------------------- websockets


async def test_parameters_of_a_websocket_route() -> None:
    """The request of a stream, and that of an upgrade, have the parameters."""

    async def greet(stream: WebsocketStream, state: None) -> None:
        await stream.send(f"{stream.request.path_param('name')} {stream.request.path_param('seat', int)}")

    async def own(upgrade: Upgrade, state: None) -> None:
        name = upgrade.request.path_params["name"]
        stream = await upgrade.accept()
        await stream.send(name)

    app = (
        App()
        .with_websocket_route("/rooms/{name}/{seat}", websocket_handler(greet))
        .with_websocket_route("/rooms/{name*}", own)
    )
    for path, greeting in (("/rooms/caf%C3%A9/7", "café 7"), ("/rooms/a/b/c", "a/b/c")):
        async with websocket_client(app, path) as client:
            assert (await client.receive()).text == greeting


@pytest.mark.parametrize(("path", "status"), [("/rooms/%ff", 400), ("/rooms/x", 404), ("/rooms/", 404)])
async def test_a_websocket_route_refuses_wrong_parameters(path: str, status: int) -> None:
    """A malformed value is a 400 before the route is called, and one that does not convert a 404."""

    async def own(upgrade: Upgrade, state: None) -> None:
        upgrade.request.path_param("id", int)
        await upgrade.accept()

    app = App().with_websocket_route("/rooms/{id}", own).with_stateless_route("/rooms/x*", lambda _: Response(200))
    with pytest.raises(HandshakeError) as refused:
        async with websocket_client(app, path):
            pass
    assert refused.value.status == status


# ------------------------------------------------------------------------------------------------ bodies


def sizes() -> App[Any]:
    def size(request: Request) -> Response:
        return Response(200, str(len(request.content)))

    return (
        App(limits=Limits(body=10))
        .with_stateless_route("/upload/{name}", size, max_body=100)
        .with_stateless_route("/none", size, methods=("POST",), max_body=0)
        .with_stateless_route("/both", size, methods=("POST",), max_body=20)
        .with_stateless_route("/both", size, methods=("PUT",), max_body=30)
        .with_stateless_route("/usual", size)
    )


BODIES = [
    ("POST", "/upload/x", 100, 200),
    ("POST", "/upload/x", 101, 413),
    ("POST", "/none", 0, 200),
    ("POST", "/none", 1, 413),
    ("POST", "/both", 20, 200),
    ("POST", "/both", 21, 413),
    ("PUT", "/both", 30, 200),
    ("PUT", "/both", 31, 413),
    ("POST", "/usual", 10, 200),
    ("POST", "/usual", 11, 413),
]


@pytest.mark.parametrize(("method", "path", "size", "status"), BODIES)
async def test_max_body(method: str, path: str, size: int, status: int) -> None:
    """``max_body`` replaces ``Limits.body`` for one route, above it and below it."""
    async with http_client(sizes()) as client:
        response = await client.request(method, path, content=b"x" * size)
    assert response.status == status
    assert status != 200 or response.text == str(size)


@pytest.mark.parametrize(("method", "path", "size", "status"), BODIES)
async def test_max_body_of_chunks(method: str, path: str, size: int, status: int) -> None:
    """It limits a chunked body as well."""
    reply = await send_chunks(sizes(), method, path, b"1\r\nx\r\n" * size + b"0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 %d " % status)


async def send_chunks(app: App[Any], method: str, path: str, body: bytes) -> bytes:
    """Send a chunked request; the beginning of the response."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.serve_stream, theirs)
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await ours.send_all(head.encode() + body)
        reply = await ours.receive_some()
        nursery.cancel_scope.cancel()
    return bytes(reply)


def test_max_body_is_checked() -> None:
    """A negative limit is an error when the route is added."""
    for routes in (App(), SubApp()):
        for add in (routes.with_route, routes.with_stateless_route, routes.with_path_aware_route):
            with pytest.raises(ValueError, match=r"max_body=\.\.\. must be at least 0"):
                add("/", lambda *_: Response(200), max_body=-1)


# ------------------------------------------------------------------------------------------------ errors


async def later(request: Request) -> Response:
    await trio.lowlevel.checkpoint()
    raise HttpError(409, "try <again>", headers={"Retry-After": "7"})


def at_once(request: Request) -> Response:
    raise HttpError(409, "try <again>", headers={"Retry-After": "7"})


@pytest.mark.parametrize("handler", [later, at_once])
async def test_a_handler_raises_an_http_error(handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The response has the status, the detail and the fields of the error; no failure is logged."""
    app = App().with_stateless_route("/", handler)
    with caplog.at_level(logging.DEBUG, "humphrey_trio.http"):
        async with http_client(app) as client:
            response = await client.get("/")
    assert (response.status, response.headers["Retry-After"]) == (409, "7")
    assert response.text == "409 Conflict: try <again>\n"
    assert caplog.record_tuples == []


async def test_an_http_error_in_a_nursery(caplog: pytest.LogCaptureFixture) -> None:
    """An ``HttpError`` that leaves nurseries of the handler is answered as any other, and not logged."""

    async def handler(request: Request) -> Response:
        async with trio.open_nursery(), trio.open_nursery():
            raise HttpError(409, "taken")

    async with http_client(App().with_stateless_route("/", handler)) as client:
        response = await client.get("/")
    assert (response.status, response.text) == (409, "409 Conflict: taken\n")
    assert not caplog.records


async def test_an_http_error_without_detail() -> None:
    """The default page of an error without a detail has only the status."""

    def refuse(request: Request) -> Response:
        raise HttpError(403)

    app = App().with_stateless_route("/", refuse)
    assert (await app.handle(Request())).text == "403 Forbidden\n"


async def test_a_websocket_route_raises_an_http_error() -> None:
    """Before it has accepted, the client gets the status."""

    async def route(upgrade: Upgrade, state: None) -> None:
        raise HttpError(410, "closed for ever")

    with pytest.raises(HandshakeError) as refused:
        async with websocket_client(App().with_websocket_route("/", route)):
            pass
    assert refused.value.status == 410


@pytest.mark.parametrize("status", [99, 200, 302, 399, 600])
def test_an_http_error_is_an_error(status: int) -> None:
    """Another status is a ValueError that says what to do instead."""
    with pytest.raises(ValueError, match="return a Response"):
        HttpError(status)
