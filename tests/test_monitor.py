"""The monitor: what it sends, that it never makes the server wait, and how it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App
from humphrey_trio._app._access import AccessLog
from humphrey_trio._app._monitor import Monitor
from humphrey_trio._http._exchange import Exchange
from humphrey_trio._server._http_counters import HttpCounters
from humphrey_trio._server._observers import Observers
from humphrey_trio.http import Address, Request
from humphrey_trio.monitor import Event, EventLevel, EventType, MonitorConfig
from tests.support import ANY_PORT, PATIENCE
from tests.support.certificates import server_context

PEER = Address("192.0.2.1", 50000)
#: The logger and the level of the line about a closed channel.
WARNED = ("humphrey_trio.http", logging.WARNING)
HOSTILE = "/a\r\n2026-01-01 forged\x1b[31m\u202e"


def monitored(
    *events: EventType | EventLevel, places: int = 100
) -> tuple[Monitor, trio.MemoryReceiveChannel[Event]]:
    """A monitor, and the events that it sends."""
    send_channel, receive_channel = trio.open_memory_channel[Event](places)
    return Monitor(MonitorConfig(send_channel).with_subscription_to(*events)), receive_channel


def received(channel: trio.MemoryReceiveChannel[Event]) -> list[Event]:
    """The events that wait in the channel."""
    return [channel.receive_nowait() for _ in range(channel.statistics().current_buffer_used)]


def served(status: int, path: str = "/path") -> Exchange:
    return Exchange(Request(path=path), status, 10, 0.1, PEER)


async def test_an_event() -> None:
    """An event has its type, its peer, its description and its time, and ``str`` is a line for a log."""
    monitor, events = monitored(EventLevel.DEBUG)
    before = time.time()
    monitor.report(EventType.CONNECTION_ERROR, PEER, "the TLS handshake failed")
    (event,) = received(events)
    assert (event.kind, event.peer, event.info) == (EventType.CONNECTION_ERROR, PEER, "the TLS handshake failed")
    assert before <= event.time <= time.time()
    line = str(Event(event.kind, event.peer, event.info, 1_767_225_600))
    assert line == "2026-01-01 00:00:00 192.0.2.1:50000 Connection error: the TLS handshake failed"
    assert str(Event(EventType.OVERLOAD, None, "", 0)) == "1970-01-01 00:00:00 Server overloaded"


@pytest.mark.parametrize(
    ("status", "kind", "info"),
    [
        (101, EventType.REQUEST_SERVED_SUCCESS, "101 Switching Protocols /path"),
        (200, EventType.REQUEST_SERVED_SUCCESS, "200 OK /path"),
        (204, EventType.REQUEST_SERVED_SUCCESS, "204 No Content /path"),
        (304, EventType.REQUEST_SERVED_SUCCESS, "304 Not Modified /path"),
        (404, EventType.REQUEST_SERVED_ERROR, "404 Not Found /path"),
        (408, EventType.REQUEST_TIMEOUT, "408 Request Timeout /path"),
        (500, EventType.REQUEST_SERVED_ERROR, "500 Internal Server Error /path"),
        (799, EventType.REQUEST_SERVED_ERROR, "799 /path"),
    ],
)
async def test_a_response(status: int, kind: EventType, info: str) -> None:
    """Each response is one event, with its status, whose type tells whether it was a success."""
    monitor, events = monitored(EventLevel.DEBUG)
    monitor.record(served(status))
    (event,) = received(events)
    assert (event.kind, event.peer, event.info, event.status) == (kind, PEER, info, status)


async def test_a_request_that_could_not_be_read() -> None:
    """A response to an invalid request has no path."""
    monitor, events = monitored(EventLevel.ERROR)
    monitor.record(Exchange(None, 400, 10, 0, PEER))
    assert [event.info for event in received(events)] == ["400 Bad Request"]


async def test_text_of_a_client_is_escaped() -> None:
    """A path is escaped and cut in the description of an event."""
    monitor, events = monitored(EventLevel.DEBUG)
    monitor.record(served(200, HOSTILE))
    monitor.record(served(200, "/" * 10_000))
    hostile, long = received(events)
    assert str(hostile).isprintable()
    assert len(str(long)) < 600


@pytest.mark.parametrize("level", EventLevel)
async def test_levels(level: EventLevel) -> None:
    """A level sends the event types that its name means, and those of the levels before it."""
    monitor, events = monitored(level)
    for kind in EventType:
        monitor.report(kind)
    sent = {event.kind for event in received(events)}
    assert sent == set(level.events)
    smaller = [one for one in EventLevel if one.events in level.events]
    assert smaller == list(EventLevel)[: len(smaller)]
    assert EventLevel.DEBUG.events == EventType(sum(kind.value for kind in EventType))


async def test_subscriptions_are_added() -> None:
    """Event types and levels add up, and each call returns a new config."""
    send_channel, _ = trio.open_memory_channel[Event](1)
    config = MonitorConfig(send_channel)
    both = config.with_subscription_to(EventType.CONNECTION_SUCCESS, EventLevel.ERROR)
    assert both.events == EventType.CONNECTION_SUCCESS | EventLevel.ERROR.events
    assert both.with_subscription_to(EventType.OVERLOAD).events == both.events | EventType.OVERLOAD
    assert not config.events


async def test_only_subscribed_events_are_sent() -> None:
    """Other events are neither sent nor counted as dropped."""
    monitor, events = monitored(EventType.CONNECTION_DENIED)
    monitor.report(EventType.CONNECTION_CLOSED, PEER)
    monitor.record(served(200))
    assert received(events) == []
    assert monitor.dropped == 0


async def test_a_full_channel() -> None:
    """Events that do not fit are dropped and counted, and the next event tells how many were lost before it."""
    monitor, events = monitored(EventLevel.DEBUG, places=2)
    for _ in range(5):
        monitor.record(served(200))
    assert monitor.dropped == 3
    assert [event.dropped for event in received(events)] == [0, 0]
    for _ in range(3):
        monitor.record(served(200))
    assert monitor.dropped == 4
    assert [event.dropped for event in received(events)] == [3, 0]


@pytest.mark.parametrize("end", ["send", "receive"])
async def test_a_closed_channel(end: str, caplog: pytest.LogCaptureFixture) -> None:
    """A channel that was closed at either end stops the monitor, with one WARNING and without an exception."""
    send_channel, receive_channel = trio.open_memory_channel[Event](10)
    monitor = Monitor(MonitorConfig(send_channel).with_subscription_to(EventLevel.DEBUG))
    (send_channel if end == "send" else receive_channel).close()
    for _ in range(3):
        monitor.record(served(200))
        monitor.report(EventType.CONNECTION_CLOSED, PEER)
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("humphrey_trio.http", logging.WARNING)
    ]
    assert "the channel of the monitor was closed" in caplog.text
    assert monitor.dropped == 0
    assert not monitor.enabled


async def test_one_channel_for_two_monitors() -> None:
    """Several apps may share a channel."""
    send_channel, events = trio.open_memory_channel[Event](10)
    config = MonitorConfig(send_channel).with_subscription_to(EventLevel.INFO)
    for monitor in (Monitor(config), Monitor(config)):
        monitor.report(EventType.CONNECTION_CLOSED, PEER)
    assert len(received(events)) == 2


def test_recorders_of_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A connection records responses only for the log if it is enabled, and for a monitor that wants them."""
    caplog.set_level(logging.WARNING, "humphrey_trio.access")
    log, counters = AccessLog(), HttpCounters()
    wants, _ = monitored(EventLevel.ERROR)
    other, _ = monitored(EventType.CONNECTION_SUCCESS)
    assert Observers(counters, log).recorders() == ()
    assert Observers(counters, log, other).recorders() == ()
    assert Observers(counters, log, wants).recorders() == (wants,)
    caplog.set_level(logging.INFO, "humphrey_trio.access")
    assert Observers(counters, log).recorders() == (log,)
    assert Observers(counters, log, other).recorders() == (log,)
    assert Observers(counters, log, wants).recorders() == (log, wants)


@pytest.mark.parametrize("places", [0, inf])
def test_a_channel_without_a_limit_or_without_places(places: float) -> None:
    """A channel without any place would drop events, and one without a limit could take all memory."""
    send_channel, _ = trio.open_memory_channel[Event](places)
    with pytest.raises(ValueError, match="limit of at least 1"):
        MonitorConfig(send_channel)


def test_wrong_arguments() -> None:
    """A wrong type, and a monitor without events, are errors that tell what to write."""
    send_channel, receive_channel = trio.open_memory_channel[Event](1)
    config = MonitorConfig(send_channel)
    wrong: Any = receive_channel
    with pytest.raises(TypeError, match="open_memory_channel"):
        MonitorConfig(wrong)
    number: Any = 3
    with pytest.raises(TypeError, match="EventLevel"):
        config.with_subscription_to(number)
    with pytest.raises(ValueError, match="with_subscription_to"):
        Monitor(config)
    channel: Any = send_channel
    with pytest.raises(TypeError, match="MonitorConfig"):
        Monitor(channel)


# ------------------------------------------------------------------------------------------- in a server


@asynccontextmanager
async def monitored_app(
    app: App[Any], *events: EventType | EventLevel
) -> AsyncGenerator[tuple[Address, trio.MemoryReceiveChannel[Event]]]:
    """Run an app with a monitor on a port; with its address, and the events."""
    send_channel, receive_channel = trio.open_memory_channel[Event](100)
    app.with_monitor(MonitorConfig(send_channel).with_subscription_to(*events))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            run = app.run if app.state is None else app.run_tls
            (address,) = await nursery.start(run, ANY_PORT)
            yield address, receive_channel
            nursery.cancel_scope.cancel()


CONNECTION_EVENTS = EventType.CONNECTION_SUCCESS | EventType.CONNECTION_CLOSED | EventType.CONNECTION_ERROR


async def test_each_connection_has_two_events() -> None:
    """A connection that was accepted has one event when it is accepted, and one when it is closed."""
    async with monitored_app(App(), CONNECTION_EVENTS) as (address, events):
        for _ in range(2):
            async with await trio.open_tcp_stream(*address):
                opened = await events.receive()
            closed = await events.receive()
            assert (opened.kind, closed.kind) == (EventType.CONNECTION_SUCCESS, EventType.CONNECTION_CLOSED)
            assert opened.peer == closed.peer != address


async def test_a_failed_tls_handshake() -> None:
    """A failed TLS handshake is an error of the connection, between its two events."""
    app = App("TLS").with_cert(server_context())
    async with monitored_app(app, CONNECTION_EVENTS) as (address, events):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            opened, error = await events.receive(), await events.receive()
        assert [opened.kind, error.kind] == [EventType.CONNECTION_SUCCESS, EventType.CONNECTION_ERROR]
        assert error.info == "plain HTTP on a port for HTTPS"
        assert (await events.receive()).kind is EventType.CONNECTION_CLOSED


async def test_a_full_server() -> None:
    """A server that has ``max_connections`` reports it."""
    async with (
        monitored_app(App(max_connections=1), EventType.OVERLOAD) as (address, events),
        await trio.open_tcp_stream(*address),
    ):
        event = await events.receive()
    assert (event.peer, event.info) == (None, "1 connections are open")


async def test_statistics_have_what_was_dropped(autojump_clock: trio.testing.MockClock) -> None:
    """``App.statistics()`` has the number of dropped events, and of accepted connections."""
    send_channel, events = trio.open_memory_channel[Event](1)
    app = App().with_monitor(MonitorConfig(send_channel).with_subscription_to(EventLevel.DEBUG))
    for _ in range(2):
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.aclose()
        await app.serve_stream(theirs)
    assert [event.kind for event in received(events)] == [EventType.CONNECTION_SUCCESS]
    statistics = app.statistics()
    assert (statistics.events_dropped, statistics.accepted, statistics.connections) == (3, 2, 0)


async def test_a_closed_channel_does_not_harm_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """Connections are served as before after the channel was closed."""
    async with monitored_app(App(), EventLevel.DEBUG) as (address, events):
        events.close()
        for _ in range(2):
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert (await stream.receive_some(12)) == b"HTTP/1.1 404"
    assert [(one.name, one.levelno) for one in caplog.records if one.levelno >= WARNED[1]] == [WARNED]
