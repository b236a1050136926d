"""The scopes of ASGI apps: what they contain, for each place where an app is mounted."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from humphrey_trio import App
from humphrey_trio._asgi._tls_extension import distinguished_name
from humphrey_trio.http import Address, TrustedProxies
from humphrey_trio.testing import HttpClient, http_client, memory_connection, websocket_client
from humphrey_trio.websocket import HandshakeError
from tests.support import ANY_PORT
from tests.support.asgi import BODY, START, Message, Receive, Script, Send, mounted
from tests.support.links import Link


async def scope_of(path: str, target: str, **options: Any) -> Message:
    """The scope of a GET request to an app that is mounted below a path."""
    script = Script(START, BODY)
    async with http_client(mounted(script, path)) as client:
        assert (await client.get(target, **options)).status == 200
    (scope,) = script.scopes
    return scope


@pytest.mark.parametrize(
    ("host", "server"),
    [("a.example", ("a.example", 80)), ("A:8080", ("a", 8080)), ("[::1]:81", ("::1", 81)), ("[::1]", ("::1", 80))],
)
async def test_the_server(host: str, server: tuple[str, int]) -> None:
    """The server is what the client asked for, with the port of the scheme if it named none."""
    assert (await scope_of("/", "/", headers={"Host": host}))["server"] == server


async def test_the_scope_of_a_request() -> None:
    """The scope has all keys of the specification, with values of its types."""
    scope = await scope_of("/api", "/api/caf%C3%A9?q=%20+", headers=[("X-A", "1"), ("x-a", "é"), ("X-B", "")])
    headers = scope.pop("headers")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/api/café",
        "raw_path": b"/api/caf%C3%A9",
        "query_string": b"q=%20+",
        "root_path": "/api",
        "client": ("memory", 0),
        "server": ("testserver", 80),
        "state": {},
        "extensions": {"http.response.pathsend": {}},
    }
    assert [pair for pair in headers if pair[0].startswith(b"x-")] == [
        (b"x-a", b"1"),
        (b"x-a", b"\xe9"),
        (b"x-b", b""),
    ]
    assert (b"host", b"testserver") in headers


@pytest.mark.parametrize(
    ("mount", "target", "root_path", "path", "raw_path"),
    [
        ("*", "/", "", "/", b"/"),
        ("/", "/a/b", "", "/a/b", b"/a/b"),
        ("*", "/a%2Fb", "", "/a/b", b"/a%2Fb"),
        ("/api", "/api", "/api", "/api", b"/api"),
        ("/api", "/api/", "/api", "/api/", b"/api/"),
        ("/api/", "/api/x", "/api", "/api/x", b"/api/x"),
        ("/api/v1", "/api/v1/x", "/api/v1", "/api/v1/x", b"/api/v1/x"),
        ("/caf é", "/caf%20%C3%A9/x", "/caf é", "/caf é/x", b"/caf%20%C3%A9/x"),
        ("/a%20b", "/a%20b/x", "/a b", "/a b/x", b"/a%20b/x"),
        ("*", "/%FF", "", "/\ufffd", b"/%FF"),
        ("*", "/?a=b?c", "", "/", b"/"),
    ],
)
async def test_paths(mount: str, target: str, root_path: str, path: str, raw_path: bytes) -> None:
    """The path is decoded and begins with the root path. The raw path is what was sent."""
    scope = await scope_of(mount, target)
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (root_path, path, raw_path)


@pytest.mark.parametrize("target", ["/apix", "/ap", "/API", "/", "/x/api"])
async def test_other_paths(target: str) -> None:
    """An app gets no request for a path that is not below its own."""
    script = Script(START, BODY)
    async with http_client(mounted(script, "/api")) as client:
        assert (await client.get(target)).status == 404
    assert not script.scopes


@pytest.mark.parametrize("path", ["api", "", "/a*", "/*", "/{x}", "/a?b", "//", "/a//"])
def test_places_where_no_app_is_mounted(path: str) -> None:
    """A pattern is refused when the app is added."""
    with pytest.raises(ValueError, match="mounted below a path such as '/api'"):
        App().with_asgi(path, Script())


@pytest.mark.parametrize("path", [None, b"/api", 5])
def test_places_that_are_no_text(path: Any) -> None:
    """A path that is not a str is refused when the app is added."""
    with pytest.raises(TypeError, match="mounted below a path such as '/api', not"):
        App().with_asgi(path, Script())


@pytest.mark.parametrize("app", [None, 5, len, trio.sleep])
def test_what_is_no_asgi_app(app: Any) -> None:
    """Something that cannot be called as an ASGI 3 app is refused when it is added."""
    with pytest.raises(TypeError, match="an ASGI app"):
        App().with_asgi("*", app)


def test_a_negative_limit() -> None:
    """A limit of the body that is negative is refused."""
    with pytest.raises(ValueError, match=r"max_body=\.\.\. must be at least 0"):
        App().with_asgi("*", Script(), max_body=-1)


async def test_fields_that_a_layer_has_read() -> None:
    """The header fields are the same if a layer has read them before."""
    script = Script(START, BODY)

    async def layer(request: Any, state: None, call_next: Callable[[Any], Any]) -> Any:
        assert request.headers["X-A"] == "é"
        return await call_next(request)

    async with http_client(mounted(script).with_layer(layer)) as client:
        await client.get("/", headers={"X-A": "é"})
    assert (b"x-a", b"\xe9") in script.scopes[0]["headers"]


async def test_trusted_proxies() -> None:
    """The client and the scheme are those that a trusted proxy tells."""
    script = Script(START, BODY)
    app = mounted(script, proxies=TrustedProxies("10.0.0.1"))
    ours, theirs = memory_connection()

    async def connect() -> trio.abc.Stream:
        return ours

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(app.serve_stream, theirs, peer=Address("10.0.0.1", 5000)))
        async with HttpClient(connect) as client:
            await client.get("/", headers={"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"})
    scope = script.scopes[0]
    assert (scope["scheme"], scope["client"][0]) == ("https", "192.0.2.7")


async def test_scopes_are_not_shared() -> None:
    """An app may change its scope: no other call sees it."""
    scopes: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scopes.append({name: dict(scope[name]) for name in ("asgi", "state", "extensions")})
        for name in ("asgi", "state", "extensions"):
            scope[name].clear()
            scope[name]["changed"] = True
        scope["headers"].clear()
        await send(START)
        await send(BODY)

    async with http_client(mounted(app)) as client:
        await client.get("/")
        await client.get("/")
    assert scopes[0] == scopes[1]


async def test_the_scope_of_a_websocket() -> None:
    """The scope of a WebSocket has no method, and the subprotocols that the client offers."""
    script = Script({"type": "websocket.close"})
    offers = [("Sec-WebSocket-Protocol", "chat, superchat"), ("Sec-WebSocket-Protocol", "json,")]
    with pytest.raises(HandshakeError):
        async with websocket_client(mounted(script, "/ws"), "/ws/room%201?a=b", headers=offers):
            pass
    (scope,) = script.scopes
    assert (b"upgrade", b"websocket") in scope.pop("headers")
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws/room 1",
        "raw_path": b"/ws/room%201",
        "query_string": b"a=b",
        "root_path": "/ws",
        "client": ("memory", 0),
        "server": ("testserver", 80),
        "subprotocols": ["chat", "superchat", "json"],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }


async def test_tls() -> None:
    """Over TLS, the scheme is https, and the extension ``tls`` has the version."""
    script = Script(START, BODY)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(Link.TLS.run(mounted(script)), ANY_PORT)
        async with await Link.TLS.connect(address) as stream:

            async def connect() -> trio.abc.Stream:
                return stream

            async with HttpClient(connect) as client:
                assert (await client.get("/")).status == 200
        nursery.cancel_scope.cancel()
    scope = script.scopes[0]
    assert scope["scheme"] == "https"
    assert scope["extensions"]["tls"] == {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304 if ssl.HAS_TLSv1_3 else 0x0303,
        "cipher_suite": None,
    }


async def test_a_unix_socket(tmp_path: Any) -> None:
    """A client on a Unix socket has no address."""
    script = Script(START, BODY)
    path = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        await nursery.start(mounted(script).run, f"unix:{path}")

        async def connect() -> trio.abc.Stream:
            return await trio.open_unix_socket(path)

        async with HttpClient(connect) as client:
            await client.get("/")
        nursery.cancel_scope.cancel()
    assert script.scopes[0]["client"] is None


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ((), ""),
        (((("countryName", "DE"),), (("commonName", "a.example"),)), "CN=a.example,C=DE"),
        (((("commonName", "a, b+c"), ("userId", "7")),), "CN=a\\, b\\+c+UID=7"),
        (((("commonName", " a "),),), "CN=\\ a\\ "),
        (((("commonName", "#a"), ("x", '"<>;\\\0')),), 'CN=\\#a+x=\\"\\<\\>\\;\\\\\\00'),
        (((("commonName", " "),),), "CN=\\ "),
    ],
)
def test_distinguished_names(subject: Any, name: str) -> None:
    """The subject of a certificate is written as in RFC 4514."""
    assert distinguished_name({"subject": subject}) == name
