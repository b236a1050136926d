"""The heartbeat of an app: silent clients are pinged, and cut off if they stay silent."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Heartbeat, Message
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from tests.support.apps import linked, served_in_memory
from tests.support.times import SWEEP
from tests.support.wire import PING, TEXT, client_frame

PONG_OPCODE = 0xA


class Ends:
    """Records when and how streams end."""

    def __init__(self, heartbeat: Heartbeat, max_read_ahead: int = 16) -> None:
        self.entries: list[tuple[float, int | None, str | None]] = []
        self.streams: list[AsyncStream] = []
        self.app = (
            AsyncWebsocketApp.new_unlinked(max_read_ahead=max_read_ahead)
            .with_connect_handler(self.on_connect)
            .with_message_handler(self.on_message)
            .with_disconnect_handler(self.on_disconnect)
            .with_heartbeat(heartbeat)
        )

    async def on_connect(self, stream: AsyncStream, state: None) -> None:
        self.streams.append(stream)

    async def on_message(self, stream: AsyncStream, message: Message, state: None) -> None:
        if message.text == "sleep":
            await trio.sleep(20)

    async def on_disconnect(self, stream: AsyncStream, state: None) -> None:
        self.entries.append((trio.current_time(), stream.close_code, stream.close_reason))


async def send_frame(client: WebsocketClient, opcode: int, payload: bytes = b"") -> None:
    await client.send_raw(client_frame(opcode, payload))


@pytest.mark.parametrize("kwargs", [{"interval": 0}, {"timeout": -1}, {"interval": inf}, {"timeout": nan}])
def test_heartbeat_refuses_invalid_times(kwargs: dict[str, float]) -> None:
    """A time that is not a finite number above zero is a ValueError that names the field."""
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Heartbeat(**kwargs)


def test_default_heartbeat() -> None:
    """The default is Humphrey's: a ping after five seconds, and ten seconds to answer it."""
    assert Heartbeat() == Heartbeat(interval=5, timeout=10)


async def test_heartbeat_cuts_off_a_silent_client(autojump_clock: trio.testing.MockClock) -> None:
    """A client that answers no ping is cut off after both times, with 1006 and the cause in its record."""
    ends = Ends(Heartbeat(interval=2, timeout=3))
    async with linked(ends.app) as app, websocket_client(app):
        began = trio.current_time()
        await trio.sleep(10)
        ((ended, code, reason),) = ends.entries
    assert 5 <= ended - began <= 5 + 3 * SWEEP
    assert (code, reason) == (1006, "no answer to a ping in 3 s")


async def test_heartbeat_of_a_client_that_answers(autojump_clock: trio.testing.MockClock) -> None:
    """A client that answers its pings stays, and the stream has the latency of the last pong."""
    ends = Ends(Heartbeat(interval=1, timeout=1))
    async with linked(ends.app) as app, websocket_client(app) as client:
        with trio.move_on_after(30):
            await client.receive()
        assert ends.entries == []
        latency = ends.streams[0].latency
        assert latency is not None
        assert 0 <= latency < 1


@pytest.mark.parametrize("opcode", [0x1, PING, PONG_OPCODE])
async def test_heartbeat_accepts_any_bytes(opcode: int, autojump_clock: trio.testing.MockClock) -> None:
    """A client that answers no ping but sends other bytes in time stays."""
    ends = Ends(Heartbeat(interval=2, timeout=2))
    async with linked(ends.app) as app, websocket_client(app) as client:
        for _ in range(10):
            await trio.sleep(3)
            await send_frame(client, opcode)
        assert ends.entries == []
        assert ends.streams[0].latency is None


async def test_heartbeat_accepts_part_of_a_frame(autojump_clock: trio.testing.MockClock) -> None:
    """A client that sends a message byte by byte stays."""
    ends = Ends(Heartbeat(interval=1, timeout=1))
    async with linked(ends.app) as app, websocket_client(app) as client:
        for byte in client_frame(0x1, b"x" * 10):
            await trio.sleep(1.5)
            await client.send_raw(bytes([byte]))
        assert ends.entries == []


async def test_heartbeat_during_a_busy_handler(autojump_clock: trio.testing.MockClock) -> None:
    """While a handler is busy, pongs are read, and a silent client is cut off."""
    ends = Ends(Heartbeat(interval=1, timeout=2))
    async with linked(ends.app) as app, websocket_client(app) as lively, websocket_client(app) as silent:
        await lively.send("sleep")
        await silent.send("sleep")
        with trio.move_on_after(15):
            await lively.receive()
        assert [code for _, code, _ in ends.entries] == [1006]
        assert not ends.streams[0].closed


async def test_heartbeat_stops_while_reading_pauses(autojump_clock: trio.testing.MockClock) -> None:
    """While reading pauses because of ``max_read_ahead``, the heartbeat's clock stands still."""
    ends = Ends(Heartbeat(interval=1, timeout=1), max_read_ahead=2)
    async with linked(ends.app) as app, websocket_client(app) as client:
        for text in ("sleep", "a", "b", "c"):
            await client.send(text)
        await trio.sleep(15)
        assert ends.entries == []


async def test_no_heartbeat_by_default(autojump_clock: trio.testing.MockClock) -> None:
    """The heartbeat is off until it is set."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.sleep(100)
        await client.close()
        assert client.close_code == 1000


async def test_heartbeat_of_hundreds_of_clients(autojump_clock: trio.testing.MockClock) -> None:
    """All silent clients are pinged, whatever their number."""
    ends = Ends(Heartbeat(interval=1, timeout=50))
    async with linked(ends.app) as app, trio.open_nursery() as nursery:
        for _ in range(250):
            nursery.start_soon(stay, app)
        await trio.sleep(3)
        ping = 2 + len(b"heartbeat")
        assert all(stream.statistics().bytes_sent == ping for stream in ends.streams)
        assert len(ends.streams) == 250
        nursery.cancel_scope.cancel()


async def stay(app: object) -> None:
    async with websocket_client(app):  # type: ignore[arg-type]
        await trio.sleep_forever()


async def test_heartbeat_during_many_short_handlers(autojump_clock: trio.testing.MockClock) -> None:
    """A client whose messages wait for short handlers does not count as silent."""
    app = AsyncWebsocketApp.new_unlinked().with_heartbeat(Heartbeat(interval=1, timeout=1))

    async def answer(stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(0.1)
        await stream.send(message)

    async with linked(app.with_message_handler(answer)) as http_app, websocket_client(http_app) as client:
        await client.send_raw(b"".join(client_frame(TEXT, str(number).encode()) for number in range(200)))
        answers = [(await client.receive()).text for _ in range(200)]
    assert answers == [str(number) for number in range(200)]


async def test_ping_after_many_messages(autojump_clock: trio.testing.MockClock) -> None:
    """A ping after a few messages is answered soon, though their handlers still run."""
    app = AsyncWebsocketApp.new_unlinked()

    async def handle(stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(0.2)

    async with linked(app.with_message_handler(handle)) as http_app, websocket_client(http_app) as client:
        began = trio.current_time()
        for number in range(14):
            await client.send(str(number))
        await send_frame(client, PING, b"there?")
        assert bytes(await client.stream.receive_some(2 + len(b"there?"))) == b"\x8a\x06there?"
        assert trio.current_time() - began <= 4 * SWEEP


async def test_latency_with_other_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """Other bytes between a ping and its pong do not change the latency."""
    ends = Ends(Heartbeat(interval=1, timeout=5))
    async with linked(ends.app) as app, served_in_memory(app) as connect:
        stream = connect()
        client = await open_websocket(stream)
        ping = bytes(await stream.receive_some())
        pinged = trio.current_time()
        await client.send("not an answer")
        await trio.sleep(0.6)
        await send_frame(client, PONG_OPCODE, ping[2:])
        await trio.testing.wait_all_tasks_blocked()
        assert ends.streams[0].latency == pytest.approx(trio.current_time() - pinged)


def test_heartbeat_refuses_a_number() -> None:
    """A number instead of a ``Heartbeat`` is a TypeError at construction."""
    seconds: Any = 5
    with pytest.raises(TypeError, match=r"not int: write with_heartbeat\(Heartbeat\(interval, timeout\)\)"):
        AsyncWebsocketApp().with_heartbeat(seconds)
