"""The paths of layers: a layer may be a guard, so no spelling of a path leads around it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humphrey_trio import App, HandshakeError, Request, Response, SubApp, WebsocketStream, websocket_handler
from humphrey_trio.handlers import serve_dir
from humphrey_trio.layers import CallNext, Cors
from humphrey_trio.testing import http_client


async def deny(request: Request, state: None, call_next: CallNext) -> Response:
    return Response(401, "denied")


async def mark(request: Request, state: None, call_next: CallNext) -> Response:
    return (await call_next(request)).with_header("Seen-By", "guard")


def values(request: Request) -> Response:
    return Response.json(dict(request.path_params))


async def is_denied(pattern: str, path: str) -> bool:
    app = App().with_layer(deny, path=pattern).with_stateless_route("*", lambda _: Response(200))
    return (await app.handle(Request(path=path))).status == 401


# ---------------------------------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "path", "denied"),
    [
        ("/rooms/{room}", "/rooms/a", True),
        ("/rooms/{room}", "/rooms/", False),
        ("/rooms/{room}", "/rooms/a/b", False),
        ("/rooms/{room}", "/rooms/a/b%20c", False),
        ("/rooms/{room}/keys", "/rooms/a/keys", True),
        ("/rooms/{rest*}", "/rooms/a/b", True),
        ("/rooms/{rest*}", "/rooms/", True),
        ("/rooms/{rest*}", "/rooms", False),
        ("/caf\u00e9/*", "/caf%C3%A9/menu", True),
        ("/a b", "/a%20b", True),
        ("/%41/*", "/%41/x", True),
        ("/%7Bx%7D", "/%7Bx%7D", True),
        ("/%7Bx%7D", "/a", False),
        ("/%2A", "/%2A", True),
        ("/%2A", "/a", False),
    ],
)
async def test_a_layer_takes_the_patterns_of_routes(pattern: str, path: str, denied: bool) -> None:
    """The path of a layer has the same form as that of a route, and matches the same paths."""
    assert await is_denied(pattern, path) == denied


@pytest.mark.parametrize("routes", [App(), SubApp[None]()], ids=["app", "subapp"])
@pytest.mark.parametrize("path", ["/rooms/{room", "/rooms/x{room}", "/{a}/{a}", "/{a}/*", "/a?b", "api/*", ""])
def test_a_malformed_path_is_refused(routes: App[None] | SubApp[None], path: str) -> None:
    """A path that is no pattern of a route is an error when the layer is added, also for CORS."""
    with pytest.raises(ValueError, match=r"pattern|braces|segment|repeated|contains|has both"):
        routes.with_layer(deny, path=path)
    with pytest.raises(ValueError, match=r"pattern|braces|segment|repeated|contains|has both"):
        routes.with_cors_config(path, Cors())


async def test_cors_for_a_path_with_a_parameter() -> None:
    """with_cors_config takes the patterns of routes, too."""
    app = App().with_cors_config("/rooms/{room}", Cors(origins="*")).with_stateless_route("/rooms/{room}", values)
    response = await app.handle(Request(path="/rooms/%61", headers={"Origin": "https://a.example"}))
    assert response.headers["Access-Control-Allow-Origin"] == "*"


# ---------------------------------------------------------------------------------------------- spellings


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/static/private/*", "/static/%70rivate/x.txt"),
        ("/static/private/*", "/static/private%2Fx.txt"),
        ("/static/private/*", "/static%2fprivate/%zz"),
        ("/static/private/*", "/static/%70rivate/%FF"),
        ("/static/private/*", "/static//private/x"),
        ("/static/private/*", "/static/./private/x"),
        ("/static/private/*", "/static/%2E/private/x"),
        ("/static/private/*", "//static/private/x"),
        ("/static/private/*", "/static/../private/x"),
        ("/static/private/*", "/static/a/%2e%2E/private/x"),
        ("/static/private/*", "/static/..%2Fprivate/x"),
        ("/static/private", "/static/%70rivate"),
        ("/caf\u00e9/*", "/caf%c3%a9/x"),
        ("/%61dmin/*", "/admin/x"),
        ('/a"b', '/a"b'),
        ("/{user}/secret", "/x%2Fy/secre%74"),
        ("/{user}/secret/{rest*}", "/x%2Fy/secret%2Fz"),
        ("/{user}/secret/{rest*}", "/x%2Fy/.%2Fsecret%2Fz"),
        ("/a%2Fb/{name}", "/%61%2fb/c%2Fd"),
        ("/{user}/se%2Fcret", "/x/se%2fcret"),
    ],
)
async def test_other_spellings_of_a_path(pattern: str, path: str) -> None:
    """A layer is called if the path that was sent, or what a handler may read in it, matches."""
    assert await is_denied(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/static/private/*", "/static/%2570rivate/x"),  # decoded once
        ("/static/private/*", "/static/Private/x"),
        ("/static/private/*", "/static/%70ublic/x"),
        ("/static/private/*", "/static/.private/x"),
        ("/static/private/*", "/static/private"),
        ("/users/{id}", "/users/1/a%2Fb"),
        ("/users/{id}/x", "/users%20/1/x"),
        ("/%7Ba%7D", "/%7Bb%7D"),
        ("/a%2Ab", "/axb%20"),
    ],
)
async def test_other_paths(pattern: str, path: str) -> None:
    """A layer is not called for a path that no reading makes one of its own."""
    assert not await is_denied(pattern, path)


async def test_a_subapp_and_a_websocket_behind_a_guard() -> None:
    """Layers of a SubApp, and those in front of a websocket route, are not passed by another spelling either."""

    async def greet(stream: WebsocketStream, state: None) -> None:
        await stream.send("secret")

    host: SubApp[None] = SubApp().with_layer(deny, path="/ws/{room}")
    host.with_websocket_route("/ws/{room*}", websocket_handler(greet))
    app = App().with_host("testserver", host)
    async with http_client(app) as client:
        for path in ("/ws/a", "/ws/%61", "/ws//a", "/ws%2Fa"):
            with pytest.raises(HandshakeError) as caught:
                async with client.websocket(path):
                    pass
            assert caught.value.status in (401, 404), path
            assert path == "/ws%2Fa" or caught.value.status == 401, path


# -------------------------------------------------------------------------------------------- properties

_PIECES = ["/", "//", "%2F", "%2f", "secret", "%73ecret", "secre%74", "a", "%20", ".", "%2e", "..", "%2E.", "%zz"]
_TAILS = st.lists(st.sampled_from(_PIECES), max_size=8).map("".join)


async def seen(app: App[Any], path: str) -> tuple[bool, Response]:
    response = await app.handle(Request(path=path))
    return "Seen-By" in response.headers, response


def is_below_secret(value: str) -> bool:
    """Whether a handler could read the value as a path below ``secret``, as it is or without dot segments."""
    return any(
        path.startswith("/secret/") for path in ("/" + value, "/" + posixpath.normpath(f"/{value}").lstrip("/"))
    )


@settings(deadline=None, max_examples=300)
@given(_TAILS)
async def test_no_value_leads_around_a_guard(tail: str) -> None:
    """If the value of ``{path*}`` names something below a guarded path, the layer was called."""
    app = App().with_stateless_route("/f/{path*}", values).with_layer(mark, path="/f/secret/*")
    was_called, response = await seen(app, f"/f/{tail}")
    if response.status == 200:
        assert was_called or not is_below_secret(json.loads(response.content)["path"])


@settings(deadline=None, max_examples=300)
@given(_TAILS, _TAILS)
async def test_no_value_behind_a_parameter_leads_around_a_guard(user: str, tail: str) -> None:
    """The same, if the guarded path has a parameter whose value may contain encoded slashes."""
    app = App().with_stateless_route("/{user}/{path*}", values).with_layer(mark, path="/{user}/secret/{rest*}")
    was_called, response = await seen(app, f"/{user.replace('/', '%2F')}/{tail}")
    if response.status == 200:
        assert was_called or not is_below_secret(json.loads(response.content)["path"])


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["/static/*", "/static*", "/{mount}/{path*}", "*"]), _TAILS)
async def test_no_path_of_a_file_leads_around_a_guard(tmp_path: Path, pattern: str, tail: str) -> None:
    """A file below a guarded path is never sent without the layer, however its path is spelled."""
    folder = tmp_path / "static" / "secret" if pattern in ("*", "/{mount}/{path*}") else tmp_path / "secret"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a").write_bytes(b"secret")
    app = App().with_path_aware_route(pattern, serve_dir(tmp_path)).with_layer(deny, path="/static/secret/*")
    for path in (f"/static{tail}", f"/static/{tail}", f"/static/secret{tail}a"):
        response = await app.handle(Request(path=path))
        assert response.status != 200, path


@pytest.mark.parametrize("patterns", [["*"], ["/a/*", "/{x}/b"]])
async def test_the_order_of_layers_is_kept(patterns: Sequence[str]) -> None:
    """Layers that match another spelling are called in the order in which they were added."""
    called: list[str] = []
    app = App().with_stateless_route("*", lambda _: Response(200))
    for pattern in patterns:

        async def note(request: Request, state: None, call_next: CallNext, name: str = pattern) -> Response:
            called.append(name)
            return await call_next(request)

        app.with_layer(note, path=pattern)
    await app.handle(Request(path="/%61//b"))
    assert called == patterns
