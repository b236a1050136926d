"""The HTTP app without sockets: which handler is called, its arguments, and its failures."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio._naming import qualified_name
from humphrey_trio.http import (
    Address,
    App,
    Headers,
    Request,
    Response,
    StatusCode,
    SubApp,
    Timeouts,
    default_error_handler,
)
from humphrey_trio.testing import http_client
from tests.support.parsers import each_parser as each_parser  # the fixture

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")


def respond_with(text: str) -> Callable[[Request], Response]:
    """A stateless handler that returns a text."""
    return lambda _: Response(200, text)


async def answer(app: App[Any], path: str, host: str | None = None) -> str:
    """The text of a response to GET, or its status if it is no success."""
    headers = Headers() if host is None else Headers([("Host", host)])
    response = await app.handle(Request(path=path, headers=headers))
    return response.text if response.status == 200 else str(response.status)


# ---------------------------------------------------------------------------------------------- handlers


@dataclass
class Counter:
    """A state that handlers change."""

    count: int = 0


def count(request: Request, state: Counter) -> Response:
    state.count += 1
    return Response(200, f"{request.path} {state.count}")


async def count_later(request: Request, state: Counter) -> Response:
    await trio.lowlevel.checkpoint()
    return count(request, state)


@pytest.mark.parametrize("handler", [count, count_later])
async def test_a_handler_gets_request_and_state(
    handler: Callable[[Request, Counter], Response | Awaitable[Response]],
) -> None:
    """A handler, plain or async, gets the request and the one state of its app."""
    state = Counter()
    app = App(state).with_route("/a", handler)
    assert app.state is state
    assert [await answer(app, "/a"), await answer(app, "/a")] == ["/a 1", "/a 2"]
    assert state.count == 2


async def test_app_without_a_state() -> None:
    """Without a state, handlers get None."""
    app = App().with_route("/", lambda _, state: Response(200, repr(state)))
    assert await answer(app, "/") == "None"


async def echo_path(request: Request) -> Response:
    return Response(200, request.path)


@pytest.mark.parametrize("handler", [lambda request: Response(200, request.path), echo_path])
async def test_a_stateless_handler_gets_the_request(
    handler: Callable[[Request], Response | Awaitable[Response]],
) -> None:
    """A stateless handler, plain or async, gets the request alone."""
    assert await answer(App(1).with_stateless_route("/*", handler), "/a/b") == "/a/b"


def echo_all(request: Request, state: int, pattern: str) -> Response:
    return Response(200, f"{request.path} {state} {pattern}")


async def echo_all_later(request: Request, state: int, pattern: str) -> Response:
    return echo_all(request, state, pattern)


@pytest.mark.parametrize("handler", [echo_all, echo_all_later])
async def test_a_path_aware_handler_gets_its_pattern(
    handler: Callable[[Request, int, str], Response | Awaitable[Response]],
) -> None:
    """A path-aware handler, plain or async, also gets the pattern of its route, as it was registered."""
    app = App(1).with_path_aware_route("/a/*", handler).with_path_aware_route("/B*", handler)
    assert await answer(app, "/a/b") == "/a/b 1 /a/*"
    assert await answer(app, "/B") == "/B 1 /B*"


async def test_any_awaitable_is_a_result() -> None:
    """An awaitable that a plain handler returns is awaited."""
    app = App().with_stateless_route("/", lambda request: echo_path(request))
    assert await answer(app, "/") == "/"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
async def test_a_route_takes_every_method(method: str) -> None:
    """A route without ``methods`` accepts every method."""
    app = App().with_stateless_route("/", lambda request: Response(200, request.method))
    assert (await app.handle(Request(method))).text == method


async def test_a_handler_gets_all_of_a_request() -> None:
    """A handler gets path and query undecoded, headers in order, the body, and the address of the peer."""
    seen: list[Request] = []

    def keep(request: Request) -> Response:
        seen.append(request)
        return Response.empty(204)

    async with http_client(App().with_stateless_route("/*", keep)) as client:
        await client.post("/a%2Fb//../c?d=%20&e?f", content="é", headers=[("X", "1"), ("x", "2")])
    [request] = seen
    assert (request.method, request.path, request.uri) == ("POST", "/a%2Fb//../c", "/a%2Fb//../c")
    assert (request.query, request.version, request.content) == ("d=%20&e?f", "HTTP/1.1", "é".encode())
    assert request.headers.get_all("X") == ("1", "2")
    assert request.address == Address("memory")


# ------------------------------------------------------------------------------------------------ routes


@pytest.mark.parametrize(
    ("patterns", "path", "winner"),
    [
        (["/*", "/a"], "/a", "0"),
        (["/a", "/*"], "/a", "0"),
        (["/a", "/*"], "/b", "1"),
        (["/a*", "/ab*", "/abc"], "/abc", "0"),
        (["/b*", "/abc", "/a*"], "/abc", "1"),
        (["/abc", "/b*", "/a*"], "/abd", "2"),
        (["/*/edit", "/a/*"], "/a/b/edit", "0"),
        (["/*/edit", "/a/*"], "/a/b", "1"),
        (["*"], "/a", "0"),
        (["/blog/*"], "/blog", "404"),
        (["/a"], "/A", "404"),
        (["/a"], "/a/", "404"),
        (["/a b"], "/a%20b", "0"),
        (["/a/b"], "/a%2Fb", "404"),
    ],
)
async def test_the_first_registered_route_wins(patterns: list[str], path: str, winner: str) -> None:
    """Of the routes that match, literal or not, the one that was registered first answers."""
    app = App()
    for number, pattern in enumerate(patterns):
        app.with_stateless_route(pattern, respond_with(str(number)))
    assert await answer(app, path) == winner


async def test_order_counts_across_kinds_of_routes() -> None:
    """Routes of different kinds have one common order."""
    app = (
        App(0)
        .with_path_aware_route("/a*", lambda *_: Response(200, "path-aware"))
        .with_stateless_route("/ab*", respond_with("stateless"))
        .with_route("/*", lambda *_: Response(200, "stateful"))
    )
    assert [await answer(app, path) for path in ("/abc", "/a", "/b")] == ["path-aware", "path-aware", "stateful"]


async def test_query_is_not_matched() -> None:
    """A route is compared with the path without its query."""
    async with http_client(App().with_stateless_route("/a", lambda it: Response(200, it.query))) as client:
        assert [(await client.get(target)).text for target in ("/a", "/a?", "/a?b=/c?d")] == ["", "", "b=/c?d"]


async def anything(*_: Any) -> Response:
    return Response(200)


@pytest.mark.parametrize(
    "register",
    [
        lambda app, *given: app.with_route(*given),
        lambda app, *given: app.with_stateless_route(*given),
        lambda app, *given: app.with_path_aware_route(*given),
        lambda app, *given: app.with_websocket_route(*given),
        lambda _, *given: SubApp().with_route(*given),
    ],
)
def test_a_wrong_route_is_refused(register: Callable[..., object]) -> None:
    """A pattern that no path matches and a handler that cannot be called are refused when they are registered."""
    for pattern in ("", "a", "http://a/"):
        with pytest.raises(ValueError, match="a pattern begins with '/' or '\\*'"):
            register(App(), pattern, anything)
    with pytest.raises(TypeError, match=r"the handler of .*'/a' must be a function, called with .*, not str"):
        register(App(), "/a", "handler")


# ------------------------------------------------------------------------------------------------- hosts


def hosts(pattern: str) -> App:
    """An app that respond_with whether the host pattern matches."""
    subapp = SubApp().with_stateless_route("/", respond_with("host"))
    return App().with_host(pattern, subapp).with_stateless_route("/", respond_with("default"))


@pytest.mark.parametrize(
    ("pattern", "host", "winner"),
    [
        ("example.com", "example.com", "host"),
        ("example.com", "EXAMPLE.com", "host"),
        ("Example.COM", "example.com", "host"),
        ("example.com", "example.com:8080", "host"),
        ("example.com", "example.com:", "host"),
        ("example.com:8080", "example.com:8080", "host"),
        ("example.com:8080", "example.com", "default"),
        ("example.com:8080", "example.com:80", "default"),
        ("localhost:*", "localhost:8080", "host"),
        ("example.com", "example.com.", "host"),
        ("example.com", "Example.COM.:8080", "host"),
        ("example.com.", "example.com", "host"),
        ("example.com.:8080", "example.com.:8080", "host"),
        ("example.com:8080", "example.com.:8080", "host"),
        ("example.com:8080", "example.com.", "default"),
        ("localhost:*", "localhost.:8080", "host"),
        ("*.example.com", "a.example.com.", "host"),
        ("a.*", "a.com.", "host"),
        ("example.com", "example.com..", "default"),
        ("example.com", ".", "default"),
        ("*.example.com", "a.example.com", "host"),
        ("*.example.com", "a.b.example.com:80", "host"),
        ("*.example.com", "example.com", "default"),
        ("[::1]", "[::1]:8080", "host"),
        ("[::1]", "[::1]", "host"),
        ("[::1]:8080", "[::1]:8080", "host"),
        ("[::1]:8080", "[::1]", "default"),
        ("example.com", "example.com.evil", "default"),
        ("example.com", None, "default"),
    ],
)
async def test_hosts_match_without_case_and_port(pattern: str, host: str | None, winner: str) -> None:
    """Hosts are compared without letter case, final dot, and port unless the pattern has one."""
    assert await answer(hosts(pattern), "/", host) == winner


async def test_host_of_a_request() -> None:
    """The host is that of the Host field, or of a URL as the target, which comes first."""
    async with http_client(hosts("example.com")) as client:
        assert (await client.get("/", headers={"Host": "Example.com:80"})).text == "host"
        assert (await client.get("/")).text == "default"
        assert (await client.get("http://example.com/", headers={"Host": "other"})).text == "host"


async def test_the_first_registered_host_wins() -> None:
    """Of the hosts that match, the one that was registered first answers; it alone decides about the path."""
    first = SubApp().with_stateless_route("/a", respond_with("first"))
    second = SubApp().with_stateless_route("/*", respond_with("second"))
    app = App().with_host("a.*", first).with_host("*.com", second)
    assert await answer(app, "/a", "a.com") == "first"
    assert await answer(app, "/b", "b.com") == "second"
    assert await answer(app, "/b", "a.com") == "404"


async def test_unknown_path_of_a_host_uses_the_routes_of_the_app() -> None:
    """A path that no route of a host matches is compared with the routes of the app."""
    app = hosts("example.com").with_stateless_route("/help", respond_with("help"))
    assert await answer(app, "/help", "example.com") == "help"
    assert await answer(app, "/", "example.com") == "host"
    assert await answer(app, "/nowhere", "example.com") == "404"


async def test_default_subapp_replaces_the_routes() -> None:
    """``with_default_subapp`` replaces the routes before it; those after it are added."""
    app = (
        App()
        .with_stateless_route("/old", respond_with("old"))
        .with_default_subapp(SubApp().with_stateless_route("/sub", respond_with("sub")))
        .with_stateless_route("/*", respond_with("new"))
        .with_host("a", SubApp())
    )
    assert [await answer(app, path) for path in ("/old", "/sub")] == ["new", "sub"]
    assert await answer(app, "/sub", "a") == "sub"


async def test_a_subapp_gets_the_state() -> None:
    """The handlers of a SubApp get the state of the app."""
    subapp: SubApp[Counter] = SubApp[Counter]().with_route("/", count)
    app = App(Counter(5)).with_host("a", subapp)
    assert await answer(app, "/", "a") == "/ 6"


@pytest.mark.parametrize("pattern", ["*", "*."])
def test_host_pattern_for_all_hosts_is_refused(pattern: str) -> None:
    """A host pattern that matches all hosts is refused, and the error says what to use."""
    with pytest.raises(ValueError, match="use with_default_subapp, or routes of the app itself"):
        App().with_host(pattern, SubApp())


# ------------------------------------------------------------------------------------------------ errors


async def test_unknown_path_is_a_404() -> None:
    """A request that no route matches gets a 404 with a line of text, and the connection is kept alive."""
    async with http_client(App().with_stateless_route("/", respond_with("here"))) as client:
        response = await client.get("/<script>")
        assert response.status == StatusCode.NOT_FOUND
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.text == "404 Not Found\n"
        assert (await client.get("/")).text == "here"


Failure = tuple[int, str | None, str | None]


@pytest.fixture
def seen() -> list[Failure]:
    """What an error handler was called with: the status, the request's path, the exception's text."""
    return []


def reporting_app(seen: list[Failure], *, later: bool) -> App:
    """An app whose error handler, plain or async, keeps what it gets and answers a teapot."""

    def report(status: int, request: Request | None, exception: Exception | None) -> Response:
        path = None if request is None else request.path
        seen.append((status, path, None if exception is None else str(exception)))
        return Response(418, f"sorry: {status}")

    async def report_later(status: int, request: Request | None, exception: Exception | None) -> Response:
        await trio.lowlevel.checkpoint()
        return report(status, request, exception)

    app = App().with_error_handler(report_later if later else report)
    return app.with_stateless_route("/fail", fail).with_stateless_route("/", respond_with("fine"))


def fail(_: Request) -> Response:
    raise RuntimeError("a secret")


@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
async def test_error_handler(seen: list[Failure], later: bool) -> None:
    """An error handler, plain or async, gets status, request and exception, and its response is sent."""
    async with http_client(reporting_app(seen, later=later)) as client:
        replies = [await client.get(path) for path in ("/nowhere", "/fail", "/")]
    assert [(reply.status, reply.text) for reply in replies] == [
        (418, "sorry: 404"),
        (418, "sorry: 500"),
        (200, "fine"),
    ]
    assert seen == [(404, "/nowhere", None), (500, "/fail", "a secret")]


async def test_error_handler_of_malformed_requests(seen: list[Failure]) -> None:
    """For a malformed request, the error handler gets None and the reason."""
    async with http_client(reporting_app(seen, later=False)) as client:
        reply = await client.request("GET", "/#x")
    assert (reply.status, reply.text) == (418, "sorry: 400")
    assert seen == [(400, None, "the request target must not have a fragment")]


async def test_the_default_page_says_what_was_wrong_with_a_request() -> None:
    """The page for a request that could not be read has the reason."""
    async with http_client(App()) as client:
        response = await client.get("/", headers={"Transfer-Encoding": "chunked", "Content-Length": "1"})
        assert response.status == 400
        assert response.text == "400 Bad Request: Content-Length and Transfer-Encoding must not be combined\n"


def test_the_default_page_keeps_secrets() -> None:
    """The default page of a 500 does not tell what the handler raised; a status without a name needs none."""
    page = default_error_handler(500, Request(), RuntimeError("a secret")).text
    assert page == "500 Internal Server Error\n"
    assert default_error_handler(799, None, None).text == "799\n"


async def fail_later(_: Request) -> Response:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("a secret")


async def fail_in_a_nursery(_: Request) -> Response:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_later, Request())
    return Response.empty(204)


async def return_nothing_later(_: Request) -> None:
    await trio.lowlevel.checkpoint()


NO_RESPONSE = [lambda _: None, lambda _: "text", lambda _: (200, "text"), lambda _: 200, return_nothing_later]


@pytest.mark.parametrize("handler", [fail, fail_later, fail_in_a_nursery, *NO_RESPONSE])
async def test_a_failing_handler_is_a_500(
    handler: Callable[[Request], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that raises or returns no Response is a 500, and the log has the traceback."""
    app = App().with_stateless_route("/fail", handler).with_stateless_route("/", respond_with("fine"))
    async with http_client(app) as client:
        assert (await client.get("/fail")).status == 500
        assert (await client.get("/")).text == "fine"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("humphrey_trio.http", logging.ERROR)
    assert record.getMessage() == f"the handler {qualified_name(handler)} failed for GET /fail"
    assert record.exc_info is not None


@pytest.mark.parametrize("handler", NO_RESPONSE)
async def test_wrong_result_of_a_handler_is_logged(
    handler: Callable[[Request], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The log names what a handler returned instead of a Response."""
    await App().with_stateless_route("/", handler).handle(Request())
    assert "a handler must return a Response, not " in caplog.text


def fail_again(*_: object) -> Response:
    raise LookupError("the error handler's own")


async def fail_again_later(*_: object) -> Response:
    return fail_again()


@pytest.mark.parametrize("error_handler", [fail_again, fail_again_later, lambda *_: None, lambda *_: "page"])
@pytest.mark.parametrize(("target", "status"), [("/nowhere", 404), ("/fail", 500), ("/#", 400)])
async def test_failing_error_handler(
    error_handler: Any, target: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If the error handler fails, that is logged, and the default page has the original status."""
    app = App().with_error_handler(error_handler).with_stateless_route("/fail", fail)
    async with http_client(app) as client:
        response = await client.get(target)
        assert (response.status, response.text.startswith(f"{status} ")) == (status, True)
        assert (await client.get("/nowhere")).status == 404
    name = "an invalid request" if status == 400 else f"GET {target}"
    assert f"the error handler {qualified_name(error_handler)} failed for {name}" in caplog.messages


async def test_cancelled_handler_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled handler is neither answered nor logged."""

    async def wait(_: Request) -> Response:
        await trio.sleep_forever()

    app = App().with_stateless_route("/", wait)
    with trio.move_on_after(0) as scope:
        await app.handle(Request())
    assert scope.cancelled_caught
    assert caplog.records == []


async def test_base_exceptions_propagate() -> None:
    """A BaseException of a handler does not reach the error handler, and propagates."""

    def interrupt(_: Request) -> Response:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await App().with_stateless_route("/", interrupt).handle(Request())


# -------------------------------------------------------------------------------------- the test client


async def test_client_of_a_closed_connection(autojump_clock: trio.testing.MockClock) -> None:
    """A request on a closed connection is a ConnectionError; the next one opens a connection."""
    async with http_client(App(timeouts=Timeouts(idle=1))) as client:
        assert (await client.get("/")).status == 404
        await trio.sleep(2)
        with pytest.raises(ConnectionError, match="the server has closed the connection"):
            await client.get("/")
        assert (await client.get("/")).status == 404


async def test_request_after_a_cancelled_request(autojump_clock: trio.testing.MockClock) -> None:
    """After a cancelled request, the next one opens a connection and gets its own response."""

    async def wait(request: Request) -> Response:
        await trio.sleep(10)
        return Response(200, request.path)

    async with http_client(App().with_stateless_route("/*", wait)) as client:
        with trio.move_on_after(1):
            await client.get("/slow")
        assert (await client.get("/next")).text == "/next"


# ------------------------------------------------------------------------------------------- constructor


@pytest.mark.parametrize("number", [0, -1])
def test_max_connections_is_at_least_one(number: int) -> None:
    """``max_connections`` below one is refused, and the error says what to use."""
    with pytest.raises(ValueError, match="max_connections must be at least 1, or None for no limit"):
        App(max_connections=number)


def test_invalid_server_name() -> None:
    """A server name that is no valid field value is refused."""
    with pytest.raises(ValueError, match="of header Server contains a control character"):
        App(server_name="a\r\nb")


@pytest.mark.parametrize(("name", "values"), [("me/1.0", ("me/1.0",)), ("", ())])
async def test_server_name(name: str, values: tuple[str, ...]) -> None:
    """Responses have the name of the server, unless it is empty."""
    async with http_client(App(server_name=name)) as client:
        assert (await client.get("/")).headers.get_all("Server") == values
