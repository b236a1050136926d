"""Methods of routes: which one takes a request, and what the answer is if none does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from humphrey_trio.http import App, Headers, HttpError, Method, Request, Response, SubApp
from humphrey_trio.testing import http_client, websocket_client
from humphrey_trio.websocket import HandshakeError, Upgrade


def says(text: str) -> Any:
    """A stateless handler that always says the same."""
    return lambda _: Response(200, text)


async def refuse(upgrade: Upgrade, state: object) -> Response:
    return Response(418, "no WebSocket today")


async def answer(app: App[Any], method: str, path: str) -> str | tuple[int, str | None]:
    """What a handler says over a connection, or the status and the Allow field of any other answer."""
    async with http_client(app) as client:
        response = await client.request(method, path)
    return response.text if response.status == 200 else (response.status, response.headers.get("Allow"))


def crud() -> App[Any]:
    """An app with routes for some methods, for one method of two routes, and for every method."""
    return (
        App()
        .with_stateless_route("/items", says("list"), methods=("GET",))
        .with_stateless_route("/items", says("add"), methods=["POST"])
        .with_stateless_route("/items/{id}", says("item"), methods={"GET", "PUT", "DELETE"})
        .with_stateless_route("/items/*", says("brew"), methods=("BREW",))
        .with_stateless_route("/options", says("own"), methods=("OPTIONS", "GET"))
        .with_stateless_route("/any", says("any"))
        .with_stateless_route("/an*", says("never"), methods=("GET",))
        .with_stateless_route("/later", says("post"), methods=("POST",))
        .with_stateless_route("/l*", says("others"))
        .with_websocket_route("/items", refuse)
        .with_websocket_route("/ws", refuse)
    )


ANSWERS: list[tuple[str, str, str | tuple[int, str | None]]] = [
    ("GET", "/items", "list"),
    ("HEAD", "/items", ""),
    ("POST", "/items", "add"),
    ("PUT", "/items", (405, "GET, HEAD, OPTIONS, POST")),
    ("BREW", "/items", (405, "GET, HEAD, OPTIONS, POST")),
    ("PROPFIND", "/items", (405, "GET, HEAD, OPTIONS, POST")),
    ("OPTIONS", "/items", (204, "GET, HEAD, OPTIONS, POST")),
    ("DELETE", "/items/7", "item"),
    ("BREW", "/items/7", "brew"),
    ("BREW", "/items/7/8", "brew"),
    ("POST", "/items/7", (405, "BREW, DELETE, GET, HEAD, OPTIONS, PUT")),
    ("GET", "/items/7/8", (405, "BREW, OPTIONS")),
    ("OPTIONS", "/items/7", (204, "BREW, DELETE, GET, HEAD, OPTIONS, PUT")),
    ("OPTIONS", "/options", "own"),
    ("POST", "/options", (405, "GET, HEAD, OPTIONS")),
    ("GET", "/any", "any"),
    ("OPTIONS", "/any", "any"),
    ("TRACE", "/any", "any"),
    ("FOO", "/any", "any"),
    ("POST", "/later", "post"),
    ("GET", "/later", "others"),
    ("GET", "/nothing", (404, None)),
    ("OPTIONS", "/nothing", (404, None)),
    ("BREW", "/nothing", (404, None)),
    ("GET", "/ws", (426, None)),
    ("OPTIONS", "/ws", (405, "GET")),
    ("FOO", "/ws", (405, "GET")),
    ("OPTIONS", "*", (204, "BREW, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")),
]


@pytest.mark.parametrize(("method", "path", "expected"), ANSWERS)
async def test_answers(method: str, path: str, expected: str | tuple[int, str | None]) -> None:
    """The first route that matches the path and takes the method answers; else 405, 204 or 404 do."""
    assert await answer(crud(), method, path) == expected


@pytest.mark.parametrize(("method", "path", "expected"), ANSWERS)
async def test_handle_answers_alike(method: str, path: str, expected: str | tuple[int, str | None]) -> None:
    """``App.handle`` chooses the same answers without a connection."""
    response = await crud().handle(Request(method, path))
    if isinstance(expected, str):
        assert response.status == 200
        assert method == "HEAD" or response.text == expected
    else:
        assert (response.status, response.headers.get("Allow")) == expected


# What is known where every route names its methods.
UNKNOWN: list[tuple[str, int]] = [
    ("POST", 405),
    ("PROPFIND", 405),
    ("VERSION-CONTROL", 405),
    ("TRACE", 405),
    ("PURGE", 405),  # named by a route of another path
    ("BAN", 405),  # named by a route of another host
    ("BREW", 501),
    ("get", 501),
    ("*", 501),
]


@pytest.mark.parametrize(("method", "status"), UNKNOWN)
@pytest.mark.parametrize("path", ["/", "/nothing"])
async def test_unknown_methods(method: str, path: str, status: int) -> None:
    """A method that is neither registered nor named by any route is a 501, whatever the path."""
    app = (
        App()
        .with_stateless_route("/", says("page"), methods=("GET",))
        .with_stateless_route("/cache", says("purged"), methods=("PURGE",))
        .with_host("a.example", SubApp().with_stateless_route("/", says("banned"), methods=("BAN",)))
    )
    found = await answer(app, method, path)
    assert found[0] == (404 if (path, status) == ("/nothing", 405) else status)


async def test_an_unknown_method_where_a_route_takes_every_method() -> None:
    """An app with a route for every method knows every method, so others of its paths are a 405 and a 404."""
    app = App().with_stateless_route("/", says("page"), methods=("GET",))
    app.with_host("a.example", SubApp().with_stateless_route("/any", says("any")))
    assert await answer(app, "BREW", "/") == (405, "GET, HEAD, OPTIONS")
    assert await answer(app, "BREW", "/nothing") == (404, None)


async def test_a_head_has_no_body_and_the_length_of_the_get() -> None:
    """A route for GET takes HEAD. The response has the fields of the one to GET."""
    app = App().with_stateless_route("/", says("12345"), methods=("GET",))
    async with http_client(app) as client:
        response = await client.head("/")
    assert (response.content, response.headers["Content-Length"]) == (b"", "5")


async def test_a_route_for_head_alone() -> None:
    """HEAD does not imply GET, and the first route that takes it wins."""
    app = App().with_stateless_route("/", says("head"), methods=("HEAD",))
    assert await answer(app, "GET", "/") == (405, "HEAD, OPTIONS")
    seen: list[str] = []
    app.with_stateless_route("/", lambda _: seen.append("get") or Response(200), methods=("GET",))  # type: ignore[func-returns-value]
    assert await answer(app, "HEAD", "/") == ""
    assert seen == []


async def test_a_websocket_and_other_methods_on_one_path() -> None:
    """Where a websocket route is, GET without an upgrade is a 426, and a 405 names GET beside the others."""
    app = App().with_stateless_route("/x", says("posted"), methods=("POST",)).with_websocket_route("/x", refuse)
    for method in ("GET", "HEAD"):
        assert await answer(app, method, "/x") == (426, None)
    assert await answer(app, "POST", "/x") == "posted"
    assert await answer(app, "PUT", "/x") == (405, "GET, OPTIONS, POST")
    assert await answer(app, "OPTIONS", "/x") == (204, "GET, OPTIONS, POST")
    with pytest.raises(HandshakeError) as refused:
        async with websocket_client(app, "/x"):
            pass
    assert refused.value.status == 418


async def test_an_upgrade_without_a_websocket_route_is_an_ordinary_request() -> None:
    """A request for a WebSocket goes to the HTTP route of its path, and is a 405 if that takes no GET."""
    for methods, status in ((("GET",), 200), (("POST",), 405)):
        app = App().with_stateless_route("/x", says("page"), methods=methods)
        with pytest.raises(HandshakeError) as refused:
            async with websocket_client(app, "/x"):
                pass
        assert refused.value.status == status


# ------------------------------------------------------------------------------------------------ hosts


async def test_methods_of_a_host_and_of_the_app() -> None:
    """If the SubApp's routes do not take the method, those of the app may; Allow names the methods of both."""
    subapp = SubApp().with_stateless_route("/x", says("host"), methods=("GET", "PUT"))
    app = App().with_stateless_route("/x", says("app"), methods=("POST", "PUT")).with_host("a.example", subapp)
    host = Headers([("Host", "a.example")])

    async def ask(method: str) -> Response:
        return await app.handle(Request(method, "/x", headers=host))

    assert [(await ask(method)).text for method in ("GET", "POST", "PUT")] == ["host", "app", "host"]
    refused = await ask("DELETE")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST, PUT")
    elsewhere = await app.handle(Request("DELETE", "/x"))
    assert elsewhere.headers["Allow"] == "OPTIONS, POST, PUT"


# ---------------------------------------------------------------------------------- OPTIONS and errors


async def test_options_of_the_server() -> None:
    """``OPTIONS *`` names the methods of all routes, and goes to a route that takes it."""
    assert await answer(App(), "OPTIONS", "*") == (204, "OPTIONS")
    app = App().with_stateless_route("/x", says("x"), methods=("GET", "FOO"))
    assert await answer(app, "OPTIONS", "*") == (204, "FOO, GET, HEAD, OPTIONS")
    app.with_stateless_route("/*", says("slash"))
    assert await answer(app, "OPTIONS", "*") == (204, "DELETE, FOO, GET, HEAD, OPTIONS, PATCH, POST, PUT")
    app.with_stateless_route("*", says("star"))
    assert await answer(app, "OPTIONS", "*") == "star"


async def test_options_keeps_the_connection() -> None:
    """The 204 has no body and no Content-Length, and the connection stays open."""
    app = App().with_stateless_route("/x", says("x"), methods=("GET",))
    async with http_client(app) as client:
        response = await client.request("OPTIONS", "/x")
        assert (response.status, response.content) == (204, b"")
        assert "Content-Length" not in response.headers
        assert "Connection" not in response.headers
        assert (await client.get("/x")).text == "x"


async def test_the_error_handler_gets_what_is_wrong() -> None:
    """It gets an HttpError with the status and the Allow field, which is added to its response."""
    seen: list[tuple[int, str, str]] = []

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        assert request is not None
        assert isinstance(exception, HttpError)
        assert exception.status == status
        seen.append((status, request.method, exception.detail))
        return Response(status, "own page")

    app = App().with_stateless_route("/{x}", says("x"), methods=("GET",)).with_error_handler(on_error)
    async with http_client(app) as client:
        refused = await client.post("/x")
        unknown = await client.request("BREW", "/x")
        malformed = await client.get("/%ff")
    assert (refused.status, refused.text, refused.headers["Allow"]) == (405, "own page", "GET, HEAD, OPTIONS")
    assert (unknown.status, unknown.text, unknown.headers.get("Allow")) == (501, "own page", None)
    assert (malformed.status, malformed.text) == (400, "own page")
    assert [(status, method) for status, method, _ in seen] == [(405, "POST"), (501, "BREW"), (400, "GET")]
    assert "'BREW'" in seen[1][2]


async def test_a_body_is_not_read_where_no_route_takes_it() -> None:
    """A 405 to a request with a body ends the connection, so that the body is never taken for a request."""
    app = App().with_stateless_route("/x", says("x"), methods=("GET",))
    async with http_client(app) as client:
        response = await client.post("/x", content="GET /x HTTP/1.1\r\n\r\n")
    assert (response.status, response.headers["Connection"]) == (405, "close")


# ------------------------------------------------------------------------------------ what is refused

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a str": ("GET", TypeError, r"write methods=\('GET',\)"),
    "none at all": ((), ValueError, "leave methods out"),
    "a star": (("*",), ValueError, "leave methods out"),
    "lower case": (("get",), ValueError, "write 'GET' instead of 'get'"),
    "mixed case": (("GET", "Patch"), ValueError, "write 'PATCH' instead of 'Patch'"),
    "an empty name": (("",), ValueError, "token"),
    "a space": (("GET ",), ValueError, "token"),
    "a newline": (("GET\n",), ValueError, "token"),
    "a list in one name": (("GET,POST",), ValueError, "token"),
    "a letter outside ASCII": (("GÉT",), ValueError, "token"),
    "CONNECT": (("CONNECT",), ValueError, "not a proxy"),
}


@pytest.mark.parametrize(("methods", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(methods: Any, error: type[Exception], message: str) -> None:
    """Methods that no request could have are an error when the route is added."""
    for routes in (App(), SubApp()):
        for add in (routes.with_route, routes.with_stateless_route, routes.with_path_aware_route):
            with pytest.raises(error, match=message):
                add("/", lambda *_: Response(200), methods=methods)


@pytest.mark.parametrize(
    "methods", [("GET",), ["GET"], {"GET"}, frozenset({"GET"}), {"GET": 1}, (Method.GET,), ("purge", "GET", "GET")]
)
async def test_accepted(methods: Collection[str]) -> None:
    """Any collection of tokens will do, members of ``Method`` included."""
    app = App().with_stateless_route("/", says("page"), methods=methods)
    assert await answer(app, "GET", "/") == "page"


async def test_every_kind_of_route_has_methods() -> None:
    """``methods`` means the same for the three methods that add HTTP routes, on App and on SubApp."""
    for routes in (App(), SubApp()):
        routes.with_route("/a", lambda request, state: Response(200, "a"), methods=("GET",))
        routes.with_stateless_route("/b", lambda request: Response(200, "b"), methods=("GET",))
        routes.with_path_aware_route("/c", lambda request, state, pattern: Response(200, "c"), methods=("GET",))
        app = routes if isinstance(routes, App) else App().with_default_subapp(routes)
        for name in ("a", "b", "c"):
            assert await answer(app, "GET", f"/{name}") == name
            assert await answer(app, "POST", f"/{name}") == (405, "GET, HEAD, OPTIONS")
