"""The clients of ``humphrey_trio.testing``: the address of the client, and WebSockets with its cookies."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from humphrey_trio import (
    Accept,
    App,
    HandshakeError,
    Request,
    Response,
    SetCookie,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio.http import Address, TrustedProxies
from humphrey_trio.testing import HttpClient, ResponseError, http_client, websocket_client
from tests.support import ANY_PORT

PEER = Address("10.0.0.1", 5000)
FORWARDED = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}


def told(request: Request) -> str:
    return f"{request.address} {request.client} {request.scheme}"


async def tell(stream: WebsocketStream, state: None) -> None:
    await stream.send(told(stream.request))


def telling(**settings: Any) -> App:
    return (
        App(**settings)
        .with_stateless_route("/", lambda request: Response(200, told(request)))
        .with_websocket_route("/ws", websocket_handler(tell))
    )


async def test_peer() -> None:
    """The peer of a client is the address of its requests, and may be a trusted proxy."""
    for app, expected in (
        (telling(), "10.0.0.1:5000 10.0.0.1:5000 http"),
        (telling(proxies=TrustedProxies("10.0.0.0/8")), "10.0.0.1:5000 192.0.2.7:0 https"),
    ):
        async with http_client(app, peer=PEER, headers=FORWARDED) as client:
            assert (await client.get("/")).text == expected
            async with client.websocket("/ws") as socket:
                assert (await socket.receive()).text == expected
        async with websocket_client(app, "/ws", peer=PEER, headers=FORWARDED) as socket:
            assert (await socket.receive()).text == expected


async def test_redirects_behind_a_proxy_with_tls() -> None:
    """With ``scheme="https"``, a client follows redirects to HTTPS, and no others."""
    app = telling(proxies=TrustedProxies("10.0.0.0/8"))
    for scheme in ("https", "http"):
        location = f"{scheme}://example.com/"
        app.with_stateless_route(f"/{scheme}", lambda _, to=location: Response.redirect(to))
    settings: dict[str, Any] = {"host": "example.com", "scheme": "https", "peer": PEER, "headers": FORWARDED}
    async with http_client(app, **settings) as client:
        assert (await client.get("/https", follow_redirects=True)).text.endswith(" https")
        with pytest.raises(ResponseError, match=r"this client is one of 'https://example\.com'"):
            await client.get("/http", follow_redirects=True)


async def test_connection_condition() -> None:
    """A connection condition is called with the peer of a client."""
    app = telling().with_connection_condition(lambda peer, state: peer == PEER)
    async with http_client(app, peer=PEER) as client:
        assert (await client.get("/")).status == 200
    async with http_client(app, peer=Address("10.0.0.2")) as client:
        with pytest.raises(ConnectionError):
            await client.get("/")
    with pytest.raises(ConnectionError):
        async with websocket_client(app, "/ws"):
            pass


async def test_wrong_peers() -> None:
    """Something else than an address is refused, with what to write."""
    peer: Any = "10.0.0.1"
    for opened in (http_client(telling(), peer=peer), websocket_client(telling(), peer=peer)):
        with pytest.raises(TypeError, match="Address"):
            async with opened:
                pass


# --------------------------------------------------------------------------------------------- cookies


async def accept(request: Request, state: None) -> Accept | Response:
    user = request.cookies.get("user")
    if user is None:
        return Response(401, "log in first").with_cookie(SetCookie("back_to", "chat"))
    return Accept(
        value=f"{user} {request.headers.get('Cookie')} {request.host}", headers=[("Set-Cookie", "seen=1")]
    )


async def greet(stream: WebsocketStream, state: None) -> None:
    await stream.send(stream.value)


def login_app() -> App:
    def login(request: Request) -> Response:
        response = Response(204).with_cookie(SetCookie("user", "ann"))
        return response.with_cookie(SetCookie("elsewhere", "1", path="/elsewhere"))

    return (
        App()
        .with_stateless_route("/login", login)
        .with_websocket_route("/ws", websocket_handler(greet, accept=accept))
    )


async def test_websockets_with_cookies() -> None:
    """``client.websocket`` sends the cookies, host and fields of the client, and keeps those of the response."""
    async with http_client(login_app(), host="chat.example") as client:
        with pytest.raises(HandshakeError, match="log in first"):
            async with client.websocket("/ws"):
                pass
        assert dict(client.cookies) == {"back_to": "chat"}
        client.clear_cookies()
        await client.post("/login")
        async with client.websocket("/ws") as socket:
            assert (await socket.receive()).text == "ann user=ann chat.example"
            assert (await client.post("/login")).status == 204  # on its own connection
        assert socket.close_code == 1000
        assert client.cookies["seen"] == "1"
        async with client.websocket("/ws", headers={"Cookie": "user=bob", "Host": "other"}) as socket:
            assert (await socket.receive()).text == "bob user=bob other"


async def test_websockets_of_an_app_that_listens(nursery: trio.Nursery) -> None:
    """``websocket`` works over sockets as well."""
    (address,) = await nursery.start(login_app().run, ANY_PORT)
    async with HttpClient(partial(trio.open_tcp_stream, *address)) as client:
        await client.post("/login")
        async with client.websocket("/ws") as socket:
            assert (await socket.receive()).text == "ann user=ann testserver"
    nursery.cancel_scope.cancel()


async def test_an_exception_of_the_block() -> None:
    """An exception of the block is raised as it is, and the connection is closed."""
    async with http_client(telling()) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.websocket("/ws") as socket:
                raise ZeroDivisionError
        with pytest.raises(trio.ClosedResourceError):
            await socket.stream.receive_some()
