"""How a WebSocket route accepts or refuses an upgrade."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.websocket import HandshakeError, Upgrade
from tests.support.handshakes import HANDSHAKE, Route, app_with, assert_echoes, assert_still_http, client_of, echo
from tests.support.wire import (
    TEXT,
    client_frame,
    close_frame,
)


async def test_route_gets_the_state() -> None:
    """A WebSocket route gets the state of the app as its second argument."""

    async def route(upgrade: Upgrade, state: str) -> Response | None:
        return Response(403, f"{upgrade.request.path} {state}")

    async with client_of(App("the state").with_websocket_route("/ws", route)) as client:
        await client.send(HANDSHAKE)

        assert (await client.reply()).content == b"/ws the state"


async def test_route_refuses_with_a_response() -> None:
    """A route refuses an upgrade by returning a response, and the connection is kept alive."""

    async def refuse(upgrade: Upgrade, state: None) -> Response | None:
        return Response(401, "who are you?", {"WWW-Authenticate": "Basic"})

    async with client_of(app_with(refuse)) as client:
        for _ in range(2):
            await client.send(HANDSHAKE)
            status, headers, content = await client.reply()
            assert (status, content) == (401, b"who are you?")
            assert headers["WWW-Authenticate"] == "Basic"
        await assert_still_http(client)


async def test_route_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A route that raises before it accepts is a 500 and logged, and the connection is kept alive."""

    async def fail(upgrade: Upgrade, state: None) -> Response | None:
        raise RuntimeError("a secret")

    async with client_of(app_with(fail)) as client:
        await client.send(HANDSHAKE)
        status, _, content = await client.reply()
        assert status == 500
        assert b"secret" not in content
        await assert_still_http(client)

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert "a secret" in str(record.exc_info[1])


async def test_route_that_neither_accepts_nor_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """A route that neither accepts nor refuses is a 500, and the log names the mistake."""

    async def forget(upgrade: Upgrade, state: None) -> Response | None:
        return None

    async with client_of(app_with(forget)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 500
        await assert_still_http(client)

    assert "must accept the upgrade or return a Response" in caplog.text


async def test_route_raises_after_a_hook_has_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a route after a hook has got the stream is logged, and the stream stays open."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    hand_over = async_websocket_handler(hook)

    async def route(upgrade: Upgrade, state: None) -> Response | None:
        await hand_over(upgrade, state)
        raise RuntimeError("too late")

    async with client_of(app_with(route)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 101
        stream = await streams.receive()
        await stream.send("still here")
        assert await client.frame() == (TEXT, b"still here")

    assert "too late" in caplog.text


async def test_route_refuses_with_a_handshake_error() -> None:
    """A route may raise HandshakeError, whose status and reason the client gets."""

    async def refuse(upgrade: Upgrade, state: None) -> Response | None:
        raise HandshakeError("not on Sundays", 403)

    async with client_of(app_with(refuse)) as client:
        await client.send(HANDSHAKE)
        status, _, content = await client.reply()

        assert status == 403
        assert b"not on Sundays" in content
        await assert_still_http(client)


async def test_headers_of_the_101() -> None:
    """A route may add header fields to the 101."""

    async def accept(upgrade: Upgrade, state: None) -> Response | None:
        await upgrade.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return None

    async with client_of(app_with(accept)) as client:
        await client.send(HANDSHAKE)

        assert (await client.reply()).headers.get_all("Set-Cookie") == ("a=1", "b=2")


@pytest.mark.parametrize(
    "options",
    [{"headers": {"X": "a\r\nY: b"}}, {"max_message_size": 0}],
    ids=["a header with a line end", "a limit of zero"],
)
async def test_invalid_options_of_accept(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """An invalid header or limit of ``accept`` is a ValueError before anything is sent."""

    async def accept(upgrade: Upgrade, state: None) -> Response | None:
        with pytest.raises(ValueError, match=r"header|max_message_size"):
            await upgrade.accept(**options)
        return Response(418)

    async with client_of(app_with(accept)) as client:
        await client.send(HANDSHAKE)

        assert (await client.reply()).status == 418


async def test_second_accept_raises() -> None:
    """A second ``accept`` is a RuntimeError, and does not affect the stream."""

    async def accept(upgrade: Upgrade, state: None) -> Response | None:
        stream = await upgrade.accept()
        with pytest.raises(RuntimeError, match="accepted before"):
            await upgrade.accept()
        await stream.send("still here")
        return None

    async with client_of(app_with(accept)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 101

        assert await client.frame() == (TEXT, b"still here")
        assert await client.close_code() == 1000


async def refuse_by_a_response(upgrade: Upgrade, state: list[Upgrade]) -> Response | None:
    state.append(upgrade)
    return Response(403, "no")


async def refuse_by_an_error(upgrade: Upgrade, state: list[Upgrade]) -> Response | None:
    state.append(upgrade)
    raise HandshakeError("no", 403)


async def raise_an_error(upgrade: Upgrade, state: list[Upgrade]) -> Response | None:
    state.append(upgrade)
    raise ValueError("no")


@pytest.mark.parametrize("route", [refuse_by_a_response, refuse_by_an_error, raise_an_error])
async def test_accept_after_a_refusal(route: Route) -> None:
    """An upgrade whose route has ended cannot be accepted, and the connection stays HTTP."""
    kept: list[Upgrade] = []
    hook, _ = trio.open_memory_channel[WebsocketStream](1)
    app = App(kept).with_websocket_route("/ws", route)
    async with client_of(app.with_stateless_route("/hello", lambda _: Response(200, "hello"))) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status in (403, 500)

        with pytest.raises(RuntimeError, match="has returned: call accept before"):
            await kept[0].accept()
        with pytest.raises(RuntimeError, match="has returned: call accept before"):
            await async_websocket_handler(hook)(kept[0], None)
        assert hook.statistics().current_buffer_used == 0
        await assert_still_http(client)


async def test_refused_while_a_task_waits_for_a_hook(autojump_clock: trio.testing.MockClock) -> None:
    """After a refusal, a task that still waits for a place in a hook gets a 503."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    statuses: list[int] = []

    async def hand_over(upgrade: Upgrade) -> None:
        with pytest.raises(HandshakeError) as refused:
            await async_websocket_handler(hook, place_timeout=50)(upgrade, None)
        statuses.append(refused.value.status)

    async with trio.open_nursery() as nursery:

        async def refuse(upgrade: Upgrade, state: None) -> Response | None:
            nursery.start_soon(hand_over, upgrade)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="another task is accepting"):
                await upgrade.accept()
            return Response(403, "no")

        async with client_of(app_with(refuse)) as client:
            await client.send(HANDSHAKE)
            assert (await client.reply()).status == 403
            with pytest.raises(trio.WouldBlock):
                streams.receive_nowait()
            await assert_still_http(client)
    assert statuses == [503]


async def test_cancelled_accept(autojump_clock: trio.testing.MockClock) -> None:
    """A route whose ``accept`` was cancelled may still refuse."""

    async def route(upgrade: Upgrade, state: None) -> Response:
        with trio.CancelScope() as scope:
            scope.cancel()
            await upgrade.accept()
        return Response(403, "no")

    async with client_of(app_with(route)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 403
        await assert_still_http(client)


@pytest.mark.parametrize("second", ["a hook", "accept"])
async def test_second_attempt_after_a_full_hook(second: str, autojump_clock: trio.testing.MockClock) -> None:
    """If a hook has no place, the route may use another one or accept itself; early frames are kept."""
    full, _ = trio.open_memory_channel[WebsocketStream](0)
    gone, receiver = trio.open_memory_channel[WebsocketStream](1)
    receiver.close()
    hook, streams = trio.open_memory_channel[WebsocketStream](1)

    async def route(upgrade: Upgrade, state: None) -> Response | None:
        for busy in (full, gone):
            with pytest.raises(HandshakeError, match="no WebSocket app takes this connection now"):
                await async_websocket_handler(busy)(upgrade, state)
        with trio.move_on_after(0.5):
            await async_websocket_handler(full)(upgrade, state)
        if second == "a hook":
            return await async_websocket_handler(hook)(upgrade, state)
        return await websocket_handler(echo)(upgrade, state)

    async with trio.open_nursery() as nursery, client_of(app_with(route)) as client:
        await client.send(HANDSHAKE + client_frame(TEXT, b"early"))
        assert (await client.reply()).status == 101
        if second == "a hook":
            nursery.start_soon(echo, await streams.receive(), None)

        assert await client.frame() == (TEXT, b"early")
        await assert_echoes(client)
        await client.send(close_frame(1000))
        assert await client.close_code() == 1000


async def test_response_after_accept(caplog: pytest.LogCaptureFixture) -> None:
    """A response that is returned after ``accept`` closes the stream with 1000 and is logged."""

    async def confused(upgrade: Upgrade, state: None) -> Response | None:
        await upgrade.accept()
        return Response(200)

    async with client_of(app_with(confused)) as client:
        await client.send(HANDSHAKE)
        assert (await client.reply()).status == 101
        assert await client.close_code() == 1000

    assert "after it had accepted" in caplog.text
