"""WebSockets of Starlette that an ``App`` serves, with the client of the package websockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import Site, mounted
from tests.support.logs import errors
from tests.support.starlette_apps import starlette_app


@pytest.fixture
async def site(probe: Probe) -> AsyncGenerator[Site]:
    async with mounted(starlette_app(probe)) as site:
        yield site


async def test_echo(site: Site, probe: Probe) -> None:
    """Text and binary messages come back, and the app learns the code and the reason of the client."""
    async with site.websocket("/echo/caf%C3%A9") as client:
        assert client.response.headers["x-room"] == "cafÃ©"
        for message in ("text", b"bytes", "", b"", "é" * 100_000):
            await client.send(message)
            assert await client.recv() == message
        await client.aclose(4005, "bye")
    await probe.noted("closed 4005 bye")


async def test_many_messages_before_one_is_read(site: Site) -> None:
    """Messages that were sent without waiting for an answer are answered in order."""
    async with site.websocket("/echo/a") as client:
        for number in range(200):
            await client.send(str(number))
        assert [await client.recv() for _ in range(200)] == [str(number) for number in range(200)]


async def test_close_without_a_code(site: Site, probe: Probe) -> None:
    """The app learns that a client has closed without a code."""
    async with site.websocket("/echo/a") as client:
        await client.aclose()
    await probe.noted("closed 1000 ")


@pytest.mark.parametrize("leave", ["close", "disconnect"])
async def test_app_that_does_not_expect_a_disconnect(
    probe: Probe, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception that Starlette raises in an app when its client leaves is no error."""
    async with mounted(starlette_app(probe)) as site, site.websocket("/simple-echo") as client:
        await client.send("hi")
        assert await client.recv() == "hi"
        await (client.aclose() if leave == "close" else client.stream.aclose())
    assert errors(caplog) == []


async def test_exception_of_a_disconnect_that_did_not_happen(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """The same exception is an error while the client is there."""
    async with mounted(starlette_app(probe)) as site, site.websocket("/false-disconnect") as client:
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
        assert caught.value.rcvd.code == 1011
    assert len(errors(caplog)) == 1


async def test_lost_connection(site: Site, probe: Probe) -> None:
    """The app learns that the connection of a client was lost."""
    async with site.websocket("/echo/a") as client:
        await client.stream.aclose()
        await probe.noted("closed 1006 ")


async def test_subprotocol_state_and_close_of_the_server(site: Site) -> None:
    """The app chooses a subprotocol, has the state of the lifespan, knows its URL, and closes with a code."""
    async with site.websocket("/chat?q=1", subprotocols=["a", "b"]) as client:
        assert client.subprotocol == "b"
        await client.send('{"n": 1}')
        answer = f'{{"got":{{"n":1}},"state":"connected","url":"ws://{site.host}/api/chat?q=1"}}'
        assert await client.recv() == answer
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "enough")


async def test_refusal(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A WebSocket that the app closes before it accepts it is a 403."""
    with pytest.raises(InvalidStatus) as caught:
        async with site.websocket("/refuse"):
            pass
    assert caught.value.response.status_code == 403
    assert errors(caplog) == []


async def test_no_route(site: Site) -> None:
    """A WebSocket for which the app has no route is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with site.websocket("/nowhere"):
            pass
    assert caught.value.response.status_code == 403


async def test_denial_response(site: Site) -> None:
    """The app can refuse with a response of its own."""
    with pytest.raises(InvalidStatus) as caught:
        async with site.websocket("/deny"):
            pass
    response = caught.value.response
    assert (response.status_code, response.headers["x-deny"], response.body) == (401, "yes", b'{"need":"token"}')


async def test_exception(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """An exception after the handshake closes with 1011, and is logged once."""
    async with mounted(starlette_app(probe)) as site, site.websocket("/break-down") as client:
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
    assert caught.value.rcvd.code == 1011
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the secret cause"


async def test_ordinary_request_for_a_websocket_route(site: Site) -> None:
    """A request without an upgrade does not reach a WebSocket route."""
    assert (await site.client.get("/echo/a")).status_code == 404


async def test_graceful_end(probe: Probe) -> None:
    """A graceful end closes open WebSockets with 1001, and the app learns it."""
    async with mounted(starlette_app(probe)) as site, site.websocket("/echo/a") as client:
        site.shutdown.set()
        with pytest.raises(ConnectionClosedOK) as caught:
            await client.recv()
    assert caught.value.rcvd.code == 1001
    assert probe.notes[1].startswith("closed 1001")
    assert probe.notes[-1] == "shutdown"
