"""Routes that can never be used: a second one for the same requests is refused, and others are logged."""

from __future__ import annotations

import logging
from collections.abc import Collection

import pytest
import trio

from humphrey_trio import App, Request, Response, SubApp, WebsocketStream, websocket_handler
from tests.support import ANY_PORT

GET, POST, HEAD = ("GET",), ("POST",), ("HEAD",)
Methods = Collection[str] | None


def ok(request: Request) -> Response:
    return Response(200)


async def stream(stream: WebsocketStream, state: None) -> None: ...


async def asgi(scope: object, receive: object, send: object) -> None: ...


@pytest.mark.parametrize(
    ("first", "second"),
    [("/a", "/a"), ("/u/{id}", "/u/{name}"), ("/*", "/*"), ("*", "*"), ("/f/{a*}", "/f/{b*}"), ("/a b", "/a%20b")],
)
@pytest.mark.parametrize(
    ("taken", "methods"), [(None, None), (None, GET), (GET, GET), (GET, HEAD), (GET + POST, POST)]
)
def test_a_second_route_is_refused(first: str, second: str, taken: Methods, methods: Methods) -> None:
    """A route whose pattern and methods another one has taken is a ValueError that names both."""
    for routes in (App(), SubApp[None]()):
        routes.with_stateless_route(first, ok, methods=taken)
        with pytest.raises(ValueError, match="can never be used") as caught:
            routes.with_stateless_route(second, ok, methods=methods)
        assert repr(first) in str(caught.value)
        assert repr(second) in str(caught.value)


def test_two_routes_that_take_all_methods_of_a_third() -> None:
    """It does not matter how many routes take the methods."""
    app = App().with_stateless_route("/", ok, methods=GET).with_stateless_route("/", ok, methods=POST)
    with pytest.raises(ValueError, match="can never be used"):
        app.with_stateless_route("/", ok, methods=GET + POST)


@pytest.mark.parametrize(("taken", "methods"), [(GET, POST), (GET, None), (HEAD, GET), (POST, GET + POST)])
def test_a_route_for_other_methods(taken: Methods, methods: Methods) -> None:
    """A route that takes at least one method that is left may have the same pattern."""
    App().with_stateless_route("/", ok, methods=taken).with_stateless_route("/", ok, methods=methods)


def test_websocket_routes() -> None:
    """A websocket route and an HTTP route may have one pattern, and two websocket routes may not."""
    app = App().with_stateless_route("/", ok).with_websocket_route("/", websocket_handler(stream))
    with pytest.raises(ValueError, match="can never be used"):
        app.with_websocket_route("/", websocket_handler(stream))


def test_the_routes_of_hosts_are_their_own() -> None:
    """A SubApp may have the patterns of its app, be used for two hosts, and be the default as well."""
    routes = SubApp[None]().with_stateless_route("/", ok)
    app = App().with_stateless_route("/", ok).with_host("a.example", routes).with_host("b.example", routes)
    app.with_default_subapp(routes)
    with pytest.raises(ValueError, match="can never be used"):
        app.with_stateless_route("/", ok)


async def warnings_of(app: App[None], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.WARNING, "humphrey_trio.http")
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run, ANY_PORT)
        await nursery.start(app.run, ANY_PORT)
        nursery.cancel_scope.cancel()
    return [record.getMessage() for record in caplog.records]


async def test_a_hidden_route_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A literal pattern behind one that takes all its requests is named once, by the first server that starts."""
    app = App().with_stateless_route("/u/{id}", ok).with_stateless_route("/u/new", ok, methods=GET)
    app.with_host("a.example", SubApp[None]().with_stateless_route("*", ok).with_stateless_route("/", ok))
    assert await warnings_of(app, caplog) == [
        "the route '/u/new' can never be used, because '/u/{id}' takes its requests: add it before that one",
        "the route '/' can never be used, because '*' takes its requests: add it before that one",
    ]


async def test_a_hidden_mount_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An ASGI app behind another one, or behind a route, that takes all its requests is named."""
    app = App().with_asgi("/a", asgi).with_asgi("/a/b", asgi).with_stateless_route("/a/*/c/*", ok)
    app.with_stateless_route("*", ok).with_asgi("/c", asgi)
    assert await warnings_of(app, caplog) == [
        "the route '/a/b/*' can never be used, because '/a/*' takes its requests: add it before that one",
        "the route '/a/*/c/*' can never be used, because '/a/*' takes its requests: add it before that one",
        "the route '/c/*' can never be used, because '*' takes its requests: add it before that one",
    ]


async def test_websockets_of_another_route(caplog: pytest.LogCaptureFixture) -> None:
    """An ASGI app may be mounted where another route takes the WebSockets, and only these."""
    for path, pattern in (("*", "*"), ("/api", "/api/*"), ("/api", "*")):
        app = App().with_websocket_route(pattern, websocket_handler(stream)).with_asgi(path, asgi)
        assert await warnings_of(app, caplog) == []


async def test_routes_that_are_used_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A literal pattern that comes first, or that has a method that is left, is used. So is a mounted app."""
    app = App().with_stateless_route("/u/new", ok).with_stateless_route("/u/{id}", ok, methods=GET)
    app.with_stateless_route("/u/old", ok, methods=GET + POST).with_stateless_route("/api", ok)
    app.with_asgi("/api", asgi).with_stateless_route("*.txt", ok).with_stateless_route("/b/*", ok, methods=GET)
    app.with_asgi("/b/c", asgi).with_asgi("/b", asgi).with_asgi("*", asgi)
    assert await warnings_of(app, caplog) == []
