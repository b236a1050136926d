"""Layers of an App and of its SubApps: which requests pass them, and what they see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from humphrey_trio import App, Request, Response, SubApp
from humphrey_trio.handlers import serve_dir
from humphrey_trio.http import EventSender, Headers, HttpError, Write
from humphrey_trio.layers import CallNext, Cors, Layer
from humphrey_trio.testing import http_client
from tests.support.asgi import BODY, START, Script, mounted
from tests.support.logs import errors


def seen_by(name: str) -> Layer[None]:
    """A layer that adds its name to the response."""

    async def layer(request: Request, state: None, call_next: CallNext) -> Response:
        return (await call_next(request)).with_header("Seen-By", name)

    return layer


def hello(request: Request) -> Response:
    return Response(200, "hello")


async def failing(request: Request) -> Response:
    raise ValueError("oops")


async def gone(request: Request) -> Response:
    raise HttpError(410, "gone", headers={"X-Since": "today"})


def request_to(path: str, method: str = "GET", host: str = "example.com") -> Request:
    return Request(method=method, path=path, headers=Headers({"Host": host}))


def app_with_routes() -> App[None]:
    return (
        App()
        .with_stateless_route("/hello", hello, methods=("GET",))
        .with_stateless_route("/failing", failing)
        .with_stateless_route("/gone", gone)
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/hello", 200),
        ("HEAD", "/hello", 200),
        ("OPTIONS", "/hello", 204),
        ("POST", "/hello", 405),
        ("GET", "/none", 404),
        ("BREW", "/hello", 501),
        ("GET", "/gone", 410),
    ],
)
async def test_every_answer_passes_the_layers(method: str, path: str, status: int) -> None:
    """A layer sees the response of a handler, and of requests that no handler gets."""
    app = app_with_routes().with_layer(seen_by("layer"))
    if status == 501:
        app = App().with_stateless_route("/hello", hello, methods=("GET",)).with_layer(seen_by("layer"))
    response = await app.handle(request_to(path, method))
    assert (response.status, response.headers["Seen-By"]) == (status, "layer")


async def test_a_failed_handler_is_a_500_for_the_layers(caplog: pytest.LogCaptureFixture) -> None:
    """The exception of a handler is logged once, and the layers see a 500."""
    response = await app_with_routes().with_layer(seen_by("layer")).handle(request_to("/failing"))
    assert (response.status, response.headers["Seen-By"]) == (500, "layer")
    assert len(errors(caplog)) == 1


async def test_an_http_error_of_a_layer_is_answered_by_the_error_handler() -> None:
    """A layer may raise HttpError. The layers around it see the response of the error handler."""

    async def closed(request: Request, state: None, call_next: CallNext) -> Response:
        raise HttpError(403, "closed")

    def error_page(status: int, request: Request | None, exception: Exception | None) -> Response:
        return Response(status, f"sorry: {exception}")

    app = app_with_routes().with_error_handler(error_page).with_layer(seen_by("outer")).with_layer(closed)
    response = await app.handle(request_to("/hello"))
    assert (response.status, response.text, response.headers["Seen-By"]) == (403, "sorry: closed", "outer")


async def test_paths_select_layers() -> None:
    """A layer with a path is called for the paths that match it."""
    app = app_with_routes().with_layer(seen_by("all")).with_layer(seen_by("none"), path="/none*")
    assert (await app.handle(request_to("/hello"))).headers.get_all("Seen-By") == ("all",)
    assert (await app.handle(request_to("/nonesuch"))).headers.get_all("Seen-By") == ("none", "all")


async def refusing(request: Request, state: None, call_next: CallNext) -> Response:
    return Response(401, "refused")


@pytest.mark.parametrize("path", ["/private/key", "/%70rivate/key", "/private%2Fkey", "//private/key"])
async def test_a_layer_protects_files_and_asgi_apps_that_decode_the_path(path: str, tmp_path: Path) -> None:
    """A check on a folder of served files, or on paths of an ASGI app, is not avoided by percent-encoding."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "key").write_text("secret")
    files = App().with_layer(refusing, path="/files/private/*")
    files.with_path_aware_route("/files/*", serve_dir(tmp_path))
    apps = mounted(Script(START, BODY)).with_layer(refusing, path="/private/*")
    for app, target in ((files, f"/files{path}"), (apps, path)):
        async with http_client(app) as client:
            assert (await client.get(target)).status == 401


async def test_layers_of_a_subapp_are_inside_those_of_the_app() -> None:
    """A SubApp has layers for its hosts, also for the routes of the app and for errors."""
    api = SubApp[None]().with_stateless_route("/api", hello).with_layer(seen_by("api"))
    app = app_with_routes().with_host("api.example.com", api).with_layer(seen_by("app"))
    for path in ("/api", "/hello", "/none"):
        response = await app.handle(request_to(path, host="API.example.com:8080"))
        assert response.headers.get_all("Seen-By") == ("api", "app")
        response = await app.handle(request_to(path))
        assert response.headers.get_all("Seen-By") == ("app",)


async def test_with_cors_and_its_configuration_for_paths() -> None:
    """with_cors allows origins for every path; a configuration outside of it decides for its paths."""
    app = (
        app_with_routes()
        .with_cors_config("/hello", Cors(origins="https://a.example"))
        .with_cors(Cors(origins="https://b.example"))
    )

    async def allowed(path: str, origin: str) -> str | None:
        request = Request(path=path, headers=Headers({"Host": "x", "Origin": origin}))
        return (await app.handle(request)).headers.get("Access-Control-Allow-Origin")

    assert await allowed("/hello", "https://a.example") == "https://a.example"
    assert await allowed("/hello", "https://b.example") is None
    assert await allowed("/gone", "https://b.example") == "https://b.example"


async def test_requests_of_a_connection_pass_the_layers() -> None:
    """Requests that a client sends pass the layers."""
    app = app_with_routes().with_layer(seen_by("layer"))
    async with http_client(app) as client:
        assert (await client.get("/hello")).headers["Seen-By"] == "layer"
        assert (await client.get("/none")).headers["Seen-By"] == "layer"


async def failing_producer(write: Write) -> None:
    raise ValueError("oops")


async def teapot(write: Write) -> None:
    raise HttpError(418, "no coffee")


async def failing_pieces() -> AsyncIterator[bytes]:
    raise ValueError("oops")
    yield b""


async def failing_events(events: EventSender) -> None:
    raise ValueError("oops")


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (lambda: Response.stream(failing_producer), 500),
        (lambda: Response.stream(teapot), 418),
        (lambda: Response.stream(failing_pieces()), 500),
        (lambda: Response.events(failing_events), 500),
    ],
    ids=["producer", "HttpError", "iterable", "events"],
)
async def test_errors_of_streams_are_readable_for_pages(response: Callable[[], Response], status: int) -> None:
    """The error response in place of a stream that failed before its head has the fields of CORS."""
    app = App().with_stateless_route("/", lambda _: response()).with_cors(Cors(origins="https://a.example"))
    async with http_client(app) as client:
        reply = await client.get("/", headers={"Origin": "https://a.example"})
    assert reply.status == status
    assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "Origin" in reply.headers.get_all("Vary")


@pytest.mark.parametrize("routes", [App(), SubApp[None]()], ids=["app", "subapp"])
@pytest.mark.parametrize("path", ["api/*", ""])
def test_a_path_that_matches_nothing_is_refused(routes: App[None] | SubApp[None], path: str) -> None:
    """A pattern that no path can match is an error when the layer is added."""
    with pytest.raises(ValueError, match="a pattern begins with"):
        routes.with_layer(seen_by("x"), path=path)
