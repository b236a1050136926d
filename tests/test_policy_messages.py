"""Policies for slow clients: compressed messages and floods of messages arrive intact."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from humphrey_trio import ConnectionClosed
from humphrey_trio.testing import open_websocket
from humphrey_trio.websocket import Deflate
from tests.support.apps import linked
from tests.support.clients import RawClient
from tests.support.policy_app import DROPPING, EVERY, NEWEST, TOPIC, Policy, PolicyApp
from tests.support.wire import BINARY, TEXT

# ----------------------------------------------------------------------------------------------- compression

WORDS = ("slow", "clients", "get", "messages", "that", "refer", "to", "those", "before", "them")


class InflatingClient:
    """A client of the ``websockets`` package that reads a number of bytes at a time.

    Attributes:
        texts: the texts that it has read.
        code: the close code that it has read, or None.
    """

    def __init__(self, stream: trio.abc.Stream, extension: ClientPerMessageDeflateFactory) -> None:
        self.texts: list[str] = []
        self.code: int | None = None
        self._stream = stream
        self._protocol = ClientProtocol(parse_uri("ws://testserver/"), extensions=[extension], max_size=None)

    async def open(self) -> InflatingClient:
        self._protocol.send_request(self._protocol.connect())
        for data in self._protocol.data_to_send():
            await self._stream.send_all(data)
        await self.read(10_000)
        assert self._protocol.handshake_exc is None
        assert self._protocol.extensions
        return self

    async def read(self, size: int) -> None:
        """Read at most so many bytes, and at least one."""
        self._protocol.receive_data(bytes(await self._stream.receive_some(size)))
        if self._protocol.parser_exc is not None:
            raise self._protocol.parser_exc
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                self.code = int.from_bytes(event.data[:2], "big")
            elif isinstance(event, Frame):
                self.texts.append(bytes(event.data).decode())


def text_of(number: int, rng: random.Random, size: int) -> str:
    """A text with a number that refers to earlier texts, so that only a correct inflation restores it."""
    return " ".join([str(number), *rng.choices(WORDS, k=size), f"{rng.getrandbits(64):x}"])


CLIENTS = {
    "takeover": lambda: ClientPerMessageDeflateFactory(client_max_window_bits=True),
    "small window": lambda: ClientPerMessageDeflateFactory(server_max_window_bits=9),
    "no takeover": lambda: ClientPerMessageDeflateFactory(server_no_context_takeover=True),
}


steps = st.one_of(
    st.tuples(st.just("send"), st.booleans()),
    st.tuples(st.just("drop"), st.booleans()),
    st.tuples(st.just("read"), st.integers(1, 300)),
)


@pytest.mark.parametrize("kind", CLIENTS)
@EVERY
@settings(deadline=None, max_examples=30)
@given(plan=st.lists(steps, min_size=10, max_size=50), bound=st.integers(1, 4), seed=st.integers(0, 10**6))
async def test_drops_between_compressed_messages(
    policy: Policy, kind: str, plan: list[tuple[str, Any]], bound: int, seed: int
) -> None:
    """Whatever is dropped between sent messages, all messages that arrive inflate correctly."""
    rng = random.Random(seed)
    policy_app = PolicyApp(max_outbox_messages=bound)
    sent: list[str] = []
    offered: list[str] = []

    async def send(text: str, compress: bool) -> None:
        sent.append(text)
        with suppress(ConnectionClosed):
            await stream.send(text, compress=compress)

    async with policy_app.served(Deflate(min_size=20)) as connect, trio.open_nursery() as nursery:
        client = await InflatingClient(connect(), CLIENTS[kind]()).open()
        await trio.testing.wait_all_tasks_blocked()
        (stream,) = policy_app.streams
        for number, (what, how) in enumerate(plan):
            text = text_of(number, rng, rng.choice((0, 5, 30, 200)))
            if what == "send":
                nursery.start_soon(send, text, how)
            elif what == "drop":
                offered.append(text)
                await policy_app.sender.broadcast(text, compress=how, when_full=policy)
            elif stream.statistics().queued_bytes:
                await client.read(how)
            await trio.testing.wait_all_tasks_blocked()
        dropped = stream.statistics().dropped
        while stream.statistics().queued_bytes or (stream.closed and client.code is None):
            await client.read(10_000)
            await trio.testing.wait_all_tasks_blocked()

        received = set(client.texts)
        assert len(received) == len(client.texts)
        assert [text for text in offered if text in received] == [text for text in client.texts if text in offered]
        assert [text for text in sent if text in received] == [text for text in client.texts if text in sent]
        assert (client.code == 1013) == stream.closed
        if not stream.closed:
            assert received >= set(sent)
            assert len(received) == len(sent) + len(offered) - dropped
        nursery.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------- sockets

KIB = 1024


@DROPPING
async def test_broadcasts_to_clients_that_do_not_read(policy: Policy, tmp_path: Path) -> None:
    """Of 50 MB, five clients that do not read cost a full outbox each; 195 others get all their messages.

    Every thirtieth message is smaller, and goes to all 200 clients. The others go to the five.
    """
    rounds, turn, size, small, bound, slow, readers = 30, 30, 64 * KIB, 4 * KIB, 256 * KIB, 5, 195
    count, frame = rounds * turn, 4 + small
    policy_app = PolicyApp(max_outbox_bytes=bound)
    received = [0] * readers
    progress = trio.Event()

    async def read(number: int, stream: trio.abc.ReceiveStream) -> None:
        nonlocal progress
        while got := len(await stream.receive_some(size)):
            received[number] += got
            progress.set()
            progress = trio.Event()

    async with linked(policy_app.app) as app, AsyncExitStack() as stack, trio.open_nursery() as nursery:
        await nursery.start(app.run, f"unix:{tmp_path}/socket")
        clients: list[trio.SocketStream] = []
        for _ in range(slow + readers):
            clients.append(await stack.enter_async_context(await trio.open_unix_socket(f"{tmp_path}/socket")))
            await open_websocket(clients[-1])
        while len(policy_app.streams) < slow + readers:
            await trio.testing.wait_all_tasks_blocked(0.001)
        for number, client in enumerate(clients[slow:]):
            nursery.start_soon(read, number, client)
        for stream in policy_app.streams[slow:]:
            stream.unsubscribe(TOPIC)

        tracemalloc.start()
        try:
            for number in range(count):
                for_all = number % turn == turn - 1
                send = policy_app.sender.broadcast if for_all else partial(policy_app.sender.publish, TOPIC)
                await send(number.to_bytes(4, "big") * ((small if for_all else size) // 4), when_full=policy)
                while for_all and min(received) < (number + 1) // turn * frame:
                    await progress.wait()
            _, most_allocated = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert rounds * (turn - 1) * size > 50 * 10**6
        assert most_allocated < 5 * 10**6
        assert received == [rounds * frame] * readers
        statistics = [stream.statistics() for stream in policy_app.streams]
        assert all(one.queued_bytes <= bound for one in statistics)
        assert [one.messages_sent + one.dropped for one in statistics] == [count] * slow + [rounds] * readers
        assert [one.dropped > count * 0.9 for one in statistics] == [True] * slow + [False] * readers
        assert policy_app.app.statistics().dropped == sum(one.dropped for one in statistics[:slow])
        assert not any(stream.closed for stream in policy_app.streams)

        sleepers = [RawClient(client) for client in clients[:slow]]
        for sleeper, one in zip(sleepers, statistics[:slow], strict=True):
            kept = []
            for _ in range(one.messages_sent):
                opcode, payload = await sleeper.frame()
                assert (opcode, payload) == (BINARY, payload[:4] * (len(payload) // 4))
                kept.append(int.from_bytes(payload[:4], "big"))
            # The messages in the kernel's buffers come first, then those that the policy has kept.
            waited = one.queued_messages - 1
            assert waited > 0
            assert kept[:-waited] == list(range(len(kept) - waited))
            if policy is NEWEST:
                assert kept == sorted(set(kept))
                assert kept[-1] < count // 2
            else:
                assert kept[-waited:] == list(range(count))[-waited:]
        await policy_app.sender.broadcast("later")
        for sleeper in sleepers:
            assert await sleeper.frame() == (TEXT, b"later")
        nursery.cancel_scope.cancel()
