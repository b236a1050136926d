"""Topics: a disconnect and a shutdown end subscriptions."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, ConnectionClosed, Message, async_websocket_handler
from humphrey_trio.testing import open_websocket
from tests.support import ANY_PORT, PATIENCE
from tests.support.topics import TopicApp


async def test_subscribe_on_a_closed_stream(autojump_clock: trio.testing.MockClock) -> None:
    """``subscribe`` on a closed stream raises ``ConnectionClosed``, in its disconnect handler too."""
    refused: list[int] = []

    async def disconnect(stream: AsyncStream[None], state: None) -> None:
        for topic in ("news", "weather"):
            with pytest.raises(ConnectionClosed) as closed:
                stream.subscribe(topic)
            refused.append(closed.value.code)
        assert stream.topics == {"news"}
        stream.unsubscribe("news")
        assert stream.topics == frozenset()

    topic_app = TopicApp()
    topic_app.app.with_disconnect_handler(disconnect)
    async with topic_app.served():
        client = await topic_app.join("client", "news")
        stream = topic_app.streams["client"]
        await stream.close(4000)
        with pytest.raises(ConnectionClosed) as closed:
            stream.subscribe("weather")
        assert closed.value.code == 4000
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
        assert refused == [4000, 4000]
        with pytest.raises(ConnectionClosed):
            stream.subscribe("weather")
        assert topic_app.subscribers == {}


@pytest.mark.parametrize("end", ["Close", "reset", "server", "1011", "too slow"])
async def test_disconnect_ends_the_subscriptions(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """However a stream ends, its subscriptions end and no others; its disconnect handler still sees them."""

    async def fail(stream: AsyncStream[None], message: Message, state: None) -> None:
        raise RuntimeError("on purpose")

    topic_app = TopicApp(max_outbox_messages=4)
    topic_app.app.with_message_handler(fail)
    async with topic_app.served(trio.testing.lockstep_stream_pair):
        member = await topic_app.join("member", "shared", "own")
        stayer = await topic_app.join("stayer", "shared", "other")
        stream, sender = topic_app.streams["member"], topic_app.app.sender()
        match end:
            case "Close":
                await member.close()
            case "reset":
                await member.disconnect()
            case "server":
                await stream.close()
                await member.close()
            case "1011":
                await member.send("fail!")
                await member.close()
            case "too slow":
                for _ in range(6):  # one is being written, four may wait
                    await sender.publish("own", "hello")
                await member.close()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.close_code == {"reset": 1006, "1011": 1011, "too slow": 1013}.get(end, 1000)
        assert topic_app.last_topics == {"member": {"shared", "own"}}
        assert topic_app.subscribers == {"shared": 1, "other": 1}
        assert stream.topics == {"shared", "own"}
        for topic in ("shared", "own", "other"):
            await sender.publish(topic, topic)
            await trio.testing.wait_all_tasks_blocked()
        assert await topic_app.received_by(stayer) == [["shared", "other"]]


@pytest.mark.parametrize("end", ["app cancelled", "app drained", "HTTP app cancelled", "HTTP app drained"])
async def test_shutdown_ends_all_topics(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """However an app ends, no topic remains, and disconnect handlers see the topics of their streams."""
    topic_app = TopicApp()
    websocket_app, shutdown = topic_app.app, trio.Event()
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    if end.endswith("drained"):
        (websocket_app if end.startswith("app") else app).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as websocket_side, trio.open_nursery() as http_side:
            await websocket_side.start(websocket_app.run)
            await http_side.start(app.run, ANY_PORT)
            clients = []
            for name in ("one", "two"):
                ours, theirs = trio.testing.memory_stream_pair()
                http_side.start_soon(app.serve_stream, theirs)
                clients.append(await open_websocket(ours, f"/?{name}"))
            await trio.testing.wait_all_tasks_blocked()
            for name, stream in topic_app.streams.items():
                stream.subscribe("shared")
                stream.subscribe(name)
            assert topic_app.subscribers == {"shared": 2, "one": 1, "two": 1}
            match end:
                case "app cancelled":
                    websocket_side.cancel_scope.cancel()
                case "HTTP app cancelled":
                    http_side.cancel_scope.cancel()
                case _:
                    shutdown.set()
            for client in clients:
                with trio.CancelScope(shield=True):
                    assert [message async for message in client] == []
                    assert client.close_code == 1001
                    await trio.sleep(1)
            assert topic_app.last_topics == {"one": {"shared", "one"}, "two": {"shared", "two"}}
            assert topic_app.subscribers == {}
            websocket_side.cancel_scope.cancel()
            http_side.cancel_scope.cancel()
