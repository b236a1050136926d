"""AsyncWebsocketApp: handlers that raise."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, ConnectionClosed, Message, WebsocketStream
from humphrey_trio.testing import open_websocket, websocket_client
from tests.support.apps import linked, served_in_memory
from tests.support.event_recorder import GENERAL_CLOSE, EventRecorder, echo, echo_once
from tests.support.logs import errors


@pytest.mark.parametrize("where", ["connect", "message"])
async def test_handler_that_raises_closes_with_1011(
    where: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler that raises is logged with its traceback, and closes only its own stream, with 1011."""

    async def fail_for_guests(stream: AsyncStream[Any], name: str) -> None:
        if stream.request.query == "guest" and name == where:
            raise LookupError("the guest is not on the list")

    recorder = EventRecorder(fail_for_guests)
    websocket_app = recorder.app().with_message_handler(echo)
    async with linked(websocket_app) as app, websocket_client(app) as member:
        await echo_once(member, "before")
        websocket_app.with_message_handler(recorder.message)
        async with websocket_client(app, "/?guest") as guest:
            with contextlib.suppress(ConnectionClosed):
                await guest.send("message")
                await guest.send("never handled")
            with pytest.raises(ConnectionClosed) as closed:
                await guest.receive()
        assert closed.value.code == 1011
        await echo_once(member, "after")
        await recorder.until("disconnect")
        assert "never handled" not in recorder.entries
        assert recorder.codes == [1011]
    (record,) = errors(caplog)
    assert record.name == "humphrey_trio.websocket"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


async def test_disconnect_handler_that_raises(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A disconnect handler that raises is logged with its traceback, and the app goes on."""

    async def fail(stream: AsyncStream[None], state: None) -> None:
        raise LookupError("no such chair")

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo).with_disconnect_handler(fail)
    async with linked(websocket_app) as app:
        for _ in range(2):
            async with websocket_client(app) as client:
                await echo_once(client, "hello")
            await trio.testing.wait_all_tasks_blocked()
    assert [record.exc_info[0] for record in errors(caplog) if record.exc_info] == [LookupError, LookupError]


async def test_stream_state_that_raises(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A stream whose ``stream_state`` raises is logged and closed with 1011, without any handler."""

    def only_members(stream: WebsocketStream) -> str:
        if stream.request.query == "guest":
            raise LookupError("the guest is not on the list")
        return "member"

    recorder = EventRecorder()
    websocket_app = recorder.app(stream_state=only_members)
    async with linked(websocket_app) as app:
        async with websocket_client(app, "/?guest") as guest:
            with pytest.raises(ConnectionClosed) as closed:
                await guest.receive()
        assert closed.value.code == 1011
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.entries == []
        async with websocket_client(app, "/?member") as member:
            await member.send("hello")
            await recorder.until("hello")
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


@pytest.mark.parametrize("in_nursery", [False, True])
@pytest.mark.parametrize("client_leaves", [False, True])
async def test_connection_closed_of_a_closed_stream_is_not_logged(
    client_leaves: bool, in_nursery: bool, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """ConnectionClosed of a handler's own stream is no failure, whichever side has closed."""
    raised: list[int] = []

    async def send_on(stream: AsyncStream[None]) -> None:
        try:
            while True:
                await stream.send("more")
        except ConnectionClosed as exc:
            raised.append(exc.code)
            raise

    async def on_message(stream: AsyncStream[None], message: Message, state: None) -> None:
        if not client_leaves:
            await stream.close(GENERAL_CLOSE)
        if in_nursery:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_on, stream)
        else:
            await send_on(stream)

    websocket_app = AsyncWebsocketApp.new_unlinked(max_outbox_messages=3).with_message_handler(on_message)
    async with linked(websocket_app) as app, served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
        client = await open_websocket(connect())
        await client.send("go")
        await trio.testing.wait_all_tasks_blocked()
        if client_leaves:
            await client.disconnect()
        await trio.sleep(1)
    assert raised == [1006 if client_leaves else GENERAL_CLOSE]
    assert errors(caplog) == []


async def test_connection_closed_of_another_stream_is_a_failure(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """ConnectionClosed of another stream is a failure of a handler whose own stream is open."""
    members: list[AsyncStream[None]] = []

    async def remember(stream: AsyncStream[None], state: None) -> None:
        members.append(stream)

    async def send_to_first(stream: AsyncStream[None], message: Message, state: None) -> None:
        await members[0].send(message)

    websocket_app = (
        AsyncWebsocketApp.new_unlinked().with_connect_handler(remember).with_message_handler(send_to_first)
    )
    async with linked(websocket_app) as app:
        async with websocket_client(app):
            await trio.testing.wait_all_tasks_blocked()
        async with websocket_client(app) as client:
            await client.send("hello, first")
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
    assert closed.value.code == 1011
    assert len(errors(caplog)) == 1
